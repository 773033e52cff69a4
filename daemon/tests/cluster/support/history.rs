//! What clients did and were told, and whether one register per key, changed by one operation at a time, explains it.
//!
//! The judge is stateright's tester. Every value is written once, so "the entry has modify index N" is the same as "the
//! entry has the value that was read with N": a compare-and-set is modelled by the value it expects.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A key's value; values are numbers that are used once.
pub(crate) type Value = Option<u64>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Put(u64),
    Cas { expected: Value, new: u64 },
    Delete,
    Get,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ret {
    Done,
    Cas(bool),
    Value(Value),
}

/// What an operation ought to do when nothing else happens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Register(Value);

impl SequentialSpec for Register {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match op {
            Op::Put(new) => {
                self.0 = Some(*new);
                Ret::Done
            }
            Op::Cas { expected, new } => {
                let applies = self.0 == *expected;
                if applies {
                    self.0 = Some(*new);
                }
                Ret::Cas(applies)
            }
            Op::Delete => {
                self.0 = None;
                Ret::Done
            }
            Op::Get => Ret::Value(self.0),
        }
    }
}

/// One operation of one client on one key.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) client: usize,
    pub(crate) key: usize,
    pub(crate) op: Op,
    pub(crate) invoked: Instant,
    /// When the answer came, and what it said; `None`: it may take effect at any time from then on, or never.
    pub(crate) returned: Option<(Instant, Ret)>,
}

/// A search that takes longer than this has not decided anything.
const SEARCH: Duration = Duration::from_secs(20);

/// `Err`: a key whose history no order of operations explains. Panics if it cannot be decided.
pub(crate) fn check(history: &[Event]) -> Result<(), String> {
    let mut by_key: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
    for event in history {
        by_key.entry(event.key).or_default().push(event.clone());
    }
    for (key, events) in by_key {
        let (tell, told) = mpsc::channel();
        let judged = events.clone();
        std::thread::Builder::new().stack_size(64 << 20).spawn(move || tell.send(is_linearizable(&judged))).unwrap();
        match told.recv_timeout(SEARCH) {
            Ok(true) => {}
            Ok(false) => return Err(format!("key {key} is not linearizable: {}", describe(events))),
            Err(_) => panic!("key {key}: not decided within {SEARCH:?}: {}", describe(events)),
        }
    }
    Ok(())
}

fn describe(mut events: Vec<Event>) -> String {
    events.sort_by_key(|event| event.invoked);
    let start = events[0].invoked;
    let micros = |at: Instant| (at - start).as_micros();
    let lines = events.iter().map(|event| {
        let end = event
            .returned
            .as_ref()
            .map_or_else(|| "… unknown".to_owned(), |(at, ret)| format!("{:>8} {ret:?}", micros(*at)));
        format!("\n{:>8} client {} {:?} {end}", micros(event.invoked), event.client, event.op)
    });
    lines.collect()
}

fn is_linearizable(events: &[Event]) -> bool {
    // At the same instant, calls come before answers: that allows more, so it never accuses wrongly.
    let mut moments: Vec<(Instant, bool, usize)> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        moments.push((event.invoked, false, at));
        if let Some((returned, _)) = &event.returned {
            moments.push((*returned, true, at));
        }
    }
    moments.sort();
    let mut tester = LinearizabilityTester::new(Register::default());
    // An operation without an answer keeps its thread for ever; the client goes on as another one.
    let mut threads: BTreeMap<usize, usize> = BTreeMap::new();
    let mut thread_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut next = 0;
    for (_, is_return, at) in moments {
        let event = &events[at];
        if is_return {
            let (_, ret) = event.returned.clone().unwrap();
            tester.on_return(thread_of[&at], ret).unwrap();
            continue;
        }
        let thread = *threads.entry(event.client).or_insert_with(|| {
            next += 1;
            next
        });
        thread_of.insert(at, thread);
        tester.on_invoke(thread, event.op.clone()).unwrap();
        if event.returned.is_none() {
            threads.remove(&event.client);
        }
    }
    tester.is_consistent()
}
