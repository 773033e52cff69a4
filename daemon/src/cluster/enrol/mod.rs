//! Joining with a token: what is asked, what is answered.  Knows nothing about: how nodes find each other.

mod message;

pub use message::{EnrolAnswer, EnrolRequest, Envelope, Granted, PROOF_BYTES, RefusalCode};
