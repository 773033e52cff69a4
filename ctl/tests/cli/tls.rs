//! `tls ca` and `tls node`.

use super::{
    run::{assert_code, run, stderr, stdout},
    server::Server,
};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};
use x509_parser::prelude::*;

fn pem(path: &Path) -> Vec<u8> {
    let (_, pem) = parse_x509_pem(&fs::read(path).expect("read")).expect("pem");
    pem.contents
}

#[test]
fn a_nodes_certificate_is_signed_by_the_authority_and_names_the_node() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    assert_code(&run(&server, dir.path(), &["tls", "ca", "--dir", "pki", "--name", "Test CA"]), 0);
    let args = ["tls", "node", "--name", "n1", "--dir", "pki", "--san", "n1.example.org", "--san", "10.0.0.1"];
    let output = run(&server, dir.path(), &args);
    assert_code(&output, 0);
    assert!(stdout(&output).contains("cert_file = "), "{}", stdout(&output));

    let pki = dir.path().join("pki");
    let (ca_der, node_der) = (pem(&pki.join("ca.pem")), pem(&pki.join("n1.pem")));
    let (_, ca) = X509Certificate::from_der(&ca_der).expect("ca");
    let (_, node) = X509Certificate::from_der(&node_der).expect("node");
    assert!(ca.is_ca() && !node.is_ca());
    assert_eq!(node.issuer(), ca.subject());
    node.verify_signature(Some(ca.public_key())).expect("signed by the authority");
    assert!(node.validity().is_valid());
    assert_eq!(node.subject().to_string(), "CN=n1");
    let names: Vec<String> = node
        .subject_alternative_name()
        .expect("extension")
        .expect("names")
        .value
        .general_names
        .iter()
        .map(|n| match n {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::URI(uri) => (*uri).to_owned(),
            GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
            other => format!("{other:?}"),
        })
        .collect();
    for name in ["n1", "konsul://node/n1", "[127, 0, 0, 1]", "localhost", "n1.example.org", "[10, 0, 0, 1]"] {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
    let usage = node.extended_key_usage().expect("extension").expect("usage").value;
    assert!(usage.server_auth && usage.client_auth);
}

#[test]
fn keys_are_their_owners_alone_and_never_overwritten() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    for (args, file, key) in
        [(vec!["tls", "ca"], "ca.pem", "ca-key.pem"), (vec!["tls", "node", "--name", "n1"], "n1.pem", "n1-key.pem")]
    {
        assert_code(&run(&server, dir.path(), &args), 0);
        let key = dir.path().join(key);
        assert_eq!(fs::metadata(&key).expect("key").permissions().mode() & 0o777, 0o600);
        let before = fs::read(&key).expect("key");
        let output = run(&server, dir.path(), &args);
        assert_code(&output, 1);
        assert!(stderr(&output).contains("exists; move it away"), "{}", stderr(&output));
        fs::remove_file(dir.path().join(file)).expect("remove");
        assert_code(&run(&server, dir.path(), &args), 1);
        assert_eq!(fs::read(&key).expect("key"), before);
        assert_code(&run(&server, dir.path(), &["kv", "list"]), 0);
        // The authority is needed for the node.
        if file == "ca.pem" {
            fs::remove_file(&key).expect("remove");
            assert_code(&run(&server, dir.path(), &args), 0);
        }
    }
}

#[test]
fn a_missing_authority_is_explained() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    let output = run(&server, dir.path(), &["tls", "node", "--name", "n1"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("make an authority with `konsulctl tls ca`"), "{}", stderr(&output));
}
