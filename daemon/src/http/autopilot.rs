//! `/v1/operator/autopilot/*`: how autopilot is set, and what it sees; Consul's words, from every node.

use super::agent::CONSUL_VERSION;
use super::body::Body;
use super::context::{Ask, Context};
use super::error::{ApiError, status};
use super::goduration;
use super::gojson::{self, Value};
use super::headers::value;
use super::operator::uuid;
use super::query::{self, parse_duration};
use super::status::address;
use super::upload::{self, Limit, Upload};
use crate::leader::{Report, ServerReport};
use crate::raft::{Consistency, Policy, RecordError, Status, StoredPolicy};
use crate::raft_types::NodeInfo;
use bytes::Bytes;
use hyper::Response;
use hyper::header::CONTENT_TYPE;
use konsul_api::operator::{AutopilotConfiguration, AutopilotHealth, AutopilotState, ServerHealth, ServerState};
use konsul_api::time::rfc3339;
use std::collections::BTreeMap;
use std::time::Duration;

const LIMIT: Limit = Limit { bytes_max: 64 * 1024, advice: "The body is the configuration of autopilot." };
/// Tries of a write that nobody made conditional, while others write as well.
const TRIES: usize = 8;
/// How often, and how long apart, a new leader is asked what it has seen.
const LOOKS: usize = 10;
const LOOK: Duration = Duration::from_millis(100);
/// A server that is silent for less is not called dead, whatever is set: an election takes a second.
const DEAD_AFTER_MIN: Duration = Duration::from_secs(2);

pub(super) async fn configuration(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let options = ask.query.read_options(ask.headers)?;
    let permit = context.permit(options).await?;
    let stored = context.deps.consensus.policy_in(&context.deps.consensus.view(&permit)?)?;
    Ok(ask.serialized(&shown(&stored)))
}

fn shown(stored: &StoredPolicy) -> AutopilotConfiguration {
    let StoredPolicy { policy, create_index, modify_index } = stored;
    let usual = Policy::default().dead_server_after;
    let dead_after = policy.dead_server_after;
    AutopilotConfiguration {
        cleanup_dead_servers: policy.cleanup_dead_servers,
        last_contact_threshold: goduration::text(policy.last_contact_threshold),
        max_trailing_logs: policy.max_trailing_logs,
        min_quorum: policy.min_quorum,
        server_stabilization_time: goduration::text(policy.server_stabilization),
        dead_server_threshold: (dead_after != usual).then(|| goduration::text(dead_after)),
        redundancy_zone_tag: policy.redundancy_zone_tag.clone(),
        disable_upgrade_migration: policy.disable_upgrade_migration,
        upgrade_version_tag: policy.upgrade_version_tag.clone(),
        create_index: *create_index,
        modify_index: *modify_index,
    }
}

/// The body is the whole configuration: what it does not say has its default. Answers whether it was written; only with
/// `?cas=` may it be not.
pub(super) async fn configure(context: &Context, ask: &Ask<'_>, body: Upload) -> Result<Response<Body>, ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let text = upload::read(body, LIMIT).await?;
    let policy = parse(&text)
        .map_err(|why| ApiError::bad_request(format!("Bad request: Error parsing autopilot config: {why}")))?;
    let cas = match ask.query.first("cas") {
        None => None,
        Some(text) => Some(
            query::parse_uint(text)
                .map_err(|why| ApiError::bad_request(format!("Bad request: Error parsing cas value: {why}")))?,
        ),
    };
    let consensus = &context.deps.consensus;
    for _ in 0..TRIES {
        // From the leader: what this node has may be older than what it is compared with.
        let permit = consensus.permit(Consistency::Leader).await?;
        let before = consensus.policy_in(&consensus.view(&permit)?)?;
        if cas.is_some_and(|cas| cas != before.modify_index) {
            return Ok(ask.serialized(&false));
        }
        if consensus.set_policy(&before, &policy).await.map_err(refused)? {
            return Ok(ask.serialized(&true));
        }
    }
    Err(ApiError::refused("the configuration of autopilot was changed by others again and again; try once more"))
}

fn refused(error: RecordError) -> ApiError {
    match error {
        RecordError::State { source } => source.into(),
        RecordError::Propose { source, .. } => source.into(),
        error @ (RecordError::Contended { .. } | RecordError::Unexpected { .. }) => {
            ApiError::Unexpected { what: error.to_string() }
        }
    }
}

fn parse(text: &[u8]) -> Result<Policy, String> {
    let mut policy = Policy::default();
    let mut members = gojson::parse(text)?.members("api.AutopilotConfiguration")?;
    while let Some((name, value)) = members.member() {
        let field = |name: &str| format!("AutopilotConfiguration.{name}");
        match name.to_ascii_lowercase().as_slice() {
            b"cleanupdeadservers" => policy.cleanup_dead_servers = value.bool(&field("CleanupDeadServers"))?,
            b"lastcontactthreshold" => {
                policy.last_contact_threshold = duration(value, &field("LastContactThreshold"))?;
            }
            b"maxtrailinglogs" => policy.max_trailing_logs = value.uint(&field("MaxTrailingLogs"))?,
            b"minquorum" => policy.min_quorum = value.uint(&field("MinQuorum"))?,
            b"serverstabilizationtime" => {
                policy.server_stabilization = duration(value, &field("ServerStabilizationTime"))?;
            }
            b"deadserverthreshold" => {
                policy.dead_server_after = duration(value, &field("DeadServerThreshold"))?;
                if policy.dead_server_after < DEAD_AFTER_MIN {
                    return Err("DeadServerThreshold is at least 2s: an election must not make servers dead".to_owned());
                }
            }
            b"redundancyzonetag" => policy.redundancy_zone_tag = string(value, &field("RedundancyZoneTag"))?,
            b"disableupgrademigration" => {
                policy.disable_upgrade_migration = value.bool(&field("DisableUpgradeMigration"))?;
            }
            b"upgradeversiontag" => policy.upgrade_version_tag = string(value, &field("UpgradeVersionTag"))?,
            // A client sends back what it was given.
            b"createindex" => drop(value.uint(&field("CreateIndex"))?),
            b"modifyindex" => drop(value.uint(&field("ModifyIndex"))?),
            _ => return Err(gojson::unknown_field(&name)),
        }
    }
    Ok(policy)
}

fn string(value: Value<'_>, field: &str) -> Result<String, String> {
    Ok(String::from_utf8_lossy(&value.string(field)?).into_owned())
}

/// Go's text, or nanoseconds. Whole milliseconds are kept.
fn duration(value: Value<'_>, field: &str) -> Result<Duration, String> {
    let nanos = match value.kind() {
        gojson::Kind::Number => i64::try_from(value.uint(field)?).ok(),
        gojson::Kind::Null => Some(0),
        // Whatever is no text is refused with Go's words.
        gojson::Kind::String | gojson::Kind::Object | gojson::Kind::Array | gojson::Kind::Bool => {
            parse_duration(&value.string(field)?)
        }
    };
    let nanos = nanos.and_then(|nanos| u64::try_from(nanos).ok());
    let nanos = nanos.ok_or_else(|| format!("{field}: no duration; write it as \"200ms\" or \"10s\""))?;
    Ok(Duration::from_millis(nanos / 1_000_000))
}

/// What the leader's autopilot saw last. Without a leader: as every read without one.
async fn report(context: &Context, ask: &Ask<'_>) -> Result<(Status, Option<Report>), ApiError> {
    ask.query.datacenter(&context.deps.config.datacenter)?;
    let consensus = &context.deps.consensus;
    consensus.permit(Consistency::Leader).await?;
    let mut report = consensus.report().await;
    // A new leader looks within a moment.
    for _ in 0..LOOKS {
        if report.is_some() {
            break;
        }
        tokio::time::sleep(LOOK).await;
        report = consensus.report().await;
    }
    let decode = |bytes: Bytes| Report::decode(&bytes).map_err(|e| ApiError::Unexpected { what: e.to_string() });
    Ok((consensus.status(), report.map(decode).transpose()?))
}

pub(super) async fn health(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let (status, report) = report(context, ask).await?;
    let health = match report {
        None => AutopilotHealth { healthy: false, failure_tolerance: 0, servers: None },
        Some(report) => AutopilotHealth {
            healthy: report.healthy,
            failure_tolerance: report.failure_tolerance,
            servers: Some(report.servers.iter().map(|server| server_health(&status, server)).collect()),
        },
    };
    let mut response = ask.serialized(&health);
    if !health.healthy {
        *response.status_mut() = status::UNHEALTHY;
        // As Consul has it: it writes the status before it thinks of the type.
        response.headers_mut().insert(CONTENT_TYPE, value::TEXT);
    }
    Ok(response)
}

fn rpc_address(server: &ServerReport) -> String {
    let info = NodeInfo { name: server.name.clone(), rpc: server.rpc.clone(), http: server.http.clone() };
    address(&info)
}

fn condition(server: &ServerReport) -> String {
    if server.alive { "alive" } else { "failed" }.to_owned()
}

fn last_contact(server: &ServerReport) -> String {
    goduration::text(Duration::from_micros(server.last_contact_us))
}

fn server_health(status: &Status, server: &ServerReport) -> ServerHealth {
    ServerHealth {
        id: uuid(status, server.id),
        name: server.name.clone(),
        address: rpc_address(server),
        serf_status: condition(server),
        version: CONSUL_VERSION.to_owned(),
        leader: server.leader,
        last_contact: last_contact(server),
        last_term: server.last_term,
        last_index: server.last_index,
        healthy: server.healthy,
        voter: server.voter,
        stable_since: rfc3339(server.stable_since_ms),
    }
}

pub(super) async fn state(context: &Context, ask: &Ask<'_>) -> Result<Response<Body>, ApiError> {
    let (status, report) = report(context, ask).await?;
    let report = report.ok_or_else(|| ApiError::refused("the leader is new and has not looked at its servers yet"))?;
    let ids = |chosen: fn(&ServerReport) -> bool| {
        report.servers.iter().filter(move |server| chosen(server)).map(|server| uuid(&status, server.id))
    };
    let servers = report.servers.iter().map(|server| (uuid(&status, server.id), server_state(&status, server)));
    Ok(ask.serialized(&AutopilotState {
        healthy: report.healthy,
        failure_tolerance: report.failure_tolerance,
        optimistic_failure_tolerance: report.failure_tolerance,
        servers: servers.collect(),
        leader: ids(|server| server.leader).next().unwrap_or_default(),
        voters: ids(|server| server.voter).collect(),
        notes: report.notes.clone(),
    }))
}

fn server_state(status: &Status, server: &ServerReport) -> ServerState {
    let role = match (server.leader, server.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "non-voter",
    };
    ServerState {
        id: uuid(status, server.id),
        name: server.name.clone(),
        address: rpc_address(server),
        node_status: condition(server),
        version: CONSUL_VERSION.to_owned(),
        last_contact: last_contact(server),
        last_term: server.last_term,
        last_index: server.last_index,
        healthy: server.healthy,
        stable_since: rfc3339(server.stable_since_ms),
        read_replica: server.stays_learner,
        status: role.to_owned(),
        meta: BTreeMap::new(),
        node_type: if server.stays_learner { "read-replica" } else { "voter" }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_names_have_any_case() {
        assert_eq!(parse(b"{}"), Ok(Policy::default()));
        let text = br#"{"cleanupdeadservers":false,"LASTCONTACTTHRESHOLD":"500ms","MaxTrailingLogs":100,
            "ServerStabilizationTime":5000000000,"MinQuorum":3,"DeadServerThreshold":"1m","CreateIndex":7,"ModifyIndex":9,
            "RedundancyZoneTag":"z","DisableUpgradeMigration":true,"UpgradeVersionTag":"v"}"#;
        let policy = Policy {
            cleanup_dead_servers: false,
            last_contact_threshold: Duration::from_millis(500),
            max_trailing_logs: 100,
            min_quorum: 3,
            server_stabilization: Duration::from_secs(5),
            dead_server_after: Duration::from_secs(60),
            redundancy_zone_tag: "z".to_owned(),
            disable_upgrade_migration: true,
            upgrade_version_tag: "v".to_owned(),
        };
        assert_eq!(parse(text).as_ref(), Ok(&policy));
        let shown = shown(&StoredPolicy { policy: policy.clone(), create_index: 7, modify_index: 9 });
        assert_eq!(parse(&serde_json::to_vec(&shown).unwrap()), Ok(policy), "a client may send back what it got");
    }

    #[test]
    fn a_bad_configuration_is_refused_with_a_reason() {
        let table = [
            ("{", "unexpected EOF"),
            ("{\"Bogus\":1}", "json: unknown field \"Bogus\""),
            (
                "{\"MinQuorum\":\"x\"}",
                "json: cannot unmarshal string into Go struct field AutopilotConfiguration.MinQuorum of type uint64",
            ),
            ("{\"CleanupDeadServers\":1}", "json: cannot unmarshal number into Go struct field"),
            ("{\"LastContactThreshold\":\"soon\"}", "no duration"),
            ("{\"LastContactThreshold\":\"-1s\"}", "no duration"),
            ("{\"LastContactThreshold\":[]}", "json: cannot unmarshal array into Go struct field"),
            ("{\"DeadServerThreshold\":\"1s\"}", "at least 2s"),
        ];
        for (text, why) in table {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_defaults_are_consuls_and_nothing_of_ours_is_shown_with_them() {
        let shown = shown(&StoredPolicy::default());
        assert_eq!(shown, AutopilotConfiguration::default());
        assert!(!serde_json::to_string(&shown).unwrap().contains("DeadServerThreshold"));
    }
}
