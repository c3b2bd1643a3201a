//! KTAP and TAP output to results, each with its full path.
//!
//! Reads KTAP version 1 (`Documentation/dev-tools/ktap.rst`) and TAP 12 to 14, nested by indentation
//! or by the `# ` that the kernel's self-test runner puts before the output of each program. What
//! was planned and has no result is a result of its own: output that stops early is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use kgate_model::outcome::{Fault, FaultKind, Outcome, Subtest};

use crate::scenario::ResultFormat;

/// Most results of one output; more fail the whole of it.
const RESULTS_BOUND: usize = 20_000;
/// Most results without a line of their own that are listed one by one, per level.
const MISSING_BOUND: u64 = 20;
/// Longest name, in characters.
const NAME_BOUND: usize = 200;
/// Deepest nesting; levels in between are left out of deeper paths.
const DEPTH_BOUND: usize = 16;
/// Lines kept as the diagnosis of a failure, and characters of each.
const DIAGNOSIS_BOUND: (usize, usize) = (20, 200);

/// Between the names of a path.
const SEPARATOR: &str = " / ";

/// Everything that an output says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every result, in the order of the output, those of subtests before their parent's.
    pub results: Vec<TestResult>,
    /// Why the output as a whole is a failure, whatever the results say.
    pub failure: Option<String>,
    /// Why all of it was skipped (`1..0 # SKIP …`).
    pub skipped: Option<String>,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// Names from the outermost test inwards, joined by ` / `; unique in its report (a second result
    /// of the same path ends in ` #2`).
    pub path: String,
    /// What the output says of it.
    pub status: Status,
    /// For a failure: the lines before it, since the result before that.
    pub diagnosis: Vec<String>,
}

/// What an output says of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// `ok`.
    Passed,
    /// `not ok`, with what follows a `#`.
    Failed(String),
    /// `# SKIP`, with the reason.
    Skipped(String),
    /// `not ok … # TODO` or `# XFAIL`: known not to work, and doesn't.
    ExpectedFailure(String),
    /// `# TIMEOUT`.
    TimedOut(String),
    /// Planned, but the output has no result of it.
    NotRun(String),
}

impl Status {
    /// As an outcome of the harness.
    fn outcome(&self, diagnosis: &[String]) -> Outcome {
        let failed = |what: &str, note: &str| {
            let mut message = what.to_owned();
            for more in std::iter::once(note).chain(diagnosis.last().map(String::as_str)) {
                if !more.is_empty() {
                    message.push_str(": ");
                    message.push_str(more);
                }
            }
            Outcome::Failed { cause: Fault::kernel(FaultKind::Subtest, message) }
        };
        match self {
            Self::Passed | Self::ExpectedFailure(_) => Outcome::Passed,
            Self::Skipped(reason) => Outcome::Skipped { reason: reason.clone() },
            Self::Failed(note) => failed("not ok", note),
            Self::TimedOut(note) => failed("timed out", note),
            Self::NotRun(note) => failed("no result", note),
        }
    }

    fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::TimedOut(_) | Self::NotRun(_))
    }
}

impl Report {
    /// Every result as a subtest of a trial.
    pub fn subtests(&self) -> Vec<Subtest> {
        self.results
            .iter()
            .map(|result| Subtest {
                path: result.path.clone(),
                outcome: result.status.outcome(&result.diagnosis),
            })
            .collect()
    }

    /// The outcome of the step that printed the output.
    pub fn outcome(&self) -> Outcome {
        let failed =
            |message| Outcome::Failed { cause: Fault::kernel(FaultKind::Subtest, message) };
        if let Some(failure) = &self.failure {
            return failed(failure.clone());
        }
        let failures: Vec<&str> = self
            .results
            .iter()
            .filter(|result| result.status.is_failure())
            .map(|result| result.path.as_str())
            .collect();
        if let Some(first) = failures.first() {
            let more = match failures.len() {
                1 => String::new(),
                all => format!(" and {} more", all - 1),
            };
            return failed(format!(
                "{} of {} failed: {first}{more}",
                failures.len(),
                self.results.len()
            ));
        }
        if let Some(reason) = &self.skipped {
            return Outcome::Skipped { reason: reason.clone() };
        }
        let mut reasons = self.results.iter().map(|result| match &result.status {
            Status::Skipped(reason) => Some(reason),
            _ => None,
        });
        match reasons.next() {
            Some(Some(reason)) if reasons.all(|reason| reason.is_some()) => {
                Outcome::Skipped { reason: reason.clone() }
            }
            _ => Outcome::Passed,
        }
    }
}

/// Reads an output.
pub fn parse(text: &str, format: ResultFormat) -> Report {
    let mut reader = Reader::new(format);
    for line in text.lines() {
        reader.line(line);
        if reader.report.failure.is_some() {
            break;
        }
    }
    reader.finish()
}

/// A result whose place is not complete yet.
#[derive(Debug)]
struct Found {
    /// From the innermost name outwards.
    names: Vec<Rc<str>>,
    status: Status,
    diagnosis: Vec<String>,
}

impl Found {
    fn new(name: &Rc<str>, status: Status, diagnosis: Vec<String>) -> Self {
        Self { names: vec![Rc::clone(name)], status, diagnosis }
    }
}

/// The tests of one width of indentation, until the result line of their parent.
#[derive(Debug, Default)]
struct Level {
    width: usize,
    /// A version or a plan was seen.
    has_header: bool,
    plan: Option<u64>,
    seen: u64,
    numbers: BTreeSet<u64>,
    /// What a `# Subtest:` line called the parent.
    parent_name: Option<String>,
    /// Results, their names relative to this level.
    results: Vec<Found>,
}

#[derive(Debug)]
struct Reader {
    format: ResultFormat,
    levels: Vec<Level>,
    notes: Vec<String>,
    in_yaml: bool,
    total: usize,
    report: Report,
}

impl Reader {
    fn new(format: ResultFormat) -> Self {
        Self {
            format,
            levels: Vec::new(),
            notes: Vec::new(),
            in_yaml: false,
            total: 0,
            report: Report::default(),
        }
    }

    fn line(&mut self, line: &str) {
        let (width, hashes, rest) = indentation(without_timestamp(line));
        if self.in_yaml {
            self.in_yaml = rest != "...";
            self.note(rest);
            return;
        }
        let content = content(rest, self.format);
        match content {
            Content::Other if rest == "---" && width > 0 => self.in_yaml = true,
            Content::Other => {
                if let Some(name) = rest.strip_prefix("Subtest: ") {
                    // The `# ` of the line itself is no indentation.
                    self.level(width.saturating_sub(2)).parent_name = Some(cut(name, NAME_BOUND));
                } else {
                    self.note(rest);
                }
            }
            Content::Version => {
                self.close_deeper(width);
                let level = self.level(width);
                if level.has_header && level.seen > 0 {
                    // A second output at the same place.
                    self.end_of_output();
                }
                self.level(width).has_header = true;
            }
            Content::Plan { count, skip } => {
                let level = self.level(width);
                level.has_header = true;
                level.plan = Some(level.plan.unwrap_or(0).max(count));
                if count == 0 && level.seen == 0 && self.levels.len() == 1 {
                    self.report.skipped = Some(skip.unwrap_or_else(|| "nothing to run".into()));
                }
            }
            Content::Result(result) => {
                let known =
                    self.levels.iter().any(|level| level.width == width && level.has_header);
                // Behind a `#` anything may stand: it takes a header to be believed.
                if hashes == 0 || known {
                    self.result(width, result);
                } else {
                    self.note(rest);
                }
            }
            Content::BailOut(reason) => {
                self.report.failure = Some(match reason.as_str() {
                    "" => "the tests bailed out".into(),
                    _ => format!("the tests bailed out: {reason}"),
                });
            }
        }
    }

    fn note(&mut self, text: &str) {
        if !text.is_empty() {
            if self.notes.len() == DIAGNOSIS_BOUND.0 {
                self.notes.remove(0);
            }
            self.notes.push(cut(text, DIAGNOSIS_BOUND.1));
        }
    }

    /// The level of this width, made when there is none.
    fn level(&mut self, width: usize) -> &mut Level {
        let at = match self.levels.iter().position(|level| level.width >= width) {
            Some(at) if self.levels[at].width == width => at,
            Some(at) => {
                self.levels.insert(at, Level { width, ..Level::default() });
                at
            }
            None if self.levels.len() == DEPTH_BOUND => DEPTH_BOUND - 1,
            None => {
                self.levels.push(Level { width, ..Level::default() });
                self.levels.len() - 1
            }
        };
        &mut self.levels[at]
    }

    /// What is deeper than `width` and has no parent's line: the parent's result is missing.
    fn close_deeper(&mut self, width: usize) {
        while self.levels.last().is_some_and(|level| level.width > width) && self.levels.len() > 1 {
            self.orphans();
        }
    }

    /// Closes the deepest level without its parent's line.
    fn orphans(&mut self) {
        let Some(mut level) = self.levels.pop() else { return };
        if level.results.is_empty() && level.plan.unwrap_or(0) == 0 {
            return;
        }
        self.total += add_missing(&mut level);
        let name = level.parent_name.take().unwrap_or_else(|| "(unnamed)".into());
        let Some(parent) = self.levels.last_mut() else { return };
        parent.seen += 1;
        let name = Rc::from(name);
        parent.results.extend(below(&name, level.results));
        let status = Status::NotRun("the output ended before it".into());
        parent.results.push(Found::new(&name, status, Vec::new()));
        self.total += 1;
    }

    fn result(&mut self, width: usize, line: ResultLine) {
        // What is deeper, the nearest level first: all of it belongs to this test.
        let mut children = Vec::new();
        while self.levels.last().is_some_and(|level| level.width > width) {
            let Some(mut level) = self.levels.pop() else { break };
            self.total += add_missing(&mut level);
            level.results.extend(children);
            children = level.results;
        }
        let notes = std::mem::take(&mut self.notes);
        let level = self.level(width);
        level.seen += 1;
        level.numbers.extend(line.number);
        let number = line.number.unwrap_or(level.seen);
        let name = if line.name.is_empty() { format!("test {number}") } else { line.name };
        let diagnosis = if line.status.is_failure() { notes } else { Vec::new() };
        let name = Rc::from(name);
        level.results.extend(below(&name, children));
        level.results.push(Found::new(&name, line.status, diagnosis));
        self.total += 1;
        if self.total > RESULTS_BOUND {
            self.report.failure = Some(format!("more than {RESULTS_BOUND} results"));
        }
    }

    /// Settles the plan of the deepest level, which is also the outermost that is open.
    fn end_of_output(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            self.total += add_missing(level);
            (level.plan, level.seen, level.has_header) = (None, 0, false);
            level.numbers.clear();
        }
    }

    fn finish(mut self) -> Report {
        while self.levels.len() > 1 {
            self.orphans();
        }
        let has_plan = self.levels.first().is_some_and(|level| level.plan.is_some());
        self.end_of_output();
        let results = self.levels.pop().map(|level| level.results).unwrap_or_default();
        self.report.results = unique(results);
        if self.report.failure.is_none() && self.report.results.is_empty() && !has_plan {
            self.report.failure = Some("the output has no test results".into());
        }
        if !self.report.results.is_empty() {
            self.report.skipped = None;
        }
        self.report
    }
}

/// Puts `name` above what was found.
fn below(name: &Rc<str>, mut found: Vec<Found>) -> Vec<Found> {
    for one in &mut found {
        one.names.truncate(DEPTH_BOUND - 1);
        one.names.push(Rc::clone(name));
    }
    found
}

/// Adds what was planned and has no result; answers how many were added.
fn add_missing(level: &mut Level) -> usize {
    let missing = level.plan.unwrap_or(0).saturating_sub(level.seen);
    let listed = missing.min(MISSING_BOUND);
    let note = || Status::NotRun(format!("{} of {} have one", level.seen, level.plan.unwrap_or(0)));
    let free = (1..).filter(|number| !level.numbers.contains(number));
    let mut names: Vec<String> =
        free.take(usize::try_from(listed).unwrap_or(0)).map(|n| format!("test {n}")).collect();
    if missing > listed {
        names.push(format!("{} more tests", missing - listed));
    }
    let added = names.len();
    let new: Vec<Found> =
        names.into_iter().map(|name| Found::new(&Rc::from(name), note(), Vec::new())).collect();
    level.results.extend(new);
    added
}

/// Joins the names, and tells results of the same path apart by an ordinal.
fn unique(found: Vec<Found>) -> Vec<TestResult> {
    let mut results: Vec<TestResult> = found
        .into_iter()
        .map(|Found { names, status, diagnosis }| {
            let names: Vec<&str> = names.iter().rev().map(|name| &**name).collect();
            TestResult { path: names.join(SEPARATOR), status, diagnosis }
        })
        .collect();
    let taken: BTreeSet<String> = results.iter().map(|result| result.path.clone()).collect();
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for result in &mut results {
        let base = result.path.clone();
        let count = used.entry(base.clone()).or_insert(0);
        *count += 1;
        while *count > 1 {
            let path = format!("{base} #{count}");
            if !taken.contains(&path) {
                result.path = path;
                break;
            }
            *count += 1;
        }
    }
    results
}

struct ResultLine {
    number: Option<u64>,
    name: String,
    status: Status,
}

enum Content {
    Version,
    Plan { count: u64, skip: Option<String> },
    Result(ResultLine),
    BailOut(String),
    Other,
}

fn content(rest: &str, format: ResultFormat) -> Content {
    if rest.starts_with("TAP version ") || rest.starts_with("KTAP version ") {
        return Content::Version;
    }
    if let Some(reason) = rest.strip_prefix("Bail out!") {
        return Content::BailOut(cut(reason.trim(), NAME_BOUND));
    }
    plan(rest).or_else(|| result_line(rest, format)).unwrap_or(Content::Other)
}

/// `1..N`, perhaps with `# SKIP reason`.
fn plan(rest: &str) -> Option<Content> {
    let (range, comment) = match rest.split_once('#') {
        Some((range, comment)) => (range, Some(comment.trim())),
        None => (rest, None),
    };
    let (first, last) = range.trim().split_once("..")?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let skip = comment.map(|comment| match directive(comment) {
        Some(("SKIP", reason)) => cut(reason, NAME_BOUND),
        _ => cut(comment, NAME_BOUND),
    });
    Some(Content::Plan { count: last.saturating_add(1).saturating_sub(first), skip })
}

fn result_line(rest: &str, format: ResultFormat) -> Option<Content> {
    let (passed, rest) = match rest.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix("ok")?),
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let rest = rest.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let after = &rest[digits..];
    let number = match rest[..digits].parse::<u64>() {
        Ok(number) if after.is_empty() || after.starts_with(' ') => Some(number),
        _ => None,
    };
    if number.is_none() && format == ResultFormat::Ktap {
        return None;
    }
    let description = if number.is_some() { after.trim_start() } else { rest };
    let description = match description {
        "-" => "",
        _ => description.strip_prefix("- ").unwrap_or(description),
    };
    let (name, comment) = split_comment(description);
    let note = |text: &str| cut(text.trim(), NAME_BOUND);
    let status = match (directive(comment), passed) {
        (Some(("SKIP", reason)), _) => Status::Skipped(note(reason)),
        (Some(("TODO" | "XFAIL", reason)), false) => Status::ExpectedFailure(note(reason)),
        // The kernel's harness prints `ok … # XFAIL` for what failed as expected.
        (Some(("XFAIL", reason)), true) => Status::ExpectedFailure(note(reason)),
        (Some(("TIMEOUT", reason)), _) => Status::TimedOut(note(reason)),
        (Some(("ERROR", _)), _) | (_, false) => Status::Failed(note(comment)),
        (_, true) => Status::Passed,
    };
    let name = cut(&name.trim().replace("\\#", "#"), NAME_BOUND);
    Some(Content::Result(ResultLine { number, name, status }))
}

/// The directive that a comment begins with, and the rest.
fn directive(comment: &str) -> Option<(&'static str, &str)> {
    let comment = comment.trim_start();
    let end = comment.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(comment.len());
    let word = ["SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"]
        .into_iter()
        .find(|word| word.eq_ignore_ascii_case(&comment[..end]))?;
    Some((word, comment[end..].trim_start_matches([' ', ':', '-', '('])))
}

/// Splits a description at the `#` of its comment: one after white space, and before white space
/// or a directive. `test #3` has none.
fn split_comment(description: &str) -> (&str, &str) {
    let bytes = description.as_bytes();
    for (at, _) in description.match_indices('#') {
        let opens = at == 0 || bytes[at - 1] == b' ';
        let rest = &description[at + 1..];
        if opens && (rest.is_empty() || rest.starts_with(' ') || directive(rest).is_some()) {
            return (&description[..at], rest);
        }
    }
    (description, "")
}

/// Spaces, tabs and `# ` before the text: how many characters, how many `#`, and the text.
fn indentation(line: &str) -> (usize, usize, &str) {
    let (mut width, mut hashes) = (0, 0);
    let mut rest = line.trim_end();
    loop {
        if let Some(after) = rest.strip_prefix([' ', '\t']) {
            (width, rest) = (width + 1, after);
        } else if let Some(after) = rest.strip_prefix("# ") {
            (width, hashes, rest) = (width + 2, hashes + 1, after);
        } else {
            return (width, hashes, rest);
        }
    }
}

/// Takes away what the kernel log puts before a line: `<6>`, `[   12.345678]`.
fn without_timestamp(line: &str) -> &str {
    let mut rest = line;
    if let Some((level, after)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>'))
        && level.len() <= 3
        && level.bytes().all(|b| b.is_ascii_digit())
    {
        rest = after;
    }
    if let Some((time, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && time.contains('.')
        && time.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b' ')
    {
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    rest
}

/// At most `bound` characters of printable text.
fn cut(text: &str, bound: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(bound).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str, format: ResultFormat) -> String {
        let report = parse(text, format);
        let mut shown = String::new();
        for TestResult { path, status, diagnosis } in &report.results {
            writeln!(shown, "{path}: {status:?}").unwrap();
            for line in diagnosis {
                writeln!(shown, "  | {line}").unwrap();
            }
        }
        let outcome = match report.outcome() {
            Outcome::Failed { cause } => format!("failed: {}", cause.message),
            Outcome::Skipped { reason } => format!("skipped: {reason}"),
            other => other.as_str().to_owned(),
        };
        shown + &outcome
    }

    #[rustfmt::skip]
    const CASES: &[(&str, ResultFormat, &str)] = &[
("flat", ResultFormat::Ktap, "KTAP version 1\n1..2\nok 1 first\nok 2 - second\n"),
("directives", ResultFormat::Ktap, "\
KTAP version 1
1..9
ok 1 a # SKIP no hardware
not ok 2 b # SKIP: no hardware
not ok 3 c # TODO not implemented
ok 4 d # TODO works by now
ok 5 e # XFAIL known
not ok 6 f # TIMEOUT 45 seconds
not ok 7 g # exit=1
ok 8 test #3 of it
ok 9 # skip
"),
("kunit", ResultFormat::Ktap, "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: example
    # module: kunit_example
    1..2
    ok 1 example_simple
        KTAP version 1
        # Subtest: example_params
        # example_params: initializing
        ok 1 value 3
        not ok 2 value 2
    # example_params: pass:1 fail:1
    not ok 2 example_params
# example: pass:1 fail:1 skip:0 total:2
not ok 1 example
"),
("kunit in the kernel log", ResultFormat::Ktap, "\
<6>[    3.141592] KTAP version 1
[    3.141592] 1..1
[    3.141592]     KTAP version 1
[    3.141592]     1..1
[    3.141592]     ok 1 inner
[    3.141592] ok 1 outer
"),
("the runner of the selftests", ResultFormat::Ktap, "\
TAP version 13
1..2
# timeout set to 45
# selftests: futex: run.sh
# TAP version 13
# 1..2
# # futex_wait: checking
# ok 1 futex_wait private
# not ok 2 futex_wait shared
not ok 1 selftests: futex: run.sh # exit=1
# selftests: size: get_size
# TAP version 13
# # Testing system size.
# ok 1 get runtime memory use # diagnostics
# 1..1
# # Totals: pass:1 fail:0 xfail:0 xpass:0 skip:0 error:0
ok 2 selftests: size: get_size
"),
("hashes without a header are talk", ResultFormat::Ktap, "\
1..1
# ok 1 is what we hope for
# not ok 2
ok 1 it
"),
("the selftest harness", ResultFormat::Ktap, "\
TAP version 13
1..2
# Starting 2 tests from 1 test cases.
#  RUN           global.wait ...
#            OK  global.wait
ok 1 global.wait
#  RUN           global.bad ...
# bad.c:7:bad:Expected 1 (1) == 2 (2)
# bad: Test terminated by assertion
#          FAIL  global.bad
not ok 2 global.bad
# FAILED: 1 / 2 tests passed.
# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:0 error:0
"),
("garbage between", ResultFormat::Ktap, "\
[ok]
KTAP version 1
okay
1..2
Segmentation fault
ok
ok 1 a
\u{1b}[31mred\u{1b}[0m
ok2 b
ok 2 c
not okay
"),
("missing results", ResultFormat::Ktap, "1..4\nok 1 a\nok 3 c\n"),
("missing in a subtest", ResultFormat::Ktap, "\
1..1
  1..2
  ok 1 a
ok 1 parent
"),
("cut short inside", ResultFormat::Ktap, "\
KTAP version 1
1..2
    KTAP version 1
    # Subtest: suite
    1..3
    ok 1 a
"),
("cut short at once", ResultFormat::Ktap, "KTAP version 1\n1..2\n"),
("an absurd plan", ResultFormat::Ktap, "1..18446744073709551615\n"),
("no output", ResultFormat::Ktap, ""),
("only garbage", ResultFormat::Ktap, "command not found\n"),
("no plan", ResultFormat::Ktap, "ok 1 a\nok 2 b\n"),
("more than planned", ResultFormat::Ktap, "1..1\nok 1 a\nok 2 b\n"),
("all skipped", ResultFormat::Ktap, "TAP version 13\n1..0 # SKIP module not found\n"),
("each skipped", ResultFormat::Ktap, "1..2\nok 1 a # SKIP x\nok 2 b # SKIP y\n"),
("bail out", ResultFormat::Ktap, "1..3\nok 1 a\nBail out! no memory\nok 2 b\n"),
("duplicates", ResultFormat::Ktap, "\
1..4
ok 1 a
ok 2 a
not ok 3 a
ok 4 a #2
"),
("same name below two parents", ResultFormat::Ktap, "\
1..2
  1..1
  ok 1 a
ok 1 x
  1..1
  not ok 1 a
not ok 2 y
"),
("two outputs after each other", ResultFormat::Ktap, "\
TAP version 13
1..2
ok 1 a
TAP version 13
1..1
ok 1 b
"),
("tap without numbers", ResultFormat::Tap, "ok\nnot ok - named\nok second # comment\n1..3\n"),
("tap13 yaml", ResultFormat::Tap, "\
TAP version 13
1..2
not ok 1 - a
  ---
  message: 'ok 7 is not a result'
  ok 9 neither
  ...
ok 2 - b
"),
("tap14 subtests", ResultFormat::Tap, "\
TAP version 14
# Subtest: foo.tap
    1..2
    ok 1
    ok 2 - this passed \\# really
ok 1 - foo.tap
1..1
"),
("windows lines", ResultFormat::Ktap, "1..1\r\nok 1 a\r\n"),
    ];

    #[test]
    fn table() {
        let mut text = String::new();
        for (name, format, output) in CASES {
            writeln!(text, "=== {name}\n{}\n", shown(output, *format)).unwrap();
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn subtests_carry_the_cause() {
        let report = parse("1..1\nvalue was 3\nnot ok 1 a # exit=2\n", ResultFormat::Ktap);
        let subtests = report.subtests();
        assert_eq!(subtests[0].path, "a");
        let cause = subtests[0].outcome.cause().unwrap();
        assert_eq!(cause.message, "not ok: exit=2: value was 3");
    }

    /// A tree of tests: name, passed, children.
    #[derive(Clone, Debug)]
    struct Tree(String, bool, Vec<Tree>);

    fn tree() -> impl Strategy<Value = Tree> {
        let name = "[a-z][a-z0-9_ ]{0,8}[a-z]";
        let leaf = (name, any::<bool>()).prop_map(|(name, passed)| Tree(name, passed, vec![]));
        leaf.prop_recursive(3, 24, 4, move |inner| {
            (name, any::<bool>(), prop::collection::vec(inner, 0..4))
                .prop_map(|(name, passed, children)| Tree(name, passed, children))
        })
    }

    fn print(tests: &[Tree], indent: &str, step: &str, text: &mut String) {
        writeln!(text, "{indent}KTAP version 1\n{indent}1..{}", tests.len()).unwrap();
        for (at, Tree(name, passed, children)) in tests.iter().enumerate() {
            if !children.is_empty() {
                print(children, &format!("{indent}{step}"), step, text);
            }
            let word = if *passed { "ok" } else { "not ok" };
            writeln!(text, "{indent}{word} {} {name}", at + 1).unwrap();
        }
    }

    fn expected(tests: &[Tree], above: &str, list: &mut Vec<(String, bool)>) {
        for Tree(name, passed, children) in tests {
            expected(children, &format!("{above}{name}{SEPARATOR}"), list);
            list.push((format!("{above}{name}"), *passed));
        }
    }

    proptest! {
        #[test]
        fn every_result_of_a_tree_is_found(
            tests in prop::collection::vec(tree(), 1..5),
            step in prop::sample::select(vec!["  ", "    ", "# "]),
        ) {
            let mut text = String::new();
            print(&tests, "", step, &mut text);
            let report = parse(&text, ResultFormat::Ktap);
            let mut wanted = Vec::new();
            expected(&tests, "", &mut wanted);
            prop_assert_eq!(report.results.len(), wanted.len(), "{}", text);
            for (result, (path, passed)) in report.results.iter().zip(wanted) {
                let same = result.path == path || result.path.starts_with(&format!("{path} #"));
                prop_assert!(same, "{} {path}\n{text}", result.path);
                prop_assert_eq!(result.status == Status::Passed, passed);
            }
        }

        #[test]
        fn what_was_cut_off_never_passes(tests in prop::collection::vec(tree(), 1..5), part in 0.0..1.0) {
            let mut text = String::new();
            print(&tests, "", "    ", &mut text);
            let lines: Vec<&str> = text.lines().collect();
            #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share of a length")]
            let kept = (lines.len() as f64 * part) as usize;
            let report = parse(&lines[..kept].join("\n"), ResultFormat::Ktap);
            // The first line alone promises nothing; the plan is in the second.
            prop_assert!(matches!(report.outcome(), Outcome::Failed { .. }), "{:?}\n{}", report, lines[..kept].join("\n"));
        }

        #[test]
        fn paths_are_unique_whatever_comes(text in "((#|    )?(not ok|ok|1\\.\\.|KTAP version|# Subtest:|Bail|x)? ?[0-9a# -]{0,4}\n){0,40}") {
            for format in [ResultFormat::Ktap, ResultFormat::Tap] {
                let report = parse(&text, format);
                let paths: BTreeSet<&str> = report.results.iter().map(|r| r.path.as_str()).collect();
                prop_assert_eq!(paths.len(), report.results.len());
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            parse(&text, ResultFormat::Tap);
        }
    }

    #[test]
    fn results_are_bounded() {
        let text = "ok 1 a\n".repeat(RESULTS_BOUND * 3);
        let report = parse(&text, ResultFormat::Ktap);
        assert!(report.results.len() <= RESULTS_BOUND + 1);
        assert_eq!(report.failure.as_deref(), Some("more than 20000 results"));
    }

    #[test]
    fn nesting_is_bounded() {
        let text: String =
            (0..1000).map(|depth| format!("{:1$}ok 1 a\n", "", 1000 - depth)).collect();
        assert_eq!(parse(&text, ResultFormat::Ktap).results.len(), 1000);
    }
}
