//! A key that one client alone writes holds in the end what was acknowledged last, or a later write whose outcome it
//! never heard.

use crate::event::{Event, Invariant};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct AckedWriteSurvives {
    /// By key: the last number that was begun, and the last that was acknowledged.
    written: BTreeMap<String, (u64, u64)>,
}

impl Invariant for AckedWriteSurvives {
    fn name(&self) -> &'static str {
        "acked_write_survives"
    }

    fn see(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::WriteBegan { key, number } => {
                self.written.entry(key.clone()).or_default().0 = *number;
            }
            Event::WriteAcknowledged { key, number } => {
                self.written.entry(key.clone()).or_default().1 = *number;
            }
            Event::Left { node, key, number } => {
                let (begun, acknowledged) = self.written.get(key).copied().unwrap_or_default();
                if !(acknowledged..=begun).contains(number) {
                    return Err(format!(
                        "{key} on node {node}: {number}; acknowledged was {acknowledged}, begun {begun}"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
