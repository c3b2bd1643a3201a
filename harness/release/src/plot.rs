//! Curves as an SVG picture: a self-contained file, readable in light and dark.

use std::fmt::Write as _;

/// A curve to draw.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is of.
    pub label: String,
    /// Its points, from left to right.
    pub points: Vec<PlotPoint>,
}

/// A point of a curve.
#[derive(Clone, Debug)]
pub struct PlotPoint {
    /// To the right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
    /// What is shown when it is pointed at.
    pub title: String,
}

/// A picture of up to three curves, each with a scale of its own beginning at zero: what is to be seen
/// is their shape.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above the picture.
    pub title: String,
    /// Below it.
    pub x_label: String,
    /// The curves.
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 56.0;
/// Told apart also without colour: by dashes.
const STYLES: [(&str, &str); 3] = [("a", "none"), ("b", "7 4"), ("c", "2 4")];
/// Longer texts are cut.
const MAX_TEXT: usize = 200;
/// More points can't be told apart.
const MAX_POINTS: usize = 4_000;

impl Plot {
    /// The picture.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let title = text(&self.title);
        writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#
        )?;
        out.push_str(
            "<style>svg{font:13px sans-serif;background:#fff;color:#222}.a{color:#0b62a4}.b{color:#a8420f}\
             .c{color:#44702b}text{fill:currentColor}path,circle{stroke:currentColor;stroke-width:2}\
             path{fill:none}circle{fill:currentColor;stroke:none}.g{stroke:#8888;stroke-width:1}\
             @media(prefers-color-scheme:dark){svg{background:#181818;color:#ddd}.a{color:#6db3f2}\
             .b{color:#f0955f}.c{color:#93c47d}}</style>\n",
        );
        writeln!(out, r#"<text x="{LEFT}" y="26" font-size="16">{title}</text>"#)?;
        let finite = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
        let lines: Vec<&Line> = self.lines.iter().take(STYLES.len()).collect();
        let points = lines.iter().flat_map(|line| &line.points);
        let x_max = nice(points.map(|point| finite(point.x)).fold(0.0, f64::max));
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let bottom = HEIGHT - BOTTOM;
        for tick in 0..=4 {
            let part = f64::from(tick) / 4.0;
            let (x, y) = (LEFT + part * width, bottom - part * height);
            writeln!(out, r#"<path class="g" d="M{LEFT} {y:.1}H{:.1}"/>"#, WIDTH - RIGHT)?;
            let label = number(part * x_max);
            writeln!(
                out,
                r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
                bottom + 20.0
            )?;
        }
        let (middle, low) = (LEFT + width / 2.0, HEIGHT - 12.0);
        let x_label = text(&self.x_label);
        writeln!(out, r#"<text x="{middle}" y="{low}" text-anchor="middle">{x_label}</text>"#)?;
        for (n, (line, (class, dashes))) in lines.iter().zip(STYLES).enumerate() {
            let y_max = nice(line.points.iter().map(|point| finite(point.y)).fold(0.0, f64::max));
            let place = |point: &PlotPoint| {
                let x = LEFT + finite(point.x) / x_max * width;
                (x, bottom - finite(point.y) / y_max * height)
            };
            writeln!(out, r#"<g class="{class}">"#)?;
            // The first scale is on the left, the second on the right; a third has none.
            let side = [(LEFT - 8.0, "end"), (WIDTH - RIGHT + 8.0, "start")];
            if let Some((x, anchor)) = side.get(n) {
                for tick in 0..=4 {
                    let part = f64::from(tick) / 4.0;
                    let (y, label) = (bottom - part * height + 4.0, number(part * y_max));
                    writeln!(
                        out,
                        r#"<text x="{x}" y="{y:.1}" text-anchor="{anchor}">{label}</text>"#
                    )?;
                }
            }
            let x = LEFT + 200.0 * n as f64;
            writeln!(out, r#"<path d="M{x} 48h28" stroke-dasharray="{dashes}"/>"#)?;
            writeln!(out, r#"<text x="{}" y="52">{}</text>"#, x + 36.0, text(&line.label))?;
            let mut path = format!("M{LEFT} {bottom}");
            for point in line.points.iter().take(MAX_POINTS) {
                let (x, y) = place(point);
                write!(path, "L{x:.1} {y:.1}")?;
            }
            writeln!(out, r#"<path d="{path}" stroke-dasharray="{dashes}"/>"#)?;
            for point in line.points.iter().take(MAX_POINTS) {
                let (x, y) = place(point);
                let title = text(&point.title);
                writeln!(
                    out,
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.5"><title>{title}</title></circle>"#
                )?;
            }
            out.push_str("</g>\n");
        }
        out.push_str("</svg>\n");
        Ok(())
    }
}

/// A round number that is not less.
fn nice(value: f64) -> f64 {
    let value = value.clamp(1.0, 1e15);
    let unit = 10f64.powf(value.log10().floor());
    let rounds = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    rounds.into_iter().map(|round| round * unit).find(|round| *round >= value).unwrap_or(value)
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { crate::words::grouped(value as u64) } else { format!("{value:.1}") }
}

/// Text as XML has it: nothing of it is markup, and what XML can't hold is left out.
fn text(raw: &str) -> String {
    let mut out = String::new();
    for c in raw.chars().take(MAX_TEXT) {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
