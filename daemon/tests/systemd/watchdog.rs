//! The watchdog: fed while the node makes progress, triggered when a thread that it depends on has stalled.

use crate::launch::{Daemon, Manager, Service, free_address, threads};
use crate::support::{Http, mount, skip, wait_until};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// As in the unit.
const WATCHDOG: Duration = Duration::from_secs(10);

fn watched(manager: &Manager) -> Daemon {
    let environment = vec![("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())];
    let args = manager.alone(free_address());
    let daemon = manager.start(Service { args, environment, ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    daemon
}

/// Single threads that stand still, as nothing in the program can make them. They go on when this is dropped: the
/// kernel lets go of what a thread has traced when that thread ends.
struct Frozen {
    release: Option<mpsc::Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Frozen {
    fn freeze(threads: Vec<i32>) -> Frozen {
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let tracer = std::thread::spawn(move || {
            for thread in threads.into_iter().map(Pid::from_raw) {
                ptrace::seize(thread, ptrace::Options::empty()).unwrap();
                ptrace::interrupt(thread).unwrap();
                waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            }
            tell.send(()).unwrap();
            // Nobody sends: it ends when the other end is dropped.
            assert!(released.recv().is_err());
        });
        told.recv().expect("the threads can be stopped");
        Frozen { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.release.take();
        if let Some(tracer) = self.tracer.take() {
            // A tracer that failed has let go already.
            drop(tracer.join());
        }
    }
}

#[test]
fn an_idle_node_feeds_the_watchdog() {
    let manager = Manager::new();
    let mut daemon = watched(&manager);
    let mut last = Instant::now();
    for _ in 0..3 {
        let messages = manager.messages_until(|message| message == "WATCHDOG=1");
        assert!(!messages.contains(&"WATCHDOG=trigger".to_owned()), "{messages:?}");
        assert!(last.elapsed() < WATCHDOG, "fed after {:?}", last.elapsed());
        last = Instant::now();
    }
    daemon.stop();
}

#[test]
fn a_stalled_log_writer_is_noticed_without_any_load() {
    notices("log-writer");
}

#[test]
fn a_stalled_apply_thread_is_noticed_without_any_load() {
    notices("apply");
}

#[test]
fn a_stalled_raft_core_is_noticed() {
    notices("raft");
}

/// In time for a restart within 15 seconds.
fn notices(name: &str) {
    let manager = Manager::new();
    let mut daemon = watched(&manager);
    let mut stopped = threads(daemon.pid(), name);
    assert!(!stopped.is_empty(), "no thread {name}");
    if name == "raft" {
        // The thread that runs `main` takes part in it.
        stopped.push(daemon.pid().as_raw_nonzero().get());
    }
    let frozen = Frozen::freeze(stopped);
    let began = Instant::now();
    let messages = manager.messages_until(|message| message == "WATCHDOG=trigger");
    println!("{name}: triggered after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(13), "{:?}: {messages:?}", began.elapsed());
    let fed = messages.iter().filter(|message| *message == "WATCHDOG=1").count();
    assert!(fed <= 3, "fed {fed} times after it had stalled");
    assert!(
        messages.iter().any(|message| message.starts_with("STATUS=") && message.contains("stalled: ")),
        "{messages:?}"
    );
    drop(frozen);
    daemon.kill();
}

/// A disk that takes half a minute for a flush, and does end: a restart would not make it faster.
#[test]
fn a_slow_disk_is_told_and_the_watchdog_stays_fed() {
    if let Some(why) = mount::missing() {
        skip(&why);
        return;
    }
    let manager = Manager::new();
    let disk = manager.path("disk");
    fs::create_dir(&disk).unwrap();
    mount::ext4(&disk);
    let _mounted = Mounted { dir: disk.clone() };
    let address = free_address();
    let mut args = manager.alone(address);
    args[1] = disk.join("data").to_str().unwrap().to_owned();
    let environment = vec![("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())];
    let mut daemon = manager.start(Service { args, environment, ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    let frozen = FrozenDisk::freeze(&disk);
    let writer = std::thread::spawn(move || Http::with_timeout(address, LONG).put("a", "", b"1"));
    let began = Instant::now();
    let mut messages = manager.messages_until(|message| message.contains("slow disk: log-writer has waited for"));
    while began.elapsed() < WATCHDOG * 2 {
        messages.push(manager.message());
    }
    assert!(!messages.contains(&"WATCHDOG=trigger".to_owned()), "{messages:?}");
    assert!(messages.iter().filter(|message| *message == "WATCHDOG=1").count() >= 3, "{messages:?}");
    drop(frozen);
    // Its outcome is unknown by then, but it is answered, and the next one is done.
    writer.join().unwrap().expect("answered");
    wait_until("a write is done again", || {
        let reply = Http::new(address).put("b", "", b"1").map_err(|error| error.to_string())?;
        if reply.is_true() { Ok(()) } else { Err(reply.to_string()) }
    });
    daemon.stop();
}

/// Longer than the disk takes.
const LONG: Duration = Duration::from_secs(60);

/// Unmounted at the end.
struct Mounted {
    dir: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.dir).status());
    }
}

/// Every flush waits until this is dropped. That has to be before the daemon is: a process that waits for a frozen disk
/// cannot even be killed.
struct FrozenDisk {
    dir: PathBuf,
}

impl FrozenDisk {
    fn freeze(dir: &Path) -> FrozenDisk {
        let done = Command::new("fsfreeze").arg("--freeze").arg(dir).status().unwrap();
        assert!(done.success(), "fsfreeze ended with {done}");
        FrozenDisk { dir: dir.to_owned() }
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        let done = Command::new("fsfreeze").arg("--unfreeze").arg(&self.dir).status().unwrap();
        assert!(done.success(), "fsfreeze ended with {done}");
    }
}
