//! Requests, errors, durations of the HTTP API.

use super::{Gauge, Histograms};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;

/// Doubling from 0.25 ms to 4 s.
const REQUEST_SECONDS: [f64; 15] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0];

/// Requests, errors, durations of the HTTP API.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    pub requests: Family<Request, Counter>,
    pub seconds: Histograms<Endpoint>,
    pub refused: Refused,
    pub held: Gauge,
    pub blocking_queries: Gauge,
    pub watch_wakeups: Counter,
}

/// Clients that were turned away, by reason; there from the start.
#[derive(Debug, Clone)]
pub struct Refused {
    /// A request too many of one address.
    pub rate: Counter,
    /// A connection too many.
    pub connections: Counter,
    /// A connection too many of one address.
    pub connections_per_client: Counter,
    /// The head of a request did not come in time.
    pub slow_head: Counter,
    /// A body did not.
    pub slow_body: Counter,
    /// An answer was not read in time.
    pub slow_reader: Counter,
}

impl Refused {
    fn of(family: &Family<[(&'static str, &'static str); 1], Counter>) -> Refused {
        let counter = |reason| family.get_or_create_owned(&[("reason", reason)]);
        Refused {
            rate: counter("rate"),
            connections: counter("connections"),
            connections_per_client: counter("connections_per_client"),
            slow_head: counter("slow_head"),
            slow_body: counter("slow_body"),
            slow_reader: counter("slow_reader"),
        }
    }
}

/// Labels of one finished request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// The route's template, never the path of the request.
    pub endpoint: &'static str,
    pub method: &'static str,
    pub code: u16,
}

/// Labels of a duration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Endpoint {
    /// The route's template, never the path of the request.
    pub endpoint: &'static str,
    pub method: &'static str,
}

fn request_seconds() -> Histogram {
    Histogram::new(REQUEST_SECONDS)
}

impl HttpMetrics {
    pub(super) fn new(registry: &mut Registry) -> HttpMetrics {
        let refused = Family::default();
        let http = HttpMetrics {
            refused: Refused::of(&refused),
            held: Gauge::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(request_seconds),
            blocking_queries: Gauge::default(),
            watch_wakeups: Counter::default(),
        };
        registry.register(
            "http_requests",
            "Finished requests; a rise of code 5xx means clients fail",
            http.requests.clone(),
        );
        registry.register("http_refused", "Requests and connections turned away to protect this node, by reason; a rise means a client asks too much, or is too slow", refused);
        registry.register("http_request_seconds", "Time from request to answer", http.seconds.clone());
        registry.register(
            "http_held_requests",
            "Requests that wait until this node is a member again after its restart; more than a moment means it does not come back",
            http.held.clone(),
        );
        registry.register("blocking_queries", "Blocking queries waiting now", http.blocking_queries.clone());
        registry.register("watch_wakeups", "Blocking queries woken by a change", http.watch_wakeups.clone());
        http
    }
}
