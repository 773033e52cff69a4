//! Comparing the states of all members at a check point of the log: equal logs have to have made equal states.
//!
//! What a majority of the voters holds is right, and who holds something else is fenced (see `fence`). Without a majority,
//! as where two of two voters differ, or two of three while the third is away, nobody knows who is right: nobody is
//! fenced, for to fence all would stop the cluster and to fence one would be a guess; it is told loudly instead, and again
//! with each comparison.

use super::examined::{Compared, Comparison, Examined, Soundness, Verdict};
use super::forward::{Answer, Request};
use super::propose::{ProposeError, Tried, millis};
use super::{Consensus, Peer};
use crate::storage::Taken;
use crate::telemetry::events;
use bytes::Bytes;
use futures_util::future::join_all;
use konsul_state::{Command, Digest, Index, VERSION_OF_CHECK_POINTS};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A member answers within this time, or is asked again.
const ASK: Duration = Duration::from_secs(2);
/// Between two questions to a member that is not there yet.
const AGAIN: Duration = Duration::from_millis(50);
/// A member that answers nothing is given up after this time.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// So long may a member take to apply the log up to the check point, and to read its state.
const COLLECT_MAX: Duration = Duration::from_secs(60);

/// States that were not compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    #[error("no cluster leader: nobody can compare; see `konsulctl cluster status`")]
    NoLeader,
    #[error(
        "the cluster is at version {version}, states can be compared from version {VERSION_OF_CHECK_POINTS} on; see \
         `konsulctl upgrade status`"
    )]
    Version { version: u32 },
    #[error("the check point was not written: {0}")]
    Propose(ProposeError),
    #[error("{0}")]
    Failed(String),
}

/// A member that does not tell how it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExamined {
    #[error("it runs a version that knows nothing of this")]
    Unknown,
    #[error("{0}")]
    Silent(String),
}

/// What a member has told so far.
#[derive(Debug, Clone)]
struct Heard {
    peer: Peer,
    voter: bool,
    /// `None`: nothing yet.
    found: Option<Result<Digest, String>>,
    standing: Soundness,
    /// Why it is not asked any further, if nothing comes.
    excuse: String,
    answered: bool,
}

/// What a majority of the voters holds, and how many of how many.
fn majority(heard: &[Heard]) -> Option<(Digest, u64, u64)> {
    let voters = heard.iter().filter(|member| member.voter).count();
    let mut holders: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    for member in heard.iter().filter(|member| member.voter) {
        if let Some(Ok(digest)) = member.found {
            *holders.entry(digest.0).or_default() += 1;
        }
    }
    let (digest, agree) = holders.into_iter().max_by_key(|(_, agree)| *agree)?;
    let wide = |n: usize| u64::try_from(n).expect("a count fits 64 bits");
    (agree > voters / 2).then(|| (Digest(digest), wide(agree), wide(voters)))
}

impl Consensus {
    /// Compares the states of all members now; works on every node.
    pub async fn compare(&self) -> Result<Comparison, CompareError> {
        self.may_compare()?;
        if self.leads() {
            return self.compare_here().await;
        }
        let leader = self.claimed_leader().ok_or(CompareError::NoLeader)?;
        let request = Bytes::from(Request::Compare.encode());
        let answer = self.inner.pool.call(leader.id, &leader.info, request, COLLECT_MAX + ASK * 4).await;
        let answer = answer.map_err(|error| CompareError::Failed(format!("ask {}: {error}", leader.info.name)))?;
        match Answer::decode(&answer) {
            Ok(Answer::Compared(comparison)) => Ok(comparison),
            Ok(Answer::NotLeader) => Err(CompareError::NoLeader),
            Ok(Answer::NotCompared(why)) => Err(CompareError::Failed(why)),
            Ok(other) => Err(CompareError::Failed(format!("{} answered {other:?}", leader.info.name))),
            Err(error) => {
                Err(CompareError::Failed(format!("the answer of {} cannot be read: {error}", leader.info.name)))
            }
        }
    }

    /// Whether everybody understands a check point.
    fn may_compare(&self) -> Result<(), CompareError> {
        let version = self.cluster_version().map_err(|error| CompareError::Failed(error.to_string()))?;
        if version < VERSION_OF_CHECK_POINTS { Err(CompareError::Version { version }) } else { Ok(()) }
    }

    /// A member asks the leader for it.
    pub(super) async fn compare_for_peer(&self) -> Answer {
        match self.compare_here().await {
            Ok(comparison) => Answer::Compared(comparison),
            Err(CompareError::NoLeader) => Answer::NotLeader,
            Err(error) => Answer::NotCompared(error.to_string()),
        }
    }

    /// Every comparison that this node makes as the leader.
    pub fn comparisons(&self) -> watch::Receiver<Option<Comparison>> {
        self.inner.compared.subscribe()
    }

    /// As the leader: looks how the members are. Whether one of them waits to be compared.
    pub async fn look_at_states(&self) -> bool {
        if self.cluster_version().is_ok_and(|version| version < VERSION_OF_CHECK_POINTS) {
            return false;
        }
        let members = self.status().members;
        let asked = members.iter().map(|member| async move { (member.peer.id, self.examine(&member.peer).await.ok()) });
        let examined = join_all(asked).await;
        let mut fenced = self.inner.fenced_members.lock().expect("nothing panics while it holds the lock");
        fenced.retain(|id| members.iter().any(|member| member.peer.id == *id));
        for (id, examined) in &examined {
            match examined {
                Some(examined) if examined.standing.is_fenced() => fenced.insert(*id),
                Some(_) => fenced.remove(id),
                // It does not answer: as it was.
                None => false,
            };
        }
        examined.iter().any(|(_, examined)| examined.as_ref().is_some_and(|it| it.standing == Soundness::Asks))
    }

    /// What a member tells of itself, or why it does not.
    pub async fn examine(&self, peer: &Peer) -> Result<Examined, NotExamined> {
        if peer.id == self.inner.identity.node_id {
            return Ok(self.examined());
        }
        match self.ask(peer, &Request::Examine).await.map_err(NotExamined::Silent)? {
            Answer::Examined(examined) => Ok(examined),
            Answer::Unreadable(_) => Err(NotExamined::Unknown),
            other => Err(NotExamined::Silent(format!("it answered {other:?}"))),
        }
    }

    async fn ask(&self, peer: &Peer, request: &Request<'_>) -> Result<Answer, String> {
        let answer = self.inner.pool.call(peer.id, &peer.info, Bytes::from(request.encode()), ASK).await;
        let answer = answer.map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            format!("it does not answer: {cause}")
        })?;
        Answer::decode(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
    }

    async fn compare_here(&self) -> Result<Comparison, CompareError> {
        let _turn = self.inner.comparing.lock().await;
        self.may_compare()?;
        let index = self.write_check_point().await?;
        let mut heard = self.collect(index).await;
        let agreed = majority(&heard);
        if let Some((digest, agree, voters)) = agreed {
            self.tell(&mut heard, &Verdict { at: Taken { index, digest }, agree, voters }).await;
        }
        let comparison = Comparison {
            index,
            at_ms: self.inner.clock.wall().as_millis(),
            agreed: agreed.map(|(digest, _, _)| digest),
            members: heard.into_iter().map(compared).collect(),
        };
        self.note(&comparison);
        self.inner.compared.send_replace(Some(comparison.clone()));
        Ok(comparison)
    }

    async fn write_check_point(&self) -> Result<Index, CompareError> {
        let mut encoded = Vec::new();
        Command::CheckPoint.encode(&mut encoded);
        // Not as clients propose: a leader that is alone and fenced has nobody else to compare it.
        match self.propose_here(&Bytes::from(encoded), &[]).await {
            Tried::Done(Ok(committed)) => {
                self.inner.metrics.raft.applied.check_point.inc();
                Ok(committed.index)
            }
            Tried::Done(Err(error)) => Err(CompareError::Propose(error)),
            Tried::NotAppended | Tried::NotUnderstood => Err(CompareError::NoLeader),
        }
    }

    /// Asks every member until it has the digest, or there is a reason not to wait for it.
    async fn collect(&self, index: Index) -> Vec<Heard> {
        let started = Instant::now();
        let members = self.status().members.into_iter();
        let mut heard: Vec<Heard> = members
            .map(|member| Heard {
                peer: member.peer,
                voter: member.voter,
                found: None,
                standing: Soundness::Sound,
                excuse: String::new(),
                answered: false,
            })
            .collect();
        loop {
            let open = heard.iter_mut().filter(|member| member.found.is_none());
            join_all(open.map(|member| async move {
                match self.examine(&member.peer).await {
                    Ok(examined) => member.take(index, &examined),
                    Err(why) => member.excuse = why.to_string(),
                }
            }))
            .await;
            let waited = started.elapsed();
            for member in heard.iter_mut().filter(|member| member.found.is_none()) {
                let longest = if member.answered { COLLECT_MAX } else { SILENT_MAX };
                if waited >= longest {
                    member.found = Some(Err(std::mem::take(&mut member.excuse)));
                }
            }
            if heard.iter().all(|member| member.found.is_some()) || self.inner.stop.is_cancelled() {
                return heard;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Tells everybody who holds something what the majority holds. Who cannot be told now is told the next time.
    async fn tell(&self, heard: &mut [Heard], verdict: &Verdict) {
        let holders = heard.iter_mut().filter(|member| matches!(member.found, Some(Ok(_))));
        let told = holders.map(|member| async move {
            let fenced = if member.peer.id == self.inner.identity.node_id {
                Ok(self.judged(verdict).await)
            } else {
                match self.ask(&member.peer, &Request::Judge { verdict: *verdict }).await {
                    Ok(Answer::Judged(fenced)) => Ok(fenced),
                    Ok(other) => Err(format!("it answered {other:?}")),
                    Err(why) => Err(why),
                }
            };
            match fenced {
                Ok(true) => member.standing = Soundness::Fenced,
                Ok(false) => member.standing = Soundness::Sound,
                Err(why) => {
                    tracing::warn!(node = %member.peer.info.name, %why, "not told what the others hold; told next time");
                }
            }
        });
        join_all(told).await;
    }

    fn note(&self, comparison: &Comparison) {
        let index = comparison.index.get();
        {
            let mut fenced = self.inner.fenced_members.lock().expect("nothing panics while it holds the lock");
            for member in &comparison.members {
                match member.fenced {
                    true => fenced.insert(member.id),
                    false => fenced.remove(&member.id),
                };
            }
        }
        if comparison.agreed.is_some() {
            self.inner.metrics.raft.states_compared.inc();
        }
        if !comparison.differs() {
            tracing::info!(index, "the states of the members are the same");
            return;
        }
        self.inner.metrics.raft.state_digest_mismatch.inc();
        let message_id = events::STATES_DIFFER;
        let digests: Vec<String> = comparison
            .members
            .iter()
            .filter_map(|member| Some(format!("{} {}", member.name, member.digest.as_ref().ok()?)))
            .collect();
        let digests = digests.join(", ");
        let deviating: Vec<&str> = comparison.deviating().map(|member| member.name.as_str()).collect();
        match comparison.agreed {
            Some(_) => tracing::error!(
                message_id,
                index,
                deviating = deviating.join(", "),
                digests,
                "the states of the members differ; who deviates from the majority is fenced"
            ),
            None => tracing::error!(
                message_id,
                index,
                digests,
                "the states of the members differ, and no majority holds the same: nobody knows who is right, nobody is \
                 fenced; see the runbook corrupted-storage"
            ),
        }
    }
}

impl Heard {
    fn take(&mut self, index: Index, examined: &Examined) {
        self.answered = true;
        self.standing = examined.standing;
        match examined.taken {
            Some(taken) if taken.index == index => self.found = Some(Ok(taken.digest)),
            Some(taken) if taken.index > index => {
                self.found = Some(Err(format!("it is at a later check point already, {}", taken.index)));
            }
            Some(_) | None => {
                self.excuse = format!("it has not come to the check point within {} ms", millis(COLLECT_MAX));
            }
        }
    }
}

fn compared(heard: Heard) -> Compared {
    Compared {
        id: heard.peer.id,
        name: heard.peer.info.name,
        voter: heard.voter,
        digest: heard.found.unwrap_or_else(|| Err("this node is stopping".to_owned())),
        fenced: heard.standing.is_fenced(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::NodeInfo;

    fn heard(id: u64, voter: bool, digest: Option<u8>) -> Heard {
        let info = NodeInfo { name: format!("n{id}"), ..NodeInfo::default() };
        let found = digest.map_or_else(|| Err("away".to_owned()), |byte| Ok(Digest([byte; 32])));
        let (standing, excuse) = (Soundness::Sound, String::new());
        Heard { peer: Peer { id, info }, voter, found: Some(found), standing, excuse, answered: digest.is_some() }
    }

    fn members(voters: &[Option<u8>], learners: &[Option<u8>]) -> Vec<Heard> {
        let all = voters.iter().map(|digest| (true, digest)).chain(learners.iter().map(|digest| (false, digest)));
        (1..).zip(all).map(|(id, (voter, digest))| heard(id, voter, *digest)).collect()
    }

    #[test]
    fn a_majority_of_all_voters_is_right_and_nobody_else() {
        type Case<'c> = (&'c [Option<u8>], &'c [Option<u8>], Option<(u8, u64, u64)>);
        let table: [Case<'_>; 10] = [
            (&[Some(1)], &[], Some((1, 1, 1))),
            (&[Some(1), Some(1)], &[], Some((1, 2, 2))),
            (&[Some(1), Some(2)], &[], None),
            (&[Some(1), Some(1), Some(1)], &[], Some((1, 3, 3))),
            (&[Some(1), Some(2), Some(1)], &[], Some((1, 2, 3))),
            (&[Some(1), Some(2), None], &[], None),
            (&[Some(1), None, None], &[], None),
            (&[Some(1), Some(2), Some(3)], &[], None),
            (&[Some(1), Some(2)], &[Some(2), Some(2), Some(2)], None),
            (&[Some(1), Some(1), Some(2), Some(2), Some(1)], &[Some(3)], Some((1, 3, 5))),
        ];
        for (voters, learners, expected) in table {
            let found = majority(&members(voters, learners)).map(|(digest, agree, of)| (digest.0[0], agree, of));
            assert_eq!(found, expected, "{voters:?} {learners:?}");
        }
    }

    #[test]
    fn who_deviates_is_known_only_where_a_majority_is() {
        let comparison = |voters, learners| {
            let heard = members(voters, learners);
            Comparison {
                index: Index::new(9),
                at_ms: 0,
                agreed: majority(&heard).map(|(digest, _, _)| digest),
                members: heard.into_iter().map(compared).collect(),
            }
        };
        let names = |comparison: &Comparison| comparison.deviating().map(|it| it.name.clone()).collect::<Vec<_>>();
        let one = comparison(&[Some(1), Some(2), Some(1)], &[Some(2), None]);
        assert!(one.differs());
        assert_eq!(names(&one), ["n2", "n4"]);
        let none = comparison(&[Some(1), Some(2)], &[]);
        assert!(none.differs());
        assert!(names(&none).is_empty());
        assert!(!comparison(&[Some(1), Some(1), None], &[]).differs());
    }

    #[test]
    fn a_digest_of_another_check_point_is_none_of_this_one() {
        let examined = |index| Examined {
            program: String::new(),
            versions: (1, 2),
            taken: Some(Taken { index: Index::new(index), digest: Digest([1; 32]) }),
            standing: Soundness::Sound,
        };
        let mut member = Heard { found: None, ..heard(1, true, Some(1)) };
        member.take(Index::new(9), &examined(8));
        assert_eq!(member.found, None, "it is waited for");
        member.take(Index::new(9), &examined(9));
        assert_eq!(member.found, Some(Ok(Digest([1; 32]))));
        member.take(Index::new(9), &examined(10));
        assert!(member.found.unwrap().is_err());
    }
}
