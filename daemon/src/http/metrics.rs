//! `GET /metrics`, and the counters of every route, looked up once: the hot path hashes no labels.

use super::body::Body;
use super::context::Context;
use super::headers::{self, value};
use super::router::{ROUTES, Route};
use crate::metrics::{Endpoint, HttpMetrics, Metrics, Request};
use hyper::Response;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::OnceLock;
use std::time::Duration;

/// Codes that are usual; counters of others are looked up each time.
const USUAL_CODES: [u16; 7] = [200, 500, 503, 404, 400, 409, 429];
/// So many of them are there from the start: a series that appears with its first failure hides that failure from
/// `rate`. The others would be most of the series of a node, and stay at zero on most routes.
const FROM_START: usize = 3;

/// What is not in the table: unknown paths, wrong methods.
const OTHER: Endpoint = Endpoint { endpoint: "other", method: "other" };

/// Counters of every route.
pub(super) struct RouteMetrics {
    http: HttpMetrics,
    /// In the order of the table; the last one is for what is not in it.
    routes: Vec<Handles>,
}

struct Handles {
    labels: Endpoint,
    seconds: Histogram,
    usual: [OnceLock<Counter>; USUAL_CODES.len()],
}

impl RouteMetrics {
    pub(super) fn new(http: HttpMetrics) -> RouteMetrics {
        let labels = ROUTES.iter().map(labels).chain([OTHER]);
        let routes = labels.map(|labels| Handles::new(&http, labels)).collect();
        RouteMetrics { http, routes }
    }

    /// Counts one answer. `route`: its place in the table, `None` if it has none.
    pub(super) fn count(&self, route: Option<usize>, code: u16, took: Duration) {
        let handles = &self.routes[route.unwrap_or(ROUTES.len())];
        handles.seconds.observe(took.as_secs_f64());
        match USUAL_CODES.iter().position(|usual| *usual == code) {
            Some(at) => handles.usual[at].get_or_init(|| counter(&self.http, &handles.labels, code)).inc(),
            None => counter(&self.http, &handles.labels, code).inc(),
        };
    }
}

impl Handles {
    fn new(http: &HttpMetrics, labels: Endpoint) -> Handles {
        let usual: [OnceLock<Counter>; USUAL_CODES.len()] = Default::default();
        for (slot, code) in usual.iter().zip(USUAL_CODES).take(FROM_START) {
            slot.get_or_init(|| counter(http, &labels, code));
        }
        Handles { seconds: http.seconds.get_or_create(&labels).clone(), usual, labels }
    }
}

fn labels(route: &Route) -> Endpoint {
    Endpoint { endpoint: route.template(), method: route.method.name() }
}

fn counter(http: &HttpMetrics, labels: &Endpoint, code: u16) -> Counter {
    let labels = Request { endpoint: labels.endpoint, method: labels.method, code };
    http.requests.get_or_create(&labels).clone()
}

/// The template and the method of a route by its place in the table, as they are counted.
pub(super) fn names(route: Option<usize>) -> (&'static str, &'static str) {
    let Endpoint { endpoint, method } = route.map_or(OTHER, |at| labels(&ROUTES[at]));
    (endpoint, method)
}

/// The exposition text of a member, as it is now.
pub(super) fn expose_now(context: &Context) -> Response<Body> {
    context.deps.consensus.renew_gauges();
    expose(&context.deps.metrics)
}

/// The exposition text.
pub(super) fn expose(metrics: &Metrics) -> Response<Body> {
    headers::ok(value::OPENMETRICS, Body::from(metrics.encode().into_bytes()))
}
