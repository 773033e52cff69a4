//! Spans of a proposal: one in each trace that the proposal is part of.

use crate::telemetry::trace::{self, Parent, Span, SpanKind};
use std::time::SystemTime;

/// The same span in several traces; they end when this is dropped.
pub(super) struct Spans {
    spans: Vec<Span>,
    began: SystemTime,
}

impl Spans {
    pub(super) fn begin(part_of: &[Parent], kind: SpanKind, name: &'static str) -> Spans {
        Spans { spans: trace::children(part_of, kind, name), began: SystemTime::now() }
    }

    /// What is done for it is part of these.
    pub(super) fn parents(&self) -> Vec<Parent> {
        self.spans.iter().map(Span::as_parent).collect()
    }

    pub(super) fn number(&mut self, key: &'static str, number: u64) {
        self.spans.iter_mut().for_each(|span| span.number(key, number));
    }

    pub(super) fn fail(&mut self, why: &'static str) {
        self.spans.iter_mut().for_each(|span| span.fail(why));
    }

    /// It was committed and applied; when, as far as that is known.
    pub(super) fn applied(
        &mut self,
        index: u64,
        committed_at: Option<SystemTime>,
        applied_at: Option<(SystemTime, SystemTime)>,
    ) {
        self.number("konsul.index", index);
        for parent in self.parents() {
            if let Some(committed_at) = committed_at {
                trace::past(parent, "raft.commit", (self.began, committed_at));
            }
            if let Some(applied_at) = applied_at {
                trace::past(parent, "raft.apply", applied_at);
            }
        }
    }
}
