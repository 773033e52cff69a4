//! What can go wrong with the store itself. A command that is merely refused is an [`crate::Outcome`], not an error.

use crate::codec::DecodeError;

/// The store cannot go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StateError {
    #[error("begin a {kind} transaction")]
    Begin {
        kind: &'static str,
        #[source]
        source: heed::Error,
    },
    #[error("open table {table}")]
    OpenTable {
        table: &'static str,
        #[source]
        source: heed::Error,
    },
    #[error("{op} in table {table}")]
    Table {
        op: &'static str,
        table: &'static str,
        #[source]
        source: heed::Error,
    },
    #[error("commit")]
    Commit {
        #[source]
        source: heed::Error,
    },
    #[error("command at log index {index} cannot be applied")]
    Command {
        index: u64,
        #[source]
        source: DecodeError,
    },
    #[error("record in table {table} is damaged")]
    Record {
        table: &'static str,
        #[source]
        source: DecodeError,
    },
    #[error("table {table} is not known to this version: upgrade this node")]
    UnknownTable { table: u8 },
    #[error("record of table {table} is out of order")]
    Order { table: &'static str },
    #[error("table {table} is not empty: fill a fresh store")]
    NotEmpty { table: &'static str },
    #[error("state has format {found}; this version knows format {known}: upgrade this node")]
    Format { found: u64, known: u64 },
    #[error(
        "the cluster is at version {found}, this program understands versions up to {known}: install the newer one that \
         the other nodes run"
    )]
    Version { found: u32, known: u32 },
}

impl StateError {
    /// Whether a newer program would understand it: then nothing is wrong with the data.
    pub fn is_of_a_newer_version(&self) -> bool {
        match self {
            StateError::Format { found, known } => found > known,
            StateError::Version { .. } | StateError::UnknownTable { .. } => true,
            StateError::Command { source, .. } | StateError::Record { source, .. } => {
                matches!(source, DecodeError::Unknown { .. })
            }
            StateError::Begin { .. }
            | StateError::OpenTable { .. }
            | StateError::Table { .. }
            | StateError::Commit { .. }
            | StateError::Order { .. }
            | StateError::NotEmpty { .. } => false,
        }
    }
}
