//! `recipe`: components and instances, as operators see them.
//!
//! A component is named by the hash of its bytes in the log, or by as many of its first digits as tell it from the others.
//! Absent: making components, which is their authors' affair.

use std::{fs, io::Read as _, path::PathBuf, time::Duration};

use clap::Subcommand;
use quorate_client::admin::{Admin, Instance, MIGRATING, Migration, Plugin};
use quorate_model::{PluginId, limits::PLUGIN_MAX_BYTES};
use serde_json::{Value, json};

use super::sign;
use crate::{
    cli::{
        Globals, context,
        exit::{Exit, Failure, Outcome},
        output::Output,
    },
    standard::STANDARD,
};

/// How long to wait where nothing is said: every voter compiles a component before it is activated.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);

/// How often it is said how far a migration is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Digits of a hash that people are shown.
const SHORT: usize = 12;

/// Recipes.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the instances, or the installed components.
    ///
    /// Example: quorate recipe list --components
    List {
        /// The components, used or not.
        #[arg(long)]
        components: bool,
    },
    /// Show an instance with its component's methods.
    ///
    /// Example: quorate recipe describe lock
    Describe {
        /// Name of the instance.
        instance: String,
    },
    /// Install a component: it is checked, and its bytes enter the log. Repeating it is harmless.
    ///
    /// Example: quorate recipe install ./my-recipe.wasm
    Install {
        /// The component.
        #[arg(required_unless_present = "standard", conflicts_with = "standard")]
        file: Option<PathBuf>,
        /// The standard recipe of this name, as this version of Quorate brings it along.
        #[arg(long, value_name = "NAME")]
        standard: Option<String>,
        /// Its signature; FILE.sig beside it, if there is one, unless said.
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
    },
    /// Make an instance of an installed component, or move the instance to it, upwards or downwards.
    ///
    /// Without --component it is the component of the instance's name that the instance does not have yet.
    ///
    /// Example: quorate recipe activate my-recipe
    Activate {
        /// Name of the instance.
        instance: String,
        /// Hash of the component, or its beginning.
        #[arg(long, value_name = "HASH")]
        component: Option<String>,
        /// Configuration of a new instance; - reads standard input.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Move an instance back to the component that it had before.
    ///
    /// Example: quorate recipe rollback my-recipe
    Rollback {
        /// Name of the instance.
        instance: String,
    },
    /// Refuse calls of an instance; what is held stays held.
    ///
    /// Example: quorate recipe suspend my-recipe
    Suspend {
        /// Name of the instance.
        instance: String,
    },
    /// Take calls of an instance again, after `suspend` or after it failed too often.
    ///
    /// Example: quorate recipe resume my-recipe
    Resume {
        /// Name of the instance.
        instance: String,
    },
    /// Take the component from an instance: its calls fail, its znodes stay.
    ///
    /// Example: quorate recipe deactivate my-recipe
    Deactivate {
        /// Name of the instance.
        instance: String,
    },
    /// Forget a component that no instance has or can roll back to.
    ///
    /// Example: quorate recipe uninstall 3f2a9c
    Uninstall {
        /// Its hash, or the beginning of it.
        component: String,
    },
    /// Further instances of a recipe.
    #[command(subcommand)]
    Instance(InstanceVerb),
}

/// Further instances of a recipe.
#[derive(Clone, Debug, Subcommand)]
pub enum InstanceVerb {
    /// Make an instance of the component that another instance has.
    ///
    /// Example: quorate recipe instance create team-locks --of lock
    Create {
        /// Its name.
        instance: String,
        /// The other one.
        #[arg(long, value_name = "INSTANCE")]
        of: String,
        /// Its configuration; - reads standard input.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Remove an instance with its znodes, and with all that is held or waited for in it.
    ///
    /// Example: quorate recipe instance rm team-locks
    Rm {
        /// Its name.
        instance: String,
    },
    /// Show an instance with its component's methods.
    ///
    /// Example: quorate recipe instance describe team-locks
    Describe {
        /// Its name.
        instance: String,
    },
}

/// Runs a verb.
///
/// Errors: Usage: no component, or one that is refused, with the reason; NotFound; Conflict.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    let timeout = globals.timeout.unwrap_or(TIMEOUT_DEFAULT);
    let admin = Admin::new(&context::endpoints(globals)?)?.timeout(timeout);
    match verb {
        Verb::List { components } => {
            let listed = admin.list_recipes(None).await?;
            let short = |hash: &str| if output.is_json() { hash.to_owned() } else { shortened(hash).to_owned() };
            let rows: Vec<Value> = if components {
                listed.plugins.iter().map(|plugin| component(plugin, &short)).collect()
            } else {
                let of = |instance: &Instance| listed.plugins.iter().find(|plugin| plugin.id == instance.plugin);
                listed.instances.iter().map(|one| line(one, of(one), &short)).collect()
            };
            output.show(&rows)?;
            let others: Vec<&str> =
                listed.instances.iter().filter(|one| !one.shipped.is_empty()).map(|one| one.name.as_str()).collect();
            if let [first, ..] = others[..] {
                output.remark(&format!(
                    "the node brings other components along for {}; nothing is changed by itself: `quorate recipe install \
                     --standard {first}`, then `quorate recipe activate {first}`",
                    others.join(", ")
                ));
            }
            Ok(())
        }
        Verb::Describe { instance } | Verb::Instance(InstanceVerb::Describe { instance }) => {
            let listed = admin.list_recipes(Some(&instance)).await?;
            let found = listed.instances.iter().find(|found| found.name == instance);
            let found = found.ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("no recipe instance {instance:?}; see `quorate recipe list`"))
            })?;
            let plugin = listed.plugins.iter().find(|plugin| plugin.id == found.plugin);
            if output.is_json() {
                let mut described = shown(found);
                described["component"] = plugin.map(|plugin| component(plugin, &str::to_owned)).unwrap_or_default();
                described["methods"] = plugin.map(methods).unwrap_or_default().into();
                return output.show(&described);
            }
            output.show(&shown(found))?;
            let rows = plugin.map(methods).unwrap_or_default();
            if !rows.is_empty() {
                output.line("")?;
            }
            output.show(&rows)
        }
        Verb::Install { file, standard, signature } => {
            let file = file.unwrap_or_else(|| PathBuf::from(standard.clone().unwrap_or_default()));
            let bytes = match &standard {
                Some(name) => shipped(name)?,
                None => read(&file)?,
            };
            if bytes.len() > PLUGIN_MAX_BYTES {
                return Err(Failure::usage(format!(
                    "{}: too large: {} bytes, limit {PLUGIN_MAX_BYTES}",
                    file.display(),
                    bytes.len()
                )));
            }
            let signature = match (&standard, &signature) {
                (Some(_), None) => Vec::new(),
                _ => sign::signature_of(&file, signature.as_deref())?,
            };
            let plugin = admin.install_signed(bytes, signature).await?;
            output.show(&component(&plugin, &str::to_owned))?;
            output.remark(&format!("installed; make an instance of it: quorate recipe activate {}", plugin.name));
            Ok(())
        }
        Verb::Activate { instance, component, config } => {
            let config = config.as_ref().map(read).transpose()?.unwrap_or_default();
            let listed = admin.list_recipes(None).await?;
            let current = listed.instances.iter().find(|found| found.name == instance).map(|found| &found.plugin);
            let plugin = match component {
                Some(prefix) => by_prefix(&listed.plugins, &prefix)?,
                None => by_name(&listed.plugins, &instance, current.map(String::as_str))?,
            };
            let begun = admin.activate(&instance, plugin, config).await?;
            output.show(&shown(&settled(&admin, output, begun).await?))
        }
        Verb::Rollback { instance } => {
            let begun = admin.rollback(&instance).await?;
            output.show(&shown(&settled(&admin, output, begun).await?))
        }
        Verb::Suspend { instance } => output.show(&shown(&admin.suspend(&instance).await?)),
        Verb::Resume { instance } => output.show(&shown(&admin.resume(&instance).await?)),
        Verb::Deactivate { instance } => output.show(&shown(&admin.deactivate(&instance).await?)),
        Verb::Uninstall { component: prefix } => {
            let plugin = by_prefix(&admin.list_recipes(None).await?.plugins, &prefix)?;
            output.show(&component(&admin.uninstall(plugin).await?, &str::to_owned))
        }
        Verb::Instance(InstanceVerb::Create { instance, of, config }) => {
            let config = config.as_ref().map(read).transpose()?.unwrap_or_default();
            output.show(&shown(&admin.create_instance(&instance, &of, config).await?))
        }
        Verb::Instance(InstanceVerb::Rm { instance }) => output.show(&shown(&admin.remove_instance(&instance).await?)),
    }
}

/// Waits for the end of a migration, and says how far it is.
///
/// Errors: why it failed; the instance has what it had then.
async fn settled(admin: &Admin, output: Output, begun: Instance) -> Outcome<Instance> {
    if begun.status != MIGRATING {
        return Ok(begun);
    }
    output.remark(&format!("{}: its state is being brought over; calls wait, queries go on", begun.name));
    let mut shown = tokio::time::Instant::now();
    let ended = admin.migrated(&begun.name, |migration| {
        if shown.elapsed() >= PROGRESS_EVERY {
            shown = tokio::time::Instant::now();
            let Migration { steps, restarts, .. } = migration;
            output.remark(&format!("{}: {steps} steps, begun anew {restarts} times", begun.name));
        }
    });
    ended.await.map_err(|error| {
        let Failure { exit, text } = Failure::from(error);
        Failure::new(exit, format!("{text}; `quorate recipe describe {}` shows how it is now", begun.name))
    })
}

fn read(file: &PathBuf) -> Outcome<Vec<u8>> {
    let named = |error: std::io::Error| Failure::failed(format!("{}: {error}", file.display()));
    if file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(named)?;
        return Ok(bytes);
    }
    fs::read(file).map_err(named)
}

/// A standard recipe of this build.
///
/// Errors: Usage: there is none of this name.
fn shipped(name: &str) -> Outcome<Vec<u8>> {
    let found = STANDARD.iter().find(|(known, _)| *known == name);
    found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| {
        let names: Vec<&str> = STANDARD.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!("no standard recipe {name:?}; there are {}", names.join(", ")))
    })
}

/// The component whose hash begins so.
///
/// Errors: Usage: no hash, or the beginning of several; NotFound.
fn by_prefix(plugins: &[Plugin], prefix: &str) -> Outcome<PluginId> {
    if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::usage(format!("{prefix:?} is no hash; `quorate recipe list --components` shows them")));
    }
    let prefix = prefix.to_ascii_lowercase();
    let found: Vec<&Plugin> = plugins.iter().filter(|plugin| plugin.id.starts_with(&prefix)).collect();
    match found[..] {
        [one] => hash(one),
        [] => Err(Failure::new(Exit::NotFound, format!("no component {prefix} is installed"))),
        _ => Err(Failure::usage(format!("{prefix} is the beginning of {} hashes; give more of it", found.len()))),
    }
}

/// The component of this name that an instance can move to.
///
/// Errors: NotFound: there is none; Usage: there are several.
fn by_name(plugins: &[Plugin], name: &str, current: Option<&str>) -> Outcome<PluginId> {
    let named: Vec<&Plugin> = plugins.iter().filter(|plugin| plugin.name == name).collect();
    let fresh: Vec<&Plugin> = named.iter().copied().filter(|plugin| Some(plugin.id.as_str()) != current).collect();
    match (&fresh[..], &named[..]) {
        // To what it has: harmless, and says how the instance is.
        ([], [one]) | ([one], _) => hash(one),
        ([], _) => Err(Failure::new(
            Exit::NotFound,
            format!("no component of the name {name} is installed; install it, or name one with --component"),
        )),
        (several, _) => {
            let several: Vec<String> =
                several.iter().map(|one| format!("{} (version {})", shortened(&one.id), one.version)).collect();
            Err(Failure::usage(format!("several components have this name: {}; say --component", several.join(", "))))
        }
    }
}

fn hash(plugin: &Plugin) -> Outcome<PluginId> {
    PluginId::parse(&plugin.id).ok_or_else(|| Failure::failed(format!("the server named no hash: {:?}", plugin.id)))
}

fn shortened(hash: &str) -> &str {
    hash.get(..SHORT).unwrap_or(hash)
}

fn component(plugin: &Plugin, hash: &dyn Fn(&str) -> String) -> Value {
    json!({
        "component": hash(&plugin.id),
        "name": plugin.name,
        "version": plugin.version,
        "state_version": plugin.state_version,
        "bytes": plugin.bytes,
        "author_hash": hash(&plugin.author_hash),
    })
}

fn line(instance: &Instance, plugin: Option<&Plugin>, hash: &dyn Fn(&str) -> String) -> Value {
    json!({
        "instance": instance.name,
        "recipe": plugin.map(|plugin| &plugin.name),
        "version": plugin.map(|plugin| &plugin.version),
        "status": instance.status,
        "parked": instance.parked,
        "timers": instance.timers,
        "component": hash(&instance.plugin),
    })
}

fn shown(instance: &Instance) -> Value {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    json!({
        "instance": instance.name,
        "root": instance.root,
        "status": instance.status,
        "component": some(&instance.plugin),
        "previous": some(&instance.previous),
        "state_version": instance.state_version,
        "parked": instance.parked,
        "timers": instance.timers,
        "pending": instance.pending,
        "faults": instance.faults,
        "last_fault": some(&instance.last_fault),
        "shipped": some(&instance.shipped),
        "migration": instance.migration.as_ref().map(|migration| {
            let state = if migration.failure == 0 { "under way" } else { migration.detail.as_str() };
            format!("to {}, {} steps: {state}", shortened(&migration.to), migration.steps)
        }),
    })
}

fn methods(plugin: &Plugin) -> Vec<Value> {
    let kind = |read_only, may_park| match (read_only, may_park) {
        (true, _) => "query",
        (_, true) => "call, waits",
        _ => "call",
    };
    let methods = plugin.methods.iter();
    methods
        .map(|method| {
            json!({"method": method.name, "kind": kind(method.read_only, method.may_park), "about": method.doc})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(id: &str, name: &str, version: &str) -> Plugin {
        let id = format!("{id:0<64}");
        Plugin { id, name: name.into(), version: version.into(), ..Plugin::default() }
    }

    #[test]
    fn components_are_found_by_what_is_enough_of_their_hash() {
        let plugins = [plugin("ab1", "a", "1"), plugin("ab2", "a", "2"), plugin("c", "b", "1")];
        assert_eq!(by_prefix(&plugins, "AB1").expect("one").to_string(), plugins[0].id);
        assert_eq!(by_prefix(&plugins, "ab").expect_err("two").exit, Exit::Usage);
        assert_eq!(by_prefix(&plugins, "d").expect_err("none").exit, Exit::NotFound);
        assert_eq!(by_prefix(&plugins, "xyz").expect_err("no hash").exit, Exit::Usage);
    }

    #[test]
    fn an_instance_moves_to_the_component_of_its_name_that_it_has_not() {
        let plugins = [plugin("a1", "a", "1"), plugin("a2", "a", "2"), plugin("b", "b", "1"), plugin("a3", "a", "3")];
        let failure = by_name(&plugins, "a", None).expect_err("three");
        assert!(failure.text.contains("a20000000000 (version 2)"), "{failure}");
        assert_eq!(by_name(&plugins[..2], "a", Some(&plugins[0].id)).expect("one").to_string(), plugins[1].id);
        assert_eq!(by_name(&plugins, "b", Some(&plugins[2].id)).expect("itself").to_string(), plugins[2].id);
        assert_eq!(by_name(&plugins, "z", None).expect_err("none").exit, Exit::NotFound);
    }
}
