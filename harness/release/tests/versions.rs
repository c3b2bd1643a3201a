//! Real version strings and what they mean: `versions.txt` is the strings, the snapshot the meaning.

use std::cmp::Ordering;
use std::fmt::Write as _;

use kgate_release::{KernelVersion, Version, debian_order};
use proptest::prelude::*;

fn strings() -> impl Iterator<Item = &'static str> {
    include_str!("versions.txt").lines().filter(|line| !line.starts_with('#'))
}

fn read(text: &str) -> KernelVersion {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_real_strings_mean() {
    let mut table = String::new();
    let dash = || "-".to_owned();
    for line in include_str!("versions.txt").lines() {
        if line.starts_with('#') {
            writeln!(table, "\n{line}").unwrap();
            continue;
        }
        let version = read(line);
        let upstream = match (version.upstream, version.branch) {
            (Some(upstream), _) => upstream.to_string(),
            (None, Some(branch)) => format!("{branch}.?"),
            (None, None) => "?".to_owned(),
        };
        let [distribution, fixes] =
            [serde_json::to_value(version.distribution), serde_json::to_value(version.fixes)]
                .map(|value| value.unwrap().as_str().unwrap().to_owned());
        writeln!(
            table,
            "{line:<52} {upstream:<10} {distribution:<13} {fixes:<8} abi {:<24} rev {:<20} {}",
            version.abi.clone().unwrap_or_else(dash),
            version.revision.clone().unwrap_or_else(dash),
            version.flavour.clone().unwrap_or_else(dash),
        )
        .unwrap();
    }
    let count = strings().count();
    assert!(count >= 200, "{count} strings");
    insta::assert_snapshot!(table);
}

#[test]
fn what_is_no_version_is_refused() {
    let long = format!("6.1.1-{}", "a".repeat(200));
    for text in [
        "",
        "6",
        "linux",
        "6.1.0-",
        "-1",
        "6.1.\u{661}",
        "9999999.1",
        "6.1.1 -x",
        "6.1.1\n",
        "next-2024",
        ":6.1.1",
        "6.1.1-x;rm",
        &long,
    ] {
        assert!(text.parse::<KernelVersion>().is_err(), "{text:?}");
    }
}

#[test]
fn what_counts_as_a_release() {
    for (text, release) in [
        ("6.1.192-2", Some("6.1.192")),
        ("6.1.90-mycorp+", Some("6.1.90")),
        ("6.1.0-56-cloud-amd64", None),
        ("5.14.0-427.13.1.el9_4.x86_64", None),
        ("6.8.12-4-pve", None),
        ("next-20240422", None),
    ] {
        let release = release.map(|text| text.parse::<Version>().unwrap());
        assert_eq!(read(text).counts_as(), release, "{text}");
    }
}

#[test]
fn the_order_within_a_distribution() {
    let rising = [
        &[
            "6.1.170-3",
            "6.1.192-1",
            "6.1.192-2",
            "6.12.115-2~deb12u1",
            "6.12.117-1~deb12u1",
            "6.12.117-1",
        ][..],
        &[
            "6.1.0-9-amd64",
            "6.1.0-47-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.12.9+bpo-amd64",
            "6.12.48+deb13-amd64",
        ],
        &["5.15.0-91.101", "5.15.0-107.117~20.04.1", "5.15.0-107.117", "6.8.0-31.31"],
        &[
            "5.14.0-70.13.1.el9_0.x86_64",
            "5.14.0-427.13.1.el9_4.x86_64",
            "5.14.0-427.22.1.el9_4.x86_64",
        ],
        &["6.12.20+rpt-rpi-v8", "6.12.25+rpt-rpi-v8"],
        &["6.9-rc5", "v6.9", "6.9.1"],
    ];
    for row in rising {
        for pair in row.windows(2) {
            let [a, b] = [0, 1].map(|at| read(pair[at]));
            assert_eq!(a.order(&b), Some(Ordering::Less), "{pair:?}");
            assert_eq!(b.order(&a), Some(Ordering::Greater), "{pair:?}");
        }
    }
    for (a, b) in [
        ("6.1.0-56-amd64", "6.1.192-2"),
        ("6.1.0-56-amd64", "6.1.0-91-generic"),
        ("6.1.90-a", "6.1.90-b"),
    ] {
        assert_eq!(read(a).order(&read(b)), None, "{a} {b}");
    }
}

#[test]
fn the_order_is_that_of_dpkg() {
    let rising = [
        "0:1~~", "1~~a", "1~", "1~rc1", "1", "1-0.1", "1-1~bpo1", "1-1", "1-1+b1", "1-1.1", "1-2",
        "1-10", "1a", "1+1", "1.1", "1:0",
    ];
    for (at, a) in rising.iter().enumerate() {
        for (other, b) in rising.iter().enumerate() {
            assert_eq!(debian_order(a, b), at.cmp(&other), "{a} {b}");
        }
    }
    assert_eq!(debian_order("1.02", "1.2"), Ordering::Equal);
    assert_eq!(debian_order("9999999999999999999999", "10000000000000000000000"), Ordering::Less);
}

proptest! {
    #[test]
    fn any_text_has_a_meaning_or_none(text in "\\PC{0,40}|[0-9]{1,3}\\.[0-9]{1,3}(\\.[0-9]{1,3})?[-+~._a-z0-9]{0,30}") {
        if let Ok(version) = text.parse::<KernelVersion>() {
            prop_assert_eq!(version.order(&version), Some(Ordering::Equal));
            if let Some(upstream) = version.upstream {
                prop_assert_eq!(version.branch, Some(upstream.branch));
            }
        }
    }

    #[test]
    fn the_order_of_packages_is_total(a in "[0-9a-c.~+-]{0,8}", b in "[0-9a-c.~+-]{0,8}", c in "[0-9a-c.~+-]{0,8}") {
        prop_assert_eq!(debian_order(&a, &b), debian_order(&b, &a).reverse());
        if debian_order(&a, &b).is_le() && debian_order(&b, &c).is_le() {
            prop_assert!(debian_order(&a, &c).is_le());
        }
    }
}
