//! `konsulctl operator raft`: the members in Consul's words.

use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    output,
    path::Path,
};
use konsul_api::operator::{RaftConfiguration, RaftServer, TransferLeader};
use serde::Serialize;
use std::time::Duration;

/// A removal goes through the log, and leadership may have to move first.
const CHANGE: Duration = Duration::from_secs(30);

/// `konsulctl operator …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Operator {
    /// The members of the cluster, as Consul's tools know them
    #[command(subcommand)]
    Raft(Raft),
}

/// `konsulctl operator raft …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Raft {
    /// List the members
    ListPeers,
    /// Remove a member for good; see also `cluster remove`
    RemovePeer {
        /// UUID of the member, or its node id
        #[arg(long, value_name = "ID", conflicts_with = "address", required_unless_present = "address")]
        id: Option<String>,
        /// Its address between nodes
        #[arg(long, value_name = "IP:PORT")]
        address: Option<String>,
    },
    /// Hand leadership to another voter; see also `cluster transfer-leadership`
    TransferLeader {
        /// UUID of the member, or its node id [default: the follower that is furthest]
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
}

#[derive(Serialize)]
struct Removed {
    removed: bool,
}

pub(crate) async fn run(operator: Operator, context: &Context) -> anyhow::Result<Exit> {
    match operator {
        Operator::Raft(Raft::ListPeers) => list(context).await,
        Operator::Raft(Raft::RemovePeer { id, address }) => remove(id, address, context).await,
        Operator::Raft(Raft::TransferLeader { id }) => transfer(id, context).await,
    }
}

async fn list(context: &Context) -> anyhow::Result<Exit> {
    let answer: RaftConfiguration =
        context.client.json(&Ask::get(Path::new("/v1/operator/raft/configuration"))).await?;
    context.output.result(&answer, || table(&answer.servers))?;
    Ok(Exit::Done)
}

fn table(servers: &[RaftServer]) -> String {
    let row = |s: &RaftServer| {
        let state = if s.leader { "leader" } else { "follower" };
        let cells = [s.node.as_str(), &s.id, &s.address, state];
        let mut cells: Vec<String> = cells.into_iter().map(str::to_owned).collect();
        cells.extend([s.voter.to_string(), s.protocol_version.clone()]);
        cells
    };
    output::table(&["NODE", "ID", "ADDRESS", "STATE", "VOTER", "RAFT PROTOCOL"], servers.iter().map(row))
}

async fn remove(id: Option<String>, address: Option<String>, context: &Context) -> anyhow::Result<Exit> {
    let mut path = Path::new("/v1/operator/raft/peer");
    for (name, value) in [("id", id), ("address", address)] {
        if let Some(value) = value {
            path = path.with(name, &value);
        }
    }
    context.client.ask(&Ask::delete(path).patient(CHANGE)).await?.bytes().await?;
    context.output.result(&Removed { removed: true }, || "removed".to_owned())?;
    Ok(Exit::Done)
}

async fn transfer(id: Option<String>, context: &Context) -> anyhow::Result<Exit> {
    let mut path = Path::new("/v1/operator/raft/transfer-leader");
    if let Some(id) = id {
        path = path.with("id", &id);
    }
    let answer: TransferLeader = context.client.json(&Ask::post(path, Payload::Nothing)).await?;
    context.output.result(&answer, || "another one leads; see `konsulctl cluster leader`".to_owned())?;
    Ok(if answer.success { Exit::Done } else { Exit::Failed })
}
