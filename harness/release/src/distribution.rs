//! What the version of a distribution's kernel means: whose it is, which upstream release is in it, and
//! whether that release says which fixes it has. Read are what `uname -r` prints, versions of packages,
//! upstream versions and tags.
//!
//! All knowledge is the table [`RULES`]; the first rule that fits a string counts.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::Serialize;

use crate::version::{Branch, Version, VersionError};

/// The longest version that is read. The kernel's own limit is 64.
const MAX_LENGTH: usize = 128;

/// Who made a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "their names")]
pub enum Distribution {
    /// kernel.org: a release, a candidate, or linux-next.
    Upstream,
    /// Nobody who is known: mostly somebody's own build.
    Unknown,
    Alibaba,
    Alpine,
    Alt,
    Amazon,
    Android,
    Anolis,
    Arch,
    AzureLinux,
    ChromeOs,
    ClearLinux,
    CloudLinux,
    Debian,
    ElRepo,
    Fedora,
    Flatcar,
    Gentoo,
    Kylin,
    Linuxkit,
    Liquorix,
    Mageia,
    Manjaro,
    OpenEuler,
    OpenMandriva,
    /// Oracle's Unbreakable Enterprise Kernel; its other one is Red Hat's.
    OracleUek,
    Photon,
    PopOs,
    Proxmox,
    RaspberryPi,
    /// Red Hat Enterprise Linux and those that rebuild it: CentOS, Rocky, Alma, Oracle.
    RedHat,
    Rosa,
    Solus,
    SteamOs,
    /// SUSE Linux Enterprise and openSUSE Leap.
    Suse,
    Talos,
    TencentOs,
    /// openSUSE Tumbleweed.
    Tumbleweed,
    Ubuntu,
    VoidLinux,
    Wsl,
    Xanmod,
}

impl fmt::Display for Distribution {
    /// Its name, as it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upstream => "kernel.org",
            Self::Unknown => "an unknown maker",
            Self::Alibaba => "Alibaba Cloud Linux",
            Self::Alt => "ALT Linux",
            Self::Amazon => "Amazon Linux",
            Self::Arch => "Arch Linux",
            Self::AzureLinux => "Azure Linux",
            Self::ChromeOs => "ChromeOS",
            Self::ClearLinux => "Clear Linux",
            Self::ElRepo => "ELRepo",
            Self::Linuxkit => "LinuxKit",
            Self::OpenEuler => "openEuler",
            Self::OracleUek => "Oracle",
            Self::PopOs => "Pop!_OS",
            Self::RaspberryPi => "Raspberry Pi",
            Self::RedHat => "Red Hat or one of its rebuilds",
            Self::Rosa => "ROSA Linux",
            Self::SteamOs => "SteamOS",
            Self::Suse => "SUSE",
            Self::Tumbleweed => "openSUSE Tumbleweed",
            Self::VoidLinux => "Void Linux",
            Self::Wsl => "WSL",
            Self::Xanmod => "XanMod",
            plain => return fmt::Debug::fmt(plain, f),
        })
    }
}

/// Whether the upstream release in a kernel says which of the stable branch's fixes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fixes {
    /// It takes the stable branch as a whole.
    Stable,
    /// Nothing is known of who made it; its number is taken at its word.
    Unknown,
    /// Its maker picks fixes by hand, on top of an old release.
    Vendor,
}

/// What a version string means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelVersion {
    /// As it was written.
    pub text: String,
    /// Whose kernel it is.
    pub distribution: Distribution,
    /// The branch; only a linux-next without a version is on none.
    pub branch: Option<Branch>,
    /// The upstream release in it, where the string proves it. `6.1.0-56-amd64` doesn't: the 0 there is
    /// that of every kernel of the branch.
    pub upstream: Option<Version>,
    /// What modules of it must agree with: `56`.
    pub abi: Option<String>,
    /// Which packaging of the same release: `2` of `6.1.192-2`.
    pub revision: Option<String>,
    /// Which of several builds: `cloud-amd64`, `x86_64`.
    pub flavour: Option<String>,
    /// Which fixes are in it.
    pub fixes: Fixes,
}

use Distribution as D;
use Fixes::{Stable, Unknown, Vendor};

/// Patterns that stand in several rules.
const PARTS: &[(&str, &str)] = &[
    ("{OWN}", r"(?<flavour>\+|[-+_.][\w.+-]*\w\+?)"),
    // A release that is what it says, and one where only the branch is meant.
    ("{V}", r"(?<up>\d+\.\d+(?:\.\d+){0,2}(?:[-~]rc\d+)?)"),
    ("{Z}", r"(?<up>\d+\.\d+\.[1-9]\d*)"),
    ("{R}", r"(?<up>\d+\.\d+(?:\.[1-9]\d*|-rc\d+))"),
    ("{B}", r"(?<base>\d+\.\d+(?:\.\d+)?)"),
    (
        "{ARCH}",
        r"(?:\.(?<flavour>(?:x86_64|aarch64|ppc64le|s390x|i[36]86|armv7hl|riscv64|loongarch64)(?:[.+]\w+)*))?",
    ),
    (
        "{DEB}",
        r"(?<flavour>(?:cloud-|rt-)*(?:amd64|arm64|686|armmp|marvell|rpi|s390x|powerpc64le|ppc64el|mips64el|octeon|loongson-3|riscv64|4kc-malta|5kc-malta)(?:-16k|-pae|-lpae|-rt)?)",
    ),
    (
        "{UBU}",
        r"(?<flavour>(?:generic|lowlatency|virtual|server|aws|azure|gcp|gke|gkeop|ibm|kvm|oracle|oem|raspi2?|realtime|nvidia|fips|bluefield|intel|iot|xilinx|laptop|starfive|riscv|snapdragon|rt)(?:-[a-z0-9]+)*)",
    ),
];

/// Whose strings look how, and what they mean. Groups: `up` is an upstream release, `base` no more than
/// a branch, `rc` the number of a candidate, then `abi`, `revision`, `flavour`.
const RULES: &[(Distribution, Fixes, &str)] = &[
    (D::Upstream, Stable, r"v?{V}"),
    (D::Upstream, Unknown, r"(?:{B}(?:-rc\d+)?-)?(?<revision>next-\d{8})"),
    (D::RaspberryPi, Stable, r"{V}\+rpt-(?<flavour>rpi-\w+)"),
    (D::RaspberryPi, Stable, r"{V}-(?<revision>\d+(?:~\w+)?\+rpt\d+)"),
    (D::RaspberryPi, Stable, r"{Z}-(?<flavour>v[678]l?(?:-16k)?)\+"),
    // Debian: an ABI name, then names with the release itself, then packages.
    (D::Debian, Stable, r"{B}-(?<abi>\d+(?:\.(?:bpo|deb\d+)\.\d+)?)-{DEB}"),
    (D::Debian, Stable, r"{R}(?<revision>\+(?:deb|bpo)\d*(?:\.\d+)?)?-{DEB}"),
    (D::Debian, Stable, r"{Z}-(?<revision>\d+(?:[~+](?:bpo|deb|exp|b)[\d.]*(?:[u+]\d+)?)*)"),
    (D::Debian, Stable, r"{V}-(?<revision>\d+(?:[~+](?:bpo|deb|exp)[\d.]*(?:[u+]\d+)?)+)"),
    // Ubuntu: builds of upstream for testing, its own kernels, their packages.
    (D::Ubuntu, Stable, r"{V}-(?<abi>0\d{5})-{UBU}"),
    (D::Ubuntu, Unknown, r"(?<base>\d+\.\d+\.0)-(?<abi>0\d{5}(?:rc(?<rc>\d+)|daily\d+))-{UBU}"),
    (D::PopOs, Stable, r"{Z}-(?<abi>76\d+)-(?<flavour>generic)"),
    (D::PopOs, Stable, r"{B}-(?<abi>76\d+(?:daily\d+)?)-(?<flavour>generic)"),
    (D::Ubuntu, Stable, r"{B}-(?<abi>\d+)-{UBU}"),
    (D::Ubuntu, Stable, r"(?<base>\d+\.\d+\.0)-(?<abi>\d+)\.(?<revision>\d+(?:[~+][\w.~+]+)?)"),
    (D::Ubuntu, Stable, r"(?<base>\d+\.\d+\.0)\.(?<abi>\d+)\.(?<revision>\d+(?:[~+][\w.~+]+)?)"),
    // RPM: who builds on Red Hat's names comes before Red Hat.
    (D::ElRepo, Stable, r"{V}-(?<revision>\d+)\.el\d+\.elrepo{ARCH}"),
    (D::OracleUek, Stable, r"{B}-(?<revision>\d[\d.]*)\.el\d+(?:_\d+)?uek(?:next)?{ARCH}"),
    (D::CloudLinux, Vendor, r"{B}-(?<revision>\d[\w.]*)\.lve(?:[\d.]*)?\.el[\w.]*?{ARCH}"),
    (D::RedHat, Vendor, r"{B}-(?<revision>\d[\w.]*)\.el\d+[\w.]*?{ARCH}"),
    (
        D::Fedora,
        Unknown,
        r"(?<base>\d+\.\d+\.0)-(?<revision>0\.rc(?<rc>\d+)\.[\w.]*?)\.fc\d+{ARCH}",
    ),
    (D::Fedora, Stable, r"{V}-(?<revision>\d+(?:\.\w+)*?)\.fc\d+{ARCH}"),
    (D::Amazon, Stable, r"{V}-(?<revision>\d[\d.]*)\.amzn\d+{ARCH}"),
    (
        D::AzureLinux,
        Stable,
        r"(?<up>\d+\.\d+\.\d+)\.(?<revision>\w+-[\w.]+)\.(?:azl|cm|al)\d+{ARCH}",
    ),
    (
        D::Photon,
        Stable,
        r"{V}-(?<revision>\d+)\.ph\d+(?:-(?<flavour>esx|rt|secure|aws)|\.x86_64|\.aarch64)?",
    ),
    (D::OpenEuler, Vendor, r"{B}-(?<revision>\d[\w.]*)\.oe\d\w*{ARCH}"),
    (D::Kylin, Vendor, r"{B}-(?<revision>\d[\w.]*)\.ky\d+\w*{ARCH}"),
    (D::Anolis, Vendor, r"{B}-(?<revision>\d[\w.]*)\.an\d+{ARCH}"),
    (D::Alibaba, Vendor, r"{B}-(?<revision>\d[\w.]*)\.al\d+{ARCH}"),
    (D::TencentOs, Vendor, r"{B}-(?<revision>\d[\w.]*)\.tl\d+{ARCH}"),
    (D::Mageia, Stable, r"{V}-(?<flavour>\w+)-(?<revision>\d+)\.mga\d+"),
    (D::OpenMandriva, Stable, r"{V}-(?<flavour>\w+)-(?<revision>\d+)omv\d+"),
    (D::Rosa, Stable, r"{V}-(?<flavour>[\w-]+?)-(?<revision>\d+)rosa[\d.]+(?:-x86_64)?"),
    (D::ClearLinux, Stable, r"{V}-(?<revision>\d+)\.(?<flavour>native|lts\d*|ltscurrent)"),
    (D::Solus, Stable, r"{V}-(?<revision>\d+)\.(?<flavour>current|lts)"),
    // SUSE: a factory kernel counts its builds from 1, an enterprise kernel further.
    (
        D::Tumbleweed,
        Stable,
        r"{V}-(?<revision>\d)-(?<flavour>default|vanilla|pae|debug|kvmsmall|longterm|slowroll)",
    ),
    (
        D::Suse,
        Vendor,
        r"{B}-(?<revision>(?:lp)?\d[\d.]*)-(?<flavour>default|vanilla|azure|preempt|rt|64kb|debug|kvmsmall|xen|ec2)",
    ),
    (D::Suse, Vendor, r"{B}-(?<revision>(?:lp\d+|1[56]\d{4})\.[\d.]+)"),
    // Arch and its kin.
    (D::Arch, Stable, r"{V}[-.]arch(?<revision>\d+(?:\.\d+)*(?:-\d+)?)"),
    (
        D::Arch,
        Stable,
        r"{V}-(?:zen|hardened)(?<revision>\d+(?:\.\d+)?-\d+)-(?<flavour>zen|hardened)",
    ),
    (D::Manjaro, Stable, r"{V}-(?<revision>\d+)-(?<flavour>MANJARO(?:-\w+)*)"),
    (D::SteamOs, Unknown, r"{V}-(?<revision>valve\d+(?:\.\d+)?-\d+)-(?<flavour>neptune[\w-]*)"),
    (
        D::Xanmod,
        Stable,
        r"{V}-(?:(?<flavour>x64v\d|rt\d+)-)?xanmod(?<revision>\d+(?:-\d+)?)(?:-\w+)?",
    ),
    (D::Liquorix, Unknown, r"{Z}-(?<revision>[\d.]+)-liquorix-(?<flavour>\w+)"),
    (D::Liquorix, Unknown, r"{B}-(?<revision>[\d.]+)-liquorix-(?<flavour>\w+)"),
    // Others.
    (D::Proxmox, Vendor, r"{Z}-(?<abi>\d+)-pve"),
    (D::Proxmox, Vendor, r"{B}-(?<abi>\d+)-pve"),
    (D::Alpine, Stable, r"{V}-(?<revision>0)-(?<flavour>lts|virt|edge|rpi\d*|stable)"),
    (D::Alpine, Stable, r"{V}-(?<revision>\d+)-(?<flavour>virt|edge|rpi\d*|stable)"),
    (D::Gentoo, Stable, r"{V}(?:-(?<revision>[pr]\d+))?-(?<flavour>gentoo[\w-]*)"),
    (D::VoidLinux, Stable, r"{V}_(?<revision>\d+)"),
    (D::Flatcar, Stable, r"{V}-flatcar(?:-r(?<revision>\d+))?"),
    (D::Talos, Stable, r"{V}-talos"),
    (D::Linuxkit, Stable, r"{V}-linuxkit"),
    (
        D::Wsl,
        Stable,
        r"(?<up>\d+\.\d+\.\d+)\.(?<revision>\d+)-microsoft-(?<flavour>standard(?:-WSL2)?\+?)",
    ),
    (D::Android, Stable, r"{V}-(?<abi>android\d+-\d+)(?:-(?<revision>[\w-]+))?"),
    (D::ChromeOs, Stable, r"{Z}-(?<revision>[1-9]\d{4}-g[0-9a-f]+)"),
    (D::Alt, Stable, r"{V}-(?<flavour>\w+-def)-(?<revision>alt[\d.]+)"),
    // Whoever builds a stable release or a candidate himself; of `X.Y.0-…` nothing but the branch is sure.
    (D::Unknown, Unknown, r"(?<up>2\.\d+\.\d+\.\d+){OWN}"),
    (D::Unknown, Unknown, r"{Z}(?:-(?<revision>[1-9]\d?))?{OWN}"),
    (D::Unknown, Unknown, r"(?<up>\d+\.\d+(?:\.0)?-rc\d+){OWN}"),
    (D::Unknown, Unknown, r"{B}-(?<abi>\d+)"),
    (D::Unknown, Unknown, r"{B}{OWN}"),
];

static COMPILED: LazyLock<Vec<(Distribution, Fixes, Regex)>> = LazyLock::new(|| {
    let full = |rule: &str| {
        PARTS.iter().fold(format!("^(?-u:{rule})$"), |rule, (name, part)| rule.replace(name, part))
    };
    // A test holds that there is none that doesn't compile.
    let compiled = RULES.iter().filter_map(|(distribution, fixes, rule)| {
        Some((*distribution, *fixes, Regex::new(&full(rule)).ok()?))
    });
    compiled.collect()
});

impl FromStr for KernelVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let fail = || VersionError::of(text);
        if text.len() > MAX_LENGTH || !text.is_ascii() {
            return Err(fail());
        }
        // An epoch orders packages of one distribution and says nothing of the kernel.
        let bare = match text.split_once(':') {
            Some((epoch, rest)) if epoch.parse::<u32>().is_ok() => rest,
            _ => text,
        };
        let found = COMPILED.iter().find_map(|(distribution, fixes, regex)| {
            let groups = regex.captures(bare)?;
            Self::of(text, *distribution, *fixes, &groups)
        });
        found.ok_or_else(fail)
    }
}

impl KernelVersion {
    fn of(text: &str, distribution: D, fixes: Fixes, groups: &Captures<'_>) -> Option<Self> {
        let group = |name: &str| {
            groups.name(name).map(|found| found.as_str().to_owned()).filter(|text| !text.is_empty())
        };
        let number = |text: &str| text.replace("~rc", "-rc").parse::<Version>().ok();
        let up = group("up").map(|text| number(&text)).or_else(|| {
            let (base, rc) = (group("base")?, group("rc")?);
            Some(number(&format!("{base}-rc{rc}")))
        });
        // A number that no version can have is not one.
        let upstream = up.map_or(Some(None), |up| up.map(Some))?;
        let base = group("base").map(|text| number(&text));
        let base = base.map_or(Some(None), |base| base.map(Some))?;
        Some(Self {
            text: text.to_owned(),
            distribution,
            branch: upstream.or(base).map(|version| version.branch),
            upstream,
            abi: group("abi"),
            revision: group("revision"),
            flavour: group("flavour")
                .map(|text| text.trim_matches(['-', '_', '.']).to_owned())
                .filter(|text| !text.is_empty()),
            fixes,
        })
    }

    /// The upstream release by whose fixes this kernel can be judged; `None` where nothing can be told.
    #[must_use]
    pub fn counts_as(&self) -> Option<Version> {
        self.upstream.filter(|_| self.fixes != Fixes::Vendor)
    }

    /// Which of two kernels of one distribution is the newer one; `None` when their strings don't say,
    /// as with an ABI name and the version of a package.
    #[must_use]
    pub fn order(&self, other: &Self) -> Option<Ordering> {
        if self.text == other.text {
            return Some(Ordering::Equal);
        }
        let (a, b) = (self.branch?, other.branch?);
        if a != b {
            return Some(a.cmp(&b));
        }
        let (a, b) = (self.upstream, other.upstream);
        if let (Some(a), Some(b)) = (a, b)
            && a != b
        {
            return Some(a.cmp(&b));
        }
        if self.distribution != other.distribution
            || self.distribution == Distribution::Unknown
            || a.is_some() != b.is_some()
        {
            return None;
        }
        let part = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) => Some(debian_order(a, b)),
            (None, None) => Some(Ordering::Equal),
            _ => None,
        };
        Some(part(&self.abi, &other.abi)?.then(part(&self.revision, &other.revision)?))
    }
}

/// The order of versions by dpkg's rules: numbers by value, `~` before everything, even the end, letters
/// before all else. An epoch counts most, then what is before the last `-`, then what is after it.
#[must_use]
pub fn debian_order(a: &str, b: &str) -> Ordering {
    fn parts(text: &str) -> (u64, &str, &str) {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
    let ((ea, ua, ra), (eb, ub, rb)) = (parts(a), parts(b));
    ea.cmp(&eb).then_with(|| runs(ua, ub)).then_with(|| runs(ra, rb))
}

/// Compares what are no digits, then what are, and so on to the end of both.
fn runs(a: &str, b: &str) -> Ordering {
    fn weight(byte: Option<&u8>) -> i32 {
        match byte {
            Some(b'~') => -1,
            None => 0,
            Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
            Some(byte) => i32::from(*byte) + 256,
        }
    }
    fn cut(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
        let end = text.iter().position(|byte| byte.is_ascii_digit() != digits);
        text.split_at(end.unwrap_or(text.len()))
    }
    fn plain(digits: &[u8]) -> &[u8] {
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        &digits[zeros..]
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !(a.is_empty() && b.is_empty()) {
        let ((words_a, rest_a), (words_b, rest_b)) = (cut(a, false), cut(b, false));
        // One place further, where one of them has ended and the other has not.
        for at in 0..words_a.len().max(words_b.len()) {
            let order = weight(words_a.get(at)).cmp(&weight(words_b.get(at)));
            if order.is_ne() {
                return order;
            }
        }
        let ((digits_a, rest_a), (digits_b, rest_b)) = (cut(rest_a, true), cut(rest_b, true));
        let (digits_a, digits_b) = (plain(digits_a), plain(digits_b));
        let order = digits_a.len().cmp(&digits_b.len()).then_with(|| digits_a.cmp(digits_b));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_compiles() {
        assert_eq!(COMPILED.len(), RULES.len());
    }
}
