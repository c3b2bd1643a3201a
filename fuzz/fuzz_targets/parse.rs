//! Whatever comes in: no panic, findings that lie within the log, in order and bounded, the same ones
//! for any division into chunks, and nothing left open at the end.
#![no_main]

use kgate_fuzz::{Dice, source};
use kgate_klog::{Parser, parse};
use libfuzzer_sys::fuzz_target;

/// An excerpt is cut at 64 KiB; a byte that is no UTF-8 becomes three.
const MAX_EXCERPT: usize = 3 * (64 << 10) + 1024;
const MAX_TEXT: usize = 3 * (8 << 10) + 1024;

fuzz_target!(|log: &[u8]| {
    let source = source(log);
    let whole = parse(source, log);

    let mut before = 0;
    for finding in &whole {
        assert!(before <= finding.start, "not in order: {before}, {finding:?}");
        assert!(finding.start < finding.end && finding.end <= log.len() as u64, "{finding:?}");
        assert!(finding.excerpt.len() <= MAX_EXCERPT, "excerpt of {}", finding.excerpt.len());
        let texts = [&finding.title, &finding.signature].into_iter().chain(&finding.function);
        let texts = texts.chain(&finding.alt_titles).map(String::as_str);
        for text in texts.chain(finding.modules.iter().map(|name| name.as_str())) {
            assert!(text.len() <= MAX_TEXT && !text.contains('\n'), "{text:?}");
        }
        assert!(!finding.title.is_empty() && !finding.signature.is_empty(), "{finding:?}");
        let frames =
            finding.frames.len() + finding.stacks.iter().map(|s| s.frames.len()).sum::<usize>();
        assert!(frames <= 64 << 10, "{frames} frames");
        before = finding.start;
    }
    // A line belongs to few reports, so what is kept of a log is no more than a multiple of it.
    let kept: usize = whole.iter().map(|finding| finding.excerpt.len()).sum();
    assert!(kept <= 16 * log.len() + 1024, "{kept} bytes kept of {}", log.len());

    let mut parser = Parser::new(source);
    let mut found = Vec::new();
    for piece in Dice::new(log).divide(log) {
        found.extend(parser.push(piece));
        if let Some(pending) = parser.pending() {
            assert!(pending.start < log.len() as u64, "{pending:?}");
        }
    }
    found.extend(parser.finish());
    assert_eq!(found, whole, "in chunks and as a whole");
    assert_eq!(parser.pending(), None);
    assert_eq!(parser.finish(), []);
});
