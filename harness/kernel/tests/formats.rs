//! Packages and images in every format that is read.

mod common;

use std::fs;
use std::io::Write;

use common::{
    CONTROL, Entry, RELEASE, bzimage, cpio, deb, gzip, image, plain_module, put, rpm, vmlinux,
};
use kgate_kernel::{Driver, Kernel, Reference, Resolver, Status};
use kgate_testkit::host::TestHost;
use proptest::prelude::*;

fn resolve(dir: &std::path::Path, name: &str, bytes: &[u8]) -> Kernel {
    let path = put(dir.join(name), bytes);
    let reference = Reference::parse(&path.display().to_string()).unwrap();
    Resolver { cache_dir: dir.join("cache"), host: &TestHost }
        .resolve(&reference)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 6);
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
    let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut out = 0x184c_2102_u32.to_le_bytes().to_vec();
    for chunk in bytes.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(chunk);
        out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend(packed);
    }
    out
}

#[test]
fn payloads_of_every_compression_are_unpacked() {
    let elf = vmlinux(Some(0x0123_4560), Some("CONFIG_FOO=y\n"));
    // More than one block.
    let big = [elf.as_slice(), &vec![7; 20 << 20]].concat();
    let zst = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let with_size = |elf: &[u8], mut packed: Vec<u8>| {
        packed.extend(u32::try_from(elf.len()).unwrap().to_le_bytes());
        packed
    };
    for (name, elf, payload) in [
        ("gzip", &elf, gzip(&elf)),
        ("xz", &elf, with_size(&elf, xz(&elf))),
        ("lzma", &elf, with_size(&elf, lzma(&elf))),
        ("bzip2", &elf, with_size(&elf, bzip2(&elf))),
        ("zstd", &elf, with_size(&elf, zst(&elf))),
        ("lz4", &elf, with_size(&elf, lz4(&elf))),
        ("lz4", &big, with_size(&big, lz4(&big))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let kernel = resolve(dir.path(), "bzImage", &bzimage(RELEASE, &payload));
        let unpacked = kernel.vmlinux().unwrap();
        assert_eq!((unpacked.compression, unpacked.pvh_entry), (name, Some(0x0123_4560)));
        assert!(unpacked.bytes == *elf, "{name}");
        // The configuration inside is found when there is none beside.
        assert_eq!(kernel.config.unwrap().get("FOO"), Some("y"), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = resolve(dir.path(), "bzImage", &bzimage(RELEASE, &gzip(&vmlinux(None, None))));
    assert_eq!(plain.vmlinux().unwrap().pvh_entry, None);
    assert_eq!(plain.config, None);
    // All in the image, as its own configuration says.
    let config = "CONFIG_UNIX=y\nCONFIG_OVERLAY_FS=y\nCONFIG_TUN=m\n";
    let monolith = bzimage(RELEASE, &gzip(&vmlinux(None, Some(config))));
    let monolith = resolve(dir.path(), "monolith", &monolith);
    let status = ["unix", "overlay", "tun", "veth"].map(|name| monolith.modules.status(name));
    assert_eq!(status, [Status::BuiltIn, Status::BuiltIn, Status::Absent, Status::Absent]);
    assert_eq!(monolith.require(&[Driver::named("overlay")]).unwrap(), []);
    assert_eq!(plain.upstream.as_deref(), Some("6.1.192"));
}

#[test]
fn rpm_packages_become_kernels() {
    let image = image(RELEASE);
    let (one, two) = (plain_module(RELEASE, "two"), xz(&plain_module(RELEASE, "")));
    let payload = cpio(&[
        ("./lib/modules", 0o040_755, 1, 2, b""),
        ("./lib/modules/6.1.0-test/vmlinuz", 0o100_755, 2, 1, &image),
        ("./lib/modules/6.1.0-test/config", 0o100_644, 3, 1, b"CONFIG_FOO=m\n"),
        ("./lib/modules/6.1.0-test/build", 0o120_777, 4, 1, b"/usr/src"),
        ("./lib/modules/6.1.0-test/kernel/one.ko", 0o100_644, 5, 1, &one),
        // Two names of one file: the last comes with the data.
        ("./lib/modules/6.1.0-test/kernel/two.ko.xz", 0o100_644, 6, 2, b""),
        ("./lib/modules/6.1.0-test/kernel/three.ko.xz", 0o100_644, 6, 2, &two),
        ("./boot/big", 0o100_644, 7, 1, &[0; 100_000]),
    ]);
    let zst = zstd::encode_all(payload.as_slice(), 1).unwrap();
    for packed in [payload.clone(), gzip(&payload), xz(&payload), zst, bzip2(&payload)] {
        let dir = tempfile::tempdir().unwrap();
        let kernel = resolve(dir.path(), "kernel-core.rpm", &rpm("x86_64", &["bash"], &packed));
        assert_eq!(kernel.release, RELEASE);
        assert_eq!(kernel.config.as_ref().unwrap().get("FOO"), Some("m"));
        assert_eq!(kernel.origin.packages[0].name, "kernel-core");
        assert_eq!(kernel.origin.packages[0].version, "6.1.0-test");
        let order = kernel.modules.closure(&["one", "three"]).unwrap();
        let names: Vec<_> = order.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["two", "one", "three"]);
        assert!(!kernel.image.ancestors().nth(1).unwrap().join("build").exists());
    }
}

#[test]
fn debian_packages_of_every_shape() {
    let image = image(RELEASE);
    let long = format!("./usr/lib/modules/{RELEASE}/kernel/{}/long.ko", "d".repeat(120));
    let zst = zstd::encode_all(plain_module(RELEASE, "").as_slice(), 1).unwrap();
    let control = format!("{CONTROL}Depends: linux-modules-6.1.0-test (= 1)\n");
    let dir = tempfile::tempdir().unwrap();
    let first = deb(
        &control,
        &[
            Entry::File("./boot/vmlinuz-6.1.0-test", &image),
            Entry::Symlink("./lib/modules/6.1.0-test/kernel", "/etc"),
            Entry::Device("./lib/modules/6.1.0-test/null"),
        ],
    );
    let second = deb(
        &CONTROL.replace("linux-image-test", "linux-modules-6.1.0-test"),
        &[
            Entry::File("./boot/config-6.1.0-test", b"CONFIG_FOO=y\n"),
            Entry::File(&long, &plain_module(RELEASE, "packed")),
            Entry::File("/lib/modules/6.1.0-test/kernel/packed.ko.zst", &zst),
            Entry::File("./lib/modules/6.1.0-test/modules.builtin", b"kernel/x/in.ko\n"),
        ],
    );
    let (a, b) = (put(dir.path().join("a+1.deb"), first), put(dir.path().join("b.deb"), second));
    let reference = Reference::parse(&format!("{}+{}", a.display(), b.display())).unwrap();
    let resolver = Resolver { cache_dir: dir.path().join("cache"), host: &TestHost };
    let kernel = resolver.resolve(&reference).unwrap();
    let order = kernel.modules.closure(&["long", "in"]).unwrap();
    assert_eq!(order.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["packed", "long"]);
    assert_eq!(kernel.config.as_ref().unwrap().get("FOO"), Some("y"));
    let kernel_dir = kernel.modules.root().unwrap().join("kernel");
    assert!(fs::symlink_metadata(kernel_dir).unwrap().is_dir(), "a link of the package was made");
    assert!(!kernel.modules.root().unwrap().join("null").exists());
    assert_eq!(kernel.origin.packages.len(), 2);
}

#[test]
fn a_package_changed_in_place_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut packages = Vec::new();
    for release in ["6.1.0-test", "6.1.1-test", "6.1.2-test"] {
        let name = format!("./boot/vmlinuz-{release}");
        // Stored, so that all have one size.
        let data = common::tar(&[Entry::File(&name, &image(release))]);
        let control = common::tar(&[Entry::File("./control", CONTROL.as_bytes())]);
        let package = common::ar(&[("control.tar", &control), ("data.tar", &data)]);
        let kernel = resolve(dir.path(), "p.deb", &package);
        assert_eq!(kernel.release, release);
        assert_eq!(resolve(dir.path(), "p.deb", &package).record(), kernel.record());
        packages.push((package.len(), kernel.record().package_sha256));
    }
    packages.dedup();
    assert!(packages.len() == 3 && packages.iter().all(|(size, _)| *size == packages[0].0));
}

#[test]
fn rpmbuild_makes_what_is_read() {
    // The real tool, where it is installed, against the reader.
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("in/lib/modules").join(RELEASE);
    put(modules.join("vmlinuz"), image(RELEASE));
    put(modules.join("config"), "CONFIG_FOO=y\n");
    put(modules.join("kernel/one.ko"), plain_module(RELEASE, ""));
    for payload in ["w9.gzdio", "w6.xzdio", "w3.zstdio"] {
        let spec = put(
            dir.path().join("k.spec"),
            format!(
                "Name: kernel-core\nVersion: 6.1.0\nRelease: test\nSummary: x\nLicense: GPL\nBuildArch: x86_64\n\
                 Requires: kernel-modules-core-uname-r = 6.1.0\nAutoReqProv: no\n%description\nx\n%install\n\
                 cp -r {}/in/lib %{{buildroot}}/\n%files\n/lib/modules\n",
                dir.path().display()
            ),
        );
        let built = std::process::Command::new("rpmbuild")
            .args(["-bb", "--quiet", "--define"])
            .arg(format!("_topdir {}", dir.path().display()))
            .args([
                "--define",
                &format!("_binary_payload {payload}"),
                "--define",
                "debug_package %{nil}",
            ])
            .args(["--define", "__os_install_post %{nil}"])
            .arg(spec)
            .output();
        let Ok(built) = built else {
            eprintln!("SKIP: no rpmbuild here to compare with");
            return;
        };
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let package =
            fs::read(dir.path().join("RPMS/x86_64/kernel-core-6.1.0-test.x86_64.rpm")).unwrap();
        let name = format!("{payload}.rpm");
        let kernel = resolve(dir.path(), &name, &package);
        assert_eq!((kernel.release.as_str(), kernel.modules.len()), (RELEASE, 1));
        let path = put(dir.path().join("cut.rpm"), &package[..package.len() - 1]);
        let reference = Reference::parse(&path.display().to_string()).unwrap();
        let resolver = Resolver { cache_dir: dir.path().join("cache"), host: &TestHost };
        let error = resolver.resolve(&reference).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed in a package or image, reading it ends, and without a panic.
    #[test]
    fn damage_never_panics(kind in 0..3_usize, at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..8)) {
        let image = image(RELEASE);
        let module = plain_module(RELEASE, "");
        let name = format!("./lib/modules/{RELEASE}/kernel/m.ko");
        let (name, mut package) = match kind {
            0 => ("p.deb", deb(CONTROL, &[Entry::File("./boot/vmlinuz-6.1.0-test", &image), Entry::File(&name, &module)])),
            1 => ("p.rpm", rpm("x86_64", &["a"], &cpio(&[("./boot/vmlinuz-6.1.0-test", 0o100_644, 1, 1, &image), (&name, 0o100_644, 2, 1, &module)]))),
            _ => ("bzImage", image.clone()),
        };
        // Mostly in the headers, which the small content at the front holds.
        let at = at.index(package.len().min(2048) - bytes.len());
        package[at..at + bytes.len()].copy_from_slice(&bytes);
        let dir = tempfile::tempdir().unwrap();
        let path = put(dir.path().join(name), package);
        let reference = Reference::parse(&path.display().to_string()).unwrap();
        let resolver = Resolver { cache_dir: dir.path().join("cache"), host: &TestHost };
        if let Ok(kernel) = resolver.resolve(&reference) {
            let _ = kernel.vmlinux();
            let _ = kernel.modules.closure(&["m"]);
        }
    }
}

#[test]
fn the_changelog_of_a_package_is_read_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let log = b"linux (6.1.192-1) bookworm-security; urgency=high\n".repeat(5000);
    let changelog = |entries: &[Entry<'_>], cut: usize| {
        let mut package = deb(CONTROL, entries);
        package.truncate(package.len() - cut);
        let path = put(dir.path().join("linux-image-test.deb"), package);
        let reference = Reference::parse(&path.display().to_string()).unwrap();
        let resolver = Resolver { cache_dir: dir.path().join("cache"), host: &TestHost };
        let mut text = Vec::new();
        let found = resolver.changelog(&reference, &mut |chunk| text.extend_from_slice(chunk));
        found.map(|found| (found, text)).map_err(|error| error.to_string())
    };
    let packed = gzip(&log);
    let doc = "./usr/share/doc/linux-image-test";
    for name in ["changelog.gz", "changelog.Debian.gz"] {
        let name = format!("{doc}/{name}");
        let entries = [Entry::File("./boot/x", b"x"), Entry::File(&name, &packed)];
        assert_eq!(changelog(&entries, 0), Ok((true, log.clone())), "{name}");
    }
    for name in ["changelog", "old/changelog.gz", "copyright"] {
        let name = format!("{doc}/{name}");
        assert_eq!(changelog(&[Entry::File(&name, &packed)], 0), Ok((false, Vec::new())), "{name}");
    }
    let link = format!("{doc}/changelog.gz");
    assert_eq!(changelog(&[Entry::Symlink(&link, "/etc/passwd")], 0), Ok((false, Vec::new())));
    let broken = changelog(&[Entry::File(&link, &packed[..packed.len() / 2])], 0).unwrap_err();
    assert!(broken.contains("changelog"), "{broken}");
    assert!(changelog(&[Entry::File(&link, &packed)], 9).unwrap_err().contains("are there"));
}
