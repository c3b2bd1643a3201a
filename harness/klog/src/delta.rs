//! What is new in the kernel logs of one kernel against those of another, and how sure that is.
//!
//! Each log, one per boot, is gathered into a [`Digest`]: its findings, and its different lines
//! outside of them, told apart by their `pattern`. A [`Census`] counts in how many boots of each
//! role they are, and gives the [`LogDelta`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use kgate_model::finding::Finding;
use kgate_model::outcome::Role;

use crate::line;
use crate::pattern::pattern;
use crate::{Parser, Source};

/// Different lines that are kept of one log; a boot has a few hundred.
pub const MAX_LINES: usize = 20_000;
/// Different findings that are kept of one log.
const MAX_FINDINGS: usize = 1000;
/// Different lines that are kept of all logs together.
const MAX_ALL: usize = 5 * MAX_LINES;
/// Bytes that are kept of a line.
const MAX_TEXT: usize = 400;
/// A longer line is cut; none of the kernel's is as long.
const MAX_LINE: usize = 8 << 10;
/// Lines that wait until it is known whether they are part of a report.
const MAX_WAITING: usize = 100_000;
/// Share of comparisons of two equal kernels in which chance may call anything surely new.
pub const SIGNIFICANCE: f64 = 0.05;

/// How much a line weighs, as the kernel says: 0 is an emergency, 7 for debugging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// The level of this number, as printed; of a system log's number when it has a facility.
    pub const fn new(number: u32) -> Self {
        Self((number & 7) as u8)
    }

    /// As in `dmesg --level`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "emerg",
            1 => "alert",
            2 => "crit",
            3 => "err",
            4 => "warn",
            5 => "notice",
            6 => "info",
            _ => "debug",
        }
    }
}

/// Words of lines whose level is not known that make them rank with warnings.
const TROUBLE: &[&str] = &[
    "bug",
    "warn",
    "error",
    "fail",
    "fault",
    "fatal",
    "panic",
    "corrupt",
    "invalid",
    "illegal",
    "unable",
    "cannot",
    "can't",
    "could not",
    "couldn't",
    "timed out",
    "timeout",
    "denied",
    "refused",
    "unexpected",
    "stuck",
    "stall",
    "hang",
    "overflow",
    "overrun",
    "lost",
    "abort",
    "broken",
    "bad ",
    "violat",
    "critical",
    "too many",
    "too long",
    "unsupported",
];

/// A line of the kernel that stands for all of its `pattern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// As first seen; cut when it is long.
    pub text: String,
    /// What it is told from others by.
    pub pattern: String,
    /// The worst that it was printed with; `None` where the logs do not say.
    pub level: Option<Level>,
}

impl LogLine {
    /// The level, or what the words suggest where it is not known.
    pub fn rank(&self) -> Level {
        self.level.unwrap_or_else(|| {
            let text = self.pattern.to_lowercase();
            Level(if TROUBLE.iter().any(|word| text.contains(word)) { 4 } else { 6 })
        })
    }

    fn merge(&mut self, other: &Self) {
        self.level = match (self.level, other.level) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// The different lines and the findings of one log, gathered while its bytes arrive. Memory is
/// bounded whatever comes in, and the order of lines does not matter.
#[derive(Debug)]
pub struct Digest {
    source: Source,
    parser: Parser,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Offset in the log of that line.
    start: u64,
    /// Bytes so far.
    bytes: u64,
    /// Whether a line with the kernel's time stamp was seen.
    stamped: bool,
    /// Lines by their offset that may yet turn out to be part of a report.
    waiting: VecDeque<(u64, LogLine)>,
    /// Where the reports among them are.
    reports: Vec<Range<u64>>,
    content: Content,
}

/// What a log comes to.
#[derive(Debug, Default)]
struct Content {
    lines: HashMap<String, LogLine>,
    findings: BTreeMap<String, Finding>,
    /// Lines that were one too many.
    left_out: u64,
}

impl Digest {
    /// Of a log of which nothing was read.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            parser: Parser::new(source),
            partial: Vec::new(),
            start: 0,
            bytes: 0,
            stamped: false,
            waiting: VecDeque::new(),
            reports: Vec::new(),
            content: Content::default(),
        }
    }

    /// Takes the next bytes of the log.
    pub fn push(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(64 << 10) {
            let found = self.parser.push(chunk);
            self.take(found);
            for piece in chunk.split_inclusive(|&b| b == b'\n') {
                let room = MAX_LINE - self.partial.len();
                self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
                self.bytes += piece.len() as u64;
                if piece.ends_with(b"\n") {
                    self.line();
                }
            }
            self.settle(self.parser.settled());
        }
    }

    /// Ends the log.
    fn finish(mut self) -> Content {
        let found = self.parser.finish();
        self.take(found);
        self.line();
        self.settle(u64::MAX);
        self.content
    }

    fn take(&mut self, found: Vec<Finding>) {
        for finding in found {
            self.reports.push(finding.start..finding.end);
            let findings = &mut self.content.findings;
            if findings.len() < MAX_FINDINGS || findings.contains_key(&finding.signature) {
                findings.entry(finding.signature.clone()).or_insert(finding);
            }
        }
    }

    /// Takes the line that has come to its end.
    fn line(&mut self) {
        let raw = std::mem::take(&mut self.partial);
        let start = std::mem::replace(&mut self.start, self.bytes);
        let line = line::split(self.source, &raw, line::is_escaped(&raw));
        if line.stamped && !self.stamped {
            // What came before was not the kernel, if it shows its times.
            self.stamped = true;
            self.waiting.clear();
            self.content.lines.clear();
            self.content.left_out = 0;
        }
        if !line.foreign && line.stamped == self.stamped {
            let level = line.level.map(Level::new);
            let message = String::from_utf8_lossy((*line.message).as_ref());
            let message = unescaped(self.source, &message);
            for text in message.lines().map(str::trim_end).filter(|text| !is_frame(text)) {
                let text = cut(text);
                let line = LogLine { text: text.to_owned(), pattern: pattern(text), level };
                self.waiting.push_back((start, line));
            }
        }
        self.partial = raw;
        self.partial.clear();
        if self.waiting.len() > MAX_WAITING
            && let Some(&(known, _)) = self.waiting.get(MAX_WAITING / 2)
        {
            self.settle(known);
        }
    }

    /// Keeps the lines before `known` that are part of no report.
    fn settle(&mut self, known: u64) {
        // Both are in the order of where they begin.
        let mut reports = self.reports.iter().peekable();
        let mut inside = 0;
        while self.waiting.front().is_some_and(|(start, _)| *start < known) {
            let Some((start, line)) = self.waiting.pop_front() else {
                break;
            };
            while let Some(report) = reports.next_if(|report| report.start <= start) {
                inside = report.end.max(inside);
            }
            let Content { lines, left_out, .. } = &mut self.content;
            if start < inside {
                continue;
            }
            if let Some(kept) = lines.get_mut(&line.pattern) {
                kept.merge(&line);
            } else if lines.len() < MAX_LINES {
                lines.insert(line.pattern.clone(), line);
            } else {
                *left_out += 1;
            }
        }
        self.reports.retain(|report| report.end > known);
    }
}

/// Whether a line says nothing by itself: empty, or drawn around a report.
fn is_frame(text: &str) -> bool {
    text.starts_with("------------[ cut here ]") || text.bytes().all(|b| b"=- ".contains(&b))
}

/// What the kernel printed, without the escapes of `/dev/kmsg`: one record may hold several lines.
fn unescaped(source: Source, message: &str) -> Cow<'_, str> {
    if source != Source::Kmsg || !message.contains("\\x") {
        return message.into();
    }
    let mut bytes = Vec::with_capacity(message.len());
    let mut parts = message.split("\\x");
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

/// In how many boots of one role something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Boots that have it.
    pub boots: u32,
    /// Boots that could have it.
    pub of: u32,
}

/// Something that one of the two kernels has and the other has not.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<T> {
    /// What.
    pub what: T,
    /// Boots of the baseline.
    pub baseline: Share,
    /// Boots of the candidate.
    pub candidate: Share,
    /// Probability that all boots that have it are of the one role, if it had nothing to do with
    /// the kernel: Fisher's exact test, one-sided.
    pub chance: f64,
    /// The chance is so small that even among all lines, or all findings, that come and go in these
    /// boots it explains a find like this in at most [`SIGNIFICANCE`] of comparisons.
    pub sure: bool,
}

/// What the candidate's kernel logs have and the baseline's do not, and the other way round; each
/// list is ordered by how bad it is, then by how sure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogDelta {
    /// Findings, told apart by their signatures, in no log of the baseline.
    pub new_findings: Vec<Change<Finding>>,
    /// Lines outside of findings, in no log of the baseline.
    pub new_lines: Vec<Change<LogLine>>,
    /// Findings in no log of the candidate.
    pub gone_findings: Vec<Change<Finding>>,
    /// Lines in no log of the candidate.
    pub gone_lines: Vec<Change<LogLine>>,
    /// Logs of the baseline and of the candidate.
    pub logs: (u32, u32),
    /// Lines and findings that some boots of a kernel have and others of the same have not.
    pub unsteady: u32,
    /// Lines that could not be compared, because their log has too many different ones.
    pub left_out: u64,
}

/// Where a log comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose boot it is of.
    pub role: Role,
    /// Boots of one group did the same: only these are counted as boots that could have a line
    /// that some boot of the group has.
    pub group: String,
    /// Whether the boot went to its end; one that did not says nothing by what it lacks.
    pub whole: bool,
}

/// Something, and the numbers of the logs that have it.
type Seen<T> = (T, Vec<usize>);

/// Counts what the logs of both roles hold.
#[derive(Debug, Default)]
pub struct Census {
    logs: Vec<Origin>,
    lines: BTreeMap<String, Seen<LogLine>>,
    findings: BTreeMap<String, Seen<Finding>>,
    left_out: u64,
}

impl Census {
    /// Adds the log of one boot.
    pub fn add(&mut self, origin: Origin, log: Digest) {
        self.logs.push(origin);
        self.also(log);
    }

    /// Adds another log of the boot that was added last.
    pub fn also(&mut self, log: Digest) {
        let Some(at) = self.logs.len().checked_sub(1) else {
            return;
        };
        let Content { lines, findings, left_out } = log.finish();
        self.left_out += left_out;
        for (pattern, line) in lines {
            if let Some((kept, seen)) = self.lines.get_mut(&pattern) {
                kept.merge(&line);
                note(seen, at);
            } else if self.lines.len() < MAX_ALL {
                self.lines.insert(pattern, (line, vec![at]));
            } else {
                self.left_out += 1;
            }
        }
        for (signature, finding) in findings {
            if let Some((kept, seen)) = self.findings.get_mut(&signature) {
                kept.severity = kept.severity.max(finding.severity);
                kept.panicked |= finding.panicked;
                note(seen, at);
            } else if self.findings.len() < MAX_ALL {
                self.findings.insert(signature, (finding, vec![at]));
            }
        }
    }

    /// The difference between the logs of the two roles.
    pub fn delta(&self) -> LogDelta {
        let lines = self.lines.values().filter(|(_, seen)| self.is_unsteady(seen)).count();
        let findings = self.findings.values().filter(|(_, seen)| self.is_unsteady(seen)).count();
        let mut delta = LogDelta {
            logs: (self.count(Role::Baseline), self.count(Role::Candidate)),
            unsteady: number(lines + findings),
            left_out: self.left_out,
            ..LogDelta::default()
        };
        for seen in self.lines.values() {
            match self.only(seen, lines) {
                Some((Role::Candidate, change)) => delta.new_lines.push(change),
                Some((Role::Baseline, change)) => delta.gone_lines.push(change),
                None => {}
            }
        }
        for seen in self.findings.values() {
            match self.only(seen, findings) {
                Some((Role::Candidate, change)) => delta.new_findings.push(change),
                Some((Role::Baseline, change)) => delta.gone_findings.push(change),
                None => {}
            }
        }
        for lines in [&mut delta.new_lines, &mut delta.gone_lines] {
            lines.sort_by(|a, b| {
                let order = a.what.rank().cmp(&b.what.rank()).then(a.chance.total_cmp(&b.chance));
                order.then_with(|| a.what.pattern.cmp(&b.what.pattern))
            });
        }
        for findings in [&mut delta.new_findings, &mut delta.gone_findings] {
            findings.sort_by(|a, b| {
                let order = b.what.severity.cmp(&a.what.severity);
                let order = order.then(a.chance.total_cmp(&b.chance));
                order.then_with(|| a.what.signature.cmp(&b.what.signature))
            });
        }
        delta
    }

    fn count(&self, role: Role) -> u32 {
        number(self.logs.iter().filter(|log| log.role == role).count())
    }

    /// What only one role has, and which; `unsteady` of its sort come and go.
    fn only<T: Clone>(&self, (what, seen): &Seen<T>, unsteady: usize) -> Option<(Role, Change<T>)> {
        let groups: BTreeSet<&str> = seen.iter().map(|&at| &*self.logs[at].group).collect();
        let share = |role| {
            let has = |at: &usize| self.logs[*at].role == role;
            let could = |(at, log): &(usize, &Origin)| {
                let here = groups.contains(&*log.group) && log.whole;
                log.role == role && (here || seen.binary_search(at).is_ok())
            };
            Share {
                boots: number(seen.iter().filter(|at| has(at)).count()),
                of: number(self.logs.iter().enumerate().filter(could).count()),
            }
        };
        let (baseline, candidate) = (share(Role::Baseline), share(Role::Candidate));
        let (role, have, lack) = match (baseline.boots, candidate.boots) {
            (0, _) => (Role::Candidate, candidate, baseline),
            (_, 0) => (Role::Baseline, baseline, candidate),
            _ => return None,
        };
        let chance = chance(have, lack.of);
        let sure = chance * unsteady.max(1) as f64 <= SIGNIFICANCE;
        Some((role, Change { what: what.clone(), baseline, candidate, chance, sure }))
    }

    /// Whether some boots of a kernel have it and others, which did the same, have not.
    fn is_unsteady(&self, seen: &[usize]) -> bool {
        let mut counts: BTreeMap<(Role, &str), u32> = BTreeMap::new();
        for &at in seen {
            *counts.entry((self.logs[at].role, &*self.logs[at].group)).or_default() += 1;
        }
        counts.into_iter().any(|((role, group), have)| {
            let all = |log: &&Origin| log.role == role && log.group == group && log.whole;
            have < number(self.logs.iter().filter(all).count())
        })
    }
}

/// Remembers that log `at`, the last one so far, has it.
fn note(seen: &mut Vec<usize>, at: usize) {
    if seen.last() != Some(&at) {
        seen.push(at);
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Probability that none of `lack` boots is among the `have.boots` that have it, when these are
/// dealt out over all boots at random: the hypergeometric distribution, where one count is zero.
fn chance(have: Share, lack: u32) -> f64 {
    let (of, all) = (f64::from(have.of), f64::from(have.of) + f64::from(lack));
    (0..have.boots).map(|i| (of - f64::from(i)) / (all - f64::from(i))).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(source: Source, text: &str) -> Digest {
        let mut digest = Digest::new(source);
        digest.push(text.as_bytes());
        digest
    }

    fn origin(role: Role, group: &str) -> Origin {
        Origin { role, group: group.to_owned(), whole: true }
    }

    /// What is new, in short, over boots of the baseline and of the candidate.
    fn compared(baseline: &[&str], candidate: &[&str]) -> LogDelta {
        let mut census = Census::default();
        for (role, logs) in [(Role::Baseline, baseline), (Role::Candidate, candidate)] {
            for log in logs {
                census.add(origin(role, ""), digest(Source::Console, log));
            }
        }
        census.delta()
    }

    fn patterns<T>(changes: &[Change<T>], name: impl Fn(&T) -> &str) -> Vec<String> {
        changes.iter().map(|change| name(&change.what).to_owned()).collect()
    }

    const OLD: &str = "\
[    0.000000] Linux version 6.1.170
[    1.000000] eth0: link up, 1000 Mbps
[    2.000000] gone: 5 of 7
";
    const NEW: &str = "\
[    0.000000] Linux version 6.1.192
<4>[    0.900000] eth1: link up, 100 Mbps
[    2.500000] plain: 1
[    2.600000] foo: probe failed with error -22
<6>[    2.700000] bar: failover is off
";

    #[test]
    fn lines_are_ranked_by_level_or_by_their_words() {
        let delta = compared(&[OLD], &[NEW]);
        assert_eq!(
            patterns(&delta.new_lines, |line| &line.text),
            ["foo: probe failed with error -22", "bar: failover is off", "plain: 1"]
        );
        assert_eq!(patterns(&delta.gone_lines, |line| &line.pattern), ["gone: # of #"]);
        assert_eq!(delta.new_lines[1].what.level.map(Level::name), Some("info"));
        assert_eq!((delta.logs, delta.unsteady, delta.left_out), ((1, 1), 0, 0));
    }

    #[test]
    fn the_same_logs_in_another_order_differ_in_nothing() {
        let backwards = OLD.lines().rev().map(|line| format!("{line}\n")).collect::<String>();
        let delta = compared(&[OLD, &backwards], &[&backwards, OLD]);
        assert_eq!(delta, LogDelta { logs: (2, 2), ..LogDelta::default() });
        let both = [compared(&[OLD, NEW], &[NEW, NEW]), compared(&[NEW, OLD], &[NEW, NEW])];
        assert_eq!(both[0], both[1]);
    }

    #[test]
    fn how_sure_follows_from_the_boots() {
        // Boots of the baseline, of the candidate, those of the candidate that have it, lines that
        // come and go; the chance, whether that is sure.
        let table = [
            (1, 1, 1, 0, 0.5, false),
            (5, 5, 1, 0, 0.5, false),
            (5, 5, 2, 0, 2.0 / 9.0, false),
            (5, 5, 5, 0, 1.0 / 252.0, true),
            (5, 5, 5, 12, 1.0 / 252.0, true),
            (5, 5, 5, 13, 1.0 / 252.0, false),
            (3, 3, 3, 1, 0.05, true),
            (3, 3, 3, 2, 0.05, false),
            (19, 1, 1, 0, 0.05, true),
        ];
        for (of_baseline, of_candidate, have, unsteady, chance, sure) in table {
            let boot = |has: bool, flickers: bool| {
                let mut log = OLD.to_owned();
                for at in 0..if flickers { unsteady } else { 0 } {
                    log += &format!("[    3.000000] flicker {}\n", ["k"; 20][..at + 1].concat());
                }
                if has { log + "[    4.000000] new\n" } else { log }
            };
            let baseline: Vec<_> = (0..of_baseline).map(|at| boot(false, at == 0)).collect();
            let candidate: Vec<_> = (0..of_candidate).map(|at| boot(at < have, at == 0)).collect();
            let delta = compared(
                &baseline.iter().map(String::as_str).collect::<Vec<_>>(),
                &candidate.iter().map(String::as_str).collect::<Vec<_>>(),
            );
            let [change] = &*delta.new_lines else { panic!("{:?}", delta.new_lines) };
            let case = (of_baseline, of_candidate, have, unsteady);
            assert!((change.chance - chance).abs() < 1e-9, "{case:?}: {}", change.chance);
            assert_eq!(change.sure, sure, "{case:?}: {} unsteady", delta.unsteady);
            assert_eq!(change.candidate, Share { boots: have, of: of_candidate });
            assert_eq!(change.baseline, Share { boots: 0, of: of_baseline });
        }
    }

    #[test]
    fn lines_that_come_and_go_make_no_finding_doubtful() {
        let flickers: String =
            (1..=20).map(|at| format!("[    3.000000] flicker {}\n", "k".repeat(at))).collect();
        let oops =
            "[    4.000000] kernel BUG at mm/slub.c:12!\n[    4.000001] RIP: 0010:f+0x1/0x2\n";
        let (restless, broken) = (format!("{OLD}{flickers}"), format!("{OLD}{oops}"));
        let delta = compared(&[&restless, OLD, OLD, OLD, OLD], &[&*broken; 5]);
        assert_eq!((delta.new_findings.len(), delta.unsteady), (1, 20));
        assert!(delta.new_findings[0].sure);
    }

    #[test]
    fn boots_that_did_something_else_or_ended_early_are_no_evidence() {
        let mut census = Census::default();
        let old = || digest(Source::Console, OLD);
        let new = || digest(Source::Console, NEW);
        for _ in 0..3 {
            census.add(origin(Role::Baseline, "base"), old());
            census.add(origin(Role::Baseline, "edge"), old());
            census.add(origin(Role::Candidate, "base"), old());
            census.add(origin(Role::Candidate, "edge"), new());
        }
        census.add(Origin { whole: false, ..origin(Role::Candidate, "edge") }, old());
        census.add(Origin { whole: false, ..origin(Role::Candidate, "edge") }, new());
        let delta = census.delta();
        let change = delta.new_lines.iter().find(|c| c.what.pattern == "plain: #").unwrap();
        assert_eq!(
            (change.baseline, change.candidate),
            (Share { boots: 0, of: 3 }, Share { boots: 4, of: 4 },)
        );
        assert_eq!(delta.gone_lines, []);
    }

    /// What two attempts at one boot printed is what that boot printed.
    #[test]
    fn logs_of_one_boot_count_once() {
        let mut census = Census::default();
        census.add(origin(Role::Baseline, ""), digest(Source::Console, OLD));
        census.add(origin(Role::Candidate, ""), digest(Source::Console, OLD));
        census.also(digest(Source::Console, NEW));
        census.also(digest(Source::Console, NEW));
        let delta = census.delta();
        assert_eq!(delta.logs, (1, 1));
        assert!(delta.new_lines.iter().all(|c| c.candidate == Share { boots: 1, of: 1 }));
    }

    const REPORT: &str = "\
[    7.000000] ------------[ cut here ]------------
[    7.000001] WARNING: CPU: 0 PID: 83 at /src/kfault.c:14 kfault_warn+0x5/0x10 [kfault]
[    7.000002] Modules linked in: kfault(OE)
[    7.000002] RIP: 0010:kfault_warn+0x5/0x10 [kfault]
[    7.000003] Call Trace:
[    7.000004]  <TASK>
[    7.000005]  kfault_write+0x5/0x10 [kfault]
[    7.000006]  </TASK>
[    7.000007] ---[ end trace 0000000000000000 ]---
[    7.100000] healthy again
";

    #[test]
    fn what_a_report_says_is_a_finding_and_no_line() {
        for size in [1, 7, 64, 10_000] {
            let mut census = Census::default();
            census.add(origin(Role::Baseline, ""), digest(Source::Console, OLD));
            let mut digest = Digest::new(Source::Console);
            for chunk in format!("{OLD}{REPORT}").as_bytes().chunks(size) {
                digest.push(chunk);
            }
            census.add(origin(Role::Candidate, ""), digest);
            let delta = census.delta();
            assert_eq!(
                patterns(&delta.new_findings, |finding| &finding.title),
                ["WARNING in kfault_warn"]
            );
            let lines = patterns(&delta.new_lines, |line| &line.pattern);
            assert!(lines.contains(&"healthy again".to_owned()), "{lines:?}");
            let inside = |line: &String| line.contains("kfault") || line.contains("cut here");
            assert!(!lines.iter().any(inside), "{lines:?}");
        }
    }

    #[test]
    fn only_what_the_kernel_printed_counts() {
        let log = "SeaBIOS (version 1.16.2)\n[    0.000000] Linux version 6.1\nlogin: \n";
        let delta = compared(&[OLD], &[log]);
        assert_eq!(delta.new_lines, []);
        let records = "6,1,0,-;first\\x0asecond \\x5c \\xe2\\x82\\xac\n SUBSYSTEM=pci\n\
                       # 11 records lost\n12,2,0,-;systemd: no\n4,3,0,-,caller=T1;third\n";
        let mut census = Census::default();
        census.add(origin(Role::Baseline, ""), digest(Source::Kmsg, ""));
        census.add(origin(Role::Candidate, ""), digest(Source::Kmsg, records));
        let delta = census.delta();
        let lines: Vec<_> = (delta.new_lines.iter())
            .map(|c| (c.what.level.map(Level::name), &*c.what.text))
            .collect();
        assert_eq!(
            lines,
            [(Some("warn"), "third"), (Some("info"), "first"), (Some("info"), "second \\ €")]
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut digest = Digest::new(Source::Console);
        digest.push(OLD.as_bytes());
        let word =
            |n: usize| format!("{n}").bytes().map(|b| char::from(b + 49)).collect::<String>();
        for n in 0..MAX_LINES + 500 {
            digest.push(format!("[    1.000000] w{}\n", word(n)).as_bytes());
        }
        digest.push(&[b'x'; 100_000]);
        assert!(digest.partial.len() <= MAX_LINE);
        assert!(digest.waiting.len() <= 1);
        let mut census = Census::default();
        census.add(origin(Role::Candidate, ""), digest);
        let delta = census.delta();
        assert_eq!((delta.new_lines.len(), delta.left_out), (MAX_LINES, 503));
    }
}
