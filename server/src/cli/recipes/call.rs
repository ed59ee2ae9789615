//! `call` and `query`: any method of any recipe, with arguments and answers as they are.

use quorate_client::Called;
use serde_json::{Value, json};

use crate::cli::{
    Globals, connect,
    exit::{Exit, Failure, Outcome},
    output::{self, id},
};

/// Arguments of `call`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: quorate call my-recipe hit '{\"key\":\"a\"}'")]
pub struct CallArgs {
    /// Which instance.
    instance: String,
    /// Which of its methods; `quorate recipe describe` lists them.
    method: String,
    /// Its arguments; - reads standard input. The standard recipes take a JSON object.
    #[arg(default_value = "")]
    args: String,
}

/// Arguments of `query`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: quorate query lock holders '{\"key\":\"nightly\"}'")]
pub struct QueryArgs {
    /// Which instance.
    instance: String,
    /// Which of its read-only methods; `quorate recipe describe` lists them.
    method: String,
    /// Its arguments; - reads standard input. The standard recipes take a JSON object.
    #[arg(default_value = "")]
    args: String,
    /// Take the node's own state: faster, works without a leader, may lag behind.
    #[arg(long)]
    local: bool,
}

/// Calls a method. The session ends with the verb, and with it what the call was granted.
///
/// Errors: NotFound for an unknown instance; what the recipe refuses. Exit code 1: no answer within --timeout.
pub async fn call(globals: &Globals, args: CallArgs) -> Outcome {
    let input = input(args.args)?;
    let client = connect::writer(globals).await?;
    let called = client.call(&args.instance, &args.method, input).await;
    client.close().await;
    let called = called.map_err(|error| match error.code() {
        quorate_model::Code::OperationTimeout => {
            Failure::new(Exit::Failed, format!("{error}: no answer within {:?}", globals.timeout()))
        }
        _ => error.into(),
    });
    show(globals, &called?)
}

/// Asks.
///
/// Errors: as [`call`].
pub async fn query(globals: &Globals, args: QueryArgs) -> Outcome {
    let client = connect::reader(globals).await?;
    let query = client.query(&args.instance, &args.method, input(args.args)?);
    let called = if args.local { query.local().await } else { query.await };
    show(globals, &called?)
}

fn input(args: String) -> Outcome<Vec<u8>> {
    if args != "-" {
        return Ok(args.into_bytes());
    }
    let mut input = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut input)?;
    Ok(input)
}

fn show(globals: &Globals, called: &Called) -> Outcome {
    let output = globals.output();
    if output.is_json() {
        let zxid = id(called.zxid.0);
        return match serde_json::from_slice::<Value>(&called.reply) {
            Ok(reply) => output.show(&json!({"zxid": zxid, "reply": reply})),
            Err(_) => {
                let (reply, encoding) = output::data(Some(&called.reply));
                output.show(&json!({"zxid": zxid, "reply": reply, "encoding": encoding}))
            }
        };
    }
    output.raw(&called.reply)?;
    if output.is_terminal() && !called.reply.is_empty() && !called.reply.ends_with(b"\n") {
        output.raw(b"\n")?;
    }
    Ok(())
}
