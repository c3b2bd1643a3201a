//! What others say, as a part of what kgate says.

use std::ops::RangeInclusive;

/// Text of a BMC, a command or a host for an error: one line, bounded, nothing that moves a cursor.
pub(crate) fn line(text: &str) -> String {
    const LONGEST: usize = 300;
    /// Characters that take no room, or turn the direction of those after them.
    const HIDDEN: [RangeInclusive<char>; 4] = [
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{feff}'..='\u{feff}',
    ];
    let words: Vec<_> = text.split_whitespace().collect();
    let shown = |c: &char| !c.is_control() && !HIDDEN.iter().any(|hidden| hidden.contains(c));
    let mut line: String = words.join(" ").chars().filter(shown).take(LONGEST + 1).collect();
    if line.chars().count() > LONGEST {
        line.pop();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_of_others_is_a_short_line(text in ".{0,2000}") {
            let line = line(&text);
            prop_assert!(line.chars().count() <= 301);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }

    #[test]
    fn nothing_of_a_text_hides_or_moves() {
        assert_eq!(line("a\u{1b}[2J\n\tb\u{202e}c\u{200b}"), "a[2J bc");
    }
}
