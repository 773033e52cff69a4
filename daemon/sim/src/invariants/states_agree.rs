//! Nodes that have applied the same have the same state, to the byte.

use crate::event::{Event, Invariant};
use konsul_state::Digest;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct StatesAgree {
    digests: BTreeMap<u64, (u64, Digest)>,
}

impl Invariant for StatesAgree {
    fn name(&self) -> &'static str {
        "states_agree"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        let Event::State { node, index, digest } = event else { return Ok(()) };
        let (first, same) = self.digests.entry(*index).or_insert((*node, *digest));
        if same == digest {
            return Ok(());
        }
        Err(format!("at index {index} node {first} has the digest {same}, node {node} {digest}"))
    }
}
