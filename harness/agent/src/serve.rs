//! Reads requests and carries them out.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kgate_model::wire::{
    self, Decoder, MAX_PAYLOAD, PROTOCOL, Ready, Reply, Request, RequestId, Setup, Trouble,
};
use rustix::fs::{Mode, OFlags};

use crate::cgroup::Groups;
use crate::channel::Channel;
use crate::command::{self, Shared};
use crate::outbox::Outbox;
use crate::reaper::Reaper;
use crate::state::Of;
use crate::trouble::{failed, refused};
use crate::{base, fresh, guest, kmsg, lock, processes, script, setup, state};

/// Commands at one time.
const COMMANDS: usize = 64;

/// Stack of a thread, in bytes: nothing here recurses deeply.
const STACK: usize = 256 << 10;

/// Distance of attempts in [`Ready`].
const READY_AGAIN: Duration = Duration::from_millis(5);

/// Longest that [`Request::Settle`] waits for the kernel's log to be read, which may never end.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Longest that [`Request::KillAll`] waits for everything to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What all threads share. One for the life of the process.
pub(crate) struct Agent {
    pub(crate) outbox: Outbox,
    pub(crate) reaper: Reaper,
    pub(crate) groups: Option<Groups>,
    log: kmsg::Reading,
    commands: Mutex<HashMap<RequestId, Arc<Shared>>>,
    command_gone: Condvar,
    /// A thread that was made beforehand and waits for a command.
    spare: Mutex<Option<Sender<Work>>>,
    /// PID 1 of a guest, not a process on a lab host.
    pub(crate) guest: bool,
    /// The initramfs, or the host's root, from which modules are loaded also after the root was changed.
    initramfs: OnceLock<OwnedFd>,
}

impl Agent {
    /// An agent that hasn't started anything.
    pub(crate) fn new(guest: bool, groups: Option<Groups>) -> &'static Self {
        Box::leak(Box::new(Self {
            outbox: Outbox::default(),
            reaper: Reaper::default(),
            groups,
            log: kmsg::Reading::default(),
            commands: Mutex::default(),
            command_gone: Condvar::new(),
            spare: Mutex::default(),
            guest,
            initramfs: OnceLock::new(),
        }))
    }
}

/// How to serve as a process on a lab host.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Don't use control groups even where the host has them.
    pub without_cgroups: bool,
    /// Give the steps a root of their own, from `tree` below this directory.
    pub base: Option<PathBuf>,
    /// Its root is this block device with a squashfs.
    pub image: Option<String>,
}

/// Serves on standard input and output until they end or [`Request::PowerOff`] comes, then ends
/// what was started.
///
/// # Errors
/// The standard streams can't be used, or the stream holds no frames of ours.
pub fn stdio(options: Options) -> Result<(), String> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| format!("open /dev/null: {e}"))?;
    reserve_samples_fd(&null);
    // Before there is another thread, which would stay behind.
    let image = options.image.as_deref();
    let old = options.base.as_deref().map(|base| base::enter(base, image)).transpose();
    let old = old.map_err(|trouble| trouble.message)?;
    let duplicate =
        |fd| rustix::io::fcntl_dupfd_cloexec(fd, 4).map_err(|e| format!("duplicate a stream: {e}"));
    let reader = duplicate(rustix::stdio::stdin())?;
    let writer = duplicate(rustix::stdio::stdout())?;
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
    // Orphans of commands come to us, so that none is left behind.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");

    let groups = if options.without_cgroups { None } else { Groups::find_mount() };
    groups.as_deref().into_iter().for_each(Groups::sweep);
    let agent = Agent::new(false, groups.map(|mount| Groups::at(mount, &Groups::own_name())));
    if let Some(old) = old {
        let _ = agent.initramfs.set(old);
    }
    let channel: &'static Channel = Box::leak(Box::new(Channel::new(reader, writer)));
    start(agent, channel)?;
    // At once: an agent that was left behind by another build may not understand the controller.
    agent.outbox.send(&hello(Of::Machine));
    let served = serve(agent, channel, true);
    let ended = kill_everything(agent);
    agent.outbox.flush(Duration::from_secs(2));
    if let Some(groups) = &agent.groups {
        groups.remove();
    }
    served.and(ended.map_err(|trouble| trouble.message))
}

/// Makes sure that descriptor 3, which commands get for samples, is none of the agent's others.
pub(crate) fn reserve_samples_fd(null: &OwnedFd) {
    if let Ok(reserved) = rustix::io::fcntl_dupfd_cloexec(null, 3) {
        use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
        if reserved.as_raw_fd() > 3 {
            // Somebody left 3 open for us; it is not wanted.
            #[expect(unsafe_code, reason = "dup3 over an inherited descriptor")]
            // SAFETY: nothing in this program owns descriptor 3 yet.
            let mut three = unsafe { OwnedFd::from_raw_fd(3) };
            let _ = rustix::io::dup3(null, &mut three, rustix::io::DupFlags::CLOEXEC);
            let _ = three.into_raw_fd();
        } else {
            let _ = reserved.into_raw_fd();
        }
    }
}

/// Starts a thread that is meant to run on its own.
fn spawn_thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.into()).stack_size(STACK).spawn(body)
}

/// Starts the threads of an agent that somebody listens to.
pub(crate) fn start(agent: &'static Agent, channel: &'static Channel) -> Result<(), String> {
    start_writing(agent, |frame| channel.write(frame))?;
    spawn_thread("heartbeat", || {
        loop {
            thread::sleep(Duration::from_secs(1));
            agent.outbox.beat(&Reply::Heartbeat { uptime_ms: state::uptime_ms() });
        }
    })
    .map_err(|e| format!("start a thread: {e}"))?;
    Ok(())
}

/// Starts the threads that every agent has; `write` sends a frame.
pub(crate) fn start_writing(
    agent: &'static Agent,
    write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> Result<(), String> {
    let writer = move || {
        if agent.outbox.write_all_with(write).is_err() {
            agent.outbox.close();
        }
    };
    let trouble = |e| format!("start a thread: {e}");
    spawn_thread("writer", writer).map_err(trouble)?;
    spawn_thread("reaper", || agent.reaper.run()).map_err(trouble)?;
    Ok(())
}

pub(crate) fn hello(of: Of) -> Reply {
    Reply::Hello { protocol: PROTOCOL, identity: state::identity(of) }
}

/// What another thread is to do.
type Work = Box<dyn FnOnce() + Send>;

/// Serves requests until the stream ends or asks to power off. `greeted`: the first controller has its
/// hello already.
pub(crate) fn serve(
    agent: &'static Agent,
    channel: &Channel,
    mut greeted: bool,
) -> Result<(), String> {
    let (work, queue) = mpsc::channel();
    spawn_thread("files", move || queue.into_iter().for_each(|work: Work| work()))
        .map_err(|e| format!("start a thread: {e}"))?;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 << 10];
    let mut seen = Of::Machine;
    loop {
        let mut reconnected = false;
        let n = channel
            .read(&mut buffer, || reconnected = true)
            .map_err(|e| format!("read from the controller: {e}"))?;
        if reconnected {
            decoder = Decoder::default();
        }
        if n == 0 {
            return Ok(());
        }
        decoder.push(&buffer[..n]);
        while let Some(request) = decoder.message().map_err(|e| e.to_string())? {
            match request {
                Request::PowerOff => return Ok(()),
                Request::Hello { protocol, setup } => {
                    let fresh = setup.fresh.as_ref().map_or(Ok(()), fresh::apply);
                    let of = match (agent.guest, &setup.fresh) {
                        (true, None) => Of::Template,
                        (true, Some(_)) if seen == Of::Template => Of::Clone,
                        _ => Of::Machine,
                    };
                    if !std::mem::replace(&mut greeted, false) {
                        agent.outbox.send(&hello(of));
                    }
                    seen = of;
                    greet(agent, protocol, &setup, fresh);
                }
                request => handle(agent, request, &work),
            }
        }
    }
}

pub(crate) fn greet(
    agent: &'static Agent,
    protocol: u32,
    setup: &Setup,
    fresh: Result<(), Trouble>,
) {
    static LOG: OnceLock<()> = OnceLock::new();
    let result = if protocol == PROTOCOL {
        fresh.and_then(|()| setup::apply(setup, agent.guest, &agent.initramfs))
    } else {
        Err(refused(format!(
            "the controller speaks protocol {protocol}, this agent {PROTOCOL}: install the agent \
             of the same build"
        )))
    };
    if agent.guest && setup.fresh.is_none() && result.is_ok() {
        get_ready(agent);
    }
    agent.outbox.send(&Reply::Done { id: 0, result });
    if setup.kernel_log {
        // Only now: reading hundreds of records would hold up the first step.
        LOG.get_or_init(|| {
            let _ = spawn_thread("kernel log", || kmsg::stream(&agent.outbox, &agent.log));
        });
    }
}

/// Makes now what a clone and its first command would have to wait for.
fn get_ready(agent: &'static Agent) {
    fresh::get_ready();
    agent.groups.iter().for_each(Groups::get_ready);
    let (spare, work) = mpsc::channel::<Work>();
    let wait = move || work.recv().into_iter().for_each(|work| work());
    if spawn_thread("command", wait).is_ok() {
        *lock(&agent.spare) = Some(spare);
    }
}

fn handle(agent: &'static Agent, request: Request, work: &Sender<Work>) {
    match request {
        // Taken out by the caller.
        Request::Hello { .. } | Request::PowerOff => {}
        Request::Spawn { id, command } => spawn_command(agent, id, command),
        Request::Input { id, data } => with(agent, id, |shared| shared.input(data)),
        Request::Resize { id, size } => with(agent, id, |shared| shared.resize(size)),
        Request::Kill { id } => with(agent, id, Shared::kill),
        Request::KillAll { id } | Request::WaitReady { id, .. } | Request::Settle { id } => {
            if let Err(e) = spawn_thread("waiting", move || perform(agent, request)) {
                let result = Err(failed("start a thread", e));
                agent.outbox.send(&Reply::Done { id, result });
            }
        }
        Request::LoadModules { .. }
        | Request::ReadFile { .. }
        | Request::WriteFile { .. }
        | Request::State { .. }
        | Request::Disturb { .. } => drop(work.send(Box::new(move || perform(agent, request)))),
    }
}

/// Carries out a request that isn't about a running command, and answers it.
pub(crate) fn perform(agent: &'static Agent, request: Request) {
    let done = |id, result| Reply::Done { id, result };
    agent.outbox.send(&match request {
        Request::KillAll { id } => done(id, kill_everything(agent)),
        Request::WaitReady { id, ready, timeout_ms } => {
            done(id, wait_ready(&ready, Duration::from_millis(timeout_ms)))
        }
        Request::Settle { id } => {
            agent.log.wait_read(SETTLED_WITHIN);
            done(id, Ok(()))
        }
        Request::LoadModules { id, paths } => {
            done(id, setup::load_modules(&paths, agent.initramfs.get()))
        }
        Request::ReadFile { id, path, limit } => match read_file(&path, limit) {
            Ok((data, truncated)) => Reply::Content { id, data, truncated },
            Err(trouble) => done(id, Err(trouble)),
        },
        Request::WriteFile { id, path, mode, append, data } => {
            done(id, write_file(&path, mode, append, &data))
        }
        Request::State { id } => match state::kernel_state() {
            Ok(state) => Reply::State { id, state },
            Err(trouble) => done(id, Err(trouble)),
        },
        Request::Disturb { id, delay, pages } => done(id, script::disturb(delay, pages)),
        Request::Hello { .. }
        | Request::PowerOff
        | Request::Spawn { .. }
        | Request::Input { .. }
        | Request::Resize { .. }
        | Request::Kill { .. } => return,
    });
}

fn with(agent: &Agent, id: RequestId, act: impl FnOnce(&Shared)) {
    // One that ended meanwhile has said so already.
    if let Some(shared) = lock(&agent.commands).get(&id) {
        act(shared);
    }
}

/// Runs a command to its end.
pub(crate) fn run_command(agent: &'static Agent, id: RequestId, command: &wire::Command) {
    match Shared::new() {
        Ok(shared) => command::run(agent, id, command, &shared),
        Err(e) => agent.outbox.send(&command::not_started(id, failed("make an event", e))),
    }
}

pub(crate) fn spawn_command(agent: &'static Agent, id: RequestId, command: wire::Command) {
    let refuse = |trouble| agent.outbox.send(&command::not_started(id, trouble));
    let shared = match Shared::new() {
        Ok(shared) => shared,
        Err(e) => return refuse(failed("make an event", e)),
    };
    {
        let mut commands = lock(&agent.commands);
        if commands.len() >= COMMANDS {
            return refuse(refused(format!("{COMMANDS} commands are running already")));
        }
        if commands.contains_key(&id) {
            return refuse(refused(format!("number {id} is in use by a running command")));
        }
        commands.insert(id, Arc::clone(&shared));
    }
    let gone = move || {
        lock(&agent.commands).remove(&id);
        agent.command_gone.notify_all();
    };
    let work = move || {
        command::run(agent, id, &command, &shared);
        gone();
    };
    let spare = lock(&agent.spare).take();
    let started = match spare {
        Some(spare) => spare.send(Box::new(work)).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        None => spawn_thread("command", work).map(drop),
    };
    if let Err(e) = started {
        gone();
        refuse(failed("start a thread", e));
    }
}

/// Ends every command and whatever else they left.
pub(crate) fn kill_everything(agent: &Agent) -> Result<(), Trouble> {
    let commands = lock(&agent.commands);
    commands.values().for_each(|shared| shared.kill());
    let left = agent
        .command_gone
        .wait_timeout_while(commands, GONE_WITHIN, |commands| !commands.is_empty())
        .unwrap_or_else(PoisonError::into_inner)
        .0
        .len();
    if left > 0 {
        return Err(refused(format!("{left} commands can't be ended")));
    }
    // What left its session and its group is still a child of ours, or will be.
    let gone = agent.reaper.wait_none(GONE_WITHIN, || {
        if agent.guest {
            guest::kill_all_processes();
        } else {
            processes::kill_descendants();
        }
    });
    if gone { Ok(()) } else { Err(refused("some processes can't be ended")) }
}

fn wait_ready(ready: &Ready, limit: Duration) -> Result<(), Trouble> {
    let deadline = Instant::now().checked_add(limit);
    let left = || deadline.map_or(limit, |d| d.saturating_duration_since(Instant::now()));
    let mut last;
    let what = match ready {
        Ready::Tcp(address) => format!("connect to {address}"),
        Ready::File(path) => format!("wait for {path}"),
    };
    loop {
        last = match ready {
            Ready::Tcp(address) => {
                let address: SocketAddr = address
                    .parse()
                    .map_err(|_| refused(format!("{address} is no numeric address and port")))?;
                let attempt = left().clamp(Duration::from_millis(1), Duration::from_secs(1));
                TcpStream::connect_timeout(&address, attempt).map(drop)
            }
            Ready::File(path) => fs::metadata(path).map(drop),
        };
        match last {
            Ok(()) => return Ok(()),
            Err(e) if left().is_zero() => {
                let what = format!("{what}: not ready after {} ms", limit.as_millis());
                return Err(failed(what, e));
            }
            Err(_) => thread::sleep(READY_AGAIN.min(left())),
        }
    }
}

/// Never waits for what isn't there: a step may leave a FIFO where a file is expected.
fn nonblocking() -> i32 {
    OFlags::NONBLOCK.bits().cast_signed()
}

fn read_file(path: &str, limit: u32) -> Result<(Vec<u8>, bool), Trouble> {
    let limit = (limit as usize).min(MAX_PAYLOAD - 64);
    let mut data = Vec::new();
    File::options()
        .read(true)
        .custom_flags(nonblocking())
        .open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut data))
        .map_err(|e| failed(format!("read {path}"), e))?;
    let truncated = data.len() > limit;
    data.truncate(limit);
    Ok((data, truncated))
}

fn write_file(path: &str, mode: u32, append: bool, data: &[u8]) -> Result<(), Trouble> {
    let open = || {
        File::options()
            .create(true)
            .append(append)
            .write(true)
            .truncate(!append)
            .mode(mode)
            .custom_flags(nonblocking())
            .open(path)
    };
    let mut file = open();
    if let (Err(e), Some(parent)) = (&file, Path::new(path).parent())
        && e.kind() == io::ErrorKind::NotFound
    {
        let _ = fs::create_dir_all(parent);
        file = open();
    }
    file.and_then(|mut file| file.write_all(data)).map_err(|e| failed(format!("write {path}"), e))
}
