//! `konsulctl doctor`: what is wrong with this host and its cluster, and what to do about it.
//!
//! Looks and changes nothing; works before a node runs, and says of what it cannot look at that it could not.

mod cluster;
mod disk;
mod finding;
mod host;
mod net;
mod settings;

use crate::{Context, exit::Exit, output};
use finding::{Finding, Verdict};
use host::Process;
use serde::Serialize;
use settings::Settings;
use std::path::PathBuf;

/// `konsulctl doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0 if no problem was found, 1 if there is one; warnings count with --strict.\n\n\
    Examples:\n  konsulctl doctor\n  konsulctl doctor --json --strict\n  konsulctl doctor --config ./konsul.toml")]
pub(crate) struct Doctor {
    /// The configuration to look at [default: that of konsuld on this host]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
struct Report {
    /// The worst that was found.
    verdict: Verdict,
    findings: Vec<Finding>,
}

pub(crate) async fn run(doctor: &Doctor, context: &Context) -> anyhow::Result<Exit> {
    let (settings, of_settings) = Settings::ask(doctor.config.as_deref());
    let mut findings = vec![of_settings];
    findings.extend(disk::look(&settings));
    findings.extend(host::look(&settings, Process::find(&settings).as_ref()));
    findings.extend(net::ports(&settings));
    let (of_cluster, members) = cluster::look(&settings, context).await;
    findings.push(net::names(&settings, members).await);
    findings.extend(of_cluster);
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    let report = Report { verdict, findings };
    context.output.result(&report, || in_words(&report))?;
    let bad = if doctor.strict { Verdict::Warning } else { Verdict::Problem };
    Ok(if verdict >= bad { Exit::Failed } else { Exit::Done })
}

/// A table of all, then what to do, the worst first.
fn in_words(report: &Report) -> String {
    let row = |finding: &Finding| {
        vec![finding.check.to_owned(), finding.verdict.as_str().to_owned(), finding.found.replace('\n', "; ")]
    };
    let table = output::table(&["CHECK", "VERDICT", "FOUND"], report.findings.iter().map(row));
    let mut to_do: Vec<&Finding> = report.findings.iter().filter(|finding| finding.remedy.is_some()).collect();
    to_do.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    let lines: Vec<String> = to_do
        .into_iter()
        .map(|finding| {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            format!("{} ({}): {remedy}", finding.check, finding.verdict.as_str())
        })
        .collect();
    if lines.is_empty() { table } else { format!("{table}\n\nWhat to do:\n  {}", lines.join("\n  ")) }
}
