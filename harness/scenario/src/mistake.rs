//! What is wrong with a file, where, and what was probably meant.

use std::fmt;
use std::path::PathBuf;

/// One mistake in one file.
///
/// Displayed as position and message, then the source line with the place marked. The source line
/// is the file's own text: escape it before printing to a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, as the caller named it.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it, in a few words.
    pub hint: Option<String>,
    /// The line of the file; empty when the file is.
    pub source_line: String,
    /// How many characters of it are meant, at least 1.
    pub width: usize,
}

/// Longest source line that is shown whole.
const EXCERPT_BOUND: usize = 160;

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, message, hint, source_line, width } = self;
        write!(f, "{}:{line}:{column}: {message}", path.display())?;
        if source_line.is_empty() {
            if let Some(hint) = hint {
                write!(f, "\n  {hint}")?;
            }
            return Ok(());
        }
        let number = line.to_string();
        let excerpt: String = source_line.chars().take(EXCERPT_BOUND).collect();
        // Tabs stay tabs, so that the marks stand below what they mark.
        let before: String = (excerpt.chars().take(column - 1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let room = excerpt.chars().count().saturating_sub(column - 1).max(1);
        let marks = "^".repeat((*width).clamp(1, room));
        write!(f, "\n  {number} | {excerpt}\n  {:1$} | {before}{marks}", "", number.len())?;
        if let Some(hint) = hint {
            write!(f, " {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistake {}

/// Everything that is wrong with a set of files; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// `did you mean …?` for the nearest of `words`, when one is near enough to have been meant.
pub(crate) fn nearest<'a>(
    written: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written = written.to_lowercase().replace('_', "-");
    words
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&written, &word.to_lowercase()), word))
        .filter(|&(distance, word)| {
            let shorter = word.len().min(written.len());
            distance < shorter && distance <= 1 + shorter / 3
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}
