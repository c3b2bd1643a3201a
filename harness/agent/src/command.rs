//! One command from start to end: its streams, its limits, its time, and what it leaves behind.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kgate_model::wire::{
    CHUNK, Command, ExitStatus, Limits, Reply, RequestId, Stdin, Stream, Trouble,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::cgroup::Group;
use crate::reaper::Ended;
use crate::sample::{Line, Parser};
use crate::serve::Agent;
use crate::spawn::{Prepared, Started, Streams};
use crate::trouble::{failed, refused};
use crate::{lock, processes};

/// How long output may still come after the main process ended while something holds the streams.
const GRACE: Duration = Duration::from_millis(200);

/// A killed process that isn't gone after this stays behind, and the reply says where it hangs.
const DIES_WITHIN: Duration = Duration::from_secs(5);

/// How long streams may stay open after everything that held them was killed.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// How often to look again whether the channel takes output.
const ROOM_AGAIN: Duration = Duration::from_millis(2);

/// Standard input that the command hasn't read; more than this is thrown away, and said.
const INPUT: usize = 8 << 20;

/// What others tell a running command.
pub(crate) struct Shared {
    control: Mutex<Control>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Control {
    /// What standard input hasn't taken yet.
    input: VecDeque<u8>,
    input_ends: bool,
    input_lost: bool,
    size: Option<(u16, u16)>,
    kill: bool,
    ended: Option<Ended>,
}

impl Shared {
    /// Nothing told yet.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { control: Mutex::default(), wake }))
    }

    fn tell(&self, change: impl FnOnce(&mut Control)) {
        change(&mut lock(&self.control));
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The main process ended.
    pub(crate) fn ended(&self, ended: Ended) {
        self.tell(|control| control.ended = Some(ended));
    }

    /// End it.
    pub(crate) fn kill(&self) {
        self.tell(|control| control.kill = true);
    }

    /// Bytes for its standard input; none ends the input.
    pub(crate) fn input(&self, data: Vec<u8>) {
        self.tell(|control| {
            if data.is_empty() {
                control.input_ends = true;
            } else if control.input.len() + data.len() > INPUT {
                control.input_lost = true;
            } else {
                control.input.extend(data);
            }
        });
    }

    /// Its terminal has another size.
    pub(crate) fn resize(&self, size: (u16, u16)) {
        self.tell(|control| control.size = Some(size));
    }
}

/// Runs a command to its end and sends everything about it, `Exited` last.
pub(crate) fn run(agent: &Agent, id: RequestId, command: &Command, shared: &Arc<Shared>) {
    let mut running = match start(agent, id, command, shared) {
        Ok(running) => running,
        Err(trouble) => return agent.outbox.send(&not_started(id, trouble)),
    };
    running.supervise();
}

/// The reply for a command that never ran.
pub(crate) fn not_started(id: RequestId, trouble: Trouble) -> Reply {
    let status = ExitStatus::NotStarted(trouble);
    Reply::Exited { id, status, wall_ms: 0, cpu_ms: (0, 0), dropped: 0 }
}

/// Where a source's bytes go.
#[derive(Clone, Copy, PartialEq)]
enum Sink {
    Output(Stream),
    Samples,
}

/// A stream that the command writes to.
struct Source {
    fd: OwnedFd,
    sink: Sink,
}

struct Running<'a> {
    agent: &'a Agent,
    id: RequestId,
    command: &'a Command,
    shared: &'a Shared,
    group: Option<Group>,
    /// An environment entry that finds processes of this command where there is no group.
    marker: String,
    pid: Pid,
    started: Instant,
    /// Until the child runs its program: the pipe with its report.
    starting: Option<(OwnedFd, Started)>,
    failure: Option<Trouble>,
    sources: Vec<Source>,
    input: Option<OwnedFd>,
    terminal: bool,
    parser: Parser,
    /// Bytes forwarded of standard output and error.
    forwarded: [u64; 2],
    dropped: u64,
}

fn start<'a>(
    agent: &'a Agent,
    id: RequestId,
    command: &'a Command,
    shared: &'a Arc<Shared>,
) -> Result<Running<'a>, Trouble> {
    let mut group = agent.groups.as_ref().and_then(|groups| groups.create(&command.limits));
    let directory = match &mut group {
        Some(group) => {
            Some(group.directory().map_err(|e| failed("open the control group", e))?.into())
        }
        None => None,
    };
    let marker = format!("KGATE_COMMAND={}.{id}", rustix::process::getpid().as_raw_pid());
    let (streams, parent) = streams(command.stdin).map_err(|e| failed("make streams", e))?;
    let needs_marker = group.is_none().then_some(marker.as_str());
    let limits = resource_limits(&command.limits, group.as_ref());
    let (mut prepared, report) = Prepared::new(command, streams, directory, limits, needs_marker)?;
    let started = Instant::now();
    let pid = agent
        .reaper
        .fork(shared, || prepared.start(agent.guest))
        .map_err(|e| failed("start a process", e))?;
    let starting = Some((report, prepared.into_started()));
    Ok(Running {
        agent,
        id,
        command,
        shared,
        group,
        marker,
        pid,
        started,
        starting,
        failure: None,
        sources: parent.sources,
        input: parent.input,
        terminal: parent.terminal,
        parser: Parser::default(),
        forwarded: [0; 2],
        dropped: 0,
    })
}

/// Limits that the command's processes carry themselves: those that no group enforces.
fn resource_limits(limits: &Limits, group: Option<&Group>) -> Vec<(Resource, u64)> {
    let unless = |enforced: bool, limit: Option<u64>| if enforced { None } else { limit };
    [
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Nofile, limits.files),
        (Resource::As, unless(group.is_some_and(|g| g.limits_memory), limits.memory)),
        (Resource::Nproc, unless(group.is_some_and(|g| g.limits_processes), limits.processes)),
    ]
    .into_iter()
    .filter_map(|(which, limit)| Some((which, limit?)))
    .collect()
}

/// Our ends of a command's streams.
struct Parent {
    sources: Vec<Source>,
    input: Option<OwnedFd>,
    terminal: bool,
}

fn streams(stdin: Stdin) -> rustix::io::Result<(Streams, Parent)> {
    let our_end = |end: OwnedFd| {
        rustix::io::ioctl_fionbio(&end, true)?;
        rustix::io::Result::Ok(end)
    };
    let (samples, child_samples) = pipe_with(PipeFlags::CLOEXEC)?;
    let samples = Source { fd: our_end(samples)?, sink: Sink::Samples };
    if let Stdin::Terminal { columns, rows } = stdin {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        unlockpt(&ours)?;
        tcsetwinsize(&ours, size(columns, rows))?;
        let theirs = ioctl_tiocgptpeer(&ours, flags)?;
        let ours = our_end(ours)?;
        let input = ours.try_clone().map_err(|_| Errno::MFILE)?;
        let twice = || theirs.try_clone().map_err(|_| Errno::MFILE);
        let standard = [twice()?, twice()?, theirs];
        let output = Source { fd: ours, sink: Sink::Output(Stream::Stdout) };
        return Ok((
            Streams { standard, samples: child_samples, terminal: true },
            Parent { sources: vec![output, samples], input: Some(input), terminal: true },
        ));
    }
    let (input, child_input) = if stdin == Stdin::Pipe {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        (Some(our_end(ours)?), theirs)
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        (None, null)
    };
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let stdout = Source { fd: our_end(stdout)?, sink: Sink::Output(Stream::Stdout) };
    let stderr = Source { fd: our_end(stderr)?, sink: Sink::Output(Stream::Stderr) };
    let standard = [child_input, child_stdout, child_stderr];
    Ok((
        Streams { standard, samples: child_samples, terminal: false },
        Parent { sources: vec![stdout, stderr, samples], input, terminal: false },
    ))
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Why the command is being ended.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    Timeout,
    Killed,
}

impl Running<'_> {
    fn supervise(&mut self) {
        let limit = self.command.timeout_ms.map(|ms| self.started + Duration::from_millis(ms));
        let mut cause = None;
        // The main process: until it ended, or is known not to die.
        let ended = loop {
            let ended = self.take_orders();
            if let Some(ended) = ended {
                break Some(ended);
            }
            let now = Instant::now();
            match cause {
                None if self.kill_ordered() => cause = Some((Cause::Killed, now)),
                None if limit.is_some_and(|limit| now >= limit) => {
                    cause = Some((Cause::Timeout, now));
                }
                Some((_, since)) if now >= since + DIES_WITHIN => break None,
                _ => {}
            }
            if cause.is_some() {
                self.kill_all();
            }
            // Killed again now and then: a process may have been forking at that moment.
            let until = match cause {
                None => limit,
                Some(_) => Some(now + Duration::from_millis(50)),
            };
            self.pump(until, true);
        };
        if ended.is_none() {
            self.complain(&format!("kgate: {}\n", processes::describe(self.pid)));
        }
        self.read_report();
        if ended.is_some() {
            // Another command's child may keep the pipe open; this one is gone.
            self.has_started();
        }

        // What is left of its output.
        let grace = Instant::now() + if cause.is_some() { Duration::ZERO } else { GRACE };
        while !self.sources.is_empty() && Instant::now() < grace && !self.kill_ordered() {
            self.pump(Some(grace), true);
            let _ = self.take_orders();
        }
        if !self.command.background || cause.is_some() {
            // What didn't die so far won't now.
            self.end_leftovers(if ended.is_some() { DIES_WITHIN } else { Duration::ZERO });
        }
        self.drain();
        self.end_samples();
        let wall = ended.map_or_else(Instant::now, |ended| ended.at) - self.started;
        self.agent.outbox.send(&Reply::Exited {
            id: self.id,
            status: self.status(cause.map(|(cause, _)| cause), ended),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            cpu_ms: ended.map_or((0, 0), |ended| ended.cpu_ms),
            dropped: self.dropped,
        });
        if self.command.background {
            self.linger();
        }
    }

    /// How it ended, in the wire's words.
    fn status(&mut self, cause: Option<Cause>, ended: Option<Ended>) -> ExitStatus {
        if let Some(trouble) = self.failure.take() {
            return ExitStatus::NotStarted(trouble);
        }
        match (cause, ended) {
            (Some(Cause::Timeout), _) => ExitStatus::TimedOut,
            (Some(Cause::Killed), _) => ExitStatus::Killed,
            (None, Some(ended)) if libc::WIFEXITED(ended.status) => {
                ExitStatus::Code(libc::WEXITSTATUS(ended.status))
            }
            (None, Some(ended)) => ExitStatus::Signal(libc::WTERMSIG(ended.status)),
            // Only a cause ends the wait for the main process.
            (None, None) => ExitStatus::NotStarted(refused("the command's end was not seen")),
        }
    }

    fn kill_ordered(&self) -> bool {
        lock(&self.shared.control).kill
    }

    /// Takes what others told: input and size to pass on; gives the end of the main process.
    fn take_orders(&mut self) -> Option<Ended> {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        let mut control = lock(&self.shared.control);
        if control.input_ends && self.terminal {
            // The end-of-file character; the terminal itself stays.
            control.input_ends = false;
            control.input.push_back(4);
        }
        if control.input_ends && control.input.is_empty() {
            self.input = None;
        }
        let lost = std::mem::take(&mut control.input_lost);
        let (resize, ended) = (control.size.take(), control.ended);
        drop(control);
        if lost {
            self.complain("kgate: standard input was thrown away: the command does not read it\n");
        }
        if let (Some((columns, rows)), true, Some(input)) = (resize, self.terminal, &self.input) {
            let _ = tcsetwinsize(input, size(columns, rows));
        }
        ended
    }

    /// Waits until `until` for something to happen and moves the bytes that are there. With
    /// `forward`, output waits for room in the channel; without, it is thrown away.
    fn pump(&mut self, until: Option<Instant>, forward: bool) {
        let room = !forward || self.agent.outbox.has_room();
        let until = if room {
            until
        } else {
            let again = Instant::now() + ROOM_AGAIN;
            Some(until.map_or(again, |until| until.min(again)))
        };
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if room {
            fds.extend(self.sources.iter().map(|source| PollFd::new(&source.fd, PollFlags::IN)));
        }
        let sources = fds.len() - 1;
        if let Some((report, _)) = &self.starting {
            fds.push(PollFd::new(report, PollFlags::IN));
        }
        if let Some(input) = &self.input
            && !lock(&self.shared.control).input.is_empty()
        {
            fds.push(PollFd::new(input, PollFlags::OUT));
        }
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return;
        }
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let ready: Vec<bool> = happened[1..=sources].to_vec();
        if happened[1 + sources..].contains(&true) {
            self.read_report();
            self.write_input();
        }
        // From the last to the first, because one that ended is taken out.
        for at in (0..ready.len()).rev() {
            if ready[at] && !self.read_source(at, forward) {
                self.sources.remove(at);
            }
        }
    }

    /// Reads the child's report as far as it is there. Only its end, which follows also what it says of
    /// a failure, says that the child has done with what it was given.
    fn read_report(&mut self) {
        let Some((report, started)) = &self.starting else { return };
        let mut message = [0; 8];
        loop {
            match rustix::io::read(report, &mut message) {
                Ok(0) => break,
                Ok(n) => self.failure = Some(started.explain(&message[..n])),
                Err(_) => return,
            }
        }
        self.has_started();
    }

    /// The child has done with what it was given.
    fn has_started(&mut self) {
        if let Some((_, started)) = self.starting.take() {
            started.free();
        }
    }

    fn write_input(&mut self) {
        let Some(input) = &self.input else { return };
        let mut control = lock(&self.shared.control);
        // Doesn't block, so the lock is short.
        match rustix::io::write(input, control.input.as_slices().0) {
            Ok(n) => drop(control.input.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Nobody reads it any more.
            Err(_) => {
                control.input.clear();
                if !self.terminal {
                    self.input = None;
                }
            }
        }
    }

    /// Reads once from a source; `false` when it ended.
    fn read_source(&mut self, at: usize, forward: bool) -> bool {
        let source = &self.sources[at];
        let sink = source.sink;
        let mut buffer = vec![0; CHUNK];
        match rustix::io::read(source.fd.as_fd(), &mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                buffer.truncate(n);
                if forward {
                    self.deliver(sink, buffer);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal reads so when its last process is gone.
            Err(_) => return false,
        }
        true
    }

    fn deliver(&mut self, sink: Sink, mut data: Vec<u8>) {
        match sink {
            Sink::Output(stream) => {
                let forwarded = &mut self.forwarded[usize::from(stream == Stream::Stderr)];
                let room = self.command.output_limit - *forwarded;
                let kept = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                self.dropped += (data.len() - kept) as u64;
                *forwarded += kept as u64;
                data.truncate(kept);
                if !data.is_empty() {
                    self.agent.outbox.send(&Reply::Output { id: self.id, stream, data });
                }
            }
            Sink::Samples => {
                let mut lines = Vec::new();
                self.parser.push(&data, |line| lines.push(line));
                self.send_lines(lines);
            }
        }
    }

    fn end_samples(&mut self) {
        let mut lines = Vec::new();
        self.parser.end(|line| lines.push(line));
        self.send_lines(lines);
    }

    fn send_lines(&mut self, lines: Vec<Line>) {
        for line in lines {
            match line {
                Line::Sample(sample) => {
                    self.agent.outbox.send(&Reply::Sample { id: self.id, sample });
                }
                Line::Complaint(text) => self.complain(&text),
            }
        }
    }

    /// Our own words, in the command's standard error.
    fn complain(&self, text: &str) {
        let data = text.as_bytes()[..text.len().min(CHUNK)].to_vec();
        let stream = Stream::Stderr;
        self.agent.outbox.send(&Reply::Output { id: self.id, stream, data });
    }

    /// Kills the main process and everything that can be found of the command.
    fn kill_all(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
        self.agent.reaper.kill(self.pid);
    }

    /// Kills what also left the group, or has none.
    fn kill_strays(&self) -> usize {
        let marker = self.group.is_none().then_some(self.marker.as_str());
        processes::kill_members(Some(self.pid.as_raw_pid()), marker)
    }

    /// Ends what the main process left running.
    fn end_leftovers(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        if let Some(group) = &self.group {
            if !group.empty(limit)
                && limit > Duration::ZERO
                && let Some(pid) = group.any_member()
            {
                self.complain(&format!("kgate: {}\n", processes::describe(pid)));
            }
            // Streams still held: something moved itself out of the group.
            if self.sources.is_empty() {
                return;
            }
        }
        while self.kill_strays() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Forwards what is still in the streams.
    fn drain(&mut self) {
        let mut deadline = Instant::now() + CLOSES_WITHIN;
        if self.command.background && !self.sources.is_empty() {
            // They may stay open for long; what is in them now belongs to the output.
            self.pump(Some(Instant::now()), true);
            return;
        }
        while !self.sources.is_empty() && Instant::now() < deadline {
            if !self.agent.outbox.has_room() {
                self.agent.outbox.wait_room();
                deadline = Instant::now() + CLOSES_WITHIN;
            }
            self.pump(Some(deadline), true);
            let _ = self.take_orders();
        }
    }

    /// After a background command's main process ended: keeps its streams open for what it left
    /// running, until that ends or is killed.
    fn linger(&mut self) {
        loop {
            let over = match &self.group {
                Some(group) => !group.populated() && self.sources.is_empty(),
                None => self.sources.is_empty(),
            };
            if over || self.kill_ordered() {
                break;
            }
            let _ = self.take_orders();
            self.pump(Some(Instant::now() + Duration::from_millis(100)), false);
        }
        self.end_leftovers(DIES_WITHIN);
    }
}
