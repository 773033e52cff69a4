//! Simulated clusters: what must hold holds, and a broken product does not pass.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use konsul_sim::{Mutant, Options, Report, run};
use std::time::Duration;

const SEEDS: u64 = 12;

fn options(mutant: Mutant) -> Options {
    Options { time: Duration::from_secs(20), mutant }
}

fn simulated(seed: u64, mutant: Mutant) -> Report {
    run(seed, options(mutant)).unwrap()
}

/// The invariant that notices first, in the first of the seeds in which one does.
fn caught(mutant: Mutant) -> &'static str {
    (1..=SEEDS)
        .find_map(|seed| simulated(seed, mutant).violation)
        .unwrap_or_else(|| panic!("{mutant:?} passes {SEEDS} runs"))
        .invariant
}

#[test]
fn whatever_goes_wrong_what_must_hold_holds() {
    let (mut writes, mut leaders) = (0, 0);
    for seed in 1..=SEEDS {
        let report = simulated(seed, Mutant::None);
        assert!(
            report.violation.is_none(),
            "seed {seed}: {:?}\n{}\nagain: konsul-sim --seed {seed} --count 1 --seconds 20 --show",
            report.violation,
            report.tail.join("\n")
        );
        writes += report.writes;
        leaders += report.leaders;
    }
    println!("{SEEDS} runs: {writes} writes, {leaders} leaders");
    assert!(writes > 100 * SEEDS && leaders > 5 * SEEDS, "{writes} writes, {leaders} leaders: too little happened");
}

#[test]
fn a_run_with_the_same_seed_is_the_same_again() {
    assert_eq!(simulated(7, Mutant::None), simulated(7, Mutant::None));
    assert_ne!(simulated(7, Mutant::None).hash, simulated(8, Mutant::None).hash);
}

#[test]
fn a_log_that_tells_too_early_loses_what_was_acknowledged_and_is_caught() {
    let nets = ["leader_completeness", "log_matching", "acked_write_survives", "reads_are_linearizable"];
    assert!(nets.contains(&caught(Mutant::TellsBeforeSync)));
}

#[test]
fn a_vote_that_is_forgotten_is_caught() {
    // openraft notices some of it itself, and stops.
    let nets = ["leader_completeness", "log_matching", "acked_write_survives", "reads_are_linearizable", "liveness"];
    assert!(nets.contains(&caught(Mutant::ForgetsVotes)));
}

#[test]
fn a_leader_that_does_not_ask_before_it_answers_is_caught() {
    assert_eq!(caught(Mutant::ReadsUnasked), "reads_are_linearizable");
}

#[test]
fn a_command_that_does_not_do_the_same_everywhere_is_caught() {
    assert_eq!(caught(Mutant::AppliesByNode), "states_agree");
}

#[test]
fn a_cluster_that_elects_nobody_any_more_is_caught() {
    assert_eq!(caught(Mutant::NeverElects), "liveness");
}
