//! `config`: configuration files, looked at without starting anything.
//!
//! `from-zoo` writes to standard output what a ZooKeeper server's `zoo.cfg` means here, as TOML, and says on standard error
//! what became of every line that has no setting. Absent: showing a node's own settings (`serve --check-config`).

use std::{fs, path::PathBuf};

use clap::Subcommand;
use serde_json::json;
use toml::{Table, Value};

use super::{
    Globals,
    exit::{Failure, Outcome},
};
use crate::{
    config::Layers,
    zoo_cfg::{self, Reading},
};

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// What a ZooKeeper server's configuration means here, as TOML.
    ///
    /// Example: quorate config from-zoo /etc/zookeeper/conf/zoo.cfg > quorate.toml
    FromZoo {
        /// ZooKeeper's configuration file; the files that it names (`myid`, the dynamic part) are read too.
        file: PathBuf,
    },
}

/// Runs a verb.
///
/// Errors: Usage for a file that cannot be read or taken over.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    let Verb::FromZoo { file } = verb;
    let reading = read_zoo(&file)?;
    // Each value is checked as `serve` will check it; contradictions between them are for `serve --check-config`.
    let layers = Layers { zoo: reading.settings.clone(), ..Layers::default() };
    let settings = layers.settings()?;
    let mut table = Table::new();
    for (name, ..) in &reading.settings {
        let (section, key) = name.split_once('.').expect("every key of the table has a section");
        let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().expect("made as a table").insert(key.into(), settings[name].value.clone());
    }
    let output = globals.output();
    if output.is_json() {
        let mapped: Vec<_> = reading
            .settings
            .iter()
            .map(|(key, _, origin)| json!({"key": key, "value": settings[key].value, "origin": origin}))
            .collect();
        return output.show(&json!({"settings": mapped, "notes": reading.notes}));
    }
    for note in &reading.notes {
        output.remark(note);
    }
    let text = toml::to_string(&table).map_err(|error| Failure::failed(format!("no TOML: {error}")))?;
    output.line(text.trim_end())?;
    if let Err(error) = layers.load() {
        output.remark(&format!("Not ready to serve yet: {error}."));
    }
    Ok(())
}

/// Reads a `zoo.cfg` and what it names.
///
/// Errors: Usage, with the file and what to do.
pub fn read_zoo(file: &PathBuf) -> Outcome<Reading> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{name} cannot be read: {error}; give the path of a zoo.cfg")))?;
    zoo_cfg::read(&name, &text, &|path| fs::read_to_string(path)).map_err(|error| Failure::usage(error.to_string()))
}
