//! What only the daemon's program can do: read an archive of the state, and restore one on trial.
//!
//! The two programs come in one package and lie beside each other; the format is the daemon's own business.

use crate::exit::{Exit, Stopped};
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

const PROGRAM: &str = "konsuld";

/// Where the daemon's program is.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Konsuld {
    /// The daemon's program, which reads archives and data directories [default: beside konsulctl, else in $PATH]
    #[arg(long, value_name = "FILE")]
    konsuld: Option<PathBuf>,
}

impl Konsuld {
    fn path(&self) -> PathBuf {
        let beside =
            || std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM)).filter(|path| path.exists());
        self.konsuld.clone().or_else(beside).unwrap_or_else(|| PathBuf::from(PROGRAM))
    }

    /// Runs it; its answer, or its words and its exit code.
    pub(crate) fn run<T: DeserializeOwned>(&self, args: &[&OsStr], stdin: Stdio) -> anyhow::Result<T> {
        let path = self.path();
        let mut command = Command::new(&path);
        // It is in the same process group: a Ctrl-C ends both.
        command.args(args).stdin(stdin);
        let output = command.output().map_err(|error| {
            let text = format!(
                "run {}: {error}; this needs the daemon's program of the same package, name it with --konsuld",
                path.display()
            );
            Stopped::because(Exit::Precondition, text)
        })?;
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).with_context(|| {
                format!("{} answered something else than promised; is it the same version?", path.display())
            });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("konsuld: ").to_owned();
        let exit = match output.status.code() {
            Some(3) => Exit::Precondition,
            Some(4) => Exit::Damaged,
            Some(5) => Exit::Unsupported,
            Some(_) | None => Exit::Failed,
        };
        Err(Stopped::because(
            exit,
            if said.is_empty() { format!("{} ended with {}", path.display(), output.status) } else { said },
        ))
    }
}
