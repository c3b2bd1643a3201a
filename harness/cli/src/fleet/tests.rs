//! Runs over guests and lab hosts, both of which are agents on this controller.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use kgate_compare::Verdict;
use kgate_kernel::Kernel;
use kgate_machine::Pool;
use kgate_model::outcome::Role;
use kgate_model::plan::Plan;
use kgate_testkit::kernels::boot_image;
use kgate_testkit::local::LocalPool;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Fleet, hurried};
use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::CommandError;
use crate::library::Source;
use crate::run::{Machines, carry_out};

/// Gives agents for guests and for lab hosts.
#[derive(Default)]
struct Agents {
    /// Why each run's second host is left.
    left: Option<&'static str>,
    /// Hosts of each plan that machines were asked for.
    asked: Rc<RefCell<Vec<Vec<String>>>>,
}

#[async_trait(?Send)]
impl Machines for Agents {
    async fn pool(
        &self,
        _: &Context,
        _: &Source,
        _: BTreeMap<Role, Kernel>,
        plan: &Plan,
        _: &Path,
    ) -> Result<Box<dyn Pool>, CommandError> {
        let hosts: Vec<String> = plan.hosts().into_iter().map(str::to_owned).collect();
        self.asked.borrow_mut().push(hosts);
        let (guests, lab) = (LocalPool::new(1), LocalPool::new(1));
        if let Some(why) = self.left {
            lab.leave("west", why);
        }
        Ok(Box::new(Fleet { guests: Some(Box::new(guests)), lab: Box::new(lab) }))
    }
}

#[test]
fn a_run_that_gives_servers_too_little_time_is_told() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let told = "east reboots 24 times, and the run ends after 30 min: where a server takes 5 min each time, give it \
                120 min (`timeouts: { run: … }` of the policy); `--resume` goes on with one that ended too early";
    assert_eq!(hurried("east", 12, minutes(30)).unwrap(), told);
    assert_eq!(hurried("east", 3, minutes(30)), None);
    assert_eq!(hurried("east", usize::MAX, minutes(30)), None);
}

/// A directory with a library, an inventory and two kernels.
struct Bench(TempDir);

/// Nobody's.
const KEY: &str =
    "'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f'";

const LAB: &str = "\
hosts:
  east: { tags: [edge], ssh: { address: 10.0.0.1, host-key: KEY } }
  west: { tags: [edge], ssh: { address: 10.0.0.2, host-key: KEY } }
  spare: { ssh: { address: 10.0.0.3, host-key: KEY } }
";

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let scenario = "summary: s\nsteps:\n  - run: 'true'\n";
        bench.write("scenarios/subsystem/a.yaml", &format!("kind: subsystem\n{scenario}"));
        bench.write("scenarios/integration/b.yaml", &format!("kind: integration\n{scenario}"));
        let workload = "summary: s\nscenarios: ['**']\npolicy: { boots: 2 }\n\
            lab: { hosts: [edge], scenarios: [subsystem/*] }\n";
        bench.write("workloads/profiles/mixed.yaml", workload);
        bench.write("lab.yaml", &LAB.replace("KEY", KEY));
        for version in ["6.1.1", "6.1.2"] {
            let image = boot_image(&format!("{version} (builder@host) #1 SMP"), &[0; 16]);
            let boot = bench.0.path().join(format!("{version}/boot"));
            fs::create_dir_all(&boot).unwrap();
            fs::write(boot.join(format!("vmlinuz-{version}")), image).unwrap();
        }
        bench
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn cli(&self, args: &[&str]) -> Cli {
        let cache = self.path("cache");
        let all = ["kgate", "--cache", &cache, "--today", "2026-11-22", "run"];
        Cli::parse_from(all.iter().chain(args))
    }

    async fn run(&self, machines: &Agents, args: &[&str]) -> Result<Verdict, CommandError> {
        let Cli { command: Command::Run(args), global } = self.cli(args) else { panic!("a run") };
        let (_sender, signals) = watch::channel(false);
        carry_out(&Context::new(global), &args, machines, signals).await
    }

    async fn fresh(
        &self,
        machines: &Agents,
        dir: &str,
        more: &[&str],
    ) -> Result<Verdict, CommandError> {
        let (old, new, library) = (self.path("6.1.1"), self.path("6.1.2"), self.path(""));
        let (dir, json) = (self.path(dir), self.path(&format!("{dir}.json")));
        let args = ["--baseline", &old, "--candidate", &new, "--library", &library];
        let out = ["--workload", "mixed", "--dir", &dir, "--json", &json];
        self.run(machines, &[&args[..], &out, more].concat()).await
    }

    fn results(&self, dir: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(&format!("{dir}.json"))).unwrap()).unwrap()
    }
}

/// How many boots there were where.
fn places(results: &serde_json::Value) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for boot in results["boots"].as_array().unwrap() {
        let host = boot["host"].as_str().unwrap_or("guests");
        *places.entry(host.to_owned()).or_default() += 1;
    }
    places
}

#[tokio::test]
async fn guests_and_hosts_come_to_one_verdict() {
    let (bench, machines) = (Bench::new(), Agents::default());
    let lab = bench.path("lab.yaml");
    let verdict = bench.fresh(&machines, "one", &["--lab", &lab]).await.unwrap();
    assert_eq!(verdict, Verdict::Promote);
    let results = bench.results("one");
    // The workload names hosts by their tag, and what runs there.
    let expected = [("east", 2), ("guests", 4), ("west", 2)].map(|(at, n)| (at.to_owned(), n));
    assert_eq!(places(&results), expected.into());
    let back = |at: usize| (&results["hosts"][at]["name"], &results["hosts"][at]["back"]);
    assert_eq!(back(0), (&"east".into(), &true.into()));
    assert_eq!(back(1), (&"west".into(), &true.into()));
    // A run that goes on takes the hosts that it was planned with, whatever it is told.
    bench.write("lab.yaml", "hosts: {}\n");
    bench.run(&machines, &["--resume", &bench.path("one")]).await.unwrap();
    let asked = [["east", "west"], ["east", "west"]].map(|hosts| hosts.map(str::to_owned).to_vec());
    assert_eq!(*machines.asked.borrow(), asked);
}

#[tokio::test]
async fn the_command_line_replaces_what_the_workload_says() {
    let (bench, machines) = (Bench::new(), Agents::default());
    let lab = bench.path("lab.yaml");
    let args = ["--lab", &lab, "--hosts", "spare", "--lab-scenarios", "**"];
    bench.fresh(&machines, "all", &args).await.unwrap();
    assert_eq!(places(&bench.results("all")), [("spare".to_owned(), 4)].into());
    let refused = async |args: &[&str]| {
        let error = bench.fresh(&machines, "refused", args).await.unwrap_err();
        assert_eq!(error.code(), 2, "{error}");
        error.to_string().replace(&bench.path(""), "")
    };
    insta::assert_snapshot!(refused(&["--hosts", "east"]).await, @"
    --hosts needs an inventory
      hint: name the inventory of the lab with --lab FILE or KGATE_LAB
    ");
    insta::assert_snapshot!(refused(&["--lab", &lab, "--hosts", "edge,esat"]).await, @"
    no host of lab.yaml has the name or the tag `esat`
      hint: `kgate lab list` shows the hosts and their tags
    ");
    insta::assert_snapshot!(refused(&["--lab", &lab, "--lab-scenarios", "performance/*"]).await, @"
    no scenario of the workload `mixed` that a lab host can run matches `performance/*`
      hint: exact scenarios count instructions, which only guests can
    ");
}

#[tokio::test]
async fn without_an_inventory_all_runs_in_guests_and_a_note_says_so() {
    let (bench, machines) = (Bench::new(), Agents::default());
    let verdict = bench.fresh(&machines, "guests", &[]).await.unwrap();
    assert_eq!(verdict, Verdict::Promote);
    let results = bench.results("guests");
    assert_eq!(places(&results), [("guests".to_owned(), 4)].into());
    let note = "the workload mixed wants lab hosts, and no inventory was given: all ran in guests";
    assert_eq!(results["notes"], serde_json::json!([note]));
}

#[tokio::test]
async fn a_host_that_is_left_makes_it_infrastructure() {
    let machines = Agents { left: Some("it does not answer"), ..Agents::default() };
    let bench = Bench::new();
    let lab = bench.path("lab.yaml");
    let verdict = bench.fresh(&machines, "left", &["--lab", &lab]).await.unwrap();
    assert_eq!(verdict, Verdict::Infrastructure);
    assert_eq!(bench.results("left")["hosts"][1]["left"], "it does not answer");
}
