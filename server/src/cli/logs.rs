//! Structured logs: one subscriber for the process, on standard error.
//!
//! `json` gives one object per line with the event's fields (`session`, `xid`, `zxid`, `node`) at the top level, `pretty`
//! one line for people. The filter is `tracing`'s. Each call site may say so much a second and no more, because the log is
//! written by whoever speaks, the apply thread too: ten thousand sessions that expire at once must not hold writes up.
//! What was held back is counted, and [`held_back`] says how much.
//!
//! Absent: files and rotation; whoever supervises the process has them. Secrets: no event carries any.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{Event, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, Filter, SubscriberExt},
    util::SubscriberInitExt,
};

use super::exit::{Failure, Outcome};
use crate::config::Log;

/// Starts logging; called once, before anything is logged.
///
/// Errors: usage, for a filter that is none.
pub fn start(log: &Log) -> Outcome {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| {
        Failure::usage(format!("log.level is {:?}: {error}; for example info, or warn,quorate_server=debug", log.level))
    })?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let limit = SiteLimit::default();
    let layer = if log.format == "json" {
        layer.json().flatten_event(true).with_current_span(true).with_span_list(false).with_filter(limit).boxed()
    } else {
        layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_filter(limit).boxed()
    };
    let started = tracing_subscriber::registry().with(filter).with(layer).try_init();
    started.map_err(|error| Failure::failed(format!("logging cannot be started: {error}")))
}

/// Events of one call site in one second; the rest of that second's are held back.
const PER_SITE_AND_SECOND: u32 = 100;

static HELD_BACK: AtomicU64 = AtomicU64::new(0);

/// How many events were held back since this was last asked.
pub fn held_back() -> u64 {
    HELD_BACK.swap(0, Ordering::Relaxed)
}

/// Counts events by call site and second.
#[derive(Debug, Default)]
struct SiteLimit(Mutex<HashMap<Identifier, (Option<Instant>, u32)>>);

impl SiteLimit {
    fn admits(&self, site: Identifier, now: Instant) -> bool {
        // Whoever panicked here left whole numbers behind.
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = sites.entry(site).or_default();
        if since.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count += 1;
        *count <= PER_SITE_AND_SECOND
    }
}

impl<S: Subscriber> Filter<S> for SiteLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let admitted = self.admits(event.metadata().callsite(), Instant::now());
        if !admitted {
            HELD_BACK.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_site_says_so_much_a_second_and_goes_on_in_the_next() {
        let limit = SiteLimit::default();
        let site = tracing::callsite!(name: "site", kind: tracing::metadata::Kind::EVENT, fields: a);
        let site = tracing::callsite::Callsite::metadata(site).callsite();
        let start = Instant::now();
        let admitted = (0..PER_SITE_AND_SECOND + 50).filter(|_| limit.admits(site.clone(), start)).count();
        assert_eq!(admitted, PER_SITE_AND_SECOND as usize);
        assert!(limit.admits(site, start + Duration::from_secs(1)));
    }
}
