//! The files of a new recipe: what `quorate recipe new` writes.
//!
//! A project that builds and passes its tests as it is, without a network: the guest crate lies in it. Absent: writing;
//! the caller has the folder and says what is there already.

use anyhow::{Result, bail};

/// The template's files, by path; names of the recipe in them stand for the new one's.
const TEMPLATE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    (".cargo/config.toml", include_str!("../template/.cargo/config.toml")),
    (".gitignore", include_str!("../template/gitignore")),
    ("README.md", include_str!("../template/README.md")),
    ("sim.toml", include_str!("../template/sim.toml")),
    ("src/lib.rs", include_str!("../template/src/lib.rs")),
];

macro_rules! guest {
    ($($file:literal),* $(,)?) => {
        &[$((concat!("quorate-guest/", $file), include_str!(concat!("../../guest/", $file)))),*]
    };
}

/// The guest crate, as it is.
const GUEST: &[(&str, &str)] = guest![
    "Cargo.toml",
    "src/agenda.rs",
    "src/arena.rs",
    "src/args.rs",
    "src/bindings.rs",
    "src/dispatch.rs",
    "src/imports.rs",
    "src/json.rs",
    "src/lib.rs",
    "src/line.rs",
    "src/names.rs",
    "src/native.rs",
    "src/runtime.rs",
    "src/testing.rs",
    "src/testing/world.rs",
    "src/types.rs",
    "src/wasm.rs",
];

/// The files of a new recipe of this name, each a path from the project's folder and its text.
///
/// # Errors
/// Where the name is not 1 to 64 lower-case letters, digits and single `-`, beginning with a letter.
pub fn scaffold(name: &str) -> Result<Vec<(String, String)>> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins || name.len() > 64 || !name.chars().all(good) || name.ends_with('-') || name.contains("--") {
        bail!(
            "a recipe's name is 1 to 64 lower-case letters, digits and single `-`, beginning with a letter: `{name}`"
        );
    }
    let words = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
    let (snake, camel) = (name.replace('-', "_"), words.collect::<String>());
    let named = |text: &str| text.replace("my-recipe", name).replace("my_recipe", &snake).replace("MyRecipe", &camel);
    let own = TEMPLATE.iter().map(|(path, text)| ((*path).to_owned(), named(text)));
    Ok(own.chain(GUEST.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path, process::Command};

    use super::*;

    #[test]
    fn a_new_recipe_passes_its_tests_without_a_network() {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, text) in scaffold("page-hits").expect("a good name") {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders are made");
            fs::write(path, text).expect("files are written");
        }
        let mut test = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        test.args(["test", "--offline", "--quiet"]).current_dir(dir.path());
        test.env("CARGO_TARGET_DIR", dir.path().join("target")).env_remove("RUSTFLAGS");
        let said = test.output().expect("cargo starts");
        let told = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success(), "{told}{}", String::from_utf8_lossy(&said.stderr));
        assert!(told.contains("3 passed"), "{told}");
    }

    #[test]
    fn every_file_of_the_guest_crate_is_part_of_it() {
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder `plugins`").join("guest");
        let mut there = BTreeSet::from(["quorate-guest/Cargo.toml".to_owned()]);
        for folder in ["src", "src/testing"] {
            for entry in fs::read_dir(guest.join(folder)).expect("the folder is read") {
                let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
                if name.contains('.') {
                    there.insert(format!("quorate-guest/{folder}/{name}"));
                }
            }
        }
        let packed: BTreeSet<String> = GUEST.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(packed, there);
    }

    #[test]
    fn names_that_no_crate_can_have_are_refused() {
        for bad in ["", "A", "1a", "a--b", "a-", "a_b", "ä", "a/b", &"a".repeat(65)] {
            assert!(scaffold(bad).is_err(), "{bad}");
        }
    }
}
