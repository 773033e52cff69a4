//! A cluster without a leader: who can still be reached, and what to do.

use crate::{
    client::{Ask, Client, ClientError},
    path::Path,
    server::Server,
};
use futures_util::future;
use konsul_api::cluster::{ClusterStatus, Member};
use std::time::Duration;

/// Patience with each node: a node that is up knows its own view at once.
const PROBE: Duration = Duration::from_secs(1);

/// Which nodes answer, in one sentence.
pub(crate) async fn diagnosis(client: &Client) -> String {
    let nodes = nodes(client.servers()).await;
    let probes = nodes.iter().map(|(_, server)| probe(server.clone()));
    let answers = future::join_all(probes).await;
    let reached = answers.iter().filter(|a| a.is_ok()).count();
    let each: Vec<String> = nodes
        .iter()
        .zip(&answers)
        .map(|((name, _), answer)| match answer {
            Ok(_) => format!("{name} yes"),
            Err(reason) => format!("{name} no: {reason}"),
        })
        .collect();
    format!(
        "no leader: {reached} of {} nodes reachable ({}), try `konsulctl cluster status` or start the others",
        nodes.len(),
        each.join(", ")
    )
}

/// The members as the first server tells that is reached, else the servers themselves.
async fn nodes(servers: &[Server]) -> Vec<(String, Server)> {
    for server in servers {
        let members: Vec<Member> = match probe(server.clone()).await {
            Ok(status) => status.members,
            Err(_) => continue,
        };
        let nodes: Vec<(String, Server)> =
            members.into_iter().filter_map(|m| Some((m.name, m.http.parse().ok()?))).collect();
        if !nodes.is_empty() {
            return nodes;
        }
    }
    servers.iter().map(|s| (s.to_string(), s.clone())).collect()
}

async fn probe(server: Server) -> Result<ClusterStatus, String> {
    let client = Client::new(vec![server], PROBE);
    client.json(&Ask::get(Path::new("/v1/cluster/status"))).await.map_err(|e| match e {
        ClientError::Unreachable(mut attempts) => {
            attempts.pop().map_or_else(|| "unreachable".to_owned(), |(_, reason)| reason)
        }
        ClientError::Timeout { .. } => "no answer within a second".to_owned(),
        ClientError::Status { status, .. } => format!("answers {status}"),
        ClientError::Broken { reason, .. } => reason,
        ClientError::Payload { .. } | ClientError::Form { .. } | ClientError::Decode { .. } => e.to_string(),
    })
}
