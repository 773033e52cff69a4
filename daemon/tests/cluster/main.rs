//! Real processes that are killed, paused, cut off, filled up and damaged: what was acknowledged stays, and a node that
//! cannot know says so.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::expect_used, reason = "tests")]

mod autopilot;
mod backup;
mod crash;
mod damage;
mod disk;
mod linear;
mod membership;
mod partition;
mod pause;
mod recovery;
mod reload;
mod snapshot;
#[allow(dead_code, unused_imports, clippy::explicit_write, reason = "shared with tests that use the rest of it")]
mod support;
