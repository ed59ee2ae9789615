//! Rust source as tidy sees it: code without comments, text and tests, and the paths it names.
//!
//! A small lexer instead of a parser: it needs no dependency, and rustfmt has made the layout regular. It promises to
//! keep line numbers. Absent: macros' expansions; what a macro writes is not seen.

/// Source with comments and the insides of text blanked; same lines, same columns.
pub(super) fn strip(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => until(&chars, at, |i| chars[i] == '\n'),
            ('/', Some('*')) => block(&chars, at),
            ('"', _) => text(&chars, at + 1),
            ('r' | 'b' | 'c', _) if at == 0 || !is_word(chars[at - 1]) => raw(&chars, at),
            ('\'', Some('\\')) => until(&chars, at + 3, |i| chars[i] == '\'') + 1,
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        }
        while at < end.min(chars.len()) {
            out.push(if chars[at] == '\n' { '\n' } else { ' ' });
            at += 1;
        }
    }
    out
}

fn until(chars: &[char], from: usize, found: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|&i| found(i)).unwrap_or(chars.len())
}

/// The end of a block comment; they nest.
fn block(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The end of text whose first character is at `from`.
fn text(chars: &[char], mut from: usize) -> usize {
    while from < chars.len() && chars[from] != '"' {
        from += if chars[from] == '\\' { 2 } else { 1 };
    }
    from + 1
}

/// The end of raw or byte text that may begin at `from`; `from` where none does.
fn raw(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() && at < from + 2 && matches!(chars[at], 'r' | 'b' | 'c') {
        at += 1;
    }
    let is_raw = chars[at - 1] == 'r';
    let hashes = until(chars, at, |i| chars[i] != '#') - at;
    if chars.get(at + hashes) != Some(&'"') || (hashes > 0 && !is_raw) {
        return from;
    }
    if !is_raw {
        return text(chars, at + 1);
    }
    let closes =
        |i: usize| chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    until(chars, at + hashes + 1, closes) + 1 + hashes
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Stripped source with every `#[cfg(test)]` item blanked. Relies on rustfmt: the item ends at its own indentation.
pub(super) fn without_tests(stripped: &str) -> String {
    let mut out = String::with_capacity(stripped.len());
    // Indentation of the item being skipped, and whether its first line has passed.
    let mut skipping: Option<(usize, bool)> = None;
    for line in stripped.lines() {
        let indent = line.len() - line.trim_start().len();
        let item = line.trim();
        if skipping.is_none() && item.starts_with("#[cfg(") && item.contains("test") && !item.contains("not(test") {
            skipping = Some((indent, false));
        } else if let Some((from, begun)) = skipping {
            let attribute = !begun && item.starts_with("#[");
            let ends =
                indent == from && !attribute && (item.ends_with(';') || item.ends_with('}') || item.ends_with("},"));
            skipping = if ends { None } else { Some((from, begun || !attribute)) };
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// Every path of two or more segments that the code names, with its line: `use` trees are spread out.
pub(super) fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(start) = next_word(code, rest) {
        let end = start + code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        let line = 1 + code[..start].matches('\n').count();
        if &code[start..end] == "use" {
            let close = code[end..].find(';').map_or(code.len(), |at| end + at);
            let mut spread = Vec::new();
            expand(&code[end..close], "", &mut spread);
            found.extend(spread.into_iter().map(|path| (line, path)));
            rest = close;
            continue;
        }
        let mut stop = end;
        while code[stop..].starts_with("::") && code[stop + 2..].starts_with(is_word) {
            stop += 2 + code[stop + 2..].find(|c| !is_word(c)).unwrap_or(code.len() - stop - 2);
        }
        if stop > end {
            found.push((line, code[start..stop].to_owned()));
        }
        rest = stop;
    }
    found
}

fn next_word(code: &str, from: usize) -> Option<usize> {
    code[from..].find(is_word).map(|at| from + at)
}

fn expand(tree: &str, prefix: &str, out: &mut Vec<String>) {
    let (mut depth, mut start) = (0, 0);
    let cuts = tree.char_indices().filter_map(|(at, c)| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        (c == ',' && depth == 0).then_some(at)
    });
    for cut in cuts.chain([tree.len()]).collect::<Vec<_>>() {
        let item = tree[start..cut].trim();
        start = cut + 1;
        if let (Some(open), Some(close)) = (item.find('{'), item.rfind('}')) {
            expand(&item[open + 1..close], &format!("{prefix}{}", item[..open].trim()), out);
        } else if !item.is_empty() {
            let name = item.split_whitespace().next().unwrap_or(item);
            let path = format!("{prefix}{name}");
            out.push(path.strip_suffix("::self").map_or(path.clone(), str::to_owned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_text_are_blanked_and_lines_kept() {
        let source = "a // b::c\n\"d::e \\\" f::g\" h /* i /* j */\n k */ 'l' '\\'' &'m n r#\"o \" p\"# br\"q\" b'r' s";
        let got = strip(source);
        assert_eq!(got.lines().count(), 3);
        let words: Vec<&str> = got.split_whitespace().collect();
        assert_eq!(words, ["a", "h", "&'m", "n", "b", "s"]);
    }

    #[test]
    fn items_for_tests_are_blanked() {
        let source = "use a::b;\n#[cfg(test)]\nmod foo_test;\nfn f() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n    use c::d;\n    \
                      fn g() {\n    }\n}\n#[cfg(all(test, unix))]\nuse g::h;\nuse e::f;\n";
        let left = without_tests(source);
        assert_eq!(left.lines().count(), source.lines().count());
        assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["use", "a::b;", "fn", "f()", "{}", "use", "e::f;"]);
    }

    #[test]
    fn paths_are_spread_out_with_their_lines() {
        let code = "use crate::{\n    error::Trouble,\n    raft::{self, Deliver as D},\n};\npub use super::x;\nfn f() { crate::a::b(c, Self::d) }\n";
        let got = paths(code);
        let got: Vec<_> = got.iter().map(|(line, path)| (*line, path.as_str())).collect();
        assert_eq!(
            got,
            [
                (1, "crate::error::Trouble"),
                (1, "crate::raft"),
                (1, "crate::raft::Deliver"),
                (5, "super::x"),
                (6, "crate::a::b"),
                (6, "Self::d"),
            ]
        );
    }
}
