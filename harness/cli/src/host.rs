//! What the controller itself does while times are measured: its processor, and who else uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;

use kgate_runner::Controller;

/// Load of others, in CPUs, that times are not disturbed by.
const LOAD: f64 = 0.5;
/// Share of stolen time that times are not disturbed by.
const STOLEN: f64 = 0.01;
/// No file that is read here is larger.
const FILE_BOUND: u64 = 4 << 20;

const STAT: &str = "/proc/stat";

/// The controller as it was when a run began.
pub(crate) struct Host {
    texts: Texts,
    /// The run has boots that measure time.
    pub(crate) times: bool,
    /// What else a person should know of the run.
    pub(crate) note: Option<String>,
}

/// What the kernel says; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
struct Texts {
    /// `/proc/cpuinfo`.
    cpuinfo: Option<String>,
    /// `/proc/loadavg`.
    loadavg: Option<String>,
    /// `/proc/stat`.
    stat: Option<String>,
    /// `online` of all CPUs, a list of ranges.
    online: Option<String>,
    /// `smt/active`.
    smt: Option<String>,
    /// `intel_pstate/no_turbo`.
    no_turbo: Option<String>,
    /// `cpufreq/boost`.
    boost: Option<String>,
    /// `scaling_governor` of each policy.
    governors: Vec<String>,
}

impl Host {
    /// Looks now.
    pub(crate) fn look() -> Self {
        let cpu = |file: &str| read(&format!("/sys/devices/system/cpu/{file}"));
        let policies = fs::read_dir("/sys/devices/system/cpu/cpufreq").into_iter().flatten();
        let governor = |name: &str| cpu(&format!("cpufreq/{name}/scaling_governor"));
        let texts = Texts {
            cpuinfo: read("/proc/cpuinfo"),
            loadavg: read("/proc/loadavg"),
            stat: read(STAT),
            online: cpu("online"),
            smt: cpu("smt/active"),
            no_turbo: cpu("intel_pstate/no_turbo"),
            boost: cpu("cpufreq/boost"),
            governors: policies
                .filter_map(|entry| governor(entry.ok()?.file_name().to_str()?))
                .collect(),
        };
        Self { texts, times: false, note: None }
    }
}

impl Controller for Host {
    fn facts(&self) -> BTreeMap<String, String> {
        self.texts.facts()
    }

    fn notes(&self) -> Vec<String> {
        let disturbed = self.times.then(|| self.texts.notes(read(STAT).as_deref()));
        self.note.iter().cloned().chain(disturbed.into_iter().flatten()).collect()
    }
}

impl Texts {
    fn facts(&self) -> BTreeMap<String, String> {
        let on = |on: bool| if on { "on" } else { "off" }.to_owned();
        let governors: Vec<&str> = self.governors().into_iter().collect();
        let facts = [
            ("cpu", self.model().map(ToOwned::to_owned)),
            ("cpus", self.online.as_deref().map(|list| list.trim().to_owned())),
            ("governor", (!governors.is_empty()).then(|| governors.join(", "))),
            ("turbo", self.turbo().map(on)),
            ("smt", self.smt().map(on)),
            ("hypervisor", self.hypervisor().map(|is| if is { "yes" } else { "no" }.to_owned())),
            ("load", self.load().map(|load| format!("{load:.2}"))),
        ];
        let named = |(name, fact): (&str, Option<String>)| Some((format!("host {name}"), fact?));
        facts.into_iter().filter_map(named).collect()
    }

    /// What a person should know who reads times of this run; `stat` is `/proc/stat` at its end.
    fn notes(&self, stat: Option<&str>) -> Vec<String> {
        let mut notes = Vec::new();
        let stolen = self.stat.as_deref().zip(stat).and_then(|(from, to)| stolen(from, to));
        match stolen {
            Some(stolen) if stolen > STOLEN => notes.push(format!(
                "{:.1} % of this machine's CPU time went to other machines of its host during the run: \
                 its times are not to be trusted",
                100.0 * stolen
            )),
            Some(stolen) if self.hypervisor() == Some(true) => notes.push(format!(
                "{:.1} % of this machine's CPU time went to other machines of its host during the run",
                100.0 * stolen
            )),
            _ => {}
        }
        let governors: Vec<&str> =
            self.governors().into_iter().filter(|governor| *governor != "performance").collect();
        if !governors.is_empty() {
            notes.push(format!(
                "the CPU frequency governor is {}, not performance: times depend on how busy the \
                 CPUs were before",
                governors.join(", ")
            ));
        }
        if self.turbo() == Some(true) {
            notes
                .push("turbo is on: times depend on heat and on what the other CPUs do".to_owned());
        }
        if self.smt() == Some(true) {
            notes.push("SMT is on: a CPU shares its core with what runs on its sibling".to_owned());
        }
        if let Some(load) = self.load().filter(|load| *load > LOAD) {
            notes.push(format!(
                "the load was {load:.2} when the run began: whatever else runs here disturbs times"
            ));
        }
        notes
    }

    fn cpuinfo(&self, name: &str) -> Option<&str> {
        self.cpuinfo.as_deref()?.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    }

    fn model(&self) -> Option<&str> {
        self.cpuinfo("model name")
    }

    /// Whether this machine is a virtual one.
    fn hypervisor(&self) -> Option<bool> {
        Some(self.cpuinfo("flags")?.split_whitespace().any(|flag| flag == "hypervisor"))
    }

    fn governors(&self) -> BTreeSet<&str> {
        self.governors.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect()
    }

    fn turbo(&self) -> Option<bool> {
        let no_turbo = self.no_turbo.as_deref().and_then(switch).map(|no| !no);
        no_turbo.or_else(|| self.boost.as_deref().and_then(switch))
    }

    /// Whether a core has two CPUs that are online.
    fn smt(&self) -> Option<bool> {
        switch(self.smt.as_deref()?)
    }

    /// CPUs that were busy, or waited for, on average in the minute before.
    fn load(&self) -> Option<f64> {
        let load: f64 = self.loadavg.as_deref()?.split_whitespace().next()?.parse().ok()?;
        load.is_finite().then_some(load)
    }
}

fn switch(text: &str) -> Option<bool> {
    match text.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Share of all CPUs' time between two texts of `/proc/stat` in which somebody else had the processor.
fn stolen(from: &str, to: &str) -> Option<f64> {
    let ticks = |text: &str| -> Option<(u64, u64)> {
        let line = text.lines().find(|line| line.starts_with("cpu "))?;
        // The time of guests comes after these and is in the time of the user as well.
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).take(8).map_while(|n| n.parse().ok()).collect();
        let all = ticks.iter().try_fold(0_u64, |all, ticks| all.checked_add(*ticks))?;
        Some((*ticks.get(7)?, all))
    };
    let ((stolen, all), (stolen_then, all_then)) = (ticks(to)?, ticks(from)?);
    let passed = all.checked_sub(all_then).filter(|passed| *passed > 0)?;
    Some(stolen.checked_sub(stolen_then)? as f64 / passed as f64)
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BOUND).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    /// A workstation that nobody has prepared.
    fn workstation() -> Texts {
        Texts {
            cpuinfo: some(
                "processor\t: 0\nmodel name\t: A Fast Processor: 9th\nflags\t\t: fpu vme\n\n\
                 processor\t: 1\nmodel name\t: Another\nflags\t\t: fpu hypervisor\n",
            ),
            loadavg: some("0.51 0.80 1.10 1/200 4711\n"),
            stat: some("cpu  100 0 50 850 0 0 0 0 0 0\ncpu0 100 0 50 850 0 0 0 0 0 0\n"),
            online: some("0-3\n"),
            smt: some("1\n"),
            no_turbo: some("0\n"),
            boost: None,
            governors: ["powersave\n", "performance\n", "powersave\n"].map(Into::into).into(),
        }
    }

    fn facts(texts: &Texts) -> String {
        texts.facts().iter().map(|(name, fact)| format!("{name}: {fact}\n")).collect()
    }

    #[test]
    fn what_disturbs_times_is_told() {
        let texts = workstation();
        insta::assert_snapshot!(facts(&texts), @r"
    host cpu: A Fast Processor: 9th
    host cpus: 0-3
    host governor: performance, powersave
    host hypervisor: no
    host load: 0.51
    host smt: on
    host turbo: on
    ");
        let end = "cpu  180 0 100 1690 0 0 0 30 70 0\n";
        insta::assert_snapshot!(texts.notes(Some(end)).join("\n"), @r"
    3.0 % of this machine's CPU time went to other machines of its host during the run: its times are not to be trusted
    the CPU frequency governor is powersave, not performance: times depend on how busy the CPUs were before
    turbo is on: times depend on heat and on what the other CPUs do
    SMT is on: a CPU shares its core with what runs on its sibling
    the load was 0.51 when the run began: whatever else runs here disturbs times
    ");
    }

    #[test]
    fn a_quiet_machine_is_told_of_without_a_warning() {
        let texts = Texts {
            cpuinfo: some("model name : A Server\nflags : fpu hypervisor\n"),
            loadavg: some("0.50 0.80 1.10 1/200 4711\n"),
            smt: some("0\n"),
            no_turbo: None,
            boost: some("0\n"),
            governors: vec!["performance\n".into()],
            ..workstation()
        };
        insta::assert_snapshot!(facts(&texts), @r"
    host cpu: A Server
    host cpus: 0-3
    host governor: performance
    host hypervisor: yes
    host load: 0.50
    host smt: off
    host turbo: off
    ");
        let end = "cpu  180 0 100 1710 0 0 0 10 70 0\n";
        insta::assert_snapshot!(texts.notes(Some(end)).join("\n"), @"1.0 % of this machine's CPU time went to other machines of its host during the run");
    }

    #[test]
    fn what_the_kernel_does_not_say_is_missing() {
        let nothing = Texts::default();
        assert_eq!((facts(&nothing), nothing.notes(Some("cpu  1 2"))), (String::new(), Vec::new()));
        let odd = Texts {
            cpuinfo: some("model name"),
            loadavg: some("NaN"),
            stat: some("cpu  9 9 9 9 9 9 9 9"),
            smt: some("notsupported\n"),
            governors: vec!["\n".into()],
            ..Texts::default()
        };
        // Counters that went backwards, stand still, or are too large.
        for end in ["cpu  1 1 1 1 1 1 1 1", "cpu  9 9 9 9 9 9 9 9", "cpu  99 9 9 9 9 9 9 8", ""] {
            assert_eq!(odd.notes(Some(end)), Vec::<String>::new(), "{end}");
        }
        let most = u64::MAX;
        assert_eq!(stolen("cpu  0 0 0 0 0 0 0 0", &format!("cpu  {most} 1 0 0 0 0 0 0")), None);
        assert_eq!(facts(&odd), "");
    }

    #[test]
    fn this_machine_says_something() {
        let host = Host::look();
        assert!(host.facts().contains_key("host load"));
        assert_eq!(host.notes(), Vec::<String>::new());
        let stolen = stolen(host.texts.stat.as_deref().unwrap(), &read(STAT).unwrap());
        assert!(stolen.is_none_or(|share| (0.0..=1.0).contains(&share)));
    }
}
