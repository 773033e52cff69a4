//! `/v1/cluster/upgrade`: what every member runs, and raising the cluster version when an upgrade is complete.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::ApiError;
use crate::cluster::audit::{Event, Outcome, event};
use crate::raft::{MemberProgram, UpgradeError};
use hyper::Response;
use konsul_api::upgrade::{FinalizeAnswer, UpgradeMember, UpgradeStatus};
use konsul_state::version_brings;

pub(super) async fn status(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let state = context.deps.consensus.upgrade_state().await?;
    let (now, newest) = (state.cluster_version, state.newest());
    Ok(ask.serialized(&UpgradeStatus {
        cluster_version: now,
        newest,
        brings: (now + 1..=newest).filter_map(version_brings).map(str::to_owned).collect(),
        blocked: state.blocked(),
        members: state.members.into_iter().map(member).collect(),
    }))
}

fn member(MemberProgram { peer, voter, program }: MemberProgram) -> UpgradeMember {
    let (found, why) = match program {
        Ok(program) => (Some(program), None),
        Err(why) => (None, Some(why)),
    };
    let understands = found.as_ref().map(|program| program.understands);
    UpgradeMember {
        id: peer.id,
        name: peer.info.name,
        voter,
        version: found.and_then(|program| program.version),
        oldest: understands.map(|(oldest, _)| oldest),
        newest: understands.map(|(_, newest)| newest),
        why,
    }
}

pub(super) async fn finalize(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let finalized = context.deps.consensus.finalize_upgrade().await;
    let (who, from) = (ask.client.who(), ask.client.to_string());
    let row = |what: String, outcome| {
        context.deps.audit.event(Event {
            event: event::CLUSTER_UPGRADE,
            who: who.clone(),
            from: from.clone(),
            what,
            outcome,
        });
    };
    match &finalized {
        Ok((before, now)) if before == now => {}
        Ok((before, now)) => row(format!("cluster version {before} to {now}"), Outcome::Done),
        Err(error) => row("cluster version".to_owned(), Outcome::Refused(error.to_string())),
    }
    let (from, to) = finalized.map_err(|error| match error {
        UpgradeError::State { source } => ApiError::from(source),
        UpgradeError::Propose(error) => ApiError::from(error),
        UpgradeError::Blocked { .. } => ApiError::Conflict { text: error.to_string() },
        UpgradeError::Unexpected { outcome } => ApiError::unexpected(&outcome),
    })?;
    Ok(ask.serialized(&FinalizeAnswer { from, to }))
}
