//! A reply taken apart into named fields, so that two can be compared field by field.
//!
//! A field that each server chooses for itself (zxid, time, session) says so by its kind; the comparison relates those and
//! compares the others by value. What does not read as expected stays as hexadecimal bytes, which then have to be equal.
//! Absent: the comparison (`pair.rs`).

use crate::bytes::Get;

/// How the body of a reply reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No body.
    Nothing,
    /// A string: the path.
    Path,
    /// A path and a stat.
    PathStat,
    /// A stat.
    Stat,
    /// A buffer.
    Data,
    /// A buffer and a stat.
    DataStat,
    /// An ACL and a stat.
    AclStat,
    /// Names in no order.
    Names,
    /// Names in no order, and a stat.
    NamesStat,
    /// A number.
    Int,
    /// Pairs of scheme and user.
    Identities,
    /// Results of a multi or a multiRead.
    Multi,
    /// Whatever comes.
    Rest,
}

/// One field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Compared by value.
    Int(i64),
    /// Compared by value; null differs from empty.
    Text(Option<String>),
    /// Compared by value; null differs from empty.
    Data(Option<Vec<u8>>),
    /// Compared as a set: neither server promises an order. Doubles count.
    Names(Vec<String>),
    /// Of a change: renumbered in order.
    Zxid(i64),
    /// How far the log has got: between the same changes.
    Position(i64),
    /// Wall-clock ms of the change with this zxid: the same change has the same time, later changes no earlier one.
    Time {
        /// The change.
        zxid: i64,
        /// Its time.
        ms: i64,
    },
    /// Mapped one to one; 0 is nobody on both sides.
    Session(i64),
}

/// Name and value of one field.
pub type Field = (String, Value);

/// The fields of a body; `None` where it does not read.
pub fn fields(shape: Shape, body: &[u8]) -> Option<Vec<Field>> {
    let mut get = Get(body);
    let mut into = Vec::new();
    one(shape, &mut get, "", &mut into)?;
    get.0.is_empty().then_some(into)
}

fn one(shape: Shape, get: &mut Get<'_>, prefix: &str, into: &mut Vec<Field>) -> Option<()> {
    let name = |field: &str| format!("{prefix}{field}");
    match shape {
        Shape::Nothing => {}
        Shape::Path => into.push((name("path"), Value::Text(get.text()?))),
        Shape::PathStat => {
            into.push((name("path"), Value::Text(get.text()?)));
            stat(get, prefix, into)?;
        }
        Shape::Stat => stat(get, prefix, into)?,
        Shape::Data => into.push((name("data"), Value::Data(get.data()?.map(<[u8]>::to_vec)))),
        Shape::DataStat => {
            into.push((name("data"), Value::Data(get.data()?.map(<[u8]>::to_vec))));
            stat(get, prefix, into)?;
        }
        Shape::AclStat => {
            let each = |get: &mut Get<'_>| Some((get.int()?, get.text()?, get.text()?));
            let mut acl = (0..get.int()?).map(|_| each(get)).collect::<Option<Vec<_>>>()?;
            // What `auth` stands for comes in the order of a hash table.
            let alike = |(a, b, _): &(_, Option<String>, _), (c, d, _): &(_, _, _)| {
                (a, b) == (c, d) && b.as_deref() == Some("digest")
            };
            acl.chunk_by_mut(alike).for_each(<[_]>::sort);
            for (at, (perms, scheme, id)) in acl.into_iter().enumerate() {
                into.push((name(&format!("acl[{at}].perms")), Value::Int(perms.into())));
                into.push((name(&format!("acl[{at}].scheme")), Value::Text(scheme)));
                into.push((name(&format!("acl[{at}].id")), Value::Text(id)));
            }
            stat(get, prefix, into)?;
        }
        Shape::Names => names(get, prefix, into)?,
        Shape::NamesStat => {
            names(get, prefix, into)?;
            stat(get, prefix, into)?;
        }
        Shape::Int => into.push((name("number"), Value::Int(get.int()?.into()))),
        Shape::Identities => {
            let each = |get: &mut Get<'_>| Some(format!("{:?} {:?}", get.text()?, get.text()?));
            let mut who = (0..get.int()?).map(|_| each(get)).collect::<Option<Vec<_>>>()?;
            who.sort();
            into.push((name("identities"), Value::Names(who)));
        }
        Shape::Multi => loop {
            let at = into.iter().filter(|(name, _)| name.ends_with("type")).count();
            let prefix = format!("[{at}].");
            let (kind, done, err) = (get.int()?, get.byte()?, get.int()?);
            into.push((format!("{prefix}type"), Value::Int(kind.into())));
            into.push((format!("{prefix}done"), Value::Int(done.into())));
            into.push((format!("{prefix}err"), Value::Int(err.into())));
            if done != 0 {
                break;
            }
            let shape = match kind {
                1 => Shape::Path,
                15 => Shape::PathStat,
                2 | 13 => Shape::Nothing,
                5 => Shape::Stat,
                4 => Shape::DataStat,
                8 => Shape::Names,
                -1 => Shape::Int,
                _ => return None,
            };
            one(shape, get, &prefix, into)?;
        },
        Shape::Rest => {
            into.push((name("bytes"), Value::Data(Some(get.0.to_vec()))));
            get.0 = &[];
        }
    }
    Some(())
}

fn names(get: &mut Get<'_>, prefix: &str, into: &mut Vec<Field>) -> Option<()> {
    let mut names = (0..get.int()?).map(|_| get.text()?).collect::<Option<Vec<_>>>()?;
    names.sort();
    into.push((format!("{prefix}names"), Value::Names(names)));
    Some(())
}

fn stat(get: &mut Get<'_>, prefix: &str, into: &mut Vec<Field>) -> Option<()> {
    let mut push = |field: &str, value| into.push((format!("{prefix}stat.{field}"), value));
    let (czxid, mzxid, ctime, mtime) = (get.long()?, get.long()?, get.long()?, get.long()?);
    push("czxid", Value::Zxid(czxid));
    push("mzxid", Value::Zxid(mzxid));
    push("ctime", Value::Time { zxid: czxid, ms: ctime });
    push("mtime", Value::Time { zxid: mzxid, ms: mtime });
    push("version", Value::Int(get.int()?.into()));
    push("cversion", Value::Int(get.int()?.into()));
    push("aversion", Value::Int(get.int()?.into()));
    push("ephemeralOwner", Value::Session(get.long()?));
    push("dataLength", Value::Int(get.int()?.into()));
    push("numChildren", Value::Int(get.int()?.into()));
    push("pzxid", Value::Zxid(get.long()?));
    Some(())
}
