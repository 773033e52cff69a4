//! Follows the raft core: who leads, how far it is, whether it still runs; and asks it for snapshots when they are due.

use super::lag::LogEnds;
use super::leadership::Vote;
use super::{Consensus, Role};
use crate::metrics::{Election, PeerProgress, RoleMetric};
use crate::peer::LeaderStanding;
use crate::raft_types::{LogId, TypeConfig};
use crate::telemetry::events;
use konsul_state::{VERSION_MAX, VERSION_OF_CUT_OFF};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ReadPolicy, ServerState};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How often the acknowledgements of the quorum are taken over, at most: a fraction of any sensible lease.
const FOLLOW: Duration = Duration::from_millis(4);
/// A member that does not answer for this long is not waited for before the first campaign.
const HEAR_ALL_MAX: Duration = Duration::from_millis(1_500);
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// A log file of more than this asks for snapshots more often, so that it can be purged.
const LOG_BYTES_MAX: u64 = 2 << 30;

/// What was seen last, to tell what changed.
#[derive(Default)]
struct Seen {
    leader: Option<u64>,
    term: u64,
    state: Option<ServerState>,
    changes: u64,
    /// Where the membership was set.
    membership: Option<Option<LogId>>,
}

impl Consensus {
    /// Starts the followers of the raft core.
    pub(super) fn track(&self, changed: watch::Sender<u64>) {
        let (follow, campaign, keep, touch) = (self.clone(), self.clone(), self.clone(), self.clone());
        let (beat, fence) = (self.clone(), self.clone());
        self.inner.tasks.spawn(async move { beat.beat().await });
        self.inner.tasks.spawn(async move { fence.stay_behind().await });
        self.inner.tasks.spawn(async move { follow.follow(changed).await });
        self.inner.tasks.spawn(async move { campaign.begin_to_campaign().await });
        self.inner.tasks.spawn(async move { keep.housekeep().await });
        self.inner.tasks.spawn(async move { touch.keep_in_touch().await });
    }

    /// Answers pokes as long as the core answers questions.
    async fn beat(self) {
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => break,
                () = self.inner.poked.notified() => {}
            }
            // A core that has ended is told of elsewhere.
            if self.inner.raft.with_raft_state(|_| ()).await.is_err() {
                break;
            }
            self.inner.pulse.done(1);
        }
        self.inner.pulse.retire();
    }

    async fn follow(self, changed: watch::Sender<u64>) {
        let mut metrics = self.inner.raft.metrics();
        let mut server = self.inner.raft.server_metrics();
        let mut seen = Seen::default();
        loop {
            // The guard is dropped at once: the core waits for it.
            let now = metrics.borrow_watched().clone();
            self.inner.leadership.update(&now);
            if !self.misses_its_majority() {
                self.inner.pool.set_standing(LeaderStanding::Acknowledged);
            }
            if let Err(fatal) = &now.running_state {
                if !self.inner.stop.is_cancelled() {
                    self.inner.failed.send_replace(Some(fatal.to_string()));
                }
                return;
            }
            self.note_changes(&now, &mut seen, &changed);
            if seen.membership != Some(*now.membership_config.log_id()) {
                // At once: a member that moved is to be found where it is now.
                seen.membership = Some(*now.membership_config.log_id());
                self.inner.pool.retain(now.membership_config.membership().nodes().map(|(id, info)| (*id, info)));
            }
            let more = tokio::select! {
                () = self.inner.stop.cancelled() => return,
                // Role, leader, term, membership: at once.
                more = server.changed() => more.is_ok(),
                // Progress: not more often than it is needed.
                more = async { let more = metrics.changed().await; tokio::time::sleep(FOLLOW).await; more } => more.is_ok(),
            };
            if !more {
                self.inner.failed.send_replace(Some("the raft core ended".to_owned()));
                return;
            }
        }
    }

    fn note_changes(&self, now: &RaftMetrics<TypeConfig>, seen: &mut Seen, changed: &watch::Sender<u64>) {
        let raft = &self.inner.metrics.raft;
        let leader_changed = now.current_leader != seen.leader && now.current_leader.is_some();
        if (now.current_leader, now.current_term, Some(now.state)) != (seen.leader, seen.term, seen.state) {
            let won = now.state == ServerState::Leader;
            let lost = seen.state == Some(ServerState::Leader) && !won;
            let message_id = match (won, lost) {
                (true, _) => Some(events::LEADER_WON),
                (false, true) => Some(events::LEADER_LOST),
                (false, false) => None,
            };
            tracing::info!(
                message_id,
                term = now.current_term,
                leader = now.current_leader,
                state = ?now.state,
                node = now.id,
                "leadership changed"
            );
            raft.set_role(role_metric(now.state));
            seen.changes += 1;
            changed.send_replace(seen.changes);
        }
        if leader_changed {
            raft.leader_changes.inc();
        }
        if let Some(outcome) = election(seen, now) {
            raft.election(outcome);
        }
        let became_leader = now.state == ServerState::Leader && !self.inner.leadership.is_confirmed(now.current_term);
        if became_leader && (seen.state != Some(ServerState::Leader) || seen.term != now.current_term) {
            let (this, term) = (self.clone(), now.current_term);
            self.inner.tasks.spawn(async move { this.confirm(term).await });
        }
        if seen.state == Some(ServerState::Leader) && now.state != ServerState::Leader {
            raft.clear_peers();
        }
        (seen.leader, seen.term, seen.state) = (now.current_leader, now.current_term, Some(now.state));
    }

    /// A new leader answers on the strength of its lease only when everything acknowledged before is applied here.
    async fn confirm(self, term: u64) {
        let still = || {
            let metrics = self.inner.raft.metrics();
            let now = metrics.borrow_watched();
            now.state == ServerState::Leader && now.current_term == term
        };
        while still() && !self.inner.stop.is_cancelled() {
            if self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await.is_ok() {
                self.inner.leadership.confirm(term);
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether this node is the only voter.
    pub(super) fn votes_alone(&self) -> bool {
        Vote::of(&self.inner.raft.metrics().borrow_watched()) == Vote::Only
    }

    /// A restarted voter has forgotten whom it promised not to campaign against: it waits one lease. And it may be left
    /// from before a recovery of the cluster: so it first speaks to every member that can be reached, and one of the new
    /// epoch would say so. A node that is the only voter promised nobody.
    async fn begin_to_campaign(self) {
        let alone = self.votes_alone();
        if !alone {
            let all_heard = tokio::time::timeout(HEAR_ALL_MAX, self.hear_all());
            let lease = tokio::time::sleep(self.inner.config.lease);
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                (_, ()) = async { tokio::join!(all_heard, lease) } => {}
            }
            if self.has_departed() {
                return;
            }
        }
        self.inner.may_campaign.store(true, Ordering::SeqCst);
        self.campaign_as_due();
        if alone && let Err(error) = self.inner.raft.trigger().elect(false).await {
            tracing::error!(%error, "cannot campaign");
        }
    }

    fn misses_its_majority(&self) -> bool {
        self.leads() && !self.inner.leadership.has_quorum()
    }

    async fn housekeep(self) {
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        let mut rounds = 0u64;
        let mut ends = LogEnds::default();
        let mut missed = false;
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            rounds += 1;
            // Twice: a new leader has not been acknowledged yet.
            let misses = self.misses_its_majority();
            if misses && missed && self.cluster_version().is_ok_and(|version| version >= VERSION_OF_CUT_OFF) {
                self.inner.pool.set_standing(LeaderStanding::CutOff);
            }
            missed = misses;
            if let Err(error) = self.inner.space.look() {
                tracing::error!(%error, "cannot tell how much space is left");
            }
            let now = self.inner.raft.metrics().borrow_watched().clone();
            self.gauges(&now);
            self.gauges_of_peers(&now, &mut ends);
            let members = now.membership_config.membership();
            self.inner.pool.retain(members.nodes().map(|(id, info)| (*id, info)));
            self.snapshot_if_due(&now).await;
            self.purge_if_due(&now).await;
            // Once a minute, off the hot path: a bad disk shall be known before it matters.
            if rounds.is_multiple_of(120) {
                let state = self.inner.state.clone();
                match tokio::task::spawn_blocking(move || state.sync()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "the state cannot be synced: check the disk"),
                    Err(error) => tracing::error!(%error, "syncing the state was interrupted"),
                }
            }
        }
    }

    async fn snapshot_if_due(&self, now: &RaftMetrics<TypeConfig>) {
        if self.is_fenced() {
            // A snapshot of a wrong state would take the place of one that may be right.
            return;
        }
        let applied = now.last_applied.map_or(0, |id| id.index);
        let covered = now.snapshot.map_or(0, |id| id.index);
        let keys = self.inner.state.view().and_then(|view| view.key_count()).unwrap_or(0);
        // Writing a large state costs more than replaying a longer log.
        let due = self.inner.config.snapshot_entries.max(keys / 4);
        let large =
            self.inner.storage.log.file_bytes_used() > LOG_BYTES_MAX && applied.saturating_sub(covered) > due / 16;
        if applied.saturating_sub(covered) < due && !large {
            return;
        }
        if applied > covered
            && let Err(error) = self.inner.raft.trigger().snapshot().await
        {
            tracing::warn!(%error, "snapshot not started");
        }
    }

    /// openraft purges when a snapshot is built, unless just then entries are on their way to a follower: one that is
    /// away would keep the log from ever being purged. So it is asked again.
    async fn purge_if_due(&self, now: &RaftMetrics<TypeConfig>) {
        let upto = now.snapshot.map_or(0, |id| id.index).saturating_sub(self.inner.config.keep_entries);
        if upto > now.purged.map_or(0, |id| id.index)
            && let Err(error) = self.inner.raft.trigger().purge_log(upto).await
        {
            tracing::warn!(%error, "the log was not purged");
        }
    }

    /// What a scrape tells of this node is of this moment; what it tells of peers, half a second old at most.
    pub fn renew_gauges(&self) {
        let now = self.inner.raft.metrics().borrow_watched().clone();
        self.gauges(&now);
        let now_ms = self.inner.clock.wall().as_millis();
        if let Ok(tokens) = self.inner.state.view().and_then(|view| view.tokens()) {
            let open = tokens.iter().filter(|token| !token.is_of_no_use(now_ms)).count();
            self.inner.metrics.cluster.join_tokens.set(wide(open));
        }
    }

    fn gauges(&self, now: &RaftMetrics<TypeConfig>) {
        let (raft, storage) = (&self.inner.metrics.raft, &self.inner.metrics.storage);
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let membership = now.membership_config.membership();
        raft.term.set(now.current_term);
        raft.voters.set(wide(membership.voter_ids().count()));
        raft.members.set(wide(membership.nodes().count()));
        raft.last_log_index.set(now.last_log_index.unwrap_or(0));
        raft.commit_index.set(index(now.local_committed));
        raft.applied_index.set(index(now.last_applied));
        raft.snapshot_index.set(index(now.snapshot));
        raft.state_digest_index.set(self.inner.state.newest_digest().map_or(0, |taken| taken.index.get()));
        raft.fsm_pending.set(index(now.local_committed).saturating_sub(index(now.last_applied)));
        raft.inflight_bytes.set(wide(self.inner.budget.in_flight()));
        raft.has_quorum.set(u64::from(self.contact().known_leader));
        raft.is_leader.set(u64::from(self.contact().is_leader));
        storage.log_size_bytes.set(self.inner.storage.log.file_bytes_used());
        if let Ok(free) = self.inner.storage.log.free_pages() {
            storage.log_free_pages.set(free);
        }
        if let Ok((free, readers)) = self.inner.state.free_pages_and_readers() {
            storage.state_free_pages.set(free);
            storage.readers.set(readers);
        }
        self.inner.metrics.cluster.version_of_program.set(u64::from(VERSION_MAX));
        if let Ok(version) = self.cluster_version() {
            self.inner.metrics.cluster.version.set(u64::from(version));
        }
        let (used, map) = self.inner.state.usage();
        storage.map_used_bytes.set(used);
        storage.map_bytes.set(map);
        if let Ok(keys) = self.inner.state.view().and_then(|view| view.key_count()) {
            storage.kv_keys.set(keys);
        }
    }

    fn gauges_of_peers(&self, now: &RaftMetrics<TypeConfig>, ends: &mut LogEnds) {
        let (moment, end) = (self.inner.clock.now(), now.last_log_index.unwrap_or(0));
        ends.look(moment, end);
        let purged = now.purged.map_or(0, |id| id.index);
        self.inner.metrics.raft.log_oldest_age_seconds.set(ends.since(moment, purged).as_secs_f64());
        let members = self.status().members.into_iter();
        let progress = members.map(|member| PeerProgress {
            peer: member.peer.id,
            lag: member.lag,
            lag_time: member.lag.map(|lag| ends.since(moment, end.saturating_sub(lag))),
            last_contact: member.last_contact,
        });
        self.inner.metrics.raft.show_peers(&progress.collect::<Vec<_>>());
    }
}

/// How a candidacy ended, if one did. A candidate that stands again in a later term has lost the one before.
fn election(before: &Seen, now: &RaftMetrics<TypeConfig>) -> Option<Election> {
    let stood = before.state == Some(ServerState::Candidate);
    if now.state == ServerState::Leader {
        let new = before.state != Some(ServerState::Leader) || before.term != now.current_term;
        return new.then_some(Election::Won);
    }
    let over = now.state != ServerState::Candidate || before.term != now.current_term;
    (stood && over).then_some(Election::Lost)
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("a count fits 64 bits")
}

fn role_metric(state: ServerState) -> RoleMetric {
    match Role::of(state) {
        Role::Leader => RoleMetric::Leader,
        Role::Follower => RoleMetric::Follower,
        Role::Candidate => RoleMetric::Candidate,
        Role::Learner => RoleMetric::Learner,
        Role::Joining => RoleMetric::Recovering,
    }
}
