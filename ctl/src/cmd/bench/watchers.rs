//! Many blocking queries on one key, then one write: how long until the last one has its answer.

use super::{
    drive::{self, Plan},
    link::Link,
    report::Recorder,
    wire::WireError,
    work::{Data, Failure, Random},
};
use anyhow::{Context as _, bail};
use std::time::{Duration, Instant};
use tokio::{task::JoinSet, time};

/// How long the queries block: longer than any round.
const WAIT: Duration = Duration::from_secs(60);

/// What was measured.
pub(super) struct Measured {
    /// Of each round: until the last watcher was answered.
    pub(super) all: Recorder,
    /// Of each watcher.
    pub(super) each: Recorder,
    pub(super) took: Duration,
}

/// Runs the rounds with that many watchers; `settle` is the servers' time to take the queries in.
pub(super) async fn run(
    plan: &Plan,
    data: &Data,
    watchers: usize,
    rounds: u32,
    settle: Duration,
) -> anyhow::Result<Measured> {
    let mut links = drive::connect(plan, watchers + 1).await?;
    let mut writer = links.pop().context("a link for the writer")?;
    let mut random = Random::new(1);
    let begin = Instant::now();
    let mut measured = Measured { all: Recorder::new()?, each: Recorder::new()?, took: Duration::ZERO };
    write(&mut writer, data, &mut random).await?;
    for _ in 0..rounds {
        let index = index(&mut writer, data).await?;
        let query = query(data, index);
        for link in &mut links {
            if let Err(e) = link.send(&query).await {
                measured.each.record(Duration::ZERO, Err(Failure::Wire(e)));
            }
        }
        time::sleep(settle).await;
        links = round(links, index, &mut writer, data, &mut random, &mut measured).await?;
    }
    measured.took = begin.elapsed();
    Ok(measured)
}

/// One write, and every watcher's answer.
async fn round(
    links: Vec<Link>,
    index: u64,
    writer: &mut Link,
    data: &Data,
    random: &mut Random,
    measured: &mut Measured,
) -> anyhow::Result<Vec<Link>> {
    let mut waiting = JoinSet::new();
    for link in links {
        waiting.spawn(answered(link, index));
    }
    let sent = Instant::now();
    write(writer, data, random).await?;
    let mut links = Vec::with_capacity(waiting.len());
    let mut last = Ok(sent);
    while let Some(ended) = waiting.join_next().await {
        let (link, answer) = ended.context("a watcher failed")?;
        measured
            .each
            .record(answer.map_or(Duration::ZERO, |at| at.saturating_duration_since(sent)), answer.map(|_| ()));
        last = match (last, answer) {
            (Ok(last), Ok(at)) => Ok(at.max(last)),
            (Err(e), _) | (_, Err(e)) => Err(e),
        };
        links.push(link);
    }
    measured.all.record(last.map_or(Duration::ZERO, |last| last - sent), last.map(|_| ()));
    Ok(links)
}

/// When the watcher was told of an index beyond `index`.
async fn answered(mut link: Link, index: u64) -> (Link, Result<Instant, Failure>) {
    let result = match link.receive(WAIT + WAIT / 16).await {
        Err(e) => Err(Failure::Wire(e)),
        Ok(reply) if reply.status != 200 => Err(Failure::Status(reply.status)),
        Ok(reply) if reply.index.is_some_and(|now| now > index) => Ok(Instant::now()),
        // Woken without a change, or not before the query's own end.
        Ok(_) => Err(Failure::Wire(WireError::Timeout)),
    };
    (link, result)
}

fn query(data: &Data, index: u64) -> Vec<u8> {
    let key = data.key(0);
    format!("GET /v1/kv/{key}?index={index}&wait={}s HTTP/1.1\r\nHost: konsul\r\n\r\n", WAIT.as_secs()).into_bytes()
}

async fn write(link: &mut Link, data: &Data, random: &mut Random) -> anyhow::Result<()> {
    let value = data.value(random);
    let key = data.key(0);
    let head = format!("PUT /v1/kv/{key} HTTP/1.1\r\nHost: konsul\r\nContent-Length: {}\r\n\r\n", value.len());
    let reply = link.exchange(&[head.as_bytes(), &value].concat()).await.context("write the watched key")?;
    if reply.status != 200 {
        bail!("write the watched key: status {}: {}", reply.status, String::from_utf8_lossy(reply.body).trim());
    }
    Ok(())
}

/// The index the next round waits on.
async fn index(link: &mut Link, data: &Data) -> anyhow::Result<u64> {
    let request = format!("GET /v1/kv/{}?consistent HTTP/1.1\r\nHost: konsul\r\n\r\n", data.key(0));
    let reply = link.exchange(request.as_bytes()).await.context("read the watched key")?;
    reply
        .index
        .filter(|_| reply.status == 200)
        .with_context(|| format!("read the watched key: status {}", reply.status))
}
