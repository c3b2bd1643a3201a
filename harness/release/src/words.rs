//! Numbers and days in words.

use std::fmt::Display;

use jiff::civil::Date;

/// A number with its thousands apart: `12,345`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many there are of something: `1 release`, `12 releases`.
#[must_use]
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, what: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// How long ago a day was, in words.
#[must_use]
pub fn ago(day: Date, today: Date) -> String {
    match (today - day).get_days() {
        ..=-1 => format!("on {day}, which is still to come"),
        0 => "today".to_owned(),
        1 => "yesterday".to_owned(),
        days => format!("{} ago", counted(days, "day")),
    }
}
