//! What is applied at an index is the same on every node and in every life of it.

use crate::event::{Event, Invariant, Leader};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct LogMatching {
    /// By index: under which leader and what, and who applied it first.
    applied: BTreeMap<u64, (Leader, u64, u64)>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log_matching"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        let Event::Applied { node, index, leader, content } = event else { return Ok(()) };
        let (first_leader, first_content, first) = self.applied.entry(*index).or_insert((*leader, *content, *node));
        if (*first_leader, *first_content) == (*leader, *content) {
            return Ok(());
        }
        Err(format!("index {index} is of leader {first_leader:?} on node {first} and of {leader:?} on node {node}"))
    }
}
