//! One cluster is formed, others join it.  Knows nothing about: keys and values.

pub mod audit;
mod bootstrap;
pub mod ca;
pub mod discovery;
pub mod enrol;
pub mod entry;
pub mod identity;
mod join;
pub mod lobby;
pub mod local;
pub mod neighbour;
pub mod token;
pub mod turn;

pub use bootstrap::{Former, Seat, begin};
pub use join::{JoinAnswer, JoinRequest, Promise};
