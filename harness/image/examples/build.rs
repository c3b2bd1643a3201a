//! Builds the image of one recipe into a cache directory and prints its manifest:
//! `cargo run -p kgate-image --example build -- images/edge.yaml CACHE`.
#![expect(clippy::print_stdout, reason = "an example is a program")]

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use kgate_image::{Builder, Recipe};
use kgate_model::host::{Host, HostCommand, HostOutput};

struct Plain;

impl Host for Plain {
    fn run(&self, command: &HostCommand) -> io::Result<HostOutput> {
        let mut process = Command::new(&command.program);
        process.args(&command.args).envs(command.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &command.dir {
            process.current_dir(dir);
        }
        let output = process.output()?;
        Ok(HostOutput { code: output.status.code(), stdout: output.stdout, stderr: output.stderr })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(recipe), Some(cache)) = (args.next(), args.next()) else {
        return Err("usage: build RECIPE CACHE".into());
    };
    let start = Instant::now();
    let image =
        Builder::new(Path::new(&cache), &Plain).build(&Recipe::read(Path::new(&recipe))?)?;
    for package in &image.manifest.packages {
        println!("{} {} {}", package.name, package.version, package.architecture);
    }
    println!("{} bytes, {:.1} s", image.manifest.bytes, start.elapsed().as_secs_f64());
    println!("{}", image.path.display());
    Ok(())
}
