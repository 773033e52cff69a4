//! What the service manager hands to this process, and what it wants to hear from it. Without one, nothing.
//!
//! Knows nothing about: what the sockets are for, what is ready, what the parts do whose pulse is watched.

mod judge;
mod notify;
mod pulse;
mod sockets;
mod supervisor;

pub use judge::Verdict;
pub use pulse::{Pulse, Watched};
pub use sockets::{Passed, SocketsError};
pub use supervisor::{Description, Latch, Supervisor};
