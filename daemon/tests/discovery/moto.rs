//! EC2 as moto plays it, in a virtual environment below the target directory.

use serde::Deserialize;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Another version is another directory.
const MOTO: &str = "moto[ec2,iam,server]==5.2.5";
const SCRIPT: &str = include_str!("ec2.py");

/// A running EC2. Ends when its standard input does, so with this process in any case.
pub(crate) struct Moto {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) told: Told,
}

/// What the script prints once it serves.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) endpoint: String,
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
    /// Of the running instances with the tag konsul=production.
    pub(crate) production: Vec<String>,
    /// Of those with the tag konsul and any value.
    pub(crate) any: Vec<String>,
}

impl Moto {
    pub(crate) fn start() -> Moto {
        let mut command = Command::new(environment().join("bin/python"));
        let mut child = command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut moto = Moto { child, stdin, stdout, told: Told::nothing() };
        moto.told = serde_json::from_str(&moto.line()).unwrap();
        moto
    }

    /// Stops the running instances with the tag konsul=production; one with another value stays.
    pub(crate) fn stop_production(&mut self) {
        writeln!(self.stdin.as_mut().unwrap(), "stop").unwrap();
        assert_eq!(self.line(), "stopped\n");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "moto ended: {:?}", self.child.wait());
        line
    }
}

impl Told {
    fn nothing() -> Told {
        let none = String::new;
        Told { endpoint: none(), access_key_id: none(), secret_access_key: none(), production: vec![], any: vec![] }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Makes the virtual environment if there is none yet, which takes a minute and PyPI.
fn environment() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let version = MOTO.rsplit_once('=').unwrap().1;
    let (dir, done) = (parent.join(format!("moto-{version}")), parent.join(format!("moto-{version}.done")));
    // Another test process may be at it.
    let lock = File::create(parent.join("moto.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    if !done.exists() {
        run(Command::new("virtualenv").args(["--quiet", "--clear"]).arg(&dir), "apt-get install virtualenv");
        run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", MOTO]), "is PyPI reachable?");
        fs::write(&done, "").unwrap();
    }
    dir
}

fn run(command: &mut Command, hint: &str) {
    let status = command.stdin(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?} ({hint})");
}
