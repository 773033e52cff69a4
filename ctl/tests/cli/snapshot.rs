//! `snapshot save`, `restore` and `inspect`.

use super::{
    run::{assert_code, run, stderr, stdout},
    server::Server,
};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use std::fs;

const META: &[u8] = br#"{"Version":1,"ID":"2-508-1","Index":508,"Term":2,"Size":9}"#;

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// An archive whose sums are those of `summed`.
fn archive(state: &[u8], summed: &[u8]) -> Vec<u8> {
    let sums = format!("{}  meta.json\n{}  state.bin\n", sum(META), sum(summed));
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in [("meta.json", META), ("state.bin", state), ("SHA256SUMS", sums.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len()).expect("size"));
        header.set_mode(0o600);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes).expect("append");
    }
    tar.into_inner().expect("tar").finish().expect("gzip")
}

#[test]
fn a_saved_snapshot_is_verified_inspected_and_restored_byte_for_byte() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    let state = vec![7; 300_000];
    let bytes = archive(&state, &state);
    server.with(|s| s.snapshot = bytes.clone());
    assert_code(&run(&server, dir.path(), &["snapshot", "save", "--format", "consul", "b.snap"]), 0);
    assert_eq!(fs::read(dir.path().join("b.snap")).expect("read"), bytes);
    let output = run(&server, dir.path(), &["snapshot", "inspect", "b.snap", "--json"]);
    assert_code(&output, 0);
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("json");
    assert_eq!((&told["index"], &told["state_sha256"]), (&508.into(), &sum(&state).into()));

    server.with(|s| s.snapshot.clear());
    let output = run(&server, dir.path(), &["snapshot", "restore", "b.snap"]);
    assert_code(&output, 2);
    assert!(stderr(&output).contains("--yes"), "{}", stderr(&output));
    assert!(server.with(|s| s.snapshot.is_empty()));
    assert_code(&run(&server, dir.path(), &["snapshot", "restore", "b.snap", "--yes"]), 0);
    assert!(server.with(|s| s.snapshot == bytes));
}

#[test]
fn damaged_and_cut_snapshots_are_neither_saved_nor_restored() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    let mut cut = archive(b"the state", b"the state");
    cut.truncate(cut.len() - 4);
    for (bytes, reason) in
        [(archive(b"the state", b"other bytes"), "damaged"), (cut, "cut off"), (b"nonsense".to_vec(), "no snapshot")]
    {
        server.with(|s| s.snapshot = bytes.clone());
        let output = run(&server, dir.path(), &["snapshot", "save", "--format", "consul", "b.snap"]);
        assert_code(&output, 1);
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0, "a file was left");
        fs::write(dir.path().join("b.snap"), &bytes).expect("write");
        assert_code(&run(&server, dir.path(), &["snapshot", "restore", "b.snap", "--yes"]), 4);
        assert!(server.with(|s| s.seen.iter().all(|r| !r.starts_with("PUT"))), "it was sent to the server");
        fs::remove_file(dir.path().join("b.snap")).expect("remove");
    }
}
