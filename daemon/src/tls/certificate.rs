//! What a certificate says: whose it is, for how long, and the hashes by which people and tokens name it.

use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use std::fmt;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a node's URI SAN starts with; its name follows.
pub const NODE_URI: &str = "konsul://node/";
/// What the URI SAN of a member starts with: the cluster's UUID, `/node/` and the node id follow.
const MEMBER_URI: &str = "konsul://cluster/";

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// The node's name, from `konsul://node/NAME`.
    pub name: String,
    /// Which member it is, from `konsul://cluster/UUID/node/ID`. Certificates of the cluster's own authority carry it,
    /// those that people bring need not.
    pub member: Option<MemberId>,
}

/// Whether this can be a node's name: it stands in URIs, in file names and in messages.
pub fn is_node_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&text.len()) && text.chars().all(fits)
}

/// A member of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberId {
    pub cluster_id: [u8; 16],
    pub node_id: u64,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MEMBER_URI}{}/node/{}", uuid::Uuid::from_bytes(self.cluster_id), self.node_id)
    }
}

impl MemberId {
    /// The canonical spelling only: two spellings of one member would be two names.
    fn parse(uri: &str) -> Option<MemberId> {
        let (cluster, node) = uri.strip_prefix(MEMBER_URI)?.split_once("/node/")?;
        let cluster_id = uuid::Uuid::try_parse(cluster).ok()?.into_bytes();
        let member = MemberId { cluster_id, node_id: node.parse().ok()? };
        (member.node_id != 0 && member.to_string() == uri).then_some(member)
    }
}

/// From when to when a certificate is valid; milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_ms: u64,
    pub not_after_ms: u64,
}

/// Something that should be a certificate and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate: {reason}")]
pub struct NotX509 {
    pub reason: String,
}

/// A certificate's own view of itself; nothing here is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `None`: no node's, or ambiguous.
    pub certified: Option<Certified>,
    pub validity: Validity,
    /// SHA-256 of the subject's public key (`SubjectPublicKeyInfo`, DER).
    pub spki_sha256: [u8; 32],
    /// Key identifier of the issuer, if the certificate tells.
    pub issuer_key_id: Option<Vec<u8>>,
    /// Key identifier of its own key, if the certificate tells.
    pub key_id: Option<Vec<u8>>,
}

impl Facts {
    /// Whether it names that authority's key as the one that signed it.
    pub fn is_signed_by(&self, authority: &Facts) -> bool {
        authority.key_id.is_some() && self.issuer_key_id == authority.key_id
    }

    /// Reads a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Facts, NotX509> {
        let parsed = X509Certificate::from_der(certificate);
        let (_, parsed) = parsed.map_err(|error| NotX509 { reason: error.to_string() })?;
        // Before 1970 is long ago, whatever the exact second.
        let ms = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1_000);
        let validity = parsed.validity();
        let (mut issuer_key_id, mut key_id) = (None, None);
        for extension in parsed.extensions() {
            use x509_parser::extensions::ParsedExtension;
            if let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() {
                issuer_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
                key_id = Some(id.0.to_vec());
            }
        }
        Ok(Facts {
            certified: certified(&parsed),
            validity: Validity { not_before_ms: ms(validity.not_before), not_after_ms: ms(validity.not_after) },
            spki_sha256: Sha256::digest(parsed.public_key().raw).into(),
            issuer_key_id,
            key_id,
        })
    }
}

/// Exactly one name, and at most one member: two would let one node be another.
fn certified(certificate: &X509Certificate<'_>) -> Option<Certified> {
    let names = certificate.subject_alternative_name().ok()??;
    let uris = || {
        names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
    };
    let mut nodes = uris().filter_map(|uri| uri.strip_prefix(NODE_URI));
    let name = match (nodes.next(), nodes.next()) {
        (Some(name), None) if !name.is_empty() => name.to_owned(),
        (Some(_), _) | (None, _) => return None,
    };
    let mut members = uris().filter(|uri| uri.starts_with(MEMBER_URI));
    let member = match (members.next(), members.next()) {
        (None, _) => None,
        // What looks like a member and is none must not pass as "no member".
        (Some(uri), None) => Some(MemberId::parse(uri)?),
        (Some(_), Some(_)) => return None,
    };
    Some(Certified { name, member })
}

/// Whose certificate the peer presented.
pub fn peer_of(connection: &CommonState) -> Option<Certified> {
    Facts::of(connection.peer_certificates()?.first()?).ok()?.certified
}

/// SHA-256 of a whole certificate: what people compare.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn facts(uris: &[&str]) -> Facts {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        Facts::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    #[test]
    fn a_certificate_names_one_node_and_at_most_one_member() {
        let member = "konsul://cluster/07070707-0707-0707-0707-070707070707/node/9";
        let id = MemberId { cluster_id: [7; 16], node_id: 9 };
        assert_eq!(id.to_string(), member);
        let own = Certified { name: "a".to_owned(), member: Some(id) };
        assert_eq!(facts(&["konsul://node/a", member]).certified, Some(own));
        let brought = Certified { name: "a".to_owned(), member: None };
        assert_eq!(facts(&["konsul://node/a", "https://else.where/"]).certified, Some(brought));
        for refused in [
            &[member][..],
            &["konsul://node/a", "konsul://node/b"],
            &["konsul://node/a", member, "konsul://cluster/07070707-0707-0707-0707-070707070707/node/8"],
            &["konsul://node/a", "konsul://cluster/07070707-0707-0707-0707-070707070707/node/0"],
            &["konsul://node/a", "konsul://cluster/07070707-0707-0707-0707-070707070707/node/09"],
            &["konsul://node/a", "konsul://cluster/07070707070707070707070707070707/node/9"],
            &["konsul://node/a", "konsul://cluster/x/node/9"],
        ] {
            assert_eq!(facts(refused).certified, None, "{refused:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        assert!(Facts::of(&CertificateDer::from(b"text".as_slice())).is_err());
    }
}
