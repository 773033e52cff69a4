//! Blocking queries: answer when the data changed, or when the client's time is up.
//!
//! A query waits for `index > seen` on the keys it read. Waiting is level-triggered: we look, then sleep, then look
//! again, so a lost wake-up costs one `wait`, never a wrong answer.
//!
//! Everybody who waits with the same question is in one group. A change wakes the group's one task, which looks and
//! encodes once; then it wakes the group. The thread that publishes changes thus wakes one task, however many wait.
//!
//! Knows nothing about: requests, headers.

use super::config::LiveLimits;
use super::error::ApiError;
use super::query::JITTER_FRACTION;
use super::question::{Answer, Look, Question};
use crate::metrics::HttpMetrics;
use crate::raft::{Consensus, Consistency, ReadError, ReadPermit};
use crate::watch::{LastChange, Watch};
use konsul_state::Index;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Everybody who waits.
pub(super) struct Blocking {
    consensus: Consensus,
    metrics: HttpMetrics,
    waiting: AtomicUsize,
    limits: LiveLimits,
    groups: Mutex<HashMap<Arc<Question>, Arc<Group>>>,
    /// Owns the groups' tasks.
    tasks: TaskTracker,
    /// Cancelled when the node stops: then everybody is answered with what there is.
    stop: CancellationToken,
}

/// Those who ask the same.
struct Group {
    question: Arc<Question>,
    /// Guarded by the lock of `groups`.
    members: AtomicUsize,
    last_change: LastChange,
    latest: Mutex<Option<Seen>>,
    renewed: Notify,
    task: OnceLock<AbortHandle>,
}

/// A look, and the index of the state it looked at.
#[derive(Debug, Clone)]
struct Seen {
    at: Index,
    look: Look,
}

/// One who waits; dropped, it is gone, and the last one takes the group along.
struct Member<'b> {
    blocking: &'b Blocking,
    group: Arc<Group>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blocking {
    pub(super) fn new(
        consensus: Consensus,
        metrics: HttpMetrics,
        limits: LiveLimits,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Blocking {
        Blocking { consensus, metrics, waiting: AtomicUsize::new(0), limits, groups: Mutex::default(), tasks, stop }
    }

    /// The answer as soon as its index is greater than `seen`; after `wait` and a little more, whatever it is.
    ///
    /// One permit is enough: every later state of this node was agreed on after it, so while the query was open.
    pub(super) async fn answer(
        &self,
        question: Question,
        permit: &ReadPermit,
        seen: u64,
        wait: Duration,
    ) -> Result<(Index, Answer), ApiError> {
        let over = tokio::time::sleep_until(Instant::now() + wait + jitter(wait));
        tokio::pin!(over);
        let member = self.join(question)?;
        let mut newest = member.first(permit, seen)?;
        let floor = newest.at;
        loop {
            let renewed = member.group.renewed.notified();
            tokio::pin!(renewed);
            // In the list before the look at the latest: a change after the look finds us there.
            renewed.as_mut().enable();
            if let Some(latest) = member.group.latest().filter(|latest| latest.at > newest.at) {
                newest = latest;
            }
            if newest.look.index.get() > seen {
                break;
            }
            tokio::select! {
                () = &mut renewed => self.metrics.watch_wakeups.inc(),
                () = &mut over => break,
                () = self.stop.cancelled() => break,
            };
            if member.group.latest().is_none_or(|latest| latest.at < floor) {
                // The group's task could not look: look ourselves, and tell our client why it fails.
                newest = self.look(&member.group.question, permit, seen)?;
            }
        }
        match newest.look.answer {
            Some(answer) => Ok((newest.look.index, answer)),
            None => self.current(&member.group.question, permit),
        }
    }

    /// What there is now, whatever was seen.
    fn current(&self, question: &Question, permit: &ReadPermit) -> Result<(Index, Answer), ApiError> {
        let look = self.look(question, permit, 0)?.look;
        let answer = look.answer.expect("an index is at least 1, so greater than 0, and then there is an answer");
        Ok((look.index, answer))
    }

    fn look(&self, question: &Question, permit: &ReadPermit, seen: u64) -> Result<Seen, ReadError> {
        let view = self.consensus.view(permit)?;
        let failed = |source| ReadError::State { source };
        let at = view.applied().map_err(failed)?;
        Ok(Seen { at, look: question.look(&view, seen).map_err(failed)? })
    }

    /// How many wait, all groups together.
    fn admit(&self) -> Result<(), ApiError> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let max = self.limits.now().watches_max;
        if waiting >= max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ApiError::Waiters { waiting, max });
        }
        Ok(())
    }

    fn join(&self, question: Question) -> Result<Member<'_>, ApiError> {
        self.admit()?;
        let group = self.group(question);
        self.metrics.blocking_queries.inc();
        Ok(Member { blocking: self, group })
    }

    fn group(&self, question: Question) -> Arc<Group> {
        let mut groups = locked(&self.groups);
        if let Some(group) = groups.get(&question) {
            group.members.fetch_add(1, Ordering::Relaxed);
            return group.clone();
        }
        let watch = self.consensus.watches().on(question.target());
        let question = Arc::new(question);
        let group = Arc::new(Group {
            question: question.clone(),
            members: AtomicUsize::new(1),
            last_change: watch.last_change(),
            latest: Mutex::new(None),
            renewed: Notify::new(),
            task: OnceLock::new(),
        });
        let task = self.tasks.spawn(group.clone().renew(watch, self.consensus.clone())).abort_handle();
        group.task.get_or_init(|| task);
        groups.insert(question, group.clone());
        group
    }
}

impl Group {
    /// The group's task: on each change, looks once and wakes the group. Ends with the last member.
    async fn renew(self: Arc<Group>, mut watch: Watch, consensus: Consensus) {
        loop {
            watch.changed().await;
            // Whoever waits has its permit; what this node has now is later than all of them.
            let looked = match consensus.permit(Consistency::Stale).await {
                Ok(permit) => consensus.view(&permit).and_then(|view| {
                    let failed = |source| ReadError::State { source };
                    let at = view.applied().map_err(failed)?;
                    Ok(Seen { at, look: self.question.look(&view, 0).map_err(failed)? })
                }),
                Err(error) => Err(error),
            };
            // Without a look, each member looks for itself and answers with the error it meets.
            *locked(&self.latest) = looked.ok();
            self.renewed.notify_waiters();
        }
    }

    /// Others need not look again to learn that there is nothing new. An encoded answer is not kept: most who wait are
    /// alone with their question, and would hold it in memory for nothing.
    fn offer(&self, looked: &Seen) {
        if looked.look.answer.is_some() {
            return;
        }
        let mut latest = locked(&self.latest);
        match latest.as_mut() {
            Some(latest) if latest.at >= looked.at => {}
            // The same index is the same answer, and here it may be encoded already.
            Some(latest) if latest.look.index == looked.look.index => latest.at = looked.at,
            Some(_) | None => *latest = Some(looked.clone()),
        }
    }

    fn latest(&self) -> Option<Seen> {
        locked(&self.latest).clone()
    }
}

impl Member<'_> {
    /// The first look, at a state that the permit allows. If another one's look is as good, it is taken.
    fn first(&self, permit: &ReadPermit, seen: u64) -> Result<Seen, ApiError> {
        let consensus = &self.blocking.consensus;
        let view = consensus.view(permit)?;
        let at = view.applied()?;
        // In this order: who sees `published` sees every change up to it.
        let published = consensus.watches().applied();
        let changed = self.group.last_change.at();
        let as_good = |latest: &Seen| latest.at >= at || (published >= at && changed <= latest.at);
        if let Some(latest) = self.group.latest().filter(as_good) {
            return Ok(Seen { at: latest.at.max(at), ..latest });
        }
        let looked = Seen { at, look: self.group.question.look(&view, seen)? };
        self.group.offer(&looked);
        Ok(looked)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut groups = locked(&self.blocking.groups);
        if self.group.members.fetch_sub(1, Ordering::Relaxed) == 1 {
            groups.remove(&self.group.question);
            if let Some(task) = self.group.task.get() {
                task.abort();
            }
        }
        drop(groups);
        self.blocking.waiting.fetch_sub(1, Ordering::Relaxed);
        self.blocking.metrics.blocking_queries.dec();
    }
}

/// Up to a sixteenth of the wait, as Consul adds it: clients size their timeouts by it.
fn jitter(wait: Duration) -> Duration {
    let most = wait / JITTER_FRACTION;
    if most.is_zero() { most } else { rand::random_range(Duration::ZERO..=most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jitter_is_at_most_a_sixteenth() {
        for wait in [Duration::ZERO, Duration::from_nanos(3), Duration::from_secs(300)] {
            for _ in 0..100 {
                assert!(jitter(wait) <= wait / 16);
            }
        }
    }
}
