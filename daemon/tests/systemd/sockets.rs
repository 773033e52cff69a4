//! Sockets that are passed.

use crate::launch::{Manager, Service, free_address, listener, status};
use crate::support::Http;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn sockets_are_known_by_name_whatever_their_order_and_replace_the_configured_addresses() {
    let manager = Manager::new();
    let ((first, a), (second, b), (rpc, _)) = (listener(), listener(), listener());
    let configured = free_address();
    let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sockets = vec![("dns", dns.into()), ("http", first.into()), ("rpc", rpc.into()), ("http", second.into())];
    let mut daemon = manager.start(Service { args: manager.alone(configured), sockets, ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    for address in [a, b] {
        let status = status(address);
        let listening: Vec<(&str, String, &str)> = status
            .node
            .listening
            .iter()
            .map(|l| (l.name.as_str(), l.address.clone(), l.held_by.as_str()))
            .filter(|(name, ..)| *name == "http")
            .collect();
        let held = "service manager";
        assert_eq!(listening, [("http", a.to_string(), held), ("http", b.to_string(), held)]);
    }
    assert!(TcpStream::connect(configured).is_err(), "the configured address is not bound");
    let log = daemon.log_text();
    assert!(log.contains("DNS is not served") && log.contains("the units decide"), "{log}");
    daemon.stop();
}

#[test]
fn without_passed_sockets_it_binds_its_own() {
    let manager = Manager::new();
    let configured = free_address();
    let mut daemon = manager.start(Service { args: manager.alone(configured), ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    let listening = status(configured).node.listening;
    assert!(listening.iter().any(|l| l.name == "http" && l.held_by == "konsuld"), "{listening:?}");
    daemon.stop();
}

#[test]
fn a_socket_with_an_unknown_name_or_of_the_wrong_kind_ends_the_start_with_a_reason() {
    let manager = Manager::new();
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    for (name, socket, reason) in [
        ("konsul-http.socket", listener().0.into(), "set FileDescriptorName= in its unit"),
        ("http", udp(), "is a UDP socket, it has to be a listening TCP socket"),
    ] {
        let args = manager.alone(free_address());
        let mut daemon = manager.start(Service { args, sockets: vec![(name, socket)], ..Service::default() });
        assert_eq!(daemon.ended().code(), Some(1));
        assert!(daemon.log_text().contains(reason), "{}", daemon.log_text());
    }
}

/// One request on a connection of its own; what it was told.
fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("nothing is refused");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("nothing is reset");
    reply
}

/// What systemd promises is kept: the socket stays open, so whoever connects meanwhile waits. And so is what the node
/// owes: it answers when it is a member again, reads and writes alike.
#[test]
fn a_restart_fails_no_request() {
    let manager = Manager::new();
    let (held, address) = listener();
    let start = || {
        let sockets = vec![("http", held.try_clone().unwrap().into())];
        let daemon = manager.start(Service { args: manager.alone(address), sockets, ..Service::default() });
        manager.messages_until(|message| message == "READY=1");
        daemon
    };
    let mut daemon = start();
    assert!(Http::new(address).put("b", "", b"1").unwrap().is_true());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = |request: &'static str| {
            let over = &over;
            move || {
                let mut answered = 0;
                while !over.load(Ordering::Relaxed) {
                    let reply = ask(address, &format!("{request}Host: a\r\nConnection: close\r\n\r\n"));
                    assert!(reply.starts_with("HTTP/1.1 200"), "{request:?}: {reply:?}");
                    answered += 1;
                }
                answered
            }
        };
        let requests = [
            "GET /health/live HTTP/1.1\r\n",
            "PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 0\r\n",
            "GET /v1/kv/b HTTP/1.1\r\n",
            "GET /v1/kv/b?consistent HTTP/1.1\r\n",
            "GET /v1/kv/b?stale HTTP/1.1\r\n",
        ];
        let clients: Vec<_> = requests.into_iter().map(|request| scope.spawn(client(request))).collect();
        for _ in 0..3 {
            daemon.stop();
            daemon = start();
        }
        over.store(true, Ordering::Relaxed);
        let answered: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        println!("{answered} requests over three restarts");
        assert!(answered > 3);
    });
    let reply = Http::new(address).get("/health/ready").unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    daemon.stop();
}
