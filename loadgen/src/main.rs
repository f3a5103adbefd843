//! `loadgen`: exit status 0 fine, 1 a run that failed or had errors it was to fail on, 2 usage.

use std::process::ExitCode;

use clap::Parser;
use loadgen::options::{Cli, Command};
use loadgen::{run, selftest, sink, verify};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match &Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::SelfTest(args) => selftest::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Sink(args) => sink::run(args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}
