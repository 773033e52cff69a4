//! What is applied at an index is the same on every node and in every life of it.

use super::Invariant;
use crate::oracle::Event;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct LogMatching {
    /// By index: term and content, and who applied it first.
    applied: BTreeMap<u64, (u64, u64, u64)>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log_matching"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        let Event::Applied { node, index, term, content } = event else { return Ok(()) };
        let (first_term, first_content, first) = self.applied.entry(*index).or_insert((*term, *content, *node));
        if (*first_term, *first_content) == (*term, *content) {
            return Ok(());
        }
        Err(format!("index {index} is of term {first_term} on node {first} and of term {term} on node {node}"))
    }
}
