//! The table of faults in `docs/lab-faults.md`, whose sections tests write and check.

use std::fmt::Write as _;
use std::path::Path;

/// A row: what goes wrong, and what kgate makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// What goes wrong.
    pub(crate) fault: String,
    /// What kgate does and says.
    pub(crate) does: String,
    /// What `kgate` would end with.
    pub(crate) code: u8,
}

/// Checks that the page's section is made of these rows. With `INSTA_UPDATE=always` it is made so; what
/// another says below the same heading, before the table, stays.
pub(crate) fn check(heading: &str, rows: &[Fault]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lab-faults.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let mut table = String::from("| fault | what kgate does | exit code |\n|---|---|---|\n");
    for Fault { fault, does, code } in rows {
        let cell = |text: &str| text.replace('|', "\\|");
        writeln!(table, "| {} | {} | {code} |", cell(fault), cell(does)).unwrap();
    }
    let marked = format!("## {heading}\n");
    let begin = page.find(&marked).unwrap_or_else(|| panic!("the page has no section {heading}"));
    let section = begin + marked.len();
    let end = page[section..].find("\n## ").map_or(page.len(), |at| section + at + 1);
    let start = page[section..end].find("| fault |").map_or(end, |at| section + at);
    let rest = page[start..end].lines().skip_while(|line| line.starts_with('|'));
    let rest: String = rest.map(|line| format!("{line}\n")).collect();
    let wanted = format!("{}{table}{rest}{}", &page[..start], &page[end..]);
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, &wanted).expect("the page can be written");
    }
    assert!(
        page == wanted || std::fs::read_to_string(&path).unwrap() == wanted,
        "the section {heading} of docs/lab-faults.md is no longer true: INSTA_UPDATE=always writes it\n{table}"
    );
}
