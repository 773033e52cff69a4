//! The first member, and newcomers: each gets an id that no node ever had, and is a learner until it is promoted.

use super::super::Consensus;
use super::super::propose::{PAUSE, ProposeError, millis};
use super::learners::RecordError;
use super::seen::{CHANGE_TIMEOUT, ChangeError, why_not};
use crate::raft_types::{NodeInfo, TypeConfig};
use crate::storage::Identity;
use crate::telemetry::events;
use konsul_state::{Command, Outcome, Role as NodeRole, VERSION_MAX};
use openraft::error::{ClientWriteError, RaftError};

/// A node that was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("this node does not lead")]
    NotLeader,
    #[error("write the admission")]
    Propose {
        #[source]
        source: ProposeError,
    },
    #[error("note that the node stays a learner")]
    Record {
        #[source]
        source: RecordError,
    },
    #[error("add the node as a learner")]
    Learner {
        #[source]
        source: Box<RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    },
    #[error("membership change took longer than {waited_ms} ms")]
    TimedOut { waited_ms: u64 },
    #[error("the state machine answered {outcome:?} to an admission")]
    Unexpected { outcome: Outcome },
}

impl Consensus {
    /// As the first member of a new cluster: writes which one it is and that its own id is taken.
    pub async fn write_formation(&self) -> Result<(), ProposeError> {
        let Identity { cluster_id, node_id, name, .. } = &self.inner.identity;
        self.propose(&Command::Form { cluster_id: *cluster_id, version: VERSION_MAX }).await?;
        self.propose(&Command::Admit { wished: *node_id, name }).await.map(drop)
    }

    /// Whether the state says which cluster it belongs to.
    pub fn is_formed(&self) -> bool {
        self.inner.state.view().and_then(|view| view.cluster_id()).is_ok_and(|id| id.is_some())
    }

    /// As the leader: grants a node id to a new node and makes it a learner. It is promoted when it is caught up, unless
    /// it is meant to stay a learner.
    pub async fn admit(&self, wished: u64, info: NodeInfo, role: NodeRole) -> Result<u64, AdmitError> {
        if !self.leads() {
            return Err(AdmitError::NotLeader);
        }
        let admission = Command::Admit { wished, name: &info.name };
        let committed = self.propose(&admission).await.map_err(|source| AdmitError::Propose { source })?;
        let Outcome::Admitted { node_id } = committed.outcome else {
            return Err(AdmitError::Unexpected { outcome: committed.outcome });
        };
        tracing::info!(message_id = events::MEMBER_ADMITTED, node = node_id, name = %info.name, rpc = %info.rpc, "node admitted");
        if role == NodeRole::Learner {
            self.keep_learner(node_id, true).await.map_err(|source| AdmitError::Record { source })?;
        }
        let added = tokio::time::timeout(CHANGE_TIMEOUT, self.add_learner(node_id, info)).await;
        added.map_err(|_| AdmitError::TimedOut { waited_ms: millis(CHANGE_TIMEOUT) })?.map(|()| node_id)
    }

    /// When its turn comes: the node before it may just be getting its vote.
    async fn add_learner(&self, id: u64, info: NodeInfo) -> Result<(), AdmitError> {
        let Some(_turn) = self.change_turn().await else { return Err(AdmitError::NotLeader) };
        loop {
            // Not blocking: openraft calls a learner caught up that it never reached.
            let Err(error) = self.inner.raft.add_learner(id, info.clone(), false).await else { return Ok(()) };
            match why_not(error) {
                ChangeError::NotLeader => return Err(AdmitError::NotLeader),
                // What a leader before began, or what its time limit left behind.
                ChangeError::Overtaken => tokio::time::sleep(PAUSE).await,
                ChangeError::Refused { source } => return Err(AdmitError::Learner { source }),
                error @ (ChangeError::State { .. } | ChangeError::Retire { .. } | ChangeError::TimedOut { .. }) => {
                    unreachable!("openraft's refusals have no such cause: {error}")
                }
            }
        }
    }
}
