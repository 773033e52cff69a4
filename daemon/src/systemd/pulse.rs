//! Whether a thread makes progress, seen from outside: how much it was asked, how much of that it has done, and whether
//! it waits for a disk.

use rustix::thread::gettid;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// Counted by those who ask a thread for something, and by the thread. Cheap: a few atomics without order.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    /// As the kernel numbers threads; 0: it is no single thread.
    thread: AtomicI32,
    asked: AtomicU64,
    done: AtomicU64,
    in_io: AtomicBool,
    retired: AtomicBool,
}

/// A pulse, and how to ask its owner for something that changes nothing.
pub struct Watched {
    pub pulse: Arc<Pulse>,
    /// Called when nothing is asked at the moment; must not wait.
    pub poke: Box<dyn Fn() + Send + Sync>,
}

/// What is seen of a pulse at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) asked: u64,
    pub(super) done: u64,
    /// It says that it waits for a disk.
    pub(super) in_io: bool,
    pub(super) thread: Option<Thread>,
}

/// A thread as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread {
    /// `R` runs, `S` sleeps, `D` waits for a disk, `T` and `t` are stopped.
    pub(super) state: char,
    /// How often it was switched away from a processor.
    pub(super) switches: u64,
}

impl Pulse {
    pub fn new(name: &'static str) -> Arc<Pulse> {
        Arc::new(Pulse {
            name,
            thread: AtomicI32::new(0),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            in_io: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The calling thread is the one.
    pub fn is_mine(&self) {
        self.thread.store(gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// One more thing is asked for.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// So many things are done.
    pub fn done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// While `work` runs, the thread waits for a disk.
    pub fn io<T>(&self, work: impl FnOnce() -> T) -> T {
        self.in_io.store(true, Ordering::Relaxed);
        let result = work();
        self.in_io.store(false, Ordering::Relaxed);
        result
    }

    /// It has ended as it should; nobody expects anything of it any more.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn sample(&self) -> Sample {
        // In this order: what is asked in between is waited for until the next look.
        let asked = self.asked.load(Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed);
        let thread = match self.thread.load(Ordering::Relaxed) {
            0 => None,
            id => fs::read_to_string(format!("/proc/self/task/{id}/status")).ok().and_then(|text| Thread::parse(&text)),
        };
        Sample { asked, done, in_io: self.in_io.load(Ordering::Relaxed), thread }
    }
}

impl Thread {
    fn parse(status: &str) -> Option<Thread> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let switches = |name| field(name)?.parse::<u64>().ok();
        Some(Thread {
            state: field("State:")?.chars().next()?,
            switches: switches("voluntary_ctxt_switches:")? + switches("nonvoluntary_ctxt_switches:")?,
        })
    }

    /// Whether any thread of this process waits for a disk.
    pub(super) fn any_waits_for_disk() -> bool {
        let Ok(tasks) = fs::read_dir("/proc/self/task") else { return false };
        let waits = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            Thread::parse(&status).map(|thread| thread.state == 'D')
        };
        tasks.flatten().any(|task| waits(task) == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_thread_does() {
        let pulse = Pulse::new("test");
        assert_eq!(pulse.sample().thread, None);
        pulse.is_mine();
        pulse.ask();
        let sample = pulse.sample();
        assert_eq!((sample.asked, sample.done, sample.in_io), (1, 0, false));
        assert_eq!(sample.thread.unwrap().state, 'R');
        assert!(pulse.io(|| pulse.sample().in_io) && !pulse.sample().in_io);
        pulse.done(1);
        assert!(pulse.is_idle());
    }

    #[test]
    fn switches_of_both_kinds_count() {
        let text = "Name:\ta\nState:\tD (disk sleep)\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(Thread::parse(text), Some(Thread { state: 'D', switches: 10 }));
        assert_eq!(Thread::parse("State:\tR\n"), None);
    }
}
