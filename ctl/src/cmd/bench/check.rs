//! `konsulctl bench check`: are the keys still there that were acknowledged? Every server is asked for every one.

use super::{acked, link::Link, work::Mode};
use crate::{Context, exit::Exit, output, server::Server};
use anyhow::{Context as _, bail};
use serde::Serialize;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How many missing keys are named.
const NAMED_MAX: usize = 10;

/// `konsulctl bench check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0 if every server has every key, 1 if one is missing or could not be read.\n\n\
    Examples:\n  konsulctl bench put --acked acked.txt --duration 30s\n  konsulctl bench check --acked acked.txt")]
pub(crate) struct Check {
    /// The keys, as `bench put --acked` wrote them
    #[arg(long, value_name = "FILE")]
    acked: PathBuf,
    /// How fresh the reads must be
    #[arg(long, value_enum, default_value_t = Mode::Strong)]
    mode: Mode,
    /// Clients, each with one request under way
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
}

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Checked {
    op: &'static str,
    mode: &'static str,
    keys: usize,
    seconds: f64,
    /// Over all servers.
    missing: usize,
    /// The first of them.
    missing_keys: Vec<String>,
    servers: Vec<OfServer>,
}

#[derive(Debug, Serialize)]
struct OfServer {
    server: String,
    missing: usize,
}

pub(super) async fn run(args: &Check, context: &Context) -> anyhow::Result<Exit> {
    let keys: Arc<[String]> = acked::keys(&args.acked)?.into();
    if keys.is_empty() {
        bail!("{} holds no keys: nothing was acknowledged, so nothing can be checked", args.acked.display());
    }
    let begin = Instant::now();
    let mut checked = Checked {
        op: "check",
        mode: args.mode.name(),
        keys: keys.len(),
        seconds: 0.0,
        missing: 0,
        missing_keys: Vec::new(),
        servers: Vec::new(),
    };
    for server in context.client.servers() {
        let missing = missing(server, &keys, args, context.client.timeout()).await?;
        checked.missing += missing.len();
        checked.servers.push(OfServer { server: server.to_string(), missing: missing.len() });
        let room = NAMED_MAX - checked.missing_keys.len();
        checked.missing_keys.extend(missing.into_iter().take(room).map(|at| keys[at].clone()));
    }
    checked.seconds = (begin.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    context.output.result(&checked, || checked.in_words())?;
    Ok(if checked.missing == 0 { Exit::Done } else { Exit::Failed })
}

/// Which keys this server does not have.
async fn missing(server: &Server, keys: &Arc<[String]>, args: &Check, timeout: Duration) -> anyhow::Result<Vec<usize>> {
    // One server only: another must not answer in its place.
    let servers: Arc<[Server]> = Arc::from([server.clone()]);
    let next = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..args.clients {
        let link = Link::new(servers.clone(), 0, timeout);
        readers.spawn(read(link, keys.clone(), args.mode, next.clone()));
    }
    let mut missing = Vec::new();
    while let Some(ended) = readers.join_next().await {
        let part = ended.context("a reader failed")?;
        missing.extend(part.with_context(|| format!("read from {server}"))?);
    }
    missing.sort_unstable();
    Ok(missing)
}

async fn read(mut link: Link, keys: Arc<[String]>, mode: Mode, next: Arc<AtomicUsize>) -> anyhow::Result<Vec<usize>> {
    let mut missing = Vec::new();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(key) = keys.get(at) else { return Ok(missing) };
        let request = format!("GET /v1/kv/{key}{} HTTP/1.1\r\nHost: konsul\r\n\r\n", mode.query());
        match link.settled(request.as_bytes()).await? {
            (200, _) => {}
            (404, _) => missing.push(at),
            (status, text) => bail!("{key}: status {status}: {text}"),
        }
    }
}

impl Checked {
    fn in_words(&self) -> String {
        let pairs = [
            ("Run", format!("check, {} reads of {} keys from each server, {} s", self.mode, self.keys, self.seconds)),
            ("Missing", if self.missing == 0 { "none".to_owned() } else { self.missing.to_string() }),
        ];
        let named: Vec<String> = self.missing_keys.iter().map(|key| format!("  {key}\n")).collect();
        let rows = self.servers.iter().map(|s| vec![s.server.clone(), s.missing.to_string()]);
        format!("{}\n{}\n{}", output::fields(&pairs), named.concat(), output::table(&["SERVER", "MISSING"], rows))
    }
}
