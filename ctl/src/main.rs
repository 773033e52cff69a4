//! konsulctl: asks Konsul over HTTP, prints, exits with a code.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make files and tasks as they like"))]

mod args;
mod client;
mod cmd;
mod duration;
mod exit;
mod file;
mod output;
mod path;
mod server;
mod stream;

use crate::{
    args::Args,
    client::{Client, ClientError},
    exit::{Exit, Stopped, UsageError},
    output::{Output, ReaderGone},
};
use clap::{CommandFactory as _, Parser as _};
use std::process::ExitCode;

/// What every command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => return refused(&e).into(),
    };
    let output = Output::new(args.global.json);
    // One thread: the servers under test or in trouble need the processors more than we do.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output.error(&format!("start the runtime: {e}"));
            return Exit::Failed.into();
        }
    };
    runtime.block_on(run(args, output)).into()
}

async fn run(args: Args, output: Output) -> Exit {
    let servers = match args.global.servers() {
        Ok(servers) => servers,
        Err(e) => {
            output.error(&e.to_string());
            return Exit::Usage;
        }
    };
    let context = Context { client: Client::new(servers, args.global.timeout), output };
    match Box::pin(cmd::run(args.command, Args::command(), &context)).await {
        Ok(exit) => exit,
        Err(e) => failed(&e, &context).await,
    }
}

/// Tells why a run failed and, if the cluster has no leader, what is left of it.
async fn failed(error: &anyhow::Error, context: &Context) -> Exit {
    if error.is::<ReaderGone>() {
        return Exit::Done;
    }
    let mut text = format!("{error:#}");
    if error.downcast_ref::<ClientError>().is_some_and(ClientError::is_leaderless) {
        text = format!("{text}\n{}", cmd::leaderless::diagnosis(&context.client).await);
    }
    context.output.error(&text);
    match error.downcast_ref::<Stopped>() {
        Some(stopped) => stopped.exit,
        None if error.is::<UsageError>() => Exit::Usage,
        None => Exit::Failed,
    }
}

/// Help and version are no errors; everything else the parser stops at is.
fn refused(error: &clap::Error) -> Exit {
    let wants_json = std::env::args_os().any(|a| a == "--json");
    if error.use_stderr() && wants_json {
        Output::new(true).error(error.render().to_string().trim());
    } else if let Err(e) = error.print() {
        Output::new(false).error(&format!("print the usage: {e}"));
    }
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}
