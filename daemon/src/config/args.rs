//! The command line of konsuld.

use super::keys;
use super::settings::{Given, Origin, Problem};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// One node of a Konsul cluster: a replicated key/value store that speaks Consul's HTTP API.
///
/// Settings come from the file, then from the environment (KONSUL_<SECTION>_<KEY>), then from these flags; the later
/// wins. `--print-default-config` documents every key.
#[derive(Debug, Clone, Parser)]
#[command(name = "konsuld", version, max_term_width = 100)]
pub struct Args {
    /// Configuration file [default: /etc/konsul/konsul.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the log, the snapshots and the node's identity (storage.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What people call this node (node.name)
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The node id it wishes for when it joins (node.id)
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Where clients connect; may be repeated (http.listen)
    #[arg(long, value_name = "IP:PORT")]
    http: Vec<String>,
    /// Where other nodes connect (peer.listen)
    #[arg(long, value_name = "IP:PORT")]
    rpc: Option<String>,
    /// What other nodes connect to (peer.advertise)
    #[arg(long, value_name = "HOST:PORT")]
    rpc_advertise: Option<String>,
    /// What a client is told when it is sent to this node (http.advertise)
    #[arg(long, value_name = "URL")]
    http_advertise: Option<String>,
    /// A node of the cluster, this one included; repeated for each (cluster.peers)
    #[arg(long, value_name = "ID=NAME@HOST:PORT")]
    peer: Vec<String>,
    /// Join an existing cluster, never form one (cluster.form = "never")
    #[arg(long)]
    join_only: bool,
    /// Log level: off, error, warn, info, debug, trace (log.level)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other key; may be repeated
    #[arg(long, value_name = "KEY.PATH=VALUE")]
    set: Vec<String>,
    /// Look at files instead of running a node
    #[command(subcommand)]
    pub offline: Option<Offline>,
    /// Check the configuration and exit: 0 valid, 2 not
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration that holds, each value with where it comes from, and exit
    #[arg(long)]
    pub print_config: bool,
    /// Print a configuration file with every key, its default and what it means, and exit
    #[arg(long)]
    pub print_default_config: bool,
}

/// Work on files, while no node runs with them. The answer is JSON on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Offline {
    /// Look at an archive of the state
    #[command(subcommand)]
    Archive(OfflineArchive),
    /// Look at the data of a node that does not run, or change it
    #[command(subcommand)]
    Data(OfflineData),
}

/// What `konsulctl recover` has done by the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum OfflineData {
    /// Read what is left of a node: 0 read, 3 not possible as things are
    Inspect {
        /// Its data directory [default: that of the configuration]
        dir: Option<PathBuf>,
    },
    /// Restore an archive into the data directory of the configuration, which must not exist or be empty, as the only node
    /// of the archive's cluster, in a new recovery epoch: 0 done, 3 not possible as things are, 4 damaged
    Restore {
        /// The archive
        file: PathBuf,
    },
    /// Make the configured node the only voter of its cluster, after a majority is lost for good; `konsulctl recover` knows
    /// when that is right
    Recover {
        /// The node's id
        #[arg(long, value_name = "ID")]
        node_id: u64,
        /// Term of its last entry
        #[arg(long, value_name = "TERM")]
        term: u64,
        /// Index of its last entry
        #[arg(long, value_name = "INDEX")]
        index: u64,
    },
}

/// What `konsulctl snapshot` has done by the daemon, which alone knows how to read a state.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum OfflineArchive {
    /// Check every byte of an archive and tell what it is: 0 good, 4 damaged, 5 made by a newer version
    Inspect {
        /// The archive
        file: PathBuf,
    },
    /// Restore an archive on trial, into a state that is thrown away, and compare the digest: 0 good, 4 damaged, 5 made by
    /// a newer version
    Verify {
        /// The archive
        file: PathBuf,
        /// Directory with room for the whole state [default: the directory for temporary files]
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
    },
}

impl Args {
    /// What the flags set, and what is wrong with them.
    pub(super) fn given(&self) -> (Vec<Given>, Vec<Problem>) {
        let (mut given, mut problems) = (Vec::new(), Vec::new());
        for (flag, path, text) in self.named().into_iter().chain(self.set()) {
            let origin = Origin::Flag { name: flag };
            let Some(key) = keys::find(&path) else {
                problems.push(Problem::at(&origin, keys::unknown(&path)));
                continue;
            };
            match key.kind.raw_of_text(&text) {
                Ok(raw) => given.push(Given { key, raw, origin }),
                Err(bad) => problems.push(Problem::at(&origin, format!("`{path}` {}", bad.text))),
            }
        }
        (given, problems)
    }

    /// Flag, key and text of the flags that have a name of their own.
    fn named(&self) -> Vec<(String, String, String)> {
        let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.join(","));
        let flags = [
            ("--data-dir", "storage.data_dir", self.data_dir.clone()),
            ("--node-name", "node.name", self.node_name.clone()),
            ("--node-id", "node.id", self.node_id.clone()),
            ("--http", "http.listen", list(&self.http)),
            ("--rpc", "peer.listen", self.rpc.clone()),
            ("--rpc-advertise", "peer.advertise", self.rpc_advertise.clone()),
            ("--http-advertise", "http.advertise", self.http_advertise.clone()),
            ("--peer", "cluster.peers", list(&self.peer)),
            ("--join-only", "cluster.form", self.join_only.then(|| "never".to_owned())),
            ("--log-level", "log.level", self.log_level.clone()),
        ];
        let given = flags.into_iter().filter_map(|(flag, path, text)| Some((flag.to_owned(), path.to_owned(), text?)));
        given.collect()
    }

    fn set(&self) -> Vec<(String, String, String)> {
        let split = |pair: &String| match pair.split_once('=') {
            Some((path, text)) => (format!("--set {path}"), path.trim().to_owned(), text.trim().to_owned()),
            None => (format!("--set {pair}"), pair.clone(), String::new()),
        };
        self.set.iter().map(split).collect()
    }
}
