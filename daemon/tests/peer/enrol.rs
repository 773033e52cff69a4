//! Those who have no certificate yet, and those who only say so.

use crate::fake::{Server, answer, connect_as};
use crate::own::{authority, material, member, tls, transport};
use crate::refused::{SOON, hello, welcome_at_most};
use bytes::Bytes;
use konsuld::peer::{EnrolError, Transport, enrol};
use konsuld::tls::{JoinTrust, MemberId, Tls, TlsVersion, connect_to_join};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_stranger_who_pinned_the_authority_asks_and_is_answered_over_the_same_exporter() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let trust = JoinTrust::Pinned(ca.pin());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut exporter = None;
        let request = |bytes: &[u8; 32]| {
            exporter = Some(*bytes);
            b"let me in".to_vec()
        };
        let enrolled = enrol(&server.info.rpc, &trust, request, LONG).await.unwrap();
        assert_eq!(enrolled.answer, answer("127.0.0.1", b"let me in"));
        assert_eq!(Some(enrolled.exporter), exporter);
        let shown = enrolled.server.unwrap();
        let alpha = MemberId { cluster_id: [7; 16], node_id: 1 };
        assert_eq!((shown.name.as_str(), shown.member), ("alpha", Some(alpha)));
        seen.push(enrolled.exporter);
    }
    let heard: Vec<[u8; 32]> =
        server.handler.enrolments.lock().unwrap().iter().map(|(exporter, _)| *exporter).collect();
    assert_eq!(heard, seen, "both ends know the same");
    assert_ne!(seen[0], seen[1], "what is proven on one connection proves nothing on the next");
}

#[tokio::test]
async fn who_shows_another_authority_than_the_pinned_one_learns_nothing() {
    let (ca, other) = (authority(), authority());
    let asked = |_: &[u8; 32]| -> Vec<u8> { panic!("nothing is said to whom nobody vouches for") };
    // A wrong pin; a man in the middle with an authority of his own; one who shows the right authority beside his own
    // certificate; a node that is in no cluster.
    let mut beside = material(&other, 1, "alpha");
    beside.roots.push(ca.certificate().clone());
    let newcomer = Transport::Tls(Tls::newcomer(TlsVersion::V1_3).unwrap());
    for transport in [transport(&material(&other, 1, "alpha")), transport(&beside), newcomer] {
        let server = Server::start(transport).await;
        let error = enrol(&server.info.rpc, &JoinTrust::Pinned(ca.pin()), asked, LONG).await.unwrap_err();
        assert!(matches!(error, EnrolError::Tls { .. }), "{error:?}");
        assert!(server.handler.enrolments.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_pin_on_the_old_authority_finds_its_way_over_the_bridge() {
    use konsuld::cluster::ca::{CaRecord, SealingKey, Stage};
    let (old, new) = (authority(), authority());
    let key = SealingKey::create().unwrap();
    let first = CaRecord::founded(old.seal([7; 16], (1, Stage::Active), &key, None).unwrap());
    let next = new.seal([7; 16], (2, Stage::Next), &key, Some(&old)).unwrap();
    let rotated = first.with_next(next).unwrap().with_next_active().unwrap().settled();
    let mut alpha = material(&new, 1, "alpha");
    alpha.bridges = rotated.bridges();
    let server = Server::start(transport(&alpha)).await;
    for pin in [old.pin(), new.pin()] {
        enrol(&server.info.rpc, &JoinTrust::Pinned(pin), |_| b"hi".to_vec(), LONG).await.unwrap();
    }
    // Members do not walk over it: they trust what the record says.
    let pool = connect_as(transport(&material(&old, 2, "beta")), member(2, "beta"));
    assert!(pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.is_err());
}

#[tokio::test]
async fn two_nodes_without_a_cluster_talk_about_joining_and_about_nothing_else() {
    let newcomer = Tls::newcomer(TlsVersion::V1_3).unwrap();
    let server = Server::at("127.0.0.1:0", Transport::Tls(newcomer.clone()), None).await;
    let enrolled = enrol(&server.info.rpc, &JoinTrust::Proven, |_| b"who forms?".to_vec(), LONG).await.unwrap();
    assert_eq!((enrolled.answer, enrolled.server), (answer("127.0.0.1", b"who forms?"), None));
    let ca = authority();
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    assert!(pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.is_err());
    assert_eq!(newcomer.name(), None);
    newcomer.replace(&material(&ca, 1, "alpha")).unwrap();
    assert_eq!(newcomer.name().as_deref(), Some("alpha"), "it joined, on the port that was open all the time");
    enrol(&server.info.rpc, &JoinTrust::Pinned(ca.pin()), |_| b"hi".to_vec(), LONG).await.unwrap();
}

/// A stranger's connection, made by hand.
async fn stranger(server: &Server) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    connect_to_join(server.address.ip(), stream, &JoinTrust::Proven).await.unwrap().stream
}

/// Says it, and listens until the server hangs up.
async fn heard(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        stream.read_to_end(&mut heard).await
    };
    // How it ends does not matter, what was said before does.
    drop(tokio::time::timeout(SOON, talk).await.expect("the server hangs up"));
    heard
}

#[tokio::test]
async fn a_stranger_who_speaks_as_a_member_is_not_heard() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let frames: [&[u8]; 5] = [
        &hello(),
        // Join, forward, append; a frame beyond the bound of a stranger's.
        &[2, 0, 0, 0, 0x15, 1],
        &[2, 0, 0, 0, 0x14, 1],
        &[2, 0, 0, 0, 0x10, 1],
        &[0, 0, 1, 0, 0x16, 1],
    ];
    for frame in frames {
        assert_eq!(heard(stranger(&server).await, frame).await, b"", "{frame:02x?}");
    }
    // One question a connection.
    let twice =
        heard(stranger(&server).await, &[4, 0, 0, 0, 0x16, 1, b'h', b'i', 4, 0, 0, 0, 0x16, 2, b'h', b'o']).await;
    assert_eq!(&twice[4..], [&[0x80, 1], &answer("127.0.0.1", b"hi")[..]].concat());
    assert_eq!(server.handler.enrolments.lock().unwrap().len(), 1);
    assert_eq!(server.handler.asked.load(std::sync::atomic::Ordering::SeqCst), 0, "no handshake of members");
}

#[tokio::test]
async fn a_member_who_asks_as_a_stranger_is_not_heard() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let beta = tls(&material(&ca, 2, "beta"));
    let connected = || async {
        let stream = TcpStream::connect(server.address).await.unwrap();
        beta.connect(server.address.ip(), stream).await.unwrap().0
    };
    let question = [4, 0, 0, 0, 0x16, 1, b'h', b'i'];
    let first = heard(connected().await, &question).await;
    assert_eq!((first[4], first[6]), (0x03, 7), "Refused, malformed: {first:02x?}");
    welcome_at_most(&heard(connected().await, &[hello().as_slice(), &question].concat()).await);
    assert!(server.handler.enrolments.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_failed_too_often_is_dropped_before_anything_is_computed_and_members_there_are_not() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    server.handler.shunned.lock().unwrap().push("127.0.0.1".parse().unwrap());
    let asked = |_: &[u8; 32]| -> Vec<u8> { panic!("TLS never stood") };
    let error = enrol(&server.info.rpc, &JoinTrust::Pinned(ca.pin()), asked, LONG).await.unwrap_err();
    assert!(matches!(error, EnrolError::Tls { .. }), "{error:?}");
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}

#[tokio::test]
async fn strangers_who_say_nothing_do_not_keep_members_out() {
    let ca = authority();
    let server = Server::start(transport(&material(&ca, 1, "alpha"))).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        let stream = TcpStream::connect(server.address).await.unwrap();
        // Beyond a few they are not even answered.
        silent.push(connect_to_join(server.address.ip(), stream, &JoinTrust::Proven).await.ok());
    }
    assert_eq!(silent.iter().flatten().count(), 16);
    let pool = connect_as(transport(&material(&ca, 2, "beta")), member(2, "beta"));
    pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap();
}
