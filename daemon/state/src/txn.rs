//! Transactions: all operations or none, each seeing those before it.
//!
//! Every operation is tried, also after a failure, because the answer names every one that failed.

use crate::kv::{self, Effect, Head};
use crate::schema::Tables;
use crate::view::View;
use crate::writes::Writes;
use crate::{Index, KvWrite, Outcome, StateError, TxnEntry, TxnFailure, TxnOp};
use heed::RoTxn;
use std::fmt::Write;

/// Results of the operations so far.
#[derive(Default)]
struct Answer {
    entries: Vec<TxnEntry>,
    failures: Vec<TxnFailure>,
    op: u32,
}

impl Answer {
    fn fail(&mut self, what: String) {
        self.failures.push(TxnFailure { op: self.op, what });
    }

    fn entry(&mut self, key: &[u8], head: &Head, value: Option<&[u8]>) {
        self.entries.push(TxnEntry {
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
            flags: head.flags,
            lock_index: head.lock_index,
            create_index: head.create_index,
            modify_index: head.modify_index,
        });
    }

    fn finish(self) -> Result<Vec<TxnEntry>, Vec<TxnFailure>> {
        if self.failures.is_empty() { Ok(self.entries) } else { Err(self.failures) }
    }
}

/// A transaction of the log.
pub(crate) fn apply(w: &mut Writes<'_>, index: Index, ops: &[TxnOp<'_>]) -> Result<Outcome, StateError> {
    if let Some(why) = ops.iter().find_map(refusal) {
        return Ok(Outcome::Refused(why));
    }
    w.start_undoable();
    let mut answer = Answer::default();
    for op in ops {
        match op {
            TxnOp::Write(write) => apply_write(w, index, write, &mut answer)?,
            TxnOp::Get { .. } | TxnOp::GetTree { .. } | TxnOp::CheckIndex { .. } | TxnOp::CheckNotExists { .. } => {
                read(&w.tables, &w.txn, op, &mut answer)?;
            }
        }
        answer.op += 1;
    }
    w.end_undoable(answer.failures.is_empty())?;
    Ok(Outcome::Txn(answer.finish()))
}

fn refusal(op: &TxnOp<'_>) -> Option<String> {
    match op {
        TxnOp::Write(write) => kv::write_refusal(write),
        TxnOp::Get { key } | TxnOp::CheckIndex { key, .. } | TxnOp::CheckNotExists { key } => kv::refusal(key),
        TxnOp::GetTree { prefix: _ } => None,
    }
}

fn apply_write(w: &mut Writes<'_>, index: Index, write: &KvWrite<'_>, to: &mut Answer) -> Result<(), StateError> {
    let effect = kv::write(w, index, write)?;
    match *write {
        KvWrite::Set { key, .. } | KvWrite::Cas { key, .. } => match effect {
            Effect::Entry(head) => to.entry(key, &head, None),
            Effect::Stale => to.fail(format!("failed to set key {}, index is stale", quoted(key))),
            Effect::Gone => unreachable!("a set leaves an entry"),
        },
        KvWrite::DeleteCas { key, .. } => {
            if effect == Effect::Stale {
                to.fail(format!("failed to delete key {}, index is stale", quoted(key)));
            }
        }
        KvWrite::Delete { .. } | KvWrite::DeleteTree { .. } => {}
    }
    Ok(())
}

/// One operation that writes nothing.
fn read(tables: &Tables, txn: &RoTxn<'_>, op: &TxnOp<'_>, to: &mut Answer) -> Result<(), StateError> {
    match *op {
        TxnOp::Get { key } => match kv::get(tables, txn, key)? {
            Some((head, value)) => to.entry(key, &head, Some(value)),
            None => to.fail(format!("key {} doesn't exist", quoted(key))),
        },
        TxnOp::GetTree { prefix } => {
            for record in tables.kv.under(txn, prefix)? {
                let (key, record) = record?;
                let (head, value) = kv::decode(record)?;
                to.entry(key, &head, Some(value));
            }
        }
        TxnOp::CheckIndex { key, index } => match kv::get(tables, txn, key)? {
            Some((head, _)) if head.modify_index == index => to.entry(key, &head, None),
            Some((Head { modify_index, .. }, _)) => {
                let key = quoted(key);
                to.fail(format!("failed index check for key {key}, current modify index {modify_index} != {index}"));
            }
            None => to.fail(format!("failed to check index, key {} doesn't exist", quoted(key))),
        },
        TxnOp::CheckNotExists { key } => {
            if kv::get(tables, txn, key)?.is_some() {
                to.fail(format!("key {} exists", quoted(key)));
            }
        }
        TxnOp::Write(_) => to.fail("a transaction that only reads cannot write".to_owned()),
    }
    Ok(())
}

impl View {
    /// A transaction that only reads. A write in `ops` is a failure.
    pub fn txn(&self, ops: &[TxnOp<'_>]) -> Result<Result<Vec<TxnEntry>, Vec<TxnFailure>>, StateError> {
        let mut answer = Answer::default();
        for op in ops {
            read(&self.store.tables, &self.txn, op, &mut answer)?;
            answer.op += 1;
        }
        Ok(answer.finish())
    }
}

/// The key as Go's `%q` prints it: Consul's clients match on these texts.
fn quoted(key: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in key.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_quoted(&mut out, c));
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").expect("a String takes all");
        }
    }
    out.push('"');
    out
}

fn push_quoted(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if is_printable(c) => out.push(c),
        c if c < ' ' || c == '\x7f' => write!(out, "\\x{:02x}", u32::from(c)).expect("a String takes all"),
        c if u32::from(c) < 0x1_0000 => write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes all"),
        c => write!(out, "\\U{:08x}", u32::from(c)).expect("a String takes all"),
    }
}

/// The standard library knows what is printable, but says so only through its own escapes; behind another character,
/// combining marks count as printable there as they do in Go.
fn is_printable(c: char) -> bool {
    let pair: String = ['a', c].iter().collect();
    c == '\'' || pair.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn keys_in_texts_are_quoted_as_go_quotes_them() {
        // Left: the key. Right: fmt.Sprintf("%q", key).
        let table: [(&[u8], &str); 8] = [
            (b"ct/a", r#""ct/a""#),
            (b"a \"b\"\\", r#""a \"b\"\\""#),
            (b"it's", r#""it's""#),
            (b"\x00\x07\n\x7f", r#""\x00\a\n\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            ("é\u{301}".as_bytes(), "\"é\u{301}\""),
            ("\u{a0}\u{feff}".as_bytes(), r#""\u00a0\ufeff""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
        ];
        for (key, expected) in table {
            assert_eq!(quoted(key), expected);
        }
    }
}
