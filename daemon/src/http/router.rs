//! The one table of routes. Dispatch, refusals, the gating of writes, metrics, the OpenAPI document and tests are
//! derived from it.

use crate::raft::MembershipOp;
use hyper::Method as HttpMethod;

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// Which paths.
    pub pattern: Pattern,
    pub(super) handler: Handler,
    /// Whether it changes replicated state: then it may be sent to the leader.
    pub writes: Writes,
    /// What it honours of consistency and waiting.
    pub reads: Reads,
    /// What it will need once there are access rules.
    pub acl: Acl,
    /// Whose contract it is: errors are text as in Consul, or JSON.
    pub errors: Errors,
    /// One line for people.
    pub summary: &'static str,
    /// Its own parameters; those of `reads` are implied.
    pub params: &'static [Param],
}

/// A method that some route has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "HTTP's words")]
pub enum Method {
    Get,
    Put,
    Post,
    Delete,
}

/// Which paths a route answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exact(&'static str),
    /// Every path that starts with this; the rest is the key.
    Key(&'static str),
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handler {
    Root,
    KvGet,
    KvPut,
    KvDelete,
    Txn,
    Batch,
    StatusLeader,
    StatusPeers,
    AgentSelf,
    SnapshotSave,
    SnapshotRestore,
    ArchiveSave,
    BackupStatus,
    BackupReport,
    ArchiveRestore,
    ClusterStatus,
    ClusterLeader,
    ClusterPeers,
    ClusterDigest,
    ClusterCompare,
    UpgradeStatus,
    UpgradeFinalize,
    ClusterSnapshot,
    ClusterTransfer,
    RestartTurn,
    JoinTokenCreate,
    JoinTokenList,
    JoinTokenRevoke,
    CaStatus,
    CaRotate,
    Audit,
    ClusterInit,
    ClusterJoin,
    /// What shall be.
    ClusterChange(MembershipOp),
    RaftConfiguration,
    RaftRemovePeer,
    RaftTransferLeader,
    AutopilotConfiguration,
    AutopilotConfigure,
    AutopilotHealth,
    AutopilotState,
    Live,
    Ready,
    Metrics,
    OpenApi,
}

/// Whether a route changes replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Never.
    No,
    /// Always.
    Yes,
    /// Depends on the operations in the body.
    BodyDecides,
}

/// What a route honours of `?stale`, `?consistent`, `?leader`, `?consistency=`, `?max_stale=`, `?index=` and `?wait=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Nothing: it does not read replicated state, or reads this node's on purpose.
    Nothing,
    /// How fresh.
    Consistency,
    /// How fresh, and waits for a change.
    Blocking,
    /// Waits for an index of this node.
    Index,
}

/// What a caller must be allowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the rules")]
pub enum Acl {
    Nothing,
    KeyRead,
    KeyWrite,
    /// By operation.
    Operations,
    AgentRead,
    OperatorRead,
    OperatorWrite,
    Management,
}

/// How errors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// Plain text.
    Text,
    /// `{"error": …}`.
    Json,
}

/// A parameter of the query string.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

const fn param(name: &'static str, about: &'static str) -> Param {
    Param { name, about }
}

const DC: Param = param("dc", "Name of the datacenter; there is one.");
const PRETTY: Param = param("pretty", "Indent the JSON.");
const CAS_PUT: Param = param("cas", "Write only if the key's ModifyIndex is this; 0: only if it is absent.");
const CAS_DELETE: Param = param("cas", "Delete only if the key's ModifyIndex is this.");
const FLAGS: Param = param("flags", "An unsigned number kept with the value.");
const ACQUIRE: Param = param("acquire", "Take the lock for this session.");
const RELEASE: Param = param("release", "Release the lock of this session.");
const RECURSE_GET: Param = param("recurse", "Every entry whose key starts with the path.");
const RECURSE_DELETE: Param = param("recurse", "Delete every key that starts with the path.");
const KEYS: Param = param("keys", "Only the keys that start with the path.");
const SEPARATOR: Param = param("separator", "Cut each key after the first of these behind the prefix.");
const RAW: Param = param("raw", "The value as it is, not JSON.");
const LIMIT: Param = param("limit", "How many rows at most: the newest, or those after `after`; 100 unless given.");
const AFTER: Param = param("after", "Only the rows behind the one with this id.");
const PEER_ID: Param = param("id", "UUID of the member, or its node id.");
const PEER_ADDRESS: Param = param("address", "`IP:port` of the member between nodes.");
const CAS_AUTOPILOT: Param = param("cas", "Write only if the configuration's ModifyIndex is this.");
const DRY_RUN: Param = param("dry-run", "Verify everything, tell what would be, and change nothing.");
const ALLOW_CLUSTER_CHANGE: Param = param("allow-cluster-change", "Also if the archive is another cluster's.");
const REDIRECT: Param = param("leader_redirect", "1: answer 307 with the leader's URL instead of forwarding.");

/// Every route, those that are asked for most first.
pub static ROUTES: [Route; ROUTE_COUNT] = [
    Route {
        params: &[RAW, RECURSE_GET, KEYS, SEPARATOR, DC, PRETTY],
        acl: Acl::KeyRead,
        ..read(Pattern::Key("/v1/kv/"), Handler::KvGet, Reads::Blocking, "Read a key, a tree or a list of keys")
    },
    Route {
        params: &[CAS_PUT, FLAGS, ACQUIRE, RELEASE, DC, REDIRECT],
        acl: Acl::KeyWrite,
        ..write(Method::Put, Pattern::Key("/v1/kv/"), Handler::KvPut, "Write a key; the body is the value")
    },
    Route {
        params: &[RECURSE_DELETE, CAS_DELETE, DC, REDIRECT],
        acl: Acl::KeyWrite,
        ..write(Method::Delete, Pattern::Key("/v1/kv/"), Handler::KvDelete, "Delete a key or a tree")
    },
    Route {
        writes: Writes::BodyDecides,
        reads: Reads::Consistency,
        params: &[DC, PRETTY, REDIRECT],
        acl: Acl::Operations,
        ..write(Method::Put, Pattern::Exact("/v1/txn"), Handler::Txn, "Several operations, all or nothing")
    },
    Route { acl: Acl::Operations, ..ours(write(Method::Put, Pattern::Exact(BATCH), Handler::Batch, BATCH_SUMMARY)) },
    Route { acl: Acl::Operations, ..ours(write(Method::Post, Pattern::Exact(BATCH), Handler::Batch, BATCH_SUMMARY)) },
    Route {
        params: &[DC, PRETTY],
        ..read(Pattern::Exact("/v1/status/leader"), Handler::StatusLeader, Reads::Nothing, "Peer address of the leader")
    },
    Route {
        params: &[DC, PRETTY],
        ..read(Pattern::Exact("/v1/status/peers"), Handler::StatusPeers, Reads::Nothing, "Peer addresses of the voters")
    },
    Route {
        params: &[PRETTY],
        acl: Acl::AgentRead,
        ..read(Pattern::Exact("/v1/agent/self"), Handler::AgentSelf, Reads::Nothing, "What this node is")
    },
    Route {
        params: &[DC],
        acl: Acl::Management,
        ..read(Pattern::Exact(SNAPSHOT), Handler::SnapshotSave, Reads::Consistency, "Save everything as an archive")
    },
    Route {
        params: &[DC, REDIRECT],
        acl: Acl::Management,
        ..write(Method::Put, Pattern::Exact(SNAPSHOT), Handler::SnapshotRestore, "Replace everything from an archive")
    },
    cluster(Method::Get, "/v1/cluster/status", Handler::ClusterStatus, "The cluster as this node sees it"),
    cluster(Method::Get, "/v1/cluster/leader", Handler::ClusterLeader, "Who leads"),
    cluster(Method::Get, "/v1/cluster/peers", Handler::ClusterPeers, "Every member"),
    Route {
        reads: Reads::Index,
        ..cluster(Method::Get, "/v1/cluster/digest", Handler::ClusterDigest, "A hash of the replicated state")
    },
    cluster(Method::Post, "/v1/cluster/compare", Handler::ClusterCompare, COMPARE_SUMMARY),
    cluster(Method::Put, CLUSTER_SNAPSHOT, Handler::ClusterSnapshot, CLUSTER_SNAPSHOT_SUMMARY),
    cluster(Method::Post, CLUSTER_SNAPSHOT, Handler::ClusterSnapshot, CLUSTER_SNAPSHOT_SUMMARY),
    Route {
        acl: Acl::Management,
        reads: Reads::Consistency,
        params: &[],
        ..cluster(Method::Get, ARCHIVE, Handler::ArchiveSave, "Save the whole state as an archive that proves itself")
    },
    Route {
        acl: Acl::Management,
        params: &[DRY_RUN, ALLOW_CLUSTER_CHANGE, PRETTY, REDIRECT],
        ..cluster_write(
            Method::Put,
            Pattern::Exact(ARCHIVE),
            Handler::ArchiveRestore,
            "Replace every key by those of an archive",
        )
    },
    Route {
        reads: Reads::Consistency,
        ..cluster(
            Method::Get,
            BACKUP,
            Handler::BackupStatus,
            "The last backup that was kept, and the last one verified",
        )
    },
    cluster_write(
        Method::Put,
        Pattern::Exact(BACKUP),
        Handler::BackupReport,
        "Tell that a backup was kept or verified, or that it failed",
    ),
    cluster(Method::Put, TRANSFER, Handler::ClusterTransfer, TRANSFER_SUMMARY),
    cluster(Method::Post, TRANSFER, Handler::ClusterTransfer, TRANSFER_SUMMARY),
    cluster(Method::Post, "/v1/cluster/restart-turn", Handler::RestartTurn, "Take the turn to restart"),
    cluster_write(Method::Post, Pattern::Exact(JOIN_TOKEN), Handler::JoinTokenCreate, "Make a join token"),
    Route {
        reads: Reads::Consistency,
        ..cluster(Method::Get, JOIN_TOKEN, Handler::JoinTokenList, "Every join token, without its secret")
    },
    cluster_write(
        Method::Delete,
        Pattern::Key("/v1/cluster/join-token/"),
        Handler::JoinTokenRevoke,
        "Revoke a join token",
    ),
    Route {
        reads: Reads::Consistency,
        params: &[LIMIT, AFTER, PRETTY],
        ..cluster(Method::Get, "/v1/cluster/audit", Handler::Audit, "Who did what to the cluster, oldest first")
    },
    cluster(Method::Get, UPGRADE, Handler::UpgradeStatus, "What every member runs, and whether an upgrade is complete"),
    cluster_write(Method::Post, Pattern::Exact(UPGRADE), Handler::UpgradeFinalize, FINALIZE_SUMMARY),
    cluster(Method::Get, "/v1/cluster/ca", Handler::CaStatus, "The cluster's own authority"),
    cluster_write(
        Method::Post,
        Pattern::Exact("/v1/cluster/ca/rotate"),
        Handler::CaRotate,
        "Begin to replace the cluster's own authority",
    ),
    cluster(Method::Post, "/v1/cluster/init", Handler::ClusterInit, "Form a new cluster, on a node that is in none"),
    cluster(
        Method::Post,
        "/v1/cluster/join",
        Handler::ClusterJoin,
        "Join a cluster with a token, on a node that is in none",
    ),
    change("/v1/cluster/leave", MembershipOp::Leave, "Have a node leave: the named one, or the one that is asked"),
    change("/v1/cluster/remove", MembershipOp::Remove, "Remove a member, dead or alive, for good"),
    change("/v1/cluster/promote", MembershipOp::Promote, "Have a learner vote"),
    change("/v1/cluster/demote", MembershipOp::Demote, "Have a voter be a learner"),
    Route {
        params: &[DC, PRETTY],
        acl: Acl::OperatorRead,
        ..read(Pattern::Exact(RAFT), Handler::RaftConfiguration, Reads::Consistency, "Members, in Consul's words")
    },
    Route {
        method: Method::Delete,
        params: &[PEER_ID, PEER_ADDRESS, DC],
        acl: Acl::OperatorWrite,
        ..read(Pattern::Exact(RAFT_PEER), Handler::RaftRemovePeer, Reads::Nothing, "Remove a member for good")
    },
    Route {
        method: Method::Post,
        params: &[PEER_ID, DC, PRETTY],
        acl: Acl::OperatorWrite,
        ..read(Pattern::Exact(RAFT_TRANSFER), Handler::RaftTransferLeader, Reads::Nothing, TRANSFER_SUMMARY)
    },
    Route {
        params: &[DC, PRETTY],
        acl: Acl::OperatorRead,
        ..read(
            Pattern::Exact(AUTOPILOT),
            Handler::AutopilotConfiguration,
            Reads::Consistency,
            "How autopilot is configured",
        )
    },
    Route {
        params: &[CAS_AUTOPILOT, DC, PRETTY, REDIRECT],
        acl: Acl::OperatorWrite,
        ..write(Method::Put, Pattern::Exact(AUTOPILOT), Handler::AutopilotConfigure, "Configure autopilot")
    },
    Route {
        params: &[DC, PRETTY],
        acl: Acl::OperatorRead,
        ..read(
            Pattern::Exact("/v1/operator/autopilot/health"),
            Handler::AutopilotHealth,
            Reads::Nothing,
            "How the servers are; 429 if one is not well",
        )
    },
    Route {
        params: &[DC, PRETTY],
        acl: Acl::OperatorRead,
        ..read(
            Pattern::Exact("/v1/operator/autopilot/state"),
            Handler::AutopilotState,
            Reads::Nothing,
            "How the servers are, what they do, and what autopilot waits for",
        )
    },
    ours(read(Pattern::Exact("/health/live"), Handler::Live, Reads::Nothing, "Whether this process serves")),
    ours(read(
        Pattern::Exact("/health/ready"),
        Handler::Ready,
        Reads::Nothing,
        "Whether this node is ready, or why not",
    )),
    read(Pattern::Exact("/metrics"), Handler::Metrics, Reads::Nothing, "Metrics in the OpenMetrics format"),
    ours(read(Pattern::Exact("/v1/openapi.json"), Handler::OpenApi, Reads::Nothing, "This document")),
    read(Pattern::Exact("/"), Handler::Root, Reads::Nothing, "A greeting"),
];

const ROUTE_COUNT: usize = 51;
const BATCH: &str = "/v1/batch";
const BATCH_SUMMARY: &str = "Many key/value writes in one log entry";
const SNAPSHOT: &str = "/v1/snapshot";
const COMPARE_SUMMARY: &str = "Compare the states of all members now; one that deviates from the majority is fenced";
const UPGRADE: &str = "/v1/cluster/upgrade";
const FINALIZE_SUMMARY: &str = "Raise the cluster version to what all members understand";
const CLUSTER_SNAPSHOT: &str = "/v1/cluster/snapshot";
const CLUSTER_SNAPSHOT_SUMMARY: &str =
    "Build a snapshot of this node's state for itself, so that its log can be purged";
const BACKUP: &str = "/v1/cluster/backup";
const ARCHIVE: &str = "/v1/cluster/archive";
const JOIN_TOKEN: &str = "/v1/cluster/join-token";
const TRANSFER: &str = "/v1/cluster/transfer-leadership";
const TRANSFER_SUMMARY: &str = "Move the leadership to a named node, or to the best one";

const RAFT: &str = "/v1/operator/raft/configuration";
const RAFT_PEER: &str = "/v1/operator/raft/peer";
const RAFT_TRANSFER: &str = "/v1/operator/raft/transfer-leader";
const AUTOPILOT: &str = "/v1/operator/autopilot/configuration";

const fn read(pattern: Pattern, handler: Handler, reads: Reads, summary: &'static str) -> Route {
    Route {
        method: Method::Get,
        pattern,
        handler,
        writes: Writes::No,
        reads,
        acl: Acl::Nothing,
        errors: Errors::Text,
        summary,
        params: &[],
    }
}

const fn write(method: Method, pattern: Pattern, handler: Handler, summary: &'static str) -> Route {
    Route { method, writes: Writes::Yes, params: &[REDIRECT], ..read(pattern, handler, Reads::Nothing, summary) }
}

const fn ours(route: Route) -> Route {
    Route { errors: Errors::Json, ..route }
}

const fn cluster(method: Method, path: &'static str, handler: Handler, summary: &'static str) -> Route {
    let acl = match method {
        Method::Get => Acl::OperatorRead,
        Method::Put | Method::Post | Method::Delete => Acl::OperatorWrite,
    };
    let route = read(Pattern::Exact(path), handler, Reads::Nothing, summary);
    Route { method, acl, params: &[PRETTY], errors: Errors::Json, ..route }
}

/// A write of the cluster's own records.
const fn cluster_write(method: Method, pattern: Pattern, handler: Handler, summary: &'static str) -> Route {
    Route { acl: Acl::OperatorWrite, params: &[PRETTY, REDIRECT], ..ours(write(method, pattern, handler, summary)) }
}

const fn change(path: &'static str, op: MembershipOp, summary: &'static str) -> Route {
    cluster(Method::Post, path, Handler::ClusterChange(op), summary)
}

impl Method {
    /// As it goes over the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }
}

impl Pattern {
    /// What of `path` is behind the pattern, if it matches. `/cluster/…` is another name of `/v1/cluster/…`.
    fn rest<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        match self {
            Pattern::Key(prefix) => {
                let other = || path.strip_prefix(unversioned(prefix)?);
                path.strip_prefix(prefix.as_bytes()).or_else(other)
            }
            Pattern::Exact(exact) => (exact.as_bytes() == path || unversioned(exact) == Some(path)).then_some(b""),
        }
    }
}

/// The other name of a path of the cluster.
fn unversioned(path: &str) -> Option<&[u8]> {
    path.starts_with("/v1/cluster/").then(|| &path.as_bytes()["/v1".len()..])
}

impl Route {
    /// The path with its variable part named.
    pub fn template(&self) -> &'static str {
        match self.pattern {
            Pattern::Exact(path) => path,
            Pattern::Key("/v1/kv/") => "/v1/kv/{key}",
            Pattern::Key("/v1/cluster/join-token/") => "/v1/cluster/join-token/{id}",
            Pattern::Key(prefix) => prefix,
        }
    }
}

/// What the table says of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'p> {
    /// This route, and what is behind its prefix.
    Route {
        at: usize,
        rest: &'p [u8],
    },
    /// `OPTIONS`, answered with the methods of the path.
    Options {
        allow: String,
    },
    /// The path is there, the method is not. `errors` as its routes have them.
    OtherMethod {
        allow: String,
        errors: Errors,
    },
    /// The path lacks its final slash.
    Slash,
    Unknown,
}

/// The route of a request; `path` is decoded and clean.
pub(super) fn find<'p>(method: &HttpMethod, path: &'p [u8]) -> Found<'p> {
    let mut others = Vec::new();
    for (at, route) in ROUTES.iter().enumerate() {
        let Some(rest) = route.pattern.rest(path) else { continue };
        if route.method.name() == method.as_str() {
            return Found::Route { at, rest };
        }
        others.push(route);
    }
    let Some(first) = others.first() else {
        let slash = ROUTES.iter().any(|route| match route.pattern {
            Pattern::Key(prefix) => prefix.as_bytes().strip_suffix(b"/") == Some(path),
            Pattern::Exact(_) => false,
        });
        return if slash { Found::Slash } else { Found::Unknown };
    };
    let errors = first.errors;
    let allow = others.iter().fold("OPTIONS".to_owned(), |allow, route| allow + "," + route.method.name());
    if method == HttpMethod::OPTIONS { Found::Options { allow } } else { Found::OtherMethod { allow, errors } }
}

#[cfg(test)]
mod tests;
