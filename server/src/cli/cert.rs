//! `cert`: makes the certificates that TLS needs, and shows what one says.
//!
//! `ca` makes two CAs in one directory: `peer-ca` signs what nodes show each other, `client-ca` what nodes show clients and
//! clients show nodes, so that no client can ever pose as a node. `node` and `client` sign with them. Keys are written
//! with mode 0600, and nothing is ever overwritten: a renewed certificate goes to another directory (`--out`) and is moved
//! into place.
//!
//! Absent: a running cluster; these verbs work on files alone.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Globals,
    exit::{Exit, Failure, Outcome},
};
use crate::{
    json::hex,
    tls::{self, Authority, Certificate, Issued, MEMBERS_MAX},
};

/// The CA for nodes among each other.
const PEER_CA: &str = "peer-ca";

/// The CA for clients, and for nodes towards clients.
const CLIENT_CA: &str = "client-ca";

/// So that commands on the node's own machine can name it as they like.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Flags that all verbs that write have.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Where the CAs are.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Where to write; the directory of the CAs unless said.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long it is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// Certificates.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Make the two CAs: one for nodes among each other, one for clients.
    ///
    /// Example: quorate cert ca --dir certs
    Ca {
        /// Where to write; made if absent.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// How long they are valid.
        #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Make the certificates of a node: one for its peers, which names its member, and one for clients.
    ///
    /// Example: quorate cert node --dir certs --id 1 --host db1
    Node {
        /// Its member number, 1 to 1023, another for each node; its id in a new cluster.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..MEMBERS_MAX))]
        id: u64,
        /// Names and addresses by which it is reached, several with commas; localhost is always among them.
        #[arg(long, value_delimiter = ',', required = true)]
        host: Vec<String>,
        /// Where, and for how long.
        #[command(flatten)]
        place: Place,
    },
    /// Make the certificate of a client: in ACLs it is x509:CN=NAME.
    ///
    /// Example: quorate cert client --dir certs --name billing
    Client {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Where, and for how long.
        #[command(flatten)]
        place: Place,
    },
    /// Show what certificates say: whose they are, for which member and hosts, until when.
    ///
    /// Example: quorate cert show certs/node-1-peer.crt
    Show {
        /// PEM files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// Runs a verb.
///
/// Errors: Conflict for a file that is there already; NotFound for a CA that is not; Usage for what cannot be written down.
pub fn run(globals: &Globals, verb: Verb) -> Outcome {
    match verb {
        Verb::Ca { dir, days } => {
            let made = [(PEER_CA, "quorate peer CA"), (CLIENT_CA, "quorate client CA")]
                .map(|(file, name)| (file.to_owned(), tls::authority(name, valid(days)).map_err(Failure::usage)));
            write(globals, &dir, made)?;
            globals.output().remark(&format!(
                "Keep {0}/*.key where no server is: whoever has them can make members and clients.\n\
                 Next, for each node: quorate cert node --dir {0} --id 1 --host db1",
                dir.display()
            ));
            Ok(())
        }
        Verb::Node { id, host, place } => {
            let mut hosts: Vec<String> = host.iter().map(|host| bare(host)).collect::<Outcome<_>>()?;
            hosts.extend(LOCAL_HOSTS.map(String::from));
            hosts.sort();
            hosts.dedup();
            let (peers, clients) = (place.authority(PEER_CA)?, place.authority(CLIENT_CA)?);
            let made = [
                (format!("node-{id}-peer"), peers.peer(id, &hosts, valid(place.days)).map_err(Failure::usage)),
                (format!("node-{id}-client"), clients.server(id, &hosts, valid(place.days)).map_err(Failure::usage)),
            ];
            let out = place.out();
            write(globals, out, made)?;
            globals.output().remark(&format!(
                "Next, copy node-{id}-*.crt, node-{id}-*.key, {PEER_CA}.crt and {CLIENT_CA}.crt to that node, and into its \
                 configuration:\n\n\
                 [tls.peer]\ncert = \"node-{id}-peer.crt\"\nkey = \"node-{id}-peer.key\"\nca = \"{PEER_CA}.crt\"\n\n\
                 [tls.client]\ncert = \"node-{id}-client.crt\"\nkey = \"node-{id}-client.key\"\nca = \"{CLIENT_CA}.crt\"\n"
            ));
            Ok(())
        }
        Verb::Client { name, place } => {
            if name.is_empty() || name.len() > 64 || name.contains(['/', '\0']) {
                return Err(Failure::usage(format!("--name is {name:?}, expected 1 to 64 bytes without a slash")));
            }
            let made = place.authority(CLIENT_CA)?.client(&name, valid(place.days)).map_err(Failure::usage);
            let (file, out) = (format!("client-{name}"), place.out());
            write(globals, out, [(file.clone(), made)])?;
            globals.output().remark(&format!(
                "Next: quorate whoami --endpoints quorates://db1 --tls-ca {}/{CLIENT_CA}.crt --tls-cert {1}/{file}.crt \
                 --tls-key {1}/{file}.key",
                place.dir.display(),
                out.display()
            ));
            Ok(())
        }
        Verb::Show { files } => {
            let mut rows = Vec::new();
            for file in files {
                rows.extend(shown(&file)?);
            }
            globals.output().show(&rows)
        }
    }
}

impl Place {
    fn out(&self) -> &Path {
        self.out.as_deref().unwrap_or(&self.dir)
    }

    fn authority(&self, name: &str) -> Outcome<Authority> {
        let read = |end: &str| {
            let file = self.dir.join(format!("{name}.{end}"));
            fs::read_to_string(&file).map_err(|error| {
                let text =
                    format!("{}: {error}; make the CAs with `quorate cert ca`, or say where they are", file.display());
                Failure::new(Exit::NotFound, text)
            })
        };
        let (cert, key) = (read("crt")?, read("key")?);
        Authority::read(&cert, &key)
            .map_err(|why| Failure::usage(format!("the CA in {}: {why}", self.dir.join(name).display())))
    }
}

fn valid(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 86_400)
}

/// A host as a certificate names it: without port and brackets.
fn bare(host: &str) -> Outcome<String> {
    let text = host.trim().trim_matches(['[', ']']);
    let name = text.chars().all(|c| c.is_ascii_alphanumeric() || "-._*".contains(c)) && !text.is_empty();
    if name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(Failure::usage(format!("--host is {host:?}, expected a name or an address without a port")))
}

/// Writes all of them or, where one is there already, none.
fn write<const N: usize>(globals: &Globals, dir: &Path, made: [(String, Outcome<Issued>); N]) -> Outcome {
    let failed = |path: &Path, error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed(dir, error))?;
    let mut files = Vec::new();
    for (name, issued) in made {
        let Issued { cert, key } = issued?;
        files.push((dir.join(format!("{name}.crt")), cert, 0o644));
        files.push((dir.join(format!("{name}.key")), key, 0o600));
    }
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        let text = format!("{} is there already, and is not overwritten; write elsewhere with --out", path.display());
        return Err(Failure::new(Exit::Conflict, text));
    }
    for (path, text, mode) in &files {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(*mode)
            .open(path)
            .map_err(|error| failed(path, error))?;
        file.write_all(text.as_bytes()).map_err(|error| failed(path, error))?;
    }
    let rows: Vec<Value> = files.iter().map(|(path, ..)| json!({"written": path.display().to_string()})).collect();
    globals.output().show(&rows)
}

/// The certificates of a file.
fn shown(file: &Path) -> Outcome<Vec<Value>> {
    let pem = fs::read(file).map_err(|error| Failure::new(Exit::NotFound, format!("{}: {error}", file.display())))?;
    let found = tls::certificates(&pem).map_err(|why| Failure::usage(format!("{} {why}", file.display())))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    found
        .iter()
        .map(|der| {
            let said = Certificate::read(der).map_err(|why| Failure::usage(format!("{} {why}", file.display())))?;
            let kind = if said.authority { "CA" } else { "certificate" };
            Ok(json!({
                "file": file.display().to_string(),
                "kind": kind,
                "subject": said.subject,
                "issuer": said.issuer,
                "members": said.members,
                "hosts": said.hosts,
                "valid_from": tls::date(said.not_before),
                "valid_until": tls::date(said.not_after),
                "days_left": said.days_left(now),
                "sha256": hex(&Sha256::digest(der)),
            }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        assert_eq!(bare("[::1]").expect("an address"), "::1");
        assert_eq!(bare("*.db.example").expect("a pattern"), "*.db.example");
        for wrong in ["", "db1:2281", "a b", "ü"] {
            assert_eq!(bare(wrong).expect_err(wrong).exit, Exit::Usage);
        }
    }
}
