//! A `Config` that is already valid, or every reason why it is not, each with its place.  Knows nothing about: what the
//! parts do with it.
//!
//! One table (`keys`) declares every key; the file, the environment and the flags are layers of settings over its
//! defaults; `validate` checks what concerns several keys and gives the [`Config`].

mod args;
mod env;
mod file;
mod hint;
mod keys;
mod raw;
mod reference;
mod reread;
mod settings;
mod shown;
mod validate;
mod value;

pub use args::{Args, Offline, OfflineArchive, OfflineData};
pub use reference::{Entry, Section, reference};
pub use reread::{Again, Loaded};
pub use settings::Problem;

use crate::clock::rate::RateConfig;
use crate::cluster::discovery::{AwsEnvironment, DiscoveryConfig};
use crate::http::HttpConfig;
use crate::storage::StorageConfig;
use crate::telemetry::LogConfig;
use crate::telemetry::trace::TraceConfig;
use crate::tls::{TlsConfig, TlsVersion};
use settings::{Origin, Settings};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Read if it exists and no other file is named.
pub const DEFAULT_FILE: &str = "/etc/konsul/konsul.toml";

/// Everything that can be set; valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub node: NodeSection,
    pub storage: StorageSection,
    pub raft: RaftSection,
    pub peer: PeerSection,
    pub tls: TlsSection,
    pub cluster: ClusterSection,
    pub discovery: DiscoveryConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
    /// `None`: nothing is traced.
    pub traces: Option<TraceConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSection {
    pub name: String,
    /// The wish; with static peers, the id of this node's entry.
    pub id: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageSection {
    pub data_dir: PathBuf,
    pub state_dir: PathBuf,
    pub map_bytes: u64,
    pub free_reserve_bytes: u64,
    pub ballast_bytes: u64,
    pub log_prealloc_bytes: u64,
    pub log_prealloc_step_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftSection {
    pub timing: Timing,
    pub snapshot_entries: u64,
    pub keep_entries: u64,
    pub payload_entries: u64,
    pub payload_bytes: u64,
    pub inflight_bytes_max: u64,
    pub propose_timeout: Duration,
    pub hold: Duration,
    /// Zero: never by itself.
    pub compare_interval: Duration,
}

/// `heartbeat * 2 <= election_min <= election_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

impl Timing {
    /// Nodes on one network.
    pub const LAN: Timing = Timing::of_ms(75, 250, 350);
    /// Nodes in several places.
    pub const WAN: Timing = Timing::of_ms(375, 1250, 1750);

    const fn of_ms(heartbeat: u64, election_min: u64, election_max: u64) -> Timing {
        Timing {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSection {
    /// `None`: a cluster of one binds no peer port.
    pub listen: Option<SocketAddr>,
    /// Where it would listen.
    pub address: SocketAddr,
    /// `host:port`; there whenever `listen` is.
    pub advertise: Option<String>,
}

/// Between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSection {
    pub mode: TlsMode,
    /// Oldest version accepted.
    pub min_version: TlsVersion,
    /// Certificates that people bring: there if all three files are named. Without them the cluster's own authority
    /// gives certificates.
    pub files: Option<TlsConfig>,
}

/// Whether nodes speak to each other encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    Required,
    /// With those who can.
    Permissive,
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSection {
    /// All static peers, this node included unless it only joins; by id.
    pub peers: Vec<StaticPeer>,
    pub form: Form,
    /// Of certificates of the cluster's own authority.
    pub certificate_life: Duration,
    /// Kept by somebody else; `None`: in the data directory.
    pub sealing_key_file: Option<PathBuf>,
    /// With which it joins by itself at its first start.
    pub join_token_file: Option<PathBuf>,
    /// How often one address may try to join.
    pub join_rate: RateConfig,
}

impl ClusterSection {
    /// The node comes to its cluster by `init`, `join` or a token, and has a peer listener for that.
    pub fn is_entered(&self) -> bool {
        self.peers.is_empty() && (self.form.waits() || self.join_token_file.is_some())
    }
}

impl Config {
    /// The same, of a node that entered its cluster before: the token of its first start may have been taken away, and it
    /// is a member all the same.
    pub fn of_entered(mut self) -> Config {
        if !self.cluster.is_entered() {
            self.cluster.form = Form::Init;
            let address = self.peer.address;
            self.peer.listen = Some(address);
            let bound = (!address.ip().is_unspecified()).then(|| address.to_string());
            self.peer.advertise = self.peer.advertise.or(bound);
        }
        self
    }
}

/// A node named in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPeer {
    pub id: u64,
    pub name: String,
    /// `host:port` of its peer listener.
    pub rpc: String,
}

/// Who forms the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The lowest id of the static peers.
    Auto,
    /// Whoever is told to: `konsulctl cluster init`.
    Init,
    /// Not this node.
    Never,
    /// This node, though its id is not the lowest.
    Preferred,
}

impl Form {
    /// Without peers, for somebody to say how to go on.
    fn waits(self) -> bool {
        match self {
            Form::Init | Form::Never => true,
            Form::Auto | Form::Preferred => false,
        }
    }
}

/// No valid configuration: every reason, at least one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the host name; set node.name")]
    HostName {
        #[source]
        source: io::Error,
    },
    #[error("{}", Lines(problems))]
    Invalid { problems: Vec<Problem> },
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Start {
    /// Run the node.
    Run(Box<Loaded>),
    /// Print this and exit with 0.
    Print(String),
    /// Work on files.
    Offline(Offline),
}

/// The layers above the defaults, read but not yet understood.
struct Sources<'a> {
    file: Option<(&'a Path, &'a str)>,
    variables: Vec<(String, String)>,
    /// Files that the service manager provides, by the keys they are defaults of.
    credentials: Vec<(&'static str, PathBuf)>,
    args: &'a Args,
    host_name: String,
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let end = if at + 1 == self.0.len() { "" } else { "\n" };
            write!(f, "{problem}{end}")?;
        }
        Ok(())
    }
}

impl Args {
    /// What to do, by this command line and the environment of the process.
    pub fn start(&self) -> Result<Start, ConfigError> {
        if self.print_default_config {
            return Ok(Start::Print(keys::default_file()));
        }
        // Needs no configuration, or another part of it.
        if let Some(work) = &self.offline {
            return Ok(Start::Offline(work.clone()));
        }
        let loaded = Loaded::load(self)?;
        if self.print_config {
            return Ok(Start::Print(loaded.shown()));
        }
        if self.check_config {
            return Ok(Start::Print("configuration is valid\n".into()));
        }
        Ok(Start::Run(Box::new(loaded)))
    }
}

/// Newest log entries in memory; replication and apply read them from here.
const TAIL_BYTES_MAX: usize = 16 << 20;

impl Config {
    /// Where and how the storage lies.
    pub fn storage(&self) -> StorageConfig {
        let size = |bytes: u64| usize::try_from(bytes).expect("addresses have 64 bits");
        let storage = &self.storage;
        StorageConfig {
            data_dir: storage.data_dir.clone(),
            state_dir: storage.state_dir.clone(),
            map_bytes_max: size(storage.map_bytes),
            prezero_bytes: storage.log_prealloc_bytes,
            prezero_step_bytes: storage.log_prealloc_step_bytes,
            tail_bytes_max: TAIL_BYTES_MAX,
            payload_bytes_max: size(self.raft.payload_bytes),
            witnesses: Vec::new(),
        }
    }
}

/// Reads the file, the environment of the process and the flags.
fn read(args: &Args) -> Result<Layers, ConfigError> {
    let path = args.config.as_deref().unwrap_or_else(|| Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        // Without a file the defaults hold, unless somebody named one.
        Err(e) if e.kind() == io::ErrorKind::NotFound && args.config.is_none() => None,
        Err(source) => {
            return Err(ConfigError::Read { path: path.into(), source });
        }
    };
    // What is not UTF-8 is shown with replacement characters in the message about it.
    let lossy = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    };
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    Ok(layers(Sources {
        file: text.as_deref().map(|text| (path, text)),
        variables: std::env::vars_os().map(lossy).collect(),
        credentials: credentials(std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new)),
        args,
        host_name: host_name.map_err(|source| ConfigError::HostName { source })?.trim().to_owned(),
    }))
}

/// Those of our credentials that systemd put into this directory.
fn credentials(dir: Option<&Path>) -> Vec<(&'static str, PathBuf)> {
    let known = [("cluster.join_token_file", "join-token"), ("cluster.sealing_key_file", "sealing-key")];
    let file = |(key, name): (&'static str, &str)| Some((key, dir?.join(name)));
    known.into_iter().filter_map(file).filter(|(_, path)| path.exists()).collect()
}

/// What the layers say together, each value for itself.
struct Layers {
    settings: Settings,
    problems: Vec<Problem>,
    /// Where a variable of an earlier release switches TLS off.
    tls_off: Option<Origin>,
    host_name: String,
    aws: AwsEnvironment,
}

fn layers(sources: Sources<'_>) -> Layers {
    let mut settings = Settings::defaults();
    settings.put_credentials(&sources.credentials);
    let (given, mut problems) = sources.file.map_or_else(Default::default, |(path, text)| file::read(path, text));
    problems.extend(settings.put(given));
    problems.sort_by_key(Problem::line);
    let variable =
        |name: &str| sources.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let aws = AwsEnvironment::read(variable);
    let environment = env::read(sources.variables);
    problems.extend(environment.problems);
    problems.extend(settings.put(environment.given));
    let (given, of_flags) = sources.args.given();
    problems.extend(of_flags);
    problems.extend(settings.put(given));
    Layers { settings, problems, tls_off: environment.tls_off, host_name: sources.host_name, aws }
}

impl Layers {
    /// The configuration, if nothing is wrong with it.
    fn build(&self) -> Result<Config, Vec<Problem>> {
        let mut problems = self.problems.clone();
        match validate::build(&self.settings, self.tls_off.as_ref(), &self.host_name) {
            Ok(mut config) if problems.is_empty() => {
                config.discovery.aws.iter_mut().for_each(|found| found.environment = self.aws.clone());
                Ok(config)
            }
            Ok(_) => Err(problems),
            Err(more) => {
                problems.extend(more);
                Err(problems)
            }
        }
    }
}

#[cfg(test)]
mod tests;
