//! `/v1/operator/raft/*`: Consul's words for the members. Its errors are text, and nearly all of them 500.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::{ApiError, status};
use super::headers;
use super::query::quoted;
use super::status::address;
use crate::raft::{self, MembershipOp, MembershipRequest, node_uuid};
use hyper::Response;
use konsul_api::operator::{RaftConfiguration, RaftServer, TransferLeader};

/// The protocol of Consul's Raft that clients expect to be told.
const PROTOCOL: &str = "3";

pub(super) async fn configuration(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let options = ask.query.read_options(ask.headers)?;
    context.permit(options).await?;
    let status = context.deps.consensus.status();
    let last = status.last_log_index;
    let servers = status.members.iter().map(|member| RaftServer {
        id: uuid(&status, member.peer.id),
        node: member.peer.info.name.clone(),
        address: address(&member.peer.info),
        leader: member.is_leader,
        protocol_version: PROTOCOL.to_owned(),
        voter: member.voter,
        last_index: member.lag.map_or(0, |lag| last.saturating_sub(lag)),
    });
    Ok(ask.serialized(&RaftConfiguration { servers: servers.collect(), index: status.membership_index }))
}

/// A UUID for a node id, as Consul's clients expect one.
pub(super) fn uuid(status: &raft::Status, node_id: u64) -> String {
    node_uuid(status.cluster_id.unwrap_or_default(), node_id)
}

/// `DELETE …/peer`: removes a member by id or address. Unlike Consul it refuses what would stop the cluster.
pub(super) async fn remove_peer(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let given = |name| ask.query.first(name).filter(|text| !text.is_empty());
    let (what, wanted) = match (given("id"), given("address")) {
        (Some(id), None) => ("id", id),
        (None, Some(address)) => ("address", address),
        (None, None) => {
            return Err(ApiError::bad_request(
                "Bad request: Must specify either ?id with the server's ID or ?address with IP:port of peer to remove",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("Bad request: Must specify only one of ?id or ?address"));
        }
    };
    let status = context.deps.consensus.status();
    let found = status.members.iter().find(|member| match what {
        "id" => named(&status, member, wanted),
        _ => address(&member.peer.info).as_bytes() == wanted,
    });
    let Some(member) = found else {
        let text = format!("{what} {} was not found in the Raft configuration", quoted(wanted));
        return Err(ApiError::refused(text));
    };
    let node = member.peer.id.to_string();
    let request = MembershipRequest { op: MembershipOp::Remove, node, force: false };
    let done = super::membership::bring_about(context, ask, request).await;
    done.map_err(|error| ApiError::refused(error.to_string()))?;
    Ok(headers::response(status::OK, Body::EMPTY))
}

/// By UUID; or, ours, by node id.
fn named(status: &raft::Status, member: &raft::MemberStatus, wanted: &[u8]) -> bool {
    uuid(status, member.peer.id).as_bytes() == wanted || member.peer.id.to_string().as_bytes() == wanted
}

/// `POST …/transfer-leader[?id]`.
pub(super) async fn transfer_leader(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let to = match ask.query.first("id").filter(|id| !id.is_empty()) {
        None => None,
        Some(id) => {
            let status = context.deps.consensus.status();
            let found = status.members.iter().find(|member| named(&status, member, id));
            let missing = || ApiError::refused(format!("id {} was not found in the Raft configuration", quoted(id)));
            Some(found.ok_or_else(missing)?.peer.id.to_string())
        }
    };
    let moved = context.deps.consensus.transfer_leadership(to.as_deref()).await;
    moved.map_err(|error| ApiError::refused(error.to_string()))?;
    Ok(ask.serialized(&TransferLeader { success: true }))
}
