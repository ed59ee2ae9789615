//! `cargo xtask test`: the README's test command. Does all the set-up that a fresh machine needs, then verifies.
//!
//! Assumed: a Rust toolchain with rustfmt and clippy (rustup's default profile). CI runs this command and nothing else.

use anyhow::Result;

use crate::{plugins, tools, verify, zookeeper};

/// Sets up, then runs every step of `verify`.
pub(crate) fn run() -> Result<()> {
    tools()?;
    verify::run(&verify::Args::default())
}

/// Brings everything that the steps need and a fresh machine lacks.
pub(crate) fn tools() -> Result<()> {
    tools::install_deny()?;
    plugins::install()?;
    zookeeper::install()
}
