//! A job that runs on exactly one host: every host starts this from its cron at the same minute, and one of them does the
//! work.
//!
//! Whoever has the lock looks whether the run is on record, does the work, and records it in a transaction that is guarded
//! by the lock's fencing token: a host that was paused, lost the lock and wakes up later can record nothing. When a host
//! dies in the middle, another one waits for its session to end and does the work; so the work itself takes the token
//! (`QUORATE_FENCING_TOKEN`) and gives it to whatever it writes to.
//!
//! Usage: `example-cron-once TARGET JOB RUN COMMAND [ARGUMENT]...`, where RUN names the run, such as `2026-11-21`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use quorate_client::{Client, model::Code, step};
use tokio::process::Command;

/// So long after a host's death another one does the work.
const TIMEOUT: Duration = Duration::from_secs(3);

const USAGE: &str = "usage: example-cron-once TARGET JOB RUN COMMAND [ARGUMENT]...";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, job, run, command @ ..] = &arguments[..] else { bail!(USAGE) };
    let [program, rest @ ..] = command else { bail!(USAGE) };
    let client = Client::builder().timeout(TIMEOUT).connect(target).await?;
    let done = once(&client, job, run, Command::new(program).args(rest)).await;
    client.close().await;
    println!("{}", done?);
    Ok(ExitCode::SUCCESS)
}

async fn once(client: &Client, job: &str, run: &str, command: &mut Command) -> Result<String> {
    let folder = format!("/cron/{job}");
    let record = format!("{folder}/{run}");
    client.ensure_path(&folder).await?;
    let guard = client.lock(format!("cron-{job}")).meta(run).acquire().await?;
    if let Some(stat) = client.exists(&record).await? {
        guard.release().await?;
        return Ok(format!("{job} {run} was done with token {}", stat.czxid));
    }
    let token = guard.token();
    let mut work = command.env("QUORATE_FENCING_TOKEN", token.to_string()).kill_on_drop(true).spawn()?;
    let status = tokio::select! {
        status = work.wait() => status?,
        // Dropping the work kills it.
        loss = guard.lost() => bail!("{job} {run} was stopped: {loss}"),
    };
    if !status.success() {
        bail!("{job} {run} failed: {status}; it is not on record, so the next host tries");
    }
    let recorded = client.multi(vec![step::guard(guard.path(), token), step::create(record, token.to_string())]).await;
    match recorded {
        Err(error) if error.code() == Code::GuardFailed => bail!("{job} {run}: the lock was lost; another host has it"),
        recorded => recorded.context("the run could not be recorded")?,
    };
    guard.release().await?;
    Ok(format!("{job} {run} done with token {token}"))
}
