//! What `bindgen!` makes of the WIT: its types, and the calls of a component's exports.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "recipe",
    imports: { default: trappable },
});
