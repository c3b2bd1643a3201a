//! Guest text made safe for a terminal.

use kgate_report::is_harmful;

/// One line: characters that act on a terminal, or on the order of text, are shown, not obeyed.
pub(crate) fn line(text: &str) -> String {
    text.chars().flat_map(|c| shown(c, false)).collect()
}

/// The last `lines` lines of a console.
pub(crate) fn tail(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|l| format!("    {}", line(l))).collect::<Vec<_>>().join("\n")
}

/// Output of a command for a terminal: line ends and tabs are kept.
pub(crate) fn clean(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|&c| c != '\r').flat_map(|c| shown(c, true)).collect::<String>().into()
}

/// Prints columns that are as wide as what is in them.
pub(crate) fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    for row in rows {
        let cells = row.iter().enumerate().map(|(n, cell)| {
            let width = width(n).unwrap_or_default();
            format!("{cell:<width$}")
        });
        anstream::println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn shown(c: char, keep_lines: bool) -> impl Iterator<Item = char> {
    let plain = !is_harmful(c) || (keep_lines && matches!(c, '\n' | '\t'));
    let escaped = (!plain).then(|| c.escape_default()).into_iter().flatten();
    plain.then_some(c).into_iter().chain(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        assert_eq!(line("a\x1b[31mb\u{9b}c\nd\u{202e}e"), "a\\u{1b}[31mb\\u{9b}c\\nd\\u{202e}e");
        assert_eq!(clean(b"a\tb\r\n\x1b]0;x\x07"), b"a\tb\n\\u{1b}]0;x\\u{7}");
        assert_eq!(tail(b"one\r\n\r\ntwo\r\n", 1), "    two");
    }
}
