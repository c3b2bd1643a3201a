//! How long it takes to find the modules a guest needs and to write its initramfs, on a real kernel.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kgate_kernel::Driver;
use kgate_kernel::initramfs::{Content, Initramfs};
use kgate_testkit::kernels;

/// Size of agent, measuring programs and busybox together.
const PROGRAMS: usize = 5 << 20;

fn initramfs(criterion: &mut Criterion) {
    // It has said why it can't be had.
    let Some(pair) = kernels::pair() else { return };
    let kernel = pair.candidate;
    let drivers = [
        Driver::new("virtio_pci", "VIRTIO_PCI"),
        Driver::new("virtio_console", "VIRTIO_CONSOLE"),
        Driver::new("squashfs", "SQUASHFS"),
        Driver::new("overlay", "OVERLAY_FS"),
    ];
    criterion.bench_function("closure of four drivers", |bencher| {
        bencher.iter(|| black_box(kernel.require(&drivers).expect("a cloud kernel has them")));
    });
    let modules = kernel.require(&drivers).expect("a cloud kernel has them");
    let programs = vec![0x90; PROGRAMS];
    criterion.bench_function("initramfs", |bencher| {
        bencher.iter(|| {
            let mut archive = Initramfs::new();
            archive.file("init", 0o755, Content::Bytes(programs.clone())).expect("a new path");
            for module in &modules {
                let path = format!("kgate/modules/{}.ko", module.name);
                archive.file(&path, 0o644, Content::Module(module.clone())).expect("a new path");
            }
            black_box(archive.write(Vec::new()).expect("memory takes it"))
        });
    });
}

criterion_group!(benches, initramfs);
criterion_main!(benches);
