//! `konsulctl audit`: who did what to the cluster.

use crate::{
    Context,
    client::{Ask, ClientError},
    exit::Exit,
    output,
    path::Path,
};
use anyhow::Context as _;
use konsul_api::audit::AuditRow;
use std::time::Duration;
use tokio::time;

/// Between two looks for new rows: the audit grows by a few rows a second at most.
const PAUSE: Duration = Duration::from_secs(1);
/// Rows asked for at a time while following.
const PAGE: u32 = 1_000;

/// `konsulctl audit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The cluster keeps the newest 10,000 rows; the log of each node has its own for longer.\n\n\
    Examples:\n  konsulctl audit\n  konsulctl audit --limit 1000 --json\n  konsulctl audit --follow")]
pub(crate) struct Audit {
    /// How many rows at most: the newest
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Go on with each new row until Ctrl-C; with --json one object a line
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(args: &Audit, context: &Context) -> anyhow::Result<Exit> {
    if !args.follow {
        let rows = look(args.limit, None, context).await?;
        context
            .output
            .result(&rows, || if rows.is_empty() { "nothing has happened yet".to_owned() } else { table(&rows) })?;
        return Ok(Exit::Done);
    }
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for Ctrl-C")?;
            Ok(Exit::Done)
        }
        // It only reads: nothing is lost when it is dropped.
        ended = follow(args.limit, context) => ended,
    }
}

async fn look(limit: u32, after: Option<&str>, context: &Context) -> anyhow::Result<Vec<AuditRow>> {
    let path = Path::new("/v1/cluster/audit").with("limit", &limit.to_string());
    let path = match after {
        Some(after) => path.with("after", after),
        None => path,
    };
    Ok(context.client.json(&Ask::get(path)).await?)
}

/// Each row once, in order; a failure is told and asked again.
async fn follow(limit: u32, context: &Context) -> anyhow::Result<Exit> {
    let mut rows = look(limit, None, context).await?;
    // Before the first row: the audit of a fresh cluster may be empty.
    let mut last = "0.0".to_owned();
    loop {
        for row in &rows {
            tell(row, context)?;
            last.clone_from(&row.id);
        }
        if rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
            time::sleep(PAUSE).await;
        }
        rows = match look(PAGE, Some(&last), context).await {
            Ok(rows) => rows,
            Err(e) if e.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient) => {
                context.output.note(&format!("audit: {e:#}; trying again"));
                Vec::new()
            }
            Err(e) => return Err(e),
        };
    }
}

fn tell(row: &AuditRow, context: &Context) -> anyhow::Result<()> {
    if context.output.is_json() {
        return context.output.json_line(row);
    }
    let [time, event, who, from, what, outcome] = cells(row);
    context.output.line(format!("{time}  {event}  {who}  {from}  {what}  {outcome}"))
}

fn table(rows: &[AuditRow]) -> String {
    output::table(&["TIME", "EVENT", "WHO", "FROM", "WHAT", "OUTCOME"], rows.iter().map(|row| cells(row).into()))
}

/// What is empty is shown as a dash. A stranger's text must not steer the terminal.
fn cells(row: &AuditRow) -> [String; 6] {
    [&row.time, &row.event, &row.who, &row.from, &row.what, &row.outcome].map(|text| {
        let shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if shown.is_empty() { "-".to_owned() } else { shown }
    })
}
