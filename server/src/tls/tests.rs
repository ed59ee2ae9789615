//! Subjects as Java writes them, files that are not what they should be, and handshakes that must fail.

use std::{fs, path::PathBuf, time::Duration};

use quorate_model::NodeId;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    config::{TlsClient, TlsPeer},
    testing::Certificates,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn error(config: config::Tls) -> String {
    Tls::load(&config).expect_err("must be refused").to_string()
}

/// Writes a text beside the others and returns where.
fn put(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("a file");
    path
}

#[test]
fn subjects_are_written_as_javas_x500principal_writes_them() {
    // Made by openssl and read by OpenJDK 17: X509Certificate.getSubjectX500Principal().getName().
    let written = certificates(include_bytes!("subjects.pem")).expect("three certificates");
    let written: Vec<String> =
        written.iter().map(|der| Certificate::read(der).expect("a certificate").subject).collect();
    assert_eq!(
        written,
        [
            r"1.2.840.113549.1.9.1=#16056140622e63,CN=app\=1 \#x,OU=a+OU=b,O=Example\, Inc.,L=München,ST=Bayern,C=DE",
            r#"CN=\ lead and trail\ ,UID=u1+CN=Jöhn \"Q\" \<x\>\;\\\ ,DC=example,DC=org"#,
            r"2.5.4.42=#0c014a,2.5.4.4=#0c03446f65,2.5.4.12=#0c024472,STREET=Road 1,2.5.4.5=#13023737,CN=\#start",
        ]
    );
}

#[test]
fn a_certificate_speaks_for_its_member_under_every_id_that_it_gets() {
    let made = Certificates::new();
    let tls = Tls::load(&made.node(3)).expect("good");
    let shown = tls.peer().expect("is on").certificate();
    assert_eq!((shown.members.as_slice(), shown.subject.as_str()), (&[3][..], "CN=quorate node 3"));
    assert!(shown.hosts.contains(&"127.0.0.1".to_owned()));
    assert!(shown.speaks_for(NodeId(3)) && shown.speaks_for(NodeId(7 * MEMBERS_MAX + 3)));
    assert!(!shown.speaks_for(NodeId(2)) && !shown.speaks_for(NodeId(0)) && !shown.speaks_for(NodeId(3 * MEMBERS_MAX)));
    let client = tls.client().expect("is on").certificate();
    assert!(!client.speaks_for(NodeId(3)), "what clients see is of no use among peers");
    assert_eq!(tls.expiries().iter().map(|(door, _)| *door).collect::<Vec<_>>(), ["client", "peer"]);
}

#[test]
fn files_that_are_wrong_are_named_with_what_is_wrong() {
    let (made, other) = (Certificates::new(), Certificates::new());
    let good = made.node(1);
    let peer = |change: &dyn Fn(&mut TlsPeer)| {
        let mut tls = good.clone();
        change(&mut tls.peer);
        error(tls)
    };
    let client = |change: &dyn Fn(&mut TlsClient)| {
        let mut tls = good.clone();
        change(&mut tls.client);
        error(tls)
    };
    let missing = peer(&|peer| peer.key = "/nowhere/x.key".into());
    assert!(missing.starts_with("tls.peer.key is /nowhere/x.key, which cannot be read"), "{missing}");
    let swapped = peer(&|peer| peer.cert.clone_from(&peer.key));
    assert!(swapped.contains("holds a private key, and no certificate"), "{swapped}");
    let no_key = peer(&|peer| peer.key.clone_from(&peer.cert));
    assert!(no_key.contains("holds no private key in PEM"), "{no_key}");
    let foreign_key = client(&|client| client.key = other.node(1).client.key);
    assert!(foreign_key.contains("is not the key of"), "{foreign_key}");
    let foreign_ca = peer(&|peer| peer.ca = other.node(1).peer.ca);
    assert!(foreign_ca.contains("is not signed by the CA in"), "{foreign_ca}");
    let no_ca = client(&|client| client.ca.clone_from(&client.cert));
    assert!(no_ca.contains("which is no CA"), "{no_ca}");
    let ca = client(&|client| client.cert.clone_from(&client.ca));
    assert!(ca.contains("is the certificate of a CA"), "{ca}");
    // A client's side of the CA names no member.
    let nobody = made.issue("nobody", |peers, _| peers.server(1, &[], HOUR));
    let nobody = peer(&|peer| (peer.cert, peer.key) = nobody.clone());
    assert!(nobody.contains("names no member") || nobody.contains("another purpose"), "{nobody}");
    let old = made.issue("old", |_, clients| clients.server(1, &[], Duration::from_secs(1)));
    let old = client(&|client| (client.cert, client.key) = old.clone());
    assert!(old.contains(" expired on "), "{old}");
}

#[test]
fn a_key_that_others_may_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let made = Certificates::new();
    let config = made.node(1);
    assert_eq!(Tls::load(&config).expect("good").warnings(), Vec::<String>::new());
    fs::set_permissions(&config.peer.key, fs::Permissions::from_mode(0o644)).expect("ours");
    let warnings = Tls::load(&config).expect("good all the same").warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("chmod 600"), "{warnings:?}");
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning() {
    let made = Certificates::new();
    let mut config = made.node(1);
    let soon = made.issue("soon", |_, clients| clients.server(1, &[], 5 * 24 * HOUR));
    (config.client.cert, config.client.key) = soon;
    let warnings = Tls::load(&config).expect("good").warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("expires in 4 days"), "{warnings:?}");
}

#[test]
fn files_are_taken_again_when_they_changed_and_are_good() {
    let made = Certificates::new();
    let config = made.node(1);
    let tls = Tls::load(&config).expect("good");
    let door = tls.client().expect("is on");
    let before = door.certificate();
    tls.reload();
    assert_eq!(door.certificate(), before);
    // A certificate without its key: the old pair stays, and the operator is told.
    let fresh = made.issue("fresh", |_, clients| clients.server(9, &["fresh.example".into()], HOUR));
    let (cert, key) = (fs::read_to_string(&fresh.0).expect("made"), fs::read_to_string(&fresh.1).expect("made"));
    fs::write(&config.client.cert, cert).expect("ours");
    tls.reload();
    assert_eq!(door.certificate(), before);
    assert!(tls.warnings().iter().any(|text| text.contains("is not the key of")), "{:?}", tls.warnings());
    fs::write(&config.client.key, key).expect("ours");
    tls.reload();
    assert_eq!(door.certificate().hosts, ["fresh.example"]);
    assert!(tls.warnings().iter().all(|text| !text.contains("is not the key of")), "{:?}", tls.warnings());
}

/// One end dials the other in memory; what each says.
async fn meet(server: &Door, client: &Door, node: Option<u64>) -> (io::Result<Secured>, io::Result<Certificate>) {
    let (one, other) = tokio::io::duplex(1 << 16);
    let dial = async {
        let (mut stream, shown) = client.dial(Box::new(one), "127.0.0.1:1", node.map(NodeId)).await?;
        // A refusal of this end's own certificate comes only with the first answer.
        stream.write_all(b"?").await?;
        stream.read_u8().await.map_err(explained)?;
        Ok(shown)
    };
    let accept = async {
        let mut secured = server.accept(Box::new(other), Speaks::Http2).await?;
        secured.stream.read_u8().await?;
        secured.stream.write_all(b"!").await?;
        Ok(secured)
    };
    tokio::join!(accept, dial)
}

#[tokio::test]
async fn peers_trust_only_their_ca_and_the_member_that_they_expect() {
    let (made, other) = (Certificates::new(), Certificates::new());
    let door = |made: &Certificates, id| Tls::load(&made.node(id)).expect("good").peer().expect("is on");
    let (one, two, stranger) = (door(&made, 1), door(&made, 2), door(&other, 2));
    let (accepted, dialled) = meet(&one, &two, Some(1)).await;
    assert_eq!(accepted.expect("is let in").certificate.expect("was shown").members, [2]);
    assert_eq!(dialled.expect("is trusted").members, [1]);
    assert!(meet(&one, &two, None).await.1.is_ok(), "by its host's name");

    let error = meet(&one, &two, Some(3)).await.1.expect_err("another member").to_string();
    assert_eq!(error, "its certificate is for member 1, not for member 3");
    let (accepted, dialled) = meet(&one, &stranger, Some(1)).await;
    assert!(dialled.expect_err("another CA").to_string().contains("no CA that is trusted here"));
    assert!(accepted.is_err());
    let (one_end, other_end) = tokio::io::duplex(1 << 16);
    let (named, _) =
        tokio::join!(two.dial(Box::new(one_end), "elsewhere:1", None), one.accept(Box::new(other_end), Speaks::Http2));
    let named = named.err().expect("another host").to_string();
    assert!(named.contains("not for elsewhere, but for"), "{named}");
}

#[tokio::test]
async fn plain_text_is_answered_with_an_alert_or_let_in() {
    let made = Certificates::new();
    let mut config = made.node(1);
    for plain_too in [false, true] {
        config.client.plain_too = plain_too;
        let door = Tls::load(&config).expect("good").client().expect("is on");
        for speaks in [Speaks::Http2, Speaks::ZooKeeper, Speaks::Http1] {
            let (mut client, server) = tokio::io::duplex(1 << 10);
            client.write_all(b"ruok").await.expect("room");
            client.shutdown().await.expect("is open");
            let accepted = door.accept(Box::new(server), speaks).await;
            if plain_too && speaks != Speaks::Http1 {
                let mut secured = accepted.expect("is let in");
                let mut heard = [0; 4];
                secured.stream.read_exact(&mut heard).await.expect("all of it");
                assert_eq!((&heard, secured.certificate), (b"ruok", None));
            } else {
                assert!(accepted.expect_err("TLS alone").to_string().contains("plain text"));
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.expect("closed");
                assert_eq!(answer, ALERT);
            }
        }
    }
}

#[test]
fn certificates_with_the_keys_of_others_are_no_authorities() {
    let dir = TempDir::new().expect("a folder");
    let one = authority("one", HOUR).expect("made");
    let path = put(&dir, "ca.pem", &one.cert);
    assert!(files::roots("tls.peer", &path, one.cert.as_bytes()).is_ok());
    assert!(Authority::read(&one.cert, "no key").is_err());
    assert!(Authority::read("no certificate", &one.key).is_err());
}
