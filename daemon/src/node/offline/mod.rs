//! Work on the files of a node while no node runs with them: JSON on standard output, an exit code that tells what is so.
//! Knows nothing about: running nodes.
//!
//! konsulctl has this done by the daemon's program, because only that can read a state: an archive is proven by restoring
//! it, and not by a second program that believes it knows the format.

mod archive;
mod data;
mod restore;

use crate::config::{Args, Offline};
use crate::telemetry::chain;
use serde::Serialize;
use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// It did not come about; the files were not at fault.
const FAILED: u8 = 1;
/// Something is not as it has to be first; nothing was changed.
const PRECONDITION: u8 = 3;
/// The files are damaged.
const DAMAGED: u8 = 4;
/// A newer version wrote them.
const UNSUPPORTED: u8 = 5;

/// What was found, or an exit code and why.
type Found<T> = Result<T, (u8, String)>;

/// Does it.
pub fn run(work: &Offline, args: &Args) -> ExitCode {
    match work {
        Offline::Data(work) => data::run(work, args),
        Offline::Archive(work) => archive::run(work),
    }
}

fn tell<T: Serialize>(found: Found<T>) -> ExitCode {
    match found {
        Ok(answer) => {
            let text = serde_json::to_string_pretty(&answer).expect("answers have string keys only");
            match writeln!(io::stdout(), "{text}") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(FAILED),
            }
        }
        Err((code, why)) => {
            eprintln!("konsuld: {why}");
            ExitCode::from(code)
        }
    }
}

fn failed(what: String, error: &(dyn Error + 'static)) -> (u8, String) {
    (FAILED, format!("{what}: {}", chain(error)))
}
