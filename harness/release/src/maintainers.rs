//! The kernel's MAINTAINERS file: whose a path is, by the rules of `scripts/get_maintainer.pl`.

use std::collections::HashMap;

use regex::{RegexBuilder, RegexSet, RegexSetBuilder};

/// A regular expression that takes more than this when compiled is not used.
const REGEX_BYTES: usize = 1 << 20;
const ALL_REGEX_BYTES: usize = 16 << 20;

/// One section: a title, and the lines below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its first line.
    pub title: String,
    /// The lines: a letter and its value, as they stand.
    pub lines: Vec<(char, String)>,
}

impl Section {
    /// All values of a letter: `M` maintainers, `R` reviewers, `L` lists, `S` status, `F` and `X`
    /// patterns of files, `N` and `K` regular expressions, `T` trees, `B` where to report.
    pub fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        let fits = self.lines.iter().filter(move |(found, _)| *found == letter);
        fits.map(|(_, value)| value.as_str())
    }
}

/// A MAINTAINERS file, ready to be asked for paths.
#[derive(Debug, Default)]
pub struct Maintainers {
    sections: Vec<Section>,
    /// Patterns of `F:`, by the directory before their first wildcard.
    files: HashMap<String, Vec<(usize, Pattern)>>,
    /// Patterns of `X:`, by section.
    excluded: HashMap<usize, Vec<Pattern>>,
    /// Expressions of `N:`, and the section of each.
    names: RegexSet,
    named: Vec<usize>,
    unreadable: Vec<String>,
}

impl Maintainers {
    /// Reads the text of a file. What is no section is passed over, as `get_maintainer.pl` does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut maintainers = Self { sections: sections(text), ..Self::default() };
        let mut expressions = Vec::new();
        for (number, section) in maintainers.sections.iter().enumerate() {
            for (letter, value) in &section.lines {
                match letter {
                    'F' => {
                        let pattern = Pattern::new(value);
                        let dir = pattern.directory().to_owned();
                        maintainers.files.entry(dir).or_default().push((number, pattern));
                    }
                    'X' => {
                        maintainers.excluded.entry(number).or_default().push(Pattern::new(value));
                    }
                    // The expressions are Perl's, with its `x` flag. What else Perl can is not used there.
                    'N' => match RegexBuilder::new(value)
                        .ignore_whitespace(true)
                        .size_limit(REGEX_BYTES)
                        .build()
                    {
                        Ok(_) => {
                            expressions.push(value.as_str());
                            maintainers.named.push(number);
                        }
                        Err(_) => maintainers.unreadable.push(value.clone()),
                    },
                    _ => {}
                }
            }
        }
        let mut set = RegexSetBuilder::new(&expressions);
        match set.ignore_whitespace(true).size_limit(ALL_REGEX_BYTES).build() {
            Ok(names) => maintainers.names = names,
            Err(_) => {
                maintainers.unreadable.extend(expressions.into_iter().map(str::to_owned));
                maintainers.named.clear();
            }
        }
        maintainers
    }

    /// All sections, as they stand.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Expressions of `N:` that could not be compiled, and match nothing here.
    #[must_use]
    pub fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Every section that a path belongs to, the one with the deepest pattern first: all of them are to
    /// be told of a change. `THE REST` is among them.
    #[must_use]
    pub fn sections_of(&self, path: &str) -> Vec<&Section> {
        let mut depths: Vec<(usize, i64)> = Vec::new();
        let mut add =
            |section, depth: i64| match depths.iter_mut().find(|(found, _)| *found == section) {
                Some((_, known)) => *known = depth.max(*known),
                None => depths.push((section, depth)),
            };
        let directories = path.match_indices('/').map(|(at, _)| &path[..=at]);
        for directory in std::iter::once("").chain(directories) {
            for (section, pattern) in self.files.get(directory).into_iter().flatten() {
                if let Some(depth) = pattern.depth_at(path) {
                    add(*section, depth);
                }
            }
        }
        for found in self.names.matches(path) {
            add(self.named[found], 0);
        }
        depths.retain(|(section, _)| {
            let excluded = self.excluded.get(section);
            !excluded.is_some_and(|all| all.iter().any(|pattern| pattern.depth_at(path).is_some()))
        });
        depths.sort_by_key(|(section, depth)| (-depth, *section));
        depths.into_iter().map(|(section, _)| &self.sections[section]).collect()
    }

    /// The section that a path belongs to first of all: the one with the deepest pattern, the first
    /// in the file of several.
    #[must_use]
    pub fn section_of(&self, path: &str) -> Option<&Section> {
        self.sections_of(path).first().copied()
    }
}

/// The sections of a text: lines of a letter and a colon, under the last line that is none.
fn sections(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut title = None;
    for line in text.lines() {
        let mut chars = line.chars();
        match (chars.next(), chars.next()) {
            (Some(letter @ 'A'..='Z'), Some(':')) => {
                if let Some(title) = title.take() {
                    sections.push(Section { title, lines: Vec::new() });
                }
                if let Some(section) = sections.last_mut() {
                    section.lines.push((letter, chars.as_str().trim().to_owned()));
                }
            }
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            _ => title = Some(line.trim().to_owned()),
        }
    }
    sections
}

/// A pattern of files. One that ends in `/` is a directory and all below it; any other matches the
/// beginning of a path that has no more directories than the pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// Without wildcards.
    plain: bool,
    /// Below any directory that matches.
    across: bool,
    depth: i64,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let slashes = text.matches('/').count() as i64;
        let depth = match () {
            () if text.starts_with('*') => -1,
            () if text.ends_with('/') => slashes,
            () => slashes + 1,
        };
        Self {
            text: text.to_owned(),
            plain: !text.contains(['*', '?', '[']),
            across: text.ends_with('/') || text.contains("**"),
            depth,
        }
    }

    /// The directories that have no wildcard.
    fn directory(&self) -> &str {
        let plain = self.text.find(['*', '?', '[']).unwrap_or(self.text.len());
        self.text[..plain].rfind('/').map_or("", |at| &self.text[..=at])
    }

    /// How deep it goes, if it matches.
    fn depth_at(&self, path: &str) -> Option<i64> {
        let rest = match self.plain {
            true => path.strip_prefix(self.text.as_str()),
            false => glob(&self.text, path, self.across),
        }?;
        // The name of a directory may stand there without its slash.
        let below = self.across || (self.plain && rest.starts_with('/'));
        (below || !rest.contains('/')).then_some(self.depth)
    }
}

/// What of a path is left after the pattern. `*` is anything, across `/` only if `across`; `?` is one
/// character but `/`, and `[…]` one of a class.
fn glob<'a>(pattern: &str, path: &'a str, across: bool) -> Option<&'a str> {
    let (pattern, bytes) = (pattern.as_bytes(), path.as_bytes());
    let (mut p, mut b) = (0, 0);
    // Where the last `*` goes on: in the pattern, and in the path.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() && path.is_char_boundary(b) {
            return Some(&path[b..]);
        }
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, b));
            continue;
        }
        if let (Some(_), Some(&byte)) = (pattern.get(p), bytes.get(b))
            && let Some(length) = one(&pattern[p..], byte)
        {
            p += length;
            b += 1;
            continue;
        }
        // One more byte for the last `*`.
        let (after, from) = star?;
        if from >= bytes.len() || (bytes[from] == b'/' && !across) {
            return None;
        }
        (p, b) = (after, from + 1);
        star = Some((after, from + 1));
    }
}

/// The length of the pattern's first element, if it takes this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => (byte != b'/').then_some(1),
        b'[' if let Some(end) =
            pattern.iter().skip(1).position(|&b| b == b']').filter(|&e| e > 0) =>
        {
            let class = &pattern[1..=end];
            let (negated, class) = match class {
                [b'^', rest @ ..] if !rest.is_empty() => (true, rest),
                all => (false, all),
            };
            let mut fits = false;
            let mut at = 0;
            while at < class.len() {
                match class[at..] {
                    [low, b'-', high, ..] => {
                        fits |= (low..=high).contains(&byte);
                        at += 3;
                    }
                    [only, ..] => {
                        fits |= only == byte;
                        at += 1;
                    }
                    [] => {}
                }
            }
            (fits != negated && byte != b'/').then_some(end + 2)
        }
        literal => (literal == byte).then_some(1),
    }
}
