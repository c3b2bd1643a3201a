//! A kernel's build configuration: the `CONFIG_` symbols and their values.

use std::collections::BTreeMap;

/// The symbols of a kernel's `.config`, without their `CONFIG_` prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<String, String>,
}

impl Config {
    /// Reads the text of a `.config`; lines that are no settings are passed over, as kconfig does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let values = text
            .lines()
            .filter_map(|line| {
                let line = line.trim_end();
                match line.strip_prefix("# CONFIG_") {
                    Some(rest) => Some((rest.strip_suffix(" is not set")?, "n")),
                    None => line.strip_prefix("CONFIG_")?.split_once('='),
                }
            })
            .map(|(symbol, value)| (symbol.to_owned(), unquote(value)))
            .collect();
        Self { values }
    }

    /// Value of a symbol, named with or without `CONFIG_`: `y`, `m`, `n`, a number or a string
    /// without its quotes. `None` when the configuration does not mention it.
    #[must_use]
    pub fn get(&self, symbol: &str) -> Option<&str> {
        self.values.get(symbol.strip_prefix("CONFIG_").unwrap_or(symbol)).map(String::as_str)
    }

    /// Whether a symbol is `y` or `m`.
    #[must_use]
    pub fn is_enabled(&self, symbol: &str) -> bool {
        matches!(self.get(symbol), Some("y" | "m"))
    }

    /// All symbols with their values, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(symbol, value)| (symbol.as_str(), value.as_str()))
    }

    /// Number of symbols.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is not one symbol.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_line() {
        let config = Config::parse(
            "#\n# Linux/x86 6.1 Kernel Configuration\nCONFIG_64BIT=y\nCONFIG_TUN=m\n# CONFIG_XEN is not set\n\
             CONFIG_HZ=250\nCONFIG_VERSION_SIGNATURE=\"a \\\"b\\\" \\\\c\"\nCONFIG_EMPTY=\"\"\nnonsense\n",
        );
        let all: Vec<_> = config.iter().collect();
        assert_eq!(
            all,
            [
                ("64BIT", "y"),
                ("EMPTY", ""),
                ("HZ", "250"),
                ("TUN", "m"),
                ("VERSION_SIGNATURE", "a \"b\" \\c"),
                ("XEN", "n")
            ]
        );
        assert!(config.is_enabled("CONFIG_TUN") && config.is_enabled("64BIT"));
        assert!(
            !config.is_enabled("XEN") && !config.is_enabled("ABSENT") && !config.is_enabled("HZ")
        );
    }
}
