//! `cargo xtask`: the repository's own commands, one file each.
//!
//! What a person runs before a commit (`fix`, `verify`), what a fresh machine and CI run (`test`), what makes the
//! committed components (`plugins`), and the long runs that are started by hand (`torture`, `sim`, `gaps`, `peers`). Every
//! command works from any folder of the repository and says what it does.
//!
//! Absent: anything a user of Quorate needs; that is the `quorate` binary.

mod debian;
mod fix;
mod limits;
mod peers;
mod plugins;
mod runs;
mod step;
mod test;
mod tidy;
mod tools;
mod verify;
mod zookeeper;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The repository's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sets up a fresh machine, then verifies: the one test command of the README.
    Test,
    /// Brings cargo-deny, the compilers of recipes, genuine ZooKeeper and its clients into `target/tools`.
    Tools,
    /// Checks everything and writes nothing outside the target directory.
    Verify(verify::Args),
    /// Formats, applies clippy's suggestions and rewrites the generated tables of the papers.
    Fix,
    /// Checks who imports whom, banned words, file heads, line lengths and the links of the papers.
    Tidy,
    /// Builds the committed recipe components from their sources, or checks them byte for byte.
    Plugins(plugins::Args),
    /// Kills real nodes under load and counts: nothing acknowledged may be lost, nothing applied twice.
    Torture(runs::Torture),
    /// Runs the seeded simulation of whole clusters.
    Sim(runs::Sim),
    /// Measures how long a cluster is away when its leader is killed or silent, how long a node takes to come back, what a
    /// million znodes weigh, and how even writes are while they are made and after.
    Gaps(runs::Gaps),
    /// Measures genuine ZooKeeper and ours with the same client, in alternated rounds, and prints the table.
    Peers(peers::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Test => test::run(),
        Command::Tools => test::tools(),
        Command::Verify(args) => verify::run(&args),
        Command::Fix => fix::run(),
        Command::Tidy => tidy::run(),
        Command::Plugins(args) => plugins::run(&args),
        Command::Torture(args) => runs::torture(&args),
        Command::Sim(args) => runs::sim(&args),
        Command::Gaps(args) => runs::gaps(&args),
        Command::Peers(args) => peers::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
