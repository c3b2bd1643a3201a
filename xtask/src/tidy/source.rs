//! What source code may not contain, and where.

use super::tokens::{Item, items};
use super::{File, Violation};

/// Something that a rule forbids.
enum Forbidden {
    /// A path that has these segments in a row.
    Path(&'static str),
    /// A call of this macro.
    Macro(&'static str),
    /// A call of this method: `name()`, or `name(…)` when it is given something.
    Method(&'static str),
}
use Forbidden::{Macro, Method, Path};

/// One rule over the product's source, tests left out.
struct Rule {
    id: &'static str,
    why: &'static str,
    /// Where it holds: beginnings of paths.
    within: &'static [&'static str],
    /// Where it doesn't, and why not.
    except: &'static [(&'static str, &'static str)],
    forbidden: &'static [Forbidden],
}

const RULES: &[Rule] = &[
    Rule {
        id: "pure",
        why: "these crates do no I/O and read no clock, environment or chance, so that a verdict \
            computed again from the same run directory is the same verdict",
        within: &[
            "harness/compare/",
            "harness/explain/",
            "harness/klog/",
            "harness/model/",
            "harness/release/",
            "harness/scenario/",
        ],
        except: &[],
        forbidden: &[
            Path("std::fs"),
            Path("TcpListener"),
            Path("TcpStream"),
            Path("ToSocketAddrs"),
            Path("UdpSocket"),
            Path("UnixListener"),
            Path("UnixStream"),
            Path("std::process"),
            Path("std::env"),
            Path("std::thread::sleep"),
            Path("io::stdin"),
            Path("io::stdout"),
            Path("io::stderr"),
            Path("Instant::now"),
            Path("SystemTime::now"),
            Path("Timestamp::now"),
            Path("Zoned::now"),
            // An unseeded generator.
            Path("Rng::new"),
            Path("rustix"),
            Path("libc"),
            Path("tokio"),
            Macro("print"),
            Macro("println"),
            Macro("eprint"),
            Macro("eprintln"),
        ],
    },
    Rule {
        id: "only-cli-talks",
        why: "only the cli crate prints, reads the environment and picks an exit code; a library \
            gets settings as parameters and hands back values and errors",
        within: &["harness/"],
        except: &[
            ("harness/cli/", "the one that does"),
            ("harness/agent/", "a program of its own, on the machine under test"),
            ("harness/plugin/", "a part of QEMU, which says why it doesn't load"),
            ("harness/testkit/", "for developers: their terminal, their settings"),
        ],
        forbidden: &[
            Macro("print"),
            Macro("println"),
            Macro("eprint"),
            Macro("eprintln"),
            Macro("dbg"),
            Path("io::stdin"),
            Path("io::stdout"),
            Path("io::stderr"),
            Path("std::env"),
            Path("process::exit"),
            Path("process::ExitCode"),
        ],
    },
    Rule {
        id: "one-place-starts-processes",
        why: "only machine::process starts host processes, each in a process group of its own, \
            so that none is ever left behind; other crates get a Host passed in",
        within: &["harness/"],
        except: &[
            ("harness/machine/src/process.rs", "the one that does"),
            ("harness/agent/", "starts the steps, inside the machine under test"),
            ("harness/testkit/", "prepares tests, outside of any run"),
        ],
        forbidden: &[
            Path("process::Command"),
            Path("libc::fork"),
            Path("libc::vfork"),
            Path("libc::posix_spawn"),
            Path("libc::posix_spawnp"),
        ],
    },
    Rule {
        id: "no-panic",
        why: "what guests, kernels and users hand us may be anything; a bad input is an error \
            that says what and where, never a panic",
        within: &["harness/"],
        except: &[("harness/testkit/", "a broken test preparation may end its test")],
        forbidden: &[
            Method("unwrap()"),
            Method("expect(…)"),
            Method("unwrap_err()"),
            Method("expect_err(…)"),
            Macro("panic"),
            Macro("todo"),
            Macro("unimplemented"),
        ],
    },
];

const DOC: &str = "a file opens with a //! line saying what it owns, or nobody finds their way";
const LENGTH: &str = "a file that long owns more than one thing: split it";
const MAX_LINES: usize = 900;

/// Checks one file; files that aren't Rust pass.
pub(super) fn check(file: &File) -> Vec<Violation> {
    if !file.path.ends_with(".rs") || file.path.contains("/testdata/") {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let mut add = |line, rule, what: String, why| {
        violations.push(Violation { file: file.path.clone(), line, rule, what, why });
    };
    if !file.text.starts_with("//! ") {
        add(1, "opening-line", "does not open with '//! '".to_owned(), DOC);
    }
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        add(MAX_LINES + 1, "file-length", format!("{lines} lines, of {MAX_LINES} at most"), LENGTH);
    }
    let rules: Vec<&Rule> = RULES.iter().filter(|rule| rule.holds_in(&file.path)).collect();
    if rules.is_empty() || is_outside_product(&file.path) {
        return violations;
    }
    match items(&file.text) {
        Ok(items) => {
            for (line, item) in items {
                for rule in rules.iter().filter(|rule| rule.forbids(&item)) {
                    add(line, rule.id, show(&item), rule.why);
                }
            }
        }
        Err(line) => add(line, "unreadable", "not Rust from here".to_owned(), "it must compile"),
    }
    violations
}

/// Whether nothing of a file is in the product: it is for tests, or runs while building.
fn is_outside_product(path: &str) -> bool {
    let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
    name.ends_with("tests.rs")
        || (name == "build.rs" && !dirs.contains("/src"))
        || dirs.split('/').any(|dir| ["tests", "benches", "examples"].contains(&dir))
}

impl Rule {
    fn holds_in(&self, path: &str) -> bool {
        self.within.iter().any(|prefix| path.starts_with(prefix))
            && !self.except.iter().any(|(prefix, _)| path.starts_with(prefix))
    }

    fn forbids(&self, item: &Item) -> bool {
        self.forbidden.iter().any(|forbidden| match (forbidden, item) {
            (Path(wanted), Item::Path(path)) => {
                let wanted: Vec<&str> = wanted.split("::").collect();
                path.windows(wanted.len()).any(|part| part == wanted)
            }
            (Macro(wanted), Item::Macro(name)) | (Method(wanted), Item::Method(name)) => {
                wanted == name
            }
            _ => false,
        })
    }
}

/// Every place that a rule names.
#[cfg(test)]
pub(super) fn places() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| {
        rule.within.iter().chain(rule.except.iter().map(|(place, _)| place)).copied()
    })
}

fn show(item: &Item) -> String {
    match item {
        Item::Path(path) => path.join("::"),
        Item::Macro(name) => format!("{name}!"),
        Item::Method(call) => format!(".{call}"),
    }
}
