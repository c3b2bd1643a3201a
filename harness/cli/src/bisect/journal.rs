//! What a bisection has found out so far: an append-only list, so that it can be taken up again.

use std::fs::OpenOptions;
use std::path::Path;

use kgate_release::bisect::{Answer, Sightings};
use kgate_runner::Lines;
use serde::{Deserialize, Serialize};

use super::failure::Symptom;
use crate::error::{CommandError, at};

/// One thing that was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Event {
    /// What fails.
    Failure { symptom: Symptom },
    /// The bad end fails so often.
    End { sightings: Sightings },
    /// What a point came to.
    Answer {
        point: usize,
        answer: Answer,
        /// Why it can't be judged.
        why: Option<String>,
        /// Boots of it that told something, and those with the failure.
        sightings: Sightings,
        /// Its run, relative to the directory.
        run: Option<String>,
        /// It was good before, and asked again because the end rests on it.
        verifies: bool,
    },
}

/// The list on disk.
pub(crate) struct Journal {
    lines: Lines,
    events: Vec<Event>,
}

impl Journal {
    /// Opens it, or makes an empty one.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let (lines, text) = file.and_then(Lines::take).map_err(at(path))?;
        let text = String::from_utf8_lossy(&text);
        let events = text.lines().enumerate().map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                let place = format!("{}:{}", path.display(), number + 1);
                CommandError::usage(format!("{place}: the bisection is damaged: {error}"))
            })
        });
        let events = events.collect::<Result<_, _>>()?;
        Ok(Self { lines, events })
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Appends, to the disk.
    pub(crate) fn append(&mut self, event: Event) -> Result<(), CommandError> {
        self.lines.append(&event)?;
        self.lines.sync()?;
        self.events.push(event);
        Ok(())
    }
}
