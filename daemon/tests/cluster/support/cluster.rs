//! A cluster of real processes in a directory of its own.

use super::certs;
use super::janitor::Janitor;
use super::net::{self, Net};
use super::node::{Node, own_program, tail};
use super::wait::{so, wait_until};
use konsul_api::cluster::{ClusterStatus, DigestAnswer, Role};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One cluster at a time: timing claims do not hold on a machine that runs several.
static TURN: Mutex<()> = Mutex::new(());
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// What the nodes' data lies on.
#[derive(Default)]
pub(crate) enum Disk {
    /// The machine's temporary directory.
    #[default]
    Plain,
    /// Made for each node.
    Each(fn(&Path)),
    /// Made once, for all of them, in the directory `nodes`.
    Shared(fn(&Path)),
}

/// How the nodes get into one cluster.
#[derive(Default)]
pub(crate) enum Entry {
    /// Each is told of all the others, and brings a certificate.
    #[default]
    Peers,
    /// Each is told nothing but these lines of its configuration, from the section `cluster` on. The test gets them in.
    Own(String),
}

/// What a cluster is like.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) entry: Entry,
    /// Beside other clusters: for what takes minutes and makes no claim about time.
    pub(crate) beside_others: bool,
    /// Further nodes, which the others are not told of: they join when a test starts them.
    pub(crate) spare: usize,
    /// Lines of the section `raft`.
    pub(crate) raft: &'static str,
    /// Further lines of the section `http`.
    pub(crate) http: &'static str,
    /// Further lines of the section `tls`.
    pub(crate) tls: &'static str,
    /// Lines of the section `storage` in place of the usual reserve.
    pub(crate) storage: Option<&'static str>,
    /// Each node in a network namespace.
    pub(crate) net: bool,
    pub(crate) disk: Disk,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) spare: Vec<Node>,
    pub(crate) net: Option<Net>,
    // In the order in which they are dropped.
    _janitor: Janitor,
    pub(crate) dir: PathBuf,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Cluster {
    /// `nodes` voters, healthy.
    pub(crate) fn start(nodes: usize) -> Cluster {
        Cluster::with(Options { nodes, ..Options::default() })
    }

    pub(crate) fn with(options: Options) -> Cluster {
        let cluster = Cluster::prepare(options);
        cluster.nodes.iter().for_each(Node::start);
        cluster.wait_healthy();
        cluster
    }

    /// Nothing runs yet.
    pub(crate) fn prepare(options: Options) -> Cluster {
        let turn = (!options.beside_others).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("konsul-").tempdir().unwrap().keep();
        let janitor = Janitor::start(&dir, if options.net { net::prefix(serial) } else { String::new() }.as_str());
        let net = options.net.then(|| Net::create(serial, options.nodes + options.spare));
        // The low numbers are those of whose turn it is.
        let first = if options.beside_others { BESIDE } else { 0 };
        let address = |node| if options.net { net::address(node) } else { loopback(first + node) };
        let names: Vec<(String, IpAddr)> =
            (1..=options.nodes + options.spare).map(|n| (format!("n{n}"), address(n))).collect();
        if matches!(options.entry, Entry::Peers) {
            certs::write(&dir, &names);
        }
        let homes = dir.join("nodes");
        fs::create_dir(&homes).unwrap();
        if let Disk::Shared(make) = options.disk {
            make(&homes);
        }
        let nodes = names.iter().enumerate().map(|(at, (name, address))| {
            let home = homes.join(name);
            fs::create_dir(&home).unwrap();
            if let Disk::Each(make) = options.disk {
                make(&home);
            }
            let node = Node {
                name: name.clone(),
                http: SocketAddr::new(*address, 8500),
                data_dir: home.join("data"),
                state_dir: home.join("state"),
                config: dir.join(format!("{name}.toml")),
                log: dir.join(format!("{name}.log")),
                netns: net.as_ref().map(|net| net.netns(at + 1)),
                credentials: dir.join(format!("{name}.credentials")),
                program: Mutex::new(own_program()),
                child: Mutex::new(None),
            };
            fs::write(&node.config, config(&dir, &node, &names, &options)).unwrap();
            node
        });
        let mut nodes: Vec<Node> = nodes.collect();
        let spare = nodes.split_off(options.nodes);
        Cluster { nodes, spare, net, _janitor: janitor, dir, _turn: turn }
    }

    /// A node that the others know nothing of, as number `n`; `config` is what it is told beside its own places.
    pub(crate) fn stranger(&self, n: usize, config: &str) -> Node {
        let (name, address, home) = (format!("n{n}"), loopback(n), self.dir.join("nodes").join(format!("n{n}")));
        let node = Node {
            name: name.clone(),
            http: SocketAddr::new(address, 8500),
            data_dir: home.join("data"),
            state_dir: home.join("state"),
            config: self.dir.join(format!("{name}.toml")),
            log: self.dir.join(format!("{name}.log")),
            netns: None,
            credentials: self.dir.join(format!("{name}.credentials")),
            program: Mutex::new(own_program()),
            child: Mutex::new(None),
        };
        let text = format!(
            "[node]\nname = \"{name}\"\n[storage]\ndata_dir = {:?}\nstate_dir = {:?}\nmap_size = \"1GiB\"\n\
             free_reserve = \"16MiB\"\nballast = \"0B\"\nlog_prealloc = \"1MiB\"\n[peer]\nlisten = \"{address}:8300\"\n\
             [http]\nlisten = [\"{address}:8500\"]\n[log]\nformat = \"json\"\n{config}",
            node.data_dir, node.state_dir,
        );
        fs::write(&node.config, text).unwrap();
        node
    }

    pub(crate) fn net(&self) -> &Net {
        self.net.as_ref().expect("the cluster was started with a network")
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Its position in `nodes`.
    pub(crate) fn position(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// All nodes run, all are voters, and the leader says that it is well.
    pub(crate) fn wait_healthy(&self) -> ClusterStatus {
        self.wait_healthy_of(&self.nodes.iter().collect::<Vec<_>>())
    }

    /// The same of these nodes: they are all there are.
    pub(crate) fn wait_healthy_of(&self, nodes: &[&Node]) -> ClusterStatus {
        let wanted = nodes.len();
        wait_until("a healthy cluster in which every node votes", || {
            let (_, status) = self.look_for_leader(nodes)?;
            let voters = status.members.iter().filter(|member| member.voter).count();
            so(voters == wanted && status.members.len() == wanted, format!("members {:?}", status.members))?;
            so(status.healthy == Some(true), format!("not healthy: {:?}", status.members))?;
            for node in nodes {
                let (code, reasons) = node.ready()?;
                so(code == 200, format!("{} is not ready: {reasons:?}", node.name))?;
            }
            Ok(status)
        })
    }

    /// The position of the node that leads and is acknowledged by the rest of those that run.
    pub(crate) fn leader(&self) -> usize {
        self.leader_among(&self.running().collect::<Vec<_>>())
    }

    pub(crate) fn leader_among(&self, nodes: &[&Node]) -> usize {
        let name = wait_until("a leader that a majority follows", || self.look_for_leader(nodes).map(|(name, _)| name));
        self.position(&name)
    }

    /// Nodes that do not lead.
    pub(crate) fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        (0..self.nodes.len()).filter(|at| *at != leader).collect()
    }

    fn look_for_leader(&self, nodes: &[&Node]) -> Result<(String, ClusterStatus), String> {
        let mut follow = 0;
        let mut found: Option<(String, ClusterStatus)> = None;
        let mut seen = String::new();
        let mut statuses = Vec::new();
        for node in nodes {
            match node.status() {
                Ok(status) => statuses.push(status),
                Err(why) => write!(seen, "{why}; ").unwrap(),
            }
        }
        for status in &statuses {
            let leader = status.leader.as_ref().map(|leader| leader.name.as_str());
            write!(seen, "{} {:?} term {} leader {leader:?}; ", status.node.name, status.node.role, status.node.term)
                .unwrap();
            if status.node.role == Role::Leader && status.has_quorum && leader == Some(status.node.name.as_str()) {
                found = Some((status.node.name.clone(), status.clone()));
            }
        }
        let (name, status) = found.ok_or_else(|| seen.clone())?;
        for other in &statuses {
            let agrees = other.node.term == status.node.term && other.leader.as_ref().is_some_and(|l| l.name == name);
            follow += usize::from(agrees);
        }
        let voters = status.members.iter().filter(|member| member.voter).count();
        so(follow > voters / 2 && follow == nodes.len(), seen)?;
        Ok((name, status))
    }

    /// All nodes have applied the same log to the same state.
    pub(crate) fn assert_digests_equal(&self) {
        let nodes: Vec<&Node> = self.running().collect();
        let digests: Vec<DigestAnswer> = wait_until("all nodes at the same index", || {
            let statuses: Vec<ClusterStatus> = nodes.iter().map(|node| node.status()).collect::<Result<_, _>>()?;
            let applied: Vec<u64> = statuses.iter().map(|status| status.node.applied_index).collect();
            let index = *applied.iter().max().unwrap();
            so(applied.iter().all(|at| *at == index), format!("applied {applied:?}"))?;
            let digests: Vec<DigestAnswer> = nodes
                .iter()
                .map(|node| {
                    let reply = node.get(&format!("/v1/cluster/digest?index={index}&wait=1s"));
                    let reply = reply.map_err(|e| format!("{}: {e}", node.name))?;
                    so(reply.status == 200, format!("{}: {reply}", node.name))?;
                    Ok::<_, String>(reply.json())
                })
                .collect::<Result<_, _>>()?;
            so(digests.iter().all(|digest| digest.index == digests[0].index), format!("{digests:?}"))?;
            Ok(digests)
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "the nodes hold different states: {digests:?}");
    }
}

/// Far from where any other cluster of this process has its nodes.
const BESIDE: usize = 50;

/// Where node `n` could be as well.
pub(crate) fn elsewhere(n: usize) -> IpAddr {
    loopback(100 + n)
}

/// Addresses of this process alone, so that clusters of other test processes are in nobody's way.
fn loopback(node: usize) -> IpAddr {
    let process = std::process::id();
    let low = u8::try_from(process % 256).unwrap();
    let high = u8::try_from(1 + process / 256 % 254).unwrap();
    IpAddr::V4(Ipv4Addr::new(127, high, low, u8::try_from(node).unwrap()))
}

fn config(dir: &Path, node: &Node, names: &[(String, IpAddr)], options: &Options) -> String {
    let peers: Vec<String> = names[..options.nodes]
        .iter()
        .enumerate()
        .map(|(at, (name, address))| format!("{{ id = {}, name = \"{name}\", rpc = \"{address}:8300\" }}", at + 1))
        .collect();
    let (name, address) = (&node.name, node.http.ip());
    let mut text = format!(
        "[node]\nname = \"{name}\"\n[storage]\ndata_dir = {:?}\nstate_dir = {:?}\n\
         map_size = \"1GiB\"\nlog_prealloc = \"1MiB\"\nlog_prealloc_step = \"1MiB\"\n{}\n\
         [raft]\n{}\n[http]\nlisten = [\"{address}:8500\"]\n{}\n[log]\nformat = \"json\"\n",
        node.data_dir,
        node.state_dir,
        options.storage.unwrap_or("free_reserve = \"16MiB\"\nballast = \"0B\""),
        options.raft,
        options.http,
    );
    match &options.entry {
        Entry::Own(lines) => write!(text, "[peer]\nlisten = \"{address}:8300\"\n[cluster]\n{lines}\n").unwrap(),
        Entry::Peers if names.len() > 1 => write!(
            text,
            "[peer]\nlisten = \"{address}:8300\"\nadvertise = \"{address}:8300\"\n[tls]\ncert_file = {:?}\nkey_file = {:?}\nca_file = {:?}\n\
             {}\n[cluster]\npeers = [{}]\n{}",
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
            dir.join("ca.pem"),
            options.tls,
            peers.join(", "),
            if peers.iter().any(|peer| peer.contains(&format!("\"{name}\""))) { "" } else { "form = \"never\"\n" },
        )
        .unwrap(),
        Entry::Peers => {}
    }
    text
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("=== the threads of {}\n{}", node.name, node.threads());
            }
        }
        for node in self.nodes.iter().chain(&self.spare) {
            node.kill9();
        }
        if std::thread::panicking() {
            for node in self.nodes.iter().chain(&self.spare) {
                eprintln!("=== the end of the log of {}\n{}", node.name, tail(&node.log_text(), 40));
            }
        }
    }
}
