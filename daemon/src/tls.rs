//! Who the peer is: mutual TLS between nodes, certificates reloaded without a restart.  Knows nothing about: Raft, messages.
//!
//! Both sides present a certificate and both are verified against one CA. Nodes are dialled by address, so a certificate
//! is not matched with a host name: the chain and its dates are verified by webpki, and the node's name is read from the
//! certificate's URI `konsul://node/NAME` and compared by whoever knows which node it wanted.

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a node's URI SAN starts with; its name follows.
pub const NODE_URI: &str = "konsul://node/";

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

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl TlsVersion {
    fn and_newer(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            TlsVersion::V1_2 => &BOTH,
            TlsVersion::V1_3 => &BOTH[..1],
        }
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
}

/// Both ends of mutual TLS. Cheap to clone; all clones see a reload.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<TlsConfig>,
    loaded: Arc<ArcSwap<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    name: String,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads and checks the files.
    pub fn open(config: TlsConfig) -> Result<Tls, TlsError> {
        let loaded = load(&config)?;
        Ok(Tls { config: Arc::new(config), loaded: Arc::new(ArcSwap::from_pointee(loaded)) })
    }

    /// Reads the files again; connections made from now on use them.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.loaded.store(Arc::new(load(&self.config)?));
        Ok(())
    }

    /// The name in this node's own certificate.
    pub fn name(&self) -> String {
        self.loaded.load().name.clone()
    }

    /// The server's side of a handshake.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.loaded.load().server));
        acceptor.accept(stream).await
    }

    /// The client's side of a handshake. The server's chain is verified; which node it is, is for the caller to check.
    pub async fn connect(
        &self,
        address: IpAddr,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::clone(&self.loaded.load().client));
        connector.connect(ServerName::IpAddress(address.into()), stream).await
    }
}

/// The node's name in the peer's certificate.
pub fn peer_name(connection: &CommonState) -> Option<String> {
    node_name(connection.peer_certificates()?.first()?)
}

/// The name in a certificate, if it has exactly one: two names would let one node be another.
fn node_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut nodes = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NODE_URI),
        _ => None,
    });
    match (nodes.next(), nodes.next()) {
        (Some(name), None) if !name.is_empty() => Some(name.to_owned()),
        (Some(_), _) | (None, _) => None,
    }
}

fn load(config: &TlsConfig) -> Result<Loaded, TlsError> {
    let chain = certificates("certificate", &config.cert_file)?;
    let key = private_key(&config.key_file)?;
    let name = node_name(&chain[0]).ok_or_else(|| TlsError::NoName { path: config.cert_file.clone() })?;
    let roots = Arc::new(authorities(&config.ca_file)?);
    let provider = Arc::new(ring::default_provider());
    let server = server_config(config, &provider, &roots, chain.clone(), key.clone_key())?;
    let client = client_config(config, &provider, roots, chain, key)?;
    Ok(Loaded { name, server: Arc::new(server), client: Arc::new(client) })
}

fn server_config(
    config: &TlsConfig,
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|source| TlsError::ClientVerifier { path: config.ca_file.clone(), source })?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(config.min_version.and_newer())
        .map_err(|source| TlsError::Version { min_version: config.min_version, source })?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|source| unusable(config, source))?;
    // Connections live for days: resumption saves nothing, and a ticket would outlive its certificate.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(server)
}

fn client_config(
    config: &TlsConfig,
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let verifier = ChainVerifier { roots, algorithms: provider.signature_verification_algorithms };
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(config.min_version.and_newer())
        .map_err(|source| TlsError::Version { min_version: config.min_version, source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(|source| unusable(config, source))?;
    client.resumption = Resumption::disabled();
    Ok(client)
}

fn unusable(config: &TlsConfig, source: rustls::Error) -> TlsError {
    let (cert, key) = (config.cert_file.clone(), config.key_file.clone());
    match source {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch { key, cert },
        source => TlsError::Unusable { cert, key, source },
    }
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
    let parsed = match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => parsed,
        Err(error) => {
            return Err(TlsError::NotX509 { what, path, reason: error.to_string() });
        }
    };
    let (validity, now) = (parsed.validity(), x509_parser::time::ASN1Time::now());
    if now > validity.not_after {
        return Err(TlsError::Expired { what, path, not_after: validity.not_after.to_string() });
    }
    if now < validity.not_before {
        return Err(TlsError::NotYetValid { what, path, not_before: validity.not_before.to_string() });
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

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", path)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

/// Verifies a server's chain, dates and signature. Not its name: that is a node's, not a host's, and checked afterwards.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
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
