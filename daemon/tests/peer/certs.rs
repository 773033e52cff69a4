//! A certificate authority and its nodes, made for one test.

use konsuld::tls::{Tls, TlsConfig, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use std::path::PathBuf;
use tempfile::TempDir;

pub(crate) struct Authority {
    pub(crate) dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { dir: TempDir::new().unwrap(), issuer };
        std::fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Parameters of a node's certificate. The DNS name serves the tests' hand-made clients; no node looks at it.
    pub(crate) fn params(uris: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    pub(crate) fn issue(&self, file: &str, params: &CertificateParams) -> TlsConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        TlsConfig { cert_file, key_file, ca_file: self.path("ca.pem"), min_version: TlsVersion::V1_3 }
    }

    pub(crate) fn config(&self, name: &str) -> TlsConfig {
        self.issue(name, &Authority::params(&[&format!("konsul://node/{name}")]))
    }

    pub(crate) fn tls(&self, name: &str) -> Tls {
        Tls::open(self.config(name)).unwrap()
    }
}
