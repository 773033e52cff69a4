//! What konsulctl tells about itself: completions, man pages, its coverage of the API.

use super::coverage::COVERAGE;
use crate::{Context, exit::Exit};
use anyhow::Context as _;
use clap_complete::Shell;
use std::path::PathBuf;

/// `konsulctl completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  konsulctl completion bash > /etc/bash_completion.d/konsulctl")]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

/// `konsulctl man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  konsulctl man /usr/share/man/man1")]
pub(crate) struct Man {
    /// An existing directory
    dir: PathBuf,
}

/// `konsulctl debug`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Debug {
    /// Which command reaches which operation of the API
    Coverage,
}

pub(crate) fn run_completion(
    completion: &Completion,
    mut whole: clap::Command,
    context: &Context,
) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(completion.shell, &mut whole, "konsulctl", &mut script);
    context.output.raw(&script)?;
    Ok(Exit::Done)
}

pub(crate) fn run_man(man: &Man, whole: clap::Command, context: &Context) -> anyhow::Result<Exit> {
    clap_mangen::generate_to(whole, &man.dir).with_context(|| format!("write man pages to {}", man.dir.display()))?;
    context.output.note(&format!("man pages written to {}", man.dir.display()));
    Ok(Exit::Done)
}

pub(crate) fn run_debug(debug: &Debug, context: &Context) -> anyhow::Result<Exit> {
    match debug {
        Debug::Coverage => context.output.result(&COVERAGE, || {
            let lines: Vec<String> =
                COVERAGE.iter().map(|o| format!("{} {}: {}", o.method, o.path, o.command)).collect();
            lines.join("\n")
        })?,
    }
    Ok(Exit::Done)
}
