//! `konsulctl txn` and `konsulctl batch`: several operations in one request.

use crate::{
    Context,
    client::{Answer, Ask, Payload},
    exit::Exit,
    file, output,
    path::Path,
};
use bytes::Bytes;
use hyper::StatusCode;
use konsul_api::{
    batch::BatchAnswer,
    txn::{TxnAnswer, TxnError, TxnResult},
};

/// `konsulctl txn`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Values are base64. Exit code 1 if an operation failed; then none was done.\n\n\
    Examples:\n  \
    echo '[{\"KV\":{\"Verb\":\"set\",\"Key\":\"a\",\"Value\":\"Mg==\"}},{\"KV\":{\"Verb\":\"get\",\"Key\":\"a\"}}]' \
    | konsulctl txn -")]
pub(crate) struct Txn {
    /// A JSON array as for PUT /v1/txn; - is stdin
    file: String,
}

/// `konsulctl batch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Values are base64; ops are set, cas, delete, delete-cas and delete-tree.\n\
    Exit code 1 if an operation did not apply.\n\n\
    Examples:\n  \
    echo '{\"atomic\":true,\"ops\":[{\"op\":\"set\",\"key\":\"a\",\"value\":\"Mg==\"},{\"op\":\"delete\",\"key\":\"b\"}]}' \
    | konsulctl batch -")]
pub(crate) struct Batch {
    /// A JSON object as for PUT /v1/batch; - is stdin
    file: String,
}

pub(crate) async fn run(txn: &Txn, context: &Context) -> anyhow::Result<Exit> {
    let answer: TxnAnswer = put(context, "/v1/txn", &txn.file).await?.json().await?;
    context.output.result(&answer, || match &answer.errors {
        None => results(answer.results.as_deref().unwrap_or_default()),
        Some(errors) => failures(errors),
    })?;
    let Some(errors) = answer.errors else {
        return Ok(Exit::Done);
    };
    context.output.error(&format!("{} of the operations failed, so none was done", errors.len()));
    Ok(Exit::Failed)
}

fn results(results: &[TxnResult]) -> String {
    if results.is_empty() {
        return "done".to_owned();
    }
    let row = |r: &TxnResult| {
        vec![r.kv.key.clone(), r.kv.modify_index.to_string(), r.kv.flags.to_string(), super::kv::shown(&r.kv.value)]
    };
    output::table(&["KEY", "INDEX", "FLAGS", "VALUE"], results.iter().map(row))
}

fn failures(errors: &[TxnError]) -> String {
    let row = |e: &TxnError| vec![e.op_index.to_string(), e.what.clone()];
    output::table(&["OPERATION", "FAILURE"], errors.iter().map(row))
}

pub(crate) async fn run_batch(batch: &Batch, context: &Context) -> anyhow::Result<Exit> {
    let answer: BatchAnswer = put(context, "/v1/batch", &batch.file).await?.json().await?;
    let refused: Vec<String> =
        answer.results.iter().enumerate().filter(|(_, held)| !**held).map(|(n, _)| n.to_string()).collect();
    context.output.result(&answer, || {
        let applied = answer.results.len() - refused.len();
        let done = if answer.applied { applied } else { 0 };
        format!("{done} of {} operations applied, index {}", answer.results.len(), answer.index)
    })?;
    if refused.is_empty() {
        return Ok(Exit::Done);
    }
    let rest = if answer.applied { "" } else { ", so none was done" };
    context.output.error(&format!("the condition of operation {} did not hold{rest}", refused.join(", ")));
    Ok(Exit::Failed)
}

/// 409 is an answer here: the operations that failed.
async fn put<'a>(context: &'a Context, path: &str, file: &str) -> anyhow::Result<Answer<'a>> {
    let body = Bytes::from(file::read(file)?);
    let answer = context.client.send(&Ask::put(Path::new(path), Payload::Bytes(body))).await?;
    if answer.status.is_success() || answer.status == StatusCode::CONFLICT {
        return Ok(answer);
    }
    Err(answer.into_error().await.into())
}
