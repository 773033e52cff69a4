//! konsulctl as a user meets it: the program itself, run against a small server.

#![expect(clippy::disallowed_methods, reason = "tests spawn and write as they like")]

mod audit;
mod bench;
mod run;
mod server;
mod sessions;
mod snapshot;
mod tls;
mod transfer;
mod watch;
