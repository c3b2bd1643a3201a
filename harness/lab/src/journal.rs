//! The journal of a lab host: what kgate is about to do to it, written and synced before it is done, and
//! what of that is still to be undone.
//!
//! `HOST.jsonl` in the state directory, one event a line, only ever appended to. Whoever writes it has
//! the host's [`crate::reservation::Lock`]. No event holds a secret or what a hook printed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kgate_model::outcome::Role;
use serde::{Deserialize, Serialize};

/// A journal that has grown beyond this begins anew at the next walk, when nothing is left to be done.
const ROTATE: u64 = 1 << 20;
/// No journal is read further.
const LONGEST: u64 = 64 << 20;

/// One thing that was about to happen, or had happened, to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// It is about to be reserved.
    Reserving {
        /// The run that wants it.
        run: String,
        /// What the marker on the host holds when it is ours.
        token: String,
    },
    /// It is about to be taken from whoever has it: what they did to it isn't known.
    Stealing,
    /// It is about to be taken out of service: the hook `drain`, if there is one, is about to run.
    Draining,
    /// The hook `take-out` is about to run.
    TakingOut,
    /// It was seen to run its production kernel, which is also what it boots by default.
    Production {
        /// `uname -r`.
        release: String,
        /// `uname -v`.
        version: String,
    },
    /// The files of a kernel are about to be put on it.
    Staging {
        /// Which kernel.
        role: Role,
        /// Its release.
        release: String,
    },
    /// It is about to be told to boot a staged kernel once, and to reboot.
    Arming {
        /// Which kernel.
        role: Role,
        /// Identifies the boot on the kernel's command line.
        id: String,
        /// The boot that it is in now, of production.
        boot_id: String,
    },
    /// It runs a kernel under test.
    On {
        /// Which kernel.
        role: Role,
        /// The boot.
        boot_id: String,
    },
    /// It is about to be made to leave the kernel that it runs.
    Returning {
        /// By what.
        by: Means,
    },
    /// It was seen to be back on production, with nothing armed.
    Returned {
        /// The boot.
        boot_id: String,
    },
    /// A hook failed; what it printed is not here.
    HookFailed {
        /// Its name in the inventory.
        hook: String,
        /// How it ended.
        how: String,
    },
    /// Staged files are about to be removed.
    Unstaging,
    /// None is there any more.
    Unstaged,
    /// The hook `undrain` is about to run.
    Undraining,
    /// It has succeeded.
    Undrained,
    /// The reservation is about to be given back.
    Releasing,
    /// It is nobody's.
    Released,
    /// kgate could do no more for it.
    GaveUp {
        /// Why.
        why: String,
    },
}

/// What makes a host leave the kernel that it runs, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// Itself, as after a panic.
    Wait,
    /// A reboot over SSH.
    Reboot,
    /// A reboot over SSH that asks nobody.
    ForcedReboot,
    /// A non-maskable interrupt, after which the kernel panics and reboots.
    Nmi,
    /// A reset by the BMC.
    Reset,
    /// Power off and on.
    Cycle,
}

impl Means {
    /// A few words for a person.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Wait => "waiting for it",
            Self::Reboot => "a reboot",
            Self::ForcedReboot => "a forced reboot",
            Self::Nmi => "an NMI",
            Self::Reset => "a reset",
            Self::Cycle => "a power cycle",
        }
    }
}

/// What has to be done to bring a host back, as a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The run that had it; `None` when nothing is left.
    pub run: Option<String>,
    /// What the marker on the host holds when it is this journal's.
    pub token: Option<String>,
    /// The traffic was taken away from it.
    pub drained: bool,
    /// Files of kernels may be on it.
    pub staged: bool,
    /// It may run, or be about to boot, another kernel than production's.
    pub away: bool,
    /// The boot in which it was told to boot another kernel, if that was the last that was heard of it.
    pub armed_in: Option<String>,
    /// The hook that failed last.
    pub failed_hook: Option<String>,
    /// Release and version of its production kernel, when they were seen.
    pub production: Option<(String, String)>,
    /// Why kgate gave it up, if it did.
    pub gave_up: Option<String>,
}

/// One thing to do for a host that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bring it to production, with nothing armed, and see that it is there.
    Return,
    /// Remove the staged files.
    Unstage,
    /// Run `production-ready`, then `undrain`.
    Undrain,
    /// Give the reservation back.
    Release,
}

impl Left {
    /// Whether there is anything to do.
    pub fn anything(&self) -> bool {
        self.run.is_some()
    }

    /// What there is to do, in order.
    pub fn steps(&self) -> Vec<Step> {
        // Where anything is left, it is cheap to see that production runs, and nothing else helps if not.
        [
            (self.anything(), Step::Return),
            (self.staged, Step::Unstage),
            (self.drained, Step::Undrain),
            (self.anything(), Step::Release),
        ]
        .into_iter()
        .filter_map(|(needed, step)| needed.then_some(step))
        .collect()
    }

    /// In a few words, for a person.
    pub fn describe(&self) -> String {
        let words = [
            (self.away, "not known to be on production"),
            (self.staged, "with staged kernels"),
            (self.drained, "drained"),
            (self.anything(), "reserved"),
        ];
        let words: Vec<_> = words.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
        words.join(", ")
    }

    /// Takes one more event into account.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Reserving { run, token } => {
                self.run = Some(run.clone());
                self.token = Some(token.clone());
            }
            Event::Stealing => (self.staged, self.away) = (true, true),
            Event::Draining | Event::TakingOut => self.drained = true,
            Event::Production { release, version } => {
                self.production = Some((release.clone(), version.clone()));
            }
            Event::Staging { .. } => self.staged = true,
            Event::Arming { boot_id, .. } => {
                self.away = true;
                self.armed_in = Some(boot_id.clone());
            }
            Event::On { .. } => {
                self.away = true;
                self.armed_in = None;
            }
            Event::Returned { .. } => {
                self.away = false;
                self.armed_in = None;
                self.gave_up = None;
            }
            Event::HookFailed { hook, .. } => self.failed_hook = Some(hook.clone()),
            Event::Unstaged => self.staged = false,
            Event::Undrained => {
                self.drained = false;
                self.failed_hook = None;
            }
            Event::Released => *self = Self::default(),
            Event::GaveUp { why } => self.gave_up = Some(why.clone()),
            Event::Returning { .. } | Event::Unstaging | Event::Undraining | Event::Releasing => {}
        }
    }

    /// A line that isn't understood, as one of a later kgate: the worst is supposed but for traffic, which
    /// is only given back to a host that is known to have been drained.
    fn apply_unknown(&mut self) {
        self.run.get_or_insert_with(|| "unknown".into());
        self.staged = true;
        self.away = true;
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    at: Timestamp,
    event: Event,
}

/// A journal that can't be read or written: the controller's fault.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the journal {}: {source}", path.display())]
pub struct JournalError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The journal of a host whose lock the caller has.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    left: Left,
    /// Why something that had to be done anyway was not written down.
    unwritten: Option<String>,
}

/// Where the journal of a host is.
pub fn path(state: &Path, host: &str) -> PathBuf {
    state.join(format!("{host}.jsonl"))
}

/// What a host's journal leaves open; anybody may ask. Nothing where there is no journal.
///
/// # Errors
/// It can't be read.
pub fn left(state: &Path, host: &str) -> Result<Left, JournalError> {
    let path = path(state, host);
    match File::open(&path) {
        Ok(mut file) => Ok(read(&mut file).map_err(failed("read", &path))?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Left::default()),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError { what, path, source }
}

/// What is left by the whole lines of a journal, and how long they are. A last line that a kill cut
/// short announced nothing that was then done.
fn read(file: &mut File) -> io::Result<(Left, u64)> {
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut left = Left::default();
    for line in bytes[..whole].split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) => left.apply(&line.event),
            Err(_) => left.apply_unknown(),
        }
    }
    Ok((left, whole as u64))
}

impl Journal {
    /// Opens a host's journal, making it where there is none.
    ///
    /// # Errors
    /// It can't be made or read.
    pub fn open(state: &Path, host: &str) -> Result<Self, JournalError> {
        let path = path(state, host);
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).open(&path)
        };
        let mut file = open().map_err(failed("open", &path))?;
        let (left, whole) = read(&mut file).map_err(failed("read", &path))?;
        file.set_len(whole).map_err(failed("mend", &path))?;
        if whole > ROTATE && !left.anything() {
            let old = path.with_extension("jsonl.1");
            fs::rename(&path, old).map_err(failed("begin", &path))?;
            file = open().map_err(failed("begin", &path))?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed("open", &path))?;
        File::open(state).and_then(|dir| dir.sync_all()).map_err(failed("sync", &path))?;
        Ok(Self { path, file, left, unwritten: None })
    }

    /// What is left as things are.
    pub fn left(&self) -> &Left {
        &self.left
    }

    /// Writes an event down and syncs it. What it announces may be done when this has succeeded.
    ///
    /// # Errors
    /// It isn't written: nothing may be done.
    pub fn announce(&mut self, event: Event) -> Result<(), JournalError> {
        self.write(&event).map_err(failed("write", &self.path))?;
        self.left.apply(&event);
        Ok(())
    }

    /// Writes down what is done whether it can be written or not, because it makes nothing worse: the way
    /// back.
    pub fn record(&mut self, event: Event) {
        if let Err(error) = self.write(&event) {
            self.unwritten = Some(failed("write", &self.path)(error).to_string());
        }
        self.left.apply(&event);
    }

    /// Why something that was done is not in the journal, for a person.
    pub fn unwritten(&self) -> Option<&str> {
        self.unwritten.as_deref()
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { at: Timestamp::now(), event: event.clone() })?;
        line.push(b'\n');
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a line would take the next one with it.
            let _ = self.file.set_len(before);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// What a host is like, as nobody but a test sees it.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct World {
        reserved: bool,
        drained: bool,
        staged: bool,
        /// It runs a kernel under test.
        away: bool,
        /// It is about to boot one.
        armed: bool,
    }

    impl World {
        /// Does what an event announces.
        fn carry_out(&mut self, event: &Event) {
            match event {
                Event::Reserving { .. } => self.reserved = true,
                Event::Draining | Event::TakingOut => self.drained = true,
                Event::Staging { .. } => self.staged = true,
                Event::Arming { .. } => self.armed = true,
                Event::Returning { .. } => (self.away, self.armed) = (false, false),
                Event::Unstaging => self.staged = false,
                Event::Undraining => self.drained = false,
                Event::Releasing => self.reserved = false,
                _ => {}
            }
        }

        /// An armed host reboots by itself.
        fn settle(&mut self) {
            self.away |= std::mem::take(&mut self.armed);
        }

        fn bring_back(&mut self, left: &Left) {
            for step in left.steps() {
                match step {
                    Step::Return => (self.away, self.armed) = (false, false),
                    Step::Unstage => self.staged = false,
                    Step::Undrain => self.drained = false,
                    Step::Release => self.reserved = false,
                }
            }
        }
    }

    fn reserving() -> Event {
        Event::Reserving { run: "r1".into(), token: "t1".into() }
    }

    fn arming(role: Role) -> Event {
        Event::Arming { role, id: "b1".into(), boot_id: "p".into() }
    }

    /// A walk with some boots, whose parts may fail.
    fn walk(drains: bool, boots: &[(bool, bool)], ends: bool) -> Vec<Event> {
        let mut events = vec![reserving()];
        if drains {
            events.extend([Event::Draining, Event::TakingOut]);
        }
        events.push(Event::Production { release: "6.1".into(), version: "#1".into() });
        for role in Role::ALL {
            events.push(Event::Staging { role, release: "6.1".into() });
        }
        for &(answers, forced) in boots {
            events.push(arming(Role::Candidate));
            if answers {
                events.push(Event::On { role: Role::Candidate, boot_id: "c".into() });
            }
            events.push(Event::Returning { by: Means::Reboot });
            if forced {
                events.push(Event::Returning { by: Means::Cycle });
            }
            events.push(Event::Returned { boot_id: "q".into() });
        }
        if !ends {
            let (hook, how) = ("production-ready".into(), "exit code 1".into());
            events.push(Event::HookFailed { hook, how });
            return events;
        }
        events.extend([Event::Unstaging, Event::Unstaged]);
        if drains {
            events.extend([Event::Undraining, Event::Undrained]);
        }
        events.extend([Event::Releasing, Event::Released]);
        events
    }

    proptest! {
        /// Wherever a walk is cut, and whether or not what was announced last was done, the steps that its
        /// journal leaves bring the host back.
        #[test]
        fn a_walk_that_is_cut_anywhere_is_brought_back(
            drains: bool,
            boots in prop::collection::vec((any::<bool>(), any::<bool>()), 0..4),
            ends: bool,
            cut: Index,
            done: bool,
            torn in 0_usize..40,
        ) {
            let events = walk(drains, &boots, ends);
            let cut = cut.index(events.len() + 1);
            let dir = tempfile::tempdir().unwrap();
            let mut journal = Journal::open(dir.path(), "h").unwrap();
            let mut world = World::default();
            for (at, event) in events[..cut].iter().enumerate() {
                journal.announce(event.clone()).unwrap();
                // Between the announcement and the next event the host goes its own way.
                if at + 1 < cut || done {
                    world.carry_out(event);
                    if !matches!(event, Event::Arming { .. }) || at + 1 < cut {
                        world.settle();
                    }
                }
            }
            let known = journal.left().clone();
            drop(journal);
            let path = path(dir.path(), "h");
            let line = br#"{"at":"2026-01-01T00:00:00Z","event":"unstaged"}"#;
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(&line[..torn]).unwrap();
            prop_assert_eq!(&left(dir.path(), "h").unwrap(), &known);

            let mut journal = Journal::open(dir.path(), "h").unwrap();
            prop_assert_eq!(journal.left(), &known);
            world.bring_back(journal.left());
            world.settle();
            prop_assert_eq!(world, World::default());
            journal.announce(Event::Released).unwrap();
            prop_assert!(!left(dir.path(), "h").unwrap().anything());
        }
    }

    #[test]
    fn what_is_left_after_each_event() {
        let mut left = Left::default();
        let mut table = String::new();
        for event in walk(true, &[(true, false)], true) {
            left.apply(&event);
            let event = serde_json::to_string(&event).unwrap();
            table.push_str(&format!("{event}\n    {:?}\n", left.steps()));
        }
        insta::assert_snapshot!(table, @r##"
        {"reserving":{"run":"r1","token":"t1"}}
            [Return, Release]
        "draining"
            [Return, Undrain, Release]
        "taking_out"
            [Return, Undrain, Release]
        {"production":{"release":"6.1","version":"#1"}}
            [Return, Undrain, Release]
        {"staging":{"role":"baseline","release":"6.1"}}
            [Return, Unstage, Undrain, Release]
        {"staging":{"role":"candidate","release":"6.1"}}
            [Return, Unstage, Undrain, Release]
        {"arming":{"role":"candidate","id":"b1","boot_id":"p"}}
            [Return, Unstage, Undrain, Release]
        {"on":{"role":"candidate","boot_id":"c"}}
            [Return, Unstage, Undrain, Release]
        {"returning":{"by":"reboot"}}
            [Return, Unstage, Undrain, Release]
        {"returned":{"boot_id":"q"}}
            [Return, Unstage, Undrain, Release]
        "unstaging"
            [Return, Unstage, Undrain, Release]
        "unstaged"
            [Return, Undrain, Release]
        "undraining"
            [Return, Undrain, Release]
        "undrained"
            [Return, Release]
        "releasing"
            [Return, Release]
        "released"
            []
        "##);
    }

    #[test]
    fn a_line_of_a_later_kgate_supposes_the_worst() {
        let dir = tempfile::tempdir().unwrap();
        let text = "{\"at\":\"2026-01-01T00:00:00Z\",\"event\":\"levitating\"}\n";
        fs::write(path(dir.path(), "h"), text).unwrap();
        let left = left(dir.path(), "h").unwrap();
        assert_eq!(left.steps(), [Step::Return, Step::Unstage, Step::Release]);
        assert_eq!(left.describe(), "not known to be on production, with staged kernels, reserved");
    }

    #[test]
    fn a_full_disk_stops_what_is_announced_and_not_the_way_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), "h").unwrap();
        journal.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        assert!(journal.announce(arming(Role::Baseline)).is_err());
        assert!(!journal.left().away);
        journal.record(Event::Returning { by: Means::Reset });
        assert!(journal.unwritten().unwrap().contains("No space left"));
    }
}
