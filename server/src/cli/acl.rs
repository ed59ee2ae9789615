//! `acl`: who may do what with a znode; zkCli's getAcl and setAcl.

use clap::Subcommand;
use quorate_model::{Acl, Identity, Permissions};

use super::{
    Globals, connect,
    exit::{Failure, Outcome},
    output,
};

/// Who may do what.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Show a znode's ACL.
    ///
    /// Example: quorate acl get /app
    Get {
        /// Which.
        path: String,
    },
    /// Replace a znode's ACL.
    ///
    /// Example: quorate acl set /app world:anyone:r,auth::cdrwa --auth digest:ann:secret
    Set {
        /// Which.
        path: String,
        /// scheme:id:cdrwa, with commas; schemes are world, auth, digest, ip and x509.
        acl: String,
        /// Only if this is the ACL's version (aversion).
        #[arg(long, short = 'v', default_value_t = -1, allow_negative_numbers = true)]
        version: i32,
    },
}

/// Runs a verb.
///
/// Errors: NotFound, Denied, Conflict; Usage for an ACL that is none.
pub async fn run(globals: &Globals, verb: Verb) -> Outcome {
    let output = globals.output();
    match verb {
        Verb::Get { path } => {
            let (acl, _) = connect::reader(globals).await?.get_acl(path).await?;
            output.show(&output::acl(&acl))
        }
        Verb::Set { path, acl, version } => {
            let acl = parse(&acl)?;
            let client = connect::writer(globals).await?;
            let set = client.set_acl(path, acl).version(version).await;
            client.close().await;
            let stat = set?;
            if output.is_json() { output.show(&output::stat(&stat)) } else { Ok(()) }
        }
    }
}

/// Reads `scheme:id:perms`, several with commas. The id may itself hold colons, as digests do, and commas, as subjects of
/// certificates do: what is no entry up to a comma goes on after it.
///
/// Errors: Usage, naming the entry.
pub fn parse(text: &str) -> Outcome<Vec<Acl>> {
    let entry = |text: &str| {
        let (scheme, rest) = text.split_once(':')?;
        let (id, permissions) = rest.rsplit_once(':')?;
        let permissions = Permissions::parse(permissions)?;
        (!scheme.is_empty()).then(|| Acl { permissions, identity: Identity::new(scheme, id) })
    };
    let mut acl = Vec::new();
    let mut begun = String::new();
    for part in text.split(',') {
        begun += part;
        match entry(&begun) {
            Some(entry) => {
                acl.push(entry);
                begun.clear();
            }
            None => begun.push(','),
        }
    }
    match begun.strip_suffix(',') {
        None => Ok(acl),
        Some(rest) => Err(Failure::usage(format!(
            "{rest:?} is no ACL entry; expected scheme:id:cdrwa, for example world:anyone:r"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_are_read_as_zkcli_writes_them() {
        for text in ["world:anyone:cdrwa", "digest:ann:c0ffee=:rw", "auth::cdrwa", "ip:10.0.0.0/8:r"] {
            let acl = parse(text).expect(text);
            let again: Vec<String> = acl.iter().map(ToString::to_string).collect();
            assert_eq!(parse(&again.join(",")).expect("printed"), acl);
        }
        assert_eq!(parse("world:anyone:r,auth::w").expect("two").len(), 2);
        let named = parse("x509:CN=app,OU=a:b,O=c:rw,auth::r").expect("two");
        assert_eq!((named.len(), named[0].identity.id.as_str()), (2, "CN=app,OU=a:b,O=c"));
        assert!(parse("world:anyone:r,x").is_err());
        for wrong in ["", "world", "world:anyone", "world:anyone:x", ":a:r"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
