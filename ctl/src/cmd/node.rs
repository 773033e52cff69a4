//! What one server tells about itself: health, metrics, agent, status, OpenAPI.

use crate::{Context, client::Ask, exit::Exit, output, path::Path};
use hyper::StatusCode;
use konsul_api::{agent::AgentSelf, health};
use serde::Serialize;

/// `konsulctl health`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0 if the server is what was asked, 1 if not.\n\n\
    Examples:\n  konsulctl health\n  konsulctl health --ready && echo ready")]
pub(crate) struct Health {
    /// Ask only whether it is alive
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Ask only whether it is ready
    #[arg(long)]
    ready: bool,
}

/// `konsulctl agent …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Agent {
    /// Print the answering node's description
    #[command(name = "self")]
    This,
}

/// `konsulctl status …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Status {
    /// Print the leader's Raft address; exit code 1 if there is none
    Leader,
    /// Print the peers' Raft addresses
    Peers,
}

#[derive(Serialize)]
struct HealthResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<health::Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<health::Health>,
}

pub(crate) async fn run_health(args: &Health, context: &Context) -> anyhow::Result<Exit> {
    let result = HealthResult {
        live: if args.ready { None } else { Some(health(context, "/health/live").await?) },
        ready: if args.live { None } else { Some(health(context, "/health/ready").await?) },
    };
    context.output.result(&result, || {
        let told = [("live", &result.live), ("ready", &result.ready)];
        let lines: Vec<String> =
            told.iter().filter_map(|(what, health)| health.as_ref().map(|h| in_words(what, h))).collect();
        lines.join("\n")
    })?;
    let ok = result.live.iter().chain(&result.ready).all(|h| h.ok);
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

/// 503 is an answer here, not a failure to answer.
async fn health(context: &Context, path: &str) -> anyhow::Result<health::Health> {
    let answer = context.client.send(&Ask::get(Path::new(path))).await?;
    if answer.status.is_success() || answer.status == StatusCode::SERVICE_UNAVAILABLE {
        return Ok(answer.json().await?);
    }
    Err(answer.into_error().await.into())
}

fn in_words(what: &str, health: &health::Health) -> String {
    let warnings: Vec<String> = health.warnings.iter().map(|w| format!("\n  warning: {w}")).collect();
    if health.ok {
        return format!("{what}{}", warnings.concat());
    }
    let reasons: Vec<String> = health.reasons.iter().map(|r| format!("\n  {r}")).collect();
    format!("not {what}{}{}", reasons.concat(), warnings.concat())
}

pub(crate) async fn run_metrics(context: &Context) -> anyhow::Result<Exit> {
    print_body(context, "/metrics").await
}

pub(crate) async fn run_openapi(context: &Context) -> anyhow::Result<Exit> {
    print_body(context, "/v1/openapi.json").await
}

async fn print_body(context: &Context, path: &str) -> anyhow::Result<Exit> {
    let mut body = context.client.ask(&Ask::get(Path::new(path))).await?.bytes().await?;
    if !body.ends_with(b"\n") {
        body.push(b'\n');
    }
    context.output.raw(&body)?;
    Ok(Exit::Done)
}

pub(crate) async fn run_agent(agent: &Agent, context: &Context) -> anyhow::Result<Exit> {
    match agent {
        Agent::This => {
            let this: AgentSelf = context.client.json(&Ask::get(Path::new("/v1/agent/self"))).await?;
            let config = &this.config;
            context.output.result(&this, || {
                output::fields(&[
                    ("Node", config.node_name.clone()),
                    ("Node id", config.node_id.clone()),
                    ("Datacenter", config.datacenter.clone()),
                    ("Contract", format!("Consul {}", config.version)),
                ])
            })?;
        }
    }
    Ok(Exit::Done)
}

pub(crate) async fn run_status(status: &Status, context: &Context) -> anyhow::Result<Exit> {
    match status {
        Status::Leader => {
            let leader: String = context.client.json(&Ask::get(Path::new("/v1/status/leader"))).await?;
            context.output.result(&leader, || {
                if leader.is_empty() { "no leader; see `konsulctl cluster status`".to_owned() } else { leader.clone() }
            })?;
            Ok(if leader.is_empty() { Exit::Failed } else { Exit::Done })
        }
        Status::Peers => {
            let peers: Vec<String> = context.client.json(&Ask::get(Path::new("/v1/status/peers"))).await?;
            context.output.result(&peers, || peers.join("\n"))?;
            Ok(Exit::Done)
        }
    }
}
