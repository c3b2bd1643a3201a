//! What of the source tree a kernel was built from, as far as its files tell.

use std::fs;
use std::path::Path;

use kgate_kernel::Kernel;
use kgate_release::Version;
use kgate_release::cve::{Kbuild, KernelFiles};

use crate::error::{CommandError, at};
use crate::library::read_bytes;
use crate::text::line;

/// No makefile is larger.
const MAX_MAKEFILE: u64 = 4 << 20;
/// Directories of a source tree that are looked at, and how deep they are.
const MAX_DIRS: usize = 100_000;
const DEPTH: usize = 16;
/// What isn't built into a kernel that kgate boots.
const ASIDE: &[&str] = &["Documentation", "LICENSES", "samples", "scripts", "tools"];
const ARCH: &str = "x86";

/// What is known.
pub(super) struct Built {
    pub(super) files: KernelFiles,
    /// How it is known, for a person.
    pub(super) basis: String,
    /// The version of the source tree.
    source: Option<Version>,
}

impl Built {
    /// By the files of a kernel, and by the makefiles of its source tree.
    pub(super) fn new(
        kernel: Option<&Kernel>,
        source: Option<&Path>,
    ) -> Result<Self, CommandError> {
        let mut files = KernelFiles::unknown();
        let mut known = Vec::new();
        let Some(kernel) = kernel else {
            if source.is_some() {
                return Err(CommandError::usage(
                    "--source needs B to be a kernel: a version has no configuration",
                )
                .hint("name B as a kernel reference, such as apt:PACKAGE=VERSION or a directory"));
            }
            let basis = "by architecture alone: name B as a kernel reference and its modules and configuration tell more";
            return Ok(Self { files, basis: basis.to_owned(), source: None });
        };
        if let Some(drivers) = kernel.modules.drivers()? {
            known.push(format!("its {} modules and built-in drivers", drivers.len()));
            files = files.with_objects(drivers.iter().map(|path| path.display().to_string()));
        }
        if let Some(config) = &kernel.config {
            known.push("its configuration".to_owned());
            let options = config.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            files = files.with_config(options);
        }
        let mut version = None;
        if let Some(dir) = source {
            if kernel.config.is_none() {
                return Err(CommandError::usage(
                    "--source needs B's configuration, and B came without",
                ));
            }
            version = Some(tree_version(dir)?);
            let mut kbuild = Kbuild::default();
            makefiles(dir, "", 0, &mut 0, &mut kbuild)?;
            known.push(format!("the makefiles of {}", line(&dir.display().to_string())));
            files = files.with_kbuild(kbuild);
        }
        let basis = match known.as_slice() {
            [] => "by architecture alone: B came without modules and configuration".to_owned(),
            [one] => format!("by {one}"),
            [first @ .., last] => format!("by {} and {last}", first.join(", ")),
        };
        Ok(Self { files, basis, source: version })
    }

    /// What is wrong with asking this tree about a kernel of this version.
    pub(super) fn note(&self, version: &Version) -> Option<String> {
        let source = self.source.filter(|source| source != version)?;
        Some(format!("the source tree is {source}, not {version}: its makefiles may differ"))
    }
}

/// The version in the top makefile.
fn tree_version(dir: &Path) -> Result<Version, CommandError> {
    let path = dir.join("Makefile");
    let text = read(&path)?;
    let value = |name: &str| {
        let mut lines = text.lines().take(50);
        let value = lines.find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='))?;
        Some(value.trim())
    };
    let version = || {
        let numbers =
            format!("{}.{}.{}", value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?);
        format!("{numbers}{}", value("EXTRAVERSION").filter(|e| e.starts_with("-rc")).unwrap_or(""))
            .parse()
            .ok()
    };
    version().ok_or_else(|| {
        CommandError::usage(format!(
            "{}: not the makefile of a kernel",
            line(&path.display().to_string())
        ))
    })
}

fn read(path: &Path) -> Result<String, CommandError> {
    Ok(String::from_utf8_lossy(&read_bytes(path, MAX_MAKEFILE)?).into_owned())
}

/// Adds the makefiles of a directory and of those below; `place` is where it is in the tree.
fn makefiles(
    dir: &Path,
    place: &str,
    depth: usize,
    seen: &mut usize,
    kbuild: &mut Kbuild,
) -> Result<(), CommandError> {
    for name in ["Makefile", "Kbuild"] {
        let path = dir.join(name);
        if path.is_file() {
            kbuild.add(place, &read(&path)?);
        }
    }
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let aside = match place {
            "" => ASIDE.contains(&name.as_str()),
            "arch" => name != ARCH,
            _ => false,
        };
        // Links are not followed: they would lead in circles.
        if !aside && !name.starts_with('.') && entry.file_type().map_err(at(dir))?.is_dir() {
            dirs.push(name);
        }
    }
    *seen += dirs.len();
    if *seen > MAX_DIRS || depth > DEPTH {
        return Err(CommandError::usage(format!(
            "{}: larger than a kernel's source tree",
            dir.display()
        )));
    }
    for name in dirs {
        let below = if place.is_empty() { name.clone() } else { format!("{place}/{name}") };
        makefiles(&dir.join(&name), &below, depth + 1, seen, kbuild)?;
    }
    Ok(())
}
