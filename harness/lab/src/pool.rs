//! The pool: lab hosts for the two kernels of a run. A host is taken at its first boot and given back when
//! the run is over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use kgate_image::Busybox;
use kgate_kernel::Kernel;
use kgate_machine::{BootError, BootRequest, Machine, Pool};
use kgate_model::inventory::{ConsoleSource, LabHost};
use kgate_model::outcome::{FaultKind, Role};
use kgate_model::plan::MachineShape;
use tokio::sync::Mutex;

use crate::machine::{Booted, Loadable};
use crate::stage::{self, Staged, Staging};
use crate::steps;
use crate::trip::Trip;
use crate::walk::{At, Errand, Known, Resolve, Walk, WalkError};

/// Staging a kernel takes no longer.
const STAGE: Duration = Duration::from_secs(900);

/// Modules behind an image's root.
const IMAGE: [&str; 3] = ["loop", "squashfs", "overlay"];

/// What a pool of lab hosts is made of.
pub struct LabConfig {
    /// The hosts that boots may name.
    pub hosts: Vec<LabHost>,
    /// The kernels.
    pub kernels: BTreeMap<Role, Kernel>,
    /// The `base` userland.
    pub busybox: Arc<Busybox>,
    /// Images by name, where they are on the controller.
    pub images: BTreeMap<String, PathBuf>,
    /// The agent, a static program.
    pub agent: &'static [u8],
    /// The measuring programs, a static program.
    pub ops: &'static [u8],
    /// What all walks have in common.
    pub errand: Rc<Errand>,
}

/// A pool of lab hosts.
pub struct Lab {
    kernels: BTreeMap<Role, Rc<Kernel>>,
    busybox: Arc<Busybox>,
    images: BTreeMap<String, PathBuf>,
    agent: &'static [u8],
    ops: &'static [u8],
    errand: Rc<Errand>,
    seats: BTreeMap<String, Rc<Seat>>,
    facts: RefCell<BTreeMap<String, String>>,
    /// Hosts that were taken, and what each is in beside production.
    used: RefCell<BTreeMap<String, Option<String>>>,
    /// Why the host that was asked for last could not be taken.
    refusal: RefCell<Option<WalkError>>,
}

/// A host of the pool.
pub(crate) struct Seat {
    host: LabHost,
    pub(crate) inner: Mutex<Inner>,
}

/// What became of a host.
#[derive(Default)]
pub(crate) struct Inner {
    /// Its walk, once it has begun.
    pub(crate) walk: Option<Walk>,
    /// It is reserved and out of service.
    begun: bool,
    /// Why it can't be used any more.
    pub(crate) failed: Option<String>,
    /// Modules that were asked for so far: what is staged grows and never shrinks.
    modules: BTreeSet<String>,
}

impl Lab {
    /// A pool. No host is touched yet.
    pub fn new(config: LabConfig) -> Self {
        let LabConfig { hosts, kernels, busybox, images, agent, ops, errand } = config;
        let seat =
            |host: LabHost| (host.name.clone(), Rc::new(Seat { host, inner: Mutex::default() }));
        Self {
            kernels: kernels.into_iter().map(|(role, kernel)| (role, Rc::new(kernel))).collect(),
            busybox,
            images,
            agent,
            ops,
            errand,
            seats: hosts.into_iter().map(seat).collect(),
            facts: RefCell::default(),
            used: RefCell::default(),
            refusal: RefCell::default(),
        }
    }

    /// Why the host that was asked for last could not be taken: whether somebody has it or the inventory
    /// is wrong, which a fault doesn't tell.
    pub fn take_refusal(&self) -> Option<WalkError> {
        self.refusal.take()
    }

    async fn start(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        let refused = |why: String| BootError::harness(FaultKind::Lab, why);
        let name = request.host.as_deref().unwrap_or_default();
        let seat = self.seats.get(name).ok_or_else(|| refused(format!("no lab host `{name}`")))?;
        let kernel = self
            .kernels
            .get(&request.role)
            .ok_or_else(|| refused(format!("the pool has no {} kernel", request.role)))?;
        let image = match request.image.as_str() {
            "base" => None,
            other => Some(self.images.get(other).ok_or_else(|| {
                BootError::harness(
                    FaultKind::Controller,
                    format!("no image `{other}` was prepared"),
                )
            })?),
        };
        let mut inner = seat.inner.lock().await;
        if let Some(why) = &inner.failed {
            return Err(refused(format!("{name} can't be used any more: {why}")));
        }
        if !inner.begun {
            self.begin(seat, &mut inner).await.map_err(|error| {
                let why = error.to_string();
                inner.failed = Some(why.clone());
                self.refusal.replace(Some(error));
                refused(format!("{name}: {why}"))
            })?;
        }
        inner.modules.extend(request.modules.iter().cloned());
        if image.is_some() {
            inner.modules.extend(IMAGE.map(str::to_owned));
        }
        let netconsole =
            |source: &ConsoleSource| matches!(source, ConsoleSource::Netconsole { .. });
        if seat.host.consoles.iter().any(netconsole) {
            inner.modules.insert("netconsole".into());
        }
        let Inner { walk: Some(walk), failed, modules, .. } = &mut *inner else {
            return Err(refused(format!("{name} has no walk")));
        };
        // Only production is written to.
        if let Err(error) = walk.bring_back(Known::Nothing).await {
            *failed = Some(error.to_string());
            return Err(refused(format!("{name}: {error}")));
        }
        let put = self.put(walk, request, kernel, modules, image.map(PathBuf::as_path)).await;
        let (staged, image) = put.map_err(|error| refused(format!("{name}: {error}")))?;
        let loadable = Loadable { kernel: Rc::clone(kernel), staged: Rc::new(staged) };
        let image = match image {
            None => None,
            Some(image) => {
                let names = IMAGE.map(str::to_owned);
                let paths = loadable.paths(&names).map_err(|f| refused(f.message))?;
                Some((image, paths))
            }
        };
        let trip = Trip {
            staged: &loadable.staged,
            image,
            console: &request.console,
            kernel_log: request.kernel_log.as_deref(),
        };
        match walk.boot(&trip).await {
            Ok(up) => Ok(Box::new(Booted::new(Rc::clone(seat), up, loadable))),
            Err((error, stranded)) => {
                *failed = stranded;
                Err(error)
            }
        }
    }

    async fn begin(&self, seat: &Seat, inner: &mut Inner) -> Result<(), WalkError> {
        let walk = Walk::open(&seat.host, &self.errand).await?;
        // From here on it is brought back when the run is over, whatever becomes of this.
        let walk = inner.walk.insert(walk);
        self.used.borrow_mut().insert(seat.host.name.clone(), Some("taken for this run".into()));
        let begun = walk.begin().await;
        if begun.is_err() && !walk.left().anything() {
            // It was never taken.
            self.used.borrow_mut().remove(&seat.host.name);
        }
        begun?;
        let name = &seat.host.name;
        let mut facts = self.facts.borrow_mut();
        let host = &walk.facts;
        let mut add =
            |what: &str, text: String| facts.insert(format!("lab host {name}{what}"), text);
        if let Some(production) = &walk.production {
            let text = format!("{} {}", production.release, production.version);
            add(" production", text);
        }
        let (cpus, memory) = (host.cpus, host.memory >> 20);
        let distribution = Some(&*host.distribution).filter(|name| !name.is_empty());
        let machine = format!("{cpus} {}, {memory} MiB", if cpus == 1 { "CPU" } else { "CPUs" });
        add("", distribution.map_or(machine.clone(), |name| format!("{name}, {machine}")));
        inner.begun = true;
        Ok(())
    }

    /// Puts a kernel and what its steps need on a host that is on production.
    async fn put(
        &self,
        walk: &mut Walk,
        request: &BootRequest,
        kernel: &Kernel,
        modules: &BTreeSet<String>,
        image: Option<&Path>,
    ) -> Result<(Staged, Option<PathBuf>), WalkError> {
        let At::Production { ssh, .. } = walk.at.clone() else {
            return Err(WalkError::Stranded("it is not on production".into()));
        };
        let role = request.role;
        walk.staging(role, &kernel.release)?;
        let staging = Staging {
            role,
            kernel,
            modules,
            kernel_args: &request.shape.kernel_args,
            busybox: &self.busybox,
            agent: self.agent,
            ops: self.ops,
        };
        let staged = stage::stage(&ssh, &walk.host, &walk.facts, &staging, STAGE).await?;
        steps::put(&ssh, &walk.host, &self.busybox, self.ops).await?;
        let image = match image {
            Some(path) => Some(steps::put_image(&ssh, &walk.host, &request.image, path).await?),
            None => None,
        };
        Ok((staged, image))
    }
}

#[async_trait(?Send)]
impl Pool for Lab {
    fn has_room(&self, _: &MachineShape, _: bool) -> bool {
        // A host has room for one, which its lock sees to.
        true
    }

    fn facts(&self) -> BTreeMap<String, String> {
        self.facts.borrow().clone()
    }

    async fn boot(&self, request: &BootRequest) -> Result<Box<dyn Machine>, BootError> {
        self.start(request).await
    }

    async fn finish(&self) -> Vec<String> {
        let given = join_all(self.seats.values().map(|seat| give_back(seat))).await;
        let mut words = Vec::new();
        for given in given.into_iter().flatten() {
            if let Some(used) = self.used.borrow_mut().get_mut(&given.host) {
                *used = given.away;
            }
            words.extend(given.words);
        }
        words
    }

    fn hosts(&self) -> BTreeMap<String, Option<String>> {
        self.used.borrow().clone()
    }
}

/// How a host was given back.
struct Given {
    host: String,
    /// Why it is not known to be on production.
    away: Option<String>,
    /// What a person has to know of it.
    words: Vec<String>,
}

/// Brings a host back and gives it back.
async fn give_back(seat: &Seat) -> Option<Given> {
    let mut inner = seat.inner.lock().await;
    let mut walk = inner.walk.take()?;
    let name = &seat.host.name;
    if inner.begun && !walk.left().anything() {
        // Somebody has taken it away: it is theirs to bring back.
        let why = inner.failed.clone().unwrap_or_default();
        let words = vec![format!("{name}: {why}")];
        return Some(Given { host: name.clone(), away: Some(why), words });
    }
    let settled = walk.settle(Resolve::UnlessHookFailed).await;
    let (left, mut words, mut away) = (walk.left().clone(), Vec::new(), None);
    let recover = format!("`kgate lab recover {name}`");
    match settled {
        Err(error) => {
            let state = left.describe();
            words.push(format!("{name} is left {state}: {error}; {recover} brings it back"));
            away = left.away.then(|| error.to_string());
        }
        Ok(()) if left.anything() => {
            let hook = left.failed_hook.unwrap_or_default();
            words.push(format!(
                "{name} is on production and stays drained, because the hook `{hook}` failed; when that is \
                 mended, {recover} puts it back"
            ));
        }
        Ok(()) => {}
    }
    words.extend(walk.unwritten().map(|why| format!("{name}: {why}")));
    Some(Given { host: name.clone(), away, words })
}
