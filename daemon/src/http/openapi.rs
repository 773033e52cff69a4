//! The OpenAPI document, derived from the table of routes.

use super::router::{Acl, Errors, Pattern, ROUTES, Reads, Route, Writes};
use serde_json::{Map, Value, json};

/// The document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        let path = paths.entry(route.template()).or_insert_with(|| json!({}));
        path[route.method.name().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Konsul",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Consul's HTTP API for keys and values, and Konsul's own for the cluster.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "paths": paths,
    })
}

fn operation(route: &Route) -> Value {
    let errors = match route.errors {
        Errors::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Errors::Json => json!({ "application/json": { "schema": {
            "type": "object", "required": ["error"], "properties": { "error": { "type": "string" } },
        } } }),
    };
    json!({
        "summary": route.summary,
        "parameters": parameters(route),
        "x-konsul-writes": match route.writes {
            Writes::No => json!(false),
            Writes::Yes => json!(true),
            Writes::BodyDecides => json!("body"),
        },
        "x-konsul-acl": match route.acl {
            Acl::Nothing => "none",
            Acl::KeyRead => "key:read",
            Acl::KeyWrite => "key:write",
            Acl::Operations => "by operation",
            Acl::AgentRead => "agent:read",
            Acl::OperatorRead => "operator:read",
            Acl::OperatorWrite => "operator:write",
            Acl::Management => "management",
        },
        "responses": {
            "200": { "description": "Done" },
            "default": { "description": "Refused or failed", "content": errors },
        },
    })
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Pattern::Key(prefix) = route.pattern {
        let (name, about) = match prefix {
            "/v1/kv/" => ("key", "A key of up to 1024 bytes, or a prefix; it may hold slashes."),
            _ => ("id", "The id of one of them."),
        };
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": { "type": "string" }, "description": about,
        }));
    }
    let implied: &[(&str, &str)] = match route.reads {
        Reads::Nothing => &[],
        Reads::Consistency => &CONSISTENCY,
        Reads::Blocking => &BLOCKING,
        Reads::Index => &WAITING,
    };
    let own = route.params.iter().map(|param| (param.name, param.about));
    for (name, about) in own.chain(implied.iter().copied()) {
        parameters.push(json!({
            "name": name, "in": "query", "schema": { "type": "string" }, "allowEmptyValue": true, "description": about,
        }));
    }
    parameters
}

const INDEX: (&str, &str) = ("index", "Answer when the index is greater than this.");
const WAIT: (&str, &str) = ("wait", "How long to wait for that, such as 30s; 5m unless given, 10m at most.");
const STALE: (&str, &str) = ("stale", "What this node has, at once.");
const CONSISTENT: (&str, &str) = ("consistent", "What a quorum confirms.");
const LEADER: (&str, &str) = ("leader", "What the leader has.");
const NAMED: (&str, &str) = ("consistency", "stale, leader or strong.");
const MAX_STALE: (&str, &str) = ("max_stale", "What this node has, if it heard from the leader within this time.");
const CONSISTENCY: [(&str, &str); 5] = [STALE, CONSISTENT, LEADER, NAMED, MAX_STALE];
const BLOCKING: [(&str, &str); 7] = [INDEX, WAIT, STALE, CONSISTENT, LEADER, NAMED, MAX_STALE];
const WAITING: [(&str, &str); 2] = [("index", "Wait until this node has applied the entry with this index."), WAIT];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_and_every_parameter_is_in_the_document() {
        let document = document();
        for route in &ROUTES {
            let operation = &document["paths"][route.template()][route.method.name().to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary);
            for param in route.params {
                let listed = operation["parameters"].as_array().unwrap();
                assert!(listed.iter().any(|p| p["name"] == param.name), "{} {}", route.template(), param.name);
            }
        }
        let kv = &document["paths"]["/v1/kv/{key}"];
        assert!(kv["get"]["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "index"));
        assert_eq!(kv["put"]["x-konsul-writes"], true);
    }
}
