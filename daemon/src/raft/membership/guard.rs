//! Whether the cluster can do without a vote, and if not, why: pure rules with their texts.
//!
//! Two kinds of no. One is final: those who are left could not agree on anything, the very change included. The other
//! is a warning: the cluster would go on, but survive less than before; who knows that says `force`.

use std::fmt::Write as _;

/// A voter as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Voter {
    pub(super) id: u64,
    pub(super) name: String,
    /// It answered lately.
    pub(super) alive: bool,
}

/// A change that is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) why: String,
    /// Whether `force` would do it.
    pub(super) force_helps: bool,
}

/// How many of so many voters have to agree.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// How many of the voters that are alive may still fail.
pub(super) fn tolerance(voters: &[Voter]) -> usize {
    alive(voters).saturating_sub(majority(voters.len()))
}

fn alive(voters: &[Voter]) -> usize {
    voters.iter().filter(|voter| voter.alive).count()
}

/// Whether `voters` can do without the vote of `gone`. `fewest`: how many voters are to be left at least, because an
/// operator said so; 0: nobody did.
pub(super) fn without(voters: &[Voter], gone: u64, fewest: u64, force: bool) -> Result<(), Refusal> {
    let rest: Vec<Voter> = voters.iter().filter(|voter| voter.id != gone).cloned().collect();
    let name = voters.iter().find(|voter| voter.id == gone).map_or("the node", |voter| voter.name.as_str());
    let (left, answering, needed) = (rest.len(), alive(&rest), majority(rest.len()));
    if rest.is_empty() {
        let why = format!(
            "{name} is the only voter: without it there is no cluster. Let another node join first; or, to end the \
             cluster, stop the process and delete its data"
        );
        return Err(Refusal { why, force_helps: false });
    }
    if answering < needed {
        let mut why = format!(
            "without {name} {left} {} would be left, of which {answering} {} and {needed} have to: the cluster would stop.",
            plural(left, "voter", "voters"),
            plural(answering, "answers", "answer"),
        );
        let silent: Vec<&str> = rest.iter().filter(|voter| !voter.alive).map(|voter| voter.name.as_str()).collect();
        write!(why, " Bring back, or remove first: {}", silent.join(", ")).expect("a String takes everything");
        return Err(Refusal { why, force_helps: false });
    }
    if force {
        return Ok(());
    }
    let (before, after) = (tolerance(voters), answering - needed);
    if before > 0 && after == 0 {
        let why = format!(
            "without {name} {left} {} would be left, of which {answering} {} and {needed} have to: none of them may fail \
             then, and now {before} may. Let another node join first, or say that you want it (--force)",
            plural(left, "voter", "voters"),
            plural(answering, "answers", "answer"),
        );
        return Err(Refusal { why, force_helps: true });
    }
    if u64::try_from(left).unwrap_or(u64::MAX) < fewest {
        let why = format!(
            "without {name} {left} {} would be left, fewer than autopilot's MinQuorum, {fewest}. Let another node join \
             first, lower it (`konsulctl autopilot set --min-quorum {left}`), or say that you want it (--force)",
            plural(left, "voter", "voters"),
        );
        return Err(Refusal { why, force_helps: true });
    }
    Ok(())
}

fn plural<'t>(n: usize, one: &'t str, many: &'t str) -> &'t str {
    if n == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` alive, `-` not; ids and names from 1.
    fn voters(pattern: &str) -> Vec<Voter> {
        let voter = |(at, c)| Voter { id: at, name: format!("n{at}"), alive: c == '+' };
        (1..).zip(pattern.chars()).map(voter).collect()
    }

    #[derive(Debug, PartialEq)]
    enum Verdict {
        Yes,
        Forced,
        Never,
    }
    use Verdict::{Forced, Never, Yes};

    fn verdict(pattern: &str, gone: u64, fewest: u64) -> Verdict {
        let forced = without(&voters(pattern), gone, fewest, true).is_ok();
        match without(&voters(pattern), gone, fewest, false) {
            Ok(()) => Yes,
            Err(refusal) => {
                assert_eq!(refusal.force_helps, forced, "{pattern} without {gone}: {}", refusal.why);
                assert!(refusal.why.contains(&format!("n{gone}")), "{}", refusal.why);
                if forced { Forced } else { Never }
            }
        }
    }

    #[test]
    fn who_may_go_is_a_matter_of_who_is_left() {
        let table = [
            ("+", 1, 0, Never),
            ("++", 2, 0, Yes),
            ("+-", 1, 0, Never),
            ("+-", 2, 0, Yes),
            ("+++", 3, 0, Forced),
            ("++-", 3, 0, Yes),
            ("++-", 2, 0, Never),
            ("++++", 4, 0, Yes),
            ("+++-", 4, 0, Yes),
            ("+++-", 3, 0, Yes),
            ("+++++", 5, 0, Yes),
            ("++++-", 4, 0, Forced),
            ("+++--", 5, 0, Yes),
            ("+++--", 1, 0, Never),
            ("+++++", 5, 5, Forced),
            ("+++++", 5, 4, Yes),
            ("++-", 3, 3, Forced),
        ];
        for (pattern, gone, fewest, expected) in table {
            assert_eq!(verdict(pattern, gone, fewest), expected, "{pattern} without {gone}, at least {fewest}");
        }
    }

    #[test]
    fn a_refusal_has_the_numbers_and_what_to_do() {
        let why = |pattern, gone, fewest| without(&voters(pattern), gone, fewest, false).unwrap_err().why;
        assert_eq!(
            why("+++--", 1, 0),
            "without n1 4 voters would be left, of which 2 answer and 3 have to: the cluster would stop. \
             Bring back, or remove first: n4, n5"
        );
        assert_eq!(
            why("+++", 3, 0),
            "without n3 2 voters would be left, of which 2 answer and 2 have to: none of them may fail then, and now 1 \
             may. Let another node join first, or say that you want it (--force)"
        );
        assert!(why("+++++", 5, 5).contains("--min-quorum 4"));
    }
}
