//! Path patterns: `*` and `?` stay within a path component, `**` does not.

use regex::bytes::RegexSet;

/// A set of patterns over absolute paths.
pub(crate) struct Globs(RegexSet);

impl Globs {
    /// Compiles `patterns`.
    ///
    /// # Errors
    /// When they are too large.
    pub(crate) fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let set = RegexSet::new(patterns.into_iter().map(to_regex));
        set.map(Self).map_err(|error| error.to_string())
    }

    /// Whether a pattern matches the whole of `path`.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.0.is_match(path)
    }
}

fn to_regex(pattern: &str) -> String {
    let mut out = String::from("(?s-u)^");
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let (len, text) = match c {
            '*' if rest.starts_with("**") => (2, ".*".to_owned()),
            '*' => (1, "[^/]*".to_owned()),
            '?' => (1, "[^/]".to_owned()),
            c => (c.len_utf8(), regex::escape(&rest[..c.len_utf8()])),
        };
        out.push_str(&text);
        rest = &rest[len..];
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_stays_in_its_component() {
        let cases = [
            ("/usr/share/doc", "/usr/share/doc", true),
            ("/usr/share/doc", "/usr/share/docs", false),
            ("/usr/lib/*.a", "/usr/lib/libx.a", true),
            ("/usr/lib/*.a", "/usr/lib/sub/libx.a", false),
            ("/usr/lib/**.a", "/usr/lib/sub/libx.a", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/usr/bin/[", "/usr/bin/[", true),
            ("/é*", "/é1", true),
        ];
        for (pattern, path, expected) in cases {
            let globs = Globs::new([pattern]).unwrap();
            assert_eq!(globs.matches(path.as_bytes()), expected, "{pattern} on {path}");
        }
    }
}
