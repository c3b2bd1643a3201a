//! The CVEs between two kernels, for a person. What comes from records is escaped.

use std::collections::BTreeMap;
use std::fmt::Write;

use kgate_release::cve::{Method, Part, Row, Severity, Tally};
use kgate_report::clean;

use super::CvePart;

/// Subsystems and CVEs that are told unless all are asked for.
const SHOWN: usize = 12;

impl CvePart {
    /// For a person; with every CVE where `all` is set.
    pub(crate) fn text(&self, all: bool) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = self.write(&mut out, all);
        out
    }

    /// The part that a delta of more than CVEs has.
    pub(crate) fn summary(&self) -> String {
        let mut out = format!("  CVEs         by {}\n", self.described);
        // Writing to a string can't fail.
        let _ = self.counts(&mut out, &self.parts());
        let _ = self.apart(&mut out);
        for note in &self.notes {
            let _ = writeln!(out, "  note         {}", clean(note));
        }
        out
    }

    fn parts(&self) -> [(&'static str, &Part); 3] {
        let delta = &self.delta;
        [
            ("fixed", &delta.fixed),
            ("newly exposed", &delta.newly_exposed),
            ("still open", &delta.still_open),
        ]
    }

    fn counts(&self, out: &mut String, parts: &[(&str, &Part); 3]) -> std::fmt::Result {
        for (name, part) in parts {
            let counts = format!("{name:<15}{:>5}   {}", part.count, tally(&part.by_severity));
            writeln!(out, "  {}", counts.trim_end())?;
        }
        if self.delta.without_versions > 0 {
            writeln!(out, "  {} records name no versions", self.delta.without_versions)?;
        }
        Ok(())
    }

    fn write(&self, out: &mut String, all: bool) -> std::fmt::Result {
        let delta = &self.delta;
        writeln!(out, "CVEs   {} → {}", delta.from, delta.to)?;
        writeln!(out, "by {}\n", self.described)?;
        for note in &self.notes {
            writeln!(out, "{}\n", clean(note))?;
        }
        let parts = self.parts();
        self.counts(out, &parts)?;
        self.apart(out)?;
        self.subsystems(out, &parts, all)?;
        self.clock(out)?;
        for (name, part) in parts {
            rows(out, name, part, all)?;
        }
        Ok(())
    }

    /// What the kernel doesn't have, and how that is known.
    fn apart(&self, out: &mut String) -> std::fmt::Result {
        let delta = &self.delta;
        let parts = [&delta.fixed, &delta.newly_exposed, &delta.still_open];
        let counts = parts.map(|part| part.apart);
        writeln!(
            out,
            "\n  only in what {} doesn't have: {} of the fixed, {} of the newly exposed, {} of the open",
            delta.to, counts[0], counts[1], counts[2]
        )?;
        let mut methods: BTreeMap<Method, usize> = BTreeMap::new();
        for absent in parts.iter().flat_map(|part| &part.cves).filter_map(|row| row.absent.as_ref())
        {
            *methods.entry(absent.method).or_default() += 1;
        }
        for (method, count) in methods {
            let what = match method {
                Method::Architecture => "in another architecture's directories",
                Method::Beside => "in documentation, tests or tools",
                Method::Modules => {
                    "in drivers of whose directory it has no module and nothing built in"
                }
                Method::Option => "in directories whose option is off",
                Method::Makefiles => "in files whose options are off, by the makefiles",
            };
            writeln!(out, "  {count:>7} {what}")?;
        }
        writeln!(out, "  known {}", self.basis)
    }

    fn subsystems(
        &self,
        out: &mut String,
        parts: &[(&str, &Part); 3],
        all: bool,
    ) -> std::fmt::Result {
        let mut table: BTreeMap<_, ([usize; 3], bool)> = BTreeMap::new();
        for (n, (_, part)) in parts.iter().enumerate() {
            for group in &part.by_subsystem {
                let (counts, workload) = table.entry(group.subsystem).or_default();
                counts[n] = group.count;
                *workload |= group.workload;
            }
        }
        if table.is_empty() {
            return Ok(());
        }
        let mut table: Vec<_> = table.into_iter().collect();
        table.sort_by_key(|(_, (counts, workload))| (!workload, std::cmp::Reverse(*counts)));
        writeln!(
            out,
            "\n  {:<24}{:>7}{:>9}{:>7}",
            "the rest, by subsystem", "fixed", "exposed", "open"
        )?;
        let shown = if all { table.len() } else { SHOWN };
        for (subsystem, (counts, workload)) in table.iter().take(shown) {
            let mark = if *workload { "*" } else { " " };
            let name = subsystem.name();
            writeln!(out, "  {mark} {name:<22}{:>7}{:>9}{:>7}", counts[0], counts[1], counts[2])?;
        }
        let rest = table
            .iter()
            .skip(shown)
            .fold([0; 3], |sum, (_, (counts, _))| std::array::from_fn(|n| sum[n] + counts[n]));
        if table.len() > shown {
            let name = format!("{} others", table.len() - shown);
            writeln!(out, "    {name:<22}{:>7}{:>9}{:>7}", rest[0], rest[1], rest[2])?;
        }
        if table.iter().any(|(_, (_, workload))| *workload) {
            writeln!(out, "  * the workload touches it")?;
        }
        Ok(())
    }

    fn clock(&self, out: &mut String) -> std::fmt::Result {
        let clock = &self.delta.fixed.clock;
        if self.delta.fixed.count == 0 {
            return Ok(());
        }
        let (Some(median), Some(longest)) = (clock.median, clock.longest) else {
            return writeln!(
                out,
                "\n  patch lag   not known: no day of a release is; --feed git:REPOSITORY or a list of tags with days tells"
            );
        };
        let since = match clock.by_record {
            0 => "the first release that fixed it",
            n if n == clock.known => {
                "its record was published, since the days of releases aren't known"
            }
            _ => {
                "the first release that fixed it, or its record's publication where that day isn't known"
            }
        };
        writeln!(
            out,
            "\n  patch lag   {median} days in the middle, {longest} at most, since {since}"
        )?;
        if clock.known < self.delta.fixed.count {
            writeln!(out, "              known of {} of {}", clock.known, self.delta.fixed.count)?;
        }
        let over = match tally(&clock.over_a_month) {
            none if none.is_empty() => "no critical or high one".to_owned(),
            some => some,
        };
        writeln!(out, "              for more than one month (PCI DSS 4.0, 6.3.3): {over}")?;
        if clock.unscored_over_a_month > 0 {
            writeln!(
                out,
                "              and {} that nobody has scored",
                clock.unscored_over_a_month
            )?;
        }
        Ok(())
    }
}

/// Some of the CVEs, or all.
fn rows(out: &mut String, name: &str, part: &Part, all: bool) -> std::fmt::Result {
    // Those that the kernel doesn't have come last.
    let here = part.cves.iter().filter(|row| all || row.absent.is_none());
    let shown = match (all, name) {
        (true, _) => part.count,
        (false, "still open") => 0,
        (false, _) => SHOWN,
    };
    let mut here = here.peekable();
    if shown == 0 || here.peek().is_none() {
        return Ok(());
    }
    let which = if all || name == "newly exposed" { "" } else { ", the worst" };
    writeln!(out, "\n  {name}{which}")?;
    for row in here.by_ref().take(shown) {
        writeln!(out, "    {}", told(row))?;
    }
    match here.count() {
        0 => Ok(()),
        more => {
            writeln!(out, "    and {more} more; --list names all, --format json tells all of each")
        }
    }
}

fn told(row: &Row) -> String {
    let score =
        row.score.map_or_else(|| row.severity.to_string(), |s| format!("{s:.1} {}", row.severity));
    let mut text = format!("{:<16} {score:<13} {}", clean(&row.id), clean(&row.title));
    if let Some(absent) = &row.absent {
        text += &format!("   ({})", clean(&absent.to_string()));
    }
    text
}

/// `3 critical, 40 high`.
fn tally(tally: &Tally) -> String {
    let told = Severity::ALL.iter().map(|severity| (tally.of(*severity), severity));
    let told = told.filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    told.collect::<Vec<_>>().join(", ")
}
