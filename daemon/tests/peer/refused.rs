//! Whoever is not who they should be gets nothing, and learns why where that helps.

use crate::certs::Authority;
use crate::fake::{CLUSTER, Server, beta, connect_as, pair};
use bytes::Bytes;
use konsuld::peer::{
    CallError, ConnectError, HandshakeError, LocalIdentity, NotSentReason, Pool, RefusedCode, Transport,
};
use konsuld::raft_types::NodeInfo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const LONG: Duration = Duration::from_secs(30);

/// Why the call was not sent.
pub(crate) async fn refusal(pool: &Pool, info: &NodeInfo, node_id: u64) -> Arc<ConnectError> {
    match pool.call(node_id, info, Bytes::from_static(b"hi"), LONG).await {
        Err(CallError::NotSent { reason: NotSentReason::Connect(error), .. }) => error,
        other => panic!("{other:?}"),
    }
}

/// The server's own word for it.
pub(crate) fn code(error: &ConnectError) -> RefusedCode {
    match error {
        ConnectError::Handshake { source: HandshakeError::Refused { code, text }, .. } => {
            assert!(!text.is_empty());
            *code
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn identity(cluster_id: Option<[u8; 16]>, node_id: u64, name: &str) -> LocalIdentity {
    LocalIdentity { cluster_id, node_id, name: name.to_owned(), epoch: 3 }
}

#[tokio::test]
async fn a_node_of_another_authority() {
    let (_authority, server, _) = pair().await;
    let stranger = Authority::new();
    let pool = connect_as(Transport::Tls(stranger.tls("beta")), beta());
    assert!(matches!(*refusal(&pool, &server.info, 1).await, ConnectError::Tls { .. }), "we do not trust the server");
    // It trusts us, we do not trust it: the server's side of the same.
    let mut config = stranger.config("beta");
    config.ca_file = _authority.path("ca.pem");
    let pool = connect_as(Transport::Tls(konsuld::tls::Tls::open(config).unwrap()), beta());
    let error = refusal(&pool, &server.info, 1).await;
    assert!(matches!(*error, ConnectError::Tls { .. } | ConnectError::Handshake { .. }), "{error:?}");
    assert_eq!(server.handler.asked.load(std::sync::atomic::Ordering::SeqCst), 0, "it never came to a handshake");
}

#[tokio::test]
async fn a_node_of_another_cluster() {
    let (authority, server, _) = pair().await;
    let pool = connect_as(Transport::Tls(authority.tls("beta")), identity(Some([8; 16]), 2, "beta"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::Cluster);
    let join = pool.join(&server.info.rpc, Bytes::new(), LONG).await;
    assert!(matches!(join, Err(CallError::NotSent { .. })), "a member of another cluster cannot join either");
}

#[tokio::test]
async fn a_call_meant_for_another_node() {
    let (_authority, server, pool) = pair().await;
    assert_eq!(code(&*refusal(&pool, &server.info, 5).await), RefusedCode::NodeId);
    let info = NodeInfo { name: "gamma".to_owned(), ..server.info.clone() };
    let error = refusal(&pool, &info, 1).await;
    let ours = matches!(
        &*error,
        ConnectError::Handshake { source: HandshakeError::Refusing { code: RefusedCode::Name, .. }, .. }
    );
    assert!(ours, "{error:?}");
}

#[tokio::test]
async fn a_node_with_the_certificate_of_another() {
    let (authority, server, _) = pair().await;
    let pool = connect_as(Transport::Tls(authority.tls("beta")), identity(Some(CLUSTER), 2, "gamma"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::Name);
}

#[tokio::test]
async fn a_node_that_dials_itself() {
    let (authority, server, pool) = pair().await;
    assert!(matches!(*refusal(&pool, &server.info, 2).await, ConnectError::Yourself { node_id: 2 }));
    let pool = connect_as(Transport::Tls(authority.tls("alpha")), identity(None, 0, "alpha"));
    match pool.join(&server.info.rpc, Bytes::new(), LONG).await {
        Err(CallError::NotSent { reason: NotSentReason::Connect(error), .. }) => {
            assert_eq!(code(&error), RefusedCode::Yourself);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_member_at_a_node_that_is_in_no_cluster() {
    let authority = Authority::new();
    let server = Server::at("127.0.0.1:0", Transport::Tls(authority.tls("alpha")), None).await;
    let pool = connect_as(Transport::Tls(authority.tls("beta")), beta());
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::NotMember);
}

#[tokio::test]
async fn plain_text_at_a_node_that_encrypts() {
    let (_authority, server, _) = pair().await;
    let pool = connect_as(Transport::Plain, beta());
    assert!(matches!(*refusal(&pool, &server.info, 1).await, ConnectError::Handshake { .. }));
}

/// A TLS client made by hand; `None`: without a certificate.
pub(crate) async fn by_hand(
    authority: &Authority,
    server: &Server,
    name: Option<&str>,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let files = authority.config(name);
            let chain = vec![CertificateDer::from_pem_file(files.cert_file).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(files.key_file).unwrap()).unwrap()
        }
    };
    let stream = TcpStream::connect(server.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

pub(crate) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Less than the server's own patience with a handshake: who hangs up before that has a reason.
pub(crate) const SOON: Duration = Duration::from_secs(4);

/// Says it and listens until the server hangs up; gives what was heard and how it ended.
pub(crate) async fn told(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut heard = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        while stream.read_buf(&mut heard).await? > 0 {}
        Ok(())
    };
    let end = tokio::time::timeout(SOON, talk).await.expect("the server hangs up");
    (heard, end)
}

/// A welcome and nothing more, or not even that, if the reset was quicker.
pub(crate) fn welcome_at_most(heard: &[u8]) {
    let length = heard.first().map_or(0, |length| 4 + usize::from(*length));
    assert!(heard.is_empty() || heard[4] == 0x02 && heard.len() == length, "{heard:02x?}");
}

/// The first frame of node 2, "beta", which wants to forward to node 1.
pub(crate) fn hello() -> Vec<u8> {
    let mut hello = vec![0, 0, 0, 0, 0x01, 0];
    hello.extend_from_slice(b"KNSL\x01\x01\x04");
    hello.extend_from_slice(&CLUSTER);
    // Node 2 calls node 1, in epoch 3 as the server.
    hello.extend_from_slice(b"\x02\x04beta\x01\x03");
    let length = u32::try_from(hello.len() - 4).unwrap();
    hello[..4].copy_from_slice(&length.to_le_bytes());
    hello
}

#[tokio::test]
async fn a_client_without_a_certificate() {
    let (authority, server, _) = pair().await;
    let refused = match by_hand(&authority, &server, None, TLS13).await {
        Ok(stream) => told(stream, &hello()).await.1.unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("ertificate"), "{refused}");
    assert_eq!(server.handler.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn tls_1_2_where_1_3_is_the_minimum() {
    let (authority, server, _) = pair().await;
    let old = by_hand(&authority, &server, Some("beta"), &[&rustls::version::TLS12]).await;
    assert!(old.is_err());
}

#[tokio::test]
async fn tls_1_2_is_welcome_where_it_is_permitted() {
    let authority = Authority::new();
    let mut config = authority.config("alpha");
    config.min_version = konsuld::tls::TlsVersion::V1_2;
    let server = Server::start(Transport::Tls(konsuld::tls::Tls::open(config).unwrap())).await;
    let old = by_hand(&authority, &server, Some("beta"), &[&rustls::version::TLS12]).await.unwrap();
    drop(old);
    let pool = connect_as(Transport::Tls(authority.tls("gamma")), identity(Some(CLUSTER), 3, "gamma"));
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_message() {
    let (authority, server, pool) = pair().await;
    let beta = || by_hand(&authority, &server, Some("beta"), TLS13);

    let (heard, _) = told(beta().await.unwrap(), b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(heard.is_empty(), "a length beyond the handshake's bound: {heard:02x?}");

    let mut no_magic = hello();
    no_magic[6] = b'X';
    let (heard, _) = told(beta().await.unwrap(), &no_magic).await;
    assert_eq!((heard[4], heard[6]), (0x03, 7), "Refused, malformed");

    let after_welcome: [&[u8]; 4] = [
        &u32::MAX.to_le_bytes(),
        // An unknown kind; an append on a forward connection; a frame without an id.
        &[2, 0, 0, 0, 0x7f, 1],
        &[2, 0, 0, 0, 0x10, 1],
        &[1, 0, 0, 0, 0x14],
    ];
    for more in after_welcome {
        let (heard, _) = told(beta().await.unwrap(), &[hello().as_slice(), more].concat()).await;
        welcome_at_most(&heard);
    }

    let mut truncated = beta().await.unwrap();
    truncated.write_all(&[hello().as_slice(), &[200, 0, 0, 0, 0x14, 1]].concat()).await.unwrap();
    truncated.shutdown().await.unwrap();
    welcome_at_most(&told(truncated, b"").await.0);

    let mut raw = TcpStream::connect(server.address).await.unwrap();
    raw.write_all(&[0xff; 64]).await.unwrap();
    let mut heard = Vec::new();
    let end = tokio::time::timeout(SOON, raw.read_to_end(&mut heard)).await.expect("the server hangs up");
    assert!(heard.len() < 16, "a TLS alert at most: {heard:02x?} {end:?}");

    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}
