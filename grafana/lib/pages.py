"""What is on the dashboards. Selectors name the cluster everywhere, and the node where one may be chosen."""

from panels import graph, query, row, stat, table, timeline, values

C = 'cluster="$cluster"'
N = 'cluster="$cluster", node=~"$node"'
ROLES = values({
    "0": ("follower", "blue"),
    "1": ("leader", "green"),
    "2": ("candidate", "red"),
    "3": ("learner", "purple"),
    "4": ("recovering", "orange"),
})
YES = values({"0": ("no", "red"), "1": ("yes", "green")})
WRITES = values({"0": ("yes", "green"), "1": ("no: the disk", "red")})


def quantile(q, metric, more="", by="node", select=N):
    """A quantile of a histogram, for each `by`."""
    rates = f"sum by (cluster, {by}, le) (rate({metric}_bucket{{{select}{more}}}[$__rate_interval]))"
    return f"histogram_quantile({q}, {rates})"


def rate(metric, by="node", more="", select=N):
    """Events in a second, for each `by`."""
    return f"sum by (cluster, {by}) (rate({metric}{{{select}{more}}}[$__rate_interval]))"


OVERVIEW = {
    "slug": "konsul-raft-overview",
    "title": "Konsul / Raft overview",
    "description": "Is there one leader, what may still fail, how do clients fare. Read from the top left.",
    "panels": [
        stat("Leaders", "Exactly one. None: no writes. Two for longer than a scrape: one of them is cut off.",
             f"sum by (cluster) (konsul_raft_is_leader{{{C}}})", steps=[(None, "red"), (1, "green"), (2, "red")],
             runbook="no-leader"),
        stat("Who leads", "The node that leads.", f"konsul_raft_is_leader{{{C}}} == 1", "{{node}}",
             steps=[(None, "blue")], text="name"),
        stat("May still fail", "Voters that may fail before writes stop. 0: the next failure is an outage.",
             f"max by (cluster) (konsul_autopilot_failure_tolerance{{{C}}})", steps=[(None, "red"), (1, "green")],
             runbook="quorum-at-risk"),
        stat("Missing of what may fail", "Voters that should be able to fail, less those that may. Above 0: look.",
             f"max by (cluster) (konsul_autopilot_intended_tolerance{{{C}}})"
             f" - max by (cluster) (konsul_autopilot_failure_tolerance{{{C}}})",
             steps=[(None, "green"), (1, "orange")], runbook="quorum-at-risk"),
        stat("Every server healthy", "As the leader's autopilot sees it.",
             f"max by (cluster) (konsul_autopilot_healthy{{{C}}})", steps=[(None, "red"), (1, "green")], mappings=YES,
             runbook="quorum-at-risk"),
        stat("Nodes heard", "Nodes that Prometheus reaches.", f"count by (cluster) (konsul_build_info{{{C}}})",
             steps=[(None, "blue")], runbook="node-down"),
        timeline("Roles", "What each node does. A candidate for long cannot reach a majority.", [
            query(f'sum by (cluster, node) (1 * konsul_raft_role{{{N}, role="leader"}}'
                  f' or on (cluster, node) 0 * konsul_raft_is_leader{{{N}}})'
                  f' + on (cluster, node) sum by (cluster, node) (2 * konsul_raft_role{{{N}, role="candidate"}})'
                  f' + on (cluster, node) sum by (cluster, node) (3 * konsul_raft_role{{{N}, role="learner"}})'
                  f' + on (cluster, node) sum by (cluster, node) (4 * konsul_raft_role{{{N}, role="recovering"}})'),
        ], mappings=ROLES, runbook="frequent-elections"),
        table("Nodes", "One line for each node.", [
            ("Leads", "bool_yes_no", f"sum by (node) (konsul_raft_is_leader{{{N}}})"),
            ("Hears a majority", "bool_yes_no", f"sum by (node) (konsul_raft_has_quorum{{{N}}})"),
            ("Term", "none", f"sum by (node) (konsul_raft_term{{{N}}})"),
            ("Voters", "none", f"sum by (node) (konsul_raft_voters{{{N}}})"),
            ("Members", "none", f"sum by (node) (konsul_raft_members{{{N}}})"),
            ("Applied index", "none", f"sum by (node) (konsul_raft_applied_index{{{N}}})"),
            ("Keys", "none", f"sum by (node) (konsul_kv_keys{{{N}}})"),
            ("Read-only", "bool_yes_no", f"sum by (node) (konsul_store_read_only{{{N}}})"),
            ("Up since", "dateTimeAsIso", f"sum by (node) (1000 * process_start_time_seconds{{{N}}})"),
        ]),
        row("What clients feel"),
        graph("Writes applied", "Commands sent through each node and applied, by type.",
              query(rate("konsul_raft_apply_total", by="type"), "{{type}}"), unit="ops", stack=True),
        graph("Writes that failed", "By reason. timeout: the outcome is unknown; no_leader: nothing was written.",
              query(rate("konsul_raft_apply_errors_total", by="reason"), "{{reason}}"), unit="ops", stack=True,
              runbook="request-errors"),
        graph("A write, from proposal to applied", "As a writer feels it.", [
            query(quantile(0.99, "konsul_raft_apply_latency_ms"), "{{node}} p99"),
            query(quantile(0.5, "konsul_raft_apply_latency_ms"), "{{node}} p50"),
        ], unit="ms", runbook="slow-disk"),
        graph("Requests that failed", "Share of answers with a code of 5xx.",
              query(f'sum by (cluster, node) (rate(konsul_http_requests_total{{{N}, code=~"5.."}}[$__rate_interval]))'
                    f" / sum by (cluster, node) (rate(konsul_http_requests_total{{{N}}}[$__rate_interval]))"),
              unit="percentunit", steps=[(None, "green"), (0.01, "red")], runbook="request-errors"),
        graph("Requests", "Answers by code.", query(rate("konsul_http_requests_total", by="code"), "{{code}}"),
              unit="reqps", stack=True),
        graph("Reads", "By consistency: stale asks nobody, leader its lease, strong a majority.",
              query(rate("konsul_raft_reads_total", by="consistency"), "{{consistency}}"), unit="ops", stack=True),
        graph("Turned away to protect the nodes", "Requests and connections, by reason; and those held until a node is back.", [
            query(rate("konsul_http_refused_total", by="reason"), "{{reason}}/s"),
            query(f"sum by (cluster) (konsul_http_held_requests{{{N}}})", "held now"),
        ], runbook="request-errors"),
        graph("Time to answer, p99", "Blocking queries that wait are not counted as slow elsewhere: here they are.",
              query(quantile(0.99, "konsul_http_request_seconds", by="endpoint, method", more=', endpoint!="other"'),
                    "{{method}} {{endpoint}}"), unit="s"),
    ],
}

OPERATIONS = {
    "slug": "konsul-raft-operations",
    "title": "Konsul / Raft operations",
    "description": "Disk, log, snapshots, elections, memory: where a bottleneck is.",
    "panels": [
        row("Disk"),
        graph("One flush of the log", "Above 0.1 s the leader's lease is in danger.", [
            query(quantile(0.99, "konsul_raft_log_fsync_seconds"), "{{node}} p99"),
            query(quantile(0.5, "konsul_raft_log_fsync_seconds"), "{{node}} p50"),
        ], unit="s", steps=[(None, "green"), (0.5, "red")], runbook="slow-disk"),
        graph("One commit of the state", "Not durable by itself: slow means memory pressure or write-back.",
              query(quantile(0.99, "konsul_store_commit_seconds"), "{{node}} p99"), unit="s", runbook="slow-disk"),
        graph("Append to majority", "From append to acknowledged by a majority.",
              query(quantile(0.99, "konsul_raft_commit_latency_ms"), "{{node}} p99"), unit="ms", runbook="slow-disk"),
        graph("Free on the file system", "Below storage.free_reserve a node takes no writes.",
              query(f"konsul_store_free_bytes{{{N}}}"), unit="bytes", runbook="disk-full"),
        timeline("Takes writes", "no: the disk is too full.", [query(f"konsul_store_read_only{{{N}}}")], mappings=WRITES,
                 width=12, height=6, runbook="disk-full"),
        graph("Map of the state in use", "Share of storage.map_size.",
              query(f"konsul_store_map_used_bytes{{{N}}} / konsul_store_map_bytes{{{N}}}"), unit="percentunit", high=1,
              steps=[(None, "green"), (0.8, "red")], runbook="disk-full"),
        graph("Pages free for reuse", "In the files of log and state. Many for long: much was deleted, or a read stays open.",
              query(f"4096 * konsul_store_free_pages{{{N}}}", "{{node}} {{env}}"), unit="bytes"),
        graph("Reads of the state at a time", "The most since it was opened. At 1,024 further ones fail.",
              query(f"konsul_store_readers{{{N}}}"), steps=[(None, "green"), (1000, "red")]),
        graph("To be read at a start or a restore", "Bytes that a recovery still has to read. 0: none is under way.",
              query(f"konsul_store_recovery_bytes{{{N}}} - konsul_store_recovery_read_bytes{{{N}}}"), unit="bytes"),
        graph("Threads that wait", "With work before them and no progress. A rise: a slow disk, or a stall.",
              query(f"konsul_thread_waiting_seconds{{{N}}}", "{{node}} {{thread}}"), unit="s", runbook="slow-disk"),
        row("Log and snapshots"),
        graph("Size of the log", "Rises until a snapshot, falls after it. A rise without end: purging fails.",
              query(f"konsul_raft_log_size_bytes{{{N}}}"), unit="bytes", runbook="disk-full"),
        graph("Entries since the newest snapshot", "What a restart after a machine stop has to replay.",
              query(f"konsul_raft_last_log_index{{{N}}} - konsul_raft_snapshot_index{{{N}}}")),
        graph("Oldest entry, and last restore", "A restore that takes longer than the oldest entry is old never catches up.", [
            query(f"konsul_raft_log_oldest_age_seconds{{{N}}}", "{{node}} oldest entry"),
            query(f"konsul_raft_snapshot_last_restore_seconds{{{N}}}", "{{node}} last restore"),
        ], unit="s", runbook="replication-lag"),
        graph("Snapshots", "Finished operations by kind and result.",
              query(f"sum by (cluster, node, op, result) (increase(konsul_raft_snapshots_total{{{N}}}[$__rate_interval]))",
                    "{{node}} {{op}} {{result}}"), runbook="replication-lag"),
        graph("Time of a snapshot, p99 of an hour", "By operation.",
              query(f"histogram_quantile(0.99, sum by (cluster, node, op, le) "
                    f"(increase(konsul_raft_snapshot_duration_seconds_bucket{{{N}}}[1h])))", "{{node}} {{op}}"), unit="s"),
        stat("Damaged snapshots", "Set aside because a checksum was wrong. Any: a bad disk.",
             f"sum by (cluster) (konsul_raft_snapshot_damaged_total{{{C}}})", steps=[(None, "green"), (1, "red")],
             runbook="corrupted-storage", width=6),
        stat("Fenced nodes", "They answer nobody: their state is not what a majority holds.",
             f"sum by (cluster) (konsul_raft_fenced{{{C}}})", steps=[(None, "green"), (1, "red")],
             runbook="corrupted-storage", width=6),
        stat("States that differed", "Comparisons in which the nodes did not hold the same. Any: damaged data.",
             f"sum by (cluster) (konsul_raft_state_digest_mismatch_total{{{C}}})", steps=[(None, "green"), (1, "red")],
             runbook="corrupted-storage", width=6),
        stat("Since the last comparison", "Log entries applied since a node took the digest of its state.",
             f"max by (cluster) (konsul_raft_applied_index{{{C}}} - konsul_raft_state_digest_index{{{C}}})",
             steps=[(None, "blue")], width=6),
        stat("Comparisons in an hour", "In which a majority held the same state. 0: a difference would go unseen.",
             f"sum by (cluster) (increase(konsul_raft_states_compared_total{{{C}}}[1h]))",
             steps=[(None, "blue")], runbook="corrupted-storage", width=6),
        stat("Compared every", "raft.compare_interval; 0: only when asked.",
             f"max by (cluster) (konsul_raft_compare_interval_seconds{{{C}}})", unit="s",
             steps=[(None, "blue")], width=6),
        stat("Worst clock", "The clock that is furthest from that of Prometheus.",
             f"max by (cluster) (abs(konsul_node_time_seconds{{{C}}} - timestamp(konsul_node_time_seconds{{{C}}})))",
             unit="s", steps=[(None, "green"), (0.5, "orange"), (5, "red")], runbook="clock-skew", width=6),
        stat("Versions", "More than one: an upgrade is under way.",
             f"count by (cluster) (count by (cluster, version) (konsul_build_info{{{C}}}))",
             steps=[(None, "green"), (2, "orange")], width=6),
        stat("Cluster versions to finalize", "What all programs understand, less what the cluster uses: konsulctl upgrade finalize.",
             f"min by (cluster) (konsul_program_cluster_version{{{C}}}) - min by (cluster) (konsul_cluster_version{{{C}}})",
             steps=[(None, "green"), (1, "orange")], width=6, runbook="version-skew"),
        stat("Keys", "In the store.", f"max by (cluster) (konsul_kv_keys{{{C}}})", steps=[(None, "blue")], width=6),
        row("Elections"),
        graph("Changes of leader in 15 minutes", "As each node saw them.",
              query(f"increase(konsul_raft_leader_changes_total{{{N}}}[15m])"), steps=[(None, "green"), (4, "red")],
              runbook="frequent-elections"),
        graph("Candidacies in 15 minutes", "By outcome. lost: it stood without a majority to hear it.",
              query(f"increase(konsul_raft_elections_total{{{N}}}[15m])", "{{node}} {{outcome}}"),
              runbook="frequent-elections"),
        row("Load"),
        graph("Committed, not yet applied", "A steady rise: applying is the bottleneck.",
              query(f"konsul_raft_fsm_pending{{{N}}}")),
        graph("Bytes of proposals in flight", "At raft.inflight_bytes_max clients hear 429.",
              query(f"konsul_raft_inflight_bytes{{{N}}}"), unit="bytes"),
        graph("Commands in one log entry", "More: more writers at a time.",
              query(quantile(0.9, "konsul_raft_group_commands"), "{{node}} p90")),
        graph("Blocking queries", "Waiting now, and woken in a second.", [
            query(f"konsul_blocking_queries{{{N}}}", "{{node}} waiting"),
            query(rate("konsul_watch_wakeups_total"), "{{node}} woken/s"),
        ]),
        row("Process"),
        graph("Processor", "Cores in use.", query(f"rate(process_cpu_seconds_total{{{N}}}[$__rate_interval])")),
        graph("Lateness of tasks", "How late they were woken, at worst. Above a heartbeat on raft: elections come near.",
              query(f"konsul_runtime_lag_seconds{{{N}}}", "{{node}} {{runtime}}"), unit="s",
              steps=[(None, "green"), (0.1, "red")], runbook="frequent-elections"),
        graph("Log lines dropped in an hour", "The journal took none: it hangs.",
              query(f"increase(konsul_log_dropped_lines_total{{{N}}}[1h])")),
        graph("Spans of traces", "Taken by the collector, and dropped because it took none.", [
            query(rate("konsul_otlp_spans_sent_total"), "{{node}} sent/s"),
            query(rate("konsul_otlp_spans_dropped_total"), "{{node}} dropped/s"),
        ]),
        graph("Memory", "In RAM, pages of the maps included.", query(f"process_resident_memory_bytes{{{N}}}"),
              unit="bytes"),
        graph("Open files", "Near the limit connections fail.",
              query(f"process_open_fds{{{N}}} / process_max_fds{{{N}}}"), unit="percentunit", high=1,
              steps=[(None, "green"), (0.8, "red")]),
    ],
}

REPLICATION = {
    "slug": "konsul-raft-replication",
    "title": "Konsul / Raft replication",
    "description": "How far each peer is behind the leader, and why. Peers are named by their node id.",
    "panels": [
        table("Peers, as the leader sees them", "Only the leader knows; an empty table means that none leads.", [
            ("Healthy", "bool_yes_no", f"sum by (peer) (konsul_autopilot_server_healthy{{{C}}})"),
            ("Entries behind", "none", f"sum by (peer) (konsul_raft_replication_lag{{{C}}})"),
            ("Behind for", "s", f"sum by (peer) (konsul_raft_replication_lag_seconds{{{C}}})"),
            ("Last answer ago", "s", f"sum by (peer) (konsul_raft_last_contact_seconds{{{C}}})"),
        ], by="peer", height=6, runbook="replication-lag"),
        graph("Entries behind the leader", "A steady rise: the peer cannot keep up.",
              query(f"konsul_raft_replication_lag{{{C}}}", "peer {{peer}}"), steps=[(None, "green"), (1000, "red")],
              runbook="replication-lag"),
        graph("Behind for", "How long ago the leader's log ended where the peer's ends.",
              query(f"konsul_raft_replication_lag_seconds{{{C}}}", "peer {{peer}}"), unit="s",
              steps=[(None, "green"), (10, "red")], runbook="replication-lag"),
        graph("Since the last answer", "Above the heartbeat: slow or gone.",
              query(f"konsul_raft_last_contact_seconds{{{C}}}", "peer {{peer}}"), unit="s", runbook="node-down"),
        graph("There and back, p99", "A heartbeat and its answer.",
              query(quantile(0.99, "konsul_raft_peer_rtt_seconds", by="peer", select=C), "peer {{peer}}"), unit="s",
              steps=[(None, "green"), (0.15, "red")], runbook="replication-lag"),
        graph("Indexes", "Last in the log, committed and applied, of each node.", [
            query(f"konsul_raft_last_log_index{{{N}}}", "{{node}} log"),
            query(f"konsul_raft_commit_index{{{N}}}", "{{node}} committed"),
            query(f"konsul_raft_applied_index{{{N}}}", "{{node}} applied"),
        ], low=None),
        graph("Bytes of snapshots", "Sent and received: a node is new, or fell far behind.", [
            query(rate("konsul_peer_snapshot_sent_bytes_total"), "{{node}} sent"),
            query(rate("konsul_peer_snapshot_received_bytes_total"), "{{node}} received"),
        ], unit="Bps", runbook="replication-lag"),
        row("Connections"),
        graph("Connections that could not be made", "By purpose. A rise: a node is down or refuses this one.",
              query(f"sum by (cluster, node, purpose) (rate(konsul_peer_connect_failures_total{{{N}}}[$__rate_interval]))",
                    "{{node}} {{purpose}}"), unit="ops", runbook="node-down"),
        graph("Connections of others", "Served now, and refused in a second: wrong certificate, cluster, or a stranger.", [
            query(f"konsul_peer_connections{{{N}}}", "{{node}} served"),
            query(rate("konsul_peer_refused_total"), "{{node}} refused/s"),
        ], runbook="certificates"),
        graph("Requests between nodes not answered yet", "Asked by others, and asked of others.", [
            query(f"konsul_peer_requests_in_flight{{{N}}}", "{{node}} to answer"),
            query(f"konsul_peer_calls_in_flight{{{N}}}", "{{node}} waits for"),
        ]),
        graph("Contact points found", "By method of discovery.",
              query(f"konsul_discovery_contact_points{{{N}}}", "{{node}} {{method}}")),
        graph("Discovery in an hour", "Rounds, and attempts without an answer: DNS or the cloud is down, or refuses.", [
            query(f"increase(konsul_discovery_rounds_total{{{N}}}[1h])", "{{node}} rounds"),
            query(f"increase(konsul_discovery_failures_total{{{N}}}[1h])", "{{node}} {{method}} failed"),
        ]),
    ],
}

CERTIFICATES = {
    "slug": "konsul-certificates",
    "title": "Konsul / Certificates and joining",
    "description": "How long certificates last, whether they are renewed, who joins and who is refused.",
    "panels": [
        stat("Soonest end of a node's certificate", "They live 72 hours and are renewed with 24 hours left.",
             f'min by (cluster) (konsul_tls_cert_not_after_timestamp_seconds{{{C}, cert="node"}}) - time()', unit="s",
             steps=[(None, "red"), (28800, "orange"), (72000, "green")], width=8, runbook="certificates"),
        stat("End of the authority", "It is replaced by hand: konsulctl ca rotate.",
             f'min by (cluster) (konsul_tls_cert_not_after_timestamp_seconds{{{C}, cert="authority"}}) - time()',
             unit="s", steps=[(None, "red"), (2592000, "green")], width=8, runbook="certificates"),
        stat("Renewals that failed in a day", "Any: look before the certificate ends.",
             f'sum by (cluster) (increase(konsul_tls_renewals_total{{{C}, result="failed"}}[1d]))',
             steps=[(None, "green"), (1, "red")], width=8, runbook="certificates"),
        stat("Join tokens", "That still let a node in. Each is a way in: revoke what nobody needs.",
             f"max by (cluster) (konsul_join_tokens{{{C}}})", steps=[(None, "blue")], width=8, runbook="add-node"),
        graph("Time left", "By node and certificate.",
              query(f"konsul_tls_cert_not_after_timestamp_seconds{{{N}}} - time()", "{{node}} {{cert}}"), unit="s",
              width=16, runbook="certificates"),
        graph("Renewals in an hour", "By node and result.",
              query(f"sum by (cluster, node, result) (increase(konsul_tls_renewals_total{{{N}}}[1h]))",
                    "{{node}} {{result}}"), runbook="certificates"),
        graph("Read again in an hour", "Configuration and certificate files. refused: they are wrong, the old ones are in use.",
              query(f"sum by (cluster, node, of, result) (increase(konsul_reloads_total{{{N}}}[1h]))",
                    "{{node}} {{of}} {{result}}"), runbook="certificates"),
        graph("Attempts to join in an hour", "By result. Anything but granted: an old token, or somebody guesses.",
              query(f"sum by (cluster, result) (increase(konsul_join_attempts_total{{{N}}}[1h]))", "{{result}}"),
              stack=True, runbook="add-node"),
        graph("Members made voters and removed in an hour", "By autopilot of the node that led.", [
            query(f"increase(konsul_autopilot_promoted_total{{{N}}}[1h])", "{{node}} promoted"),
            query(f"increase(konsul_autopilot_removed_total{{{N}}}[1h])", "{{node}} removed: {{reason}}"),
        ], runbook="remove-node"),
        graph("Audit", "Refused attempts without a row of their own, and events that are in a node's log only.", [
            query(f"increase(konsul_audit_suppressed_total{{{N}}}[1h])", "{{node}} suppressed"),
            query(f"increase(konsul_audit_lost_total{{{N}}}[1h])", "{{node}} lost"),
        ]),
    ],
}

BACKUPS = {
    "slug": "konsul-backups",
    "title": "Konsul / Backups",
    "description": "How old the last backup is, and the last one that was restored on trial. Nothing before the first report.",
    "panels": [
        stat("Last backup kept, ago", "As reported by: konsulctl snapshot save --report.",
             f"time() - max by (cluster) (max_over_time(konsul_backup_last_success_timestamp_seconds{{{C}}}[14d]))",
             unit="s", steps=[(None, "green"), (86400, "orange"), (172800, "red")], width=8, runbook="backup-restore"),
        stat("Last restore on trial, ago", "As reported by: konsulctl snapshot verify --report.",
             f"time() - max by (cluster) (max_over_time(konsul_backup_last_verified_timestamp_seconds{{{C}}}[14d]))",
             unit="s", steps=[(None, "green"), (604800, "red")], width=8, runbook="backup-restore"),
        stat("Recovered by force", "How often somebody went on with one node.",
             f"max by (cluster) (konsul_recovery_epoch{{{C}}})", steps=[(None, "green"), (1, "orange")], width=8,
             runbook="quorum-loss"),
        graph("Size of the last backup", "As it was kept.",
              query(f"max by (cluster) (konsul_backup_size_bytes{{{C}}})", "size"), unit="bytes"),
        graph("Time of the last restore on trial", "A first idea of how long a real one takes.",
              query(f"max by (cluster) (konsul_backup_rehearsal_seconds{{{C}}})", "time"), unit="s"),
        graph("Entries since the last backup", "What would be lost with all nodes.",
              query(f"max by (cluster) (konsul_raft_commit_index{{{C}}}) - max by (cluster) (konsul_backup_archived_index{{{C}}})",
                    "entries"), width=12, runbook="backup-restore"),
        graph("Backups and restores on trial that failed, in a day", "On the host where they were tried.",
              query(f"increase(konsul_backup_failures_total{{{N}}}[1d])", "{{node}} {{kind}}"), width=12,
              runbook="backup-restore"),
    ],
}

PAGES = [OVERVIEW, OPERATIONS, REPLICATION, CERTIFICATES, BACKUPS]
