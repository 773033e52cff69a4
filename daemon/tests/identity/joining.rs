//! Joining with a token, and all the ways not to.

use crate::forged::{guessed, made_up};
use crate::node::{Node, applicant, now_ms, port, promise, told, wait_for, writes};
use konsul_state::{Command, TokenWrite};
use konsuld::cluster::enrol::{
    Answer, Applicant, AskError, EnrolAnswer, EnrolRequest, Envelope, RefusalCode, answer_as_newcomer, ask, join,
};
use konsuld::cluster::identity::IdentityFiles;
use konsuld::cluster::token::{self, Bound, Purpose, Signer, Token};
use konsuld::peer::{EnrolError, enrol};
use konsuld::raft::Understands;
use konsuld::tls::JoinTrust;
use std::time::Duration;
use tempfile::TempDir;

const LIFE: Duration = Duration::from_secs(3600);
const HOUR: Duration = Duration::from_secs(3600);

fn stranger(name: &str, dir: &TempDir) -> Applicant {
    applicant(name, "127.0.0.1:1", &IdentityFiles::in_data_dir(dir.path()))
}

async fn refused(token: &Token, node: &Node, me: &Applicant) -> (RefusalCode, String) {
    match ask(token, &node.rpc, me).await.unwrap() {
        Answer::Refused { code, why } => (code, why),
        other => panic!("{}", told(&other)),
    }
}

/// Outcomes of the audit's rows about joining, oldest first.
fn audited(node: &Node) -> Vec<String> {
    let view = node.consensus.state().view().unwrap();
    let rows = view.audit(None, 1_000).unwrap();
    rows.iter().filter(|row| row.event.event == "join").map(|row| row.event.outcome.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_become_a_cluster_with_one_token_and_no_file_copied() {
    let n1 = Node::found("n1", LIFE).await;
    let token = n1.token(2, HOUR).await;
    let n2 = n1.admit("n2", &token, LIFE).await;
    wait_for("n2 votes", || n1.voters() == 2).await;
    // Asked at a follower, which names the leader.
    let n3 = n2.admit("n3", &token, LIFE).await;
    wait_for("n3 votes", || n1.voters() == 3).await;
    for node in [&n1, &n2, &n3] {
        assert!(writes(node, b"x").await);
        let own = node.authority.tls().own().unwrap().certified.unwrap();
        assert_eq!(own.member.unwrap().node_id, node.id());
    }
    wait_for("every voter can sign", || {
        let can = |node: &Node| node.authority.sign(&konsuld::cluster::ca::request().unwrap().1, 1, "n1").is_ok();
        can(&n2) && can(&n3)
    })
    .await;
    wait_for("both joins are audited", || audited(&n1) == ["ok", "ok"]).await;
    let dir = TempDir::new().unwrap();
    let (code, why) = refused(&token, &n1, &stranger("n4", &dir)).await;
    assert_eq!(code, RefusalCode::Spent, "{why}");
    for node in [n3, n2, n1] {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_no_good_token_is_refused_audited_and_changes_nothing() {
    let n1 = Node::found("n1", LIFE).await;
    let dir = TempDir::new().unwrap();
    let me = stranger("n2", &dir);
    let good = n1.token(1, HOUR).await;
    let Purpose::Join { pin } = good.purpose() else { panic!("a join token") };

    let (unknown, _) = refused(&made_up(Purpose::Join { pin }), &n1, &me).await;
    let (wrong, _) = refused(&guessed(&good), &n1, &me).await;
    assert_eq!((unknown, wrong), (RefusalCode::Token, RefusalCode::Token), "which of the two, a stranger is not told");

    let expired = n1.token(1, Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (code, why) = refused(&expired, &n1, &me).await;
    assert!(code == RefusalCode::Spent && why.contains("expired"), "{why}");

    let revoked = n1.token(1, HOUR).await;
    let (id, now_ms, by, from) = (revoked.id().bytes(), now_ms(), "test", "");
    n1.consensus.propose(&Command::Token(TokenWrite::Revoke { id, now_ms, by, from })).await.unwrap();
    let (code, why) = refused(&revoked, &n1, &me).await;
    assert!(code == RefusalCode::Spent && why.contains("revoked"), "{why}");

    let of_another_cluster = made_up(Purpose::Join { pin: [9; 32] });
    let error = ask(&of_another_cluster, &n1.rpc, &me).await.err().unwrap();
    assert!(matches!(error, AskError::Ask { source: EnrolError::Tls { .. }, .. }), "{error:?}");

    let (code, why) = refused(&good, &n1, &stranger("n1", &TempDir::new().unwrap())).await;
    assert!(code == RefusalCode::Name && why.contains("alive"), "the leader's own name: {why}");
    let (code, _) = refused(&good, &n1, &stranger("no name", &TempDir::new().unwrap())).await;
    assert_eq!(code, RefusalCode::Name);

    wait_for("all are audited", || audited(&n1).len() >= 6).await;
    assert!(audited(&n1).iter().all(|outcome| outcome.starts_with("refused: ")), "{:?}", audited(&n1));
    assert_eq!(n1.consensus.status().members.len(), 1);
    // And none of them used the good token up.
    let n2 = n1.admit("n2", &good, LIFE).await;
    wait_for("n2 votes", || n1.voters() == 2).await;
    n2.end().await;
    n1.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_program_is_too_old_is_told_which_version_is_needed_and_its_token_stays_good() {
    let n1 = Node::found("n1", LIFE).await;
    wait_for("the newest cluster version", || n1.consensus.cluster_version().unwrap() == Understands::OWN.newest).await;
    let token = n1.token(1, HOUR).await;
    let dir = TempDir::new().unwrap();
    let old = Applicant { understands: Understands::UNSAID, ..stranger("n2", &dir) };
    let (code, why) = refused(&token, &n1, &old).await;
    let needed = format!("the cluster is at version {}", Understands::OWN.newest);
    assert!(code == RefusalCode::Version && why.contains(&needed) && why.contains("install konsuld"), "{why}");
    assert_eq!(n1.consensus.status().members.len(), 1);
    wait_for("the refusal is audited", || audited(&n1).iter().any(|outcome| outcome.starts_with("refused: "))).await;
    let n2 = n1.admit("n2", &token, LIFE).await;
    wait_for("n2 votes", || n1.voters() == 2).await;
    for node in [n2, n1] {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_request_is_worth_nothing_on_another_connection() {
    let n1 = Node::found("n1", LIFE).await;
    let token = n1.token(5, HOUR).await;
    let trust = JoinTrust::Pinned(n1.authority.pin().unwrap().unwrap());
    let body = EnrolRequest {
        token: token.id().bytes(),
        name: "n2".to_owned(),
        rpc: "127.0.0.1:1".to_owned(),
        http: String::new(),
        former: false,
        csr: konsuld::cluster::ca::request().unwrap().1,
        understands: Understands::OWN,
    };
    let body = body.encode();
    let mut recorded = Vec::new();
    // As an eavesdropper might get it who broke one connection, and before it was answered.
    let record = |exporter: &[u8; 32]| {
        let proof = token::prove(&token, Signer::Asker, Bound { exporter, request: &body });
        recorded = Envelope { body: &body, proof: Some(proof) }.encode();
        b"something else".to_vec()
    };
    enrol(&n1.rpc, &trust, record, HOUR).await.unwrap();
    let answer = |enrolled: konsuld::peer::Enrolled| {
        let envelope = Envelope::decode(&enrolled.answer).unwrap();
        EnrolAnswer::decode(envelope.body).unwrap()
    };
    let replayed = answer(enrol(&n1.rpc, &trust, |_| recorded.clone(), HOUR).await.unwrap());
    assert!(matches!(replayed, EnrolAnswer::Refused { code: RefusalCode::Token, .. }), "{replayed:?}");
    // The proof covers the request: another name under the same proof is refused on the very connection.
    let altered = |exporter: &[u8; 32]| {
        let proof = token::prove(&token, Signer::Asker, Bound { exporter, request: &body });
        let other = EnrolRequest { name: "evil".to_owned(), ..EnrolRequest::decode(&body).unwrap() }.encode();
        Envelope { body: &other, proof: Some(proof) }.encode()
    };
    let altered = answer(enrol(&n1.rpc, &trust, altered, HOUR).await.unwrap());
    assert!(matches!(altered, EnrolAnswer::Refused { code: RefusalCode::Token, .. }), "{altered:?}");
    assert_eq!(n1.consensus.status().members.len(), 1);
    n1.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_missed_the_answer_asks_again_and_takes_no_second_place() {
    let n1 = Node::found("n1", LIFE).await;
    let token = n1.token(1, HOUR).await;
    let dir = TempDir::new().unwrap();
    let (_listener, rpc) = port().await;
    let me = || applicant("n2", &rpc, &IdentityFiles::in_data_dir(dir.path()));
    let mut ids = Vec::new();
    for _ in 0..3 {
        match join(&token, &n1.rpc, &me()).await.unwrap() {
            Answer::Admitted(admitted) => ids.push(admitted.node_id),
            other => panic!("{}", told(&other)),
        }
    }
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert_eq!(n1.consensus.status().members.len(), 2);
    let (code, why) = refused(&token, &n1, &stranger("n3", &TempDir::new().unwrap())).await;
    assert_eq!(code, RefusalCode::Spent, "{why}");
    n1.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_guesses_get_nowhere_and_disturb_nobody() {
    let n1 = Node::found("n1", LIFE).await;
    let good = n1.token(1, HOUR).await;
    let n2 = n1.admit("n2", &n1.token(1, HOUR).await, LIFE).await;
    wait_for("n2 votes", || n1.voters() == 2).await;
    let term = n1.consensus.status().term;
    let mut refusals = std::collections::HashMap::new();
    let mut guesses = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let (rpc, guess) = (n1.rpc.clone(), guessed(&good));
        guesses.spawn(async move {
            let dir = TempDir::new().unwrap();
            match ask(&guess, &rpc, &stranger(&format!("g{n}"), &dir)).await {
                Ok(Answer::Refused { code, .. }) => Some(code),
                Ok(other) => panic!("{}", told(&other)),
                // The port takes few strangers at a time; the others are not even heard.
                Err(_) => None,
            }
        });
        // As many a second as the machine gives, sixteen at a time.
        if guesses.len() >= 16 {
            *refusals.entry(guesses.join_next().await.unwrap().unwrap()).or_insert(0) += 1;
        }
        if n % 100 == 0 {
            assert!(writes(&n2, b"meanwhile").await);
        }
    }
    while let Some(code) = guesses.join_next().await {
        *refusals.entry(code.unwrap()).or_insert(0) += 1;
    }
    assert!(refusals[&Some(RefusalCode::Token)] <= 30, "{refusals:?}");
    assert!(refusals[&None] >= 900, "who was wrong too often is not heard: {refusals:?}");
    let text = n1.metrics.encode();
    assert!(text.contains("result=\"too_many\"") && text.contains("result=\"bad_proof\""), "{text}");
    assert_eq!((n1.consensus.status().term, n1.consensus.status().members.len()), (term, 2));
    let rows = audited(&n1).len();
    assert!(rows < 200, "{rows} rows of the audit for a thousand guesses");
    n2.end().await;
    n1.end().await;
}

/// The envelope's answer of a node that is in no cluster.
fn newcomers_word(token: Option<&Token>, exporter: &[u8; 32], request: &[u8]) -> (EnrolAnswer, bool) {
    let bytes = answer_as_newcomer(token, &promise(), exporter, request);
    let envelope = Envelope::decode(&bytes).unwrap();
    let bound = Bound { exporter, request: envelope.body };
    let proven = token.zip(envelope.proof).is_some_and(|(token, proof)| {
        token::verify_proof(&token::public_key(token), Signer::Answerer, bound, &proof).is_ok()
    });
    (EnrolAnswer::decode(envelope.body).unwrap(), proven)
}

#[test]
fn nodes_without_a_cluster_promise_only_to_whom_holds_the_same_token_and_prove_that_they_do() {
    let (ours, theirs) = (made_up(Purpose::Bootstrap { nodes: 3 }), made_up(Purpose::Bootstrap { nodes: 3 }));
    let exporter = [1; 32];
    let request = |token: &Token, exporter: &[u8; 32]| {
        let request = EnrolRequest {
            token: token.id().bytes(),
            name: "n2".to_owned(),
            rpc: "127.0.0.1:1".to_owned(),
            http: String::new(),
            former: true,
            csr: Vec::new(),
            understands: Understands::OWN,
        };
        let body = request.encode();
        let proof = token::prove(token, Signer::Asker, Bound { exporter, request: &body });
        Envelope { body: &body, proof: Some(proof) }.encode()
    };
    let good = request(&ours, &exporter);
    assert_eq!(newcomers_word(Some(&ours), &exporter, &good), (EnrolAnswer::NotMember { promised: true }, true));
    let strangers = [
        (Some(&ours), request(&theirs, &exporter)),
        (Some(&ours), request(&ours, &[2; 32])),
        (None, good),
        (Some(&ours), b"nonsense".to_vec()),
    ];
    for (token, request) in strangers {
        let (answer, proven) = newcomers_word(token, &exporter, &request);
        assert!(matches!(answer, EnrolAnswer::Refused { .. }) && !proven, "{answer:?}");
    }
}
