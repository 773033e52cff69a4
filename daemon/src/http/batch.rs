//! `/v1/batch`: many key/value writes in one log entry.

use super::body::Body;
use super::context::{Ask, Context};
use super::error::{ApiError, status};
use super::kv;
use super::upload::{self, Limit, Upload};
use hyper::Response;
use konsul_api::batch::{BatchAnswer, BatchOp, BatchRequest};
use konsul_state::{Command, KvWrite, Outcome};

pub(super) async fn write(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    let limits = context.deps.limits.hold();
    let limit = Limit { bytes_max: limits.batch_bytes_max, advice: "Raise `http.batch_bytes_max` to accept it." };
    let text = upload::read(body, limit).await?;
    let request: BatchRequest =
        serde_json::from_slice(&text).map_err(|error| ApiError::bad_request(format!("batch: {error}")))?;
    check(&request, limits.batch_ops_max, limits.value_bytes_max)?;
    let ops = request.ops.iter().map(command).collect();
    let committed = context.deps.consensus.propose(&Command::Batch { atomic: request.atomic, ops }).await?;
    let (applied, results) = match committed.outcome {
        Outcome::Batch { applied, results } => (applied, results),
        Outcome::Refused(text) => return Err(ApiError::Conflict { text }),
        other @ (Outcome::None
        | Outcome::Written(_)
        | Outcome::Txn(_)
        | Outcome::Admitted { .. }
        | Outcome::Restored { .. }
        | Outcome::TokenUsed(_)
        | Outcome::Group(_)) => return Err(ApiError::unexpected(&other)),
    };
    let undone = request.atomic && results.contains(&false);
    let mut response = ask.serialized(&BatchAnswer { applied, index: committed.index.get(), results });
    if undone {
        *response.status_mut() = status::UNDONE;
    }
    Ok(response)
}

fn check(request: &BatchRequest, ops_max: usize, value_bytes_max: u64) -> Result<(), ApiError> {
    if request.ops.len() > ops_max {
        let text = format!("batch: {} operations, at most {ops_max} are accepted", request.ops.len());
        return Err(ApiError::TooLarge { text });
    }
    for (n, op) in request.ops.iter().enumerate() {
        let (key, value) = parts(op);
        if key.is_empty() && !matches!(op, BatchOp::DeleteTree { .. }) {
            return Err(ApiError::bad_request(format!("batch: operation {n}: Missing key name")));
        }
        if let Some(text) = kv::too_long(key.as_bytes()) {
            return Err(ApiError::bad_request(format!("batch: operation {n}: {text}")));
        }
        let bytes = u64::try_from(value.len()).expect("usize is at most 64 bits");
        if bytes > value_bytes_max {
            let text = format!("batch: operation {n}: value of {bytes} bytes, at most {value_bytes_max} are accepted");
            return Err(ApiError::TooLarge { text });
        }
    }
    Ok(())
}

fn parts(op: &BatchOp) -> (&str, &[u8]) {
    match op {
        BatchOp::Set { key, value, .. } | BatchOp::Cas { key, value, .. } => (key, value),
        BatchOp::Delete { key } | BatchOp::DeleteCas { key, .. } => (key, &[]),
        BatchOp::DeleteTree { prefix } => (prefix, &[]),
    }
}

fn command(op: &BatchOp) -> KvWrite<'_> {
    match op {
        BatchOp::Set { key, value, flags } => KvWrite::Set { key: key.as_bytes(), value, flags: *flags },
        BatchOp::Cas { key, value, flags, index } => {
            KvWrite::Cas { key: key.as_bytes(), value, flags: *flags, index: *index }
        }
        BatchOp::Delete { key } => KvWrite::Delete { key: key.as_bytes() },
        BatchOp::DeleteCas { key, index } => KvWrite::DeleteCas { key: key.as_bytes(), index: *index },
        BatchOp::DeleteTree { prefix } => KvWrite::DeleteTree { prefix: prefix.as_bytes() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_checked_before_it_is_proposed() {
        let request = |ops: &str| -> BatchRequest { serde_json::from_str(&format!("{{\"ops\":{ops}}}")).unwrap() };
        let error = |ops: &str| check(&request(ops), 2, 3).unwrap_err().to_string();
        check(&request(r#"[{"op":"set","key":"a","value":"b25l"},{"op":"delete-tree","prefix":""}]"#), 2, 3).unwrap();
        assert_eq!(error(r#"[{"op":"delete","key":""}]"#), "batch: operation 0: Missing key name");
        assert!(error(r#"[{"op":"set","key":"a","value":"b25lMQ=="}]"#).contains("value of 4 bytes, at most 3"));
        let op = r#"{"op":"delete","key":"a"}"#;
        assert!(error(&format!("[{op},{op},{op}]")).contains("3 operations, at most 2"));
        assert!(error(&format!(r#"[{{"op":"delete","key":"{}"}}]"#, "a".repeat(1025))).contains("too long"));
    }
}
