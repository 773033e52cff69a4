//! `/v1/status/*`: who leads and who votes, as this node knows it; never waits.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use crate::raft_types::NodeInfo;
use hyper::Response;

/// `"ip:port"` of the leader's peer address, or `""`.
pub(super) fn leader(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let leader = context.deps.consensus.leader();
    Ok(ask.serialized(&leader.map(|peer| address(&peer.info)).unwrap_or_default()))
}

/// Peer addresses of the voters; none while no leader is known, as Consul has it.
pub(super) fn peers(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let status = context.deps.consensus.status();
    let voters = status.members.into_iter().filter(|member| member.voter);
    let peers: Vec<String> =
        if status.leader.is_some() { voters.map(|member| address(&member.peer.info)).collect() } else { Vec::new() };
    Ok(ask.serialized(&peers))
}

/// `host:port` between nodes. A cluster of one has none: then that of its clients, because to them an empty text means
/// that there is no leader.
pub(super) fn address(info: &NodeInfo) -> String {
    if !info.rpc.is_empty() {
        return info.rpc.clone();
    }
    let host = info.http.split_once("://").map_or(info.http.as_str(), |(_, host)| host);
    host.split('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_peer_port_has_an_address_all_the_same() {
        let info =
            |rpc: &str, http: &str| NodeInfo { rpc: rpc.to_owned(), http: http.to_owned(), ..NodeInfo::default() };
        assert_eq!(address(&info("10.0.0.1:8300", "http://10.0.0.1:8500")), "10.0.0.1:8300");
        assert_eq!(address(&info("", "http://127.0.0.1:8500/")), "127.0.0.1:8500");
        assert_eq!(address(&info("", "")), "");
    }
}
