//! `/v1/cluster/*`: what Consul's API does not tell of the cluster. Errors are JSON with honest codes.

use super::body::Body;
use super::config::Listening;
use super::context::{Ask, Context};
use super::error::ApiError;
use super::upload::{self, Limit, Upload};
use crate::cluster::identity::Papers;
use crate::cluster::lobby::Doing;
use crate::raft;
use hyper::Response;
use konsul_api::ca::OwnCertificate;
use konsul_api::cluster::{
    ClusterStatus, DigestAnswer, Leader, Listener, Member, NodeStatus, Role, SnapshotAnswer, TransferAnswer,
    TransferRequest,
};
use konsul_api::time::rfc3339;
use konsul_state::Index;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

/// An entry or two behind is what a healthy follower always is.
const LAG_HEALTHY_MAX: u64 = 1000;
/// A voter that was silent for longer is not healthy.
const CONTACT_HEALTHY_MAX: Duration = Duration::from_secs(1);

pub(super) fn status(context: &Context, ask: &Ask<'_>) -> Response<Body> {
    let deps = &context.deps;
    let mut described = describe(deps.consensus.status(), &deps.papers);
    described.node.listening = listeners(&deps.listening);
    ask.serialized(&described)
}

pub(super) fn leader(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let leader = context.deps.consensus.leader();
    let leader = leader.ok_or(ApiError::Transfer(raft::TransferError::NoLeader))?;
    Ok(ask.serialized(&leader_of(leader)))
}

pub(super) fn peers(context: &Context, ask: &Ask<'_>) -> Response<Body> {
    ask.serialized(&describe(context.deps.consensus.status(), &context.deps.papers).members)
}

/// A hash of the state; with `?index=N` of a state that holds at least the entries up to N.
pub(super) async fn digest(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let options = ask.query.read_options(ask.headers)?;
    let consensus = &context.deps.consensus;
    if let Some(index) = options.seen {
        let come = consensus.watches().applied_at_least(Index::new(index));
        let come = tokio::select! {
            come = tokio::time::timeout(options.wait, come) => come.is_ok(),
            () = context.stop.cancelled() => false,
        };
        if !come {
            let applied = consensus.watches().applied();
            let text = format!("this node is at index {applied}, not yet at {index}; try again or ask another node");
            return Err(ApiError::NotInTime { text });
        }
    }
    // Of a node that is fenced as well: what it holds shall be known, not believed.
    let view = consensus.state().view()?;
    // Reads everything: not on a thread that serves others.
    let digested = context.tasks.spawn_blocking(move || {
        let index = view.applied()?;
        Ok::<_, konsul_state::StateError>((index, view.digest()?))
    });
    let (index, digest) = digested.await.map_err(|error| ApiError::Unexpected { what: error.to_string() })??;
    Ok(ask.serialized(&DigestAnswer { index: index.get(), digest: digest.to_string() }))
}

/// This node builds a snapshot of its state for itself, so that its log can be purged.
pub(super) async fn snapshot(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let info = context.deps.consensus.snapshot().await?;
    let sha256 = hex(&info.sha256);
    Ok(ask.serialized(&SnapshotAnswer { index: info.index, term: info.term, bytes: info.bytes, sha256 }))
}

/// A request that names a node is short.
const TRANSFER_LIMIT: Limit = Limit { bytes_max: 4096, advice: "The body names a node and nothing else." };

pub(super) async fn transfer(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    let text = upload::read(body, TRANSFER_LIMIT).await?;
    let request = if text.trim_ascii().is_empty() {
        TransferRequest::default()
    } else {
        serde_json::from_slice(&text)
            .map_err(|error| ApiError::bad_request(format!("transfer request: {error}; send {{\"to\": \"<node>\"}}")))?
    };
    let moved = context.deps.consensus.transfer_leadership(request.to.as_deref()).await;
    let (from, to, took) = moved.map_err(ApiError::Transfer)?;
    Ok(ask.serialized(&TransferAnswer { from: leader_of(from), to: leader_of(to), took_ms: millis(took) }))
}

/// What a member says to `init` and `join`.
pub(super) fn is_member(context: &Context) -> ApiError {
    let identity = context.deps.consensus.identity();
    let cluster = uuid::Uuid::from_bytes(identity.cluster_id);
    let text = format!(
        "this node is node {} of cluster {cluster} already; a node joins one cluster once. To start over, stop it, remove \
         it from the cluster with `konsulctl cluster remove` and empty its data directory",
        identity.node_id
    );
    ApiError::Conflict { text }
}

/// Of a node that is in no cluster yet.
pub(super) fn node_only(name: &str, doing: Doing, listening: &[Listening]) -> ClusterStatus {
    ClusterStatus {
        cluster_id: String::new(),
        has_quorum: false,
        failure_tolerance: 0,
        healthy: None,
        leader: None,
        members: Vec::new(),
        node: NodeStatus {
            id: 0,
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: Role::Joining,
            term: 0,
            last_log_index: 0,
            commit_index: 0,
            applied_index: 0,
            snapshot_index: 0,
            last_contact_ms: None,
            read_only: None,
            fenced: None,
            certificate: None,
            warnings: Vec::new(),
            waiting: Some(doing.what),
            contacts: doing.contacts,
            listening: listeners(listening),
        },
    }
}

fn listeners(listening: &[Listening]) -> Vec<Listener> {
    let one = |found: &Listening| Listener {
        name: found.name.to_owned(),
        address: found.address.clone(),
        held_by: if found.is_passed { "service manager" } else { "konsuld" }.to_owned(),
    };
    listening.iter().map(one).collect()
}

fn describe(status: raft::Status, papers: &Papers) -> ClusterStatus {
    let mut described = of_raft(status);
    described.node.warnings = papers.warnings();
    described.node.certificate = papers.certificate().map(|own| OwnCertificate {
        not_before: rfc3339(own.facts.validity.not_before_ms),
        not_after: rfc3339(own.facts.validity.not_after_ms),
        expires_in_s: own.left.as_secs(),
        authority: own.authority,
    });
    for member in &mut described.members {
        member.encryption = papers.encryption(member.id).map(|encryption| encryption.as_str().to_owned());
    }
    described
}

fn of_raft(status: raft::Status) -> ClusterStatus {
    let leads = status.contact.is_leader;
    // Only the leader knows who answers; elsewhere every voter counts as well.
    let able = |id: &u64| !leads || status.members.iter().any(|member| member.peer.id == *id && is_healthy(member));
    let spare = |set: &BTreeSet<u64>| set.iter().filter(|id| able(id)).count().saturating_sub(set.len() / 2 + 1);
    let tolerance = status.voter_sets.iter().map(spare).min().unwrap_or(0);
    let mut voters = status.voter_sets.iter().flatten().peekable();
    // While the members change, the failure of one can stop what three would survive: not healthy yet.
    let healthy = status.settled && voters.peek().is_some() && voters.all(able);
    ClusterStatus {
        cluster_id: status.cluster_id.map(|id| uuid::Uuid::from_bytes(id).to_string()).unwrap_or_default(),
        has_quorum: status.contact.known_leader,
        failure_tolerance: u32::try_from(tolerance).unwrap_or(u32::MAX),
        healthy: leads.then_some(healthy),
        leader: status.leader.map(leader_of),
        members: status.members.into_iter().map(member_of).collect(),
        node: NodeStatus {
            id: status.node.id,
            name: status.node.info.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role_of(status.role),
            term: status.term,
            last_log_index: status.last_log_index,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            snapshot_index: status.snapshot_index,
            last_contact_ms: if leads { Some(0) } else { status.contact.since_heard.map(millis) },
            read_only: status.read_only,
            fenced: status.fenced,
            certificate: None,
            warnings: Vec::new(),
            waiting: None,
            contacts: Vec::new(),
            listening: Vec::new(),
        },
    }
}

fn is_healthy(member: &raft::MemberStatus) -> bool {
    let caught_up = member.lag.is_some_and(|lag| lag <= LAG_HEALTHY_MAX);
    let answers = member.last_contact.is_some_and(|since| since <= CONTACT_HEALTHY_MAX);
    member.is_leader || (caught_up && answers)
}

fn role_of(role: raft::Role) -> Role {
    match role {
        raft::Role::Leader => Role::Leader,
        raft::Role::Follower => Role::Follower,
        raft::Role::Candidate => Role::Candidate,
        raft::Role::Learner => Role::Learner,
        raft::Role::Joining => Role::Joining,
    }
}

fn leader_of(peer: raft::Peer) -> Leader {
    Leader { id: peer.id, name: peer.info.name, rpc: peer.info.rpc, http: peer.info.http }
}

fn member_of(member: raft::MemberStatus) -> Member {
    let role = match (member.is_leader, member.voter) {
        (true, _) => Role::Leader,
        (false, true) => Role::Follower,
        (false, false) => Role::Learner,
    };
    Member {
        id: member.peer.id,
        name: member.peer.info.name,
        rpc: member.peer.info.rpc,
        http: member.peer.info.http,
        role,
        voter: member.voter,
        lag: member.lag,
        last_contact_ms: member.last_contact.map(millis),
        encryption: None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes everything");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::NodeInfo;

    fn member(id: u64, voter: bool, lag: Option<u64>, contact_ms: u64) -> raft::MemberStatus {
        raft::MemberStatus {
            peer: raft::Peer { id, info: NodeInfo { name: format!("n{id}"), ..NodeInfo::default() } },
            voter,
            is_leader: id == 1,
            lag,
            last_contact: Some(Duration::from_millis(contact_ms)),
        }
    }

    fn seen_by_leader(members: Vec<raft::MemberStatus>) -> raft::Status {
        raft::Status {
            cluster_id: Some([0xab; 16]),
            node: members[0].peer.clone(),
            role: raft::Role::Leader,
            term: 3,
            last_log_index: 9,
            commit_index: 9,
            applied_index: 9,
            snapshot_index: 0,
            contact: raft::Contact { known_leader: true, is_leader: true, since_heard: Some(Duration::ZERO) },
            leader: Some(members[0].peer.clone()),
            voter_sets: vec![members.iter().filter(|m| m.voter).map(|m| m.peer.id).collect()],
            settled: true,
            membership_index: 5,
            members,
            read_only: None,
            fenced: None,
        }
    }

    #[test]
    fn the_leader_tells_how_many_voters_may_fail() {
        let table = [
            (vec![(true, 0)], 0, true),
            (vec![(true, 0), (true, 5), (true, 5)], 1, true),
            (vec![(true, 0), (true, 5), (true, 5000)], 0, false),
            (vec![(true, 0), (true, 5), (true, 5), (false, 5000)], 1, true),
            (vec![(true, 0), (true, 5), (true, 5), (true, 5), (true, 5)], 2, true),
        ];
        for (members, tolerance, healthy) in table {
            let members: Vec<_> =
                (1..).zip(members).map(|(id, (voter, contact))| member(id, voter, Some(0), contact)).collect();
            let status = of_raft(seen_by_leader(members.clone()));
            assert_eq!((status.failure_tolerance, status.healthy), (tolerance, Some(healthy)), "{members:?}");
        }
    }

    #[test]
    fn while_the_members_change_each_set_of_voters_counts() {
        let members: Vec<_> = (1..=3).map(|id| member(id, true, Some(0), 0)).collect();
        let mut status = seen_by_leader(members);
        status.voter_sets = vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3])];
        status.settled = false;
        let changing = of_raft(status.clone());
        assert_eq!((changing.failure_tolerance, changing.healthy), (0, Some(false)));
        status.voter_sets.remove(0);
        let uncommitted = of_raft(status.clone());
        assert_eq!((uncommitted.failure_tolerance, uncommitted.healthy), (1, Some(false)));
        status.settled = true;
        assert_eq!(of_raft(status).healthy, Some(true));
    }

    #[test]
    fn a_follower_does_not_pretend_to_know() {
        let members = vec![member(1, true, None, 0), member(2, true, None, 0), member(3, true, None, 0)];
        let mut status = seen_by_leader(members);
        status.contact =
            raft::Contact { is_leader: false, since_heard: Some(Duration::from_millis(7)), ..status.contact };
        status.role = raft::Role::Follower;
        let status = of_raft(status);
        assert_eq!((status.healthy, status.failure_tolerance), (None, 1));
        assert_eq!(status.node.last_contact_ms, Some(7));
        assert_eq!(status.cluster_id, "abababab-abab-abab-abab-abababababab");
        assert_eq!(status.members.iter().map(|m| m.role).collect::<Vec<_>>()[..2], [Role::Leader, Role::Follower]);
    }
}
