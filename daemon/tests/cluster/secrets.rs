//! Where secrets are not: in backups, in the log, in the replicated state.

use crate::support::wait::so;
use crate::support::{Cluster, Node, wait_until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

struct Ended<'n>(&'n Node);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.kill9();
    }
}

fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

/// All files below, with what is in them.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found
}

fn pem_body(path: &Path) -> Vec<u8> {
    let text = fs::read_to_string(path).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).unwrap()
}

#[test]
fn a_backup_holds_no_secret_and_the_replicated_state_none_in_clear() {
    // For its directory: the node founds a cluster of its own.
    let place = Cluster::start(1);
    let node = place.stranger(4, "[cluster]\nform = \"init\"\n");
    node.start();
    let _ended = Ended(&node);
    wait_until("a cluster is founded", || {
        let reply = node.client().request("POST", "/v1/cluster/init", b"").map_err(|error| error.to_string())?;
        so(reply.status == 200, reply.to_string())
    });
    let made = node.client().request("POST", "/v1/cluster/join-token", b"{}").unwrap();
    let made: serde_json::Value = made.json();
    let token = made["token"].as_str().unwrap();
    let secret = token.split('.').nth(2).unwrap();
    assert!(node.client().put("a", "", b"the value of a key").unwrap().is_true());

    let sealing = fs::read_to_string(node.data_dir.join("secrets/sealing.key")).unwrap();
    let sealing = sealing.lines().find_map(|line| line.strip_prefix("konsul-sealing-key-v1 ")).unwrap().trim();
    let raw: Vec<u8> =
        (0..sealing.len()).step_by(2).map(|at| u8::from_str_radix(&sealing[at..at + 2], 16).unwrap()).collect();
    assert_eq!(raw.len(), 32);
    let key = pem_body(&node.data_dir.join("tls/node.key"));
    let secrets = [
        ("sealing key", &raw[..]),
        ("sealing key in hex", sealing.as_bytes()),
        ("node key", &key),
        ("token", secret.as_bytes()),
    ];

    let archive = node.client().get("/v1/snapshot").unwrap();
    assert_eq!(archive.status, 200);
    let mut backup = Vec::new();
    GzDecoder::new(&archive.body[..]).read_to_end(&mut backup).unwrap();
    assert!(holds(&backup, b"the value of a key"), "the search finds what is there");
    for (what, secret) in secrets {
        assert!(!holds(&backup, secret), "the backup holds the {what}");
    }
    // Not even what is public of the authority, or sealed.
    assert!(!holds(&backup, &pem_body(&node.data_dir.join("tls/ca.pem"))), "the backup holds the authority");

    // The log and the state hold the authority, but its key is sealed under one that is elsewhere.
    node.terminate();
    let ca = pem_body(&node.data_dir.join("tls/ca.pem"));
    let replicated: Vec<_> =
        ["raft", "snap"].into_iter().map(|dir| node.data_dir.join(dir)).filter(|dir| dir.exists()).collect();
    let replicated: Vec<_> = replicated.iter().chain([&node.state_dir]).flat_map(|dir| files(dir)).collect();
    assert!(replicated.iter().any(|(_, bytes)| holds(bytes, &ca)), "the search finds what is there");
    for (path, bytes) in replicated {
        for (what, secret) in secrets {
            assert!(!holds(&bytes, secret), "{} holds the {what}", path.display());
        }
    }
}
