//! Makes a recipe component out of the core module that a compiler gives.
//!
//! A compiler for `wasm32-unknown-unknown` gives a core module whose imports and exports are named by the contract,
//! `plugins/wit/recipe.wit`. [`component`] wraps it, so that an author needs no tool of the component model: a Rust
//! module says by itself which world it was made for, any other is taken for one of `recipe`. Whatever the module lacks
//! or has beside the contract is refused with its name.
//!
//! Promises: equal bytes in, equal bytes out; what comes out is valid. Absent: compilers (`cargo xtask plugins` and
//! `quorate recipe build` run them), and what the host checks before it takes a component (`plugins/host`).

mod scaffold;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::{Resolve, WorldId};

pub use scaffold::scaffold;

/// The contract, for those who have only this crate.
pub const CONTRACT: &str = include_str!("../../wit/recipe.wit");

/// Greatest component that a cluster takes, in bytes.
pub const COMPONENT_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The prefix of the sections in which wit-bindgen leaves the world that a module was made for.
const WORLD_SECTION: &str = "component-type";

/// The contract, read, with its world `recipe`.
fn contract() -> Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("recipe.wit", CONTRACT).context("the contract does not parse")?;
    let world = resolve.select_world(&[package], Some("recipe"))?;
    Ok((resolve, world))
}

/// Makes a component of a core module.
///
/// # Errors
/// Where the bytes are no core module, where it imports what the contract does not give or lacks an export that the
/// contract asks for, and where the component would be larger than 4 MiB.
pub fn component(module: &[u8]) -> Result<Vec<u8>> {
    if wasmparser::Parser::is_component(module) {
        bail!("this is a component already; what is wanted is the core module that a compiler gave");
    }
    if !wasmparser::Parser::is_core_wasm(module) {
        bail!("this is no WebAssembly module");
    }
    let mut module = module.to_vec();
    if !names_its_world(&module)? {
        let (resolve, world) = contract()?;
        wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    let encoder = ComponentEncoder::default().validate(true).module(&module);
    let bytes = encoder.and_then(|mut encoder| encoder.encode()).map_err(|why| match missing_wasi(&why) {
        Some(import) => why.context(format!(
            "the module imports `{import}`: a recipe has no WASI; build it for wasm32-unknown-unknown"
        )),
        None => why.context("the module does not keep the contract plugins/wit/recipe.wit"),
    })?;
    if bytes.len() > COMPONENT_MAX_BYTES {
        bail!("component too large: {} bytes, limit {COMPONENT_MAX_BYTES}; build it for size", bytes.len());
    }
    Ok(bytes)
}

/// How many functions of a component, or of a module, compute with floats.
///
/// # Errors
/// Where the bytes are no WebAssembly.
pub fn float_functions(bytes: &[u8]) -> Result<usize> {
    let mut count = 0;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        if let wasmparser::Payload::CodeSectionEntry(body) = payload.context("this is no WebAssembly")? {
            let mut operators = body.get_operators_reader()?;
            while !operators.eof() {
                // Operators are named as in the text format: F64Add, I32TruncF64S.
                let name = format!("{:?}", operators.read()?);
                let name = name.split([' ', '(']).next().unwrap_or_default();
                if name.contains("F32") || name.contains("F64") {
                    count += 1;
                    break;
                }
            }
        }
    }
    Ok(count)
}

/// The SHA-256 of bytes, in hexadecimal: what a cluster knows a component by.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names_its_world(module: &[u8]) -> Result<bool> {
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        if let wasmparser::Payload::CustomSection(section) = payload.context("this is no WebAssembly module")?
            && section.name().starts_with(WORLD_SECTION)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The module of WASI that an error speaks of: the most frequent mistake, the wrong target.
fn missing_wasi(why: &anyhow::Error) -> Option<&'static str> {
    let told = format!("{why:#}");
    ["wasi_snapshot_preview1", "wasi:", "env"].into_iter().find(|name| told.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_refused() {
        assert_eq!(component(b"hello").expect_err("text").to_string(), "this is no WebAssembly module");
        let empty = b"\0asm\x01\0\0\0";
        let why = format!("{:#}", component(empty).expect_err("an empty module exports nothing"));
        assert!(why.contains("plugins/wit/recipe.wit"), "{why}");
        let already = b"\0asm\x0d\0\x01\0";
        assert!(component(already).expect_err("a component").to_string().contains("a component already"));
        let cut = b"\0asm\x01\0\0\0\x01\x7f";
        assert!(component(cut).is_err());
    }

    #[test]
    fn the_contract_parses() {
        let (resolve, world) = contract().expect("the contract");
        assert_eq!(resolve.worlds[world].name, "recipe");
    }

    #[test]
    fn digests_are_sha256() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
