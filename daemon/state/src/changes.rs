//! What a batch touched, for whoever waits for a change.

/// The keys and trees one batch of commands changed. A key or tree that a command left as it was is not in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Keys written or deleted, in log order; may repeat.
    pub keys: Vec<Box<[u8]>>,
    /// Everything may have changed (a restore).
    pub all: bool,
    /// A join token, one of the cluster's own records, or the mark of a node changed.
    pub cluster: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.all && !self.cluster
    }
}
