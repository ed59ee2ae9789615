//! `quota`: how much may be stored below a path; zkCli's listquota, setquota and delquota.

use clap::Subcommand;
use quorate_client::QuotaLimits;
use serde_json::json;

use super::{
    Globals, connect,
    exit::{Failure, Outcome},
};

/// How much may be stored.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Show what is used below a path, and its limits.
    ///
    /// Example: quorate quota ls /app
    Ls {
        /// The path on which the quota is set.
        path: String,
    },
    /// Set limits; those not named are lifted.
    ///
    /// Example: quorate quota set /app --count-hard 10000 --bytes 50000000
    Set {
        /// On which path.
        path: String,
        /// Znodes; more only warn.
        #[arg(long)]
        count: Option<u64>,
        /// Bytes of data; more only warn.
        #[arg(long)]
        bytes: Option<u64>,
        /// Znodes; more are refused.
        #[arg(long)]
        count_hard: Option<u64>,
        /// Bytes of data; more are refused.
        #[arg(long)]
        bytes_hard: Option<u64>,
    },
    /// Lift all limits.
    ///
    /// Example: quorate quota rm /app
    Rm {
        /// On which path.
        path: String,
    },
}

/// Runs a verb.
///
/// Errors: NotFound where there is no quota; Denied.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let (path, limits) = match verb {
        Verb::Ls { path } => {
            let quota = connect::reader(globals).await?.quota(&path).await?;
            return globals.output().show(&json!({
                "path": path,
                "count": quota.count,
                "bytes": quota.bytes,
                "count_limit": quota.limits.count,
                "bytes_limit": quota.limits.bytes,
                "count_hard_limit": quota.limits.count_hard,
                "bytes_hard_limit": quota.limits.bytes_hard,
            }));
        }
        Verb::Set { path, count, bytes, count_hard, bytes_hard } => {
            let limits = QuotaLimits { count, bytes, count_hard, bytes_hard };
            if limits == QuotaLimits::default() {
                return Err(Failure::usage("no limit is named; to lift all limits use `quorate quota rm`"));
            }
            (path, limits)
        }
        Verb::Rm { path } => (path, QuotaLimits::default()),
    };
    let client = connect::writer(globals).await?;
    let set = client.set_quota(&path, limits).await;
    client.close().await;
    Ok(set?)
}
