//! konsuld as a service: sockets that are passed, what it tells, and what the watchdog sees. Real processes, a real
//! notification socket, real descriptors; no service manager is needed for it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::expect_used, reason = "tests")]

mod admin;
mod kept;
mod launch;
mod ready;
mod sockets;
#[allow(dead_code, unused_imports, clippy::explicit_write, reason = "shared with tests that use the rest of it")]
#[path = "../cluster/support/mod.rs"]
mod support;
mod watchdog;
