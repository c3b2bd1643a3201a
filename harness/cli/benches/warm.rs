//! From before there is a process to the first line of a first command, and to its end: a clone against
//! a cold boot of the same guest, in turns, and the memory that an idle clone has to itself.

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
    Accel, AccelChoice, Guests, GuestsConfig, Plugin, Programs, Qemu, Store, StoreConfig, Userland,
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

/// Runs a command until it says something, and to its end; gives the time of the former.
async fn first_command(machine: &dyn Machine) -> Instant {
    let command = Command {
        argv: ["/bin/sh", "-c", "echo running"].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        dir: "/".into(),
        stdin: Stdin::Null,
        timeout_ms: None,
        output_limit: 1 << 10,
        limits: Limits::default(),
        background: false,
    };
    let mut running = machine.agent().spawn(command).expect("an agent");
    let mut said = None;
    loop {
        match running.next().await.expect("an answer") {
            Reply::Output { data, .. } => {
                assert_eq!(data, b"running\n");
                said = Some(Instant::now());
            }
            Reply::Exited { status, .. } => {
                assert_eq!(status, ExitStatus::Code(0));
                return said.expect("a line");
            }
            _ => {}
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
        plugin: Some(Plugin(include_bytes!(env!("KGATE_PLUGIN")))),
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
        first_command(&*machine).await
    };
    let warm = || async { first_command(&*clone(&*template).await).await };
    // The first ones are restored, and then there is one that all others are forked from.
    let restored: Vec<u128> = (0..2).map(|_| until(&runtime, warm)).collect();
    timed(&runtime, 1, warm);
    let mut group = criterion.benchmark_group("process start to the end of a first command");
    group.sample_size(20);
    group.bench_function("clone", |b| b.iter_custom(|n| timed(&runtime, n, warm)));
    group.sample_size(10);
    group.bench_function("cold boot", |b| b.iter_custom(|n| timed(&runtime, n, cold)));
    group.finish();

    let mut forked: Vec<u128> = (0..41).map(|_| until(&runtime, warm)).collect();
    forked.sort_unstable();
    println!(
        "to the first line, in ms: restored {restored:?}; 41 forked: median {}, from {} to {}",
        forked[20], forked[0], forked[40]
    );
    // In turns, so that whatever else the controller does hits both alike.
    let mut ratios: Vec<u128> =
        (0..7).map(|_| until(&runtime, cold) / until(&runtime, warm).max(1)).collect();
    ratios.sort_unstable();
    println!("cold boot / clone to the first line, 7 pairs: {ratios:?}");
    let idle = runtime.block_on(async {
        let machine = clone(&*template).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let memory = memory_of_newest();
        drop(machine);
        memory
    });
    println!("an idle clone: {idle}");
}

/// Milliseconds until what `work` gives the time of.
fn until<F: Future<Output = Instant>>(runtime: &Runtime, work: impl Fn() -> F) -> u128 {
    let started = Instant::now();
    (runtime.block_on(work()) - started).as_millis()
}

/// The time of `n` of them, one after the other, without their end.
fn timed<F: Future<Output = Instant>>(runtime: &Runtime, n: u64, work: impl Fn() -> F) -> Duration {
    (0..n)
        .map(|_| {
            let started = Instant::now();
            runtime.block_on(work());
            started.elapsed()
        })
        .sum()
}

/// What the kernel says of the memory of the child that was made last.
fn memory_of_newest() -> String {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).expect("/proc");
    let newest = children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()).max();
    let rollup = format!("/proc/{}/smaps_rollup", newest.expect("a child"));
    let text = fs::read_to_string(rollup).expect("/proc");
    let wanted = ["Private_Dirty:", "Anonymous:", "AnonHugePages:"];
    let lines = text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

criterion_group!(benches, warm);
criterion_main!(benches);
