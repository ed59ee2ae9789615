//! The shape of the command line: verbs, help, flags.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_is_there_and_helps_with_an_example() {
    let command = Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    for wanted in [
        "dev",
        "serve",
        "cluster",
        "member",
        "session",
        "get",
        "set",
        "create",
        "rm",
        "deleteall",
        "ls",
        "tree",
        "stat",
        "watch",
        "sync",
        "txn",
        "acl",
        "quota",
        "whoami",
        "import",
        "export",
        "migrate",
        "check",
        "cert",
        "context",
        "snapshot",
        "recover",
        "lock",
        "semaphore",
        "elect",
        "queue",
        "barrier",
        "counter",
        "group",
        "recipe",
        "call",
        "query",
        "bench",
        "completion",
        "version",
        "options",
    ] {
        assert!(names.contains(&wanted), "{wanted} is missing");
    }
    let mut leaves: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    while let Some(mut verb) = leaves.pop() {
        if verb.has_subcommands() {
            leaves.extend(verb.get_subcommands().cloned());
            continue;
        }
        let help = verb.render_long_help().to_string();
        let plain = ["version", "options"].contains(&verb.get_name());
        assert!(plain || help.contains("Example: quorate"), "{} has no example:\n{help}", verb.get_name());
    }
}

#[test]
fn flags_of_every_verb_stay_out_of_help() {
    let mut command = Cli::command();
    assert!(!command.render_long_help().to_string().contains("--endpoints"));
    let parsed = Cli::try_parse_from(["quorate", "ls", "/a", "--endpoints", "h:1", "-o", "json", "--timeout", "2s"]);
    let globals = parsed.expect("well-formed").globals;
    assert_eq!(globals.endpoints.as_deref(), Some("h:1"));
    assert_eq!((globals.output, globals.timeout()), (Format::Json, Duration::from_secs(2)));
}

#[test]
fn durations_need_a_unit() {
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    assert!(duration("10").is_err() && duration("s").is_err() && duration("99999999999999999999s").is_err());
    assert!(duration("18446744073709551615h").is_err());
}
