//! Consoles: what a lab host prints, from wherever it is heard to files and readers.
//!
//! The contract (a `Feed` is what others see of all of this):
//! - `Feed::open(opening, &dyn Secrets)` begins to listen and goes on until it is dropped, connecting
//!   again whenever the source is lost;
//! - `feed.reader()` is an `AsyncRead + Send + Unpin + 'static` of everything that comes from now on;
//!   there may be several, and one that is slow loses nothing that it still has to read as long as it
//!   isn't further behind than a bound, which is marked in what it reads;
//! - `feed.write(bytes)` types, where the source takes that;
//! - `feed.state()` is a `watch::Receiver` of whether it is connected and how often it was lost, and why.

use std::path::PathBuf;

use kgate_model::inventory::ConsoleSource;

/// What a feed is made of.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Name of the host.
    pub host: String,
    /// Where it is heard.
    pub source: ConsoleSource,
    /// Everything that is heard goes to this file, made new, byte for byte and bounded; a file beside it
    /// with `.times` added tells when each piece came and where the connection was lost.
    pub file: Option<PathBuf>,
}
