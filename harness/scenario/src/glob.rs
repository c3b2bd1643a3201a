//! Globs over ids: `*` stands for any run of characters but `/`, `**` for any run at all, `?` for
//! one character but `/`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A glob over scenario ids, metric names or kernel releases. Every text is a valid one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Glob(String);

impl Glob {
    /// Takes `text` as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The glob as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for exactly one text.
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        matches(self.0.as_bytes(), text.as_bytes())
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One row of the usual dynamic programme: `reached[i]` tells whether the glob so far matches
/// `text[..i]`. Its time is bounded by the product of the lengths, whatever the glob is.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut rest = glob;
    while let Some((&token, tail)) = rest.split_first() {
        rest = tail;
        if token == b'*' {
            let across = tail.first() == Some(&b'*');
            if across {
                rest = &tail[1..];
            }
            for i in 0..text.len() {
                if reached[i] && (across || text[i] != b'/') {
                    reached[i + 1] = true;
                }
            }
        } else {
            for i in (0..text.len()).rev() {
                reached[i + 1] =
                    reached[i] && (token == text[i] || token == b'?' && text[i] != b'/');
            }
            reached[0] = false;
        }
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn table() {
        for (glob, text, expected) in [
            ("subsystem/net/*", "subsystem/net/tcp", true),
            ("subsystem/net/*", "subsystem/net/tcp/fastopen", false),
            ("subsystem/**", "subsystem/net/tcp/fastopen", true),
            ("performance/tcp-*", "performance/tcp-connect", true),
            ("performance/tcp-*", "performance/udp", false),
            ("performance/tcp-*", "performance/tcp-", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("**/tcp", "a/b/tcp", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("6.1.*", "6.1.0-56-cloud-amd64", true),
        ] {
            assert_eq!(Glob::new(glob).matches(text), expected, "{glob} {text}");
        }
    }
}
