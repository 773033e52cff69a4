//! Durable log, atomic apply, verified snapshots.  Knows nothing about: network, HTTP, who leads.

pub mod codec;
mod env;
mod generation;
mod log_state;
mod log_store;
mod log_writer;
mod prezero;
mod recovery;
pub mod snapshot;
pub mod snapshot_file;
mod space;
mod state_machine;
mod tail;

pub use env::{EnvError, EnvOptions};
pub use log_store::{LogReader, LogStore};
pub use recovery::{Identity, OpenError, Report, Storage, StorageConfig};
pub use snapshot_file::SnapshotFile;
pub use space::{Space, SpaceConfig};
pub use state_machine::{SnapshotBuilder, StateMachine, StateStore};
