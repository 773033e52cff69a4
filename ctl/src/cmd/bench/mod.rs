//! `konsulctl bench`: a closed-loop load generator for every server of this API.

mod acked;
mod check;
mod drive;
mod link;
mod load;
mod report;
mod watchers;
mod wire;
mod work;

use crate::{
    Context,
    client::{Ask, ClientError},
    duration,
    exit::Exit,
    path::Path,
    server::Server,
};
use acked::Acked;
use anyhow::{Context as _, bail};
use drive::{Limit, Plan};
use konsul_api::cluster::Leader;
use load::Via;
use report::{Report, Run, Watchers};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use work::{Data, Mode, Op, Work};

/// Clients that fill missing keys before reads.
const LOAD_CLIENTS: usize = 16;

/// `konsulctl bench …`.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  konsulctl bench put --clients 64 --duration 30s\n  \
    konsulctl bench get --mode strong --clients 64 --spread --json\n  \
    konsulctl bench mixed --write-percent 20 --keys 100000\n  \
    konsulctl bench watch --watchers 1000 --rounds 20\n  \
    konsulctl bench load --keys 1000000 --value-size 256 --via batch\n  \
    konsulctl bench put --acked acked.txt --duration 30s; konsulctl bench check --acked acked.txt")]
pub(crate) enum Bench {
    /// Write random keys
    Put(Put),
    /// Read random keys; those that are missing are written first
    Get(Reads),
    /// Read and write random keys
    Mixed(Mixed),
    /// Read a random key, then write it if unchanged; a lost race counts as cas_conflict
    Cas(Load),
    /// Wake many blocking queries with one write; the times are those of each round's last watcher
    Watch(Watch),
    /// Write many keys in bulk
    Load(Bulk),
    /// Read back what `put --acked` recorded, from every server
    Check(check::Check),
}

/// Options of every benchmark.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Size of a value in bytes
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=524_288))]
    value_size: u32,
    /// Before every key; letters, digits and - . _ ~ /
    #[arg(long, default_value = "bench/", value_name = "P", value_parser = plain_key)]
    prefix: String,
    /// Clients in turn over all servers, not all to the first
    #[arg(long, conflicts_with = "leader_only")]
    spread: bool,
    /// All clients to the leader, if the server tells who that is, else to the first server
    #[arg(long)]
    leader_only: bool,
}

/// Options of the closed loops.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    #[command(flatten)]
    common: Common,
    /// Clients, each with one request under way
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = duration::parse, conflicts_with = "requests")]
    duration: Duration,
    /// How many operations to measure
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// How many different keys
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99_999_999))]
    keys: u64,
    /// Run so long before measuring
    #[arg(long, default_value = "1s", value_parser = duration::parse, value_name = "DURATION")]
    warmup: Duration,
}

/// `konsulctl bench put`.
#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    #[command(flatten)]
    load: Load,
    /// Write each key once, under a name that no other run uses, and record each that was acknowledged, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    acked: Option<PathBuf>,
}

/// `konsulctl bench get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reads {
    #[command(flatten)]
    load: Load,
    /// How fresh reads must be
    #[arg(long, value_enum, default_value_t = Mode::Leader)]
    mode: Mode,
}

/// `konsulctl bench mixed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Mixed {
    #[command(flatten)]
    reads: Reads,
    /// How many of a hundred operations write
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    write_percent: u32,
}

/// `konsulctl bench watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    common: Common,
    /// Blocking queries, each on its own connection
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    watchers: u32,
    /// Writes
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long the servers have to take the queries in before each write
    #[arg(long, default_value = "200ms", value_parser = duration::parse, value_name = "DURATION")]
    settle: Duration,
}

/// `konsulctl bench load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Bulk {
    #[command(flatten)]
    common: Common,
    /// How many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99_999_999))]
    keys: u64,
    /// Requests under way at a time
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// How to write them
    #[arg(long, value_enum, default_value_t = Via::Txn)]
    via: Via,
}

/// A key, or the beginning of one, that needs no percent-encoding: encoding would be work in the measured loop.
fn plain_key(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '/');
    if text.chars().all(plain) { Ok(text.to_owned()) } else { Err("only letters, digits and - . _ ~ /".to_owned()) }
}

pub(crate) async fn run(bench: Bench, context: &Context) -> anyhow::Result<Exit> {
    match bench {
        Bench::Put(Put { load, acked: None }) => closed_loop("put", Op::Put, &load, None, context).await,
        Bench::Put(Put { load, acked: Some(path) }) => {
            let acked = Acked::create(&path)?;
            put_once(&load, acked, context).await
        }
        Bench::Get(reads) => closed_loop("get", Op::Get(reads.mode), &reads.load, Some(reads.mode), context).await,
        Bench::Mixed(Mixed { reads, write_percent }) => {
            let op = Op::Mixed { mode: reads.mode, write_percent: u64::from(write_percent) };
            closed_loop("mixed", op, &reads.load, Some(reads.mode), context).await
        }
        Bench::Cas(load) => closed_loop("cas", Op::Cas, &load, None, context).await,
        Bench::Watch(watch) => run_watch(&watch, context).await,
        Bench::Load(bulk) => run_load(&bulk, context).await,
        Bench::Check(check) => check::run(&check, context).await,
    }
}

async fn closed_loop(
    name: &'static str,
    op: Op,
    load: &Load,
    mode: Option<Mode>,
    context: &Context,
) -> anyhow::Result<Exit> {
    let data = data(&load.common, load.keys)?;
    let plan = loop_plan(load, context).await?;
    if mode.is_some() {
        fill(&plan, &data, context).await?;
    }
    let works = (1..=u64::from(load.clients)).map(|seed| Work::new(op, data.clone(), seed)).collect();
    let measured = drive::run(&plan, works, None).await?;
    finish(&measured.report(name, mode.map(Mode::name), &load.run(load.keys, measured.took)), context)
}

/// Writes under names of this run's own: a key that is there later was written by it, and is not left of an earlier run.
async fn put_once(load: &Load, acked: Acked, context: &Context) -> anyhow::Result<Exit> {
    let plan = loop_plan(load, context).await?;
    let run = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos();
    let mut data = data(&load.common, 0)?;
    data.prefix.push_str(&format!("{run:x}/"));
    let next = Arc::new(AtomicU64::new(0));
    let works =
        (1..=u64::from(load.clients)).map(|seed| Work::new(Op::PutOnce, data.clone(), seed).counting(next.clone()));
    let measured = drive::run(&plan, works.collect(), Some(acked)).await?;
    finish(&measured.report("put", None, &load.run(next.load(Ordering::Relaxed), measured.took)), context)
}

/// The servers to load, with room for the connections.
async fn loop_plan(load: &Load, context: &Context) -> anyhow::Result<Plan> {
    raise_file_limit(usize::try_from(load.clients).context("--clients")?)?;
    let limit = load.requests.map_or(Limit::Time(load.duration), Limit::Requests);
    Ok(Plan { warmup: load.warmup, limit, ..plan(&load.common, context).await? })
}

impl Load {
    fn run(&self, keys: u64, took: Duration) -> Run {
        Run { clients: self.clients, value_size: self.common.value_size, keys, took }
    }
}

async fn run_watch(watch: &Watch, context: &Context) -> anyhow::Result<Exit> {
    let watchers = usize::try_from(watch.watchers).context("--watchers")?;
    raise_file_limit(watchers)?;
    let data = data(&watch.common, 1)?;
    let plan = plan(&watch.common, context).await?;
    let measured = watchers::run(&plan, &data, watchers, watch.rounds, watch.settle).await?;
    let value_size = watch.common.value_size;
    let run = Run { clients: watch.watchers, value_size, keys: 1, took: measured.took };
    let mut report = measured.all.report("watch", None, &run);
    report.watchers = Some(Watchers {
        watchers: watch.watchers,
        each_p50_us: measured.each.micros_at(0.5),
        each_p99_us: measured.each.micros_at(0.99),
    });
    finish(&report, context)
}

/// A run in which nothing succeeded has failed.
fn finish(report: &Report, context: &Context) -> anyhow::Result<Exit> {
    context.output.result(report, || report.in_words())?;
    Ok(if report.ops() > 0 { Exit::Done } else { Exit::Failed })
}

async fn run_load(bulk: &Bulk, context: &Context) -> anyhow::Result<Exit> {
    let data = data(&bulk.common, bulk.keys)?;
    let clients = usize::try_from(bulk.clients).context("--clients")?;
    raise_file_limit(clients)?;
    let plan = plan(&bulk.common, context).await?;
    let links = drive::connect(&plan, clients).await?;
    let bar = context.output.progress(Some(bulk.keys * u64::from(bulk.common.value_size)));
    let begin = Instant::now();
    load::run(links, &data, bulk.via, &bar).await?;
    bar.finish_and_clear();
    let seconds = begin.elapsed().as_secs_f64();
    let told = serde_json::json!({
        "op": "load", "keys": bulk.keys, "value_size": bulk.common.value_size, "seconds": seconds,
    });
    context.output.result(&told, || format!("{} keys written in {seconds:.3} s", bulk.keys))?;
    Ok(Exit::Done)
}

/// Writes the keys that reads need, unless the last one is there.
async fn fill(plan: &Plan, data: &Data, context: &Context) -> anyhow::Result<()> {
    let last = Ask::get(Path::kv(&data.key(data.keys - 1)));
    if context.client.send(&last).await?.status.is_success() {
        return Ok(());
    }
    context.output.note(&format!("writing {} keys first", data.keys));
    let links = drive::connect(plan, LOAD_CLIENTS).await?;
    let bar = context.output.progress(None);
    load::run(links, data, Via::Txn, &bar).await?;
    bar.finish_and_clear();
    Ok(())
}

fn data(common: &Common, keys: u64) -> anyhow::Result<Data> {
    let value_bytes = usize::try_from(common.value_size).context("--value-size")?;
    Ok(Data { prefix: common.prefix.clone(), keys, value_bytes })
}

/// The servers to load, without warm-up and limit.
async fn plan(common: &Common, context: &Context) -> anyhow::Result<Plan> {
    let mut servers = context.client.servers().to_vec();
    if common.leader_only
        && let Some(leader) = leader(context).await?
    {
        servers.retain(|s| *s != leader);
        servers.insert(0, leader);
    }
    Ok(Plan {
        servers: Arc::from(servers),
        spread: common.spread,
        timeout: context.client.timeout(),
        warmup: Duration::ZERO,
        limit: Limit::Requests(0),
    })
}

/// The leader, where the server speaks of one.
async fn leader(context: &Context) -> anyhow::Result<Option<Server>> {
    let leader: Option<Leader> = match context.client.json(&Ask::get(Path::new("/v1/cluster/leader"))).await {
        Ok(leader) => leader,
        // Another server of this API, that does not know this path.
        Err(ClientError::Status { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let Some(leader) = leader else { bail!("--leader-only: there is no leader; see `konsulctl cluster status`") };
    let server = leader.http.parse().map_err(|e| anyhow::anyhow!("the leader's address: {e}"))?;
    Ok(Some(server))
}

/// Each connection is a file: takes as many as the system allows, and says so if that is too few.
fn raise_file_limit(connections: usize) -> anyhow::Result<()> {
    let wanted = u64::try_from(connections).context("connections")? + 64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        bail!("{connections} connections need a limit of {wanted} open files; raise it with `ulimit -Hn`");
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")
}
