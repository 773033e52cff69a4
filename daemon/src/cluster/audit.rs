//! The audit: who did what to the cluster, from where, and what came of it; as log events and as replicated rows.
//!
//! Whoever reports an event does not wait: it is logged and queued, and one task writes what is queued into the log, in
//! one command. A row that may or may not be in the log is written again: rather twice than not at all.
//!
//! Refused attempts to join come from anybody who reaches the port: of those, a few a second become rows and log
//! events, the rest one row that says how many. The metrics count every one.  Knows nothing about: who may do what.

use super::token::TokenId;
use crate::clock::{Clock, Timestamp};
use crate::metrics::{ClusterMetrics, JoinMetric};
use crate::raft::{Consensus, ProposeError};
use konsul_state::{AUDIT_EVENTS_MAX, AUDIT_TEXT_BYTES_MAX, AuditEvent, Command, TokenRefusal};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Refused attempts that become rows of their own: so many at once, then one each [`REFUSED_EVERY`].
const REFUSED_BURST: u64 = 8;
const REFUSED_EVERY: Duration = Duration::from_millis(500);
/// Rows that wait to be written: without a leader they cannot be.
const QUEUE_MAX: usize = 1024;
/// Between two tries to write, and between two sums of what was left out.
const PAUSE: Duration = Duration::from_secs(1);
/// What is left when the node stops is tried once.
const LAST_TRY: Duration = Duration::from_secs(1);

/// Kinds of events. Log searches and alerts quote them: they never change.
pub mod event {
    pub const JOIN: &str = "join";
    pub const TOKEN_CREATE: &str = "token.create";
    pub const TOKEN_REVOKE: &str = "token.revoke";
    pub const TOKEN_USE: &str = "token.use";
    pub const MEMBER_LEAVE: &str = "member.leave";
    pub const MEMBER_REMOVE: &str = "member.remove";
    pub const MEMBER_PROMOTE: &str = "member.promote";
    pub const MEMBER_DEMOTE: &str = "member.demote";
    /// A node's state is not the one that the majority holds: it is fenced.
    pub const STATE_DIFFERS: &str = "state.differs";
    /// The cluster version was raised.
    pub const CLUSTER_UPGRADE: &str = "cluster.upgrade";
    pub const PEER_REFUSED: &str = "peer.refused";
    /// Sums up what was left out of the audit.
    pub const AUDIT: &str = "audit";
}

/// What came of it.
const OK: &str = "ok";

/// Something to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// One of [`event`], or another noun and verb of the same shape.
    pub event: &'static str,
    /// Who did it, or tried: a node's name, or what is known of a client.
    pub who: String,
    /// From which address.
    pub from: String,
    /// To what it was done.
    pub what: String,
    pub outcome: Outcome,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// And why.
    Refused(String),
}

/// Why a node may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Token(TokenRefusal),
    #[error("the proof does not fit: another token, or not on this connection")]
    BadProof,
    #[error("the request cannot be read; use the same version on both sides")]
    Malformed,
    #[error("too many attempts from this address; try again in a minute")]
    TooMany,
    #[error("this is another cluster than the one the node belongs to")]
    OtherCluster,
    #[error("the node may not do this: its id is retired, or another's")]
    NotAllowed,
}

/// Reports events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    metrics: ClusterMetrics,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    rows: VecDeque<Row>,
    refused: Throttle,
    /// The same of connections, so that the ones do not hide the others.
    turned_away: Throttle,
    /// Refused attempts without a row of their own, since the last sum.
    suppressed: u64,
    /// Connections without a row of their own, since the last sum.
    unseen: u64,
    /// Events that found the queue full, since the last sum.
    lost: u64,
}

/// One event and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    time_ms: u64,
    event: Event,
    outcome: String,
}

/// How many refused attempts still get a row.
#[derive(Debug, Default)]
struct Throttle {
    taken: u64,
    since: Timestamp,
}

impl Throttle {
    fn take(&mut self, now: Timestamp) -> bool {
        let every = u64::try_from(REFUSED_EVERY.as_nanos()).expect("a short time");
        let given_back = u64::try_from(now.since(self.since).as_nanos()).unwrap_or(u64::MAX) / every;
        if given_back > 0 {
            self.taken = self.taken.saturating_sub(given_back);
            // Parts of a row that are under way stay under way.
            self.since =
                if self.taken == 0 { now } else { Timestamp::from_nanos(self.since.as_nanos() + given_back * every) };
        }
        let free = self.taken < REFUSED_BURST;
        self.taken += u64::from(free);
        free
    }
}

impl Refusal {
    /// One word, for metrics and log searches.
    pub fn word(self) -> &'static str {
        self.metric().word()
    }

    fn metric(self) -> JoinMetric {
        match self {
            Refusal::Token(TokenRefusal::Unknown) => JoinMetric::Unknown,
            Refusal::Token(TokenRefusal::Expired) => JoinMetric::Expired,
            Refusal::Token(TokenRefusal::UsedUp) => JoinMetric::UsedUp,
            Refusal::Token(TokenRefusal::Revoked) => JoinMetric::Revoked,
            Refusal::BadProof => JoinMetric::BadProof,
            Refusal::Malformed => JoinMetric::Malformed,
            Refusal::TooMany => JoinMetric::TooMany,
            Refusal::OtherCluster => JoinMetric::OtherCluster,
            Refusal::NotAllowed => JoinMetric::NotAllowed,
        }
    }
}

impl Audit {
    /// Nothing is written before [`Audit::run`].
    pub fn new(clock: Clock, metrics: ClusterMetrics) -> Audit {
        let shared = Shared { clock, metrics, queue: Mutex::default(), wake: Notify::new() };
        Audit { shared: Arc::new(shared) }
    }

    /// Something was done, or refused, to somebody whom the cluster knows.
    pub fn event(&self, event: Event) {
        log(&event);
        self.queue(event);
    }

    /// The same, where the command that did it leaves its row by itself: tokens.
    pub fn logged(&self, event: &Event) {
        log(event);
    }

    /// A node joined.
    pub fn granted(&self, from: &str, name: &str, token: Option<TokenId>, node_id: u64) {
        self.shared.metrics.join(JoinMetric::Granted);
        let (who, from) = (name.to_owned(), from.to_owned());
        let what = format!("node {node_id}{}", by_token(token));
        self.event(Event { event: event::JOIN, who, from, what, outcome: Outcome::Done });
    }

    /// Somebody who may be anybody tried to join: counted always, told while there are few.
    pub fn refused(&self, from: &str, name: &str, token: Option<TokenId>, why: Refusal) {
        self.shared.metrics.join(why.metric());
        let mut queue = self.lock();
        if !queue.refused.take(self.shared.clock.now()) {
            queue.suppressed += 1;
            self.shared.metrics.audit_suppressed.inc();
            return;
        }
        drop(queue);
        let (who, from, outcome) = (name.to_owned(), from.to_owned(), Outcome::Refused(why.word().to_owned()));
        self.event(Event { event: event::JOIN, who, from, what: by_token(token).trim_start().to_owned(), outcome });
    }

    /// Somebody was turned away at the peer port: told while there are few. The node's own metrics count every one.
    pub fn turned_away(&self, from: &str, why: &str) {
        let mut queue = self.lock();
        if !queue.turned_away.take(self.shared.clock.now()) {
            queue.unseen += 1;
            return;
        }
        drop(queue);
        let (who, from, outcome) = (String::new(), from.to_owned(), Outcome::Refused(why.to_owned()));
        self.event(Event { event: event::PEER_REFUSED, who, from, what: "connection".to_owned(), outcome });
    }

    /// Writes what is reported, until `stop`; then once more what is left.
    pub async fn run(self, consensus: Consensus, stop: CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.shared.wake.notified() => {}
                // Sums are told also if nothing new comes.
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => break,
            }
            self.sum_up();
            // A write that is given up may still be done: then the last try writes its rows twice.
            let Some(written) = stop.run_until_cancelled(self.write(&consensus)).await else { break };
            if let Err(error) = written {
                tracing::debug!(%error, "the audit cannot be written yet");
                self.shared.wake.notify_one();
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
        self.sum_up();
        let written = tokio::time::timeout(LAST_TRY, self.write(&consensus)).await;
        let left = self.lock().rows.len();
        if left > 0 {
            tracing::warn!(
                rows = left,
                done = written.is_ok(),
                "rows of the audit were not replicated; the log has them"
            );
        }
    }

    /// Writes everything that waits.
    async fn write(&self, consensus: &Consensus) -> Result<(), ProposeError> {
        loop {
            let rows: Vec<Row> = {
                let queue = self.lock();
                queue.rows.iter().take(AUDIT_EVENTS_MAX).cloned().collect()
            };
            if rows.is_empty() {
                return Ok(());
            }
            let events = rows.iter().map(Row::to_state).collect();
            consensus.propose(&Command::Audit(events)).await?;
            // Only this task takes rows away: the first ones are those that were written.
            self.lock().rows.drain(..rows.len());
        }
    }

    /// A row for what was left out, if there is something to tell and the rows of refused attempts are not used up.
    fn sum_up(&self) {
        let mut queue = self.lock();
        let lost = std::mem::take(&mut queue.lost);
        let may_tell = queue.suppressed > 0 && queue.refused.take(self.shared.clock.now());
        let suppressed = if may_tell { std::mem::take(&mut queue.suppressed) } else { 0 };
        let may_tell = queue.unseen > 0 && queue.turned_away.take(self.shared.clock.now());
        let unseen = if may_tell { std::mem::take(&mut queue.unseen) } else { 0 };
        drop(queue);
        let sum = |count: u64, event: &'static str, what: &str| {
            if count > 0 {
                let (who, from) = (String::new(), String::new());
                let outcome = Outcome::Refused("left out".to_owned());
                self.event(Event { event, who, from, what: format!("and {count} more {what}"), outcome });
            }
        };
        sum(suppressed, event::JOIN, "refused attempts to join");
        sum(unseen, event::PEER_REFUSED, "refused connections");
        sum(lost, event::AUDIT, "events while the audit could not be written");
    }

    fn queue(&self, event: Event) {
        let time_ms = self.shared.clock.wall().as_millis();
        let outcome = event.outcome.text();
        let mut queue = self.lock();
        if queue.rows.len() >= QUEUE_MAX {
            queue.lost += 1;
            self.shared.metrics.audit_lost.inc();
            return;
        }
        queue.rows.push_back(Row { time_ms, event, outcome });
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// The queue is whole at every point where a panic could occur.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcome {
    fn text(&self) -> String {
        match self {
            Outcome::Done => OK.to_owned(),
            Outcome::Refused(why) => format!("refused: {why}"),
        }
    }
}

impl Row {
    fn to_state(&self) -> AuditEvent<'_> {
        let Event { event, who, from, what, outcome: _ } = &self.event;
        AuditEvent {
            time_ms: self.time_ms,
            event: short(event),
            who: short(who),
            from: short(from),
            what: short(what),
            outcome: short(&self.outcome),
        }
    }
}

fn by_token(token: Option<TokenId>) -> String {
    token.map_or_else(String::new, |id| format!(" token {id}"))
}

/// A stranger's text may be long; the state refuses what is longer.
fn short(text: &str) -> &str {
    let end = (0..=text.len().min(AUDIT_TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// The names of the fields are an interface: log searches and alerts use them.
fn log(event: &Event) {
    let Event { event, who, from, what, outcome } = event;
    match outcome {
        Outcome::Done => tracing::info!(event, who, from, what, outcome = OK, "audit"),
        Outcome::Refused(_) => tracing::warn!(event, who, from, what, outcome = outcome.text(), "audit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn audit() -> (Audit, Metrics) {
        let metrics = Metrics::new("n", "c");
        (Audit::new(Clock::start(), metrics.cluster.clone()), metrics)
    }

    fn event(what: &str) -> Event {
        let (who, from, what) = ("n1".to_owned(), "10.0.0.1:1".to_owned(), what.to_owned());
        Event { event: event::JOIN, who, from, what, outcome: Outcome::Done }
    }

    fn at_ms(ms: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_of_refusals_gets_rows_and_then_one_every_half_second() {
        let mut throttle = Throttle::default();
        let mut taken = |ms, tries: usize| (0..tries).filter(|_| throttle.take(at_ms(ms))).count();
        assert_eq!(taken(0, 1000), 8);
        assert_eq!(taken(499, 1000), 0);
        assert_eq!(taken(500, 1000), 1);
        assert_eq!(taken(1_250, 1000), 1);
        assert_eq!(taken(1_500, 1000), 1, "the half that was under way counts");
        assert_eq!(taken(60_000, 1000), 8);
        let in_ten_seconds: usize = (0..10_000).map(|ms| taken(60_000 + ms, 1)).sum();
        assert_eq!(in_ten_seconds, 19);
    }

    #[test]
    fn of_a_thousand_guesses_a_few_are_told_and_all_are_counted() {
        let (audit, metrics) = audit();
        for _ in 0..1000 {
            audit.refused("10.0.0.9:1", "stranger", TokenId::parse("abcdefg2"), Refusal::BadProof);
        }
        let told = audit.lock().rows.len();
        assert!((8..=10).contains(&told), "{told} rows");
        let suppressed = audit.lock().suppressed;
        assert_eq!(suppressed, 1000 - u64::try_from(told).unwrap());
        let text = metrics.encode();
        assert!(
            text.contains("konsul_join_attempts_total{cluster=\"c\",node=\"n\",result=\"bad_proof\"} 1000"),
            "{text}"
        );
        assert!(
            text.contains(&format!("konsul_audit_suppressed_total{{cluster=\"c\",node=\"n\"}} {suppressed}")),
            "{text}"
        );
        let row = audit.lock().rows[0].clone();
        let told = row.to_state();
        assert_eq!((told.event, told.who, told.what), ("join", "stranger", "token abcdefg2"));
        assert_eq!((told.from, told.outcome), ("10.0.0.9:1", "refused: bad_proof"));
    }

    /// What log searches and alerts are built on.
    #[test]
    fn events_are_logged_with_stable_fields() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let writer = move || Lines(Arc::clone(&written));
        // With a single dispatcher in the process, another test's thread that meets these events first switches them off
        // for everybody.
        let _other = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
        let json = tracing_subscriber::fmt().json().without_time().with_writer(writer).finish();
        tracing::subscriber::with_default(json, || {
            let (audit, _) = audit();
            audit.granted("10.0.0.1:1", "n4", TokenId::parse("abcdefg2"), 9);
            audit.refused("10.0.0.9:1", "n5", None, Refusal::Token(TokenRefusal::Expired));
        });
        let lines = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        let told: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = [
            ("INFO", "n4", "10.0.0.1:1", "node 9 token abcdefg2", "ok"),
            ("WARN", "n5", "10.0.0.9:1", "", "refused: expired"),
        ];
        assert_eq!(told.len(), expected.len(), "{lines}");
        for (told, (level, who, from, what, outcome)) in told.iter().zip(expected) {
            let fields = serde_json::json!({
                "message": "audit", "event": "join", "who": who, "from": from, "what": what, "outcome": outcome,
            });
            assert_eq!((&told["level"], &told["fields"]), (&level.into(), &fields));
        }
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_left_out_is_summed_up_when_rows_are_free_again() {
        let (audit, _) = audit();
        let queue = Queue {
            refused: Throttle { taken: 8, since: audit.shared.clock.now() },
            suppressed: 92,
            ..Queue::default()
        };
        *audit.lock() = queue;
        audit.sum_up();
        assert!(audit.lock().rows.is_empty(), "not while attempts go on: one row for all of them");
        audit.lock().refused = Throttle::default();
        audit.sum_up();
        audit.sum_up();
        let rows: Vec<String> = audit.lock().rows.iter().map(|row| row.event.what.clone()).collect();
        assert_eq!(rows, ["and 92 more refused attempts to join"]);
    }

    #[test]
    fn events_that_cannot_be_written_are_bounded_and_the_loss_is_told() {
        let (audit, metrics) = audit();
        for n in 0..QUEUE_MAX + 5 {
            audit.event(event(&n.to_string()));
        }
        assert_eq!(audit.lock().rows.len(), QUEUE_MAX);
        assert!(metrics.encode().contains("konsul_audit_lost_total{cluster=\"c\",node=\"n\"} 5"));
        audit.lock().rows.clear();
        audit.sum_up();
        let rows: Vec<String> = audit.lock().rows.iter().map(|row| row.event.what.clone()).collect();
        assert_eq!(rows, ["and 5 more events while the audit could not be written"]);
    }

    #[test]
    fn a_strangers_long_text_is_cut_between_characters() {
        let row = Row { time_ms: 1, event: event(&"é".repeat(400)), outcome: OK.to_owned() };
        assert_eq!(row.to_state().what.len(), 512);
        let row = Row { event: event(&format!("x{}", "é".repeat(400))), ..row };
        assert_eq!(row.to_state().what.len(), 511);
    }
}
