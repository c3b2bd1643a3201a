//! Feeds as they are published, as they might come, and what is made of several.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use jiff::civil::Date;
use kgate_release::feed::{Feed, MAX_TEXT, Statement};
use kgate_release::{BranchState, Catalogue, EndBasis, Standing, Step, Warning};
use proptest::prelude::*;

const KERNEL_ORG: &str = r#"{
  "latest_stable": {"version": "7.1.2"},
  "releases": [
    {"iseol": false, "version": "7.2-rc3", "moniker": "mainline", "released": {"timestamp": 1, "isodate": "2026-07-05"}},
    {"iseol": false, "version": "7.1.2", "moniker": "stable", "released": {"timestamp": 1, "isodate": "2026-07-04"}},
    {"iseol": true, "version": "7.0.14", "moniker": "stable", "released": {"timestamp": 1, "isodate": "2026-06-27"}},
    {"iseol": false, "version": "6.18.40", "moniker": "longterm", "released": {"timestamp": 1, "isodate": "2026-07-04"}},
    {"iseol": false, "version": "6.1.180", "moniker": "longterm", "released": {"timestamp": 1, "isodate": "2026-07-03"}},
    {"iseol": false, "version": "next-20260706", "moniker": "linux-next", "released": {"timestamp": 1, "isodate": "2026-07-06"}}
  ]
}"#;
const BANNER: &str = "\
The latest stable version of the Linux kernel is:             7.1.2
The latest mainline version of the Linux kernel is:           7.2-rc3
The latest stable 7.1 version of the Linux kernel is:         7.1.2
The latest stable 7.0 version of the Linux kernel is:         7.0.14 (EOL)
The latest longterm 6.18 version of the Linux kernel is:      6.18.40
The latest linux-next version of the Linux kernel is:         next-20260706
";
const ENDS: &str = r#"[
  {"cycle": "7.1", "lts": false, "releaseDate": "2026-06-14", "eol": null, "latest": "7.1.2", "latestReleaseDate": "2026-07-04"},
  {"cycle": "6.19", "lts": false, "releaseDate": "2026-02-08", "eol": "2026-04-22", "latest": "6.19.14", "latestReleaseDate": "2026-04-22"},
  {"cycle": "6.18", "lts": true, "releaseDate": "2025-11-30", "eol": "2028-12-31", "latest": "6.18.40", "latestReleaseDate": "2026-07-04"},
  {"cycle": "4.20", "lts": false, "releaseDate": "2018-12-23", "eol": true, "latest": "4.20.17", "latestReleaseDate": "2019-03-19"}
]"#;

fn day(text: &str) -> Date {
    text.parse().unwrap()
}

fn read(name: &str, text: &str) -> Feed {
    Feed::read(name, text).unwrap_or_else(|error| panic!("{error}"))
}

/// Branches one on a line, as short as they can be told.
fn told(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    for (branch, entry) in &catalogue.branches {
        write!(text, "{branch} {}", entry.state.word()).unwrap();
        if let Some(end) = entry.end {
            let basis = if end.basis == EndBasis::Stated { "stated" } else { "projected" };
            write!(text, ", {basis} {}", end.date).unwrap();
        }
        for (version, release) in &entry.releases {
            let date = release.date.map_or_else(String::new, |date| format!(" {date}"));
            let kernel = release.kernel.as_ref().map_or_else(String::new, |k| format!(" {k}"));
            write!(text, "; {version}{date}{kernel}").unwrap();
        }
        text.push('\n');
    }
    for note in &catalogue.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    text
}

fn gathered(today: &str, feeds: &[Feed]) -> String {
    told(&Catalogue::gather(day(today), feeds))
}

#[test]
fn each_format_is_known_by_its_content() {
    let lists = "v6.1.2 2022-12-31\nv6.1.3\n6.1.4\t2023-01-07\n\nv6.1.3-rt1 2023-01-05\nnext-20230105\n\
        0123456789abcdef0123456789abcdef01234567\trefs/tags/v6.1.5\n\
        0123456789abcdef0123456789abcdef01234567\trefs/tags/v6.1.5^{}\n\
        refs/tags/v6.2-rc1 2022-12-25\ntags/v6.2-rc2 2023-01-01\n";
    let of = |name: &str, today: &str, text: &str| {
        format!("# {name}\n{}\n", gathered(today, &[read(name, text)]))
    };
    let all = [
        of("kernel.org", "2026-07-06", KERNEL_ORG),
        of("banner", "2026-07-06", BANNER),
        of("ends", "2026-07-06", ENDS),
        of("tags", "2023-01-08", lists),
    ];
    insta::assert_snapshot!(all.concat());
}

#[test]
fn several_feeds_make_one_catalogue() {
    let banner = "The latest longterm 6.18 version of the Linux kernel is: 6.18.40 (EOL)\n";
    let mut kernels = read("apt:", "6.18.40\n6.18.39\n");
    for statement in &mut kernels.statements {
        statement.kernel = statement.release.map(|version| format!("apt:linux-image={version}"));
    }
    let feeds = [
        read("kernel.org", KERNEL_ORG),
        read("ends", ENDS),
        read(
            "tags",
            "v6.18 2025-12-04\nv7.0 2026-04-12\nv7.2 2026-08-16\nv6.13.12 2025-04-20\nv6.19.14 2026-04-22",
        ),
        Feed { as_of: Some(day("2026-07-05")), ..read("banner", banner) },
        kernels,
    ];
    insta::assert_snapshot!(gathered("2026-07-06", &feeds));
}

#[test]
fn states_go_with_time() {
    let ends = [read("ends", ENDS)];
    let state = |today: &str, branch: &str| {
        Catalogue::gather(day(today), &ends).branches.get(&branch.parse().unwrap()).map(|e| e.state)
    };
    for (today, branch, expected) in [
        // What is dated after today is not out yet.
        ("2026-02-07", "6.19", None),
        ("2026-02-08", "6.19", Some(BranchState::Stable)),
        ("2026-04-21", "6.19", Some(BranchState::Stable)),
        ("2026-04-22", "6.19", Some(BranchState::EndOfLife)),
        ("2028-12-30", "6.18", Some(BranchState::Longterm)),
        ("2028-12-31", "6.18", Some(BranchState::EndOfLife)),
    ] {
        assert_eq!(state(today, branch), expected, "{today} {branch}");
    }
    // A feed from after the stated day knows better, one from before it does not.
    let of = |as_of: &str| {
        let kernel_org = Feed { as_of: Some(day(as_of)), ..read("kernel.org", KERNEL_ORG) };
        let both = [kernel_org, ends[0].clone()];
        let catalogue = Catalogue::gather(day("2029-01-10"), &both);
        (catalogue.branches[&"6.18".parse().unwrap()].state, catalogue.notes.len())
    };
    assert_eq!(of("2028-12-30"), (BranchState::EndOfLife, 0));
    assert_eq!(of("2029-01-09"), (BranchState::Longterm, 1));
}

#[test]
fn where_a_kernel_stands() {
    let standing = |today: &str, version: &str| {
        let feeds = [
            read("kernel.org", KERNEL_ORG),
            read("ends", ENDS),
            read(
                "tags",
                "v6.1.170 2026-04-30\nv7.1.1 2026-06-27\nv7.0 2026-04-12\nv7.0.13 2026-06-20\n",
            ),
        ];
        let version: kgate_release::Version = version.parse().unwrap();
        let catalogue = Catalogue::gather(day(today), &feeds);
        Standing::of(&catalogue, version.branch, Some(version))
    };
    let release = |text: &str| text.parse().unwrap();

    let behind = standing("2026-07-06", "6.1.170");
    assert_eq!(behind.releases_behind, Some(10));
    assert_eq!(
        (behind.age_days, behind.days_behind, behind.latest_age_days),
        (Some(67), Some(64), Some(3))
    );
    assert_eq!(behind.warnings, [Warning::EndNotStated]);
    assert_eq!(behind.step, Step::Gate { release: release("6.1.180") });
    let next = behind.next_longterm.unwrap();
    assert_eq!(
        (next.branch.to_string(), next.begin, next.due),
        ("6.18".to_owned(), Some(day("2023-12-11")), true)
    );

    let up_to_date = standing("2026-07-06", "6.1.180");
    assert_eq!(up_to_date.step, Step::Evaluate { release: release("6.18.40") });
    let longterm = standing("2026-07-06", "6.18.40");
    assert_eq!((longterm.step, longterm.next_longterm), (Step::Nothing, None));
    assert_eq!(standing("2028-11-01", "6.18.40").warnings, [Warning::EndsSoon]);

    let ended = standing("2026-07-06", "7.0.13");
    assert_eq!(ended.warnings, [Warning::Ended]);
    assert_eq!(ended.step, Step::Move { release: release("7.1.2") });
    let overdue = standing("2026-12-01", "7.1.1");
    assert_eq!(overdue.warnings, [Warning::Overdue]);

    assert_eq!(standing("2026-07-06", "5.19.3").warnings, [Warning::UnknownBranch]);
    assert_eq!(standing("2026-07-06", "7.1.3").warnings, [Warning::NewerThanFeeds]);
    assert_eq!(standing("2026-07-06", "7.2-rc1").warnings, [Warning::Candidate]);
    assert_eq!(standing("2026-07-06", "7.2-rc1").step, Step::Gate { release: release("7.2-rc3") });
}

#[test]
fn what_is_wrong_with_a_feed_is_said_with_its_place() {
    let mut text = String::new();
    for feed in [
        "",
        "hello\n",
        "<html><body>Log in to the network</body></html>",
        "{",
        "{\"releases\": 1}",
        "{\"releases\": [{\"version\": \"6.1.x\", \"moniker\": \"stable\"}]}",
        "{\"releases\": [{\"version\": \"6.1.1\", \"moniker\": \"stable\", \"released\": {\"isodate\": \"1.1.2026\"}}]}",
        "[{\"cycle\": \"6.1.1\"}]",
        "[{\"cycle\": \"6.1\", \"latest\": \"6.2.1\"}]",
        "[{\"cycle\": \"6.1\", \"eol\": \"soon\"}]",
        "The latest stable version of the Linux kernel is: 6.8.7\nThe oldest one is lost\n",
        "The latest stable 6.8 version of the Linux kernel is: \u{1b}[31m\n",
        "v6.1.3 yesterday\n",
    ] {
        let error = Feed::read("feed.txt", feed).expect_err(feed);
        writeln!(text, "{}\n", error).unwrap();
    }
    insta::assert_snapshot!(text);
    let long = "v6.1.3\n".repeat(MAX_TEXT / 7 + 1);
    assert!(Feed::read("long", &long).unwrap_err().to_string().contains("longer than 16 MiB"));
    let many: String = (0..100_001).map(|n| format!("v6.1.{n}\n")).collect();
    assert!(Feed::read("many", &many).unwrap_err().to_string().contains("more than 100000"));
    let wide: String = (0..2001).map(|n| format!("v6.{n}\n")).collect();
    assert!(Feed::read("wide", &wide).unwrap_err().to_string().contains("more than 2000 branches"));
    assert!(Feed::read("deep", &"[".repeat(100_000)).is_err());
}

#[test]
fn the_real_feeds_agree() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures-release");
    let file = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let [Some(dates), Some(ends), Some(kernel_org), Some(banner), Some(real)] = [
        "kernel-release-dates.tsv",
        "kernel-eol.json",
        "releases-2026-08-22-reconstructed.json",
        "finger_banner-2024-04-22.txt",
        "releases-5.10-real.json",
    ]
    .map(file) else {
        println!("SKIP: no release data at {}", dir.display());
        return;
    };
    let feeds = [read("kernel.org", &kernel_org), read("dates", &dates), read("ends", &ends)];
    let catalogue = Catalogue::gather(day("2026-08-22"), &feeds);
    assert_eq!(catalogue.notes, [""; 0]);
    let count = |state| catalogue.branches.values().filter(|entry| entry.state == state).count();
    assert_eq!(count(BranchState::Longterm), 6);
    let longterm_end = |branch: &str| catalogue.branches[&branch.parse().unwrap()].end.unwrap();
    assert_eq!(longterm_end("6.1").date, day("2027-12-31"));
    let early = catalogue.branches[&"5.15".parse().unwrap()].releases.iter().filter(
        |(version, release)| {
            version.is_stable() && release.date.is_some_and(|d| d <= day("2023-06-09"))
        },
    );
    assert_eq!(early.count(), 116);

    // The rule for stable branches, on all whose end is known, as it would have been given when they
    // were made: with all branches until then, and nothing after.
    let mut off = Vec::new();
    for statement in read("ends", &ends).statements {
        let (Some(end), Some(began)) = (statement.end, statement.date) else { continue };
        if statement.state != Some(BranchState::Stable) || end > day("2026-08-22") {
            continue;
        }
        let only = Feed::new("began", vec![Statement { end: None, ..statement.clone() }]);
        let projected = Catalogue::gather(began, &[only]).branches[&statement.branch].end.unwrap();
        assert_eq!(projected.basis, EndBasis::Projected);
        off.push((projected.date - end).get_days());
    }
    assert_eq!((off.len(), off.iter().min(), off.iter().max()), (25, Some(&-18), Some(&11)));

    for (name, text) in [("banner", banner), ("real", real)] {
        read(name, &text);
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(
        text in prop_oneof![
            "\\PC{0,200}",
            "[\\[{\"a-z:,0-9.\\]}\\- ]{0,200}",
            "(v?[0-9.]{1,9}(-rc[0-9]{1,3})?[ \t]?(20[0-9]{2}-[01][0-9]-[0-3][0-9])?\n){0,30}",
            "(The latest (stable|mainline|longterm)( 6.1)? version of the Linux kernel is: [0-9.]{1,8}( \\(EOL\\))?\n){1,9}",
        ],
        cut in 0..2000_usize,
    ) {
        let mut texts = vec![text];
        for whole in [KERNEL_ORG, ENDS, BANNER] {
            texts.push(whole.chars().take(cut).collect());
        }
        for text in texts {
            if let Ok(feed) = Feed::read("any", &text) {
                let catalogue = Catalogue::gather("2026-07-06".parse().unwrap(), &[feed]);
                for (branch, entry) in &catalogue.branches {
                    let version = entry.latest().map(|(version, _)| *version);
                    let standing = Standing::of(&catalogue, *branch, version);
                    prop_assert_eq!(standing.releases_behind.unwrap_or(0), 0);
                }
            }
        }
    }
}
