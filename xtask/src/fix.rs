//! `cargo xtask fix`: writes what a machine can write, so that `verify` has only what a person must decide.

use anyhow::Result;

use crate::{limits, step};

/// Formats, applies clippy's own suggestions, and rewrites the generated part of `docs/limits.md`.
pub(crate) fn run() -> Result<()> {
    limits::write(&step::root())?;
    let clippy = ["clippy", "--fix", "--workspace", "--all-targets", "--allow-dirty", "--allow-staged"];
    step::run(step::cargo_command(&clippy))?;
    step::run(step::cargo_command(&["fmt", "--all"]))
}
