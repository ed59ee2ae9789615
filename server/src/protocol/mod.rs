//! Doors: each turns bytes into requests and answers into bytes, and decides nothing.
//!
//! An adapter reads frames, hands requests to `session/`, and writes what the outbox holds. It has no retry, no order and
//! no permission of its own (ARCHITECTURE.md, invariant 5).

pub mod native;
