//! From settings to a [`Config`]: what single values cannot tell. Goes on after a problem, to find them all.

mod discovery;

use super::settings::{Origin, Problem, Settings};
use super::value::{Value, human, is_name};
use super::{
    ClusterSection, Config, Form, HttpConfig, NodeSection, PeerSection, RaftSection, StaticPeer, StorageSection,
    Timing, TlsConfig, TlsMode, TlsSection,
};
use crate::clock::rate::RateConfig;
use crate::http::{DefaultConsistency, HttpLimits, NonLeaderWrites};
use crate::telemetry::trace::TraceConfig;
use crate::telemetry::{LogConfig, LogFilter, LogFormat};
use crate::tls::TlsVersion;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// LMDB takes whole pages.
const PAGE_BYTES: u64 = 4096;
/// More voters make every write slower and the cluster no safer.
const PEERS_MAX: usize = 15;

/// The configuration, or everything that is wrong with it.
pub(super) fn build(settings: &Settings, tls_off: Option<&Origin>, host_name: &str) -> Result<Config, Vec<Problem>> {
    let mut check = Check { settings, problems: Vec::new() };
    let peers = check.peers();
    let tls = check.tls(&peers, tls_off);
    let node = check.node(&peers, host_name);
    let form = check.form(&peers);
    let discovery = check.discovery();
    let join_token_file = check.path("cluster.join_token_file");
    let peer = check.peer(&peers, &node, form, join_token_file.is_some());
    check.entry(&peers, &tls, form, join_token_file.is_some());
    let storage = check.storage();
    let raft = check.raft();
    let http = check.http(&node, raft.inflight_bytes_max);
    let log = check.log(&node);
    let traces = check.traces(&node);
    if check.problems.is_empty() {
        let certificate_life = check.duration("cluster.certificate_life");
        let sealing_key_file = check.path("cluster.sealing_key_file");
        let join_rate = check.join_rate();
        let cluster = ClusterSection { peers, form, certificate_life, sealing_key_file, join_token_file, join_rate };
        Ok(Config { node, storage, raft, peer, tls, cluster, discovery, http, log, traces })
    } else {
        Err(check.problems)
    }
}

struct Check<'s> {
    settings: &'s Settings,
    problems: Vec<Problem>,
}

// What a key holds is known from the table; a test builds the defaults and so goes through every line of this.
impl Check<'_> {
    fn number(&self, path: &str) -> u64 {
        match self.settings.get(path) {
            Some(Value::Number(number)) => *number,
            other => unreachable!("{path} is a number with a default, not {other:?}"),
        }
    }

    fn size(&self, path: &str) -> usize {
        usize::try_from(self.number(path)).unwrap_or(usize::MAX)
    }

    fn duration(&self, path: &str) -> Duration {
        match self.settings.get(path) {
            Some(Value::Duration(duration)) => *duration,
            other => unreachable!("{path} is a duration with a default, not {other:?}"),
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.settings.get(path) {
            Some(Value::Text(text)) => Some(text.clone()),
            None => None,
            other => unreachable!("{path} is a text, not {other:?}"),
        }
    }

    fn choice(&self, path: &str) -> String {
        self.text(path).expect("choices have defaults")
    }

    fn flag(&self, path: &str) -> bool {
        match self.settings.get(path) {
            Some(Value::Flag(flag)) => *flag,
            other => unreachable!("{path} is a flag with a default, not {other:?}"),
        }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        match self.settings.get(path) {
            Some(Value::Path(found)) => Some(found.clone()),
            None => None,
            other => unreachable!("{path} is a path, not {other:?}"),
        }
    }

    fn addresses(&self, path: &str) -> Vec<SocketAddr> {
        match self.settings.get(path) {
            Some(Value::Addresses(found)) => found.clone(),
            other => unreachable!("{path} is addresses with a default, not {other:?}"),
        }
    }

    fn networks(&self, path: &str) -> Vec<IpNet> {
        match self.settings.get(path) {
            Some(Value::Networks(found)) => found.clone(),
            other => unreachable!("{path} is networks with a default, not {other:?}"),
        }
    }

    fn times(&self, path: &str) -> u32 {
        u32::try_from(self.number(path)).expect("the table bounds it")
    }

    /// Blames the place where this key was set.
    fn refuse(&mut self, path: &str, text: impl Into<String>) {
        self.problems.push(Problem::of(path, &self.settings.origin(path), text));
    }
}

impl Check<'_> {
    fn peers(&mut self) -> Vec<StaticPeer> {
        let mut peers = match self.settings.get("cluster.peers") {
            Some(Value::Peers(peers)) => peers.clone(),
            other => unreachable!("cluster.peers is a list of peers with a default, not {other:?}"),
        };
        peers.sort_by_key(|peer| peer.id);
        if peers.len() > PEERS_MAX {
            let text =
                format!("`cluster.peers` names {} nodes, the limit is {PEERS_MAX}; three or five is best", peers.len());
            self.refuse("cluster.peers", text);
        }
        let (mut ids, mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for peer in &peers {
            let same = [
                ("id", peer.id.to_string(), ids.insert(peer.id, &peer.name)),
                ("name", peer.name.clone(), names.insert(&peer.name, &peer.name)),
                ("rpc", peer.rpc.clone(), addresses.insert(&peer.rpc, &peer.name)),
            ];
            for (field, value, before) in same {
                if before.is_some() {
                    self.refuse(
                        "cluster.peers",
                        format!("`cluster.peers` has {field} {value} twice; give each node its own"),
                    );
                }
            }
        }
        peers
    }

    fn tls(&mut self, peers: &[StaticPeer], tls_off: Option<&Origin>) -> TlsSection {
        let mode = match self.choice("tls.mode").as_str() {
            "permissive" => TlsMode::Permissive,
            "off" => TlsMode::Off,
            _ => TlsMode::Required,
        };
        if let Some(origin) = tls_off.filter(|_| !peers.is_empty()) {
            let text = "whoever reaches the peer port could change all data; remove the variable and set tls.cert_file, \
                        tls.key_file and tls.ca_file, or say tls.mode = \"off\" if that is meant";
            self.problems.push(Problem::at(origin, text));
        }
        let min_version = match self.choice("tls.min_version").as_str() {
            "1.2" => TlsVersion::V1_2,
            _ => TlsVersion::V1_3,
        };
        let names = ["tls.cert_file", "tls.key_file", "tls.ca_file"];
        let missing: Vec<&str> = names.into_iter().filter(|name| self.settings.get(name).is_none()).collect();
        match names.map(|name| self.path(name)) {
            [Some(cert_file), Some(key_file), Some(ca_file)] => {
                let files = Some(TlsConfig { cert_file, key_file, ca_file, min_version });
                return TlsSection { mode, min_version, files };
            }
            [None, None, None] if peers.is_empty() || mode == TlsMode::Off => {}
            [None, None, None] => {
                let text = "`cluster.peers` is set, and nodes speak to each other over TLS; set tls.cert_file, tls.key_file \
                            and tls.ca_file (`konsulctl tls ca` and `konsulctl tls node` make them)";
                self.refuse("cluster.peers", text);
            }
            _some_of_them => {
                let set = names.into_iter().find(|name| !missing.contains(name)).expect("one of them is set");
                self.refuse(
                    set,
                    format!("`{set}` is set without {}; TLS needs all three files", missing.join(" and ")),
                );
            }
        }
        TlsSection { mode, min_version, files: None }
    }

    fn node(&mut self, peers: &[StaticPeer], host_name: &str) -> NodeSection {
        let name = self.text("node.name").unwrap_or_else(|| host_name.to_owned());
        if !is_name(&name) {
            self.refuse("node.name", format!("the host name \"{name}\" does not do as the node's name; set node.name"));
        }
        let wish = self.settings.get("node.id").map(|_| self.number("node.id"));
        let by_name = peers.iter().find(|peer| peer.name == name);
        let by_id = wish.and_then(|id| peers.iter().find(|peer| peer.id == id));
        match (by_name, by_id) {
            (Some(named), _) if wish.is_some_and(|id| id != named.id) => {
                let text = format!(
                    "`node.id` is {}, but `cluster.peers` gives \"{name}\" the id {}; make them agree",
                    wish.unwrap_or_default(),
                    named.id
                );
                self.refuse("node.id", text);
            }
            (None, Some(other)) => {
                let text = format!(
                    "`cluster.peers` calls node {} \"{}\", but this node's name is \"{name}\"; make them agree",
                    other.id, other.name
                );
                self.refuse("cluster.peers", text);
            }
            (None, None) if !peers.is_empty() && self.choice("cluster.form") != "never" => {
                let text = format!(
                    "`cluster.peers` lacks this node, \"{name}\"; add it, set node.name to one of the list, or \
                     cluster.form = \"never\" if it only joins"
                );
                self.refuse("cluster.peers", text);
            }
            (Some(_) | None, _) => {}
        }
        NodeSection { name, id: wish.or_else(|| by_name.map(|peer| peer.id)) }
    }

    fn form(&mut self, peers: &[StaticPeer]) -> Form {
        let form = match self.choice("cluster.form").as_str() {
            "never" => Form::Never,
            "init" => Form::Init,
            "preferred" => Form::Preferred,
            _ => Form::Auto,
        };
        if form == Form::Init && !peers.is_empty() {
            let text = "`cluster.form` is \"init\", but `cluster.peers` names nodes, which form by themselves; remove one of the two";
            self.refuse("cluster.form", text);
        }
        form
    }

    fn peer(&mut self, peers: &[StaticPeer], node: &NodeSection, form: Form, has_token: bool) -> PeerSection {
        let entered = peers.is_empty() && (form.waits() || has_token);
        let listen = self.addresses("peer.listen")[0];
        if peers.is_empty() && !entered {
            let advertise = self.text("peer.advertise");
            return PeerSection { listen: None, address: listen, advertise };
        }
        let own = peers.iter().find(|peer| peer.name == node.name).map(|peer| peer.rpc.clone());
        let bound = (!listen.ip().is_unspecified()).then(|| listen.to_string());
        let advertise = self.text("peer.advertise").or(own).or(bound);
        // A node that enters its cluster later finds out by which address it is reached.
        if advertise.is_none() && form == Form::Never && !entered {
            let text = format!("other nodes cannot connect to {listen}; set peer.advertise to this node's host:port");
            self.refuse("peer.listen", text);
        }
        PeerSection { listen: Some(listen), address: listen, advertise }
    }

    /// A cluster that is entered by `init` or a token has an authority of its own.
    fn entry(&mut self, peers: &[StaticPeer], tls: &TlsSection, form: Form, has_token: bool) {
        if !peers.is_empty() || !(form.waits() || has_token) {
            return;
        }
        if tls.mode == TlsMode::Off {
            let text = "`tls.mode` is \"off\", but a cluster that is joined with tokens is encrypted; name its nodes in \
                        cluster.peers, or remove tls.mode";
            self.refuse("tls.mode", text);
        }
        if tls.files.is_some() {
            let text = "`tls.cert_file` brings a certificate, but a cluster that is joined with tokens makes its own; name \
                        its nodes in cluster.peers, or remove the tls files";
            self.refuse("tls.cert_file", text);
        }
    }

    fn storage(&mut self) -> StorageSection {
        let data_dir = self.path("storage.data_dir").expect("it has a default");
        let state_dir = self.path("storage.state_dir").unwrap_or_else(|| data_dir.join("state"));
        if data_dir.starts_with(&state_dir) {
            let text = "`storage.state_dir` contains the data directory, but is discarded after a machine stop; \
                        give it a directory of its own";
            self.refuse("storage.state_dir", text);
        }
        let map_bytes = self.number("storage.map_size");
        if !map_bytes.is_multiple_of(PAGE_BYTES) {
            self.refuse(
                "storage.map_size",
                format!("`storage.map_size` is {map_bytes} bytes, no multiple of {PAGE_BYTES}"),
            );
        }
        StorageSection {
            data_dir,
            state_dir,
            map_bytes,
            free_reserve_bytes: self.number("storage.free_reserve"),
            ballast_bytes: self.number("storage.ballast"),
            log_prealloc_bytes: self.number("storage.log_prealloc"),
            log_prealloc_step_bytes: self.number("storage.log_prealloc_step"),
        }
    }

    fn timing(&mut self) -> Timing {
        let timing = match self.settings.get("raft.timing") {
            Some(Value::Timing(timing)) => *timing,
            other => unreachable!("raft.timing is a timing with a default, not {other:?}"),
        };
        let Timing { heartbeat, election_min, election_max } = timing;
        if election_min > election_max {
            let text = format!(
                "`raft.timing`: election_ms_min is {}, more than election_ms_max, {}; swap them",
                election_min.as_millis(),
                election_max.as_millis()
            );
            self.refuse("raft.timing", text);
        }
        if heartbeat * 2 > election_min {
            let text = format!(
                "`raft.timing`: election_ms_min is {}, less than two heartbeats of {} ms: one late heartbeat would cost \
                 the leader its place; raise it to {} or more",
                election_min.as_millis(),
                heartbeat.as_millis(),
                (heartbeat * 2).as_millis()
            );
            self.refuse("raft.timing", text);
        }
        timing
    }

    fn raft(&mut self) -> RaftSection {
        let raft = RaftSection {
            timing: self.timing(),
            snapshot_entries: self.number("raft.snapshot_entries"),
            keep_entries: self.number("raft.keep_entries"),
            payload_entries: self.number("raft.payload_entries"),
            payload_bytes: self.number("raft.payload_bytes"),
            inflight_bytes_max: self.number("raft.inflight_bytes_max"),
            propose_timeout: self.duration("raft.propose_timeout"),
            hold: self.duration("raft.hold"),
            compare_interval: self.duration("raft.compare_interval"),
        };
        if raft.hold > raft.propose_timeout {
            let text = format!(
                "`raft.hold` is {:?}, longer than `raft.propose_timeout`, {:?}; lower it, or raise that",
                raft.hold, raft.propose_timeout
            );
            self.refuse("raft.hold", text);
        }
        raft
    }

    fn http(&mut self, node: &NodeSection, inflight_bytes_max: u64) -> HttpConfig {
        for path in ["http.value_bytes_max", "http.txn_bytes_max", "http.batch_bytes_max"] {
            let bytes = self.number(path);
            if bytes > inflight_bytes_max {
                let (bytes, limit) = (human(bytes), human(inflight_bytes_max));
                let text = format!(
                    "`{path}` is {bytes}, more than `raft.inflight_bytes_max`, {limit}: it would never be taken; lower it, or raise that"
                );
                self.refuse(path, text);
            }
        }
        let listen = self.addresses("http.listen");
        HttpConfig {
            advertise: self.text("http.advertise").unwrap_or_else(|| url_of(listen[0], &node.name)),
            listen,
            admin_socket: self.path("http.admin_socket"),
            datacenter: self.choice("http.datacenter"),
            non_leader_writes: match self.choice("http.non_leader_writes").as_str() {
                "redirect" => NonLeaderWrites::Redirect,
                "reject" => NonLeaderWrites::Reject,
                _ => NonLeaderWrites::Forward,
            },
            default_consistency: match self.choice("http.default_consistency").as_str() {
                "stale" => DefaultConsistency::Stale,
                "strong" => DefaultConsistency::Strong,
                _ => DefaultConsistency::Leader,
            },
            shutdown_grace: self.duration("http.shutdown_grace"),
            strict_paths: self.flag("http.strict_paths"),
            limits: self.http_limits(),
        }
    }

    fn http_limits(&self) -> HttpLimits {
        HttpLimits {
            value_bytes_max: self.number("http.value_bytes_max"),
            txn_bytes_max: self.number("http.txn_bytes_max"),
            txn_ops_max: self.size("http.txn_ops_max"),
            batch_bytes_max: self.number("http.batch_bytes_max"),
            batch_ops_max: self.size("http.batch_ops_max"),
            restore_bytes_max: self.number("http.restore_bytes_max"),
            watches_max: self.size("http.watches_max"),
            connections_max: self.size("http.connections_max"),
            connections_per_client_max: self.size("http.connections_per_client_max"),
            rate: RateConfig {
                times: self.times("http.rate_per_client"),
                per: Duration::from_secs(1),
                burst: NonZeroU32::new(self.times("http.rate_burst")).expect("the table says 1 at least"),
                exempt: self.networks("http.rate_exempt"),
            },
            header_timeout: self.duration("http.header_timeout"),
            transfer_timeout: self.duration("http.transfer_timeout"),
        }
    }

    fn join_rate(&self) -> RateConfig {
        let times = self.times("cluster.join_rate");
        RateConfig {
            times,
            per: Duration::from_secs(60),
            burst: NonZeroU32::new(times).unwrap_or(NonZeroU32::MIN),
            exempt: self.networks("cluster.join_rate_exempt"),
        }
    }

    fn traces(&mut self, node: &NodeSection) -> Option<TraceConfig> {
        let ca_file = self.path("telemetry.otlp_ca_file");
        let endpoint = self.text("telemetry.otlp_endpoint");
        if ca_file.is_some() && !endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("https://")) {
            let text =
                "`telemetry.otlp_ca_file` is set without an https:// `telemetry.otlp_endpoint`; set both, or none";
            self.refuse("telemetry.otlp_ca_file", text);
        }
        if endpoint.is_some() && !cfg!(feature = "otlp") {
            let text = "this konsuld was built without traces (cargo feature `otlp`); use one that has them, or remove \
                        `telemetry.otlp_endpoint`";
            self.refuse("telemetry.otlp_endpoint", text);
        }
        let sample_ratio = match self.settings.get("telemetry.otlp_sample_ratio") {
            Some(Value::Share(share)) => *share,
            other => unreachable!("telemetry.otlp_sample_ratio is a share with a default, not {other:?}"),
        };
        Some(TraceConfig { endpoint: endpoint?, sample_ratio, ca_file, node: node.name.clone() })
    }

    fn log(&self, node: &NodeSection) -> LogConfig {
        let filter: LogFilter = match self.settings.get("log.level") {
            Some(Value::Filter(filter)) => filter.clone(),
            other => unreachable!("log.level is a filter with a default, not {other:?}"),
        };
        let format = match self.choice("log.format").as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            "journal" => LogFormat::Journal,
            _ => LogFormat::Auto,
        };
        LogConfig { filter, format, node: node.name.clone() }
    }
}

fn url_of(listen: SocketAddr, name: &str) -> String {
    if listen.ip().is_unspecified() { format!("http://{name}:{}", listen.port()) } else { format!("http://{listen}") }
}
