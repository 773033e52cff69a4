//! An authority and a certificate for each node, made anew for each cluster.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// The last year of the certificates that a cluster starts with; those made later may tell by another one.
const YEAR: i32 = 2090;

/// Writes `ca.pem`, `ca.key` and, for each node, `NAME.pem` and `NAME.key`.
pub(crate) fn write(dir: &Path, nodes: &[(String, IpAddr)]) {
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("ca.pem"), authority().self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("ca.key"), key.serialize_pem()).unwrap();
    for (name, address) in nodes {
        issue(dir, name, *address, YEAR);
    }
}

/// Another certificate for a node, by the authority that is there; valid until the end of that year.
pub(crate) fn issue(dir: &Path, name: &str, address: IpAddr, year: i32) {
    let key = KeyPair::from_pem(&fs::read_to_string(dir.join("ca.key")).unwrap()).unwrap();
    let authority = Issuer::new(authority(), key);
    let mut params = CertificateParams::default();
    let uri = format!("konsul://node/{name}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap()), SanType::IpAddress(address)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params
}
