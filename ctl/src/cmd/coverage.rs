//! Which command reaches which operation of the API: a test of the whole product compares it with the server's routes.

use serde::Serialize;

/// One operation and the words that reach it.
#[derive(Debug, Serialize)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) command: &'static str,
}

const fn op(method: &'static str, path: &'static str, command: &'static str) -> Operation {
    Operation { method, path, command }
}

/// Every operation of the API.
pub(crate) const COVERAGE: &[Operation] = &[
    op("GET", "/v1/kv/{key}", "kv get"),
    op("PUT", "/v1/kv/{key}", "kv put"),
    op("DELETE", "/v1/kv/{key}", "kv delete"),
    op("PUT", "/v1/txn", "txn"),
    op("PUT", "/v1/batch", "batch"),
    op("GET", "/v1/snapshot", "snapshot save"),
    op("PUT", "/v1/snapshot", "snapshot restore"),
    op("GET", "/v1/cluster/archive", "snapshot save"),
    op("PUT", "/v1/cluster/archive", "snapshot restore"),
    op("GET", "/v1/cluster/backup", "snapshot status"),
    op("PUT", "/v1/cluster/backup", "snapshot save"),
    op("GET", "/v1/status/leader", "status leader"),
    op("GET", "/v1/status/peers", "status peers"),
    op("GET", "/v1/agent/self", "agent self"),
    op("GET", "/v1/cluster/status", "cluster status"),
    op("GET", "/v1/cluster/leader", "cluster leader"),
    op("GET", "/v1/cluster/peers", "cluster peers"),
    op("GET", "/v1/cluster/digest", "cluster digest"),
    op("POST", "/v1/cluster/compare", "cluster compare"),
    op("GET", "/v1/cluster/upgrade", "upgrade status"),
    op("POST", "/v1/cluster/upgrade", "upgrade finalize"),
    op("PUT", "/v1/cluster/snapshot", "cluster snapshot"),
    op("PUT", "/v1/cluster/transfer-leadership", "cluster transfer-leadership"),
    op("POST", "/v1/cluster/restart-turn", "cluster can-restart"),
    op("POST", "/v1/cluster/join-token", "cluster generate-token"),
    op("GET", "/v1/cluster/join-token", "cluster tokens"),
    op("DELETE", "/v1/cluster/join-token/{id}", "cluster revoke-token"),
    op("GET", "/v1/cluster/audit", "audit"),
    op("GET", "/v1/cluster/ca", "ca status"),
    op("POST", "/v1/cluster/ca/rotate", "ca rotate"),
    op("POST", "/v1/cluster/init", "cluster init"),
    op("POST", "/v1/cluster/join", "cluster join"),
    op("POST", "/v1/cluster/leave", "cluster leave"),
    op("POST", "/v1/cluster/remove", "cluster remove"),
    op("POST", "/v1/cluster/promote", "cluster promote"),
    op("POST", "/v1/cluster/demote", "cluster demote"),
    op("GET", "/v1/operator/raft/configuration", "operator raft list-peers"),
    op("DELETE", "/v1/operator/raft/peer", "operator raft remove-peer"),
    op("POST", "/v1/operator/raft/transfer-leader", "operator raft transfer-leader"),
    op("GET", "/v1/operator/autopilot/configuration", "autopilot get"),
    op("PUT", "/v1/operator/autopilot/configuration", "autopilot set"),
    op("GET", "/v1/operator/autopilot/health", "autopilot health"),
    op("GET", "/v1/operator/autopilot/state", "autopilot state"),
    op("GET", "/health/live", "health --live"),
    op("GET", "/health/ready", "health --ready"),
    op("GET", "/metrics", "metrics"),
    op("GET", "/v1/openapi.json", "openapi"),
];

#[cfg(test)]
mod tests {
    use super::COVERAGE;
    use crate::args::Args;
    use clap::CommandFactory as _;

    #[test]
    fn every_command_of_the_table_exists() {
        for operation in COVERAGE {
            let mut command = &Args::command();
            for word in operation.command.split(' ') {
                match word.strip_prefix("--") {
                    Some(option) => assert!(
                        command.get_arguments().any(|a| a.get_long() == Some(option)),
                        "{}: no option {word}",
                        operation.command
                    ),
                    None => {
                        command = command
                            .find_subcommand(word)
                            .unwrap_or_else(|| panic!("{}: no command {word}", operation.command));
                    }
                }
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent_in_itself() {
        Args::command().debug_assert();
    }
}
