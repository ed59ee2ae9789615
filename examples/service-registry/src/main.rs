//! A service registry in two commands: `serve` announces an instance for as long as its process lives, `watch` shows who
//! is there.
//!
//! An instance is an ephemeral znode: when its process dies, its session ends after the timeout and the znode with it, so
//! failure detection is nothing but a watch. Whoever loses the session announces itself anew under a new one.
//!
//! Usage: `example-service-registry TARGET serve NAME ADDRESS` and `example-service-registry TARGET watch NAME [CHANGES]`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use quorate_client::{Client, State, WatchItem};

/// How long a dead instance is still listed.
const TIMEOUT: Duration = Duration::from_secs(2);

const USAGE: &str = "usage: example-service-registry TARGET serve NAME ADDRESS | TARGET watch NAME [CHANGES]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [target, "serve", name, address] => serve(target, name, address).await,
        [target, "watch", name] => watch(target, name, None).await,
        [target, "watch", name, changes] => watch(target, name, Some(changes.parse()?)).await,
        _ => bail!(USAGE),
    };
    match done {
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

async fn serve(target: &str, name: &str, address: &str) -> Result<()> {
    let client = Client::builder().timeout(TIMEOUT).connect(target).await?;
    let root = format!("/services/{name}");
    client.ensure_path(&root).await?;
    let mut states = client.states();
    loop {
        let announced = client.create(format!("{root}/i-"), address.to_owned()).ephemeral().sequential().await?;
        say(&format!("announced {} as {}", address, announced.path))?;
        loop {
            match states.next().await.context("the client was closed")? {
                State::Lost => break,
                state => say(&format!("{state:?}"))?,
            }
        }
        say("session lost: announcing anew")?;
        client.reopen().await?;
    }
}

async fn watch(target: &str, name: &str, mut left: Option<u64>) -> Result<()> {
    let client = Client::builder().sessionless().connect(target).await?;
    let root = format!("/services/{name}");
    // The watch needs no znode to be there yet.
    let mut watch = client.watch(&root).recursive().await?;
    show(&client, &root).await?;
    while left != Some(0) {
        match watch.next().await.context("the watch is over")?? {
            WatchItem::Event { event, .. } if event.path == root => {}
            WatchItem::Event { .. } | WatchItem::Resync { .. } => {
                show(&client, &root).await?;
                left = left.map(|left| left - 1);
            }
        }
    }
    Ok(())
}

async fn show(client: &Client, root: &str) -> Result<()> {
    let mut instances = BTreeMap::new();
    if client.exists(root).await?.is_some() {
        let mut children = client.children(root).with_data().stream();
        while let Some(child) = children.next().await {
            let child = child?;
            instances.insert(child.name, String::from_utf8_lossy(&child.data.unwrap_or_default()).into_owned());
        }
    }
    let addresses: Vec<&str> = instances.values().map(String::as_str).collect();
    say(&format!("{} instances: {}", addresses.len(), addresses.join(" ")))?;
    Ok(())
}
