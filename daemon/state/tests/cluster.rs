//! The cluster's own tables: tokens against a model, bounds, and stores of a version that had none of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{TestStore, encoded};
use heed::CommitOrAbort;
use heed::types::Bytes;
use konsul_state::{
    AUDIT_EVENTS_MAX, AUDIT_ROWS_MAX, AUDIT_TEXT_BYTES_MAX, AuditEvent, AuditId, Changes, Command, Index, KvWrite,
    Loader, Outcome, RECORD_BYTES_MAX, Record, Role, StateError, Store, TOKEN_USES_MAX, TOKENS_MAX, TokenRefusal,
    TokenWrite,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

const EVENT: AuditEvent<'_> =
    AuditEvent { time_ms: 1, event: "test.event", who: "somebody", from: "somewhere", what: "it", outcome: "ok" };

fn create(id: [u8; 8], uses_max: u32, created_ms: u64, expires_ms: u64) -> Command<'static> {
    let (role, key, by, from) = (Role::Voter, [1; 32], "alice", "here");
    Command::Token(TokenWrite::Create { id, key, role, uses_max, created_ms, expires_ms, by, from })
}

fn spend(id: [u8; 8], now_ms: u64, key: u8) -> Command<'static> {
    Command::Token(TokenWrite::Use { id, now_ms, name: "node", spki: [key; 32], from: "there" })
}

fn revoke(id: [u8; 8], now_ms: u64) -> Command<'static> {
    Command::Token(TokenWrite::Revoke { id, now_ms, by: "alice", from: "here" })
}

/// The id with this number.
fn numbered(n: u64) -> [u8; 8] {
    let mut rest = n;
    [0; 8].map(|_| {
        let digit = b"abcdefghijklmnopqrstuvwxyz234567"[usize::try_from(rest % 32).unwrap()];
        rest /= 32;
        digit
    })
}

fn audit_len(node: &TestStore) -> usize {
    node.store.view().unwrap().audit(None, usize::MAX).unwrap().len()
}

#[derive(Debug, Clone)]
enum Step {
    Create { token: u8, uses: u32, life: u64 },
    Use { token: u8, key: u8 },
    Revoke { token: u8 },
}

/// What a token may still do, in the plainest words.
#[derive(Debug)]
struct ModelToken {
    expires: u64,
    left: u32,
    revoked: bool,
    joined: BTreeSet<u8>,
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let token = || 0..3u8;
    let step = prop_oneof![
        2 => (token(), 1..4u32, 1..30u64).prop_map(|(token, uses, life)| Step::Create { token, uses, life }),
        5 => (token(), 0..5u8).prop_map(|(token, key)| Step::Use { token, key }),
        1 => token().prop_map(|token| Step::Revoke { token }),
    ];
    (0..6u64, step)
}

/// The command of a step, what shall come of it, and how many rows it leaves in the audit.
fn model_step(
    tokens: &mut BTreeMap<u8, ModelToken>,
    now: u64,
    step: &Step,
) -> (Command<'static>, Option<Outcome>, usize) {
    match *step {
        Step::Create { token, uses, life } => {
            let command = create(numbered(token.into()), uses, now, now + life);
            if tokens.contains_key(&token) {
                return (command, Some(Outcome::None), 0);
            }
            tokens.retain(|_, t| now < t.expires);
            let fresh = ModelToken { expires: now + life, left: uses, revoked: false, joined: BTreeSet::new() };
            tokens.insert(token, fresh);
            (command, Some(Outcome::None), 1)
        }
        Step::Use { token, key } => {
            let command = spend(numbered(token.into()), now, key);
            let (result, rows) = match tokens.get_mut(&token) {
                None => (Err(TokenRefusal::Unknown), 1),
                Some(t) if t.revoked => (Err(TokenRefusal::Revoked), 1),
                Some(t) if now >= t.expires => (Err(TokenRefusal::Expired), 1),
                Some(t) if t.joined.contains(&key) => (Ok(Role::Voter), 0),
                Some(t) if t.left == 0 => (Err(TokenRefusal::UsedUp), 1),
                Some(t) => {
                    t.left -= 1;
                    t.joined.insert(key);
                    (Ok(Role::Voter), 1)
                }
            };
            (command, Some(Outcome::TokenUsed(result)), rows)
        }
        Step::Revoke { token } => {
            let was_live = tokens.get_mut(&token).map(|t| !std::mem::replace(&mut t.revoked, true));
            let rows = usize::from(was_live == Some(true));
            (revoke(numbered(token.into()), now), Some(Outcome::Written(was_live.is_some())), rows)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_token_admits_as_many_nodes_as_it_may_while_it_may(steps in prop::collection::vec(step(), 1..60)) {
        let node = TestStore::new();
        let (mut tokens, mut now, mut rows, mut log) = (BTreeMap::new(), 100, 0, Vec::new());
        for (index, (pause, step)) in (2..).zip(&steps) {
            now += pause;
            let (command, expected, new_rows) = model_step(&mut tokens, now, step);
            rows += new_rows;
            let before = node.store.view().unwrap();
            let (outcome, changes) = node.apply(index, &command);
            prop_assert_eq!(Some(outcome), expected, "{:?} at {}", step, now);
            prop_assert_eq!(audit_len(&node), rows, "{:?} at {}", step, now);
            let changed = before.tokens().unwrap() != node.store.view().unwrap().tokens().unwrap();
            prop_assert_eq!(changes.cluster, changed, "{:?} at {}", step, now);
            log.push((index, encoded(&command)));
        }
        for token in node.store.view().unwrap().tokens().unwrap() {
            prop_assert!(token.uses.len() <= usize::try_from(token.uses_max).unwrap());
        }
        let replayed = TestStore::new();
        let mut batch = replayed.store.batch().unwrap();
        for (index, command) in &log {
            batch.apply(Index::new(*index), command).unwrap();
        }
        batch.commit().unwrap();
        let digest = |node: &TestStore| node.store.view().unwrap().digest().unwrap();
        prop_assert_eq!(digest(&replayed), digest(&node), "one batch or many");
        let loaded = TestStore::new();
        let mut loader = Loader::new(&loaded.store).unwrap();
        node.store.view().unwrap().records::<StateError>(|record| loader.put(record)).unwrap();
        loader.finish().unwrap();
        prop_assert_eq!(digest(&loaded), digest(&node), "from the log or from a snapshot");
    }
}

#[test]
fn the_audit_keeps_its_newest_rows() {
    let node = TestStore::new();
    let per_command = u64::try_from(AUDIT_EVENTS_MAX).unwrap();
    let commands = AUDIT_ROWS_MAX / per_command + 3;
    let full = vec![EVENT; AUDIT_EVENTS_MAX];
    for index in 2..2 + commands {
        assert_eq!(node.apply(index, &Command::Audit(full.clone())).0, Outcome::None);
    }
    let view = node.store.view().unwrap();
    let rows = view.audit(None, usize::MAX).unwrap();
    assert_eq!(u64::try_from(rows.len()).unwrap(), AUDIT_ROWS_MAX);
    let newest = AuditId { index: 1 + commands, seq: u16::try_from(per_command - 1).unwrap() };
    assert_eq!(rows.last().unwrap().id, newest);
    assert!(rows.is_sorted_by_key(|row| row.id));
    let before_last = rows[rows.len() - 2].id;
    assert_eq!(view.audit(Some(before_last), 9).unwrap(), rows[rows.len() - 1..]);
    assert_eq!(view.audit(Some(AuditId { index: 0, seq: 0 }), 3).unwrap(), rows[..3]);
}

#[test]
fn commands_of_a_group_leave_their_rows_one_after_the_other() {
    let node = TestStore::new();
    let members = [create(numbered(1), 1, 10, 20), Command::Audit(vec![EVENT; 2]), spend(numbered(1), 11, 1)];
    let members: Vec<Vec<u8>> = members.iter().map(encoded).collect();
    let group = Command::Group(members.iter().map(Vec::as_slice).collect());
    let expected = [Outcome::None, Outcome::None, Outcome::TokenUsed(Ok(Role::Voter))];
    assert_eq!(node.apply(7, &group).0, Outcome::Group(expected.to_vec()));
    node.apply(8, &Command::Audit(vec![EVENT]));
    let view = node.store.view().unwrap();
    let rows: Vec<_> = view.audit(None, 9).unwrap().iter().map(|r| (r.id.index, r.id.seq, r.event.event)).collect();
    let event = EVENT.event;
    assert_eq!(rows, [(7, 0, "token.create"), (7, 1, event), (7, 2, event), (7, 3, "token.use"), (8, 0, event)]);
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let long = "x".repeat(AUDIT_TEXT_BYTES_MAX + 1);
    let large = vec![0; RECORD_BYTES_MAX + 1];
    let id = numbered(1);
    let (role, key, uses_max) = (Role::Voter, [1; 32], TOKEN_USES_MAX);
    let (by, from) = (long.as_str(), "here");
    let commands = [
        Command::Audit(vec![EVENT; AUDIT_EVENTS_MAX + 1]),
        Command::Audit(vec![EVENT, AuditEvent { what: &long, ..EVENT }]),
        Command::Record { key: b"ca", value: &large, index: 0 },
        Command::Record { key: &large[..2_000], value: b"", index: 0 },
        Command::Token(TokenWrite::Create { id, key, role, uses_max, created_ms: 1, expires_ms: 2, by, from }),
        Command::Token(TokenWrite::Revoke { id, now_ms: 1, by: "a", from: &long }),
        Command::Token(TokenWrite::Use { id, now_ms: 1, name: &long, spki: [1; 32], from: "there" }),
    ];
    let node = TestStore::new();
    let digest = node.store.view().unwrap().digest().unwrap();
    for (index, command) in (2..).zip(&commands) {
        let (outcome, changes) = node.apply(index, command);
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        assert!(changes.is_empty());
        assert_eq!(node.store.view().unwrap().digest().unwrap(), digest);
    }
}

#[test]
fn when_there_are_too_many_tokens_those_of_no_use_go_first() {
    let node = TestStore::new();
    for n in 0..TOKENS_MAX {
        assert_eq!(node.apply(2 + n, &create(numbered(n), 1, 10, 1_000)).0, Outcome::None);
    }
    let index = 2 + TOKENS_MAX;
    let one_more = create(numbered(TOKENS_MAX), 1, 20, 1_000);
    assert!(matches!(node.apply(index, &one_more).0, Outcome::Refused(_)));
    node.apply(index + 1, &revoke(numbered(3), 30));
    node.apply(index + 2, &spend(numbered(4), 30, 1));
    assert_eq!(node.apply(index + 3, &one_more).0, Outcome::None);
    let view = node.store.view().unwrap();
    assert_eq!(u64::try_from(view.tokens().unwrap().len()).unwrap(), TOKENS_MAX - 1);
    assert!(view.token(&numbered(3)).unwrap().is_none() && view.token(&numbered(4)).unwrap().is_none());
}

#[test]
fn every_table_of_the_cluster_is_part_of_the_digest() {
    let node = TestStore::new();
    node.apply(2, &Command::Admit { wished: 1, name: "node" });
    let commands = [
        create(numbered(1), 1, 10, 20),
        Command::Audit(vec![EVENT]),
        Command::Record { key: b"ca", value: b"", index: 0 },
        Command::Retire { node_id: 1 },
    ];
    let mut seen = BTreeSet::from([node.store.view().unwrap().digest().unwrap().0]);
    for (index, command) in (3..).zip(&commands) {
        let (_, changes) = node.apply(index, command);
        assert_eq!(changes, Changes { cluster: !matches!(command, Command::Audit(_)), ..Changes::default() });
        assert!(seen.insert(node.store.view().unwrap().digest().unwrap().0), "{command:?}");
    }
}

#[test]
fn a_store_of_a_version_without_these_tables_opens_and_goes_on() {
    let node = TestStore::new();
    let set = Command::Kv(KvWrite::Set { key: b"a", value: b"v", flags: 0 });
    node.apply(2, &Command::Admit { wished: 1, name: "node-1" });
    node.apply(3, &set);
    let digest = node.store.view().unwrap().digest().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let mut options = heed::EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 24).max_dbs(16);
    #[expect(unsafe_code, reason = "heed cannot know that nobody else maps the file")]
    // SAFETY: the directory is new and ours: no other process or environment maps these files.
    let env = unsafe { options.open(dir.path()) }.unwrap();
    let txn = env.write_txn().unwrap();
    let created = env.create_databases_and_commit(txn, |opener, txn| {
        let mut create = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
        Ok::<_, heed::Error>(CommitOrAbort::<_, Infallible>::Commit([
            create("sm")?,
            create("kv")?,
            create("tombstones")?,
            create("tombstones_by_index")?,
            create("nodes")?,
            create("staged")?,
        ]))
    });
    let tables = match created.unwrap() {
        CommitOrAbort::Commit(tables) => tables,
        CommitOrAbort::Abort(never) => match never {},
    };
    let mut txn = env.write_txn().unwrap();
    let fill = |record: Record<'_>| {
        tables[usize::from(record.table) - 1].put(&mut txn, record.key, record.value).unwrap();
        Ok::<(), StateError>(())
    };
    node.store.view().unwrap().records(fill).unwrap();
    txn.commit().unwrap();

    let store = Store::open(env).unwrap();
    assert_eq!(store.view().unwrap().digest().unwrap(), digest);
    assert!(store.view().unwrap().tokens().unwrap().is_empty());
    let mut batch = store.batch().unwrap();
    for (index, command) in [(4, create(numbered(1), 1, 10, 20)), (5, Command::Retire { node_id: 1 })] {
        assert_eq!(batch.apply(Index::new(index), &encoded(&command)).unwrap(), Outcome::None);
    }
    batch.commit().unwrap();
    let view = store.view().unwrap();
    assert!(view.is_retired(1).unwrap() && view.token(&numbered(1)).unwrap().is_some());
    assert_eq!(view.audit(None, 9).unwrap().len(), 1);
}

#[test]
fn the_loader_refuses_records_of_the_cluster_that_it_cannot_read() {
    let records = [
        Record { table: 5, key: &[0; 8], value: &[0xff, 2, b'n'] },
        Record { table: 7, key: b"abcdefgh", value: &[2; 60] },
        Record { table: 8, key: &[0; 10], value: &[2; 60] },
        Record { table: 8, key: &[0; 9], value: &[1, 0, 0, 0, 0, 0, 0] },
        Record { table: 9, key: b"ca", value: &[2; 60] },
    ];
    for record in records {
        let node = TestStore::new();
        let mut loader = Loader::new(&node.store).unwrap();
        loader.put(Record { table: 1, key: b"format", value: &[1] }).unwrap();
        let error = loader.put(record).unwrap_err();
        assert!(matches!(error, StateError::Record { .. }), "table {}: {error}", record.table);
    }
}
