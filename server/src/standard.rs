//! The standard recipes that this build brings along: name of the instance, and the component as its author built it.
//!
//! They enter the log at the cluster's birth and are replicated from then on (rules.md 24): what runs is what the log
//! holds, not what stands here.

/// Name and bytes of each.
pub const STANDARD: &[(&str, &[u8])] = &[
    ("lock", include_bytes!("../../plugins/recipes/lock/lock.wasm")),
    ("semaphore", include_bytes!("../../plugins/recipes/semaphore/semaphore.wasm")),
    ("election", include_bytes!("../../plugins/recipes/election/election.wasm")),
    ("barrier", include_bytes!("../../plugins/recipes/barrier/barrier.wasm")),
    ("queue", include_bytes!("../../plugins/recipes/queue/queue.wasm")),
    ("counter", include_bytes!("../../plugins/recipes/counter/counter.wasm")),
    ("group", include_bytes!("../../plugins/recipes/group/group.wasm")),
];
