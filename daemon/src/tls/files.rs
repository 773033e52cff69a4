//! Certificates that people bring as files: read, checked, and named when they cannot be used.

use super::certificate::{Facts, NODE_URI};
use super::{Material, TlsVersion};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::VerifierBuilderError;
use std::io;
use std::path::{Path, PathBuf};

/// Files and rules of the encryption between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file with this node's certificate, then any intermediates. It carries the URI `konsul://node/NAME` and is
    /// good for both server and client authentication.
    pub cert_file: PathBuf,
    /// PEM file with the private key of the certificate.
    pub key_file: PathBuf,
    /// PEM file with the certificates of the authorities that sign the nodes' certificates.
    pub ca_file: PathBuf,
    /// Oldest TLS version accepted.
    pub min_version: TlsVersion,
}

/// Where certificates and keys came from, for messages about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: PathBuf,
}

impl Origin {
    /// Of what never was a file, or is one of ours.
    pub(super) fn memory() -> Origin {
        let place = || PathBuf::from("(this node's own)");
        Origin { cert: place(), key: place(), ca: place() }
    }

    pub(super) fn of(config: &TlsConfig) -> Origin {
        Origin { cert: config.cert_file.clone(), key: config.key_file.clone(), ca: config.ca_file.clone() }
    }
}

/// TLS files that cannot be used. What is loaded already stays in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {what} {path}; check that the file exists and that this process may read it")]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{what} {path} is not PEM; convert it with `openssl`")]
    NotPem {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{what} {path} holds nothing of that kind; a PEM block `{block}` is expected")]
    Empty { what: &'static str, path: PathBuf, block: &'static str },
    #[error("{what} {path} is not an X.509 certificate: {reason}")]
    NotX509 { what: &'static str, path: PathBuf, reason: String },
    #[error("{what} {path} expired on {not_after}; renew it")]
    Expired { what: &'static str, path: PathBuf, not_after: String },
    #[error("{what} {path} is not valid before {not_before}; check this host's clock")]
    NotYetValid { what: &'static str, path: PathBuf, not_before: String },
    #[error("certificate {path} names no node; issue it with exactly one URI SAN {NODE_URI}NAME")]
    NoName { path: PathBuf },
    #[error("certificate {path} names node {found}, this node is {expected}; use this node's own certificate")]
    OtherNode { path: PathBuf, found: String, expected: String },
    #[error(
        "certificate {cert} is not signed by an authority in {ca}, or not for servers; put its authority there too"
    )]
    NotSigned {
        cert: PathBuf,
        ca: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("key {key} does not belong to certificate {cert}; use the key the certificate was issued for")]
    KeyMismatch { key: PathBuf, cert: PathBuf },
    #[error("use certificate {cert} with key {key}")]
    Unusable {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("use the authorities in {path}")]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("verify clients against the authorities in {path}")]
    ClientVerifier {
        path: PathBuf,
        #[source]
        source: VerifierBuilderError,
    },
    #[error("use TLS {min_version:?} and newer")]
    Version {
        min_version: TlsVersion,
        #[source]
        source: rustls::Error,
    },
    #[error("make the passing certificate of a node that is no member yet")]
    Passing {
        #[source]
        source: rcgen::Error,
    },
}

/// Reads the files; their certificates are valid now.
pub(super) fn read_all(config: &TlsConfig) -> Result<Material, TlsError> {
    let chain = certificates("certificate", &config.cert_file)?;
    let key = private_key(&config.key_file)?;
    let roots = certificates("authority", &config.ca_file)?;
    Ok(Material { chain, key, roots, bridges: Vec::new() })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

/// At least one certificate, all parseable and valid now.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::NotPem { what, path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned(), block: "CERTIFICATE" });
    }
    certificates.iter().try_for_each(|certificate| check_dates(what, path, certificate))?;
    Ok(certificates)
}

fn check_dates(what: &'static str, path: &Path, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    let path = path.to_owned();
    let facts = match Facts::of(certificate) {
        Ok(facts) => facts,
        Err(error) => return Err(TlsError::NotX509 { what, path, reason: error.reason }),
    };
    let now = x509_parser::time::ASN1Time::now();
    let (validity, now_ms) = (facts.validity, u64::try_from(now.timestamp()).unwrap_or(0).saturating_mul(1_000));
    if now_ms > validity.not_after_ms {
        return Err(TlsError::Expired { what, path, not_after: super::date(validity.not_after_ms) });
    }
    if now_ms < validity.not_before_ms {
        return Err(TlsError::NotYetValid { what, path, not_before: super::date(validity.not_before_ms) });
    }
    Ok(())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let what = "key";
    PrivateKeyDer::from_pem_slice(&read(what, path)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::Empty { what, path: path.to_owned(), block: "PRIVATE KEY" },
        source => TlsError::NotPem { what, path: path.to_owned(), source },
    })
}
