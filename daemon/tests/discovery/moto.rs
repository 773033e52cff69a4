//! AWS as moto plays it, in a virtual environment below the target directory.

use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Other ones are another directory.
const MOTO: &str = "moto[ec2,iam,s3,server]==5.2.5";

/// A script that serves what it likes, and tells once it serves. Ends when its standard input does, so with this process
/// in any case.
pub(crate) struct Moto<T> {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) told: T,
}

impl<T: DeserializeOwned> Moto<T> {
    pub(crate) fn start(script: &str) -> Moto<T> {
        let mut command = Command::new(environment().join("bin/python"));
        let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, mut stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let told = serde_json::from_str(&line(&mut stdout)).unwrap();
        Moto { child, stdin, stdout, told }
    }
}

impl<T> Moto<T> {
    /// Has the script do something, and returns what it says when that is done.
    pub(crate) fn say(&mut self, what: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{what}").unwrap();
        line(&mut self.stdout)
    }
}

fn line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "moto ended");
    line.trim().to_owned()
}

impl<T> Drop for Moto<T> {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Makes the virtual environment if there is none yet, which takes a minute and PyPI.
fn environment() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name: String = MOTO.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let (dir, done) = (parent.join(&name), parent.join(format!("{name}.done")));
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
