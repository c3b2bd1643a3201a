//! An explanation as a table of plain text.

use std::fmt::Write as _;

use crate::explanation::{Explanation, Fate, Place, Row};
use crate::text::clean;

/// Columns of a number.
const NUMBER: usize = 14;
/// Columns of the calls.
const CALLS: usize = 18;

impl Explanation {
    /// What differs as lines of at most `width` columns: at most `rows` of them one by one, the
    /// others in one line, so that the differences shown sum to the whole. All numbers but the
    /// operations are per operation.
    #[must_use]
    pub fn table(&self, width: usize, rows: usize) -> String {
        let mut text = String::new();
        let mut line = |line: &str| {
            // A String takes all.
            let _ = writeln!(text, "{}", fit(line.trim_end(), width));
        };
        let (before, after) = (self.baseline() as f64, self.candidate() as f64);
        let share = if before > 0.0 { (after - before) / before * 100.0 } else { 0.0 };
        line(&format!(
            "{} -> {} instructions per operation, {} ({share:+.2} %), over {} operations",
            self.each(before),
            self.each(after),
            self.signed(after - before),
            self.operations,
        ));
        let differing: Vec<&Row> = self.rows.iter().filter(|row| row.difference() != 0).collect();
        if differing.is_empty() {
            line("no function executes more or fewer instructions");
            return text;
        }
        line("");
        line(&format!(
            "{:>NUMBER$}{:>NUMBER$}{:>NUMBER$}  {:<CALLS$}  function",
            "difference", "baseline", "candidate", "calls"
        ));
        let (shown, rest) = differing.split_at(rows.min(differing.len()));
        for row in shown {
            line(&self.row(row));
        }
        if !rest.is_empty() {
            let sum = |of: fn(&Row) -> f64| rest.iter().map(|row| of(row)).sum::<f64>();
            let before = sum(|row| row.baseline.instructions as f64);
            let after = sum(|row| row.candidate.instructions as f64);
            let (signed, before, after) =
                (self.signed(after - before), self.each(before), self.each(after));
            line(&format!(
                "{signed:>NUMBER$}{before:>NUMBER$}{after:>NUMBER$}  {:<CALLS$}  {} more",
                "",
                rest.len()
            ));
        }
        text
    }

    fn row(&self, row: &Row) -> String {
        let (before, after) = (row.baseline.calls as f64, row.candidate.calls as f64);
        let calls = match (&row.place, row.fate) {
            (Place::User | Place::Unknown, _) => String::new(),
            (_, Fate::New | Fate::NowReached) => self.each(after),
            (_, Fate::Gone | Fate::NoLongerReached) => self.each(before),
            _ if row.baseline.calls == row.candidate.calls => self.each(after),
            _ => format!("{} -> {}", self.each(before), self.each(after)),
        };
        let mark = match row.fate {
            Fate::Kept => "",
            Fate::New => "  (new)",
            Fate::Gone => "  (gone)",
            Fate::NowReached => "  (now reached)",
            Fate::NoLongerReached => "  (no longer reached)",
        };
        let name = match &row.place {
            Place::User => "user mode".to_owned(),
            Place::Unknown => "unknown kernel code".to_owned(),
            Place::Function(function) => function.to_string(),
        };
        let [before, after] =
            [&row.baseline, &row.candidate].map(|count| self.each(count.instructions as f64));
        let signed = self.signed(row.difference() as f64);
        format!("{signed:>NUMBER$}{before:>NUMBER$}{after:>NUMBER$}  {calls:<CALLS$}  {name}{mark}")
    }

    /// A count per operation.
    fn each(&self, count: f64) -> String {
        format!("{:.2}", count / self.operations.max(1) as f64)
    }

    fn signed(&self, count: f64) -> String {
        format!("{:+.2}", count / self.operations.max(1) as f64)
    }
}

/// At most `width` columns of a text, with a mark where it was cut. What is here is ASCII: one
/// column for each character.
fn fit(line: &str, width: usize) -> String {
    let line = line.split(' ').map(clean).collect::<Vec<_>>().join(" ");
    if line.len() <= width {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}~")
}
