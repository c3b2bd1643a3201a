//! Samples: the lines that a measuring program writes to its samples descriptor.

use kgate_model::wire::WireSample;

/// Longest line that can be a sample, in bytes.
const LINE: usize = 4096;

/// Bad lines reported in full; more are only counted.
const REPORTED: usize = 20;

/// Cuts a byte stream into lines and reads each as a sample.
#[derive(Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    overlong: bool,
    bad: usize,
}

/// One line's worth.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// A sample.
    Sample(WireSample),
    /// Text for standard error about a line that is none.
    Complaint(String),
}

impl Parser {
    /// Takes bytes as they come, gives each finished line to `each`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line)) {
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            let (text, ended) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            let room = LINE.saturating_sub(self.line.len());
            self.overlong |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                self.finish(&mut each);
            }
        }
    }

    /// The stream ended: what is left is a line too.
    pub(crate) fn end(&mut self, mut each: impl FnMut(Line)) {
        self.finish(&mut each);
        if self.bad > REPORTED {
            let more = self.bad - REPORTED;
            each(Line::Complaint(format!("kgate: {more} more lines are not samples\n")));
            self.bad = 0;
        }
    }

    fn finish(&mut self, each: &mut impl FnMut(Line)) {
        let line = std::mem::take(&mut self.line);
        let overlong = std::mem::take(&mut self.overlong);
        if line.trim_ascii().is_empty() {
            return;
        }
        let read = if overlong { Err(format!("longer than {LINE} bytes")) } else { read(&line) };
        match read {
            Ok(sample) => each(Line::Sample(sample)),
            Err(why) => {
                self.bad += 1;
                if self.bad <= REPORTED {
                    let shown = String::from_utf8_lossy(&line[..line.len().min(200)]);
                    each(Line::Complaint(format!("kgate: not a sample: {why}: {shown}\n")));
                }
            }
        }
    }
}

fn read(line: &[u8]) -> Result<WireSample, String> {
    let sample: WireSample = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    let plain = |text: &str, most: usize| text.len() <= most && !text.contains(char::is_control);
    if !sample.value.is_finite() {
        return Err("value is not finite".into());
    }
    if sample.metric.is_empty() || !plain(&sample.metric, 200) {
        return Err("metric is empty, longer than 200 bytes or has control characters".into());
    }
    if !plain(&sample.unit, 40) {
        return Err("unit is longer than 40 bytes or has control characters".into());
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kgate_model::sample::Better;

    fn lines(pieces: &[&str]) -> Vec<Line> {
        let mut parser = Parser::default();
        let mut lines = Vec::new();
        for piece in pieces {
            parser.push(piece.as_bytes(), |line| lines.push(line));
        }
        parser.end(|line| lines.push(line));
        lines
    }

    #[test]
    fn a_line_in_pieces_is_one_sample_and_an_unended_line_counts() {
        let sample = |metric: &str, value| {
            let (unit, better) = ("ns".into(), Better::Lower);
            Line::Sample(WireSample { metric: metric.into(), value, unit, better })
        };
        assert_eq!(
            lines(&[
                r#"{"metric":"open","value":1"#,
                "2.5,\"unit\":\"ns\",\"better\":\"lower\"}\n\n",
                r#"{"metric":"close","value":3,"unit":"ns","better":"lower"}"#,
            ]),
            [sample("open", 12.5), sample("close", 3.0)]
        );
    }

    #[test]
    fn what_is_no_sample_is_said_once_per_line_and_bounded() {
        for bad in [
            "hello",
            "{}",
            r#"{"metric":"x","value":1e999,"unit":"ns","better":"lower"}"#,
            r#"{"metric":"x","value":NaN,"unit":"ns","better":"lower"}"#,
            r#"{"metric":"","value":1,"unit":"ns","better":"lower"}"#,
            r#"{"metric":"x","value":1,"unit":"ns","better":"sideways"}"#,
            "\u{0}\u{1}",
        ] {
            let got = lines(&[bad, "\n"]);
            assert!(
                matches!(&got[..], [Line::Complaint(c)] if c.starts_with("kgate: not a sample: ")),
                "{bad}: {got:?}"
            );
        }
        let long = "x".repeat(3 * LINE);
        let got = lines(&[&long, &long, "\n"]);
        assert!(matches!(&got[..], [Line::Complaint(c)] if c.len() < 300), "{got:?}");
        let got = lines(&["nonsense\n".repeat(1000).as_str()]);
        assert_eq!(got.len(), REPORTED + 1);
        assert_eq!(
            got.last(),
            Some(&Line::Complaint("kgate: 980 more lines are not samples\n".into()))
        );
    }
}
