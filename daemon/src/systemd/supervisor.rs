//! One thread that tells the service manager how this node is: ready, what it does, alive or stalled.
//!
//! A thread of its own, apart from every runtime: it looks at them, and a service manager that does not read must not
//! hold up anything. Without a service manager it looks all the same, and nobody hears it but the log and the metrics.

use super::judge::{Judge, Verdict};
use super::notify::{Message, Notify};
use super::pulse::{Thread, Watched};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two texts that differ in numbers only.
const NUMBERS: Duration = Duration::from_secs(5);
/// As long as a start makes progress it may take this much longer.
const EXTENSION: Duration = Duration::from_secs(30);
/// How long a thread may stand still where nobody set a time (`WatchdogSec=`).
const STALL: Duration = Duration::from_secs(10);

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// One line for people.
    pub status: String,
    /// Grows while a start makes progress.
    pub progress: u64,
    /// The start waits for other nodes, which takes as long as it takes.
    pub waits_for_others: bool,
}

type Describe = Box<dyn Fn() -> Description + Send>;
type Observe = Box<dyn FnMut(&'static str, Verdict) + Send>;

/// The handle of the thread; it ends with the last one.
#[derive(Clone)]
pub struct Supervisor {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

/// A condition of being ready. Lost on the way, as by an error, it is never met.
#[must_use]
pub struct Latch {
    what: &'static str,
    supervisor: Supervisor,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Vec<(Watched, Judge)>>,
    describe: Mutex<Option<Describe>>,
    observe: Mutex<Option<Observe>>,
    /// What is still missing for being ready; `None`: it was ready once.
    missing: Mutex<Option<Vec<&'static str>>>,
}

enum Order {
    Keep(&'static str, OwnedFd),
    Ready,
    Reloading,
    Reloaded,
    Stopping,
    Look,
}

impl Shared {
    fn watched(&self) -> MutexGuard<'_, Vec<(Watched, Judge)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> MutexGuard<'_, Option<Vec<&'static str>>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self) -> Description {
        let describe = self.describe.lock().unwrap_or_else(PoisonError::into_inner);
        describe.as_ref().map(|describe| describe()).unwrap_or_default()
    }

    fn observe(&self, name: &'static str, verdict: Verdict) {
        if let Some(observe) = self.observe.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            observe(name, verdict);
        }
    }
}

impl Supervisor {
    /// Starts the thread. `conditions`: what has to be met before the node is ready, a latch for each, in this order.
    pub fn start<const N: usize>(conditions: [&'static str; N]) -> io::Result<(Supervisor, [Latch; N])> {
        let shared = Arc::new(Shared::default());
        *shared.missing() = Some(conditions.to_vec());
        let (orders, queue) = mpsc::channel();
        let supervisor = Supervisor { orders, shared: Arc::clone(&shared) };
        let watchdog = Notify::watchdog();
        let desk = Desk {
            shared,
            notify: Notify::from_env(),
            watchdog,
            fed: None,
            phase: Phase::Starting { progress: 0 },
            told: (String::new(), None),
            stalled: false,
        };
        let look = watchdog.map_or(LOOK, |every| LOOK.min(every / 6));
        std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || desk.run(&queue, look))?;
        let latches = conditions.map(|what| Latch { what, supervisor: supervisor.clone() });
        Ok((supervisor, latches))
    }

    /// From now on the node describes itself like this.
    pub fn describe(&self, describe: impl Fn() -> Description + Send + 'static) {
        *self.shared.describe.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(describe));
        self.order(Order::Look);
    }

    /// From now on whoever wants to know hears each verdict.
    pub fn observe(&self, observe: impl FnMut(&'static str, Verdict) + Send + 'static) {
        *self.shared.observe.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(observe));
    }

    /// From now on this one has to make progress.
    pub fn watch(&self, watched: Watched) {
        let bound = Notify::watchdog().map_or(STALL, |every| every / 2);
        self.shared.watched().push((watched, Judge::new(bound, Instant::now())));
    }

    /// Ready, although not all conditions are met: what is missing is a person who says how to go on.
    pub fn ready_for_people(&self) {
        if self.shared.missing().take().is_some() {
            self.order(Order::Ready);
        }
    }

    /// The service manager keeps this open until the service is stopped, and passes it to the next process by this name.
    pub fn keep(&self, name: &'static str, fd: OwnedFd) {
        self.order(Order::Keep(name, fd));
    }

    /// The configuration is read anew.
    pub fn reloading(&self) {
        self.order(Order::Reloading);
    }

    /// That is over.
    pub fn reloaded(&self) {
        self.order(Order::Reloaded);
    }

    /// The node ends.
    pub fn stopping(&self) {
        self.order(Order::Stopping);
    }

    fn order(&self, order: Order) {
        // The thread ends only after the last handle.
        drop(self.orders.send(order));
    }

    fn met(&self, what: &'static str) {
        let mut missing = self.shared.missing();
        let Some(conditions) = missing.as_mut() else { return };
        conditions.retain(|condition| *condition != what);
        if conditions.is_empty() {
            *missing = None;
            self.order(Order::Ready);
        }
    }
}

impl Latch {
    pub fn met(self) {
        self.supervisor.met(self.what);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting { progress: u64 },
    Serving,
    Stopping,
}

/// What the thread works with.
struct Desk {
    shared: Arc<Shared>,
    notify: Notify,
    watchdog: Option<Duration>,
    /// When the service manager last heard that all is well.
    fed: Option<Instant>,
    phase: Phase,
    /// The status it was told last, and when.
    told: (String, Option<Instant>),
    stalled: bool,
}

impl Desk {
    fn run(mut self, queue: &mpsc::Receiver<Order>, every: Duration) {
        let mut next = Instant::now();
        loop {
            match queue.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => {
                    next = Instant::now() + every;
                    self.look();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Keep(name, fd) => self.notify.send(&Message::Keep(name, fd)),
            Order::Ready if self.phase != Phase::Stopping => {
                self.phase = Phase::Serving;
                self.look();
                self.notify.send(&Message::Ready);
            }
            Order::Ready => {}
            Order::Reloading => self.notify.send(&Message::Reloading),
            Order::Reloaded => self.notify.send(&Message::Ready),
            Order::Stopping => {
                self.phase = Phase::Stopping;
                self.notify.send(&Message::Stopping);
                self.look();
            }
            Order::Look => self.look(),
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let (alive, trouble) = self.pulses(now);
        let Description { status, progress, waits_for_others } = self.shared.describe();
        self.tell(match trouble {
            Some(trouble) if status.is_empty() => trouble,
            Some(trouble) => format!("{status}; {trouble}"),
            None => status,
        });
        if let Phase::Starting { progress: before } = &mut self.phase {
            // A member that is not ready waits for its leader, and for what it has to catch up with.
            let is_member = !self.shared.watched().is_empty();
            if progress > *before || waits_for_others || (is_member && alive) {
                *before = progress;
                self.notify.send(&Message::Extend(EXTENSION));
            }
        }
        self.feed(alive, now);
    }

    /// Looks at everyone: whether all are alive, and what is not well.
    fn pulses(&self, now: Instant) -> (bool, Option<String>) {
        let (mut alive, mut trouble) = (true, None);
        let mut watched = self.shared.watched();
        watched.retain(|(watched, _)| !watched.pulse.is_retired());
        for (watched, judge) in watched.iter_mut() {
            let name = watched.pulse.name();
            let verdict = judge.look(&watched.pulse.sample(), now, Thread::any_waits_for_disk);
            match verdict {
                Verdict::Alive => {}
                Verdict::Slow { since } => {
                    let slow = || format!("slow disk: {name} has waited for {} s", since.as_secs());
                    trouble.get_or_insert_with(slow);
                }
                Verdict::Stalled { since } => {
                    alive = false;
                    trouble = Some(format!("stalled: {name} has done nothing for {} s", since.as_secs()));
                }
            }
            self.shared.observe(name, verdict);
            if watched.pulse.is_idle() {
                (watched.poke)();
            }
        }
        (alive, trouble)
    }

    fn tell(&mut self, status: String) {
        let (before, at) = &self.told;
        let is_fresh = at.is_some_and(|at| at.elapsed() < NUMBERS);
        let same = if is_fresh { words(&status).eq(words(before)) } else { status == *before };
        if !same && !status.is_empty() {
            self.notify.send(&Message::Status(status.clone()));
            self.told = (status, Some(Instant::now()));
        }
    }

    fn feed(&mut self, alive: bool, now: Instant) {
        let newly_stalled = !alive && !std::mem::replace(&mut self.stalled, !alive);
        let Some(every) = self.watchdog else { return };
        if newly_stalled {
            self.notify.send(&Message::Stalled);
        }
        if alive && self.fed.is_none_or(|fed| now.duration_since(fed) >= every / 3) {
            self.fed = Some(now);
            self.notify.send(&Message::Alive);
        }
    }
}

/// A text without its numbers.
fn words(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| !c.is_ascii_digit())
}
