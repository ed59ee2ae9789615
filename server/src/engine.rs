//! The engine that runs recipes: one for the whole process, so that nodes that share one compile a component once.
//!
//! Absent: what is run and when (core/tree), how (plugins/host).

use std::sync::{Arc, OnceLock};

use quorate_plugin_host::Host;
pub use quorate_plugin_host::{Admitted, Refused, STACK_BYTES};

static HOST: OnceLock<Result<Host, String>> = OnceLock::new();

/// The process' engine.
///
/// Errors: a sentence, where this machine cannot run one.
pub fn host() -> Result<Host, String> {
    HOST.get_or_init(|| Host::new(Arc::new(told)).map_err(|fault| fault.to_string())).clone()
}

/// A recipe's own line, for this node's log.
fn told(instance: &str, level: u8, text: &str) {
    match level {
        0 => tracing::error!(instance, "{text}"),
        1 => tracing::warn!(instance, "{text}"),
        2 => tracing::info!(instance, "{text}"),
        _ => tracing::debug!(instance, "{text}"),
    }
}
