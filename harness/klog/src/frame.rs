//! One line of a trace, or of an instruction pointer: which function, where in it, how certain.
//!
//! Written by hand and without allocation: a report consists of such lines, mostly.

use kgate_model::finding::{Frame, SourceLine};

use crate::text::alphanumeric_or;

/// What a line says about one function, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawFrame<'a> {
    /// Name as printed, or the bare address (`0xffffffffc0372000`) where no symbol fits.
    pub(crate) function: &'a str,
    pub(crate) offset: Option<u64>,
    pub(crate) size: Option<u64>,
    pub(crate) module: Option<&'a str>,
    pub(crate) inlined: bool,
    pub(crate) reliable: bool,
    /// File and line that the log itself gives.
    pub(crate) source: Option<(&'a str, u32)>,
    /// ARM prints the place of the call together with the function called: the symbol of that
    /// place, for the frame on the next line.
    pub(crate) caller: Option<&'a str>,
}

impl<'a> RawFrame<'a> {
    fn named(function: &'a str) -> Self {
        Self {
            function,
            offset: None,
            size: None,
            module: None,
            inlined: false,
            reliable: true,
            source: None,
            caller: None,
        }
    }

    /// Whether it is an address that no symbol covers.
    pub(crate) fn is_address(&self) -> bool {
        is_address(self.function)
    }

    /// The same, owned.
    pub(crate) fn to_frame(self) -> Frame {
        Frame {
            function: self.function.into(),
            offset: self.offset,
            size: self.size,
            module: self.module.map(Into::into),
            inlined: self.inlined,
            reliable: self.reliable,
            source: self.source.map(|(file, line)| SourceLine { file: file.to_owned(), line }),
        }
    }
}

/// Whether what stands for a function's name is an address that no symbol covers.
pub(crate) fn is_address(function: &str) -> bool {
    function.starts_with("0x")
}

/// Parses one line of a stack trace, whichever architecture and age the kernel has.
pub(crate) fn trace(line: &str) -> Option<RawFrame<'_>> {
    let line = line.trim_ascii_end();
    let mut rest = line.trim_ascii_start();
    // A trace line stands alone when something sets it apart from prose.
    let mut marked = rest.len() < line.len();
    let mut reliable = true;
    // Names of stacks stand before their first frame: `<IRQ>`, `<<EOE>> <IRQ>`.
    while rest.starts_with('<') {
        let end = rest.bytes().take(16).position(|b| b == b'>')? + 1;
        rest = rest[end..].trim_ascii_start();
        rest = rest.strip_prefix('>').map_or(rest, str::trim_ascii_start);
        marked = true;
    }
    // The very old ones begin on the line of the heading.
    if let Some(after) = rest.strip_prefix("Call Trace:") {
        rest = after.trim_ascii_start();
    }
    if rest.starts_with("([<") {
        reliable = false;
        rest = &rest[1..];
    }
    while let Some(after) = address(rest) {
        rest = after.trim_ascii_start();
        marked = true;
    }
    if let Some(after) = rest.strip_prefix("? ") {
        reliable = false;
        marked = true;
        rest = after;
    }
    let in_parentheses = marked && rest.starts_with('(');
    rest = &rest[usize::from(in_parentheses)..];
    let len = name_len(rest);
    if !in_parentheses && !may_be(rest, len) {
        return None;
    }
    let (mut frame, tail) = symbol_of(rest, len)?;
    frame.reliable = reliable;
    if in_parentheses {
        frame.caller = from(tail.strip_prefix(") from ")?)?;
    } else if frame.is_address() {
        return (marked && matches!(tail, "" | ")")).then_some(frame);
    } else if frame.offset.is_some() {
        match tail.as_bytes() {
            b"" | b")" => {}
            [b' ', ..] => {
                let after = &tail[1..];
                if after.starts_with("(unreliable)") {
                    frame.reliable = false;
                } else if let Some(source) = source_line(after) {
                    frame.source = Some(source);
                } else if !marked && !after.starts_with('(') {
                    return None;
                }
            }
            [b'\t' | b'(', ..] if marked => {}
            _ => return None,
        }
    } else {
        let after = tail.strip_prefix(' ')?;
        if after.ends_with(" [inline]") {
            frame.source = Some(source_line(after)?);
            frame.inlined = true;
        } else if let Some(place) = after.strip_prefix("from ") {
            frame.caller = from(place)?;
        } else {
            // As `scripts/decode_stacktrace.sh` rewrites it: `f (net/ipv4/tcp.c:123) mod`.
            decoded(&mut frame, after.strip_prefix('(').filter(|_| marked)?)?;
        }
    }
    Some(frame)
}

/// Parses a line that gives the kernel's instruction pointer: `RIP: 0010:f+0x1/0x2`, `pc : f+…`,
/// `PC is at f+…`, `NIP [c…] f+…`, `epc : f+…`, `EIP is at f+…`, `Krnl PSW : … (f+…)`.
pub(crate) fn pointer(line: &str) -> Option<RawFrame<'_>> {
    let line = line.trim_ascii();
    let start = *line.as_bytes().first()?;
    let mut rest = match start {
        b'R' => line.strip_prefix("RIP")?,
        b'E' => line.strip_prefix("EIP").or_else(|| line.strip_prefix("ERA:"))?,
        b'N' => line.strip_prefix("NIP ")?,
        b'P' => line.strip_prefix("PC is at ").or_else(|| line.strip_prefix("PC:"))?,
        b'p' => line.strip_prefix("pc ")?,
        b'i' => line.strip_prefix("ip is at ")?,
        b'e' => line.strip_prefix("epc")?,
        b'K' => line.strip_prefix("Krnl PSW :")?,
        b'T' => line.strip_prefix("TPC: ")?,
        b'I' => line.strip_prefix("IAOQ[0]:")?,
        _ => return None,
    };
    if start != b'P' && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    // Whatever stands between: colons, the segment, addresses, brackets, `is at`.
    loop {
        rest = rest.trim_ascii_start();
        if let Some((frame, tail)) = symbol(rest)
            && (frame.offset.is_some() || frame.is_address())
        {
            let address = frame.is_address();
            // `0033:0x47fbe9` is user space; a kernel address is taken only where it stands alone.
            return (!address || tail.is_empty()).then_some(frame);
        }
        rest = match *rest.as_bytes().first()? {
            b':' | b'(' | b'<' => &rest[1..],
            b'[' => address(rest)?,
            b'i' => rest.strip_prefix("is at ")?,
            b'a' if rest.starts_with("at ") => &rest[3..],
            _ => {
                let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
                if !(4..=16).contains(&digits) {
                    return None;
                }
                let (word, after) = rest.split_at(digits);
                // x86's code segment: the two lowest bits are the privilege, 3 is user space.
                let user = word.ends_with(['3', '7', 'b', 'f']) && !word.starts_with('e');
                if digits == 4 && start != b'P' && after.starts_with(':') && user {
                    return None;
                }
                after
            }
        };
    }
}

/// Whether what stands after the name of `len` bytes is as in a trace; tells most other lines apart.
fn may_be(rest: &str, len: usize) -> bool {
    match &rest.as_bytes()[len..] {
        [b'+', b'0', b'x', ..] => true,
        [] | [b')', ..] => rest.starts_with("0x"),
        [b' ', after @ ..] => {
            after.first() == Some(&b'(') || after.starts_with(b"from ") || after.ends_with(b"]")
        }
        _ => false,
    }
}

/// Takes `[<c0123456>]`, `[c0123456]` off: what follows.
fn address(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let (inner, close) = match inner.strip_prefix('<') {
        Some(inner) => (inner, ">]"),
        None => (inner, "]"),
    };
    let inner = inner.strip_prefix("0x").unwrap_or(inner);
    let digits = inner.bytes().take(17).take_while(u8::is_ascii_hexdigit).count();
    if !(8..=16).contains(&digits) {
        return None;
    }
    inner[digits..].strip_prefix(close)
}

/// Which bytes may be part of a symbol's name.
static NAME: [bool; 256] = alphanumeric_or(b"_.$");

/// Whether a byte may be part of a symbol's name.
fn is_name(byte: u8) -> bool {
    NAME[usize::from(byte)]
}

/// Length of the symbol's name at the start.
fn name_len(text: &str) -> usize {
    text.bytes().position(|b| !is_name(b)).unwrap_or(text.len())
}

/// Takes `f+0x1/0x2 [module buildid]`, `f+0x1/0x2`, `f` or `0xc0123456` off.
pub(crate) fn symbol(text: &str) -> Option<(RawFrame<'_>, &str)> {
    symbol_of(text, name_len(text))
}

/// As `symbol`, where the name has `len` bytes. Functions of the first 64-bit PowerPC ABI begin
/// with a dot that is no part of it.
fn symbol_of(text: &str, len: usize) -> Option<(RawFrame<'_>, &str)> {
    let (name, mut rest) = text.split_at(len);
    let name = name.strip_prefix('.').unwrap_or(name);
    if let Some(digits) = name.strip_prefix("0x") {
        let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        return valid.then(|| (RawFrame::named(name), rest));
    }
    if name.bytes().next().is_none_or(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut frame = RawFrame::named(name);
    if let Some(after) = rest.strip_prefix("+0x") {
        let (offset, after) = hex(after)?;
        frame.offset = Some(offset);
        rest = after;
        if let Some((size, after)) = rest.strip_prefix("/0x").and_then(hex) {
            frame.size = Some(size);
            rest = after;
        }
        if let Some((module, after)) = rest.strip_prefix(" [").and_then(module) {
            frame.module = Some(module);
            rest = after;
        }
    }
    Some((frame, rest))
}

/// Takes `module]` or `module 0123abcd…]` (with its build id) off.
fn module(text: &str) -> Option<(&str, &str)> {
    let len = text.bytes().take_while(|b| is_name(*b) || *b == b'-').count();
    let (name, rest) = text.split_at(len);
    let build_id = rest.strip_prefix(' ').map(|id| id.trim_start_matches(is_hex));
    let after = build_id.filter(|after| after.len() + 1 < rest.len()).unwrap_or(rest);
    (len > 0).then_some((name, after.strip_prefix(']')?))
}

fn is_hex(c: char) -> bool {
    c.is_ascii_hexdigit()
}

/// Takes hexadecimal digits off.
pub(crate) fn hex(text: &str) -> Option<(u64, &str)> {
    let mut value: u64 = 0;
    let mut len = 0;
    for byte in text.bytes() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => break,
        };
        if len == 16 {
            return None;
        }
        value = value << 4 | u64::from(digit);
        len += 1;
    }
    (len > 0).then_some((value, &text[len..]))
}

/// The symbol of the caller after ARM's ` from `: `[<c0123456>] (g+0x1/0x2)` or `g+0x1/0x2`. The
/// outer `None`: it is no such thing; the inner: no symbol covers it.
fn from(text: &str) -> Option<Option<&str>> {
    let text = match address(text) {
        Some(after) => after.strip_prefix(" (")?,
        None => text,
    };
    let (frame, _) = symbol(text)?;
    (frame.is_address() || frame.offset.is_some()).then(|| (!frame.is_address()).then_some(text))
}

/// Takes `path/file.c:123` off the start.
fn source_line(text: &str) -> Option<(&str, u32)> {
    let (file, line) = text.split(' ').next()?.rsplit_once(':')?;
    let line = line.parse().ok()?;
    (file.contains(['.', '/']) && line > 0).then_some((file, line))
}

/// What stands after the opening parenthesis of `f (net/ipv4/tcp.c:123 (discriminator 2)) mod`.
/// With inlined functions there are several places, the function's own last.
fn decoded<'a>(frame: &mut RawFrame<'a>, text: &'a str) -> Option<()> {
    let (places, module) = text.rsplit_once(')')?;
    frame.source = Some(places.split(' ').filter_map(source_line).next_back()?);
    let module = module.trim_ascii();
    let module = module.strip_prefix('[').map_or(module, |inner| inner.trim_end_matches(']'));
    frame.module = (!module.is_empty() && module.bytes().all(is_name)).then_some(module);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame in one line of text.
    fn show(frame: Option<RawFrame<'_>>) -> String {
        let Some(frame) = frame else { return "-".to_owned() };
        let mut text = frame.function.to_owned();
        let mut add = |part: String| text += &part;
        frame.offset.iter().for_each(|offset| add(format!(" +{offset:x}")));
        frame.size.iter().for_each(|size| add(format!("/{size:x}")));
        frame.module.iter().for_each(|module| add(format!(" [{module}]")));
        frame.source.iter().for_each(|(file, line)| add(format!(" {file}:{line}")));
        if frame.inlined {
            add(" inlined".to_owned());
        }
        if !frame.reliable {
            add(" ?".to_owned());
        }
        if let Some((caller, _)) = frame.caller.and_then(symbol) {
            let (offset, size) = (caller.offset.unwrap(), caller.size.unwrap_or_default());
            add(format!(" < {} +{offset:x}/{size:x}", caller.function));
        }
        text
    }

    #[test]
    fn traces() {
        let cases = [
            // x86 since 4.9, arm64, and what the stack depot prints.
            (" kfault_list+0xbc/0x126 [kfault]", "kfault_list +bc/126 [kfault]"),
            (" ? do_filp_open+0xaf/0x160", "do_filp_open +af/160 ?"),
            (" tcp_ack.isra.0+0xbc/0x126", "tcp_ack.isra.0 +bc/126"),
            (" f+0x1/0x2 [ext4 0123456789abcdef0123456789abcdef01234567]", "f +1/2 [ext4]"),
            (" __kasan_check_read+0x11/0x20 (P)", "__kasan_check_read +11/20"),
            ("\t__slab_alloc+0x617/0x6c1", "__slab_alloc +617/6c1"),
            ("  kernel_thread_helper+0x4/0x10", "kernel_thread_helper +4/10"),
            ("do_one_initcall+0x47/0x230", "do_one_initcall +47/230"),
            (" 0xffffffffc03e4000", "0xffffffffc03e4000"),
            (" ? 0xffffffffc03e4000", "0xffffffffc03e4000 ?"),
            (" bpf_prog_6deef7357e7b4530_x+0x1d/0x1000", "bpf_prog_6deef7357e7b4530_x +1d/1000"),
            (" _RNvXs_4NtC_6kernel3fmt$x+0x1/0x2", "_RNvXs_4NtC_6kernel3fmt$x +1/2"),
            // With addresses: before 4.9, riscv, mips, s390, PowerPC.
            ("[<ffffffff81a2b3c4>] dump_stack+0x12/0x20", "dump_stack +12/20"),
            (" [<ffffffff81a2b3c4>] ? dump_stack+0x12/0x20 [m]", "dump_stack +12/20 [m] ?"),
            ("  [<c047ceeb>] trace_hardirqs_on+0x10e/0x13f", "trace_hardirqs_on +10e/13f"),
            (" <IRQ>  [<ffffffff81656735>] dump_stack+0x19/0x1b", "dump_stack +19/1b"),
            (" <<EOE>> <IRQ>  [<ffffffff81584ca7>] ip_local+0x47/0x80", "ip_local +47/80"),
            ("Call Trace: [<c0107c3b>] show_stack+0x1/0x2", "show_stack +1/2"),
            ("[<ffffffe000202cf0>] walk_stackframe+0x0/0x2c6", "walk_stackframe +0/2c6"),
            ("([<000003ff8086d036>] init+0x36/0x1000 [oops])", "init +36/1000 [oops] ?"),
            ("([<00000000027f8000>] 0x27f8000)", "0x27f8000 ?"),
            (" [<00000000005db6f4>] sysc_tracego+0x14/0x1a ", "sysc_tracego +14/1a"),
            (
                "[c000000010f930b0] [c000000008068df8] .eeh_dev+0x278/0x390 (unreliable)",
                "eeh_dev +278/390 ?",
            ),
            ("[c000000010f93d40] [c00000000810b1f0] .SyS_x+0xb0/0x100", "SyS_x +b0/100"),
            ("[<c0014318>] 0xc0014318", "0xc0014318"),
            // ARM: the function called, and from where.
            (
                "[<c0014990>] (unwind+0x0/0xf4) from [<c005ccb8>] (lock+0x14f8/0x1b98 [m])",
                "unwind +0/f4 < lock +14f8/1b98",
            ),
            ("[<c00144b0>] (kthread) from [<c0010428>] (ret+0x14/0x2c)", "kthread < ret +14/2c"),
            ("[<c00144b0>] (idle+0x64/0xfc) from [<80208160>] (0x80208160)", "idle +64/fc"),
            (" unwind_backtrace from show_stack+0x10/0x14", "unwind_backtrace < show_stack +10/14"),
            // Symbolised.
            (" tcp_ack+0x1/0x2 net/ipv4/tcp_input.c:30", "tcp_ack +1/2 net/ipv4/tcp_input.c:30"),
            (" tcp_ack net/ipv4/tcp.c:30 [inline]", "tcp_ack net/ipv4/tcp.c:30 inlined"),
            (" ? tcp_ack net/ipv4/tcp.c:30 [inline]", "tcp_ack net/ipv4/tcp.c:30 inlined ?"),
            ("[<ffffffff81a2b3c4>] f net/a.c:3 [inline]", "f net/a.c:3 inlined"),
            (" f (lib/dump_stack.c:107 (discriminator 4))", "f lib/dump_stack.c:107"),
            (" ? f (a.h:5 (discriminator 1) b.c:107) ext4", "f [ext4] b.c:107 ?"),
            // Not frames.
            ("Call Trace:", "-"),
            (" <TASK>", "-"),
            (" </TASK>", "-"),
            (" <EOI>", "-"),
            ("", "-"),
            (" ", "-"),
            ("eth0: link up", "-"),
            ("0xfdc88c28 is mapped", "-"),
            (" 0xfdc88c28 is mapped", "-"),
            (" f (a.c:1) [", "f a.c:1"),
            (" ffff88013fc83778 ffffffff81656735", "-"),
            (" RSP <ffff8801243fb958>", "-"),
            (" r7:df912310 r6:df912140", "-"),
            ("a+0x10/0x20 is better than b", "-"),
            ("Allocated in f+0x4a/0x490 age=1688 cpu=1 pid=2004", "-"),
            (" #0:  (&m){+.+.}, at: [<c01a2230>] sysfs_write_file+0x28/0x140", "-"),
            ("       CPU0                    CPU1", "-"),
            ("  lock(s_active#13);", "-"),
            ("packets from eth0 (192.168.0.1)", "-"),
            (" x from y", "-"),
            (" see net/a.c:0 [inline]", "-"),
            (" f+0x", "-"),
            (" f+0x11111111111111111/0x2", "-"),
        ];
        for (line, expected) in cases {
            assert_eq!(show(trace(line)), expected, "{line:?}");
        }
    }

    #[test]
    fn pointers() {
        let cases = [
            ("RIP: 0010:tcp_ack+0x12/0x20 [tcp]", "tcp_ack +12/20 [tcp]"),
            ("RIP: e030:tcp_ack+0x12/0x20", "tcp_ack +12/20"),
            (
                "RIP: 0010:[<ffffffffa0525326>]  [<ffffffffa0525326>] wdev_priv.part.8+0x4/0x6 [wl]",
                "wdev_priv.part.8 +4/6 [wl]",
            ),
            ("RIP  [<ffffffffa0525326>] wdev_priv+0x4/0x6 [wl]", "wdev_priv +4/6 [wl]"),
            ("RIP: 0010:0xffffffffc0a01000", "0xffffffffc0a01000"),
            ("EIP: [<f8e40765>] wdev+0x3/0x5 [wl] SS:ESP 0068:f180dbf8", "wdev +3/5 [wl]"),
            ("EIP is at wdev_priv.part.8+0x3/0x5 [wl]", "wdev_priv.part.8 +3/5 [wl]"),
            ("EIP: iput+0x12/0x20", "iput +12/20"),
            ("pc : tcp_ack+0x12/0x20", "tcp_ack +12/20"),
            ("PC is at shmem_getpage_gfp+0x584/0x72c", "shmem_getpage_gfp +584/72c"),
            ("NIP [c000000008068dfc] .eeh_dev+0x27c/0x390", "eeh_dev +27c/390"),
            ("NIP [c000000008068dfc] [c000000000068dfc] eeh+0x27c/0x390", "eeh +27c/390"),
            ("epc : do_init+0x12/0x20 [m]", "do_init +12/20 [m]"),
            ("epc   : ffffffff8110a1b8 do_init+0x0/0x20", "do_init +0/20"),
            (
                "Krnl PSW : 0704f00180000000 000003ff8086d03a (init+0x3a/0x1000 [oops])",
                "init +3a/1000 [oops]",
            ),
            ("TPC: <do_init+0x1c/0x20>", "do_init +1c/20"),
            ("  ERA: 9000000000a8f9cc do_init+0x38/0xa0", "do_init +38/a0"),
            (" IAOQ[0]: do_init+0x38/0xa0", "do_init +38/a0"),
            ("RIP: 0033:0x47fbe9", "-"),
            ("RIP: 0023:0xf7f1c549", "-"),
            ("EIP: 0060:[<f8e40765>] EFLAGS: 00210246 CPU: 1", "-"),
            ("pc : [<c0333330>]    lr : [<c0333200>]    psr: 80070113", "-"),
            ("NIP: c000000008068dfc LR: c000000008068df8 CTR: 00000000015c6170", "-"),
            ("RIPE", "-"),
            ("epcot", "-"),
            ("RSP: 0018:ffff8801243fb958  EFLAGS: 00010246", "-"),
            ("", "-"),
        ];
        for (line, expected) in cases {
            assert_eq!(show(pointer(line)), expected, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_line(line in r"( |\? |\[<c0123456>\] |\(|RIP: |pc : |0010:|f|\+0x1|/0x2| \[|\]|a\.c:1|\)| from |0x|.){0,12}") {
            trace(&line);
            pointer(&line);
        }
    }
}
