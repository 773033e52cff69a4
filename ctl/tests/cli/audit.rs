//! `audit --follow`.

use super::{run::konsulctl, server::Server};
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

#[test]
fn each_new_row_is_told_once_until_ctrl_c() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    server.with(|s| s.tell("token.create", "http client", "ok"));
    let mut command = konsulctl(&server, dir.path());
    command.args(["audit", "--follow", "--json"]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("run");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut told = || -> String {
        let line = lines.next().expect("a line").expect("read a line");
        let row: serde_json::Value = serde_json::from_str(&line).expect("json");
        format!("{} {}", row["id"].as_str().expect("id"), row["outcome"].as_str().expect("outcome"))
    };
    assert_eq!(told(), "1.0 ok");
    server.with(|s| {
        s.tell("join", "n4", "refused: bad_proof");
        s.tell("join", "n4", "ok");
    });
    assert_eq!([told(), told()], ["2.0 refused: bad_proof", "3.0 ok"]);
    server.with(|s| s.tell("join", "n5", "ok"));
    assert_eq!(told(), "4.0 ok");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    assert_eq!(child.wait().expect("wait").code(), Some(0));
    assert!(lines.next().is_none(), "nothing more was told");
}
