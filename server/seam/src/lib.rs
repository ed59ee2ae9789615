//! The four doors through which time, randomness, files and sockets reach the server.
//!
//! What it is: the traits [`Clock`], [`Random`], [`Disk`] and [`Net`], each with the real thing and a simulated
//! double (`sim`), and [`Lane`], the one worker that drains a queue (a thread for real, a task in simulation).
//! What it promises: code written against these traits runs unchanged in a seeded simulation, under tokio's paused
//! clock, with power cuts, lying pages, partitions and wrong clocks. The doubles are always compiled and small.
//! What is absent: znodes, consensus, protocols, configuration, and any retry: an error travels up as it is.

mod clock;
mod disk;
mod lane;
mod net;
mod ports;
mod random;
pub mod sim;

pub use clock::{Clock, SystemClock};
pub use disk::{Disk, File, LockGuard, Open, SystemDisk};
pub use lane::{Closed, Lane, LaneKind};
pub use net::{BoxFuture, Io, Listener, Net, Stream, SystemNet};
pub use ports::free_ports;
pub use random::{Random, SystemRandom};
