//! `kv watch`.

use super::{run::konsulctl, server::Server};
use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};
use tempfile::{TempDir, tempdir};

/// A watch under way.
struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
    notes: BufReader<ChildStderr>,
    _dir: TempDir,
}

impl Watch {
    fn start(server: &Server, args: &[&str]) -> Self {
        let dir = tempdir().expect("directory");
        let mut command = konsulctl(server, dir.path());
        command.args(["kv", "watch"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run");
        let lines = BufReader::new(child.stdout.take().expect("stdout"));
        let notes = BufReader::new(child.stderr.take().expect("stderr"));
        Self { child, lines, notes, _dir: dir }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("read a line");
        line.trim_end().to_owned()
    }

    /// The next line of stderr.
    fn note(&mut self) -> String {
        let mut line = String::new();
        self.notes.read_line(&mut line).expect("read a note");
        line.trim_end().to_owned()
    }

    /// Its exit code and what else it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut notes = String::new();
        self.notes.read_to_string(&mut notes).expect("read the notes");
        (self.child.wait().expect("wait").code(), notes)
    }
}

#[test]
fn every_change_of_a_key_is_told_until_ctrl_c() {
    let server = Server::start();
    server.put("a", b"1");
    let mut watch = Watch::start(&server, &["a"]);
    assert_eq!(watch.line(), "present a 11 1");
    server.put("a", b"2");
    assert_eq!(watch.line(), "set a 12 2");
    server.with(|s| {
        s.index += 1;
        s.entries.clear();
    });
    assert_eq!(watch.line(), "deleted a");
    server.put("a", b"3");
    assert_eq!(watch.line(), "set a 14 3");
    let interrupted = Command::new("kill").args(["-INT", &watch.child.id().to_string()]).status();
    assert!(interrupted.expect("kill").success());
    assert_eq!(watch.end(), (Some(0), String::new()));
}

#[test]
fn a_prefix_is_watched_in_json_and_once_ends_after_the_next_change() {
    let server = Server::start();
    server.put("p/a", b"1");
    let mut watch = Watch::start(&server, &["--prefix", "p/", "--json", "--once"]);
    assert_eq!(watch.line(), r#"{"event":"present","key":"p/a","value":"MQ==","flags":0,"index":11}"#);
    server.put("p/b", b"2");
    assert_eq!(watch.line(), r#"{"event":"set","key":"p/b","value":"Mg==","flags":0,"index":12}"#);
    assert_eq!(watch.end(), (Some(0), String::new()));
}

#[test]
fn a_watch_outlives_an_index_that_goes_back_and_a_lost_leader() {
    let server = Server::start();
    server.put("p/a", b"1");
    let mut watch = Watch::start(&server, &["--prefix", "p/"]);
    assert_eq!(watch.line(), "present p/a 11 1");
    // The query that waits must be there before the leader is lost.
    server.until(|s| s.seen.iter().any(|r| r.contains("index=11")));
    server.with(|s| s.is_leaderless = true);
    server.put("p/b", b"2");
    assert_eq!(watch.line(), "set p/b 12 2");
    let told = watch.note();
    assert!(told.contains("No cluster leader; trying again in 100ms"), "{told}");
    // A state restored from the past.
    server.with(|s| {
        s.is_leaderless = false;
        s.index = 4;
    });
    server.put("p/c", b"3");
    assert_eq!(watch.line(), "set p/c 5 3");
    server.put("p/c", b"4");
    assert_eq!(watch.line(), "set p/c 6 4");
    watch.child.kill().expect("kill");
    watch.child.wait().expect("wait");
}
