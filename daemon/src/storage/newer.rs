//! Whether an error says no more than that a newer program is needed.

use crate::telemetry::chain;
use konsul_state::StateError;
use std::error::Error;

/// What a newer program would understand, if that is all: nothing is wrong with the data then.
pub fn needs_newer(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<StateError>().is_some_and(StateError::is_of_a_newer_version) {
            return Some(chain(error));
        }
        cause = error.source();
    }
    None
}
