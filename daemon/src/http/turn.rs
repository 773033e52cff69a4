//! `POST /v1/cluster/restart-turn`: the node that is asked is about to restart, and nobody else shall meanwhile.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use crate::cluster::turn::{self, TurnError};
use hyper::Response;
use konsul_api::cluster::RestartTurn;
use konsul_api::time::rfc3339;

pub(super) async fn take(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let now_ms = context.deps.clock.wall().as_millis();
    let turn = turn::take(&context.deps.consensus, now_ms).await?;
    Ok(ask.serialized(&RestartTurn { node: turn.name, until: rfc3339(turn.until_ms) }))
}

impl From<TurnError> for ApiError {
    fn from(error: TurnError) -> ApiError {
        match error {
            TurnError::State(source) => source.into(),
            TurnError::Read(source) => source.into(),
            TurnError::Propose(source) => source.into(),
            TurnError::Held { .. } | TurnError::Busy => ApiError::Conflict { text: error.to_string() },
        }
    }
}
