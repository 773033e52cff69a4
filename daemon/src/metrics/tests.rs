//! What a scrape must look like.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The catalogue: dashboards and alerts quote these names.
const NAMES: &[&str] = &[
    "konsul_audit_lost counter",
    "konsul_audit_suppressed counter",
    "konsul_autopilot_failure_tolerance gauge",
    "konsul_autopilot_healthy gauge",
    "konsul_autopilot_intended_tolerance gauge",
    "konsul_autopilot_promoted counter",
    "konsul_autopilot_removed counter",
    "konsul_autopilot_server_healthy gauge",
    "konsul_backup_archived_index gauge",
    "konsul_backup_failures counter",
    "konsul_backup_last_success_timestamp_seconds gauge",
    "konsul_backup_last_verified_timestamp_seconds gauge",
    "konsul_backup_rehearsal_seconds gauge",
    "konsul_backup_size_bytes gauge",
    "konsul_build_info gauge",
    "konsul_blocking_queries gauge",
    "konsul_cluster_version gauge",
    "konsul_discovery_contact_points gauge",
    "konsul_discovery_failures counter",
    "konsul_discovery_rounds counter",
    "konsul_http_held_requests gauge",
    "konsul_http_refused counter",
    "konsul_http_request_seconds histogram",
    "konsul_http_requests counter",
    "konsul_join_attempts counter",
    "konsul_join_tokens gauge",
    "konsul_kv_keys gauge",
    "konsul_log_dropped_lines counter",
    "konsul_node_time_seconds gauge",
    "konsul_otlp_spans_dropped counter",
    "konsul_otlp_spans_sent counter",
    "konsul_peer_calls_in_flight gauge",
    "konsul_peer_connect_failures counter",
    "konsul_peer_connections gauge",
    "konsul_peer_refused counter",
    "konsul_peer_requests_in_flight gauge",
    "konsul_peer_snapshot_received_bytes counter",
    "konsul_peer_snapshot_sent_bytes counter",
    "konsul_program_cluster_version gauge",
    "konsul_raft_applied_index gauge",
    "konsul_raft_apply counter",
    "konsul_raft_apply_errors counter",
    "konsul_raft_apply_latency_ms histogram",
    "konsul_raft_commit_index gauge",
    "konsul_raft_commit_latency_ms histogram",
    "konsul_raft_compare_interval_seconds gauge",
    "konsul_raft_elections counter",
    "konsul_raft_fenced gauge",
    "konsul_raft_fsm_pending gauge",
    "konsul_raft_group_commands histogram",
    "konsul_raft_has_quorum gauge",
    "konsul_raft_inflight_bytes gauge",
    "konsul_raft_is_leader gauge",
    "konsul_raft_last_contact_seconds gauge",
    "konsul_raft_last_log_index gauge",
    "konsul_raft_leader_changes counter",
    "konsul_raft_log_fsync_seconds histogram",
    "konsul_raft_log_oldest_age_seconds gauge",
    "konsul_raft_log_size_bytes gauge",
    "konsul_raft_members gauge",
    "konsul_raft_peer_rtt_seconds histogram",
    "konsul_raft_reads counter",
    "konsul_raft_replication_lag gauge",
    "konsul_raft_replication_lag_seconds gauge",
    "konsul_raft_role gauge",
    "konsul_raft_snapshot_damaged counter",
    "konsul_raft_snapshot_duration_seconds histogram",
    "konsul_raft_snapshot_index gauge",
    "konsul_raft_snapshot_last_restore_seconds gauge",
    "konsul_raft_snapshots counter",
    "konsul_raft_state_digest_index gauge",
    "konsul_raft_state_digest_mismatch counter",
    "konsul_raft_states_compared counter",
    "konsul_raft_term gauge",
    "konsul_raft_voters gauge",
    "konsul_recovery_epoch gauge",
    "konsul_reloads counter",
    "konsul_runtime_lag_seconds gauge",
    "konsul_store_commit_seconds histogram",
    "konsul_store_free_bytes gauge",
    "konsul_store_free_pages gauge",
    "konsul_store_map_bytes gauge",
    "konsul_store_map_used_bytes gauge",
    "konsul_store_read_only gauge",
    "konsul_store_readers gauge",
    "konsul_store_recovery_bytes gauge",
    "konsul_store_recovery_read_bytes gauge",
    "konsul_thread_waiting_seconds gauge",
    "konsul_tls_cert_not_after_timestamp_seconds gauge",
    "konsul_tls_renewals counter",
    "konsul_watch_wakeups counter",
    "process_cpu_seconds counter",
    "process_max_fds gauge",
    "process_open_fds gauge",
    "process_resident_memory_bytes gauge",
    "process_start_time_seconds gauge",
    "process_virtual_memory_bytes gauge",
];

/// Metrics after a bit of everything, in a cluster of five.
fn busy() -> String {
    let metrics = Metrics::new("n1", "c1");
    for code in [200, 404, 500] {
        metrics.http.requests.get_or_create(&Request { endpoint: "/v1/kv/{key}", method: "GET", code }).inc();
    }
    metrics.http.seconds.get_or_create(&Endpoint { endpoint: "/v1/kv/{key}", method: "GET" }).observe(0.001);
    metrics.raft.show_peers(&(1..=5).map(progress).collect::<Vec<_>>());
    metrics.autopilot.show(2, 2, &(1..=5).map(|peer| (peer, true)).collect());
    for peer in 1..=5 {
        metrics.peer.rtt_seconds.get_or_create(&PeerLabel { peer }).observe(0.001);
    }
    metrics.raft.applied.kv_set.inc();
    metrics.identity.ends(&[(CertificateMetric::Node, 1_800_000_000_000)]);
    for op in [SnapshotOp::Build, SnapshotOp::Send, SnapshotOp::Install] {
        metrics.storage.snapshots.count(op, true, Duration::from_millis(120));
    }
    for kind in [BackupKind::Saved, BackupKind::Verified] {
        metrics.backup.set(kind, (1_800_000_000_000, 17), 508, 12_345);
    }
    metrics.supervision.waiting_seconds.get_or_create(&ThreadLabel { thread: "apply" }).set(0.0);
    metrics.supervision.runtime_lag_seconds.get_or_create(&RuntimeLabel { runtime: "raft" }).set(0.0);
    metrics.encode()
}

fn progress(peer: u64) -> PeerProgress {
    let time = Some(Duration::from_millis(250));
    PeerProgress { peer, lag: Some(3), lag_time: time, last_contact: time }
}

fn families(text: &str, word: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(word)?.trim().split_once(' '));
    lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

fn series(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// The label names of one line.
fn labels(line: &str) -> Vec<&str> {
    let inside = line.split_once('{').unwrap().1.rsplit_once('}').unwrap().0;
    inside.split("\",").map(|pair| pair.split_once('=').unwrap().0).collect()
}

#[test]
fn the_names_and_types_are_those_of_the_catalogue() {
    let found: BTreeSet<String> =
        families(&busy(), "# TYPE").into_iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let expected: BTreeSet<String> = NAMES.iter().map(|name| (*name).into()).collect();
    assert_eq!(found, expected);
}

#[test]
fn every_metric_has_help_that_is_a_sentence() {
    let text = busy();
    let help = families(&text, "# HELP");
    for name in families(&text, "# TYPE").keys() {
        let help = help.get(name).unwrap_or_else(|| panic!("{name} has no help"));
        assert!(help.len() > 10 && help.ends_with('.') && !help.ends_with(".."), "{name}: {help}");
    }
}

#[test]
fn every_series_names_its_node_and_cluster_and_no_label_is_unbounded() {
    let allowed = BTreeSet::from([
        "cluster",
        "node",
        "version",
        "git",
        "role",
        "peer",
        "type",
        "reason",
        "op",
        "result",
        "outcome",
        "endpoint",
        "method",
        "code",
        "le",
        "purpose",
        "cert",
        "of",
        "thread",
        "kind",
        "env",
        "runtime",
        "consistency",
    ]);
    for line in series(&busy()) {
        assert!(line.contains(r#"cluster="c1""#) && line.contains(r#"node="n1""#), "{line}");
        for label in labels(line) {
            assert!(allowed.contains(label), "label {label} in {line}");
        }
    }
}

#[test]
fn the_number_of_series_is_bounded() {
    let count = series(&busy()).count();
    assert!(count < 450, "{count} series with one HTTP endpoint; the budget of a whole node is 1,500");
}

#[test]
fn exactly_one_role_is_set_at_a_time() {
    let metrics = Metrics::new("n1", "c1");
    for (role, name) in [(RoleMetric::Leader, "leader"), (RoleMetric::Follower, "follower")] {
        metrics.raft.set_role(role);
        let text = metrics.encode();
        let set: Vec<&str> =
            series(&text).filter(|line| line.starts_with("konsul_raft_role{") && line.ends_with(" 1")).collect();
        assert_eq!(set.len(), 1, "{set:?}");
        assert!(set[0].contains(&format!(r#"role="{name}""#)), "{set:?}");
        assert_eq!(metrics.raft.is_leader.get(), u64::from(role == RoleMetric::Leader));
    }
}

#[test]
fn counters_of_failures_start_at_zero_and_end_in_total() {
    let metrics = Metrics::new("n1", "c1");
    metrics.raft.proposal_failed(ProposalFailure::Busy);
    let text = metrics.encode();
    let value = |reason: &str| {
        let line = series(&text).find(|line| {
            line.starts_with("konsul_raft_apply_errors_total{") && line.contains(&format!(r#"reason="{reason}""#))
        });
        line.unwrap_or_else(|| panic!("no series for {reason}")).rsplit_once(' ').unwrap().1.to_owned()
    };
    assert_eq!((value("busy").as_str(), value("no_leader").as_str()), ("1", "0"));
}

#[test]
fn a_leader_shows_its_members_only_and_a_former_one_none() {
    let metrics = Metrics::new("n1", "c1");
    let peers = |text: &str| {
        let lags = series(text).filter(|line| line.starts_with("konsul_raft_replication_lag{"));
        lags.map(|line| line.split_once("peer=\"").unwrap().1[..1].to_owned()).collect::<BTreeSet<_>>()
    };
    metrics.raft.show_peers(&[progress(1), progress(2), progress(3)]);
    assert_eq!(peers(&metrics.encode()), BTreeSet::from(["1", "2", "3"].map(str::to_owned)));
    metrics.raft.show_peers(&[progress(1), progress(4), PeerProgress { lag: None, ..progress(2) }]);
    assert_eq!(peers(&metrics.encode()), BTreeSet::from(["1", "4"].map(str::to_owned)));
    metrics.raft.clear_peers();
    assert!(peers(&metrics.encode()).is_empty());
}
