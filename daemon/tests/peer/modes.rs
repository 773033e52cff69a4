//! Encrypted, in the clear, and the way from the one to the other.

use crate::fake::{Server, connect_as};
use crate::own::{authority, material, member, tls};
use crate::refused::refusal;
use bytes::Bytes;
use konsuld::peer::{ConnectError, Encryption, Transport};
use std::sync::atomic::Ordering;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_permissive_node_serves_both_and_prefers_encryption() {
    let ca = authority();
    let (alpha, beta) = (tls(&material(&ca, 1, "alpha")), tls(&material(&ca, 2, "beta")));
    let off = || Transport::Plain;
    let permissive = [Transport::Permissive(alpha.clone()), Transport::Permissive(beta.clone())];
    let required = [Transport::Tls(alpha), Transport::Tls(beta)];
    // (server, client, what protects the connection): every pair that meets in a rolling restart from off to required.
    let table = [
        (off(), off(), Encryption::Plain),
        (off(), permissive[1].clone(), Encryption::Plain),
        (permissive[0].clone(), off(), Encryption::Plain),
        (permissive[0].clone(), permissive[1].clone(), Encryption::Tls13),
        (permissive[0].clone(), required[1].clone(), Encryption::Tls13),
        (required[0].clone(), permissive[1].clone(), Encryption::Tls13),
        (required[0].clone(), required[1].clone(), Encryption::Tls13),
    ];
    for (server, client, expected) in table {
        let pair = format!("{server:.0?} and {client:.0?}");
        let server = Server::start(server).await;
        let pool = connect_as(client, member(2, "beta"));
        pool.call(1, &server.info, Bytes::from_static(b"hi"), LONG).await.unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        assert_eq!(server.handler.protected_by.lock().unwrap().last(), Some(&expected), "{pair}");
        assert_eq!(pool.encryption(1), Some(expected), "{pair}");
    }
}

#[tokio::test]
async fn a_node_that_requires_encryption_takes_nothing_else_from_a_permissive_one() {
    let (ca, other) = (authority(), authority());
    let server = Server::start(Transport::Tls(tls(&material(&ca, 1, "alpha")))).await;
    // A certificate that is refused is not a reason to go on in the clear: that would hide it.
    let stranger = Transport::Permissive(tls(&material(&other, 2, "beta")));
    let pool = connect_as(stranger, member(2, "beta"));
    let error = refusal(&pool, &server.info, 1).await;
    assert!(matches!(*error, ConnectError::Tls { .. }), "{error:?}");
    assert_eq!(server.handler.asked.load(Ordering::SeqCst), 0);
    let pool = connect_as(Transport::Plain, member(2, "beta"));
    assert!(matches!(*refusal(&pool, &server.info, 1).await, ConnectError::Handshake { .. }));
}
