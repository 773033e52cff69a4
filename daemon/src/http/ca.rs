//! `/v1/cluster/ca`: the cluster's own authority, and replacing it. Errors are JSON with honest codes.

use super::body::Body;
use super::cluster::hex;
use super::context::{Ask, Context};
use super::error::ApiError;
use crate::cluster::audit::{Event, Outcome};
use crate::cluster::ca::{Generation, Stage};
use crate::cluster::identity::{Authority, AuthorityError, Shown};
use crate::telemetry::chain;
use crate::tls::{Facts, fingerprint};
use hyper::Response;
use konsul_api::ca::{CaAuthority, CaRotation, CaStage, CaStatus, CaWaiting};
use konsul_api::time::rfc3339;

fn authority(context: &Context) -> Result<&Authority, ApiError> {
    context.deps.papers.authority.as_ref().ok_or_else(|| refused(&AuthorityError::None))
}

/// All of these are about the cluster as it is now: the same request may do another time.
fn refused(error: &AuthorityError) -> ApiError {
    ApiError::Conflict { text: chain(error) }
}

pub(super) async fn status(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let authority = authority(context)?;
    let stored = authority.stored().map_err(|error| refused(&error))?;
    let record = stored.ok_or_else(|| refused(&AuthorityError::None))?.record;
    let shown = authority.shown();
    let authorities = record.generations().iter().map(|generation| describe(generation, &shown)).collect();
    let waiting = authority.waiting().await.ok().map(|waiting| {
        let one = |w: crate::cluster::identity::Waiting| CaWaiting { id: w.node_id, name: w.name, why: w.why };
        waiting.into_iter().map(one).collect()
    });
    Ok(ask.serialized(&CaStatus { authorities, rotating: !record.is_settled(), waiting }))
}

fn describe(generation: &Generation, shown: &Shown) -> CaAuthority {
    let Generation { number, stage, certificate, sealing_key, .. } = generation;
    let validity = Facts::of(certificate).map(|facts| facts.validity);
    let (from, until) = validity.map_or((0, 0), |validity| (validity.not_before_ms, validity.not_after_ms));
    CaAuthority {
        number: *number,
        stage: match stage {
            Stage::Active => CaStage::Active,
            Stage::Next => CaStage::Next,
            Stage::Retiring => CaStage::Retiring,
        },
        fingerprint: hex(&fingerprint(certificate)),
        not_before: rfc3339(from),
        not_after: rfc3339(until),
        sealing_key: sealing_key.to_string(),
        can_sign: shown.sealing_keys.contains(sealing_key),
    }
}

pub(super) async fn rotate(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let rotated = authority(context)?.rotate().await.map_err(|error| refused(&error));
    let (what, outcome) = match &rotated {
        Ok(number) => (format!("authority {number}"), Outcome::Done),
        Err(error) => ("authority".to_owned(), Outcome::Refused(error.to_string())),
    };
    let (who, from) = (ask.client.who(), ask.client.to_string());
    context.deps.audit.event(Event { event: "ca.rotate", who, from, what, outcome });
    Ok(ask.serialized(&CaRotation { number: rotated? }))
}
