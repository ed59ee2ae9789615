//! [`free_ports`]: loopback ports for servers that must know each other's addresses before any of them is started.
//!
//! What it promises: the ports differ, nobody listens on them now, and no outgoing connection is ever given one: they lie
//! below the system's range for those, so that a stopped server finds its port free again. What is absent: a reservation;
//! another program may listen on one between choosing and binding.

use std::{
    io,
    net::TcpListener,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::sim::SimRandom;

/// Draws in this process so far: two calls begin at different places.
static DRAWN: AtomicU64 = AtomicU64::new(0);

/// Free ports of 127.0.0.1, all different.
///
/// Errors: too few are free, or the system allows no more sockets.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_outgoing: u64 = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768);
    let lowest = 10_000.min(first_outgoing / 2);
    let seed = (u64::from(std::process::id()) << 32) | DRAWN.fetch_add(1, Ordering::Relaxed);
    let random = SimRandom::new(seed);
    // All are held until the last is found, so that they differ.
    let mut held: Vec<TcpListener> = Vec::new();
    for _ in 0..count * 100 {
        if held.len() == count {
            break;
        }
        let port = lowest + random.below(first_outgoing - lowest);
        held.extend(TcpListener::bind(("127.0.0.1", port as u16)));
    }
    if held.len() < count {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("only {} of {count} free ports were found from {lowest} to {first_outgoing}", held.len()),
        ));
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound_again() {
        let mut ports = free_ports(20).expect("free ports");
        for &port in &ports {
            TcpListener::bind(("127.0.0.1", port)).expect("is free again");
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }
}
