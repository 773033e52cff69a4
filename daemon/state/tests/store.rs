//! What the store promises beside the model: positions, refusals, snapshots, and the bound on tombstones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{TestStore, encoded};
use konsul_state::{
    Changes, Command, DecodeError, Entry, Index, KEY_BYTES_MAX, KvWrite, Loader, Outcome, Record, Restore, StagedEntry,
    StateError, Store, TxnOp, VERSION_MAX,
};

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> KvWrite<'a> {
    KvWrite::Set { key, value, flags: 0 }
}

fn list_index(node: &TestStore, prefix: &[u8]) -> u64 {
    node.store.view().unwrap().kv_list(prefix).unwrap().index.get()
}

fn staged<'a>(key: &'a [u8], value: &'a [u8], flags: u64, create_index: u64) -> StagedEntry<'a> {
    StagedEntry { key, value, flags, create_index, lock_index: 0 }
}

#[test]
fn an_empty_store_shows_index_1_and_no_position() {
    let node = TestStore::new();
    let view = node.store.view().unwrap();
    assert_eq!(view.kv_get(b"a").unwrap(), (None, Index::new(1)));
    assert_eq!(view.kv_get(b"").unwrap(), (None, Index::new(1)));
    assert_eq!(view.kv_list(b"").unwrap().index, Index::new(1));
    assert_eq!(view.applied().unwrap(), Index::ZERO);
    assert_eq!(view.position().unwrap(), None);
    assert_eq!(view.cluster_id().unwrap(), None);
    assert_eq!(view.key_count().unwrap(), 0);
}

#[test]
fn a_batch_becomes_visible_at_once_with_its_position() {
    let node = TestStore::new();
    let mut batch = node.store.batch().unwrap();
    batch.apply(Index::new(3), &encoded(&Command::Kv(set(b"a", b"1")))).unwrap();
    batch.apply(Index::new(4), &encoded(&Command::Kv(set(b"b", b"2")))).unwrap();
    batch.set_position(Index::new(5), b"log-5", Some(b"members")).unwrap();
    let before = node.store.view().unwrap();
    let changes = batch.commit().unwrap();
    assert_eq!(before.key_count().unwrap(), 0);
    assert_eq!(changes, Changes { keys: vec![(*b"a").into(), (*b"b").into()], ..Changes::default() });
    let after = node.store.view().unwrap();
    assert_eq!(after.key_count().unwrap(), 2);
    assert_eq!(after.applied().unwrap(), Index::new(5));
    assert_eq!(after.position().unwrap(), Some((&b"log-5"[..], &b"members"[..])));

    let mut batch = node.store.batch().unwrap();
    batch.set_position(Index::new(6), b"log-6", None).unwrap();
    assert!(batch.commit().unwrap().is_empty());
    let kept = node.store.view().unwrap();
    assert_eq!(kept.position().unwrap(), Some((&b"log-6"[..], &b"members"[..])));
    assert_eq!(kept.digest().unwrap(), after.digest().unwrap(), "the position is no part of the digest");
}

#[test]
fn a_batch_that_is_dropped_leaves_nothing() {
    let node = TestStore::new();
    let digest = node.store.view().unwrap().digest().unwrap();
    let mut batch = node.store.batch().unwrap();
    batch.apply(Index::new(3), &encoded(&Command::Kv(set(b"a", b"1")))).unwrap();
    drop(batch);
    assert_eq!(node.store.view().unwrap().digest().unwrap(), digest);
}

#[test]
fn a_command_of_a_newer_version_stops_before_it_is_applied() {
    let node = TestStore::new();
    for (bytes, what) in [(&[2, 1][..], "command version"), (&[1, 77], "command kind"), (&[1, 1, 77], "operation")] {
        let mut batch = node.store.batch().unwrap();
        let error = batch.apply(Index::new(2), bytes).unwrap_err();
        let StateError::Command { index: 2, source: DecodeError::Unknown { what: found, .. } } = error else {
            panic!("{error:?}");
        };
        assert_eq!(found, what);
    }
    // The first operation is fine; it must not be applied either.
    let mut bytes = encoded(&Command::Txn(vec![TxnOp::Write(set(b"a", b"1")), TxnOp::Get { key: b"a" }]));
    bytes.truncate(bytes.len() - 1);
    let mut batch = node.store.batch().unwrap();
    assert!(batch.apply(Index::new(2), &bytes).is_err());
    batch.commit().unwrap();
    assert_eq!(node.store.view().unwrap().key_count().unwrap(), 0);
}

#[test]
#[should_panic(expected = "command 7 after command 7")]
fn a_command_is_never_applied_twice() {
    let node = TestStore::new();
    node.apply(7, &Command::Kv(set(b"a", b"1")));
    node.apply(7, &Command::Kv(set(b"a", b"2")));
}

#[test]
fn a_key_that_cannot_be_stored_is_refused_and_changes_nothing() {
    let node = TestStore::new();
    let long = [b'k'; KEY_BYTES_MAX + 1];
    let mut index = 1;
    for key in [&b""[..], &long] {
        let commands = [
            Command::Kv(set(key, b"v")),
            Command::Kv(KvWrite::Cas { key, value: b"v", flags: 0, index: 0 }),
            Command::Kv(KvWrite::Delete { key }),
            Command::Kv(KvWrite::DeleteCas { key, index: 1 }),
            Command::Txn(vec![TxnOp::Write(set(b"a", b"v")), TxnOp::Get { key }]),
            Command::Batch { atomic: false, ops: vec![set(b"a", b"v"), set(key, b"v")] },
        ];
        for command in commands {
            index += 1;
            let (outcome, changes) = node.apply(index, &command);
            assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            assert!(changes.is_empty());
        }
    }
    assert_eq!(node.store.view().unwrap().key_count().unwrap(), 0);
}

#[test]
fn the_longest_key_is_stored_and_a_longer_prefix_matches_nothing() {
    let node = TestStore::new();
    let key = [0xff; KEY_BYTES_MAX];
    assert_eq!(node.apply(2, &Command::Kv(set(&key, b"v"))).0, Outcome::Written(true));
    assert_eq!(node.store.view().unwrap().kv_list(&key[..7]).unwrap().entries.len(), 1);
    let longer = [0xff; 2 * KEY_BYTES_MAX];
    let view = node.store.view().unwrap();
    assert!(view.kv_list(&longer).unwrap().entries.is_empty());
    assert_eq!(view.kv_get(&longer).unwrap(), (None, Index::new(2)));
    let (outcome, changes) = node.apply(3, &Command::Kv(KvWrite::DeleteTree { prefix: &longer }));
    assert_eq!((outcome, changes.is_empty()), (Outcome::Written(true), true));
    let (_, changes) = node.apply(4, &Command::Kv(KvWrite::DeleteTree { prefix: &key[..3] }));
    assert_eq!(changes.keys, [key.into()]);
    assert_eq!(list_index(&node, &key[..3]), 4);
}

#[test]
fn an_index_never_goes_back_when_old_tombstones_are_reaped() {
    const DELETED: u32 = 100_500;
    let node = TestStore::new();
    let keys: Vec<Vec<u8>> = (0..DELETED).map(|n| format!("x/{n:06}").into_bytes()).collect();
    node.apply(2, &Command::Kv(set(b"a/1", b"v")));
    node.apply(3, &Command::Kv(set(b"a/2", b"v")));
    node.apply(4, &Command::Kv(KvWrite::Delete { key: b"a/2" }));
    assert_eq!(list_index(&node, b"a/"), 4);
    node.apply(5, &Command::Batch { atomic: false, ops: keys.iter().map(|k| set(k, b"")).collect() });
    let delete = keys.iter().map(|key| KvWrite::Delete { key }).collect();
    node.apply(6, &Command::Batch { atomic: false, ops: delete });
    let mut tombstones = 0;
    let count = |r: Record<'_>| {
        tombstones += u32::from(r.table == 3);
        Ok::<(), StateError>(())
    };
    node.store.view().unwrap().records(count).unwrap();
    assert_eq!(tombstones, 100_000);
    // That of a/2 was the oldest.
    assert_eq!(list_index(&node, b"a/"), 6);
    assert_eq!(list_index(&node, b""), 6);
}

#[test]
fn a_lock_survives_a_plain_write_and_its_fencing_number_stays() {
    let session = [5; 16];
    let mut record = vec![1];
    for number in [42u64, 2, 3, 7] {
        record.extend(number.to_le_bytes());
    }
    record.push(1);
    record.extend(session);
    record.extend(b"value");
    let node = TestStore::new();
    let mut loader = Loader::new(&node.store).unwrap();
    loader.put(Record { table: 1, key: b"format", value: &[1] }).unwrap();
    loader.put(Record { table: 2, key: b"lock", value: &record }).unwrap();
    assert_eq!(loader.finish().unwrap(), 2);
    node.apply(9, &Command::Kv(set(b"lock", b"other")));
    let view = node.store.view().unwrap();
    let entry = view.kv_get(b"lock").unwrap().0.unwrap();
    assert_eq!((entry.value, entry.flags, entry.lock_index, entry.session), (&b"other"[..], 0, 7, Some(session)));
    assert_eq!((entry.create_index, entry.modify_index), (Index::new(2), Index::new(9)));
}

#[test]
fn a_restore_that_is_not_complete_is_refused_and_changes_nothing() {
    let node = TestStore::new();
    let (id, other) = ([1; 16], [2; 16]);
    node.apply(2, &Command::Kv(set(b"a", b"v")));
    let stage = |id| Restore::Stage { id, entries: vec![staged(b"b", b"w", 0, 1)] };
    let refused = |index, step| {
        let digest = node.store.view().unwrap().digest().unwrap();
        let (outcome, changes) = node.apply(index, &Command::Restore(step));
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        assert!(changes.is_empty());
        assert_eq!(node.store.view().unwrap().digest().unwrap(), digest);
    };
    refused(3, stage(id));
    refused(4, Restore::Commit { id, entries: 0 });
    node.apply(5, &Command::Restore(Restore::Begin { id }));
    node.apply(6, &Command::Restore(stage(id)));
    refused(7, stage(other));
    refused(8, Restore::Commit { id: other, entries: 1 });
    refused(9, Restore::Commit { id, entries: 2 });
    refused(10, Restore::Abort { id: other });
    refused(11, Restore::Stage { id, entries: vec![staged(b"c", b"", 0, 1), staged(b"", b"", 0, 1)] });
    let (outcome, changes) = node.apply(12, &Command::Restore(Restore::Commit { id, entries: 1 }));
    assert_eq!((outcome, changes), (Outcome::Restored { entries: 1 }, Changes { all: true, ..Changes::default() }));
    refused(13, Restore::Commit { id, entries: 1 });
    let view = node.store.view().unwrap();
    assert_eq!(view.kv_get(b"a").unwrap(), (None, Index::new(12)));
    assert_eq!(view.kv_get(b"b").unwrap().1, Index::new(12));
}

#[test]
fn a_restored_entry_keeps_its_flags_and_gets_the_next_lock_index() {
    let node = TestStore::new();
    let id = [5; 16];
    let entry = StagedEntry { lock_index: 7, ..staged(b"lock", b"value", 42, 3) };
    node.apply(2, &Command::Restore(Restore::Begin { id }));
    node.apply(3, &Command::Restore(Restore::Stage { id, entries: vec![entry] }));
    node.apply(4, &Command::Restore(Restore::Commit { id, entries: 1 }));
    let view = node.store.view().unwrap();
    let entry = view.kv_get(b"lock").unwrap().0.unwrap();
    assert_eq!((entry.value, entry.flags, entry.lock_index, entry.session), (&b"value"[..], 42, 8, None));
    assert_eq!((entry.create_index, entry.modify_index), (Index::new(3), Index::new(4)));
}

#[test]
fn each_entry_under_a_prefix_comes_once_and_in_order_until_somebody_has_enough() {
    let node = TestStore::new();
    for (index, key) in [(2, "b/2"), (3, "a"), (4, "b/1"), (5, "c")] {
        node.apply(index, &Command::Kv(set(key.as_bytes(), b"v")));
    }
    let view = node.store.view().unwrap();
    let mut seen = Vec::new();
    let mut collect = |entry: Entry<'_>| {
        seen.push(entry.key.to_vec());
        Ok::<_, StateError>(())
    };
    view.kv_each(b"b/", &mut collect).unwrap();
    view.kv_each(b"", &mut collect).unwrap();
    assert_eq!(seen, [&b"b/1"[..], b"b/2", b"a", b"b/1", b"b/2", b"c"]);
    let mut left = 2;
    let enough = view.kv_each(b"", |_| {
        left -= 1;
        if left == 0 { Err(StateError::Order { table: "enough" }) } else { Ok(()) }
    });
    assert!(matches!(enough, Err(StateError::Order { table: "enough" })));
    assert_eq!(left, 0, "nothing is read after the error");
}

#[test]
fn a_large_restore_is_copied_whole_and_in_order() {
    let node = TestStore::new();
    let id = [3; 16];
    // More than one chunk by number, and more than one by bytes.
    let keys: Vec<Vec<u8>> = (0..2_500u32).map(|n| format!("k{:08}", n.wrapping_mul(7_919) % 2_500).into()).collect();
    let large = vec![7; 1 << 19];
    node.apply(2, &Command::Restore(Restore::Begin { id }));
    let entries = keys.iter().map(|k| staged(k, k, 1, 2)).collect();
    node.apply(3, &Command::Restore(Restore::Stage { id, entries }));
    let entries = keys.iter().take(20).map(|k| staged(k, &large, 1, 2)).collect();
    let staged = node.apply(4, &Command::Restore(Restore::Stage { id, entries })).0;
    assert_eq!(staged, Outcome::Restored { entries: 2_500 });
    node.apply(5, &Command::Restore(Restore::Commit { id, entries: 2_500 }));
    let view = node.store.view().unwrap();
    let listed = view.kv_list(b"").unwrap();
    assert_eq!(listed.entries.len(), 2_500);
    for entry in listed.entries {
        let is_large = keys[..20].iter().any(|k| k == entry.key);
        assert_eq!(entry.value, if is_large { large.as_slice() } else { entry.key });
    }
}

#[test]
fn a_node_id_is_granted_once() {
    let node = TestStore::new();
    let mut index = 1;
    let mut admit = |wished| {
        index += 1;
        node.apply(index, &Command::Admit { wished, name: "n" }).0
    };
    assert_eq!(admit(1), Outcome::Admitted { node_id: 1 });
    assert_eq!(admit(1), Outcome::Admitted { node_id: 4 });
    assert_eq!(admit(0), Outcome::Admitted { node_id: 5 });
    assert_eq!(admit(100), Outcome::Admitted { node_id: 100 });
    assert_eq!(admit(0), Outcome::Admitted { node_id: 101 });
    assert_eq!(admit(u64::MAX), Outcome::Admitted { node_id: u64::MAX });
    assert!(matches!(admit(0), Outcome::Refused(_)));
    assert_eq!(admit(7), Outcome::Admitted { node_id: 7 });
}

#[test]
fn a_cluster_is_formed_once() {
    let node = TestStore::new();
    assert_eq!(node.apply(2, &Command::Form { cluster_id: [1; 16], version: 1 }).0, Outcome::None);
    assert_eq!(node.apply(3, &Command::Form { cluster_id: [1; 16], version: 1 }).0, Outcome::None);
    assert!(matches!(node.apply(4, &Command::Form { cluster_id: [2; 16], version: 1 }).0, Outcome::Refused(_)));
    assert_eq!(node.store.view().unwrap().cluster_id().unwrap(), Some([1; 16]));
}

#[test]
fn a_cluster_begins_with_the_version_it_was_formed_with() {
    let node = TestStore::new();
    assert_eq!(node.store.view().unwrap().cluster_version().unwrap(), 1);
    node.apply(2, &Command::Form { cluster_id: [1; 16], version: VERSION_MAX });
    assert_eq!(node.store.view().unwrap().cluster_version().unwrap(), VERSION_MAX);
}

#[test]
fn a_newer_cluster_version_stops_the_node_before_anything_is_applied() {
    let node = TestStore::new();
    let before = node.store.view().unwrap().digest().unwrap();
    let newer = encoded(&Command::Upgrade { to: VERSION_MAX + 1 });
    for unknown in [newer.as_slice(), &[1, 99], &[9, 1]] {
        let mut batch = node.store.batch().unwrap();
        let error = batch.apply(Index::new(2), unknown).unwrap_err();
        assert!(error.is_of_a_newer_version(), "{error}");
        drop(batch);
    }
    let mut batch = node.store.batch().unwrap();
    let damaged = batch.apply(Index::new(2), &[1, 1, 1]).unwrap_err();
    assert!(!damaged.is_of_a_newer_version(), "{damaged}");
    drop(batch);
    assert_eq!(node.store.view().unwrap().digest().unwrap(), before);
}

#[test]
fn only_the_command_that_is_a_check_point_says_so() {
    let node = TestStore::new();
    let mut batch = node.store.batch().unwrap();
    let point = encoded(&Command::CheckPoint);
    for (index, command, is_one) in [(2, &point, true), (3, &encoded(&Command::Kv(set(b"a", b"v"))), false)] {
        batch.apply(Index::new(index), command).unwrap();
        assert_eq!(batch.is_at_check_point(), is_one);
    }
    batch.commit().unwrap();
}

#[test]
fn a_read_only_transaction_answers_from_one_moment_and_writes_nothing() {
    let node = TestStore::new();
    node.apply(2, &Command::Kv(set(b"a", b"v")));
    let view = node.store.view().unwrap();
    let read = view.txn(&[TxnOp::Get { key: b"a" }, TxnOp::CheckIndex { key: b"a", index: 2 }]).unwrap().unwrap();
    assert_eq!(read.iter().map(|e| e.value.as_deref()).collect::<Vec<_>>(), [Some(&b"v"[..]), None]);
    let failed = view.txn(&[TxnOp::Get { key: b"a" }, TxnOp::Write(set(b"a", b"w"))]).unwrap().unwrap_err();
    assert_eq!(failed[0].op, 1);
}

#[test]
fn a_snapshot_keeps_a_restore_that_is_under_way() {
    let (from, to) = (TestStore::new(), TestStore::new());
    let id = [4; 16];
    from.apply(2, &Command::Kv(set(b"a", b"v")));
    from.apply(3, &Command::Restore(Restore::Begin { id }));
    from.apply(4, &Command::Restore(Restore::Stage { id, entries: vec![staged(b"b", b"w", 5, 1)] }));
    copy(&from.store, &to.store);
    for node in [&from, &to] {
        node.apply(5, &Command::Restore(Restore::Commit { id, entries: 1 }));
    }
    assert_eq!(to.store.view().unwrap().digest().unwrap(), from.store.view().unwrap().digest().unwrap());
    assert_eq!(to.store.view().unwrap().kv_get(b"b").unwrap().0.unwrap().flags, 5);
}

fn copy(from: &Store, to: &Store) {
    let mut loader = Loader::new(to).unwrap();
    from.view().unwrap().records::<StateError>(|record| loader.put(record)).unwrap();
    loader.finish().unwrap();
}

#[test]
fn a_snapshot_larger_than_one_transaction_of_the_loader_is_loaded_whole() {
    let (from, to) = (TestStore::new(), TestStore::new());
    let keys: Vec<Vec<u8>> = (0..45_000u32).map(|n| n.to_be_bytes().to_vec()).collect();
    from.apply(2, &Command::Batch { atomic: false, ops: keys.iter().map(|k| set(k, b"v")).collect() });
    copy(&from.store, &to.store);
    assert_eq!(to.store.view().unwrap().digest().unwrap(), from.store.view().unwrap().digest().unwrap());
}

#[test]
fn the_loader_refuses_what_it_cannot_load() {
    let format = Record { table: 1, key: b"format", value: &[1] };
    let after_format = |record| {
        let node = TestStore::new();
        let mut loader = Loader::new(&node.store).unwrap();
        loader.put(format).unwrap();
        loader.put(record).unwrap_err()
    };
    let unknown = after_format(Record { table: 77, key: b"k", value: b"" });
    assert!(matches!(unknown, StateError::UnknownTable { table: 77 }));
    assert!(matches!(after_format(format), StateError::Order { table: "sm" }));
    assert!(matches!(after_format(Record { table: 1, key: b"applied", value: b"" }), StateError::Order { .. }));
    let newer = after_format(Record { table: 2, key: b"k", value: &[2; 50] });
    assert!(matches!(newer, StateError::Record { table: "kv", source: DecodeError::Unknown { .. } }));

    let node = TestStore::new();
    let mut loader = Loader::new(&node.store).unwrap();
    let newer = loader.put(Record { value: &[2], ..format }).unwrap_err();
    assert!(matches!(newer, StateError::Format { found: 2, known: 1 }));
    drop(loader);
    let unfinished = Loader::new(&node.store).unwrap().finish().unwrap_err();
    assert!(matches!(unfinished, StateError::Format { found: 0, .. }));

    node.apply(2, &Command::Kv(set(b"a", b"v")));
    assert!(matches!(Loader::new(&node.store), Err(StateError::NotEmpty { .. })));
}

#[test]
fn a_store_that_was_filled_halfway_is_not_opened() {
    let node = TestStore::new();
    let mut loader = Loader::new(&node.store).unwrap();
    for n in 0..20_000u64 {
        loader.put(Record { table: 5, key: &n.to_be_bytes(), value: b"node" }).unwrap();
    }
    drop(loader);
    let error = Store::open(node.store.env().clone()).unwrap_err();
    assert!(matches!(error, StateError::Format { found: 0, known: 1 }), "{error}");
}

#[test]
fn a_view_may_be_moved_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&TestStore::new().store.view().unwrap());
}

#[test]
fn a_restore_raises_every_lock_index_above_what_it_was_here_and_in_the_archive() {
    let node = TestStore::new();
    let id = [1; 16];
    let restored = |index: u64, lock_index| {
        let never = staged(b"never-locked", b"v", 0, 1);
        let locked = StagedEntry { lock_index, ..staged(b"locked", b"v", 0, 1) };
        node.apply(index, &Command::Restore(Restore::Begin { id }));
        node.apply(index + 1, &Command::Restore(Restore::Stage { id, entries: vec![locked, never] }));
        let (outcome, _) = node.apply(index + 2, &Command::Restore(Restore::Commit { id, entries: 2 }));
        assert_eq!(outcome, Outcome::Restored { entries: 2 });
        let view = node.store.view().unwrap();
        assert_eq!(view.kv_get(b"never-locked").unwrap().0.unwrap().lock_index, 0);
        view.kv_get(b"locked").unwrap().0.unwrap().lock_index
    };
    assert_eq!(restored(10, 4), 5);
    assert_eq!(restored(20, 4), 6, "higher than here");
    assert_eq!(restored(30, 9), 10, "higher than in the archive");
    assert_eq!(restored(40, 0), 11, "whoever held it before the archive was made is told apart");
}

#[test]
fn the_pages_in_use_are_those_of_what_is_stored() {
    let node = TestStore::new();
    let pages = || node.store.view().unwrap().pages_in_use().unwrap();
    let in_file = || u64::try_from(node.store.env().info().last_page_number + 1).unwrap();
    let empty = pages();
    assert!(empty <= in_file(), "{empty} of {}", in_file());
    let value = vec![7; 64 << 10];
    let mut batch = node.store.batch().unwrap();
    batch.apply(Index::new(3), &encoded(&Command::Kv(set(b"a", &value)))).unwrap();
    batch.commit().unwrap();
    let full = pages();
    assert!(full >= empty + 16 && full <= in_file(), "{full} of {}, {empty} when empty", in_file());
    let mut batch = node.store.batch().unwrap();
    batch.apply(Index::new(4), &encoded(&Command::Kv(KvWrite::Delete { key: b"a" }))).unwrap();
    batch.commit().unwrap();
    assert!(pages() < full && in_file() >= full, "the file keeps its size, its pages are free");
}
