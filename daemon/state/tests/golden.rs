//! Transcripts: each file in `testdata` talks to one store. A line is a command or a question; the indented
//! lines below it are what came of it. UPDATE=1 rewrites the answers; review them with `git diff`.
//!
//! Words are separated by blanks; `""` is the empty word. Every command takes the next log index, from 2 on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{TestStore, encoded};
use konsul_state::{
    AuditEvent, AuditId, AuditRow, Changes, Command, Entry, KvWrite, Outcome, Restore, Role, StagedEntry, Token,
    TokenWrite, TxnEntry, TxnFailure, TxnOp, View,
};
use std::fmt::Write;
use std::path::{Path, PathBuf};

type TxnResult = Result<Vec<TxnEntry>, Vec<TxnFailure>>;

fn word(w: &str) -> &[u8] {
    if w == "\"\"" { b"" } else { w.as_bytes() }
}

fn number(w: &str) -> u64 {
    w.parse().unwrap()
}

fn kv_write(words: &[&'static str]) -> Option<KvWrite<'static>> {
    Some(match *words {
        ["set", key, value] => KvWrite::Set { key: word(key), value: word(value), flags: 0 },
        ["set", key, value, "flags", flags] => {
            KvWrite::Set { key: word(key), value: word(value), flags: number(flags) }
        }
        ["cas", key, value, "index", index] => {
            KvWrite::Cas { key: word(key), value: word(value), flags: 0, index: number(index) }
        }
        ["delete", key] => KvWrite::Delete { key: word(key) },
        ["delete-cas", key, "index", index] => KvWrite::DeleteCas { key: word(key), index: number(index) },
        ["delete-tree", prefix] => KvWrite::DeleteTree { prefix: word(prefix) },
        _ => return None,
    })
}

fn txn_op(words: &[&'static str]) -> TxnOp<'static> {
    match *words {
        ["get", key] => TxnOp::Get { key: word(key) },
        ["get-tree", prefix] => TxnOp::GetTree { prefix: word(prefix) },
        ["check-index", key, "index", index] => TxnOp::CheckIndex { key: word(key), index: number(index) },
        ["check-not-exists", key] => TxnOp::CheckNotExists { key: word(key) },
        _ => TxnOp::Write(kv_write(words).unwrap_or_else(|| panic!("unknown operation {words:?}"))),
    }
}

fn split(text: &'static str) -> Vec<Vec<&'static str>> {
    text.split(';').map(|op| op.split_whitespace().collect::<Vec<_>>()).filter(|op| !op.is_empty()).collect()
}

fn id(w: &str) -> [u8; 16] {
    [w.parse().unwrap(); 16]
}

fn token_id(w: &str) -> [u8; 8] {
    w.as_bytes().try_into().unwrap()
}

fn token_write(words: &[&'static str]) -> TokenWrite<'static> {
    let (by, from) = ("alice", "10.0.0.9:1");
    match *words {
        ["token", "create", id, "key", key, "as", role, "uses", uses, "at", at, "until", until] => TokenWrite::Create {
            id: token_id(id),
            key: [key.parse().unwrap(); 32],
            role: if role == "voter" { Role::Voter } else { Role::Learner },
            uses_max: uses.parse().unwrap(),
            created_ms: number(at),
            expires_ms: number(until),
            by,
            from,
        },
        ["token", "revoke", id, "at", at] => TokenWrite::Revoke { id: token_id(id), now_ms: number(at), by, from },
        ["token", "use", id, "by", name, "key", key, "at", at] => {
            let spki = [key.parse().unwrap(); 32];
            TokenWrite::Use { id: token_id(id), now_ms: number(at), name, spki, from: "10.0.0.7:2" }
        }
        _ => panic!("unknown change of a token {words:?}"),
    }
}

fn command(line: &'static str) -> Option<Command<'static>> {
    if let Some(ops) = line.strip_prefix("txn:") {
        return Some(Command::Txn(split(ops).iter().map(|op| txn_op(op)).collect()));
    }
    for (prefix, atomic) in [("batch atomic:", true), ("batch each:", false)] {
        if let Some(ops) = line.strip_prefix(prefix) {
            let ops = split(ops).iter().map(|op| kv_write(op).unwrap()).collect();
            return Some(Command::Batch { atomic, ops });
        }
    }
    if let Some(members) = line.strip_prefix("group:") {
        let encoded = |member: &'static str| &*encoded(&command(member.trim()).unwrap()).leak();
        return Some(Command::Group(members.split(';').map(encoded).collect()));
    }
    let words: Vec<_> = line.split_whitespace().collect();
    Some(match *words.as_slice() {
        ["form", cluster_id] => Command::Form { cluster_id: id(cluster_id), version: 1 },
        ["form", cluster_id, "at", version] => {
            Command::Form { cluster_id: id(cluster_id), version: version.parse().unwrap() }
        }
        ["check", "point"] => Command::CheckPoint,
        ["upgrade", "to", version] => Command::Upgrade { to: version.parse().unwrap() },
        ["admit", name, "as", wished] => Command::Admit { wished: number(wished), name },
        ["restore", "begin", i] => Command::Restore(Restore::Begin { id: id(i) }),
        ["restore", "stage", i, key, value, "created", created] => {
            let (key, value, create_index) = (word(key), word(value), number(created));
            let entries = vec![StagedEntry { key, value, flags: 0, create_index, lock_index: 0 }];
            Command::Restore(Restore::Stage { id: id(i), entries })
        }
        ["restore", "commit", i, "entries", n] => Command::Restore(Restore::Commit { id: id(i), entries: number(n) }),
        ["restore", "abort", i] => Command::Restore(Restore::Abort { id: id(i) }),
        ["token", ..] => Command::Token(token_write(&words)),
        ["audit", "add", event, "by", who, "at", time] => {
            let event = AuditEvent { time_ms: number(time), event, who, from: "here", what: "it", outcome: "ok" };
            Command::Audit(vec![event; 2])
        }
        ["record", "put", key, value, "index", index] => {
            Command::Record { key: word(key), value: word(value), index: number(index) }
        }
        ["retire", node_id] => Command::Retire { node_id: number(node_id) },
        _ => Command::Kv(kv_write(&words)?),
    })
}

fn txn_lines(result: &TxnResult) -> String {
    let entry = |e: &TxnEntry| {
        let key = String::from_utf8_lossy(&e.key);
        let value = e.value.as_ref().map_or_else(|| "-".into(), |v| format!("{:?}", String::from_utf8_lossy(v)));
        format!("{key} value {value} flags {} created {} modified {}", e.flags, e.create_index, e.modify_index)
    };
    match result {
        Ok(entries) if entries.is_empty() => "done, no results".to_owned(),
        Ok(entries) => entries.iter().map(entry).collect::<Vec<_>>().join("\n"),
        Err(failures) => failures.iter().map(|f| format!("op {}: {}", f.op, f.what)).collect::<Vec<_>>().join("\n"),
    }
}

fn outcome_lines(outcome: &Outcome) -> String {
    match outcome {
        Outcome::None => "done".to_owned(),
        Outcome::Written(held) => held.to_string(),
        Outcome::Txn(result) => txn_lines(result),
        Outcome::Batch { applied, results } => format!("applied {applied} {results:?}"),
        Outcome::Admitted { node_id } => format!("node {node_id}"),
        Outcome::Restored { entries } => format!("{entries} entries"),
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::TokenUsed(Ok(role)) => format!("joins as {}", role.word()),
        Outcome::TokenUsed(Err(refusal)) => format!("may not join: {refusal}"),
        Outcome::Group(members) => members.iter().map(outcome_lines).collect::<Vec<_>>().join("\n"),
    }
}

fn changed(changes: &Changes) -> String {
    if changes.all {
        return "changed everything".to_owned();
    }
    let mut keys: Vec<_> = changes.keys.iter().map(|k| String::from_utf8_lossy(k)).collect();
    if changes.cluster {
        keys.push("the cluster".into());
    }
    if keys.is_empty() { "changed nothing".to_owned() } else { format!("changed {}", keys.join(" ")) }
}

fn entry_line(e: &Entry<'_>) -> String {
    let (key, value) = (String::from_utf8_lossy(e.key), String::from_utf8_lossy(e.value));
    format!("{key} value {value:?} flags {} created {} modified {}\n", e.flags, e.create_index, e.modify_index)
}

fn question(node: &TestStore, line: &'static str) -> String {
    let view = node.store.view().unwrap();
    if let Some(ops) = line.strip_prefix("read:") {
        let ops: Vec<_> = split(ops).iter().map(|op| txn_op(op)).collect();
        return txn_lines(&view.txn(&ops).unwrap());
    }
    let words: Vec<_> = line.split_whitespace().collect();
    match *words.as_slice() {
        ["get", key] => {
            let (entry, index) = view.kv_get(word(key)).unwrap();
            format!("{}index {index}", entry.as_ref().map_or_else(|| "absent\n".to_owned(), entry_line))
        }
        ["list", prefix] => {
            let listed = view.kv_list(word(prefix)).unwrap();
            format!("{}index {}", listed.entries.iter().map(entry_line).collect::<String>(), listed.index)
        }
        ["keys", prefix, "separator", separator] => {
            let keys = view.kv_keys(word(prefix), word(separator)).unwrap();
            let names: String = keys.keys.iter().map(|k| String::from_utf8_lossy(k) + "\n").collect();
            format!("{names}index {}", keys.index)
        }
        _ => cluster_question(&view, words.as_slice()).unwrap_or_else(|| panic!("unknown line {line:?}")),
    }
}

fn cluster_question(view: &View, words: &[&str]) -> Option<String> {
    let rows = |rows: Vec<AuditRow<'_>>| rows.iter().map(audit_line).collect::<String>();
    Some(match *words {
        ["tokens"] => view.tokens().unwrap().iter().map(token_line).collect(),
        ["token?", id] => view.token(&token_id(id)).unwrap().as_ref().map_or_else(|| "absent".to_owned(), token_line),
        ["audit", "last", limit] => rows(view.audit(None, limit.parse().unwrap()).unwrap()),
        ["audit", "after", index, seq, "limit", limit] => {
            let after = AuditId { index: number(index), seq: seq.parse().unwrap() };
            rows(view.audit(Some(after), limit.parse().unwrap()).unwrap())
        }
        ["record", key] => match view.record(word(key)).unwrap() {
            Some((value, index)) => format!("{:?} modified {index}", String::from_utf8_lossy(value)),
            None => "absent".to_owned(),
        },
        ["version"] => view.cluster_version().unwrap().to_string(),
        ["nodes"] => {
            let nodes = view.nodes().unwrap();
            let mark = |retired: bool| if retired { " retired" } else { "" };
            nodes.iter().map(|n| format!("{} {}{}\n", n.id, n.name, mark(n.retired))).collect()
        }
        _ => return None,
    })
}

fn token_line(t: &Token) -> String {
    let revoked = t.revoked.as_ref().map_or_else(String::new, |r| format!(" revoked at {} by {}", r.at_ms, r.by));
    let uses: String = t.uses.iter().map(|u| format!("\n  {} from {} at {}", u.name, u.from, u.at_ms)).collect();
    let (id, role, of) = (t.id_text(), t.role.word(), t.uses_max);
    format!("{id} {role} {}/{of} {}..{} by {}{revoked}{uses}\n", t.uses.len(), t.created_ms, t.expires_ms, t.by)
}

fn audit_line(row: &AuditRow<'_>) -> String {
    let AuditEvent { time_ms, event, who, from, what, outcome } = row.event;
    format!("{}.{} at {time_ms} {event} by {who} from {from}: {what}: {outcome}\n", row.id.index, row.id.seq)
}

fn play(script: &'static str) -> String {
    let node = TestStore::new();
    let mut index = 1;
    let mut out = String::new();
    for line in script.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let answer = match command(line) {
            Some(command) => {
                index += 1;
                let (outcome, changes) = node.apply(index, &command);
                format!("{}\nindex {index}, {}", outcome_lines(&outcome), changed(&changes))
            }
            None => question(&node, line),
        };
        answer.lines().for_each(|line| writeln!(out, "  {line}").unwrap());
    }
    out
}

fn transcripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata");
    let paths = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    paths.sort();
    paths
}

#[test]
fn every_transcript_plays_as_recorded() {
    let paths = transcripts();
    assert!(!paths.is_empty());
    for path in paths {
        let recorded: &'static str = std::fs::read_to_string(&path).unwrap().leak();
        let played = play(recorded);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, played).unwrap();
        } else {
            assert_eq!(played, recorded, "{}; UPDATE=1 rewrites it", path.display());
        }
    }
}
