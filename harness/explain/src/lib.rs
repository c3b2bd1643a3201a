//! Where the instructions went: reads what the plugin counted, and tells the difference of two
//! kernels function by function.
//!
//! ```
//! use kgate_explain::{Profile, Side, Symbols, explain};
//!
//! let profile = |count| {
//!     let text = format!("kgate-plugin 1\ns 1\nk ffffffff81000000 {count}\ne 1 1 0 0 {count}\nz 1\n");
//!     Profile::read(text.as_bytes()).unwrap()
//! };
//! let symbols = Symbols::parse(b"ffffffff81000000 T do_it\n").unwrap();
//! let (old, new) = (profile(20), profile(30));
//! let baseline = Side { segment: old.segment(1).unwrap(), symbols: &symbols };
//! let candidate = Side { segment: new.segment(1).unwrap(), symbols: &symbols };
//! let explanation = explain(baseline, candidate, 10);
//! assert_eq!(explanation.difference(), 10);
//! assert!(explanation.table(80, 20).contains("+1.00"));
//! ```

mod explanation;
mod flame;
mod profile;
mod symbols;
mod table;
mod text;

pub use explanation::{Count, Explanation, Fate, Place, Row, Side, counts, explain, reached};
pub use flame::{FlameError, Titles, flame_graph};
pub use profile::{Profile, ProfileError, Segment};
pub use symbols::{Function, Symbols, SymbolsError};
