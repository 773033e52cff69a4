//! Who this node is, and where it keeps that.

mod files;

pub use files::{IdentityError, IdentityFiles};
