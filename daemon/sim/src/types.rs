//! openraft's types on simulated time.

use konsul_state::Outcome;
use konsuld::raft_types::{NodeInfo, Proposal};
use openraft_rt::{AsyncRuntime, Instant};
use openraft_rt_sim::{SimInstant, SimRuntime};
use std::time::Duration;

openraft::declare_raft_types!(
    /// What konsuld chooses, on another runtime.
    pub SimTypes: D = Proposal, R = Outcome, Node = NodeInfo, AsyncRuntime = SimRuntime
);

pub(crate) type LogId = openraft::alias::LogIdOf<SimTypes>;
pub(crate) type Vote = openraft::alias::VoteOf<SimTypes>;
pub(crate) type Entry = openraft::alias::EntryOf<SimTypes>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<SimTypes>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<SimTypes>;

/// The records of a whole state: table, key, value.
pub(crate) type Records = Vec<(u8, Vec<u8>, Vec<u8>)>;

pub(crate) fn now() -> SimInstant {
    SimInstant::now()
}

pub(crate) async fn sleep(time: Duration) {
    SimRuntime::sleep(time).await;
}

/// A task that ends by itself, or with the runtime.
pub(crate) fn spawn<F>(future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(SimRuntime::spawn(future));
}
