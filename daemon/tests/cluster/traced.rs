//! Traces over several nodes, received by a real HTTP server and read with OpenTelemetry's own types.

use crate::support::node::{own_program, tail};
use crate::support::{Cluster, Node, Options, wait_until};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What a collector has received.
#[derive(Default)]
struct Received {
    /// With the name of the node.
    spans: Mutex<Vec<(String, Span)>>,
    /// The bytes themselves.
    bodies: Mutex<Vec<u8>>,
    stop: AtomicBool,
}

/// Takes OTLP over HTTP.
struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(address: &str) -> Collector {
        let listener = TcpListener::bind(address).unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::new(Received::default()));
        let shared = Arc::clone(&received);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                serve(stream.unwrap(), &shared);
            }
        });
        Collector { address, received, thread: Some(thread) }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn spans(&self) -> Vec<(String, Span)> {
        self.received.spans.lock().unwrap().clone()
    }

    /// Whether these bytes were sent, anywhere.
    fn saw(&self, bytes: &[u8]) -> bool {
        self.received.bodies.lock().unwrap().windows(bytes.len()).any(|window| window == bytes)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.received.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(stream: TcpStream, received: &Received) {
    let mut from = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).unwrap() == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    from.read_exact(&mut body).unwrap();
    received.bodies.lock().unwrap().extend_from_slice(&body);
    for of_node in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
        let attributes = of_node.resource.unwrap().attributes;
        let node = attributes.iter().find(|pair| pair.key == "service.instance.id").unwrap();
        let Some(Value::StringValue(node)) = node.value.clone().unwrap().value else { panic!("{node:?}") };
        let spans = of_node.scope_spans.into_iter().flat_map(|scope| scope.spans);
        received.spans.lock().unwrap().extend(spans.map(|span| (node.clone(), span)));
    }
    let answer = ExportTraceServiceResponse { partial_success: None }.encode_to_vec();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n", answer.len());
    from.get_mut().write_all(&[head.as_bytes(), &answer].concat()).unwrap();
}

fn configure(node: &Node, endpoint: &str, ratio: &str) {
    let mut file = OpenOptions::new().append(true).open(&node.config).unwrap();
    writeln!(file, "\n[telemetry]\notlp_endpoint = \"{endpoint}\"\notlp_sample_ratio = {ratio}").unwrap();
}

fn text(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|pair| pair.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

fn warnings(node: &Node) -> usize {
    node.log_text().matches("the collector takes no traces").count()
}

#[test]
fn a_write_on_a_follower_is_one_trace_over_two_nodes_and_says_nothing_of_the_key_or_the_value() {
    let collector = Collector::start("127.0.0.1:0");
    let cluster = Cluster::prepare(Options { nodes: 3, ..Options::default() });
    for node in &cluster.nodes {
        configure(node, &collector.endpoint(), "0.0");
        node.start();
    }
    cluster.wait_healthy();
    let (leader, follower) = (&cluster.nodes[cluster.leader()], &cluster.nodes[cluster.followers()[0]]);
    let mut client = follower.client();
    let (write, read) = ([0x11; 16], [0x22; 16]);
    let header = |trace: [u8; 16], flags: &str| {
        let digits: String = trace.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("traceparent: 00-{digits}-00f067aa0ba902b7-{flags}\r\n")
    };
    let put = |client: &mut crate::support::Http, more: &str| {
        let reply = client.request_with("PUT", "/v1/kv/hidden-key", more, b"hidden-value").unwrap();
        assert!(reply.is_true(), "{reply}");
    };
    // Sampled by nobody: by the share of 0, and by its own word.
    put(&mut client, "");
    put(&mut client, &header([0x33; 16], "00"));
    put(&mut client, &header(write, "01"));
    let reply = client.request_with("GET", "/v1/kv/hidden-key?consistent", &header(read, "01"), b"").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    assert!(reply.header("traceparent").is_none(), "the answer carries nothing new");

    let spans = wait_until("the spans of both requests", || {
        let spans = collector.spans();
        if spans.len() >= 7 { Ok(spans) } else { Err(format!("{} spans", spans.len())) }
    });
    let of = |trace: [u8; 16]| -> BTreeMap<String, &(String, Span)> {
        spans.iter().filter(|(_, span)| span.trace_id == trace).map(|both| (both.1.name.clone(), both)).collect()
    };
    let written = of(write);
    // (what, on which node, part of what)
    let expected = [
        ("PUT /v1/kv/{key}", follower, None),
        ("raft.forward", follower, Some("PUT /v1/kv/{key}")),
        ("peer.forward", leader, Some("raft.forward")),
        ("raft.propose", leader, Some("peer.forward")),
        ("raft.commit", leader, Some("raft.propose")),
        ("raft.apply", leader, Some("raft.propose")),
    ];
    assert_eq!(written.len(), expected.len(), "{:?}", written.keys());
    for (name, node, parent) in expected {
        let (found_on, span) = written[name];
        assert_eq!(*found_on, node.name, "{name}");
        let parent_id =
            parent.map_or(&[0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7][..], |name| &written[name].1.span_id);
        assert_eq!(span.parent_span_id, parent_id, "{name} is part of {parent:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano && span.start_time_unix_nano > 0, "{span:?}");
    }
    let request = &written["PUT /v1/kv/{key}"].1;
    assert_eq!(text(request, "http.route").as_deref(), Some("/v1/kv/{key}"));
    assert_eq!(text(request, "http.request.method").as_deref(), Some("PUT"));
    assert_eq!(text(request, "http.response.status_code").as_deref(), Some("200"));
    assert!(text(&written["raft.propose"].1, "konsul.index").is_some());
    let got = of(read);
    assert_eq!(text(&got["GET /v1/kv/{key}"].1, "konsul.consistency").as_deref(), Some("strong"));

    // What was on its way is sent before a node ends.
    cluster.nodes.iter().for_each(Node::terminate);
    let traces: Vec<Vec<u8>> = collector.spans().into_iter().map(|(_, span)| span.trace_id).collect();
    assert!(
        traces.iter().all(|trace| *trace == write || *trace == read),
        "a request that is not sampled sends nothing"
    );
    for hidden in ["hidden", "33333333", "consistent"] {
        assert!(!collector.saw(hidden.as_bytes()), "{hidden} was sent");
    }
}

#[test]
#[ignore = "needs PREVIOUS_KONSULD, the konsuld of the version before; scripts/test upgrade builds it"]
fn a_leader_that_knows_nothing_of_traces_is_asked_as_before() {
    let before = PathBuf::from(std::env::var_os("PREVIOUS_KONSULD").expect("PREVIOUS_KONSULD names a program"));
    let collector = Collector::start("127.0.0.1:0");
    let cluster = Cluster::prepare(Options { nodes: 3, ..Options::default() });
    for node in &cluster.nodes {
        node.install(&before);
        node.start();
    }
    cluster.wait_healthy();
    let follower = &cluster.nodes[cluster.followers()[0]];
    follower.terminate();
    configure(follower, &collector.endpoint(), "1.0");
    follower.install(&own_program());
    follower.start();
    cluster.wait_healthy();
    for n in 0..10 {
        assert!(follower.client().put(&format!("k/{n}"), "", b"v").unwrap().is_true(), "{n}");
    }
    wait_until("a span of each write, and of its way to the leader", || {
        let spans = collector.spans();
        let count = |name| spans.iter().filter(|(_, span)| span.name == name).count();
        let seen = (count("PUT /v1/kv/{key}"), count("raft.forward"));
        if seen == (10, 10) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert!(
        collector
            .spans()
            .iter()
            .all(|(node, span)| *node == follower.name && span.status.as_ref().is_none_or(|s| s.code == 0))
    );
    assert!(!follower.log_text().contains("does not understand"), "{}", tail(&follower.log_text(), 20));
}

#[test]
fn a_collector_that_is_down_costs_its_spans_and_one_warning() {
    // An address where nobody listens, and where somebody will.
    let address = Collector::start("127.0.0.1:0").address;
    let cluster = Cluster::prepare(Options { nodes: 1, ..Options::default() });
    let node = &cluster.nodes[0];
    configure(node, &format!("http://{address}"), "1.0");
    node.start();
    cluster.wait_healthy();
    wait_until("spans of two batches, dropped", || {
        assert!(node.client().put("k", "", b"v").unwrap().is_true());
        let dropped = node.metric("konsul_otlp_spans_dropped_total", "")?;
        if warnings(node) == 1 && dropped > 20.0 { Ok(()) } else { Err(format!("{dropped} dropped")) }
    });
    assert_eq!(node.metric("konsul_otlp_spans_sent_total", ""), Ok(0.0));
    let collector = Collector::start(&address.to_string());
    wait_until("a span", || {
        assert!(node.client().put("k", "", b"v").unwrap().is_true());
        let sent = node.metric("konsul_otlp_spans_sent_total", "")?;
        if sent > 0.0 && !collector.spans().is_empty() { Ok(()) } else { Err(format!("{sent} sent")) }
    });
    assert_eq!(warnings(node), 1, "{}", tail(&node.log_text(), 20));
    assert!(node.log_text().contains("the collector takes traces again"));
}

#[test]
fn without_an_endpoint_nothing_is_traced_whatever_a_client_asks_for() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let more = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let reply = node.client().request_with("PUT", "/v1/kv/k", more, b"v").unwrap();
    assert!(reply.is_true(), "{reply}");
    for name in ["konsul_otlp_spans_sent_total", "konsul_otlp_spans_dropped_total"] {
        assert_eq!(node.metric(name, ""), Ok(0.0));
    }
}
