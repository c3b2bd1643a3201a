//! Collects the mistakes of one file and shows each in its source line.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use crate::mistake::{Mistake, nearest};
use crate::yaml::Span;

/// More mistakes of one file than this are not told.
const MISTAKES_BOUND: usize = 50;

/// Where the mistakes of one file go.
pub(crate) struct Sink<'a> {
    path: &'a Path,
    text: &'a str,
    mistakes: RefCell<Vec<Mistake>>,
    /// What a message may show of a source line, of which so many characters come up to the mistake's
    /// end.
    mask: Cell<fn(&str, usize) -> String>,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            mistakes: RefCell::new(Vec::new()),
            mask: Cell::new(|line, _| line.to_owned()),
        }
    }

    /// From now on only what `mask` leaves of a source line is shown.
    pub(crate) fn mask(&self, mask: fn(&str, usize) -> String) {
        self.mask.set(mask);
    }

    /// Adds one.
    pub(crate) fn report(&self, span: Span, message: impl Into<String>, hint: Option<String>) {
        let mut mistakes = self.mistakes.borrow_mut();
        if mistakes.len() >= MISTAKES_BOUND {
            return;
        }
        let message = message.into();
        // What several hosts have from one place is told once.
        let known =
            |m: &Mistake| (m.line, m.column) == (span.line, span.column) && m.message == message;
        if mistakes.iter().any(known) {
            return;
        }
        let line = self.text.lines().nth(span.line - 1).unwrap_or_default();
        let line = line.trim_start_matches('\u{feff}').trim_end();
        mistakes.push(Mistake {
            path: PathBuf::from(self.path),
            line: span.line,
            column: span.column,
            message,
            hint,
            source_line: (self.mask.get())(line, span.column - 1 + span.width),
            width: span.width,
        });
    }

    /// Adds one about a word that is not among `words`: names the nearest, or all when none is near.
    pub(crate) fn report_word<'w>(
        &self,
        span: Span,
        message: impl Into<String>,
        written: &str,
        words: impl IntoIterator<Item = &'w str> + Clone,
    ) {
        // Looking for the nearest word takes time: not for what won't be told.
        if self.mistakes.borrow().len() < MISTAKES_BOUND {
            self.report(span, message, word_hint(written, words));
        }
    }

    /// Whether nothing was reported yet.
    pub(crate) fn is_clean(&self) -> bool {
        self.mistakes.borrow().is_empty()
    }

    /// All that was reported, in the order of the file.
    pub(crate) fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        mistakes
    }
}

/// The nearest of `words`, or all of them when they are few and none is near.
pub(crate) fn word_hint<'w>(
    written: &str,
    words: impl IntoIterator<Item = &'w str> + Clone,
) -> Option<String> {
    if let Some(word) = nearest(written, words.clone()) {
        return Some(format!("did you mean `{word}`?"));
    }
    let words: Vec<&str> = words.into_iter().collect();
    match words.len() {
        1..=24 => Some(format!("one of {}", words.join(", "))),
        _ => None,
    }
}
