//! `konsulctl autopilot`: how it is set, and what it sees.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output,
    path::Path,
};
use anyhow::Context as _;
use bytes::Bytes;
use hyper::StatusCode;
use konsul_api::operator::{AutopilotConfiguration, AutopilotHealth, AutopilotState, ServerHealth, ServerState};

const CONFIGURATION: &str = "/v1/operator/autopilot/configuration";
/// Tries of a change while others change it too.
const TRIES: usize = 5;

/// `konsulctl autopilot …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Autopilot {
    /// Show its configuration
    Get,
    /// Change its configuration; what is not named stays as it is
    #[command(
        arg_required_else_help = true,
        after_help = "Examples:\n  konsulctl autopilot set --min-quorum 5\n  konsulctl autopilot set --cleanup-dead-servers false"
    )]
    Set(Set),
    /// Tell how the servers are; exit code 1 if one is not well
    Health,
    /// Tell how the servers are, and what autopilot waits for
    State,
}

/// `konsulctl autopilot set …`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Whether dead servers are removed
    #[arg(long, value_name = "BOOL")]
    cleanup_dead_servers: Option<bool>,
    /// A server that was silent for longer is not healthy
    #[arg(long, value_name = "DURATION")]
    last_contact_threshold: Option<String>,
    /// A server that is further behind is not healthy
    #[arg(long, value_name = "N")]
    max_trailing_logs: Option<u64>,
    /// Fewest voters that cleaning up may leave; 0: three, or a majority of the configured ones
    #[arg(long, value_name = "N")]
    min_quorum: Option<u64>,
    /// How long a newcomer must be healthy before it votes
    #[arg(long, value_name = "DURATION")]
    server_stabilization_time: Option<String>,
    /// A server that was silent for so long is dead
    #[arg(long, value_name = "DURATION")]
    dead_server_threshold: Option<String>,
}

pub(crate) async fn run(autopilot: Autopilot, context: &Context) -> anyhow::Result<Exit> {
    match autopilot {
        Autopilot::Get => get(context).await,
        Autopilot::Set(set) => change(&set, context).await,
        Autopilot::Health => health(context).await,
        Autopilot::State => state(context).await,
    }
}

async fn read(context: &Context) -> anyhow::Result<AutopilotConfiguration> {
    Ok(context.client.json(&Ask::get(Path::new(CONFIGURATION))).await?)
}

async fn get(context: &Context) -> anyhow::Result<Exit> {
    let configuration = read(context).await?;
    context.output.result(&configuration, || fields(&configuration))?;
    Ok(Exit::Done)
}

fn fields(configuration: &AutopilotConfiguration) -> String {
    let c = configuration;
    let min_quorum = if c.min_quorum == 0 { "as is safe".to_owned() } else { c.min_quorum.to_string() };
    output::fields(&[
        ("Clean up dead servers", if c.cleanup_dead_servers { "yes" } else { "no" }.to_owned()),
        ("Dead after", c.dead_server_threshold.clone().unwrap_or_else(|| "45s".to_owned())),
        ("Min quorum", min_quorum),
        ("Last contact threshold", c.last_contact_threshold.clone()),
        ("Max trailing logs", c.max_trailing_logs.to_string()),
        ("Server stabilization time", c.server_stabilization_time.clone()),
        ("Modify index", c.modify_index.to_string()),
    ])
}

async fn change(set: &Set, context: &Context) -> anyhow::Result<Exit> {
    for _ in 0..TRIES {
        let mut wanted = read(context).await?;
        set.apply(&mut wanted);
        // Zero would mean "only if nobody ever wrote it": that, too, is what was read.
        let path = Path::new(CONFIGURATION).with("cas", &wanted.modify_index.to_string());
        let body = serde_json::to_vec(&wanted).context("encode the configuration")?;
        if context.client.json(&Ask::put(path, Payload::Bytes(Bytes::from(body)))).await? {
            return get(context).await;
        }
    }
    anyhow::bail!("others change the configuration of autopilot at the same time; try again")
}

impl Set {
    fn apply(&self, to: &mut AutopilotConfiguration) {
        fn put<T: Clone>(from: &Option<T>, to: &mut T) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        put(&self.cleanup_dead_servers, &mut to.cleanup_dead_servers);
        put(&self.last_contact_threshold, &mut to.last_contact_threshold);
        put(&self.max_trailing_logs, &mut to.max_trailing_logs);
        put(&self.min_quorum, &mut to.min_quorum);
        put(&self.server_stabilization_time, &mut to.server_stabilization_time);
        if self.dead_server_threshold.is_some() {
            to.dead_server_threshold.clone_from(&self.dead_server_threshold);
        }
    }
}

/// 429 is an answer here: somebody has to look.
async fn health(context: &Context) -> anyhow::Result<Exit> {
    let answer = context.client.send(&Ask::get(Path::new("/v1/operator/autopilot/health"))).await?;
    if !answer.status.is_success() && answer.status != StatusCode::TOO_MANY_REQUESTS {
        return Err(answer.into_error().await.into());
    }
    let health: AutopilotHealth = answer.json().await?;
    context.output.result(&health, || {
        let servers = health.servers.as_deref().unwrap_or_default();
        format!("{}\n\n{}", verdict(health.healthy, health.failure_tolerance), health_table(servers))
    })?;
    Ok(if health.healthy { Exit::Done } else { Exit::Failed })
}

fn verdict(healthy: bool, tolerance: u64) -> String {
    let pairs = [("Healthy", yes_no(healthy).to_owned()), ("Failure tolerance", tolerance.to_string())];
    output::fields(&pairs)
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn health_table(servers: &[ServerHealth]) -> String {
    let row = |s: &ServerHealth| {
        vec![
            s.name.clone(),
            s.address.clone(),
            s.serf_status.clone(),
            yes_no(s.healthy).to_owned(),
            yes_no(s.voter).to_owned(),
            yes_no(s.leader).to_owned(),
            s.last_contact.clone(),
            s.last_index.to_string(),
            s.stable_since.clone(),
        ]
    };
    let header = ["NODE", "ADDRESS", "STATUS", "HEALTHY", "VOTER", "LEADER", "LAST CONTACT", "INDEX", "STABLE SINCE"];
    output::table(&header, servers.iter().map(row))
}

async fn state(context: &Context) -> anyhow::Result<Exit> {
    let state: AutopilotState = context.client.json(&Ask::get(Path::new("/v1/operator/autopilot/state"))).await?;
    context.output.result(&state, || {
        let mut servers: Vec<&ServerState> = state.servers.values().collect();
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut text = format!("{}\n\n{}", verdict(state.healthy, state.failure_tolerance), state_table(&servers));
        for note in &state.notes {
            text = format!("{text}\n  {note}");
        }
        text
    })?;
    Ok(Exit::Done)
}

fn state_table(servers: &[&ServerState]) -> String {
    let row = |s: &&ServerState| {
        vec![
            s.name.clone(),
            s.address.clone(),
            s.node_status.clone(),
            s.status.clone(),
            yes_no(s.healthy).to_owned(),
            yes_no(s.read_replica).to_owned(),
            s.last_contact.clone(),
            s.stable_since.clone(),
        ]
    };
    let header = ["NODE", "ADDRESS", "STATUS", "ROLE", "HEALTHY", "STAYS LEARNER", "LAST CONTACT", "STABLE SINCE"];
    output::table(&header, servers.iter().map(row))
}
