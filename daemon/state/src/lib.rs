//! The replicated state machine: the same commands give the same state on every node.
//!
//! Deterministic and synchronous.  Knows nothing about: time, chance, network, Raft, HTTP.
//!
//! A [`Store`] is the set of tables in one LMDB environment. One [`Batch`] is one write transaction: every command
//! of a commit batch is applied to it, the caller's replication position is put beside the data, and all of it
//! becomes visible at once. A [`View`] is one read transaction: everything read from it is of one moment.

#![warn(missing_docs)]

mod audit;
mod batch;
mod changes;
mod cluster_record;
mod codec;
mod command;
mod digest;
mod error;
mod ids;
mod kv;
mod nodes;
mod outcome;
mod records;
mod restore;
mod schema;
mod token;
mod tombstone;
mod txn;
mod version;
mod view;
mod writes;

pub use audit::{AUDIT_EVENTS_MAX, AUDIT_ROWS_MAX, AUDIT_TEXT_BYTES_MAX, AuditId, AuditRow};
pub use batch::Batch;
pub use changes::Changes;
pub use cluster_record::RECORD_BYTES_MAX;
pub use codec::{DecodeError, Reader, Writer};
pub use command::{AuditEvent, Command, KvWrite, Restore, Role, StagedEntry, TokenWrite, TxnOp};
pub use digest::{Digest, Digester};
pub use error::StateError;
pub use ids::Index;
pub use kv::Entry;
pub use nodes::Node;
pub use outcome::{Outcome, TokenRefusal, TxnEntry, TxnFailure};
pub use records::{Loader, Record};
pub use schema::{KEY_BYTES_MAX, Store};
pub use token::{TOKEN_USES_MAX, TOKENS_MAX, Token, TokenRevoked, TokenUse};
pub use version::{VERSION_MAX, VERSION_MIN, VERSION_OF_CHECK_POINTS, VERSION_OF_CUT_OFF, version_brings};
pub use view::{Keys, Listed, Position, View};
