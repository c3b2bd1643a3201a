//! What a bisection came to: for a person, for `git bisect replay`, and as the mail about it.

use std::fmt::Write as _;
use std::fs;

use kgate_release::KernelVersion;
use kgate_release::bisect::{Answer, Ending};
use kgate_report::Range;
use kgate_runner::RunDir;

use super::git::Description;
use super::journal::Event;
use super::setup::Source;
use super::{Bisect, RUNS};
use crate::args::regression::MailArgs;
use crate::error::{CommandError, at};
use crate::regression::{culprit, mail};
use crate::text::line;

const MAIL: &str = "regression";
const GIT_LOG: &str = "git-bisect.log";

impl Bisect<'_> {
    /// What it came to, for a person.
    pub(super) fn conclusion(&self, end: &Ending) -> String {
        let mut text = String::new();
        let mut row = |name: &str, what: String| {
            let _ = writeln!(text, "{name:<11} {}", line(&what));
        };
        match end {
            Ending::Culprit(point) => row("first bad", self.describe(*point)),
            Ending::Range(points) => {
                row("first bad", format!("one of {}, which nothing tells apart:", points.len()));
                for point in points {
                    row("", self.describe(*point));
                }
            }
        }
        row("last good", self.describe(self.search.last_good().unwrap_or_default()));
        if let Some(symptom) = &self.symptom {
            row("failure", symptom.describe());
        }
        let mut count = [0_u32; 3];
        let mut boots = 0;
        for event in self.journal.events() {
            if let Event::Answer { answer, sightings, verifies, .. } = event {
                count[*answer as usize] += u32::from(!verifies);
                boots += sightings.boots;
            }
        }
        let [good, bad, skip] = count;
        row("answers", format!("{good} good, {bad} bad, {skip} skipped, in {boots} boots"));
        let sure = match self.by_boot() {
            true => format!("at least {} %", self.percent()),
            false => "as the policy decides on metrics".to_owned(),
        };
        row("sure", sure);
        row("directory", self.dir.display().to_string());
        text
    }

    fn describe(&self, point: usize) -> String {
        let one = &self.setup.points[point];
        match &self.setup.source {
            Source::Releases => format!("{}   {}", one.name, one.id),
            Source::Git(repository) => match repository.describe(&self.context.host, &one.id) {
                Some(known) => {
                    let Description { subject, author, date } = known;
                    format!("{} {subject} ({author}, {date})", one.name)
                }
                None => one.id.clone(),
            },
        }
    }

    /// The answers as `git bisect replay` takes them.
    pub(super) fn write_git_log(&self, end: &Ending) -> Result<(), CommandError> {
        let Source::Git(repository) = &self.setup.source else { return Ok(()) };
        let subject = |point: usize| {
            let known = repository.describe(&self.context.host, &self.setup.points[point].id);
            known.map(|known| known.subject).unwrap_or_default()
        };
        let mut text = "git bisect start\n".to_owned();
        let mut add = |word: &str, point: usize| {
            let id = &self.setup.points[point].id;
            let _ = writeln!(text, "# {word}: [{id}] {}\ngit bisect {word} {id}", subject(point));
        };
        add("bad", self.setup.points.len() - 1);
        add("good", 0);
        // For git the last bad one counts, so those are left out that told nothing new.
        let mut search = self.fresh.clone();
        for event in self.journal.events() {
            let Event::Answer { point, answer, verifies, .. } = event else { continue };
            if *verifies && *answer != Answer::Bad {
                continue;
            }
            search.answer(*point, *answer);
            match answer {
                Answer::Good if !self.is_refuted(*point) => add("good", *point),
                Answer::Bad if search.first_bad() == *point => add("bad", *point),
                Answer::Skip => add("skip", *point),
                _ => {}
            }
        }
        let (head, points) = match end {
            Ending::Culprit(point) => ("first bad commit", std::slice::from_ref(point)),
            Ending::Range(points) => ("possible first bad commit", points.as_slice()),
        };
        for &point in points {
            let _ =
                writeln!(text, "# {head}: [{}] {}", self.setup.points[point].id, subject(point));
        }
        let path = self.dir.join(GIT_LOG);
        fs::write(&path, text).map_err(at(&path))
    }

    /// Writes the mail about it, from the run of the first bad point against the good end.
    pub(super) fn write_mail(&self, end: &Ending) -> Result<(), CommandError> {
        let first = self.search.first_bad();
        let bad = |event: &&Event| matches!(event, Event::Answer { point, answer: Answer::Bad, .. } if *point == first);
        let run = match self.journal.events().iter().rfind(bad) {
            Some(Event::Answer { run: Some(run), .. }) => self.dir.join(run),
            _ => self.dir.join(RUNS).join(format!("end-{}", self.setup.boots)),
        };
        let good = self.search.last_good().unwrap_or_default();
        let (git, culprit) = match (&self.setup.source, end) {
            (Source::Git(repository), Ending::Culprit(point)) => {
                let id = &self.setup.points[*point].id;
                (
                    Some(repository.path.clone()),
                    Some(culprit(&self.context.host, &repository.path, id)?),
                )
            }
            (Source::Git(repository), Ending::Range(_)) => (Some(repository.path.clone()), None),
            (Source::Releases, _) => (None, None),
        };
        let range = Range {
            last_good: self.version(good),
            first_bad: self.version(first),
            culprit: None,
            basis: Some(self.basis()),
        };
        let output = self.dir.join(MAIL);
        let args = MailArgs { git, output: Some(output.clone()), ..MailArgs::default() };
        let named = self.symptom.as_ref().and_then(|symptom| symptom.scenario.as_deref());
        mail(self.context, &RunDir::open(&run)?, named, Some(range), culprit.as_ref(), &args)?;
        anstream::eprintln!("  the mail to the kernel's developers is in {}", output.display());
        Ok(())
    }

    /// How the range is known.
    fn basis(&self) -> String {
        let asked = |event: &&Event| matches!(event, Event::Answer { verifies: false, .. });
        let asked = self.journal.events().iter().filter(asked).count();
        let what = match self.setup.source {
            Source::Releases => "releases",
            Source::Git(_) => "commits",
        };
        let between = self.setup.points.len().saturating_sub(2);
        let tried = format!("A bisection tried {asked} of the {between} {what} between its ends");
        match self.by_boot() {
            true => format!("{tried}; it is right in at least {} of 100.", self.percent()),
            false => format!("{tried}."),
        }
    }

    fn percent(&self) -> String {
        format!("{:.4}", 100.0 * self.setup.confidence)
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    }

    /// As kernel developers name it: the upstream version or the commit.
    fn version(&self, point: usize) -> String {
        let one = &self.setup.points[point];
        match &self.setup.source {
            Source::Git(_) => one.id.clone(),
            Source::Releases => {
                let upstream = one.name.parse::<KernelVersion>().ok().and_then(|v| v.counts_as());
                upstream.map_or_else(|| one.name.clone(), |version| version.to_string())
            }
        }
    }

    /// Whether a point was good first and failed when it was verified.
    fn is_refuted(&self, point: usize) -> bool {
        self.journal.events().iter().any(|event| {
            matches!(event, Event::Answer { point: other, answer: Answer::Bad, verifies: true, .. }
                if *other == point)
        })
    }
}
