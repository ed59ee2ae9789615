//! The binary: reads the command line, runs the verb, and ends with its exit code.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use quorate_server::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(std::io::stderr(), "quorate: {failure}");
            failure.exit.into()
        }
    }
}
