//! `cargo xtask picture < TEXT > FILE.svg`: what a terminal shows, with its colours, as a picture.

use std::fmt::Write as _;

/// Size of a character of the font, in pixels.
const CELL: (f64, usize) = (7.83, 19);
const MARGIN: usize = 16;

/// The colours that reports use, by their codes.
const COLOURS: [(&str, &str); 4] =
    [("31", "#ff7b72"), ("32", "#56d364"), ("33", "#e3b341"), ("36", "#76e3ea")];

/// The text as an SVG. Of escape sequences, bold and foreground colours are shown.
pub(crate) fn svg(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let columns = lines.iter().map(|line| pieces(line).map(|p| p.1.chars().count()).sum::<usize>());
    let columns = u32::try_from(columns.max().unwrap_or(0)).unwrap_or(u32::MAX);
    let width = f64::from(columns) * CELL.0 + 2.0 * 16.0;
    let height = lines.len() * CELL.1 + 2 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#161b22\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"13\" fill=\"#e6edf3\" xml:space=\"preserve\">\n"
    );
    for (row, line) in lines.iter().enumerate() {
        let baseline = MARGIN + row * CELL.1 + 14;
        let (mut bold, mut colour) = (false, None);
        let mut at = 0;
        for (code, shown) in pieces(line) {
            match code {
                "1" => bold = true,
                "" | "0" => (bold, colour) = (false, None),
                code => colour = COLOURS.iter().find(|(known, _)| *known == code).map(|c| c.1),
            }
            let x = 16.0 + f64::from(at) * CELL.0;
            let count = u32::try_from(shown.chars().count()).unwrap_or(0);
            // Whatever font there is, columns stay columns.
            let length = f64::from(count) * CELL.0;
            at += count;
            if shown.trim().is_empty() {
                continue;
            }
            let weight = if bold { " font-weight=\"bold\"" } else { "" };
            let fill = colour.map_or_else(String::new, |colour| format!(" fill=\"{colour}\""));
            let shown = shown.replace('&', "&amp;").replace('<', "&lt;");
            let place = format!("x=\"{x:.1}\" y=\"{baseline}\" textLength=\"{length:.1}\"");
            writeln!(out, "<text {place}{weight}{fill}>{shown}</text>").expect("a String takes it");
        }
    }
    out + "</g>\n</svg>\n"
}

/// The codes of escape sequences, each with the text up to the next.
fn pieces(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split("\x1b[").enumerate().map(|(at, piece)| match piece.split_once('m') {
        Some(coded) if at > 0 => coded,
        _ => ("", piece),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn colours_and_places() {
        insta::assert_snapshot!(super::svg("a\n  \x1b[1m\x1b[31mREJECT\x1b[0m   x < y\n"));
    }
}
