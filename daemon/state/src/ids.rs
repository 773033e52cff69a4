//! Identifiers with a meaning of their own.

use std::fmt;

/// A position in the replicated log; also the version of everything that was written at that position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);

    /// The index with this number.
    pub const fn new(n: u64) -> Index {
        Index(n)
    }

    /// The number, for wires and files.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
