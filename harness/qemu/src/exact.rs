//! Guests whose clock counts the instructions that they execute, and that repeat to the last of them.
//!
//! Nothing reaches such a guest while it runs: what it is to do is a script that QEMU hands over, what it
//! answers leaves through a port that it writes to byte by byte. Its template stops itself at an exact
//! instruction. So whatever differs between two of its clones follows from their seeds.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kgate_machine::{AgentError, BootError, Carried, End, ExactTemplate, Pipe, ScriptRequest};
use kgate_model::outcome::{Fault, FaultKind};
use kgate_model::wire::{self, Decoder, Fresh, KernelState, PROTOCOL, Reply, Request, Setup};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until, timeout};

use crate::args::{Channel, Exact};
use crate::emulator::{Emulator, From, Launch, printed_pipe};
use crate::guest::{failed, paths_of};
use crate::template::{MEMORY, Record, STATE, Warm, clone_of};

/// Bytes of answers; what says more is broken or hostile.
const ANSWERS: u64 = 256 << 20;
/// Most that a clone's timer tick is moved by, in instructions: a tick is as many, or less.
const DELAY: u64 = 4_000_000;
/// Most pages that a clone keeps.
const PAGES: u64 = 2048;
/// A boot takes so many times as long where instructions are counted.
const SLOWER: u32 = 3;
/// Between two reads of answers, which come byte by byte: without it each byte would wake its reader.
const REST: Duration = Duration::from_millis(20);
/// Between the last answer and the end of QEMU.
const END: Duration = Duration::from_secs(10);

/// The plugin that counts instructions by their address, a shared library.
#[derive(Clone, Copy, Debug)]
pub struct Plugin(pub &'static [u8]);

/// Numbers that follow from a seed and from what they are for.
struct Chance(u64);

impl Chance {
    fn bytes(&self, what: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.0.to_le_bytes()).chain_update(what).finalize().into()
    }

    fn number(&self, what: &str) -> u64 {
        let bytes = self.bytes(what);
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| bytes[at]))
    }

    fn below(&self, limit: u64, what: &str) -> u32 {
        u32::try_from(self.number(what) % limit).unwrap_or_default()
    }
}

/// What of the command line of a template follows from its seed. The length of the kernel's own moves
/// everything behind it.
pub(crate) fn template_of(seed: u64) -> (Exact, String) {
    let chance = Chance(seed);
    let exact = Exact {
        seed: chance.number("seed"),
        second: chance.below(86_400, "second"),
        script_fd: -1,
        answers_fd: -1,
        plugin: None,
    };
    // Digits: whoever compares kernel logs takes them for a number, which is any number.
    let pad = "1".repeat(1 + chance.below(64, "pad") as usize);
    (exact, format!("kgate.channel=script kgate.pad={pad}"))
}

fn fresh(seed: u64) -> Fresh {
    let chance = Chance(seed);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Fresh {
        entropy: [chance.bytes("entropy"), chance.bytes("more entropy")].concat(),
        machine_id: hex(&chance.bytes("machine")[..16]),
        // 2026, some time in its first days.
        time_ns: 1_767_225_600_000_000_000 + chance.number("time") % 864_000_000_000_000,
        mac: [2, 0, 0, 0, 0, 1],
    }
}

/// Boots a guest until it stops itself, and writes its state to `file`.
pub(crate) async fn boot(
    launch: Launch<'_>,
    setup: Setup,
    file: OwnedFd,
    deadline: Duration,
) -> Result<Record, BootError> {
    let deadline = deadline * SLOWER;
    let script = [Request::Hello { protocol: PROTOCOL, setup }, Request::State { id: 1 }];
    let started = Instant::now();
    let (parks, parked) = oneshot::channel();
    let (mut emulator, mut answers) =
        start(Launch { parks: Some(parks), ..launch }, &script, None)?;
    let stopped = tokio::select! {
        parked = timeout(deadline, parked) => match parked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Some(AgentError::Closed("the guest ended".into()))),
            Err(_) => Err(None),
        },
        () = emulator.ended() => Err(Some(AgentError::Closed("the guest ended".into()))),
        // It is read while the guest runs, which would be held up by a full pipe.
        why = answers.read_all() => Err(Some(AgentError::Closed(
            why.err().unwrap_or_else(|| "the guest ended".into()),
        ))),
    };
    let ready = started.elapsed();
    if let Err(error) = stopped {
        return Err(failed(emulator, error, deadline).await);
    }
    let unkept =
        |why: String| BootError::harness(FaultKind::Emulator, format!("it can't be kept: {why}"));
    emulator.save(file).await.map_err(unkept)?;
    answers.read_all().await.map_err(unkept)?;
    let (mut identity, mut state) = (None, KernelState::default());
    for reply in answers.replies {
        match reply {
            Reply::Hello { identity: told, .. } => identity = Some(told),
            Reply::State { state: told, .. } => state = told,
            Reply::Done { result: Err(trouble), .. } => {
                return Err(failed(emulator, Some(AgentError::Refused(trouble)), deadline).await);
            }
            _ => {}
        }
    }
    let identity = identity.ok_or_else(|| unkept("the agent did not say hello".into()))?;
    Ok(Record::new(identity, state, emulator.console.findings(0), ready))
}

#[async_trait(?Send)]
impl ExactTemplate for Warm {
    fn modules(&self, names: &[String]) -> Vec<String> {
        paths_of(&self.kit.loadable, names)
    }

    async fn carry_out(&self, request: &ScriptRequest) -> Result<Carried, BootError> {
        let ScriptRequest { name, console, seed, script, silence, profile } = request;
        let broken = |what: &'static str| {
            move |e: std::io::Error| {
                BootError::harness(FaultKind::Controller, format!("{what}: {e}"))
            }
        };
        let seat = self.load.busy_clone_of(&self.shape);
        let state = std::fs::File::open(self.kept.path(STATE))
            .map_err(broken("the template's state can't be read"))?;
        let chance = Chance(*seed);
        let setup = Setup { fresh: Some(fresh(*seed)), ..Setup::default() };
        let disturb = Request::Disturb {
            id: 0,
            delay: chance.below(DELAY, "delay"),
            pages: chance.below(PAGES, "pages"),
        };
        let first = [Request::Hello { protocol: PROTOCOL, setup }, disturb];
        let script: Vec<_> = first.into_iter().chain(script.iter().cloned()).collect();
        let mut spec = clone_of(&self.spec, name, self.kept.path(MEMORY));
        if let Channel::Exact(exact) = &mut spec.channel {
            exact.seed = chance.number("seed");
        }
        let counted = match (profile, self.plugin) {
            (None, _) => None,
            (Some(profile), Some(plugin)) => Some(Counted {
                plugin: memory("kgate-plugin", plugin.0)
                    .map_err(broken("the plugin can't be loaded"))?,
                out: std::fs::File::create(&profile.path)
                    .map_err(broken("the profile can't be written"))?
                    .into(),
                stacks: profile.stacks,
            }),
            (Some(_), None) => {
                let why = "this build has no plugin that counts";
                return Err(BootError::harness(FaultKind::Controller, why));
            }
        };
        let launch = Launch {
            qemu: &self.qemu,
            spec,
            begin: From::Parked(state.into()),
            inherit: Vec::new(),
            console,
            seat: &seat,
            parks: None,
        };
        let (emulator, answers) = start(launch, &script, counted)?;
        Ok(listen(emulator, answers, *silence).await)
    }
}

/// Takes the answers until there are no more.
async fn listen(mut emulator: Emulator, mut answers: Answers, silence: Duration) -> Carried {
    let silent = loop {
        let deadline = tokio::time::Instant::now() + silence;
        tokio::select! {
            biased;
            more = answers.read() => match more {
                Ok(true) => {}
                Ok(false) => break None,
                Err(why) => break Some(Fault::harness(FaultKind::Channel, why)),
            },
            () = sleep_until(deadline) => {
                let message = format!("nothing was heard of it for {} s", silence.as_secs_f32());
                break Some(Fault::kernel(FaultKind::Hang, message));
            }
        }
    };
    let mut diagnosis = None;
    if silent.as_ref().is_some_and(|fault| fault.kind == FaultKind::Hang) {
        diagnosis = Some(emulator.diagnose().await);
    }
    // What closed its answers ends in a moment, and says how.
    if silent.is_none() {
        let _ = timeout(END, emulator.ended()).await;
    }
    let end = emulator.end.borrow().clone();
    emulator.kill().await;
    let cause = emulator.console.cause();
    let fault = match end {
        Some(End::PoweredOff) => silent,
        Some(end) => Some(end.fault(cause.as_ref())),
        None => silent.or_else(|| {
            Some(Fault::harness(FaultKind::Emulator, "QEMU did not end after its guest"))
        }),
    };
    Carried {
        digest: answers.digest.finalize().into(),
        replies: answers.replies,
        findings: emulator.console.findings(0),
        fault,
        diagnosis,
    }
}

/// What counts beside the clock.
struct Counted {
    plugin: OwnedFd,
    out: OwnedFd,
    stacks: bool,
}

/// Starts a guest with a script.
fn start(
    mut launch: Launch<'_>,
    script: &[Request],
    counted: Option<Counted>,
) -> Result<(Emulator, Answers), BootError> {
    let broken = |e: std::io::Error| {
        BootError::harness(FaultKind::Controller, format!("no script for the guest: {e}"))
    };
    let mut frames = Vec::new();
    for request in script {
        let frame = wire::encode(request)
            .map_err(|e| BootError::harness(FaultKind::Channel, e.to_string()))?;
        frames.extend(frame);
    }
    let script = memory("kgate-script", &frames).map_err(broken)?;
    let (ours, theirs) = printed_pipe().map_err(broken)?;
    if let Channel::Exact(exact) = &mut launch.spec.channel {
        exact.script_fd = script.as_raw_fd();
        exact.answers_fd = theirs.as_raw_fd();
        if let Some(Counted { plugin, out, stacks }) = &counted {
            exact.plugin = Some((plugin.as_raw_fd(), out.as_raw_fd(), *stacks));
        }
    }
    launch.inherit.extend([script, theirs]);
    launch.inherit.extend(counted.into_iter().flat_map(|c| [c.plugin, c.out]));
    Ok((Emulator::launch(launch)?, Answers::new(ours)))
}

/// A file in memory with this content.
pub(crate) fn memory(name: &str, content: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = std::fs::File::from(memfd_create(name, flags)?);
    std::io::Write::write_all(&mut &file, content)?;
    // Several QEMUs may have it, and none is to change it for others.
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// What a guest answers.
struct Answers {
    pipe: Pipe,
    decoder: Decoder,
    digest: Sha256,
    length: u64,
    buffer: Vec<u8>,
    replies: Vec<Reply>,
}

impl Answers {
    fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            decoder: Decoder::default(),
            digest: Sha256::new(),
            length: 0,
            buffer: vec![0; 64 << 10],
            replies: Vec::new(),
        }
    }

    /// Takes what comes next. `false`: nothing will.
    async fn read(&mut self) -> Result<bool, String> {
        let length = self.pipe.read(&mut self.buffer).await.map_err(|e| e.to_string())?;
        let bytes = &self.buffer[..length];
        self.length += length as u64;
        if self.length > ANSWERS {
            return Err("it answers without an end".into());
        }
        self.digest.update(bytes);
        self.decoder.push(bytes);
        while let Some(reply) = self.decoder.message().map_err(|e| e.to_string())? {
            self.replies.push(reply);
        }
        if length > 0 {
            sleep(REST).await;
        }
        Ok(length > 0)
    }

    async fn read_all(&mut self) -> Result<(), String> {
        while self.read().await? {}
        Ok(())
    }
}
