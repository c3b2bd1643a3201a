//! Looking for short texts and sets of bytes in short lines: a searcher takes longer to make than to run.

/// Which bytes are ASCII letters, digits or among `others`.
pub(crate) const fn alphanumeric_or(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// Offset of `part` in `line`.
pub(crate) fn find(line: &str, part: &str) -> Option<usize> {
    let (line, part) = (line.as_bytes(), part.as_bytes());
    let first = *part.first()?;
    memchr::memchr_iter(first, line).find(|at| line[*at..].starts_with(part))
}

/// Whether `part` is in `line`.
pub(crate) fn contains(line: &str, part: &str) -> bool {
    find(line, part).is_some()
}

/// What follows `part` in `line`.
pub(crate) fn after<'a>(line: &'a str, part: &str) -> Option<&'a str> {
    find(line, part).map(|at| &line[at + part.len()..])
}

/// What stands before and after `part` in `line`.
pub(crate) fn split<'a>(line: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    find(line, part).map(|at| (&line[..at], &line[at + part.len()..]))
}

/// Offset of the last `part` in `line`.
pub(crate) fn rfind(line: &str, part: &str) -> Option<usize> {
    let (line, part) = (line.as_bytes(), part.as_bytes());
    let first = *part.first()?;
    memchr::memrchr_iter(first, line).find(|at| line[*at..].starts_with(part))
}
