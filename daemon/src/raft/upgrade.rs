//! Raising the cluster version: when every member runs a program that understands the next one, and somebody says so.

use super::comparison::NotExamined;
use super::propose::ProposeError;
use super::{Consensus, Peer};
use futures_util::future::join_all;
use konsul_state::{Command, Outcome, StateError, VERSION_MIN};

/// The program of a member, or why it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberProgram {
    pub peer: Peer,
    pub voter: bool,
    pub program: Result<Program, String>,
}

/// What runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its version; `None`: it is from before programs told.
    pub version: Option<String>,
    /// The cluster versions that it understands.
    pub understands: (u32, u32),
}

/// How far an upgrade is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeState {
    pub cluster_version: u32,
    pub members: Vec<MemberProgram>,
}

/// A version that was not raised.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("read the cluster version")]
    State {
        #[source]
        source: StateError,
    },
    #[error("the cluster stays at version {version}: {}", blocked.join("; "))]
    Blocked { version: u32, blocked: Vec<String> },
    #[error("write the cluster version: {0}")]
    Propose(ProposeError),
    #[error("the state machine answered {outcome:?} to an upgrade")]
    Unexpected { outcome: Outcome },
}

impl UpgradeState {
    /// The newest version that some member understands.
    pub fn newest(&self) -> u32 {
        let known = self.members.iter().filter_map(|member| member.program.as_ref().ok());
        known.map(|program| program.understands.1).max().unwrap_or(self.cluster_version).max(self.cluster_version)
    }

    /// Whom finalizing waits for, and why; nobody if there is nothing to finalize.
    pub fn blocked(&self) -> Vec<String> {
        let newest = self.newest();
        if newest == self.cluster_version {
            return Vec::new();
        }
        let why = |member: &MemberProgram| {
            let name = &member.peer.info.name;
            match &member.program {
                Ok(program) if program.understands.1 >= newest => None,
                Ok(program) => Some(format!(
                    "{name} runs {}, which understands cluster versions up to {}: install the newer program there",
                    program.version.as_deref().unwrap_or("a program of before cluster versions"),
                    program.understands.1
                )),
                Err(why) => Some(format!("{name} does not tell what it runs: {why}; start it, or remove it for good")),
            }
        };
        self.members.iter().filter_map(why).collect()
    }
}

impl Consensus {
    /// What every member runs, and what the cluster is at; works on every node.
    pub async fn upgrade_state(&self) -> Result<UpgradeState, StateError> {
        let members = self.status().members;
        let examined = members.into_iter().map(|member| async move {
            let program = match self.examine(&member.peer).await {
                Ok(found) => Ok(Program { version: Some(found.program), understands: found.versions }),
                Err(NotExamined::Unknown) => Ok(Program { version: None, understands: (VERSION_MIN, VERSION_MIN) }),
                Err(NotExamined::Silent(why)) => Err(why),
            };
            MemberProgram { peer: member.peer, voter: member.voter, program }
        });
        let members = join_all(examined).await;
        Ok(UpgradeState { cluster_version: self.cluster_version()?, members })
    }

    /// Raises the cluster version to the newest one, if every member understands it: from which to which.
    pub async fn finalize_upgrade(&self) -> Result<(u32, u32), UpgradeError> {
        let state = self.upgrade_state().await.map_err(|source| UpgradeError::State { source })?;
        let (from, to, blocked) = (state.cluster_version, state.newest(), state.blocked());
        if !blocked.is_empty() {
            return Err(UpgradeError::Blocked { version: from, blocked });
        }
        if from == to {
            return Ok((from, to));
        }
        match self.propose(&Command::Upgrade { to }).await.map_err(UpgradeError::Propose)?.outcome {
            Outcome::Written(_) => {
                tracing::info!(from, to, "the cluster version was raised");
                Ok((from, to))
            }
            outcome => Err(UpgradeError::Unexpected { outcome }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::NodeInfo;

    fn state(cluster_version: u32, programs: &[Result<(Option<&str>, u32), &str>]) -> UpgradeState {
        let member = |(id, program): (u64, &Result<(Option<&str>, u32), &str>)| MemberProgram {
            peer: Peer { id, info: NodeInfo { name: format!("n{id}"), ..NodeInfo::default() } },
            voter: true,
            program: program
                .map(|(version, newest)| Program { version: version.map(str::to_owned), understands: (1, newest) })
                .map_err(str::to_owned),
        };
        UpgradeState { cluster_version, members: (1..).zip(programs).map(member).collect() }
    }

    #[test]
    fn finalizing_waits_for_every_member_that_is_too_old_or_silent() {
        let new = || Ok((Some("0.2.0"), 2));
        let all_new = state(1, &[new(), new(), new()]);
        assert_eq!((all_new.newest(), all_new.blocked().len()), (2, 0));
        let old = state(1, &[new(), Ok((None, 1)), new()]);
        assert_eq!(old.newest(), 2);
        assert!(old.blocked()[0].starts_with("n2 runs a program of before"), "{:?}", old.blocked());
        let away = state(1, &[new(), new(), Err("it is down")]);
        assert!(away.blocked()[0].contains("n3 does not tell what it runs: it is down"), "{:?}", away.blocked());
    }

    #[test]
    fn where_nothing_is_to_be_finalized_nobody_is_in_the_way() {
        let away = state(2, &[Ok((Some("0.2.0"), 2)), Err("it is down")]);
        assert_eq!((away.newest(), away.blocked().len()), (2, 0));
        assert_eq!(state(3, &[Ok((Some("0.2.0"), 2))]).newest(), 3, "it never goes down");
    }
}
