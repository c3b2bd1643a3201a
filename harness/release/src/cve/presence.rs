//! Whether a kernel has what a CVE is in. What can't be shown to be absent counts as there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::kbuild::Kbuild;

/// Architecture of all kernels that kgate boots, as its directory is called.
const ARCH: &str = "x86";
/// What a source tree has beside the kernel.
const BESIDE: &[&str] = &["Documentation/", "tools/testing/", "tools/perf/"];
/// Where drivers are before they are good enough for a place of their own.
const STAGING: &str = "drivers/staging";
/// Directories in which each directory is a driver or a family of drivers that can be modules: if none
/// of a kernel's modules and built-in drivers is from it, the kernel has nothing of it.
const FAMILIES: &str = include_str!("families.txt");
/// File systems and protocols that have a directory, with their option.
const OPTIONS: &str = include_str!("options.txt");

/// What of the source tree a kernel was built from, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct KernelFiles {
    /// Modules and what could have been one, without ending: `drivers/net/tun`; none when there is no
    /// complete list of both.
    objects: Option<BTreeSet<String>>,
    /// The configuration.
    config: Option<BTreeMap<String, String>>,
    /// The makefiles of its source tree.
    kbuild: Option<Kbuild>,
}

/// How it is known that a kernel doesn't have a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// It is another architecture's.
    Architecture,
    /// It is no part of a kernel: documentation, tests, tools.
    Beside,
    /// No module and no built-in driver of the kernel is from its directory.
    Modules,
    /// The option named after its directory is off.
    Option,
    /// By the makefiles, the options that build it are off.
    Makefiles,
}

/// Why a kernel doesn't have what a CVE is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Absence {
    /// How it is known.
    pub method: Method,
    /// The architecture, the directory or the options.
    pub what: String,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match self.method {
            Method::Architecture => write!(f, "only in arch/{what}"),
            Method::Beside => write!(f, "in {what}, no part of a kernel"),
            Method::Modules => write!(f, "no module or built-in driver is from {what}"),
            Method::Option | Method::Makefiles => write!(f, "{what} is off"),
        }
    }
}

impl KernelFiles {
    /// Of a kernel nothing is known but its architecture.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Adds all modules and all built-in drivers, by their paths below `lib/modules/RELEASE`:
    /// `kernel/drivers/net/tun.ko.xz`.
    #[must_use]
    pub fn with_objects(mut self, paths: impl IntoIterator<Item = String>) -> Self {
        let object = |path: String| {
            let path = path.strip_prefix("kernel/").unwrap_or(&path);
            let end = path.find(".ko").unwrap_or(path.len());
            path[..end].to_owned()
        };
        self.objects = Some(paths.into_iter().map(object).collect());
        self
    }

    /// Adds the configuration: options without `CONFIG_`, with their values.
    #[must_use]
    pub fn with_config(mut self, options: impl IntoIterator<Item = (String, String)>) -> Self {
        self.config = Some(options.into_iter().collect());
        self
    }

    /// Adds the makefiles of the source tree that the kernel was built from.
    #[must_use]
    pub fn with_kbuild(mut self, kbuild: Kbuild) -> Self {
        self.kbuild = Some(kbuild);
        self
    }

    /// Why the kernel has none of these files; `None` when it has one, when that can't be told, or when
    /// there is no file.
    #[must_use]
    pub fn absence(&self, files: &[String]) -> Option<Absence> {
        let mut absences = files.iter().map(|file| self.absent(file));
        let first = absences.next()??;
        // Of several reasons the one that says most of the kernel.
        absences.try_fold(first, |most, absence| Some(most.max(absence?)))
    }

    fn absent(&self, file: &str) -> Option<Absence> {
        let because = |method, what: &str| Some(Absence { method, what: what.to_owned() });
        if let Some(arch) = file.strip_prefix("arch/").and_then(|rest| rest.split('/').next())
            && arch != ARCH
            && file.len() > "arch/".len() + arch.len()
        {
            return because(Method::Architecture, arch);
        }
        if let Some(beside) = BESIDE.iter().find(|beside| file.starts_with(**beside)) {
            return because(Method::Beside, beside.trim_end_matches('/'));
        }
        if let (Some(kbuild), Some(config)) = (&self.kbuild, &self.config) {
            let options = kbuild.missing(file, &|option| is_on(config, option))?;
            let names: Vec<_> = options.iter().map(|option| format!("CONFIG_{option}")).collect();
            return because(Method::Makefiles, &names.join(" "));
        }
        if let Some(family) = self.family(file) {
            return because(Method::Modules, family);
        }
        let options = self.off_by_directory(file)?;
        because(Method::Option, &options)
    }

    /// The directory of drivers that the file is in and the kernel has nothing of.
    fn family<'f>(&self, file: &'f str) -> Option<&'f str> {
        let objects = self.objects.as_ref()?;
        let mut dirs = file.match_indices('/').map(|(at, _)| &file[..at]);
        let family = dirs.find(|dir| {
            let (above, name) = dir.rsplit_once('/').unwrap_or_default();
            let below = format!("{dir}/");
            let first = objects.range(below.clone()..).next();
            lines(FAMILIES).any(|family| matches(family, above))
                && !lines(FAMILIES).any(|row| row.strip_prefix('-') == Some(*dir))
                && !first.is_some_and(|next| next.starts_with(&below))
                && !name.is_empty()
        })?;
        (!self.may_have_moved(file, family)).then_some(family)
    }

    /// Whether there is something of the name of the file or of its directory elsewhere: records name
    /// files as they are called in mainline, and in this kernel they may have been somewhere else.
    fn may_have_moved(&self, file: &str, family: &str) -> bool {
        let name = |path: &str| {
            let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
            name.split('.').next().unwrap_or(name).replace('-', "_")
        };
        let top = |path: &str| path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        let (stem, directory, place) = (name(file), name(family), top(family));
        let like = |one: &str, known: &str| {
            one.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        self.objects.iter().flatten().any(|object| {
            let near = [&*top(object), &*place].contains(&STAGING) || top(object) == place;
            like(&name(object), &stem)
                || near && object.split('/').any(|part| like(&part.replace('-', "_"), &directory))
        })
    }

    /// The options of the file's directory, if all are off.
    fn off_by_directory(&self, file: &str) -> Option<String> {
        let config = self.config.as_ref()?;
        let rows = lines(OPTIONS).filter_map(|line| line.split_once(' '));
        let mut rows = rows
            .filter(|(dir, _)| file.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')));
        let (_, options) =
            rows.find(|(_, options)| options.split(' ').all(|option| !is_on(config, option)))?;
        let names: Vec<_> = options.split(' ').map(|option| format!("CONFIG_{option}")).collect();
        Some(names.join(" "))
    }
}

fn is_on(config: &BTreeMap<String, String>, option: &str) -> bool {
    config.get(option).is_some_and(|value| value == "y" || value == "m")
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Whether a directory is the one that a row means; `*` is any one directory.
fn matches(row: &str, dir: &str) -> bool {
    let (mut row, mut dir) = (row.split('/'), dir.split('/'));
    loop {
        match (row.next(), dir.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}
