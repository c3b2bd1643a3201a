//! From the start of QEMU's process to the end of a first command: a clone against a cold boot of the
//! same guest, in turns, and the memory that an idle clone has to itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use kgate_image::Builder;
use kgate_machine::process::LocalHost;
use kgate_machine::{BootRequest, CloneRequest, Machine, Pool, Template};
use kgate_model::outcome::Role;
use kgate_model::plan::MachineShape;
use kgate_model::wire::{Command, ExitStatus, Limits, Reply, Stdin};
use kgate_qemu::{
    Accel, AccelChoice, Guests, GuestsConfig, Programs, Qemu, Store, StoreConfig, Userland,
};
use kgate_testkit::kernels;
use tokio::runtime::{self, Runtime};

const PROGRAMS: Programs =
    Programs { agent: include_bytes!(env!("KGATE_AGENT")), ops: include_bytes!(env!("KGATE_OPS")) };

/// Longer than any of it takes.
const DEADLINE: Duration = Duration::from_secs(120);

fn request() -> BootRequest {
    BootRequest {
        name: "bench".into(),
        role: Role::Candidate,
        host: None,
        number: 1,
        image: "base".into(),
        shape: MachineShape::default(),
        alone: false,
        modules: Vec::new(),
        console: "/dev/null".into(),
        kernel_log: Some("/dev/null".into()),
        deadline: DEADLINE,
    }
}

async fn clone(template: &dyn Template) -> Box<dyn Machine> {
    let null = PathBuf::from("/dev/null");
    let request = CloneRequest {
        name: "bench".into(),
        console: null.clone(),
        kernel_log: Some(null),
        deadline: DEADLINE,
    };
    template.start(&request).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `true` to its end.
async fn first_command(machine: &dyn Machine) {
    let command = Command {
        argv: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        dir: "/".into(),
        stdin: Stdin::Null,
        timeout_ms: None,
        output_limit: 0,
        limits: Limits::default(),
        background: false,
    };
    let mut running = machine.agent().spawn(command).expect("an agent");
    loop {
        if let Reply::Exited { status, .. } = running.next().await.expect("an answer") {
            assert_eq!(status, ExitStatus::Code(0));
            return;
        }
    }
}

/// The pool, and a directory that it uses as long as it is there.
fn pool(kernel: kgate_kernel::Kernel) -> (Guests, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let base = Builder::new(dir.path(), &LocalHost).base_userland().expect("busybox");
    let pool = Guests::new(GuestsConfig {
        qemu: Qemu::find("qemu-system-x86_64".into(), &LocalHost).expect("QEMU"),
        accel: AccelChoice::Only(Accel::Tcg),
        kernels: BTreeMap::from([(Role::Candidate, kernel)]),
        userlands: BTreeMap::from([("base".to_owned(), Userland::Base(Arc::new(base)))]),
        programs: PROGRAMS,
        plugin: None,
        cpus: 1,
        memory: 4 << 30,
        memo: dir.path().join("kvm"),
        templates: Store::new(StoreConfig {
            memory: Some("/dev/shm/kgate-bench".into()),
            disk: dir.path().join("templates"),
            limit: 0,
        }),
    });
    (pool, dir)
}

#[expect(clippy::print_stdout, reason = "what criterion can't show")]
fn warm(criterion: &mut Criterion) {
    // It has said why it can't be had.
    let Some(pair) = kernels::pair() else { return };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (pool, _dir) = pool(pair.candidate);
    let template = runtime.block_on(pool.template(&request())).expect("QEMU keeps guests");
    let template = template.unwrap_or_else(|error| panic!("{error}"));

    let cold = || async {
        let machine = pool.boot(&request()).await.unwrap_or_else(|error| panic!("{error}"));
        first_command(&*machine).await;
    };
    let warm = || async { first_command(&*clone(&*template).await).await };
    let mut group = criterion.benchmark_group("process start to the end of a first command");
    group.sample_size(20);
    group.bench_function("clone", |b| b.iter_custom(|n| timed(&runtime, n, warm)));
    group.sample_size(10);
    group.bench_function("cold boot", |b| b.iter_custom(|n| timed(&runtime, n, cold)));
    group.finish();

    // In turns, so that whatever else the controller does hits both alike.
    let mut ratios: Vec<f64> = (0..7)
        .map(|_| {
            let clone = timed(&runtime, 1, warm).as_secs_f64();
            timed(&runtime, 1, cold).as_secs_f64() / clone
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("cold boot / clone, 7 pairs: {ratios:.1?}, median {:.1}", ratios[3]);
    let idle = runtime.block_on(async {
        let machine = clone(&*template).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let memory = memory_of_children();
        drop(machine);
        memory
    });
    println!("an idle clone: {idle}");
}

/// The time of `n` of them, one after the other, without their end.
fn timed<F: Future<Output = ()>>(runtime: &Runtime, n: u64, work: impl Fn() -> F) -> Duration {
    (0..n)
        .map(|_| {
            let started = Instant::now();
            runtime.block_on(work());
            started.elapsed()
        })
        .sum()
}

/// What the kernel says of the memory of this process's children.
fn memory_of_children() -> String {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
    let rollup = |child: &str| fs::read_to_string(format!("/proc/{child}/smaps_rollup"));
    let text: String =
        children.expect("/proc").split_whitespace().flat_map(rollup).collect::<Vec<_>>().concat();
    let wanted = ["Private_Dirty:", "Anonymous:", "AnonHugePages:"];
    let lines = text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

criterion_group!(benches, warm);
criterion_main!(benches);
