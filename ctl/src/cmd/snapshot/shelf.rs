//! A directory of archives: `<cluster>/e<epoch>/base/<index>-<time>-<id>.kbs[.age]`. The names tell enough to list and to prune.

use super::{
    age,
    retention::{Day, Keep},
};
use crate::{
    Context,
    exit::{Exit, UsageError},
    output,
};
use anyhow::Context as _;
use konsul_api::archive::ArchiveFacts;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".kbs";

/// `konsulctl snapshot prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// The directory
    dir: PathBuf,
    #[command(flatten)]
    keep: Keep,
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// An archive on the shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Shelved {
    file: PathBuf,
    cluster_id: String,
    epoch: u32,
    index: u64,
    /// `20261129T204644Z`
    created: String,
    /// The first digits of the archive's id.
    id: String,
    bytes: u64,
    #[serde(skip)]
    day: Day,
}

/// What became of an archive.
#[derive(Debug, Serialize)]
struct Fate<'a> {
    kept: bool,
    #[serde(flatten)]
    archive: &'a Shelved,
}

/// Where an archive goes; its directory is made.
pub(super) fn place(dir: &Path, facts: &ArchiveFacts, encrypted: bool) -> anyhow::Result<PathBuf> {
    let time: String = facts.created.split('.').next().unwrap_or_default().replace(['-', ':'], "");
    let id = facts.id.get(..8).context("the archive has no id")?;
    let home = dir.join(&facts.cluster_id).join(format!("e{}", facts.epoch)).join("base");
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    let encrypted = if encrypted { age::SUFFIX } else { "" };
    Ok(home.join(format!("{:020}-{time}Z-{id}{SUFFIX}{encrypted}", facts.index)))
}

/// Newest first, by cluster.
fn archives(dir: &Path) -> anyhow::Result<Vec<Shelved>> {
    let mut found = Vec::new();
    for cluster in subdirectories(dir)? {
        for epoch in subdirectories(&cluster)? {
            let base = epoch.join("base");
            if base.is_dir() {
                for entry in fs::read_dir(&base).with_context(|| format!("list {}", base.display()))? {
                    let path = entry.with_context(|| format!("list {}", base.display()))?.path();
                    found.extend(shelved(&cluster, &epoch, &path)?);
                }
            }
        }
    }
    let age = |archive: &Shelved| {
        (archive.cluster_id.clone(), std::cmp::Reverse((archive.epoch, archive.created.clone(), archive.index)))
    };
    found.sort_by_key(age);
    Ok(found)
}

fn subdirectories(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = || format!("list {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(list)? {
        let path = entry.with_context(list)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// `None` for what `save --to` did not write.
fn shelved(cluster: &Path, epoch: &Path, path: &Path) -> anyhow::Result<Option<Shelved>> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let file = name(path);
    let parsed = file.strip_suffix(age::SUFFIX).unwrap_or(&file).strip_suffix(SUFFIX).and_then(|stem| {
        let mut parts = stem.split('-');
        let (index, created, id) = (parts.next()?, parts.next()?, parts.next()?);
        let number = |from: usize, to: usize| created.get(from..to)?.parse().ok();
        let day = Day::of(number(0, 4)?, number(4, 6)?, number(6, 8)?)?;
        let epoch = name(epoch).strip_prefix('e')?.parse().ok()?;
        Some((index.parse().ok()?, created.to_owned(), id.to_owned(), epoch, day))
    });
    let Some((index, created, id, epoch, day)) = parsed else { return Ok(None) };
    let bytes = fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
    Ok(Some(Shelved { file: path.to_owned(), cluster_id: name(cluster), epoch, index, created, id, bytes, day }))
}

fn row(archive: &Shelved) -> Vec<String> {
    vec![
        archive.created.clone(),
        archive.index.to_string(),
        archive.epoch.to_string(),
        archive.bytes.to_string(),
        archive.file.display().to_string(),
    ]
}

pub(super) fn list(dir: &Path, context: &Context) -> anyhow::Result<Exit> {
    let archives = archives(dir)?;
    context.output.result(&archives, || {
        output::table(&["Created", "Index", "Epoch", "Bytes", "File"], archives.iter().map(row))
    })?;
    Ok(Exit::Done)
}

pub(super) fn prune(prune: &Prune, context: &Context) -> anyhow::Result<Exit> {
    if prune.keep.is_nothing() {
        let text = "say what to keep: --keep-last, --keep-daily, --keep-weekly or --keep-monthly";
        return Err(UsageError(text.to_owned()).into());
    }
    let archives = archives(&prune.dir)?;
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
            fs::remove_file(&fate.archive.file).with_context(|| format!("remove {}", fate.archive.file.display()))?;
        }
    }
    context.output.result(&fates, || {
        let word = |kept| match (kept, prune.dry_run) {
            (true, _) => "keep",
            (false, true) => "would remove",
            (false, false) => "removed",
        };
        let rows = fates.iter().map(|fate| [vec![word(fate.kept).to_owned()], row(fate.archive)].concat());
        output::table(&["", "Created", "Index", "Epoch", "Bytes", "File"], rows)
    })?;
    Ok(Exit::Done)
}
