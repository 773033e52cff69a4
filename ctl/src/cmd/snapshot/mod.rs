//! `konsulctl snapshot`: backups that were read and compared before they are called backups.

mod age;
#[cfg(feature = "object-store")]
mod bucket;
mod consul;
mod daemon;
mod place;
mod prune;
mod report;
mod restore;
mod retention;
mod save;
mod shelf;
mod turn;
mod verify;

pub(crate) use age::{Identity, Recipients};
pub(crate) use daemon::Konsuld;
pub(crate) use place::Place;
pub(crate) use restore::{How as RestoreHow, Restore};
pub(crate) use save::Save;

use crate::{
    Context,
    exit::{Exit, Stopped},
    output,
};
use age::Readable;
use anyhow::Context as _;
use konsul_api::archive::{ArchiveFacts, MAGIC};
use std::{io::Read as _, path::Path, time::Duration};

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
        konsulctl snapshot save --scheduled --report --to /mnt/backups   # what konsul-backup.timer has every node do\n  \
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
        Exit codes: 0 done, 1 failed, 2 wrong usage, 3 another cluster's archive, or not into this host: nothing was changed, \
        4 damaged, 5 made by a newer version, 10 no leader"
    )]
    Restore(Restore),
    /// Check every byte of a saved file and tell what it is
    #[command(after_help = "Examples:\n  konsulctl snapshot inspect backup.kbs\n\n\
        Exit codes: 0 good, 1 failed, 3 konsuld is missing, 4 damaged, 5 made by a newer version")]
    Inspect {
        /// A file written by `snapshot save`, or where one is in a bucket
        file: Place,
        #[command(flatten)]
        identity: Identity,
        #[command(flatten)]
        konsuld: Konsuld,
    },
    /// Restore a saved file on trial, into a state that is thrown away, and compare the digest
    #[command(after_help = "Examples:\n  konsulctl snapshot verify backup.kbs\n  \
        konsulctl snapshot verify --newest /var/lib/konsul-backup --scheduled --report   # as konsul-verify.timer has every node do\n\n\
        Exit codes: 0 good, 1 failed, 3 konsuld is missing, 4 damaged, 5 made by a newer version")]
    Verify(verify::Verify),
    /// Tell when a backup was saved and verified last, as `--report` told the cluster
    Status,
    /// List the files that `snapshot save --to` wrote
    #[command(after_help = "Examples:\n  konsulctl snapshot list /var/backups/konsul")]
    List {
        /// Where they are
        #[arg(value_name = "WHERE")]
        place: Place,
    },
    /// Remove old files that `snapshot save --to` wrote
    #[command(
        after_help = "A file is kept if one of the rules keeps it; the newest of each cluster is kept in any case.\n\n\
        Examples:\n  konsulctl snapshot prune /var/backups/konsul --keep-last 24 --keep-daily 7 --dry-run\n  \
        konsulctl snapshot prune /var/backups/konsul --keep-daily 7 --keep-weekly 5 --keep-monthly 12"
    )]
    Prune(prune::Prune),
}

pub(crate) async fn run(snapshot: Snapshot, context: &Context) -> anyhow::Result<Exit> {
    match snapshot {
        Snapshot::Save(save) => save::run(save, context).await,
        Snapshot::Restore(restore) => restore::run(restore, context).await,
        Snapshot::Inspect { file, identity, konsuld } => {
            inspect(&file.fetch(context).await?.decrypted(&identity)?, &konsuld, context)
        }
        Snapshot::Verify(verify) => verify::run(&verify, context).await,
        Snapshot::Status => report::status(context).await,
        Snapshot::List { place } => shelf::list(&place, context).await,
        Snapshot::Prune(prune) => prune::run(&prune, context).await,
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
fn format_of(archive: &Readable) -> anyhow::Result<Format> {
    let (path, name) = (archive.path(), archive.name());
    let mut head = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("open {name}"))?;
    file.take(8).read_to_end(&mut head).with_context(|| format!("read {name}"))?;
    if head == MAGIC {
        return Ok(Format::Konsul);
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Format::Consul);
    }
    let text = format!("{name} is no archive of Konsul and no snapshot of Consul's, or its first bytes are damaged");
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
    match format_of(archive)? {
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
