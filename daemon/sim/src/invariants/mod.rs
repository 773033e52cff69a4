//! What must hold in every run: one property per file.

mod acked_write_survives;
mod leader_completeness;
mod log_matching;
mod reads_are_linearizable;
mod states_agree;

use crate::event::Invariant;

/// Each anew, for one run.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<leader_completeness::LeaderCompleteness>::default(),
        Box::<log_matching::LogMatching>::default(),
        Box::<acked_write_survives::AckedWriteSurvives>::default(),
        Box::<reads_are_linearizable::ReadsAreLinearizable>::default(),
        Box::<states_agree::StatesAgree>::default(),
    ]
}
