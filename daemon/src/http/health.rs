//! `/health/*`: whether this process serves, and whether it is ready to; if not, why, in words.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::status;
use hyper::Response;
use konsul_api::health::Health;

/// Whoever reads the answer knows that the process serves.
pub(super) fn live(ask: &Ask<'_>) -> Response<Body> {
    ask.serialized(&Health { ok: true, reasons: Vec::new(), warnings: Vec::new() })
}

pub(super) fn ready(context: &Context, ask: &Ask<'_>) -> Response<Body> {
    let mut reasons = context.deps.consensus.not_ready();
    if context.stop.is_cancelled() {
        reasons.push("this node is stopping".to_owned());
    }
    reasons.extend(context.deps.papers.not_ready());
    let ok = reasons.is_empty();
    let warnings = context.deps.papers.warnings();
    let mut response = ask.serialized(&Health { ok, reasons, warnings });
    if !ok {
        *response.status_mut() = status::NOT_READY;
    }
    response
}
