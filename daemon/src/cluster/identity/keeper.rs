//! Keeps a node's identity valid: renews its certificate when a third of its life is left, follows the authorities of
//! the replicated state, and collects the sealing keys that a voter needs. No connection notices.
//!
//! The leader signs. A voter that cannot reach one while its certificate runs out signs for itself: it holds what that
//! takes, and a cluster whose certificates all expired while it was switched off could not elect a leader otherwise.

use super::authority::{Authority, AuthorityError, Stored};
use super::files::{IdentityError, IdentityFiles};
use super::message::{MemberAnswer, MemberRequest, Signed};
use crate::cluster::ca::{self, CaError, CaRecord, Stage};
use crate::metrics::{CertificateMetric, IdentityMetrics};
use crate::telemetry::{chain, events};
use crate::tls::{Facts, Material, TlsError, Validity};
use rand::Rng;
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it looks; a short-lived certificate needs it more often.
const LOOK_MAX: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(100);
/// After a renewal that failed.
const RETRY_MAX: Duration = Duration::from_secs(60);
const RETRY_MIN: Duration = Duration::from_millis(500);
/// How much earlier than needed a renewal may come, in parts of the threshold: nodes that were signed together shall not
/// all come at once.
const JITTER: std::ops::Range<f64> = 1.0..1.15;

/// A certificate that was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("make a certificate signing request")]
    Request(#[source] CaError),
    #[error("ask the leader for a certificate")]
    Ask(#[source] AuthorityError),
    #[error("sign for itself")]
    Sign(#[source] AuthorityError),
    #[error("the certificate it was given is not for this node's key and name, or not of a known authority")]
    Other,
    #[error("keep the certificate")]
    Keep(#[source] IdentityError),
    #[error("use the certificate")]
    Use(#[source] TlsError),
}

/// Keeps one node's identity valid.
pub struct Keeper {
    authority: Authority,
    files: IdentityFiles,
    metrics: IdentityMetrics,
    /// This certificate's share of the jitter.
    early: f64,
    /// No renewal is tried before.
    retry_at_ms: u64,
    /// What was said last, so that it is said once.
    told: Option<String>,
}

impl Keeper {
    pub fn new(authority: Authority, files: IdentityFiles, metrics: IdentityMetrics) -> Keeper {
        Keeper { authority, files, metrics, early: jitter(), retry_at_ms: 0, told: None }
    }

    /// Looks and acts until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let pause = (self.authority.life() / 100).clamp(LOOK_MIN, LOOK_MAX);
        while !stop.is_cancelled() {
            stop.run_until_cancelled(self.look()).await;
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    async fn look(&mut self) {
        match self.authority.stored() {
            Ok(Some(stored)) => {
                self.settle_founding(&stored);
                self.follow(&stored.record);
                self.collect_keys(&stored.record).await;
                self.renew_if_due(&stored.record).await;
            }
            Ok(None) => self.found().await,
            Err(error) => self.tell(&error),
        }
        self.metrics.ends(&self.ends());
    }

    fn ends(&self) -> Vec<(CertificateMetric, u64)> {
        let own = self.authority.tls().own().map(|facts| (CertificateMetric::Node, facts.validity.not_after_ms));
        let stored = self.authority.stored().ok().flatten();
        let authorities = stored.iter().flat_map(|stored| stored.record.generations()).filter_map(|generation| {
            let which = match generation.stage {
                Stage::Active => CertificateMetric::Authority,
                Stage::Next => CertificateMetric::NextAuthority,
                Stage::Retiring => CertificateMetric::RetiringAuthority,
            };
            Some((which, Facts::of(&generation.certificate).ok()?.validity.not_after_ms))
        });
        own.into_iter().chain(authorities).collect()
    }

    /// The record of a new cluster is in a file of its founder until the replicated state has it.
    async fn found(&mut self) {
        let founding = match self.files.load_founding() {
            Ok(Some(record)) if self.authority.consensus().contact().is_leader => record,
            Ok(_none_or_not_now) => return,
            Err(error) => return self.tell(&error),
        };
        match self.authority.write_founding(&founding).await {
            Ok(()) => tracing::info!("the cluster has an authority of its own"),
            Err(error) => self.tell(&error),
        }
    }

    fn settle_founding(&mut self, stored: &Stored) {
        match self.files.load_founding() {
            Ok(None) => {}
            Ok(Some(_)) => {
                if let Err(error) = self.files.remove_founding() {
                    self.tell(&error);
                }
                tracing::debug!(index = stored.index, "the record of the authority is in the state");
            }
            Err(error) => self.tell(&error),
        }
    }

    /// Believes the authorities of the record, and no others.
    fn follow(&mut self, record: &CaRecord) {
        let (tls, roots, bridges) = (self.authority.tls(), record.roots(), record.bridges());
        let Some(mut material) = tls.material() else { return };
        if material.roots == roots && material.bridges == bridges {
            return;
        }
        (material.roots, material.bridges) = (roots, bridges);
        // First on disk: what is used now shall be used after a restart.
        let kept = self.files.store_roots(&material.roots);
        if let Err(error) = kept {
            return self.tell(&error);
        }
        match tls.replace(&material) {
            Ok(()) => tracing::info!(authorities = material.roots.len(), "the authorities that are believed changed"),
            Err(error) => self.tell(&error),
        }
    }

    /// A voter may have to lead, and then to sign.
    async fn collect_keys(&mut self, record: &CaRecord) {
        let lacking = self.authority.lacking_keys(record);
        let status = self.authority.consensus().status();
        let votes = status.members.iter().any(|member| member.voter && member.peer.id == status.node.id);
        if lacking.is_empty() || !votes {
            return;
        }
        if self.authority.keys_are_external() {
            let keys: Vec<String> = lacking.iter().map(ToString::to_string).collect();
            return self.say(format!("the file of sealing keys lacks {}: add it there", keys.join(", ")));
        }
        // The leader first: it made the key.
        let mut voters: Vec<_> = status.members.iter().filter(|m| m.voter && m.peer.id != status.node.id).collect();
        voters.sort_by_key(|member| !member.is_leader);
        for id in lacking {
            for voter in &voters {
                match self.authority.ask(&voter.peer, &MemberRequest::SealingKey { id }).await {
                    Ok(MemberAnswer::SealingKey(key)) if key.id() == id => match self.authority.add_key(key) {
                        Ok(()) => {
                            tracing::info!(key = %id, from = %voter.peer.info.name, "sealing key received");
                            break;
                        }
                        Err(error) => self.tell(&error),
                    },
                    Ok(MemberAnswer::Refused { why }) => tracing::debug!(key = %id, %why, "no sealing key"),
                    Ok(_other) => tracing::warn!(key = %id, from = %voter.peer.info.name, "another key was sent"),
                    Err(error) => tracing::debug!(key = %id, error = chain(&error), "no sealing key"),
                }
            }
        }
    }

    async fn renew_if_due(&mut self, record: &CaRecord) {
        let now_ms = self.authority.now_ms();
        let Some(own) = self.authority.tls().own() else { return };
        let due = is_due(&own, record, now_ms, self.early);
        if due == Due::No || now_ms < self.retry_at_ms {
            return;
        }
        let renewed = match (self.renew(record, &own).await, due) {
            // What is almost over, or is over, does not wait for a leader: there may be none because of it.
            (Err(RenewError::Ask(why)), Due::Urgent) => {
                tracing::warn!(
                    error = chain(&why),
                    "no leader renews this node's certificate in time: it signs itself"
                );
                self.sign_itself(record, &own)
            }
            (renewed, Due::No | Due::Soon | Due::Urgent) => renewed,
        };
        match renewed {
            Ok(until) => {
                self.metrics.renewed(true);
                self.told = None;
                self.early = jitter();
                tracing::info!(valid_until = crate::tls::date(until.not_after_ms), "certificate renewed");
            }
            Err(error) => {
                self.metrics.renewed(false);
                let pause = (self.authority.life() / 20).clamp(RETRY_MIN, RETRY_MAX).mul_f64(jitter());
                self.retry_at_ms = now_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                let text = chain(&error);
                if self.told.as_ref() != Some(&text) {
                    let message_id = events::CERTIFICATE_NOT_RENEWED;
                    tracing::warn!(message_id, error = text, "the certificate was not renewed; it is tried again");
                    self.told = Some(text);
                }
            }
        }
    }

    async fn renew(&self, record: &CaRecord, own: &Facts) -> Result<Validity, RenewError> {
        let (key, csr) = ca::request().map_err(RenewError::Request)?;
        match self.authority.ask_leader(&MemberRequest::Renew { csr }).await {
            Ok(MemberAnswer::Signed(signed)) => self.take(signed, key.into(), record, own),
            Ok(_other) => Err(RenewError::Other),
            Err(error) => Err(RenewError::Ask(error)),
        }
    }

    fn sign_itself(&self, record: &CaRecord, own: &Facts) -> Result<Validity, RenewError> {
        let (key, csr) = ca::request().map_err(RenewError::Request)?;
        let identity = self.authority.consensus().identity();
        let signed = self.authority.sign(&csr, identity.node_id, &identity.name).map_err(RenewError::Sign)?;
        self.take(signed, key.into(), record, own)
    }

    /// What is not for this node, by an authority that the replicated state knows, is not taken.
    fn take(
        &self,
        signed: Signed,
        key: rustls::pki_types::PrivateKeyDer<'static>,
        record: &CaRecord,
        own: &Facts,
    ) -> Result<Validity, RenewError> {
        let leaf = signed.chain.first().and_then(|leaf| Facts::of(leaf).ok()).ok_or(RenewError::Other)?;
        let known = record.generations().iter().any(|generation| signed_by(&leaf, &generation.certificate));
        if leaf.certified != own.certified || !known {
            return Err(RenewError::Other);
        }
        let tls = self.authority.tls();
        let (roots, bridges) = (record.roots(), record.bridges());
        let material = Material { chain: signed.chain, key, roots, bridges };
        // Tried first: a key that does not fit must not end up in the files.
        tls.replace(&material).map_err(RenewError::Use)?;
        self.files.store(&material).map_err(RenewError::Keep)?;
        Ok(leaf.validity)
    }

    fn tell(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.say(chain(error));
    }

    fn say(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            tracing::warn!(error = text, "this node's identity");
            self.told = Some(text);
        }
    }
}

fn jitter() -> f64 {
    rand::rng().random_range(JITTER)
}

fn signed_by(leaf: &Facts, authority: &CertificateDer<'_>) -> bool {
    Facts::of(authority).is_ok_and(|authority| leaf.is_signed_by(&authority))
}

/// Whether a certificate is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    Soon,
    /// A tenth of its life is left, or nothing.
    Urgent,
}

fn is_due(own: &Facts, record: &CaRecord, now_ms: u64, early: f64) -> Due {
    let Validity { not_before_ms, not_after_ms } = own.validity;
    let life = Duration::from_millis(not_after_ms.saturating_sub(not_before_ms));
    let left = Duration::from_millis(not_after_ms.saturating_sub(now_ms));
    if left < life / 10 {
        return Due::Urgent;
    }
    let rotated = !signed_by(own, &record.active().certificate);
    if rotated || left < (life / 3).mul_f64(early) { Due::Soon } else { Due::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ca::{Ca, SealingKey, Subject, Term};
    use crate::tls::MemberId;

    const NOW_MS: u64 = 1_800_000_000_000;
    const LIFE: Duration = Duration::from_secs(72 * 3600);

    fn own(ca: &Ca, life: Duration) -> Facts {
        let subject = Subject { member: MemberId { cluster_id: [7; 16], node_id: 1 }, name: "n1".to_owned() };
        let term = Term { now_ms: NOW_MS, life };
        Facts::of(&ca.issue(&ca::request().unwrap().1, &subject, term).unwrap()).unwrap()
    }

    fn record(ca: &Ca) -> CaRecord {
        CaRecord::founded(ca.seal([7; 16], (1, Stage::Active), &SealingKey::create().unwrap(), None).unwrap())
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_at_once_when_it_runs_out() {
        let ca = Ca::create([7; 16], NOW_MS).unwrap();
        let (own, record) = (own(&ca, LIFE), record(&ca));
        let after = |hours: u64| is_due(&own, &record, NOW_MS + hours * 3_600_000, 1.0);
        let table =
            [(0, Due::No), (47, Due::No), (49, Due::Soon), (64, Due::Soon), (65, Due::Urgent), (73, Due::Urgent)];
        for (hours, expected) in table {
            assert_eq!(after(hours), expected, "after {hours} h");
        }
        assert_eq!(is_due(&own, &record, NOW_MS + 47 * 3_600_000, 1.15), Due::Soon, "some come earlier");
    }

    #[test]
    fn a_life_of_half_a_minute_leaves_time_for_several_tries() {
        let ca = Ca::create([7; 16], NOW_MS).unwrap();
        let (own, record) = (own(&ca, Duration::from_secs(30)), record(&ca));
        let after = |seconds: u64| is_due(&own, &record, NOW_MS + seconds * 1_000, 1.0);
        assert_eq!(
            [10, 14, 16, 25, 26, 31].map(after),
            [Due::No, Due::No, Due::Soon, Due::Soon, Due::Urgent, Due::Urgent]
        );
    }

    #[test]
    fn a_certificate_of_an_authority_that_signs_no_more_is_replaced_at_once() {
        let (old, new) = (Ca::create([7; 16], NOW_MS).unwrap(), Ca::create([7; 16], NOW_MS).unwrap());
        assert_eq!(is_due(&own(&old, LIFE), &record(&new), NOW_MS, 1.0), Due::Soon);
    }
}
