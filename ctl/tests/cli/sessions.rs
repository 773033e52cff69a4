//! Golden sessions: `testdata/*.txt` hold shell lines and what they print; `UPDATE=1` rewrites them.

use super::{
    run::{assert_code, konsulctl, run, stderr, stdout},
    server::Server,
};
use std::{fs, path::Path, process::Command};

/// Plays the `$` lines of a session on the server and compares everything that is printed.
fn play(name: &str, server: &Server) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata").join(format!("{name}.txt"));
    let golden = fs::read_to_string(&path).expect("read the session");
    let dir = tempfile::tempdir().expect("directory");
    let mut played = String::new();
    for line in golden.lines().filter(|l| l.starts_with(['#', '$'])) {
        let follows_comment = played.lines().last().is_none_or(|l| l.starts_with('#'));
        played += if follows_comment { "" } else { "\n" };
        played += &format!("{line}\n");
        if let Some(command) = line.strip_prefix("$ ") {
            played += &shell(command, server, dir.path());
        }
    }
    let played = played.replace(&server.url(), "http://127.0.0.1:_PORT");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &played).expect("write the session");
    }
    assert_eq!(played, golden.replace("\r\n", "\n"), "the session {name} has changed; UPDATE=1 rewrites it");
}

fn shell(command: &str, server: &Server, dir: &Path) -> String {
    let script = format!("konsulctl() {{ \"$KONSULCTL\" \"$@\"; }}\n{command}");
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("KONSULCTL", env!("CARGO_BIN_EXE_konsulctl"))
        .env("KONSUL_HTTP_ADDR", server.url())
        .env_remove("CONSUL_HTTP_ADDR")
        .env("COLUMNS", "100")
        .current_dir(dir)
        .output()
        .expect("run sh");
    let mut text = stdout(&output);
    for line in stderr(&output).lines() {
        text += format!("! {line}").trim_end();
        text += "\n";
    }
    match output.status.code() {
        Some(0) => text,
        code => format!("{text}? {}\n", code.expect("an exit code")),
    }
}

#[test]
fn keys_are_read_and_written_as_in_the_golden_session() {
    play("kv", &Server::start());
}

#[test]
fn the_cluster_is_shown_as_in_the_golden_session() {
    play("cluster", &Server::start());
}

#[test]
fn tokens_and_the_audit_are_shown_as_in_the_golden_session() {
    let server = Server::start();
    server.with(|s| {
        s.tell("token.create", "http client", "ok");
        s.tell("join", "", "refused: bad_proof");
        s.tell("join", "n4\x1b[31m", "ok");
    });
    play("tokens", &server);
}

#[test]
fn the_authority_is_shown_and_replaced_as_in_the_golden_session() {
    play("ca", &Server::start());
}

#[test]
fn an_audit_of_nothing_is_said_to_be_one() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    let output = run(&server, dir.path(), &["audit"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "nothing has happened yet\n");
}

#[test]
fn a_cluster_without_a_leader_is_explained_as_in_the_golden_session() {
    let server = Server::start();
    server.with(|s| {
        s.is_leaderless = true;
        s.unready = vec!["no leader is known".to_owned(), "2 of 3 nodes are unreachable".to_owned()];
    });
    play("leaderless", &server);
}

#[test]
fn wrong_usage_is_refused_with_code_2_as_in_the_golden_session() {
    play("usage", &Server::start());
}

#[test]
fn the_next_server_is_asked_when_the_first_cannot_be_reached() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    server.put("a", b"1");
    let servers = format!("http://127.0.0.1:1,{}", server.url());
    let output = run(&server, dir.path(), &["--server", &servers, "kv", "get", "a"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "1\n");
}

#[test]
fn consuls_variable_is_used_where_konsuls_is_absent() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    server.put("a", b"1");
    let mut command = konsulctl(&server, dir.path());
    command.env_remove("KONSUL_HTTP_ADDR").env("CONSUL_HTTP_ADDR", server.address.to_string());
    let output = command.args(["kv", "get", "a"]).output().expect("run");
    assert_code(&output, 0);
}

#[test]
fn man_pages_and_completions_are_made_for_every_command() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    assert_code(&run(&server, dir.path(), &["man", "."]), 0);
    for page in ["konsulctl.1", "konsulctl-kv-import.1", "konsulctl-bench-put.1"] {
        let text = fs::read_to_string(dir.path().join(page)).expect(page);
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&server, dir.path(), &["completion", shell]);
        assert!(stdout(&output).contains("transfer-leadership"), "{shell}");
    }
}
