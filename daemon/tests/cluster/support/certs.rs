//! An authority and a certificate for each node, made anew for each cluster.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Writes `ca.pem` and, for each node, `NAME.pem` and `NAME.key`.
pub(crate) fn write(dir: &Path, nodes: &[(String, IpAddr)]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    for (name, address) in nodes {
        let mut params = CertificateParams::default();
        let uri = format!("konsul://node/{name}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap()), SanType::IpAddress(*address)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
