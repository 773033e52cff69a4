//! What the table of routes promises.

use super::*;

fn found(method: &str, path: &'static str) -> Found<'static> {
    find(&HttpMethod::from_bytes(method.as_bytes()).unwrap(), path.as_bytes())
}

/// A path that the pattern matches.
fn example(route: &Route) -> String {
    route.template().replace("{key}", "some/key").replace("{id}", "abcdefg2")
}

#[test]
fn no_two_routes_answer_the_same_request() {
    for (at, route) in ROUTES.iter().enumerate() {
        let path = example(route);
        let matching: Vec<usize> = (0..ROUTES.len())
            .filter(|n| ROUTES[*n].method == route.method && ROUTES[*n].pattern.rest(path.as_bytes()).is_some())
            .collect();
        assert_eq!(matching, [at], "{} {path}", route.method.name());
    }
}

#[test]
fn every_route_that_is_not_a_get_says_whether_it_writes() {
    for route in &ROUTES {
        let name = format!("{} {}", route.method.name(), route.template());
        // These act on the cluster or on the node, not on replicated state, and work on every node.
        let acts_here = matches!(
            route.handler,
            Handler::ClusterSnapshot
                | Handler::ClusterCompare
                | Handler::ClusterTransfer
                | Handler::RestartTurn
                | Handler::ClusterInit
                | Handler::ClusterJoin
                | Handler::ClusterChange(_)
                | Handler::RaftRemovePeer
                | Handler::RaftTransferLeader
        );
        match route.method {
            Method::Get => assert_eq!(route.writes, Writes::No, "{name}"),
            Method::Put | Method::Post | Method::Delete => {
                assert_eq!(route.writes == Writes::No, acts_here, "{name}");
            }
        }
        if route.writes != Writes::No {
            let redirect = route.params.iter().any(|param| param.name == REDIRECT.name);
            assert!(redirect, "{name} can be redirected and does not say so");
        }
    }
}

#[test]
fn keys_are_whatever_follows_the_prefix() {
    assert_eq!(found("GET", "/v1/kv/a/b"), Found::Route { at: 0, rest: b"a/b" });
    assert_eq!(found("GET", "/v1/kv/"), Found::Route { at: 0, rest: b"" });
    assert_eq!(found("PUT", "/v1/kv"), Found::Slash);
    assert_eq!(found("GET", "/v1/session/list"), Found::Unknown);
    assert_eq!(found("GET", "/v1/txn/"), Found::Unknown);
}

#[test]
fn a_wrong_method_is_told_the_right_ones_in_order() {
    let allow = || "OPTIONS,GET,PUT,DELETE".to_owned();
    for method in ["POST", "PATCH", "HEAD"] {
        assert_eq!(found(method, "/v1/kv/a"), Found::OtherMethod { allow: allow(), errors: Errors::Text });
    }
    assert_eq!(found("OPTIONS", "/v1/kv/a"), Found::Options { allow: allow() });
    let txn = Found::OtherMethod { allow: "OPTIONS,PUT".to_owned(), errors: Errors::Text };
    assert_eq!(found("POST", "/v1/txn"), txn);
}

#[test]
fn the_cluster_has_two_names() {
    for path in ["/v1/cluster/status", "/cluster/status"] {
        let Found::Route { at, .. } = found("GET", path) else { panic!("{path} is not found") };
        assert_eq!(ROUTES[at].handler, Handler::ClusterStatus);
    }
    for path in ["/v1/cluster/join-token/abcdefg2", "/cluster/join-token/abcdefg2"] {
        let Found::Route { at, rest: b"abcdefg2" } = found("DELETE", path) else { panic!("{path} is not found") };
        assert_eq!(ROUTES[at].handler, Handler::JoinTokenRevoke);
    }
    assert_eq!(found("GET", "/txn"), Found::Unknown);
}
