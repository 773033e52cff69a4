//! konsuld: the life of one node.

use clap::Parser;
use konsuld::config::{Args, Loaded, Start};
use konsuld::node::{End, Node, NodeError, offline};
use konsuld::telemetry::{events, trace};
use konsuld::{shutdown, telemetry};
use std::error::Error;
use std::process::ExitCode;
use tokio::runtime::{Builder, Handle, Runtime};

// Many threads allocate and free each other's buffers all the time; the system allocator keeps what they free.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The node could not start, or a part of it failed: systemd restarts it.
const FAILED: u8 = 1;
/// The configuration is wrong: a restart would not help.
const BAD_CONFIG: u8 = 2;
/// The node was removed from its cluster, or left behind by a recovery: a restart would not help, nor find its place again.
const REMOVED: u8 = 3;
/// The log, a snapshot or the state holds what only a newer program understands: a restart would not help.
const TOO_OLD: u8 = 5;

fn main() -> ExitCode {
    // Usage errors end here, nothing is opened yet.
    let args = Args::parse();
    let loaded = match args.start() {
        Ok(Start::Run(loaded)) => *loaded,
        Ok(Start::Offline(work)) => return offline::run(&work, &args),
        Ok(Start::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return failed(&error, BAD_CONFIG),
    };
    if let Err(error) = telemetry::init(&loaded.config().log) {
        return failed(&error, FAILED);
    }
    // A half-dead node is worse than a restarted one.
    telemetry::abort_on_panic();
    let (raft, http) = match (runtime("raft"), runtime("http")) {
        (Ok(raft), Ok(http)) => (raft, http),
        (Err(error), _) | (_, Err(error)) => return failed(&error, FAILED),
    };
    if let Some(traces) = &loaded.config().traces
        && let Err(error) = trace::start(traces, http.handle())
    {
        return failed(&error, BAD_CONFIG);
    }
    let code = raft.block_on(run(loaded, http.handle()));
    trace::flush();
    http.shutdown_background();
    telemetry::flush();
    code
}

/// Consensus and HTTP have threads of their own: a storm of requests must not cause an election. Half of the cores
/// each: the log writer and the apply thread need theirs, and with more threads than cores a write costs half as much
/// again in switches between them.
fn runtime(name: &str) -> std::io::Result<Runtime> {
    let threads = (std::thread::available_parallelism()?.get() / 2).max(1);
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
}

async fn run(loaded: Loaded, http: &Handle) -> ExitCode {
    let (stop, hangups) = match shutdown::on_signal().and_then(|stop| Ok((stop, shutdown::hangups()?))) {
        Ok(signals) => signals,
        Err(error) => return failed(&error, FAILED),
    };
    // Verify and recover; no port is bound yet.
    let node = match Node::open(loaded) {
        Ok(node) => node,
        Err(error @ NodeError::LeftBehind { .. }) => return failed(&error, REMOVED),
        Err(error) if error.needs_newer() => return failed(&error, TOO_OLD),
        Err(error) => return failed(&error, FAILED),
    };
    let running = match Box::pin(node.start(http, &stop, hangups)).await {
        Ok(running) => running,
        Err(_) if stop.is_cancelled() => return ExitCode::SUCCESS,
        Err(error) => return failed(&error, FAILED),
    };
    match running.until_stopped(&stop).await {
        End::Asked => {
            running.drain().await;
            ExitCode::SUCCESS
        }
        End::Removed { reason } => {
            let message_id = events::NODE_REMOVED;
            tracing::warn!(message_id, %reason, "this node is no member any more and stops; to join anew it has to start empty");
            running.drain().await;
            ExitCode::from(REMOVED)
        }
        End::LeftBehind { reason } => {
            // Nothing is drained: it must not answer anybody any more.
            if let Err(error) = running.stay_behind(&reason) {
                tracing::error!(%error, "cannot write down that this node was left behind");
            }
            tracing::error!(%reason, "this node was left behind and stops; to rejoin it has to start empty");
            ExitCode::from(REMOVED)
        }
        End::Newer { reason } => {
            // Nothing is drained: what was met is committed, and this node cannot go past it.
            let message_id = events::NEWER_NEEDED;
            tracing::error!(message_id, %reason, "this program is too old for its cluster and stops; install the newer one");
            ExitCode::from(TOO_OLD)
        }
        End::Failed { reason } => {
            // Nothing is drained: after a failed flush or a panic of the core nothing here can be trusted.
            tracing::error!(message_id = events::NODE_FAILED, %reason, "the node cannot go on");
            ExitCode::from(FAILED)
        }
    }
}

/// Says what failed, with every cause.
fn failed(error: &dyn Error, code: u8) -> ExitCode {
    let mut text = format!("konsuld: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    eprintln!("{text}");
    ExitCode::from(code)
}
