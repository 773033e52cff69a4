//! What somebody may have meant.

/// A longer list is no help in an error message.
const LISTED_MAX: usize = 15;

/// `did you mean …?`, or the list of what there is.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|candidate| (distance(word, candidate), candidate)).min();
    match nearest {
        Some((edits, candidate)) if edits <= 1 + candidate.len() / 3 => format!("did you mean `{candidate}`?"),
        Some(_) if known.len() > LISTED_MAX => "`konsuld --print-default-config` lists all there is".into(),
        Some(_) | None => format!("there are: {}", known.join(", ")),
    }
}

/// Edits that turn one word into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(did_you_mean("timming", &["timing", "hold"]), "did you mean `timing`?");
        assert_eq!(did_you_mean("frobnicate", &["timing", "hold"]), "there are: timing, hold");
    }

    #[test]
    fn distance_counts_edits() {
        let cases =
            [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("rcp", "rpc", 2), ("a", "a", 0)];
        for (a, b, edits) in cases {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
