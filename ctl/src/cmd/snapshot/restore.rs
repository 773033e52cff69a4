//! `konsulctl snapshot restore`: asks before it replaces anything.

use super::{
    Format, Identity, Konsuld, PATIENCE, Place, Readable, consul, fields, format_of, inspect_consul, save::leaderless,
};
use crate::{
    Context,
    client::{Ask, ClientError, Payload},
    exit::{Exit, Stopped, UsageError},
    path,
};
use anyhow::Context as _;
use konsul_api::archive::{OfflineRestoreAnswer, RestoreAnswer};
use std::{
    ffi::OsStr,
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
};

/// `konsulctl snapshot restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// A file written by `snapshot save`, or where one is in a bucket
    file: Place,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    how: How,
    /// Into this host, where no node runs and no data is, instead of into a running cluster
    #[arg(long, conflicts_with_all = ["dry_run", "allow_cluster_change"])]
    empty_host: bool,
    /// With --empty-host: the node's configuration file [default: that of konsuld]
    #[arg(long, value_name = "FILE", requires = "empty_host")]
    config: Option<PathBuf>,
    #[command(flatten)]
    konsuld: Konsuld,
}

/// How careful to be.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct How {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Verify everything, tell what would be, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also if the archive is another cluster's
    #[arg(long)]
    allow_cluster_change: bool,
}

impl Restore {
    /// `konsulctl cluster snapshot restore`.
    pub(crate) fn of_file(file: PathBuf, how: How) -> Self {
        let (identity, konsuld) = (Identity::default(), Konsuld::default());
        Self { file: Place::Path(file), identity, how, empty_host: false, config: None, konsuld }
    }
}

pub(crate) async fn run(restore: Restore, context: &Context) -> anyhow::Result<Exit> {
    let Restore { file, identity, how, empty_host, config, konsuld } = restore;
    let readable = file.fetch(context).await?.decrypted(&identity)?;
    if empty_host {
        return into_empty_host(&readable, config.as_deref(), &konsuld, context);
    }
    match format_of(&readable)? {
        Format::Konsul => archive(&readable, how, context).await,
        Format::Consul if how.dry_run => {
            let text = format!("{} has Consul's container: --dry-run is for archives of Konsul", readable.name());
            Err(UsageError(text).into())
        }
        Format::Consul => {
            let file = readable.path();
            let archive = inspect_consul(&file)?;
            let what = format!("the state of index {}", archive.index);
            if !how.yes && !confirmed(&what, context)? {
                return Ok(not_confirmed(context));
            }
            consul::restore(&file, &archive, context).await
        }
    }
}

/// Nothing is replaced there: nobody is asked.
fn into_empty_host(
    archive: &Readable,
    config: Option<&Path>,
    konsuld: &Konsuld,
    context: &Context,
) -> anyhow::Result<Exit> {
    let (path, stdin) = archive.for_child()?;
    let mut args: Vec<&OsStr> = Vec::new();
    if let Some(config) = config {
        args.extend([OsStr::new("--config"), config.as_os_str()]);
    }
    args.extend([OsStr::new("data"), OsStr::new("restore"), path.as_os_str()]);
    let done: OfflineRestoreAnswer = konsuld.run(&args, stdin)?;
    context.output.result(&done, || {
        format!(
            "{}\nRestored: {} is the only member of cluster {}, in epoch {}, from index {} on\n\n\
             Start it:            systemctl start konsul\nOn each other host:  start it with an empty data directory",
            fields(&done.archive),
            done.name,
            done.cluster_id,
            done.epoch,
            done.index
        )
    })?;
    Ok(Exit::Done)
}

/// The server proves the archive twice, once to tell what would be, once before it does it: between the two a person
/// answers, and the file may change.
async fn archive(readable: &Readable, how: How, context: &Context) -> anyhow::Result<Exit> {
    let file = &readable.path();
    if how.dry_run || !how.yes {
        let would = send(file, how, true, context).await?;
        if how.dry_run {
            context.output.result(&would, || {
                format!(
                    "{}\nWould replace {} keys of cluster {} at index {} by {}; nothing was changed",
                    fields(&would.archive),
                    would.keys_before,
                    would.cluster_id,
                    would.index,
                    would.keys
                )
            })?;
            return Ok(Exit::Done);
        }
        let what = format!("the {} keys of {} (now {})", would.keys, would.archive.created, would.keys_before);
        if !confirmed(&what, context)? {
            return Ok(not_confirmed(context));
        }
    }
    let done = send(file, how, false, context).await?;
    context.output.result(&done, || {
        format!(
            "restored {} of index {}: {} keys in place of {}, at index {}",
            readable.name(),
            done.archive.index,
            done.keys,
            done.keys_before,
            done.index
        )
    })?;
    Ok(Exit::Done)
}

async fn send(file: &Path, how: How, dry_run: bool, context: &Context) -> anyhow::Result<RestoreAnswer> {
    let length = std::fs::metadata(file).with_context(|| format!("read {}", file.display()))?.len();
    let bar = context.output.progress(Some(length));
    let payload = Payload::File { path: file.to_owned(), length, bar: bar.clone() };
    let path = path::Path::new("/v1/cluster/archive")
        .flag("dry-run", dry_run)
        .flag("allow-cluster-change", how.allow_cluster_change);
    let answer = context.client.json(&Ask::put(path, payload).patient(PATIENCE)).await.map_err(refused);
    bar.finish_and_clear();
    answer
}

fn refused(error: ClientError) -> anyhow::Error {
    match error.status() {
        Some(400) => Stopped::because(Exit::Damaged, error.to_string()),
        Some(409) => Stopped::because(Exit::Precondition, error.to_string()),
        Some(_) | None => leaderless(error),
    }
}

fn not_confirmed(context: &Context) -> Exit {
    context.output.error("not confirmed; nothing was restored");
    Exit::Failed
}

fn confirmed(what: &str, context: &Context) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || context.output.is_json() {
        let text = "restoring replaces everything in the cluster; say --yes if that is wanted";
        return Err(UsageError(text.to_owned()).into());
    }
    let server = &context.client.servers()[0];
    context.output.ask(&format!("Replace everything in the cluster at {server} by {what}? [y/N] "))?;
    let mut reply = String::new();
    io::stdin().lock().read_line(&mut reply).context("read the reply")?;
    Ok(matches!(reply.trim(), "y" | "Y" | "yes"))
}
