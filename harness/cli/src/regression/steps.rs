//! The steps of a scenario as shell text that a person can carry out without kgate.

use std::fmt::Write as _;

use kgate_scenario::{Action, ExitExpectation, Expect, FileExpectation, Probe, Scenario, Step};

/// Shell text that does what the scenario does; what is expected stands in comments.
pub(crate) fn shell(scenario: &Scenario) -> String {
    let mut text = String::new();
    if !scenario.requires.modules.is_empty() {
        line(&mut text, &format!("modprobe -a {}", scenario.requires.modules.join(" ")));
    }
    for (at, step) in (1..).zip(&scenario.steps) {
        line(&mut text, &format!("# step {at}: {}", one_line(&step.name)));
        carried_out(step, &mut text);
        for expected in expectations(&step.expect) {
            line(&mut text, &format!("# expected: {}", one_line(&expected)));
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn carried_out(step: &Step, text: &mut String) {
    let env = step.env.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
    let env: String = env.collect();
    match &step.action {
        // Each step has a shell of its own.
        Action::Run { command } => line(text, &format!("(\n{env}{}\n)", command.trim_end())),
        Action::Background { command, ready } => {
            line(text, &format!("(\n{env}{}\n) &", command.trim_end()));
            let wait = match &ready.probe {
                None => return,
                Some(Probe::Tcp { host, port }) => {
                    format!("until nc -z {} {port}; do sleep 0.1; done", quoted(host))
                }
                Some(Probe::File(path)) => {
                    format!("until [ -e {} ]; do sleep 0.1; done", quoted(path))
                }
                Some(Probe::Output(pattern)) => {
                    format!("# go on when it has printed: {}", one_line(pattern.as_str()))
                }
            };
            line(text, &wait);
        }
        Action::Measure(measure) => line(
            text,
            &format!(
                "kgate-ops {} --batch {} --batches {} --warmup {}   # a static program of kgate's",
                quoted(&measure.op),
                measure.batch,
                measure.batches,
                measure.warmup
            ),
        ),
        Action::Write { path, text: content } => {
            line(text, &format!("printf '%s' {} > {}", quoted(content), quoted(path)));
        }
        Action::Sysctl { values } => {
            for (name, value) in values {
                line(text, &format!("sysctl -w {}", quoted(&format!("{name}={value}"))));
            }
        }
    }
}

fn expectations(expect: &Expect) -> Vec<String> {
    let mut told = Vec::new();
    match &expect.exit {
        ExitExpectation::Any => {}
        ExitExpectation::OneOf(right) if *right == [0] => {}
        ExitExpectation::OneOf(right) => {
            let right: Vec<String> = right.iter().map(ToString::to_string).collect();
            told.push(format!("exit status {}", right.join(" or ")));
        }
    }
    for (what, patterns) in [
        ("standard output matches", &expect.stdout),
        ("standard error matches", &expect.stderr),
        ("standard output does not match", &expect.not_stdout),
        ("the kernel logs", &expect.kernel_log),
    ] {
        told.extend(patterns.iter().map(|pattern| format!("{what} /{}/", pattern.as_str())));
    }
    for (path, file) in &expect.files {
        told.push(match file {
            FileExpectation::Exists => format!("{path} is there"),
            FileExpectation::Absent => format!("{path} is not there"),
            FileExpectation::Matches(pattern) => format!("{path} matches /{}/", pattern.as_str()),
        });
    }
    told.extend(expect.sysctls.iter().map(|(name, value)| format!("sysctl {name} is {value}")));
    told
}

/// What follows a line end would be carried out.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for part in text.split_whitespace() {
        let _ = write!(line, "{}{part}", if line.is_empty() { "" } else { " " });
    }
    line
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=+@%,-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
