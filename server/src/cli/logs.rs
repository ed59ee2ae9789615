//! Structured logs: one subscriber for the process, on standard error.
//!
//! `json` gives one object per line with the event's fields (`session`, `xid`, `zxid`, `node`) at the top level, `pretty`
//! one line for people. The filter is `tracing`'s. Absent: files and rotation; whoever supervises the process has them.

use tracing_subscriber::EnvFilter;

use super::exit::{Failure, Outcome};
use crate::config::Log;

/// Starts logging; called once, before anything is logged.
///
/// Errors: usage, for a filter that is none.
pub fn start(log: &Log) -> Outcome {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| {
        Failure::usage(format!("log.level is {:?}: {error}; for example info, or warn,quorate_server=debug", log.level))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if log.format == "json" {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.with_target(true).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
    };
    started.map_err(|error| Failure::failed(format!("logging cannot be started: {error}")))
}
