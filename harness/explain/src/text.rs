//! Names of guests made harmless.

/// `text` with everything but visible ASCII as visible escapes.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() { out.push(c) } else { out.extend(c.escape_default()) }
    }
    out
}
