//! One real process, and what can be done to it.

use super::http::{Failed, Http, Reply};
use super::wait::wait_until;
use konsul_api::cluster::ClusterStatus;
use konsul_api::health::Health;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Questions about a node's state: answered at once, or the node is not well.
const ASK: Duration = Duration::from_secs(3);

/// The konsuld of this tree.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_konsuld"))
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) http: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) netns: Option<String>,
    /// What systemd would hand over: the process is told of it if it is there.
    pub(crate) credentials: PathBuf,
    /// What it is started as: this tree's konsuld, or another one.
    pub(super) program: Mutex<PathBuf>,
    pub(super) child: Mutex<Option<Child>>,
}

impl Node {
    /// Starts the process; whether it serves is another question.
    pub(crate) fn start(&self) {
        let mut child = self.child.lock().unwrap();
        assert!(child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let daemon = self.program.lock().unwrap().clone();
        let mut command = match &self.netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns]).arg(daemon);
                command
            }
            None => Command::new(daemon),
        };
        command.arg("--config").arg(&self.config);
        if self.credentials.exists() {
            command.env("CREDENTIALS_DIRECTORY", &self.credentials);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *child = Some(command.spawn().unwrap());
    }

    /// Another program, from its next start on.
    pub(crate) fn install(&self, program: &Path) {
        *self.program.lock().unwrap() = program.to_owned();
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap();
        let child = child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.lock().unwrap().is_some()
    }

    /// The process ends at once, in the middle of whatever it does.
    pub(crate) fn kill9(&self) {
        // Also while a test fails: another thread may have panicked with the lock.
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The process stands still, its connections stay open.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to read its configuration again.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to stop, as systemd does; it has to end well.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{} was asked to stop and ended with {status}", self.name);
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(&self) -> ExitStatus {
        let status = wait_until(&format!("{} ends", self.name), || {
            let mut child = self.child.lock().unwrap();
            let child = child.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
            child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        });
        *self.child.lock().unwrap() = None;
        status
    }

    /// Everything but the configuration is gone.
    pub(crate) fn wipe(&self) {
        assert!(!self.is_running());
        for dir in [&self.data_dir, &self.state_dir] {
            if dir.exists() {
                fs::remove_dir_all(dir).unwrap();
            }
        }
    }

    /// Hands over a credential from the next start on.
    pub(crate) fn give_credential(&self, name: &str, text: &str) {
        fs::create_dir_all(&self.credentials).unwrap();
        fs::write(self.credentials.join(name), text).unwrap();
    }

    /// In the configuration, this node's and that of others.
    pub(crate) fn replace_in_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// A connection for requests.
    pub(crate) fn client(&self) -> Http {
        Http::new(self.http)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Reply, Failed> {
        Http::with_timeout(self.http, ASK).get(path)
    }

    pub(crate) fn status(&self) -> Result<ClusterStatus, String> {
        let reply = self.get("/v1/cluster/status").map_err(|e| format!("{}: {e}", self.name))?;
        if reply.status != 200 {
            return Err(format!("{}: {reply}", self.name));
        }
        Ok(reply.json())
    }

    /// Status code and reasons.
    pub(crate) fn ready(&self) -> Result<(u16, Vec<String>), String> {
        let reply = self.get("/health/ready").map_err(|e| format!("{}: {e}", self.name))?;
        let health: Health = reply.json();
        Ok((reply.status, health.reasons))
    }

    /// Waits until it waits for somebody to say how it gets into a cluster.
    pub(crate) fn wait_waiting(&self) {
        wait_until(&format!("{} waits", self.name), || {
            let status = self.status()?;
            let waits = status.node.waiting.as_ref().is_some_and(|what| what.contains("waits for"));
            if waits { Ok(()) } else { Err(format!("{:?}", status.node)) }
        });
    }

    /// The sum of the series of a metric whose labels contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> Result<f64, String> {
        let reply = self.get("/metrics").map_err(|e| format!("{}: {e}", self.name))?;
        let text = reply.text();
        let of_it = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        };
        let series: Vec<&str> = text.lines().filter(of_it).collect();
        if series.is_empty() {
            return Err(format!("{}: no metric {name} with {labels:?}", self.name));
        }
        Ok(series.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// What each of its threads does, as the kernel sees it: for a node that does not answer.
    pub(crate) fn threads(&self) -> String {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = child.as_ref() else { return "it does not run".to_owned() };
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", child.id())) else { return "it has ended".to_owned() };
        let lines = tasks.flatten().map(|task| {
            let task = task.path();
            let status = read(task.join("status"));
            let state = status.lines().find(|line| line.starts_with("State")).unwrap_or_default();
            format!("{} {state} in {}", read(task.join("comm")), read(task.join("wchan")))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What it logged since the beginning of the test.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until a line of its log contains all of these.
    pub(crate) fn wait_log(&self, parts: &[&str]) {
        wait_until(&format!("{} logs {parts:?}", self.name), || {
            let text = self.log_text();
            let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(tail(&text, 5)) }
        });
    }
}

/// The last lines.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
