//! Named contexts: which cluster the command line talks to when no endpoints are given.
//!
//! They live in `~/.config/quorate/contexts.toml` (or under `XDG_CONFIG_HOME`). The order of precedence: `--endpoints`,
//! then `--context`, then `QUORATE_ENDPOINTS`, then the context in use, then 127.0.0.1:2281. A context given by name that
//! does not exist is an error, never a silent default. What TLS needs is part of the endpoints
//! (`quorates://h1,h2?ca=FILE&cert=FILE&key=FILE`); the flags `--tls-...` go before it, the variables `QUORATE_TLS_...`
//! fill what it leaves out. Absent: credentials; they don't belong in this file.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{self, PathBuf},
};

use clap::Subcommand;
use quorate_client::{Tls, hosts::Target};
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
    /// With --tls-ca, --tls-cert and --tls-key their files are remembered too.
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
            let endpoints = with_tls(&endpoints, &flags(globals)?);
            Target::parse(&endpoints)?;
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

/// What [`endpoints`] says, taken apart.
///
/// Errors: as there; Usage for endpoints that are none.
pub fn target(globals: &Globals) -> Outcome<Target> {
    Ok(Target::parse(&endpoints(globals)?)?)
}

/// The endpoints to talk to, by the order of precedence, with what flags and variables say of TLS.
///
/// Errors: an unknown context, an unreadable file.
pub fn endpoints(globals: &Globals) -> Outcome<String> {
    let endpoints = bare(globals)?;
    let said = Target::parse(&endpoints)?;
    let variables = TLS_PARAMETERS.iter().filter_map(|parameter| {
        let value =
            env::var(format!("QUORATE_TLS_{}", parameter.to_uppercase())).ok().filter(|text| !text.is_empty())?;
        Some((*parameter, value))
    });
    // A variable is for whoever says nothing of TLS himself.
    let variables = if said.tls.is_some_and(|tls| tls != Tls::new()) { Vec::new() } else { variables.collect() };
    Ok(with_tls(&with_tls(&endpoints, &variables), &flags(globals)?))
}

/// Names in connection strings, and ends of variables and flags.
const TLS_PARAMETERS: [&str; 4] = ["ca", "cert", "key", "server_name"];

/// What the flags say of TLS; files with their whole path, as a context outlives the working directory.
fn flags(globals: &Globals) -> Outcome<Vec<(&'static str, String)>> {
    let mut said = Vec::new();
    let files = [("ca", &globals.tls_ca), ("cert", &globals.tls_cert), ("key", &globals.tls_key)];
    for (parameter, file) in files {
        if let Some(file) = file {
            said.push((parameter, path::absolute(file)?.display().to_string()));
        }
    }
    said.extend(globals.tls_server_name.iter().map(|name| ("server_name", name.clone())));
    match said.iter().find(|(_, value)| value.contains(['&', '?'])) {
        Some((parameter, value)) => Err(Failure::usage(format!(
            "--tls-{} is {value}: a connection string cannot hold & or ?; rename it",
            parameter.replace('_', "-")
        ))),
        None => Ok(said),
    }
}

/// The endpoints with further parameters; of two the later one counts.
fn with_tls(endpoints: &str, said: &[(&str, String)]) -> String {
    said.iter().fold(endpoints.to_owned(), |endpoints, (parameter, value)| {
        let mark = if endpoints.contains('?') { '&' } else { '?' };
        format!("{endpoints}{mark}{parameter}={value}")
    })
}

fn bare(globals: &Globals) -> Outcome<String> {
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
    fn flags_of_tls_become_part_of_the_endpoints() {
        use clap::Parser;
        let globals = |flags: &[&str]| {
            let line = [&["quorate", "version", "--endpoints", "quorates://h:1/n?ca=/a"], flags].concat();
            super::super::Cli::try_parse_from(line).expect("well-formed").globals
        };
        assert_eq!(endpoints(&globals(&[])).expect("good"), "quorates://h:1/n?ca=/a");
        let said = target(&globals(&["--tls-ca", "/b", "--tls-cert", "/c", "--tls-key", "/k"])).expect("good");
        assert_eq!(said.tls, Some(Tls::new().ca_file("/b").cert_file("/c").key_file("/k")));
        assert_eq!(said.namespace, "/n");
        assert_eq!(endpoints(&globals(&["--tls-ca", "/a&b"])).expect_err("cannot be written").exit, Exit::Usage);
    }

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
