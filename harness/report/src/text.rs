//! Text of guests made harmless, and text made to fit.

use unicode_width::UnicodeWidthStr;

/// Whether a character may act on a terminal or on the order in which text is shown, or has no place
/// in XML.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{061c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}')
}

fn push(out: &mut String, c: char) {
    if is_harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
}

/// `text` in one line without control characters: line ends and tabs become spaces, others visible
/// escapes.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            '\r' => {}
            c => push(&mut out, c),
        }
    }
    out
}

/// Bytes as text of several lines without control characters but `\n`.
pub fn clean_block(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        match c {
            '\n' => out.push(c),
            '\t' => out.push_str("    "),
            c => push(&mut out, c),
        }
    }
    out
}

/// At most `bytes` of `text`, with a mark where it was cut.
pub(crate) fn bounded(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` filled up with spaces to so many columns.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `text` cut to so many columns.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if width(&out) + width(c.encode_utf8(&mut [0; 4])) + 1 > columns {
            break;
        }
        out.push(c);
    }
    out + "…"
}

/// Lines of at most `columns`, broken at spaces where there are any.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::take(&mut line).trim_end().to_owned());
        } else if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if width(&line) + width(c.encode_utf8(&mut [0; 4])) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn guests_can_t_paint() {
        insta::assert_snapshot!(clean("a\x1b[31mred\x07\n b\u{202e}c\u{9b}m\tü"), @r"a\u{1b}[31mred\u{7}  b\u{202e}c\u{9b}m ü");
        insta::assert_snapshot!(clean_block(b"one\r\ntwo\x1b]0;x\x07\nthree\xff"), @r"
        one
        two\u{1b}]0;x\u{7}
        three�
        ");
    }

    proptest! {
        #[test]
        fn wrapped_lines_fit_and_lose_nothing(text in "[a-zü漢 ]{0,200}", columns in 8..40_usize) {
            let lines = wrap(&text, columns);
            for line in &lines {
                prop_assert!(width(line) <= columns, "{line:?}");
            }
            let squeeze = |s: &str| s.replace(' ', "");
            prop_assert_eq!(squeeze(&lines.concat()), squeeze(&text));
        }

        #[test]
        fn fitted_text_fits(text in "\\PC{0,60}", columns in 1..40_usize) {
            prop_assert!(width(&fit(&clean(&text), columns)) <= columns);
        }
    }
}
