//! What a line of the kernel is told from others by: its words, without what differs from boot to
//! boot.

/// Separators that may stand within a number: times, addresses on buses, ranges, versions.
const JOINTS: &[u8] = b".:+-";
/// What may lie between two numbers that are one list.
const LIST: &[char] = &[' ', ',', '-', '/', ':', '.', '*', '+'];
/// Units that go with their number, because the kernel picks them by its size.
const UNITS: &[&str] = &[
    "ns", "us", "ms", "s", "sec", "secs", "msecs", "seconds", "B", "K", "k", "kB", "KB", "KiB",
    "M", "MB", "MiB", "G", "GB", "GiB", "T", "TB", "TiB", "bytes", "Hz", "kHz", "KHz", "MHz",
    "GHz",
];
/// Disks are counted in letters.
const DISKS: &[&str] = &["sd", "vd", "hd", "xvd"];
/// Names that are kept, digits and all.
const NAMES: &[&str] = &["IPv4", "IPv6", "ipv4", "ipv6"];
/// What stands before a number that tells what a thing is, not which one.
const IDENTITIES: &[&str] = &["idVendor=", "idProduct="];
/// The largest error number of the kernel.
const MAX_ERROR: u32 = 133;
/// So many hexadecimal digits are a number, even if they are all letters.
const HASH: usize = 8;

/// The words of `text`; `#` stands for numbers of all sorts.
pub(crate) fn pattern(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    if text.starts_with("Linux version ") {
        // All that follows is the kernel's own.
        return "Linux version #".to_owned();
    }
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if is_word(c) {
            let end = run(rest);
            let (word, after) = rest.split_at(end);
            match () {
                () if is_identity(&out, word, after) => out.push_str(word),
                () if is_error(&out, word) => out.push_str(word),
                () if word == "kworker" && after.starts_with('/') => {
                    // Names what is worked on, which is chance.
                    out.push_str("kworker/#");
                    rest = after.trim_start_matches(|c: char| !" )]>".contains(c));
                    continue;
                }
                () => take(&mut out, word),
            }
            rest = after;
        } else {
            if !(c == ' ' && out.ends_with(' ')) {
                out.push(if c == '\t' { ' ' } else { c });
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    out.replace("(____ptrval____)", "#")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Length of the word at the start of `text`, joints between its parts included.
fn run(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut end = 0;
    for (at, &b) in bytes.iter().enumerate() {
        if is_word(b.into()) {
            end = at + 1;
        } else if !JOINTS.contains(&b) || at - end >= 2 {
            break;
        }
    }
    end
}

/// Whether `word` tells what a device is: `[8086:100e]`.
fn is_identity(before: &str, word: &str, after: &str) -> bool {
    let hex = |part: &str| part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let pair = word.split_once(':').is_some_and(|(vendor, device)| hex(vendor) && hex(device));
    pair && before.ends_with('[') && after.starts_with(']')
        || hex(word) && IDENTITIES.iter().any(|name| before.ends_with(name))
}

/// Whether `word` is an error number: `-22`, alone.
fn is_error(before: &str, word: &str) -> bool {
    let sign = before.strip_suffix('-').is_some_and(|before| {
        before.chars().next_back().is_none_or(|c| matches!(c, ' ' | '=' | '(' | ':' | ','))
    });
    sign && word.parse::<u32>().is_ok_and(|n| (1..=MAX_ERROR).contains(&n))
}

/// Adds a word without its numbers.
fn take(out: &mut String, word: &str) {
    if NAMES.contains(&word) {
        out.push_str(word);
    } else if is_number(word) {
        number(out);
    } else if UNITS.contains(&word) && out.ends_with("# ") {
        out.pop();
    } else {
        for part in word.split_inclusive(|c| !is_word(c)) {
            let name = part.trim_end_matches(|c| !is_word(c));
            piece(out, name);
            out.push_str(&part[name.len()..]);
        }
    }
}

/// Adds `#`, unless it continues a list of numbers.
fn number(out: &mut String) {
    let list = out.trim_end_matches(LIST);
    let before = list.strip_suffix('#').filter(|_| !out.ends_with(": "));
    if before.is_some_and(|before| !before.ends_with(is_word)) {
        out.truncate(list.len());
    } else {
        out.push('#');
    }
}

/// Whether all of a word is one number: decimal, hexadecimal, with a unit, a time, a version, an
/// address of a bus, a network or a card.
fn is_number(word: &str) -> bool {
    let bytes = word.as_bytes();
    let digit = bytes[0].is_ascii_digit();
    if word.starts_with("0x") || word.starts_with("0X") {
        return true;
    }
    let parts = || word.split(|c| !is_word(c));
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    if parts().all(hex) {
        let count = parts().count();
        return digit
            || count == 1 && word.len() >= HASH
            || count > 1 && bytes.iter().any(u8::is_ascii_digit)
            || count == 6 && word.len() == 17;
    }
    if !digit {
        return false;
    }
    let integer = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let fraction = integer.strip_prefix('.');
    let fraction = fraction.map(|text| text.trim_start_matches(|c: char| c.is_ascii_digit()));
    // A version, or a number with a fraction and a unit.
    fraction.is_some_and(|tail| integer.len() > tail.len() + 1)
        || UNITS.contains(&integer)
        || is_date(bytes)
}

/// `2026-11-22T…`
fn is_date(bytes: &[u8]) -> bool {
    bytes.len() > 10
        && bytes[..10].iter().enumerate().all(|(at, b)| match at {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        })
}

/// Adds one part of a word without its digits.
fn piece(out: &mut String, name: &str) {
    if !name.is_empty() && is_number(name) {
        return number(out);
    }
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let disk = DISKS.iter().find(|disk| {
        let rest = letters.strip_prefix(**disk);
        rest.is_some_and(|rest| (1..=2).contains(&rest.len()) && is_lower(rest))
    });
    if let Some(disk) = disk {
        out.push_str(disk);
        out.push('#');
        return;
    }
    if let Some(rest) = name.strip_prefix("veth")
        && rest.len() >= 6
        && rest.bytes().all(|b| b.is_ascii_hexdigit())
    {
        out.push_str("veth#");
        return;
    }
    let mut digits = false;
    for c in name.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !digits {
            out.push('#');
        }
        digits = c.is_ascii_digit();
    }
}

fn is_lower(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_boot_to_boot_goes() {
        let table = [
            // Addresses, sizes, ranges.
            (
                "BIOS-e820: [mem 0x0000000000100000-0x000000003ffdffff] usable",
                "BIOS-e#: [mem #] usable",
            ),
            (
                "Memory: 430000K/524152K available (14342K kernel code)",
                "Memory: # available (# kernel code)",
            ),
            ("registered 1.00 GiB page size", "registered # page size"),
            ("registered 2.00 MiB page size", "registered # page size"),
            ("f+0x12/0x345 [kfault]", "f+# [kfault]"),
            ("rnd (____ptrval____) ffff8880deadbeef", "rnd # #"),
            // Times and versions.
            ("took 1.5 s", "took #"),
            ("took 250ms", "took #"),
            (
                "setting system clock to 2026-11-22T01:49:50 UTC (1795312190)",
                "setting system clock to # UTC (#)",
            ),
            (
                "usb1: Manufacturer: Linux 6.1.0-47-cloud-amd64 xhci-hcd",
                "usb#: Manufacturer: Linux # xhci-hcd",
            ),
            ("vermagic 6.12.100+deb12-cloud-amd64 SMP", "vermagic # SMP"),
            ("Linux version 6.1.0-47 (me@here) #1 SMP Debian", "Linux version #"),
            // Which one, not what.
            ("pci 0000:00:1f.2: BAR 4", "pci #: BAR #"),
            ("eth0: renamed from veth9f3ab12", "eth#: renamed from veth#"),
            ("sda: sda1 sda2", "sd#: sd# sd#"),
            ("vdb: detected, nvme0n1p2: detected", "vd#: detected, nvme#n#p#: detected"),
            (
                "e1000 0000:00:03.0 eth0: (PCI:33MHz:32-bit) 52:54:00:12:34:56",
                "e# # eth#: (PCI:#-bit) #",
            ),
            ("link fe:ed:be:ef:ca:fe", "link #"),
            ("UUID 01234567-89ab-cdef-0123-456789abcdef mounted", "UUID # mounted"),
            ("systemd[1]: hi", "systemd[#]: hi"),
            ("kworker/u4:2-events_unbound ran", "kworker/# ran"),
            ("IRQs 3 4 5 6 7 9 10 *11 12", "IRQs #"),
            ("CPU0  CPU12: on", "CPU# CPU#: on"),
            ("cert 'key: ace55436448ddecd4ac51f888b4bcff2770296a5'", "cert 'key: #'"),
        ];
        for (text, expected) in table {
            assert_eq!(pattern(text), expected, "{text}");
        }
    }

    #[test]
    fn what_tells_things_apart_stays() {
        for text in [
            "IPv6: martian source",
            "pci: [8086:100e] found",
            "New USB device found, idVendor=1d6b, idProduct=0002",
            "probe failed with error -110",
            "returned -22, ret=-5",
            "a bad decade: facade, dead end",
            "sad: sdcardfs mounted",
            "...trying to set up timer as Virtual Wire IRQ...",
            "naïve – ünïcode",
        ] {
            assert_eq!(pattern(text), text);
        }
        assert_eq!(pattern("at -4000"), "at -#");
        assert_eq!(pattern("[80:1]"), "[#]");
    }
}
