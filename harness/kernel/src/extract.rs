//! Unpacking kernel packages into the cache: only the files that make up a kernel, never a link or
//! a device, never outside the target, and never half.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::compress::{self, Format};
use crate::error::KernelError;
use crate::modules::{Modules, debug_name};
use crate::{deb, locate, rpm};

/// More than any kernel with its modules and their debug information.
const MAX_UNPACKED: u64 = 8 << 30;
const MAX_ENTRIES: usize = 200_000;
/// Names in a package are at most as long as a path may be.
pub(crate) const MAX_NAME: u64 = 4096;

/// What a package says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PackageInfo {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) depends: Vec<Dependency>,
}

/// A package that another one needs, in exactly this version where it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
}

impl Dependency {
    /// Whether the package holds a part of the kernel: its image or its modules.
    pub(crate) fn is_kernel_part(&self) -> bool {
        const PARTS: &[&str] = &["linux-image-", "linux-modules-", "linux-binary-", "linux-base-"];
        let debian = PARTS.iter().any(|part| {
            self.name
                .strip_prefix(part)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        debian || self.name.starts_with("kernel-modules") || self.name.starts_with("kernel-core")
    }
}

/// Reads what the package at `path` says of itself.
pub(crate) fn info(path: &Path) -> Result<PackageInfo, KernelError> {
    match is_rpm(path) {
        true => rpm::info(path),
        false => deb::info(path),
    }
}

/// Reads the changelog that the package at `path` carries, unpacked, chunk by chunk; `false` when it
/// carries none.
pub(crate) fn changelog(path: &Path, each: &mut dyn FnMut(&[u8])) -> Result<bool, KernelError> {
    if is_rpm(path) {
        return Ok(false);
    }
    deb::changelog(path, each)
}

fn is_rpm(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rpm")
}

/// The directory in `cache` that holds the unpacked `packages`, each given with its SHA-256. What
/// is there was unpacked completely.
pub(crate) fn unpacked(
    cache: &Path,
    packages: &[(PathBuf, String)],
) -> Result<PathBuf, KernelError> {
    let digest = match packages {
        [(_, digest)] => digest.clone(),
        several => {
            let all: String = several.iter().map(|(_, digest)| digest.as_str()).collect();
            locate::hex(&Sha256::digest(all))
        }
    };
    let kernels = cache.join("kernels");
    let target = kernels.join(digest);
    if target.is_dir() {
        return Ok(target);
    }
    let _lock = lock(&kernels)?;
    if target.is_dir() {
        return Ok(target);
    }
    let dir = temporary(&kernels)?;
    let mut tree = Tree::new(dir.path(), Selection::Kernel);
    for (path, _) in packages {
        unpack(path, &mut tree)?;
    }
    write_aliases(dir.path())?;
    let dir = dir.keep();
    fs::rename(&dir, &target).map_err(|e| KernelError::io("write", &target, e))?;
    Ok(target)
}

fn unpack(path: &Path, tree: &mut Tree) -> Result<(), KernelError> {
    path.clone_into(&mut tree.package);
    match is_rpm(path) {
        true => rpm::unpack(path, tree),
        false => deb::unpack(path, tree),
    }
}

/// Names of the modules that an unpacked debug package has.
const CONTENTS: &str = "contents";

/// The directory in `cache` with the kernel of the debug package at `path`, whose SHA-256 is
/// `digest`, and with its `modules`: those that it has. They are unpacked when they are needed.
pub(crate) fn debug_package(
    cache: &Path,
    path: &Path,
    digest: &str,
    modules: &BTreeSet<String>,
) -> Result<PathBuf, KernelError> {
    let packages = cache.join("debug");
    let target = packages.join(digest);
    let _lock = lock(&packages)?;
    let dir = temporary(&packages)?;
    let io = |e| KernelError::io("write", &target, e);
    if !target.is_dir() {
        let mut tree = Tree::new(dir.path(), Selection::Debug { modules, at_most: usize::MAX });
        unpack(path, &mut tree)?;
        let names: String = tree.modules.iter().map(|name| format!("{name}\n")).collect();
        fs::write(dir.path().join(CONTENTS), names).map_err(io)?;
        fs::rename(dir.keep(), &target).map_err(io)?;
        return Ok(target);
    }
    let contents = fs::read_to_string(target.join(CONTENTS)).map_err(io)?;
    let unpacked = Modules::debug(&target.join("lib/modules"))?;
    let missing: BTreeSet<String> = contents
        .lines()
        .filter(|name| modules.contains(*name) && !unpacked.contains_key(*name))
        .map(str::to_owned)
        .collect();
    if !missing.is_empty() {
        let at_most = missing.len();
        let mut tree = Tree::new(dir.path(), Selection::Debug { modules: &missing, at_most });
        unpack(path, &mut tree)?;
        for file in Modules::debug(&dir.path().join("lib/modules"))?.into_values() {
            let Ok(name) = file.strip_prefix(dir.path()) else { continue };
            let place = target.join(name);
            fs::create_dir_all(place.parent().unwrap_or(&target)).map_err(io)?;
            fs::rename(&file, &place).map_err(io)?;
        }
    }
    Ok(target)
}

const TEMPORARY: &str = ".unfinished-";

/// SHA-256 of a package file. It is kept in `cache` for as long as the file stays as it is.
pub(crate) fn digest(cache: &Path, path: &Path) -> Result<String, KernelError> {
    let identity = || {
        let file = fs::metadata(path).map_err(|e| KernelError::named(path, e))?;
        let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
        Ok(format!("{} {} {} {times:?}", file.dev(), file.ino(), file.len()))
    };
    let before = identity()?;
    let kept = cache.join("digests").join(locate::hex(&Sha256::digest(&before)));
    if let Ok(digest) = fs::read_to_string(&kept)
        && digest.len() == 64
    {
        return Ok(digest);
    }
    let digest = locate::sha256(path)?;
    // Only saves time: whatever goes wrong here, it is computed again.
    if identity()? == before && fs::create_dir_all(cache.join("digests")).is_ok() {
        let _ = fs::write(&kept, &digest);
    }
    Ok(digest)
}

/// A directory for work that is renamed when it is done. The caller holds the lock.
pub(crate) fn temporary(dir: &Path) -> Result<tempfile::TempDir, KernelError> {
    // Whoever left these was killed: they held the lock that we hold now.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(dir)
        .map_err(|e| KernelError::io("write", dir, e))
}

/// Makes `dir` and waits for the lock on it, which is released with the file.
pub(crate) fn lock(dir: &Path) -> Result<File, KernelError> {
    let io = |e| KernelError::io("write", dir, e);
    fs::create_dir_all(dir).map_err(io)?;
    let file = File::create(dir.join(".lock")).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(file)
}

/// Packages come without the `modules.alias` that depmod makes when they are installed. Only the
/// plain names are of use here, and only soft dependencies ask for them.
fn write_aliases(root: &Path) -> Result<(), KernelError> {
    for entry in fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten() {
        let (dir, release) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let file = dir.join("modules.alias");
        if file.exists() {
            continue;
        }
        let modules = Modules::open(&dir, root, &release, None)?;
        let lines: String = modules
            .scan_aliases()
            .into_iter()
            .map(|(alias, module)| format!("alias {alias} {module}\n"))
            .collect();
        fs::write(&file, lines).map_err(|e| KernelError::io("write", &file, e))?;
    }
    Ok(())
}

/// Which files of a package are unpacked.
#[derive(Clone, Copy)]
enum Selection<'a> {
    /// Those of a kernel that boots.
    Kernel,
    /// The kernel with debug information and these modules; nothing comes after so many files.
    Debug { modules: &'a BTreeSet<String>, at_most: usize },
}

/// The unpacked files of a kernel.
pub(crate) struct Tree<'a> {
    root: PathBuf,
    package: PathBuf,
    selection: Selection<'a>,
    /// The modules of a debug package, unpacked or not.
    modules: BTreeSet<String>,
    entries: usize,
    files: usize,
    bytes: u64,
}

impl<'a> Tree<'a> {
    fn new(root: &Path, selection: Selection<'a>) -> Self {
        Self {
            root: root.to_owned(),
            package: PathBuf::new(),
            selection,
            modules: BTreeSet::new(),
            entries: 0,
            files: 0,
            bytes: 0,
        }
    }

    /// Whether no further file is wanted.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.selection, Selection::Debug { at_most, .. } if self.files >= at_most)
    }

    /// Where the file `name` of the package belongs; `None` when no kernel needs it.
    pub(crate) fn place(&mut self, name: &[u8]) -> Result<Option<PathBuf>, KernelError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(self.refuse(format!("it has more than {MAX_ENTRIES} files")));
        }
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        let mut parts = Vec::new();
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => parts.extend(part.to_str()),
                Component::ParentDir => {
                    return Err(
                        self.refuse(format!("its file {name:?} would be put outside of it"))
                    );
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let mut parts = match parts.as_slice() {
            ["usr", rest @ ..] => rest,
            all => all,
        };
        let wanted = match self.selection {
            Selection::Kernel => match parts {
                ["boot", file] => file.starts_with("vmlinuz-") || file.starts_with("config-"),
                // An uncompressed kernel is there for debuggers; build and source lead elsewhere.
                ["lib", "modules", _, first, ..] => {
                    !matches!(*first, "vmlinux" | "build" | "source")
                }
                _ => false,
            },
            Selection::Debug { modules, at_most } => {
                parts = match parts {
                    ["lib", "debug", "usr", rest @ ..] | ["lib", "debug", rest @ ..] => rest,
                    all => all,
                };
                let module = match parts {
                    ["lib", "modules", ..] => debug_name(Path::new(name)),
                    _ => None,
                };
                match (parts, module) {
                    (_, Some(module)) => {
                        let wanted = modules.contains(&module);
                        self.modules.insert(module);
                        wanted
                    }
                    // Without a bound on the number it is the kernel's turn too.
                    (["boot", file] | ["lib", "modules", _, file], None) => {
                        file.starts_with("vmlinux") && at_most == usize::MAX
                    }
                    _ => false,
                }
            }
        };
        Ok(wanted.then(|| self.root.join(parts.iter().collect::<PathBuf>())))
    }

    /// Writes one file, whose place [`place`](Self::place) has told.
    pub(crate) fn write(
        &mut self,
        place: &Path,
        mut data: impl Read,
        size: u64,
    ) -> Result<(), KernelError> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MAX_UNPACKED {
            return Err(self.refuse("it unpacks to more than 8 GiB".to_owned()));
        }
        let out = |e| KernelError::io("write", place, e);
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir).map_err(out)?;
        }
        let mut file = File::create(place).map_err(out)?;
        let mut left = size;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match data.read(&mut buffer[..want]) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            }
            .map_err(|e| KernelError::packed(&self.package, "its content", &e))?;
            file.write_all(&buffer[..n]).map_err(out)?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Gives a file a second name.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<(), KernelError> {
        let out = |e| KernelError::io("write", to, e);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).map_err(out)?;
        }
        fs::copy(from, to).map(drop).map_err(out)
    }

    fn refuse(&self, detail: String) -> KernelError {
        KernelError::Unsafe { path: self.package.clone(), detail }
    }
}

/// Decompresses `packed`, which begins with `head`, up to a bound that no package reaches.
pub(crate) fn decompress<'a>(
    path: &Path,
    head: &[u8],
    packed: impl Read + 'a,
) -> Result<Box<dyn Read + 'a>, KernelError> {
    let bound = MAX_UNPACKED + (1 << 30);
    match Format::detect(head) {
        None => Ok(Box::new(packed.take(bound))),
        Some(format) => compress::reader(format, packed)
            .map(|reader| Box::new(reader.take(bound)) as Box<dyn Read>)
            .map_err(|e| KernelError::damaged(path, format!("its content: {e}"))),
    }
}
