//! What a command knows of its surroundings: the only place that looks at environment and clock.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use indicatif::MultiProgress;
use jiff::Zoned;
use jiff::civil::Date;
use kgate_image::Builder;
use kgate_kernel::{Kernel, KernelError, Reference, Resolver};
use kgate_machine::process::LocalHost;
use kgate_qemu::{Accel, AccelChoice, Plugin, Programs, Qemu, Store, StoreConfig};
use kgate_release::KernelVersion;

use crate::args::{AccelArg, ColorWhen, Global};
use crate::error::{CommandError, at};

/// The programs that run inside the machines, built with this binary.
pub(crate) const PROGRAMS: Programs =
    Programs { agent: include_bytes!(env!("KGATE_AGENT")), ops: include_bytes!(env!("KGATE_OPS")) };

/// What counts instructions in an exact guest, built with this binary.
pub(crate) const PLUGIN: Plugin = Plugin(include_bytes!(env!("KGATE_PLUGIN")));

/// File in the cache: whoever uses what is there has a shared lock on it, whoever removes something
/// an exclusive one.
pub(crate) const CACHE_LOCK: &str = ".lock";

/// Surroundings of a command.
pub(crate) struct Context {
    cache: Option<PathBuf>,
    /// Says to others that what is in the cache is used.
    in_use: OnceLock<Option<fs::File>>,
    template_dir: PathBuf,
    template_limit: Option<u64>,
    lab_state: Option<PathBuf>,
    today: Option<Date>,
    pub(crate) qemu: PathBuf,
    /// Colours on standard output.
    pub(crate) colour: bool,
    /// Bars on standard error: what is printed there beside them is printed while they are suspended.
    pub(crate) bars: MultiProgress,
    pub(crate) host: LocalHost,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let choice = match global.color {
            ColorWhen::Auto => anstream::ColorChoice::Auto,
            ColorWhen::Always => anstream::ColorChoice::Always,
            ColorWhen::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        let colour = match anstream::AutoStream::choice(&std::io::stdout()) {
            anstream::ColorChoice::Never => false,
            anstream::ColorChoice::Auto => std::io::stdout().is_terminal(),
            _ => true,
        };
        let cache = global.cache.or_else(default_cache);
        let template_dir = global.template_dir.unwrap_or_else(|| {
            format!("/dev/shm/kgate-{}", rustix::process::geteuid().as_raw()).into()
        });
        Self {
            cache,
            in_use: OnceLock::new(),
            template_dir,
            template_limit: global.template_limit,
            lab_state: global.lab_state.or_else(default_lab_state),
            today: global.today,
            qemu: global.qemu,
            colour,
            bars: MultiProgress::new(),
            host: LocalHost,
        }
    }

    /// Where kernels, packages and images are kept, for a command that uses what is there: it is made
    /// when it is missing, and nothing in it is removed until this process ends.
    pub(crate) fn cache(&self) -> Result<&Path, CommandError> {
        let dir = self.cache_dir()?;
        let hint = "choose another with --cache DIR or KGATE_CACHE";
        fs::create_dir_all(dir).map_err(|error| at(dir)(error).hint(hint))?;
        self.in_use.get_or_init(|| {
            // Whoever can't lock it here can't remove anything from it either.
            let lock = fs::File::create(dir.join(CACHE_LOCK)).ok()?;
            lock.lock_shared().ok()?;
            Some(lock)
        });
        Ok(dir)
    }

    /// Where templates are kept.
    pub(crate) fn templates(&self) -> Result<Store, CommandError> {
        let (memory, disk) = (self.template_dir.clone(), self.cache_dir()?.join("templates"));
        let config = StoreConfig::with_default_limit(Some(memory), disk);
        let limit = self.template_limit.map_or(config.limit, |mib| mib << 20);
        Ok(Store::new(StoreConfig { limit, ..config }))
    }

    /// The same place for a command that only looks.
    pub(crate) fn cache_dir(&self) -> Result<&Path, CommandError> {
        self.cache.as_deref().ok_or_else(|| {
            CommandError::usage(
                "there is no place for a cache: neither XDG_CACHE_HOME nor HOME is set",
            )
            .hint("name one with --cache DIR or KGATE_CACHE")
        })
    }

    /// Where locks and journals of lab hosts are.
    pub(crate) fn lab_state(&self) -> Result<&Path, CommandError> {
        self.lab_state.as_deref().ok_or_else(|| {
            CommandError::usage(
                "there is no place for the state of lab hosts: neither XDG_STATE_HOME nor HOME is set",
            )
            .hint("name one with --lab-state DIR or KGATE_LAB_STATE")
        })
    }

    /// The day by which ages, deadlines and waivers are reckoned.
    pub(crate) fn today(&self) -> Date {
        self.today.unwrap_or_else(|| now().date())
    }

    /// The directory where relative paths begin.
    pub(crate) fn here() -> Result<PathBuf, CommandError> {
        Ok(env::current_dir()?)
    }

    /// Resolves a kernel reference as the user wrote it.
    pub(crate) fn kernel(&self, reference: &str) -> Result<Kernel, CommandError> {
        let parsed = Reference::parse(reference)?;
        let resolver = Resolver { cache_dir: self.cache()?.to_owned(), host: &self.host };
        resolver.resolve(&parsed).map_err(|error| {
            let is_version = reference.parse::<KernelVersion>().is_ok();
            match matches!(error, KernelError::NotFound { .. }) && is_version {
                true => CommandError::from(error)
                    .hint("a version alone is no kernel; `kgate kernel list` shows the packages that apt offers"),
                false => error.into(),
            }
        })
    }

    /// The builder of images.
    pub(crate) fn images(&self) -> Result<Builder<'_>, CommandError> {
        Ok(Builder::new(self.cache()?, &self.host))
    }

    /// The emulator on this machine.
    pub(crate) fn qemu(&self) -> Result<Qemu, CommandError> {
        Ok(Qemu::find(self.qemu.clone(), &self.host)?)
    }
}

impl From<AccelArg> for AccelChoice {
    fn from(arg: AccelArg) -> Self {
        match arg {
            AccelArg::Auto => Self::Auto,
            AccelArg::Kvm => Self::Only(Accel::Kvm),
            AccelArg::Tcg => Self::Only(Accel::Tcg),
        }
    }
}

fn default_lab_state() -> Option<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    Some(state.or_else(|| Some(home()?.join(".local/state")))?.join("kgate/lab"))
}

/// The user's home directory.
pub(crate) fn home() -> Option<PathBuf> {
    env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

fn default_cache() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache"))).map(|dir| dir.join("kgate"))
}

/// CPUs that this process may use.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Memory in bytes that new guests can have without pushing anything else out.
pub(crate) fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB"))
        .and_then(|n| n.trim().parse::<u64>().ok());
    // A controller whose memory is unknown carries one guest.
    kib.map_or(0, |kib| kib << 10)
}

/// Now, by the local clock.
pub(crate) fn now() -> Zoned {
    Zoned::now()
}
