//! What every handler works with: the node's parts, and one request taken apart.

use super::awaited::Awaited;
use super::blocking::Blocking;
use super::body::Body;
use super::client::Client;
use super::config::{Deps, HttpConfig, LiveLimits, NonLeaderWrites, Reception};
use super::error::{ApiError, status};
use super::headers::{self, name, value};
use super::json;
use super::query::{Query, ReadOptions};
use super::upload::Limit;
use crate::metrics::Refused;
use crate::raft::{Contact, ReadPermit};
use hyper::header::{HeaderMap, LOCATION};
use hyper::{Response, Uri};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who answers.
#[derive(Clone, Copy)]
pub(super) enum Desk<'c> {
    /// A node that is in no cluster yet, or is not the member again that it was before it was restarted.
    Reception(&'c Reception, &'c Awaited<Context>),
    Member(&'c Context),
}

impl Desk<'_> {
    pub(super) fn config(&self) -> &HttpConfig {
        match self {
            Desk::Reception(reception, _) => &reception.config,
            Desk::Member(context) => &context.deps.config,
        }
    }

    pub(super) fn limits(&self) -> &LiveLimits {
        match self {
            Desk::Reception(reception, _) => &reception.limits,
            Desk::Member(context) => &context.deps.limits,
        }
    }

    /// Where those who are turned away are counted.
    pub(super) fn refused(&self) -> &Refused {
        match self {
            Desk::Reception(reception, _) => &reception.metrics.http.refused,
            Desk::Member(context) => &context.deps.metrics.http.refused,
        }
    }
}

/// The node's parts.
pub(super) struct Context {
    pub(super) deps: Deps,
    pub(super) blocking: Blocking,
    /// Owns work that outlives its request.
    pub(super) tasks: TaskTracker,
    /// Cancelled when the node stops.
    pub(super) stop: CancellationToken,
}

/// One request, without its body.
pub(super) struct Ask<'r> {
    /// Who asks.
    pub(super) client: &'r Client,
    pub(super) uri: &'r Uri,
    pub(super) headers: &'r HeaderMap,
    /// What stands behind the route's prefix, decoded.
    pub(super) rest: &'r [u8],
    pub(super) query: Query<'r>,
}

impl Ask<'_> {
    pub(super) fn pretty(&self) -> bool {
        self.query.has("pretty")
    }

    /// 200 with this compact JSON, indented if that was asked for.
    pub(super) fn json(&self, compact: Vec<u8>) -> Response<Body> {
        headers::ok(value::JSON, Body::from(if self.pretty() { json::pretty(&compact) } else { compact }))
    }

    /// 200 with this as JSON.
    pub(super) fn serialized(&self, answer: &impl serde::Serialize) -> Response<Body> {
        self.json(serde_json::to_vec(answer).expect("wire types have string keys only and no failing serializer"))
    }
}

impl Context {
    pub(super) fn new(deps: Deps, tasks: TaskTracker, stop: CancellationToken) -> Context {
        let blocking = Blocking::new(
            deps.consensus.clone(),
            deps.metrics.http.clone(),
            deps.limits.clone(),
            tasks.clone(),
            stop.clone(),
        );
        Context { deps, blocking, tasks, stop }
    }

    pub(super) fn contact(&self) -> Contact {
        self.deps.consensus.contact()
    }

    /// Permission to read as the request wishes.
    pub(super) async fn permit(&self, options: ReadOptions) -> Result<ReadPermit, ApiError> {
        let consistency = options.consistency(self.deps.config.consistency(), || self.contact());
        Ok(self.deps.consensus.permit(consistency).await?)
    }

    /// Where a write goes that must not be forwarded: `None` = it may be proposed here.
    pub(super) fn send_elsewhere(&self, ask: &Ask<'_>) -> Result<Option<Response<Body>>, ApiError> {
        let asked =
            headers::says(ask.headers, name::LEADER_REDIRECT, "1") || ask.query.first("leader_redirect") == Some(b"1");
        let how = if asked { NonLeaderWrites::Redirect } else { self.deps.config.non_leader_writes };
        if how == NonLeaderWrites::Forward || self.contact().is_leader {
            return Ok(None);
        }
        let Some(leader) = self.deps.consensus.leader() else {
            // Nobody to send to: proposing waits for an election as it does on every node.
            return Ok(None);
        };
        let info = leader.info;
        match how {
            NonLeaderWrites::Forward => Ok(None),
            NonLeaderWrites::Reject => Err(ApiError::NotLeader { leader: info.name, url: info.http }),
            NonLeaderWrites::Redirect => {
                let path = ask.uri.path_and_query().map_or("/", |path| path.as_str());
                let location = format!("{}{path}", info.http.trim_end_matches('/'));
                let mut response = headers::response(status::AT_LEADER, Body::EMPTY);
                response.headers_mut().insert(LOCATION, headers::text_value(&location));
                headers::leader(response.headers_mut(), &info.name, &info.http);
                Ok(Some(response))
            }
        }
    }

    pub(super) fn value_limit(&self) -> Limit {
        Limit {
            bytes_max: self.deps.limits.now().value_bytes_max,
            advice: "See https://www.consul.io/docs/agent/options.html#kv_max_value_size.",
        }
    }

    pub(super) fn txn_limit(&self) -> Limit {
        Limit {
            bytes_max: self.deps.limits.now().txn_bytes_max,
            advice: "See https://www.consul.io/docs/agent/options.html#txn_max_req_len.",
        }
    }
}
