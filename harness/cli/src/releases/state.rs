//! The state file: what was gated, a line of JSON for each event. It is changed under a lock, by
//! appending, and each change is on the disk before anything follows from it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kgate_release::Version;
use kgate_release::state::{Entry, Event, FORMAT, Line, State};
use kgate_runner::{Lines, whole_lines};

use crate::error::{CommandError, at};

/// A larger file is no state: a year of releases takes some tens of kilobytes.
const BOUND: u64 = 64 << 20;
/// With this begins every line, also one that was cut short.
const BEGIN: &[u8] = b"{\"format\":\"";

/// A state file.
pub(crate) struct StateFile {
    path: PathBuf,
}

/// What a change comes to: what is written, and what its maker gets.
pub(crate) type Change<T> = Result<(Vec<(Version, Event)>, T), CommandError>;

impl StateFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// What it says now. No file says nothing.
    pub(crate) fn read(&self) -> Result<State, CommandError> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(BOUND + 1).read_to_end(&mut bytes).map_err(at(&self.path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(at(&self.path)(error)),
        };
        // Whoever writes at this moment isn't done with the last line.
        let tail = bytes.split_off(whole_lines(&bytes));
        self.parse(&bytes, &tail)
    }

    /// Decides by what it says, and writes down what was decided, while nobody else does.
    pub(crate) fn change<T>(
        &self,
        line: &Line,
        decide: impl FnOnce(&State) -> Change<T>,
    ) -> Result<T, CommandError> {
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(at(parent))?;
        }
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&self.path).map_err(at(&self.path))?;
        if !file.metadata().map_err(at(&self.path))?.is_file() {
            return Err(self.is_none(""));
        }
        file.lock().map_err(at(&self.path))?;
        let (mut lines, bytes) = Lines::take(file).map_err(at(&self.path))?;
        let state = self.parse(&bytes, lines.tail())?;
        if !lines.tail().is_empty() {
            anstream::eprintln!(
                "kgate: {}: the last line was cut short ({} bytes) and is left out",
                self.path.display(),
                lines.tail().len()
            );
            lines.remove_tail().map_err(at(&self.path))?;
        }
        let (events, answer) = decide(&state)?;
        for (version, event) in events {
            let (format, line, at) = (FORMAT.to_owned(), line.clone(), Timestamp::now());
            let entry = Entry { format, at, line, version, event };
            lines.append(&entry).map_err(self::at(&self.path))?;
        }
        lines.sync().map_err(at(&self.path))?;
        Ok(answer)
    }

    /// That it is something else, which is left as it is.
    fn is_none(&self, place: &str) -> CommandError {
        let what =
            format!("{}{place}: this is not a state file of `kgate gate`", self.path.display());
        CommandError::usage(what)
            .hint("one that doesn't exist yet is made by `kgate gate --state FILE`")
    }

    /// What whole lines come to, and the beginning of one after them. A line that is none of ours is left
    /// out and told: what it said was gated is gated once more.
    fn parse(&self, bytes: &[u8], tail: &[u8]) -> Result<State, CommandError> {
        let path = self.path.display();
        if bytes.len() as u64 > BOUND {
            let what = format!("{path}: larger than {} MiB, which no state file is", BOUND >> 20);
            return Err(CommandError::usage(what));
        }
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        let lines = bytes.split(|&byte| byte == b'\n').enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            match serde_json::from_slice::<Entry>(line) {
                Ok(entry) if entry.format == FORMAT => entries.push(entry),
                _ => {
                    let other = serde_json::from_slice::<serde_json::Value>(line).ok();
                    let format =
                        other.as_ref().and_then(|v| v["format"].as_str()).unwrap_or(FORMAT);
                    if format != FORMAT {
                        let format = crate::text::line(format);
                        return Err(CommandError::usage(format!(
                            "{path}:{}: written in format {format}; this program reads {FORMAT}",
                            number + 1
                        )));
                    }
                    damaged.push(number + 1);
                }
            }
        }
        match (damaged.first(), entries.is_empty()) {
            (Some(first), true) => Err(self.is_none(&format!(":{first}"))),
            (None, true) if !tail.starts_with(BEGIN) && !BEGIN.starts_with(tail) => {
                Err(self.is_none(":1"))
            }
            (Some(first), false) => {
                let count = damaged.len();
                anstream::eprintln!(
                    "kgate: {path}:{first}: {count} damaged line{} left out",
                    if count == 1 { " is" } else { "s are" }
                );
                Ok(State::new(entries))
            }
            (None, _) => Ok(State::new(entries)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kgate_release::state::Known;

    use super::*;

    fn line() -> Line {
        Line { workload: "edge".into(), track: "6.1".into() }
    }

    fn seen(version: &str) -> Change<()> {
        let on = jiff::civil::date(2026, 5, 8);
        Ok((vec![(version.parse().unwrap(), Event::Seen { on })], ()))
    }

    fn knows(file: &StateFile, version: &str) -> bool {
        let state = file.read().unwrap_or_else(|error| panic!("{error}"));
        state
            .known(&line(), &version.parse().unwrap())
            .is_some_and(|known| *known != Known::default())
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_left_out_and_the_rest_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/state");
        let file = StateFile::new(&path);
        assert!(!knows(&file, "6.1.1"));
        file.change(&line(), |_| seen("6.1.1")).unwrap();
        file.change(&line(), |_| seen("6.1.2")).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in [1, 10, 80] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert!(knows(&file, "6.1.1") && !knows(&file, "6.1.2"));
            file.change(&line(), |_| seen("6.1.3")).unwrap();
            assert!(knows(&file, "6.1.1") && knows(&file, "6.1.3"));
        }
        // Two files one after the other, the first without its end.
        let joined = [&whole[..whole.len() - 9], b"\n", &whole].concat();
        fs::write(&path, joined).unwrap();
        assert!(knows(&file, "6.1.1") && knows(&file, "6.1.2"));
    }

    #[test]
    fn nothing_is_changed_in_what_is_no_state() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("precious");
        let file = StateFile::new(&path);
        for text in ["one line", "two\nlines", "{\"format\":\"kgate-gate/9\"}\n{\"for", "\0\0\0"] {
            fs::write(&path, text).unwrap();
            assert!(file.change(&line(), |_| seen("6.1.1")).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        for whose in ["/dev/null", "/dev/zero"] {
            let error = StateFile::new(Path::new(whose)).change(&line(), |_| seen("6.1.1"));
            assert_eq!(error.unwrap_err().code(), 2, "{whose}");
        }
        // The beginning of a first line is one of ours.
        fs::write(&path, "{\"format\":\"kgate-g").unwrap();
        file.change(&line(), |_| seen("6.1.1")).unwrap();
        assert!(knows(&file, "6.1.1"));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let file = StateFile::new(&path);
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            let error = file.read().unwrap_err().to_string();
            error.replace(&temp.path().display().to_string(), "DIR")
        };
        insta::assert_snapshot!(refused("stages: [test]\n"), @r"
        DIR/state:1: this is not a state file of `kgate gate`
          hint: one that doesn't exist yet is made by `kgate gate --state FILE`
        ");
        assert_eq!(refused("stages: [test]"), refused("stages: [test]\n"));
        insta::assert_snapshot!(refused("{\"format\":\"kgate-gate/9\"}\n"), @"DIR/state:1: written in format kgate-gate/9; this program reads kgate-gate/1");
    }
}
