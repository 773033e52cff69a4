//! A daemon started as a service manager starts it.

use crate::support::{Http, wait_until};
use konsul_api::cluster::ClusterStatus;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Descriptors that are to be inherited are inherited by every process that is started meanwhile: one at a time.
static TURN: Mutex<()> = Mutex::new(());
/// Above every descriptor that the shell moves them to.
const HIGH: i32 = 100;

/// A directory, a notification socket, and what the daemon shall find.
pub(crate) struct Manager {
    pub(crate) dir: TempDir,
    notify: UnixDatagram,
    _turn: MutexGuard<'static, ()>,
}

/// What was asked for.
#[derive(Default)]
pub(crate) struct Service<'a> {
    pub(crate) args: Vec<String>,
    /// By name, in this order.
    pub(crate) sockets: Vec<(&'a str, OwnedFd)>,
    pub(crate) environment: Vec<(&'a str, String)>,
    /// In mounts of its own, as the sandbox of a unit gives it.
    pub(crate) own_mounts: bool,
}

pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Manager {
    pub(crate) fn new() -> Manager {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new().prefix("konsul-").tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        Manager { dir, notify, _turn: turn }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The arguments of a cluster of one that keeps its data here.
    pub(crate) fn alone(&self, http: SocketAddr) -> Vec<String> {
        let data = self.path("data");
        [
            "--data-dir",
            data.to_str().unwrap(),
            "--node-name",
            "n1",
            "--http",
            &http.to_string(),
            "--set",
            "storage.free_reserve=16MiB",
            "--set",
            "storage.log_prealloc=1MiB",
            "--set",
            "storage.ballast=0",
        ]
        .map(str::to_owned)
        .into()
    }

    pub(crate) fn start(&self, service: Service<'_>) -> Daemon {
        let log = self.path("log");
        let names: Vec<&str> = service.sockets.iter().map(|(name, _)| *name).collect();
        let held: Vec<OwnedFd> = service.sockets.iter().map(|(_, fd)| inheritable(fd)).collect();
        let moves: Vec<String> = (3..).zip(&held).map(|(to, fd)| format!("{to}<&{}", fd.as_raw_fd())).collect();
        let closes: Vec<String> = held.iter().map(|fd| format!("{}<&-", fd.as_raw_fd())).collect();
        // The process that the shell becomes has the number of the shell.
        let script = format!("LISTEN_PID=$$ exec \"$@\" {} {}", moves.join(" "), closes.join(" "));
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]);
        if service.own_mounts {
            command.args(["unshare", "--mount"]);
        }
        command.arg(env!("CARGO_BIN_EXE_konsuld")).args(&service.args);
        if !held.is_empty() {
            command.env("LISTEN_FDS", held.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        command.env("NOTIFY_SOCKET", self.path("notify")).envs(service.environment);
        let out = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(out);
        Daemon { child: command.spawn().unwrap(), log }
    }

    /// The next message.
    pub(crate) fn message(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.notify.recv(&mut buffer).expect("a message comes in time");
        String::from_utf8(buffer[..length].to_vec()).unwrap().trim_end().to_owned()
    }

    /// What it is asked to keep open under this name.
    pub(crate) fn kept(&self, name: &str) -> OwnedFd {
        loop {
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let came = recvmsg(&self.notify, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags).unwrap();
            let text = String::from_utf8(buffer[..came.bytes].to_vec()).unwrap();
            let fds = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let mut fds: Vec<OwnedFd> = fds.flatten().collect();
            if text.lines().any(|line| line == "FDSTORE=1") {
                assert!(text.lines().any(|line| line.strip_prefix("FDNAME=") == Some(name)), "{text:?}");
                return fds.pop().expect("a descriptor comes with it");
            }
        }
    }

    /// Reads messages until one is like this; all of them, that one last.
    pub(crate) fn messages_until(&self, what: impl Fn(&str) -> bool) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.message());
            if what(messages.last().unwrap()) {
                return messages;
            }
            assert!(messages.len() < 1000, "it did not come: {messages:?}");
        }
    }
}

fn inheritable(fd: impl AsFd) -> OwnedFd {
    let high = fcntl_dupfd_cloexec(fd, HIGH).unwrap();
    fcntl_setfd(&high, FdFlags::empty()).unwrap();
    high
}

impl Daemon {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let log = self.log.clone();
        wait_until("the daemon ends", || {
            self.child.try_wait().unwrap().ok_or_else(|| fs::read_to_string(&log).unwrap_or_default())
        })
    }

    /// Asks it to stop; it has to end well.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "ended with {status}: {}", self.log_text());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill();
        }
        if std::thread::panicking() {
            println!("log of the daemon:\n{}", self.log_text());
        }
    }
}

/// A listener on a port that is free, and its address.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nobody listens at the moment.
pub(crate) fn free_address() -> SocketAddr {
    listener().1
}

pub(crate) fn status(address: SocketAddr) -> ClusterStatus {
    let reply = Http::new(address).get("/v1/cluster/status").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.json()
}

/// The numbers of the threads of this name.
pub(crate) fn threads(pid: Pid, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("task")).unwrap();
    let of_name = tasks
        .flatten()
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    of_name.map(|task| task.file_name().to_str().unwrap().parse().unwrap()).collect()
}
