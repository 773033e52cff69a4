//! `konsulctl kv import`: entries of a file in batches, several at a time, resumable.
//!
//! Batches are confirmed in the file's order, so what is confirmed has no gaps.  Two batches that write the same key are
//! never under way together: the later line wins, as in the file.

use super::{
    entries::{Entry, Objects},
    progress_file::ProgressFile,
};
use crate::{
    Context,
    client::{Ask, ClientError, Payload},
    exit::{Exit, UsageError},
    path::Path,
};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesOrdered};
use konsul_api::batch::{BatchAnswer, BatchOp, BatchRequest};
use std::{
    collections::{HashSet, VecDeque},
    fs,
    io::{self, Read},
    time::Duration,
};
use tokio::time::{self, Instant};

/// Bytes of keys and values in a batch: below the server's limit also when they are written as base64.
const BATCH_BYTES_MAX: usize = 360 * 1024;
/// What an operation weighs beside its key and value.
const OP_BYTES: usize = 64;
/// How much of the file is read at a time.
const READ_BYTES: usize = 256 * 1024;
/// Pauses between tries of a batch.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// `konsulctl kv import`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the lines of `konsulctl kv export` or the array of `consul kv export`. If it is stopped,\n\
    FILE.import-state tells how far it came, and --resume goes on from there.\n\n\
    Examples:\n  konsulctl kv import all.ndjson\n  konsulctl kv import all.ndjson --resume\n  \
    consul kv export app/ | konsulctl kv import - --prefix copy/"
)]
pub(crate) struct Import {
    /// The file; - is stdin
    file: String,
    /// Put this before every key
    #[arg(long, default_value = "", hide_default_value = true, value_name = "P")]
    prefix: String,
    /// Entries in a batch at most
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Batches under way at a time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// Go on where the last import of this file stopped
    #[arg(long)]
    resume: bool,
    /// How long to try a batch while the cluster has no leader or cannot be reached
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = crate::duration::parse)]
    retry: Duration,
}

pub(super) async fn run(import: &Import, context: &Context) -> anyhow::Result<Exit> {
    let is_stdin = import.file == "-";
    if is_stdin && import.resume {
        return Err(UsageError("stdin cannot be resumed: give a file".to_owned()).into());
    }
    let source: Box<dyn Read> = if is_stdin {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(&import.file).with_context(|| format!("open {}", import.file))?)
    };
    let mut state =
        if is_stdin { None } else { Some(ProgressFile::open(&import.file, &import.prefix, import.resume)?) };
    let skipped = state.as_ref().map_or(0, ProgressFile::confirmed);
    let length = if is_stdin { None } else { fs::metadata(&import.file).ok().map(|m| m.len()) };
    let bar = context.output.progress(length);
    let mut batches = Batches::new(bar.wrap_read(source), skipped, import);
    let sending = send_all(&mut batches, &mut state, import, context);
    if is_stdin {
        // Ctrl-C must keep its usual meaning: reading stdin may block, and there is nothing to resume.
        return finish(sending.await, None, skipped, context);
    }
    let result = tokio::select! {
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Err(anyhow::anyhow!("interrupted")),
            Err(e) => Err(e).context("wait for Ctrl-C"),
        },
        // Dropped batches may or may not be written; they are not confirmed and so written again by --resume.
        result = sending => result,
    };
    bar.finish_and_clear();
    finish(result, state, skipped, context)
}

/// Tells the outcome, and keeps the state if there is something left to resume.
fn finish(
    result: anyhow::Result<u64>,
    state: Option<ProgressFile>,
    skipped: u64,
    context: &Context,
) -> anyhow::Result<Exit> {
    let error = match result {
        Ok(total) => {
            state.map_or(Ok(()), ProgressFile::remove)?;
            let answer = serde_json::json!({"imported": total - skipped, "skipped": skipped});
            context.output.result(&answer, || format!("{} keys imported", total - skipped))?;
            return Ok(Exit::Done);
        }
        Err(e) => e,
    };
    let Some(mut state) = state else { return Err(error) };
    state.write()?;
    context.output.note(&format!(
        "{} entries are in; go on with --resume (state in {})",
        state.confirmed(),
        state.path().display()
    ));
    Err(error)
}

/// Sends every batch; the number of entries in the whole file.
async fn send_all<R: Read>(
    batches: &mut Batches<R>,
    state: &mut Option<ProgressFile>,
    import: &Import,
    context: &Context,
) -> anyhow::Result<u64> {
    let in_flight_max = usize::try_from(import.in_flight).context("--in-flight")?;
    let mut under_way: FuturesOrdered<LocalBoxFuture<'_, anyhow::Result<u64>>> = FuturesOrdered::new();
    let mut keys: VecDeque<HashSet<String>> = VecDeque::new();
    let mut confirmed = batches.skip;
    loop {
        let batch = batches.next()?;
        while let Some(batch_keys) = keys.front() {
            let must_wait = batch.as_ref().is_none_or(|b| keys.iter().any(|k| !k.is_disjoint(&b.keys)));
            if !must_wait && keys.len() < in_flight_max {
                break;
            }
            let expected = batch_keys.len();
            let end = under_way.next().await.with_context(|| format!("a batch of {expected} keys was lost"))??;
            keys.pop_front();
            confirmed = end;
            if let Some(state) = state {
                state.confirm(confirmed)?;
            }
        }
        let Some(batch) = batch else { return Ok(confirmed) };
        keys.push_back(batch.keys);
        let (ops, end) = (batch.ops, batch.end);
        under_way.push_back(async move { send(ops, import.retry, context).await.map(|()| end) }.boxed_local());
    }
}

/// Entries that go together.
struct Batch {
    ops: Vec<BatchOp>,
    keys: HashSet<String>,
    /// Number of the last entry, counted from 1 over the whole file.
    end: u64,
}

/// Cuts a file into batches.
struct Batches<R> {
    source: R,
    objects: Objects,
    chunk: Vec<u8>,
    /// Entries to leave out at the beginning.
    skip: u64,
    prefix: String,
    ops_max: usize,
    /// An entry that did not fit into the batch before.
    left_over: Option<(BatchOp, String, usize)>,
}

impl<R: Read> Batches<R> {
    fn new(source: R, skip: u64, import: &Import) -> Self {
        Self {
            source,
            objects: Objects::new(),
            chunk: vec![0; READ_BYTES],
            skip,
            prefix: import.prefix.clone(),
            ops_max: usize::try_from(import.batch).unwrap_or(usize::MAX),
            left_over: None,
        }
    }

    /// The next batch; `None` at the end of the file.
    fn next(&mut self) -> anyhow::Result<Option<Batch>> {
        let mut batch = Batch { ops: Vec::new(), keys: HashSet::new(), end: 0 };
        let mut bytes = 0;
        loop {
            let Some((op, key, weight)) = self.entry()? else { break };
            if !batch.ops.is_empty() && (batch.ops.len() == self.ops_max || bytes + weight > BATCH_BYTES_MAX) {
                self.left_over = Some((op, key, weight));
                break;
            }
            bytes += weight;
            batch.ops.push(op);
            batch.keys.insert(key);
        }
        batch.end = self.objects.count() - u64::from(self.left_over.is_some());
        Ok(if batch.ops.is_empty() { None } else { Some(batch) })
    }

    fn entry(&mut self) -> anyhow::Result<Option<(BatchOp, String, usize)>> {
        if let Some(entry) = self.left_over.take() {
            return Ok(Some(entry));
        }
        loop {
            let number = self.objects.count() + 1;
            if let Some(object) = self.objects.next()? {
                if number <= self.skip {
                    continue;
                }
                return parse(object, &self.prefix).with_context(|| format!("read entry {number}")).map(Some);
            }
            let n = self.source.read(&mut self.chunk).context("read the entries")?;
            if n == 0 {
                self.objects.end()?;
                return Ok(None);
            }
            self.objects.push(&self.chunk[..n]);
        }
    }
}

fn parse(object: &[u8], prefix: &str) -> anyhow::Result<(BatchOp, String, usize)> {
    let entry: Entry<'_> = serde_json::from_slice(object)?;
    let value = entry.bytes().context("the value is not base64")?;
    let key = format!("{prefix}{}", entry.key);
    let weight = key.len() + value.len() + OP_BYTES;
    Ok((BatchOp::Set { key: key.clone(), value, flags: entry.flags }, key, weight))
}

/// Writes a batch, trying again while that may help: setting a key twice is harmless.
async fn send(ops: Vec<BatchOp>, patience: Duration, context: &Context) -> anyhow::Result<()> {
    let (ask, count) = request(ops)?;
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE_MIN;
    loop {
        match attempt(&ask, count, context).await {
            Err(e) if is_transient(&e) && Instant::now() + pause < deadline => {
                time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            result => return result,
        }
    }
}

fn is_transient(e: &anyhow::Error) -> bool {
    e.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient)
}

/// The request, and how many results it must have; 0 for a plain write.
fn request(mut ops: Vec<BatchOp>) -> anyhow::Result<(Ask, usize)> {
    // One large value may be beyond a batch's limit once it is base64: as a plain write it has the value's own limit.
    if let [BatchOp::Set { key, value, flags }] = ops.as_mut_slice() {
        let path = Path::kv(key).with("flags", &flags.to_string());
        return Ok((Ask::put(path, Payload::Bytes(Bytes::from(std::mem::take(value)))), 0));
    }
    let count = ops.len();
    let body = serde_json::to_vec(&BatchRequest { atomic: false, ops }).context("encode a batch")?;
    Ok((Ask::put(Path::new("/v1/batch"), Payload::Bytes(Bytes::from(body))), count))
}

async fn attempt(ask: &Ask, count: usize, context: &Context) -> anyhow::Result<()> {
    let answer = context.client.ask(ask).await?;
    if count == 0 {
        let written: bool = answer.json().await?;
        anyhow::ensure!(written, "the server refused to write a key");
        return Ok(());
    }
    let answer: BatchAnswer = answer.json().await?;
    if answer.results.len() != count || answer.results.contains(&false) {
        bail!("the server wrote only a part of a batch of {count} keys");
    }
    Ok(())
}
