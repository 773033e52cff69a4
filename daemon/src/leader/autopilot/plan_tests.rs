//! The rules as golden files: `testdata/<case>/inputs.json` and what follows from it. `UPDATE=1` writes them anew, and
//! the diff shows what a change of the rules means.

use super::*;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

/// One case as it is written down.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    #[serde(rename = "about")]
    _about: String,
    #[serde(default)]
    policy: Policy,
    now: u64,
    #[serde(flatten)]
    inputs: Inputs,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/leader/autopilot/testdata")
}

#[test]
fn every_case_has_the_plan_that_is_written_beside_it() {
    let mut wrong = Vec::new();
    let mut cases: Vec<PathBuf> = directory().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "only {} cases were found", cases.len());
    for case in cases {
        let text = std::fs::read_to_string(case.join("inputs.json")).unwrap();
        let read: Case = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
        let found = plan(&read.policy, &read.inputs, read.now).to_string();
        let golden = case.join("plan.golden");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}:\nexpected:\n{expected}found:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes them anew", wrong.join("\n"));
}

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let names = prop::sample::select(vec!["a", "b", "c", "d"]);
    let flags = prop::array::uniform4(prop::bool::weighted(0.3));
    let server = (names, prop::bool::weighted(0.7), flags, 0u64..100_000, 0u64..100_000);
    prop::collection::vec(server, 1..8).prop_map(|servers| {
        let made = servers.into_iter().zip(1..).map(|((name, voter, flags, stable_since, heard_at), id)| {
            let [stays_learner, retired, ill, _] = flags;
            let (name, leader) = (name.to_owned(), id == 1);
            let (voter, healthy) = (voter || leader, !ill || leader);
            Server { id, name, voter, leader, stays_learner, retired, healthy, stable_since, heard_at }
        });
        made.collect()
    })
}

proptest! {
    /// The three promises of this module, whatever the members look like.
    #[test]
    fn no_plan_breaks_a_promise(servers in servers(), seats in 0usize..8, min_quorum in 0u64..6, cleanup: bool) {
        let policy = Policy { min_quorum, cleanup_dead_servers: cleanup, ..Policy::default() };
        let inputs = Inputs { seats, joint: false, settled: true, servers };
        let before: BTreeSet<u64> = inputs.voters().map(|voter| voter.id).collect();
        let healthy = |id: &u64| inputs.servers.iter().any(|server| server.id == *id && server.healthy);
        let after: BTreeSet<u64> = match plan(&policy, &inputs, 100_000).step {
            None | Some(Step::Flatten | Step::HandOver { .. }) => before.clone(),
            Some(Step::Promote { id, replaces }) => {
                let promoted = inputs.servers.iter().find(|server| server.id == id).unwrap();
                prop_assert!(promoted.healthy && !promoted.voter && !promoted.stays_learner && !promoted.retired);
                prop_assert!(replaces.iter().all(|gone| before.contains(gone) && !replaces.contains(&1)));
                before.iter().copied().filter(|id| !replaces.contains(id)).chain([id]).collect()
            }
            Some(Step::Remove { id, why }) => {
                let left: BTreeSet<u64> = before.iter().copied().filter(|voter| *voter != id).collect();
                prop_assert!(id != 1, "the leader is never removed by itself");
                if why == Why::Dead && left != before {
                    prop_assert!(left.len() >= seats_min(&policy, &inputs), "{} voters left", left.len());
                }
                if left != before {
                    prop_assert!(left.iter().filter(|id| healthy(id)).count() >= majority(left.len()));
                }
                left
            }
        };
        prop_assert!(!after.is_empty());
        prop_assert!(after.len() + 1 >= before.len() || inputs.servers.len() > after.len(), "one at a time");
    }

    /// Doing what the plan says, again and again, comes to an end.
    #[test]
    fn rounds_come_to_rest(servers in servers(), seats in 0usize..8) {
        let policy = Policy::default();
        let mut inputs = Inputs { seats, joint: false, settled: true, servers };
        for round in 0.. {
            prop_assert!(round < 32, "it never rests: {inputs:?}");
            match plan(&policy, &inputs, 200_000).step {
                None => break,
                Some(Step::Flatten) => inputs.joint = false,
                Some(Step::HandOver { to }) => {
                    inputs.servers.iter_mut().for_each(|server| server.leader = server.id == to);
                }
                Some(Step::Promote { id, replaces }) => {
                    inputs.servers.retain(|server| !replaces.contains(&server.id));
                    inputs.servers.iter_mut().filter(|server| server.id == id).for_each(|server| server.voter = true);
                }
                Some(Step::Remove { id, .. }) => inputs.servers.retain(|server| server.id != id),
            }
        }
    }
}
