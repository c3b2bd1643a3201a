//! CVE records: odd ones made by hand, any bytes, and the figures known of the real ones.

mod common;

use jiff::civil::date;
use kgate_release::cve::{
    Absence, Affected, Cve, CveDelta, DeltaContext, KernelFiles, RecordError, Severity, Snapshot,
    Table, sections,
};
use kgate_release::{Branch, BranchEntry, BranchState, Catalogue, Release, Version};
use proptest::prelude::*;
use serde_json::{Value, json};

use common::{bytes, fixture, place};

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// A record whose entries for the kernel are these.
fn record(id: &str, affected: Value) -> Value {
    json!({
        "dataType": "CVE_RECORD",
        "cveMetadata": { "cveId": id, "state": "PUBLISHED" },
        "containers": { "cna": { "title": "net: mend it", "affected": affected } },
    })
}

fn entry(default: &str, versions: Value) -> Value {
    json!({ "product": "Linux", "vendor": "Linux", "defaultStatus": default, "versions": versions })
}

fn read(value: &Value) -> Result<Option<Cve>, RecordError> {
    Cve::read(value.to_string().as_bytes())
}

fn cve(affected: Value) -> Cve {
    read(&record("CVE-2030-12345", affected)).unwrap().unwrap()
}

/// A bug of 5.10, fixed in 6.1.20, 6.6.3 and 6.7.
fn usual() -> Value {
    let git = |fix: &str| json!({ "version": "a0", "lessThan": fix, "status": "affected", "versionType": "git" });
    let fixed = |from: &str, branch: &str| json!({ "version": from, "lessThanOrEqual": branch, "status": "unaffected", "versionType": "semver" });
    let mut first = entry("unaffected", json!([git("c1"), git("c2"), git("c3")]));
    first["programFiles"] = json!(["net/core/sock.c", "include/net/sock.h"]);
    let versions = json!([
        { "version": "5.10", "status": "affected" },
        { "version": "0", "lessThan": "5.10", "status": "unaffected", "versionType": "semver" },
        fixed("6.1.20", "6.1.*"),
        fixed("6.6.3", "6.6.*"),
        { "version": "6.7", "lessThanOrEqual": "*", "status": "unaffected", "versionType": "original_commit_for_fix" },
    ]);
    json!([first, entry("affected", versions)])
}

fn states(cve: &Cve, versions: &[&str]) -> String {
    let state = |text: &&str| match cve.affects(&version(text)) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    versions.iter().map(state).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_usual_record() {
    let cve = cve(usual());
    let asked = ["4.19.325", "5.9", "5.10", "6.1.19", "6.1.20", "6.1.99", "6.2.5"];
    assert_eq!(states(&cve, &asked), "no no yes yes no no yes");
    assert_eq!(states(&cve, &["6.6.2", "6.6.3", "6.7", "7.1", "2.6.32.61"]), "yes no no no no");
    // Candidates are as the release that they lead to, or as what was before it.
    assert_eq!(states(&cve, &["5.10-rc3", "6.7-rc3", "6.8-rc1", "5.9-rc8"]), "yes yes no no");
    let fixes: Vec<_> =
        cve.fixes().iter().map(|(fix, commit)| format!("{fix} {}", commit.unwrap())).collect();
    assert_eq!(fixes, ["6.1.20 c1", "6.6.3 c2", "6.7 c3"]);
    assert_eq!(cve.files, ["net/core/sock.c", "include/net/sock.h"]);
    assert_eq!((cve.title.as_str(), cve.severity()), ("net: mend it", Severity::Unscored));
}

#[test]
fn odd_ranges() {
    let one = |versions: Value| cve(json!([entry("unaffected", versions)]));
    let git = one(json!([
        { "version": "a", "lessThan": "b", "status": "affected", "versionType": "git" },
    ]));
    assert_eq!(states(&git, &["6.1"]), "?");
    assert_eq!(states(&cve(json!([])), &["6.1"]), "?");
    let unbounded = one(json!([{ "version": "6.2", "lessThan": "*", "status": "affected" }]));
    assert_eq!(states(&unbounded, &["6.1.99", "6.2", "9.9"]), "no yes yes");
    assert!(unbounded.fixes().is_empty());
    let all = one(json!([{ "version": "*", "status": "affected" }]));
    assert_eq!(states(&all, &["2.6.12", "9.9"]), "yes yes");
    let up_to = one(json!([
        { "version": "6.1.5", "lessThanOrEqual": "6.1.9", "status": "affected", "versionType": "custom" },
        { "version": "6.2", "lessThanOrEqual": "6.2.*", "status": "affected" },
        { "version": "6.4.1", "status": "affected" },
        { "version": "6.5", "status": "unknown" },
    ]));
    let asked = ["6.1.4", "6.1.5", "6.1.9", "6.1.10", "6.2", "6.2.40", "6.3"];
    assert_eq!(states(&up_to, &asked), "no yes yes no yes yes no");
    assert_eq!(states(&up_to, &["6.4", "6.4.1", "6.4.2", "6.5"]), "no yes no no");
    // Brought into a stable branch only, and ended with it: what comes after is no fix.
    let brought = one(json!([
        { "version": "6.0.16", "lessThan": "6.1", "status": "affected", "versionType": "semver" },
        { "version": "5.10.215", "lessThan": "5.10.218", "status": "affected", "versionType": "semver" },
    ]));
    assert_eq!(states(&brought, &["6.0.15", "6.0.99", "6.1", "5.10.217"]), "no yes no yes");
    assert_eq!(brought.fixes(), [(version("5.10.218"), None)]);
    let ancient = one(json!([
        { "version": "2.6.34.3", "lessThanOrEqual": "2.6.*", "status": "affected" },
    ]));
    assert_eq!(states(&ancient, &["2.6.34.2", "2.6.34.3", "2.6.39.4", "3.0"]), "no yes yes no");
    // Several entries, one of another product: any of the kernel's makes it affected.
    let mut other =
        entry("affected", json!([{ "version": "0", "lessThan": "9.0", "status": "affected" }]));
    other["product"] = "libother".into();
    let affected = |from: &str, end: &str| {
        let range = json!([{ "version": from, "lessThan": end, "status": "affected" }]);
        entry("unaffected", range)
    };
    let several = cve(json!([other, affected("6.1", "6.1.3"), affected("6.2", "6.2.3")]));
    assert_eq!(states(&several, &["5.4", "6.1.2", "6.1.3", "6.2.2"]), "no yes no yes");
    // Ranges that contradict each other err on the side of affected.
    let torn = one(json!([
        { "version": "0", "lessThan": "6.5", "status": "unaffected" },
        { "version": "6.1", "status": "affected" },
    ]));
    assert_eq!(states(&torn, &["6.0", "6.1"]), "no yes");
}

#[test]
fn scores() {
    let scored = |metrics: Value| {
        let mut record = record("CVE-2030-12345", usual());
        record["containers"]["cna"]["metrics"] = metrics;
        let cve = read(&record).unwrap().unwrap();
        format!("{} {:?}", cve.severity(), cve.score.map(|s| (s.tenths, s.vector)))
    };
    let v3 = json!({ "cvssV3_1": { "baseScore": 7.8, "vectorString": "CVSS:3.1/AV:L" } });
    let v4 = json!({ "cvssV4_0": { "baseScore": 9.3, "vectorString": "CVSS:4.0/AV:N" } });
    assert_eq!(scored(json!([v3])), "high Some((78, \"CVSS:3.1/AV:L\"))");
    assert_eq!(scored(json!([v3, v4])), "critical Some((93, \"CVSS:4.0/AV:N\"))");
    assert_eq!(scored(json!([{ "cvssV3_0": { "baseScore": 0 } }])), "none Some((0, \"\"))");
    assert_eq!(scored(json!([{ "cvssV2_0": { "baseScore": 3.9 } }])), "low Some((39, \"\"))");
    // None at all, and one that is none, are not low.
    for none in [json!([]), json!([{ "other": 1 }]), json!([{ "cvssV3_1": { "baseScore": 11 } }])] {
        assert_eq!(scored(none), "unscored None");
    }
}

#[test]
fn what_is_wrong_with_a_record_is_said() {
    let error = |value: &Value| read(value).unwrap_err().to_string();
    let mut rejected = record("CVE-2030-1234", usual());
    rejected["cveMetadata"]["state"] = "REJECTED".into();
    assert_eq!(read(&rejected), Ok(None));
    let hostile = error(&record("CVE-2030-1\u{1b}", usual()));
    assert_eq!(hostile, r#""CVE-2030-1\u{1b}" is not a CVE identifier"#);
    let bad = json!([
        { "version": "6.1", "status": "affected" },
        { "version": "6.1", "lessThan": "six", "status": "affected" },
    ]);
    assert_eq!(
        error(&record("CVE-2030-1234", json!([entry("affected", bad)]))),
        r#"affected[0].versions[1]: "six" is not a kernel version"#
    );
    let many = entry("affected", Value::from(vec![json!({ "version": "6.1" }); 2000]));
    assert_eq!(error(&record("CVE-2030-1234", json!([many]))), "versions: more than 1000");
    let text = record("CVE-2030-1234", usual()).to_string();
    for end in [0, 1, text.len() / 2, text.len() - 1] {
        let error = Cve::read(&text.as_bytes()[..end]).unwrap_err().to_string();
        assert!(error.starts_with("not a CVE record: EOF"), "{error}");
    }
    let deep = "[".repeat(100_000);
    assert!(matches!(Cve::read(deep.as_bytes()), Err(RecordError::Json(_))));
    // Long text is cut, wherever a character ends.
    let mut long = record("CVE-2030-1234", usual());
    long["containers"]["cna"]["title"] = "é".repeat(10_000).into();
    assert_eq!(read(&long).unwrap().unwrap().title.chars().count(), 300);
}

fn snapshot() -> Snapshot {
    Snapshot {
        source: "https://example.org/vulns.git".into(),
        commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
        date: date(2030, 5, 1),
        fetched: "2030-05-02T03:04:05Z".parse().unwrap(),
    }
}

fn table() -> Table {
    let mut table = Table::new(snapshot());
    for (id, file, score) in [
        ("CVE-2030-20000", "net/core/sock.c", None),
        ("CVE-2030-1000", "drivers/gpu/drm/amd/display/dc.c", Some(7.8)),
        ("CVE-2030-10001", "fs/xfs/xfs_buf.c", Some(9.8)),
        ("CVE-2030-10001", "fs/xfs/xfs_buf.c", Some(9.8)),
    ] {
        let mut value = record(id, usual());
        let cna = &mut value["containers"]["cna"];
        cna["affected"][0]["programFiles"] = json!([file]);
        if let Some(score) = score {
            cna["metrics"] = json!([{ "cvssV3_1": { "baseScore": score } }]);
        }
        table.add("a.json", value.to_string().as_bytes());
    }
    let exposed = json!([{ "version": "6.1.25", "lessThan": "6.1.40", "status": "affected" }]);
    let exposed = record("CVE-2030-30000", json!([entry("unaffected", exposed)]));
    table.add("b.json", exposed.to_string().as_bytes());
    table.add("c.json", record("CVE-2030-40000", json!([])).to_string().as_bytes());
    table.add("broken.json", b"{");
    table.sort();
    table
}

#[test]
fn a_table_is_the_same_after_it_was_written() {
    let table = table();
    let ids: Vec<_> = table.cves.iter().map(|cve| &cve.id[9..]).collect();
    assert_eq!(ids, ["1000", "10001", "20000", "30000", "40000"]);
    assert_eq!((table.broken, table.rejected), (1, 0));
    let eof = "EOF while parsing an object at line 1 column 1";
    assert_eq!(table.named, [format!("broken.json: not a CVE record: {eof}")]);
    let bytes = table.encode().unwrap();
    assert_eq!(Table::decode(&bytes).unwrap(), table);
    for end in 0..bytes.len() {
        assert!(Table::decode(&bytes[..end]).is_err(), "{end}");
    }
    let wrong = Table::decode(b"kgate-cves/0\n").unwrap_err().to_string();
    assert_eq!(wrong, "not a table of this version of kgate");
    let by_release = table.fixed_by_release(Branch::new(6, 1));
    let counts: Vec<_> = by_release.iter().map(|(v, cves)| format!("{v} {}", cves.len())).collect();
    assert_eq!(counts, ["6.1.20 3", "6.1.40 1"]);
}

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::new(date(2030, 6, 1));
    for (release, day) in
        [("6.1.20", date(2030, 4, 11)), ("6.6.3", date(2030, 4, 1)), ("6.7", date(2030, 4, 30))]
    {
        let release = version(release);
        let entry = catalogue.branches.entry(release.branch).or_insert(BranchEntry {
            state: BranchState::Longterm,
            end: None,
            releases: Default::default(),
        });
        entry.releases.insert(release, Release { date: Some(day), kernel: None });
    }
    catalogue
}

fn delta(from: &str, to: &str, files: &KernelFiles) -> CveDelta {
    let context = DeltaContext {
        catalogue: &catalogue(),
        workload: &["net".parse().unwrap()],
        absent: &|all| files.absence(all),
    };
    CveDelta::new(&table(), version(from), version(to), &context)
}

#[test]
fn two_versions() {
    let files = KernelFiles::unknown().with_objects(["kernel/drivers/gpu/drm/drm.ko.xz".into()]);
    let told = delta("6.1.10", "6.1.30", &files);
    insta::assert_snapshot!(serde_json::to_string_pretty(&told).unwrap());
    let counts =
        |delta: &CveDelta| (delta.fixed.count, delta.newly_exposed.count, delta.still_open.count);
    assert_eq!(counts(&told), (3, 1, 0));
    assert_eq!(counts(&delta("6.1.30", "6.1.10", &files)), (1, 3, 0));
    assert_eq!(counts(&delta("6.1.10", "6.1.10", &files)), (0, 0, 3));
    assert_eq!(counts(&delta("6.1.10", "6.2.1", &files)), (0, 0, 3));
}

#[test]
fn what_a_kernel_does_not_have() {
    let told = |kernel: &KernelFiles, names: &[&str]| {
        let files: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let absence = kernel.absence(&files);
        absence.map_or_else(|| "-".to_owned(), |absence: Absence| absence.to_string())
    };
    let unknown = KernelFiles::unknown();
    assert_eq!(told(&unknown, &[]), "-");
    assert_eq!(told(&unknown, &["arch/arm64/kvm/a.c"]), "only in arch/arm64");
    assert_eq!(told(&unknown, &["arch/arm64/kvm/a.c", "arch/x86/kvm/a.c"]), "-");
    assert_eq!(told(&unknown, &["arch/Kconfig"]), "-");
    assert_eq!(told(&unknown, &["tools/perf/a.c"]), "in tools/perf, no part of a kernel");
    assert_eq!(told(&unknown, &["drivers/gpu/drm/amd/a.c"]), "-");
    let modules =
        ["kernel/drivers/gpu/drm/drm.ko", "kernel/drivers/net/ethernet/intel/e1000/e1000.ko.xz"];
    let config = [("XFS_FS", "n"), ("EXT4_FS", "y"), ("BT", "m")];
    let kernel = KernelFiles::unknown()
        .with_objects(modules.map(Into::into))
        .with_config(config.map(|(option, value)| (option.into(), value.into())));
    let none = |dir: &str| format!("no module or built-in driver is from {dir}");
    let amd = "drivers/gpu/drm/amd";
    assert_eq!(told(&kernel, &["drivers/gpu/drm/amd/display/a.c"]), none(amd));
    let ice = "drivers/net/ethernet/intel/ice";
    assert_eq!(told(&kernel, &["drivers/net/ethernet/intel/ice/a.c"]), none(ice));
    let sun = "drivers/net/ethernet/sun";
    assert_eq!(told(&kernel, &["drivers/net/ethernet/sun/a.c"]), none(sun));
    assert_eq!(told(&kernel, &["drivers/net/ethernet/intel/e1000/a.c"]), "-");
    assert_eq!(told(&kernel, &["drivers/pci/hotplug/a.c"]), "-");
    assert_eq!(told(&kernel, &["fs/xfs/a.c", "fs/xfs/a.h"]), "CONFIG_XFS_FS is off");
    assert_eq!(told(&kernel, &["fs/xfs/a.c", "fs/ext4/a.c"]), "-");
    assert_eq!(told(&kernel, &["net/bluetooth/a.c"]), "-");
    assert_eq!(told(&kernel, &["net/sctp/a.c", "tools/testing/b.c"]), "CONFIG_IP_SCTP is off");
    assert_eq!(told(&kernel, &["fs/xfsx/a.c"]), "-");
}

fn any_version() -> impl Strategy<Value = Version> {
    let numbers = (3_u32..8, 0_u32..4, 0_u32..6, prop::option::of(1_u32..9));
    numbers.prop_map(|(a, b, patch, candidate)| Version {
        branch: Branch::new(a, b),
        patch,
        candidate: candidate.filter(|_| patch == 0),
    })
}

fn any_range() -> impl Strategy<Value = Value> {
    let status = prop_oneof![Just("affected"), Just("unaffected")];
    let key = prop_oneof![Just("lessThan"), Just("lessThanOrEqual")];
    let end = prop_oneof![
        any_version().prop_map(|v| v.to_string()),
        (3_u32..8, 0_u32..4).prop_map(|(a, b)| format!("{a}.{b}.*")),
        Just("*".to_owned()),
    ];
    let from = prop_oneof![any_version().prop_map(|v| v.to_string()), Just("0".to_owned())];
    (from, prop::option::of((key, end)), status).prop_map(|(from, end, status)| {
        let mut range = json!({ "version": from, "status": status, "versionType": "semver" });
        if let Some((key, text)) = end {
            range[key] = text.into();
        }
        range
    })
}

fn any_entries() -> impl Strategy<Value = Value> {
    let default = prop_oneof![Just("affected"), Just("unaffected")];
    let entry = (default, prop::collection::vec(any_range(), 0..6))
        .prop_map(|(default, ranges)| entry(default, ranges.into()));
    prop::collection::vec(entry, 0..4).prop_map(Value::from)
}

proptest! {
    /// A version is affected or not; a step back undoes what a step did.
    #[test]
    fn never_both(entries in any_entries(), a in any_version(), b in any_version()) {
        let mut table = Table::new(snapshot());
        table.add("x", record("CVE-2030-12345", entries).to_string().as_bytes());
        prop_assert_eq!(table.broken, 0, "{:?}", table.named);
        let empty = Catalogue::new(date(2030, 1, 1));
        let context = DeltaContext {
            catalogue: &empty,
            workload: &[],
            absent: &|_| None,
        };
        let there = CveDelta::new(&table, a, b, &context);
        let back = CveDelta::new(&table, b, a, &context);
        prop_assert!(there.fixed.count + there.newly_exposed.count + there.still_open.count <= 1);
        prop_assert_eq!(there.fixed.count, back.newly_exposed.count);
        prop_assert_eq!(there.still_open.count, back.still_open.count);
        let same = CveDelta::new(&table, a, a, &context);
        prop_assert_eq!(same.fixed.count + same.newly_exposed.count, 0);
        // More entries never make a version unaffected.
        let mut more: Affected = table.cves[0].affected.clone().unwrap_or_default();
        let before = more.affects(&a);
        let usual = cve(usual()).affected.unwrap();
        more.entries.extend(usual.entries);
        prop_assert!(more.affects(&a) || !before);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Cve::read(&bytes);
        let _ = Table::decode(&bytes);
        let _ = Table::decode(&[b"kgate-cves/1\n", &*bytes].concat());
        let _ = sections(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_changed_record_is_read_without_panic(at in 0_usize..4000, byte: u8, cut in 0_usize..4000) {
        let mut bytes = record("CVE-2030-12345", usual()).to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Some(cve)) = Cve::read(&bytes[..bytes.len() - cut % bytes.len()]) {
            let _ = (cve.fixes(), cve.affects(&version("6.1.5")));
        }
    }
}

/// The pairs of one of the CNA's working files: introduced and fixed, each with its commit.
fn pairs(dyad: &str) -> impl Iterator<Item = [&str; 4]> {
    let lines = dyad.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(':').collect::<Vec<_>>().try_into().unwrap())
}

#[test]
fn real_records() {
    let Some(listed) = fixture("cve-ranges.tsv.gz") else { return };
    let ids = listed.lines().filter_map(|line| line.split('\t').next());
    let (mut read, mut unpaired) = (0, 0);
    for id in ids.filter(|id| place(&format!("cve-json/{id}.json")).exists()) {
        let cve = Cve::read(&bytes(&format!("cve-json/{id}.json")).unwrap()).unwrap().unwrap();
        assert_eq!(cve.id, id);
        // Where the CNA's own working file says that it was fixed, and by which commit.
        let dyad = fixture(&format!("cve-json/{id}.dyad")).unwrap();
        let mut fixes: Vec<_> = pairs(&dyad)
            .filter(|[introduced, _, fixed, _]| *fixed != "0" && introduced != fixed)
            .map(|[_, _, fixed, commit]| (version(fixed), Some(commit)))
            .collect();
        fixes.sort_unstable();
        let releases = |fixes: &[(Version, Option<&str>)]| -> Vec<_> {
            fixes.iter().map(|(release, _)| *release).collect()
        };
        assert_eq!(releases(&cve.fixes()), releases(&fixes), "{id}");
        // Where there are more commits than releases, none is told, rather than a wrong one.
        let told = cve.fixes().iter().all(|(_, commit)| commit.is_some());
        unpaired += usize::from(!told);
        assert!(cve.fixes() == fixes || !told, "{id}");
        read += 1;
    }
    assert_eq!((read, unpaired), (10, 2));
    let rejected = bytes("cve-json/REJECTED-CVE-2019-25161.json").unwrap();
    // That it was rejected, only its directory says.
    assert_eq!(Cve::read(&rejected).unwrap().unwrap().id, "CVE-2019-25161");
}

/// Whether a version is affected by such pairs.
fn affected_by(pairs: &[(Option<Version>, Option<Version>)], at: &Version) -> bool {
    let fixed_here = |f: &Version| f.is_stable() && f.branch == at.branch && f <= at;
    let fixed = pairs.iter().filter_map(|(_, fixed)| fixed.as_ref()).any(fixed_here);
    pairs.iter().any(|(introduced, fixed_in)| {
        let begun = introduced.is_none_or(|from| {
            from <= *at && (!from.is_stable() || fixed_in.is_some() || from.branch == at.branch)
        });
        begun
            && match fixed_in {
                None => true,
                Some(f) if f.is_stable() => f.branch == at.branch && at < f,
                Some(f) => at < f && !fixed,
            }
    })
}

#[test]
fn the_pairs_of_all_records_give_the_known_figures() {
    let (Some(listed), Some(expected)) = (fixture("cve-ranges.tsv.gz"), fixture("expected.json"))
    else {
        return;
    };
    let number = |text: &str| (text != "0").then(|| version(text));
    let rows: Vec<Vec<_>> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let pairs = line.split_once('\t').unwrap().1.split_whitespace();
            pairs.map(|p| p.split_once(':').unwrap()).map(|(a, b)| (number(a), number(b))).collect()
        })
        .collect();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    // How many each release fixed, what was introduced in that very release included.
    let fixed_in = |branch: Branch, patches: std::ops::RangeInclusive<u32>| -> Vec<usize> {
        let release = |patch| Some(Version { patch, ..branch.mainline() });
        let count =
            |fixed| rows.iter().filter(|row| row.iter().any(|pair| pair.1 == fixed)).count();
        patches.map(|patch| count(release(patch))).collect()
    };
    let talk = fixed_in(Branch::new(5, 15), 1..=113);
    let least = |n: usize| json!(talk.iter().filter(|count| **count >= n).count());
    let today = &expected["today_db_5.15.1-113"];
    assert_eq!((&least(1), &least(5)), (&today["ge1"], &today["ge5"]));
    let window: usize = fixed_in(Branch::new(6, 1), 171..=183).iter().sum();
    let expected = &expected["cve_delta_affectedA_and_not_affectedB"];
    let naive = expected["6.1.170->6.1.183"]["naive_fixed_in_window"].as_u64().unwrap();
    assert!(naive.abs_diff(window as u64) <= 3, "{window}, expected {naive}");
    let expected = expected.as_object().unwrap();
    for (pair, figures) in expected.iter().filter(|(pair, _)| pair.contains("->")) {
        let (from, to) = pair.split_once("->").unwrap();
        let (from, to) = (version(from), version(to));
        let off = |key: &str, before: bool| {
            let is = |row: &&Vec<_>| {
                affected_by(row, &from) == before && affected_by(row, &to) != before
            };
            let count = rows.iter().filter(is).count() as i64;
            (count - figures[key].as_i64().unwrap()).abs()
        };
        let (fixed, exposed) = (off("fixed", true), off("newly_exposed", false));
        assert!(fixed <= 3 && exposed <= 3, "{pair}: off by {fixed} and {exposed}");
    }
}

#[test]
fn the_talks_figures_by_the_data_of_its_time() {
    let Some(text) = fixture("lkc-5.15_security-2023-06-05.txt") else { return };
    let sections = sections(&text);
    let least = |n: usize| sections.iter().filter(|(_, count)| *count >= n).count();
    assert_eq!((least(1), least(5)), (90, 23));
    let highest = sections.iter().map(|(release, _)| release).max().unwrap();
    assert_eq!(highest.to_string(), "5.15.113");
}
