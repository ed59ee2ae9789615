//! One direction of a simulated connection: bytes with a time of arrival, in order, never lost.
//!
//! What it promises: as TCP does over a cut, bytes wait and come after the heal; a closed end is seen after the bytes
//! before it; a reset is seen at once, unless the way is blocked. What is absent: the decision who is blocked.

use std::collections::VecDeque;
use std::task::Waker;
use tokio::time::Instant;

/// Bytes that may be under way in one direction before the writer waits: what socket buffers hold.
pub(super) const WINDOW: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Pipe {
    /// Index of the sending and of the receiving host.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) chunks: VecDeque<(Instant, Vec<u8>)>,
    /// Bytes of the first chunk that were read already.
    pub(super) read: usize,
    pub(super) bytes: usize,
    /// The writer closed; seen from this time on, after all chunks.
    pub(super) end: Option<Instant>,
    /// The connection was torn down by a dead host.
    pub(super) reset: bool,
    /// The reading end is gone.
    pub(super) reader_gone: bool,
    pub(super) last_arrival: Instant,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(from: usize, to: usize) -> Pipe {
        Pipe {
            from,
            to,
            chunks: VecDeque::new(),
            read: 0,
            bytes: 0,
            end: None,
            reset: false,
            reader_gone: false,
            last_arrival: Instant::now(),
            reader: None,
            writer: None,
        }
    }

    pub(super) fn wake(&mut self) {
        [self.reader.take(), self.writer.take()].into_iter().flatten().for_each(Waker::wake);
    }

    /// Moves arrived bytes into `buf`; returns how many.
    pub(super) fn take(&mut self, now: Instant, buf: &mut tokio::io::ReadBuf<'_>) -> usize {
        let before = buf.filled().len();
        while let Some((arrival, chunk)) = self.chunks.front()
            && *arrival <= now
            && buf.remaining() > 0
        {
            let n = buf.remaining().min(chunk.len() - self.read);
            buf.put_slice(&chunk[self.read..self.read + n]);
            self.read += n;
            self.bytes -= n;
            if self.read == chunk.len() {
                self.chunks.pop_front();
                self.read = 0;
            }
        }
        let taken = buf.filled().len() - before;
        if taken > 0
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
        taken
    }
}
