//! Durable log, atomic apply, verified snapshots.  Knows nothing about: network, HTTP, who leads.

mod check_point;
pub mod codec;
mod env;
mod fence;
mod generation;
mod left;
mod log_state;
mod log_store;
mod log_writer;
mod moments;
mod newer;
mod prezero;
pub mod records;
mod recovery;
mod scratch;
pub mod snapshot;
pub mod snapshot_file;
mod space;
mod state_machine;
mod tail;

pub use check_point::Taken;
pub use env::{EnvError, EnvOptions};
pub use fence::Fence;
pub use left::{Left, LookError, leave_behind, left_behind, look};
pub use log_store::{LogReader, LogStore};
pub use newer::needs_newer;
pub use recovery::{Identity, OpenError, Report, Storage, StorageConfig};
pub use scratch::{Scratch, ScratchError};
pub use snapshot_file::SnapshotFile;
pub use space::{Space, SpaceConfig};
pub use state_machine::{SnapshotBuilder, StateMachine, StateStore, position_of};
