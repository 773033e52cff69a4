//! Whoever leads has every entry that was committed under an earlier leader.

use crate::event::{Event, Invariant, Leader};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct LeaderCompleteness {
    /// By leader: the highest index of its entries that somebody applied.
    committed: BTreeMap<Leader, u64>,
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader_completeness"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Applied { index, leader, .. } => {
                let committed = self.committed.entry(*leader).or_default();
                *committed = (*committed).max(*index);
            }
            Event::Leads { node, term, last } => {
                let earlier = self.committed.range(..(*term, *node)).map(|(_, index)| *index).max().unwrap_or(0);
                if *last < earlier {
                    return Err(format!(
                        "node {node} leads in term {term} with a log up to {last}; committed before was {earlier}"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
