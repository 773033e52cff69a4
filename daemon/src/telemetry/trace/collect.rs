//! Making spans, by the SDK of OpenTelemetry, and queueing them for the sender. Nothing here waits.

use super::send::{Sender, Target};
use super::{DROPPED, Parent, SpanKind, TraceConfig, TraceError};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanProcessor};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Spans that wait for the sender; about a kilobyte each.
const QUEUE_MAX: usize = 4096;
/// What is still on its way when the process ends has so long to arrive.
const FLUSH: Duration = Duration::from_secs(2);

/// There is one collector for the process, as there is one log.
static COLLECTING: OnceLock<Collecting> = OnceLock::new();

struct Collecting {
    tracer: SdkTracer,
    /// Ends with it.
    _provider: SdkTracerProvider,
    flushes: mpsc::UnboundedSender<std::sync::mpsc::Sender<()>>,
    _sender: JoinHandle<()>,
}

/// Something that is done, until it is dropped.
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// For what is part of it.
    pub fn as_parent(&self) -> Parent {
        let context = self.0.span_context();
        Parent { trace: context.trace_id().to_bytes(), span: context.span_id().to_bytes(), is_remote: false }
    }

    /// Never with a text that a client sent.
    pub fn text(&mut self, key: &'static str, text: &'static str) {
        self.0.set_attribute(KeyValue::new(key, text));
    }

    pub fn number(&mut self, key: &'static str, number: u64) {
        self.0.set_attribute(KeyValue::new(key, i64::try_from(number).unwrap_or(i64::MAX)));
    }

    /// It did not do what it should.
    pub fn fail(&mut self, why: &'static str) {
        self.0.set_status(Status::error(why));
    }

    pub(super) fn name(&mut self, name: String) {
        self.0.update_name(name);
    }
}

/// Ends of spans, handed to the sender; what does not fit is counted.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut opentelemetry_sdk::trace::Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// From now on sampled requests are traced; sent by a task on this runtime. Once per process.
pub fn start(config: &TraceConfig, runtime: &Handle) -> Result<(), TraceError> {
    let target = Target::of(config)?;
    let resource = Resource::builder_empty()
        .with_service_name("konsul")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", config.node.clone()))
        .build();
    let (queue, spans) = mpsc::channel(QUEUE_MAX);
    let (flushes, asked) = mpsc::unbounded_channel();
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    let sender = runtime.spawn(Sender::new(target, &resource).run(spans, asked));
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_resource(resource)
        .with_span_processor(Queue(queue))
        .build();
    let tracer = provider.tracer("konsuld");
    COLLECTING.get_or_init(|| Collecting { tracer, _provider: provider, flushes, _sender: sender });
    Ok(())
}

pub fn is_on() -> bool {
    COLLECTING.get().is_some()
}

/// Waits until what was traced is sent, but not for long. For those who end the process.
pub fn flush() {
    let Some(collecting) = COLLECTING.get() else { return };
    let (done, told) = std::sync::mpsc::channel();
    if collecting.flushes.send(done).is_ok() {
        // In time or not: the process ends.
        let _ = told.recv_timeout(FLUSH);
    }
}

/// A request that came without a trace; `None`: it is not sampled.
pub(super) fn root(name: &'static str) -> Option<Span> {
    start_span(&Context::new(), SpanBuilder::from_name(name).with_kind(OtelKind::Server))
}

pub(super) fn child(parent: Parent, kind: SpanKind, name: &'static str) -> Option<Span> {
    let kind = match kind {
        SpanKind::Internal => OtelKind::Internal,
        SpanKind::Client => OtelKind::Client,
        SpanKind::Server => OtelKind::Server,
    };
    start_span(&context_of(parent), SpanBuilder::from_name(name).with_kind(kind))
}

pub(super) fn past(parent: Parent, name: &'static str, began: SystemTime, ended: SystemTime) {
    let builder = SpanBuilder::from_name(name).with_kind(OtelKind::Internal).with_start_time(began);
    if let Some(mut span) = start_span(&context_of(parent), builder) {
        span.0.end_with_timestamp(ended);
    }
}

fn start_span(context: &Context, builder: SpanBuilder) -> Option<Span> {
    let span = builder.start_with_context(&COLLECTING.get()?.tracer, context);
    span.is_recording().then_some(Span(span))
}

fn context_of(parent: Parent) -> Context {
    let (trace, span) = (TraceId::from_bytes(parent.trace), SpanId::from_bytes(parent.span));
    let parent = SpanContext::new(trace, span, TraceFlags::SAMPLED, parent.is_remote, TraceState::NONE);
    Context::new().with_remote_span_context(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_queue_does_not_hold_is_dropped_and_counted_and_nobody_waits() {
        let (queue, mut spans) = mpsc::channel(2);
        let provider = SdkTracerProvider::builder().with_span_processor(Queue(queue)).build();
        let tracer = provider.tracer("test");
        let before = DROPPED.load(Ordering::Relaxed);
        for _ in 0..5 {
            SpanBuilder::from_name("a").start_with_context(&tracer, &Context::new()).end();
        }
        assert_eq!(DROPPED.load(Ordering::Relaxed) - before, 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }
}
