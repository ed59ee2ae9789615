//! Compiled components that are kept: found again by the next engine, never trusted when damaged, gone when forgotten.

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use quorate_plugin_host::{Cache, Host};
use quorate_tree::recipe::Recipes;

/// Files in memory, and how many were kept.
#[derive(Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    stored: Mutex<u32>,
}

impl Memory {
    fn stored(&self) -> u32 {
        *self.stored.lock().expect("no one panics with it")
    }

    fn names(&self) -> Vec<String> {
        self.files.lock().expect("no one panics with it").keys().cloned().collect()
    }
}

impl Cache for Memory {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        self.files.lock().expect("no one panics with it").get(name).cloned()
    }

    fn store(&self, name: &str, bytes: &[u8]) {
        self.files.lock().expect("no one panics with it").insert(name.to_owned(), bytes.to_vec());
        *self.stored.lock().expect("no one panics with it") += 1;
    }

    fn remove(&self, name: &str) {
        self.files.lock().expect("no one panics with it").remove(name);
    }

    fn retain(&self, suffix: &str) {
        self.files.lock().expect("no one panics with it").retain(|name, _| name.ends_with(suffix));
    }
}

fn host(memory: &Arc<Memory>) -> Host {
    let host = Host::new(Arc::new(|_, _, _| {})).expect("this machine runs components");
    host.keep_compiled(memory.clone());
    host
}

#[test]
fn what_was_compiled_is_found_by_the_next_engine() {
    let memory = Arc::new(Memory::default());
    memory.files.lock().expect("no one panics with it").insert("of-another-build.compiled".into(), vec![1]);
    let component = common::component(common::BASIC);
    let first = host(&memory).admit(&component).expect("it is admitted");
    assert_eq!(memory.stored(), 1);
    let names = memory.names();
    assert_eq!(names.len(), 1, "what another build has left is removed");
    assert!(names[0].starts_with(&first.plugin.to_string()), "{names:?}");

    let again = host(&memory);
    assert_eq!(again.admit(&component).expect("it is admitted"), first);
    assert_eq!(memory.stored(), 1, "nothing was compiled");
    again.forget(first.plugin);
    assert!(memory.names().is_empty(), "what is uninstalled needs no place");
}

#[test]
fn a_damaged_file_is_compiled_anew() {
    let memory = Arc::new(Memory::default());
    let component = common::component(common::BASIC);
    let first = host(&memory).admit(&component).expect("it is admitted");
    let name = memory.names().remove(0);
    let whole = memory.load(&name).expect("it was kept");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged =
        [Vec::new(), whole[..31].to_vec(), whole[..whole.len() / 2].to_vec(), flipped(3), flipped(whole.len() / 2)];
    for (round, bytes) in (2..).zip(damaged) {
        memory.files.lock().expect("no one panics with it").insert(name.clone(), bytes);
        assert_eq!(host(&memory).admit(&component).expect("it is admitted"), first);
        assert_eq!(memory.stored(), round, "it was compiled, and kept again");
        assert_eq!(memory.load(&name).map(|bytes| bytes.len()), Some(whole.len()));
    }
}
