//! Named contexts: which cluster the command line talks to when no endpoints are given.
//!
//! They live in `~/.config/quorate/contexts.toml` (or under `XDG_CONFIG_HOME`). The order of precedence: `--endpoints`,
//! then `--context`, then `QUORATE_ENDPOINTS`, then the context in use, then 127.0.0.1:2281. A context given by name that
//! does not exist is an error, never a silent default. Absent: credentials; they don't belong in this file.

use std::{collections::BTreeMap, env, fs, io, path::PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Globals,
    exit::{Exit, Failure, Outcome},
};

/// Where a cluster is looked for when nothing is said.
pub const DEFAULT_ENDPOINTS: &str = "127.0.0.1:2281";

/// What can be done with contexts.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Remember a cluster by name, and use it from now on if it is the first.
    ///
    /// Example: quorate context add staging db1:2281,db2:2281,db3:2281
    Add {
        /// A name of your choice.
        name: String,
        /// host:port, with commas; or a quorate:// address.
        endpoints: String,
    },
    /// List the contexts; the one in use is marked.
    ///
    /// Example: quorate context ls
    Ls,
    /// Use a context from now on.
    ///
    /// Example: quorate context use staging
    Use {
        /// Its name.
        name: String,
    },
    /// Forget a context.
    ///
    /// Example: quorate context rm staging
    Rm {
        /// Its name.
        name: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Context {
    endpoints: String,
}

/// Runs a verb.
///
/// Errors: NotFound for an unknown name; a file that cannot be read or written.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    let file = file()?;
    let mut all = Contexts::read(&file)?;
    match verb {
        Verb::Add { name, endpoints } => {
            if all.contexts.is_empty() {
                all.current = Some(name.clone());
            }
            all.contexts.insert(name, Context { endpoints });
        }
        Verb::Use { name } => {
            all.named(&name)?;
            all.current = Some(name);
        }
        Verb::Rm { name } => {
            all.named(&name)?;
            all.contexts.remove(&name);
            if all.current.as_ref() == Some(&name) {
                all.current = None;
            }
        }
        Verb::Ls => {
            let rows: Vec<_> = all
                .contexts
                .iter()
                .map(|(name, context)| {
                    json!({"name": name, "endpoints": context.endpoints, "current": all.current.as_ref() == Some(name)})
                })
                .collect();
            return globals.output().show(&rows);
        }
    }
    let text = toml::to_string(&all).map_err(|error| Failure::failed(error.to_string()))?;
    let write = || {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        // Renamed into place, so that a reader never sees half of it.
        let fresh = file.with_extension("toml.new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, &file)
    };
    write().map_err(|error: io::Error| Failure::failed(format!("{}: {error}", file.display())))
}

/// The endpoints to talk to, by the order of precedence.
///
/// Errors: an unknown context, an unreadable file.
pub fn endpoints(globals: &Globals) -> Outcome<String> {
    if let Some(endpoints) = &globals.endpoints {
        return Ok(endpoints.clone());
    }
    let named = |name: &str| Ok(Contexts::read(&file()?)?.named(name)?.endpoints.clone());
    if let Some(name) = &globals.context {
        return named(name);
    }
    if let Some(endpoints) = env::var("QUORATE_ENDPOINTS").ok().filter(|text| !text.is_empty()) {
        return Ok(endpoints);
    }
    let Ok(file) = file() else { return Ok(DEFAULT_ENDPOINTS.into()) };
    let all = Contexts::read(&file)?;
    match &all.current {
        Some(name) => Ok(all.named(name)?.endpoints.clone()),
        None => Ok(DEFAULT_ENDPOINTS.into()),
    }
}

impl Contexts {
    fn read(file: &PathBuf) -> Outcome<Self> {
        let wrong = |error: String| Failure::usage(format!("{}: {error}", file.display()));
        match fs::read_to_string(file) {
            Ok(text) => toml::from_str(&text).map_err(|error| wrong(error.message().replace('\n', ", "))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    fn named(&self, name: &str) -> Outcome<&Context> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there are none".into() } else { format!("known: {}", known.join(", ")) };
            Failure::new(Exit::NotFound, format!("no context {name:?}; {known}; add it with `quorate context add`"))
        })
    }
}

fn file() -> Outcome<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let base = base
        .ok_or_else(|| Failure::usage("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for contexts"))?;
    Ok(base.join("quorate/contexts.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_contexts_are_named_with_the_known_ones() {
        let all: Contexts =
            toml::from_str("current = \"a\"\n[contexts.a]\nendpoints = \"h:1\"\n").expect("well-formed");
        assert_eq!(all.named("a").expect("there").endpoints, "h:1");
        let failure = all.named("b").expect_err("not there");
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.text.contains("known: a"), "{failure}");
        let text = toml::to_string(&all).expect("serializable");
        assert_eq!(toml::from_str::<Contexts>(&text).expect("what was written"), all);
    }
}
