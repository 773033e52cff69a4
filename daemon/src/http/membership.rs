//! `POST /v1/cluster/{leave,remove,promote,demote}`: who belongs to the cluster, and who votes. Every node takes them.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use super::upload::{self, Limit, Upload};
use crate::cluster::audit::{Event, Outcome, event};
use crate::raft::{Done, MembershipDone, MembershipError, MembershipOp, MembershipRequest};
use hyper::Response;
use konsul_api::cluster as api;

/// A request that names a node is short.
const LIMIT: Limit = Limit { bytes_max: 4096, advice: "The body names a node and nothing else." };

pub(super) async fn change(
    context: &Context,
    ask: &Ask<'_>,
    op: MembershipOp,
    body: Upload,
) -> Result<Response<Body>, ApiError> {
    let text = upload::read(body, LIMIT).await?;
    let request = if text.trim_ascii().is_empty() {
        api::MembershipRequest::default()
    } else {
        serde_json::from_slice(&text).map_err(|error| {
            ApiError::bad_request(format!("membership request: {error}; send {{\"node\": \"<id or name>\"}}"))
        })?
    };
    let node = match (request.node, op) {
        (Some(node), _) => node,
        (None, MembershipOp::Leave) => context.deps.consensus.identity().node_id.to_string(),
        (None, MembershipOp::Remove | MembershipOp::Promote | MembershipOp::Demote) => {
            return Err(ApiError::bad_request("membership request: which node? send {\"node\": \"<id or name>\"}"));
        }
    };
    let done = bring_about(context, ask, MembershipRequest { op, node, force: request.force }).await?;
    Ok(ask.serialized(&answer(done)))
}

/// And the audit knows who wanted it.
pub(super) async fn bring_about(
    context: &Context,
    ask: &Ask<'_>,
    request: MembershipRequest,
) -> Result<MembershipDone, MembershipError> {
    let (consensus, audit) = (&context.deps.consensus, &context.deps.audit);
    let event = |what: String, outcome| Event {
        event: event_of(request.op),
        who: ask.client.who(),
        from: ask.client.to_string(),
        what,
        outcome,
    };
    let forced = if request.force { " by force" } else { "" };
    let myself = consensus.identity().node_id.to_string();
    if request.node == myself {
        // Now: a node that has left the cluster writes nothing to it any more.
        audit.event(event(format!("node {myself} asked{forced}"), Outcome::Done));
    }
    let done = consensus.change_membership(request.clone()).await;
    audit.event(match &done {
        Ok(done) => event(format!("{} (node {}){forced}", done.name, done.id), Outcome::Done),
        Err(error) => event(format!("node {}{forced}", request.node), Outcome::Refused(error.to_string())),
    });
    done
}

fn event_of(op: MembershipOp) -> &'static str {
    match op {
        MembershipOp::Leave => event::MEMBER_LEAVE,
        MembershipOp::Remove => event::MEMBER_REMOVE,
        MembershipOp::Promote => event::MEMBER_PROMOTE,
        MembershipOp::Demote => event::MEMBER_DEMOTE,
    }
}

fn answer(done: MembershipDone) -> api::MembershipAnswer {
    let MembershipDone { id, name, done, voters, tolerance } = done;
    let (already, pending) = match done {
        Done::Now => (false, None),
        Done::Already => (true, None),
        Done::Later(why) => (false, Some(why)),
    };
    api::MembershipAnswer { id, name, done: pending.is_none(), already, pending, voters, failure_tolerance: tolerance }
}
