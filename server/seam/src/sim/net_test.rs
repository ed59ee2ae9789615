//! The simulated network delays, holds, refuses and resets as it says.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(30);

async fn pair(net: &SimNet) -> (Stream, Stream, Box<dyn Listener>) {
    let mut listener = net.host("b").listen("b:2381").await.unwrap();
    let host = net.host("a");
    let (near, far) = tokio::join!(host.connect("b:2381"), listener.accept());
    let (far, peer) = far.unwrap();
    assert!(peer.starts_with("a:"));
    (near.unwrap(), far, listener)
}

async fn reads(stream: &mut Stream) -> Option<io::Result<Vec<u8>>> {
    let mut buf = [0; 64];
    let n = timeout(WAIT, stream.read(&mut buf)).await.ok()?;
    Some(n.map(|n| buf[..n].to_vec()))
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_after_a_latency_and_then_the_end() {
    let net = SimNet::new(1);
    net.set_latency(Duration::from_millis(5), Duration::from_millis(9));
    let (mut near, mut far, _listener) = pair(&net).await;
    let start = Instant::now();
    for n in 0..100u8 {
        near.write_all(&[n]).await.unwrap();
    }
    drop(near);
    let mut all = Vec::new();
    timeout(WAIT, far.read_to_end(&mut all)).await.unwrap().unwrap();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    let took = start.elapsed();
    assert!((5..=11).contains(&took.as_millis()), "{took:?}");
    assert_eq!(far.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn partition_holds_bytes_and_connects_until_heal() {
    let net = SimNet::new(2);
    let (mut near, mut far, mut listener) = pair(&net).await;
    net.partition_one_way("a", "b");
    near.write_all(b"held").await.unwrap();
    far.write_all(b"back").await.unwrap();
    assert_eq!(reads(&mut near).await.unwrap().unwrap(), b"back");
    assert!(reads(&mut far).await.is_none());
    let host = net.host("a");
    let connect = tokio::spawn(async move { host.connect("b:2381").await });
    tokio::time::sleep(WAIT).await;
    assert!(!connect.is_finished());
    net.heal("a", "b");
    assert_eq!(reads(&mut far).await.unwrap().unwrap(), b"held");
    timeout(WAIT, connect).await.unwrap().unwrap().unwrap();
    timeout(WAIT, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn dead_host_resets_refuses_and_comes_back() {
    let net = SimNet::new(3);
    let (mut near, _far, mut listener) = pair(&net).await;
    net.kill_host("b");
    assert_eq!(reads(&mut near).await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(timeout(WAIT, listener.accept()).await.unwrap().is_err());
    let refused = net.host("a").connect("b:2381").await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let again = net.host("b").listen("0.0.0.0:2381").await.unwrap();
    drop(listener);
    assert_eq!(again.local_addr(), "b:2381");
    net.host("a").connect("b:2381").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reset_behind_a_cut_is_learnt_after_the_heal() {
    let net = SimNet::new(4);
    let (mut near, _far, _listener) = pair(&net).await;
    net.partition("a", "b");
    net.kill_host("b");
    near.write_all(b"into the void").await.unwrap();
    assert!(reads(&mut near).await.is_none());
    net.heal_all();
    assert_eq!(reads(&mut near).await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn paused_host_neither_reads_nor_sends() {
    let net = SimNet::new(5);
    let (mut near, mut far, mut listener) = pair(&net).await;
    net.pause("b");
    near.write_all(b"wait").await.unwrap();
    assert!(reads(&mut far).await.is_none());
    assert!(timeout(WAIT, far.write_all(b"no")).await.is_err());
    let third = timeout(WAIT, net.host("a").connect("b:2381")).await.unwrap();
    assert!(third.is_ok(), "the kernel of a stopped process still accepts");
    assert!(timeout(WAIT, listener.accept()).await.is_err());
    net.resume("b");
    assert_eq!(reads(&mut far).await.unwrap().unwrap(), b"wait");
    timeout(WAIT, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn full_window_makes_the_writer_wait() {
    let net = SimNet::new(6);
    let (mut near, mut far, _listener) = pair(&net).await;
    let big = vec![7; WINDOW + 1];
    assert!(timeout(WAIT, near.write_all(&big)).await.is_err());
    let mut all = vec![0; WINDOW];
    timeout(WAIT, far.read_exact(&mut all)).await.unwrap().unwrap();
    timeout(WAIT, near.write_all(b"x")).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn same_seed_same_times() {
    async fn run() -> Vec<Duration> {
        let net = SimNet::new(7);
        net.set_latency(Duration::from_millis(1), Duration::from_millis(50));
        let (mut near, mut far, _listener) = pair(&net).await;
        let (start, mut times) = (Instant::now(), Vec::new());
        for _ in 0..20 {
            near.write_all(b"x").await.unwrap();
            far.read_u8().await.unwrap();
            times.push(start.elapsed());
        }
        times
    }
    assert_eq!(run().await, run().await);
}
