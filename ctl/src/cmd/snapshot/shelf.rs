//! A shelf of archives: `<cluster>/e<epoch>/base/<index>-<time>-<id>.kbs[.age]` below a directory or in a bucket. The names
//! tell enough to list and to prune.

use super::{age, place::Place, retention::Day};
use crate::{Context, exit::Exit, output};
use anyhow::Context as _;
use konsul_api::archive::ArchiveFacts;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".kbs";

/// An archive on the shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Shelved {
    pub(super) file: String,
    /// Below the shelf.
    #[serde(skip)]
    pub(super) name: String,
    pub(super) cluster_id: String,
    epoch: u32,
    pub(super) index: u64,
    /// `20261129T204644Z`
    created: String,
    /// The first digits of the archive's id.
    id: String,
    bytes: u64,
    #[serde(skip)]
    pub(super) day: Day,
}

/// The name of an archive below its shelf.
pub(super) fn name(facts: &ArchiveFacts, encrypted: bool) -> anyhow::Result<String> {
    let time: String = facts.created.split('.').next().unwrap_or_default().replace(['-', ':'], "");
    let id = facts.id.get(..8).context("the archive has no id")?;
    let (cluster, epoch, index) = (&facts.cluster_id, facts.epoch, facts.index);
    let encrypted = if encrypted { age::SUFFIX } else { "" };
    Ok(format!("{cluster}/e{epoch}/base/{index:020}-{time}Z-{id}{SUFFIX}{encrypted}"))
}

/// Where an archive of this name goes; its directory is made.
pub(super) fn file(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let file = dir.join(name);
    let home = file.parent().unwrap_or(dir);
    fs::create_dir_all(home).with_context(|| format!("make {}", home.display()))?;
    Ok(file)
}

impl Shelved {
    /// The archive itself.
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        self.file.parse().map_err(anyhow::Error::msg)
    }
}

/// By cluster, of each the newest first.
pub(super) async fn archives(place: &Place) -> anyhow::Result<Vec<Shelved>> {
    let files = match place {
        Place::Path(dir) => files(dir)?,
        #[cfg(feature = "object-store")]
        Place::Bucket(address) => super::bucket::Bucket::open(address)?.list().await?,
    };
    let mut found: Vec<Shelved> = files.into_iter().filter_map(|(name, bytes)| shelved(place, name, bytes)).collect();
    let age = |archive: &Shelved| {
        (archive.cluster_id.clone(), std::cmp::Reverse((archive.epoch, archive.created.clone(), archive.index)))
    };
    found.sort_by_key(age);
    Ok(found)
}

/// Name and size of every file of a shelf.
fn files(dir: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for cluster in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        for epoch in entries(&cluster)?.into_iter().filter(|path| path.join("base").is_dir()) {
            for file in entries(&epoch.join("base"))? {
                let bytes = fs::metadata(&file).with_context(|| format!("read {}", file.display()))?.len();
                // A name that is no text is none of ours.
                found.extend(file.strip_prefix(dir).ok().and_then(Path::to_str).map(|name| (name.to_owned(), bytes)));
            }
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = || format!("list {}", dir.display());
    fs::read_dir(dir).with_context(list)?.map(|entry| Ok(entry.with_context(list)?.path())).collect()
}

/// `None` for what `save --to` did not write.
fn shelved(place: &Place, name: String, bytes: u64) -> Option<Shelved> {
    let mut levels = name.split('/');
    let (cluster, epoch, "base", file, None) =
        (levels.next()?, levels.next()?, levels.next()?, levels.next()?, levels.next())
    else {
        return None;
    };
    let mut parts = file.strip_suffix(age::SUFFIX).unwrap_or(file).strip_suffix(SUFFIX)?.split('-');
    let (index, created, id) = (parts.next()?.parse().ok()?, parts.next()?.to_owned(), parts.next()?.to_owned());
    let number = |from: usize, to: usize| created.get(from..to)?.parse().ok();
    let day = Day::of(number(0, 4)?, number(4, 6)?, number(6, 8)?)?;
    let (cluster_id, epoch) = (cluster.to_owned(), epoch.strip_prefix('e')?.parse().ok()?);
    Some(Shelved { file: place.below(&name), cluster_id, epoch, index, created, id, bytes, day, name })
}

pub(super) fn row(archive: &Shelved) -> Vec<String> {
    vec![
        archive.created.clone(),
        archive.index.to_string(),
        archive.epoch.to_string(),
        archive.bytes.to_string(),
        archive.file.clone(),
    ]
}

pub(super) async fn list(place: &Place, context: &Context) -> anyhow::Result<Exit> {
    let archives = archives(place).await?;
    context.output.result(&archives, || {
        output::table(&["Created", "Index", "Epoch", "Bytes", "File"], archives.iter().map(row))
    })?;
    Ok(Exit::Done)
}
