//! The admin socket: the same API for the administrators of this host, who are known by their processes.

use crate::launch::{Daemon, Manager, Service, free_address};
use crate::support::wait_until;
use rustix::process::{getgid, getuid};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Status code and body.
fn ask(socket: &Path, method: &str, path: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

fn entered(manager: &Manager, more: &[&str]) -> Vec<String> {
    let mut args = manager.alone(free_address());
    let rpc = free_address().to_string();
    args.extend(["--set", "cluster.form=init", "--rpc", &rpc].map(str::to_owned));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args
}

fn ready(socket: &Path) {
    wait_until("the node is ready", || match ask(socket, "GET", "/health/ready") {
        (200, _) => Ok(()),
        (code, body) => Err(format!("{code} {body}")),
    });
}

fn stop(mut daemon: Daemon) {
    daemon.stop();
}

#[test]
fn administrators_of_this_host_form_a_cluster_and_the_audit_knows_their_process() {
    let manager = Manager::new();
    let path = manager.path("admin.sock");
    let held = UnixListener::bind(&path).unwrap();
    let sockets = vec![("admin", held.try_clone().unwrap().into())];
    let daemon = manager.start(Service { args: entered(&manager, &[]), sockets, ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    let (code, body) = ask(&path, "POST", "/v1/cluster/init");
    assert_eq!(code, 200, "{body}");
    ready(&path);
    let (code, status) = ask(&path, "GET", "/v1/cluster/status");
    assert_eq!(code, 200, "{status}");
    let listening = status["node"]["listening"].as_array().unwrap();
    let admin = listening.iter().find(|l| l["name"] == "admin").unwrap();
    assert_eq!(admin["held_by"], "service manager");
    assert_eq!(admin["address"], path.to_str().unwrap());

    let (code, token) = ask(&path, "POST", "/v1/cluster/join-token");
    assert_eq!(code, 200, "{token}");
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let me = format!("uid {uid} gid {gid} pid {}", std::process::id());
    wait_until("the audit tells who made the token", || {
        let (_, audit) = ask(&path, "GET", "/v1/cluster/audit");
        let text = audit.to_string();
        if text.contains(&me) && text.contains("admin socket") { Ok(()) } else { Err(text) }
    });
    stop(daemon);
    assert!(path.exists(), "a socket that was passed is not ours to remove");
}

#[test]
fn without_a_service_manager_it_makes_the_socket_itself_and_removes_it() {
    let manager = Manager::new();
    let path = manager.path("admin.sock");
    // Of a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let set = format!("http.admin_socket={}", path.display());
    let args = entered(&manager, &["--set", &set]);
    let daemon = manager.start(Service { args: args.clone(), ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    let (code, _) = ask(&path, "GET", "/health/live");
    assert_eq!(code, 200);
    let found = fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o007, 0, "nobody else may connect");
    stop(daemon);
    assert!(!path.exists());

    fs::write(&path, "not a socket").unwrap();
    let mut daemon = manager.start(Service { args, ..Service::default() });
    assert_eq!(daemon.ended().code(), Some(1));
    assert!(daemon.log_text().contains("is there and is no socket"), "{}", daemon.log_text());
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
}
