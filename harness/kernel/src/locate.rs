//! Finding the parts of a kernel in a directory, a build tree or beside a bare image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::bzimage::BzImage;
use crate::config::Config;
use crate::error::KernelError;
use crate::kernel::{self, Kernel, Origin};
use crate::modules::{Modules, module_name};
use crate::vmlinux;

/// Where installed kernels put their modules, below the root.
const MODULES_DIRS: &[&str] = &["lib/modules", "usr/lib/modules"];
/// Where a build tree puts the image.
const BUILT_IMAGE: &str = "arch/x86/boot/bzImage";
const LOOKED_FOR: &str = "boot/vmlinuz-*, lib/modules/*/vmlinuz and arch/x86/boot/bzImage";
/// A whole number of configurations fits.
const MAX_CONFIG: u64 = 16 << 20;

/// The files that make up one kernel.
struct Parts {
    image: PathBuf,
    header: BzImage,
    modules: Option<PathBuf>,
    configs: Vec<PathBuf>,
}

/// The kernel in `path`: an image, a build tree or a root directory.
pub(crate) fn at_path(
    path: &Path,
    modules: Option<&Path>,
    release: Option<&str>,
    origin: Origin,
) -> Result<Kernel, KernelError> {
    let metadata = fs::metadata(path).map_err(|e| KernelError::named(path, e))?;
    let mut parts = match metadata.is_dir() {
        true if path.join(BUILT_IMAGE).exists() => in_build_tree(path)?,
        true => in_root(path, release)?,
        false => beside_image(path)?,
    };
    if let Some(release) = release
        && release != parts.header.release
    {
        return Err(KernelError::NoSuchRelease {
            path: path.to_owned(),
            release: release.to_owned(),
            found: vec![parts.header.release],
        });
    }
    if let Some(dir) = modules {
        parts.modules = Some(in_modules_dir(dir, &parts)?);
    }
    assemble(parts, origin)
}

/// The kernel `release` as it is installed below `root`.
pub(crate) fn installed(root: &Path, release: &str, origin: Origin) -> Result<Kernel, KernelError> {
    assemble(in_root(root, Some(release))?, origin)
}

fn assemble(parts: Parts, origin: Origin) -> Result<Kernel, KernelError> {
    let Parts { image, header, modules, configs } = parts;
    let BzImage { release, banner, .. } = header;
    let config = match read_config(&configs)? {
        Some(config) => Some(config),
        // Slower; a payload that can't be unpacked is an error only for those who need it.
        None => vmlinux::extract(&image).ok().and_then(|vmlinux| vmlinux.config()),
    }
    .map(Arc::new);
    let modules = match modules {
        Some(dir) => Modules::open(&dir, &image, &release, config.clone())?,
        None => Modules::none(&image, &release, config.clone()),
    };
    let package = origin.packages.first().map(|package| package.version.as_str());
    Ok(Kernel {
        upstream: kernel::upstream(&release, &banner, package),
        sha256: sha256(&image)?,
        image,
        release,
        banner,
        config,
        modules,
        origin,
    })
}

fn in_build_tree(tree: &Path) -> Result<Parts, KernelError> {
    let image = tree.join(BUILT_IMAGE);
    let header = BzImage::read(&image)?;
    let named = tree.join("include/config/kernel.release");
    if let Some(text) = read_text(&named)?
        && text.trim() != header.release
    {
        return Err(KernelError::OtherRelease {
            path: tree.to_owned(),
            image,
            release: header.release,
            found: vec![text.trim().to_owned()],
        });
    }
    Ok(Parts { image, header, modules: Some(tree.to_owned()), configs: vec![tree.join(".config")] })
}

fn in_root(root: &Path, release: Option<&str>) -> Result<Parts, KernelError> {
    let mut images = Vec::new();
    for path in entries(&root.join("boot"))? {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(suffix) = name.strip_prefix("vmlinuz-")
            && !suffix.ends_with(".old")
            && path.is_file()
        {
            images.push((suffix.to_owned(), path));
        }
    }
    let module_dirs = module_dirs(root)?;
    for (name, dir) in &module_dirs {
        let image = dir.join("vmlinuz");
        if image.is_file() && !images.iter().any(|(other, _)| other == name) {
            images.push((name.clone(), image));
        }
    }
    images.sort();
    let names = || images.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let image = match (release, images.as_slice()) {
        (_, []) => {
            return Err(KernelError::NoKernel {
                path: root.to_owned(),
                looked_for: LOOKED_FOR,
                advice: String::new(),
            });
        }
        (None, [(_, image)]) => image.clone(),
        (None, _) => {
            return Err(KernelError::SeveralKernels { path: root.to_owned(), releases: names() });
        }
        (Some(release), _) => match images.iter().find(|(name, _)| name == release) {
            Some((_, image)) => image.clone(),
            None => {
                return Err(KernelError::NoSuchRelease {
                    path: root.to_owned(),
                    release: release.to_owned(),
                    found: names(),
                });
            }
        },
    };
    let header = BzImage::read(&image)?;
    let modules = match module_dirs.get(&header.release) {
        Some(dir) => Some(dir.clone()),
        None if module_dirs.is_empty() => None,
        None => {
            return Err(KernelError::OtherRelease {
                path: root.join(MODULES_DIRS[0]),
                image,
                release: header.release,
                found: module_dirs.into_keys().collect(),
            });
        }
    };
    let mut configs = vec![root.join("boot").join(format!("config-{}", header.release))];
    configs.extend(modules.iter().map(|dir| dir.join("config")));
    Ok(Parts { image, header, modules, configs })
}

fn beside_image(image: &Path) -> Result<Parts, KernelError> {
    let header = BzImage::read(image)?;
    let dir = image.parent().unwrap_or(Path::new(""));
    let configs = vec![dir.join(format!("config-{}", header.release))];
    Ok(Parts { image: image.to_owned(), header, modules: None, configs })
}

/// The modules in a directory that the user names: `lib/modules/RELEASE` itself, a directory with
/// `lib/modules` in it, or a build tree.
fn in_modules_dir(dir: &Path, parts: &Parts) -> Result<PathBuf, KernelError> {
    let release = &parts.header.release;
    let other = |found| KernelError::OtherRelease {
        path: dir.to_owned(),
        image: parts.image.clone(),
        release: release.clone(),
        found,
    };
    if !fs::metadata(dir).map_err(|e| KernelError::io("read", dir, e))?.is_dir() {
        let detail = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(KernelError::io("read", dir, detail));
    }
    let mut installed = module_dirs(dir)?;
    for path in entries(dir)? {
        // The directory that holds the releases.
        if path.join("modules.order").is_file() || path.join("kernel").is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            installed.entry(name).or_insert(path);
        }
    }
    if let Some(found) = installed.remove(release) {
        return Ok(found);
    }
    if let Some(text) = read_text(&dir.join("include/config/kernel.release"))? {
        return if text.trim() == release {
            Ok(dir.to_owned())
        } else {
            Err(other(vec![text.trim().to_owned()]))
        };
    }
    let is_modules = dir.join("modules.order").is_file()
        || dir.join("kernel").is_dir()
        || entries(dir)?.iter().any(|path| module_name(path).is_some());
    match is_modules {
        // Its name need not be the release; each module says what it was built for.
        true => Ok(dir.to_owned()),
        false => Err(other(installed.into_keys().collect())),
    }
}

fn module_dirs(root: &Path) -> Result<BTreeMap<String, PathBuf>, KernelError> {
    let mut found = BTreeMap::new();
    for dir in MODULES_DIRS {
        for path in entries(&root.join(dir))? {
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && path.is_dir()
            {
                found.entry(name.to_owned()).or_insert(path.clone());
            }
        }
    }
    Ok(found)
}

/// What a directory holds, in order; nothing when there is no such directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let read = match fs::read_dir(dir) {
        Ok(read) => read,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(KernelError::io("read", dir, e)),
    };
    let mut paths = read
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| KernelError::io("read", dir, e))?;
    paths.sort();
    Ok(paths)
}

fn read_config(paths: &[PathBuf]) -> Result<Option<Config>, KernelError> {
    for path in paths {
        if let Some(text) = read_text(path)? {
            return Ok(Some(Config::parse(&text)));
        }
    }
    Ok(None)
}

fn read_text(path: &Path) -> Result<Option<String>, KernelError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(KernelError::io("read", path, e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut bytes).map_err(|e| KernelError::io("read", path, e))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String, KernelError> {
    let io = |e| KernelError::io("read", path, e);
    let mut file = File::open(path).map_err(io)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
