//! `cargo xtask tidy`: the house's rules, checked: imports, banned words, file heads, `unwrap`, line length, links.
//!
//! The rules are tables (`tidy/rules.rs`), the source is read by a small lexer (`tidy/source.rs`), the papers by
//! `tidy/links.rs`. Every complaint names file, line and what to do instead. Files are those that git knows or would
//! know. The checker is itself tested, at the foot of each file, with sources held in memory.

mod links;
mod rules;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};
use rules::{BANS, CRATES, EXCEPTIONS, GENERATED, LEAVES, ROOMS};
use serde_json::Value;

use crate::{limits, step};

/// Columns that a comment may have. The house writes 120 and rustfmt holds code to it; here a word may stick out.
const COMMENT_COLUMNS: usize = 124;

/// Checks the repository.
pub(crate) fn run() -> Result<()> {
    let root = step::root();
    let mut complaints = Vec::new();
    let mut used = BTreeSet::new();
    let files = files(&root)?;
    for file in &files {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        if GENERATED.contains(&file.as_str()) {
            continue;
        }
        if file.ends_with(".rs") {
            complaints.extend(check_source(file, &text, &mut used));
            links::check_cited(file, &text, &files, &mut complaints);
        } else if file.ends_with(".md") {
            let read = |path: &str| {
                let path = root.join(path);
                if path.is_dir() { Some(String::new()) } else { std::fs::read_to_string(path).ok() }
            };
            links::check(file, &text, &read, &mut complaints);
        }
    }
    for (at, exception) in EXCEPTIONS.iter().enumerate() {
        if !used.contains(&at) && files.iter().any(|file| file == exception.file) {
            let rules::Exception { file, name, why } = exception;
            complaints.push(format!("xtask/src/tidy/rules.rs: no code needs `{name}` in {file} any more ({why})"));
        }
    }
    let mut metadata = step::cargo_command(&["metadata", "--format-version", "1", "--locked"]);
    let metadata = metadata.output().context("cannot start cargo metadata")?;
    if !metadata.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&metadata.stderr).trim());
    }
    complaints.extend(check_crates(&serde_json::from_slice(&metadata.stdout)?));
    complaints.extend(limits::check(&root).unwrap_or_else(|why| Some(format!("{why:#}"))));
    for complaint in &complaints {
        println!("{complaint}");
    }
    match complaints.len() {
        0 => {
            println!("{} files are tidy", files.len());
            Ok(())
        }
        count => bail!("{count} complaints"),
    }
}

/// Every file that git tracks or would track.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = git.output().context("cannot start git")?;
    if !listed.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr).trim());
    }
    Ok(String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect())
}

/// What is wrong with one Rust file. `used` collects the exceptions it needed.
fn check_source(file: &str, text: &str, used: &mut BTreeSet<usize>) -> Vec<String> {
    let mut out = Vec::new();
    let mut complain = |line: usize, what: String| out.push(format!("{file}:{line}: {what}"));
    if !text.starts_with("//!") {
        complain(1, "the file has no head: open it with `//!` what it is, what it promises, what is absent".into());
    }
    for (at, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COMMENT_COLUMNS && line.trim_start().starts_with("//") {
            complain(at + 1, format!("a comment of {columns} columns: the house writes 120"));
        }
        if line.contains(concat!("FIX", "ME")) || line.contains(concat!("TO", "DO:")) {
            complain(at + 1, "unfinished work: finish it, or open an issue and write its number".into());
        }
    }
    let all = source::strip(text);
    let code = source::without_tests(&all);
    let is_test = file.contains("/tests/")
        || file.ends_with("_test.rs")
        || file.ends_with("/tests.rs")
        || file.contains("/benches/");
    let code = if is_test { String::new() } else { code };
    for (at, line) in code.lines().enumerate() {
        if line.contains(".unwrap()") {
            complain(
                at + 1,
                "`unwrap` outside tests: use `expect(\"why it cannot fail\")`, or return the error".into(),
            );
        }
    }
    let mut excused = |name: &str| {
        let at = EXCEPTIONS.iter().position(|e| e.file == file && within(name, e.name));
        at.inspect(|at| {
            used.insert(*at);
        })
        .is_some()
    };
    let (all_paths, paths) = (source::paths(&all), source::paths(&code));
    let applies = |ban: &&rules::Ban| {
        ban.below.iter().any(|below| file.starts_with(below)) && !ban.but.iter().any(|but| file.starts_with(but))
    };
    for ban in BANS.iter().filter(applies) {
        let (code, paths) = if ban.tests { (&all, &all_paths) } else { (&code, &paths) };
        let found = if ban.name.contains("::") {
            paths.iter().find(|(_, path)| within(path, ban.name)).map(|(line, _)| *line)
        } else {
            code.lines().position(|line| has_word(line, ban.name)).map(|at| at + 1)
        };
        if let Some(line) = found.filter(|_| !excused(ban.name)) {
            complain(line, format!("`{}` is banned here: {}", ban.name, ban.instead));
        }
    }
    check_room(file, &code, &paths, &mut excused, &mut complain);
    out
}

/// The server's own table of imports.
fn check_room(
    file: &str,
    code: &str,
    paths: &[(usize, String)],
    excused: &mut dyn FnMut(&str) -> bool,
    complain: &mut dyn FnMut(usize, String),
) {
    if !file.starts_with("server/src/") || code.trim().is_empty() {
        return;
    }
    let Some(room) = ROOMS.iter().filter(|room| file.starts_with(room.place)).max_by_key(|room| room.place.len())
    else {
        complain(1, "this file falls under no row of xtask/src/tidy/rules.rs: add one".into());
        return;
    };
    // At the top, and in a folder's `mod.rs`, `super` is another room too.
    let inside = &file["server/src/".len()..];
    let own = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let at_top = !inside.contains('/') || inside.ends_with("/mod.rs");
    for (line, path) in paths {
        if within(path, "super::super") {
            complain(*line, format!("`{path}`: say `crate::`, so that imports between rooms can be seen"));
        }
        let Some(path) = path.strip_prefix("crate::").or(path.strip_prefix("super::").filter(|_| at_top)) else {
            continue;
        };
        let may = |name: &&str| **name == *"*" || within(path, name);
        let allowed = within(path, own) || room.may.iter().chain(LEAVES).any(&may);
        if !allowed && !excused(path) {
            complain(
                *line,
                format!("{} may not import `crate::{path}`: see ARCHITECTURE.md, who may import whom", room.place),
            );
        }
    }
    for name in room.never {
        if let Some(at) = code.lines().position(|line| has_word(line, name))
            && !excused(name)
        {
            complain(at + 1, format!("{} may not name `{name}`: see ARCHITECTURE.md, who may import whom", room.place));
        }
    }
}

/// Whether a path is `beginning` or something in it.
fn within(path: &str, beginning: &str) -> bool {
    path.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

/// What is wrong with the crates' dependencies, from `cargo metadata`.
fn check_crates(metadata: &Value) -> Vec<String> {
    let empty = Vec::new();
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap_or(&empty).iter().filter_map(Value::as_str).collect();
    let names: BTreeMap<&str, &str> =
        packages.iter().filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?))).collect();
    let ours: BTreeSet<&str> = members.iter().filter_map(|id| names.get(id).copied()).collect();
    let mut edges: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let normal =
            |dep: &&Value| dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k["kind"].is_null()));
        let to = node["deps"].as_array().unwrap_or(&empty).iter().filter(normal).filter_map(|dep| dep["pkg"].as_str());
        edges.insert(node["id"].as_str().unwrap_or_default().to_owned(), to.map(str::to_owned).collect());
    }
    let mut out = Vec::new();
    for id in members {
        let Some(&name) = names.get(id) else { continue };
        let Some(row) = CRATES.iter().find(|row| row.name == name) else {
            out.push(format!("{name}: this crate has no row in xtask/src/tidy/rules.rs: add one"));
            continue;
        };
        let direct = edges.get(id).into_iter().flatten().filter_map(|to| names.get(to.as_str()));
        for &to in direct {
            let allowed = if ours.contains(to) {
                row.rooms.contains(&to)
            } else {
                row.foreign.is_none_or(|only| only.contains(&to))
            };
            if !allowed {
                out.push(format!("{name} may not depend on {to}: see ARCHITECTURE.md, who may import whom"));
            }
        }
        let (mut reached, mut queue) = (BTreeSet::new(), vec![id.to_owned()]);
        while let Some(next) = queue.pop() {
            queue.extend(edges.get(&next).into_iter().flatten().filter(|to| reached.insert((*to).clone())).cloned());
        }
        let reached: BTreeSet<&str> = reached.iter().filter_map(|id| names.get(id.as_str()).copied()).collect();
        for never in row.never.iter().filter(|never| reached.contains(*never)) {
            out.push(format!("{name} must not reach {never}, not even through others"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(file: &str, text: &str) -> Vec<String> {
        check_source(file, text, &mut BTreeSet::new())
    }

    #[test]
    fn a_file_without_head_and_with_long_comments_is_told() {
        let text = format!("use a::b;\n// {}\n// {}\n", "ä".repeat(121), "ä".repeat(122));
        let got = complaints("core/model/src/x.rs", &text);
        assert_eq!(got.len(), 2, "{got:?}");
        assert!(got[0].starts_with("core/model/src/x.rs:1: the file has no head"), "{got:?}");
        assert_eq!(got[1], "core/model/src/x.rs:3: a comment of 125 columns: the house writes 120");
    }

    #[test]
    fn unwrap_is_for_tests_only() {
        let text =
            "//! Head.\nfn f() {\n    a.unwrap(); // b.unwrap()\n}\n#[cfg(test)]\nmod tests {\n    c.unwrap();\n}\n";
        let got = complaints("core/model/src/x.rs", text);
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(got[0].starts_with("core/model/src/x.rs:3: `unwrap`"), "{got:?}");
        assert!(complaints("core/model/tests/x.rs", text).is_empty());
    }

    #[test]
    fn openraft_is_named_in_one_room_only() {
        let text = "//! Head. openraft in words is fine.\nuse openraft::Raft;\n";
        let got = complaints("server/src/read.rs", text);
        assert!(got.iter().any(|c| c.starts_with("server/src/read.rs:2: `openraft` is banned here")), "{got:?}");
        assert!(complaints("server/src/raft/mod.rs", text).is_empty());
    }

    #[test]
    fn the_state_machine_knows_no_clock_and_no_hash_order() {
        let text = "//! Head.\nuse std::{collections::{BTreeMap, HashMap}, time::SystemTime};\nfn f(x: f64) {}\n";
        let got = complaints("core/tree/src/x.rs", text);
        for name in ["std::collections::HashMap", "std::time::SystemTime", "f64"] {
            assert!(got.iter().any(|c| c.contains(&format!("`{name}` is banned"))), "{name}: {got:?}");
        }
        assert!(complaints("core/client/src/x.rs", text).is_empty());
    }

    #[test]
    fn rooms_import_by_the_table() {
        let text = "//! Head.\nuse super::registry::Registry;\nuse crate::{error::Trouble, propose::Proposer, raft::Deliver};\n\
                    fn f(x: crate::raft::Handle, y: crate::protocol::native::N) {}\n";
        let got = complaints("server/src/session/x.rs", text);
        assert_eq!(got.len(), 2, "{got:?}");
        assert!(got[0].contains("4: server/src/session/ may not import `crate::raft::Handle`"), "{got:?}");
        assert!(got[1].contains("may not import `crate::protocol::native::N`"), "{got:?}");
        assert!(complaints("server/src/node.rs", text).is_empty());
        let hidden =
            complaints("server/src/session/mod.rs", "//! Head.\nuse super::raft::Handle;\nuse super::super::a;\n");
        assert_eq!(hidden.len(), 3, "{hidden:?}");
        assert!(complaints("server/src/strange.rs", "//! Head.\nuse a::b;\n")[0].contains("falls under no row"));
    }

    #[test]
    fn crates_depend_by_the_table() {
        let package = |name: &str| serde_json::json!({"id": name, "name": name});
        let dep = |name: &str, kind: Value| serde_json::json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let names = ["quorate-model", "quorate-tree", "quorate-new", "bytes", "tokio", "proptest"];
        let metadata = serde_json::json!({
            "packages": names.map(package),
            "workspace_members": ["quorate-model", "quorate-tree", "quorate-new"],
            "resolve": {"nodes": [
                {"id": "quorate-model", "deps": [dep("bytes", Value::Null), dep("quorate-tree", Value::Null)]},
                {"id": "quorate-tree", "deps": [dep("bytes", Value::Null), dep("proptest", "dev".into())]},
                {"id": "bytes", "deps": [dep("tokio", Value::Null)]},
                {"id": "proptest", "deps": []},
            ]},
        });
        assert_eq!(
            check_crates(&metadata),
            [
                "quorate-model may not depend on quorate-tree: see ARCHITECTURE.md, who may import whom",
                "quorate-model must not reach tokio, not even through others",
                "quorate-new: this crate has no row in xtask/src/tidy/rules.rs: add one",
                "quorate-tree must not reach tokio, not even through others",
            ]
        );
    }
}
