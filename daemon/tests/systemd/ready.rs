//! What the service manager is told of start and stop.

use crate::launch::{Manager, Service, free_address};
use crate::support::{Http, certs, wait_until};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;

fn position(messages: &[String], what: &str) -> usize {
    messages.iter().position(|message| message.contains(what)).unwrap_or_else(|| panic!("no {what} in {messages:?}"))
}

#[test]
fn a_node_is_ready_when_it_serves_and_tells_what_it_is() {
    let manager = Manager::new();
    let address = free_address();
    let mut daemon = manager.start(Service { args: manager.alone(address), ..Service::default() });
    let messages = manager.messages_until(|message| message == "READY=1");
    let reply = Http::new(address).get("/health/ready").unwrap();
    assert_eq!(reply.status, 200, "whoever hears READY=1 is served: {reply}");
    position(&messages, "STATUS=leader, 1 of 1 voters answer, term ");
    daemon.signal(Signal::TERM);
    let messages = manager.messages_until(|message| message.contains("the storage is closed"));
    assert!(position(&messages, "STOPPING=1") < position(&messages, "STATUS=stopping: "), "{messages:?}");
    assert!(daemon.ended().success());
}

#[test]
fn a_voter_without_a_majority_is_not_ready_and_is_given_time() {
    let manager = Manager::new();
    let nodes: Vec<(String, SocketAddr, SocketAddr)> =
        (1..=3).map(|n| (format!("n{n}"), free_address(), free_address())).collect();
    let names: Vec<_> = nodes.iter().map(|(name, rpc, _)| (name.clone(), rpc.ip())).collect();
    certs::write(manager.dir.path(), &names);
    let peers: Vec<String> = (1..)
        .zip(&nodes)
        .map(|(id, (name, rpc, _))| format!("{{ id = {id}, name = \"{name}\", rpc = \"{rpc}\" }}"))
        .collect();
    let args = |at: usize| {
        let (name, rpc, http) = &nodes[at];
        let dir = manager.dir.path().display();
        let config = manager.path(&format!("{name}.toml"));
        let text = format!(
            "[node]\nname = \"{name}\"\n[storage]\ndata_dir = \"{dir}/{name}\"\nfree_reserve = \"16MiB\"\nballast = 0\n\
             log_prealloc = \"1MiB\"\n[peer]\nlisten = \"{rpc}\"\n[http]\nlisten = [\"{http}\"]\n[tls]\n\
             cert_file = \"{dir}/{name}.pem\"\nkey_file = \"{dir}/{name}.key\"\nca_file = \"{dir}/ca.pem\"\n\
             [cluster]\npeers = [{}]\n",
            peers.join(", ")
        );
        fs::write(&config, text).unwrap();
        vec!["--config".to_owned(), config.to_str().unwrap().to_owned()]
    };
    let first = |at| manager.start(Service { args: args(at), ..Service::default() });
    // The two others tell somebody else, or nobody.
    let quiet = |at| {
        let environment = vec![("NOTIFY_SOCKET", String::new())];
        manager.start(Service { args: args(at), environment, ..Service::default() })
    };
    let mut n1 = quiet(0);
    let mut n2 = quiet(1);
    let ready = |at: usize| {
        let reply = Http::new(nodes[at].2).get("/health/ready").map_err(|error| error.to_string())?;
        if reply.status == 200 { Ok(()) } else { Err(reply.to_string()) }
    };
    wait_until("two of three serve", || ready(0).and_then(|()| ready(1)));
    let mut n3 = first(2);
    let messages = manager.messages_until(|message| message == "READY=1");
    assert!(messages.iter().any(|message| message.starts_with("STATUS=")), "{messages:?}");
    wait_until("the third serves", || ready(2));

    // Alone, with everything it had: not ready, and alive.
    [&mut n1, &mut n2, &mut n3].into_iter().for_each(|node| node.kill());
    let mut n3 = first(2);
    let extended = |message: &str| message.starts_with("EXTEND_TIMEOUT_USEC=");
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.extend(manager.messages_until(extended));
    }
    assert!(!messages.contains(&"READY=1".to_owned()), "{messages:?}");
    let _n1 = quiet(0);
    let _n2 = quiet(1);
    let messages = manager.messages_until(|message| message == "READY=1");
    let status = messages.iter().rev().find(|message| message.starts_with("STATUS=")).cloned();
    let status = status.unwrap_or_else(|| messages.join(", "));
    let leads = status.starts_with("STATUS=leader, ");
    let follows = [" of n1, term ", " of n2, term "].iter().any(|of| status.contains(of));
    assert!(leads || follows, "{status}");
    n3.stop();
}

#[test]
fn a_node_that_waits_for_a_person_is_ready_and_says_for_what() {
    let manager = Manager::new();
    let mut args = manager.alone(free_address());
    let rpc = free_address().to_string();
    args.extend(["--set", "cluster.form=init", "--rpc", &rpc].map(str::to_owned));
    let mut daemon = manager.start(Service { args, ..Service::default() });
    let messages = manager.messages_until(|message| message == "READY=1");
    position(&messages, "STATUS=in no cluster yet: it waits for `konsulctl cluster init`");
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().success(), "{}", daemon.log_text());
}

#[test]
fn a_reload_is_announced_and_ended_whether_it_is_done_or_refused() {
    let manager = Manager::new();
    let config = manager.path("konsul.toml");
    fs::write(&config, "[http]\nvalue_bytes_max = \"64KiB\"\n").unwrap();
    let mut args = manager.alone(free_address());
    args.extend(["--config", config.to_str().unwrap()].map(str::to_owned));
    let mut daemon = manager.start(Service { args, ..Service::default() });
    manager.messages_until(|message| message == "READY=1");
    for (text, said) in [
        ("[http]\nvalue_bytes_max = \"128KiB\"\n", "configuration reloaded"),
        ("[http]\nvalue_bytes_max = \"a lot\"\n", "the configuration is not reloaded"),
    ] {
        fs::write(&config, text).unwrap();
        daemon.signal(Signal::HUP);
        let messages = manager.messages_until(|message| message.starts_with("RELOADING=1"));
        let since = messages.last().unwrap().lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(since.unwrap().parse::<u64>().unwrap() > 0, "since when, in the same message");
        manager.messages_until(|message| message == "READY=1");
        assert!(daemon.log_text().contains(said), "{}", daemon.log_text());
    }
    daemon.stop();
}
