//! Subsystems and maintainers of real paths and subjects.

mod common;

use std::time::Instant;

use kgate_release::{Maintainers, Subsystem};
use proptest::prelude::*;

#[test]
fn subjects_and_paths_of_real_changes_agree() {
    let Some(text) = common::fixture("cve-subject-files.tsv.gz") else { return };
    let (mut all, mut told, mut same) = (0, 0, 0);
    for line in text.lines() {
        let mut fields = line.split('\t').skip(1);
        let (Some(subject), Some(files)) = (fields.next(), fields.next()) else { continue };
        let by_subject = Subsystem::of_subject(subject);
        all += 1;
        told += u32::from(by_subject != Subsystem::other());
        same += u32::from(by_subject == Subsystem::of_files(files.split(' ')));
    }
    println!("{all} changes, {told} told by subject, {same} the same as by path");
    assert!(told * 1000 >= all * 980, "{told} of {all}");
    assert!(same * 1000 >= all * 955, "{same} of {all}");
}

/// MAINTAINERS of 6.1 without its people: patterns only.
fn real_maintainers() -> Option<String> {
    let table = common::fixture("maintainers-6.1-patterns.tsv.gz")?;
    let mut text = String::new();
    let mut last = "";
    for line in table.lines() {
        // Titles may have tabs in them.
        let mut fields = line.rsplitn(3, '\t');
        let (value, tag, title) =
            (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        if title != last {
            text.push_str(&format!("\n{title}\n"));
            last = title;
        }
        text.push_str(&format!("{tag}:\t{value}\n"));
    }
    Some(text)
}

#[test]
fn real_paths_have_their_sections_in_no_time() {
    let (Some(text), Some(changes)) =
        (real_maintainers(), common::fixture("cve-subject-files.tsv.gz"))
    else {
        return;
    };
    let maintainers = Maintainers::parse(&text);
    assert!(maintainers.unreadable().is_empty(), "{:?}", maintainers.unreadable());
    let title = |path| maintainers.section_of(path).map(|section| section.title.as_str());
    assert_eq!(title("drivers/net/ethernet/3com/typhoon.c"), Some("3CR990 NETWORK DRIVER"));
    assert_eq!(title("net/ipv4/tcp_input.c"), Some("NETWORKING [TCP]"));
    assert_eq!(title("fs/ext4/super.c"), Some("EXT4 FILE SYSTEM"));
    assert_eq!(title("net/netfilter/nf_tables_api.c"), Some("NETFILTER"));
    assert_eq!(title("kernel/sched/fair.c"), Some("SCHEDULER"));
    assert_eq!(
        title("Makefile"),
        Some("KERNEL BUILD + files below scripts/ (unless maintained elsewhere)")
    );
    let begun = Instant::now();
    let (mut files, mut found) = (0, 0);
    for line in changes.lines() {
        for path in line.split('\t').nth(2).unwrap_or_default().split(' ') {
            files += 1;
            // THE REST takes all.
            found += u32::from(maintainers.sections_of(path).len() > 1);
        }
    }
    println!("{files} files in {:?}, {found} with maintainers of their own", begun.elapsed());
    assert!(found * 100 > files * 95, "{found} of {files}");
}

#[test]
fn sections_by_the_rules_of_get_maintainer() {
    let text = "List of maintainers\n\n\tM: *Mail* patches to: FullName <address@domain>\n\n\
        NETWORKING DRIVERS\nM:\tA Person <a@example.org>\nL:\tnetdev@example.org\nF:\tdrivers/net/\n\
        X:\tdrivers/net/wireless/\n\n\
        CARD\nM:\tB Person <b@example.org>\nF:\tdrivers/net/card*\n\n\
        BARE DIRECTORY\nF:\tdrivers/net/bare\n\n\
        ONE LEVEL\nF:\tdrivers/net/*/one?.[ch]\n\n\
        ANY\tDIRECTORY\nF:\tdrivers/*/deep/\n\n\
        BY NAME\nN:\t[^a-z]tegra # not integra\nK:\t\\bword\\b\nN:\t(broken\n\n\
        THE REST\nL:\tlinux-kernel@example.org\nF:\t*\nF:\t*/\n";
    let maintainers = Maintainers::parse(text);
    let of = |path| {
        let all = maintainers.sections_of(path);
        all.iter().map(|section| section.title.as_str()).collect::<Vec<_>>().join(", ")
    };
    for (path, sections) in [
        ("drivers/net/card_pci.c", "CARD, NETWORKING DRIVERS, THE REST"),
        ("drivers/net/card/main.c", "NETWORKING DRIVERS, THE REST"),
        ("drivers/net/bare/main.c", "BARE DIRECTORY, NETWORKING DRIVERS, THE REST"),
        ("drivers/net/bare.c", "BARE DIRECTORY, NETWORKING DRIVERS, THE REST"),
        ("drivers/net/x/one1.c", "ONE LEVEL, NETWORKING DRIVERS, THE REST"),
        ("drivers/net/x/y/one1.c", "NETWORKING DRIVERS, THE REST"),
        ("drivers/net/x/one1.rs", "NETWORKING DRIVERS, THE REST"),
        ("drivers/a/b/deep/c.c", "ANY\tDIRECTORY, THE REST"),
        ("drivers/net/wireless/w.c", "THE REST"),
        ("arch/arm/mach-tegra/x.c", "BY NAME, THE REST"),
        ("drivers/integra.c", "THE REST"),
        ("Kbuild", "THE REST"),
    ] {
        assert_eq!(of(path), sections, "{path}");
    }
    assert_eq!(maintainers.unreadable(), ["(broken"]);
    let named = maintainers.section_of("drivers/gpio-tegra.c").unwrap();
    assert_eq!(named.values('K').collect::<Vec<_>>(), [r"\bword\b"]);
    assert_eq!(maintainers.sections().len(), 7);
}

#[test]
fn subjects_are_told_by_how_they_begin() {
    let of = |subject| Subsystem::of_subject(subject).name();
    for (subject, name) in [
        ("net: sched: sch_fq: fix it", "net/sched"),
        ("net/sched: act_ct: fix it", "net/sched"),
        ("xfs: fix it", "fs/xfs"),
        ("KVM: x86: fix it", "kvm"),
        ("drm/amdgpu: fix it", "drivers/gpu"),
        ("Revert \"tcp: fix it\"", "net"),
        ("net: usb: lan78xx: fix it", "drivers/net"),
        ("net: bonding: fix it", "net/virtual"),
        ("fs/ntfs3: fix it", "fs/others"),
        ("fs: fix it", "fs"),
        ("drivers/net/foo: fix it", "drivers/net"),
        ("dm thin: fix it", "md/dm"),
        ("PM / devfreq: fix it", "acpi/power"),
        ("block, bfq: fix it", "block"),
        ("Fix what net: did wrong", "other"),
        ("Linux 6.1.171", "other"),
        ("", "other"),
        (":", "other"),
    ] {
        assert_eq!(of(subject), name, "{subject}");
    }
}

#[test]
fn a_change_is_where_most_of_its_program_files_are() {
    let of = |files: &str| Subsystem::of_files(files.split_whitespace()).name();
    assert_eq!(of("net/ipv4/tcp.c include/linux/fs.h include/linux/mm.h"), "net");
    assert_eq!(of("include/linux/mm.h Documentation/x.rst"), "mm");
    assert_eq!(of("fs/ext4/a.c fs/xfs/a.c fs/xfs/b.c"), "fs/xfs");
    assert_eq!(of("fs/ext4/a.c fs/xfs/a.c"), "fs/ext4");
    assert_eq!(of(""), "other");
}

#[test]
fn a_workload_touches_what_its_names_are_about() {
    let always = Subsystem::of_names([]);
    let names = |all: &[Subsystem]| all.iter().map(|s| s.name()).collect::<Vec<_>>().join(" ");
    assert_eq!(names(&always), "mm sched locking time kernel fs x86");
    let more = |given: &[&str]| {
        let mut all = Subsystem::of_names(given.iter().copied());
        all.retain(|subsystem| !always.contains(subsystem));
        names(&all)
    };
    assert_eq!(more(&["integration/nat-conntrack", "NF_TABLES", "veth"]), "netfilter net/virtual");
    assert_eq!(more(&["performance/tcp-connect", "tcp-rr"]), "net");
    assert_eq!(
        more(&["performance/io-uring", "ext4-fsync", "algif_aead"]),
        "fs/ext4 io_uring crypto"
    );
    assert_eq!(more(&["performance/nothing-known"]), "");
}

proptest! {
    #[test]
    fn nothing_makes_the_readers_panic(text in "(?s).{0,300}", path in "[a-c*/é]{0,20}") {
        let _ = Subsystem::of_subject(&text);
        let _ = Subsystem::of_path(&text);
        let _ = Subsystem::of_names([text.as_str()]);
        let _ = Maintainers::parse(&text).sections_of(&path);
    }

    #[test]
    fn hostile_patterns_end_and_do_not_panic(
        patterns in prop::collection::vec("[a-c*?/\\[\\]^é-]{0,30}", 0..8),
        path in "[a-c/é]{0,40}",
    ) {
        let lines: String = patterns.iter().map(|p| format!("F:\t{p}\nX:\tz{p}\nN:\t{p}\n")).collect();
        let _ = Maintainers::parse(&format!("T\n{lines}")).sections_of(&path);
    }
}
