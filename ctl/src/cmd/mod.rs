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

use crate::{Context, args::Command, exit::Exit};

/// Does what was asked.
pub(crate) async fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
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
        Command::Completion(completion) => docs::run_completion(&completion, context),
        Command::Man(man) => docs::run_man(&man, context),
        Command::Debug(debug) => docs::run_debug(&debug, context),
    }
}
