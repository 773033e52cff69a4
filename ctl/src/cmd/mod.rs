//! The commands: one file a noun.

pub(crate) mod audit;
pub(crate) mod autopilot;
pub(crate) mod bench;
pub(crate) mod ca;
pub(crate) mod cluster;
pub(crate) mod compare;
pub(crate) mod coverage;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod kv;
pub(crate) mod leaderless;
pub(crate) mod membership;
pub(crate) mod node;
pub(crate) mod operator;
pub(crate) mod recover;
pub(crate) mod restart;
pub(crate) mod snapshot;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod txn;
pub(crate) mod upgrade;

use crate::{Context, exit::Exit};
use clap::Subcommand;

/// Everything konsulctl does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read, write and watch keys
    #[command(subcommand)]
    Kv(kv::Kv),
    /// Run a transaction: all operations or none
    Txn(txn::Txn),
    /// Write many keys in one log entry
    Batch(txn::Batch),
    /// Look at the cluster and steer it
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Look at the cluster's own authority and replace it
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Show who did what to the cluster, from where, and what came of it
    Audit(audit::Audit),
    /// Look at autopilot and set it
    #[command(subcommand)]
    Autopilot(autopilot::Autopilot),
    /// The cluster in the words of Consul's command line
    #[command(subcommand)]
    Operator(operator::Operator),
    /// Save, verify, keep and restore backups
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Go on with one node when a majority is lost for good
    #[command(subcommand)]
    Recover(recover::Recover),
    /// See how far a rolling upgrade is, and finalize it
    #[command(subcommand)]
    Upgrade(upgrade::Upgrade),
    /// Look for what is wrong with this host and its cluster, and tell what to do about it
    Doctor(doctor::Doctor),
    /// Tell whether the server is alive and ready
    Health(node::Health),
    /// Print the server's metrics in Prometheus' format
    Metrics,
    /// Ask the server about itself
    #[command(subcommand)]
    Agent(node::Agent),
    /// Tell the leader and the peers by their Raft addresses
    #[command(subcommand)]
    Status(node::Status),
    /// Print the OpenAPI document of the server's API
    Openapi,
    /// Make certificates for TLS between nodes
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Measure a cluster
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Print a completion script for a shell
    Completion(docs::Completion),
    /// Write the man pages into a directory
    Man(docs::Man),
    /// For konsulctl's own tests
    #[command(subcommand, hide = true)]
    Debug(docs::Debug),
}

/// Does what was asked; `whole` is the command line that explains itself.
pub(crate) async fn run(command: Command, whole: clap::Command, context: &Context) -> anyhow::Result<Exit> {
    match command {
        Command::Kv(kv) => kv::run(kv, context).await,
        Command::Txn(txn) => txn::run(&txn, context).await,
        Command::Batch(batch) => txn::run_batch(&batch, context).await,
        Command::Cluster(cluster) => cluster::run(cluster, context).await,
        Command::Ca(ca) => ca::run(&ca, context).await,
        Command::Audit(audit) => audit::run(&audit, context).await,
        Command::Autopilot(autopilot) => autopilot::run(autopilot, context).await,
        Command::Operator(operator) => operator::run(operator, context).await,
        Command::Upgrade(upgrade) => upgrade::run(upgrade, context).await,
        Command::Recover(recover) => recover::run(recover, context),
        Command::Snapshot(snapshot) => snapshot::run(snapshot, context).await,
        Command::Health(health) => node::run_health(&health, context).await,
        Command::Metrics => node::run_metrics(context).await,
        Command::Agent(agent) => node::run_agent(&agent, context).await,
        Command::Status(status) => node::run_status(&status, context).await,
        Command::Openapi => node::run_openapi(context).await,
        Command::Doctor(doctor) => doctor::run(&doctor, context).await,
        Command::Tls(tls) => tls::run(&tls, context),
        Command::Bench(bench) => bench::run(bench, context).await,
        Command::Completion(completion) => docs::run_completion(&completion, whole, context),
        Command::Man(man) => docs::run_man(&man, whole, context),
        Command::Debug(debug) => docs::run_debug(&debug, context),
    }
}
