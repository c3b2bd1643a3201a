//! What a bisection has found out so far: an append-only list, so that it can be taken up again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use kgate_release::bisect::{Answer, Sightings};
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
    file: File,
    events: Vec<Event>,
}

impl Journal {
    /// Opens it; what a kill left of its last line is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, CommandError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(at(path)(error)),
        };
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let events = text[..whole].lines().enumerate().map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| {
                let place = format!("{}:{}", path.display(), number + 1);
                CommandError::usage(format!("{place}: the bisection is damaged: {error}"))
            })
        });
        let events = events.collect::<Result<_, _>>()?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(at(path))?;
        file.set_len(whole as u64).map_err(at(path))?;
        drop(file);
        let file = OpenOptions::new().append(true).open(path).map_err(at(path))?;
        Ok(Self { file, events })
    }

    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Appends, to the disk.
    pub(crate) fn append(&mut self, event: Event) -> Result<(), CommandError> {
        let mut text = serde_json::to_string(&event)
            .map_err(|error| CommandError::infrastructure(error.to_string()))?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.events.push(event);
        Ok(())
    }
}
