//! Telling by the beginning of a log how it was recorded.

use crate::{Source, line};

impl Source {
    /// What the first bytes of a log look like. They are to hold its first lines.
    pub fn detect(head: &[u8]) -> Self {
        let mut lines = head.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        // A continuation, or kgate's own remark on records that were lost.
        let first = lines.find(|line| !line.starts_with(b" ") && !line.starts_with(b"# "));
        if first.and_then(line::try_record).is_some() { Self::Kmsg } else { Self::Console }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_consoles() {
        for (head, source) in [
            ("6,339,5140900,-;NET: Registered\n", Source::Kmsg),
            ("# 3 records lost\n SUBSYSTEM=x\n4,1,7,c,caller=T12;x;y", Source::Kmsg),
            ("[    0.000000] Linux version 6.1\n", Source::Console),
            ("<6>[    0.000000] Linux version 6.1; 1,2,3,-\n", Source::Console),
            ("\nSeaBIOS (version 1.16.2)\n6,339,5140900,-;x\n", Source::Console),
            ("6,339,5140900;x", Source::Console),
            ("", Source::Console),
        ] {
            assert_eq!(Source::detect(head.as_bytes()), source, "{head:?}");
        }
    }
}
