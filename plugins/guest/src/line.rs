//! A line of waiters: first come, first served.
//!
//! One ephemeral node for each waiting call, named `q` and the call's id in a folder that may hold other things too, so
//! that the head of the line is found by one read however long it is, and who died has left it. The call itself is
//! parked under a tag of its folder and owner, so that a repeated acquire finds its place by another.
//!
//! Absent: what is waited for. A recipe looks at [`head`], decides, and takes the waiter out with [`leave`].

use crate::{calls, context, tree, CallId, Child, Failure, Json, Lifetime, Outcome, Owner, Park, Parked, TreeError};

/// One who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its node.
    pub name: String,
    /// The parked call.
    pub call: CallId,
    /// Who.
    pub owner: Owner,
    /// What was asked for.
    pub wish: Json,
    /// Bytes of the node.
    pub size: usize,
}

/// The name of a waiter's node.
#[must_use]
pub fn name(call: CallId) -> String {
    format!("q{call:020}")
}

/// The tag of an owner's parked call.
#[must_use]
pub fn tag(folder: &str, owner: &Owner) -> String {
    format!("{folder}/{}", owner.name())
}

/// The parked call by which this owner waits there.
#[must_use]
pub fn find(folder: &str, owner: &Owner) -> Option<Parked> {
    calls::list(Some(&tag(folder, owner)), None, 1).pop()
}

/// Puts the current call at the end of the lines of these folders.
///
/// # Errors
/// The tree's.
pub fn join(folders: &[String], owner: &Owner, wish: &Json) -> Result<(), Failure> {
    join_as(&name(context::zxid()), folders, owner, wish)
}

/// The same under a name of the recipe's, which sorts where the waiter belongs.
///
/// # Errors
/// The tree's.
pub fn join_as(name: &str, folders: &[String], owner: &Owner, wish: &Json) -> Result<(), Failure> {
    let mut data = wish.clone();
    data.set("call", context::zxid());
    data.set("owner", owner.name());
    let data = data.encode();
    for folder in folders {
        tree::create(&format!("{folder}/{name}"), &data, Lifetime::Ephemeral(owner.session))?;
    }
    Ok(())
}

/// Parks the current call. The note tells where it waits, for [`waits_in`] and for a repeated acquire.
#[must_use]
pub fn park(folders: &[String], owner: &Owner, name: &str, deadline_ms: Option<u64>) -> Outcome {
    let folders_json: Vec<Json> = folders.iter().map(|folder| folder.as_str().into()).collect();
    let note = crate::object([("in", folders_json.into()), ("name", name.into())]).encode();
    let tag = tag(folders.first().map_or("", String::as_str), owner);
    Outcome::Park(Park { tag, deadline_ms, note })
}

/// Where a parked call waits: its node's name, and the folders.
///
/// # Errors
/// `Internal`: the note is none of [`park`]'s.
pub fn waits_in(note: &[u8]) -> Result<(String, Vec<String>), Failure> {
    let note = Json::stored(note)?;
    let folders = note.get("in").as_list().unwrap_or_default();
    let folders = folders.iter().filter_map(|folder| Some(folder.as_text()?.to_owned())).collect();
    Ok((note.get("name").as_text().unwrap_or_default().to_owned(), folders))
}

/// The folder of a node that went with its session.
#[must_use]
pub fn folder_of(removed: &Child) -> Option<String> {
    removed.name.rsplit_once('/').map(|(folder, _)| folder.into())
}

/// The first in line.
///
/// # Errors
/// The tree's, and `Internal` for a node that is not ours.
pub fn head(folder: &str) -> Result<Option<Waiter>, Failure> {
    Ok(list(folder, None, 1)?.pop())
}

/// Waiters after the one of this name, in order.
///
/// # Errors
/// As [`head`].
pub fn list(folder: &str, after: Option<&str>, limit: u32) -> Result<Vec<Waiter>, Failure> {
    let found = match tree::scan(folder, Some(after.unwrap_or("q")), limit) {
        Err(TreeError::NoNode) => return Ok(Vec::new()),
        other => other?,
    };
    let ours = found.into_iter().take_while(|child| child.name.starts_with('q'));
    ours.map(|child| waiter(&child.name, &child.node.data)).collect()
}

/// Reads a waiter's node.
///
/// # Errors
/// `Internal` for a node that is not ours.
pub fn waiter(name: &str, data: &[u8]) -> Result<Waiter, Failure> {
    let wish = Json::stored(data)?;
    let read = || {
        let owner = Owner::parse(wish.get("owner").as_text()?)?;
        Some((wish.get("call").as_u64()?, owner))
    };
    let (call, owner) = read().ok_or_else(|| Failure::internal("a waiter's node does not read"))?;
    Ok(Waiter { name: name.into(), call, owner, wish, size: data.len() })
}

/// Takes a waiter out of its lines. What is gone already is fine: the server has removed it with its session.
///
/// # Errors
/// The tree's.
pub fn leave(name: &str, folders: &[String]) -> Result<(), Failure> {
    for folder in folders {
        match tree::delete(&format!("{folder}/{name}"), None) {
            Ok(()) | Err(TreeError::NoNode) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// Hands the place of a waiting call to the current one: the owner asked again under another number. The older call is
/// answered with `Conflict`.
///
/// # Errors
/// The tree's.
pub fn take_over(old: &Parked, deadline_ms: Option<u64>) -> Result<Outcome, Failure> {
    let (name, folders) = waits_in(&old.note)?;
    for folder in &folders {
        let path = format!("{folder}/{name}");
        let mut data = Json::stored(&tree::get(&path)?.data)?;
        data.set("call", context::zxid());
        tree::set(&path, &data.encode(), None)?;
    }
    calls::complete(old.id, Err(Failure::conflict("the same holder has asked again; that call has this one's place")));
    Ok(Outcome::Park(Park { tag: old.tag.clone(), deadline_ms, note: old.note.clone() }))
}
