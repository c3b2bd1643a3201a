//! `kgate-ops`: command line of the in-guest measuring programs.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use kgate_ops::{Clock, MAX_BATCHES, Meter, Op, Samples, Shape};
use lexopt::{Arg, ValueExt};

const USAGE: &str = "\
usage: kgate-ops NAME [--batch N] [--batches M] [--warmup W] [--exact] [--dir DIR]
       kgate-ops --list

  --batch N    operations in a batch
  --batches M  batches measured, each giving one sample
  --warmup W   batches run first and thrown away
  --exact      count by the time stamp counter, which counts instructions under qemu -icount shift=0
  --dir DIR    where file operations work; a tmpfs by default

Samples go to the file descriptor named by KGATE_SAMPLES_FD (3 by default), one JSON object a line.
Exit codes: 0 measured, 1 a system call failed, 2 usage, 4 the kernel lacks the feature.
";

const FAILED: u8 = 1;
const USAGE_ERROR: u8 = 2;
const SKIPPED: u8 = 4;

enum Request {
    Help,
    List,
    /// What the operation `fork-exec` executes.
    Exit,
    Measure {
        op: &'static Op,
        shape: Shape,
        clock: Clock,
        dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    // Before anything is opened: a descriptor of our own must not be taken for the parent's.
    let fd = std::env::var("KGATE_SAMPLES_FD").ok().map_or(Ok(3), |fd| fd.parse());
    let samples = fd.as_ref().map(|fd| Samples::open(*fd));
    let (code, message) = match parse(lexopt::Parser::from_env()) {
        Ok(Request::Exit) => return ExitCode::SUCCESS,
        Ok(Request::Help) => print(USAGE),
        Ok(Request::List) => print(&list()),
        Ok(Request::Measure { op, shape, clock, dir }) => match samples {
            Ok(samples) => measure(op, Meter::new(shape, clock, dir), samples),
            Err(_) => (USAGE_ERROR, "KGATE_SAMPLES_FD is not a number".to_owned()),
        },
        Err(error) => (USAGE_ERROR, format!("{error}; see kgate-ops --help")),
    };
    if code != 0 {
        // Nobody is left to tell when standard error is gone too.
        let _ = writeln!(io::stderr(), "kgate-ops: {message}");
    }
    ExitCode::from(code)
}

fn parse(mut args: lexopt::Parser) -> Result<Request, lexopt::Error> {
    let mut name: Option<String> = None;
    let mut clock = Clock::Nanoseconds;
    let (mut batch, mut batches, mut warmup, mut dir) = (None, None, None, None);
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Request::Help),
            Arg::Long("list") => return Ok(Request::List),
            Arg::Long("exit") => return Ok(Request::Exit),
            Arg::Long("batch") => batch = Some(args.value()?.parse()?),
            Arg::Long("batches") => batches = Some(args.value()?.parse()?),
            Arg::Long("warmup") => warmup = Some(args.value()?.parse()?),
            Arg::Long("exact") => clock = Clock::Instructions,
            Arg::Long("dir") => dir = Some(PathBuf::from(args.value()?)),
            Arg::Value(value) if name.is_none() => name = Some(value.string()?),
            _ => return Err(arg.unexpected()),
        }
    }
    let name = name.ok_or("which operation?")?;
    let op = kgate_ops::find(&name).ok_or_else(|| unknown(&name))?;
    let shape = Shape {
        batch: within("--batch", batch, op.shape.batch, 1, op.max_batch)?,
        batches: within("--batches", batches, op.shape.batches, 1, MAX_BATCHES)?,
        warmup: within("--warmup", warmup, op.shape.warmup, 0, MAX_BATCHES)?,
    };
    Ok(Request::Measure { op, shape, clock, dir })
}

fn within(
    option: &str,
    value: Option<u32>,
    default: u32,
    min: u32,
    max: u32,
) -> Result<u32, String> {
    let value = value.unwrap_or(default);
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{option} {value} is not between {min} and {max}"))
    }
}

fn unknown(name: &str) -> String {
    match kgate_ops::nearest(name).as_slice() {
        [] => format!("no operation is called '{name}'; kgate-ops --list shows them all"),
        near => format!("no operation is called '{name}'; near it: {}", near.join(", ")),
    }
}

fn list() -> String {
    let mut text =
        format!("{:<17} {:>6} {:>8} {:>7}  {}\n", "name", "batch", "batches", "warmup", "summary");
    for Op { name, summary, shape, .. } in kgate_ops::ops() {
        let Shape { batch, batches, warmup } = shape;
        text += &format!("{name:<17} {batch:>6} {batches:>8} {warmup:>7}  {summary}\n");
    }
    text
}

fn print(text: &str) -> (u8, String) {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => (0, String::new()),
        Err(error) => (FAILED, format!("write to standard output: {error}")),
    }
}

fn measure(op: &Op, mut meter: Meter, mut samples: Samples) -> (u8, String) {
    let done = kgate_ops::pin_to_current_cpu().and_then(|()| meter.measure(op));
    if let Err(error) = done {
        // A feature that worked and then refused is broken, not missing.
        let missing = error.is_missing_feature() && meter.samples().is_empty();
        return if missing {
            (SKIPPED, format!("{} skipped: {error}", op.name))
        } else {
            (FAILED, format!("{}: {error}", op.name))
        };
    }
    for value in meter.samples() {
        if let Err(error) = samples.write(op.name, *value, meter.clock().unit()) {
            return (FAILED, format!("{}: write of samples: {error}", op.name));
        }
    }
    if samples.is_stdout() { (0, String::new()) } else { print(&line(op, &meter)) }
}

/// The line for people.
fn line(op: &Op, meter: &Meter) -> String {
    let mut sorted = meter.samples().to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| human(sorted[(sorted.len() - 1) * part / 2], meter.clock());
    let Shape { batch, batches, .. } = meter.shape();
    format!(
        "{}: median {} per operation (least {}, most {}; {batches} batches of {batch})\n",
        op.name,
        at(1),
        at(0),
        at(2),
    )
}

fn human(value: f64, clock: Clock) -> String {
    match clock {
        Clock::Instructions => format!("{value:.1} instructions"),
        Clock::Nanoseconds if value < 1e3 => format!("{value:.1} ns"),
        Clock::Nanoseconds if value < 1e6 => format!("{:.2} µs", value / 1e3),
        Clock::Nanoseconds => format!("{:.2} ms", value / 1e6),
    }
}
