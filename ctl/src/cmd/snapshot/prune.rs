//! Old archives are removed from a shelf.

use super::{
    place::Place,
    retention::{Day, Keep},
    shelf::{self, Shelved},
    turn,
};
use crate::{
    Context,
    exit::{Exit, UsageError},
    output,
};
use anyhow::Context as _;
use serde::Serialize;
use std::{collections::BTreeMap, fs};

/// `konsulctl snapshot prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Where they are
    #[arg(value_name = "WHERE")]
    place: Place,
    #[command(flatten)]
    keep: Keep,
    /// For a timer on every node: in a bucket, which all of them share, only the leader removes something
    #[arg(long)]
    scheduled: bool,
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// What became of an archive.
#[derive(Debug, Serialize)]
struct Fate<'a> {
    kept: bool,
    #[serde(flatten)]
    archive: &'a Shelved,
}

async fn remove(place: &Place, archive: &Shelved) -> anyhow::Result<()> {
    match place {
        Place::Path(dir) => {
            fs::remove_file(dir.join(&archive.name)).with_context(|| format!("remove {}", archive.file))
        }
        #[cfg(feature = "object-store")]
        Place::Bucket(address) => super::bucket::Bucket::open(address)?.remove(&archive.name).await,
    }
}

pub(super) async fn run(prune: &Prune, context: &Context) -> anyhow::Result<Exit> {
    if prune.keep.is_nothing() {
        let text = "say what to keep: --keep-last, --keep-daily, --keep-weekly or --keep-monthly";
        return Err(UsageError(text.to_owned()).into());
    }
    if prune.scheduled
        && prune.place.is_shared()
        && let Some(why) = turn::leaders(context).await?
    {
        return turn::skipped(&why, context);
    }
    let archives = shelf::archives(&prune.place).await?;
    let mut clusters: BTreeMap<&str, Vec<&Shelved>> = BTreeMap::new();
    for archive in &archives {
        clusters.entry(&archive.cluster_id).or_default().push(archive);
    }
    let mut fates = Vec::new();
    for of_one in clusters.values() {
        let days: Vec<Day> = of_one.iter().map(|archive| archive.day).collect();
        let kept = prune.keep.plan(&days);
        fates.extend(of_one.iter().zip(kept).map(|(archive, kept)| Fate { kept, archive }));
    }
    if !prune.dry_run {
        for fate in fates.iter().filter(|fate| !fate.kept) {
            remove(&prune.place, fate.archive).await?;
        }
    }
    context.output.result(&fates, || {
        let word = |kept| match (kept, prune.dry_run) {
            (true, _) => "keep",
            (false, true) => "would remove",
            (false, false) => "removed",
        };
        let rows = fates.iter().map(|fate| [vec![word(fate.kept).to_owned()], shelf::row(fate.archive)].concat());
        output::table(&["", "Created", "Index", "Epoch", "Bytes", "File"], rows)
    })?;
    Ok(Exit::Done)
}
