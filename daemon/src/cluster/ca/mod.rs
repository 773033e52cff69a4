//! The cluster's own authority: makes it, seals its key, signs for nodes.  Knows nothing about: the log, the network.
//!
//! Everything here is a function of its arguments (and of random numbers): whoever calls it keeps the results. The
//! authority's private key exists in the clear in the memory of the voter that signs, and nowhere else.

mod csr;
mod record;
mod sealing;

pub use csr::{CsrError, ProvenKey};
pub use record::{Bridge, CaRecord, Generation, KEY, RotationError, Stage};
pub use sealing::{SealingError, SealingKey, SealingKeyId, SealingKeys};

use crate::tls::{self, Facts, MemberId, NODE_URI, is_node_name};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// How long an authority is valid.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A certificate is good from a little before it was made: the clocks of hosts differ.
const BACKDATED_MAX: Duration = Duration::from_secs(300);

/// Why an authority does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{what}")]
    Crypto {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("the certificate of the authority")]
    Certificate(#[source] tls::NotX509),
    #[error("the sealed key is not the one of the authority's certificate")]
    OtherKey,
    #[error("{name:?} cannot stand in a certificate; a node's name has 1 to 63 letters, digits, '-', '_' and '.'")]
    Name { name: String },
    #[error("the authority itself expired on {not_after}: nothing it signs would be believed; rotate it")]
    Expired { not_after: String },
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Sealing(#[from] SealingError),
    #[error("this host gives no random numbers")]
    NoRandom,
}

/// An authority with its private key: it can sign.
pub struct Ca {
    certificate: CertificateDer<'static>,
    facts: Facts,
    issuer: Issuer<'static, KeyPair>,
}

/// For whom a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub member: MemberId,
    pub name: String,
}

/// For how long a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    pub now_ms: u64,
    pub life: Duration,
}

impl Ca {
    /// A new authority.
    pub fn create(cluster_id: [u8; 16], now_ms: u64) -> Result<Ca, CaError> {
        let key = new_key()?;
        let params = authority_params(cluster_id, Term { now_ms, life: LIFE }, 1)?;
        let certificate = params.self_signed(&key).map_err(crypto("sign the authority's certificate"))?;
        Ca::of(certificate.into(), key)
    }

    fn of(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Ca, CaError> {
        let facts = Facts::of(&certificate).map_err(CaError::Certificate)?;
        if spki_sha256(&key) != facts.spki_sha256 {
            return Err(CaError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(crypto("read the authority's certificate"))?;
        Ok(Ca { certificate, facts, issuer })
    }

    /// With the key from a record.
    pub fn unseal(cluster_id: [u8; 16], generation: &Generation, with: &SealingKey) -> Result<Ca, CaError> {
        let bound_to = bound_to(cluster_id, &generation.certificate);
        let key = with.unseal(&generation.sealed_key, &bound_to)?;
        let key = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256);
        Ca::of(generation.certificate.clone(), key.map_err(crypto("read the authority's key"))?)
    }

    /// For the record; `predecessor` signs a bridge to this one.
    pub fn seal(
        &self,
        cluster_id: [u8; 16],
        place: (u64, Stage),
        under: &SealingKey,
        predecessor: Option<&Ca>,
    ) -> Result<Generation, CaError> {
        let sealed_key = under.seal(self.issuer.key().serialized_der(), &bound_to(cluster_id, &self.certificate))?;
        let bridge = predecessor.map(|predecessor| predecessor.bridge_to(self, cluster_id)).transpose()?;
        let (number, stage) = place;
        let certificate = self.certificate.clone();
        Ok(Generation { number, stage, certificate, sealed_key, sealing_key: under.id(), bridge })
    }

    fn bridge_to(&self, successor: &Ca, cluster_id: [u8; 16]) -> Result<Bridge, CaError> {
        let validity = successor.facts.validity;
        let until_ms = validity.not_after_ms.min(self.facts.validity.not_after_ms);
        let life = Duration::from_millis(until_ms.saturating_sub(validity.not_before_ms));
        let mut params = authority_params(cluster_id, Term { now_ms: validity.not_before_ms, life }, 0)?;
        params.use_authority_key_identifier_extension = true;
        let crossed = params.signed_by(successor.issuer.key(), &self.issuer);
        let crossed = crossed.map_err(crypto("sign the way to the next authority"))?;
        Ok(Bridge { predecessor: self.certificate.clone(), crossed: crossed.into() })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What join tokens pin: SHA-256 of its `SubjectPublicKeyInfo`.
    pub fn pin(&self) -> [u8; 32] {
        self.facts.spki_sha256
    }

    /// Signs: of the request only the key is taken, whom it is for is what we know.
    pub fn issue(&self, csr: &[u8], subject: &Subject, term: Term) -> Result<CertificateDer<'static>, CaError> {
        let key = ProvenKey::of_csr(csr)?;
        if !is_node_name(&subject.name) {
            return Err(CaError::Name { name: subject.name.clone() });
        }
        let authority_ends_ms = self.facts.validity.not_after_ms;
        if term.now_ms >= authority_ends_ms {
            return Err(CaError::Expired { not_after: tls::date(authority_ends_ms) });
        }
        let left = Duration::from_millis(authority_ends_ms - term.now_ms);
        let mut params = params(&subject.name, Term { life: term.life.min(left), ..term })?;
        let uri = |text: String| -> Result<SanType, CaError> {
            Ok(SanType::URI(text.as_str().try_into().map_err(crypto("write the node's URI"))?))
        };
        params.subject_alt_names = vec![uri(format!("{NODE_URI}{}", subject.name))?, uri(subject.member.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(key.public_key(), &self.issuer);
        Ok(signed.map_err(crypto("sign the node's certificate"))?.into())
    }
}

/// A node's new key, and the request for its certificate (DER).
pub fn request() -> Result<(KeyPair, Vec<u8>), CaError> {
    let key = new_key()?;
    let csr = request_with(&key)?;
    Ok((key, csr))
}

/// SHA-256 of the key's public half, as `SubjectPublicKeyInfo`.
pub fn spki_sha256(key: &KeyPair) -> [u8; 32] {
    Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(key)).into()
}

/// A request for a certificate of this key (DER).
pub fn request_with(key: &KeyPair) -> Result<Vec<u8>, CaError> {
    let mut params = CertificateParams::default();
    // Nobody reads it: the authority knows whom it signs for.
    params.distinguished_name.push(DnType::CommonName, "konsul");
    let csr = params.serialize_request(key).map_err(crypto("write a certificate signing request"))?;
    Ok(csr.der().to_vec())
}

/// A node's new key.
pub fn new_key() -> Result<KeyPair, CaError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("make a key"))
}

fn crypto(what: &'static str) -> impl FnOnce(rcgen::Error) -> CaError {
    move |source| CaError::Crypto { what, source }
}

/// A sealed key opens for its own certificate in its own cluster only.
fn bound_to(cluster_id: [u8; 16], certificate: &CertificateDer<'_>) -> Vec<u8> {
    [b"konsul ca key v1".as_slice(), &cluster_id, &tls::fingerprint(certificate)].concat()
}

fn authority_params(cluster_id: [u8; 16], term: Term, path_len: u8) -> Result<CertificateParams, CaError> {
    let mut params = params(&format!("Konsul CA {}", uuid::Uuid::from_bytes(cluster_id)), term)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(common_name: &str, term: Term) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| CaError::NoRandom)?;
    // Positive and of full length in DER.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // A certificate knows whole seconds.
    let at = |ms: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(ms / 1_000);
    let backdated = BACKDATED_MAX.min(term.life / 2);
    let whole_ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    params.not_before = at(term.now_ms.saturating_sub(whole_ms(backdated)));
    params.not_after = at(term.now_ms.saturating_add(whole_ms(term.life)));
    Ok(params)
}

#[cfg(test)]
mod tests;
