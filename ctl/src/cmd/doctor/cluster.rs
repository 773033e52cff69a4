//! The cluster: who answers, how many may fail, whether all run the same version, what time it is elsewhere, and for how
//! long the certificates hold.

use super::finding::{Finding, ok, problem, unknown, warning};
use super::settings::{Settings, installed_version};
use crate::{
    Context,
    client::{Ask, Client},
    path::Path,
    server::Server,
};
use futures_util::future;
use konsul_api::cluster::{ClusterStatus, Member};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::pem::Pem;

/// Patience with each node.
const PROBE: Duration = Duration::from_secs(2);
/// A clock that is further off than the header's second and the way there.
const SKEW: Duration = Duration::from_secs(3);
const SKEW_MUCH: Duration = Duration::from_secs(60);
const DAY_S: i64 = 24 * 3600;
/// Certificates that people renew need some notice.
const SOON_DAYS: i64 = 14;

/// What a node said, and when by its clock.
struct Told {
    status: ClusterStatus,
    /// How far its clock is off, either way.
    skew: Option<Duration>,
}

/// What was found, and where the members are to be reached.
pub(super) async fn look(settings: &Settings, context: &Context) -> (Vec<Finding>, Vec<String>) {
    let mut findings: Vec<Finding> =
        settings.certificates().into_iter().map(|(key, path)| certificate_file(key, &path)).collect();
    let told = match ask(&context.client).await {
        Ok(told) => told,
        Err(error) => {
            let remedy = "start it (systemctl start konsul), or name a node with --server URL";
            findings.push(unknown("cluster", error.to_string(), remedy));
            return (findings, Vec::new());
        }
    };
    let status = &told.status;
    if status.members.is_empty() {
        let waits = status.node.waiting.clone().unwrap_or_else(|| "it is in none yet".to_owned());
        let remedy = "konsulctl cluster init on the first node, konsulctl cluster join TOKEN on the others";
        findings.push(warning("cluster", waits, remedy));
        return (findings, Vec::new());
    }
    let others = future::join_all(status.members.iter().map(ask_member)).await;
    findings.push(quorum(status));
    findings.push(versions(status, &others));
    findings.push(clocks(&told, &others));
    findings.extend(own_certificate(status, settings.certificate_life()));
    (findings, status.members.iter().map(|member| member.rpc.clone()).collect())
}

async fn ask(client: &Client) -> anyhow::Result<Told> {
    let answer = client.send(&Ask::get(Path::new("/v1/cluster/status"))).await?;
    let skew = answer.date().map(|there| {
        let here = SystemTime::now();
        here.duration_since(there).or_else(|_| there.duration_since(here)).unwrap_or_default()
    });
    if !answer.status.is_success() {
        return Err(answer.into_error().await.into());
    }
    Ok(Told { status: answer.json().await?, skew })
}

async fn ask_member(member: &Member) -> (String, Option<Told>) {
    let told = match member.http.parse::<Server>() {
        Ok(server) => ask(&Client::new(vec![server], PROBE)).await.ok(),
        Err(_) => None,
    };
    // Without a port of its own for clients from elsewhere, a member's address leads to somebody else or to nobody.
    (member.name.clone(), told.filter(|told| told.status.node.id == member.id))
}

fn quorum(status: &ClusterStatus) -> Finding {
    const CHECK: &str = "quorum";
    let voters = status.members.iter().filter(|member| member.voter).count();
    let see = "see `konsulctl autopilot health`, and start the nodes that are down";
    if !status.has_quorum {
        return problem(CHECK, format!("no leader, or no majority of the {voters} voters answers"), see);
    }
    let found = format!("{voters} voters, of which {} may fail", status.failure_tolerance);
    match (voters, status.failure_tolerance) {
        (1, _) => warning(
            CHECK,
            "one voter: if it fails, nothing is served",
            "add two nodes: konsulctl cluster generate-token",
        ),
        (2, _) => {
            warning(CHECK, found, "two nodes are less safe than one: add a third, konsulctl cluster generate-token")
        }
        (_, 0) => problem(CHECK, format!("{found}: the next failure stops the cluster"), see),
        (_, _) if status.healthy == Some(false) => warning(CHECK, format!("{found}; not all voters are well"), see),
        (_, _) => ok(CHECK, found),
    }
}

fn versions(status: &ClusterStatus, others: &[(String, Option<Told>)]) -> Finding {
    const CHECK: &str = "versions";
    let own = &status.node;
    let is_here = |installed: &String| *installed != own.version;
    if let Some(installed) = installed_version().filter(is_here) {
        let found = format!("{} runs {}, but {installed} is installed here", own.name, own.version);
        let remedy = "if the upgrade's restart was put off: konsulctl cluster can-restart --hand-over && systemctl restart konsul";
        return warning(CHECK, found, remedy);
    }
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::from([(own.version.as_str(), vec![own.name.as_str()])]);
    let mut silent = Vec::new();
    for (name, told) in others.iter().filter(|(name, _)| *name != own.name) {
        match told {
            Some(told) => by_version.entry(&told.status.node.version).or_default().push(name),
            None => silent.push(name.as_str()),
        }
    }
    let all: Vec<String> =
        by_version.iter().map(|(version, nodes)| format!("{version} on {}", nodes.join(", "))).collect();
    let all = all.join("; ");
    if by_version.len() > 1 {
        return warning(CHECK, all, "upgrade the rest; a mixture is for the time of an upgrade only");
    }
    if !silent.is_empty() {
        let found = format!("{all}; {} could not be asked", silent.join(", "));
        return unknown(CHECK, found, "run it on each node: their ports for clients cannot be reached from here");
    }
    ok(CHECK, all)
}

fn clocks(told: &Told, others: &[(String, Option<Told>)]) -> Finding {
    const CHECK: &str = "clocks";
    let of_others = others.iter().filter_map(|(name, told)| Some((name.as_str(), told.as_ref()?.skew?)));
    let own = told.skew.map(|skew| (told.status.node.name.as_str(), skew));
    let Some((name, skew)) = own.into_iter().chain(of_others).max_by_key(|(_, skew)| *skew) else {
        return unknown(CHECK, "no node tells its time", "is that a Konsul server? see --server");
    };
    let found = format!("that of {name} and this one differ by {} s", skew.as_secs());
    let remedy = "run chrony or systemd-timesyncd on both: certificates and tokens count by them";
    if skew >= SKEW_MUCH {
        problem(CHECK, found, remedy)
    } else if skew >= SKEW {
        warning(CHECK, found, remedy)
    } else {
        ok(CHECK, "no node's differs from this one")
    }
}

/// Of the cluster's own authority: renewed by itself when a third is left.
fn own_certificate(status: &ClusterStatus, life: Duration) -> Option<Finding> {
    const CHECK: &str = "certificate";
    let certificate = status.node.certificate.as_ref()?;
    let left = Duration::from_secs(certificate.expires_in_s);
    let found = format!("that of {} holds until {}", status.node.name, certificate.not_after);
    let remedy = "look why it is not renewed: journalctl -u konsul, konsulctl ca status";
    if left.is_zero() {
        return Some(problem(CHECK, found, remedy));
    }
    if left * 6 < life {
        return Some(warning(CHECK, format!("{found}, and should have been renewed"), remedy));
    }
    Some(ok(CHECK, found))
}

fn certificate_file(key: &'static str, path: &PathBuf) -> Finding {
    const CHECK: &str = "certificate";
    let shown = format!("{key} {}", path.display());
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return problem(CHECK, format!("{shown}: {error}"), "put it there, readable for the user of konsuld");
        }
    };
    let ends: Result<Vec<i64>, String> = Pem::iter_from_buffer(&bytes).map(not_after).collect();
    let ends = match ends {
        Ok(ends) => ends,
        Err(error) => return problem(CHECK, format!("{shown}: {error}"), "put a PEM file with certificates there"),
    };
    let Some(end) = ends.into_iter().min() else {
        return problem(CHECK, format!("{shown}: no certificate in it"), "put a PEM file with certificates there");
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let days = (end - i64::try_from(now).unwrap_or(i64::MAX)).div_euclid(DAY_S);
    let remedy = "have it renewed and put the new file in its place; it is read again by itself";
    match days {
        ..0 => problem(CHECK, format!("{shown} has expired"), remedy),
        0..SOON_DAYS => warning(CHECK, format!("{shown} holds for {days} days"), remedy),
        _ => ok(CHECK, format!("{shown} holds for {days} days")),
    }
}

fn not_after(pem: Result<Pem, x509_parser::error::PEMError>) -> Result<i64, String> {
    let pem = pem.map_err(|error| error.to_string())?;
    let certificate = pem.parse_x509().map_err(|error| error.to_string())?;
    Ok(certificate.validity().not_after.timestamp())
}
