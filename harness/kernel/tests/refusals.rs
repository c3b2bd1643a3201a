//! What is not a kernel, or not a whole one, is refused with a message that says which and why.

mod common;

use std::fs;
use std::path::Path;

use common::{
    CONTROL, Entry, RELEASE, ar, bzimage, cpio, deb, gzip, image, module, put, root, rpm, tar,
    vmlinux,
};
use kgate_kernel::{Driver, KernelError, Reference, Resolver};
use kgate_testkit::host::TestHost;

/// One mistake: its name, and what makes it in a directory and gives the reference to it.
type Case = (&'static str, fn(&Path) -> String);

fn file(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    put(dir.join(name), bytes).display().to_string()
}

fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image(RELEASE);
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

fn small_deb() -> Vec<u8> {
    deb(CONTROL, &[Entry::File("./boot/vmlinuz-6.1.0-test", &image(RELEASE))])
}

fn small_rpm() -> Vec<u8> {
    let image = image(RELEASE);
    rpm(
        "x86_64",
        &[],
        &gzip(&cpio(&[("./lib/modules/6.1.0-test/vmlinuz", 0o100_644, 1, 1, &image)])),
    )
}

const REFERENCES: &[Case] = &[
    ("no text", |_| String::new()),
    ("a scheme that is none", |_| "docker:debian".to_owned()),
    ("a URL", |_| "https://example.org/bzImage".to_owned()),
    ("a newline", |_| "a\nb".to_owned()),
    ("an apt package with an option for a name", |_| "apt:--help".to_owned()),
    ("an apt package without a version after =", |_| "apt:linux-image-amd64=".to_owned()),
    ("an option that is none", |_| "bzImage,module=/m".to_owned()),
    ("an option twice", |_| "bzImage,modules=/m,modules=/n".to_owned()),
    ("an option without a value", |_| "bzImage,release=".to_owned()),
    ("an option without a path", |_| ",modules=/m".to_owned()),
    ("a package joined with what is none", |_| "a.deb+b".to_owned()),
    ("no such file", |dir| dir.join("gone").display().to_string()),
    ("no such package", |dir| dir.join("gone.deb").display().to_string()),
];

const IMAGES: &[Case] = &[
    ("an empty file", |dir| file(dir, "f", b"")),
    ("a text", |dir| file(dir, "f", "#!/bin/sh\nexit 0\n")),
    ("noise", |dir| file(dir, "f", [0, 1, 2, 3].repeat(1000))),
    ("an ELF kernel", |dir| file(dir, "f", vmlinux(None, None))),
    ("an ELF file for arm64", |dir| {
        let mut elf = vmlinux(None, None);
        elf[0x12] = 183;
        file(dir, "f", elf)
    }),
    ("an arm64 Image", |dir| file(dir, "f", changed(0x38, b"ARM\x64"))),
    ("a RISC-V Image", |dir| file(dir, "f", changed(0x38, b"RSC\x05"))),
    ("an EFI zboot image", |dir| file(dir, "f", changed(4, b"zimg"))),
    ("another EFI program", |dir| file(dir, "f", changed(0x202, b"none"))),
    ("a compressed image", |dir| file(dir, "f", gzip(&image(RELEASE)))),
    ("a package without its suffix", |dir| file(dir, "f", small_deb())),
    ("an RPM without its suffix", |dir| file(dir, "f", small_rpm())),
    ("a tar archive", |dir| file(dir, "f", tar(&[Entry::File("boot/vmlinuz", b"x")]))),
    ("an initramfs", |dir| file(dir, "f", cpio(&[("init", 0o100_755, 1, 1, b"x")]))),
    ("a 32-bit kernel", |dir| file(dir, "f", changed(0x236, &[0, 0]))),
    ("an old boot protocol", |dir| file(dir, "f", changed(0x206, &[0x0a, 0x02]))),
    ("a zImage", |dir| file(dir, "f", changed(0x211, &[0]))),
    ("an image without a release", |dir| file(dir, "f", changed(0x300, b"\0"))),
    ("an image with a path for a release", |dir| file(dir, "f", changed(0x300, b"../../x "))),
    ("an image cut inside its header", |dir| file(dir, "f", &image(RELEASE)[..300])),
    ("an image cut inside its payload", |dir| file(dir, "f", &image(RELEASE)[..9000])),
    ("an image whose payload lies outside", |dir| file(dir, "f", changed(0x248, &[0, 0, 0, 1]))),
    ("modules in place of an image", |dir| {
        file(dir, "f.ko", module(&[("vermagic", "6.1.0-test")]))
    }),
];

const DIRECTORIES: &[Case] = &[
    ("an empty directory", |dir| dir.display().to_string()),
    ("two kernels", |dir| {
        root(dir, "6.1.0-test");
        root(dir, "6.12.0-test").display().to_string()
    }),
    ("a release that is not there", |dir| {
        root(dir, "6.1.0-test");
        format!("{},release=6.6.6", root(dir, "6.12.0-test").display())
    }),
    ("an image renamed", |dir| {
        root(dir, RELEASE);
        fs::rename(dir.join("boot/vmlinuz-6.1.0-test"), dir.join("boot/vmlinuz-6.6.6")).unwrap();
        format!("{},release=6.6.6", dir.display())
    }),
    ("modules of another release", |dir| {
        root(dir, RELEASE);
        fs::rename(dir.join("lib/modules/6.1.0-test"), dir.join("lib/modules/6.1.0-other"))
            .unwrap();
        dir.display().to_string()
    }),
    ("modules of another release, named", |dir| {
        root(dir, "6.12.0-test");
        let image = file(dir, "bzImage", image(RELEASE));
        format!("{image},modules={}/lib/modules", dir.display())
    }),
    ("no modules where they are said to be", |dir| {
        let image = file(dir, "bzImage", image(RELEASE));
        format!("{image},modules={}/m", dir.display())
    }),
    ("a file in place of modules", |dir| {
        let image = file(dir, "bzImage", image(RELEASE));
        format!("{image},modules={image}")
    }),
    ("a build tree configured again", |dir| {
        put(dir.join("arch/x86/boot/bzImage"), image(RELEASE));
        put(dir.join("include/config/kernel.release"), "6.1.1-test\n");
        dir.display().to_string()
    }),
    ("a directory named like a package", |dir| {
        fs::create_dir(dir.join("d.deb")).unwrap();
        dir.join("d.deb").display().to_string()
    }),
];

const PACKAGES: &[Case] = &[
    ("an empty package", |dir| file(dir, "p.deb", b"")),
    ("no package", |dir| file(dir, "p.deb", image(RELEASE))),
    ("a package cut in its magic", |dir| file(dir, "p.deb", &small_deb()[..5])),
    ("a package cut in a header", |dir| file(dir, "p.deb", &small_deb()[..90])),
    ("a package cut in its content", |dir| file(dir, "p.deb", &small_deb()[..2000])),
    ("a package without content", |dir| file(dir, "p.deb", ar(&[("debian-binary", b"2.0\n")]))),
    ("a package with bent headers", |dir| {
        let mut bytes = small_deb();
        bytes[8 + 48] = b'x';
        file(dir, "p.deb", bytes)
    }),
    ("a package with bent content", |dir| {
        let mut bytes = small_deb();
        let at = bytes.len() - 100;
        bytes[at..].fill(0x55);
        file(dir, "p.deb", bytes)
    }),
    ("content that ends early although the archive is whole", |dir| {
        let data = tar(&[Entry::File("./boot/vmlinuz-6.1.0-test", &image(RELEASE))]);
        let control = tar(&[Entry::File("./control", CONTROL.as_bytes())]);
        file(dir, "p.deb", ar(&[("control.tar", &control), ("data.tar", &data[..4000])]))
    }),
    ("a package for arm64", |dir| file(dir, "p.deb", deb(&CONTROL.replace("amd64", "arm64"), &[]))),
    ("a package without a kernel", |dir| {
        file(dir, "p.deb", deb(CONTROL, &[Entry::File("./usr/bin/true", b"x")]))
    }),
    ("a meta package", |dir| {
        let control = format!("{CONTROL}Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n");
        file(dir, "p.deb", deb(&control, &[]))
    }),
    ("an image whose modules are in another package", |dir| {
        let control = format!("{CONTROL}Depends: kmod, linux-modules-6.1.0-test\n");
        file(
            dir,
            "p.deb",
            deb(&control, &[Entry::File("./boot/vmlinuz-6.1.0-test", &image(RELEASE))]),
        )
    }),
    ("a file that climbs out", |dir| {
        file(dir, "p.deb", deb(CONTROL, &[Entry::File("./boot/../../../escaped", b"x")]))
    }),
    ("an empty RPM", |dir| file(dir, "p.rpm", b"")),
    ("no RPM", |dir| file(dir, "p.rpm", image(RELEASE))),
    ("an RPM cut in its lead", |dir| file(dir, "p.rpm", &small_rpm()[..40])),
    ("an RPM cut in its header", |dir| file(dir, "p.rpm", &small_rpm()[..200])),
    ("an RPM cut in its payload", |dir| {
        let bytes = small_rpm();
        file(dir, "p.rpm", &bytes[..bytes.len() - 10])
    }),
    ("an RPM with an impossible header", |dir| {
        let mut bytes = small_rpm();
        bytes[96 + 8] = 0xff;
        file(dir, "p.rpm", bytes)
    }),
    ("a source RPM", |dir| {
        let mut bytes = small_rpm();
        bytes[7] = 1;
        file(dir, "p.rpm", bytes)
    }),
    ("an RPM for another machine", |dir| {
        file(dir, "p.rpm", rpm("aarch64", &[], &gzip(&cpio(&[]))))
    }),
    ("an RPM whose modules are in another", |dir| {
        let image = image(RELEASE);
        let payload = cpio(&[("./lib/modules/6.1.0-test/vmlinuz", 0o100_644, 1, 1, &image)]);
        file(dir, "p.rpm", rpm("x86_64", &["kernel-modules-core-uname-r", "bash"], &payload))
    }),
    ("an RPM with a bent payload", |dir| file(dir, "p.rpm", rpm("x86_64", &[], b"070701nonsense"))),
];

/// Paths of this run, made the same on every machine.
fn redact(text: &str, dir: &Path, cache: &Path) -> String {
    text.replace(&dir.display().to_string(), "DIR").replace(&cache.display().to_string(), "CACHE")
}

fn refusals(cases: &[Case]) -> String {
    let mut out = String::new();
    for (name, make) in cases {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = make(dir.path());
        let resolver = Resolver { cache_dir: cache.path().to_owned(), host: &TestHost };
        let error = match Reference::parse(&text).and_then(|reference| resolver.resolve(&reference))
        {
            Ok(kernel) => panic!("{name}: taken for kernel {}", kernel.release),
            Err(error) => error,
        };
        assert!(!error.is_infrastructure(), "{name}: {error:?}");
        let message = error.to_string();
        // The list of forms is the same in each.
        let message = message.split(" a kernel is one of\n").next().unwrap();
        out += &format!("{name}\n    {}\n", redact(message, dir.path(), cache.path()));
        assert!(!dir.path().join("../escaped").exists() && !cache.path().join("escaped").exists());
        let kept = fs::read_dir(cache.path().join("kernels")).into_iter().flatten().flatten();
        let unfinished =
            kept.filter(|e| e.file_name().to_string_lossy().starts_with(".unf")).count();
        assert_eq!(unfinished, 0, "{name}: leaves a half unpacked package");
    }
    out
}

#[test]
fn references() {
    insta::assert_snapshot!(refusals(REFERENCES));
}

#[test]
fn images() {
    insta::assert_snapshot!(refusals(IMAGES));
}

#[test]
fn directories() {
    insta::assert_snapshot!(refusals(DIRECTORIES));
}

#[test]
fn packages() {
    insta::assert_snapshot!(refusals(PACKAGES));
}

#[test]
fn the_forms_are_listed() {
    insta::assert_snapshot!(Reference::parse("docker:debian").unwrap_err());
}

#[test]
fn what_a_test_can_not_provoke_everywhere() {
    // Root may read everything, and a machine may have its running kernel.
    let denied = KernelError::Io {
        doing: "read",
        path: "/boot/vmlinuz-6.1".into(),
        source: std::io::ErrorKind::PermissionDenied.into(),
    };
    let full = KernelError::Io {
        doing: "write",
        path: "/cache/kernels".into(),
        source: std::io::ErrorKind::StorageFull.into(),
    };
    let outside = KernelError::NotInstalled { release: "6.1.0".to_owned(), root: "/".into() };
    assert_eq!(
        [&denied, &full, &outside].map(KernelError::is_infrastructure),
        [false, true, false]
    );
    insta::assert_snapshot!(format!("{denied}\n{full}\n{outside}"));
}

#[test]
fn modules() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(dir.path(), RELEASE);
    let modules = root.join("lib/modules/6.1.0-test/kernel");
    put(modules.join("needy.ko"), common::plain_module(RELEASE, "b,gone"));
    put(modules.join("text.ko"), "not a module");
    put(modules.join("cut.ko"), &common::plain_module(RELEASE, "")[..80]);
    put(modules.join("cutgz.ko.gz"), &gzip(&common::plain_module(RELEASE, ""))[..40]);
    let mut arm = common::plain_module(RELEASE, "");
    arm[0x12] = 183;
    put(modules.join("arm.ko"), arm);
    put(modules.join("nothing.ko"), "");
    put(modules.join("program.ko"), vmlinux(None, None));
    let reference = Reference::parse(&root.display().to_string()).unwrap();
    let resolver = Resolver { cache_dir: dir.path().join("cache"), host: &TestHost };
    let kernel = resolver.resolve(&reference).unwrap();
    let names = |files: Vec<kgate_kernel::ModuleFile>| {
        files.into_iter().map(|file| file.name).collect::<Vec<_>>()
    };
    assert_eq!(names(kernel.modules.closure(&["ext4", "a", "b"]).unwrap()), ["b", "a"]);

    let mut out = String::new();
    for name in ["absent", "c", "needy", "text", "cut", "cutgz", "arm", "nothing", "program"] {
        let error = kernel.modules.closure(&[name]).unwrap_err();
        out += &format!("{name}\n    {}\n", redact(&error.to_string(), dir.path(), dir.path()));
    }
    let drivers =
        [Driver::new("ext4", "EXT4_FS"), Driver::new("zfs", "ZFS"), Driver::new("z", "Z")];
    out += &format!("required\n    {}\n", kernel.require(&drivers).unwrap_err());
    insta::assert_snapshot!(out);
}

#[test]
fn payloads() {
    let lzo = b"\x89LZO\0\r\n\x1a\n and so on";
    let other_size = {
        let mut payload = gzip(&vmlinux(None, None));
        let at = payload.len() - 4;
        payload[at..].copy_from_slice(&77_u32.to_le_bytes());
        payload
    };
    let cases: &[(&str, Vec<u8>)] = &[
        ("lzo", lzo.to_vec()),
        ("no format", b"nothing known".to_vec()),
        ("no size", vec![0x1f, 0x8b]),
        ("too much", [gzip(b"x").as_slice(), &[0xff; 4]].concat()),
        ("wrong size", other_size),
        ("cut", [&gzip(&vmlinux(None, None))[..500], &[0x90, 0x38, 1, 0]].concat()),
        (
            "short",
            [zstd::encode_all(b"\x7fELF".as_slice(), 1).unwrap().as_slice(), &[0x90, 0x38, 1, 0]]
                .concat(),
        ),
        ("no ELF", gzip(b"just text")),
    ];
    let mut out = String::new();
    for (name, payload) in cases {
        let dir = tempfile::tempdir().unwrap();
        let reference =
            Reference::parse(&file(dir.path(), "f", bzimage(RELEASE, payload))).unwrap();
        let resolver = Resolver { cache_dir: dir.path().to_owned(), host: &TestHost };
        // The image may boot all the same: only who needs the ELF kernel is refused.
        let error = resolver.resolve(&reference).unwrap().vmlinux().unwrap_err();
        out += &format!("{name}\n    {}\n", redact(&error.to_string(), dir.path(), dir.path()));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn a_cut_real_package_is_refused_at_every_length() {
    let Some(pair) = kgate_testkit::kernels::pair() else { return };
    let whole = fs::read(&pair.baseline_deb).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let resolver = Resolver { cache_dir: dir.path().join("cache"), host: &TestHost };
    for length in [1, 8, 70, 1000, whole.len() / 2, whole.len() - 1] {
        let path = put(dir.path().join("p.deb"), &whole[..length]);
        let reference = Reference::parse(&path.display().to_string()).unwrap();
        let error = resolver.resolve(&reference).unwrap_err();
        assert!(matches!(error, KernelError::CutShort { .. }), "{length}: {error}");
    }
}
