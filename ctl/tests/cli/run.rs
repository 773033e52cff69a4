//! Runs the program.

use super::server::Server;
use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// The program, asking `server`, in `dir`.
pub(crate) fn konsulctl(server: &Server, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_konsulctl"));
    command.env_remove("CONSUL_HTTP_ADDR").env("KONSUL_HTTP_ADDR", server.url()).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs it with arguments to its end.
pub(crate) fn run(server: &Server, dir: &Path, args: &[&str]) -> Output {
    konsulctl(server, dir).args(args).output().expect("run konsulctl")
}

/// Runs it with bytes on stdin.
pub(crate) fn run_with(server: &Server, dir: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = konsulctl(server, dir);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run konsulctl");
    child.stdin.take().expect("stdin").write_all(stdin).expect("write stdin");
    child.wait_with_output().expect("wait")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails with what it said unless it ended with this code.
#[track_caller]
pub(crate) fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}
