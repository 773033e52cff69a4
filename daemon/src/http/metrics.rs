//! `GET /metrics`, and the counters of every route, looked up once: the hot path hashes no labels.

use super::body::Body;
use super::headers::{self, value};
use super::router::{ROUTES, Route};
use crate::metrics::{Endpoint, HttpMetrics, Metrics, Request};
use hyper::Response;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Codes that are usual; counters of others are looked up when they occur.
const USUAL_CODES: [u16; 7] = [200, 404, 400, 409, 429, 500, 503];

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
    usual: [Counter; USUAL_CODES.len()],
}

impl RouteMetrics {
    pub(super) fn new(http: HttpMetrics) -> RouteMetrics {
        let labels = ROUTES.iter().map(labels).chain([OTHER]);
        let routes = labels
            .map(|labels| Handles {
                seconds: http.seconds.get_or_create(&labels).clone(),
                usual: USUAL_CODES.map(|code| counter(&http, &labels, code)),
                labels,
            })
            .collect();
        RouteMetrics { http, routes }
    }

    /// Counts one answer. `route`: its place in the table, `None` if it has none.
    pub(super) fn count(&self, route: Option<usize>, code: u16, took: Duration) {
        let handles = &self.routes[route.unwrap_or(ROUTES.len())];
        handles.seconds.observe(took.as_secs_f64());
        match USUAL_CODES.iter().position(|usual| *usual == code) {
            Some(at) => handles.usual[at].inc(),
            None => counter(&self.http, &handles.labels, code).inc(),
        };
    }
}

fn labels(route: &Route) -> Endpoint {
    Endpoint { endpoint: route.template(), method: route.method.name() }
}

fn counter(http: &HttpMetrics, labels: &Endpoint, code: u16) -> Counter {
    let labels = Request { endpoint: labels.endpoint, method: labels.method, code };
    http.requests.get_or_create(&labels).clone()
}

/// The exposition text.
pub(super) fn expose(metrics: &Metrics) -> Response<Body> {
    headers::ok(value::OPENMETRICS, Body::from(metrics.encode().into_bytes()))
}
