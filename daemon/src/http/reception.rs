//! What a node answers that is in no cluster yet: that it lives, what it waits for, and `init` and `join`; and until it is
//! a member again, after a restart.

use super::body::Body;
use super::cluster::node_only;
use super::config::Reception;
use super::context::Ask;
use super::error::{ApiError, status};
use super::headers::{self, value};
use super::router::Handler;
use super::upload::{self, Limit, Upload};
use super::{health, metrics, openapi};
use crate::cluster::lobby::{EnterError, Wish};
use crate::cluster::token::{Token, is_contact};
use hyper::Response;
use konsul_api::cluster::{EnteredAnswer, JoinClusterRequest};
use konsul_api::health::Health;

/// What `/` says.
pub(super) const GREETING: &[u8] = b"Consul Agent";

/// A token and a few addresses.
const JOIN_LIMIT: Limit = Limit { bytes_max: 8192, advice: "The body is a token and a few addresses." };

/// What a node answers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Live,
    Ready,
    Metrics,
    OpenApi,
    Root,
    Status,
    Init,
    Join,
}

impl Own {
    /// `None`: only a member can answer.
    pub(super) fn of(handler: Handler) -> Option<Own> {
        match handler {
            Handler::Live => Some(Own::Live),
            Handler::Ready => Some(Own::Ready),
            Handler::Metrics => Some(Own::Metrics),
            Handler::OpenApi => Some(Own::OpenApi),
            Handler::Root => Some(Own::Root),
            Handler::ClusterStatus => Some(Own::Status),
            Handler::ClusterInit => Some(Own::Init),
            Handler::ClusterJoin => Some(Own::Join),
            _needs_a_cluster => None,
        }
    }
}

pub(super) async fn dispatch(
    reception: &Reception,
    answer: Own,
    ask: &Ask<'_>,
    body: Upload,
) -> Result<Response<Body>, ApiError> {
    match answer {
        Own::Live => Ok(health::live(ask)),
        Own::Ready => Ok(ready(reception, ask)),
        Own::Metrics => Ok(metrics::expose(&reception.metrics)),
        Own::OpenApi => Ok(ask.serialized(&openapi::document())),
        Own::Root => Ok(headers::ok(value::TEXT, Body::Whole(GREETING.into()))),
        Own::Status => {
            let doing = reception.lobby.doing();
            Ok(ask.serialized(&node_only(&reception.node_name, doing, &reception.listening)))
        }
        Own::Init => enter(reception, ask, Wish::Init).await,
        Own::Join => enter(reception, ask, join(body).await?).await,
    }
}

/// What everybody is told who needs a member.
pub(super) fn refusal(reception: &Reception) -> ApiError {
    ApiError::NoCluster { text: sentence(reception) }
}

fn sentence(reception: &Reception) -> String {
    let doing = reception.lobby.doing().what;
    match reception.hold {
        Some(_) => format!("this node is not a member again yet: {doing}; retry later, or ask another node"),
        None => format!("this node is in no cluster yet: {doing}"),
    }
}

fn ready(reception: &Reception, ask: &Ask<'_>) -> Response<Body> {
    let mut response = ask.serialized(&Health { ok: false, reasons: vec![sentence(reception)], warnings: Vec::new() });
    *response.status_mut() = status::NOT_READY;
    response
}

async fn join(body: Upload) -> Result<Wish, ApiError> {
    let text = upload::read(body, JOIN_LIMIT).await?;
    // serde's errors may repeat what they read, and that may be a secret.
    let request: JoinClusterRequest = serde_json::from_slice(&text).map_err(|_| {
        ApiError::bad_request(
            "join request: send {\"token\": \"konsul-join-v1.…\"}, and \"via\": [\"host:port\"] if needed",
        )
    })?;
    let token = Token::parse(&request.token).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if let Some(bad) = request.via.iter().find(|via| !is_contact(via)) {
        return Err(ApiError::bad_request(format!("join request: `{bad}` is no host:port, as in 10.0.0.1:8300")));
    }
    Ok(Wish::Join { token: Box::new(token), via: request.via })
}

async fn enter(reception: &Reception, ask: &Ask<'_>, wish: Wish) -> Result<Response<Body>, ApiError> {
    let entered = reception.lobby.ask(wish).await.map_err(|error| {
        let text = error.to_string();
        match error {
            EnterError::Busy { .. } | EnterError::Refused { .. } => ApiError::Conflict { text },
            EnterError::Unreachable { .. } => ApiError::NotInTime { text },
            EnterError::Failed { .. } => ApiError::refused(text),
            EnterError::Stopping => ApiError::NoCluster { text },
        }
    })?;
    Ok(ask.serialized(&EnteredAnswer {
        cluster_id: uuid::Uuid::from_bytes(entered.cluster_id).to_string(),
        node_id: entered.node_id,
        name: reception.node_name.clone(),
    }))
}
