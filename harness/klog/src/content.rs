//! What a report's text says besides its title: stacks, CPU, process, taint, modules, release and
//! the access that failed. One pass over the lines of the finished report.

use std::sync::LazyLock;

use kgate_model::finding::{Access, Finding, FindingKind, Frame, Operation, Stack};
use memchr::memmem;

use crate::frame::{self, RawFrame};
use crate::text::{after, contains, find, rfind, split};

/// Bounds of what is kept of one report.
const MAX_FRAMES: usize = 256;
const MAX_STACKS: usize = 64;
const MAX_MODULES: usize = 1024;
const MAX_LABEL: usize = 160;
/// Room for as many frames as most stacks have.
const USUAL_FRAMES: usize = 32;

/// Fills in what `finding.excerpt` tells: `frames`, `stacks`, `cpu`, `pid`, `command`, `taint`,
/// `modules`, `release` and `access`.
pub(crate) fn fill(finding: &mut Finding) {
    let excerpt = std::mem::take(&mut finding.excerpt);
    let mut reader = Reader::new(finding);
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', excerpt.as_bytes()).chain([excerpt.len()]) {
        reader.line(&excerpt[start..end], start == 0);
        start = end + 1;
        if start >= excerpt.len() {
            break;
        }
    }
    reader.finish();
    finding.excerpt = excerpt;
}

static TAINTED: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new("ainted"));

/// What a line announces about the frames after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opens {
    /// A stack that is never the failure's own.
    Other,
    /// As `Other`; what introduces a stack of its own next belongs to it.
    Announced,
    /// The failure's stack, unless that was printed already.
    Next,
    /// As `Next`, but only where frames were seen since the last label: a line within a section.
    Within,
    /// Functions that are no stack.
    Nothing,
}

/// How lines begin that say whose stack follows.
static LABELS: &[(&str, Opens)] = &[
    ("Call Trace:", Opens::Within),
    ("Call trace:", Opens::Within),
    ("CPU: ", Opens::Within),
    ("Backtrace:", Opens::Within),
    ("backtrace", Opens::Within),
    ("stack backtrace:", Opens::Within),
    ("Pid: ", Opens::Within),
    ("---[ end trace", Opens::Nothing),
    ("NMI backtrace for cpu ", Opens::Next),
    ("task:", Opens::Next),
    ("Kernel panic - not syncing", Opens::Next),
    ("BUG: ", Opens::Next),
    ("WARNING: ", Opens::Next),
    ("INFO: task ", Opens::Next),
    ("unreferenced object ", Opens::Next),
    ("read to 0x", Opens::Next),
    ("write to 0x", Opens::Next),
    ("read-write to 0x", Opens::Next),
    ("read (", Opens::Next),
    ("write (", Opens::Next),
    ("read-write (", Opens::Next),
    ("Allocated by task ", Opens::Other),
    ("Allocated:", Opens::Other),
    ("Allocated in ", Opens::Other),
    ("INFO: Allocated in ", Opens::Other),
    ("allocated by task ", Opens::Other),
    ("Freed by task ", Opens::Other),
    ("Freed:", Opens::Other),
    ("Freed in ", Opens::Other),
    ("INFO: Freed in ", Opens::Other),
    ("freed by task ", Opens::Other),
    ("kfence-#", Opens::Other),
    ("Last potentially related work creation:", Opens::Other),
    ("Second to last potentially related work creation:", Opens::Other),
    ("Last call_rcu", Opens::Other),
    ("Last one call_rcu", Opens::Other),
    ("Second to last call_rcu", Opens::Other),
    ("Uninit was ", Opens::Other),
    ("Local variable ", Opens::Other),
    ("-> #", Opens::Other),
    ("page last ", Opens::Other),
    ("ref_tracker: ", Opens::Other),
    ("Mapped at:", Opens::Other),
    ("RCU grace-period kthread stack dump:", Opens::Announced),
    ("rcu: RCU grace-period kthread stack dump:", Opens::Announced),
    ("Stack dump where RCU GP kthread last ran:", Opens::Announced),
    ("rcu: Stack dump where RCU GP kthread last ran:", Opens::Announced),
    ("The buggy address ", Opens::Nothing),
    ("Last Breaking-Event-Address:", Opens::Nothing),
    ("Showing all locks held", Opens::Nothing),
];

/// `LABELS` by the byte they begin with.
static BY_FIRST: LazyLock<Vec<Vec<(&str, Opens)>>> = LazyLock::new(|| {
    let mut by_first = vec![Vec::new(); 256];
    for label in LABELS {
        by_first[usize::from(label.0.as_bytes()[0])].push(*label);
    }
    by_first
});

/// What the line announces, if anything; `line` has no blanks around it.
fn label(line: &str) -> Option<Opens> {
    let bytes = line.as_bytes();
    let mut labels = BY_FIRST[usize::from(bytes[0])].iter();
    if let Some((_, opens)) = labels.find(|(start, _)| line.starts_with(start)) {
        return Some(*opens);
    }
    // The lock checker's `{IN-SOFTIRQ-W} state was registered at:`, `... acquired at:`, and where
    // the address sanitizer names the function that owns a stack.
    match bytes {
        [.., b' ', b'a', b't', b':'] => Some(Opens::Other),
        [.., b'f', b'r', b'a', b'm', b'e', b':'] => Some(Opens::Nothing),
        _ => None,
    }
}

/// Where frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    Failure,
    /// A stack that begins with the first frame after its label.
    Labelled(&'a str, Opens),
    /// One of the finding's `stacks`.
    Stack(usize),
    Nowhere,
}

struct Reader<'a> {
    finding: &'a mut Finding,
    place: Place<'a>,
    /// Whether a frame of a trace came since `place` was set.
    traced: bool,
    /// Whether the last frame was the instruction pointer.
    pointed: bool,
    /// Whether the only frame is what the label named, which the stack itself names again.
    stand_in: bool,
    /// The symbol of the place where the next frame is, as the line before says.
    caller: Option<&'a str>,
    /// Whether the line before was the list of modules, which may go on.
    listing: bool,
}

impl<'a> Reader<'a> {
    fn new(finding: &'a mut Finding) -> Self {
        Self {
            finding,
            place: Place::Failure,
            traced: false,
            pointed: false,
            stand_in: false,
            caller: None,
            listing: false,
        }
    }

    fn line(&mut self, line: &'a str, first: bool) {
        let listing = std::mem::take(&mut self.listing);
        // Most lines are these.
        if !listing
            && line.starts_with(' ')
            && let Some(raw) = frame::trace(line)
        {
            return self.frame(raw);
        }
        let plain = line.trim_ascii();
        let Some(start) = plain.as_bytes().first() else { return };
        if first {
            self.header(plain);
        }
        let indented = plain.len() < line.len() && line.starts_with([' ', '\t']);
        let set_apart = indented || matches!(start, b'[' | b'(' | b'<' | b'_');
        if set_apart && listing && self.modules(plain) {
            return;
        }
        let tried = !listing && line.starts_with(' ');
        if !tried
            && (set_apart || start.is_ascii_lowercase() || plain.starts_with("Call Trace: "))
            && let Some(raw) = frame::trace(line)
        {
            return self.frame(raw);
        }
        if let Some(opens) = label(plain) {
            self.label(plain, opens);
        }
        self.fact(plain, *start);
    }

    /// A line that tells whose stack follows.
    fn label(&mut self, line: &'a str, opens: Opens) {
        let label = || Place::Labelled(line, opens);
        let free = self.finding.frames.is_empty();
        let next = if free { Place::Failure } else { label() };
        let place = match (opens, self.place) {
            (Opens::Nothing, _) => Place::Nowhere,
            (Opens::Other | Opens::Announced, _) => label(),
            (Opens::Next | Opens::Within, Place::Labelled(_, Opens::Announced)) => return,
            (Opens::Next, _) => next,
            (Opens::Within, Place::Labelled(_, Opens::Other)) => next,
            (Opens::Within, Place::Nowhere) => next,
            (Opens::Within, _) if self.traced => next,
            (Opens::Within, _) => return,
        };
        self.place = place;
        self.traced = false;
        self.pointed = false;
        self.stand_in = false;
        self.caller = None;
        let noted = line.strip_prefix("INFO: ").unwrap_or(line);
        if let Some(rest) =
            noted.strip_prefix("Allocated in ").or_else(|| noted.strip_prefix("Freed in "))
            && let Some((raw, _)) = frame::symbol(rest)
        {
            self.frame(raw);
            self.stand_in = true;
        }
    }

    /// The frames of the current stack.
    fn frames(&mut self) -> Option<&mut Vec<Frame>> {
        if let Place::Labelled(label, _) = self.place {
            self.place = if self.finding.stacks.len() < MAX_STACKS {
                let label = label.chars().take(MAX_LABEL).collect();
                self.finding.stacks.push(Stack { label, frames: Vec::new() });
                Place::Stack(self.finding.stacks.len() - 1)
            } else {
                Place::Nowhere
            };
        }
        match self.place {
            Place::Failure => Some(&mut self.finding.frames),
            Place::Stack(index) => Some(&mut self.finding.stacks[index].frames),
            Place::Labelled(..) | Place::Nowhere => None,
        }
    }

    /// A frame of a trace.
    fn frame(&mut self, raw: RawFrame<'a>) {
        self.traced = true;
        let pointed = std::mem::take(&mut self.pointed);
        let caller = std::mem::replace(&mut self.caller, raw.caller);
        // Left-over addresses without a symbol tell nothing; all ones end a recorded stack.
        let end = matches!(raw.function, "0xffffffffffffffff" | "0xffffffff");
        if end || raw.is_address() && !raw.reliable {
            self.pointed = pointed;
            return;
        }
        let stand_in = std::mem::take(&mut self.stand_in);
        let Some(frames) = self.frames() else { return };
        if stand_in {
            frames.clear();
        }
        if let Some(last) =
            frames.last_mut().filter(|last| pointed && last.function == raw.function)
        {
            // Some architectures repeat the instruction pointer as the first frame, or begin with
            // the place it has last returned to.
            let same = raw.offset.is_none() || raw.offset == last.offset;
            if same || !raw.reliable {
                return;
            }
        }
        if frames.len() < MAX_FRAMES {
            if frames.capacity() == 0 {
                frames.reserve(USUAL_FRAMES);
            }
            let mut frame = raw.to_frame();
            if frame.offset.is_none()
                && let Some((place, _)) = caller.and_then(frame::symbol)
                && frame.function == place.function
            {
                (frame.offset, frame.size) = (place.offset, place.size);
            }
            frames.push(frame);
        }
    }

    /// The instruction pointer, which is the innermost frame. It may be printed again at the end.
    fn pointer(&mut self, raw: RawFrame<'a>) {
        let Some(frames) = self.frames() else { return };
        let known =
            frames.iter().any(|frame| frame.function == raw.function && frame.offset == raw.offset);
        if !known && frames.len() < MAX_FRAMES && (frames.is_empty() || !raw.is_address()) {
            frames.push(raw.to_frame());
            self.pointed = true;
        }
    }

    /// What the first line says about CPU and process.
    fn header(&mut self, line: &'a str) {
        self.finding.cpu = after(line, "CPU#").or_else(|| after(line, " on cpu ")).and_then(number);
        let (command, pid) = match self.finding.kind {
            FindingKind::HungTask => after(line, "INFO: task ")
                .and_then(|rest| {
                    let end = find(rest, " blocked ").or_else(|| find(rest, " can't die "))?;
                    rest[..end].rsplit_once(':')
                })
                .unwrap_or_default(),
            FindingKind::SoftLockup => {
                let inner = after(line, "! [").and_then(|rest| rest.strip_suffix(']'));
                inner.and_then(|inner| inner.rsplit_once(':')).unwrap_or_default()
            }
            FindingKind::SchedulingWhileAtomic => after(line, "while atomic: ")
                .and_then(|rest| rest.rsplit_once('/')?.0.rsplit_once('/'))
                .unwrap_or_default(),
            _ if line.starts_with("WARNING: ") => after(line, "CPU#")
                .and_then(|rest| after(rest, ": ")?.rsplit_once('/'))
                .unwrap_or_default(),
            _ => Default::default(),
        };
        self.process(command, pid);
    }

    fn process(&mut self, command: &str, pid: &str) {
        let Some(pid) = number(pid) else { return };
        if self.finding.pid.is_none_or(|known| known == pid) {
            self.finding.pid = Some(pid);
            self.command(command);
        }
    }

    fn command(&mut self, command: &str) {
        if self.finding.command.is_none() && !command.is_empty() {
            self.finding.command = Some(command.chars().take(32).collect());
        }
    }

    /// Everything that is no stack. `line` has no blanks around it and begins with `start`.
    fn fact(&mut self, line: &'a str, start: u8) {
        match start {
            b'B' | b'F' | b'G' | b'O' | b'U' | b'g' | b'r' | b'w' | b'#' => self.failed(line),
            b'W' => {
                self.failed(line);
                self.named(line);
            }
            b'C' | b'I' | b'K' | b'M' | b'P' | b'R' => {
                self.failed(line);
                self.pointer_line(line);
                self.named(line);
            }
            b'E' | b'N' | b'T' | b'e' | b'i' | b'p' | b'c' => {
                self.pointer_line(line);
                self.named(line);
            }
            _ => {}
        }
        if self.finding.taint.is_none()
            && let Some(at) = TAINTED.find(line.as_bytes())
        {
            self.tainted(line, at);
        }
        if self.finding.kind == FindingKind::Lockdep
            && let Some((task, _)) = split(line, " is trying to ")
        {
            let (command, pid) = task.rsplit_once('/').unwrap_or_default();
            self.process(command, pid);
        }
    }

    fn pointer_line(&mut self, line: &'a str) {
        if let Some(raw) = frame::pointer(line) {
            self.pointer(raw);
        }
    }

    /// Lines that name CPU, process or modules.
    fn named(&mut self, line: &'a str) {
        if let Some(list) = line.strip_prefix("Modules linked in:") {
            if self.finding.modules.is_empty() {
                self.modules(list);
                self.listing = !list.contains('[');
            }
        } else if let Some(rest) =
            line.strip_prefix("CPU: ").or_else(|| line.strip_prefix("WARNING: CPU: "))
        {
            // `CPU: 0 UID: 0 PID: 83 Comm: insmod Kdump: loaded Tainted: G  OE  6.12.1 #1 …`
            self.cpu(rest);
            self.running(rest, after(rest, "PID: "), after(rest, "Comm: "));
        } else if let Some(rest) = line.strip_prefix("CPU ") {
            // Alone on its line before Linux 3.10.
            if rest.bytes().all(|b| b.is_ascii_digit()) {
                self.cpu(rest);
            }
        } else if let Some(rest) = line.strip_prefix("Pid: ") {
            self.running(rest, Some(rest), after(rest, "comm: "));
        } else if let Some(rest) = line.strip_prefix("Process ") {
            // `Process insmod (pid: 598, ti=…`
            let (command, pid) = split(rest, " (pid: ").unwrap_or_default();
            self.process(command, pid);
        } else if let Some(rest) = line.strip_prefix("in_atomic(): ") {
            let pid = after(rest, " pid: ").unwrap_or_default();
            self.process(after(pid, " name: ").unwrap_or_default(), pid);
        } else if let Some(rest) = line.strip_prefix("comm \"") {
            let (command, pid) = split(rest, "\", pid ").unwrap_or_default();
            self.process(command, pid);
        }
    }

    fn cpu(&mut self, digits: &str) {
        self.finding.cpu = self.finding.cpu.or_else(|| number(digits));
    }

    fn running(&mut self, line: &'a str, pid: Option<&str>, command: Option<&'a str>) {
        let command = command.unwrap_or_default();
        let tainted = rfind(command, " Tainted: ").or_else(|| rfind(command, " Not tainted"));
        let name = command[..tainted.unwrap_or(command.len())].trim_end();
        let name = name.strip_suffix(" Kdump: loaded").unwrap_or(name);
        self.process(name, pid.unwrap_or_default());
        if (self.finding.taint.is_none() || self.finding.release.is_none())
            && let Some(at) = rfind(line, "ainted")
        {
            self.tainted(line, at);
        }
    }

    /// Taint and release of a line with `ainted` at `at`: `Not tainted 6.1.0 #1`,
    /// `Tainted: G        W  OE      6.1.0 #1`, `6.1.0 #1 Not tainted`, `Tainted: [W]=WARN, …`.
    fn tainted(&mut self, line: &'a str, at: usize) {
        let (before, rest) = (&line[..at], &line[at + "ainted".len()..]);
        let is_clean = before.ends_with("Not t");
        let is_set = before.ends_with('T') && rest.starts_with(": ");
        if !is_clean && !is_set {
            return;
        }
        let rest = rest.strip_prefix(": ").unwrap_or(rest);
        let release = match find(rest, " #") {
            Some(end) => rest[..end].split_ascii_whitespace().next_back(),
            None => rest
                .split_ascii_whitespace()
                .map(|word| word.trim_matches(['(', ')']))
                .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')),
        };
        let letters = match release {
            Some(release) => &rest[..release.as_ptr() as usize - rest.as_ptr() as usize],
            None => rest.split(')').next().unwrap_or_default(),
        };
        let letters = letters.strip_suffix("VLI").unwrap_or(letters);
        let set = if letters.starts_with('[') {
            letters.split(", ").filter_map(|flag| flag.as_bytes().get(1)).copied().collect()
        } else {
            letters
                .bytes()
                .filter(u8::is_ascii_uppercase)
                .filter(|b| *b != b'G')
                .collect::<Vec<_>>()
        };
        if self.finding.taint.is_none() {
            self.finding.taint = Some(if is_clean { String::new() } else { ascii(&set) });
        }
        if self.finding.release.is_none() {
            // The lock checker puts the release before.
            let mut words = before.split_ascii_whitespace();
            let first = words.next().filter(|_| words.next().is_some_and(|w| w.starts_with('#')));
            self.finding.release = release.or(first).map(str::to_owned);
        }
    }

    /// Takes names of modules from `list`; `false` when it is something else.
    fn modules(&mut self, list: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        for word in list.split_ascii_whitespace() {
            if word.starts_with('[') || word == "Unloaded" {
                break;
            }
            let (name, flags) = word.split_at(word.find('(').unwrap_or(word.len()));
            if name.is_empty() || !name.bytes().all(plain) || flags.contains("0x") {
                return false;
            }
            if self.finding.modules.len() < MAX_MODULES {
                self.finding.modules.push(name.into());
            }
        }
        true
    }

    /// Lines that tell of the access that failed, or of who was killed.
    fn failed(&mut self, line: &'a str) {
        use Operation::{Execute, Free, Read, Write};
        let (first, rest) = split(line, " ").unwrap_or((line, ""));
        let operation = |text: &str| match text {
            "Read" | "read" => Some(Read),
            "Write" | "write" | "read-write" => Some(Write),
            "execute" => Some(Execute),
            "Free" | "free" => Some(Free),
            _ => None,
        };
        match first {
            // Address sanitizer: `Read of size 8 at addr ffff… by task x/1`, `Free of addr ffff…`.
            "Read" | "Write" | "Free" => {
                let size = rest.strip_prefix("of size ").and_then(number);
                let address = after(rest, "addr ");
                if size.is_some() || address.is_some() {
                    self.access(operation(first), size, address.and_then(address_of));
                }
            }
            // Sampling detector: `Out-of-bounds read at 0x…`, `Invalid free of 0x…`.
            "Out-of-bounds" | "Use-after-free" | "Invalid" | "Corrupted" => {
                let (word, rest) = rest.split_once(' ').unwrap_or_default();
                let address = rest.strip_prefix("at ").or_else(|| rest.strip_prefix("of "));
                if let Some(address) = address {
                    self.access(operation(word), None, address_of(address));
                }
            }
            // Concurrency sanitizer: `write (marked) to 0x… of 8 bytes by task 1 on cpu 0:`.
            "read" | "write" | "read-write" | "race" => {
                let word = after(rest, "with ")
                    .map_or(first, |with| with.split_once(' ').map_or(with, |(word, _)| word));
                let Some(place) = after(rest, "to 0x") else { return };
                let Some(size) = after(place, " of ") else { return };
                self.access(operation(word), number(size), address_of(place));
                after(size, " on cpu ").into_iter().for_each(|cpu| self.cpu(cpu));
                self.process("", after(size, "by task ").unwrap_or_default());
            }
            "Memory" if rest.starts_with("access of size ") => {
                let size = number(&rest["access of size ".len()..]);
                self.access(Some(Read), size, after(rest, " starts at ").and_then(address_of));
            }
            // x86: `#PF: supervisor write access in kernel mode`.
            "#PF:" => {
                let found = [(" write access", Write), (" read access", Read), (" fetch", Execute)];
                let found = found.iter().find(|(text, _)| contains(rest, text));
                self.access(found.map(|(_, operation)| *operation), None, None);
            }
            // Before that line came, only the error code told.
            "Oops:" if self.faulted() && self.finding.access.is_some() => {
                let code = split(rest, " [#").and_then(|(code, _)| frame::hex(code));
                if let Some((code, "")) = code.filter(|(code, _)| *code < 0x40) {
                    let read = if code & 16 != 0 { Execute } else { Read };
                    self.access(Some(if code & 2 != 0 { Write } else { read }), None, None);
                }
            }
            "CM" if self.faulted() && contains(rest, "WnR = ") => {
                let write = rest.contains("WnR = 1");
                self.access(Some(if write { Write } else { Read }), None, None);
            }
            "BUG:" | "Unable" | "Unhandled" | "general" | "Oops:" | "KASAN:" => {
                let marks = [
                    "address: ",
                    "virtual address ",
                    "canonical address ",
                    "range [",
                    "at 0x",
                    "dereference at ",
                    "request at ",
                    "at addr ",
                ];
                let address = marks.iter().find_map(|mark| after(rest, mark)).and_then(address_of);
                let word = after(rest, " when ").or_else(|| after(rest, " access on "));
                let word = word.map(|word| word.split_once(' ').map_or(word, |(word, _)| word));
                if address.is_some() && (self.faulted() || first == "KASAN:") {
                    self.access(word.and_then(operation), None, address);
                }
            }
            "Out" | "Killed" if self.finding.kind == FindingKind::OomKill => self.victim(rest),
            _ => {}
        }
        if first == "Memory" && self.finding.kind == FindingKind::OomKill {
            self.victim(rest);
        }
    }

    /// Whether the finding is about an address.
    fn faulted(&self) -> bool {
        use FindingKind::{DoubleFault, GeneralProtection, Kasan, NullPointer, Oops, PageFault};
        let kinds = [PageFault, NullPointer, GeneralProtection, DoubleFault, Kasan, Oops];
        kinds.contains(&self.finding.kind)
    }

    /// `… Killed process 123 (name)`: the process at fault is the victim, not who asked for memory.
    fn victim(&mut self, line: &str) {
        let Some(rest) = after(line, "rocess ") else { return };
        let Some((command, _)) = after(rest, "(").and_then(|rest| rest.split_once(')')) else {
            return;
        };
        if let Some(pid) = number(rest) {
            (self.finding.pid, self.finding.command) = (Some(pid), None);
            self.command(command);
        }
    }

    /// Adds to the access what is not known of it yet.
    fn access(&mut self, operation: Option<Operation>, size: Option<u64>, address: Option<u64>) {
        let access = self.finding.access.get_or_insert(Access {
            operation: None,
            size: None,
            address: None,
        });
        access.operation = access.operation.or(operation);
        access.size = access.size.or(size);
        access.address = access.address.or(address);
    }

    fn finish(self) {
        let Finding { frames, stacks, .. } = self.finding;
        stacks.retain(|stack| !stack.frames.is_empty());
        // Where it starves, RCU may print the CPU at fault only as the place of its own thread.
        if frames.is_empty()
            && let Some(at) =
                stacks.iter().position(|stack| stack.label.contains("kthread last ran"))
        {
            *frames = stacks.remove(at).frames;
        }
    }
}

/// The decimal number at the start of `text`.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let text = text.trim_ascii_start();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().ok()
}

/// The address at the start of `text`, with `0x` or without; `None` when the kernel hid it.
fn address_of(text: &str) -> Option<u64> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    frame::hex(text).map(|(address, _)| address)
}

fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests;
