//! A read gives what was acknowledged or read before it began, or something newer that was begun before it ended. For
//! numbers that only rise, written by one client per key, this is the whole of linearizability.

use crate::event::{Event, Invariant};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct ReadsAreLinearizable {
    /// By key: the last number that was begun, and the highest that somebody knows to be there.
    known: BTreeMap<String, (u64, u64)>,
    /// By read: what it must see at least.
    reads: BTreeMap<u64, u64>,
}

impl Invariant for ReadsAreLinearizable {
    fn name(&self) -> &'static str {
        "reads_are_linearizable"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::WriteBegan { key, number } => {
                self.known.entry(key.clone()).or_default().0 = *number;
            }
            Event::WriteAcknowledged { key, number } => {
                let known = &mut self.known.entry(key.clone()).or_default().1;
                *known = (*known).max(*number);
            }
            Event::ReadBegan { read, key, .. } => {
                self.reads.insert(*read, self.known.get(key).map_or(0, |(_, known)| *known));
            }
            Event::ReadEnded { read, node, key, number } => {
                let least = self.reads.remove(read).unwrap_or_default();
                let (begun, known) = self.known.entry(key.clone()).or_default();
                if !(least..=*begun).contains(number) {
                    return Err(format!("node {node} read {number} from {key}; known was {least}, begun {begun}"));
                }
                *known = (*known).max(*number);
            }
            _ => {}
        }
        Ok(())
    }
}
