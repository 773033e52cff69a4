//! What people are shown of a node's identity: its certificate, who signed it, what protects its connections.

use super::authority::Authority;
use super::brought::Brought;
use crate::clock::Clock;
use crate::peer::{Encryption, Pool};
use crate::tls::{Facts, Tls, date};
use std::time::Duration;

/// What people are shown. Cheap to clone.
#[derive(Clone)]
pub struct Papers {
    /// `None`: this node speaks in the clear.
    pub tls: Option<Tls>,
    /// `None`: certificates are brought by people, or there are none.
    pub authority: Option<Authority>,
    /// There if certificates are brought by people.
    pub brought: Option<Brought>,
    pub pool: Pool,
    pub clock: Clock,
}

/// This node's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    pub facts: Facts,
    /// Which authority of the cluster signed it; `None`: one that people keep.
    pub authority: Option<u64>,
    /// Until it expires; zero: it has.
    pub left: Duration,
}

impl Papers {
    /// This node's own certificate, if it has one.
    pub fn certificate(&self) -> Option<OwnCertificate> {
        let facts = self.tls.as_ref()?.own()?;
        let stored = self.authority.as_ref().and_then(|authority| authority.stored().ok().flatten());
        let signer = stored.as_ref().and_then(|stored| {
            let signed = |certificate| Facts::of(certificate).is_ok_and(|signer| facts.is_signed_by(&signer));
            stored.record.generations().iter().find(|generation| signed(&generation.certificate))
        });
        let left_ms = facts.validity.not_after_ms.saturating_sub(self.clock.wall().as_millis());
        Some(OwnCertificate {
            authority: signer.map(|generation| generation.number),
            left: Duration::from_millis(left_ms),
            facts,
        })
    }

    /// What protects the connections to that member; `None`: there is none, or it is this node.
    pub fn encryption(&self, node_id: u64) -> Option<Encryption> {
        self.pool.encryption(node_id)
    }

    /// Why this node cannot do its part, if so.
    pub fn not_ready(&self) -> Option<String> {
        let own = self.certificate().filter(|own| own.left.is_zero())?;
        Some(format!(
            "this node's certificate expired on {}: other nodes refuse it; {}",
            date(own.facts.validity.not_after_ms),
            self.advice()
        ))
    }

    /// What will keep this node from doing its part, if nobody acts.
    pub fn warnings(&self) -> Vec<String> {
        let refused = self.brought.as_ref().and_then(Brought::refused);
        let refused =
            refused.map(|why| format!("the certificate files changed and cannot be used, the old ones are: {why}"));
        refused.into_iter().chain(self.ends_soon()).collect()
    }

    fn ends_soon(&self) -> Option<String> {
        let own = self.certificate()?;
        let life_ms = own.facts.validity.not_after_ms.saturating_sub(own.facts.validity.not_before_ms);
        // Renewed at a third; what is less was not.
        let short = own.left < Duration::from_millis(life_ms / 5);
        (short && !own.left.is_zero()).then(|| {
            let until = date(own.facts.validity.not_after_ms);
            format!("this node's certificate expires on {until} and was not renewed; {}", self.advice())
        })
    }

    fn advice(&self) -> &'static str {
        match self.authority {
            Some(_) => "see its log, and `konsulctl ca status`",
            None => "put a new one into the files of tls.cert_file and tls.key_file",
        }
    }
}
