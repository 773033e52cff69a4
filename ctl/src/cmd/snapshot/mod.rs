//! `konsulctl snapshot`: backups that were read and compared before they are called backups.

mod age;
mod consul;
mod daemon;
mod report;
mod restore;
mod retention;
mod save;
mod shelf;

pub(crate) use age::{Identity, Recipients};
pub(crate) use daemon::Konsuld;
pub(crate) use restore::{How as RestoreHow, Restore};
pub(crate) use save::Save;

use crate::{
    Context,
    exit::{Exit, Stopped},
    output,
};
use age::Readable;
use anyhow::Context as _;
use konsul_api::archive::{ArchiveFacts, BackupKind, MAGIC, VerifyAnswer};
use std::{
    ffi::OsStr,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Building or restoring a large state takes minutes before the first byte of an answer.
const PATIENCE: Duration = Duration::from_secs(1800);

/// `konsulctl snapshot …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Snapshot {
    /// Save the state of the cluster to a file
    #[command(
        after_help = "The file appears when it is complete, compared and on disk; with --verify, when it was also \
        restored on trial.\n\n\
        Examples:\n  konsulctl snapshot save backup.kbs\n  \
        konsulctl snapshot save --verify --to /var/backups/konsul\n  \
        konsulctl snapshot save --recipient age1… --to /mnt/backups   # encrypted, to be read with age's identity\n  \
        konsulctl snapshot save --stale backup.kbs            # without a leader\n  \
        konsulctl snapshot save --format consul backup.tgz    # the container that Consul's tools verify"
    )]
    Save(Save),
    /// Replace every key of the cluster by those of a saved file
    #[command(
        after_help = "The archive is proven on trial before the first change; then every key is replaced at once, on \
        all nodes. Members, certificates, tokens and the audit stay the running cluster's.\n\n\
        Examples:\n  konsulctl snapshot restore backup.kbs --dry-run\n  konsulctl snapshot restore backup.kbs --yes\n  \
        konsulctl snapshot restore backup.kbs --allow-cluster-change   # into another cluster\n  \
        konsulctl snapshot restore backup.kbs --empty-host    # all nodes are lost: begin again on this host\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 another cluster's archive, 4 damaged, 10 no leader"
    )]
    Restore(Restore),
    /// Check every byte of a saved file and tell what it is
    #[command(after_help = "Examples:\n  konsulctl snapshot inspect backup.kbs\n\n\
        Exit codes: 0 good, 1 failed, 3 konsuld is missing, 4 damaged, 5 made by a newer version")]
    Inspect {
        /// A file written by `snapshot save`
        file: PathBuf,
        #[command(flatten)]
        identity: Identity,
        #[command(flatten)]
        konsuld: Konsuld,
    },
    /// Restore a saved file on trial, into a state that is thrown away, and compare the digest
    #[command(after_help = "Examples:\n  konsulctl snapshot verify backup.kbs\n\n\
        Exit codes: 0 good, 1 failed, 3 konsuld is missing, 4 damaged, 5 made by a newer version")]
    Verify {
        /// A file written by `snapshot save`
        file: PathBuf,
        /// Directory with room for the whole state [default: the directory for temporary files]
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        /// Tell the cluster that it is good; its metrics then tell when that was
        #[arg(long)]
        report: bool,
        #[command(flatten)]
        identity: Identity,
        #[command(flatten)]
        konsuld: Konsuld,
    },
    /// Tell when a backup was saved and verified last, as `--report` told the cluster
    Status,
    /// List the files that `snapshot save --to` wrote
    #[command(after_help = "Examples:\n  konsulctl snapshot list /var/backups/konsul")]
    List {
        /// The directory
        dir: PathBuf,
    },
    /// Remove old files that `snapshot save --to` wrote
    #[command(
        after_help = "A file is kept if one of the rules keeps it; the newest of each cluster is kept in any case.\n\n\
        Examples:\n  konsulctl snapshot prune /var/backups/konsul --keep-last 24 --keep-daily 7 --dry-run\n  \
        konsulctl snapshot prune /var/backups/konsul --keep-daily 7 --keep-weekly 5 --keep-monthly 12"
    )]
    Prune(shelf::Prune),
}

pub(crate) async fn run(snapshot: Snapshot, context: &Context) -> anyhow::Result<Exit> {
    match snapshot {
        Snapshot::Save(save) => save::run(save, context).await,
        Snapshot::Restore(restore) => restore::run(restore, context).await,
        Snapshot::Inspect { file, identity, konsuld } => inspect(&age::readable(&file, &identity)?, &konsuld, context),
        Snapshot::Verify { file, scratch, report, identity, konsuld } => {
            let archive = age::readable(&file, &identity)?;
            let verified = verify(&archive, scratch.as_deref(), &konsuld)?;
            if report {
                report::tell(BackupKind::Verified, &verified.archive, verified.took_ms, context).await?;
            }
            show_verified(&verified, context)
        }
        Snapshot::Status => report::status(context).await,
        Snapshot::List { dir } => shelf::list(&dir, context),
        Snapshot::Prune(prune) => shelf::prune(&prune, context),
    }
}

/// Whose format a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Konsul,
    /// The container of `/v1/snapshot`.
    Consul,
}

/// By its first bytes.
fn format_of(path: &Path) -> anyhow::Result<Format> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.take(8).read_to_end(&mut head).with_context(|| format!("read {}", path.display()))?;
    if head == MAGIC {
        return Ok(Format::Konsul);
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Format::Consul);
    }
    let text = format!(
        "{} is no archive of Konsul and no snapshot of Consul's, or its first bytes are damaged",
        path.display()
    );
    Err(Stopped::because(Exit::Damaged, text))
}

/// Of Consul's container, its sums are compared.
fn inspect_consul(path: &Path) -> anyhow::Result<consul::Archive> {
    consul::verify(path).map_err(|error| match error {
        consul::ArchiveError::Open { .. } => error.into(),
        damaged => Stopped::because(Exit::Damaged, format!("{:#}", anyhow::Error::from(damaged))),
    })
}

fn inspect(archive: &Readable, konsuld: &Konsuld, context: &Context) -> anyhow::Result<Exit> {
    match format_of(&archive.path())? {
        Format::Consul => consul::show(&inspect_consul(&archive.path())?, context)?,
        Format::Konsul => {
            let (path, stdin) = archive.for_child()?;
            let facts: ArchiveFacts =
                konsuld.run(&["archive".as_ref(), "inspect".as_ref(), path.as_os_str()], stdin)?;
            context.output.result(&facts, || fields(&facts))?;
        }
    }
    Ok(Exit::Done)
}

/// The trial, by the daemon's program.
fn verify(archive: &Readable, scratch: Option<&Path>, konsuld: &Konsuld) -> anyhow::Result<VerifyAnswer> {
    if format_of(&archive.path())? == Format::Consul {
        let text = "it has Consul's container, which names no digest to compare; `snapshot inspect` compares its sums";
        return Err(Stopped::because(Exit::Precondition, text));
    }
    let (path, stdin) = archive.for_child()?;
    let mut args: Vec<&OsStr> = vec!["archive".as_ref(), "verify".as_ref(), path.as_os_str()];
    if let Some(scratch) = scratch {
        args.extend([OsStr::new("--scratch"), scratch.as_os_str()]);
    }
    konsuld.run(&args, stdin)
}

fn show_verified(verified: &VerifyAnswer, context: &Context) -> anyhow::Result<Exit> {
    context.output.result(verified, || {
        format!(
            "{}\nRestored on trial in {} ms: the digest is the right one",
            fields(&verified.archive),
            verified.took_ms
        )
    })?;
    Ok(Exit::Done)
}

/// For people.
fn fields(facts: &ArchiveFacts) -> String {
    let members = facts
        .members
        .iter()
        .map(|member| if member.voter { member.name.clone() } else { format!("{} (learner)", member.name) });
    output::fields(&[
        ("Archive", facts.id.clone()),
        ("Cluster", format!("{}, epoch {}", facts.cluster_id, facts.epoch)),
        ("Index", format!("{}, term {}", facts.index, facts.term)),
        ("Created", format!("{} by {} ({})", facts.created, facts.made_by, facts.version)),
        ("Members", members.collect::<Vec<_>>().join(", ")),
        ("Keys", facts.keys.to_string()),
        ("Digest", facts.digest.clone()),
        ("File", format!("{} bytes, {} unpacked", facts.bytes, facts.plain_bytes)),
    ])
}
