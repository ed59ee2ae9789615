//! The committed bindings of `plugins/guest` are those of `plugins/wit/recipe.wit`.
//!
//! They are committed so that a recipe needs no code generator: its only dependency is `quorate-guest`, which has none.
//! After a change of the contract, `QUORATE_BLESS=1 cargo test -p quorate-recipe-build --test bindings` writes them anew.

use std::{fs, path::Path};

use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_parser::Resolve;

#[test]
fn bindings_are_those_of_the_contract() {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder `plugins`");
    let mut resolve = Resolve::default();
    let package = resolve.push_path(plugins.join("wit")).expect("the contract parses").0;
    let world = resolve.select_world(&[package], Some("recipe")).expect("there is a world `recipe`");
    let options = wit_bindgen_rust::Opts {
        generate_all: true,
        pub_export_macro: true,
        default_bindings_module: Some("quorate_guest::bindings".into()),
        runtime_path: Some("crate::runtime".into()),
        format: true,
        std_feature: false,
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("bindings are made");
    let (_, made) = files.iter().next().expect("one file");
    let head = "//! The contract as Rust functions and types, made by wit-bindgen out of `plugins/wit/recipe.wit`.\n//!\n\
                //! Not written by hand: `QUORATE_BLESS=1 cargo test -p quorate-recipe-build --test bindings` \
                makes it anew.\n\n";
    let made = format!("{head}{}", String::from_utf8(made.to_vec()).expect("source is text"));
    let committed = plugins.join("guest/src/bindings.rs");
    if std::env::var_os("QUORATE_BLESS").is_some() {
        fs::write(&committed, &made).expect("the bindings are written");
    }
    let found = fs::read_to_string(&committed).unwrap_or_default();
    assert!(found == made, "{} is not what the contract gives: run with QUORATE_BLESS=1", committed.display());
}
