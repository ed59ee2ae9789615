//! The components that other crates' tests use are what their text builds. Where this fails because the text was changed on
//! purpose, QUORATE_REBUILD=1 writes them anew.

mod common;

use std::{fs, path::Path};

#[test]
fn committed_guests_are_what_their_text_builds() {
    for (name, text) in [("basic", common::BASIC.to_owned()), ("moving", common::moving(false))] {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}.wasm"));
        let built = common::component(&text);
        if std::env::var_os("QUORATE_REBUILD").is_some() {
            fs::write(&committed, &built).expect("it can be written");
        }
        let kept = fs::read(&committed).expect("it is committed");
        assert!(kept == built, "{} is not what {name}.wat builds", committed.display());
    }
}
