//! `txn`: several changes that happen together or not at all, each a word or two per argument.
//!
//! `quorate txn --if 'version /a 3' 'set /a x' 'create /b' --else 'delete /b'`. Each argument is one comparison or step:
//! a verb, a path, and the rest of the argument as its value. Absent: reads within a transaction.

use bytes::Bytes;
use clap::Args;
use quorate_model::{Acl, Compare, Create, Reply, Step, StepReply, Write, Zxid};
use serde_json::{Value, json};

use super::{
    Globals, connect,
    exit::{Exit, Failure, Outcome},
    output::{self, id},
};

/// Arguments of `txn`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Comparisons: exists P, absent P, version P N, mzxid P Z, czxid P Z, data P TEXT, children P N.
Steps: create P [TEXT], ensure P [TEXT], set P TEXT, delete P [VERSION], check P VERSION, absent P, guard P TOKEN,
raise P COUNTER (of sequential children).
Example: quorate txn --if 'version /a 3' 'set /a x' 'delete /b' --else 'set /c lost'")]
pub struct TxnArgs {
    /// What is done, if all comparisons hold.
    steps: Vec<String>,
    /// What must hold; all of them.
    #[arg(long = "if", value_name = "COMPARISON")]
    compare: Vec<String>,
    /// What is done otherwise; exit code 4 then.
    #[arg(long = "else", value_name = "STEP")]
    or_else: Vec<String>,
}

/// Runs the transaction.
///
/// Errors: Usage, naming the argument; Conflict if the comparisons did not hold; the cluster's refusals.
pub async fn run(globals: &Globals, args: TxnArgs) -> Outcome {
    let all = |texts: &[String]| texts.iter().map(|text| step(text)).collect::<Outcome<Vec<_>>>();
    let (then, or_else) = (all(&args.steps)?, all(&args.or_else)?);
    let compare = args.compare.iter().map(|text| comparison(text)).collect::<Outcome<Vec<_>>>()?;
    if then.is_empty() && or_else.is_empty() {
        return Err(Failure::usage("there is nothing to do; name at least one step, for example 'set /a x'"));
    }
    let client = connect::writer(globals).await?;
    let done = client.submit_write(Write::Txn { compare, then, or_else }).await;
    client.close().await;
    let (succeeded, steps, zxid) = match done? {
        (Reply::Txn { succeeded, steps }, zxid) => (succeeded, steps, zxid),
        _ => return Err(Failure::failed("the server answered another question")),
    };
    let steps: Vec<Value> = steps.iter().map(reply).collect();
    if globals.output().is_json() {
        globals.output().show(&json!({"succeeded": succeeded, "zxid": id(zxid.0), "steps": steps}))?;
    } else {
        globals.output().show(&steps)?;
    }
    if succeeded { Ok(()) } else { Err(Failure::new(Exit::Conflict, "the comparisons did not hold")) }
}

fn reply(reply: &StepReply) -> Value {
    let (result, path, stat) = match reply {
        StepReply::Created { path, stat } => ("created", Some(path), Some(stat)),
        StepReply::Existed { stat } => ("existed", None, Some(stat)),
        StepReply::Deleted => ("deleted", None, None),
        StepReply::Kept => ("kept", None, None),
        StepReply::Set { stat } => ("set", None, Some(stat)),
        StepReply::Checked => ("checked", None, None),
    };
    json!({"result": result, "path": path, "stat": stat.map(output::stat)})
}

/// Verb, path, and the rest.
fn words(text: &str) -> (&str, String, Option<&str>) {
    let (verb, rest) = text.trim_start().split_once(' ').unwrap_or((text.trim(), ""));
    match rest.trim_start().split_once(' ') {
        Some((path, value)) => (verb, path.into(), Some(value)),
        None => (verb, rest.trim().into(), None),
    }
}

fn number<T: std::str::FromStr>(text: &str, value: Option<&str>) -> Outcome<T> {
    let parsed = value.and_then(|value| value.trim().parse().ok());
    parsed.ok_or_else(|| Failure::usage(format!("{text:?}: a number is expected after the path")))
}

fn comparison(text: &str) -> Outcome<Compare> {
    let (verb, path, value) = words(text);
    Ok(match verb {
        "exists" => Compare::Exists(path),
        "absent" => Compare::Absent(path),
        "version" => Compare::Version(path, number(text, value)?),
        "mzxid" => Compare::Mzxid(path, Zxid(number(text, value)?)),
        "czxid" => Compare::Czxid(path, Zxid(number(text, value)?)),
        "data" => Compare::Data(path, Bytes::copy_from_slice(value.unwrap_or_default().as_bytes())),
        "children" => Compare::NumChildren(path, number(text, value)?),
        _ => {
            let known = "exists, absent, version, mzxid, czxid, data or children";
            return Err(Failure::usage(format!("{text:?} is no comparison; it begins with {known}")));
        }
    })
}

fn step(text: &str) -> Outcome<Step> {
    let (verb, path, value) = words(text);
    let data = |value: Option<&str>| value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let znode = |path, value| Create { path, data: data(value), acl: Acl::open(), ..Create::default() };
    Ok(match verb {
        "create" => Step::Create(znode(path, value)),
        "ensure" => Step::CreateIfAbsent(znode(path, value)),
        "set" => Step::Set { path, data: data(value.or(Some(""))), version: -1 },
        "delete" if value.is_none() => Step::Delete { path, version: -1 },
        "delete" => Step::Delete { path, version: number(text, value)? },
        "check" => Step::Check { path, version: number(text, value)? },
        "absent" => Step::CheckAbsent { path },
        "guard" => Step::Guard { path, token: Zxid(number(text, value)?) },
        "raise" => Step::RaiseCounter { path, created: number(text, value)? },
        _ => {
            let known = "create, ensure, set, delete, check, absent, guard or raise";
            return Err(Failure::usage(format!("{text:?} is no step; it begins with {known}")));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_word_by_word() {
        assert_eq!(comparison("version /a 3").expect("one"), Compare::Version("/a".into(), 3));
        assert_eq!(comparison("data /a two words").expect("one"), Compare::Data("/a".into(), "two words".into()));
        assert_eq!(
            step("set /a x = 1").expect("one"),
            Step::Set { path: "/a".into(), data: Some("x = 1".into()), version: -1 }
        );
        assert_eq!(step("delete /a").expect("one"), Step::Delete { path: "/a".into(), version: -1 });
        assert_eq!(step("delete /a 4").expect("one"), Step::Delete { path: "/a".into(), version: 4 });
        assert_eq!(step("raise /l 9").expect("one"), Step::RaiseCounter { path: "/l".into(), created: 9 });
        assert_eq!(step("guard /l 77").expect("one"), Step::Guard { path: "/l".into(), token: Zxid(77) });
        for wrong in ["", "sit /a", "check /a", "guard /a x"] {
            assert_eq!(step(wrong).expect_err(wrong).exit, Exit::Usage);
        }
        assert!(comparison("version /a").is_err());
    }
}
