//! What autopilot would do now: one change, or none and why not. Pure: the same inputs give the same plan.
//!
//! The order of the rules is their rank. What was begun is finished first; a newcomer that is ready comes before the
//! removal of the dead, because it makes the cluster safer and the other only tidier; and of everything that is due only
//! the first is done, so that the next round sees what it did.
//!
//! Three promises, whatever the inputs:
//! - no change is begun that the voters left could not commit;
//! - the dead are never removed below [`seats_min`]: a cluster that shrank to what is alive cannot tell a failed node
//!   from a partition any more;
//! - a voter is never demoted. One that restarted is a voter that was silent for a moment.

use crate::raft::Policy;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// What one round looks at. Moments are milliseconds of the process clock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Deserialize), serde(deny_unknown_fields))]
pub(super) struct Inputs {
    /// Voters the configuration names; 0: it names none.
    pub(super) seats: usize,
    /// A change was begun and not finished: two sets of voters have to agree.
    pub(super) joint: bool,
    /// The newest membership is committed.
    pub(super) settled: bool,
    pub(super) servers: Vec<Server>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Deserialize), serde(deny_unknown_fields))]
pub(super) struct Server {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) voter: bool,
    #[cfg_attr(test, serde(default))]
    pub(super) leader: bool,
    /// It is meant to stay a learner.
    #[cfg_attr(test, serde(default))]
    pub(super) stays_learner: bool,
    /// Its removal was written; what is left is to carry it out.
    #[cfg_attr(test, serde(default))]
    pub(super) retired: bool,
    /// Answers, and is caught up.
    pub(super) healthy: bool,
    /// Since when `healthy` is what it is.
    pub(super) stable_since: u64,
    /// When it last answered, or when this term began.
    pub(super) heard_at: u64,
}

/// The one thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Finish a change that another leader began.
    Flatten,
    /// Give leadership away, because this leader is about to be removed.
    HandOver { to: u64 },
    /// A learner becomes a voter, in the seat of others if there are any.
    Promote { id: u64, replaces: BTreeSet<u64> },
    /// A member is removed, and its id never speaks again.
    Remove { id: u64, why: Why },
}

/// Why a member is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It was retired before, and its removal was interrupted.
    Retired,
    /// A newer node has its name.
    Replaced,
    /// It was silent for too long.
    Dead,
}

/// What to do, and why nothing more is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    pub(super) step: Option<Step>,
    /// For people: what is waited for, what is refused.
    pub(super) notes: Vec<String>,
}

impl Why {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Why::Retired => "retired",
            Why::Replaced => "replaced",
            Why::Dead => "dead",
        }
    }
}

/// The next step. `now` is a moment of the same clock as those in `inputs`.
pub(super) fn plan(policy: &Policy, inputs: &Inputs, now: u64) -> Plan {
    let mut round = Round { policy, inputs, now, notes: Vec::new() };
    let step = if inputs.joint {
        Some(Step::Flatten)
    } else if inputs.settled {
        let step = round.finish_removals().or_else(|| round.promote());
        step.or_else(|| round.forget_replaced()).or_else(|| round.clean_up())
    } else {
        round.notes.push("the newest membership is not committed yet".to_owned());
        None
    };
    Plan { step, notes: round.notes }
}

/// Fewest voters that a clean-up may leave: what the policy says; else three, or a majority of what the cluster is meant
/// to have, because with fewer the next failure, or a partition, is the last.
pub(super) fn seats_min(policy: &Policy, inputs: &Inputs) -> usize {
    if policy.min_quorum > 0 {
        return usize::try_from(policy.min_quorum).unwrap_or(usize::MAX);
    }
    majority(inputs.seats.max(inputs.voters().count())).max(VOTERS_FEWEST)
}

/// With fewer voters none may fail.
const VOTERS_FEWEST: usize = 3;

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

impl Inputs {
    fn voters(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.voter)
    }

    fn learners(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| !server.voter)
    }

    /// Voters whose name a newcomer bears: its former selves.
    fn namesakes<'i>(&'i self, learner: &'i Server) -> impl Iterator<Item = &'i Server> {
        self.voters().filter(|voter| voter.name == learner.name && voter.id < learner.id)
    }

    /// Nobody with its name was admitted after it.
    fn is_newest(&self, server: &Server) -> bool {
        !self.servers.iter().any(|other| other.name == server.name && other.id > server.id)
    }
}

struct Round<'i> {
    policy: &'i Policy,
    inputs: &'i Inputs,
    now: u64,
    notes: Vec<String>,
}

impl<'i> Round<'i> {
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn age(&self, moment: u64) -> Duration {
        Duration::from_millis(self.now.saturating_sub(moment))
    }

    /// A removal that was written and not carried out: its leader fell in between.
    fn finish_removals(&mut self) -> Option<Step> {
        let retired: Vec<&Server> = self.inputs.servers.iter().filter(|server| server.retired).collect();
        for server in retired {
            if server.leader {
                let heir = self.inputs.voters().find(|voter| !voter.leader && !voter.retired && voter.healthy);
                match heir {
                    Some(heir) => return Some(Step::HandOver { to: heir.id }),
                    None => self.note(format!("{server} leads and is retired, but nobody can take over")),
                }
            } else if self.successor(server).is_some() {
                // Its seat is taken over in one change, below.
            } else if self.rest_can_commit(server) {
                return Some(Step::Remove { id: server.id, why: Why::Retired });
            }
        }
        None
    }

    /// A learner of the same name that is ready for the seat.
    fn successor(&self, voter: &Server) -> Option<&'i Server> {
        let ready = |server: &&Server| server.name == voter.name && server.id > voter.id && self.may_vote(server);
        self.inputs.learners().find(|server| ready(server) && server.healthy)
    }

    fn may_vote(&self, server: &Server) -> bool {
        !server.stays_learner && !server.retired && self.inputs.is_newest(server)
    }

    /// Whether those left without this voter can commit, now, what they are asked to.
    fn rest_can_commit(&mut self, gone: &Server) -> bool {
        if !gone.voter {
            return true;
        }
        let rest: Vec<&Server> = self.inputs.voters().filter(|voter| voter.id != gone.id).collect();
        let (healthy, needed) = (rest.iter().filter(|voter| voter.healthy).count(), majority(rest.len()));
        let can = !rest.is_empty() && healthy >= needed;
        if !can {
            let left = rest.len();
            self.note(format!("{gone} stays: without it {healthy} of {left} voters are healthy, {needed} have to be"));
        }
        can
    }

    fn promote(&mut self) -> Option<Step> {
        let mut ready: Vec<&Server> = Vec::new();
        let inputs = self.inputs;
        let candidates: Vec<&Server> = inputs.learners().filter(|learner| self.may_vote(learner)).collect();
        for learner in candidates {
            let needed = self.stabilization(learner);
            let stable = self.age(learner.stable_since);
            if let Some(alive) = inputs.namesakes(learner).find(|voter| voter.healthy) {
                self.note(format!(
                    "{learner} has the name of {alive}, which is alive: one of the two has to be renamed"
                ));
            } else if !learner.healthy {
                self.note(format!("{learner} is not caught up, or does not answer"));
            } else if stable < needed {
                self.note(format!("{learner} is stable for {} of {} ms", stable.as_millis(), needed.as_millis()));
            } else {
                ready.push(learner);
            }
        }
        let learner = ready.into_iter().min_by_key(|learner| (learner.stable_since, learner.id))?;
        let mut replaces: BTreeSet<u64> = self.inputs.namesakes(learner).map(|voter| voter.id).collect();
        if replaces.is_empty() && self.policy.cleanup_dead_servers {
            // Both at once: in between, the cluster would have a voter more that does not answer.
            replaces.extend(self.dead().into_iter().find(|dead| dead.voter).map(|dead| dead.id));
        }
        Some(Step::Promote { id: learner.id, replaces })
    }

    /// How long a newcomer must have been healthy. Not at all if it is awaited: while a seat of its own is empty, or the
    /// cluster is not complete, every moment without its vote is the more dangerous one.
    fn stabilization(&self, learner: &'i Server) -> Duration {
        let incomplete = self.inputs.voters().count() < self.inputs.seats.max(VOTERS_FEWEST);
        if incomplete || self.inputs.namesakes(learner).next().is_some() {
            return Duration::ZERO;
        }
        self.policy.server_stabilization
    }

    /// Learners that were replaced before they ever voted.
    fn forget_replaced(&self) -> Option<Step> {
        let stale = self.inputs.learners().find(|learner| !self.inputs.is_newest(learner))?;
        Some(Step::Remove { id: stale.id, why: Why::Replaced })
    }

    /// Silent for so long that they will hardly come back; voters first.
    fn dead(&self) -> Vec<&'i Server> {
        let silent = |server: &&Server| !server.leader && self.age(server.heard_at) >= self.policy.dead_server_after;
        let mut dead: Vec<&Server> = self.inputs.servers.iter().filter(silent).collect();
        dead.sort_by_key(|server| (!server.voter, server.heard_at, server.id));
        dead
    }

    /// A newer node of the same name is on its way to the same seat.
    fn is_coming_back(&self, dead: &Server) -> bool {
        let mut learners = self.inputs.learners();
        learners.any(|learner| learner.name == dead.name && learner.id > dead.id && self.may_vote(learner))
    }

    fn clean_up(&mut self) -> Option<Step> {
        let (voters, fewest) = (self.inputs.voters().count(), seats_min(self.policy, self.inputs));
        for dead in self.dead() {
            let silent_s = self.age(dead.heard_at).as_secs();
            if !self.policy.cleanup_dead_servers {
                self.note(format!("{dead} is silent for {silent_s} s; cleaning up dead servers is switched off"));
            } else if dead.voter && voters <= fewest {
                let left = voters - 1;
                self.note(format!(
                    "{dead} is silent for {silent_s} s and stays: {left} voters are fewer than {fewest}"
                ));
            } else if self.is_coming_back(dead) {
                self.note(format!("{dead} is silent for {silent_s} s; it comes back under another id"));
            } else if self.rest_can_commit(dead) {
                return Some(Step::Remove { id: dead.id, why: Why::Dead });
            }
        }
        None
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (node {})", self.name, self.id)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            None => f.write_str("nothing to do\n")?,
            Some(Step::Flatten) => f.write_str("finish the change that was begun\n")?,
            Some(Step::HandOver { to }) => writeln!(f, "hand leadership over to {to}")?,
            Some(Step::Promote { id, replaces }) if replaces.is_empty() => writeln!(f, "promote {id}")?,
            Some(Step::Promote { id, replaces }) => writeln!(f, "promote {id} in place of {replaces:?}")?,
            Some(Step::Remove { id, why }) => writeln!(f, "remove {id}: {}", why.as_str())?,
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "- {note}"))
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
