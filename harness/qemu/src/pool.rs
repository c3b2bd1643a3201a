//! The pool: guests for the two kernels of a run.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kgate_kernel::Kernel;
use kgate_machine::{BootError, BootRequest, ExactTemplate, Machine, Pool, Template};
use kgate_model::host::{Host, HostCommand};
use kgate_model::outcome::{FaultKind, Role};
use kgate_model::plan::MachineShape;
use kgate_model::wire::{Identity, Setup};
use tokio::sync::Mutex;

use crate::accel::{Accel, AccelChoice, Memo, probe_kvm};
use crate::args::{Begin, Channel, GuestSpec, MemoryFile};
use crate::emulator::{From, Launch};
use crate::exact::{self, Plugin};
use crate::fork::Forking;
use crate::fresh::fresh;
use crate::guest::{Guest, How, Start};
use crate::kit::{Kit, KitError, Programs, Userland};
use crate::load::{Load, Seat};
use crate::store::{Building, Description, Store, StoreError};
use crate::template::{self, CONSOLE, KERNEL_LOG, MEMORY, RECORD, Record, STATE, Warm, copy};

/// Kernel parameters of every guest.
///
/// A panic resets the machine at once, which ends QEMU; a silent machine can be asked over sysrq or
/// by an NMI. Whether the timer ticks is not tried: on a busy controller an emulated one is late,
/// and the kernel panics ("IO-APIC + timer doesn't work"); under KVM it doesn't try either.
/// Everything else stays as the kernel's own defaults have it.
const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 loglevel=7 sysrq_always_enabled unknown_nmi_panic no_timer_check";

/// What an exact guest has beside them: nothing is placed by chance, and random numbers come from the
/// emulator, whose seed is known.
const EXACT_COMMAND_LINE: &str = "nokaslr norandmaps random.trust_cpu=on";

/// Processor of an exact guest: without `rep movsb` and `rep stosb`, of which each byte would count as
/// an instruction, and take as long.
const EXACT_CPU: &str = "max,-erms,-fsrm";

/// A first boot under KVM that takes longer is no proof of it.
const KVM_PROOF: Duration = Duration::from_secs(15);

/// The emulator on this controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// What it says of its version.
    pub version: String,
}

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// There is no such program.
    #[error("{} is not installed: on Debian, `apt-get install qemu-system-x86`", .0.display())]
    Missing(PathBuf),
    /// It does not say its version.
    #[error("{} does not run: {reason}", program.display())]
    Broken {
        /// The program.
        program: PathBuf,
        /// What it said instead.
        reason: String,
    },
}

impl Qemu {
    /// Asks the emulator for its version.
    ///
    /// # Errors
    /// It is not there or does not run.
    pub fn find(program: PathBuf, host: &dyn Host) -> Result<Self, QemuError> {
        let command = HostCommand::new(&program, Duration::from_secs(20)).arg("--version");
        let broken = |reason| QemuError::Broken { program: program.clone(), reason };
        match host.run(&command) {
            Ok(output) if output.code == Some(0) => {
                let text = String::from_utf8_lossy(&output.stdout);
                let version = text.lines().next().unwrap_or_default().trim().to_owned();
                if !version.starts_with("QEMU emulator") {
                    return Err(broken(format!("it is no QEMU: --version answers `{version}`")));
                }
                Ok(Self { program, version })
            }
            Ok(output) => Err(broken(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(QemuError::Missing(program))
            }
            Err(error) => Err(broken(error.to_string())),
        }
    }

    /// Boots something tiny under KVM, with a deadline.
    ///
    /// # Errors
    /// Why KVM can't be used.
    pub async fn probe_kvm(&self) -> Result<(), String> {
        probe_kvm(&self.program).await
    }
}

/// What a pool of guests is made of.
#[derive(Clone, Debug)]
pub struct GuestsConfig {
    /// The emulator.
    pub qemu: Qemu,
    /// The accelerator that was asked for.
    pub accel: AccelChoice,
    /// The kernels.
    pub kernels: BTreeMap<Role, Kernel>,
    /// The roots of the steps, by name; `base` among them.
    pub userlands: BTreeMap<String, Userland>,
    /// kgate's own programs for the inside.
    pub programs: Programs,
    /// What counts instructions by their address, in a build that has it.
    pub plugin: Option<Plugin>,
    /// CPUs of the controller that guests may use.
    pub cpus: u32,
    /// Memory of the controller that guests may use, in bytes.
    pub memory: u64,
    /// Where it is remembered whether KVM works, for as long as the controller is up.
    pub memo: PathBuf,
    /// Where templates are kept.
    pub templates: Store,
}

/// A pool of QEMU guests.
pub struct Guests {
    config: GuestsConfig,
    load: Rc<Load>,
    state: Mutex<State>,
    /// For [`Pool::facts`], which can't wait.
    facts: Facts,
}

/// What is to be told of the controller and its emulator.
pub(crate) type Facts = Rc<std::cell::RefCell<BTreeMap<String, String>>>;

#[derive(Default)]
struct State {
    kits: HashMap<KitKey, Rc<Kit>>,
    accel: Option<Proven>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct KitKey {
    role: Role,
    image: String,
    modules: Vec<String>,
    network: bool,
    exact: bool,
}

impl KitKey {
    fn of(request: &BootRequest, exact: bool) -> Self {
        Self {
            role: request.role,
            image: request.image.clone(),
            modules: request.modules.clone(),
            network: request.shape.network,
            exact,
        }
    }
}

#[derive(Clone, Copy)]
struct Proven {
    accel: Accel,
    /// It has booted a kernel; until then KVM is only likely to.
    booted: bool,
}

impl Guests {
    /// A pool. Nothing is started yet.
    pub fn new(config: GuestsConfig) -> Self {
        let facts = BTreeMap::from([
            ("machine".into(), "qemu".into()),
            ("qemu".into(), config.qemu.version.clone()),
        ]);
        let load = Load::new(config.cpus, config.memory);
        Self { config, load, state: Mutex::default(), facts: Rc::new(facts.into()) }
    }

    /// Leaves the measuring programs out of its guests, whose kernel has less to unpack then.
    #[must_use]
    pub fn without_ops(mut self) -> Self {
        self.config.programs.ops = &[];
        self
    }

    /// Finds out which accelerator is used, before the first boot.
    ///
    /// # Errors
    /// KVM was asked for and is not usable.
    pub async fn settle_accel(&self) -> Result<Accel, BootError> {
        let mut state = self.state.lock().await;
        self.accel(&mut state).await.map(|proven| proven.accel)
    }

    async fn accel(&self, state: &mut State) -> Result<Proven, BootError> {
        if let Some(proven) = state.accel {
            return Ok(proven);
        }
        let kvm = || self.config.qemu.probe_kvm();
        let (proven, why) = match self.config.accel {
            AccelChoice::Only(Accel::Tcg) => (Proven { accel: Accel::Tcg, booted: true }, None),
            AccelChoice::Only(Accel::Kvm) => {
                kvm().await.map_err(|why| {
                    BootError::harness(FaultKind::Emulator, format!("KVM can't be used: {why}"))
                })?;
                (Proven { accel: Accel::Kvm, booted: true }, None)
            }
            AccelChoice::Auto => {
                let memo = Memo::new(&self.config.memo, &self.config.qemu.version);
                let broken = match memo.recall() {
                    Some(known) => known,
                    None => {
                        let found = kvm().await.err();
                        memo.keep(found.as_deref());
                        found
                    }
                };
                match broken {
                    None => (Proven { accel: Accel::Kvm, booted: false }, None),
                    Some(why) => (Proven { accel: Accel::Tcg, booted: true }, Some(why)),
                }
            }
        };
        self.settled(state, proven, why);
        Ok(proven)
    }

    fn settled(&self, state: &mut State, proven: Proven, why: Option<String>) {
        state.accel = Some(proven);
        let mut facts = self.facts.borrow_mut();
        facts.insert("accelerator".into(), proven.accel.as_str().into());
        if let Some(why) = why {
            facts.insert("accelerator reason".into(), why);
        }
    }

    fn kernel(&self, role: Role) -> Result<&Kernel, BootError> {
        self.config.kernels.get(&role).ok_or_else(|| {
            BootError::harness(FaultKind::Controller, KitError::NoKernel(role).to_string())
        })
    }

    /// Builds everything that a boot needs before any guest is started, so that a kernel that lacks
    /// a driver or an image that is missing is told at once.
    ///
    /// # Errors
    /// See [`KitError`].
    pub fn check(
        &mut self,
        role: Role,
        image: &str,
        modules: &[String],
        network: bool,
        exact: bool,
    ) -> Result<(), KitError> {
        let (image, modules) = (image.to_owned(), modules.to_vec());
        let key = KitKey { role, image, modules, network, exact };
        kit(&self.config, &mut self.state.get_mut().kits, key).map(drop)
    }

    async fn start(
        &self,
        request: &BootRequest,
        kit: &Kit,
        accel: Accel,
        seat: &Rc<Seat>,
    ) -> Result<Guest, BootError> {
        let kernel = self.kernel(request.role)?;
        let guest = Guest::boot(Start {
            how: How::Launch {
                qemu: &self.config.qemu.program,
                spec: Box::new(self.spec(request, kit, accel)?),
                begin: From::Initramfs(initrd(kit)?),
                inherit: Vec::new(),
            },
            setup: Setup { fresh: Some(fresh()?), ..setup(request, kit) },
            loadable: kit.loadable.clone(),
            console: &request.console,
            kernel_log: request.kernel_log.as_deref(),
            deadline: request.deadline,
            seat: Rc::clone(seat),
        })
        .await?;
        check_identity(kernel, guest.identity())?;
        Ok(guest)
    }

    /// The guest of a request, without its descriptors.
    fn spec(&self, request: &BootRequest, kit: &Kit, accel: Accel) -> Result<GuestSpec, BootError> {
        let shape = &request.shape;
        let mut command_line = COMMAND_LINE.to_owned();
        for argument in &shape.kernel_args {
            command_line.push(' ');
            command_line.push_str(argument);
        }
        Ok(GuestSpec {
            name: request.name.clone(),
            accel,
            cpu_model: shape.cpu_model.clone().unwrap_or_else(|| accel.default_cpu().into()),
            cpus: shape.cpus,
            memory_mib: shape.memory >> 20,
            memory_file: None,
            begin: Begin::Kernel {
                kernel: self.kernel(request.role)?.image.clone(),
                initrd: PathBuf::new(),
                command_line,
            },
            console_fd: -1,
            channel: Channel::Port { fd: -1 },
            qmp_fd: -1,
            disk: kit.disk.clone(),
            network: shape.network,
            forks: None,
        })
    }

    /// The initramfs for a request, and the accelerator.
    async fn prepared(
        &self,
        state: &mut State,
        request: &BootRequest,
    ) -> Result<(Rc<Kit>, Proven), BootError> {
        let key = KitKey::of(request, false);
        let kit = kit(&self.config, &mut state.kits, key)
            .map_err(|e| BootError::harness(FaultKind::Controller, e.to_string()))?;
        Ok((kit, self.accel(state).await?))
    }

    /// What a template is made of that begins to do what trials of it do.
    async fn warm(&self, request: &BootRequest) -> Result<Recipe, BootError> {
        let prepared = async || self.prepared(&mut *self.state.lock().await, request).await;
        let (kit, mut proven) = prepared().await?;
        if !proven.booted {
            let console = PathBuf::from("/dev/null");
            let first = BootRequest { console, kernel_log: None, ..request.clone() };
            self.boot(&first).await?.stop().await;
            (_, proven) = prepared().await?;
        }
        let spec = self.spec(request, &kit, proven.accel)?;
        let setup = Setup { network: false, ..setup(request, &kit) };
        Ok(Recipe { kit, spec, setup })
    }

    /// What a template is made of whose clones repeat to the instruction.
    async fn exact(&self, request: &BootRequest, seed: u64) -> Result<Recipe, BootError> {
        let key = KitKey::of(request, true);
        let kit = kit(&self.config, &mut self.state.lock().await.kits, key)
            .map_err(|e| BootError::harness(FaultKind::Controller, e.to_string()))?;
        let mut spec = self.spec(request, &kit, Accel::Tcg)?;
        let (exact, arguments) = exact::template_of(seed);
        spec.channel = Channel::Exact(exact);
        if request.shape.cpu_model.is_none() {
            EXACT_CPU.clone_into(&mut spec.cpu_model);
        }
        if let Begin::Kernel { command_line, .. } = &mut spec.begin {
            *command_line = format!("{command_line} {EXACT_COMMAND_LINE} {arguments}");
        }
        let setup = Setup { kernel_log: false, ..kit.setup.clone() };
        Ok(Recipe { kit, spec, setup })
    }

    /// The template of a request: an earlier run's, or a new one.
    async fn keep(&self, request: &BootRequest, recipe: Recipe) -> Result<Warm, BootError> {
        let seat = Rc::new(self.load.boot(&request.shape));
        let Recipe { kit, mut spec, setup } = recipe;
        let kernel = self.kernel(request.role)?;
        let Qemu { program, version } = &self.config.qemu;
        let key =
            template::key(program, version, &spec, &kernel.sha256, &kit, &setup, request.number)
                .map_err(broken("find out what a template depends on"))?;
        let (kept, record, earlier) = match self.config.templates.find(key) {
            Some(kept) => {
                copy(&kept.path(CONSOLE), &request.console)
                    .and_then(|()| match &request.kernel_log {
                        Some(log) if kept.path(KERNEL_LOG).exists() => {
                            copy(&kept.path(KERNEL_LOG), log)
                        }
                        _ => Ok(()),
                    })
                    .map_err(broken("copy the console of a template"))?;
                let record = Record::read(&kept).map_err(broken("read a template"))?;
                (kept, record, true)
            }
            None => {
                let building =
                    self.config.templates.create(key, request.shape.memory).map_err(unkept)?;
                let path = building.path(MEMORY);
                File::create(&path)
                    .and_then(|file| file.set_len(request.shape.memory))
                    .map_err(broken("make the memory of a template"))?;
                spec.memory_file = Some(MemoryFile { path, shared: true });
                let record =
                    self.boot_to_keep(request, &kit, spec.clone(), setup, &building, seat).await?;
                let description = Description {
                    kernel: kernel.release.clone(),
                    image: request.image.clone(),
                    memory: request.shape.memory,
                    created_ms: record.booted_ms,
                };
                // What went wrong in one boot is not to be every later run's.
                let clean = record.findings.is_empty();
                (building.finish(description, clean).map_err(unkept)?, record, false)
            }
        };
        let held = std::fs::metadata(kept.path(MEMORY)).map_or(0, |data| data.blocks() * 512);
        Ok(Warm {
            _seat: self.load.template(held),
            kept,
            record,
            earlier,
            qemu: program.clone(),
            plugin: self.config.plugin,
            spec,
            kit,
            load: Rc::clone(&self.load),
            shape: request.shape.clone(),
            forks: Forking::new(&self.facts),
        })
    }

    /// Boots a guest and leaves what it is in the files of a template.
    async fn boot_to_keep(
        &self,
        request: &BootRequest,
        kit: &Kit,
        spec: GuestSpec,
        setup: Setup,
        building: &Building,
        seat: Rc<Seat>,
    ) -> Result<Record, BootError> {
        let qemu = &self.config.qemu.program;
        let begin = From::Initramfs(initrd(kit)?);
        let console = &request.console;
        let state = File::create(building.path(STATE)).map_err(broken("keep a template"))?.into();
        let record = if matches!(spec.channel, Channel::Exact(_)) {
            let inherit = Vec::new();
            let seat = &*seat;
            let launch = Launch { qemu, spec, begin, inherit, console, seat, parks: None };
            exact::boot(launch, setup, state, request.deadline).await?
        } else {
            let kernel_log = request.kernel_log.as_deref();
            let (loadable, deadline) = (kit.loadable.clone(), request.deadline);
            let started = Instant::now();
            let spec = Box::new(spec);
            let how = How::Launch { qemu, spec, begin, inherit: Vec::new() };
            let start = Start { how, setup, loadable, console, kernel_log, deadline, seat };
            let guest = Guest::boot(start).await?;
            let record = guest.keep(state, started.elapsed()).await.map_err(|why| {
                BootError::harness(FaultKind::Emulator, format!("it can't be kept: {why}"))
            })?;
            kernel_log
                .map_or(Ok(()), |log| copy(log, &building.path(KERNEL_LOG)))
                .map_err(broken("keep a template"))?;
            record
        };
        check_identity(self.kernel(request.role)?, &record.identity)?;
        copy(console, &building.path(CONSOLE))
            .and_then(|()| record.write(&building.path(RECORD)))
            .map_err(broken("keep a template"))?;
        Ok(record)
    }
}

/// What a template is made of.
struct Recipe {
    kit: Rc<Kit>,
    spec: GuestSpec,
    setup: Setup,
}

fn broken(what: &'static str) -> impl Fn(io::Error) -> BootError {
    move |e| BootError::harness(FaultKind::Controller, format!("{what}: {e}"))
}

fn unkept(error: StoreError) -> BootError {
    BootError::harness(FaultKind::Controller, error.to_string())
}

/// What the agent is to prepare for a request.
fn setup(request: &BootRequest, kit: &Kit) -> Setup {
    let mut setup = kit.setup.clone();
    if request.kernel_log.is_some() {
        setup.modules.extend_from_slice(&kit.panic);
    }
    setup
}

fn initrd(kit: &Kit) -> Result<OwnedFd, BootError> {
    kit.initrd.as_fd().try_clone_to_owned().map_err(|e| {
        BootError::harness(FaultKind::Controller, format!("no descriptor for a guest: {e}"))
    })
}

fn check_identity(kernel: &Kernel, runs: &Identity) -> Result<(), BootError> {
    if runs.release == kernel.release && kernel.banner.contains(&runs.version) {
        return Ok(());
    }
    let Identity { release, version, .. } = runs;
    let message = format!("{} was started, but {release} {version} answered", kernel.banner);
    Err(BootError::harness(FaultKind::Identity, message))
}

/// The one that was built for `key`, or a new one.
fn kit(
    config: &GuestsConfig,
    kits: &mut HashMap<KitKey, Rc<Kit>>,
    key: KitKey,
) -> Result<Rc<Kit>, KitError> {
    if let Some(kit) = kits.get(&key) {
        return Ok(Rc::clone(kit));
    }
    let kernel = config.kernels.get(&key.role).ok_or(KitError::NoKernel(key.role))?;
    let userland =
        config.userlands.get(&key.image).ok_or_else(|| KitError::NoImage(key.image.clone()))?;
    let KitKey { modules, network, exact, .. } = &key;
    let kit = Kit::build(kernel, userland, config.programs, modules, *network, *exact)?;
    Ok(Rc::clone(kits.entry(key).or_insert(Rc::new(kit))))
}

#[async_trait(?Send)]
impl Pool for Guests {
    fn has_room(&self, shape: &MachineShape, clone: bool) -> bool {
        self.load.has_room(shape, clone)
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = self.facts.borrow().clone();
        facts.extend(self.load.pinning().map(|how| ("host pinning".to_owned(), how)));
        facts
    }

    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        let seat = Rc::new(self.load.boot(&request.shape).alone(request.alone));
        let mut state = self.state.lock().await;
        let (kit, proven) = self.prepared(&mut state, request).await?;
        if proven.booted {
            drop(state);
            return Ok(Box::new(self.start(request, &kit, proven.accel, &seat).await?));
        }
        // The first boot under KVM, with the lock held: nobody else boots before it is known
        // whether KVM works, and all boots of a run use the same accelerator.
        let trial = BootRequest { deadline: request.deadline.min(KVM_PROOF), ..request.clone() };
        let kvm = match self.start(&trial, &kit, Accel::Kvm, &seat).await {
            Ok(guest) => {
                self.settled(&mut state, Proven { booted: true, ..proven }, None);
                return Ok(Box::new(guest));
            }
            Err(error) => error,
        };
        match self.start(request, &kit, Accel::Tcg, &seat).await {
            Ok(guest) => {
                let why = format!("a first boot under KVM failed ({kvm}), under TCG it did not");
                Memo::new(&self.config.memo, &self.config.qemu.version).keep(Some(&why));
                self.settled(&mut state, Proven { accel: Accel::Tcg, booted: true }, Some(why));
                Ok(Box::new(guest))
            }
            // It boots under neither: the kernel's own trouble, and nothing said about KVM.
            Err(_) => Err(kvm),
        }
    }

    async fn template(
        &self,
        request: &BootRequest,
    ) -> Option<Result<Box<dyn Template>, BootError>> {
        let kept = async { self.keep(request, self.warm(request).await?).await };
        Some(kept.await.map(|warm| Box::new(warm) as _))
    }

    async fn exact_template(
        &self,
        request: &BootRequest,
        seed: u64,
    ) -> Option<Result<Box<dyn ExactTemplate>, BootError>> {
        let kept = async { self.keep(request, self.exact(request, seed).await?).await };
        Some(kept.await.map(|warm| Box::new(warm) as _))
    }
}
