//! `konsulctl snapshot`: backups that were read and compared before they are called backups.

mod archive;

use crate::{
    Context,
    client::{Ask, Payload},
    exit::{Exit, UsageError},
    file::WholeFile,
    output, path,
};
use anyhow::Context as _;
use archive::Archive;
use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Building or restoring a large state takes minutes before the first byte of an answer.
const PATIENCE: Duration = Duration::from_secs(1800);

/// `konsulctl snapshot …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Snapshot {
    /// Save the state of the cluster to a file
    #[command(after_help = "The file appears when it is complete, verified and on disk.\n\n\
        Examples:\n  konsulctl snapshot save backup.snap\n  \
        konsulctl snapshot save --stale backup.snap   # without a leader")]
    Save {
        /// The file
        file: PathBuf,
        /// Take the answering node's own state, however old
        #[arg(long)]
        stale: bool,
    },
    /// Replace the state of the cluster by a saved one
    #[command(after_help = "Everything in the cluster is replaced.\n\n\
        Examples:\n  konsulctl snapshot restore backup.snap --yes")]
    Restore {
        /// A file written by `snapshot save`
        file: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Verify a saved file and tell what it is
    Inspect {
        /// A file written by `snapshot save`
        file: PathBuf,
    },
}

pub(crate) async fn run(snapshot: Snapshot, context: &Context) -> anyhow::Result<Exit> {
    match snapshot {
        Snapshot::Save { file, stale } => save(&file, stale, context).await,
        Snapshot::Restore { file, yes } => restore(file, yes, context).await,
        Snapshot::Inspect { file } => {
            show(&archive::verify(&file)?, context)?;
            Ok(Exit::Done)
        }
    }
}

async fn save(path: &Path, stale: bool, context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::get(path::Path::new("/v1/snapshot").flag("stale", stale)).patient(PATIENCE);
    let mut answer = context.client.ask(&ask).await?;
    let bar = context.output.progress(answer.length());
    let mut file = WholeFile::create(path)?;
    while let Some(chunk) = answer.chunk().await? {
        bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
        file.write(&chunk)?;
    }
    bar.finish_and_clear();
    let archive = archive::verify(file.flushed()?).context("the server's answer is no backup; nothing was saved")?;
    file.finish()?;
    show(&archive, context)?;
    Ok(Exit::Done)
}

fn show(archive: &Archive, context: &Context) -> anyhow::Result<()> {
    context.output.result(archive, || {
        output::fields(&[
            ("Id", archive.id.clone()),
            ("Index", archive.index.to_string()),
            ("Term", archive.term.to_string()),
            ("Version", archive.version.to_string()),
            ("State", format!("{} bytes, SHA-256 {}", archive.state_bytes, archive.state_sha256)),
            ("File", format!("{} bytes, sums verified", archive.file_bytes)),
        ])
    })
}

async fn restore(path: PathBuf, yes: bool, context: &Context) -> anyhow::Result<Exit> {
    let archive = archive::verify(&path)?;
    if !yes && !confirmed(&archive, context)? {
        context.output.error("not confirmed; nothing was restored");
        return Ok(Exit::Failed);
    }
    let bar = context.output.progress(Some(archive.file_bytes));
    let payload = Payload::File { path: path.clone(), length: archive.file_bytes, bar: bar.clone() };
    let ask = Ask::put(path::Path::new("/v1/snapshot"), payload).patient(PATIENCE);
    context.client.ask(&ask).await?.bytes().await?;
    bar.finish_and_clear();
    context.output.result(&archive, || format!("restored {} of index {}", path.display(), archive.index))?;
    Ok(Exit::Done)
}

fn confirmed(archive: &Archive, context: &Context) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || context.output.is_json() {
        let text = "restoring replaces everything in the cluster; say --yes if that is wanted";
        return Err(UsageError(text.to_owned()).into());
    }
    let server = &context.client.servers()[0];
    context.output.ask(&format!(
        "Replace everything in the cluster at {server} by the state of index {}? [y/N] ",
        archive.index
    ))?;
    let mut reply = String::new();
    io::stdin().lock().read_line(&mut reply).context("read the reply")?;
    Ok(matches!(reply.trim(), "y" | "Y" | "yes"))
}
