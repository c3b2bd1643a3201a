//! Explanations of profiles made by hand: sums, names, tables and flame graphs.

use std::fmt::Write as _;

use kgate_explain::{
    Explanation, Fate, Place, Profile, Side, Symbols, Titles, counts, explain, flame_graph, reached,
};
use proptest::prelude::*;

const BASE: u64 = 0xffff_ffff_8100_0000;

/// A segment of instructions at distances from [`BASE`].
fn profile(user: u64, kernel: &[(u64, u64)]) -> Profile {
    let mut text = String::from("kgate-plugin 1\ns 1\n");
    let mut last = 0;
    for &(distance, count) in kernel {
        let address = BASE + distance;
        writeln!(text, "k {:x} {count}", address - last).unwrap();
        last = address;
    }
    let sum: u64 = kernel.iter().map(|(_, count)| count).sum();
    writeln!(text, "e 1 10 {user} 0 {sum}\nz 1").unwrap();
    Profile::read(text.as_bytes()).unwrap()
}

/// Functions at distances from [`BASE`].
fn symbols(names: &[(u64, &str)]) -> Symbols {
    let line = |&(distance, name): &(u64, &str)| format!("{:x} t {name}\n", BASE + distance);
    Symbols::parse(names.iter().map(line).collect::<String>().as_bytes()).unwrap()
}

fn explained(
    (old, old_symbols): (&Profile, &Symbols),
    (new, new_symbols): (&Profile, &Symbols),
) -> Explanation {
    let side = |profile, symbols| Side { segment: Profile::segment(profile, 1).unwrap(), symbols };
    explain(side(old, old_symbols), side(new, new_symbols), 100)
}

/// Two kernels that differ in every way there is.
fn pair() -> [(Profile, Symbols); 2] {
    let old = (
        profile(
            500,
            &[
                (0, 100),
                (4, 100),
                (0x100, 200),
                (0x104, 300),
                (0x200, 100),
                (0x300, 50),
                (0x400, 7),
                (0x500, 100),
                (0x504, 100),
                (0x900_0000, 3),
            ],
        ),
        symbols(&[
            (0, "entry"),
            (0x100, "lookup.isra.0"),
            (0x200, "old_helper"),
            (0x300, "rare"),
            (0x400, "siphash [tcp_cubic]"),
            (0x500, "\u{1b}[31mred"),
            (0x600, "woken"),
        ]),
    );
    let new = (
        profile(
            500,
            &[
                (0, 100),
                (4, 100),
                (0x10, 400),
                (0x180, 300),
                (0x184, 300),
                (0x600, 20),
                (0x700, 107),
                (0x800, 100),
                (0x804, 250),
                (0x900_0000, 5),
            ],
        ),
        symbols(&[
            (0, "entry"),
            (0x10, "new_helper"),
            (0x180, "lookup.isra.7"),
            (0x300, "rare"),
            (0x600, "woken"),
            (0x700, "siphash [tcp_cubic]"),
            (0x800, "\u{1b}[31mred"),
        ]),
    );
    [old, new]
}

#[test]
fn a_table_shows_what_differs_and_sums_to_the_whole() {
    let [old, new] = pair();
    let explanation = explained((&old.0, &old.1), (&new.0, &new.1));
    insta::assert_snapshot!(explanation.table(80, 20));
    insta::assert_snapshot!("short_and_narrow", explanation.table(52, 3));
    let same = explained((&old.0, &old.1), (&old.0, &old.1));
    insta::assert_snapshot!(same.table(80, 20), @r"
    15.60 -> 15.60 instructions per operation, +0.00 (+0.00 %), over 100 operations
    nothing executes more or fewer instructions
    ");
}

#[test]
fn functions_that_were_reached_are_listed() {
    let [old, _] = pair();
    let side = Side { segment: old.0.segment(1).unwrap(), symbols: &old.1 };
    let names: Vec<String> = reached(side).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(names.join("\n"), @r"
    \u{1b}[31mred
    entry
    lookup.isra.0
    old_helper
    rare
    siphash [tcp_cubic]
    ");
}

#[test]
fn a_flame_graph_is_the_same_each_time_and_escaped() {
    let hostile = "<script>alert(1)</script>;\u{1b}x";
    let text = "kgate-plugin 1\ns 1\n\
        k ffffffff81000000 5\nk 100 10\nn 0 ffffffff81000005\n\
        t 0 0 85\nt 0 ffffffff81000000 5\nt 1 ffffffff81000100 10\n\
        e 1 1 85 0 15\nz 1\n";
    let (old, new) = (text, text.replace(" 10\n", " 20\n").replace("85 0 15", "85 0 25"));
    let [old, new] = [old, &new].map(|text| Profile::read(text.as_bytes()).unwrap());
    let symbols = symbols(&[(0, "entry"), (0x100, hostile)]);
    let side = |profile| Side { segment: Profile::segment(profile, 1).unwrap(), symbols: &symbols };
    let draw = || {
        let titles = Titles { title: "a & b", subtitle: "<i>\n" };
        flame_graph(side(&old), side(&new), titles).unwrap()
    };
    let svg = draw();
    assert_eq!(svg, draw());
    assert!(!svg.contains("<script>alert"), "{svg}");
    assert!(!svg.contains('\u{1b}'), "{svg}");
    assert!(svg.contains("a &amp; b"));
    // The frames alone: the rest is inferno's.
    let frames: Vec<&str> =
        svg.split("<title>").skip(1).map(|s| s.split('<').next().unwrap()).collect();
    insta::assert_snapshot!(frames.join("\n"));
}

#[test]
fn a_flame_graph_without_stacks_is_by_module() {
    let [old, new] = pair();
    let side =
        |(profile, symbols)| Side { segment: Profile::segment(profile, 1).unwrap(), symbols };
    let titles = Titles { title: "t", subtitle: "s" };
    let svg = flame_graph(side((&old.0, &old.1)), side((&new.0, &new.1)), titles).unwrap();
    let frames: Vec<&str> =
        svg.split("<title>").skip(1).map(|s| s.split('<').next().unwrap()).collect();
    insta::assert_snapshot!(frames.join("\n"));
}

const NAMES: [&str; 8] =
    ["a", "b", "c.isra.0", "c.isra.1", "c.isra.2", "d.part.0.cold", "d", "e [m]"];

fn kernel() -> impl Strategy<Value = (Profile, Symbols)> {
    let counts = prop::collection::btree_map(0_u64..0x900, 0_u64..1_000_000, 0..40);
    let names = prop::collection::btree_map(0_u64..0x900, prop::sample::select(&NAMES[..]), 1..10);
    (0_u64..1_000_000, counts, names).prop_map(|(user, counts, names)| {
        let counts: Vec<_> = counts.into_iter().collect();
        let names: Vec<_> = names.into_iter().collect();
        (profile(user, &counts), symbols(&names))
    })
}

proptest! {
    #[test]
    fn rows_sum_to_the_total(old in kernel(), new in kernel()) {
        let explanation = explained((&old.0, &old.1), (&new.0, &new.1));
        let total = |kernel: &(Profile, Symbols)| u128::from(kernel.0.segments[0].total());
        prop_assert_eq!(explanation.baseline(), total(&old));
        prop_assert_eq!(explanation.candidate(), total(&new));
        prop_assert_eq!(explanation.difference(), total(&new) as i128 - total(&old) as i128);
        let sizes: Vec<_> = explanation.rows.iter().map(|row| row.difference().abs()).collect();
        prop_assert!(sizes.is_sorted_by(|a, b| a >= b));
        // Each place of each kernel is in exactly one row.
        let side = |kernel: &(Profile, Symbols)| {
            counts(Side { segment: &kernel.0.segments[0], symbols: &kernel.1 }).len()
        };
        let has = |of: fn(&kgate_explain::Row) -> u64| {
            explanation.rows.iter().filter(|row| of(row) > 0).count()
        };
        prop_assert_eq!(has(|row| row.baseline.instructions), side(&old));
        prop_assert_eq!(has(|row| row.candidate.instructions), side(&new));
        // The other way round, everything is the other way round.
        let back = explained((&new.0, &new.1), (&old.0, &old.1));
        prop_assert_eq!(back.difference(), -explanation.difference());
        prop_assert_eq!(back.rows.len(), explanation.rows.len());
        for row in &explanation.rows {
            let is_function = matches!(row.place, Place::Function(_));
            prop_assert!(is_function || ![Fate::New, Fate::Gone].contains(&row.fate));
        }
    }

    #[test]
    fn a_table_is_as_narrow_as_wanted(old in kernel(), new in kernel(), width in 0_usize..120, rows in 0_usize..9) {
        let explanation = explained((&old.0, &old.1), (&new.0, &new.1));
        let table = explanation.table(width, rows);
        prop_assert!(table.lines().all(|line| line.len() <= width));
        prop_assert!(table.lines().count() <= rows + 4);
    }
}
