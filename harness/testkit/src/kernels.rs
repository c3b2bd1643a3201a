//! Real kernels for tests: two Debian stable releases of one branch, as apt offers them now.
//!
//! They are looked up, never pinned, and kept in `target/kgate-test`, so that the next test, in
//! this process or another, finds them there. `Resolver { cache_dir: kernels::cache_dir(), host:
//! &TestHost }` resolves others into the same place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kgate_kernel::apt::{self, AptKernel};
use kgate_kernel::{Kernel, KernelError, Reference, Resolver};

use crate::host::TestHost;

/// Where apt keeps what it was told of; changes with every `apt-get update`.
const APT_LISTS: &str = "/var/lib/apt/lists";

/// Two releases of one branch.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The older one.
    pub baseline: Kernel,
    /// The newer one.
    pub candidate: Kernel,
    /// The package file of the older one.
    pub baseline_deb: PathBuf,
    /// The package file of the newer one.
    pub candidate_deb: PathBuf,
}

/// `target/kgate-test` of this workspace, where tests keep what is costly to fetch or make.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).join("target/kgate-test")
}

/// A baseline and a candidate. `None`, after printing `SKIP` and why, when this machine has no
/// apt, its lists name no two releases, or they can't be fetched.
///
/// ```no_run
/// let Some(pair) = kgate_testkit::kernels::pair() else { return };
/// assert_ne!(pair.baseline.release, pair.candidate.release);
/// ```
///
/// # Panics
/// When a kernel that apt fetched is refused: that is what tests are there to find.
#[must_use]
pub fn pair() -> Option<Pair> {
    told(find("pair", apt::pair))
}

/// The same of the oldest branch of which there are two releases: it boots soonest.
///
/// # Panics
/// As [`pair`].
#[must_use]
pub fn old_pair() -> Option<Pair> {
    told(find("old-pair", |kernels| {
        // They come in the order of their versions.
        kernels.iter().find_map(|oldest| {
            let branch: Vec<_> =
                kernels.iter().filter(|k| k.branch() == oldest.branch()).cloned().collect();
            apt::pair(&branch)
        })
    }))
}

fn told(found: Result<Pair, String>) -> Option<Pair> {
    found.inspect_err(|why| skip(why)).ok()
}

/// Says that a test does not run, and why.
#[expect(clippy::print_stderr, reason = "a test that does not run has to be seen")]
fn skip(why: &str) {
    eprintln!("SKIP: no real kernels for this test: {why}");
}

/// The pair that `choose` picks of what apt offers, kept in file `name`.
fn find(
    name: &str,
    choose: impl FnOnce(&[AptKernel]) -> Option<(AptKernel, AptKernel)>,
) -> Result<Pair, String> {
    let dir = cache_dir();
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let lock = File::create(dir.join(".lock")).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|e| format!("{}: {e}", dir.display()))?;
    let choice = dir.join(name);
    let [baseline, candidate] = match chosen(&choice) {
        Some(references) => references,
        None => {
            let kernels = apt::kernels(&TestHost, apt::FLAVOUR).map_err(|e| e.to_string())?;
            let (baseline, candidate) = choose(&kernels).ok_or_else(|| {
                format!(
                    "apt offers no two releases of a {} kernel; run apt-get update as root",
                    apt::FLAVOUR
                )
            })?;
            let references = [baseline.reference(), candidate.reference()];
            fs::write(&choice, references.join("\n"))
                .map_err(|e| format!("{}: {e}", choice.display()))?;
            references
        }
    };
    let (baseline, baseline_deb) = resolve(&dir, &baseline)?;
    let (candidate, candidate_deb) = resolve(&dir, &candidate)?;
    Ok(Pair { baseline, candidate, baseline_deb, candidate_deb })
}

/// The choice of an earlier test, while apt still knows no more than it did then.
fn chosen(choice: &Path) -> Option<[String; 2]> {
    let made = fs::metadata(choice).and_then(|m| m.modified()).ok()?;
    let told = fs::metadata(APT_LISTS).and_then(|m| m.modified()).ok()?;
    let text = fs::read_to_string(choice).ok().filter(|_| told < made)?;
    let (baseline, candidate) = text.split_once('\n')?;
    Some([baseline.to_owned(), candidate.to_owned()])
}

fn resolve(dir: &Path, reference: &str) -> Result<(Kernel, PathBuf), String> {
    let resolver = Resolver { cache_dir: dir.to_owned(), host: &TestHost };
    let kernel = match Reference::parse(reference).and_then(|r| resolver.resolve(&r)) {
        Ok(kernel) => kernel,
        Err(error @ (KernelError::Host { .. } | KernelError::NotOffered { .. })) => {
            return Err(error.to_string());
        }
        Err(error) => panic!("{reference}: {error}"),
    };
    let package = &kernel.origin.packages[0];
    let file = format!("{}_{}_amd64.deb", package.name, package.version.replace(':', "%3a"));
    Ok((kernel, dir.join("apt").join(file)))
}

/// A boot image around `payload`, as the kernel's build lays it out, with this version text.
///
/// # Panics
/// When the payload is larger than 4 GiB.
#[must_use]
pub fn boot_image(version: &str, payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    let body = payload.len().next_multiple_of(16);
    let length = |bytes: usize| u32::try_from(bytes).expect("a small payload");
    let mut set = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, b"MZ");
    set(0x1f1, &[1]);
    set(0x1f4, &length(body / 16).to_le_bytes());
    set(0x1fe, &[0x55, 0xaa]);
    set(0x202, b"HdrS");
    set(0x206, &0x020f_u16.to_le_bytes());
    set(0x20e, &0x100_u16.to_le_bytes());
    set(0x211, &[1]);
    set(0x236, &1_u16.to_le_bytes());
    set(0x24c, &length(payload.len()).to_le_bytes());
    set(0x300, version.as_bytes());
    image.extend_from_slice(payload);
    image.resize(0x400 + body, 0);
    image
}
