//! Jute as raw bytes: numbers big-endian, strings and buffers behind their length, -1 for null, vectors behind their count.
//!
//! Written apart from core/jute on purpose. Absent: messages (`request.rs`, `reply.rs`).

/// Bytes being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put(pub Vec<u8>);

impl Put {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A byte: 0 or 1 for a bool, but any byte can be written.
    #[must_use]
    pub fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Four bytes.
    #[must_use]
    pub fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Eight bytes.
    #[must_use]
    pub fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A buffer; `None` is null.
    #[must_use]
    pub fn data(self, value: Option<&[u8]>) -> Self {
        match value {
            None => self.int(-1),
            Some(bytes) => self.int(i32::try_from(bytes.len()).expect("a test writes less than 2 GiB")).raw(bytes),
        }
    }

    /// A string.
    #[must_use]
    pub fn text(self, value: &str) -> Self {
        self.data(Some(value.as_bytes()))
    }

    /// A vector of strings.
    #[must_use]
    pub fn texts<T: AsRef<str>>(self, values: &[T]) -> Self {
        let count = i32::try_from(values.len()).expect("a test writes few");
        values.iter().fold(self.int(count), |put, value| put.text(value.as_ref()))
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The bytes behind their length: a frame.
    pub fn frame(&self) -> Vec<u8> {
        Self::new().data(Some(&self.0)).0
    }
}

/// Bytes being read. Every reading is `None` where the bytes don't suffice.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a>(pub &'a [u8]);

impl<'a> Get<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    /// A byte.
    pub fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// Four bytes.
    pub fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Eight bytes.
    pub fn long(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// A buffer; the inner `None` is null.
    pub fn data(&mut self) -> Option<Option<&'a [u8]>> {
        match self.int()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }

    /// A string; the inner `None` is null.
    pub fn text(&mut self) -> Option<Option<String>> {
        match self.data()? {
            None => Some(None),
            Some(bytes) => Some(Some(String::from_utf8(bytes.to_vec()).ok()?)),
        }
    }
}
