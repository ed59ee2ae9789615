//! Follows a program's configuration: prints what it is now, then every change as it happens.
//!
//! Each child of a znode is one setting. The program needs no session, misses no change over lost connections and dead
//! leaders (the watch resumes where it was), and reads anew only where the cluster says `Resync`.
//!
//! Usage: `example-config-watch TARGET PATH [CHANGES]`, for example `quorate://127.0.0.1:2281 /config`; with CHANGES it
//! ends after that many.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use quorate_client::{
    Client, WatchItem,
    model::{EventKind, path},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match follow().await {
        // Whoever read us has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        done => done,
    }
}

/// Prints a line; unlike `println!`, a closed pipe is an error and no panic.
fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

async fn follow() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().context("usage: example-config-watch TARGET PATH [CHANGES]")?;
    let root = arguments.next().unwrap_or_else(|| "/config".into());
    let mut left: Option<u64> = arguments.next().map(|count| count.parse()).transpose()?;

    let client = Client::builder().sessionless().connect(&target).await?;
    // Watch first, then read: what changes in between is told again, and telling it twice does no harm here.
    let mut watch = client.watch(&root).recursive().with_values().await?;
    let mut settings = read(&client, &root).await?;
    for (name, value) in &settings {
        say(&format!("{name} = {value}"))?;
    }
    say(&format!("watching {root}"))?;

    while left != Some(0) {
        match watch.next().await.context("the watch is over")?? {
            WatchItem::Resync { .. } => {
                settings = read(&client, &root).await?;
                println!("read again: {} settings", settings.len());
            }
            WatchItem::Event { event, value } => {
                let name = path::name_of(&event.path).to_owned();
                match (event.kind, value) {
                    (EventKind::Deleted, _) => {
                        settings.remove(&name);
                        say(&format!("{name} is gone"))?;
                    }
                    (_, Some((data, _))) if event.path != root => {
                        let text = String::from_utf8_lossy(data.as_deref().unwrap_or_default()).into_owned();
                        // Two changes close together show the later value twice.
                        if settings.insert(name.clone(), text.clone()) == Some(text.clone()) {
                            continue;
                        }
                        say(&format!("{name} = {text}"))?;
                    }
                    _ => continue,
                }
                left = left.map(|left| left - 1);
            }
        }
    }
    Ok(())
}

async fn read(client: &Client, root: &str) -> Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    let mut children = client.children(root).with_data().stream();
    while let Some(child) = children.next().await {
        let child = child?;
        let data = child.data.unwrap_or_default();
        settings.insert(child.name, String::from_utf8_lossy(&data).into_owned());
    }
    Ok(settings)
}
