//! Links of the papers: every relative link leads somewhere, and every function that a paper names is where it says.
//!
//! In the papers of [`EXACT`] a cell that names a `file.rs` and then `names` in code marks promises that the file has
//! them: `Type::function`, `function`, or a type. Absent: links to the network; they are for readers to judge.

use std::path::Path;

/// Papers whose tables name functions and tests.
const EXACT: [&str; 2] = ["ARCHITECTURE.md", "docs/guarantees.md"];

/// What is wrong with one paper. `read` gives a file of the repository by its path, `None` where there is none.
pub(super) fn check(file: &str, text: &str, read: &dyn Fn(&str) -> Option<String>, out: &mut Vec<String>) {
    let folder = Path::new(file).parent().and_then(Path::to_str).unwrap_or_default();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let mut complain = |what: String| out.push(format!("{file}:{}: {what}", number + 1));
        for target in targets(line) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if read(&join(folder, target)).is_none() {
                complain(format!("the link `{target}` leads nowhere"));
            }
        }
        if EXACT.contains(&file) {
            // A file's names stand in its own cell of a table.
            line.split('|').for_each(|cell| named(cell, read, &mut complain));
        }
    }
}

/// Papers that comments of one source file cite and that are nowhere: not beside it, not at the top, not in `docs/`.
pub(super) fn check_cited(file: &str, text: &str, files: &[String], out: &mut Vec<String>) {
    let folder = Path::new(file).parent().and_then(Path::to_str).unwrap_or_default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//")) {
        let part = |c: char| c.is_alphanumeric() || "-_./".contains(c);
        for word in line.split(|c| !part(c)).map(|word| word.trim_end_matches('.')) {
            let places = [join(folder, word), word.trim_start_matches("./").to_owned(), format!("docs/{word}")];
            if word.ends_with(".md") && !places.iter().any(|place| files.contains(place)) {
                out.push(format!(
                    "{file}:{}: there is no paper `{word}`: give the reason itself, or a paper of docs/",
                    number + 1
                ));
            }
        }
    }
}

/// Checks the code marks of one cell, or of a line that is no table's.
fn named(line: &str, read: &dyn Fn(&str) -> Option<String>, complain: &mut dyn FnMut(String)) {
    let mut current: Option<(&str, String)> = None;
    for mark in line.split('`').skip(1).step_by(2) {
        if mark.ends_with(".rs") && mark.contains('/') {
            current = match read(mark) {
                Some(text) => Some((mark, text)),
                None => {
                    complain(format!("there is no file `{mark}`"));
                    None
                }
            };
        } else if let Some((file, text)) = &current
            && mark.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':')
        {
            let last = mark.rsplit("::").next().unwrap_or(mark);
            let kinds = ["fn", "struct", "enum", "trait", "mod", "const"];
            let there = |word: &str| kinds.iter().any(|kind| defines(text, kind, word));
            let parent = mark.split("::").next().unwrap_or(mark);
            if !there(last) || !(text.contains(parent)) {
                complain(format!("`{file}` has no `{mark}`"));
            }
        }
    }
}

fn defines(text: &str, kind: &str, word: &str) -> bool {
    let start = format!("{kind} {word}");
    text.match_indices(&start).any(|(at, _)| {
        !text[at + start.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
            && !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

/// The targets of a line's links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(move |(at, _)| {
        let rest = &line[at + 2..];
        Some(&rest[..rest.find(')')?])
    })
}

/// A link's target as a path from the root.
fn join(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(file: &str, text: &str) -> Vec<String> {
        let files =
            [("a/b.rs", "impl Client {\n    pub async fn create() {}\n}\nstruct Stop;"), ("docs/limits.md", "")];
        let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        let mut out = Vec::new();
        check(file, text, &read, &mut out);
        out
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        let text =
            "[a](limits.md#x) [b](../a/b.rs) [c](https://example.org) [d](#here)\n```\n[e](none)\n```\n[f](gone.md)";
        assert_eq!(complaints("docs/x.md", text), ["docs/x.md:5: the link `gone.md` leads nowhere"]);
    }

    #[test]
    fn functions_that_moved_are_named() {
        let text = "| 1 | `a/b.rs` `Client::create` `Stop` | `Absent` |\n| 2 | `a/b.rs` `Client::creat` |\n| 3 | `a/c.rs` |\n`word`";
        assert_eq!(
            complaints("ARCHITECTURE.md", text),
            ["ARCHITECTURE.md:2: `a/b.rs` has no `Client::creat`", "ARCHITECTURE.md:3: there is no file `a/c.rs`"]
        );
        assert!(complaints("README.md", "| `a/b.rs` `Client::creat` |").is_empty(), "only exact papers");
    }

    #[test]
    fn a_cited_paper_is_there() {
        let files: Vec<String> = ["docs/rules.md", "README.md", "a/b/README.md"].map(String::from).into();
        let mut out = Vec::new();
        let text = "//! rules.md 3, docs/rules.md, README.md.\nlet x = \"none.md\";\n    /// See gone.md section 2.\n";
        check_cited("a/b/c.rs", text, &files, &mut out);
        assert_eq!(out, ["a/b/c.rs:3: there is no paper `gone.md`: give the reason itself, or a paper of docs/"]);
    }
}
