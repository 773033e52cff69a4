//! A small server of the API in this process: a map, blocking queries, and faults on demand.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use konsul_api::{
    audit::AuditRow,
    batch::{BatchAnswer, BatchOp, BatchRequest},
    ca::OwnCertificate,
    cluster::{ClusterStatus, Leader, Member, NodeStatus, Role},
    join_token::{JoinTokenAnswer, JoinTokenRequest},
    kv::KvEntry,
    txn::{TxnAnswer, TxnError, TxnOp, TxnResult},
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch, time};

/// What the server holds.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, KvEntry>,
    pub(crate) index: u64,
    /// Requests as they came: method and path.
    pub(crate) seen: Vec<String>,
    /// Answers to everything that needs a leader.
    pub(crate) is_leaderless: bool,
    /// Why it is not ready.
    pub(crate) unready: Vec<String>,
    /// Batches and writes it accepts before it refuses them.
    pub(crate) writes_left: Option<u64>,
    /// Bytes of `GET /v1/snapshot`, and what `PUT` brought.
    pub(crate) snapshot: Vec<u8>,
    /// The authority is being replaced.
    pub(crate) is_rotating: bool,
    /// What the audit holds.
    pub(crate) audit: Vec<AuditRow>,
    /// Ends a recursive answer in the middle.
    pub(crate) cuts_answers: bool,
}

/// A running server; it ends with this value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

struct Shared {
    state: Mutex<State>,
    index: watch::Sender<u64>,
    address: SocketAddr,
}

type Answer = Response<Full<Bytes>>;

impl Server {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("bind");
        let address = listener.local_addr().expect("address");
        let state = State { index: 10, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), index: watch::Sender::new(10), address });
        runtime.spawn(accept(listener, shared.clone()));
        Self { address, shared, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Looks at the state, or changes it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared.state.lock().expect("lock");
        let result = look(&mut state);
        self.shared.index.send_replace(state.index);
        result
    }

    /// Waits for a state.
    pub(crate) fn until(&self, is_so: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.with(|s| is_so(s)) {
            assert!(Instant::now() < deadline, "the state never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        self.with(|s| s.set(key, value.to_vec(), 0));
    }
}

impl State {
    pub(crate) fn tell(&mut self, event: &str, who: &str, outcome: &str) {
        let (event, who, outcome) = (event.to_owned(), who.to_owned(), outcome.to_owned());
        let n = self.audit.len() + 1;
        let (id, time) = (format!("{n}.0"), format!("2026-01-01T00:00:0{n}.000Z"));
        let (from, what) = ("10.0.0.9:555".to_owned(), "token abcdefg2".to_owned());
        self.audit.push(AuditRow { id, time, event, who, from, what, outcome });
    }

    fn set(&mut self, key: &str, value: Vec<u8>, flags: u64) {
        self.index += 1;
        let create_index = self.entries.get(key).map_or(self.index, |e| e.create_index);
        let entry = KvEntry {
            lock_index: 0,
            key: key.to_owned(),
            flags,
            value,
            session: None,
            create_index,
            modify_index: self.index,
        };
        self.entries.insert(key.to_owned(), entry);
    }

    /// Whether another write is accepted.
    fn takes_write(&mut self) -> bool {
        match &mut self.writes_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, shared.clone()));
            // The client ends connections as it likes.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, Infallible> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    let body = request.into_body().collect().await.expect("body").to_bytes();
    let is_leaderless = {
        let mut state = shared.state.lock().expect("lock");
        state.seen.push(format!("{method} {path}?{query}"));
        state.is_leaderless
    };
    let needs_leader = path.starts_with("/v1/kv/") || path == "/v1/txn" || path == "/v1/batch";
    if is_leaderless && needs_leader {
        return Ok(text(500, "No cluster leader"));
    }
    if let Some(key) = path.strip_prefix("/v1/kv/") {
        let key = percent_encoding::percent_decode_str(key).decode_utf8().expect("utf-8").into_owned();
        return Ok(kv(&method, &key, &query, body, &shared).await);
    }
    if path == "/v1/cluster/audit" {
        return Ok(json(200, &audit(&query, &shared)));
    }
    Ok(other(&method, &path, &body, &shared))
}

fn param<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

async fn kv(method: &Method, key: &str, query: &str, body: Bytes, shared: &Shared) -> Answer {
    if method == Method::GET {
        if let Some(after) = param(query, "index").and_then(|i| i.parse::<u64>().ok()) {
            let is_tree = param(query, "recurse").is_some();
            let mut index = shared.index.subscribe();
            let woken = async {
                // An index from before a restore is answered at once, as by a server that was restored.
                while current(shared, key, is_tree) == after {
                    index.changed().await.expect("the sender lives");
                }
            };
            // The wait is over: answered with what is there.
            let _ = time::timeout(Duration::from_secs(60), woken).await;
        }
        return read(key, query, shared);
    }
    let answer = write(method, key, query, &body, shared);
    let index = shared.state.lock().expect("lock").index;
    shared.index.send_replace(index);
    answer
}

/// The index of a query.
fn current(shared: &Shared, key: &str, is_tree: bool) -> u64 {
    let state = shared.state.lock().expect("lock");
    match state.entries.get(key) {
        Some(entry) if !is_tree => entry.modify_index,
        Some(_) | None => state.index,
    }
}

fn read(key: &str, query: &str, shared: &Shared) -> Answer {
    let is_tree = param(query, "recurse").is_some() || param(query, "keys").is_some();
    let index = current(shared, key, is_tree);
    let state = shared.state.lock().expect("lock");
    let under: Vec<&KvEntry> = state.entries.values().filter(|e| e.key.starts_with(key)).collect();
    let found: Vec<&KvEntry> = if is_tree { under } else { state.entries.get(key).into_iter().collect() };
    if found.is_empty() {
        return with_index(404, Vec::new(), index);
    }
    if param(query, "raw").is_some() {
        return with_index(200, found[0].value.clone(), index);
    }
    if param(query, "keys").is_some() {
        let separator = param(query, "separator").map(|s| s.replace("%2F", "/"));
        let cut = |e: &&KvEntry| match &separator {
            Some(s) => match e.key[key.len()..].find(s.as_str()) {
                Some(at) => e.key[..key.len() + at + s.len()].to_owned(),
                None => e.key.clone(),
            },
            None => e.key.clone(),
        };
        let mut keys: Vec<String> = found.iter().map(cut).collect();
        keys.dedup();
        return with_index(200, serde_json::to_vec(&keys).expect("json"), index);
    }
    let mut json = serde_json::to_vec(&found).expect("json");
    if state.cuts_answers {
        json.truncate(json.len() / 2);
    }
    with_index(200, json, index)
}

fn write(method: &Method, key: &str, query: &str, body: &Bytes, shared: &Shared) -> Answer {
    let mut state = shared.state.lock().expect("lock");
    if !state.takes_write() {
        return text(400, "no more writes");
    }
    let cas: Option<u64> = param(query, "cas").map(|c| c.parse().expect("cas"));
    let now = state.entries.get(key).map_or(0, |e| e.modify_index);
    if cas.is_some_and(|cas| cas != now && !(method == Method::DELETE && now == 0)) {
        return json(200, &false);
    }
    if method == Method::PUT {
        let flags = param(query, "flags").map_or(0, |f| f.parse().expect("flags"));
        state.set(key, body.to_vec(), flags);
    } else {
        state.index += 1;
        let is_tree = param(query, "recurse").is_some();
        state.entries.retain(|k, _| if is_tree { !k.starts_with(key) } else { k != key });
    }
    json(200, &true)
}

fn other(method: &Method, path: &str, body: &[u8], shared: &Shared) -> Answer {
    let mut state = shared.state.lock().expect("lock");
    match (method.as_str(), path) {
        ("PUT", "/v1/txn") => txn(&mut state, body),
        ("PUT", "/v1/batch") => batch(&mut state, body),
        ("GET", "/v1/snapshot") => with_index(200, state.snapshot.clone(), state.index),
        ("PUT", "/v1/snapshot") => {
            state.snapshot = body.to_vec();
            text(200, "")
        }
        ("GET", "/v1/status/leader") => json(200, &if state.is_leaderless { "" } else { "10.0.0.1:8300" }),
        ("GET", "/v1/status/peers") => json(200, &["10.0.0.1:8300", "10.0.0.2:8300"]),
        ("GET", "/v1/cluster/status") => json(200, &status(&state, shared.address)),
        ("GET", "/v1/cluster/leader") => json(200, &status(&state, shared.address).leader),
        ("GET", "/v1/cluster/peers") => json(200, &status(&state, shared.address).members),
        ("GET", "/v1/cluster/digest") => json(200, &serde_json::json!({"index": 7, "digest": "ab12"})),
        ("PUT", "/v1/cluster/snapshot") => {
            json(200, &serde_json::json!({"index": 7, "term": 2, "bytes": 99, "sha256": "ab12"}))
        }
        ("PUT", "/v1/cluster/transfer-leadership") => transfer(body, shared.address),
        ("GET", "/v1/cluster/ca") => json(200, &authorities(state.is_rotating)),
        ("POST", "/v1/cluster/ca/rotate") => {
            state.is_rotating = true;
            json(200, &serde_json::json!({"number": 2}))
        }
        ("POST", "/v1/cluster/join-token") => json(200, &made_token(body)),
        ("GET", "/v1/cluster/join-token") => json(200, &tokens()),
        ("DELETE", "/v1/cluster/join-token/abcdefg2") => json(200, &serde_json::json!({"id": "abcdefg2"})),
        ("DELETE", path) if path.starts_with("/v1/cluster/join-token/") => {
            json(404, &serde_json::json!({"error": "there is no such token"}))
        }
        ("GET", "/v1/agent/self") => json(
            200,
            &serde_json::json!({"Config": {"Datacenter": "dc1", "NodeName": "n1", "NodeID": "1b4e28ba", "Revision": "",
                "Server": true, "Version": "1.8.7"}}),
        ),
        ("GET", "/v1/openapi.json") => json(200, &serde_json::json!({"openapi": "3.1.0"})),
        ("GET", "/metrics") => text(200, "konsul_raft_is_leader 1\n"),
        ("GET", "/health/live") => json(200, &serde_json::json!({"ok": true, "reasons": []})),
        ("GET", "/health/ready") => {
            let ok = state.unready.is_empty();
            json(if ok { 200 } else { 503 }, &serde_json::json!({"ok": ok, "reasons": state.unready}))
        }
        _ => text(404, ""),
    }
}

fn txn(state: &mut State, body: &[u8]) -> Answer {
    let ops: Vec<TxnOp> = match serde_json::from_slice(body) {
        Ok(ops) => ops,
        Err(e) => return text(400, &format!("Failed to parse body: {e}")),
    };
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for (op, op_index) in ops.iter().zip(0..) {
        match op.kv.verb.as_str() {
            "set" => state.set(&op.kv.key, op.kv.value.clone(), op.kv.flags),
            "get" if state.entries.contains_key(&op.kv.key) => {}
            "get" => errors.push(TxnError { op_index, what: format!("key \"{}\" doesn't exist", op.kv.key) }),
            verb => errors.push(TxnError { op_index, what: format!("unknown KV verb \"{verb}\"") }),
        }
        results.extend(state.entries.get(&op.kv.key).map(|e| TxnResult { kv: e.clone() }));
    }
    let has_failed = !errors.is_empty();
    let answer =
        TxnAnswer { results: (!has_failed).then_some(results), errors: has_failed.then_some(errors), read: None };
    json(if has_failed { 409 } else { 200 }, &answer)
}

fn batch(state: &mut State, body: &[u8]) -> Answer {
    let request: BatchRequest = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(e) => return json(400, &serde_json::json!({"error": format!("the batch is no JSON: {e}")})),
    };
    if !state.takes_write() {
        return json(400, &serde_json::json!({"error": "no more writes"}));
    }
    let mut results = Vec::new();
    for op in request.ops {
        results.push(match op {
            BatchOp::Set { key, value, flags } => {
                state.set(&key, value, flags);
                true
            }
            BatchOp::Delete { key } => {
                state.entries.remove(&key);
                true
            }
            BatchOp::Cas { .. } | BatchOp::DeleteCas { .. } | BatchOp::DeleteTree { .. } => false,
        });
    }
    json(200, &BatchAnswer { applied: true, index: state.index, results })
}

fn audit(query: &str, shared: &Shared) -> Vec<AuditRow> {
    let state = shared.state.lock().expect("lock");
    let limit: usize = param(query, "limit").expect("limit").parse().expect("number");
    match param(query, "after") {
        Some(after) => {
            let seen = state.audit.iter().position(|row| row.id == after).map_or(0, |at| at + 1);
            state.audit[seen..].iter().take(limit).cloned().collect()
        }
        None => state.audit[state.audit.len().saturating_sub(limit)..].to_vec(),
    }
}

fn authorities(rotating: bool) -> serde_json::Value {
    let authority = |number: u64, stage: &str, can_sign: bool| {
        serde_json::json!({"number": number, "stage": stage, "fingerprint": format!("{number}f").repeat(32),
            "not_before": "2026-01-01T00:00:00.000Z", "not_after": "2035-12-30T00:00:00.000Z",
            "sealing_key": format!("{number}a").repeat(8), "can_sign": can_sign})
    };
    let waiting = serde_json::json!([{"id": 3, "name": "n3", "why": "it does not trust authority 2 yet"}]);
    match rotating {
        false => serde_json::json!({"authorities": [authority(1, "active", true)], "rotating": false, "waiting": []}),
        true => serde_json::json!({"authorities": [authority(1, "active", true), authority(2, "next", false)],
            "rotating": true, "waiting": waiting}),
    }
}

/// What was asked for, with the defaults of the API.
fn made_token(body: &[u8]) -> JoinTokenAnswer {
    let request: JoinTokenRequest = serde_json::from_slice(body).expect("request");
    let expires_at = format!("in {}", request.ttl.as_deref().unwrap_or("1h"));
    let (role, uses) = (request.role.unwrap_or_default(), request.uses.unwrap_or(1));
    JoinTokenAnswer { token: "konsul-join-v1.secret".to_owned(), id: "abcdefg2".to_owned(), role, uses, expires_at }
}

fn tokens() -> serde_json::Value {
    let used = serde_json::json!([{"name": "n4", "from": "10.0.0.4:999", "at": "2026-01-01T00:10:00.000Z"}]);
    let token = |id: &str, state: &str, uses: u32, used_by: &serde_json::Value| {
        serde_json::json!({"id": id, "state": state, "role": "voter", "uses": uses, "used_by": used_by,
            "created_at": "2026-01-01T00:00:00.000Z", "created_from": "10.0.0.9:555",
            "expires_at": "2026-01-01T01:00:00.000Z"})
    };
    serde_json::json!([
        token("abcdefg2", "valid", 3, &used),
        token("bbbbbbbb", "used_up", 1, &used),
        token("cccccccc", "revoked", 1, &serde_json::json!([])),
    ])
}

fn leader(address: SocketAddr) -> Leader {
    Leader { id: 1, name: "n1".to_owned(), rpc: "10.0.0.1:8300".to_owned(), http: format!("http://{address}") }
}

fn transfer(body: &[u8], address: SocketAddr) -> Answer {
    let to = if body.is_empty() {
        "n2".to_owned()
    } else {
        let request: konsul_api::cluster::TransferRequest = serde_json::from_slice(body).expect("request");
        request.to.expect("to")
    };
    if to == "n9" {
        return json(400, &serde_json::json!({"error": "there is no node n9; see `konsulctl cluster peers`"}));
    }
    let from = leader(address);
    json(200, &serde_json::json!({"from": from, "to": Leader { name: to, ..from.clone() }, "took_ms": 5}))
}

/// Three members, of which the third is nowhere.
fn status(state: &State, address: SocketAddr) -> ClusterStatus {
    let member = |id: u64, http: String, role| Member {
        id,
        name: format!("n{id}"),
        rpc: format!("10.0.0.{id}:8300"),
        http,
        role,
        voter: true,
        lag: if state.is_leaderless { None } else { Some(id - 1) },
        last_contact_ms: if state.is_leaderless { None } else { Some(0) },
        encryption: (id > 1).then(|| "TLS 1.3".to_owned()),
    };
    let role = if state.is_leaderless { Role::Follower } else { Role::Leader };
    ClusterStatus {
        cluster_id: "c0ffee".to_owned(),
        node: NodeStatus {
            id: 1,
            name: "n1".to_owned(),
            version: "0.1.0".to_owned(),
            role,
            term: 3,
            last_log_index: 42,
            commit_index: 42,
            applied_index: 42,
            snapshot_index: 0,
            last_contact_ms: None,
            read_only: None,
            fenced: None,
            certificate: Some(OwnCertificate {
                not_before: "2026-01-01T00:00:00.000Z".to_owned(),
                not_after: "2026-01-04T00:00:00.000Z".to_owned(),
                expires_in_s: 259_200,
                authority: Some(1),
            }),
            warnings: Vec::new(),
            waiting: None,
            contacts: Vec::new(),
            listening: Vec::new(),
        },
        leader: (!state.is_leaderless).then(|| leader(address)),
        has_quorum: !state.is_leaderless,
        members: vec![
            member(1, format!("http://{address}"), role),
            // Port 1 is nobody's: connections are refused at once.
            member(2, "http://127.0.0.1:1".to_owned(), Role::Follower),
            member(3, "http://[::1]:1".to_owned(), Role::Follower),
        ],
        failure_tolerance: 1,
        healthy: (!state.is_leaderless).then_some(true),
    }
}

fn text(status: u16, body: &str) -> Answer {
    Response::builder().status(status).body(Full::from(body.to_owned())).expect("answer")
}

fn json<T: serde::Serialize>(status: u16, value: &T) -> Answer {
    let body = serde_json::to_vec(value).expect("json");
    Response::builder()
        .status(status)
        .header("Content-Type", "application/json")
        .body(Full::from(body))
        .expect("answer")
}

fn with_index(status: u16, body: Vec<u8>, index: u64) -> Answer {
    Response::builder().status(status).header("X-Consul-Index", index).body(Full::from(body)).expect("answer")
}
