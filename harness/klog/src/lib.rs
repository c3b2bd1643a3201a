//! Console bytes to findings: one rule table, one streaming parser.
//!
//! ```
//! use kgate_klog::{Parser, Source};
//!
//! let mut parser = Parser::new(Source::Console);
//! let mut findings = parser.push(b"[    7.123456] Kernel panic - not syncing: VFS: Unable to ");
//! findings.extend(parser.push(b"mount root fs on unknown-block(0,0)\n"));
//! findings.extend(parser.finish());
//! assert_eq!(findings.len(), 1);
//! assert!(findings[0].panicked);
//! ```

mod blame;
mod content;
pub mod convention;
pub mod delta;
mod detect;
mod frame;
mod line;
mod parser;
mod pattern;
mod report;
mod rules;
mod signature;
mod table;
mod text;
mod title;
mod words;

pub use parser::{Parser, Pending, Source, parse};
