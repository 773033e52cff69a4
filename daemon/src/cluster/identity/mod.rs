//! Who this node is, and how that stays valid: its certificate is renewed, the authority replaced, without a restart.
//!
//! What the node calls, and when:
//!
//! 1. **Open.** [`IdentityFiles::load`] tells who the node was; its certificate may have expired. With it:
//!    `Tls::of(&material, min_version)`; without it `Tls::newcomer(min_version)`, whose port talks about joining only.
//!    The one `Tls` (in one `Transport`) serves the port, the pool and everything below, for the life of the process.
//!    Where `tls.cert_file` is set none of this applies: `Tls::open`.
//! 2. **Founding** (`cluster init`, or the former of several): [`found`] with `SealingKeys`, then `tls.replace(&material)`,
//!    then the storage's `become_member`. The [`Keeper`] writes the authority's record once this node leads.
//! 3. **Joining**: an `enrol::Applicant` with the key of [`IdentityFiles::joining_key`], `enrol::join` at each contact
//!    point; admitted: [`IdentityFiles::store`], `tls.replace`, the storage's `become_member`, then
//!    [`IdentityFiles::remove_joining_key`]. After a crash in between, the same key with the same token gets the same id.
//! 4. **Member**: one [`Authority`] (given to the peer handler, which passes it to `Consensus::answer`; to the leader's
//!    duties; to HTTP), one [`Keeper`] task, one `enrol::Enroller` (the peer handler's `enrol` and `may_enrol`). A node
//!    that is no member answers `enrol` with `enrol::answer_as_newcomer`.
//! 5. **Damaged storage set aside**: the identity goes with it; [`IdentityFiles::remove`], then joining as in 3.

mod authority;
mod brought;
mod files;
mod founding;
mod keeper;
mod message;
mod papers;
mod rotation;

pub use authority::{Authority, AuthorityError, AuthorityParts, Stored};
pub use brought::{Brought, Read};
pub use files::{IdentityError, IdentityFiles};
pub use founding::{FoundError, found};
pub use keeper::Keeper;
pub use message::{MemberAnswer, MemberRequest, Shown, Signed, Waiting};
pub use papers::{OwnCertificate, Papers};
