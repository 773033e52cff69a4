//! `/v1/cluster/compare`: whether all members hold the same state.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use crate::raft::{Compared, Comparison};
use hyper::Response;
use konsul_api::cluster::{CompareAnswer, ComparedMember};
use konsul_api::time::rfc3339;

pub(super) async fn compare(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let comparison = context.deps.consensus.compare().await.map_err(ApiError::Compare)?;
    Ok(ask.serialized(&answer(comparison)))
}

fn answer(comparison: Comparison) -> CompareAnswer {
    let member = |Compared { id, name, voter, digest, fenced }| {
        let (digest, why) = match digest {
            Ok(digest) => (Some(digest.to_string()), None),
            Err(why) => (None, Some(why)),
        };
        ComparedMember { id, name, voter, digest, why, fenced }
    };
    CompareAnswer {
        index: comparison.index.get(),
        at: rfc3339(comparison.at_ms),
        same: !comparison.differs(),
        agreed: comparison.agreed.map(|digest| digest.to_string()),
        members: comparison.members.into_iter().map(member).collect(),
    }
}
