//! Clones of booted guests: that each trial finds the same machine whatever others do to theirs, that
//! outcomes are those of cold boots, and that nothing is left. Names have `boots` in them, by which
//! nextest knows what keeps a core busy.

#[expect(dead_code, reason = "shared with the other tests of real guests")]
mod bench;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bench::{Bench, Results, SEEDED, hog, wait_until};
use rustix::process::Signal;

/// What a trial finds that nobody has touched anything of. Tells what is to be its own.
const WITNESS: &str = "\
check() {
    [ \"$(hostname)\" = kgate ] || { echo another host name; exit 1; }
    [ -s /etc/passwd ] || { echo no /etc/passwd; exit 1; }
    [ \"$(cat /proc/sys/vm/swappiness)\" = 60 ] || { echo another swappiness; exit 1; }
    [ \"$(ls /tmp)\" = \"$1\" ] || { echo files in /tmp: $(ls /tmp); exit 1; }
    ! dmesg | grep -q scribbled || { echo another log; exit 1; }
    free=$(sed -n 's/MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
    [ \"$free\" -gt 100000 ] || { echo only $free KiB available; exit 1; }
}
check ''
touch /tmp/mine
sleep 2
check mine
echo own boot $(cat /proc/sys/kernel/random/boot_id)
echo own machine $(cat /etc/machine-id)
echo own entropy $(head -c 16 /dev/urandom | md5sum)
echo now $(date +%s)";

/// Everything of a machine that root can spoil.
const SCRIBBLE: &str = "\
echo scribbled > /dev/kmsg
echo 7 > /proc/sys/vm/swappiness
hostname scribbled
dd if=/dev/zero of=/tmp/fill bs=1M count=64 2>/dev/null
dd if=/dev/zero of=/dev/mem bs=4096 seek=16 count=1 2>/dev/null
for disk in /dev/vd?; do dd if=/dev/zero of=$disk bs=1M count=8 2>/dev/null; done
rm -rf /etc /root /mnt /bin
exit 0";

fn seeded(script: &str) -> String {
    format!("{SEEDED}{script}")
}

/// How many of something a test is to do: `default`, or what the environment says.
fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |n| n.parse().expect("a number"))
}

#[test]
fn clones_of_boots_do_not_notice_each_other() {
    let witnesses: Vec<String> = (1..=5).map(|n| format!("witness-{n}")).collect();
    let (fill, crash) =
        (seeded("tail /dev/zero"), seeded("echo c > /proc/sysrq-trigger; sleep 60"));
    let mut scenarios = vec![("fill", &*fill), ("crash", &*crash), ("scribble", SCRIBBLE)];
    scenarios.extend(witnesses.iter().map(|name| (&**name, WITNESS)));
    let Some(bench) = Bench::new(&scenarios) else { return };
    let results = bench.run("run", &["--cpus", "4"]);
    results.assert_verdict(1, "reject");

    results.trial("crash", "candidate").assert_failed("kernel panic", "sysrq triggered crash");
    assert_eq!(results.trial("fill", "candidate").outcome, "failed");
    assert_eq!(results.trial("scribble", "candidate").outcome, "passed");
    let mut own = BTreeSet::new();
    for role in ["baseline", "candidate"] {
        assert_eq!(results.boot(&format!("{role}-1-base"))["attempts"], 1);
        for name in &witnesses {
            let witness = results.trial(name, role);
            assert_eq!(witness.outcome, "passed", "{name}: {witness:?}");
            let log = bench.log("run", name, &format!("{role}-1-base"));
            let log = fs::read_to_string(log).expect("a log");
            own.extend(log.lines().filter(|l| l.starts_with("own ")).map(str::to_owned));
            let now = log.lines().find_map(|line| line.strip_prefix("now ")?.parse::<i64>().ok());
            let written =
                fs::metadata(bench.path("run/journal.jsonl")).unwrap().modified().unwrap();
            let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let late = i64::try_from(written).unwrap() - now.expect("a time");
            assert!((-2..300).contains(&late), "{name}: its clock is {late} s late");
        }
    }
    assert_eq!(own.len(), 2 * witnesses.len() * 3, "not all are one of a kind: {own:#?}");
    // The finding is the panicked clone's only.
    results.assert_junit("subsystem", "witness-1", "success", "");
    bench.assert_no_temporary_files();
}

/// `count` scenarios, of which some fail, some make the kernel complain and one is skipped.
fn various(bench: &Bench, count: u32, start: &str) -> Vec<String> {
    let names: Vec<String> = (0..count).map(|n| format!("s{n:04}")).collect();
    for (n, name) in names.iter().enumerate() {
        let script = match n % 10 {
            3 => "echo wrong; exit 3".to_owned(),
            5 => seeded("echo '<3>BUG: unable to handle page fault for address: 0' > /dev/kmsg"),
            7 => "head -c 8m /dev/zero | md5sum".to_owned(),
            _ => format!("echo {name}; [ \"$(hostname)\" = kgate ]"),
        };
        let text: String = script.lines().map(|line| format!("      {line}\n")).collect();
        let text = format!(
            "kind: subsystem\nsummary: a test's\nboot: {start}\nsteps:\n  - run: |\n{text}"
        );
        bench.write(&format!("library/scenarios/subsystem/{name}.yaml"), &text);
    }
    let listed: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.workload(&listed, "kgate.seed", "");
    names
}

/// Scenario, role and outcome of all trials; boots have other ids when they are cold.
fn outcomes(results: &Results) -> BTreeSet<(String, String, String)> {
    let trials = results.json["trials"].as_array().expect("trials");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    trials.iter().map(|t| (text(&t["scenario"]), text(&t["role"]), text(&t["outcome"]))).collect()
}

#[test]
fn clones_and_cold_boots_come_to_the_same() {
    let Some(bench) = Bench::new(&[]) else { return };
    let count = number("KGATE_TEST_SCENARIOS", 10);
    let run = |start: &str| {
        various(&bench, count, start);
        let mut running = bench.start(&bench.run_args(start, &[]));
        // Hundreds of cold boots take their time.
        while !running.ended() {
            std::thread::sleep(Duration::from_millis(20));
        }
        bench.results(start, &running.wait())
    };
    let (warm, cold) = (run("warm"), run("cold"));
    assert_eq!(outcomes(&warm), outcomes(&cold));
    assert_eq!((warm.code, warm.verdict()), (cold.code, cold.verdict()));
    let ratio = cold.took.as_secs_f64() / warm.took.as_secs_f64();
    println!("{count} scenarios: {:?} warm, {:?} cold, {ratio:.1} times", warm.took, cold.took);
    // Said for the record; only that it is quicker at all is not a matter of the controller.
    assert!(count < 10 || ratio > 1.0, "{:?} warm, {:?} cold", warm.took, cold.took);
    bench.assert_no_temporary_files();
}

#[test]
fn many_clones_of_boots_leave_nothing() {
    let Some(bench) = Bench::new(&[]) else { return };
    let count = number("KGATE_TEST_CLONES", 40).div_ceil(2);
    let names = various(&bench, count, "warm");
    let mut running = bench.start(&bench.run_args("run", &[]));
    let mut most = 0;
    while !running.ended() {
        most = most.max(running.guests().len());
        std::thread::sleep(Duration::from_millis(20));
    }
    let results = bench.results("run", &running.wait());
    println!("{} clones, at most {most} at once, {:?}", 2 * count, results.took);
    for (n, name) in names.iter().enumerate() {
        let expected = if n % 10 == 3 { "failed" } else { "passed" };
        assert_eq!(results.trial(name, "baseline").outcome, expected, "{name}");
        let expected = if matches!(n % 10, 3 | 5) { "failed" } else { "passed" };
        assert_eq!(results.trial(name, "candidate").outcome, expected, "{name}");
    }
    for role in ["baseline", "candidate"] {
        assert_eq!(results.boot(&format!("{role}-1-base"))["attempts"], 1);
    }
    assert_eq!(facts(&bench, "run"), ["forked"]);
    bench.assert_no_temporary_files();
}

/// What a run tells of how its clones were made.
fn facts(bench: &Bench, run: &str) -> Vec<String> {
    let journal = fs::read_to_string(bench.path(&format!("{run}/journal.jsonl"))).unwrap();
    let events = journal.lines().map(serde_json::from_str::<serde_json::Value>);
    let told = events.filter_map(|event| Some(event.ok()?.pointer("/event/facts/clones")?.clone()));
    told.filter_map(|told| Some(told.as_str()?.to_owned())).collect()
}

#[test]
fn clones_of_boots_are_restored_where_they_can_not_be_forked() {
    let Some(bench) = Bench::new(&[]) else { return };
    various(&bench, 5, "warm");
    bench.write(
        "qemu",
        "#!/bin/sh\ncase \"$*\" in *-plugin*) echo no plugins here >&2; exit 1;; esac\n\
         exec qemu-system-x86_64 \"$@\"\n",
    );
    let qemu = bench.path("qemu");
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let qemu = qemu.display().to_string();
    let results = bench.run("run", &["--qemu", &qemu]);
    results.assert_verdict(0, "promote");
    let told = facts(&bench, "run");
    assert!(told[0].starts_with("not forked: QEMU ended from outside"), "{told:?}");
    assert!(told[0].contains("no plugins here"), "{told:?}");
}

#[test]
fn forked_clones_of_boots_fail_alone_and_tell_where_they_hang() {
    let quick: Vec<String> = (0..8).map(|n| format!("quick-{n}")).collect();
    let mut scenarios: Vec<(&str, &str)> = quick.iter().map(|name| (&**name, "true")).collect();
    let crash = seeded("echo c > /proc/sysrq-trigger");
    // What a panic sets off has come to its end when a CPU is free again for those that follow.
    let busy = "timeout 6 sh -c 'while :; do :; done'; true";
    scenarios.splice(4..4, [("crash", &*crash), ("busy", busy)]);
    let hog = seeded(&hog());
    scenarios.push(("z-hog", &hog));
    let Some(bench) = Bench::new(&scenarios) else { return };
    let listed: Vec<&str> = scenarios.iter().map(|(name, _)| *name).collect();
    bench.workload(&listed, "kgate.seed", "timeouts: { hang: 5s }");
    let results = bench.run("run", &["--cpus", "1"]);
    results.assert_verdict(1, "reject");
    assert_eq!(facts(&bench, "run"), ["forked"]);
    results.trial("crash", "candidate").assert_failed("kernel panic", "sysrq triggered crash");
    for name in &quick {
        assert_eq!(results.trial(name, "candidate").outcome, "passed");
    }
    let hog = results.trial("z-hog", "candidate");
    hog.assert_failed("hang", "no heartbeat for 5 s");
    let diagnosis = fs::read(bench.path("run").join(&hog.diagnosis)).expect("the diagnosis");
    let diagnosis = String::from_utf8_lossy(&diagnosis);
    assert!(diagnosis.contains("Comm: hog"), "{diagnosis}");
}

#[test]
fn clones_that_sleep_share_the_boots_of_few_cpus() {
    let Some(bench) = Bench::new(&[]) else { return };
    let names: Vec<String> = (0..8).map(|n| format!("sleep-{n}")).collect();
    names.iter().for_each(|name| bench.scenario(name, "", "sleep 12"));
    bench.workload(&names.iter().map(String::as_str).collect::<Vec<_>>(), "kgate.seed", "");
    let mut running = bench.start(&bench.run_args("run", &["--cpus", "2"]));
    let mut most = 0;
    while !running.ended() {
        most = most.max(running.guests().len());
        std::thread::sleep(Duration::from_millis(50));
    }
    let results = bench.results("run", &running.wait());
    results.assert_verdict(0, "promote");
    println!("at most {most} guests at once, {:?}", results.took);
    assert!(most > 4, "only {most} guests at once, though all of them slept");
}

#[test]
fn templates_of_boots_serve_later_runs_until_they_are_no_good() {
    let Some(bench) = Bench::new(&[("one", "true"), ("two", "true")]) else { return };
    let templates = bench.path("templates");
    let run = |name: &str| {
        let args = bench.run_args(name, &[]);
        let mut command = bench.kgate(&args.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("KGATE_TEMPLATE_LIMIT", "4096").env("KGATE_TEMPLATE_DIR", &templates);
        let results = bench.results(name, &bench.spawn(command).wait());
        results.assert_verdict(0, "promote");
        let journal = fs::read_to_string(bench.path(&format!("{name}/journal.jsonl"))).unwrap();
        let notes = journal.matches("its clone could not be started").count();
        (journal.matches("\"kept_since\":null").count(), notes)
    };
    let kept = || {
        let entries = fs::read_dir(&templates).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect::<BTreeSet<_>>()
    };
    assert_eq!(run("first"), (2, 0), "boots and clones that failed");
    let names = kept();
    assert_eq!(names.len(), 2);
    assert_eq!(run("second"), (0, 0), "the first run's templates do");
    for name in &names {
        let state = templates.join(name).join("state");
        let length = fs::metadata(&state).unwrap().len();
        fs::write(&state, vec![0; usize::try_from(length).unwrap()]).unwrap();
    }
    // It is noticed, is nobody's fault, and is made good.
    assert_eq!(run("spoilt"), (0, 4));
    assert_eq!(run("mended"), (2, 0));
    assert_eq!(kept(), names);
}

#[test]
fn a_killed_run_leaves_no_clone_of_its_boots_and_is_taken_up() {
    let quick: Vec<String> = (0..4).map(|n| format!("a-quick-{n}")).collect();
    let mut scenarios: Vec<(&str, &str)> = quick.iter().map(|name| (&**name, "true")).collect();
    scenarios.push(("long", "echo begun; sleep 8"));
    let Some(bench) = Bench::new(&scenarios) else { return };
    let mut running = bench.start(&bench.run_args("run", &[]));
    running.wait_for_trial(&bench.log("run", "long", "candidate-1-base"));
    let guests = running.guests();
    assert!(!guests.is_empty());
    running.signal(Signal::KILL);
    wait_until("it is gone", Duration::from_secs(5), || running.ended());
    wait_until("its guests are gone", Duration::from_secs(5), || {
        guests.iter().all(|&guest| !bench::is_qemu(guest))
    });
    drop(running);
    let results = bench.resume("run");
    results.assert_verdict(0, "promote");
    bench.assert_no_temporary_files();
}
