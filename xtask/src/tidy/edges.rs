//! Who may know whom: the dependencies between the crates of this workspace.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{File, Violation};

const EDGES: &str = "who may know whom keeps the parts replaceable; the allowed edges are the \
    table in xtask/src/tidy/edges.rs and the page docs/architecture.md";
const UNLISTED: &str =
    "every crate has a row in xtask/src/tidy/edges.rs, which says what it may know";
const SHARED: &str = "versions and features are decided once, in the root's workspace.dependencies";

/// May depend on every crate of the product.
const ALL: &[&str] = &["*"];

/// What each crate may know, by short name, in its normal and build dependencies.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("agent", &["model"]),
    ("cli", ALL),
    ("compare", &["model", "scenario"]),
    ("explain", &["model"]),
    ("fuzz", &["klog", "model"]),
    ("image", &["model"]),
    ("kernel", &["model"]),
    ("klog", &["model"]),
    ("lab", &["image", "kernel", "klog", "machine", "model"]),
    ("machine", &["kernel", "klog", "model"]),
    ("model", &[]),
    ("ops", &["model"]),
    ("plugin", &[]),
    ("qemu", &["image", "kernel", "machine", "model"]),
    ("release", &["model"]),
    ("report", &["compare", "klog", "model"]),
    ("runner", &["machine", "model", "scenario"]),
    ("scenario", &["model"]),
    ("testkit", ALL),
    ("xtask", &[]),
];

/// Crates for developers: never part of the product.
const DEVELOPERS_ONLY: &[&str] = &["fuzz", "testkit", "xtask"];

/// One dependency as a manifest declares it.
struct Dependency<'a> {
    name: &'a str,
    dev: bool,
    from_workspace: bool,
    at: Range<usize>,
}

/// Checks every manifest of a workspace member.
pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let manifests =
        files.iter().filter(|f| f.path.ends_with("/Cargo.toml") && !f.path.contains("/testdata/"));
    manifests.flat_map(check_manifest).collect()
}

fn check_manifest(file: &File) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut add = |at: usize, rule, what: String, why| {
        let line = file.text[..at].matches('\n').count() + 1;
        violations.push(Violation { file: file.path.clone(), line, rule, what, why });
    };
    let manifest = match DeTable::parse(&file.text) {
        Ok(manifest) => manifest.into_inner(),
        Err(error) => {
            add(0, "unreadable", error.message().to_owned(), "a manifest has to be TOML");
            return violations;
        }
    };
    let name = table(&manifest, "package")
        .and_then(|package| package.get("name")?.get_ref().as_str())
        .map(short)
        .unwrap_or_default();
    let row = MAY_KNOW.iter().find(|(crate_name, _)| *crate_name == name);
    if row.is_none() {
        add(0, "who-knows-whom", format!("the crate '{name}' has no row"), UNLISTED);
    }
    let may_know = row.map_or(&[][..], |(_, may_know)| may_know);
    for dependency in dependencies(&manifest) {
        let Dependency { name: known, dev, from_workspace, at } = dependency;
        if !from_workspace {
            let what = format!("'{known}' is not declared by 'workspace = true'");
            add(at.start, "workspace-dependency", what, SHARED);
        }
        let known = short(known);
        if dev || !MAY_KNOW.iter().any(|(crate_name, _)| *crate_name == known) {
            continue;
        }
        let allowed = match may_know {
            ["*"] => !DEVELOPERS_ONLY.contains(&known),
            _ => may_know.contains(&known),
        };
        if !allowed {
            let what = format!("'{name}' must not know '{known}'");
            add(at.start, "who-knows-whom", what, EDGES);
        }
    }
    violations
}

/// A crate's name as the table has it.
fn short(name: &str) -> &str {
    name.strip_prefix("kgate-").unwrap_or(name)
}

fn table<'a>(parent: &'a DeTable<'_>, key: &str) -> Option<&'a DeTable<'a>> {
    parent.get(key)?.get_ref().as_table()
}

/// The dependencies of a manifest, those for one platform included.
fn dependencies<'a>(manifest: &'a DeTable<'_>) -> Vec<Dependency<'a>> {
    let targets = table(manifest, "target").into_iter().flat_map(|targets| targets.iter());
    let targets = targets.filter_map(|(_, target)| target.get_ref().as_table());
    let mut found = Vec::new();
    for level in targets.chain([manifest]) {
        for (kind, dev) in
            [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
        {
            for (name, how) in table(level, kind).into_iter().flat_map(|deps| deps.iter()) {
                found.push(Dependency {
                    name: name.get_ref(),
                    dev,
                    from_workspace: is_from_workspace(how),
                    at: name.span(),
                });
            }
        }
    }
    found
}

fn is_from_workspace(how: &Spanned<DeValue<'_>>) -> bool {
    let workspace = how.get_ref().as_table().and_then(|how| how.get("workspace"));
    workspace.is_some_and(|value| value.get_ref().as_bool() == Some(true))
}
