//! Real Debian kernels, from the package to the module and the ELF inside the image.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kgate_kernel::{Driver, Kernel, KernelError, Reference, Resolver, Status};
use kgate_model::host::{Host, HostCommand, HostOutput};
use kgate_testkit::host::TestHost;
use kgate_testkit::kernels::{self, Pair};

fn resolve(reference: &str) -> Result<Kernel, KernelError> {
    let resolver = Resolver { cache_dir: kernels::cache_dir(), host: &TestHost };
    resolver.resolve(&Reference::parse(reference)?)
}

fn both(pair: &Pair) -> [(&Kernel, &Path); 2] {
    [(&pair.baseline, &pair.baseline_deb), (&pair.candidate, &pair.candidate_deb)]
}

/// The directory that a package was unpacked to.
fn root(kernel: &Kernel) -> PathBuf {
    kernel.image.ancestors().nth(2).unwrap().to_owned()
}

#[test]
fn packages_become_kernels() {
    let Some(pair) = kernels::pair() else { return };
    assert_ne!(pair.baseline.upstream, pair.candidate.upstream);
    for (kernel, _) in both(&pair) {
        let record = kernel.record();
        let package = &kernel.origin.packages[0];
        assert_eq!(package.name, format!("linux-image-{}", kernel.release));
        assert!(package.version.starts_with(kernel.upstream.as_deref().unwrap()), "{record:?}");
        assert!(kernel.banner.contains(" SMP ") && kernel.banner.starts_with(&kernel.release));
        assert_eq!(record.image_sha256.len(), 64);
        assert_ne!(record.package_sha256.as_ref(), Some(&record.image_sha256));
        let config = kernel.config.as_ref().unwrap();
        assert_eq!(config.get("CONFIG_X86_64"), Some("y"));
        assert!(config.len() > 3000, "{} symbols", config.len());
        assert!(kernel.modules.len() > 500, "{} modules", kernel.modules.len());
        assert_eq!(kernel.modules.status("ext4"), Status::BuiltIn);
        assert_eq!(kernel.modules.status("nf-conntrack"), Status::Module);
        assert_eq!(kernel.modules.status("no_such_module"), Status::Absent);
    }
}

#[test]
fn a_cached_package_resolves_at_once() {
    let Some(pair) = kernels::pair() else { return };
    let reference = pair.candidate_deb.display().to_string();
    resolve(&reference).unwrap();
    let start = Instant::now();
    let kernel = resolve(&reference).unwrap();
    let took = start.elapsed();
    assert_eq!(kernel.origin.reference, reference);
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[test]
fn modules_load_after_what_they_need() {
    let Some(pair) = kernels::pair() else { return };
    for (kernel, _) in both(&pair) {
        let drivers = [
            Driver::new("virtio_console", "VIRTIO_CONSOLE"),
            Driver::new("virtio_pci", "VIRTIO_PCI"),
            Driver::new("ext4", "EXT4_FS"),
            Driver::named("nf_conntrack"),
            Driver::named("nft_compat"),
            Driver::named("btrfs"),
        ];
        let order = kernel.require(&drivers).unwrap();
        assert_eq!(order, kernel.require(&drivers).unwrap());
        let mut loaded = BTreeSet::new();
        for file in &order {
            let info = kernel.modules.info(&file.name).unwrap();
            for needed in &info.depends {
                assert!(loaded.contains(needed), "{} before {needed}", file.name);
            }
            assert!(loaded.insert(file.name.clone()), "{} twice", file.name);
            assert!(file.read().unwrap().starts_with(b"\x7fELF"));
        }
        assert!(loaded.contains("xor") && loaded.contains("x_tables"));
        assert!(!loaded.contains("ext4"));
        let soft: Vec<_> = order.iter().filter(|m| m.optional).map(|m| m.name.as_str()).collect();
        // btrfs asks for these by the name of their algorithm.
        assert!(soft.contains(&"xxhash_generic") && soft.contains(&"blake2b_generic"), "{soft:?}");
    }
}

#[test]
fn dependencies_are_those_that_kmod_finds() {
    let Some(pair) = kernels::pair() else { return };
    let kernel = &pair.candidate;
    let depmod = Command::new("depmod")
        .args(["-n", "-b"])
        .arg(root(kernel))
        .arg(&kernel.release)
        .output()
        .ok()
        .filter(|output| output.status.success());
    let Some(depmod) = depmod else {
        eprintln!("SKIP: no depmod here to compare with");
        return;
    };
    let listing = String::from_utf8_lossy(&depmod.stdout).into_owned();
    let mut compared = 0;
    // All of them would take half a minute.
    for line in listing.lines().step_by(7) {
        let Some((module, needs)) = line.split_once(".ko").filter(|_| line.starts_with("kernel/"))
        else {
            continue;
        };
        let name = |path: &str| {
            let file = Path::new(path).file_name().unwrap().to_str().unwrap();
            file.split(".ko").next().unwrap().replace('-', "_")
        };
        let needs = needs.split_once(':').unwrap().1;
        let expected: BTreeSet<_> = needs.split_whitespace().map(name).collect();
        let module = name(module);
        let closure = kernel.modules.closure(&[&module]).unwrap();
        let hard: BTreeSet<_> = closure
            .into_iter()
            .filter(|m| !m.optional && m.name != module)
            .map(|m| m.name)
            .collect();
        assert_eq!(hard, expected, "{module}");
        compared += 1;
    }
    assert!(compared > 80, "{compared} modules compared");
}

#[test]
fn images_hold_an_elf_kernel() {
    let Some(pair) = kernels::pair() else { return };
    for (kernel, _) in both(&pair) {
        let vmlinux = kernel.vmlinux().unwrap();
        assert!(vmlinux.bytes.starts_with(b"\x7fELF") && vmlinux.bytes.len() > 20 << 20);
        let has_pvh = kernel.config.as_ref().unwrap().is_enabled("PVH");
        assert_eq!(vmlinux.pvh_entry.is_some(), has_pvh, "{:?}", vmlinux.pvh_entry);
        assert!(vmlinux.pvh_entry.is_none_or(|entry| entry >= 1 << 20));
        // The banner that the kernel prints is the one of the header.
        let banner = format!("Linux version {}", kernel.release);
        assert!(vmlinux.bytes.windows(banner.len()).any(|w| w == banner.as_bytes()));
    }
}

#[test]
fn other_references_find_the_same_kernel() {
    let Some(pair) = kernels::pair() else { return };
    let kernel = &pair.candidate;
    let root = root(kernel);
    let release = &kernel.release;
    let bare = tempfile::tempdir().unwrap();
    let image = bare.path().join("bzImage");
    fs::copy(&kernel.image, &image).unwrap();
    let modules = root.join("lib/modules");
    for (reference, has_config) in [
        (kernel.origin.reference.clone(), true),
        (root.display().to_string(), true),
        (format!("{},release={release}", root.display()), true),
        (format!("{},modules={}", kernel.image.display(), modules.display()), true),
        (format!("{},modules={}", image.display(), modules.join(release).display()), false),
        (format!("{},modules={}", image.display(), root.display()), false),
    ] {
        let found = resolve(&reference).unwrap_or_else(|e| panic!("{reference}: {e}"));
        assert_eq!((&found.release, &found.sha256), (release, &kernel.sha256), "{reference}");
        assert_eq!(found.modules.len(), kernel.modules.len(), "{reference}");
        assert_eq!(found.config.is_some(), has_config, "{reference}");
    }
    let alone = resolve(&image.display().to_string()).unwrap();
    assert!(alone.modules.is_empty());
    let error = alone.require(&[Driver::new("btrfs", "BTRFS_FS")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "kernel {release} has neither built in nor as a module: btrfs (CONFIG_BTRFS_FS); \
             it came without modules: give them as IMAGE,modules=DIRECTORY, or build these options in"
        )
    );
}

#[test]
fn a_meta_package_leads_to_its_kernel() {
    if kernels::pair().is_none() {
        return;
    }
    let kernel = match resolve("apt:linux-image-cloud-amd64") {
        Err(error @ KernelError::Host { .. }) => {
            eprintln!("SKIP: apt gives no meta package: {error}");
            return;
        }
        other => other.unwrap(),
    };
    assert_eq!(kernel.origin.packages.len(), 2);
    assert_eq!(kernel.origin.packages[0].name, format!("linux-image-{}", kernel.release));
}

#[test]
fn apt_says_what_is_wrong() {
    struct NoApt;
    impl Host for NoApt {
        fn run(&self, _: &HostCommand) -> io::Result<HostOutput> {
            Err(io::ErrorKind::NotFound.into())
        }
    }
    let cache = tempfile::tempdir().unwrap();
    let ask = |host: &dyn Host, name: &str| {
        let resolver = Resolver { cache_dir: cache.path().to_owned(), host };
        let error = resolver.resolve(&Reference::parse(name).unwrap()).unwrap_err();
        (error.is_infrastructure(), error.to_string())
    };
    insta::assert_debug_snapshot!(ask(&NoApt, "apt:linux-image-amd64"));
    if kernels::pair().is_some() {
        insta::assert_debug_snapshot!(ask(&TestHost, "apt:linux-image-of-nobody"));
        insta::assert_debug_snapshot!(ask(&TestHost, "apt:linux-image-amd64=0.1"));
    }
}

#[test]
fn a_build_tree_is_read_in_place() {
    let Some(pair) = kernels::pair() else { return };
    // A tree as make leaves it, from real parts: a build takes too long for a test.
    let kernel = &pair.baseline;
    let tree = tempfile::tempdir().unwrap();
    let put = |path: &str, bytes: &[u8]| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put("arch/x86/boot/bzImage", &fs::read(&kernel.image).unwrap());
    put("include/config/kernel.release", format!("{}\n", kernel.release).as_bytes());
    put(".config", b"CONFIG_X86_64=y\n");
    put("modules.builtin", b"kernel/fs/ext4/ext4.ko\n");
    let order = kernel.modules.closure(&["nft_compat"]).unwrap();
    let mut listed = String::new();
    for (i, file) in order.iter().enumerate() {
        put(&format!("drivers/m{i}/{}.ko", file.name), &file.read().unwrap());
        listed += &format!(
            "{}drivers/m{i}/{}.{}\n",
            ["kernel/", ""][i % 2],
            file.name,
            ["ko", "o"][i % 2]
        );
    }
    put("modules.order", listed.as_bytes());
    let reference = tree.path().display().to_string();
    let built = resolve(&reference).unwrap();
    assert_eq!(built.release, kernel.release);
    let names = |files: &[kgate_kernel::ModuleFile]| {
        files.iter().map(|f| f.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&built.modules.closure(&["nft_compat", "ext4"]).unwrap()), names(&order));

    // Configured again since the image was built.
    put("include/config/kernel.release", b"6.99.0\n");
    let error = resolve(&reference).unwrap_err();
    assert!(matches!(error, KernelError::OtherRelease { .. }), "{error}");
}

#[test]
fn concurrent_unpacking_gives_one_whole_tree() {
    let Some(pair) = kernels::pair() else { return };
    let cache = tempfile::tempdir().unwrap();
    // What a killed process left behind.
    let left = cache.path().join("kernels/.unfinished-x/boot");
    fs::create_dir_all(&left).unwrap();
    let reference = Reference::parse(&pair.baseline_deb.display().to_string()).unwrap();
    let lens: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let resolver = Resolver { cache_dir: cache.path().to_owned(), host: &TestHost };
                    resolver.resolve(&reference).unwrap().modules.len()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(lens, [pair.baseline.modules.len(); 4]);
    let names: Vec<_> = fs::read_dir(cache.path().join("kernels"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    assert_eq!(names, [pair.baseline.origin.packages[0].sha256.clone()]);
}
