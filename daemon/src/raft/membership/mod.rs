//! Who belongs to the cluster, and who votes: admitting, promoting, demoting, removing. One change at a time.
//!
//! - `admit`: a newcomer gets an id and becomes a learner.
//! - `seen`: the members as the leader sees them, and the changes it carries out. Autopilot decides which.
//! - `request`: what an operator asks for, on any node; `guard` has the rules of what is refused.
//! - `transfer`: leadership moves.
//! - `policy`, `learners`: what the replicated state says of the membership.
//! - `greet`: a node that moved tells the others where it is; one that was removed hears it.

mod admit;
mod greet;
mod guard;
mod learners;
mod policy;
mod request;
mod seen;
mod transfer;

pub use admit::AdmitError;
pub use greet::Standing;
pub use learners::RecordError;
pub use policy::{Policy, StoredPolicy};
pub use request::{Done, MembershipDone, MembershipError, MembershipOp, MembershipRequest};
pub use seen::{Change, ChangeError, MemberSeen, Position, Seen};
pub use transfer::TransferError;
