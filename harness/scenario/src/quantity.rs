//! Numbers with a unit: percentages, sizes, durations, and the units of metrics.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A share in percent: `3%` is `Percent(3.0)`. Never negative, never more than 1000.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Percent(pub f64);

impl Percent {
    /// As a ratio: 3 % is 0.03.
    pub fn ratio(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

macro_rules! units {
    ($($variant:ident $word:literal $meaning:literal,)*) => {
        /// Unit of a metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Unit {
            $(#[doc = $meaning] #[serde(rename = $word)] $variant,)*
        }

        impl Unit {
            /// Every unit, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word used in files and reports.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

units! {
    Nanoseconds "ns" "Nanoseconds.",
    Microseconds "us" "Microseconds.",
    Milliseconds "ms" "Milliseconds.",
    Seconds "s" "Seconds.",
    PerSecond "1/s" "Events per second.",
    Bytes "B" "Bytes.",
    Kibibytes "KiB" "1024 bytes.",
    Mebibytes "MiB" "1024 KiB.",
    Gibibytes "GiB" "1024 MiB.",
    BytesPerSecond "B/s" "Bytes per second.",
    KibibytesPerSecond "KiB/s" "1024 bytes per second.",
    MebibytesPerSecond "MiB/s" "1024 KiB per second.",
    GibibytesPerSecond "GiB/s" "1024 MiB per second.",
    BitsPerSecond "bit/s" "Bits per second.",
    KilobitsPerSecond "kbit/s" "1000 bits per second.",
    MegabitsPerSecond "Mbit/s" "1000 kbit per second.",
    GigabitsPerSecond "Gbit/s" "1000 Mbit per second.",
    Share "%" "Percent of something.",
    Count "count" "A plain number.",
    Instructions "instructions" "Instructions executed.",
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Durations as whole milliseconds.
pub(crate) mod millis {
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }
}

/// Durations that may be missing, as whole milliseconds.
pub(crate) mod optional_millis {
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX)).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(Duration::from_millis))
    }
}
