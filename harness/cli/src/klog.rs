//! `kgate klog`: the failures in logs, or what is new in them.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use kgate_kernel::{Resolver, Symbols, Unresolved};
use kgate_klog::delta::{Census, LogDelta, Origin};
use kgate_klog::{Parser, Source};
use kgate_model::finding::Finding;
use kgate_model::outcome::Role;
use kgate_report::{LogPlace, Style};

use crate::args::{KlogArgs, KlogFormat, SourceArg};
use crate::context::Context;
use crate::error::{CommandError, PROMOTE, REJECT};
use crate::logs::Log;
use crate::reports::{columns, style};
use crate::text;

/// A report on standard input has ended when nothing came for so long.
const QUIET: Duration = Duration::from_secs(5);

/// Bytes before a finding whose lines are still remembered.
const KEPT: u64 = 64 << 10;

/// Findings that wait for their lines of source: looking up many at once costs little more than one.
const WAITING: usize = 256;

/// Signatures that are remembered, so that what is found again is told in short.
const REMEMBERED: usize = 10_000;

/// Runs the command.
pub(crate) fn klog(context: &Context, args: &KlogArgs) -> Result<ExitCode, CommandError> {
    let stdin = PathBuf::from("-");
    let files = if args.files.is_empty() { std::slice::from_ref(&stdin) } else { &args.files };
    let from_stdin = files.iter().chain(&args.against).filter(|file| **file == stdin).count();
    if from_stdin > 1 {
        return Err(CommandError::usage("standard input can be read once only"));
    }
    if from_stdin == 1 && io::stdin().is_terminal() {
        return Err(CommandError::usage("there is no log to read")
            .hint("name files, or pipe one in: dmesg | kgate klog"));
    }
    let output = Output {
        symbols: symbols(context, &args.debug_info)?,
        waiting: Vec::new(),
        notes: BTreeSet::new(),
        format: args.format,
        columns: columns(&io::stdout()),
        style: style(context.colour),
        closed: false,
        findings: 0,
        lines: 0,
        seen: HashSet::new(),
    };
    let found = if args.against.is_empty() {
        find(args, files, output)?
    } else {
        compare(args, files, output)?
    };
    Ok(ExitCode::from(if found { REJECT } else { PROMOTE }))
}

/// The debug information that was named.
pub(crate) fn symbols(
    context: &Context,
    named: &[String],
) -> Result<Option<Symbols>, CommandError> {
    if named.is_empty() {
        return Ok(None);
    }
    let cache_dir = match named.iter().any(|reference| Symbols::needs_cache(reference)) {
        true => context.cache()?.to_owned(),
        false => PathBuf::new(),
    };
    let resolver = Resolver { cache_dir, host: &context.host };
    Ok(Some(Symbols::open(named, &resolver)?))
}

fn source(args: &KlogArgs) -> Option<Source> {
    match args.source {
        SourceArg::Auto => None,
        SourceArg::Console => Some(Source::Console),
        SourceArg::Kmsg => Some(Source::Kmsg),
    }
}

/// Prints the findings of all files while they are read. One that can't be read keeps no other back.
fn find(args: &KlogArgs, files: &[PathBuf], mut output: Output) -> Result<bool, CommandError> {
    let mut failed = None;
    for file in files {
        if let Err(error) = read(args, file, &mut output)
            && let Some(earlier) = failed.replace(error)
        {
            anstream::eprintln!("kgate: {earlier}");
        }
        if output.closed {
            break;
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    output.end()?;
    Ok(output.findings > 0)
}

/// Opens a log. One without a byte is most often a command before the pipe that failed.
fn open(file: &Path) -> Result<Log, CommandError> {
    let log = Log::open(file)?;
    if log.is_empty() {
        let name = if log.name == "-" { "standard input" } else { &log.name };
        anstream::eprintln!("kgate: {}: empty, so nothing can be found in it", text::line(name));
    }
    Ok(log)
}

fn read(args: &KlogArgs, file: &Path, output: &mut Output) -> Result<(), CommandError> {
    let mut log = open(file)?;
    let mut parser = Parser::new(match source(args) {
        Some(source) => source,
        None => log.source()?,
    });
    let mut lines = Lines::default();
    let mut complete = true;
    while !output.closed {
        if complete && parser.pending().is_some() && log.is_quiet(QUIET) {
            output.findings(parser.finish(), &log.name, &lines)?;
            output.flush(&log.name)?;
        }
        let bytes = match log.read() {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => bytes,
            Err(error) => {
                // What was found until then is still true.
                output.findings(parser.finish(), &log.name, &lines)?;
                output.flush(&log.name)?;
                return Err(error);
            }
        };
        complete = bytes.ends_with(b"\n");
        lines.push(&bytes);
        output.findings(parser.push(&bytes), &log.name, &lines)?;
        if file == Path::new("-") {
            output.flush(&log.name)?;
        }
        lines.forget(parser.settled());
    }
    output.lines += lines.number(lines.bytes) - u64::from(complete);
    output.findings(parser.finish(), &log.name, &lines)?;
    output.flush(&log.name)
}

/// Prints what is new in `files` and what is gone.
fn compare(args: &KlogArgs, files: &[PathBuf], mut output: Output) -> Result<bool, CommandError> {
    let mut census = Census::default();
    for (role, logs) in [(Role::Baseline, &*args.against), (Role::Candidate, files)] {
        for file in logs {
            let digest = open(file)?.digest(source(args))?;
            census.add(Origin { role, group: String::new(), whole: true }, digest);
        }
    }
    let delta = census.delta();
    output.delta(&delta)?;
    Ok(!delta.new_findings.is_empty())
}

/// Finds the numbers of lines by their offsets, remembering only those that may still be asked for.
#[derive(Default)]
struct Lines {
    bytes: u64,
    /// Lines that ended before the first that is remembered.
    before: u64,
    /// Offsets of line ends.
    ends: VecDeque<u64>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        let ends = bytes.iter().zip(self.bytes..).filter(|(b, _)| **b == b'\n');
        self.ends.extend(ends.map(|(_, at)| at));
        self.bytes += bytes.len() as u64;
    }

    /// Nothing well before `start` will be asked for.
    fn forget(&mut self, start: u64) {
        let start = start.saturating_sub(KEPT);
        let past = self.ends.partition_point(|end| *end < start);
        self.ends.drain(..past);
        self.before += past as u64;
    }

    /// From 1.
    fn number(&self, offset: u64) -> u64 {
        self.before + self.ends.partition_point(|end| *end < offset) as u64 + 1
    }
}

/// Standard output. A reader that has gone away ends the command without complaint.
struct Output {
    /// Debug information, where it was given.
    symbols: Option<Symbols>,
    /// Findings of one log, with their lines in it, that are not printed yet.
    waiting: Vec<(Finding, u64)>,
    /// What was said of the debug information.
    notes: BTreeSet<Unresolved>,
    format: KlogFormat,
    columns: usize,
    style: Style,
    closed: bool,
    findings: usize,
    /// Lines of all logs.
    lines: u64,
    /// Signatures of what was printed.
    seen: HashSet<String>,
}

impl Output {
    fn findings(
        &mut self,
        findings: Vec<Finding>,
        file: &str,
        lines: &Lines,
    ) -> Result<(), CommandError> {
        for finding in findings {
            let line = lines.number(finding.start);
            self.waiting.push((finding, line));
        }
        match self.symbols {
            Some(_) if self.waiting.len() < WAITING => Ok(()),
            _ => self.flush(file),
        }
    }

    /// Prints the findings of the log `file` that wait, with their lines of source.
    fn flush(&mut self, file: &str) -> Result<(), CommandError> {
        let (mut findings, lines): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().unzip();
        let outcome = match &self.symbols {
            Some(symbols) => symbols.resolve(&mut findings),
            None => Ok(Vec::new()),
        };
        for (finding, line) in findings.into_iter().zip(lines) {
            let place = LogPlace { file, line };
            let again = self.seen.contains(&finding.signature);
            if !again && self.seen.len() < REMEMBERED {
                self.seen.insert(finding.signature.clone());
            }
            let text = match self.format {
                KlogFormat::Text => {
                    let gap = if self.findings > 0 { "\n" } else { "" };
                    let show = match again {
                        true => kgate_report::finding_again,
                        false => kgate_report::finding,
                    };
                    gap.to_owned() + &show(&finding, place, self.columns, self.style)
                }
                KlogFormat::Github => kgate_report::annotation(&finding, place),
                KlogFormat::Jsonl => {
                    let mut value = kgate_report::finding_json(&finding);
                    value["file"] = file.into();
                    value["line"] = place.line.into();
                    format!("{value}\n")
                }
            };
            self.findings += 1;
            self.print(&text)?;
        }
        // What is wrong with the debug information takes nothing from what was found.
        for note in outcome? {
            let text = text::line(&note.to_string());
            if self.notes.insert(note) {
                anstream::eprintln!("kgate: {text}");
            }
        }
        Ok(())
    }

    /// How much was found in how much: silence could be a mistake, and many findings scroll away.
    fn end(&mut self) -> Result<(), CommandError> {
        let lines = match self.lines {
            1 => "1 line".to_owned(),
            lines => format!("{lines} lines"),
        };
        match (self.format, self.findings, self.seen.len()) {
            (KlogFormat::Text, 0, _) => self.print(&format!("nothing was found in {lines}\n")),
            (KlogFormat::Text, found, different) if found > different && different < REMEMBERED => {
                self.print(&format!("\n{found} findings, {different} different, in {lines}\n"))
            }
            (KlogFormat::Text, found @ 2.., _) => {
                self.print(&format!("\n{found} findings in {lines}\n"))
            }
            _ => Ok(()),
        }
    }

    fn delta(&mut self, delta: &LogDelta) -> Result<(), CommandError> {
        let text = match self.format {
            KlogFormat::Text => kgate_report::log_delta(delta, self.columns, self.style),
            KlogFormat::Github => kgate_report::log_delta_annotations(delta),
            KlogFormat::Jsonl => {
                let rows = kgate_report::log_delta_json(delta);
                rows.iter().map(|row| format!("{row}\n")).collect()
            }
        };
        self.print(&text)
    }

    fn print(&mut self, text: &str) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.closed = true,
            Err(error) => {
                self.closed = true;
                return Err(CommandError::infrastructure(format!("standard output: {error}")));
            }
            Ok(()) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_while_they_are_read() {
        let log: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
        let offset = |n: usize| log.match_indices(&format!("line {n}\n")).next().unwrap().0 as u64;
        let mut lines = Lines::default();
        for chunk in log.as_bytes().chunks(10_000) {
            lines.push(chunk);
            lines.forget(lines.bytes);
        }
        assert!(lines.ends.len() < 10_000, "{}", lines.ends.len());
        for n in [48_000, 49_998, 49_999] {
            assert_eq!(lines.number(offset(n)), n as u64 + 1);
        }
    }
}
