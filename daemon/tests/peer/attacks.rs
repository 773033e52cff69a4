//! The peer port of a cluster with an authority of its own, and those who try to get in.

use crate::fake::{Server, connect_as};
use crate::old_tls::tls_1_1_hello;
use crate::own::{HOUR, authority, issued, material, member, tls, transport};
use crate::refused::{SOON, code, identity, refusal};
use bytes::Bytes;
use konsuld::peer::{CallError, ConnectError, HandshakeError, Known, NotSentReason, RefusedCode};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_member_with_its_own_certificate_is_let_in() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_authority_of_the_same_name() {
    let (ca, forger) = (authority(), authority());
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let mut forged = material(&forger, 2, "beta");
    forged.roots = vec![ca.certificate().clone()];
    let pool = connect_as(transport(&forged), member(2, "beta"));
    let error = refusal(&pool, &server.info, 1).await;
    assert!(matches!(*error, ConnectError::Tls { .. } | ConnectError::Handshake { .. }), "{error:?}");
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 0, "it never came to a handshake");
}

#[tokio::test]
async fn an_expired_certificate_at_either_end() {
    let ca = authority();
    let late = HOUR + Duration::from_secs(5);
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let pool = connect_as(transport(&issued(&ca, 2, "beta", late)), member(2, "beta"));
    let error = refusal(&pool, &server.info, 1).await;
    assert!(matches!(*error, ConnectError::Tls { .. } | ConnectError::Handshake { .. }), "{error:?}");
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 0);

    let server = Server::start(transport(&issued(&ca, 1, "alpha", late))).await;
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    let error = refusal(&pool, &server.info, 1).await;
    assert!(matches!(*error, ConnectError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_valid_certificate_with_another_nodes_id() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let beta = || transport(&material(&ca, 2, "beta"));
    let pool = connect_as(beta(), member(3, "beta"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::NodeId);
    let pool = connect_as(beta(), member(2, "gamma"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::Name);
    let pool = connect_as(beta(), identity(Some([8; 16]), 2, "beta"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::NodeId);
}

#[tokio::test]
async fn a_server_with_a_valid_certificate_and_another_nodes_id() {
    let ca = authority();
    // It says that it is node 1, "alpha"; its certificate says node 5.
    let server = Server::start(transport(&material(&ca, 5, "alpha"))).await;
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    let error = refusal(&pool, &server.info, 1).await;
    let ours = matches!(
        &*error,
        ConnectError::Handshake { source: HandshakeError::Refusing { code: RefusedCode::NodeId, .. }, .. }
    );
    assert!(ours, "{error:?}");
}

#[tokio::test]
async fn a_members_certificate_used_to_join_anew() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let pool = connect_as(transport(&material(&ca, 2, "beta")), identity(None, 0, "beta"));
    match pool.join(&server.info.rpc, Bytes::from_static(b"let me in"), LONG).await {
        Err(CallError::NotSent { reason: NotSentReason::Connect(error), .. }) => {
            assert_eq!(code(&error), RefusedCode::NodeId);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_retired_node_and_one_whose_id_is_another_nodes() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    server.handler.known.lock().unwrap().insert(2, Known::Retired);
    server.handler.known.lock().unwrap().insert(3, Known::Member { name: "gamma".to_owned() });
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::Retired);
    let pool = connect_as(transport(&material(&ca, 3, "delta")), member(3, "delta"));
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::Name);
    let pool = connect_as(transport(&material(&ca, 3, "gamma")), member(3, "gamma"));
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_retired_while_it_is_connected_is_cut_off() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
    server.handler.known.lock().unwrap().insert(2, Known::Retired);
    let error = pool.call(1, &server.info, Bytes::from_static(b"hold"), LONG).await.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. } | CallError::NotSent { .. }), "{error:?}");
    assert_eq!(code(&*refusal(&pool, &server.info, 1).await), RefusedCode::Retired);
}

#[tokio::test]
async fn a_node_left_from_before_a_recovery() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let beta = material(&ca, 2, "beta");
    for (epoch, expected) in [(1, RefusedCode::Epoch), (7, RefusedCode::LeftBehind)] {
        let pool = connect_as(transport(&beta), konsuld::peer::LocalIdentity { epoch, ..member(2, "beta") });
        assert_eq!(code(&*refusal(&pool, &server.info, 1).await), expected);
        let told = tokio::time::timeout(Duration::from_millis(1), pool.left_behind()).await;
        assert_eq!(told.is_ok(), expected == RefusedCode::Epoch, "who is left behind knows it, and nobody else");
    }
}

#[tokio::test]
async fn tls_1_1() {
    let ca = authority();
    for min_version in [konsuld::tls::TlsVersion::V1_2, konsuld::tls::TlsVersion::V1_3] {
        let tls = konsuld::tls::Tls::of(&material(&ca, 1, "alpha"), min_version).unwrap();
        let server = Server::start(konsuld::peer::Transport::Tls(tls)).await;
        let mut raw = TcpStream::connect(server.address).await.unwrap();
        raw.write_all(&tls_1_1_hello()).await.unwrap();
        let mut heard = Vec::new();
        // How it ends does not matter, what was said before does.
        drop(tokio::time::timeout(SOON, raw.read_to_end(&mut heard)).await.expect("the server hangs up"));
        assert!(heard.is_empty() || heard[0] == 21, "a fatal alert, no hello: {heard:02x?}");
        assert_eq!(server.handler.asked.load(Ordering::SeqCst), 0);
        let told = server.handler.turned_away.lock().unwrap().clone();
        assert!(told.len() == 1 && told[0].starts_with("TLS: "), "{told:?}");
    }
}

#[tokio::test]
async fn who_only_hangs_up_is_no_news() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    // As a load balancer does that looks whether the port is open.
    for _ in 0..3 {
        drop(TcpStream::connect(server.address).await.unwrap());
    }
    let mut raw = TcpStream::connect(server.address).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    drop(tokio::time::timeout(SOON, raw.read_to_end(&mut heard)).await.expect("the server hangs up"));
    let told = server.handler.turned_away.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "the request alone: {told:?}");
}

#[tokio::test]
async fn an_exchange_of_certificates_drops_no_connection_and_holds_for_new_ones() {
    let (old, new) = (authority(), authority());
    let (mut alpha, mut beta) = (material(&old, 1, "alpha"), material(&old, 2, "beta"));
    let server_tls = tls(&alpha);
    let server = Server::start(konsuld::peer::Transport::Tls(server_tls.clone())).await;
    let client_tls = tls(&beta);
    let pool = connect_as(konsuld::peer::Transport::Tls(client_tls.clone()), member(2, "beta"));
    let say = |text: &'static str| pool.call(1, &server.info, Bytes::from_static(text.as_bytes()), LONG);
    say("before").await.unwrap();
    // A whole rotation: trust both, sign with the new one, forget the old one.
    for (node, tls) in [(&mut alpha, &server_tls), (&mut beta, &client_tls)] {
        node.roots.push(new.certificate().clone());
        tls.replace(node).unwrap();
    }
    say("trusted").await.unwrap();
    for (node, tls, fresh) in
        [(&mut alpha, &server_tls, material(&new, 1, "alpha")), (&mut beta, &client_tls, material(&new, 2, "beta"))]
    {
        *node = fresh;
        tls.replace(node).unwrap();
    }
    say("exchanged").await.unwrap();
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 1, "one handshake, hence one connection");
    let fresh = connect_as(konsuld::peer::Transport::Tls(client_tls), member(2, "beta"));
    fresh.call(1, &server.info, Bytes::from_static(b"new"), LONG).await.unwrap();
    let late = connect_as(transport(&material(&old, 3, "gamma")), member(3, "gamma"));
    assert!(late.call(1, &server.info, Bytes::from_static(b"old"), LONG).await.is_err());
}
