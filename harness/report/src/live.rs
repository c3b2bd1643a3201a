//! A run while it goes on: journal entries in, lines or bars out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use anstyle::AnsiColor;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kgate_model::journal::{Entry, Event, RunRecord, TrialRecord};
use kgate_model::outcome::Outcome;

use crate::terminal::Style;
use crate::text::{clean, fit, pad};
use crate::view;

/// What is told of a run while it goes on.
pub trait Observer {
    /// Takes note of what happened.
    fn entry(&mut self, entry: &Entry);

    /// Takes away what is not to stay on the screen.
    fn finish(&mut self) {}
}

/// What both observers know of the run.
struct Known {
    /// Trial to its boot.
    boots: BTreeMap<String, String>,
    /// Of exact trials: the clone, and the trials in it that have not ended.
    clones: BTreeMap<String, String>,
    open: BTreeMap<String, usize>,
    done: BTreeSet<String>,
    trials: usize,
    started: Option<u64>,
}

impl Known {
    fn new(record: &RunRecord) -> Self {
        let done = record.trials.iter().filter(|t| t.outcome.is_some());
        let clone = |t: &TrialRecord| Some(format!("{}, clone {}", t.boot, t.planned.clone?));
        let mut open: BTreeMap<String, usize> = BTreeMap::new();
        for clone in record.trials.iter().filter(|t| t.outcome.is_none()).filter_map(clone) {
            *open.entry(clone).or_default() += 1;
        }
        let clones = record.trials.iter().filter_map(|t| Some((t.planned.id.clone(), clone(t)?)));
        Self {
            clones: clones.collect(),
            open,
            boots: (record.trials.iter()).map(|t| (t.planned.id.clone(), t.boot.clone())).collect(),
            done: done.map(|t| t.planned.id.clone()).collect(),
            trials: record.trials.len(),
            started: None,
        }
    }

    /// Takes note that an exact trial ended. Returns its clone, when it was the last one there.
    fn ended(&mut self, trial: &str) -> Option<&str> {
        let clone = self.clones.get(trial)?;
        let open = self.open.get_mut(clone)?;
        *open = open.saturating_sub(1);
        (*open == 0).then_some(clone)
    }

    /// Milliseconds since this process took the run up.
    fn elapsed(&mut self, at: u64) -> u64 {
        at.saturating_sub(*self.started.get_or_insert(at))
    }
}

/// A label, its colour and a text.
type Line = (&'static str, AnsiColor, String);

/// What is worth a line that stays; `None` for what only moves bars.
fn line(event: &Event, known: &mut Known) -> Option<Line> {
    use AnsiColor::{Cyan, Green, Red, Yellow};
    Some(match event {
        Event::RunStarted { facts, partition, .. } => {
            // Those of the host are for the reader of the results.
            let facts = facts.iter().filter(|(k, _)| !k.starts_with("host "));
            let facts: Vec<_> = facts.map(|(k, v)| format!("{k} {v}")).collect();
            let part = partition.map(|p| format!(", partition {p}")).unwrap_or_default();
            let done = match known.done.len() {
                0 => String::new(),
                done => format!(", {done} already done"),
            };
            let facts = match facts.as_slice() {
                [] => String::new(),
                facts => format!("; {}", facts.join(", ")),
            };
            ("run", Cyan, format!("{} trials{done}{part}{facts}", known.trials))
        }
        Event::BootStarted { boot, attempt: 1 } => ("boot", Cyan, boot.clone()),
        Event::BootStarted { boot, attempt } => {
            ("boot", Yellow, format!("{boot}, attempt {attempt}"))
        }
        Event::BootReady { boot, identity, ready_ms, kept_since, .. } => {
            let how = ready(*ready_ms, *kept_since);
            ("ready", Cyan, format!("{boot} {how}: {}", identity.release))
        }
        Event::BootEnded { boot, fault: Some(fault), .. } => {
            ("ended", Red, format!("{boot}: {fault}"))
        }
        Event::Finding { boot, trial, finding } => {
            let place = trial.as_ref().unwrap_or(boot);
            ("kernel log", Yellow, format!("{place}: {}", finding.title))
        }
        Event::TrialEnded { trial, outcome, wall_ms, .. } => {
            known.done.insert(trial.clone());
            // Hundreds of trials that pass in the same way are not worth a line each.
            if known.clones.contains_key(trial) && *outcome == Outcome::Passed {
                let count = known.done.len();
                let of = known.trials;
                let clone = known.ended(trial)?;
                return Some(("measured", Green, format!("[{count}/{of}] {clone}")));
            }
            known.ended(trial);
            let count = format!("[{}/{}]", known.done.len(), known.trials);
            let time = view::duration(*wall_ms);
            let (label, color, why) = match outcome {
                Outcome::Passed => ("passed", Green, String::new()),
                Outcome::Failed { cause } => ("FAILED", Red, format!(": {cause}")),
                Outcome::Errored { cause } => ("ERRORED", Yellow, format!(": {cause}")),
                Outcome::Skipped { reason } => ("skipped", Cyan, format!(": {reason}")),
            };
            (label, color, format!("{count} {trial}, {time}{why}"))
        }
        Event::HostsReturning { hosts, interrupted } => {
            let again = match interrupted {
                true => "; Ctrl-C again leaves that to `kgate lab recover`",
                false => "",
            };
            let text = format!("bringing {} back to production{again}", hosts.join(", "));
            ("returning", Yellow, text)
        }
        Event::HostReturned { host, left: None } => {
            ("returned", Cyan, format!("{host} is back on production"))
        }
        Event::HostReturned { host, left: Some(left) } => {
            ("LEFT", Red, format!("{host} is not back on production: {left}"))
        }
        Event::Note { text } => ("note", Yellow, text.clone()),
        Event::RunEnded { stopped: Some(fault) } => ("stopped", Red, fault.to_string()),
        Event::RunEnded { stopped: None } => ("done", Cyan, String::new()),
        Event::SelfChecked { boot, difference: Some(difference) } => {
            let why = format!("{boot}: the same guest came to different results: {difference}");
            ("INVALID", Yellow, why)
        }
        Event::SelfChecked { difference: None, .. }
        | Event::Facts { .. }
        | Event::BootEnded { fault: None, .. }
        | Event::TrialStarted { .. }
        | Event::StepStarted { .. }
        | Event::Measured { .. } => return None,
    })
}

/// How a boot got ready.
fn ready(ready_ms: u64, kept_since: Option<u64>) -> String {
    match kept_since {
        Some(_) => "kept from an earlier run".to_owned(),
        None => format!("booted in {}", view::duration(ready_ms)),
    }
}

fn written((label, color, text): &Line, style: Style) -> String {
    let text = format!("{}{}", style.paint(*color, &pad(label, 12)), clean(text));
    text.trim_end().to_owned()
}

/// One line per thing that happened: for logs of CI jobs.
pub struct Lines<W> {
    known: Known,
    sink: W,
    style: Style,
}

impl<W: io::Write> Lines<W> {
    /// Observes the run that `record` knows so far. Errors of `sink` are passed over: a closed
    /// terminal is no reason to end a run.
    pub fn new(record: &RunRecord, sink: W, style: Style) -> Self {
        Self { known: Known::new(record), sink, style }
    }
}

impl<W: io::Write> Observer for Lines<W> {
    fn entry(&mut self, entry: &Entry) {
        let elapsed = self.known.elapsed(entry.at);
        if let Some(line) = line(&entry.event, &mut self.known) {
            let (seconds, tenths) = (elapsed / 1000, elapsed % 1000 / 100);
            let text = written(&line, self.style);
            // One write per line, so that lines of several writers don't mix.
            let _ = self.sink.write_all(format!("{seconds:>5}.{tenths} s  {text}\n").as_bytes());
            let _ = self.sink.flush();
        }
    }
}

/// Bars: one for the run, one line per machine. What went wrong stays above them.
pub struct Progress {
    known: Known,
    style: Style,
    columns: usize,
    all: MultiProgress,
    run: ProgressBar,
    /// By the boot, or by the trial that has a machine of its own.
    machines: BTreeMap<String, ProgressBar>,
    bad: usize,
}

impl Progress {
    /// Observes the run that `record` knows so far, on a terminal of so many columns. Whoever else prints to
    /// it while the bars are there does so by [`MultiProgress::suspend`].
    pub fn new(record: &RunRecord, all: MultiProgress, columns: usize, style: Style) -> Self {
        let known = Known::new(record);
        let template = match style {
            Style::Plain => "{bar:24} {pos}/{len} trials  {elapsed} gone, {eta} left  {msg}",
            Style::Colour => {
                "{bar:24.green/dim} {pos}/{len} trials  {elapsed} gone, {eta} left  {msg}"
            }
        };
        let bar =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let run = all.add(ProgressBar::new(known.trials as u64));
        run.set_style(bar.progress_chars("━╸─"));
        run.set_position(known.done.len() as u64);
        // Trials of an earlier process say nothing of the time that is left.
        run.reset_eta();
        run.reset_elapsed();
        // Time goes by while nothing happens.
        run.enable_steady_tick(Duration::from_millis(500));
        Self { known, style, columns, all, run, machines: BTreeMap::new(), bad: 0 }
    }

    /// A line for a machine, by what it is known by.
    fn add(&mut self, machine: &str) {
        let style = ProgressStyle::with_template("  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.all.add(ProgressBar::new_spinner().with_style(style));
        if let Some(old) = self.machines.insert(machine.to_owned(), bar) {
            self.all.remove(&old);
        }
    }

    fn remove(&mut self, machine: &str) {
        if let Some(bar) = self.machines.remove(machine) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    fn say(&self, machine: &str, boot: &str, doing: &str) {
        if let Some(bar) = self.machines.get(machine) {
            let room = self.columns.saturating_sub(4);
            bar.set_message(fit(&clean(&format!("{}  {doing}", pad(boot, 18))), room));
        }
    }

    fn say_of_trial(&self, trial: &str, doing: &str) {
        let Some(boot) = self.known.boots.get(trial) else { return };
        let machine = if self.machines.contains_key(trial) { trial } else { boot };
        let scenario = trial.split('@').next().unwrap_or(trial);
        self.say(machine, boot, &format!("{scenario}{doing}"));
    }

    fn move_bars(&mut self, event: &Event) {
        match event {
            Event::BootStarted { boot, .. } => {
                self.add(boot);
                self.say(boot, boot, "booting");
            }
            Event::BootReady { boot, ready_ms, kept_since, .. } => {
                self.say(boot, boot, &ready(*ready_ms, *kept_since));
            }
            Event::TrialStarted { trial, machine, .. } => {
                if machine.is_some() {
                    // The boot itself has nothing more to tell.
                    if let Some(boot) = self.known.boots.get(trial).cloned() {
                        self.remove(&boot);
                    }
                    self.add(trial);
                }
                self.say_of_trial(trial, "");
            }
            Event::StepStarted { trial, name, .. } => {
                self.say_of_trial(trial, &format!(": {name}"));
            }
            Event::TrialEnded { trial, outcome, .. } => {
                self.remove(trial);
                self.bad += usize::from(outcome.cause().is_some());
                self.run.set_position(self.known.done.len() as u64);
                if self.bad > 0 {
                    self.run.set_message(format!("{} not passed", self.bad));
                }
            }
            Event::BootEnded { boot, .. } => self.remove(boot),
            _ => {}
        }
    }
}

impl Observer for Progress {
    fn entry(&mut self, entry: &Entry) {
        let line = line(&entry.event, &mut self.known);
        self.move_bars(&entry.event);
        let stays = match &entry.event {
            Event::TrialEnded { outcome, .. } => outcome.cause().is_some(),
            Event::BootEnded { .. } | Event::Finding { .. } | Event::Note { .. } => true,
            Event::HostsReturning { .. } | Event::HostReturned { left: Some(_), .. } => true,
            _ => false,
        };
        if let Some(line) = line.filter(|_| stays) {
            let _ = self.all.println(written(&line, self.style));
        }
    }

    fn finish(&mut self) {
        for bar in std::mem::take(&mut self.machines).into_values() {
            bar.finish_and_clear();
        }
        self.run.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
