//! The mail to the kernel's developers, over hand-made runs.

#[path = "../../compare/tests/support/mod.rs"]
mod support;

use kgate_compare::Assessment;
use kgate_model::finding::{Finding, FindingKind, Frame, Severity, SourceLine};
use kgate_model::journal::RunRecord;
use kgate_model::outcome::{Fault, FaultKind, Outcome, Role};
use kgate_model::sample::Better;
use kgate_report::{
    Commit, Details, Mailbox, Range, Recipient, Report, failures, module, regression_mail,
    source_file,
};
use kgate_scenario::{Policy, Reaction};
use proptest::prelude::*;
use support::{Run, failed, panic, warning};

use Role::{Baseline, Candidate};

fn range() -> Range {
    Range {
        last_good: "6.1.170".to_owned(),
        first_bad: "6.1.192".to_owned(),
        culprit: None,
        basis: None,
    }
}

fn recipients() -> Vec<Recipient> {
    let recipient = |text: &str, to| Recipient {
        mailbox: Mailbox::parse(text).unwrap(),
        to,
        reason: String::new(),
    };
    vec![
        recipient("stable@vger.kernel.org", true),
        recipient("regressions@lists.linux.dev", false),
        recipient("Ada Example <ada@example.org>", false),
    ]
}

/// The mail about the first failure, or the one of this name.
fn mail(run: &Run, name: Option<&str>, range: &Range, details: &Details) -> String {
    mail_of(&run.record(), &run.assess(), name, range, details)
}

fn mail_of(
    record: &RunRecord,
    assessment: &Assessment,
    name: Option<&str>,
    range: &Range,
    details: &Details,
) -> String {
    let report = Report { record, assessment, log: None, directory: "/data/joe/runs/secret" };
    let all = failures(assessment);
    let failure = all.iter().find(|f| name.is_none_or(|name| f.is_named(name))).expect("a failure");
    let mail = regression_mail(&report, failure, range, &recipients(), details);
    check(&mail);
    mail
}

/// What holds for every mail.
fn check(mail: &str) {
    let (headers, body) = mail.split_once("\n\n").unwrap();
    let known = ["To: ", "Cc: ", "Subject: [REGRESSION]", "MIME-Version: ", "Content-", " "];
    for line in headers.lines() {
        assert!(known.iter().any(|k| line.starts_with(k)), "{line:?}");
    }
    assert!(!mail.contains(|c: char| c.is_control() && c != '\n'), "{mail:?}");
    assert!(body.matches("#regzb").count() <= 1, "{mail}");
    assert!(!mail.contains("joe") && !mail.contains("secret"), "{mail}");
    for line in body.lines() {
        assert!(line.len() < 998);
        let prose = !line.starts_with("  ") && !line.starts_with('#');
        assert!(!prose || !line.is_ascii() || line.len() <= 72, "{line:?}");
    }
}

fn frame(function: &str, file: Option<(&str, u32)>) -> Frame {
    Frame {
        function: function.into(),
        offset: Some(0x1c),
        size: Some(0x80),
        module: Some("nf_conntrack".into()),
        inlined: false,
        reliable: true,
        source: file.map(|(file, line)| SourceLine { file: file.to_owned(), line }),
    }
}

/// A null pointer in a module, with its registers, that ends in a panic.
fn oops(sources: bool) -> Finding {
    let excerpt = "BUG: kernel NULL pointer dereference, address: 0000000000000008\n\
                   Oops: 0000 [#1] PREEMPT SMP NOPTI\n\
                   CPU: 0 PID: 77 Comm: nginx Not tainted 6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2\n\
                   Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2-debian-1.16.2-1 04/01/2014\n\
                   RIP: 0010:nf_ct_get_tuple+0x1c/0x80 [nf_conntrack]\n\
                   Call Trace:\n <IRQ>\n nf_conntrack_in+0x1c/0x80 [nf_conntrack]\n </IRQ>\n\
                   Kernel panic - not syncing: Fatal exception in interrupt";
    let file = |path| sources.then_some((path, 312));
    Finding {
        function: Some("nf_ct_get_tuple".to_owned()),
        signature: "null_pointer/nf_ct_get_tuple".to_owned(),
        panicked: true,
        taint: Some(String::new()),
        modules: vec!["nf_conntrack".into(), "veth".into()],
        frames: vec![
            frame("nf_ct_get_tuple", file("/data/joe/linux/net/netfilter/nf_conntrack_core.c")),
            frame("nf_conntrack_in", file("./net/netfilter/nf_conntrack_core.c")),
        ],
        excerpt: excerpt.to_owned(),
        ..Finding::new(
            FindingKind::NullPointer,
            Severity::Fatal,
            "kernel NULL pointer dereference in nf_ct_get_tuple",
        )
    }
}

#[test]
fn an_oops_in_a_module_with_everything_that_can_be_known() {
    let run = Run::new(5, &["integration/nat-conntrack", "subsystem/futex"]).finding(
        "integration/nat-conntrack",
        Candidate,
        [1, 3, 4, 5],
        &oops(false),
    );
    let details = Details {
        finding: Some(oops(true)),
        distributions: [Some("Debian".to_owned()), Some("Debian".to_owned())],
        summary: Some("nginx behind NAT and connection tracking".to_owned()),
        steps: Some("ip netns add client\nwrk -t1 -c16 -d3s http://10.1.0.1/4k".to_owned()),
        output: Some(b"--- step 1\n\x1b[31mred\r\n".to_vec()),
        command_line: Some("console=ttyS0 panic=-1 loglevel=7".to_owned()),
        settings: Some(vec!["CONFIG_NF_CONNTRACK: y, m".to_owned()]),
        functions: None,
        files: vec![("config", "configuration of 6.1.192"), ("dmesg-candidate.txt", "kernel log")],
    };
    insta::assert_snapshot!(mail(&run, None, &range(), &details));
    let culprit = Some(Commit {
        id: "1f2e3d4c5d6b1f2e3d4c5d6b1f2e3d4c5d6b1f2e".to_owned(),
        subject: "netfilter: conntrack: größer und schneller".to_owned(),
    });
    let basis = Some("Bisected in 14 boots with an error of at most 1 %.".to_owned());
    let bisected = mail(&run, None, &Range { culprit, basis, ..range() }, &Details::default());
    let (head, _) = bisected.split_once("== How sure").unwrap();
    insta::assert_snapshot!(head);
}

#[test]
fn a_scenario_that_fails_with_subtests() {
    let ok = ("basic", Outcome::Passed);
    let bad = ("requeue / pi", failed(FaultKind::Subtest, "not ok 7 requeue / pi"));
    let run = Run::new(3, &["subsystem/futex"])
        .subtests(
            "subsystem/futex",
            Baseline,
            1..=3,
            &[ok.clone(), ("requeue / pi", Outcome::Passed)],
        )
        .subtests("subsystem/futex", Candidate, 1..=3, &[ok, bad]);
    let details = Details {
        summary: Some("kernel self-tests of futex".to_owned()),
        steps: Some("./run_kselftest.sh -c futex".to_owned()),
        output: Some(b"ok 1 basic\nnot ok 7 requeue / pi\n".to_vec()),
        ..Details::default()
    };
    assert_eq!(failures(&run.assess()).len(), 1);
    insta::assert_snapshot!(mail(&run, None, &range(), &details));
}

#[test]
fn an_expectation_that_is_not_met() {
    let fail =
        failed(FaultKind::Expectation, "step `server`: exit status 3, expected 0: no such device");
    let run =
        Run::new(3, &["integration/nginx"]).outcome("integration/nginx", Candidate, 1..=3, &fail);
    let text = mail(&run, None, &range(), &Details::default());
    insta::assert_snapshot!(text.split_once("== What").unwrap().1.split_once("== How").unwrap().0, @r##"
         happens ==

        integration/nginx fails:

          expectation: step `server`: exit status 3, expected 0: no such device

        == Taint and modules ==

        The kernel was not tainted.

        No modules were loaded for it.
        "##);
}

#[test]
fn a_metric_that_became_worse() {
    let of = |run: Run, role, by: f64| {
        let values = [9000.0, 9010.0, 9020.0].map(|value| value * by);
        run.metric("performance/tcp-connect", "tcp-connect", Better::Lower, role, &values)
    };
    let run = of(of(Run::new(3, &["performance/tcp-connect"]), Baseline, 1.0), Candidate, 1.1);
    let functions = Some("tcp_v4_connect   120   180   +60".to_owned());
    let text = mail(&run, None, &range(), &Details { functions, ..Details::default() });
    insta::assert_snapshot!(text);
}

#[test]
fn kernels_of_distributions_have_no_tags_of_upstream() {
    let fail = failed(FaultKind::Expectation, "exit code 1");
    let run = Run::new(3, &["subsystem/a"]).outcome("subsystem/a", Candidate, 1..=3, &fail);
    let of = |name: &str| Some(name.to_owned());
    let details = |distributions| Details { distributions, ..Details::default() };
    let ubuntu = Range {
        last_good: "6.8.0-44-generic".to_owned(),
        first_bad: "6.8.0-45-generic".to_owned(),
        ..range()
    };
    let text = mail(&run, None, &ubuntu, &details([of("Ubuntu"), of("Ubuntu")]));
    assert!(!text.contains("#regzbot"), "{text}");
    assert!(text.contains("On Linux 6.8.0-45-generic, unlike 6.8.0-44-generic:"), "{text}");
    assert!(text.contains("confirmed yet that vanilla builds behave in the same way"), "{text}");
    for (distributions, expected) in [
        ([of("Debian"), None], "the good kernel is a build of Debian with its"),
        ([None, of("Debian")], "the bad kernel is a build of Debian with its"),
        ([of("Debian"), of("Fedora")], "a build of Debian and the bad one of Fedora"),
    ] {
        let text = mail(&run, None, &range(), &details(distributions)).replace('\n', " ");
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(" #regzbot introduced: v6.1.170..v6.1.192 "), "{text}");
    }
    // Builds of one release are told apart by their names.
    let mut record = run.record();
    record.plan.baseline.upstream = record.plan.candidate.upstream.clone();
    let text = mail_of(&record, &run.assess(), None, &ubuntu, &Details::default());
    let [old, new] = [&record.plan.baseline, &record.plan.candidate].map(|k| k.release.clone());
    let counts = format!("3 of 3 boots of {new} and in 0 of 3 boots of {old}.");
    assert!(text.replace('\n', " ").contains(&counts), "{text}");
}

#[test]
fn a_kernel_that_does_not_boot() {
    let fault = Fault::kernel(FaultKind::BootFailed, "kernel panic: VFS: Unable to mount root fs");
    let mut run = Run::new(2, &["subsystem/futex"]);
    for boot in 1..=2 {
        run.boot_faults.insert((Candidate, boot), fault.clone());
        let mut panicked = panic("kernel panic: VFS: Unable to mount root fs");
        panicked.excerpt = "Kernel panic - not syncing: VFS: Unable to mount root fs".to_owned();
        run.boot_findings.insert((Candidate, boot), vec![panicked]);
    }
    let (record, assessment) = (run.record(), run.assess());
    let all = failures(&assessment);
    let listed: Vec<_> = all.iter().filter(|f| f.rejects()).map(|f| f.listed()).collect();
    insta::assert_snapshot!(listed.join("\n"), @r##"boot with image base: kernel panic: VFS: Unable to mount root fs"##);
    insta::assert_snapshot!(mail_of(&record, &assessment, None, &range(), &Details::default()));
    // Without a report of the kernel's.
    run.boot_findings.clear();
    let text = mail(&run, None, &range(), &Details::default());
    assert!(
        text.contains("[REGRESSION] the kernel does not boot: kernel panic: VFS: Unable"),
        "{text}"
    );
    assert!(text.contains("Nothing but booting is needed."), "{text}");
}

#[test]
fn each_failure_is_one_and_has_names() {
    let fail = failed(FaultKind::Expectation, "exit code 1");
    let run = Run::new(3, &["subsystem/a", "subsystem/b", "subsystem/c", "performance/p"])
        .finding("subsystem/a", Candidate, 1..=3, &panic("panic in f"))
        .finding("subsystem/b", Candidate, [2], &panic("panic in f"))
        .finding("subsystem/b", Candidate, [2], &warning("WARNING in g"))
        .outcome("subsystem/c", Candidate, 1..=3, &fail)
        .metric("performance/p", "m", Better::Lower, Baseline, &[100.0, 100.1, 100.2])
        .metric("performance/p", "m", Better::Lower, Candidate, &[120.0, 120.1, 120.2]);
    let policy = Policy { new_warning: Reaction::Report, ..Policy::default() };
    let assessment = run.assess_with(&policy, &[], Vec::new());
    let all = failures(&assessment);
    let listed = |all: &[kgate_report::Failure<'_>]| {
        let line = |f: &kgate_report::Failure<'_>| {
            format!("{} {}", if f.rejects() { "rejects" } else { "reported" }, f.listed())
        };
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(listed(&all), @r##"
        rejects subsystem/a: panic in f
        rejects subsystem/c: subsystem/c fails
        rejects performance/p: m takes 20.0 % more time
        reported subsystem/b: WARNING in g
        "##);
    for (name, expected) in [
        ("subsystem/a", vec![0]),
        ("subsystem/b", vec![0, 3]),
        ("panic in f", vec![0]),
        ("panic:panic in f", vec![0]),
        ("WARNING in g", vec![3]),
        ("g", vec![3]),
        ("subsystem/c", vec![1]),
        ("m", vec![2]),
        ("performance/p/m", vec![2]),
        ("subsystem/d", vec![]),
    ] {
        let found: Vec<usize> = (0..all.len()).filter(|&i| all[i].is_named(name)).collect();
        assert_eq!(found, expected, "{name}");
    }
    assert!(failures(&Run::new(3, &["subsystem/a"]).assess()).is_empty());
}

#[test]
fn a_finding_tells_where_it_is() {
    assert_eq!(source_file(&oops(true)).as_deref(), Some("net/netfilter/nf_conntrack_core.c"));
    assert_eq!(source_file(&oops(false)), None);
    assert_eq!(module(&oops(false)), Some("nf_conntrack"));
    assert_eq!(source_file(&warning("WARNING in x")).as_deref(), Some("net/ipv4/tcp_input.c"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_a_guest_prints_stays_in_its_place(
        title in "(\\PC|[\r\n\t\x1b:]|\nBcc: eve@x.org\n|#regzbot invalid){0,30}",
        text in "(\\PC|[\r\n\t\x1b]|\r\n\r\n|\n#regzbot invalid: x\n|\nFrom x\n|\n.\n|\n-- \n){0,60}",
    ) {
        let mut finding = Finding { excerpt: text.clone(), ..panic("t") };
        finding.title = title.clone();
        finding.function = Some(text.clone());
        finding.frames = vec![frame(&text, Some((&title, 1)))];
        finding.taint = Some(title.clone());
        let fail = failed(FaultKind::Expectation, &text);
        let run = Run::new(1, &["subsystem/a", "subsystem/b"])
            .finding("subsystem/a", Candidate, [1], &finding)
            .outcome("subsystem/b", Candidate, [1], &fail);
        let details = Details {
            distributions: [None, Some(text.clone())],
            summary: Some(title.clone()),
            steps: Some(text.clone()),
            output: Some(text.clone().into_bytes()),
            command_line: Some(title.clone()),
            settings: Some(vec![text.clone()]),
            functions: Some(text.clone()),
            ..Details::default()
        };
        let culprit = Some(Commit { id: title.clone(), subject: text.clone() });
        for range in [range(), Range { culprit, basis: Some(text.clone()), ..range() }] {
            for name in ["subsystem/a", "subsystem/b"] {
                let mail = mail(&run, Some(name), &range, &details);
                let (headers, body) = mail.split_once("\n\n").unwrap();
                prop_assert!(!headers.contains("\nBcc"), "{}", headers);
                let acted_on = |line: &str| line == "-- ";
                prop_assert!(!body.lines().any(acted_on), "{}", body);
            }
        }
    }
}
