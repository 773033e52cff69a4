//! `konsulctl kv watch`: each change on a line, by blocking queries.
//!
//! Level-triggered: what is printed is the difference between two states seen, so several quick changes of a key may be
//! told as one, but the last state is always told.  A failure is told once and asked again with growing pauses.

use super::{Consistency, shown};
use crate::{Context, client::Ask, duration, exit::Exit, path::Path};
use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use konsul_api::kv::KvEntry;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use tokio::time;

/// How long one query blocks.
const WAIT: Duration = Duration::from_secs(300);
/// Pauses between failed queries.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// `konsulctl kv watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints what is there, then each change until Ctrl-C; with --json one object a line.\n\n\
    Examples:\n  konsulctl kv watch app/color\n  konsulctl kv watch --prefix app/ --json\n  \
    konsulctl kv watch app/ready --once   # wait for the next change")]
pub(crate) struct Watch {
    /// The key
    #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
    key: Option<String>,
    /// Watch every key that starts with it
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
    /// End after the next change
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    consistency: Consistency,
}

/// What is told of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    /// It was there when the watch began.
    Present,
    Set,
    Deleted,
}

/// A line for `--json`; `null` where there is nothing any more.
#[derive(Debug, Serialize)]
struct Line<'a> {
    event: Event,
    key: &'a str,
    value: Option<String>,
    flags: Option<u64>,
    index: Option<u64>,
}

pub(super) async fn run(watch: &Watch, context: &Context) -> anyhow::Result<Exit> {
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for Ctrl-C")?;
            Ok(Exit::Done)
        }
        // It only reads: nothing is lost when it is dropped.
        ended = follow(watch, context) => ended,
    }
}

async fn follow(watch: &Watch, context: &Context) -> anyhow::Result<Exit> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut index = None;
    let mut pause = PAUSE_MIN;
    loop {
        let (entries, next) = match look(watch, context, index.unwrap_or(0)).await {
            Ok(found) => found,
            Err(e) if index.is_none() || !is_transient(&e) => return Err(e),
            Err(e) => {
                context.output.note(&format!("watch: {e:#}; trying again in {pause:?}"));
                time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        pause = PAUSE_MIN;
        let is_first = index.is_none();
        let changed = tell(&mut seen, &entries, is_first, context)?;
        if watch.once && changed && !is_first {
            return Ok(Exit::Done);
        }
        // An index that went backwards belongs to another past: start over.
        index = Some(if index.is_some_and(|old| next < old) { 0 } else { next });
    }
}

fn is_transient(e: &anyhow::Error) -> bool {
    e.downcast_ref::<crate::client::ClientError>().is_some_and(crate::client::ClientError::is_transient)
}

/// The entries now, once the index has passed `after`.
async fn look(watch: &Watch, context: &Context, after: u64) -> anyhow::Result<(Vec<KvEntry>, u64)> {
    let path = match (&watch.key, &watch.prefix) {
        (Some(key), _) => Path::kv(key),
        (None, prefix) => Path::kv(prefix.as_deref().unwrap_or_default()).flag("recurse", true),
    };
    let mut path = watch.consistency.of(path);
    if after > 0 {
        path = path.with("index", &after.to_string()).with("wait", &duration::query(WAIT));
    }
    // A server adds up to a sixteenth to the wait, so that not all watchers come back at once.
    let ask = Ask::get(path).patient(if after > 0 { WAIT + WAIT / 16 } else { Duration::ZERO });
    let answer = context.client.send(&ask).await?;
    let is_absent = answer.status == StatusCode::NOT_FOUND;
    if !answer.status.is_success() && !is_absent {
        return Err(answer.into_error().await.into());
    }
    // Without an index the next query would not block, and we would ask without a pause.
    let index = answer.index().filter(|index| *index > 0);
    let index = index.with_context(|| format!("{} sends no X-Consul-Index; is it a Konsul server?", answer.server))?;
    if is_absent {
        answer.bytes().await?;
        return Ok((Vec::new(), index));
    }
    Ok((answer.json().await?, index))
}

/// Prints the difference to what was seen before; whether there was any.
fn tell(
    seen: &mut BTreeMap<String, u64>,
    entries: &[KvEntry],
    is_first: bool,
    context: &Context,
) -> anyhow::Result<bool> {
    let now: BTreeMap<&str, &KvEntry> = entries.iter().map(|e| (e.key.as_str(), e)).collect();
    let mut changed = false;
    for key in seen.keys().filter(|key| !now.contains_key(key.as_str())) {
        changed = true;
        print(Event::Deleted, key, None, context)?;
    }
    let event = if is_first { Event::Present } else { Event::Set };
    for (key, entry) in now.iter().filter(|(key, entry)| seen.get(**key) != Some(&entry.modify_index)) {
        changed = true;
        print(event, key, Some(entry), context)?;
    }
    *seen = now.iter().map(|(key, entry)| ((*key).to_owned(), entry.modify_index)).collect();
    Ok(changed)
}

fn print(event: Event, key: &str, entry: Option<&KvEntry>, context: &Context) -> anyhow::Result<()> {
    if context.output.is_json() {
        let value = entry.map(|e| STANDARD.encode(&e.value));
        let line = Line { event, key, value, flags: entry.map(|e| e.flags), index: entry.map(|e| e.modify_index) };
        return context.output.json_line(&line);
    }
    let word = match event {
        Event::Present => "present",
        Event::Set => "set",
        Event::Deleted => "deleted",
    };
    context.output.line(match entry {
        Some(entry) => format!("{word} {key} {} {}", entry.modify_index, shown(&entry.value)),
        None => format!("{word} {key}"),
    })
}
