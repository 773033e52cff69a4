//! Reads of keys are served without the HTTP library; whoever asks notices nothing but the speed.

use crate::calm_cluster;
use crate::client::{self, Address, Answer, Request};
use crate::support::{Node, wait_until};
use std::io::{BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing here takes so long.
const SILENCE_MAX: Duration = Duration::from_secs(60);

struct Connection {
    from: BufReader<TcpStream>,
}

impl Connection {
    fn to(node: SocketAddr) -> Connection {
        let stream = TcpStream::connect(node).unwrap();
        stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
        Connection { from: BufReader::new(stream) }
    }

    fn send(&mut self, text: &str) {
        self.from.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Answer {
        client::receive(&mut self.from, false).unwrap()
    }
}

fn get(path: &str) -> String {
    format!("GET /v1/kv/{path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn put(key: &str, value: &str) -> String {
    format!("PUT /v1/kv/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{value}", value.len())
}

fn wait_for_waiters(node: &Node, wanted: u32) {
    wait_until(&format!("{wanted} queries wait"), || {
        let waiting = node.metric("konsul_blocking_queries", "")?;
        if waiting == f64::from(wanted) { Ok(()) } else { Err(format!("{waiting} wait")) }
    });
}

/// What must be the same, whoever serves: all but the time, and whether the connection stays.
fn essence(answer: Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers = answer.headers;
    headers.retain(|(name, _)| !matches!(name.as_str(), "Date" | "Connection" | "X-Consul-Lastcontact"));
    headers.sort();
    (answer.status, headers, answer.body)
}

#[test]
fn reads_are_answered_alike_with_and_without_the_library() {
    let cluster = calm_cluster("");
    let node = &cluster.nodes[cluster.leader()];
    let large = "v".repeat(100_000);
    for (key, value) in [("same/a", "1"), ("same/b%20c", ""), ("same/large", large.as_str())] {
        assert!(node.client().put(key, "", value.as_bytes()).unwrap().is_true());
    }
    let gzip = vec![("Accept-Encoding".to_owned(), "gzip".to_owned())];
    let paths = [
        "same/a",
        "same/a?raw",
        "same/a?pretty",
        "same/b%20c",
        "same/large",
        "same/large?raw",
        "same/?recurse",
        "same/?keys",
        "same/none",
        "same/?recurse&index=1&wait=1ms",
        "same/a?index=x",
        "same/a?stale&consistent",
        "",
        "?keys",
        "same//a",
        "same/a?%zz",
        "same/%zz",
        "same/a?dc=elsewhere",
    ];
    for path in paths {
        for headers in [Vec::new(), gzip.clone()] {
            let ask = |close| {
                let (method, path) = ("GET".to_owned(), format!("/v1/kv/{path}"));
                client::send(Address(node.http), &Request { method, path, headers: headers.clone(), body: None, close })
            };
            let (direct, library) = (ask(false).unwrap(), ask(true).unwrap());
            assert!(direct.header("Date").is_some(), "{path}");
            assert_eq!(essence(direct), essence(library), "{path}");
        }
    }
}

#[test]
fn one_connection_reads_writes_and_reads_and_everything_is_answered_in_its_order() {
    let cluster = calm_cluster("");
    let mut connection = Connection::to(cluster.nodes[0].http);
    connection.send(&put("order/a", "0"));
    assert_eq!(connection.answer().body, b"true");
    // By a connection of its own from here on: one that has written stays with the library.
    let mut connection = Connection::to(cluster.nodes[0].http);
    let all = [get("order/a?raw"), get("order/none"), put("order/a", "1"), get("order/a?raw"), get("order/a?keys")];
    connection.send(&all.concat());
    let told: Vec<(u16, Vec<u8>)> = all.iter().map(|_| connection.answer()).map(|a| (a.status, a.body)).collect();
    let body = |text: &str| text.as_bytes().to_vec();
    assert_eq!(
        told,
        [(200, body("0")), (404, body("")), (200, body("true")), (200, body("1")), (200, body("[\"order/a\"]"))]
    );
}

#[test]
fn what_is_asked_while_a_query_waits_is_answered_after_it() {
    let cluster = calm_cluster("");
    let node = &cluster.nodes[cluster.leader()];
    assert!(node.client().put("ahead/a", "", b"0").unwrap().is_true());
    let mut connection = Connection::to(node.http);
    connection.send(&get("ahead/a"));
    let index = connection.answer().header("X-Consul-Index").unwrap().to_owned();
    connection.send(&get(&format!("ahead/a?raw&index={index}&wait=60s")));
    wait_for_waiters(node, 1);
    connection.send(&[get("ahead/a?keys"), put("ahead/b", "2")].concat());
    assert!(node.client().put("ahead/a", "", b"1").unwrap().is_true());
    assert_eq!(connection.answer().body, b"1");
    assert_eq!(connection.answer().body, b"[\"ahead/a\"]");
    assert_eq!(connection.answer().body, b"true");
}

#[test]
fn who_hangs_up_while_a_query_waits_takes_no_place() {
    let cluster = calm_cluster("");
    let node = &cluster.nodes[0];
    assert!(node.client().put("gone/a", "", b"0").unwrap().is_true());
    let mut waiting: Vec<Connection> = (0..50).map(|_| Connection::to(node.http)).collect();
    for connection in &mut waiting {
        connection.send(&get("gone/a?index=1000000000&wait=10m"));
    }
    wait_for_waiters(node, 50);
    for connection in &waiting[..25] {
        connection.from.get_ref().shutdown(Shutdown::Both).unwrap();
    }
    wait_for_waiters(node, 25);
    drop(waiting);
    wait_for_waiters(node, 0);
}
