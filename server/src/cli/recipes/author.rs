//! The verbs of `recipe` for those who write recipes: a project, a component, what it is, and what it does under
//! simulation.
//!
//! They work on files and need no cluster. `build` and `test` run the cargo that is on the path, in the recipe's
//! folder;
//! `check`, `inspect` and `sim` use the host and the state machine that nodes have. Absent: installing (`recipe install`).

use std::{
    fs,
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use clap::Subcommand;
use quorate_plugin_host::{Admitted, Host};
use quorate_recipe_sim::{Card, Faults, Plan, Run, Scenario, Subject};
use serde_json::{Value, json};

use crate::cli::{
    Globals,
    exit::{Failure, Outcome},
};

/// What recipes are compiled for.
const TARGET: &str = "wasm32-unknown-unknown";

/// By this cargo is told the linker for it.
const LINKER: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";

/// A component above this is worth a look, in bytes: the standard recipes have half of it.
const LARGE_BYTES: usize = 256 * 1024;

/// Runs that making a failure small may take.
const SHRINK_RUNS: u32 = 1_000;

/// Seeds where nothing is said.
const SEEDS_DEFAULT: u64 = 100;

/// Verbs for authors of recipes.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Begin a recipe: a folder with one that builds and passes its tests.
    ///
    /// Example: quorate recipe new my-recipe
    New {
        /// Its name: lower-case letters, digits and -.
        name: String,
    },
    /// Compile a recipe and make its component, NAME.wasm in its folder.
    ///
    /// Example: quorate recipe build
    Build {
        /// The recipe's folder.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Check a component as a node would, and warn of what its author may not have meant.
    ///
    /// Example: quorate recipe check my-recipe.wasm
    Check {
        /// The component; of the recipe in this folder unless given.
        file: Option<PathBuf>,
    },
    /// Show what a component is, what it offers and what it wants.
    ///
    /// Example: quorate recipe inspect my-recipe.wasm
    Inspect {
        /// The component; of the recipe in this folder unless given.
        file: Option<PathBuf>,
    },
    /// Run a recipe's own tests, build it, and simulate a hundred seeds.
    ///
    /// Example: quorate recipe test
    Test {
        /// The recipe's folder.
        #[arg(default_value = ".")]
        folder: PathBuf,
    },
    /// Run a component in a simulated cluster, by seeds, and look for what must not be.
    ///
    /// The plan is sim.toml in the recipe's folder. A seed that fails is made small and printed with the flags that
    /// repeat it.
    ///
    /// Example: quorate recipe sim --seeds 10000
    Sim(SimArgs),
}

/// What is simulated.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArgs {
    /// The recipe's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// The component, if it is not the one in the folder.
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = SEEDS_DEFAULT)]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    first: u64,
    /// This seed alone, with its log in words.
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// With --seed: so many clients.
    #[arg(long, value_name = "N", requires = "seed", value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: Option<u32>,
    /// With --seed: so many calls are begun.
    #[arg(long, value_name = "N", requires = "seed", value_parser = clap::value_parser!(u32).range(..=10_000))]
    steps: Option<u32>,
    /// With --seed: these do not happen: leaders, connections, clients, pauses, cancels, nodes, lags, snapshots.
    #[arg(long, value_name = "FAULTS", requires = "seed", value_delimiter = ',')]
    without: Vec<String>,
}

/// Runs a verb.
///
/// Errors: Usage: a name, a folder or a file that is none; Failed: a tool fails, a component is refused, a seed fails.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    match verb {
        Verb::New { name } => new(globals, &name),
        Verb::Build { folder } => build(globals, &folder).map(drop),
        Verb::Check { file } => check(globals, &file.map_or_else(|| component_of(Path::new(".")), Ok)?),
        Verb::Inspect { file } => inspect(globals, &file.map_or_else(|| component_of(Path::new(".")), Ok)?),
        Verb::Test { folder } => test(globals, &folder),
        Verb::Sim(args) => sim(globals, &args),
    }
}

fn new(globals: &Globals, name: &str) -> Outcome {
    let files = quorate_recipe_build::scaffold(name).map_err(|why| Failure::usage(why.to_string()))?;
    let folder = Path::new(name);
    if folder.exists() {
        return Err(Failure::usage(format!("{name} is there already; choose another name, or remove it")));
    }
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, text)?;
    }
    globals.output().remark(&format!("next: cd {name} && quorate recipe test"));
    globals.output().show(&json!({"recipe": name, "folder": folder.display().to_string()}))
}

/// The package that a folder holds, by its Cargo.toml.
fn package_of(folder: &Path) -> Outcome<String> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::usage(format!(
            "{}: {error}; name the recipe's folder, or begin one with `quorate recipe new`",
            path.display()
        ))
    })?;
    let manifest: toml::Table =
        toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    name.map(str::to_owned).ok_or_else(|| Failure::usage(format!("{}: it names no package", path.display())))
}

/// Where the component of a folder's recipe is, or will be.
fn component_of(folder: &Path) -> Outcome<PathBuf> {
    // Those of this repository have a prefix that their components have not.
    let package = package_of(folder)?;
    let short = package.strip_prefix("quorate-recipe-").unwrap_or(&package);
    Ok(folder.join(format!("{short}.wasm")))
}

fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder);
    cargo
}

fn no_cargo(error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot start cargo: {error}; a recipe in Rust needs a Rust toolchain, https://rustup.rs"))
}

/// Where the compiler has its libraries; asked in the folder, which may name its toolchain.
fn libraries(folder: &Path, target: &[&str]) -> Option<PathBuf> {
    let mut rustc = Command::new("rustc");
    let asked = rustc.args(["--print", "target-libdir"]).args(target).current_dir(folder).output().ok()?;
    Some(PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim())).filter(|folder| folder.is_dir())
}

/// Names the system's linker where the compiler comes without its own, as Debian's does, and the user names none.
fn set_linker(build: &mut Command, folder: &Path) {
    let own = libraries(folder, &[]).and_then(|libraries| Some(libraries.parent()?.join("bin/rust-lld")));
    if std::env::var_os(LINKER).is_none() && !own.is_some_and(|linker| linker.exists()) {
        build.env(LINKER, "wasm-ld");
    }
}

fn build(globals: &Globals, folder: &Path) -> Outcome<PathBuf> {
    let component = component_of(folder)?;
    if libraries(folder, &["--target", TARGET]).is_none() {
        return Err(Failure::failed(format!(
            "the compiler cannot build for {TARGET}: get the target with `rustup target add {TARGET}`, or, with Debian's rustc, \
             `apt install libstd-rust-dev-wasm32 lld`"
        )));
    }
    let mut build = cargo(folder);
    set_linker(&mut build, folder);
    build.args(["build", "--release", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    let mut child = build.stdout(Stdio::piped()).spawn().map_err(|error| no_cargo(&error))?;
    let mut module = None;
    for line in child.stdout.take().into_iter().flat_map(|out| std::io::BufReader::new(out).lines()) {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        let files = message["filenames"].as_array().cloned().unwrap_or_default();
        let wasm = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm"));
        module = wasm.map(PathBuf::from).or(module);
    }
    if !child.wait()?.success() {
        return Err(Failure::failed("the recipe does not compile"));
    }
    let module = module.ok_or_else(|| {
        Failure::failed("cargo made no .wasm: the library wants `crate-type = [\"cdylib\", \"rlib\"]` in Cargo.toml")
    })?;
    let bytes =
        quorate_recipe_build::component(&fs::read(&module)?).map_err(|why| Failure::failed(format!("{why:#}")))?;
    fs::write(&component, &bytes)?;
    globals.output().show(&json!({
        "component": component.display().to_string(),
        "bytes": bytes.len(),
        "sha256": quorate_recipe_build::sha256(&bytes),
    }))?;
    Ok(component)
}

pub(super) fn read(file: &Path) -> Outcome<Vec<u8>> {
    fs::read(file).map_err(|error| {
        Failure::usage(format!("{}: {error}; name a component, or make it with `quorate recipe build`", file.display()))
    })
}

pub(super) fn admit(bytes: &[u8]) -> Outcome<Admitted> {
    let host = Host::new(Arc::new(|_, _, _| {})).map_err(|fault| Failure::failed(fault.to_string()))?;
    host.admit(bytes).map_err(|refused| Failure::failed(format!("a node would refuse it: {refused}")))
}

fn rights(rights: u8) -> String {
    let names = [(1, "read"), (2, "create"), (4, "write"), (8, "delete")];
    let named: Vec<&str> = names.iter().filter(|(bit, _)| rights & bit != 0).map(|(_, name)| *name).collect();
    named.join(" ")
}

fn inspect(globals: &Globals, file: &Path) -> Outcome {
    let bytes = read(file)?;
    let admitted = admit(&bytes)?;
    let descriptor = &admitted.descriptor;
    let methods: Vec<Value> = descriptor
        .methods
        .iter()
        .map(|method| {
            let kind = match (method.read_only, method.may_park) {
                (true, _) => "query",
                (_, true) => "call, waits",
                _ => "call",
            };
            json!({"method": method.name, "kind": kind, "about": method.doc})
        })
        .collect();
    let wants: Vec<Value> = descriptor
        .wants
        .iter()
        .map(|want| json!({"wants": format!("@{}", want.name), "rights": rights(want.rights), "about": want.doc}))
        .collect();
    let mut shown = json!({
        "name": descriptor.name,
        "version": descriptor.version,
        "bytes": bytes.len(),
        "sha256": quorate_recipe_build::sha256(&bytes),
        "in_the_log": admitted.plugin.to_string(),
        "state_version": descriptor.state_version,
        "migrates_from": descriptor.min_state_version,
        "hears_of_ended_sessions": descriptor.session_closed.map_or("none".into(), |which| format!("{which:?}").to_lowercase()),
    });
    let output = globals.output();
    if output.is_json() {
        shown["methods"] = methods.into();
        shown["wants"] = wants.into();
        return output.show(&shown);
    }
    output.show(&shown)?;
    for rows in [methods, wants] {
        if !rows.is_empty() {
            output.line("")?;
            output.show(&rows)?;
        }
    }
    Ok(())
}

fn check(globals: &Globals, file: &Path) -> Outcome {
    let bytes = read(file)?;
    let admitted = admit(&bytes)?;
    let mut warnings: Vec<String> = Vec::new();
    if bytes.len() > LARGE_BYTES {
        warnings.push(format!(
            "it is large: {} bytes, and every node keeps and compiles it; `opt-level = \"s\"` and `lto` help",
            bytes.len()
        ));
    }
    let floats = quorate_recipe_build::float_functions(&bytes).map_err(|why| Failure::failed(format!("{why:#}")))?;
    if floats > 0 {
        warnings.push(format!(
            "{floats} functions compute with floats: the same everywhere, but integers say what they round"
        ));
    }
    let descriptor = &admitted.descriptor;
    for want in &descriptor.wants {
        warnings.push(format!("it wants @{} ({}): {}", want.name, rights(want.rights), want.doc));
    }
    for method in descriptor.methods.iter().filter(|method| method.doc.is_empty()) {
        warnings.push(format!("method {} says nothing of itself", method.name));
    }
    for method in descriptor.methods.iter().filter(|method| method.read_only && method.may_park) {
        warnings.push(format!("method {} is read-only and cannot wait, but says that it may", method.name));
    }
    if descriptor.name != file.file_stem().unwrap_or_default().to_string_lossy() {
        warnings.push(format!("its file is {}, but it calls itself {}", file.display(), descriptor.name));
    }
    let output = globals.output();
    if output.is_json() {
        return output.show(&json!({"component": file.display().to_string(), "admitted": true, "warnings": warnings}));
    }
    output.line(&format!("{}: a node takes it", file.display()))?;
    warnings.iter().try_for_each(|warning| output.line(&format!("warning: {warning}")))
}

fn test(globals: &Globals, folder: &Path) -> Outcome {
    let package = package_of(folder)?;
    let mut tests = cargo(folder);
    tests.args(["test"]);
    if globals.output().is_json() {
        // What programs read is the verdict alone.
        tests.stdout(std::io::stderr());
    }
    let status = tests.status().map_err(|error| no_cargo(&error))?;
    if !status.success() {
        return Err(Failure::failed("the recipe's own tests fail"));
    }
    let component = build(globals, folder)?;
    if !folder.join("sim.toml").is_file() {
        globals
            .output()
            .remark("no sim.toml in the recipe's folder, so nothing is simulated; see docs/recipes/simulator.md");
        return Ok(());
    }
    sim(
        globals,
        &SimArgs {
            folder: folder.to_owned(),
            component: Some(component.clone()),
            seeds: SEEDS_DEFAULT,
            first: 1,
            seed: None,
            clients: None,
            steps: None,
            without: Vec::new(),
        },
    )?;
    globals.output().remark(&format!(
        "{package}: its tests pass, a node takes it, and {SEEDS_DEFAULT} simulated seeds hold; next: `quorate recipe sim \
         --seeds 10000`, then `quorate recipe install {}`",
        component.display()
    ));
    Ok(())
}

fn sim(globals: &Globals, args: &SimArgs) -> Outcome {
    let path = args.folder.join("sim.toml");
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::usage(format!("{}: {error}; it says what is simulated, see docs/recipes/simulator.md", path.display()))
    })?;
    let wrong = |error: quorate_recipe_sim::SimError| Failure::failed(error.to_string());
    let plan = Plan::parse(&text).map_err(wrong)?;
    let file = args.component.clone().map_or_else(|| component_of(&args.folder), Ok)?;
    let subject = Subject::new(&read(&file)?, plan).map_err(wrong)?;
    if let Some(seed) = args.seed {
        return one(globals, &subject, args, seed);
    }
    let since = Instant::now();
    let (mut calls, mut entries) = (0, 0);
    for seed in args.first..args.first.saturating_add(args.seeds) {
        let run = subject.run(subject.scenario(seed), false);
        (calls, entries) = (calls + run.calls, entries + run.entries);
        if run.violation.is_some() {
            globals.output().remark(&format!("seed {seed} fails; making it small ..."));
            let small = subject.shrink(subject.scenario(seed), SHRINK_RUNS);
            return failed(globals, &args.folder, small, &subject.run(small, true));
        }
    }
    let output = globals.output();
    let seconds = since.elapsed().as_secs_f64();
    if output.is_json() {
        let cost = costs(&subject.card());
        return output.show(&json!({"seeds": args.seeds, "calls": calls, "entries": entries, "cost": cost}));
    }
    output.line(&format!("{} seeds hold: {calls} calls, {entries} entries, {seconds:.1} s", args.seeds))?;
    output.line(subject.card().to_string().trim_end())
}

fn one(globals: &Globals, subject: &Subject, args: &SimArgs, seed: u64) -> Outcome {
    let mut scenario = subject.scenario(seed);
    scenario.clients = args.clients.unwrap_or(scenario.clients);
    scenario.steps = args.steps.unwrap_or(scenario.steps);
    for name in &args.without {
        let known = || Failure::usage(format!("no fault {name:?}; there are {}", Faults::NAMES.join(", ")));
        *scenario.faults.by_name(name).ok_or_else(known)? = false;
    }
    let run = subject.run(scenario, true);
    if run.violation.is_some() {
        return failed(globals, &args.folder, scenario, &run);
    }
    let output = globals.output();
    if output.is_json() {
        let cost = costs(&subject.card());
        return output.show(&json!({"digest": run.digest.to_string(), "log": run.trace, "cost": cost}));
    }
    run.trace.iter().try_for_each(|line| output.line(line))?;
    output.line(&format!("holds; digest {}", run.digest))?;
    output.line(subject.card().to_string().trim_end())
}

fn costs(card: &Card) -> Value {
    let row = |(export, cost): (&String, &quorate_recipe_sim::Cost)| {
        let pair = |(sum, most): (u64, u64)| json!({"mean": sum / cost.runs.max(1), "most": most});
        json!({
            "export": export,
            "runs": cost.runs,
            "fuel": pair(cost.fuel),
            "host_calls": pair(cost.host_calls),
            "micros": pair(cost.micros),
        })
    };
    card.0.iter().map(row).collect()
}

fn failed(globals: &Globals, folder: &Path, scenario: Scenario, run: &Run) -> Outcome {
    run.trace.iter().try_for_each(|line| globals.output().line(line))?;
    let what = run.violation.as_ref().map_or_else(String::new, ToString::to_string);
    Err(Failure::failed(format!("{what}; again: quorate recipe sim {} {scenario}", folder.display())))
}
