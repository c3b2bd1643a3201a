//! An explanation as a table of plain text.

use crate::explanation::{Explanation, Fate, Place, Row};
use crate::text::clean;

impl Explanation {
    /// What differs as lines of at most `width` columns: at most `rows` of them one by one, the
    /// others in one line, so that the differences shown sum to the whole. All numbers but those
    /// of operations and functions are per operation.
    #[must_use]
    pub fn table(&self, width: usize, rows: usize) -> String {
        let (before, after) = (self.baseline() as f64, self.candidate() as f64);
        let share = if before > 0.0 { (after - before) / before * 100.0 } else { 0.0 };
        let mut lines = vec![format!(
            "{} -> {} instructions per operation, {} ({share:+.2} %), over {} operations",
            self.each(before),
            self.each(after),
            self.signed(after - before),
            self.operations,
        )];
        let differing: Vec<&Row> = self.rows.iter().filter(|row| row.difference() != 0).collect();
        if differing.is_empty() {
            lines.push("nothing executes more or fewer instructions".to_owned());
        } else {
            lines.push(String::new());
            let (shown, rest) = differing.split_at(rows.min(differing.len()));
            let heads = ["difference", "baseline", "candidate", "calls", "function"];
            let mut cells = vec![heads.map(str::to_owned)];
            cells.extend(shown.iter().map(|row| self.cells(row)));
            if !rest.is_empty() {
                cells.push(self.rest(rest));
            }
            lines.extend(aligned(&cells));
        }
        lines.iter().map(|line| fit(line.trim_end(), width) + "\n").collect()
    }

    fn cells(&self, row: &Row) -> [String; 5] {
        let [before, after] =
            [&row.baseline, &row.candidate].map(|count| self.each(count.calls as f64));
        let calls = match (&row.place, row.fate) {
            (Place::User | Place::Unknown, _) => String::new(),
            (_, Fate::Gone | Fate::NoLongerReached) => before,
            (_, Fate::Kept) if before != after => format!("{before} -> {after}"),
            _ => after,
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
        [
            self.signed(row.difference() as f64),
            self.each(row.baseline.instructions as f64),
            self.each(row.candidate.instructions as f64),
            calls,
            name + mark,
        ]
    }

    /// Rows that are not shown one by one.
    fn rest(&self, rows: &[&Row]) -> [String; 5] {
        let before: f64 = rows.iter().map(|row| row.baseline.instructions as f64).sum();
        let after: f64 = rows.iter().map(|row| row.candidate.instructions as f64).sum();
        let name = format!("{} more", rows.len());
        [self.signed(after - before), self.each(before), self.each(after), String::new(), name]
    }

    /// A count per operation.
    fn each(&self, count: f64) -> String {
        format!("{:.2}", count / self.operations.max(1) as f64)
    }

    fn signed(&self, count: f64) -> String {
        format!("{:+.2}", count / self.operations.max(1) as f64)
    }
}

/// Columns as wide as their widest cell: numbers to the right, texts to the left.
fn aligned(cells: &[[String; 5]]) -> Vec<String> {
    let wide = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [a, b, c, d] = [0, 1, 2, 3].map(wide);
    let line = |[difference, before, after, calls, name]: &[String; 5]| {
        format!("  {difference:>a$}  {before:>b$}  {after:>c$}  {calls:<d$}  {name}")
    };
    cells.iter().map(line).collect()
}

/// At most `width` columns of a text, with a mark where it was cut. What is here is ASCII: one
/// column for each character.
fn fit(line: &str, width: usize) -> String {
    let line = line.split(' ').map(clean).collect::<Vec<_>>().join(" ");
    if line.len() <= width {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    kept + if width > 0 { "~" } else { "" }
}
