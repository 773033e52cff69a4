//! Every command of the replicated log, and its versioned encoding.
//!
//! A command is borrowed from the bytes it came in (an HTTP body, a log record): it is encoded once, by the node that
//! proposes it, and decoded once by each node that applies it.

mod cluster;

pub use cluster::{AuditEvent, Role, TokenWrite};

use crate::codec::{DecodeError, Reader, Writer};
use crate::version::VERSION_MIN;

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// One key/value write; answers [`crate::Outcome::Written`].
    Kv(KvWrite<'a>),
    /// All or nothing, with reads and checks between the writes; answers [`crate::Outcome::Txn`].
    Txn(Vec<TxnOp<'a>>),
    /// Many writes; `atomic`: all or nothing, else each for itself. Answers [`crate::Outcome::Batch`].
    Batch {
        /// Whether one write that does not apply undoes the others.
        atomic: bool,
        /// The writes, in order.
        ops: Vec<KvWrite<'a>>,
    },
    /// The cluster is formed: written once, as the first command.
    Form {
        /// The cluster's identity (a UUID).
        cluster_id: [u8; 16],
        /// The cluster version it begins with.
        version: u32,
    },
    /// A node asks for membership; answers [`crate::Outcome::Admitted`]. A node id is granted once and never again,
    /// because a log that meets an old vote under the same id can split the cluster.
    Admit {
        /// The id it would like: granted if no node ever had it; 0 = no wish.
        wished: u64,
        /// Its name.
        name: &'a str,
    },
    /// A step of replacing the whole content from an archive.
    Restore(Restore<'a>),
    /// A change of a join token; each is audited by itself.
    Token(TokenWrite<'a>),
    /// Rows for the audit, beside those that other commands leave.
    Audit(Vec<AuditEvent<'a>>),
    /// Writes one of the cluster's own small records; answers [`crate::Outcome::Written`].
    Record {
        /// Its name.
        key: &'a [u8],
        /// What it holds: opaque here.
        value: &'a [u8],
        /// The modify index it must have; 0 = it must be absent.
        index: u64,
    },
    /// This node id never speaks again. Repeating it is fine.
    Retire {
        /// Which.
        node_id: u64,
    },
    /// Changes nothing. Whoever applies the log takes the digest of its state as it is here, to compare it with those of
    /// the others. Since cluster version 2.
    CheckPoint,
    /// From here on commands of this cluster version may be in the log; answers [`crate::Outcome::Written`]: whether it
    /// was lower. It never goes down. Since cluster version 2.
    Upgrade {
        /// The version.
        to: u32,
    },
    /// Encoded commands of several clients that share one log entry, hence one index; each does what it does alone, in
    /// order. Answers [`crate::Outcome::Group`].
    Group(Vec<&'a [u8]>),
}

/// One key/value write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the field names are those of the HTTP API")]
pub enum KvWrite<'a> {
    /// Writes the entry; an identical entry is left as it is, index included.
    Set { key: &'a [u8], value: &'a [u8], flags: u64 },
    /// Writes if the entry's modify index is `index`; 0 = only if the key is absent.
    Cas { key: &'a [u8], value: &'a [u8], flags: u64, index: u64 },
    /// Deletes; an absent key is fine.
    Delete { key: &'a [u8] },
    /// Deletes if the modify index is `index`; an absent key is fine.
    DeleteCas { key: &'a [u8], index: u64 },
    /// Deletes every key that starts with `prefix`.
    DeleteTree { prefix: &'a [u8] },
}

/// One operation of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the field names are those of the HTTP API")]
pub enum TxnOp<'a> {
    Write(KvWrite<'a>),
    Get { key: &'a [u8] },
    GetTree { prefix: &'a [u8] },
    CheckIndex { key: &'a [u8], index: u64 },
    CheckNotExists { key: &'a [u8] },
}

/// An entry of an archive, on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the field names are those of the HTTP API")]
pub struct StagedEntry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub flags: u64,
    pub create_index: u64,
    pub lock_index: u64,
}

/// Replacing the content: parts are staged beside it, then put in its place at once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the field names are those of the HTTP API")]
pub enum Restore<'a> {
    /// Starts staging and drops what an earlier, unfinished restore left.
    Begin { id: [u8; 16] },
    /// Stages entries.
    Stage { id: [u8; 16], entries: Vec<StagedEntry<'a>> },
    /// Puts what was staged in place of the content, if exactly `entries` were staged under `id`.
    /// Every entry gets this log index as its modify index: no index ever goes backwards.
    Commit { id: [u8; 16], entries: u64 },
    /// Drops what was staged under `id`.
    Abort { id: [u8; 16] },
}

const VERSION: u8 = 1;

/// What follows the version. Numbers are never given twice.
mod kind {
    pub(super) const KV: u8 = 1;
    pub(super) const TXN: u8 = 2;
    pub(super) const BATCH: u8 = 3;
    pub(super) const FORM: u8 = 4;
    pub(super) const ADMIT: u8 = 5;
    pub(super) const RESTORE_BEGIN: u8 = 6;
    pub(super) const RESTORE_STAGE: u8 = 7;
    pub(super) const RESTORE_COMMIT: u8 = 8;
    pub(super) const RESTORE_ABORT: u8 = 9;
    // 10 to 13 are in `command/cluster.rs`.
    pub(super) const RECORD: u8 = 14;
    pub(super) const RETIRE: u8 = 15;
    pub(super) const CHECK_POINT: u8 = 16;
    pub(super) const FORM_AT: u8 = 17;
    pub(super) const UPGRADE: u8 = 18;
    pub(super) const GROUP: u8 = 20;
}

const HIGHEST_KIND: u8 = kind::GROUP;

/// The operations of `KV`, `TXN` and `BATCH`.
mod op {
    pub(super) const SET: u8 = 1;
    pub(super) const CAS: u8 = 2;
    pub(super) const DELETE: u8 = 3;
    pub(super) const DELETE_CAS: u8 = 4;
    pub(super) const DELETE_TREE: u8 = 5;
    pub(super) const GET: u8 = 6;
    pub(super) const GET_TREE: u8 = 7;
    pub(super) const CHECK_INDEX: u8 = 8;
    pub(super) const CHECK_NOT_EXISTS: u8 = 9;
}

impl<'a> Command<'a> {
    /// Appends the encoded command: a format version, then the fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut to = Writer::over(std::mem::take(out));
        to.u8(VERSION);
        match self {
            Command::Kv(write) => {
                to.u8(kind::KV);
                encode_write(write, &mut to);
            }
            Command::Txn(ops) => {
                to.u8(kind::TXN);
                to.usize(ops.len());
                ops.iter().for_each(|op| encode_op(op, &mut to));
            }
            Command::Batch { atomic, ops } => {
                to.u8(kind::BATCH);
                to.bool(*atomic);
                to.usize(ops.len());
                ops.iter().for_each(|op| encode_write(op, &mut to));
            }
            // In the words of before there were versions, so that those who know no others can read it.
            Command::Form { cluster_id, version: VERSION_MIN } => {
                to.u8(kind::FORM);
                to.raw(cluster_id);
            }
            Command::Form { cluster_id, version } => {
                to.u8(kind::FORM_AT);
                to.raw(cluster_id);
                to.u64(u64::from(*version));
            }
            Command::Admit { wished, name } => {
                to.u8(kind::ADMIT);
                to.u64(*wished);
                to.str(name);
            }
            Command::Restore(step) => encode_restore(step, &mut to),
            Command::Token(write) => cluster::encode_token(write, &mut to),
            Command::Audit(events) => {
                to.u8(cluster::kind::AUDIT);
                to.usize(events.len());
                events.iter().for_each(|event| event.encode(&mut to));
            }
            Command::Record { key, value, index } => {
                to.u8(kind::RECORD);
                to.bytes(key);
                to.bytes(value);
                to.u64(*index);
            }
            Command::Retire { node_id } => {
                to.u8(kind::RETIRE);
                to.u64(*node_id);
            }
            Command::CheckPoint => to.u8(kind::CHECK_POINT),
            Command::Upgrade { to: version } => {
                to.u8(kind::UPGRADE);
                to.u64(u64::from(*version));
            }
            Command::Group(commands) => {
                to.u8(kind::GROUP);
                to.usize(commands.len());
                commands.iter().for_each(|command| to.bytes(command));
            }
        }
        *out = to.into_vec();
    }

    /// The command in `bytes`. An unknown version or kind is an error: the caller must stop before it applies.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        let mut from = Reader::new(bytes);
        from.version("command version", VERSION)?;
        let command = match from.u8("command kind")? {
            kind::KV => Command::Kv(decode_write(&mut from)?),
            kind::TXN => Command::Txn(from.list("operations", decode_op)?),
            kind::BATCH => Command::Batch { atomic: from.bool("atomic")?, ops: from.list("operations", decode_write)? },
            kind::FORM => Command::Form { cluster_id: from.array("cluster id")?, version: VERSION_MIN },
            kind::FORM_AT => {
                Command::Form { cluster_id: from.array("cluster id")?, version: from.u32("cluster version")? }
            }
            kind::ADMIT => Command::Admit { wished: from.u64("node id")?, name: from.str("node name")? },
            kind::RESTORE_BEGIN => Command::Restore(Restore::Begin { id: from.array("restore id")? }),
            kind::RESTORE_STAGE => Command::Restore(Restore::Stage {
                id: from.array("restore id")?,
                entries: from.list("entries", decode_staged)?,
            }),
            kind::RESTORE_COMMIT => {
                Command::Restore(Restore::Commit { id: from.array("restore id")?, entries: from.u64("entries")? })
            }
            kind::RESTORE_ABORT => Command::Restore(Restore::Abort { id: from.array("restore id")? }),
            cluster::kind::TOKEN_CREATE => Command::Token(cluster::decode_create(&mut from)?),
            cluster::kind::TOKEN_REVOKE => Command::Token(cluster::decode_revoke(&mut from)?),
            cluster::kind::TOKEN_USE => Command::Token(cluster::decode_use(&mut from)?),
            cluster::kind::AUDIT => Command::Audit(from.list("events", AuditEvent::decode)?),
            kind::RECORD => Command::Record {
                key: from.bytes("record name")?,
                value: from.bytes("record")?,
                index: from.u64("index")?,
            },
            kind::RETIRE => Command::Retire { node_id: from.u64("node id")? },
            kind::CHECK_POINT => Command::CheckPoint,
            kind::UPGRADE => Command::Upgrade { to: from.u32("cluster version")? },
            kind::GROUP => Command::Group(from.list("commands", |from| from.bytes("command"))?),
            found => return Err(unknown("command kind", found, HIGHEST_KIND)),
        };
        from.end("command")?;
        Ok(command)
    }
}

fn unknown(what: &'static str, found: u8, known: u8) -> DecodeError {
    DecodeError::Unknown { what, found: u64::from(found), known: u64::from(known) }
}

fn encode_write(write: &KvWrite<'_>, to: &mut Writer) {
    match *write {
        KvWrite::Set { key, value, flags } => {
            to.u8(op::SET);
            to.bytes(key);
            to.bytes(value);
            to.u64(flags);
        }
        KvWrite::Cas { key, value, flags, index } => {
            to.u8(op::CAS);
            to.bytes(key);
            to.bytes(value);
            to.u64(flags);
            to.u64(index);
        }
        KvWrite::Delete { key } => {
            to.u8(op::DELETE);
            to.bytes(key);
        }
        KvWrite::DeleteCas { key, index } => {
            to.u8(op::DELETE_CAS);
            to.bytes(key);
            to.u64(index);
        }
        KvWrite::DeleteTree { prefix } => {
            to.u8(op::DELETE_TREE);
            to.bytes(prefix);
        }
    }
}

fn encode_op(txn_op: &TxnOp<'_>, to: &mut Writer) {
    match *txn_op {
        TxnOp::Write(write) => encode_write(&write, to),
        TxnOp::Get { key } => {
            to.u8(op::GET);
            to.bytes(key);
        }
        TxnOp::GetTree { prefix } => {
            to.u8(op::GET_TREE);
            to.bytes(prefix);
        }
        TxnOp::CheckIndex { key, index } => {
            to.u8(op::CHECK_INDEX);
            to.bytes(key);
            to.u64(index);
        }
        TxnOp::CheckNotExists { key } => {
            to.u8(op::CHECK_NOT_EXISTS);
            to.bytes(key);
        }
    }
}

fn encode_restore(step: &Restore<'_>, to: &mut Writer) {
    match step {
        Restore::Begin { id } => {
            to.u8(kind::RESTORE_BEGIN);
            to.raw(id);
        }
        Restore::Stage { id, entries } => {
            to.u8(kind::RESTORE_STAGE);
            to.raw(id);
            to.usize(entries.len());
            for entry in entries {
                to.bytes(entry.key);
                to.bytes(entry.value);
                to.u64(entry.flags);
                to.u64(entry.create_index);
                to.u64(entry.lock_index);
            }
        }
        Restore::Commit { id, entries } => {
            to.u8(kind::RESTORE_COMMIT);
            to.raw(id);
            to.u64(*entries);
        }
        Restore::Abort { id } => {
            to.u8(kind::RESTORE_ABORT);
            to.raw(id);
        }
    }
}

fn decode_write<'a>(from: &mut Reader<'a>) -> Result<KvWrite<'a>, DecodeError> {
    let number = from.u8("operation")?;
    decode_write_of(number, from)?.ok_or_else(|| unknown("operation", number, op::DELETE_TREE))
}

/// None if the number is not that of a write.
fn decode_write_of<'a>(number: u8, from: &mut Reader<'a>) -> Result<Option<KvWrite<'a>>, DecodeError> {
    Ok(Some(match number {
        op::SET => KvWrite::Set { key: from.bytes("key")?, value: from.bytes("value")?, flags: from.u64("flags")? },
        op::CAS => KvWrite::Cas {
            key: from.bytes("key")?,
            value: from.bytes("value")?,
            flags: from.u64("flags")?,
            index: from.u64("index")?,
        },
        op::DELETE => KvWrite::Delete { key: from.bytes("key")? },
        op::DELETE_CAS => KvWrite::DeleteCas { key: from.bytes("key")?, index: from.u64("index")? },
        op::DELETE_TREE => KvWrite::DeleteTree { prefix: from.bytes("prefix")? },
        _ => return Ok(None),
    }))
}

fn decode_op<'a>(from: &mut Reader<'a>) -> Result<TxnOp<'a>, DecodeError> {
    Ok(match from.u8("operation")? {
        op::GET => TxnOp::Get { key: from.bytes("key")? },
        op::GET_TREE => TxnOp::GetTree { prefix: from.bytes("prefix")? },
        op::CHECK_INDEX => TxnOp::CheckIndex { key: from.bytes("key")?, index: from.u64("index")? },
        op::CHECK_NOT_EXISTS => TxnOp::CheckNotExists { key: from.bytes("key")? },
        number => {
            let write = decode_write_of(number, from)?;
            TxnOp::Write(write.ok_or_else(|| unknown("operation", number, op::CHECK_NOT_EXISTS))?)
        }
    })
}

fn decode_staged<'a>(from: &mut Reader<'a>) -> Result<StagedEntry<'a>, DecodeError> {
    Ok(StagedEntry {
        key: from.bytes("key")?,
        value: from.bytes("value")?,
        flags: from.u64("flags")?,
        create_index: from.u64("create index")?,
        lock_index: from.u64("lock index")?,
    })
}
