//! What is taken from a certificate signing request: the key, and the proof that whoever asks holds it. Nothing else:
//! names, uses and dates in it are not even looked at, because whom a certificate is for is known from elsewhere.

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SubjectPublicKeyInfo};
use sha2::{Digest as _, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A request for one P-256 key has about 250 bytes.
const BYTES_MAX: usize = 4 << 10;

/// A request that is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("the certificate signing request has {bytes} bytes, more than {BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("the certificate signing request is malformed: {reason}")]
    Malformed { reason: String },
    #[error("the certificate signing request is not signed by its own key")]
    NotProven,
    #[error("the certificate signing request has a key of another kind than ECDSA P-256")]
    KeyKind,
}

/// A public key whose private half the asker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey(SubjectPublicKeyInfo);

impl ProvenKey {
    /// Checks the request (DER).
    pub fn of_csr(csr: &[u8]) -> Result<ProvenKey, CsrError> {
        if csr.len() > BYTES_MAX {
            return Err(CsrError::TooLong { bytes: csr.len() });
        }
        let malformed = |reason: String| CsrError::Malformed { reason };
        let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes follow it", rest.len())));
        }
        let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw);
        let key = key.map_err(|_| CsrError::KeyKind)?;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CsrError::KeyKind);
        }
        request.verify_signature().map_err(|_| CsrError::NotProven)?;
        Ok(ProvenKey(key))
    }

    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.0
    }

    /// SHA-256 of the key's `SubjectPublicKeyInfo`.
    pub fn spki_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.subject_public_key_info()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn csr(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_key_is_taken_only_with_the_proof_that_the_asker_holds_it() {
        let key = KeyPair::generate().unwrap();
        let good = csr(&key);
        let taken = ProvenKey::of_csr(&good).unwrap();
        let expected: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
        assert_eq!(taken.spki_sha256(), expected);

        // Somebody else's key in a request of one's own: each bit of the key and of the signature counts.
        let spki = key.subject_public_key_info();
        let at = good.windows(spki.len()).position(|window| window == spki).unwrap() + spki.len() - 1;
        let mut foreign = good.clone();
        let other = csr(&KeyPair::generate().unwrap());
        let their = X509CertificationRequest::from_der(&other).unwrap().1.certification_request_info.subject_pki.raw;
        foreign[at + 1 - spki.len()..=at].copy_from_slice(their);
        assert_eq!(ProvenKey::of_csr(&foreign), Err(CsrError::NotProven));
        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(ProvenKey::of_csr(&damaged), Err(CsrError::NotProven));
    }

    #[test]
    fn what_is_no_request_of_ours_is_refused() {
        let good = csr(&KeyPair::generate().unwrap());
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(ProvenKey::of_csr(&longer), Err(CsrError::Malformed { .. })));
        assert!(matches!(ProvenKey::of_csr(&good[..good.len() - 1]), Err(CsrError::Malformed { .. })));
        assert!(matches!(ProvenKey::of_csr(b""), Err(CsrError::Malformed { .. })));
        assert_eq!(ProvenKey::of_csr(&[0; BYTES_MAX + 1]), Err(CsrError::TooLong { bytes: BYTES_MAX + 1 }));
        for other in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(other).unwrap();
            assert_eq!(ProvenKey::of_csr(&csr(&key)), Err(CsrError::KeyKind));
        }
    }
}
