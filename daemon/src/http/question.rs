//! What a read asks, and its answer, encoded: the same question at the same state has one answer for everybody.

use super::json;
use crate::watch::Target;
use bytes::Bytes;
use konsul_state::{Entry, Index, StateError, View};

/// A read of the key/value store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) shape: Shape,
    /// `?pretty`.
    pub(super) pretty: bool,
    /// The key, or the prefix.
    pub(super) key: Box<[u8]>,
}

/// Which part, in which form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// One entry, as JSON.
    Entry,
    /// One entry's value, as it is.
    Raw,
    /// Every entry under the prefix.
    Tree,
    /// Every key under the prefix, cut after the separator if there is one.
    Keys { separator: Box<[u8]> },
}

/// An encoded answer. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing is there.
    Absent,
    Json(Bytes),
    /// A value as it is.
    Raw(Bytes),
}

/// What a look at one moment of the state gave.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// The index to wait beyond.
    pub(super) index: Index,
    /// `None` if the index is not beyond what the asker has seen: then nothing was encoded.
    pub(super) answer: Option<Answer>,
}

impl Question {
    /// What wakes those who wait for another answer.
    pub(super) fn target(&self) -> Target {
        match self.shape {
            Shape::Entry | Shape::Raw => Target::Key(self.key.clone()),
            Shape::Tree | Shape::Keys { .. } => Target::Prefix(self.key.clone()),
        }
    }

    pub(super) fn look(&self, view: &View, seen: u64) -> Result<Look, StateError> {
        self.shape.look(view, &self.key, self.pretty, seen)
    }
}

impl Shape {
    /// Looks, and encodes what is there if its index is greater than `seen`.
    pub(super) fn look(&self, view: &View, key: &[u8], pretty: bool, seen: u64) -> Result<Look, StateError> {
        match self {
            Shape::Entry | Shape::Raw => {
                let (entry, index) = view.kv_get(key)?;
                Ok(Look::of(index, seen, || match entry {
                    None => Answer::Absent,
                    Some(entry) if *self == Shape::Raw => Answer::Raw(Bytes::copy_from_slice(entry.value)),
                    Some(entry) => entries(std::slice::from_ref(&entry), pretty),
                }))
            }
            Shape::Tree => {
                let listed = view.kv_list(key)?;
                Ok(Look::of(listed.index, seen, || match listed.entries.as_slice() {
                    [] => Answer::Absent,
                    found => entries(found, pretty),
                }))
            }
            Shape::Keys { separator } => {
                let found = view.kv_keys(key, separator)?;
                Ok(Look::of(found.index, seen, || {
                    // At the root, Consul has an empty list where any other prefix is absent.
                    if found.keys.is_empty() && !key.is_empty() { Answer::Absent } else { keys(&found.keys, pretty) }
                }))
            }
        }
    }
}

impl Look {
    fn of(index: Index, seen: u64, encode: impl FnOnce() -> Answer) -> Look {
        // Never 0, as clients see it: an index of 0 would make them ask without waiting.
        let index = index.max(Index::new(1));
        Look { index, answer: (index.get() > seen).then(encode) }
    }
}

/// What an entry takes beside key and value.
const ENTRY_BYTES: usize = 160;

fn entries(entries: &[Entry<'_>], pretty: bool) -> Answer {
    let size: usize = entries.iter().map(|e| ENTRY_BYTES + e.key.len() + e.value.len().div_ceil(3) * 4).sum();
    let mut out = Vec::with_capacity(size + 2);
    out.push(b'[');
    for (n, entry) in entries.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_entry(&mut out, entry);
    }
    out.push(b']');
    finish(out, pretty)
}

fn keys(keys: &[Vec<u8>], pretty: bool) -> Answer {
    let mut out = Vec::with_capacity(keys.iter().map(|key| key.len() + 3).sum::<usize>() + 2);
    out.push(b'[');
    for (n, key) in keys.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        json::string(&mut out, key);
    }
    out.push(b']');
    finish(out, pretty)
}

fn finish(compact: Vec<u8>, pretty: bool) -> Answer {
    Answer::Json(Bytes::from(if pretty { json::pretty(&compact) } else { compact }))
}

/// The members in Consul's order; `Session` only while the key is locked. `None` as value writes `null`.
fn write_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    json::entry(
        out,
        &json::KvEntry {
            lock_index: entry.lock_index,
            key: entry.key,
            flags: entry.flags,
            value: entry.value,
            session: entry.session,
            create_index: entry.create_index.get(),
            modify_index: entry.modify_index.get(),
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'v>(key: &'v [u8], value: &'v [u8]) -> Entry<'v> {
        Entry {
            key,
            value,
            flags: 3,
            lock_index: 2,
            session: None,
            create_index: Index::new(7),
            modify_index: Index::new(9),
        }
    }

    fn text(answer: Answer) -> String {
        let Answer::Json(bytes) = answer else { panic!("{answer:?} is not JSON") };
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn entries_have_consuls_members_in_consuls_order() {
        let locked = Entry { session: Some([0x11; 16]), ..entry(b"b", b"") };
        let expected = concat!(
            r#"[{"LockIndex":2,"Key":"a\u0026","Flags":3,"Value":"aGVsbG8=","CreateIndex":7,"ModifyIndex":9},"#,
            r#"{"LockIndex":2,"Key":"b","Flags":3,"Value":null,"Session":"11111111-1111-1111-1111-111111111111","#,
            r#""CreateIndex":7,"ModifyIndex":9}]"#
        );
        assert_eq!(text(entries(&[entry(b"a&", b"hello"), locked], false)), expected);
    }

    #[test]
    fn the_wire_type_reads_what_is_written() {
        let read: Vec<konsul_api::kv::KvEntry> =
            serde_json::from_str(&text(entries(&[entry(b"a", b"\xff\x00")], true))).unwrap();
        assert_eq!((read[0].key.as_str(), read[0].value.as_slice(), read[0].modify_index), ("a", &b"\xff\x00"[..], 9));
    }

    #[test]
    fn keys_are_a_list_of_strings() {
        assert_eq!(text(keys(&[b"a/".to_vec(), "é\"".as_bytes().to_vec()], false)), "[\"a/\",\"é\\\"\"]");
        assert_eq!(text(keys(&[], true)), "[]\n");
    }

    #[test]
    fn nothing_is_encoded_for_who_has_seen_it() {
        let look = |index, seen| Look::of(Index::new(index), seen, || Answer::Absent);
        assert!(look(5, 5).answer.is_none());
        assert!(look(5, 4).answer.is_some());
        assert_eq!(look(0, 0).index, Index::new(1));
    }
}
