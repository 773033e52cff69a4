//! Which archives are kept: a pure rule.

use std::collections::BTreeSet;

/// How many are kept of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Keep {
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_last: usize,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_daily: usize,
    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_weekly: usize,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_monthly: usize,
}

/// A day, as days since 1970, and its month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day {
    pub(super) number: i64,
    pub(super) year: i64,
    pub(super) month: i64,
}

impl Day {
    /// In the Gregorian calendar; `None` for what is no date.
    pub(super) fn of(year: i64, month: i64, day: i64) -> Option<Self> {
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        // Eras of 400 years, each year from March on, so that the leap day is the last of its year.
        let from_march = if month > 2 { month - 3 } else { month + 9 };
        let of_era = year - i64::from(month <= 2);
        let (era, year_of_era) = (of_era / 400, of_era % 400);
        let day_of_year = (153 * from_march + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Some(Self { number: era * 146_097 + day_of_era - 719_468, year, month })
    }

    /// Weeks begin on Monday; 1970 began on a Thursday.
    fn week(self) -> i64 {
        (self.number + 3) / 7
    }
}

impl Keep {
    /// Whether no rule keeps anything.
    pub(super) fn is_nothing(self) -> bool {
        self.keep_last + self.keep_daily + self.keep_weekly + self.keep_monthly == 0
    }

    /// For archives of one cluster, the newest first: whether each is kept. The newest always is.
    pub(super) fn plan(self, newest_first: &[Day]) -> Vec<bool> {
        let mut kept = vec![false; newest_first.len()];
        for is_kept in kept.iter_mut().take(self.keep_last.max(1)) {
            *is_kept = true;
        }
        let daily: Vec<i64> = newest_first.iter().map(|day| day.number).collect();
        let weekly: Vec<i64> = newest_first.iter().map(|day| day.week()).collect();
        let monthly: Vec<i64> = newest_first.iter().map(|day| day.year * 12 + day.month).collect();
        for (periods, count) in [(daily, self.keep_daily), (weekly, self.keep_weekly), (monthly, self.keep_monthly)] {
            let mut seen = BTreeSet::new();
            for (is_kept, period) in kept.iter_mut().zip(periods) {
                if seen.len() < count && seen.insert(period) {
                    *is_kept = true;
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: i64) -> Day {
        (0..)
            .find_map(|n| {
                let (year, month, day) = (1970 + n / 372, 1 + n / 31 % 12, 1 + n % 31);
                Day::of(year, month, day).filter(|day| day.number == number)
            })
            .expect("a day")
    }

    #[test]
    fn days_are_counted_as_the_calendar_has_them() {
        let table = [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((2024, 3, 1), 19_783), ((2100, 3, 1), 47_541)];
        for ((year, month, day), number) in table {
            assert_eq!(Day::of(year, month, day).expect("a date").number, number);
        }
        assert_eq!(Day::of(2024, 13, 1), None);
        // 2026-11-29 is a Sunday, the day after begins a week.
        let sunday = Day::of(2026, 11, 29).expect("a date");
        let monday = Day::of(2026, 11, 30).expect("a date");
        assert_eq!(sunday.week() + 1, monday.week());
    }

    #[test]
    fn each_rule_keeps_its_own_and_the_newest_is_never_removed() {
        let nothing = Keep { keep_last: 0, keep_daily: 0, keep_weekly: 0, keep_monthly: 0 };
        // Two a day for 70 days.
        let days: Vec<Day> = (0..140).map(|n| day(20_000 - n / 2)).collect();
        let kept = |keep: Keep| {
            let plan = keep.plan(&days);
            (0..days.len()).filter(|n| plan[*n]).collect::<Vec<_>>()
        };
        assert_eq!(kept(nothing), [0]);
        assert_eq!(kept(Keep { keep_last: 3, ..nothing }), [0, 1, 2]);
        assert_eq!(kept(Keep { keep_daily: 3, ..nothing }), [0, 2, 4]);
        assert_eq!(kept(Keep { keep_weekly: 3, ..nothing }).len(), 3);
        // From the 4th of October back to the 27th of July.
        assert_eq!(kept(Keep { keep_monthly: 12, ..nothing }).len(), 4);
        assert_eq!(kept(Keep { keep_last: 500, ..nothing }).len(), 140);
        assert!(nothing.plan(&[]).is_empty());
        // A day without one does not use up a place.
        let with_a_gap = [day(20_000), day(19_000), day(18_000)];
        assert_eq!(Keep { keep_daily: 2, ..nothing }.plan(&with_a_gap), [true, true, false]);
    }
}
