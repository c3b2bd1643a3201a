//! A clone that is stopped, of which others are made by forking its process.
//!
//! Under emulation a clone spends nearly all of its time on having the guest's code translated, which
//! each QEMU does for itself. A process that is forked has what its parent has translated. So the parent
//! does once what its children will do, and only then stops.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kgate_machine::process::Process;
use kgate_machine::{Agent, BootError, Machine as _};
use kgate_model::wire::Setup;
use qapi::qmp;
use rustix::process::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::accel::Accel;
use crate::args::{Channel, Forks};
use crate::emulator::{Emulator, pair};
use crate::exact::memory;
use crate::fresh::fresh;
use crate::guest::{Guest, Start};
use crate::load::Seat;
use crate::pool::Facts;
use crate::template::{Warm, send_files};

/// Clones that are started one by one before there is a parent: it takes as long as three of them.
const ALONE: u32 = 2;
/// Longest that a parent takes to get ready, and a child to be made.
const WITHIN: Duration = Duration::from_secs(20);
/// Longest answer of the plugin.
const ANSWER: u64 = 1024;
/// What a parent holds that its template doesn't, in bytes: some 52 MiB were measured.
const OWN: u64 = 64 << 20;

/// A clone that is stopped.
pub(crate) struct Parent {
    emulator: Emulator,
    control: Arc<Mutex<Option<BufReader<UnixStream>>>>,
    greeting: Vec<u8>,
    /// Its end of these is what QEMU believes to be connected.
    _agent: Agent,
    _qmp: UnixStream,
    _seat: Rc<Seat>,
}

impl Parent {
    /// Restores a clone, has it do what clones do, and stops it.
    async fn start(warm: &Warm) -> Result<Self, String> {
        let broken = |e: std::io::Error| e.to_string();
        let why = |e: BootError| e.fault.message;
        let plugin = warm.plugin.ok_or("this build has no plugin that forks")?;
        let plugin = memory("kgate-plugin", plugin.0).map_err(broken)?;
        let (control, their_control) = pair().map_err(broken)?;
        let (mut qmp, their_qmp) = pair().map_err(broken)?;
        let forks = Forks {
            plugin_fd: plugin.as_raw_fd(),
            control_fd: their_control.as_raw_fd(),
            qmp_fd: their_qmp.as_raw_fd(),
            replace: Vec::new(),
        };
        let inherit = vec![plugin, their_control, their_qmp];
        let seat = Rc::new(warm.load.template(OWN));
        let guest = Guest::boot(Start {
            how: warm.restore(&warm.spec.name, Some(forks), inherit).map_err(why)?,
            setup: Setup { fresh: Some(fresh().map_err(why)?), ..Setup::default() },
            loadable: warm.kit.loadable.clone(),
            console: "/dev/null".as_ref(),
            kernel_log: None,
            deadline: WITHIN,
            seat: Rc::clone(&seat),
        });
        let guest = guest.await.map_err(why)?;
        warm.check(guest.identity()).map_err(why)?;
        let (agent, emulator) = guest.rehearse(&warm.record.state).await?;
        let greeting = greeting(&mut qmp).await.map_err(broken)?;
        let control = Arc::new(Mutex::new(Some(BufReader::new(control))));
        Ok(Self { emulator, control, greeting, _agent: agent, _qmp: qmp, _seat: seat })
    }

    /// What QEMU says first on the QMP connection that its children go on with.
    pub(crate) fn greeting(&self) -> &[u8] {
        &self.greeting
    }

    /// How something is typed on a child's console.
    pub(crate) fn typing(&self) -> qmp::ChardevFile {
        self.emulator.typing()
    }

    /// Makes a child that has these for QMP, its parent's QMP, agent, console out and in, and standard
    /// error, of which `said` is the other end.
    pub(crate) async fn fork(
        &self,
        files: [OwnedFd; 6],
        said: pipe::Receiver,
    ) -> Result<Process, String> {
        let control = Arc::clone(&self.control);
        // A task of its own: whoever no longer waits for it leaves no child behind, and no answer.
        let made = tokio::spawn(async move {
            let mut control = control.lock().await;
            // Taken out until there is an answer: one that comes late is none to the next question. Its
            // child is still in its parent's group, and ends with it.
            let mut asked = control.take().ok_or("QEMU does not answer any more")?;
            let asking = async {
                send_files(asked.get_ref().as_fd(), &files.each_ref().map(AsFd::as_fd))?;
                drop(files);
                let mut line = String::new();
                (&mut asked).take(ANSWER).read_line(&mut line).await?;
                std::io::Result::Ok(line)
            };
            let line = timeout(WITHIN, asking)
                .await
                .map_err(|_| format!("QEMU makes no process within {} s", WITHIN.as_secs()))?
                .map_err(|e| e.to_string())?;
            if !line.ends_with('\n') {
                return Err("QEMU ended".into());
            }
            *control = Some(asked);
            let pid = line.trim().parse().ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| line.trim().to_owned())?;
            Process::adopt(pid, said).map_err(|e| e.to_string())
        });
        made.await.map_err(|e| e.to_string())?
    }
}

async fn greeting(qmp: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let read = async { BufReader::new(qmp).take(ANSWER * 4).read_until(b'\n', &mut line).await };
    timeout(WITHIN, read).await.map_err(std::io::Error::from)??;
    Ok(line)
}

/// The parent of a template's clones, when there is one.
pub(crate) struct Forking {
    state: RefCell<State>,
    facts: Facts,
}

/// Somebody waits for the parent. Should the wait be given up, the next one tries again.
struct Attempt<'a>(&'a RefCell<State>);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        if matches!(*state, State::Starting) {
            *state = State::Alone(ALONE);
        }
    }
}

enum State {
    /// So many clones were started by themselves.
    Alone(u32),
    /// One is being made.
    Starting,
    /// There is one.
    Ready(Rc<Parent>),
    /// There can't be one.
    GivenUp,
}

impl Forking {
    pub(crate) fn new(facts: &Facts) -> Self {
        Self { state: State::Alone(0).into(), facts: Rc::clone(facts) }
    }

    /// The parent that the next clone is to be made of. Under KVM, a guest can't leave its process.
    pub(crate) async fn parent(&self, warm: &Warm) -> Option<Rc<Parent>> {
        let emulated = warm.spec.accel == Accel::Tcg && warm.plugin.is_some();
        if !emulated || !matches!(warm.spec.channel, Channel::Port { .. }) {
            return None;
        }
        match &mut *self.state.borrow_mut() {
            State::Ready(parent) => return Some(Rc::clone(parent)),
            State::Alone(clones) if *clones < ALONE => {
                *clones += 1;
                return None;
            }
            State::Starting | State::GivenUp => return None,
            state @ State::Alone(_) => *state = State::Starting,
        }
        let _attempt = Attempt(&self.state);
        let started = timeout(WITHIN * 2, Parent::start(warm)).await;
        match started.unwrap_or_else(|_| Err("it did not get ready".into())) {
            Ok(parent) => {
                let parent = Rc::new(parent);
                let mut facts = self.facts.borrow_mut();
                facts.entry("clones".into()).or_insert_with(|| "forked".into());
                *self.state.borrow_mut() = State::Ready(Rc::clone(&parent));
                Some(parent)
            }
            Err(why) => {
                self.give_up(&why);
                None
            }
        }
    }

    /// Has clones be restored each by itself from now on, and says why.
    pub(crate) fn give_up(&self, why: &str) {
        if matches!(self.state.replace(State::GivenUp), State::GivenUp) {
            // The first one knew why.
            return;
        }
        let mut facts = self.facts.borrow_mut();
        facts.insert("clones".into(), format!("not forked: {why}"));
    }
}
