//! `cargo xtask verify`: every check, each named, timed and runnable alone; writes nothing outside the target directory.
//!
//! Quick checks come first, and the first failure ends the run (in CI all steps run, so that one run tells everything).
//! The end tells which suites ran with how many tests, and closes with `N passed, N failed`: tests plus the other steps.
//!
//! Absent: set-up (`test.rs`), repair (`fix.rs`).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    plugins,
    step::{self, cargo_command},
    tidy, tools,
};

/// One check.
type Step = fn(&mut Suites) -> Result<()>;

/// The steps in the order they run.
const STEPS: [(&str, Step); 8] = [
    ("fmt", |_| step::run(cargo_command(&["fmt", "--all", "--check"]))),
    ("tidy", |_| tidy::run()),
    ("deny", |_| deny()),
    ("clippy", |_| {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"];
        step::run(cargo_command(&clippy))
    }),
    ("plugins", |_| plugins::verify()),
    ("tests", tests),
    ("mutants", |_| {
        // The whole workspace is named, so that features, and with them what is built already, are those of `tests`.
        let features = "quorate-sim/mutants,quorate-recipe-sim/mutants";
        let mutants = ["test", "--locked", "--workspace", "--features", features, "--test", "mutants"];
        step::run(cargo_command(&mutants))
    }),
    ("docs", |_| {
        let mut doc = cargo_command(&["doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        step::run(doc)
    }),
];

/// Which steps to run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Only these, of: fmt, tidy, deny, clippy, plugins, tests, mutants, docs.
    steps: Vec<String>,
}

/// Tests of one suite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// What cargo said of each suite.
#[derive(Debug, Default, PartialEq, Eq)]
struct Suites {
    current: Option<String>,
    counts: BTreeMap<String, Count>,
}

impl Suites {
    /// Takes one line of `cargo test`.
    fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ") {
            // `unittests src/lib.rs (target/debug/deps/quorate_model-0123456789abcdef)`
            let (what, file) = rest.rsplit_once(" (").unwrap_or((rest, ""));
            let binary = file.trim_end_matches(')').rsplit('/').next().unwrap_or_default();
            let binary = binary.rsplit_once('-').map_or(binary, |(name, _)| name);
            self.current = Some(format!("{binary}: {}", what.trim_start_matches("unittests ")));
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.current = Some(format!("{name}: documentation"));
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let before = rest.split(word).next().filter(|before| before.len() < rest.len())?;
                before.trim().rsplit(' ').next()?.parse::<u64>().ok()
            };
            let count = self.counts.entry(self.current.clone().unwrap_or_else(|| "unnamed".into())).or_default();
            count.passed += number(" passed").unwrap_or(0);
            count.failed += number(" failed").unwrap_or(0);
            count.ignored += number(" ignored").unwrap_or(0);
        }
    }

    fn total(&self) -> Count {
        self.counts.values().fold(Count::default(), |sum, count| Count {
            passed: sum.passed + count.passed,
            failed: sum.failed + count.failed,
            ignored: sum.ignored + count.ignored,
        })
    }
}

/// Runs the steps, then tells what ran.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(unknown) = args.steps.iter().find(|step| !STEPS.iter().any(|(name, _)| name == step)) {
        bail!("no step `{unknown}`; there are: {}", STEPS.map(|(name, _)| name).join(", "));
    }
    let mut suites = Suites::default();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    let chosen = STEPS.iter().filter(|(name, _)| args.steps.is_empty() || args.steps.iter().any(|s| s == name));
    for (name, step) in chosen {
        if !failed.is_empty() && !step::in_ci() {
            println!("== {name}: not run");
            continue;
        }
        println!("== {name}");
        let start = Instant::now();
        match step(&mut suites) {
            Ok(()) => passed.push(*name),
            Err(why) => {
                println!("{why:#}");
                failed.push(*name);
            }
        }
        let verdict = if failed.last() == Some(name) { "FAILED" } else { "ok" };
        println!("== {name}: {verdict}, {:.1} s", start.elapsed().as_secs_f64());
    }
    report(&suites, &passed, &failed)
}

fn report(suites: &Suites, passed: &[&str], failed: &[&str]) -> Result<()> {
    if !suites.counts.is_empty() {
        println!("\nsuites:");
    }
    let (empty, full): (Vec<_>, Vec<_>) = suites.counts.iter().partition(|(_, count)| **count == Count::default());
    for (name, Count { passed, failed, ignored }) in full {
        println!("  {name}: {passed} passed, {failed} failed, {ignored} ignored");
    }
    if !empty.is_empty() {
        println!("  without tests: {}", empty.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "));
    }
    println!("steps passed: {}; failed: {}", listed(passed), listed(failed));
    let total = suites.total();
    // The step `tests` is counted by its tests, and by itself only where it failed without naming one.
    let good = passed.iter().filter(|name| **name != "tests").count() as u64;
    let bad = failed.iter().filter(|name| **name != "tests" || total.failed == 0).count() as u64;
    println!("{} passed, {} failed", total.passed + good, total.failed + bad);
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// All tests; their output passes through, and is counted.
fn tests(suites: &mut Suites) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = cargo_command(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    command.env("CARGO_TERM_COLOR", "never").stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start cargo")?;
    // The command holds the pipe's other end; without this the reader would wait for ever.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        suites.line(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`cargo test` failed: {status}");
    }
    if suites.total().passed == 0 {
        bail!("`cargo test` ran no test");
    }
    Ok(())
}

/// Licences, sources and duplicates, by `deny.toml`. Needs no network.
fn deny() -> Result<()> {
    let Some(deny) = tools::find_deny() else {
        bail!("cargo-deny is missing; `cargo xtask test` brings it");
    };
    let mut check = std::process::Command::new(deny);
    check.args(["--workspace", "--log-level", "error", "--locked", "check", "bans", "licenses", "sources"]);
    check.current_dir(step::root());
    step::run(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_named_and_counted() {
        let mut suites = Suites::default();
        let said = "   Compiling quorate-model v0.1.0\n     Running unittests src/lib.rs (target/debug/deps/quorate_model-00ff)\n\
                    running 2 tests\ntest a ... ok\n\
                    test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    \x20    Running tests/golden.rs (/tmp/t/debug/deps/golden-00ee)\n\
                    test result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out\n\
                    \x20  Doc-tests quorate_model\n\
                    test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        said.lines().for_each(|line| suites.line(line));
        let counts: Vec<_> =
            suites.counts.iter().map(|(name, c)| (name.as_str(), c.passed, c.failed, c.ignored)).collect();
        assert_eq!(
            counts,
            [
                ("golden: tests/golden.rs", 3, 4, 0),
                ("quorate_model: documentation", 0, 0, 0),
                ("quorate_model: src/lib.rs", 2, 0, 1)
            ]
        );
        assert_eq!(suites.total(), Count { passed: 5, failed: 4, ignored: 1 });
    }

    #[test]
    fn an_unknown_step_is_named() {
        let error = run(&Args { steps: vec!["test".into()] }).expect_err("no such step");
        assert_eq!(
            error.to_string(),
            "no step `test`; there are: fmt, tidy, deny, clippy, plugins, tests, mutants, docs"
        );
    }
}
