//! Clients that ask too much or too slowly are turned away, and others do not notice.

use crate::support::{Cluster, Node, Options, wait_until};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A connection from this address of the machine, with a buffer for few answers.
fn from(source: &str, node: &Node) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 8192).unwrap();
    bind(&socket, &SocketAddr::new(source.parse::<IpAddr>().unwrap(), 0)).unwrap();
    connect(&socket, &node.http).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the node hangs up; `None`: it hung up without a word.
fn rest(mut stream: TcpStream) -> Option<String> {
    let mut answer = Vec::new();
    // Cut off with a reset, there is what came before.
    let _end = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
}

/// The answers to requests sent one after the other over one connection.
fn ask(source: &str, node: &Node, times: usize) -> Vec<String> {
    let mut stream = from(source, node);
    let request = "GET /v1/kv/absent?stale HTTP/1.1\r\nHost: n\r\n\r\n".repeat(times - 1);
    let last = "GET /v1/kv/absent?stale HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{request}{last}").as_bytes()).unwrap();
    let all = rest(stream).unwrap();
    let answers: Vec<String> = all.split("HTTP/1.1 ").skip(1).map(str::to_owned).collect();
    assert_eq!(answers.len(), times, "{all}");
    answers
}

fn refused(node: &Node, reason: &str) -> f64 {
    node.metric("konsul_http_refused_total", &format!("reason=\"{reason}\"")).unwrap()
}

fn wait_refused(node: &Node, reason: &str) {
    wait_until(&format!("somebody is refused for {reason}"), || {
        let count = refused(node, reason);
        if count > 0.0 { Ok(()) } else { Err(format!("{count}")) }
    });
}

fn one(http: &'static str) -> Cluster {
    Cluster::with(Options { nodes: 1, http, ..Options::default() })
}

#[test]
fn who_asks_too_often_is_told_to_wait_and_others_are_served() {
    // One request in 60 s of the test's time is nothing against the burst.
    let cluster = one("rate_per_client = 1\nrate_burst = 20\nrate_exempt = [\"127.0.0.1\", \"127.9.0.0/16\"]\n");
    let node = &cluster.nodes[0];
    let answers = ask("127.7.0.1", node, 60);
    let late = answers.iter().filter(|answer| answer.starts_with("429")).count();
    assert!((30..=40).contains(&late), "20 at once, and one more for each second: {late} of 60 refused");
    assert!(answers[..20].iter().all(|answer| answer.starts_with("404")), "{answers:?}");
    let last = answers[59].to_ascii_lowercase();
    assert!(last.starts_with("429") && last.contains("retry-after: ") && last.contains("`http.rate_exempt`"), "{last}");
    assert_eq!(refused(node, "rate"), f64::from(u32::try_from(late).unwrap()));
    assert!(ask("127.7.0.2", node, 20).iter().all(|answer| answer.starts_with("404")), "another address");
    assert!(ask("127.9.0.1", node, 60).iter().all(|answer| answer.starts_with("404")), "exempt");
    // Off, while the node runs.
    node.replace_in_config("rate_per_client = 1", "rate_per_client = 0");
    node.hang_up();
    node.wait_log(&["configuration reloaded", "http.rate_per_client"]);
    assert!(ask("127.7.0.1", node, 60).iter().all(|answer| answer.starts_with("404")));
}

#[test]
fn who_is_too_slow_is_cut_off_and_others_are_served() {
    let cluster = one("header_timeout = \"300ms\"\ntransfer_timeout = \"500ms\"\n");
    let node = &cluster.nodes[0];
    // A head that does not end.
    let mut stream = from("127.7.0.1", node);
    stream.write_all(b"GET /v1/kv/k HTTP/1.1\r\nHost: n\r\n").unwrap();
    assert_eq!(rest(stream), None);
    wait_refused(node, "slow_head");
    // A body that does not come.
    let mut stream = from("127.7.0.1", node);
    stream.write_all(b"PUT /v1/kv/k HTTP/1.1\r\nHost: n\r\nContent-Length: 100\r\n\r\nhalf").unwrap();
    let answer = rest(stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("`http.transfer_timeout`"), "{answer}");
    wait_refused(node, "slow_body");
    // An answer that nobody reads: more than the kernel takes for it.
    for key in 0..24 {
        let put = node.client().put(&format!("large/{key}"), "", &[b'v'; 500_000]).unwrap();
        assert!(put.is_true(), "{put}");
    }
    let mut stream = from("127.7.0.1", node);
    stream.write_all(b"GET /v1/kv/large/?recurse HTTP/1.1\r\nHost: n\r\n\r\n").unwrap();
    wait_refused(node, "slow_reader");
    let got = rest(stream).unwrap().len();
    assert!(got < 16_000_000, "{got} of 16 MB in base64 came");
    // Whoever reads gets all of it.
    let whole = node.client().get("/v1/kv/large/?recurse").unwrap();
    assert!(whole.status == 200 && whole.body.len() > 16_000_000, "{}", whole.body.len());
}

#[test]
fn heads_bodies_and_connections_are_limited() {
    let cluster = one("connections_per_client_max = 4\n");
    let node = &cluster.nodes[0];
    let mut stream = from("127.7.0.2", node);
    let long = "v".repeat(70 * 1024);
    stream.write_all(format!("GET /v1/kv/k HTTP/1.1\r\nHost: n\r\nX-Long: {long}\r\n\r\n").as_bytes()).unwrap();
    // Its answer may be lost, for it hangs up on what it does not read any more.
    let answer = rest(stream);
    assert!(answer.as_ref().is_none_or(|answer| answer.starts_with("HTTP/1.1 431")), "{answer:?}");
    let mut stream = from("127.7.0.2", node);
    stream.write_all(b"PUT /v1/kv/k HTTP/1.1\r\nHost: n\r\nContent-Length: 600000\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413", "refused by its length, before it comes");
    // One connection too many is closed without a word, the others stay.
    let mut there: Vec<TcpStream> = (0..4).map(|_| from("127.7.0.1", node)).collect();
    let mut serves = |stream: &mut TcpStream| {
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: n\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    };
    there.iter_mut().for_each(&mut serves);
    assert_eq!(rest(from("127.7.0.1", node)), None);
    assert_eq!(refused(node, "connections_per_client"), 1.0);
    drop(there);
    let mut again = from("127.7.0.3", node);
    serves(&mut again);
}
