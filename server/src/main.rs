//! The binary: reads the command line, runs the verb, and ends with its exit code.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use quorate_server::cli::{self, Cli};

/// Commands are allocated by the network and freed by the state machine, on another thread: the C library's allocator
/// takes a fifth of a busy server's time for that, this one a third of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
