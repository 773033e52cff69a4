//! An archive that restores to the same digest.  Knows nothing about: who asked for it, HTTP, where it is kept.
//!
//! An archive is a head and a content. The head tells the cluster, the log entry up to which everything is in it, the
//! digest of the state, and length and SHA-256 of the content; a SHA-256 of its own follows it. That hash names the whole
//! archive, because the content's is in the head: a log segment that goes on from an archive names it by that.
//!
//! What is in an archive is what is in the state: keys of the cluster's authority are sealed there, and nowhere else.

mod archive;
mod facts;
mod forward;
mod header;
mod report;
mod restore;

pub use archive::{Archive, ArchiveError, ArchiveFault, FORMAT, Made, MakeError, Maker, Restored, make};
pub use forward::{ForwardError, Forwarded, carry_forward, leap};
pub use header::{Header, Member};
pub use report::{Done, ReportError, Reported, follow, report};
pub use restore::{Chunker, Chunks, Gone, KeyEntry, Replaced, RestoreError, entries_of, replace};
