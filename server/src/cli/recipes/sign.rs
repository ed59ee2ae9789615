//! `recipe keygen` and `recipe sign`: who stands for a component.
//!
//! Absent: which keys a cluster trusts: its nodes' configuration says it (`recipes.trusted_keys`).

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde_json::json;

use super::author;
use crate::{
    cli::{
        Globals,
        exit::{Exit, Failure, Outcome},
    },
    signature::{self, Signature},
};

/// Keys and signatures.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make a key that signs components: the private one in a file, the public one is shown.
    ///
    /// Example: quorate recipe keygen team.key
    Keygen {
        /// The file.
        file: PathBuf,
    },
    /// Sign a component that a node would take; FILE.sig is written beside it, and `recipe install` sends it along.
    ///
    /// Example: quorate recipe sign my-recipe.wasm --key team.key
    Sign {
        /// The component.
        file: PathBuf,
        /// The private key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// Runs a verb.
///
/// Errors: Usage: no component, no key; Conflict: a key is there already; Failed: the disk's, a component that a node would
/// refuse.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Keygen { file } => {
            let (pem, public) = signature::generate().map_err(Failure::failed)?;
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
            let mut out = opened.map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Failure::new(
                    Exit::Conflict,
                    format!("{} is there already, and is not overwritten; name another file", file.display()),
                ),
                _ => Failure::failed(format!("{}: {error}", file.display())),
            })?;
            out.write_all(pem.as_bytes()).and_then(|()| out.sync_all())?;
            output.show(&json!({"private_key": file.display().to_string(), "public_key": public.to_string()}))?;
            output.remark(&format!(
                "Keep {} secret. A node that has the public key in recipes.trusted_keys takes only what the keys there have \
                 signed.",
                file.display()
            ));
            Ok(())
        }
        Verb::Sign { file, key } => {
            let admitted = author::admit(&author::read(&file)?)?;
            let named = |why: String| Failure::usage(format!("{}: {why}", key.display()));
            let pem = fs::read_to_string(&key).map_err(|error| named(error.to_string()))?;
            let made = signature::sign(&pem, &admitted).map_err(named)?;
            let beside = beside(&file);
            fs::write(&beside, made.to_text())
                .map_err(|error| Failure::failed(format!("{}: {error}", beside.display())))?;
            output.show(&json!({
                "signature": beside.display().to_string(),
                "name": admitted.descriptor.name,
                "version": admitted.descriptor.version,
                "public_key": made.key.to_string(),
            }))
        }
    }
}

/// Where the signature of a component is looked for.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// The signature that goes with a component, as it travels: the file that is named, else the one beside it; empty where
/// there is none.
///
/// Errors: Usage: a file that is none, or is not there though it is named.
pub(super) fn signature_of(component: &Path, named: Option<&Path>) -> Outcome<Vec<u8>> {
    let file = named.map_or_else(|| beside(component), Path::to_owned);
    let wrong = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    match fs::read_to_string(&file) {
        Ok(text) => Ok(Signature::from_text(&text).map_err(wrong)?.encode()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Vec::new()),
        Err(error) => Err(wrong(error.to_string())),
    }
}
