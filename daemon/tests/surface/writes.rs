//! The canary: every writing route of the table on nodes that do not lead, and every other route left alone.

use crate::calm_cluster;
use crate::client::{self, Address, Answer, Request};
use crate::support::{Cluster, Node, wait_until};
use konsul_api::cluster::{ClusterStatus, DigestAnswer, Role};
use konsuld::http::{Method, ROUTES, Route, Writes};
use std::net::SocketAddr;

/// What a node that does not lead does with a write that asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usual {
    Forward,
    Redirect,
    Reject,
}

/// How the client says that it wants to be redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Not,
    ByHeader,
    ByQuery,
}

const WRITING_TXN: &str = r#"[{"KV":{"Verb":"set","Key":"canary/txn","Value":"dg=="}}]"#;
const READING_TXN: &str = r#"[{"KV":{"Verb":"get","Key":"canary/kept"}}]"#;
const BATCH: &str = r#"{"ops":[{"op":"set","key":"canary/batch","value":"dg=="}]}"#;

fn send(node: SocketAddr, request: &Request) -> Answer {
    client::send(Address(node), request).unwrap_or_else(|e| panic!("{} {}: {e}", request.method, request.path))
}

fn status(node: SocketAddr) -> ClusterStatus {
    serde_json::from_slice(&client::get(Address(node), "/v1/cluster/status").unwrap().body).unwrap()
}

fn digest(node: &Node) -> String {
    let answer: DigestAnswer = node.get("/v1/cluster/digest").unwrap().json();
    answer.digest
}

/// Everything, to be put back.
struct Kept {
    snapshot: Vec<u8>,
    archive: Vec<u8>,
}

/// A request that the route does something with. A new writing route stops here until this test knows it.
fn request(route: &Route, asked: Asked, kept: &Kept, leader: &str) -> Request {
    let mut path = route.template().replace("{key}", "canary/key").replace("{id}", "canarytk");
    let body = match (route.method, route.template()) {
        (Method::Get | Method::Delete, _) | (Method::Put | Method::Post, "/v1/cluster/snapshot") => None,
        (Method::Post, "/v1/cluster/join-token" | "/v1/cluster/ca/rotate") => None,
        (Method::Post, "/v1/cluster/compare" | "/v1/cluster/upgrade") => None,
        // Refused by a member, whatever they say.
        (Method::Post, "/v1/cluster/init" | "/v1/cluster/join") => None,
        (Method::Post, "/v1/cluster/restart-turn") => None,
        // To nobody: nobody is missing afterwards.
        (Method::Post, "/v1/operator/raft/transfer-leader") => {
            path += "?id=nobody";
            None
        }
        (Method::Post, "/v1/cluster/leave" | "/v1/cluster/remove" | "/v1/cluster/promote" | "/v1/cluster/demote") => {
            Some(br#"{"node":"nobody"}"#.to_vec())
        }
        (Method::Put, "/v1/operator/autopilot/configuration") => Some(br#"{"MaxTrailingLogs":251}"#.to_vec()),
        (Method::Put, "/v1/kv/{key}") => Some(b"value".to_vec()),
        (Method::Put, "/v1/txn") => Some(WRITING_TXN.into()),
        (Method::Put | Method::Post, "/v1/batch") => Some(BATCH.into()),
        (Method::Put, "/v1/snapshot") => Some(kept.snapshot.clone()),
        (Method::Put, "/v1/cluster/backup") => Some(br#"{"kind":"saved","index":7,"bytes":9}"#.to_vec()),
        (Method::Put, "/v1/cluster/archive") => Some(kept.archive.clone()),
        // To itself: nothing moves while routes are compared.
        (Method::Put | Method::Post, "/v1/cluster/transfer-leadership") => {
            Some(format!("{{\"to\":\"{leader}\"}}").into())
        }
        (method, path) => panic!("no body is known for {} {path}", method.name()),
    };
    asking(Request { method: route.method.name().to_owned(), path, headers: Vec::new(), body, close: false }, asked)
}

fn asking(mut request: Request, asked: Asked) -> Request {
    match asked {
        Asked::Not => {}
        Asked::ByHeader => request.headers.push(("X-Leader-Redirect".to_owned(), "1".to_owned())),
        Asked::ByQuery => {
            let separator = if request.path.contains('?') { '&' } else { '?' };
            request.path += &format!("{separator}leader_redirect=1");
        }
    }
    request
}

fn was_sent_elsewhere(answer: &Answer) -> bool {
    answer.status == 307 || answer.header("X-Leader").is_some() || answer.header("X-Leader-URL").is_some()
}

/// Both headers name this leader, and a leader is what answers there.
fn check_pointers(answer: &Answer, leader: &Node, what: &str) {
    let url = format!("http://{}", leader.http);
    assert_eq!(answer.header("X-Leader"), Some(leader.name.as_str()), "{what}");
    assert_eq!(answer.header("X-Leader-URL"), Some(url.as_str()), "{what}");
    let there = status(answer.header("X-Leader-URL").unwrap().strip_prefix("http://").unwrap().parse().unwrap());
    assert_eq!((there.node.name.as_str(), there.node.role), (leader.name.as_str(), Role::Leader), "{what}");
}

fn check_redirect(answer: &Answer, request: &Request, leader: &Node, what: &str) {
    assert_eq!(answer.status, 307, "{what}");
    check_pointers(answer, leader, what);
    let location = format!("http://{}{}", leader.http, request.path);
    assert_eq!(answer.header("Location"), Some(location.as_str()), "{what}");
    assert!(answer.body.is_empty(), "{what}");
}

fn check_refusal(answer: &Answer, leader: &Node, what: &str) {
    assert_eq!(answer.status, 409, "{what}");
    check_pointers(answer, leader, what);
    assert_eq!(answer.header("Location"), None, "{what}");
    assert!(String::from_utf8_lossy(&answer.body).contains(&leader.name), "{what}: the text names the leader");
}

/// The status of a route that was not sent elsewhere. These clusters have certificates from files, so there is no
/// authority whose nodes could join with a token, and no token that could be revoked.
fn status_done(route: &Route) -> u16 {
    match (route.method, route.template()) {
        (Method::Post, "/v1/cluster/join-token" | "/v1/cluster/ca/rotate") => 409,
        (Method::Delete, "/v1/cluster/join-token/{id}") => 404,
        _ => 200,
    }
}

fn check_done(answer: &Answer, status: u16, what: &str) {
    let body = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{what}: {body}");
    assert!(!was_sent_elsewhere(answer), "{what}");
    // A restore also tells that it was no rehearsal.
    assert!(!body.replace("\"dry_run\":false", "").contains("false"), "{what}: {body}");
}

/// One writing route on one node that does not lead.
fn check_write(route: &Route, node: &Node, leader: &Node, usual: Usual, kept: &Kept) {
    for asked in [Asked::Not, Asked::ByHeader, Asked::ByQuery] {
        let request = request(route, asked, kept, &leader.name);
        let what = format!("{} {} at {} ({usual:?}, {asked:?})", request.method, request.path, node.name);
        let before = digest(leader);
        let answer = send(node.http, &request);
        match (asked, usual) {
            (Asked::Not, Usual::Forward) => check_done(&answer, status_done(route), &what),
            (Asked::Not, Usual::Reject) => check_refusal(&answer, leader, &what),
            (Asked::Not, Usual::Redirect) | (Asked::ByHeader | Asked::ByQuery, _) => {
                check_redirect(&answer, &request, leader, &what);
            }
        }
        if was_sent_elsewhere(&answer) {
            assert_eq!(digest(leader), before, "{what}: it was done although the client was sent away");
            // The leader takes it, though the client still asks to be redirected.
            check_done(&send(leader.http, &request), status_done(route), &what);
        }
    }
}

/// Whatever is no write is answered where it arrived, whatever is asked.
fn check_rest(node: &Node, leader: &Node) {
    let nothing = Kept { snapshot: Vec::new(), archive: Vec::new() };
    for route in ROUTES.iter().filter(|route| route.writes == Writes::No) {
        for asked in [Asked::Not, Asked::ByHeader, Asked::ByQuery] {
            let request = request(route, asked, &nothing, &leader.name);
            let answer = send(node.http, &request);
            let what = format!("{} {} at {} ({asked:?})", request.method, request.path, node.name);
            assert!(!was_sent_elsewhere(&answer), "{what}: {} {:?}", answer.status, answer.header("Location"));
            let expected: &[u16] = match route.template() {
                "/v1/cluster/transfer-leadership" => &[200, 409],
                // It may be another node's turn.
                "/v1/cluster/restart-turn" => &[200, 409],
                "/v1/kv/{key}" => &[200, 404],
                // It is in a cluster already.
                "/v1/cluster/init" | "/v1/cluster/join" => &[409],
                // It has no authority of its own.
                "/v1/cluster/ca" => &[409],
                // Nobody is asked for, so that nothing changes.
                "/v1/cluster/leave" | "/v1/cluster/remove" | "/v1/cluster/promote" | "/v1/cluster/demote" => &[404],
                "/v1/operator/raft/peer" => &[400],
                "/v1/operator/raft/transfer-leader" => &[500],
                _ => &[200],
            };
            assert!(expected.contains(&answer.status), "{what}: {}", answer.status);
        }
    }
    for asked in [Asked::Not, Asked::ByHeader, Asked::ByQuery] {
        let (method, path) = ("PUT".to_owned(), "/v1/txn".to_owned());
        let request = Request { method, path, headers: Vec::new(), body: Some(READING_TXN.into()), close: false };
        check_done(&send(node.http, &asking(request, asked)), 200, "a transaction that only reads");
    }
}

fn check_all(cluster: &Cluster, usual: Usual) {
    let leader = &cluster.nodes[cluster.leader()];
    assert!(leader.client().put("canary/kept", "", b"kept").unwrap().is_true());
    let body = |path| leader.client().get(path).unwrap().body;
    let kept = Kept { snapshot: body("/v1/snapshot"), archive: body("/v1/cluster/archive") };
    let writing: Vec<&Route> = ROUTES.iter().filter(|route| route.writes != Writes::No).collect();
    assert!(writing.len() >= 6, "{} routes write", writing.len());
    for at in cluster.followers() {
        let node = &cluster.nodes[at];
        writing.iter().for_each(|route| check_write(route, node, leader, usual, &kept));
        check_rest(node, leader);
    }
    for route in writing {
        for asked in [Asked::Not, Asked::ByHeader, Asked::ByQuery] {
            let request = request(route, asked, &kept, &leader.name);
            let what = format!("{} {} at the leader", request.method, request.path);
            check_done(&send(leader.http, &request), status_done(route), &what);
        }
    }
}

/// With the first leader and with the next.
fn check(http: &'static str, usual: Usual) {
    let cluster = calm_cluster(http);
    let first = cluster.leader();
    check_all(&cluster, usual);
    let next = &cluster.nodes[cluster.followers()[0]].name;
    let body = format!("{{\"to\":\"{next}\"}}");
    let moved =
        cluster.nodes[first].client().request("PUT", "/v1/cluster/transfer-leadership", body.as_bytes()).unwrap();
    assert_eq!(moved.status, 200, "{moved}");
    wait_until("every node follows the next leader", || {
        let leader = &cluster.nodes[cluster.leader()].name;
        if leader == next { Ok(()) } else { Err(format!("{leader} leads")) }
    });
    check_all(&cluster, usual);
    cluster.assert_digests_equal();
}

#[test]
fn a_write_on_a_follower_is_done_unless_the_client_asks_for_the_leader() {
    check("", Usual::Forward);
}

#[test]
fn a_write_on_a_follower_is_redirected_where_the_configuration_says_so() {
    check("non_leader_writes = \"redirect\"", Usual::Redirect);
}

#[test]
fn a_write_on_a_follower_is_refused_where_the_configuration_says_so() {
    check("non_leader_writes = \"reject\"", Usual::Reject);
}
