//! Certificate files that cannot be used are named, with what to do.

use crate::certs::Authority;
use crate::fake::{Server, beta, connect_as};
use bytes::Bytes;
use konsuld::peer::Transport;
use konsuld::tls::{Tls, TlsConfig, TlsError};
use std::time::Duration;

#[test]
fn each_unusable_file_is_named_with_its_own_error() {
    let authority = Authority::new();
    let good = authority.config("alpha");
    let refused = |config: TlsConfig| Tls::open(config).unwrap_err();

    let error = refused(TlsConfig { cert_file: authority.path("absent.pem"), ..good.clone() });
    assert!(matches!(error, TlsError::Read { .. }) && error.to_string().contains("absent.pem"), "{error}");

    std::fs::write(authority.path("text.pem"), "no certificate").unwrap();
    let error = refused(TlsConfig { ca_file: authority.path("text.pem"), ..good.clone() });
    assert!(matches!(error, TlsError::Empty { .. }) && error.to_string().contains("text.pem"), "{error}");
    let error = refused(TlsConfig { key_file: authority.path("text.pem"), ..good.clone() });
    assert!(matches!(error, TlsError::Empty { block: "PRIVATE KEY", .. }), "{error}");

    std::fs::write(authority.path("cut.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    let error = refused(TlsConfig { cert_file: authority.path("cut.pem"), ..good.clone() });
    assert!(matches!(error, TlsError::NotPem { .. }), "{error}");

    let error = refused(TlsConfig { key_file: authority.config("beta").key_file, ..good.clone() });
    assert!(matches!(error, TlsError::KeyMismatch { .. }) && error.to_string().contains("beta.key"), "{error}");

    let mut params = Authority::params(&["konsul://node/old"]);
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let error = refused(authority.issue("old", &params));
    assert!(matches!(error, TlsError::Expired { .. }) && error.to_string().contains("2020"), "{error}");

    for uris in [&[][..], &["konsul://node/"], &["https://node/a"], &["konsul://node/a", "konsul://node/b"]] {
        let error = refused(authority.issue("unnamed", &Authority::params(uris)));
        assert!(matches!(error, TlsError::NoName { .. }), "{uris:?}: {error}");
    }
}

#[tokio::test]
async fn renewed_files_are_used_after_a_reload_and_bad_ones_are_not() {
    let authority = Authority::new();
    let tls = authority.tls("alpha");
    let server = Server::start(Transport::Tls(tls.clone())).await;
    let cert_file = authority.path("alpha.pem");
    std::fs::write(&cert_file, "damaged").unwrap();
    let reload = || tls.fresh(tls.files().unwrap()).map(|fresh| tls.take(fresh));
    assert!(matches!(reload(), Err(TlsError::Empty { .. })));
    let call = |name: &'static str, id| {
        let pool = connect_as(
            Transport::Tls(authority.tls(name)),
            konsuld::peer::LocalIdentity { node_id: id, name: name.to_owned(), ..beta() },
        );
        let info = server.info.clone();
        async move { pool.call(1, &info, Bytes::from_static(b"hi"), Duration::from_secs(30)).await }
    };
    call("beta", 2).await.unwrap();
    // Another node's files, put here by mistake: peers would not take this node for itself.
    authority.issue("alpha", &Authority::params(&["konsul://node/omega"]));
    let error = reload().unwrap_err();
    assert!(matches!(error, TlsError::OtherNode { .. }) && error.to_string().contains("omega"), "{error}");
    assert_eq!(tls.name().as_deref(), Some("alpha"));
    authority.issue("alpha", &Authority::params(&["konsul://node/alpha"]));
    let before = tls.own();
    assert!(reload().unwrap() && !reload().unwrap(), "new once");
    assert_ne!(tls.own(), before);
    call("gamma", 3).await.unwrap();
}
