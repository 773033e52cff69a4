//! `/v1/agent/self`: the little that clients read of it.

use super::body::Body;
use super::context::{Ask, Context};
use super::status;
use hyper::Response;
use konsul_api::agent::{AgentConfig, AgentMember, AgentSelf};
use std::collections::BTreeMap;

/// The version whose contract we speak: clients branch on it.
pub(super) const CONSUL_VERSION: &str = "1.8.7";

pub(super) fn describe(context: &Context, ask: &Ask<'_>) -> Response<Body> {
    let deps = &context.deps;
    let rpc = status::address(&deps.consensus.status().node.info);
    let (addr, port) = rpc.rsplit_once(':').unwrap_or((&rpc, ""));
    let tags = [
        ("role", "consul"),
        ("dc", &deps.config.datacenter),
        ("id", &deps.node_uuid),
        ("build", CONSUL_VERSION),
        ("port", port),
    ];
    let answer = AgentSelf {
        config: AgentConfig {
            datacenter: deps.config.datacenter.clone(),
            node_name: deps.node_name.clone(),
            node_id: deps.node_uuid.clone(),
            revision: String::new(),
            server: true,
            version: CONSUL_VERSION.to_owned(),
        },
        member: AgentMember {
            name: deps.node_name.clone(),
            addr: addr.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.parse().unwrap_or(0),
            tags: tags.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            ..AgentMember::default()
        },
        debug_config: BTreeMap::new(),
        coord: BTreeMap::new(),
        stats: BTreeMap::new(),
        meta: BTreeMap::new(),
    };
    ask.serialized(&answer)
}
