//! What sources say of changes: written by hand, and as they really are.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use kgate_release::change::{
    Bound, Changes, OriginKind, Reader, ReleaseChanges, Segment, read_log, segments,
};
use kgate_release::plot::{Line, Plot, PlotPoint};
use kgate_release::waiting::{Curve, Step};
use kgate_release::{CommitDelta, Maintainers, Subsystem, Version, ranges, releases_between};
use proptest::prelude::*;

const CHANGELOG: &str = "\
commit aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
Author: A Person <a@example.org>
Date:   Thu Apr 20 12:35:15 2023 +0200

    Linux 6.1.25
    
    Signed-off-by: A Person <a@example.org>

commit bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
Author: B Person <b@example.org>
Date:   Thu Apr 13 12:35:15 2023 +0200

    tcp: count what is sent (CVE-2023-12345)
    
    commit cccccccccccccccccccccccccccccccccccccccc upstream.
    
    net: this is not the subject.

commit dddddddddddddddddddddddddddddddddddddddd
Author: C Person <c@example.org>
Date:   Thu Apr 13 12:35:15 2023 +0200

    Revert \"xfs: do less\"
    
    Fixes: CVE-2023-22222, and CVE-2023-12345 again.

commit eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
Author: D Person <d@example.org>
Date:   Thu Apr 13 12:35:15 2023 +0200

    net: sched: count better
";

const DEBIAN: &str = "\
linux (6.1.27-1) unstable; urgency=medium

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.26
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.27
    - netfilter: nf_tables: fix it, in a line that is
      longer (CVE-2023-32233)
    - [x86] bugs: be safe
    - [arm64] dts: name it

  [ A Person ]
  * udp: a change of Debian's own (CVE-2023-99999)
    - not an upstream item

 -- A Person <a@example.org>  Mon, 08 May 2023 21:02:31 +0200

linux (6.1.25-1) unstable; urgency=medium

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.25
    - ext4: fix it
 -- A Person <a@example.org>  Sat, 22 Apr 2023 21:02:31 +0200
";

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn read_in(text: &[u8], chunk: usize) -> Result<Changes, String> {
    let mut reader = Reader::new("test");
    text.chunks(chunk.max(1)).for_each(|bytes| reader.feed(bytes));
    reader.finish().map_err(|error| error.to_string())
}

fn read(text: &str) -> Changes {
    read_in(text.as_bytes(), 4096).unwrap()
}

/// `VERSION commits: subsystems; CVEs`, a line each.
fn told(changes: &Changes) -> String {
    let row = |(version, changes): (&Version, &ReleaseChanges)| {
        let subsystems: Vec<_> =
            changes.subsystems.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!("{version} {}: {}; {:?}", changes.commits, subsystems.join(", "), changes.cves)
    };
    let rows: Vec<_> = changes.releases.iter().map(row).collect();
    format!("{:?} {:?}\n{}", changes.origin.kind, changes.origin.snapshot, rows.join("\n"))
}

#[test]
fn a_changelog_of_kernel_org_is_every_commit_but_the_release_itself() {
    insta::assert_snapshot!(told(&read(CHANGELOG)), @"
    ChangeLog Some(2023-04-20)
    6.1.25 3: net 1, net/sched 1, fs/xfs 1; {(2023, 12345), (2023, 22222)}
    ");
}

#[test]
fn a_changelog_of_debian_is_what_it_lists_of_upstream() {
    insta::assert_snapshot!(told(&read(DEBIAN)), @"
    Distribution Some(2023-05-08)
    6.1.25 1: fs/ext4 1; {}
    6.1.26 0: ; {}
    6.1.27 3: netfilter 1, x86 1, arm 1; {(2023, 32233)}
    ");
}

#[test]
fn a_list_of_numbers_is_read_by_its_columns() {
    for text in [
        "version,count\n5.15.1,12\n5.15.2,\n5.15.3,927\n",
        "5.15.1,12\nnonsense\n5.15.3,927,x\n",
        "version,rc_patch_counts_seen,last\n5.15.1,12,12\n5.15.2,,\n5.15.3,920 923,927\n",
        "version,debian_listed_commits,debian_cve_ids\r\n5.15.1,12,3\r\n5.15.3,927,4\r\n",
    ] {
        let changes = read(text);
        assert_eq!(changes.origin.kind, OriginKind::Counts);
        let numbers: Vec<_> =
            changes.releases.iter().map(|(v, c)| (v.to_string(), c.commits)).collect();
        assert_eq!(numbers, [("5.15.1".to_owned(), 12), ("5.15.3".to_owned(), 927)], "{text}");
    }
}

#[test]
fn what_is_none_of_them_is_refused() {
    for text in ["", "\n\n", "hello\n", "version,colour\n6.1.1,red\n", "<html>\n"] {
        let error = read_in(text.as_bytes(), 10).unwrap_err();
        assert!(error.starts_with("test: it is neither"), "{error}");
    }
    let nothing = "linux (6.1.25-1) unstable; urgency=medium\n\n  * udp: change it\n";
    assert_eq!(
        read_in(nothing.as_bytes(), 10).unwrap_err(),
        "test: it says nothing of any release"
    );
}

#[test]
fn the_most_trusted_source_tells_and_the_rest_fills_in() {
    let sources = [read(DEBIAN), read(CHANGELOG), read("version,count\n6.1.25,9\n6.1.28,7\n")];
    let (from, to) = (version("6.1.24"), version("6.1.29"));
    let releases = releases_between(from, to).unwrap();
    let delta = CommitDelta::new(&releases, &sources, None, &["fs/xfs".parse().unwrap()]);
    assert_eq!((delta.total, delta.bound, delta.elsewhere), (13, Bound::LowerBound, 7));
    insta::assert_snapshot!(delta.why.join("\n"), @"
    no source says how many commits are in 6.1.29
    the distribution's changelog leaves commits out, in 6.1.26, 6.1.27
    it is as a list says, which can't be checked, for 6.1.28
    ");
    let first: Vec<_> = delta.subsystems.iter().map(|row| row.subsystem.name()).collect();
    assert_eq!(first, ["fs/xfs", "net", "net/sched", "netfilter", "x86", "arm"]);
    let accumulated: Vec<_> = delta.releases.iter().map(|row| row.accumulated).collect();
    assert_eq!(accumulated, [3, 3, 6, 13, 13]);
    let given: Vec<_> =
        delta.sources.iter().map(|s| (s.origin.kind, s.releases, s.commits)).collect();
    assert_eq!(
        given,
        [
            (OriginKind::ChangeLog, 1, 3),
            (OriginKind::Distribution, 2, 3),
            (OriginKind::Counts, 1, 7)
        ]
    );
    let exact = CommitDelta::new(&releases[..1], &sources, None, &[]);
    assert_eq!((exact.total, exact.bound, exact.why.len()), (3, Bound::Exact, 0));
}

#[test]
fn releases_between_are_those_of_one_branch() {
    let between = |from, to| releases_between(version(from), version(to)).map(ranges);
    assert_eq!(between("6.1.24", "6.1.27").as_deref(), Some("6.1.25 to 6.1.27"));
    assert_eq!(between("6.1", "6.1.1").as_deref(), Some("6.1.1"));
    assert_eq!(between("6.1.5", "6.1.5").as_deref(), Some(""));
    assert_eq!(between("6.1.5", "6.2"), None);
    assert_eq!(between("6.1.5", "6.1.6-rc1"), None);
    let odd = (0..20).map(|n| Version { patch: 2 * n, ..version("6.1") });
    assert_eq!(ranges(odd), "6.1, 6.1.2, 6.1.4, 6.1.6, 6.1.8, 6.1.10, and 14 more");
}

#[test]
fn a_history_goes_over_mainline_to_another_branch() {
    let tags: BTreeSet<Version> = [
        "6.1", "6.1.1", "6.1.2", "6.1.3", "6.2-rc1", "6.2", "6.2.1", "6.3", "6.6", "6.6.1",
        "6.6.2", "6.7",
    ]
    .map(version)
    .into();
    let way = |from, to| {
        let steps = segments(version(from), version(to), &tags);
        steps
            .iter()
            .map(|Segment { from, to }| format!("{from}..{to}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(way("6.1.1", "6.1.3"), "6.1.1..6.1.2 6.1.2..6.1.3");
    assert_eq!(way("6.1.2", "6.6.2"), "6.1.2..6.2 6.2..6.3 6.3..6.6 6.6..6.6.1 6.6.1..6.6.2");
    assert_eq!(way("6.2-rc1", "6.2"), "6.2-rc1..6.2");
    assert_eq!(way("6.2", "6.1"), "");
}

#[test]
fn what_git_prints_is_counted_by_files() {
    let output = b"\x01Linux 6.1.2\n\nMakefile\n\x01tcp: change it (CVE-2023-10000)\n\nfs/xfs/a.c\nnet/ipv4/tcp.c\n\
        fs/xfs/b.c\n\x01no files: \x01 in it\n\x01mm: fix\n\nmm/mmap.c\n";
    let maintainers = Maintainers::parse("XFS\nF:\tfs/xfs/\n\nTCP\nF:\tnet/ipv4/tcp*\n");
    let changes = read_log(output, Some(&maintainers));
    assert_eq!(changes.commits, 3);
    let names: Vec<_> = changes.subsystems.iter().map(|(name, n)| (name.name(), *n)).collect();
    assert_eq!(names, [("mm", 1), ("fs/xfs", 1), ("other", 1)]);
    assert_eq!(changes.sections, BTreeMap::from([("TCP".into(), 1), ("XFS".into(), 1)]));
    assert_eq!(changes.cves, BTreeSet::from([(2023, 10000)]));
}

#[test]
fn the_cost_of_waiting_is_told_by_halves() {
    let date = |text: &str| Some(text.parse().unwrap());
    let steps = [("6.1.1", "2023-01-08", Some(10)), ("6.1.2", "2023-01-15", Some(30))];
    let steps = steps.map(|(v, day, adds)| Step { version: version(v), date: date(day), adds });
    let curve = Curve::new(version("6.1"), date("2023-01-01"), steps);
    let growth = curve.growth().unwrap();
    assert_eq!((growth.delay, growth.delta, growth.all.weeks), (2.0, 4.0, Some(2.0)));
    insta::assert_snapshot!(growth.sentence("commits"), @"1 release on (6.1.1) 10 commits, 2 releases on (6.1.2) 40 commits: twice the delay, 4.00 times the delta");
    assert_eq!(Curve::new(version("6.1"), None, steps[..1].iter().copied()).growth(), None);
    assert_eq!(Curve::new(version("6.1"), None, []).growth(), None);
}

#[test]
fn figures_of_the_talk() {
    let Some(text) = common::fixture("stable-rc-5.15.y-patch-counts.csv") else { return };
    let Some(dates) = common::fixture("kernel-release-dates.tsv") else { return };
    let expected = common::expected();
    let changes = [read(&text)];
    let delta = |from, to| {
        let releases = releases_between(version(from), version(to)).unwrap();
        CommitDelta::new(&releases, &changes, None, &[])
    };
    let talk = &expected["talk_commits"];
    let (short, long) = (delta("5.15.16", "5.15.32"), delta("5.15.16", "5.15.48"));
    assert_eq!(short.total, talk["5.15.16..5.15.32"]);
    assert_eq!(long.total, talk["5.15.16..5.15.48"]);
    // What the talk says is within 1 %.
    for (total, said) in [short.total, long.total].iter().zip(talk["talk_says"].as_array().unwrap())
    {
        let said = said.as_u64().unwrap();
        assert!(total.abs_diff(said) * 100 <= said, "{total} {said}");
    }
    let steps = |delta: &CommitDelta| {
        let steps = delta.releases.iter();
        steps
            .map(|row| Step { version: row.version, date: None, adds: row.commits })
            .collect::<Vec<_>>()
    };
    let curve = Curve::new(version("5.15.16"), None, steps(&long));
    insta::assert_snapshot!(curve.growth().unwrap().sentence("commits"), @"16 releases on (5.15.32) 2,196 commits, 32 releases on (5.15.48) 5,433 commits: twice the delay, 2.47 times the delta");

    let last = version("5.15.116");
    let all = delta("5.15", "5.15.116");
    let count = |least| all.releases.iter().filter(|row| row.commits >= Some(least)).count();
    let of_116 = &talk["of_116"];
    assert_eq!(count(100), of_116["ge100"].as_u64().unwrap() as usize);
    assert_eq!(count(200), of_116["ge200"].as_u64().unwrap() as usize);
    assert_eq!(count(500), of_116["ge500"].as_u64().unwrap() as usize);
    let missing: Vec<u64> = all
        .releases
        .iter()
        .filter(|row| row.commits.is_none())
        .map(|row| row.version.patch.into())
        .collect();
    assert_eq!(serde_json::json!(missing), talk["missing_releases"]);
    let dated = dates.lines().filter_map(|line| line.split_once('\t')).filter(|(v, date)| {
        let version: Option<Version> = v.parse().ok();
        let stable = version.filter(|v| v.branch == last.branch && v.is_stable());
        stable.is_some() && *date <= "2023-06-09"
    });
    let counts = &expected["release_counts"]["5.15 releases dated <= 2023-06-09"];
    assert_eq!(dated.count() as u64, *counts);
}

#[test]
fn figures_of_the_changelog_of_debian() {
    let Some(text) = common::fixture("debian-changelog-6.1.170-3_to_6.1.192-2.gz") else { return };
    let Some(counts) = common::fixture("debian-6.1.y-counts.csv") else { return };
    let expected = &common::expected()["debian_6.1.170-3_to_6.1.192-2"];
    let changes = read(&text);
    assert_eq!(changes.origin.snapshot, Some("2026-11-16".parse().unwrap()));
    let releases = releases_between(version("6.1.170"), version("6.1.192")).unwrap();
    let delta = CommitDelta::new(&releases, std::slice::from_ref(&changes), None, &[]);
    assert_eq!(delta.total, expected["upstream_items_171..192"]);
    assert_eq!((delta.bound, delta.elsewhere), (Bound::LowerBound, 0));
    let cves: BTreeSet<_> = changes.releases.values().flat_map(|release| &release.cves).collect();
    assert_eq!(cves.len() as u64, expected["cves_in_upstream_items_171..192"]);
    let ids = text.match_indices("CVE-").map(|(at, _)| {
        let rest = &text[at + 4..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(rest.len());
        &rest[..end]
    });
    assert_eq!(ids.collect::<BTreeSet<_>>().len() as u64, expected["distinct_cve_ids"]);
    for line in counts.lines().skip(1) {
        let mut fields = line.split(',');
        let release = version(fields.next().unwrap());
        if release <= version("6.1.170") {
            continue;
        }
        let numbers: Vec<usize> = fields.map(|field| field.parse().unwrap()).collect();
        let own = &changes.releases[&release];
        assert_eq!([own.commits as usize, own.cves.len()], numbers[..], "{release}");
    }
    let other = delta.subsystems.iter().find(|row| row.subsystem == Subsystem::other()).unwrap();
    println!("{} of {} items of no known subsystem", other.commits, delta.total);
    assert!(other.commits * 50 < delta.total, "{}", other.commits);
}

#[test]
fn hostile_text_stays_text_in_a_picture() {
    let hostile = "<script>alert('1')</script>\"&\u{0}\u{ffff}]]>\u{1b}[31m";
    let point = |x, y| PlotPoint { x, y, title: hostile.into() };
    let plot = Plot {
        title: hostile.into(),
        x_label: hostile.into(),
        lines: (0..5)
            .map(|_| Line {
                label: hostile.into(),
                points: vec![
                    point(f64::NAN, f64::INFINITY),
                    point(-1.0, -5.0),
                    point(1e300, 1e300),
                ],
            })
            .collect(),
    };
    let svg = plot.svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    assert!(document.descendants().all(|node| node.tag_name().name() != "script"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let empty = Plot { title: String::new(), x_label: String::new(), lines: Vec::new() }.svg();
    roxmltree::Document::parse(&empty).unwrap();
}

proptest! {
    #[test]
    fn chunks_make_no_difference(
        which in 0usize..3,
        noise in prop::collection::vec((0usize..2000, any::<u8>()), 0..20),
        chunk in 1usize..50,
    ) {
        let text = [CHANGELOG, DEBIAN, "version,count\n6.1.25,9\n6.1.28,7\n"][which];
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte) in noise {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        prop_assert_eq!(read_in(&bytes, chunk), read_in(&bytes, usize::MAX));
    }

    #[test]
    fn nothing_makes_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read_in(&bytes, 7);
        let _ = read_log(&bytes, None);
        for head in ["linux (1) x; urgency=low\n  * New upstream\n    ChangeLog-6.1.1\n    - ", "version,count\n6.1.1,"] {
            let _ = read_in(&[head.as_bytes(), &bytes].concat(), 13);
        }
    }
}
