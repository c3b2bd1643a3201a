//! Which options build a source file, as the makefiles of a kernel's source tree tell it.
//!
//! Conditions within a makefile (`ifdef` and the like) are taken as met, and what isn't understood as
//! built, so that a file that is called absent is absent.

use std::collections::BTreeMap;

/// Variables of a makefile that are built whenever it is read; others name the parts of an object.
const ROOTS: &[&str] = &["obj", "lib", "core", "drivers", "net", "libs", "virt", "head", "subdir"];
/// Objects that are parts of objects, at most so deep.
const DEPTH: usize = 8;

/// The makefiles of a tree, by their directory: `""` is the top.
#[derive(Clone, Debug, Default)]
pub struct Kbuild {
    dirs: BTreeMap<String, Vec<Rule>>,
}

/// `NAME-$(CONFIG_X) += TARGET…`.
#[derive(Clone, Debug)]
struct Rule {
    /// What it is part of: `drm` of `drm-y`.
    part_of: String,
    /// Options of which one must be set; none is no condition.
    options: Vec<String>,
    /// Objects and directories, from the top.
    targets: Vec<String>,
    /// Some of what it names isn't understood.
    open: bool,
}

impl Kbuild {
    /// Adds a `Makefile` or `Kbuild` of a directory.
    pub fn add(&mut self, dir: &str, text: &str) {
        let text = text.replace("\\\n", " ");
        let rules = text.lines().filter_map(|line| rule(dir, line));
        self.dirs.entry(dir.to_owned()).or_default().extend(rules);
    }

    /// Whether no makefile was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// The options that a file needs and that are all off; `None` when it may be built.
    pub(super) fn missing(&self, file: &str, is_on: &dyn Fn(&str) -> bool) -> Option<Vec<String>> {
        let ask = Ask { kbuild: self, is_on };
        let slashes = file.match_indices('/').map(|(at, _)| at);
        for dir in slashes.map(|at| &file[..at]) {
            // Everything below a directory is built by way of what is above it.
            let above = std::iter::once("").chain(dir.match_indices('/').map(|(at, _)| &dir[..at]));
            let below = format!("{dir}/");
            let found = above.flat_map(|above| {
                ask.rules(above)
                    .iter()
                    .filter(|rule| rule.targets.iter().any(|target| target.starts_with(&below)))
                    .map(move |rule| (above, rule))
            });
            if let Some(options) = ask.all_off(found, 0) {
                return Some(options);
            }
        }
        let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
        let base = name.strip_suffix(".c").or_else(|| name.strip_suffix(".S"))?;
        ask.object(dir, &join(dir, &format!("{base}.o"))?, 0)
    }
}

struct Ask<'a> {
    kbuild: &'a Kbuild,
    is_on: &'a dyn Fn(&str) -> bool,
}

impl<'a> Ask<'a> {
    fn rules(&self, dir: &str) -> &'a [Rule] {
        self.kbuild.dirs.get(dir).map_or(&[], Vec::as_slice)
    }

    /// The options without which a rule does nothing; `None` when it may do something.
    fn off(&self, dir: &str, rule: &Rule, depth: usize) -> Option<Vec<String>> {
        if self.is_off(rule) {
            return Some(rule.options.clone());
        }
        if ROOTS.contains(&rule.part_of.as_str()) || depth >= DEPTH {
            return None;
        }
        self.object(dir, &join(dir, &format!("{}.o", rule.part_of))?, depth + 1)
    }

    /// The same for an object of a directory.
    fn object(&self, dir: &str, object: &str, depth: usize) -> Option<Vec<String>> {
        let rules = self.rules(dir);
        // Something that is built may be this.
        if rules.iter().any(|rule| rule.open && !self.is_off(rule)) {
            return None;
        }
        let own = |rule: &&Rule| rule.targets.iter().any(|target| target == object);
        self.all_off(rules.iter().filter(own).map(|rule| (dir, rule)), depth)
    }

    /// Whether its own options are off.
    fn is_off(&self, rule: &Rule) -> bool {
        !rule.options.is_empty() && !rule.options.iter().any(|option| (self.is_on)(option))
    }

    /// The options without which none of the rules does anything; `None` as well when there is none.
    fn all_off<'r>(
        &self,
        rules: impl Iterator<Item = (&'r str, &'r Rule)>,
        depth: usize,
    ) -> Option<Vec<String>> {
        let mut options = Vec::new();
        for (dir, rule) in rules {
            for option in self.off(dir, rule, depth)? {
                if !options.contains(&option) {
                    options.push(option);
                }
            }
        }
        (!options.is_empty()).then_some(options)
    }
}

/// The rule in a line of a makefile, if there is one.
fn rule(dir: &str, line: &str) -> Option<Rule> {
    let line = line.split('#').next()?.trim();
    let (left, right) = line.split_once('=')?;
    let left = left.trim_end_matches(['+', ':', '?']).trim();
    let mut rule =
        Rule { part_of: String::new(), options: Vec::new(), targets: Vec::new(), open: false };
    if left.contains(':') && !left.contains("$(") {
        return None;
    }
    (rule.part_of, rule.options) = match left.split_once("-$(") {
        Some((name, condition)) => (name.to_owned(), options(condition)),
        None => {
            let ends = ["-y", "-m", "-objs"];
            let name = ends.iter().find_map(|end| left.strip_suffix(end)).unwrap_or(left);
            (name.to_owned(), Vec::new())
        }
    };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if rule.part_of.is_empty() || !rule.part_of.chars().all(name) {
        return None;
    }
    for word in right.split_whitespace() {
        if word.contains('$') {
            rule.open = true;
        } else if word.ends_with(".o") || word.ends_with('/') {
            rule.targets.extend(join(dir, word));
        }
    }
    // Flags for the compiler and other settings name nothing that is built.
    (rule.open && !is_flags(&rule.part_of) || !rule.targets.is_empty()).then_some(rule)
}

fn is_flags(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("flags")
        || [
            "kasan",
            "kcsan",
            "ubsan",
            "gcov",
            "kcov",
            "objtool",
            "always",
            "extra",
            "targets",
            "hostprogs",
            "clean",
            "quiet_cmd",
            "cmd_",
            "subdir-",
        ]
        .iter()
        .any(|begin| name.starts_with(begin))
}

/// All that a condition calls an option.
fn options(condition: &str) -> Vec<String> {
    let end = |text: &str| {
        text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
    };
    let after = condition.split("CONFIG_").skip(1);
    after.map(|text| text[..end(text)].to_owned()).filter(|name| !name.is_empty()).collect()
}

/// A path from the top; `None` for one outside of the tree.
fn join(dir: &str, path: &str) -> Option<String> {
    let is_dir = path.ends_with('/');
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let end = if is_dir { "/" } else { "" };
    Some(parts.join("/") + end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Kbuild {
        let mut kbuild = Kbuild::default();
        kbuild.add("", "obj-y := fs/ drivers/\nobj-$(CONFIG_NET) += net/ # all of it\n");
        kbuild.add(
            "fs",
            "obj-$(CONFIG_XFS_FS) += xfs/\nobj-y += open.o\nifdef CONFIG_A\nobj-y += a.o\nendif\n",
        );
        kbuild.add("drivers", "obj-y += gpu/\n");
        kbuild.add(
            "drivers/gpu",
            "obj-$(CONFIG_AMD) += amd/amdgpu/\nobj-$(CONFIG_NV) \\\n\t+= nv/\n",
        );
        kbuild.add(
            "drivers/gpu/amd/amdgpu",
            "amdgpu-y := main.o ../display/dc.o\nobj-$(CONFIG_AMD)+= amdgpu.o\n",
        );
        kbuild.add("drivers/gpu/nv", "nv-y := core.o\nnv-$(CONFIG_NV_X) += x.o\nobj-$(CONFIG_NV) += nv.o\nccflags-y := -I$(src)/\n");
        kbuild.add("net", "obj-$(subst m,y,$(CONFIG_IPV6)) += six.o\nobj-y += $(four-objs)\nfour-objs := four.o\nobj-$(CONFIG_OFF) += five.o\n");
        kbuild
    }

    #[test]
    fn a_file_is_missing_when_all_that_builds_it_is_off() {
        let kbuild = tree();
        let missing = |on: &[&str], file: &str| {
            kbuild.missing(file, &|option| on.contains(&option)).map(|options| options.join(" "))
        };
        let off = |file| missing(&["NET"], file);
        assert_eq!(off("fs/xfs/deep/er.c").as_deref(), Some("XFS_FS"));
        assert_eq!(off("fs/open.c"), None);
        // Conditions within a makefile, and files that none names, may be built.
        assert_eq!((off("fs/a.c"), off("fs/unknown.c"), off("fs/open.h")), (None, None, None));
        assert_eq!(off("drivers/gpu/amd/display/dc.c").as_deref(), Some("AMD"));
        assert_eq!(missing(&["AMD"], "drivers/gpu/amd/display/dc.c"), None);
        assert_eq!(missing(&["NV"], "drivers/gpu/nv/x.c").as_deref(), Some("NV_X"));
        assert_eq!(missing(&["NV", "NV_X"], "drivers/gpu/nv/x.c"), None);
        assert_eq!(missing(&["NV"], "drivers/gpu/nv/core.c"), None);
        assert_eq!(off("drivers/gpu/nv/core.h").as_deref(), Some("NV"));
        assert_eq!(missing(&[], "net/four.c").as_deref(), Some("NET"));
        // What a makefile takes from elsewhere may be anything.
        assert_eq!((off("net/four.c"), off("net/five.c")), (None, None));
    }

    #[test]
    fn no_makefile_makes_it_panic() {
        let mut kbuild = Kbuild::default();
        for line in [
            "obj-$(",
            "obj-$(CONFIG_",
            "=",
            "-y = a.o",
            "a-y := a.o",
            "obj-y += ../../x.o",
            "é-y=é.o",
        ] {
            kbuild.add("a/b", line);
        }
        for file in ["", "/", "a", "a/b/a.c", "a/b/é.c", "x.c", "a//b.c"] {
            let _ = kbuild.missing(file, &|_| false);
        }
    }
}
