//! In one term one node leads at most.

use super::Invariant;
use crate::oracle::Event;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election_safety"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        let Event::Leads { node, term } = event else { return Ok(()) };
        let first = self.leaders.entry(*term).or_insert(*node);
        if first == node { Ok(()) } else { Err(format!("nodes {first} and {node} lead in term {term}")) }
    }
}
