//! What the service manager keeps open for the next process.

use crate::launch::{Daemon, Manager, Service, free_address};
use crate::support::{Http, skip};
use rustix::process::geteuid;
use std::fs::File;
use std::os::fd::OwnedFd;

fn rebuilds(daemon: &Daemon) -> usize {
    daemon.log_text().matches("the state is rebuilt").count()
}

/// Each process has mounts of its own, so the mount tells nothing of what became of the pages that were not flushed.
#[test]
fn after_a_crash_the_state_is_trusted_if_its_directory_was_kept_open() {
    if !geteuid().is_root() {
        return skip("a process gets mounts of its own from root only");
    }
    let manager = Manager::new();
    let address = free_address();
    let start = |kept: Option<OwnedFd>| {
        let sockets = kept.map(|fd| ("state", fd)).into_iter().collect();
        manager.start(Service { args: manager.alone(address), sockets, own_mounts: true, ..Service::default() })
    };
    let ready = || manager.messages_until(|message| message == "READY=1");
    let mut daemon = start(None);
    let kept = manager.kept("state");
    ready();
    assert!(Http::new(address).put("a", "", b"1").unwrap().is_true());
    daemon.kill();
    assert_eq!(rebuilds(&daemon), 0);

    let mut daemon = start(Some(kept));
    let messages = ready();
    assert!(!messages.iter().any(|message| message.contains("FDSTORE")), "it is kept already: {messages:?}");
    assert_eq!(rebuilds(&daemon), 0, "{}", daemon.log_text());
    assert_eq!(Http::new(address).get("/v1/kv/a?raw").unwrap().body, b"1");
    daemon.kill();

    // Neither nothing nor another directory is proof.
    for (turn, kept) in [None, Some(File::open(manager.dir.path()).unwrap().into())].into_iter().enumerate() {
        let mut daemon = start(kept);
        drop(manager.kept("state"));
        ready();
        assert_eq!(rebuilds(&daemon), turn + 1, "{}", daemon.log_text());
        assert_eq!(Http::new(address).get("/v1/kv/a?raw").unwrap().body, b"1");
        daemon.kill();
    }
}
