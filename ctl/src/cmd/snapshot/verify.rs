//! `konsulctl snapshot verify`: an archive restored on trial, by the daemon's program.

use super::{Format, Identity, Konsuld, Place, age::Readable, fields, format_of, report, turn};
use crate::{
    Context,
    exit::{Exit, Stopped},
};
use konsul_api::archive::{BackupKind, VerifyAnswer};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// `konsulctl snapshot verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// A file written by `snapshot save`, or where one is in a bucket
    #[arg(required_unless_present = "newest", conflicts_with = "newest")]
    file: Option<Place>,
    /// Of what `snapshot save --to` wrote there, the newest
    #[arg(long, value_name = "WHERE", requires = "scheduled")]
    newest: Option<Place>,
    /// For a timer on every node: only where the backup is that was reported last, of a bucket only the leader
    #[arg(long, requires = "newest")]
    scheduled: bool,
    /// Directory with room for the whole state [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Tell the cluster that it is good, or the node that it is not; metrics then tell when that was, and how often
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    identity: Identity,
    #[command(flatten)]
    konsuld: Konsuld,
}

pub(crate) async fn run(verify: &Verify, context: &Context) -> anyhow::Result<Exit> {
    let done = rehearse(verify, context).await;
    if done.is_err() && verify.report {
        report::tell_failure(BackupKind::Verified, context).await;
    }
    done
}

async fn rehearse(verify: &Verify, context: &Context) -> anyhow::Result<Exit> {
    let place = match (&verify.file, &verify.newest) {
        (Some(file), _) => file.clone(),
        (None, Some(shelf)) => match turn::rehearsal(shelf, context).await? {
            Ok(newest) => newest.place()?,
            Err(why) => return turn::skipped(&why, context),
        },
        (None, None) => anyhow::bail!("the command line names nothing to verify"),
    };
    let archive = place.fetch(context).await?.decrypted(&verify.identity)?;
    let verified = on_trial(&archive, verify.scratch.as_deref(), &verify.konsuld)?;
    if verify.report {
        report::tell(BackupKind::Verified, &verified.archive, verified.took_ms, context).await?;
    }
    context.output.result(&verified, || {
        format!(
            "{}\nRestored on trial in {} ms: the digest is the right one",
            fields(&verified.archive),
            verified.took_ms
        )
    })?;
    Ok(Exit::Done)
}

/// The trial itself.
pub(super) fn on_trial(archive: &Readable, scratch: Option<&Path>, konsuld: &Konsuld) -> anyhow::Result<VerifyAnswer> {
    if format_of(archive)? == Format::Consul {
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
