//! Real processes that are killed, paused, cut off, filled up and damaged: what was acknowledged stays, and a node that
//! cannot know says so.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::expect_used, reason = "tests")]

mod attacks;
mod authority;
mod autopilot;
mod backup;
#[cfg(feature = "discovery-aws")]
mod bucket;
mod by_domain;
mod crash;
mod damage;
mod disk;
mod diverged;
mod divided;
mod encryption;
mod entered;
mod first;
#[path = "../identity/forged.rs"]
mod forged;
mod linear;
mod membership;
#[cfg(feature = "discovery-aws")]
#[path = "../discovery/moto.rs"]
mod moto;
#[path = "../peer/old_tls.rs"]
mod old_tls;
mod partition;
mod pause;
mod recovery;
mod reload;
mod second;
mod secrets;
mod snapshot;
#[allow(dead_code, unused_imports, clippy::explicit_write, reason = "shared with tests that use the rest of it")]
mod support;
#[cfg(feature = "otlp")]
mod traced;
mod upgraded;
mod version;
