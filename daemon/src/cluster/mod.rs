//! One cluster is formed, others join it.  Knows nothing about: keys and values.

mod bootstrap;
pub mod ca;
pub mod enrol;
pub mod identity;
mod join;

pub use bootstrap::{Former, Seat, begin};
pub use join::{JoinAnswer, JoinRequest, Promise};
