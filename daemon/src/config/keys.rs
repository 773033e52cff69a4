//! Every configuration key: its kind, its default, its manual text. The one table that the file, the environment, the
//! flags, the default configuration and the checks of single values are derived from.

use super::hint::did_you_mean;
use super::value::Kind;
use std::fmt::Write;

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// `section.key`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Preset,
    /// Manual text; a line each.
    pub(super) doc: &'static [&'static str],
    /// Whether it can change while the node runs.
    pub(super) live: bool,
}

/// What holds when nobody sets the key; written as in the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Preset {
    /// This value.
    Is(&'static str),
    /// Nothing, or something derived from other keys (the manual text tells); with an example.
    None { example: &'static str },
}

impl Key {
    pub(super) fn section(&self) -> &'static str {
        self.path.split_once('.').expect("each path in the table has two parts").0
    }

    pub(super) fn name(&self) -> &'static str {
        self.path.split_once('.').expect("each path in the table has two parts").1
    }

    /// `KONSUL_<SECTION>_<KEY>`.
    pub(super) fn variable(&self) -> String {
        format!("KONSUL_{}", self.path.replace('.', "_").to_ascii_uppercase())
    }
}

/// Sections in the order of the default configuration, with a line about each.
pub(super) const SECTIONS: [(&str, &str); 10] = [
    ("node", "Who this node is."),
    ("storage", "Where its data is."),
    ("raft", "How the cluster agrees."),
    ("peer", "Where the other nodes reach this one."),
    ("tls", "Who may speak between nodes. Needed as soon as there are peers."),
    ("cluster", "The other nodes."),
    ("discovery", "Where to look for nodes to join. What is found is asked, not trusted."),
    ("http", "Where clients reach this node, and how much they may ask."),
    ("log", "What is logged, and where."),
    ("telemetry", "Traces: where a request spends its time, over several nodes."),
];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

const fn key(path: &'static str, kind: Kind, default: Preset, doc: &'static [&'static str]) -> Key {
    Key { path, kind, default, doc, live: false }
}

/// A key that can change while the node runs.
const fn live(key: Key) -> Key {
    Key { live: true, ..key }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn millis(min: u64, max: u64) -> Kind {
    Kind::Duration { min_ms: min, max_ms: max }
}

/// All keys, by section.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("node.name", Kind::Name, Preset::None { example: "\"n1\"" },
        &["What people call the node; unique in the cluster. Default: the host name."]),
    key("node.id", count(1, u64::MAX >> 1), Preset::None { example: "1" },
        &["The node id it wishes for when it joins, and its place in the order of forming: of the static peers, the",
          "lowest id forms the cluster. An id is used once: a node that lost its data comes back under another one."]),

    key("storage.data_dir", Kind::Path, Preset::Is("\"/var/lib/konsul\""),
        &["The log, the snapshots and the identity of the node. Must survive a power cut."]),
    key("storage.state_dir", Kind::Path, Preset::None { example: "\"/run/konsul/state\"" },
        &["The state: rebuilt from snapshot and log after a machine stop, so it may be on tmpfs, which spares the disk.",
          "Default: `state` in the data directory."]),
    key("storage.map_size", bytes(64 * MIB, 16 * TIB), Preset::Is("\"64GiB\""),
        &["Limit of the state's size; address space, not memory or disk. A multiple of 4096 bytes."]),
    key("storage.free_reserve", bytes(16 * MIB, TIB), Preset::Is("\"256MiB\""),
        &["With less than this free on the disk the node takes no more writes."]),
    key("storage.ballast", bytes(0, 16 * GIB), Preset::Is("\"64MiB\""),
        &["A file that is given up when the disk is full, so that purging the log can still write."]),
    key("storage.log_prealloc", bytes(0, 16 * GIB), Preset::Is("\"64MiB\""),
        &["Log space written ahead when the node is first started: overwriting flushes faster than appending."]),
    key("storage.log_prealloc_step", bytes(MIB, GIB), Preset::Is("\"16MiB\""),
        &["Log space written ahead at a time when that is used up."]),

    key("raft.timing", Kind::Timing, Preset::Is("\"lan\""),
        &["\"lan\": heartbeat every 75 ms, election after 250 to 350 ms. \"wan\": five times that.",
          "Or { heartbeat_ms = 75, election_ms_min = 250, election_ms_max = 350 }. The same on all nodes."]),
    key("raft.snapshot_entries", count(10, 100_000_000), Preset::Is("50_000"),
        &["A snapshot is built after this many log entries."]),
    key("raft.keep_entries", count(0, 1_000_000_000), Preset::Is("100_000"),
        &["Log entries kept behind a snapshot, so that a node that was away needs no snapshot."]),
    key("raft.payload_entries", count(1, 65_536), Preset::Is("512"),
        &["Most log entries in one message to a peer."]),
    key("raft.payload_bytes", bytes(64 * KIB, 64 * MIB), Preset::Is("\"1MiB\""),
        &["Most bytes of log entries in one message to a peer; a single larger entry goes alone."]),
    key("raft.inflight_bytes_max", bytes(MIB, 16 * GIB), Preset::Is("\"64MiB\""),
        &["Writes not yet answered may take this many bytes; beyond, clients get 429 with Retry-After."]),
    key("raft.propose_timeout", millis(100, 600_000), Preset::Is("\"10s\""),
        &["A write not answered after this long gets \"outcome unknown\"."]),
    key("raft.hold", millis(0, 60_000), Preset::Is("\"7s\""),
        &["A request is held this long while there is no leader, and while a member that was restarted is none again.",
          "Not longer than `propose_timeout`."]),
    key("raft.compare_interval", millis(0, 30 * 24 * 3_600_000), Preset::Is("\"10m\""),
        &["The leader has the states of all nodes compared this often, which takes each of them a third of a second per",
          "million keys, beside its work. One that deviates from the majority is fenced: it answers nobody until it is well",
          "again. \"0s\": only when `konsulctl cluster compare` asks for it."]),

    key("peer.listen", Kind::Address, Preset::Is("\"0.0.0.0:8300\""),
        &["Where other nodes connect. Not opened on a single node without `cluster.peers`."]),
    key("peer.advertise", Kind::HostPort, Preset::None { example: "\"n1.example.net:8300\"" },
        &["What other nodes connect to. Default: this node's `rpc` in `cluster.peers`."]),

    key("tls.mode", Kind::Choice(&["required", "permissive", "off"]), Preset::Is("\"required\""),
        &["\"required\": nodes speak to each other encrypted, and know each other by certificates. \"permissive\": encrypted",
          "with those who can, in the clear with those who cannot, while a cluster moves from \"off\" to \"required\" by one",
          "restart after the other. \"off\": in the clear; whoever reaches the peer port may read and change all data."]),
    live(key("tls.cert_file", Kind::Path, Preset::None { example: "\"/etc/konsul/tls/node.pem\"" },
        &["PEM: this node's certificate, then intermediates; for both server and client authentication."])),
    live(key("tls.key_file", Kind::Path, Preset::None { example: "\"/etc/konsul/tls/node.key\"" },
        &["PEM: the private key of that certificate."])),
    live(key("tls.ca_file", Kind::Path, Preset::None { example: "\"/etc/konsul/tls/ca.pem\"" },
        &["PEM: the authorities that sign the certificates of the nodes."])),
    key("tls.min_version", Kind::Choice(&["1.2", "1.3"]), Preset::Is("\"1.3\""),
        &["Oldest TLS version accepted between nodes."]),

    key("cluster.peers", Kind::Peers, Preset::Is("[]"),
        &["All nodes of the cluster, this one included; the same list on all of them. Empty: a cluster of one.",
          "peers = [{ id = 1, name = \"n1\", rpc = \"10.0.0.1:8300\" }, { id = 2, name = \"n2\", rpc = \"10.0.0.2:8300\" }]"]),
    key("cluster.form", Kind::Choice(&["auto", "init", "never", "preferred"]), Preset::Is("\"auto\""),
        &["\"auto\": of the peers, the lowest id forms the cluster once, all others join. \"never\": this node only joins.",
          "\"preferred\": this node forms, though its id is not the lowest; on one node only, with \"never\" on the others.",
          "Without peers: \"auto\" forms a cluster of one at once; \"init\" waits for `konsulctl cluster init` or",
          "`konsulctl cluster join`, \"never\" for the latter."]),
    key("cluster.join_token_file", Kind::Path, Preset::None { example: "\"/etc/konsul/join.token\"" },
        &["A token with which this node joins by itself at its first start, asking the contact points in the token and",
          "those that are discovered. Default: the systemd credential `join-token`, if there is one."]),

    key("cluster.join_rate", count(0, 1_000_000), Preset::Is("60"),
        &["Attempts to join per minute from one address; beyond, it is turned away unheard. 0 = no limit. After ten that",
          "fail an address waits six seconds for each more, in any case."]),
    key("cluster.join_rate_exempt", Kind::Networks, Preset::Is("[]"),
        &["Networks without that limit, as [\"10.0.0.0/8\"]."]),

    key("cluster.certificate_life", millis(10_000, 366 * 24 * 3_600_000), Preset::Is("\"72h\""),
        &["How long a certificate of the cluster's own authority is valid; renewed when a third of that is left."]),
    key("cluster.sealing_key_file", Kind::Path, Preset::None { example: "\"/run/credentials/konsul.service/sealing.key\"" },
        &["The secret under which the voters seal the key of the cluster's own authority, the same on all of them: a line",
          "`konsul-sealing-key-v1` and 64 hex digits. Default: made by the cluster, `secrets/sealing.key` in the data directory."]),

    key("discovery.methods", Kind::Choices(&["dns", "static", "aws"]), Preset::None { example: "[\"dns\"]" },
        &["Which of the methods are used: \"dns\", \"static\", \"aws\". Default: all that are set below."]),
    key("discovery.dns_domain", Kind::Domain, Preset::None { example: "\"example.net\"" },
        &["dns: the SRV records of this domain are looked for, by priority and weight, again when their TTL is over."]),
    key("discovery.dns_service", Kind::Domain, Preset::Is("\"_konsul._tcp\""),
        &["dns: what stands in front of the domain."]),
    key("discovery.dns_port", count(1, 65_535), Preset::None { example: "8300" },
        &["dns: with this, a domain without SRV records is taken for its addresses (A, AAAA) on this port."]),
    key("discovery.dns_server", Kind::Server, Preset::None { example: "\"10.0.0.2:53\"" },
        &["The DNS server for the records and for the names of seeds. Default: those of /etc/resolv.conf."]),
    key("discovery.seeds", Kind::HostPorts, Preset::Is("[]"),
        &["static: nodes to ask, as [\"n1.example.net:8300\"]; names are resolved anew each time."]),
    key("discovery.aws_region", Kind::Label, Preset::None { example: "\"eu-west-1\"" },
        &["aws: the region of the instances. Default: AWS_REGION, else that of the instance this node runs on.",
          "Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else from the role of the instance."]),
    key("discovery.aws_tag_key", Kind::Label, Preset::None { example: "\"konsul\"" },
        &["aws: running EC2 instances with this tag are asked; needs the permission ec2:DescribeInstances."]),
    key("discovery.aws_tag_value", Kind::Label, Preset::None { example: "\"production\"" },
        &["aws: what the tag must be. Default: anything."]),
    key("discovery.aws_port", count(1, 65_535), Preset::Is("8300"),
        &["aws: where these nodes listen for other nodes."]),
    key("discovery.aws_endpoint", Kind::Url, Preset::None { example: "\"https://ec2.eu-west-1.amazonaws.com\"" },
        &["aws: whom to ask, for a private endpoint. Default: that of the region."]),

    key("http.listen", Kind::Addresses, Preset::Is("[\"127.0.0.1:8500\"]"),
        &["Where clients connect. There is no access control yet: everybody who reaches it may read and write."]),
    key("http.admin_socket", Kind::Path, Preset::None { example: "\"/run/konsul/admin.sock\"" },
        &["A socket for the administrators of this host: root and the group konsul. konsulctl uses it by default. Not",
          "bound if systemd passes one. Default: /run/konsul/admin.sock, if that directory is there and can be written."]),
    key("http.advertise", Kind::Url, Preset::None { example: "\"http://n1.example.net:8500\"" },
        &["What a client is told when it is sent to this node. Default: the first address of `listen`, or the node's",
          "name and that port if it is a wildcard."]),
    key("http.datacenter", Kind::Name, Preset::Is("\"dc1\""),
        &["The name of the datacenter in answers and in `?dc=`."]),
    live(key("http.value_bytes_max", bytes(KIB, 64 * MIB), Preset::Is("\"512KiB\""),
        &["Largest value of a key."])),
    live(key("http.txn_bytes_max", bytes(KIB, 64 * MIB), Preset::Is("\"512KiB\""),
        &["Largest body of a transaction."])),
    live(key("http.txn_ops_max", count(1, 4_096), Preset::Is("128"),
        &["Most operations in a transaction."])),
    live(key("http.batch_bytes_max", bytes(KIB, 64 * MIB), Preset::Is("\"1MiB\""),
        &["Largest body of a batch."])),
    live(key("http.batch_ops_max", count(1, 1_000_000), Preset::Is("4_096"),
        &["Most operations in a batch."])),
    live(key("http.restore_bytes_max", bytes(MIB, 16 * TIB), Preset::Is("\"4GiB\""),
        &["Largest snapshot archive that may be restored, and largest content of one."])),
    live(key("http.watches_max", count(1, 10_000_000), Preset::Is("100_000"),
        &["Most blocking queries waiting at a time; beyond, clients get 429."])),
    live(key("http.connections_max", count(1, 1_000_000), Preset::Is("20_000"),
        &["Most client connections at a time."])),
    live(key("http.connections_per_client_max", count(0, 1_000_000), Preset::Is("0"),
        &["Most connections from one address; 0 = no limit."])),
    key("http.non_leader_writes", Kind::Choice(&["forward", "redirect", "reject"]), Preset::Is("\"forward\""),
        &["What a node that does not lead does with a write: pass it on, answer 307, or answer 409."]),
    key("http.default_consistency", Kind::Choice(&["stale", "leader", "strong"]), Preset::Is("\"leader\""),
        &["How fresh a read is that does not say so itself."]),
    live(key("http.rate_per_client", count(0, 100_000_000), Preset::Is("10_000"),
        &["Requests per second from one address (of IPv6, one /64), in the long run; beyond, it gets 429 with Retry-After.",
          "0 = no limit."])),
    live(key("http.rate_burst", count(1, 100_000_000), Preset::Is("20_000"),
        &["Requests that one address may make at once before that limit."])),
    live(key("http.rate_exempt", Kind::Networks, Preset::Is("[\"127.0.0.0/8\", \"::1\"]"),
        &["Networks without that limit: this host, proxies that many clients stand behind."])),
    live(key("http.header_timeout", millis(100, 600_000), Preset::Is("\"30s\""),
        &["How long the head of a request may take from its first byte."])),
    live(key("http.transfer_timeout", millis(100, 600_000), Preset::Is("\"30s\""),
        &["How long a client may take to send a body, and to read an answer, and a second more for each KiB of it."])),
    key("http.shutdown_grace", millis(0, 600_000), Preset::Is("\"10s\""),
        &["How long requests in flight may take to end when the node stops."]),
    key("http.strict_paths", Kind::Flag, Preset::Is("true"),
        &["Refuse paths with characters that do not print, as Consul does."]),

    live(key("log.level", Kind::Filter, Preset::Is("\"info\""),
        &["off, error, warn, info, debug or trace; also by part: \"info,konsuld::raft=debug\"."])),
    key("log.format", Kind::Choice(&["auto", "journal", "json", "text"]), Preset::Is("\"auto\""),
        &["\"journal\": to systemd's journal, with fields. \"json\", \"text\": lines on stderr. \"auto\": to the journal if",
          "stderr is the journal, text on a terminal, else JSON."]),

    key("telemetry.otlp_endpoint", Kind::Url, Preset::None { example: "\"https://collector.example.net:4318\"" },
        &["An OpenTelemetry collector that takes OTLP over HTTP: spans of sampled requests are sent to /v1/traces there, once",
          "a second. They name routes, nodes and times, never a key, a value or a token. What cannot be delivered is dropped.",
          "Not set: nothing is traced."]),
    key("telemetry.otlp_sample_ratio", Kind::Share, Preset::Is("0.01"),
        &["The share of requests that are traced. A request with a header `traceparent` (W3C) is traced if that says so, and",
          "not if it says not, whatever is set here."]),
    key("telemetry.otlp_ca_file", Kind::Path, Preset::None { example: "\"/etc/konsul/tls/collector-ca.pem\"" },
        &["PEM: the authorities that sign the certificate of the collector, if it is reached by https. Default: those that",
          "this system trusts."]),
];

/// The key of this path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// What to say of `section.key` that does not exist.
pub(super) fn unknown(path: &str) -> String {
    let (section, name) = path.split_once('.').unwrap_or((path, ""));
    if !SECTIONS.iter().any(|(known, _)| *known == section) {
        let known: Vec<&str> = SECTIONS.iter().map(|(known, _)| *known).collect();
        return format!("unknown section `{section}`; {}", did_you_mean(section, &known));
    }
    let known: Vec<&str> = KEYS.iter().filter(|key| key.section() == section).map(Key::name).collect();
    format!("unknown key `{path}`; {}", did_you_mean(name, &known))
}

/// A configuration file with every key, its default and its manual text.
pub(super) fn default_file() -> String {
    let mut text = String::from(
        "# Konsul configuration. Every key with its default; a key that is commented out has none of its own.\n\
         # Each key is also an environment variable, KONSUL_<SECTION>_<KEY>, and a flag, --set section.key=value:\n\
         # flags win over the environment, the environment wins over this file. Unknown keys are refused.\n",
    );
    for (section, about) in SECTIONS {
        write!(text, "\n# {about}\n[{section}]\n").expect("a String takes everything");
        for key in KEYS.iter().filter(|key| key.section() == section) {
            for line in key.doc {
                writeln!(text, "# {line}").expect("a String takes everything");
            }
            if key.live {
                text.push_str("# May change while the node runs: SIGHUP puts it into force.\n");
            }
            match key.default {
                Preset::Is(value) => writeln!(text, "{} = {value}", key.name()),
                Preset::None { example } => writeln!(text, "# {} = {example}", key.name()),
            }
            .expect("a String takes everything");
        }
    }
    text
}
