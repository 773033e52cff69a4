//! Small commands that wait at the same time share one log entry.
//!
//! A log entry costs far more than the command in it: a turn of the raft core, a record, a place in every message to
//! every follower, a wake-up. So commands queue here, and a few lanes take what has queued up: whoever comes alone goes
//! alone, at once, and under load the groups form by themselves while the lanes wait for the disk. There is no timer.
//!
//! Members of a group share its log index, as the operations of a transaction do. Each has its own outcome.

use super::Consensus;
use super::forward::TRACES_MAX;
use super::propose::{Committed, ProposeError, Share, Tried, millis};
use crate::telemetry::trace::Parent;
use bytes::Bytes;
use konsul_state::{Command, Outcome};
use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Groups on their way at a time. One would leave the disk idle between two groups; many make small groups.
const LANES_MAX: usize = 2;
/// Commands in one group.
const GROUP_COMMANDS_MAX: usize = 512;
/// Bytes in one group; a single command beyond this goes alone.
const GROUP_BYTES_MAX: usize = 256 << 10;

/// Commands that wait for a lane.
#[derive(Debug, Default)]
pub(super) struct Grouper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lanes: usize,
    waiting: VecDeque<Member>,
}

/// One command and whoever waits for its outcome.
#[derive(Debug)]
pub(super) struct Member {
    command: Bytes,
    /// When it was proposed: how long it is held without a leader counts from here.
    since: Instant,
    _share: Share,
    part_of: Option<Parent>,
    tell: oneshot::Sender<Result<Committed, ProposeError>>,
}

impl Member {
    fn answer(self, result: Result<Committed, ProposeError>) {
        // Who hung up needs no answer.
        drop(self.tell.send(result));
    }
}

impl Grouper {
    /// Queues a command; `true`: the caller has to start a lane.
    fn join(&self, member: Member) -> bool {
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        state.waiting.push_back(member);
        let start = state.lanes < LANES_MAX;
        state.lanes += usize::from(start);
        start
    }

    /// The next group; none ends the lane.
    fn next(&self) -> Option<Vec<Member>> {
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        let (mut bytes, mut count) = (0, 0);
        for member in &state.waiting {
            bytes += member.command.len();
            if count == GROUP_COMMANDS_MAX || (count > 0 && bytes > GROUP_BYTES_MAX) {
                break;
            }
            count += 1;
        }
        if count == 0 {
            state.lanes -= 1;
            return None;
        }
        Some(state.waiting.drain(..count).collect())
    }

    /// What was surely not appended waits again, ahead of those who came later.
    fn put_back(&self, members: Vec<Member>) {
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        members.into_iter().rev().for_each(|member| state.waiting.push_front(member));
    }
}

impl Consensus {
    /// As [`Consensus::propose`], together with whoever else proposes now.
    pub(super) async fn propose_in_group(
        &self,
        command: Bytes,
        share: Share,
        part_of: Option<Parent>,
    ) -> Result<Committed, ProposeError> {
        let (tell, told) = oneshot::channel();
        let member = Member { command, since: Instant::now(), _share: share, part_of, tell };
        if self.inner.grouper.join(member) {
            let this = self.clone();
            self.inner.tasks.spawn_on(async move { this.run_lane().await }, &self.inner.runtime);
        }
        // A lane answers everybody; a runtime that stops does not.
        told.await.unwrap_or(Err(ProposeError::OutcomeUnknown { waited_ms: 0 }))
    }

    async fn run_lane(self) {
        let mut backoff = super::propose::PAUSE;
        while let Some(members) = self.inner.grouper.next() {
            let command = encode(&members);
            let part_of: Vec<Parent> = members.iter().filter_map(|member| member.part_of).take(TRACES_MAX).collect();
            match self.try_propose(&command, &part_of).await {
                Tried::Done(result) => {
                    self.inner
                        .metrics
                        .raft
                        .group_commands
                        .observe(f64::from(u32::try_from(members.len()).expect("a group is small")));
                    answer(members, result);
                }
                Tried::NotAppended | Tried::NotUnderstood => {
                    let hold = self.inner.config.hold;
                    let (late, rest): (Vec<_>, Vec<_>) = members.into_iter().partition(|m| m.since.elapsed() >= hold);
                    for member in late {
                        let waited_ms = millis(member.since.elapsed());
                        member.answer(Err(ProposeError::NoLeader { waited_ms }));
                    }
                    self.inner.grouper.put_back(rest);
                    self.pause(&mut backoff).await;
                }
            }
        }
    }
}

/// One command goes as it is.
fn encode(members: &[Member]) -> Bytes {
    if let [only] = members {
        return only.command.clone();
    }
    let bytes: usize = members.iter().map(|m| m.command.len() + 4).sum();
    let mut out = Vec::with_capacity(bytes + 16);
    Command::Group(members.iter().map(|m| &m.command[..]).collect()).encode(&mut out);
    Bytes::from(out)
}

/// To each its own outcome.
fn answer(members: Vec<Member>, result: Result<Committed, ProposeError>) {
    match result {
        Ok(Committed { index, outcome: Outcome::Group(outcomes) }) if outcomes.len() == members.len() => {
            for (member, outcome) in members.into_iter().zip(outcomes) {
                member.answer(Ok(Committed { index, outcome }));
            }
        }
        result => {
            // A single command, or the same error for all of them.
            for member in members {
                member.answer(result.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::propose::Budget;
    use konsul_state::Index;

    fn member(bytes: usize) -> (Member, oneshot::Receiver<Result<Committed, ProposeError>>) {
        let (tell, told) = oneshot::channel();
        let share = Budget::new(usize::MAX / 2).take(bytes).unwrap();
        (
            Member { command: Bytes::from(vec![1; bytes]), since: Instant::now(), _share: share, part_of: None, tell },
            told,
        )
    }

    fn sizes(group: Option<Vec<Member>>) -> Vec<usize> {
        group.unwrap_or_default().iter().map(|member| member.command.len()).collect()
    }

    #[test]
    fn lanes_are_few_and_take_what_waits_in_order() {
        let grouper = Grouper::default();
        let started: Vec<bool> = (1..=4).map(|n| grouper.join(member(n).0)).collect();
        assert_eq!(started.iter().filter(|started| **started).count(), LANES_MAX);
        let first = grouper.next().unwrap();
        assert!(grouper.next().is_none(), "nothing waits: this lane ends");
        grouper.join(member(5).0);
        grouper.put_back(first);
        assert_eq!(sizes(grouper.next()), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_group_is_bounded_in_commands_and_bytes() {
        let grouper = Grouper::default();
        for _ in 0..=GROUP_COMMANDS_MAX {
            grouper.join(member(1).0);
        }
        assert_eq!(sizes(grouper.next()).len(), GROUP_COMMANDS_MAX);
        assert_eq!(sizes(grouper.next()), [1]);
        for _ in 0..3 {
            grouper.join(member(GROUP_BYTES_MAX / 2).0);
        }
        assert_eq!(sizes(grouper.next()).len(), 2);
        assert_eq!(sizes(grouper.next()).len(), 1);
    }

    #[test]
    fn each_member_hears_its_own_outcome_or_the_common_error() {
        let (members, mut told): (Vec<_>, Vec<_>) = (0..2).map(|_| member(1)).unzip();
        let outcomes = vec![Outcome::Written(true), Outcome::Written(false)];
        answer(members, Ok(Committed { index: Index::new(7), outcome: Outcome::Group(outcomes) }));
        let heard: Vec<_> = told.iter_mut().map(|told| told.try_recv().unwrap().unwrap().outcome).collect();
        assert_eq!(heard, [Outcome::Written(true), Outcome::Written(false)]);

        let (members, mut told): (Vec<_>, Vec<_>) = (0..2).map(|_| member(1)).unzip();
        answer(members, Err(ProposeError::OutcomeUnknown { waited_ms: 3 }));
        for told in &mut told {
            assert_eq!(told.try_recv().unwrap(), Err(ProposeError::OutcomeUnknown { waited_ms: 3 }));
        }
    }
}
