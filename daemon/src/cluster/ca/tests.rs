use super::*;
use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;

const NOW_MS: u64 = 1_800_000_000_000;
const CLUSTER: [u8; 16] = [7; 16];
const DAY: Duration = Duration::from_secs(24 * 3600);

fn subject(node_id: u64, name: &str) -> Subject {
    Subject { member: MemberId { cluster_id: CLUSTER, node_id }, name: name.to_owned() }
}

fn term(life: Duration) -> Term {
    Term { now_ms: NOW_MS, life }
}

/// Whether webpki takes the chain as a client's, by these authorities, at this moment.
fn accepted(roots: &[&CertificateDer<'static>], chain: &[&CertificateDer<'static>], at_ms: u64) -> bool {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add((*root).clone()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap();
    let between: Vec<_> = chain[1..].iter().map(|certificate| (*certificate).clone()).collect();
    verifier.verify_client_cert(chain[0], &between, UnixTime::since_unix_epoch(Duration::from_millis(at_ms))).is_ok()
}

#[test]
fn a_certificate_names_the_member_we_mean_and_is_believed_for_its_time_only() {
    let ca = Ca::create(CLUSTER, NOW_MS).unwrap();
    let (_, csr) = request().unwrap();
    let certificate = ca.issue(&csr, &subject(9, "n9"), term(3 * DAY)).unwrap();
    let facts = Facts::of(&certificate).unwrap();
    let certified = facts.certified.unwrap();
    assert_eq!((certified.name.as_str(), certified.member), ("n9", Some(subject(9, "n9").member)));
    assert_eq!(facts.validity.not_before_ms, NOW_MS - 300_000, "clocks differ");
    assert_eq!(facts.validity.not_after_ms, NOW_MS + 3 * 24 * 3_600_000);
    assert_eq!(
        (facts.issuer_key_id.is_some(), facts.issuer_key_id),
        (true, Facts::of(ca.certificate()).unwrap().key_id)
    );
    let good_at = |at| accepted(&[ca.certificate()], &[&certificate], at);
    assert!(good_at(NOW_MS) && good_at(NOW_MS - 299_000) && good_at(facts.validity.not_after_ms));
    assert!(!good_at(NOW_MS - 301_000) && !good_at(facts.validity.not_after_ms + 1_000));
    let other = Ca::create(CLUSTER, NOW_MS).unwrap();
    assert!(!accepted(&[other.certificate()], &[&certificate], NOW_MS), "of another authority");
}

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let ca = Ca::create(CLUSTER, NOW_MS).unwrap();
    let key = new_key().unwrap();
    let mut greedy = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    greedy.distinguished_name.push(DnType::CommonName, "root of everything");
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    greedy.subject_alt_names.push(SanType::URI("konsul://node/other".try_into().unwrap()));
    let csr = greedy.serialize_request(&key).unwrap();
    let certificate = ca.issue(csr.der(), &subject(9, "n9"), term(DAY)).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=n9");
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(!parsed.basic_constraints().unwrap().is_some_and(|constraints| constraints.value.ca));
    let uses = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(uses.client_auth && uses.server_auth && !uses.code_signing && !uses.any);
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    // And so it signs nothing that is believed.
    let issuer = Issuer::from_ca_cert_der(&certificate, key).unwrap();
    let params = params("n8", term(DAY)).unwrap();
    let forged: CertificateDer<'static> = params.signed_by(&new_key().unwrap(), &issuer).unwrap().into();
    assert!(!accepted(&[ca.certificate()], &[&forged, &certificate], NOW_MS));
}

#[test]
fn a_sealed_authority_opens_with_its_key_in_its_cluster_and_signs_on() {
    let (key, other) = (SealingKey::create().unwrap(), SealingKey::create().unwrap());
    let ca = Ca::create(CLUSTER, NOW_MS).unwrap();
    let generation = ca.seal(CLUSTER, (1, Stage::Active), &key, None).unwrap();
    assert_eq!(generation.sealing_key, key.id());
    let secret = ca.issuer.key().serialized_der();
    assert!(!generation.sealed_key.windows(16).any(|window| secret.windows(16).any(|part| part == window)));
    let again = Ca::unseal(CLUSTER, &generation, &key).unwrap();
    let certificate = again.issue(&request().unwrap().1, &subject(1, "n1"), term(DAY)).unwrap();
    assert!(accepted(&[ca.certificate()], &[&certificate], NOW_MS));
    assert!(matches!(Ca::unseal(CLUSTER, &generation, &other), Err(CaError::Sealing(_))));
    assert!(matches!(Ca::unseal([8; 16], &generation, &key), Err(CaError::Sealing(_))));
    let another = Ca::create(CLUSTER, NOW_MS).unwrap();
    let swapped = Generation { certificate: another.certificate().clone(), ..generation };
    assert!(matches!(Ca::unseal(CLUSTER, &swapped, &key), Err(CaError::Sealing(_))));
}

#[test]
fn a_bridge_leads_from_the_old_authority_to_certificates_of_the_new() {
    let key = SealingKey::create().unwrap();
    let (old, new) = (Ca::create(CLUSTER, NOW_MS).unwrap(), Ca::create(CLUSTER, NOW_MS).unwrap());
    let bridge = new.seal(CLUSTER, (2, Stage::Next), &key, Some(&old)).unwrap().bridge.unwrap();
    assert_eq!(bridge.predecessor, *old.certificate());
    let certificate = new.issue(&request().unwrap().1, &subject(1, "n1"), term(DAY)).unwrap();
    assert!(accepted(&[old.certificate()], &[&certificate, &bridge.crossed], NOW_MS));
    assert!(!accepted(&[old.certificate()], &[&certificate], NOW_MS));
}

#[test]
fn a_short_life_is_backdated_by_half_of_it_at_most() {
    let ca = Ca::create(CLUSTER, NOW_MS).unwrap();
    let life = Duration::from_secs(30);
    let certificate = ca.issue(&request().unwrap().1, &subject(1, "n1"), term(life)).unwrap();
    let validity = Facts::of(&certificate).unwrap().validity;
    assert_eq!((validity.not_before_ms, validity.not_after_ms), (NOW_MS - 15_000, NOW_MS + 30_000));
}

#[test]
fn an_authority_signs_nothing_that_outlives_it_nor_after_its_end() {
    let ca = Ca::create(CLUSTER, NOW_MS).unwrap();
    let end_ms = Facts::of(ca.certificate()).unwrap().validity.not_after_ms;
    let csr = request().unwrap().1;
    let last = ca.issue(&csr, &subject(1, "n1"), Term { now_ms: end_ms - 60_000, life: DAY }).unwrap();
    assert_eq!(Facts::of(&last).unwrap().validity.not_after_ms, end_ms);
    let late = ca.issue(&csr, &subject(1, "n1"), Term { now_ms: end_ms, life: DAY });
    assert!(matches!(late, Err(CaError::Expired { .. })));
    for name in ["", "a/b", "ä", &"x".repeat(64)] {
        assert!(matches!(ca.issue(&csr, &subject(1, name), term(DAY)), Err(CaError::Name { .. })), "{name}");
    }
}

#[test]
fn two_authorities_and_two_certificates_share_no_serial_number() {
    let ca = Ca::create(CLUSTER, NOW_MS).unwrap();
    let csr = request().unwrap().1;
    let serial = |certificate: CertificateDer<'static>| {
        x509_parser::parse_x509_certificate(&certificate).unwrap().1.raw_serial_as_string()
    };
    let issue = || serial(ca.issue(&csr, &subject(1, "n1"), term(DAY)).unwrap());
    assert_ne!(issue(), issue());
}
