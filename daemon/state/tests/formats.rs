//! Bytes written by every released version still mean the same. A line of a file is `name:hex`. UPDATE=1 adds lines
//! for new names; it never changes a line, because log entries are for ever.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "../../tests/mangled/mod.rs"]
mod mangled;

use common::{TestStore, encoded};
use konsul_state::{
    AuditEvent, Command, Index, KvWrite, Loader, Outcome, Reader, Record, Restore, Role, StagedEntry, TokenRefusal,
    TokenWrite, TxnEntry, TxnFailure, TxnOp, Writer,
};
use mangled::survive;
use std::collections::BTreeMap;
use std::path::PathBuf;

const ID: [u8; 16] = *b"0123456789abcdef";

fn commands() -> Vec<(&'static str, Command<'static>)> {
    let (key, value, flags) = (b"a/b".as_slice(), b"\x00value\xff".as_slice(), u64::MAX);
    let set = KvWrite::Set { key, value, flags };
    vec![
        ("set", Command::Kv(set)),
        ("cas", Command::Kv(KvWrite::Cas { key, value, flags: 3, index: 300 })),
        ("delete", Command::Kv(KvWrite::Delete { key })),
        ("delete-cas", Command::Kv(KvWrite::DeleteCas { key, index: 1 << 40 })),
        ("delete-tree", Command::Kv(KvWrite::DeleteTree { prefix: b"" })),
        (
            "txn",
            Command::Txn(vec![
                TxnOp::Write(set),
                TxnOp::Write(KvWrite::DeleteTree { prefix: b"a/" }),
                TxnOp::Get { key },
                TxnOp::GetTree { prefix: b"a" },
                TxnOp::CheckIndex { key, index: 128 },
                TxnOp::CheckNotExists { key },
            ]),
        ),
        ("batch-atomic", Command::Batch { atomic: true, ops: vec![set, KvWrite::Delete { key }] }),
        ("batch-each", Command::Batch { atomic: false, ops: Vec::new() }),
        ("form", Command::Form { cluster_id: ID, version: 1 }),
        ("form-at", Command::Form { cluster_id: ID, version: 2 }),
        ("admit", Command::Admit { wished: 7, name: "node-é" }),
        ("restore-begin", Command::Restore(Restore::Begin { id: ID })),
        (
            "restore-stage",
            Command::Restore(Restore::Stage {
                id: ID,
                entries: vec![StagedEntry { key, value, flags: 5, create_index: 200, lock_index: 3 }],
            }),
        ),
        ("restore-commit", Command::Restore(Restore::Commit { id: ID, entries: 1_000_000 })),
        ("restore-abort", Command::Restore(Restore::Abort { id: ID })),
        ("token-create-voter", Command::Token(token_create(Role::Voter))),
        ("token-create-learner", Command::Token(token_create(Role::Learner))),
        ("token-revoke", Command::Token(TOKEN_REVOKE)),
        ("token-use", Command::Token(TOKEN_USE)),
        ("audit", Command::Audit(vec![AUDIT_EVENT, AuditEvent::default()])),
        ("record", Command::Record { key: b"ca", value: b"\x00value\xff", index: 300 }),
        ("retire", Command::Retire { node_id: 1 << 40 }),
        ("check-point", Command::CheckPoint),
        ("upgrade", Command::Upgrade { to: 300 }),
        ("group", Command::Group(vec![b"\x01\x01\x03\x01a", b"\x01\x01\x03\x01b"])),
    ]
}

fn token_create(role: Role) -> TokenWrite<'static> {
    TokenWrite::Create {
        id: *b"abcdefg2",
        key: [7; 32],
        role,
        uses_max: 1_000,
        created_ms: 1_700_000_000_000,
        expires_ms: 1_700_000_060_000,
        by: "alice",
        from: "10.0.0.1:5000",
    }
}

const TOKEN_REVOKE: TokenWrite<'_> =
    TokenWrite::Revoke { id: *b"abcdefg2", now_ms: 1_700_000_000_002, by: "bob", from: "10.0.0.2:5000" };
const TOKEN_USE: TokenWrite<'_> = TokenWrite::Use {
    id: *b"abcdefg2",
    now_ms: 1_700_000_000_001,
    name: "node-é",
    spki: [9; 32],
    from: "10.0.0.3:5000",
};
const AUDIT_EVENT: AuditEvent<'_> = AuditEvent {
    time_ms: 1_700_000_000_003,
    event: "member.remove",
    who: "alice",
    from: "10.0.0.1:5000",
    what: "node 7",
    outcome: "ok",
};

fn outcomes() -> Vec<(&'static str, Outcome)> {
    let entry = |value: Option<&[u8]>| TxnEntry {
        key: b"a/b".to_vec(),
        value: value.map(<[u8]>::to_vec),
        flags: u64::MAX,
        lock_index: 1,
        create_index: 200,
        modify_index: 300,
    };
    let failure = TxnFailure { op: 63, what: "key \"a\" doesn't exist".to_owned() };
    vec![
        ("none", Outcome::None),
        ("written", Outcome::Written(true)),
        ("not-written", Outcome::Written(false)),
        ("txn", Outcome::Txn(Ok(vec![entry(None), entry(Some(b"value"))]))),
        ("txn-failed", Outcome::Txn(Err(vec![failure]))),
        ("batch", Outcome::Batch { applied: false, results: vec![true, false] }),
        ("admitted", Outcome::Admitted { node_id: 300 }),
        ("restored", Outcome::Restored { entries: 1_000_000 }),
        ("refused", Outcome::Refused("because".to_owned())),
        ("token-voter", Outcome::TokenUsed(Ok(Role::Voter))),
        ("token-learner", Outcome::TokenUsed(Ok(Role::Learner))),
        ("token-unknown", Outcome::TokenUsed(Err(TokenRefusal::Unknown))),
        ("token-expired", Outcome::TokenUsed(Err(TokenRefusal::Expired))),
        ("token-used-up", Outcome::TokenUsed(Err(TokenRefusal::UsedUp))),
        ("token-revoked", Outcome::TokenUsed(Err(TokenRefusal::Revoked))),
        ("group", Outcome::Group(vec![Outcome::Written(true), Outcome::Refused("because".to_owned())])),
    ]
}

/// The recorded lines of a file; with UPDATE=1 also those of `current` that it lacks.
fn recorded(file: &str, current: &BTreeMap<&str, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/formats").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let line = |line: &str| {
        let (name, bytes) = line.split_once(':').unwrap();
        (name.to_owned(), unhex(bytes))
    };
    let mut lines: BTreeMap<String, Vec<u8>> = text.lines().map(line).collect();
    if std::env::var_os("UPDATE").is_some() {
        for (name, bytes) in current {
            lines.entry((*name).to_owned()).or_insert_with(|| bytes.clone());
        }
        let text: String = lines.iter().map(|(name, bytes)| format!("{name}:{}\n", hex(bytes))).collect();
        std::fs::write(&path, text).unwrap();
    }
    assert!(lines.keys().eq(current.keys()), "{file} and the test name different things; UPDATE=1 adds new ones");
    lines
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks_exact(2).map(|pair| u8::try_from(16 * pair[0] + pair[1]).unwrap()).collect()
}

#[test]
fn commands_of_format_1_mean_what_they_meant() {
    let current = commands().iter().map(|(name, command)| (*name, encoded(command))).collect();
    let recorded = recorded("v1-commands.txt", &current);
    for (name, command) in commands() {
        let bytes = &recorded[name];
        assert_eq!(Command::decode(bytes).as_ref(), Ok(&command), "{name}");
        assert_eq!(encoded(&command), *bytes, "{name}: other nodes of this version write and read these bytes");
    }
}

#[test]
fn outcomes_of_format_1_mean_what_they_meant() {
    let encoded = |outcome: &Outcome| {
        let mut out = Writer::new();
        outcome.encode(&mut out);
        out.into_vec()
    };
    let current = outcomes().iter().map(|(name, outcome)| (*name, encoded(outcome))).collect();
    let recorded = recorded("v1-outcomes.txt", &current);
    for (name, outcome) in outcomes() {
        let bytes = &recorded[name];
        let mut from = Reader::new(bytes);
        assert_eq!(Outcome::decode(&mut from).as_ref(), Ok(&outcome), "{name}");
        assert_eq!(from.end(name), Ok(()));
        assert_eq!(encoded(&outcome), *bytes, "{name}");
    }
}

/// A store with a record of every table and kind.
fn full_store() -> TestStore {
    let node = TestStore::new();
    node.apply(2, &Command::Form { cluster_id: ID, version: 1 });
    node.apply(3, &Command::Admit { wished: 1, name: "node-1" });
    node.apply(4, &Command::Kv(KvWrite::Set { key: b"a/b", value: b"value", flags: 7 }));
    node.apply(5, &Command::Kv(KvWrite::Set { key: b"a/gone", value: b"", flags: 0 }));
    node.apply(6, &Command::Kv(KvWrite::Delete { key: b"a/gone" }));
    node.apply(7, &Command::Restore(Restore::Begin { id: ID }));
    let staged = StagedEntry { key: b"staged", value: b"value", flags: 9, create_index: 300, lock_index: 3 };
    node.apply(8, &Command::Restore(Restore::Stage { id: ID, entries: vec![staged] }));
    let mut batch = node.store.batch().unwrap();
    batch.set_position(Index::new(9), b"log-9", Some(b"members")).unwrap();
    batch.commit().unwrap();
    node
}

/// A record of every table and kind that came with the cluster's own records.
fn cluster_store() -> TestStore {
    let node = TestStore::new();
    node.apply(2, &Command::Admit { wished: 1, name: "node-1" });
    node.apply(3, &Command::Admit { wished: 2, name: "node-2" });
    node.apply(4, &Command::Retire { node_id: 2 });
    node.apply(5, &Command::Token(token_create(Role::Learner)));
    node.apply(6, &Command::Token(TOKEN_USE));
    node.apply(7, &Command::Token(TOKEN_REVOKE));
    node.apply(8, &Command::Audit(vec![AUDIT_EVENT, AuditEvent::default()]));
    node.apply(9, &Command::Record { key: b"ca", value: b"value", index: 0 });
    node
}

/// The records of `node`, checked against those of the file, and a store that was filled from the file.
fn loaded_from(file: &str, node: &TestStore) -> TestStore {
    let mut named = Vec::new();
    let collect = |r: Record<'_>| {
        named.push((format!("{} {}", r.table, hex(r.key)), r.value.to_vec()));
        Ok::<(), konsul_state::StateError>(())
    };
    node.store.view().unwrap().records(collect).unwrap();
    let current = named.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let recorded = recorded(file, &current);

    let loaded = TestStore::new();
    let mut loader = Loader::new(&loaded.store).unwrap();
    for (name, value) in &recorded {
        let (table, key) = name.split_once(' ').unwrap();
        loader.put(Record { table: table.parse().unwrap(), key: &unhex(key), value }).unwrap();
    }
    loader.finish().unwrap();
    loaded
}

/// Of a store without tokens, audit, records of the cluster and retired nodes: they came later, under the same format.
#[test]
fn records_of_format_1_load_and_read_as_they_were_written() {
    let node = full_store();
    let loaded = loaded_from("v1-records.txt", &node);
    let (loaded, written) = (loaded.store.view().unwrap(), node.store.view().unwrap());
    assert_eq!(loaded.kv_list(b"").unwrap().entries, written.kv_list(b"").unwrap().entries);
    assert_eq!(loaded.kv_list(b"a/gone").unwrap().index, Index::new(6));
    assert_eq!(loaded.applied().unwrap(), Index::new(9));
    assert_eq!(loaded.position().unwrap(), written.position().unwrap());
    assert_eq!(loaded.cluster_id().unwrap(), Some(ID));
    assert_eq!(loaded.digest().unwrap(), written.digest().unwrap());
    let digest = "e1349b5baec7f0c4596a8d31f45409ecf14a303bb478db20326e37fbecc347f1";
    assert_eq!(loaded.digest().unwrap().to_string(), digest, "nodes compare digests across versions");
}

#[test]
fn records_of_the_cluster_load_and_read_as_they_were_written() {
    let node = cluster_store();
    let loaded = loaded_from("v1-cluster-records.txt", &node);
    let (loaded, written) = (loaded.store.view().unwrap(), node.store.view().unwrap());
    assert_eq!(loaded.nodes().unwrap(), written.nodes().unwrap());
    assert!(loaded.is_retired(2).unwrap() && !loaded.is_retired(1).unwrap());
    assert_eq!(loaded.node(2).unwrap().unwrap().name, "node-2");
    let tokens = loaded.tokens().unwrap();
    assert_eq!(tokens, written.tokens().unwrap());
    assert!(tokens[0].revoked.is_some() && tokens[0].uses.len() == 1);
    assert_eq!(loaded.audit(None, 99).unwrap(), written.audit(None, 99).unwrap());
    assert_eq!(loaded.audit(None, 99).unwrap().len(), 5);
    assert_eq!(loaded.record(b"ca").unwrap(), Some((&b"value"[..], Index::new(9))));
    assert_eq!(loaded.digest().unwrap(), written.digest().unwrap());
    let digest = "f780d0c882bc3d6f7568520210f25fb80f36a25f97a02b3a050b6af52904795e";
    assert_eq!(loaded.digest().unwrap().to_string(), digest, "nodes compare digests across versions");
}

/// Every recorded line of a file.
fn lines_of(file: &str) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/formats").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| unhex(line.split_once(':').unwrap().1)).collect()
}

#[test]
fn mangled_commands_and_outcomes_are_refused_without_a_panic() {
    survive(&lines_of("v1-commands.txt"), |bytes| drop(Command::decode(bytes)));
    survive(&lines_of("v1-outcomes.txt"), |bytes| drop(Outcome::decode(&mut Reader::new(bytes))));
}

#[test]
fn a_mangled_command_is_applied_whole_or_refused_without_a_panic() {
    let node = TestStore::new();
    let mut index = 2;
    survive(&lines_of("v1-commands.txt"), |bytes| {
        index += 1;
        let mut batch = node.store.batch().unwrap();
        if batch.apply(Index::new(index), bytes).is_ok() {
            batch.commit().unwrap();
        }
    });
}
