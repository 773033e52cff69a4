//! Whom a client believes: members by their authority, a cluster one joins by the pin in the token.

use super::certificate::Facts;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// What a server that is joined has to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinTrust {
    /// A chain to an authority whose public key has this SHA-256 (of its `SubjectPublicKeyInfo`).
    Pinned([u8; 32]),
    /// Nothing: it proves itself inside the connection, with the secret of a bootstrap token.
    Proven,
}

/// Verifies a server's chain, dates and signature. Not its name: that is a node's, not a host's, and checked afterwards.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
pub(super) enum Trust {
    /// One of these authorities signed.
    Roots(Arc<RootCertStore>),
    Join(JoinTrust),
}

impl Verifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let pinned;
        let roots = match &self.trust {
            Trust::Roots(roots) => roots.as_ref(),
            // Whose key the connection is bound to is proven inside it; that the server holds the key is TLS's part.
            Trust::Join(JoinTrust::Proven) => return Ok(()),
            Trust::Join(JoinTrust::Pinned(pin)) => {
                pinned = anchor_of(pin, intermediates)?;
                &pinned
            }
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, self.algorithms.all)
    }
}

/// Whether one of these authorities signed the certificate, itself or by way of those between, and it is valid now.
pub fn verify_chain(
    end_entity: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'static>],
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let certificate = ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(&certificate, &roots, between, UnixTime::now(), algorithms.all)
}

/// The presented authority that the pin names; nothing else is trusted.
fn anchor_of(pin: &[u8; 32], presented: &[CertificateDer<'_>]) -> Result<RootCertStore, rustls::Error> {
    let is_pinned = |certificate: &&CertificateDer<'_>| Facts::of(certificate).is_ok_and(|f| f.spki_sha256 == *pin);
    let mut roots = RootCertStore::empty();
    for authority in presented.iter().filter(is_pinned) {
        roots.add(authority.clone().into_owned())?;
    }
    match roots.is_empty() {
        true => Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        false => Ok(roots),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
