//! `kv export` and `kv import`.

use super::{
    run::{assert_code, run, run_with, stderr, stdout},
    server::Server,
};
use std::{fs, path::Path};
use tempfile::{TempDir, tempdir};

fn set_up() -> (Server, TempDir) {
    (Server::start(), tempdir().expect("directory"))
}

/// Lines of a file with that many keys.
fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{{\"key\":\"k/{n:05}\",\"value\":\"dg==\",\"flags\":{n}}}\n")).collect()
}

/// Everything but the indexes, which belong to the server.
fn content(server: &Server) -> Vec<(String, Vec<u8>, u64)> {
    server.with(|s| s.entries.values().map(|e| (e.key.clone(), e.value.clone(), e.flags)).collect())
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let (from, dir) = set_up();
    from.put("a\nb/ü", b"\x00\xff");
    from.put("empty", b"");
    from.put("large", &vec![7; 500 * 1024]);
    for n in 0..2000 {
        from.put(&format!("many/{n}"), format!("value {n}").as_bytes());
    }
    let output = run(&from, dir.path(), &["kv", "export", "--output", "all.ndjson"]);
    assert_code(&output, 0);
    assert_eq!(stderr(&output), "2003 keys exported\n");
    let to = Server::start();
    let output = run(&to, dir.path(), &["kv", "import", "all.ndjson"]);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "2003 keys imported\n");
    assert_eq!(content(&from), content(&to));
    let batches = to.with(|s| s.seen.iter().filter(|r| r.starts_with("PUT /v1/batch")).count());
    assert!((4..=10).contains(&batches), "{batches} batches for 2003 keys");
}

#[test]
fn consuls_own_export_is_imported_under_another_prefix() {
    let (server, dir) = set_up();
    let array = br#"[{"key":"a","flags":5,"value":"MQ=="},{"key":"b","flags":0,"value":""}]"#;
    let output = run_with(&server, dir.path(), &["kv", "import", "-", "--prefix", "copy/", "--json"], array);
    assert_code(&output, 0);
    assert_eq!(content(&server), [("copy/a".into(), b"1".to_vec(), 5), ("copy/b".into(), Vec::new(), 0)]);
}

#[test]
fn an_import_that_was_stopped_goes_on_where_it_stopped() {
    let (server, dir) = set_up();
    fs::write(dir.path().join("f"), lines(1000)).expect("write");
    server.with(|s| s.writes_left = Some(3));
    let output = run(&server, dir.path(), &["kv", "import", "f", "--batch", "100", "--in-flight", "1"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("300 entries are in; go on with --resume"), "{}", stderr(&output));
    assert!(stderr(&output).contains("no more writes"), "{}", stderr(&output));
    let state = fs::read_to_string(dir.path().join("f.import-state")).expect("state");
    assert!(state.contains("\"confirmed\":300"), "{state}");

    server.with(|s| {
        s.writes_left = None;
        s.entries.clear();
    });
    let output = run(&server, dir.path(), &["kv", "import", "f", "--batch", "100", "--resume", "--json"]);
    assert_code(&output, 0);
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("json");
    assert_eq!(told, serde_json::json!({"imported": 700, "skipped": 300}));
    let keys = content(&server);
    assert_eq!((keys.len(), keys[0].0.as_str(), keys[0].2), (700, "k/00300", 300));
    assert!(!dir.path().join("f.import-state").exists(), "nothing is left to resume");
}

#[test]
fn no_entry_is_lost_when_one_of_several_batches_under_way_fails() {
    let (server, dir) = set_up();
    fs::write(dir.path().join("f"), lines(1000)).expect("write");
    server.with(|s| s.writes_left = Some(5));
    assert_code(&run(&server, dir.path(), &["kv", "import", "f", "--batch", "50", "--in-flight", "4"]), 1);
    server.with(|s| s.writes_left = None);
    assert_code(&run(&server, dir.path(), &["kv", "import", "f", "--resume"]), 0);
    assert_eq!(content(&server).len(), 1000);
}

#[test]
fn an_import_is_never_resumed_in_another_file() {
    let (server, dir) = set_up();
    fs::write(dir.path().join("f"), lines(10)).expect("write");
    server.with(|s| s.writes_left = Some(1));
    assert_code(&run(&server, dir.path(), &["kv", "import", "f", "--batch", "2"]), 1);
    fs::write(dir.path().join("f"), lines(11)).expect("write");
    let output = run(&server, dir.path(), &["kv", "import", "f", "--resume"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("f has changed"), "{}", stderr(&output));
    fs::write(dir.path().join("f"), lines(10)).expect("write");
    let output = run(&server, dir.path(), &["kv", "import", "f", "--resume", "--prefix", "p/"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("resume it with the same"), "{}", stderr(&output));
}

#[test]
fn the_later_line_of_a_key_wins_though_batches_go_together() {
    let (server, dir) = set_up();
    let text: String = (0..200).map(|n| format!("{{\"key\":\"k/{}\",\"flags\":{n}}}\n", n % 10)).collect();
    fs::write(dir.path().join("f"), text).expect("write");
    assert_code(&run(&server, dir.path(), &["kv", "import", "f", "--batch", "7", "--in-flight", "8"]), 0);
    let flags: Vec<u64> = content(&server).iter().map(|(_, _, flags)| *flags).collect();
    assert_eq!(flags, (190..200).collect::<Vec<u64>>());
}

#[test]
fn a_damaged_file_is_named_by_its_entry_and_what_came_before_is_kept() {
    let (server, dir) = set_up();
    fs::write(dir.path().join("f"), lines(5) + "{\"key\":\"k/x\",\"value\":\"???\"}\n").expect("write");
    let output = run(&server, dir.path(), &["kv", "import", "f", "--batch", "1"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("entry 6"), "{}", stderr(&output));
    fs::write(dir.path().join("f"), lines(5) + "{\"key\":\"k/x\"").expect("write");
    let output = run(&server, dir.path(), &["kv", "import", "f"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("ends in the middle of entry 6"), "{}", stderr(&output));
}

#[test]
fn an_answer_that_is_cut_off_leaves_no_export_behind() {
    let (server, dir) = set_up();
    for n in 0..10 {
        server.put(&format!("k/{n}"), b"v");
    }
    fs::write(dir.path().join("old"), "old").expect("write");
    server.with(|s| s.cuts_answers = true);
    let output = run(&server, dir.path(), &["kv", "export", "--output", "old"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("incomplete"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(dir.path().join("old")).expect("read"), "old");
    assert_eq!(names(dir.path()), ["old"]);
}

#[test]
fn exporting_to_a_reader_that_goes_away_is_no_failure() {
    let (server, dir) = set_up();
    for n in 0..50 {
        server.put(&format!("k/{n}"), &[7; 20_000]);
    }
    let mut command = super::run::konsulctl(&server, dir.path());
    command.args(["kv", "export"]).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("run");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("list")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
