//! Somebody on the network of a real cluster, with everything but a good token: refused, written down, and nobody notices.

use crate::forged::{guessed, made_up};
use crate::old_tls::tls_1_1_hello;
use crate::support::cluster::Entry;
use crate::support::konsulctl;
use crate::support::wait::so;
use crate::support::{Cluster, Node, Options, Outcome, Storm, check_writes, net, skip, wait_until};
use bytes::Bytes;
use konsul_api::audit::AuditRow;
use konsuld::clock::Clock;
use konsuld::cluster::ca::{Ca, Subject, Term, request};
use konsuld::cluster::enrol::{Answer, Applicant, EnrolRequest, Envelope, RefusalCode, ask};
use konsuld::cluster::identity::IdentityFiles;
use konsuld::cluster::token::{Purpose, Token};
use konsuld::metrics::PeerMetrics;
use konsuld::peer::{LocalIdentity, Pool, Transport, enrol};
use konsuld::raft_types::NodeInfo;
use konsuld::tls::{JoinTrust, Material, MemberId, Tls, TlsVersion};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);
/// How long it is guessed, as fast as it goes.
const GUESSING: Duration = Duration::from_secs(5);
const GUESSERS: usize = 8;

/// The attacker, who sees the network and has a machine on it.
struct Attacker {
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    /// Whom it attacks: the leader.
    rpc: String,
    id: u64,
    name: String,
    cluster_id: [u8; 16],
}

impl Attacker {
    fn of(node: &Node) -> Attacker {
        let status = node.status().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cluster_id = *uuid::Uuid::parse_str(&status.cluster_id).unwrap().as_bytes();
        let (rpc, id, name) = (format!("{}:8300", node.http.ip()), status.node.id, node.name.clone());
        Attacker { runtime, dir: tempfile::tempdir().unwrap(), rpc, id, name, cluster_id }
    }

    fn applicant(&self) -> Applicant {
        let key = IdentityFiles::in_data_dir(self.dir.path()).joining_key().unwrap();
        Applicant {
            name: "evil".to_owned(),
            rpc: "10.77.0.254:8300".to_owned(),
            http: String::new(),
            former: false,
            understands: konsuld::raft::Understands::OWN,
            key,
        }
    }

    fn joins(&self, token: &Token) -> RefusalCode {
        match self.runtime.block_on(ask(token, &self.rpc, &self.applicant())) {
            Ok(Answer::Refused { code, .. }) => code,
            Ok(_) => panic!("let in"),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// A request without a proof.
    fn joins_without_token(&self, pin: [u8; 32]) {
        let body = EnrolRequest {
            token: *b"aaaaaaaa",
            name: "evil".to_owned(),
            rpc: "10.77.0.254:8300".to_owned(),
            http: String::new(),
            former: false,
            csr: request().unwrap().1,
            understands: konsuld::raft::Understands::OWN,
        };
        let request = Envelope { body: &body.encode(), proof: None }.encode();
        let trust = JoinTrust::Pinned(pin);
        self.runtime.block_on(enrol(&self.rpc, &trust, move |_| request, LONG)).unwrap();
    }

    /// As a member, with this certificate; it must not get through.
    fn calls(&self, transport: Transport, node_id: u64, name: &str) {
        let local = LocalIdentity { cluster_id: Some(self.cluster_id), node_id, name: name.to_owned(), epoch: 0 };
        let info = NodeInfo { name: self.name.clone(), rpc: self.rpc.clone(), http: String::new() };
        // Not sent at all: the connection is refused, on one side or the other.
        let called = self.runtime.block_on(async {
            let pool = Pool::new(transport, local, PeerMetrics::default());
            let called = pool.call(self.id, &info, Bytes::from_static(b"let me in"), LONG).await;
            pool.close().await;
            called
        });
        assert!(called.is_err(), "{called:?}");
    }

    /// Bytes as they are, until the other side hangs up.
    fn says(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(&self.rpc).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut heard = Vec::new();
        // How it ends does not matter, what was said before does.
        drop(stream.read_to_end(&mut heard));
        assert!(heard.len() < 16, "an alert at most: {heard:02x?}");
    }

    /// Its own authority signs for a member's id and name; it shows `roots` as what it trusts.
    fn forged(&self, roots: Vec<rustls::pki_types::CertificateDer<'static>>) -> Transport {
        let now_ms = Clock::start().wall().as_millis();
        let ca = Ca::create(self.cluster_id, now_ms).unwrap();
        let (key, csr) = request().unwrap();
        let subject = Subject { member: MemberId { cluster_id: self.cluster_id, node_id: 2 }, name: "n2".to_owned() };
        let certificate = ca.issue(&csr, &subject, Term { now_ms, life: LONG * 100 }).unwrap();
        let material = Material { chain: vec![certificate], key: key.into(), roots, bridges: Vec::new() };
        Transport::Tls(Tls::of(&material, TlsVersion::V1_3).unwrap())
    }

    /// Tries tokens with wrong secrets as fast as it can: how many.
    fn guesses(&self, real: &Token) -> u64 {
        let tried = AtomicU64::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..GUESSERS {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    let (me, guess) = (self.applicant(), guessed(real));
                    while began.elapsed() < GUESSING {
                        if let Ok(Answer::Admitted(_)) = runtime.block_on(ask(&guess, &self.rpc, &me)) {
                            panic!("let in by a guess");
                        }
                        tried.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        tried.into_inner()
    }
}

fn rows(node: &Node) -> Vec<AuditRow> {
    serde_json::from_str(&konsulctl::done(node, "audit --limit 10000 --json")).unwrap()
}

/// The audit has a row of this event, from the attacker's address, with this in its outcome.
fn wait_audited(node: &Node, event: &str, outcome: &str) {
    wait_until(&format!("the audit tells of {event}: {outcome}"), || {
        let rows = rows(node);
        let told = rows.iter().any(|row| {
            row.event == event
                && row.from == "10.77.0.254"
                && row.outcome.starts_with("refused: ")
                && row.outcome.contains(outcome)
        });
        so(told, format!("{rows:#?}"))
    });
}

fn token(node: &Node) -> Token {
    Token::parse(&konsulctl::done(node, "cluster generate-token")).unwrap()
}

/// None, an unknown one, a wrong secret, a revoked one, one of another cluster.
fn tries_tokens(evil: &Attacker, leader: &Node, good: &Token) {
    let Purpose::Join { pin } = good.purpose() else { panic!("a join token") };
    evil.joins_without_token(pin);
    wait_audited(leader, "join", "unknown");
    assert_eq!(evil.joins(&made_up(Purpose::Join { pin })), RefusalCode::Token);
    assert_eq!(evil.joins(&guessed(good)), RefusalCode::Token);
    wait_audited(leader, "join", "bad_proof");
    let revoked = token(leader);
    konsulctl::done(leader, &format!("cluster revoke-token {}", revoked.id()));
    assert_eq!(evil.joins(&revoked), RefusalCode::Spent);
    wait_audited(leader, "join", "revoked");
    let of_another_cluster = made_up(Purpose::Join { pin: [9; 32] });
    assert!(evil.runtime.block_on(ask(&of_another_cluster, &evil.rpc, &evil.applicant())).is_err());
    wait_audited(leader, "peer.refused", "alert");
}

/// One of another authority of the same name, and one that was stolen, for another node.
fn tries_certificates(evil: &Attacker, leader: &Node, cluster: &Cluster) {
    let real = IdentityFiles::in_data_dir(&cluster.nodes[1].data_dir).load().unwrap().unwrap();
    evil.calls(evil.forged(real.roots.clone()), 2, "n2");
    wait_audited(leader, "peer.refused", "certificate");
    let (stolen, victim) =
        (cluster.nodes[cluster.followers()[0]].data_dir.clone(), &cluster.nodes[cluster.followers()[1]]);
    let stolen = IdentityFiles::in_data_dir(&stolen).load().unwrap().unwrap();
    let other = victim.status().unwrap().node.id;
    evil.calls(Transport::Tls(Tls::of(&stolen, TlsVersion::V1_3).unwrap()), other, &victim.name);
    wait_audited(leader, "peer.refused", "handshake");
}

/// What is no TLS, or too old.
fn tries_other_words(evil: &Attacker, leader: &Node) {
    evil.calls(Transport::Plain, 2, "n2");
    evil.says(b"GET / HTTP/1.1\r\n\r\n");
    wait_audited(leader, "peer.refused", "corrupt message");
    evil.says(&tls_1_1_hello());
    wait_audited(leader, "peer.refused", "incompatible");
}

#[test]
fn whoever_has_no_good_token_and_no_own_certificate_is_refused_audited_and_harms_nobody() {
    if let Some(why) = net::missing() {
        return skip(&why);
    }
    let own = Entry::Own("form = \"init\"".to_owned());
    let cluster = Cluster::prepare(Options { nodes: 3, spare: 1, net: true, entry: own, ..Options::default() });
    for node in &cluster.nodes {
        node.start();
        node.wait_waiting();
    }
    konsulctl::enter(&cluster.nodes);
    let before = cluster.wait_healthy();
    let leader = &cluster.nodes[cluster.leader()];
    let storm = Storm::start(&cluster.addresses(), 3, "w");
    storm.wait_progress(50);
    let evil = Attacker::of(leader);
    let good = token(leader);
    tries_tokens(&evil, leader, &good);
    tries_certificates(&evil, leader, &cluster);
    tries_other_words(&evil, leader);

    // And as fast as it can; meanwhile somebody with a good token joins, from elsewhere.
    let fourth = &cluster.spare[0];
    fourth.start();
    fourth.wait_waiting();
    let tried = std::thread::scope(|scope| {
        let guessing = scope.spawn(|| evil.guesses(&good));
        wait_audited(leader, "join", "too_many");
        konsulctl::done(fourth, &format!("cluster join {}", good.render()));
        guessing.join().unwrap()
    });
    println!("{tried} guesses in {} s", GUESSING.as_secs());
    assert!(tried >= 5 * 200, "only {tried} guesses were made");
    let rows = rows(leader);
    assert!(rows.len() < 100, "{} rows for {tried} guesses", rows.len());

    let all: Vec<&Node> = cluster.nodes.iter().chain(&cluster.spare).collect();
    let after = cluster.wait_healthy_of(&all);
    assert_eq!((&after.leader, after.node.term), (&before.leader, before.node.term), "it changed the leader");
    let written = storm.finish();
    let failed: Vec<_> = written.iter().filter(|w| w.outcome != Outcome::Acknowledged).collect();
    assert!(failed.is_empty(), "{} writes failed, such as {:?}", failed.len(), failed[0]);
    check_writes(&all, "w", &written);
    cluster.assert_digests_equal();
}
