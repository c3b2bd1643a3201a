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

/// Checks that the table of a section of the page is made of these rows. With `INSTA_UPDATE=always` it
/// is made so; what stands before it in the section stays.
pub(crate) fn check(heading: &str, rows: &[Fault]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lab-faults.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let mut table = String::from("| fault | what kgate does | exit code |\n|---|---|---|\n");
    for Fault { fault, does, code } in rows {
        let cell = |text: &str| text.replace('|', "\\|");
        writeln!(table, "| {} | {} | {code} |", cell(fault), cell(does)).unwrap();
    }
    let (before, section) = page
        .split_once(&format!("## {heading}\n"))
        .unwrap_or_else(|| panic!("the page has no section {heading}"));
    let (section, after) = section.find("\n## ").map_or((section, ""), |at| section.split_at(at));
    let prose = section.split("| fault |").next().unwrap_or_default().trim();
    let gap = if prose.is_empty() { "" } else { "\n\n" };
    let wanted = format!("{before}## {heading}\n\n{prose}{gap}{table}{after}");
    if page != wanted {
        let update = std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always");
        assert!(
            update,
            "the section {heading} of docs/lab-faults.md isn't true; INSTA_UPDATE=always makes it \
             so:\n{table}"
        );
        std::fs::write(&path, &wanted).expect("the page can be written");
    }
}
