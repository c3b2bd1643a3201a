//! Templates: booted guests that are kept as they were when their agent was ready, and the clones that
//! go on from there.
//!
//! A template's memory is a file; its other state is what QEMU's migration writes when it is told to
//! leave such memory out. A clone maps the file privately: what it only reads it shares with all the
//! others, what it writes is its own. Nothing of a clone ever reaches the template or another clone.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use kgate_machine::{BootError, CloneRequest, Kept, Machine, Template};
use kgate_model::finding::Finding;
use kgate_model::outcome::FaultKind;
use kgate_model::plan::MachineShape;
use kgate_model::wire::{Identity, KernelState, Setup};
use qapi::qmp;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::args::{Begin, Forks, GuestSpec, MemoryFile, arguments};
use crate::emulator::{From, Qmp};
use crate::exact::Plugin;
use crate::fork::Forking;
use crate::fresh::fresh;
use crate::guest::{Guest, How, Start};
use crate::kit::Kit;
use crate::load::{Load, Seat};
use crate::store::{self, Key};

/// Between two looks at a migration, which takes some milliseconds.
const LOOK: Duration = Duration::from_millis(1);

/// Name under which QEMU is given the file for the state.
const STATE_FD: &str = "state";

/// Files of a template.
pub(crate) const MEMORY: &str = "memory";
pub(crate) const STATE: &str = "state";
pub(crate) const CONSOLE: &str = "console";
pub(crate) const KERNEL_LOG: &str = "kernel-log";
pub(crate) const RECORD: &str = "template.json";

/// What a template knows of its boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) identity: Identity,
    pub(crate) state: KernelState,
    /// What the kernel logged against itself on the way.
    pub(crate) findings: Vec<Finding>,
    pub(crate) ready_ms: u64,
    /// When it was ready, in milliseconds since the Unix epoch.
    pub(crate) booted_ms: u64,
}

impl Record {
    /// Of a guest that was booted just now and took `ready` for it.
    pub(crate) fn new(
        identity: Identity,
        state: KernelState,
        findings: Vec<Finding>,
        ready: Duration,
    ) -> Self {
        let booted = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { identity, state, findings, ready_ms: millis(ready), booted_ms: millis(booted) }
    }

    pub(crate) fn read(kept: &store::Kept) -> io::Result<Self> {
        let text = fs::read(kept.path(RECORD))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self).map_err(io::Error::other)?)
    }
}

/// A guest that was kept.
pub(crate) struct Warm {
    pub(crate) kept: store::Kept,
    pub(crate) record: Record,
    /// An earlier run booted it.
    pub(crate) earlier: bool,
    pub(crate) qemu: PathBuf,
    pub(crate) plugin: Option<Plugin>,
    /// Of the template itself.
    pub(crate) spec: GuestSpec,
    pub(crate) kit: Rc<Kit>,
    pub(crate) load: Rc<Load>,
    pub(crate) _seat: Seat,
    pub(crate) shape: MachineShape,
    pub(crate) forks: Forking,
}

impl Kept for Warm {
    fn identity(&self) -> &Identity {
        &self.record.identity
    }

    fn state(&self) -> &KernelState {
        &self.record.state
    }

    fn findings(&self) -> &[Finding] {
        &self.record.findings
    }

    fn ready(&self) -> Duration {
        Duration::from_millis(self.record.ready_ms)
    }

    fn kept_since(&self) -> Option<SystemTime> {
        self.earlier.then(|| UNIX_EPOCH + Duration::from_millis(self.record.booted_ms))
    }
}

impl Warm {
    /// How a clone is restored; `inherit` is what `forks` names.
    pub(crate) fn restore(
        &self,
        name: &str,
        forks: Option<Forks>,
        inherit: Vec<OwnedFd>,
    ) -> Result<How<'_>, BootError> {
        let state = File::open(self.kept.path(STATE)).map_err(|e| {
            let message = format!("the template's state can't be read: {e}");
            BootError::harness(FaultKind::Controller, message)
        })?;
        let spec = clone_of(&self.spec, name, self.kept.path(MEMORY));
        let spec = Box::new(GuestSpec { forks, ..spec });
        Ok(How::Launch { qemu: &self.qemu, spec, begin: From::State(state.into()), inherit })
    }

    /// Whether this is the kernel that was kept.
    pub(crate) fn check(&self, runs: &Identity) -> Result<(), BootError> {
        let kept = &self.record.identity;
        if (&runs.release, &runs.version) == (&kept.release, &kept.version) {
            return Ok(());
        }
        let message = format!("{} was kept, but {} answered", kept.release, runs.release);
        Err(BootError::harness(FaultKind::Identity, message))
    }
}

#[async_trait(?Send)]
impl Template for Warm {
    async fn start(&self, request: &CloneRequest) -> Result<Box<dyn Machine>, BootError> {
        let seat = Rc::new(self.load.clone_of(&self.shape));
        let setup =
            Setup { network: self.shape.network, fresh: Some(fresh()?), ..Setup::default() };
        let start = |how, setup| Start {
            how,
            setup,
            loadable: self.kit.loadable.clone(),
            console: &request.console,
            kernel_log: request.kernel_log.as_deref(),
            deadline: request.deadline,
            seat: Rc::clone(&seat),
        };
        if let Some(parent) = self.forks.parent(self).await {
            match Guest::boot(start(How::Fork(parent), setup.clone())).await {
                Ok(guest) => return Ok(Box::new(guest)),
                // Whosever fault it is shows when it is restored.
                Err(error) => self.forks.give_up(&error.fault.message),
            }
        }
        let started = Guest::boot(start(self.restore(&request.name, None, Vec::new())?, setup));
        // Whatever is wrong with it, a later run boots a new one.
        let guest = started.await.inspect_err(|_| self.kept.discard())?;
        self.check(guest.identity())?;
        Ok(Box::new(guest))
    }
}

/// The same machine, to begin with a template's memory and state.
pub(crate) fn clone_of(template: &GuestSpec, name: &str, memory: PathBuf) -> GuestSpec {
    GuestSpec {
        name: name.to_owned(),
        memory_file: Some(MemoryFile { path: memory, shared: false }),
        begin: Begin::State,
        ..template.clone()
    }
}

/// What a template is known by: a digest of everything that it depends on. A change of any of it, or
/// of kgate, makes another template.
pub(crate) fn key(
    qemu: &Path,
    version: &str,
    spec: &GuestSpec,
    kernel: &str,
    kit: &Kit,
    setup: &Setup,
    number: u32,
) -> io::Result<Key> {
    let mut digest = Sha256::new();
    let mut add = |what: &str, value: &[u8]| {
        digest.update(format!("{what} {}\n", value.len()));
        digest.update(value);
    };
    add("kgate", env!("CARGO_PKG_VERSION").as_bytes());
    add("replicate", &number.to_le_bytes());
    add("qemu", version.as_bytes());
    // One's own builds often say the same version; a distribution's tell theirs.
    if qemu.components().count() > 1 {
        add("emulator", identity_of(qemu)?.as_bytes());
    }
    add("processor", processor().as_bytes());
    add("kernel", kernel.as_bytes());
    add("initramfs", &kit.digest()?);
    add("setup", format!("{setup:?}").as_bytes());
    if let Some(disk) = &spec.disk {
        add("disk", identity_of(&disk.path)?.as_bytes());
    }
    // The kernel counts by its content, wherever it is.
    let mut spec = GuestSpec { name: String::new(), ..spec.clone() };
    if let Begin::Kernel { kernel, .. } = &mut spec.begin {
        kernel.clear();
    }
    for argument in arguments(&spec) {
        add("argument", argument.as_encoded_bytes());
    }
    Ok(Key::new(digest.finalize().into()))
}

/// Path, size and time of change: enough for files that are replaced, never written to.
fn identity_of(path: &Path) -> io::Result<String> {
    let data = fs::metadata(path)?;
    Ok(format!("{} {} {}.{}", path.display(), data.len(), data.mtime(), data.mtime_nsec()))
}

/// Model and abilities of the controller's processor: under KVM a guest has seen them.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let wanted = ["model name", "microcode", "flags"];
    let first = text.split("\n\n").next().unwrap_or_default();
    first.lines().filter(|line| wanted.iter().any(|w| line.starts_with(w))).collect()
}

/// Copies what is in a file; the modes of the other, which may be a device, stay as they are.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut File::open(from)?, &mut File::create(to)?).map(drop)
}

fn leave_memory_out() -> qmp::migrate_set_capabilities {
    let capability = qmp::MigrationCapability::x_ignore_shared;
    qmp::migrate_set_capabilities {
        capabilities: vec![qmp::MigrationCapabilityStatus { capability, state: true }],
    }
}

/// Stops a guest and writes its state, without its memory, to `file`.
///
/// It is not stopped before: a guest that ran when its state was taken runs at once when it gets it.
pub(crate) async fn save(qmp: &Qmp, socket: &OwnedFd, file: &OwnedFd) -> Result<(), String> {
    let failed = |what: &'static str| move |e: qapi::ExecuteError| format!("{what}: {e}");
    qmp.execute(leave_memory_out()).await.map_err(failed("leave the memory out"))?;
    send_files(socket.as_fd(), &[file.as_fd()]).map_err(|e| format!("pass a descriptor: {e}"))?;
    let getfd = qmp::getfd { fdname: STATE_FD.into() };
    qmp.execute(getfd).await.map_err(failed("take a descriptor"))?;
    let migrate = qmp::migrate {
        uri: Some(format!("fd:{STATE_FD}")),
        channels: None,
        detach: None,
        resume: None,
    };
    qmp.execute(migrate).await.map_err(failed("write the state"))?;
    loop {
        let info = qmp.execute(qmp::query_migrate {}).await.map_err(failed("write the state"))?;
        match info.status {
            Some(qmp::MigrationStatus::completed) => return Ok(()),
            Some(qmp::MigrationStatus::failed | qmp::MigrationStatus::cancelled) => {
                return Err(info.error_desc.unwrap_or_else(|| "the state was not written".into()));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Has a guest begin with the state behind `uri`. One that was `parked` when it was taken has to be let
/// go on; one that ran does so by itself.
pub(crate) async fn restore(qmp: &Qmp, uri: &str, parked: bool) -> Result<(), qapi::ExecuteError> {
    qmp.execute(leave_memory_out()).await?;
    qmp.execute(qmp::migrate_incoming {
        uri: Some(uri.to_owned()),
        channels: None,
        exit_on_error: None,
    })
    .await?;
    if parked {
        while qmp.execute(qmp::query_status {}).await?.status == qmp::RunState::inmigrate {
            tokio::time::sleep(LOOK).await;
        }
        qmp.execute(qmp::cont {}).await?;
    }
    Ok(())
}

/// Sends descriptors, at most eight, with a space. To QMP that means nothing between two commands; they
/// come before the command that takes them.
pub(crate) fn send_files(
    socket: BorrowedFd<'_>,
    files: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    sendmsg(socket, &[IoSlice::new(b" ")], &mut control, SendFlags::empty()).map(drop)
}
