//! What an operator asks of the membership, on any node: leave, remove, promote, demote.
//!
//! The leader does it, after the rules of `guard` and the policy agreed. Each request says what shall be, not what to
//! change: asked again, it finds it done. So it may be repeated when an answer was lost or the leader changed, and a
//! leader that is to lose its vote hands leadership over first and lets the next one do the rest.

use super::super::Consensus;
use super::super::forward::{Answer, Request};
use super::super::propose::{PAUSE, ProposeError, millis};
use super::guard::{self, Voter};
use super::learners::RecordError;
use super::seen::{Change, ChangeError, MemberSeen, Seen};
use super::transfer::TransferError;
use crate::peer::CallError;
use bytes::Bytes;
use konsul_state::StateError;
use std::time::Duration;
use tokio::time::Instant;

/// What shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipOp {
    /// A node that runs is no member any more, and stops by itself.
    Leave,
    /// A node, dead or alive, is no member any more.
    Remove,
    /// A node votes.
    Promote,
    /// A node is a member and does not vote.
    Demote,
}

/// A change that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipRequest {
    pub op: MembershipOp,
    /// Id or name.
    pub node: String,
    /// Also if the cluster survives less than before.
    pub force: bool,
}

/// It is as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipDone {
    pub id: u64,
    pub name: String,
    pub done: Done,
    /// Voters now.
    pub voters: u64,
    /// How many of them may fail.
    pub tolerance: u64,
}

/// How it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Now,
    /// It was so before.
    Already,
    /// It will be so, and what is waited for.
    Later(String),
}

/// It is not as asked for, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("no cluster leader for {waited_ms} ms; changing the membership needs one: see `konsulctl cluster status`")]
    NoLeader { waited_ms: u64 },
    #[error("no member {node:?}; members are {members}")]
    NoSuchMember { node: String, members: String },
    #[error("{why}")]
    Refused { why: String, force_helps: bool },
    #[error("no answer within {waited_ms} ms; outcome unknown: look at `konsulctl cluster peers`, then repeat it")]
    Unknown { waited_ms: u64 },
    #[error("{why}")]
    Failed { why: String },
}

/// A request is given up after so long; a change that needs longer is finished by autopilot.
const PATIENCE: Duration = Duration::from_secs(20);
/// For one answer of the leader: it hands over, writes, and changes the membership in that time.
const ANSWER: Duration = Duration::from_secs(15);
/// Tries of a change that others overtake.
const TRIES: usize = 8;
/// A node that is so far behind cannot vote for what is new.
const LAG_MAX: u64 = 1000;

/// Why a try ended without a result.
enum Stop {
    /// Another node leads now, or will: ask there.
    NotLeader,
    /// The membership changed in between: look again.
    Again,
    Failed(MembershipError),
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Stop {
        Stop::Failed(MembershipError::Failed { why: format!("read the state: {error}") })
    }
}

impl From<RecordError> for Stop {
    fn from(error: RecordError) -> Stop {
        match error {
            RecordError::Propose { source: ProposeError::NoLeader { .. } | ProposeError::Stopping, .. } => {
                Stop::NotLeader
            }
            error => Stop::Failed(MembershipError::Failed { why: chain(&error) }),
        }
    }
}

impl From<ChangeError> for Stop {
    fn from(error: ChangeError) -> Stop {
        match error {
            ChangeError::NotLeader => Stop::NotLeader,
            ChangeError::Overtaken => Stop::Again,
            ChangeError::Retire { source: ProposeError::NoLeader { .. } | ProposeError::Stopping, .. } => {
                Stop::NotLeader
            }
            ChangeError::TimedOut { waited_ms } => Stop::Failed(MembershipError::Unknown { waited_ms }),
            error @ (ChangeError::State { .. } | ChangeError::Retire { .. } | ChangeError::Refused { .. }) => {
                Stop::Failed(MembershipError::Failed { why: chain(&error) })
            }
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Consensus {
    /// Brings about what is asked for. If that is the removal of this very node, it stops by itself soon after.
    pub async fn change_membership(&self, mut request: MembershipRequest) -> Result<MembershipDone, MembershipError> {
        // From here on by id: a name may be gone, or another node's, when the request is repeated.
        if let Some(member) = self.status().members.into_iter().find(|member| member.peer.info.name == request.node) {
            let same_name = |other: &&super::super::MemberStatus| other.peer.info.name == request.node;
            if self.status().members.iter().filter(same_name).count() == 1 {
                request.node = member.peer.id.to_string();
            }
        }
        let (started, mut backoff, mut asked) = (Instant::now(), PAUSE, false);
        loop {
            let answer = if self.leads() {
                Some(self.serve_change(request.clone()).await)
            } else {
                self.ask_leader(&request, &mut asked).await
            };
            match answer {
                Some(Answer::Changed(done)) => {
                    self.note_departure(&request, &done);
                    return Ok(done);
                }
                Some(Answer::NotChanged(error)) => return Err(error),
                Some(Answer::Unreadable(why)) => {
                    let why =
                        format!("the leader does not understand the request, it may be of an older version: {why}");
                    return Err(MembershipError::Failed { why });
                }
                // Any other answer is none to this question.
                Some(_) | None => {}
            }
            let waited = started.elapsed();
            let patience = if self.leader().is_some() { PATIENCE } else { self.inner.config.hold };
            if waited >= patience {
                let waited_ms = millis(waited);
                return Err(if asked {
                    MembershipError::Unknown { waited_ms }
                } else {
                    MembershipError::NoLeader { waited_ms }
                });
            }
            self.pause(&mut backoff).await;
        }
    }

    /// `None`: nobody was asked, or the answer was lost (then `asked`).
    async fn ask_leader(&self, request: &MembershipRequest, asked: &mut bool) -> Option<Answer> {
        let leader = self.claimed_leader()?;
        let bytes = Bytes::from(Request::Change { request: request.clone() }.encode());
        match self.inner.pool.call(leader.id, &leader.info, bytes, ANSWER).await {
            Ok(answer) => Answer::decode(&answer).map_err(|error| tracing::warn!(%error, "no answer to a change")).ok(),
            Err(CallError::NotSent { .. }) => None,
            Err(CallError::Lost { .. }) => {
                *asked = true;
                None
            }
        }
    }

    /// This node was asked to go: it need not hear it from others.
    fn note_departure(&self, request: &MembershipRequest, done: &MembershipDone) {
        let goes = match request.op {
            MembershipOp::Leave | MembershipOp::Remove => true,
            MembershipOp::Promote | MembershipOp::Demote => false,
        };
        if goes && done.id == self.inner.identity.node_id {
            self.departs(format!("node {} ({}) has left the cluster, as it was asked to", done.id, done.name));
        }
    }

    /// As the leader, in a task of its own: whoever asked may go away without leaving it half done.
    pub(in crate::raft) async fn serve_change(&self, request: MembershipRequest) -> Answer {
        let this = self.clone();
        let change = async move { this.change_here(&request).await };
        let done = self.inner.tasks.spawn_on(change, &self.inner.runtime).await;
        // It ends early only if the runtime does.
        done.unwrap_or(Answer::NotLeader)
    }

    async fn change_here(&self, request: &MembershipRequest) -> Answer {
        let Some(_turn) = self.change_turn().await else { return Answer::NotLeader };
        for _ in 0..TRIES {
            match self.try_change(request).await {
                Ok(done) => {
                    tracing::info!(op = ?request.op, node = done.id, name = %done.name, done = ?done.done, "membership request");
                    return Answer::Changed(done);
                }
                Err(Stop::Again) => tokio::time::sleep(PAUSE).await,
                Err(Stop::NotLeader) => return Answer::NotLeader,
                Err(Stop::Failed(error)) => {
                    tracing::warn!(op = ?request.op, node = %request.node, %error, "membership request was not fulfilled");
                    return Answer::NotChanged(error);
                }
            }
        }
        let why = "the membership was changed by others again and again; try once more".to_owned();
        Answer::NotChanged(MembershipError::Failed { why })
    }

    async fn try_change(&self, request: &MembershipRequest) -> Result<MembershipDone, Stop> {
        let seen = self.seen_afresh().await?.ok_or(Stop::NotLeader)?;
        if seen.joint {
            self.carry_out(&seen, &Change::Flatten).await?;
            return Err(Stop::Again);
        }
        if !seen.settled {
            return Err(Stop::Again);
        }
        let Some(member) = find(&seen, &request.node).map_err(Stop::Failed)? else {
            return self.gone_already(&seen, &request.node);
        };
        let member = member.clone();
        let done = match request.op {
            MembershipOp::Leave | MembershipOp::Remove => self.remove(&seen, &member, request).await?,
            MembershipOp::Promote => self.promote(&seen, &member).await?,
            MembershipOp::Demote => self.demote(&seen, &member, request).await?,
        };
        let after = self.seen()?.unwrap_or(seen);
        let voters = voters(&after);
        Ok(MembershipDone {
            id: member.peer.id,
            name: member.peer.info.name,
            done,
            voters: wide(voters.len()),
            tolerance: wide(guard::tolerance(&voters)),
        })
    }

    /// A request that is repeated finds its node gone.
    fn gone_already(&self, seen: &Seen, node: &str) -> Result<MembershipDone, Stop> {
        let view = self.inner.state.view()?;
        if let Ok(id) = node.parse()
            && let Some(known) = view.node(id)?.filter(|known| known.retired)
        {
            let (name, voters) = (known.name.to_owned(), voters(seen));
            let tolerance = wide(guard::tolerance(&voters));
            return Ok(MembershipDone { id, name, done: Done::Already, voters: wide(voters.len()), tolerance });
        }
        let names = seen.members.iter().map(|m| format!("{} ({})", m.peer.info.name, m.peer.id));
        let members = names.collect::<Vec<String>>().join(", ");
        Err(Stop::Failed(MembershipError::NoSuchMember { node: node.to_owned(), members }))
    }

    async fn remove(&self, seen: &Seen, member: &MemberSeen, request: &MembershipRequest) -> Result<Done, Stop> {
        if request.op == MembershipOp::Leave && !member.answers {
            let name = &member.peer.info.name;
            let why =
                format!("{name} does not answer, so it cannot leave; `konsulctl cluster remove {name}` removes it");
            return Err(Stop::Failed(MembershipError::Refused { why, force_helps: false }));
        }
        if member.voter {
            self.check_without(seen, member, request.force)?;
            self.lead_no_more(seen, member).await?;
        }
        self.carry_out(seen, &Change::Remove { id: member.peer.id }).await?;
        Ok(Done::Now)
    }

    async fn demote(&self, seen: &Seen, member: &MemberSeen, request: &MembershipRequest) -> Result<Done, Stop> {
        if member.voter {
            self.check_without(seen, member, request.force)?;
            self.lead_no_more(seen, member).await?;
        }
        self.keep_learner(member.peer.id, true).await?;
        if !member.voter {
            return Ok(if member.stays_learner { Done::Already } else { Done::Now });
        }
        self.carry_out(seen, &Change::Demote { id: member.peer.id }).await?;
        Ok(Done::Now)
    }

    async fn promote(&self, seen: &Seen, member: &MemberSeen) -> Result<Done, Stop> {
        let name = &member.peer.info.name;
        if member.retired {
            let why = format!("{name} is being removed; a node that was removed joins anew, under another id");
            return Err(Stop::Failed(MembershipError::Refused { why, force_helps: false }));
        }
        self.keep_learner(member.peer.id, false).await?;
        if member.voter {
            return Ok(Done::Already);
        }
        let lag = member.matched.map_or(seen.last_index, |at| seen.last_index.saturating_sub(at.index));
        if !member.answers {
            return Ok(Done::Later(format!(
                "{name} does not answer; autopilot promotes it when it does and is stable"
            )));
        }
        if lag > LAG_MAX {
            let why = format!("{name} is {lag} entries behind; autopilot promotes it when it is caught up and stable");
            return Ok(Done::Later(why));
        }
        let same_name = |other: &&MemberSeen| other.voter && other.peer.info.name == *name;
        let former: Vec<&MemberSeen> = seen.members.iter().filter(same_name).collect();
        if let Some(alive) = former.iter().find(|other| other.answers) {
            let why =
                format!("node {} has the same name, {name}, and is alive; remove or rename one of them", alive.peer.id);
            return Err(Stop::Failed(MembershipError::Refused { why, force_helps: false }));
        }
        let replaces = former.iter().map(|other| other.peer.id).collect();
        self.carry_out(seen, &Change::Promote { id: member.peer.id, replaces }).await?;
        Ok(Done::Now)
    }

    fn check_without(&self, seen: &Seen, member: &MemberSeen, force: bool) -> Result<(), Stop> {
        let fewest = self.policy()?.policy.min_quorum;
        guard::without(&voters(seen), member.peer.id, fewest, force).map_err(|refusal| {
            let guard::Refusal { why, force_helps } = refusal;
            Stop::Failed(MembershipError::Refused { why, force_helps })
        })
    }

    /// If this leader is the one that shall not vote any more: hands leadership over, and lets the next one go on.
    async fn lead_no_more(&self, seen: &Seen, member: &MemberSeen) -> Result<(), Stop> {
        if !member.leader {
            return Ok(());
        }
        let heirs = seen.members.iter().filter(|heir| heir.voter && !heir.leader && !heir.retired && heir.answers);
        let heir = heirs.max_by_key(|heir| heir.matched.map_or(0, |at| at.index));
        let Some(heir) = heir else {
            let why = format!("{} leads, and no other voter that answers can take over", member.peer.info.name);
            return Err(Stop::Failed(MembershipError::Refused { why, force_helps: false }));
        };
        match self.transfer_leadership(Some(&heir.peer.id.to_string())).await {
            Ok(_) | Err(TransferError::NoLeader | TransferError::AlreadyLeads { .. }) => Err(Stop::NotLeader),
            Err(
                error @ (TransferError::NoSuchMember { .. }
                | TransferError::Learner { .. }
                | TransferError::Alone
                | TransferError::TimedOut { .. }),
            ) => Err(Stop::Failed(MembershipError::Failed { why: format!("hand leadership over first: {error}") })),
        }
    }
}

/// By id, or by name if only one has it.
fn find<'s>(seen: &'s Seen, node: &str) -> Result<Option<&'s MemberSeen>, MembershipError> {
    if let Some(member) = node.parse().ok().and_then(|id| seen.member(id)) {
        return Ok(Some(member));
    }
    let named: Vec<&MemberSeen> = seen.members.iter().filter(|member| member.peer.info.name == node).collect();
    if named.len() > 1 {
        let ids: Vec<String> = named.iter().map(|member| member.peer.id.to_string()).collect();
        let why = format!("{node:?} is the name of several members; give the id: {}", ids.join(" or "));
        return Err(MembershipError::Refused { why, force_helps: false });
    }
    Ok(named.first().copied())
}

fn voters(seen: &Seen) -> Vec<Voter> {
    let votes = seen.members.iter().filter(|member| member.voter);
    votes
        .map(|member| Voter { id: member.peer.id, name: member.peer.info.name.clone(), alive: member.answers })
        .collect()
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("a count fits 64 bits")
}
