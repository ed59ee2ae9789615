//! Frames and primitives: bounded, total, without copies of data.
//!
//! Source: ZooKeeper org/apache/jute/BinaryInputArchive.java; server/NIOServerCnxn.java `readLength`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Why bytes are no such record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends within a field.
    #[error("the frame ends within a field")]
    Short,
    /// A length or a count is negative or longer than the frame.
    #[error("a length of {0} does not fit the frame")]
    Length(i32),
    /// A field that must be there is null.
    #[error("a field that must not be null is null")]
    Null,
    /// A number stands for nothing.
    #[error("unknown number {0} in a field")]
    Number(i32),
    /// Reads and writes in one multi.
    #[error("a multi mixes reads and writes")]
    Mixed,
    /// No such operation.
    #[error("unknown operation {0}")]
    Operation(i32),
}

/// A frame that must not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {length} bytes, limit {limit}")]
pub struct FrameError {
    /// What it says of its length.
    pub length: i32,
    /// The limit in bytes.
    pub limit: usize,
}

/// Cuts the next whole frame off `buffer`; `None` if it has not arrived yet.
///
/// Errors: a negative length, or one above `limit`. The stream is useless then.
pub fn take_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes)) else { return Ok(None) };
    let size = usize::try_from(length).ok().filter(|size| *size <= limit).ok_or(FrameError { length, limit })?;
    if buffer.len() < 4 + size {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(size).freeze()))
}

/// Leaves room for a frame's length and says where; [`end_frame`] fills it.
pub fn begin_frame(out: &mut BytesMut) -> usize {
    out.put_i32(0);
    out.len()
}

/// Writes the length of the frame that began at `at`.
pub fn end_frame(out: &mut BytesMut, at: usize) {
    let length = (out.len() - at) as i32;
    out[at - 4..at].copy_from_slice(&length.to_be_bytes());
}

/// Reads the fields of one frame in order. What is left at the end is ignored, as ZooKeeper does.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of a frame.
    pub fn new(frame: &'a Bytes) -> Self {
        Self { frame, at: 0 }
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.frame.len() - self.at
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.frame[self.at..].first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.at += N;
        Ok(*bytes)
    }

    /// Four bytes.
    pub fn int(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn long(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// One byte; everything but 0 is true, as in Java.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.array::<1>().map(|[byte]| byte != 0)
    }

    fn span(&mut self) -> Result<Option<(usize, usize)>, DecodeError> {
        let length = self.int()?;
        if length == -1 {
            return Ok(None);
        }
        let size = usize::try_from(length).map_err(|_| DecodeError::Length(length))?;
        if size > self.left() {
            return Err(DecodeError::Length(length));
        }
        let from = self.at;
        self.at += size;
        Ok(Some((from, self.at)))
    }

    /// Bytes, sharing the frame; `None` is null.
    pub fn buffer(&mut self) -> Result<Option<Bytes>, DecodeError> {
        Ok(self.span()?.map(|(from, to)| self.frame.slice(from..to)))
    }

    /// A text; `None` is null. What is no UTF-8 becomes U+FFFD, as in Java.
    pub fn text_or_null(&mut self) -> Result<Option<String>, DecodeError> {
        Ok(self.span()?.map(|(from, to)| String::from_utf8_lossy(&self.frame[from..to]).into_owned()))
    }

    /// A text; null is empty.
    pub fn text(&mut self) -> Result<String, DecodeError> {
        self.text_or_null().map(Option::unwrap_or_default)
    }

    /// A text that must not be null.
    pub fn path(&mut self) -> Result<String, DecodeError> {
        self.text_or_null()?.ok_or(DecodeError::Null)
    }

    /// Texts that must not be null, in a list that must not be null either.
    pub fn paths(&mut self) -> Result<Vec<String>, DecodeError> {
        if self.clone().int()? == -1 {
            return Err(DecodeError::Null);
        }
        self.vector(4, Self::path)
    }

    /// A list; null is empty. Each item takes at least `least` bytes, which bounds what is allocated.
    pub fn vector<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.int()?;
        let Ok(size) = usize::try_from(count) else { return Ok(Vec::new()) };
        if size > self.left() / least.max(1) {
            return Err(DecodeError::Length(count));
        }
        (0..size).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_as_they_arrive() {
        let mut buffer = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\0\0\0\0\x03c"[..]);
        assert_eq!(take_frame(&mut buffer, 10).unwrap().as_deref(), Some(&b"ab"[..]));
        assert_eq!(take_frame(&mut buffer, 10).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(take_frame(&mut buffer, 10), Ok(None));
        buffer.extend_from_slice(b"de");
        assert_eq!(take_frame(&mut buffer, 10).unwrap().as_deref(), Some(&b"cde"[..]));
        assert_eq!(take_frame(&mut buffer, 10), Ok(None));
    }

    #[test]
    fn frames_beyond_the_limit_are_refused_before_they_arrive() {
        for (length, limit) in [(11, 10), (-1, 10), (i32::MAX, 1 << 20), (i32::MIN, 1 << 20)] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert_eq!(take_frame(&mut buffer, limit), Err(FrameError { length, limit }));
        }
    }

    #[test]
    fn frame_length_is_filled_in() {
        let mut out = BytesMut::from(&b"x"[..]);
        let at = begin_frame(&mut out);
        out.extend_from_slice(b"abc");
        end_frame(&mut out, at);
        assert_eq!(&out[..], b"x\0\0\0\x03abc");
    }

    #[test]
    fn null_and_empty_are_distinct() {
        let frame = Bytes::from_static(b"\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\0\0\0\x02\xc3\x28\xff\xff\xff\xff");
        let mut reader = Reader::new(&frame);
        assert_eq!(reader.buffer(), Ok(None));
        assert_eq!(reader.buffer(), Ok(Some(Bytes::new())));
        assert_eq!(reader.text_or_null(), Ok(None));
        assert_eq!(reader.text(), Ok("\u{fffd}(".into()), "what is no UTF-8 is replaced");
        assert_eq!(reader.clone().path(), Err(DecodeError::Null));
        assert_eq!(reader.vector(1, Reader::int), Ok(Vec::new()));
        assert_eq!((reader.left(), reader.bool()), (0, Err(DecodeError::Short)));
    }

    #[test]
    fn lengths_that_lie_are_refused_without_allocation() {
        for length in [-2, i32::MIN, 5, i32::MAX] {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(b"abcd");
            let frame = Bytes::from(bytes);
            assert_eq!(Reader::new(&frame).buffer(), Err(DecodeError::Length(length)));
        }
        let frame = Bytes::from_static(b"\x7f\xff\xff\xff\0\0\0\0");
        assert_eq!(Reader::new(&frame).vector(4, Reader::int), Err(DecodeError::Length(i32::MAX)));
    }
}
