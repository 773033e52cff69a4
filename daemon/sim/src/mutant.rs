//! What is broken on purpose, to see that the invariants notice.

/// A fault of the product that must not go unnoticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mutant {
    /// Nothing is broken.
    #[default]
    None,
    /// The log tells that entries are on the disk before they are.
    TellsBeforeSync,
    /// A vote is given and not written down.
    ForgetsVotes,
    /// A leader answers reads without asking whether it still leads.
    ReadsUnasked,
    /// What a command does depends on the node.
    AppliesByNode,
    /// Nobody is elected any more after the first fault.
    NeverElects,
}
