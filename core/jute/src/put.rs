//! Writing fields, one function for each kind; records are sequences of them.

use bytes::{BufMut, BytesMut};
use quorate_model::{Acl, Stat};

/// Bytes; `None` is null.
pub fn buffer(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => out.put_i32(-1),
        Some(bytes) => {
            out.reserve(4 + bytes.len());
            out.put_i32(bytes.len() as i32);
            out.put_slice(bytes);
        }
    }
}

/// A text.
pub fn text(out: &mut BytesMut, text: &str) {
    buffer(out, Some(text.as_bytes()));
}

/// A text or null.
pub fn text_or_null(out: &mut BytesMut, text: Option<&str>) {
    buffer(out, text.map(str::as_bytes));
}

/// A bool.
pub fn bool(out: &mut BytesMut, value: bool) {
    out.put_u8(value.into());
}

/// A list of texts.
pub fn texts<'a>(out: &mut BytesMut, items: impl ExactSizeIterator<Item = &'a str>) {
    out.put_i32(items.len() as i32);
    items.for_each(|item| text(out, item));
}

/// A list of ACL entries.
pub fn acl(out: &mut BytesMut, acl: &[Acl]) {
    out.put_i32(acl.len() as i32);
    for entry in acl {
        out.put_i32(entry.permissions.0.into());
        text(out, &entry.identity.scheme);
        text(out, &entry.identity.id);
    }
}

/// A stat: 68 bytes.
pub fn stat(out: &mut BytesMut, stat: &Stat) {
    let mut bytes = [0; 68];
    let mut rest = &mut bytes[..];
    rest.put_u64(stat.czxid.0);
    rest.put_u64(stat.mzxid.0);
    rest.put_u64(stat.ctime);
    rest.put_u64(stat.mtime);
    rest.put_i32(stat.version);
    rest.put_i32(stat.cversion);
    rest.put_i32(stat.aversion);
    rest.put_u64(stat.ephemeral_owner.0);
    rest.put_u32(stat.data_length);
    rest.put_u32(stat.num_children);
    rest.put_u64(stat.pzxid.0);
    out.put_slice(&bytes);
}
