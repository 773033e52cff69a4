//! What happens in a run, and what looks at it.

use konsul_state::Digest;

/// Term and node. openraft lets a node with a higher id win a term that another has won before: the pair is what orders
/// leaders, not the term alone.
pub(crate) type Leader = (u64, u64);

/// What the invariants look at.
#[derive(Debug)]
#[expect(dead_code, reason = "some of it only reports show, by its Debug form")]
pub(crate) enum Event {
    /// A node took the lead, by its own account, with a log that ends at `last`.
    Leads {
        node: u64,
        term: u64,
        last: u64,
    },
    Applied {
        node: u64,
        index: u64,
        leader: Leader,
        content: u64,
    },
    WriteBegan {
        key: String,
        number: u64,
    },
    WriteAcknowledged {
        key: String,
        number: u64,
    },
    ReadBegan {
        read: u64,
        node: u64,
        key: String,
    },
    ReadEnded {
        read: u64,
        node: u64,
        key: String,
        number: u64,
    },
    /// The digest of a node's state.
    State {
        node: u64,
        index: u64,
        digest: Digest,
    },
    /// What a key holds when all is over.
    Left {
        node: u64,
        key: String,
        number: u64,
    },
    /// Something is broken, or mended.
    Fault(String),
    /// This does not hold: of what has to go on.
    Stuck(&'static str),
}

/// Looks at what happens, in order, and says what must not have happened.
pub(crate) trait Invariant: Send {
    /// What it is called in a report.
    fn name(&self) -> &'static str;
    /// The reason, if this event breaks it.
    fn see(&mut self, event: &Event) -> Result<(), String>;
}
