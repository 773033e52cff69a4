//! Whether an archive is good, and what it is.

use super::{DAMAGED, FAILED, Found, UNSUPPORTED, failed, tell};
use crate::backup::{Archive, ArchiveError, ArchiveFault};
use crate::config::OfflineArchive;
use crate::telemetry::chain;
use konsul_api::archive::{ArchiveFacts, VerifyAnswer};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

pub(super) fn run(work: &OfflineArchive) -> ExitCode {
    match work {
        OfflineArchive::Inspect { file } => tell(inspect(file)),
        OfflineArchive::Verify { file, scratch } => {
            let scratch = scratch.clone().unwrap_or_else(std::env::temp_dir);
            tell(verify(file, &scratch))
        }
    }
}

pub(super) fn open(path: &Path) -> Found<Archive> {
    let file = File::open(path).map_err(|error| failed(format!("open {}", path.display()), &error))?;
    Archive::open(file).map_err(|error| of(path, &error))
}

pub(super) fn of(path: &Path, error: &ArchiveError) -> (u8, String) {
    let code = match error.fault() {
        ArchiveFault::Damaged => DAMAGED,
        ArchiveFault::Unsupported => UNSUPPORTED,
        ArchiveFault::Host => FAILED,
    };
    (code, format!("{}: {}", path.display(), chain(error)))
}

fn inspect(path: &Path) -> Found<ArchiveFacts> {
    Ok(open(path)?.facts())
}

fn verify(path: &Path, scratch: &Path) -> Found<VerifyAnswer> {
    let began = Instant::now();
    let mut archive = open(path)?;
    let restored = archive.restore_on_trial(scratch).map_err(|error| of(path, &error))?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(VerifyAnswer { archive: archive.facts(), digest: restored.digest.to_string(), took_ms })
}
