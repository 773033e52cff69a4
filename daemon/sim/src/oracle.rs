//! What happened in a run, in order, and whether it may happen.

use crate::event::{Event, Invariant};
use crate::invariants;
use crate::types::now;
use openraft_rt_sim::SimInstant;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How many of the last events a report shows.
const TAIL: usize = 60;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant, or `liveness`.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
    /// Simulated time since the start.
    pub at: Duration,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which run.
    pub seed: u64,
    /// Of all events in order: equal for equal runs.
    pub hash: u64,
    /// How many there were.
    pub events: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Terms in which somebody led.
    pub leaders: u64,
    /// What did not hold, if anything: the run ends with it.
    pub violation: Option<Violation>,
    /// The last events, in words.
    pub tail: Vec<String>,
}

struct Inner {
    invariants: Vec<Box<dyn Invariant>>,
    began: SimInstant,
    hasher: DefaultHasher,
    report: Report,
    tail: VecDeque<String>,
}

/// Cloned handles are the same oracle.
#[derive(Clone)]
pub(crate) struct Oracle {
    inner: Arc<Mutex<Inner>>,
}

impl Oracle {
    pub(crate) fn new(seed: u64) -> Oracle {
        let report =
            Report { seed, hash: 0, events: 0, writes: 0, reads: 0, leaders: 0, violation: None, tail: Vec::new() };
        let inner = Inner {
            invariants: invariants::all(),
            began: now(),
            hasher: DefaultHasher::new(),
            report,
            tail: VecDeque::new(),
        };
        Oracle { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }

    /// This happened.
    pub(crate) fn see(&self, event: Event) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let at = now() - inner.began;
        let text = format!("{:>9.4} {event:?}", at.as_secs_f64());
        text.hash(&mut inner.hasher);
        inner.report.events += 1;
        match &event {
            Event::WriteAcknowledged { .. } => inner.report.writes += 1,
            Event::ReadEnded { .. } => inner.report.reads += 1,
            Event::Leads { .. } => inner.report.leaders += 1,
            _ => {}
        }
        if inner.report.violation.is_none() {
            inner.tail.push_back(text);
            if inner.tail.len() > TAIL {
                inner.tail.pop_front();
            }
            inner.report.violation = match &event {
                Event::Stuck(what) => Some(("liveness", (*what).to_owned())),
                event => inner.invariants.iter_mut().find_map(|i| i.see(event).err().map(|what| (i.name(), what))),
            }
            .map(|(invariant, what)| Violation { invariant, what, at });
        }
    }

    /// Whether something did not hold.
    pub(crate) fn is_violated(&self) -> bool {
        self.lock().report.violation.is_some()
    }

    pub(crate) fn report(&self) -> Report {
        let inner = self.lock();
        let mut report = inner.report.clone();
        report.hash = inner.hasher.finish();
        report.tail = inner.tail.iter().cloned().collect();
        report
    }
}
