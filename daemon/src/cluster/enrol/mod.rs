//! Joining with a token: what is asked, what is answered.  Knows nothing about: how nodes find each other.

mod attempts;
mod client;
mod message;
mod server;

pub use client::{Admitted, Answer, Applicant, AskError, ask, join};
pub use message::{EnrolAnswer, EnrolRequest, Envelope, Granted, RefusalCode};
pub use server::{Enroller, EnrollerParts, answer_as_newcomer};
