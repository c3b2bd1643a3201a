//! Repository checks and chores: `cargo xtask NAME`.

use std::path::Path;
use std::process::ExitCode;

mod picture;
mod schema;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask tidy       checks the architecture invariants and the house rules
       cargo xtask schema SCHEMA FILE...    checks YAML files by a JSON Schema
       cargo xtask picture    makes an SVG of what a terminal shows, from standard input
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Cargo sets it to this crate's directory, one below the root.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::main(&root),
        ["schema", schema, ref files @ ..] if !files.is_empty() => schema::main(schema, files),
        ["picture"] => match std::io::read_to_string(std::io::stdin()) {
            Ok(text) => {
                print(&picture::svg(&text));
                ExitCode::SUCCESS
            }
            Err(_) => ExitCode::from(2),
        },
        ["help" | "--help" | "-h"] => {
            print(USAGE);
            ExitCode::SUCCESS
        }
        _ => {
            print(USAGE);
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stdout, reason = "a developer's tool")]
fn print(text: &str) {
    print!("{text}");
}
