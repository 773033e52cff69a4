//! The newest log entries in memory: replication and apply read them here, not from disk.
//!
//! Entries are put here before `append` returns, so they can be read before they are durable. An entry leaves only
//! when it is durable and the budget is used up.

use crate::raft_types::{Entry, EntryPayload};
use std::collections::VecDeque;

/// A contiguous run of entries up to the last one.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

/// Memory of an entry, roughly: the payload plus the structures around it.
pub(super) fn weight(entry: &Entry) -> usize {
    const AROUND: usize = 128;
    match &entry.payload {
        EntryPayload::Normal(proposal) => AROUND + proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 4 * AROUND,
    }
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Index of the oldest entry here.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|e| e.log_id.index)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if let Some(last) = self.entries.back() {
            assert!(
                entry.log_id.index == last.log_id.index + 1,
                "log has a hole: {} after {}",
                entry.log_id.index,
                last.log_id.index
            );
        }
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
    }

    /// Frees memory: entries up to `durable` may go.
    pub(super) fn shrink(&mut self, durable: u64) {
        while self.bytes > self.bytes_max && self.first().is_some_and(|first| first <= durable) {
            self.pop_front();
        }
    }

    /// Drops entries up to and including `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// Drops entries behind `index`; `None` drops all.
    pub(super) fn truncate_after(&mut self, index: Option<u64>) {
        while let Some(last) = self.entries.back() {
            if index.is_some_and(|keep| last.log_id.index <= keep) {
                break;
            }
            self.bytes -= weight(last);
            self.entries.pop_back();
        }
    }

    /// Entries `[start, end)` as far as they are here, until `bytes_max` are collected (at least one).
    pub(super) fn range(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first() else { return Vec::new() };
        let skip = usize::try_from(start.saturating_sub(first)).expect("an offset into memory fits usize");
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.iter().skip(skip) {
            if entry.log_id.index >= end || (bytes > 0 && bytes + weight(entry) > bytes_max) {
                break;
            }
            bytes += weight(entry);
            found.push(entry.clone());
        }
        found
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= weight(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{CommittedLeaderId, LogId, Proposal};
    use bytes::Bytes;

    fn entry(index: u64) -> Entry {
        let leader = CommittedLeaderId { term: 1, node_id: 1 };
        Entry {
            log_id: LogId::new(leader, index),
            payload: EntryPayload::Normal(Proposal(Bytes::from_static(&[0; 100]))),
        }
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|e| e.log_id.index).collect()
    }

    #[test]
    fn entries_that_are_not_durable_stay_whatever_the_budget() {
        let mut tail = Tail::new(0);
        (5..10).for_each(|i| tail.push(entry(i)));
        tail.shrink(6);
        assert_eq!(tail.first(), Some(7));
        assert_eq!(indexes(&tail.range(7, 9, usize::MAX)), [7, 8]);
    }

    #[test]
    fn a_range_is_cut_at_the_byte_budget_but_never_empty() {
        let mut tail = Tail::new(usize::MAX);
        (1..=5).for_each(|i| tail.push(entry(i)));
        assert_eq!(indexes(&tail.range(2, 6, 1)), [2]);
        assert_eq!(indexes(&tail.range(2, 6, 2 * weight(&entry(0)))), [2, 3]);
        tail.truncate_after(Some(3));
        assert_eq!(indexes(&tail.range(2, 6, usize::MAX)), [2, 3]);
        tail.truncate_after(None);
        assert_eq!((tail.first(), tail.bytes), (None, 0));
    }
}
