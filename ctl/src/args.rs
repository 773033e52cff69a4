//! The command line: what may be said, and how it is explained.

use crate::{cmd::Command, duration, exit::UsageError, server::Server};
use clap::Parser;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  konsulctl kv put app/color blue
  konsulctl kv get app/color
  konsulctl --server http://10.0.0.1:8500,http://10.0.0.2:8500 cluster status
  konsulctl snapshot save backup.kbs

Environment:
  KONSUL_HTTP_ADDR, CONSUL_HTTP_ADDR   servers, where --server is not given; a comma between several

Exit codes:
  0 done, 1 failed, 2 wrong usage; of backups also 3 not possible as things are (nothing was changed),
  4 damaged, 5 made by a newer version, 10 no leader";

/// Command line of Konsul, the replicated key/value store.
#[derive(Debug, Parser)]
#[command(name = "konsulctl", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 120)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Server to ask; repeated or with commas: the first that can be reached [default: unix:///run/konsul/admin.sock for
    /// those who may use it, else http://127.0.0.1:8500]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',', help_heading = "Global options")]
    server: Vec<Server>,
    /// How long to wait for an answer
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration::parse,
        help_heading = "Global options"
    )]
    pub(crate) timeout: Duration,
    /// Print JSON, errors included
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
}

impl Global {
    /// The servers to ask: never none.
    pub(crate) fn servers(&self) -> Result<Vec<Server>, UsageError> {
        if !self.server.is_empty() {
            return Ok(self.server.clone());
        }
        // Consul's own variable second: a host set up for its clients needs nothing more.
        for variable in ["KONSUL_HTTP_ADDR", "CONSUL_HTTP_ADDR"] {
            let addresses = std::env::var(variable).unwrap_or_default();
            if !addresses.is_empty() {
                let servers: Result<Vec<Server>, String> = addresses.split(',').map(str::parse).collect();
                return servers.map_err(|e| UsageError(format!("{variable}: {e}")));
            }
        }
        Ok(vec![Server::of_this_host()])
    }
}
