//! The state machine against a plain model: the same commands give the same answers, entries and indexes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{TestStore, encoded};
use konsul_state::{
    Changes, Command, Index, KvWrite, Loader, Outcome, Restore, StagedEntry, StateError, TxnEntry, TxnFailure, TxnOp,
    View,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: [&str; 8] = ["a", "a/", "a/b", "a/b/c", "a/b/d", "ab", "b", "b\u{7f}"];
const PREFIXES: [&str; 9] = ["", "a", "a/", "a/b", "a/b/", "a/b/c", "b", "b\u{7f}", "zz"];

#[derive(Debug, Clone)]
enum At {
    Zero,
    Current,
    Stale,
}

#[derive(Debug, Clone)]
enum Write {
    Set(&'static str, u8, u64),
    Cas(&'static str, u8, At),
    Delete(&'static str),
    DeleteCas(&'static str, At),
    DeleteTree(&'static str),
}

#[derive(Debug, Clone)]
enum Op {
    Write(Write),
    Get(&'static str),
    GetTree(&'static str),
    CheckIndex(&'static str, At),
    CheckNotExists(&'static str),
}

#[derive(Debug, Clone)]
enum Step {
    Kv(Write),
    Txn(Vec<Op>),
    Batch(bool, Vec<Write>),
    Restore(Vec<(&'static str, u8, u64)>),
    Admit(u64),
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&KEYS[..])
}

fn prefix() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&PREFIXES[..])
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![1 => Just(At::Zero), 3 => Just(At::Current), 1 => Just(At::Stale)]
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (key(), 0..3u8, 0..2u64).prop_map(|(k, v, f)| Write::Set(k, v, f)),
        2 => (key(), 0..3u8, at()).prop_map(|(k, v, at)| Write::Cas(k, v, at)),
        2 => key().prop_map(Write::Delete),
        1 => (key(), at()).prop_map(|(k, at)| Write::DeleteCas(k, at)),
        1 => prefix().prop_map(Write::DeleteTree),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => write().prop_map(Op::Write),
        1 => key().prop_map(Op::Get),
        1 => prefix().prop_map(Op::GetTree),
        1 => (key(), at()).prop_map(|(k, at)| Op::CheckIndex(k, at)),
        1 => key().prop_map(Op::CheckNotExists),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => write().prop_map(Step::Kv),
        5 => prop::collection::vec(op(), 0..5).prop_map(Step::Txn),
        3 => (any::<bool>(), prop::collection::vec(write(), 0..5)).prop_map(|(a, w)| Step::Batch(a, w)),
        1 => prop::collection::vec((key(), 0..3u8, 0..20u64), 0..5).prop_map(Step::Restore),
        1 => (0..4u64).prop_map(Step::Admit),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    value: Vec<u8>,
    flags: u64,
    create: u64,
    modify: u64,
}

#[derive(Debug, Clone, Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, Entry>,
    nodes: Vec<u64>,
    /// The newest index of any change of an entry.
    table: u64,
}

impl Model {
    fn modify(&self, key: &[u8]) -> u64 {
        self.entries.get(key).map_or(0, |e| e.modify)
    }

    fn index(&self, key: &str, at: &At) -> u64 {
        match at {
            At::Zero => 0,
            At::Current => self.modify(key.as_bytes()),
            At::Stale => 1_000_000,
        }
    }

    fn write(&mut self, index: u64, write: &KvWrite<'_>) -> bool {
        match *write {
            KvWrite::Set { key, value, flags } => self.set(index, key, value, flags),
            KvWrite::Cas { key, value, flags, index: expected } => {
                if self.modify(key) != expected {
                    return false;
                }
                self.set(index, key, value, flags);
            }
            KvWrite::Delete { key } => self.retain(index, |k| k != key),
            KvWrite::DeleteCas { key, index: expected } => {
                if self.entries.contains_key(key) && self.modify(key) != expected {
                    return false;
                }
                self.retain(index, |k| k != key);
            }
            KvWrite::DeleteTree { prefix } => self.retain(index, |k| !k.starts_with(prefix)),
        }
        true
    }

    fn set(&mut self, index: u64, key: &[u8], value: &[u8], flags: u64) {
        let old = self.entries.get(key);
        if old.is_some_and(|e| e.value == value && e.flags == flags) {
            return;
        }
        let create = old.map_or(index, |e| e.create);
        self.entries.insert(key.to_vec(), Entry { value: value.to_vec(), flags, create, modify: index });
        self.table = index;
    }

    fn retain(&mut self, index: u64, keep: impl Fn(&[u8]) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|key, _| keep(key));
        if self.entries.len() != before {
            self.table = index;
        }
    }

    fn answer(&self, key: &[u8], with_value: bool) -> TxnEntry {
        let e = &self.entries[key];
        TxnEntry {
            key: key.to_vec(),
            value: with_value.then(|| e.value.clone()),
            flags: e.flags,
            lock_index: 0,
            create_index: e.create,
            modify_index: e.modify,
        }
    }

    fn txn(&mut self, index: u64, ops: &[TxnOp<'_>]) -> Result<Vec<TxnEntry>, Vec<TxnFailure>> {
        let before = self.clone();
        let (mut entries, mut failures) = (Vec::new(), Vec::new());
        for (n, op) in (0..).zip(ops) {
            let failure = self.txn_op(index, op, &mut entries);
            failures.extend(failure.map(|what| TxnFailure { op: n, what }));
        }
        if failures.is_empty() {
            return Ok(entries);
        }
        *self = before;
        Err(failures)
    }

    fn txn_op(&mut self, index: u64, op: &TxnOp<'_>, entries: &mut Vec<TxnEntry>) -> Option<String> {
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap().replace('\u{7f}', "\\x7f");
        match *op {
            TxnOp::Write(write) => {
                let held = self.write(index, &write);
                match write {
                    KvWrite::Set { key, .. } => entries.push(self.answer(key, false)),
                    KvWrite::Cas { key, .. } if held => entries.push(self.answer(key, false)),
                    KvWrite::Cas { key, .. } => {
                        return Some(format!("failed to set key \"{}\", index is stale", text(key)));
                    }
                    KvWrite::DeleteCas { key, .. } if !held => {
                        return Some(format!("failed to delete key \"{}\", index is stale", text(key)));
                    }
                    KvWrite::DeleteCas { .. } | KvWrite::Delete { .. } | KvWrite::DeleteTree { .. } => {}
                }
                None
            }
            TxnOp::Get { key } if self.entries.contains_key(key) => {
                entries.push(self.answer(key, true));
                None
            }
            TxnOp::Get { key } => Some(format!("key \"{}\" doesn't exist", text(key))),
            TxnOp::GetTree { prefix } => {
                let keys = self.entries.keys().filter(|k| k.starts_with(prefix));
                entries.extend(keys.map(|k| self.answer(k, true)));
                None
            }
            TxnOp::CheckIndex { key, index: expected } => match self.modify(key) {
                0 => Some(format!("failed to check index, key \"{}\" doesn't exist", text(key))),
                found if found == expected => {
                    entries.push(self.answer(key, false));
                    None
                }
                found => Some(format!(
                    "failed index check for key \"{}\", current modify index {found} != {expected}",
                    text(key)
                )),
            },
            TxnOp::CheckNotExists { key } => {
                self.entries.contains_key(key).then(|| format!("key \"{}\" exists", text(key)))
            }
        }
    }

    fn batch(&mut self, index: u64, atomic: bool, ops: &[KvWrite<'_>]) -> Outcome {
        let before = self.clone();
        let results: Vec<bool> = ops.iter().map(|op| self.write(index, op)).collect();
        let applied = !atomic || results.iter().all(|held| *held);
        if !applied {
            *self = before;
        }
        Outcome::Batch { applied, results }
    }

    fn restore(&mut self, index: u64, staged: &BTreeMap<&[u8], (&[u8], u64, u64)>) {
        let entry = |(value, flags, create): &(&[u8], u64, u64)| Entry {
            value: value.to_vec(),
            flags: *flags,
            create: if *create == 0 { index } else { index.min(*create) },
            modify: index,
        };
        self.entries = staged.iter().map(|(key, e)| (key.to_vec(), entry(e))).collect();
        self.table = index;
    }

    fn admit(&mut self, index: u64, wished: u64) -> u64 {
        let highest = self.nodes.iter().max().copied().unwrap_or(0);
        let id = if wished != 0 && !self.nodes.contains(&wished) { wished } else { highest.max(index) + 1 };
        self.nodes.push(id);
        id
    }
}

/// What readers saw of one moment: per key and per prefix the content and the index.
struct Seen {
    keys: Vec<(Option<Entry>, u64)>,
    lists: Vec<(BTreeMap<Vec<u8>, Entry>, u64)>,
}

fn seen(view: &View) -> Seen {
    let entry = |e: &konsul_state::Entry<'_>| Entry {
        value: e.value.to_vec(),
        flags: e.flags,
        create: e.create_index.get(),
        modify: e.modify_index.get(),
    };
    let get = |key: &&str| {
        let (found, index) = view.kv_get(key.as_bytes()).unwrap();
        (found.as_ref().map(entry), index.get())
    };
    let list = |prefix: &&str| {
        let listed = view.kv_list(prefix.as_bytes()).unwrap();
        let keys = view.kv_keys(prefix.as_bytes(), b"").unwrap();
        assert_eq!(keys.index, listed.index);
        assert!(keys.keys.iter().eq(listed.entries.iter().map(|e| e.key)));
        (listed.entries.iter().map(|e| (e.key.to_vec(), entry(e))).collect(), listed.index.get())
    };
    Seen { keys: KEYS.iter().map(get).collect(), lists: PREFIXES.iter().map(list).collect() }
}

/// What a blocking query relies on: an index never goes back, and whoever sees other content sees a higher index.
fn check_indexes(before: &Seen, after: &Seen, changes: &Changes) {
    for (key, (old, new)) in KEYS.iter().zip(before.keys.iter().zip(&after.keys)) {
        assert!(new.1 >= old.1, "the index of key {key} went from {} to {}", old.1, new.1);
        assert!(new.1 > old.1 || new.0 == old.0, "key {key} changed under the same index {}", old.1);
        let is_told = changes.all || changes.keys.iter().any(|k| **k == *key.as_bytes());
        assert!(is_told || new.0 == old.0, "key {key} changed and nobody was told");
    }
    for (prefix, (old, new)) in PREFIXES.iter().zip(before.lists.iter().zip(&after.lists)) {
        assert!(new.1 >= old.1, "the index of list {prefix:?} went from {} to {}", old.1, new.1);
        assert!(new.1 > old.1 || new.0 == old.0, "list {prefix:?} changed under the same index {}", old.1);
        let touched = changes.all || changes.keys.iter().any(|k| k.starts_with(prefix.as_bytes()));
        if !touched && !new.0.is_empty() && !prefix.is_empty() {
            assert_eq!(new.1, old.1, "the index of list {prefix:?} moved though nothing in it changed");
        }
    }
}

fn check_content(model: &Model, after: &Seen) {
    for (key, (found, index)) in KEYS.iter().zip(&after.keys) {
        let expected = model.entries.get(key.as_bytes());
        assert_eq!(found.as_ref(), expected);
        assert_eq!(*index, expected.map_or(model.table, |e| e.modify).max(1), "index of key {key}");
    }
    for (prefix, (found, index)) in PREFIXES.iter().zip(&after.lists) {
        let under = model.entries.iter().filter(|(k, _)| k.starts_with(prefix.as_bytes()));
        assert!(found.iter().eq(under.clone()), "list {prefix:?}");
        let newest = under.map(|(_, e)| e.modify).max().unwrap_or(0);
        assert!((newest..=model.table.max(1)).contains(index), "index {index} of list {prefix:?}");
    }
}

/// The two tombstone tables say the same, and no key that is there has a tombstone.
fn check_tombstones(view: &View) {
    let mut tables: BTreeMap<u8, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    let collect = |r: konsul_state::Record<'_>| {
        tables.entry(r.table).or_default().insert(r.key.to_vec(), r.value.to_vec());
        Ok::<(), StateError>(())
    };
    view.records(collect).unwrap();
    let [kv, tombstones, by_index] = [2, 3, 4].map(|table| tables.remove(&table).unwrap_or_default());
    assert!(tombstones.keys().all(|key| !kv.contains_key(key)), "a tombstone outlived its key's return");
    let expected: Vec<_> = tombstones.iter().map(|(key, index)| [&index[..], key].concat()).collect();
    assert_eq!(by_index.len(), expected.len());
    assert!(expected.iter().all(|order| by_index.contains_key(order)));
}

fn value(v: u8) -> &'static [u8] {
    match v {
        0 => b"",
        1 => b"one",
        _ => b"two",
    }
}

/// One run: the store that applies each command by itself, the model, and the commands so far.
struct Run {
    node: TestStore,
    model: Model,
    index: u64,
    log: Vec<(u64, Vec<u8>)>,
    seen: Seen,
}

impl Run {
    fn new() -> Run {
        let node = TestStore::new();
        let seen = seen(&node.store.view().unwrap());
        Run {
            node,
            model: Model::default(),
            // An empty store shows index 1; the first entry of a log is never a write.
            index: 1,
            log: Vec::new(),
            seen,
        }
    }

    fn write(&self, write: &Write) -> KvWrite<'static> {
        match write {
            Write::Set(k, v, flags) => KvWrite::Set { key: k.as_bytes(), value: value(*v), flags: *flags },
            Write::Cas(k, v, at) => {
                KvWrite::Cas { key: k.as_bytes(), value: value(*v), flags: 0, index: self.model.index(k, at) }
            }
            Write::Delete(k) => KvWrite::Delete { key: k.as_bytes() },
            Write::DeleteCas(k, at) => KvWrite::DeleteCas { key: k.as_bytes(), index: self.model.index(k, at) },
            Write::DeleteTree(p) => KvWrite::DeleteTree { prefix: p.as_bytes() },
        }
    }

    fn op(&self, op: &Op) -> TxnOp<'static> {
        match op {
            Op::Write(write) => TxnOp::Write(self.write(write)),
            Op::Get(k) => TxnOp::Get { key: k.as_bytes() },
            Op::GetTree(p) => TxnOp::GetTree { prefix: p.as_bytes() },
            Op::CheckIndex(k, at) => TxnOp::CheckIndex { key: k.as_bytes(), index: self.model.index(k, at) },
            Op::CheckNotExists(k) => TxnOp::CheckNotExists { key: k.as_bytes() },
        }
    }

    /// Applies one command and checks answer, content, indexes and changes.
    fn apply(&mut self, command: &Command<'_>, expected: impl FnOnce(&mut Model, u64) -> Outcome) {
        self.index += 1;
        self.log.push((self.index, encoded(command)));
        let before = self.model.entries.clone();
        let expected = expected(&mut self.model, self.index);
        let (outcome, changes) = self.node.apply(self.index, command);
        assert_eq!(outcome, expected);
        let now = seen(&self.node.store.view().unwrap());
        check_content(&self.model, &now);
        check_indexes(&self.seen, &now, &changes);
        if matches!(command, Command::Kv(_)) {
            assert_eq!(changes.is_empty(), before == self.model.entries, "told of a change that was none");
        }
        if matches!(outcome, Outcome::Txn(Err(_)) | Outcome::Batch { applied: false, .. }) {
            assert!(changes.is_empty(), "told of a change that was undone");
        }
        self.seen = now;
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Kv(write) => {
                let write = self.write(write);
                self.apply(&Command::Kv(write), |m, i| Outcome::Written(m.write(i, &write)));
            }
            Step::Txn(ops) => {
                let ops: Vec<_> = ops.iter().map(|op| self.op(op)).collect();
                self.apply(&Command::Txn(ops.clone()), |m, i| Outcome::Txn(m.txn(i, &ops)));
            }
            Step::Batch(atomic, writes) => {
                let ops: Vec<_> = writes.iter().map(|w| self.write(w)).collect();
                let command = Command::Batch { atomic: *atomic, ops: ops.clone() };
                self.apply(&command, |m, i| m.batch(i, *atomic, &ops));
            }
            Step::Restore(entries) => self.restore(entries),
            Step::Admit(wished) => {
                let command = Command::Admit { wished: *wished, name: "node" };
                self.apply(&command, |m, i| Outcome::Admitted { node_id: m.admit(i, *wished) });
            }
        }
    }

    fn restore(&mut self, entries: &[(&'static str, u8, u64)]) {
        let id = [9; 16];
        let staged: BTreeMap<&[u8], _> =
            entries.iter().map(|(k, v, create)| (k.as_bytes(), (value(*v), u64::from(*v), *create))).collect();
        let count = u64::try_from(staged.len()).unwrap();
        self.apply(&Command::Restore(Restore::Begin { id }), |_, _| Outcome::Restored { entries: 0 });
        let entry = |(key, (value, flags, create_index)): (&&'static [u8], &(&'static [u8], u64, u64))| StagedEntry {
            key,
            value,
            flags: *flags,
            create_index: *create_index,
            lock_index: 0,
        };
        let list = staged.iter().map(entry).collect();
        let stage = Command::Restore(Restore::Stage { id, entries: list });
        self.apply(&stage, |_, _| Outcome::Restored { entries: count });
        self.apply(&Command::Restore(Restore::Commit { id, entries: count }), |m, i| {
            m.restore(i, &staged);
            Outcome::Restored { entries: count }
        });
    }

    fn check_copies(&self) {
        let view = self.node.store.view().unwrap();
        let digest = view.digest().unwrap();
        check_tombstones(&view);
        let replayed = TestStore::new();
        let mut batch = replayed.store.batch().unwrap();
        for (index, command) in &self.log {
            batch.apply(Index::new(*index), command).unwrap();
        }
        batch.commit().unwrap();
        assert_eq!(replayed.store.view().unwrap().digest().unwrap(), digest, "one batch or many");

        let loaded = TestStore::new();
        let mut loader = Loader::new(&loaded.store).unwrap();
        view.records::<StateError>(|record| loader.put(record)).unwrap();
        loader.finish().unwrap();
        let loaded = loaded.store.view().unwrap();
        assert_eq!(loaded.digest().unwrap(), digest, "from the log or from a snapshot");
        assert_eq!(loaded.applied().unwrap(), view.applied().unwrap());
        assert_eq!(view.applied().unwrap().get(), self.index);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        run.check_copies();
    }
}
