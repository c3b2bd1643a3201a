//! Which function an address belongs to, by the kernel's own list of its symbols.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::text::clean;

/// No function of a kernel is larger; what is farther from a symbol doesn't belong to it.
const MAX_FUNCTION: u64 = 256 << 10;
/// Longer than any name that the kernel lists.
const MAX_LINE: usize = 2048;
/// More than any kernel has.
const MAX_SYMBOLS: usize = 4 << 20;

/// A function of the kernel or of a module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Function {
    /// The module that it is part of.
    pub module: Option<String>,
    /// Its name, with the suffixes that compilers add.
    pub name: String,
}

impl fmt::Display for Function {
    /// As in backtraces: `name [module]`, on one line, free of anything that acts on a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", clean(&self.name))?;
        self.module.as_ref().map_or(Ok(()), |module| write!(f, " [{}]", clean(module)))
    }
}

impl Function {
    /// What the same function of another build may be called: the numbers of `.isra.0`,
    /// `.constprop.1`, `.part.2` and the like depend on what else is in the file.
    pub(crate) fn family(&self) -> (Option<&str>, Cow<'_, str>) {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let name = if self.name.split('.').skip(1).any(is_number) {
            let mut parts = self.name.split('.');
            let mut name = parts.next().unwrap_or_default().to_owned();
            for part in parts.filter(|part| !is_number(part)) {
                name.push('.');
                name.push_str(part);
            }
            Cow::Owned(name)
        } else {
            Cow::Borrowed(self.name.as_str())
        };
        (self.module.as_deref(), name)
    }
}

/// Why a text gives no symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SymbolsError {
    /// No line of it is a function.
    #[error("no symbols: no line is of the form 'address type name [module]'")]
    None,
    /// All addresses are zero.
    #[error("the kernel hides its addresses: read /proc/kallsyms as root, with kptr_restrict 0")]
    Hidden,
}

/// The functions of a kernel and its modules by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// With where they begin, ascending.
    functions: Vec<(u64, Function)>,
}

impl Symbols {
    /// Reads lines `address type name [module]`, as of `/proc/kallsyms` or `System.map`, in any
    /// order. Lines that are no function of the kernel are left out. Of several names for one
    /// address, a global one is taken, and the last by the alphabet, which rather is the one without
    /// underscores, and the one of 64-bit system calls.
    ///
    /// # Errors
    /// When there are no functions.
    pub fn parse(text: &[u8]) -> Result<Self, SymbolsError> {
        let mut hidden = false;
        let mut found: Vec<(u64, Reverse<u8>, Function)> = Vec::new();
        for line in text.split(|&byte| byte == b'\n').filter(|line| line.len() <= MAX_LINE) {
            let Some((address, rank, function)) = symbol(&String::from_utf8_lossy(line)) else {
                continue;
            };
            if address >> 63 == 1 && found.len() < MAX_SYMBOLS {
                found.push((address, Reverse(rank), function));
            }
            hidden |= address == 0;
        }
        if found.is_empty() {
            return Err(if hidden { SymbolsError::Hidden } else { SymbolsError::None });
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.dedup_by_key(|(address, ..)| *address);
        found.reverse();
        let functions = found.into_iter().map(|(start, _, function)| (start, function)).collect();
        Ok(Self { functions })
    }

    /// The function that an address is in, and the address of its first instruction.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(&Function, u64)> {
        let after = self.functions.partition_point(|&(start, _)| start <= address);
        let (start, function) = self.functions.get(after.checked_sub(1)?)?;
        (address - start < MAX_FUNCTION).then_some((function, *start))
    }

    /// All functions by what they may be called in another build.
    pub(crate) fn families(&self) -> BTreeSet<(Option<&str>, Cow<'_, str>)> {
        self.functions.iter().map(|(_, function)| function.family()).collect()
    }
}

/// Address, rank among names of one address, and function.
fn symbol(line: &str) -> Option<(u64, u8, Function)> {
    let mut fields = line.split_ascii_whitespace();
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    let rank = match fields.next()? {
        "T" => 0,
        "t" => 1,
        "W" | "w" => 2,
        _ => return None,
    };
    let name = fields.next()?.to_owned();
    let module = fields.next().map(|module| module.trim_matches(['[', ']']).to_owned());
    Some((address, rank, Function { module, name }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(symbols: &Symbols, address: u64) -> String {
        symbols
            .find(address)
            .map_or("?".to_owned(), |(function, start)| format!("{function}+{}", address - start))
    }

    #[test]
    fn addresses_are_found_whatever_the_order() {
        let lines = "ffffffff81000010 t local\n\
            ffffffff81000000 W alias\n\
            ffffffff81000000 T zeta\n\
            ffffffff81000000 T alpha\n\
            ffffffff81000000 t aaaa\n\
            ffffffff81000018 d data\n\
            0000000000000000 A percpu\n\
            ffffffffc0000000 t part.0\t[mod]\n\
            not a symbol\n";
        let mut reversed: Vec<&str> = lines.lines().collect();
        reversed.reverse();
        let symbols = Symbols::parse(lines.as_bytes()).unwrap();
        assert_eq!(Symbols::parse(reversed.join("\n").as_bytes()).unwrap(), symbols);
        let addresses = [0, 0xffff_ffff_8100_000f, 0xffff_ffff_8100_0018, 0xffff_ffff_8110_0000];
        let names = addresses.map(|address| name(&symbols, address));
        assert_eq!(names, ["?", "zeta+15", "local+8", "?"]);
        assert_eq!(name(&symbols, 0xffff_ffff_c000_0003), "part.0 [mod]+3");
    }

    #[test]
    fn hidden_addresses_and_no_symbols_are_told() {
        let error = |text: &str| Symbols::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error("0000000000000000 T start\n"), SymbolsError::Hidden);
        assert_eq!(error("ffffffff81000000 d data\n"), SymbolsError::None);
        assert_eq!(error(""), SymbolsError::None);
    }

    #[test]
    fn numbers_of_suffixes_do_not_tell_functions_apart() {
        let family = |name: &str| {
            let function = Function { module: None, name: name.to_owned() };
            function.family().1.into_owned()
        };
        assert_eq!(family("f.isra.0"), family("f.isra.12"));
        assert_eq!(family("f.constprop.0.isra.3.cold"), "f.constprop.isra.cold");
        assert_eq!(family("f.llvm.8123"), "f.llvm");
        assert_ne!(family("f.isra.0"), family("f"));
        assert_ne!(family("f1"), family("f2"));
        assert_eq!(family("123"), "123");
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "([0f]{0,17} ?[Ttd]? [a-z.0-9]{0,4} ?\\[?m?\\]?\n?){0,20}", at: u64) {
            if let Ok(symbols) = Symbols::parse(text.as_bytes()) {
                let _ = symbols.find(at);
            }
        }
    }
}
