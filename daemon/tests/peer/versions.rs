//! Old versions of TLS on the peer port: the first message of a client, byte by byte, and what comes of it.

use crate::fake::Server;
use crate::own::{authority, material};
use konsuld::peer::Transport;
use konsuld::tls::{Tls, TlsVersion};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TLS_1_0: u8 = 1;
const TLS_1_1: u8 = 2;
const TLS_1_2: u8 = 3;

/// Kinds of TLS records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// The hello of a client that speaks up to TLS 1.`minor - 1`, with suites and curves that the server knows.
fn hello(minor: u8) -> Vec<u8> {
    let suites: &[u8] = &[0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x09, 0xc0, 0x13];
    let extensions: &[u8] = &[
        0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17, // groups: X25519, P-256
        0, 11, 0, 2, 1, 0, // points: uncompressed
        0, 13, 0, 6, 0, 4, 4, 3, 8, 4, // signatures: ECDSA P-256 and RSA-PSS, SHA-256
    ];
    let short = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0);
    body.extend(short(suites.len()));
    body.extend(suites);
    body.extend([1, 0]);
    body.extend(short(extensions.len()));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(short(body.len()));
    message.extend(body);
    let mut record = vec![HANDSHAKE, 3, 1];
    record.extend(short(message.len()));
    record.extend(message);
    record
}

/// The kind of the record that answers; `None`: hung up on.
async fn answer(server: &Server, minor: u8) -> Option<u8> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&hello(minor)).await.unwrap();
    let mut first = [0];
    match stream.read(&mut first).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(first[0]),
    }
}

#[tokio::test]
async fn versions_below_the_minimum_are_refused_and_the_minimum_is_taken() {
    let ca = authority();
    let own = material(&ca, 1, "alpha");
    let table = [
        (TlsVersion::V1_3, TLS_1_0, false),
        (TlsVersion::V1_3, TLS_1_1, false),
        (TlsVersion::V1_3, TLS_1_2, false),
        (TlsVersion::V1_2, TLS_1_0, false),
        (TlsVersion::V1_2, TLS_1_1, false),
        (TlsVersion::V1_2, TLS_1_2, true),
    ];
    for (min_version, minor, taken) in table {
        for permissive in [false, true] {
            let tls = Tls::of(&own, min_version).unwrap();
            let transport = if permissive { Transport::Permissive(tls) } else { Transport::Tls(tls) };
            let server = Server::start(transport).await;
            let answered = answer(&server, minor).await;
            let what = format!("minimum {min_version:?}, permissive {permissive}, client 3.{minor}: {answered:?}");
            assert_eq!(answered == Some(HANDSHAKE), taken, "{what}");
            assert!(taken || answered.is_none() || answered == Some(ALERT), "{what}");
            assert_eq!(server.handler.asked.load(Ordering::SeqCst), 0, "{what}");
        }
    }
}
