//! Makes images and keeps them: resolve, download, unpack, complete, pack, move into the cache.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use kgate_model::host::Host;
use serde::{Deserialize, Serialize};

use crate::apt::{Apt, Failure, hash, sha256};
use crate::busybox::{self, Busybox};
use crate::deb;
use crate::error::ImageError;
use crate::glob::Globs;
use crate::recipe::Recipe;
use crate::squashfs;
use crate::tree::Tree;

pub use crate::apt::Package;

/// Part of every image's key: raise it when the same packages would give a different image.
const VERSION: u32 = 1;

/// Packages that every image has. `usr-is-merged` stands in for a program that would merge /bin
/// into /usr/bin at installation; the tree is merged from the start.
const IMPLIED: &[&str] = &["base-files", "base-passwd", "libc-bin", MERGED];
const MERGED: &str = "usr-is-merged";
/// Unpacked before the others, because they lay out the root.
const FIRST: &str = "base-files";

/// Left out of every image: what nobody reads in a guest.
const UNUSED: &[&str] = &[
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/bash-completion",
    "/usr/share/zsh",
    "/usr/lib/systemd",
];

/// Links that merge the root into /usr, made before anything is unpacked.
const MERGE: &[(&str, &str)] =
    &[("/bin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/sbin", "usr/sbin")];

/// Directories that a guest needs to be there.
const DIRS: &[(&str, u16)] = &[
    ("/dev", 0o755),
    ("/mnt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
];

/// Files that maintainer scripts would have copied from a master, where they are missing.
const COPIES: &[(&str, &str)] = &[
    ("/etc/group", "/usr/share/base-passwd/group.master"),
    ("/etc/nsswitch.conf", "/usr/share/libc-bin/nsswitch.conf"),
    ("/etc/passwd", "/usr/share/base-passwd/passwd.master"),
    ("/etc/profile", "/usr/share/base-files/profile"),
];

/// Files that an installer would have written, where they are missing.
const FILES: &[(&str, &str)] = &[
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
];

/// Links that maintainer scripts would have made, where they are missing and the target is there.
const LINKS: &[(&str, &str)] = &[("/usr/bin/sh", "dash"), ("/usr/bin/sh", "bash")];

/// Where a link may lead though the image has nothing there: what exists only in a running guest.
const RUNTIME: &[&str] = &["/dev/", "/proc/", "/run/", "/sys/", "/tmp/"];

/// Makes images in a cache directory.
pub struct Builder<'a> {
    cache_dir: &'a Path,
    host: &'a dyn Host,
}

/// A guest image in the cache.
#[derive(Clone, Debug)]
pub struct Image {
    /// The squashfs.
    pub path: PathBuf,
    /// Checksum of the squashfs.
    pub sha256: String,
    /// What it was made of.
    pub manifest: Manifest,
}

/// What an image was made of; it lies beside the squashfs as `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The image's name.
    pub name: String,
    /// What the image is for.
    pub summary: String,
    /// Key in the cache: sha256 over recipe, exact packages and builder version.
    pub key: String,
    /// Checksum of the squashfs.
    pub sha256: String,
    /// Size of the squashfs in bytes.
    pub bytes: u64,
    /// Version of the builder.
    pub builder: u32,
    /// All packages, sorted by name.
    pub packages: Vec<Package>,
}

impl<'a> Builder<'a> {
    /// A builder that keeps everything below `cache_dir`, which is made when it is missing, and
    /// starts apt through `host`. Any number of builders may share a cache.
    pub fn new(cache_dir: &'a Path, host: &'a dyn Host) -> Self {
        Self { cache_dir, host }
    }

    /// The image of `recipe` with the packages that apt offers now, from the cache when it was
    /// made before.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn build(&self, recipe: &Recipe) -> Result<Image, ImageError> {
        let cache = self.cache()?;
        let apt = Apt::new(self.host, &cache)?;
        let packages = resolve(&apt, recipe)?;
        if let Some(image) = cached(&cache, recipe, &packages) {
            return Ok(image);
        }
        let (packages, debs) = match apt.download(&packages) {
            Ok(debs) => (packages, debs),
            // Lists that are older than the archive name files that are no longer there.
            Err(Failure::Refused(first)) => {
                let fail = |detail| ImageError::Download { image: recipe.name.clone(), detail };
                apt.update().map_err(|failure| words(failure, |_| fail(first)))?;
                let packages = resolve(&apt, recipe)?;
                if let Some(image) = cached(&cache, recipe, &packages) {
                    return Ok(image);
                }
                let debs = apt.download(&packages).map_err(|failure| words(failure, fail))?;
                (packages, debs)
            }
            Err(Failure::Other(error)) => return Err(error),
        };
        store(&cache, recipe, packages, &debs)
    }

    /// The base userland: the controller's own busybox when it is static, else the one of Debian's
    /// package, which is fetched.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn base_userland(&self) -> Result<Busybox, ImageError> {
        match busybox::load(Path::new(busybox::INSTALLED), self.host) {
            Ok(busybox) => Ok(busybox),
            Err(local) => self
                .packaged_busybox()
                .map_err(|fetched| ImageError::Busybox { detail: format!("{local}; {fetched}") }),
        }
    }

    fn packaged_busybox(&self) -> Result<Busybox, ImageError> {
        let cache = self.cache()?;
        let apt = Apt::new(self.host, &cache)?;
        let fail = |detail| ImageError::Download { image: "base".to_owned(), detail };
        let wanted = [busybox::PACKAGE.to_owned()];
        let mut packages = apt.resolve(&wanted);
        if let Err(Failure::Refused(_)) = packages {
            apt.update().map_err(|failure| words(failure, fail))?;
            packages = apt.resolve(&wanted);
        }
        let mut packages = packages.map_err(|failure| words(failure, fail))?;
        packages.retain(|package| package.name == busybox::PACKAGE);
        let debs = apt.download(&packages).map_err(|failure| words(failure, fail))?;
        let spool = tempfile::tempfile_in(&cache).map_err(ImageError::io("write to", &cache))?;
        let mut tree = Tree::new(spool);
        for deb in &debs {
            unpack(&mut tree, deb)?;
        }
        let bytes = ["bin/busybox", "usr/bin/busybox"]
            .iter()
            .find_map(|path| tree.read(Path::new(path), 64 << 20).transpose())
            .transpose()
            .map_err(ImageError::io("read", &cache))?
            .ok_or_else(|| ImageError::Busybox {
                detail: format!("package {} has no busybox", busybox::PACKAGE),
            })?;
        let path = cache.join(format!("busybox-{}", hash(&bytes)));
        write_program(&cache, &path, &bytes).map_err(ImageError::io("write", &path))?;
        busybox::load(&path, self.host)
    }

    fn cache(&self) -> Result<PathBuf, ImageError> {
        fs::create_dir_all(self.cache_dir)
            .and_then(|()| fs::canonicalize(self.cache_dir))
            .map_err(ImageError::io("create", self.cache_dir))
    }
}

fn words(failure: Failure, error: impl FnOnce(String) -> ImageError) -> ImageError {
    match failure {
        Failure::Refused(detail) => error(detail),
        Failure::Other(error) => error,
    }
}

/// The packages of `recipe`, with newer lists when the present ones do not have them.
fn resolve(apt: &Apt<'_>, recipe: &Recipe) -> Result<Vec<Package>, ImageError> {
    let mut wanted = recipe.packages.clone();
    for implied in IMPLIED {
        if !wanted.iter().any(|package| package.split('=').next() == Some(*implied)) {
            wanted.push((*implied).to_owned());
        }
    }
    let mut updated = false;
    loop {
        let detail = match apt.resolve(&wanted) {
            Ok(packages) => return Ok(packages),
            Err(Failure::Other(error)) => return Err(error),
            Err(Failure::Refused(detail)) => detail,
        };
        if updated {
            // Distributions that merged long ago have no such package any more.
            if !detail.contains(MERGED) || wanted.last().is_none_or(|last| last != MERGED) {
                return Err(ImageError::Resolve { image: recipe.name.clone(), detail });
            }
            wanted.pop();
        } else if apt.update().is_err() {
            // Without a network the first answer says more.
            return Err(ImageError::Resolve { image: recipe.name.clone(), detail });
        }
        updated = true;
    }
}

/// The name under which `recipe` with `packages` is kept.
fn key(recipe: &Recipe, packages: &[Package]) -> String {
    // Strings and maps of strings always have a JSON form.
    hash(serde_json::to_vec(&(VERSION, recipe, packages)).unwrap_or_default())
}

fn image_dir(cache: &Path, key: &str) -> PathBuf {
    cache.join("images").join(key)
}

/// An image made before, when it is complete.
fn cached(cache: &Path, recipe: &Recipe, packages: &[Package]) -> Option<Image> {
    let dir = image_dir(cache, &key(recipe, packages));
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(dir.join("manifest.json")).ok()?).ok()?;
    let path = dir.join("image.squashfs");
    let whole = fs::metadata(&path).ok()?.len() == manifest.bytes;
    whole.then(|| Image { path, sha256: manifest.sha256.clone(), manifest })
}

/// Makes the image aside and moves it into its place.
fn store(
    cache: &Path,
    recipe: &Recipe,
    packages: Vec<Package>,
    debs: &[PathBuf],
) -> Result<Image, ImageError> {
    let images = cache.join("images");
    fs::create_dir_all(&images).map_err(ImageError::io("create", &images))?;
    let aside = tempfile::Builder::new()
        .prefix(".build-")
        .tempdir_in(&images)
        .map_err(ImageError::io("create a directory in", &images))?;

    let spool = tempfile::tempfile_in(&images).map_err(ImageError::io("write to", &images))?;
    let mut tree = Tree::new(spool);
    begin(&mut tree).map_err(content(recipe))?;
    let is_first = |package: &Package| package.name == FIRST;
    for first in [true, false] {
        let turn = packages.iter().zip(debs).filter(|(package, _)| is_first(package) == first);
        for (_, deb) in turn {
            unpack(&mut tree, deb)?;
        }
    }
    complete(&mut tree, recipe).map_err(content(recipe))?;

    let path = aside.path().join("image.squashfs");
    let file = File::create(&path).map_err(ImageError::io("create", &path))?;
    squashfs::pack(&tree, BufWriter::with_capacity(1 << 20, file)).map_err(|detail| {
        ImageError::Content { image: recipe.name.clone(), detail: format!("packing: {detail}") }
    })?;
    // An image counts as complete by its size, so its content has to be on the disk first.
    File::open(&path).and_then(|file| file.sync_all()).map_err(ImageError::io("write", &path))?;
    let key = key(recipe, &packages);
    let manifest = Manifest {
        name: recipe.name.clone(),
        summary: recipe.summary.clone(),
        key: key.clone(),
        sha256: sha256(&path).map_err(ImageError::io("read", &path))?,
        bytes: fs::metadata(&path).map_err(ImageError::io("read", &path))?.len(),
        builder: VERSION,
        packages,
    };
    let manifest_path = aside.path().join("manifest.json");
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    fs::write(&manifest_path, text).map_err(ImageError::io("write", &manifest_path))?;

    let dir = image_dir(cache, &key);
    if let Err(error) = fs::rename(aside.path(), &dir) {
        // Another builder was here first, with the same content; or an incomplete image is.
        if let Some(image) = cached(cache, recipe, &manifest.packages) {
            return Ok(image);
        }
        fs::remove_dir_all(&dir).map_err(|_| ImageError::io("create", &dir)(error))?;
        fs::rename(aside.path(), &dir).map_err(ImageError::io("create", &dir))?;
    }
    drop(aside.keep());
    let path = dir.join("image.squashfs");
    Ok(Image { path, sha256: manifest.sha256.clone(), manifest })
}

/// Adds the files of a package.
fn unpack(tree: &mut Tree, deb: &Path) -> Result<(), ImageError> {
    let file = File::open(deb).map_err(ImageError::io("read", deb))?;
    deb::data_tar(file).and_then(|data| tree.unpack(data)).map_err(|error| ImageError::Package {
        package: deb.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        detail: error.to_string(),
    })
}

fn content(recipe: &Recipe) -> impl Fn(io::Error) -> ImageError {
    |error| ImageError::Content { image: recipe.name.clone(), detail: error.to_string() }
}

/// What has to be there before the first package.
fn begin(tree: &mut Tree) -> io::Result<()> {
    for (link, target) in MERGE {
        tree.add_dir(&Path::new("/").join(target), 0o755)?;
        tree.add_symlink(Path::new(link), Path::new(target))?;
    }
    Ok(())
}

/// What maintainer scripts would have done, what the recipe says, and what it leaves out.
fn complete(tree: &mut Tree, recipe: &Recipe) -> io::Result<()> {
    for (dir, mode) in DIRS {
        tree.add_dir(Path::new(dir), *mode)?;
    }
    for (path, text) in &recipe.files {
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        tree.add_file(Path::new(path), mode, text.as_bytes())?;
    }
    for (path, target) in &recipe.links {
        tree.add_symlink(Path::new(path), Path::new(target))?;
    }
    for (path, master) in COPIES {
        if tree.get(Path::new(path)).is_none()
            && let Some(bytes) = tree.read(Path::new(master), 1 << 20)?
        {
            tree.add_file(Path::new(path), 0o644, bytes.as_slice())?;
        }
    }
    for (path, text) in FILES {
        if tree.get(Path::new(path)).is_none() {
            tree.add_file(Path::new(path), 0o644, text.as_bytes())?;
        }
    }
    for (path, target) in LINKS {
        let there = Path::new(path).with_file_name(target);
        if tree.get(Path::new(path)).is_none() && tree.get(&there).is_some() {
            tree.add_symlink(Path::new(path), Path::new(target))?;
        }
    }
    let patterns = UNUSED.iter().copied().chain(recipe.strip.iter().map(String::as_str));
    tree.prune(&Globs::new(patterns).map_err(io::Error::other)?);
    for (path, target) in &recipe.links {
        let runtime = RUNTIME.iter().any(|dir| target.starts_with(dir));
        if !runtime && tree.get(Path::new(path)).is_none() {
            let text = format!("link {path} leads to {target}, which is not in the image");
            return Err(io::Error::other(text));
        }
    }
    Ok(())
}

/// Writes an executable file aside and moves it to `path`.
fn write_program(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests;
