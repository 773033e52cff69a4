//! Who the peer is: mutual TLS between nodes, certificates exchanged without a restart.  Knows nothing about: Raft, messages.
//!
//! Both sides present a certificate and both are verified against the cluster's authorities. Nodes are dialled by
//! address, so a certificate is not matched with a host name: the chain and its dates are verified by webpki, and whose
//! it is is read from its URIs and compared by whoever knows which node it wanted (see `certificate`).
//!
//! One port serves two kinds of clients, told apart by ALPN: members, and those who want to join and have no
//! certificate yet. A joiner's connection is TLS 1.3 only, for its exporter is what proofs are bound to.

mod certificate;
mod files;
mod verify;

pub use certificate::{Certified, Facts, MemberId, NODE_URI, NotX509, Validity, fingerprint, is_node_name, peer_of};
pub use files::{TlsConfig, TlsError};
pub use verify::{JoinTrust, verify_chain};

use arc_swap::ArcSwap;
use files::Origin;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use verify::{Trust, Verifier};

/// The protocol of those who have no certificate yet.
const JOIN_ALPN: &[u8] = b"konsul-join/1";
/// What a proof on a joiner's connection is bound to (RFC 9266 in spirit: a label of our own).
const JOIN_EXPORTER: &[u8] = b"EXPORTER-konsul-join";

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

/// What a node shows, and whom it believes.
#[derive(Debug)]
pub struct Material {
    /// This node's certificate, then any intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// The authorities that sign the nodes' certificates.
    pub roots: Vec<CertificateDer<'static>>,
    /// Authorities signed by their predecessors: a joiner that pinned an older one finds the way to the newest.
    pub bridges: Vec<CertificateDer<'static>>,
}

impl Material {
    /// Of the certificates shown and believed. A key follows from its certificate.
    fn fingerprints(&self) -> [Vec<[u8; 32]>; 2] {
        [&self.chain, &self.roots].map(|certificates| certificates.iter().map(|c| fingerprint(c)).collect())
    }
}

impl Clone for Material {
    fn clone(&self) -> Material {
        let Material { chain, key, roots, bridges } = self;
        Material { chain: chain.clone(), key: key.clone_key(), roots: roots.clone(), bridges: bridges.clone() }
    }
}

/// Both ends of TLS between nodes. Cheap to clone; all clones see an exchange. Connections that exist are not touched.
#[derive(Debug, Clone)]
pub struct Tls {
    loaded: Arc<ArcSwap<Loaded>>,
}

/// Files that were read and found good, and are not in use yet.
#[derive(Debug)]
pub struct Fresh(Loaded);

#[derive(Debug, Clone)]
enum Source {
    /// Files that people bring and renew.
    Files(TlsConfig),
    /// Whatever it was given last.
    Given { min_version: TlsVersion },
}

#[derive(Debug)]
struct Loaded {
    source: Source,
    /// For those who have no certificate yet.
    join: Arc<ServerConfig>,
    /// `None`: this node has none either, and only talks about joining.
    member: Option<Ends>,
}

#[derive(Debug)]
struct Ends {
    certified: Certified,
    facts: Facts,
    material: Material,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// A client that was let in.
#[derive(Debug)]
pub enum Accepted {
    /// It has a certificate of one of our authorities.
    Peer { stream: tokio_rustls::server::TlsStream<TcpStream>, certified: Certified },
    /// It may ask to join and nothing else.
    Joiner { stream: tokio_rustls::server::TlsStream<TcpStream>, exporter: [u8; 32] },
}

/// A server that was reached in order to join.
#[derive(Debug)]
pub struct JoinStream {
    pub stream: tokio_rustls::client::TlsStream<TcpStream>,
    pub exporter: [u8; 32],
    /// Whose certificate it showed: verified if an authority was pinned, and a mere claim otherwise.
    pub certified: Option<Certified>,
}

impl Tls {
    /// Reads and checks the files.
    pub fn open(config: TlsConfig) -> Result<Tls, TlsError> {
        load(&files::read_all(&config)?, Source::Files(config)).map(Tls::with)
    }

    /// From memory; whether the dates are good is for the caller to know.
    pub fn of(material: &Material, min_version: TlsVersion) -> Result<Tls, TlsError> {
        load(material, Source::Given { min_version }).map(Tls::with)
    }

    /// Of a node that has no certificate yet: with a passing one it answers those who want to join, and no others.
    pub fn newcomer(min_version: TlsVersion) -> Result<Tls, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Konsul node without a cluster");
        let passing = |source| TlsError::Passing { source };
        let key = KeyPair::generate().map_err(passing)?;
        let certificate = params.self_signed(&key).map_err(passing)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let join = join_config(&provider, vec![certificate.into()], key, &Origin::memory())?;
        Ok(Tls::with(Loaded { source: Source::Given { min_version }, join: Arc::new(join), member: None }))
    }

    fn with(loaded: Loaded) -> Tls {
        Tls { loaded: Arc::new(ArcSwap::from_pointee(loaded)) }
    }

    /// Reads and checks files that may take the place of those in use; uses nothing yet. They have to be this node's.
    pub fn fresh(&self, config: TlsConfig) -> Result<Fresh, TlsError> {
        let material = files::read_all(&config)?;
        let fresh = load(&material, Source::Files(config.clone()))?;
        // Peers believe the same authorities: they would turn this node away.
        verify_chain(&material.chain[0], &material.chain[1..], &material.roots).map_err(|source| {
            TlsError::NotSigned { cert: config.cert_file.clone(), ca: config.ca_file.clone(), source }
        })?;
        let name = |loaded: &Loaded| loaded.member.as_ref().map(|ends| ends.certified.name.clone());
        match (name(&self.loaded.load()), name(&fresh)) {
            (Some(own), Some(found)) if own != found => {
                Err(TlsError::OtherNode { path: config.cert_file, found, expected: own })
            }
            (Some(_) | None, _) => Ok(Fresh(fresh)),
        }
    }

    /// Connections made from now on use this. Whether it is anything new.
    pub fn take(&self, fresh: Fresh) -> bool {
        let shown = |loaded: &Loaded| loaded.member.as_ref().map(|ends| ends.material.fingerprints());
        let new = shown(&self.loaded.load()) != shown(&fresh.0);
        self.loaded.store(Arc::new(fresh.0));
        new
    }

    /// The files it reads, if it reads files.
    pub fn files(&self) -> Option<TlsConfig> {
        match &self.loaded.load().source {
            Source::Files(config) => Some(config.clone()),
            Source::Given { .. } => None,
        }
    }

    /// Connections made from now on use this.
    pub fn replace(&self, material: &Material) -> Result<(), TlsError> {
        let source = self.loaded.load().source.clone();
        self.loaded.store(Arc::new(load(material, source)?));
        Ok(())
    }

    /// The name in this node's own certificate, if it has one.
    pub fn name(&self) -> Option<String> {
        self.loaded.load().member.as_ref().map(|ends| ends.certified.name.clone())
    }

    /// This node's own certificate, if it has one.
    pub fn own(&self) -> Option<Facts> {
        self.loaded.load().member.as_ref().map(|ends| ends.facts.clone())
    }

    /// The authorities this node believes.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.loaded.load().member.as_ref().map(|ends| ends.material.roots.clone()).unwrap_or_default()
    }

    /// All that this node shows and believes, if it has a certificate.
    pub fn material(&self) -> Option<Material> {
        self.loaded.load().member.as_ref().map(|ends| ends.material.clone())
    }

    /// The server's side of a handshake. `takes_joiner` is asked before anything is computed for somebody without a
    /// certificate: strangers must not be able to keep this node busy.
    pub async fn accept(
        &self,
        stream: TcpStream,
        takes_joiner: impl FnOnce() -> Result<(), &'static str>,
    ) -> io::Result<Accepted> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let loaded = self.loaded.load_full();
        if wants_to_join(&start.client_hello()) {
            takes_joiner().map_err(io::Error::other)?;
            let stream = start.into_stream(Arc::clone(&loaded.join)).await?;
            let exporter = exporter(|out| stream.get_ref().1.export_keying_material(out, JOIN_EXPORTER, None))?;
            return Ok(Accepted::Joiner { stream, exporter });
        }
        let Some(ends) = &loaded.member else {
            return Err(io::Error::other("this node has no certificate yet: joining is all it talks about"));
        };
        let stream = start.into_stream(Arc::clone(&ends.server)).await?;
        let certified = named(peer_of(stream.get_ref().1))?;
        Ok(Accepted::Peer { stream, certified })
    }

    /// The client's side of a handshake. The server's chain is verified; which node it is, is for the caller to check.
    pub async fn connect(
        &self,
        address: IpAddr,
        stream: TcpStream,
    ) -> io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Certified)> {
        let loaded = self.loaded.load_full();
        let Some(ends) = &loaded.member else {
            return Err(io::Error::other("this node has no certificate yet; it has to join a cluster first"));
        };
        let connector = TlsConnector::from(Arc::clone(&ends.client));
        let stream = connector.connect(ServerName::IpAddress(address.into()), stream).await?;
        let certified = named(peer_of(stream.get_ref().1))?;
        Ok((stream, certified))
    }
}

/// The client's side of a handshake with a node one wants to join; needs no certificate.
pub async fn connect_to_join(address: IpAddr, stream: TcpStream, trust: &JoinTrust) -> io::Result<JoinStream> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier { trust: Trust::Join(trust.clone()), algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = builder.with_no_client_auth();
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    let connector = TlsConnector::from(Arc::new(client));
    let stream = connector.connect(ServerName::IpAddress(address.into()), stream).await?;
    let connection = stream.get_ref().1;
    // Without this answer it took us for a member that forgot its certificate.
    if connection.alpn_protocol() != Some(JOIN_ALPN) {
        return Err(io::Error::other("the node there takes no joiners; is it an older version?"));
    }
    let exporter = exporter(|out| connection.export_keying_material(out, JOIN_EXPORTER, None))?;
    let certified = peer_of(connection);
    Ok(JoinStream { stream, exporter, certified })
}

/// Milliseconds since 1970 as people read them.
pub fn date(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
    time.map_or_else(|_| format!("{ms} ms after 1970"), |time| time.to_string())
}

/// That protocol and no other: whoever offers a choice is no joiner of ours.
fn wants_to_join(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(JOIN_ALPN) && offered.next().is_none())
}

fn exporter(export: impl FnOnce([u8; 32]) -> Result<[u8; 32], rustls::Error>) -> io::Result<[u8; 32]> {
    export([0; 32]).map_err(io::Error::other)
}

fn named(certified: Option<Certified>) -> io::Result<Certified> {
    certified.ok_or_else(|| {
        io::Error::other(format!("the peer's certificate names no node; it needs one URI SAN {NODE_URI}NAME"))
    })
}

fn load(material: &Material, source: Source) -> Result<Loaded, TlsError> {
    let (min_version, origin) = match &source {
        Source::Files(config) => (config.min_version, Origin::of(config)),
        Source::Given { min_version } => (*min_version, Origin::memory()),
    };
    let origin = &origin;
    let nameless = || TlsError::NoName { path: origin.cert.clone() };
    let leaf = material.chain.first().ok_or_else(nameless)?;
    let facts = Facts::of(leaf).map_err(|error| TlsError::NotX509 {
        what: "certificate",
        path: origin.cert.clone(),
        reason: error.reason,
    })?;
    let certified = facts.certified.clone().ok_or_else(nameless)?;
    let mut roots = RootCertStore::empty();
    for root in &material.roots {
        roots.add(root.clone()).map_err(|source| TlsError::Authority { path: origin.ca.clone(), source })?;
    }
    let rules = Rules { roots: Arc::new(roots), provider: Arc::new(ring::default_provider()), min_version, origin };
    // A joiner looks for the authority it pinned among what is presented.
    let presented = material.chain.iter().chain(&material.bridges).chain(&material.roots).cloned().collect();
    let join = join_config(&rules.provider, presented, material.key.clone_key(), origin)?;
    let server = rules.server(material.chain.clone(), material.key.clone_key())?;
    let client = rules.client(material.chain.clone(), material.key.clone_key())?;
    let (server, client, material) = (Arc::new(server), Arc::new(client), material.clone());
    let member = Some(Ends { certified, facts, material, server, client });
    Ok(Loaded { source, join: Arc::new(join), member })
}

/// Connections live for days, or for one question: resumption saves nothing, and a ticket would outlive its certificate.
fn without_resumption(mut server: ServerConfig) -> ServerConfig {
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server
}

fn join_config(
    provider: &Arc<CryptoProvider>,
    presented: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    origin: &Origin,
) -> Result<ServerConfig, TlsError> {
    let server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Version { min_version: TlsVersion::V1_3, source })?
        .with_no_client_auth()
        .with_single_cert(presented, key)
        .map_err(|source| unusable(origin, source))?;
    let mut server = without_resumption(server);
    server.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    Ok(server)
}

/// What the configurations of both ends are made by.
struct Rules<'a> {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    min_version: TlsVersion,
    origin: &'a Origin,
}

impl Rules<'_> {
    fn server(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .build()
            .map_err(|source| TlsError::ClientVerifier { path: self.origin.ca.clone(), source })?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.min_version.and_newer())
            .map_err(|source| TlsError::Version { min_version: self.min_version, source })?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|source| unusable(self.origin, source))?;
        Ok(without_resumption(server))
    }

    fn client(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ClientConfig, TlsError> {
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier = Verifier { trust: Trust::Roots(Arc::clone(&self.roots)), algorithms };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.min_version.and_newer())
            .map_err(|source| TlsError::Version { min_version: self.min_version, source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, key)
            .map_err(|source| unusable(self.origin, source))?;
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

fn unusable(origin: &Origin, source: rustls::Error) -> TlsError {
    let (cert, key) = (origin.cert.clone(), origin.key.clone());
    match source {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch { key, cert },
        source => TlsError::Unusable { cert, key, source },
    }
}
