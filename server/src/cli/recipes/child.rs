//! A command that runs while something is held: started with the token, told when it is lost, gone before another has it.
//!
//! The command is a process group of its own. SIGINT, SIGTERM, SIGHUP and SIGQUIT go on to it; on a terminal it is the
//! foreground group, so that keys reach it by themselves. When what is held is about to be lost (no ping was confirmed for
//! two thirds of the session timeout) or is taken away, the group gets SIGTERM; SIGKILL follows before the cluster can have
//! granted it to another: a tenth of the timeout before the deadline, or, where it was taken away, a third of the timeout
//! after the SIGTERM. The command also dies with this process, however that ends: a step in between (`held-child`) asks the
//! system for it and becomes the command.
//!
//! The exit code is the command's, 128 and the signal's number where it died of one, 126 where it cannot be run, 127 where
//! there is none. Absent: what becomes of processes that the command leaves behind when it ends by itself.

use std::{
    ffi::OsString,
    fmt::Display,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use quorate_client::recipes::Loss;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::cli::{
    Globals, dev,
    exit::{Exit, Failure, Outcome},
};

/// How often it is looked whether what is held is still held.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The name of the verb that becomes the command.
const HELD_CHILD: &str = "held-child";

/// Arguments of `held-child`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: quorate held-child -- true")]
pub struct BecomeArgs {
    /// What to become.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Something held for as long as a command runs.
pub(super) trait Held {
    /// Why it is lost; `None`: it is not.
    fn loss(&self) -> Option<Loss>;
    /// How long it certainly holds.
    fn time_left(&self) -> Duration;
    /// How long it would if it had just been confirmed.
    fn timeout(&self) -> Duration;
}

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Command {
    words: Vec<OsString>,
    variables: Vec<(&'static str, String)>,
    input: Option<Vec<u8>>,
}

impl Command {
    pub(super) fn new(words: &[OsString]) -> Self {
        Self { words: words.to_vec(), variables: Vec::new(), input: None }
    }

    pub(super) fn variable(mut self, name: &'static str, value: impl Display) -> Self {
        self.variables.push((name, value.to_string()));
        self
    }

    /// What it reads on standard input; that of this process unless said.
    pub(super) fn input(mut self, input: Vec<u8>) -> Self {
        self.input = Some(input);
        self
    }
}

/// Signals that end a process, taken from now on.
pub(super) struct Signals {
    all: [(Signal, tokio::signal::unix::Signal); 4],
}

impl Signals {
    pub(super) fn take() -> io::Result<Self> {
        Ok(Self {
            all: [
                (Signal::INT, signal(SignalKind::interrupt())?),
                (Signal::TERM, signal(SignalKind::terminate())?),
                (Signal::HUP, signal(SignalKind::hangup())?),
                (Signal::QUIT, signal(SignalKind::quit())?),
            ],
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        let [a, b, c, d] = &mut self.all;
        tokio::select! {
            _ = a.1.recv() => a.0,
            _ = b.1.recv() => b.0,
            _ = c.1.recv() => c.0,
            _ = d.1.recv() => d.0,
        }
    }
}

/// The exit code of a process that died of a signal, as shells have it.
pub(super) fn of_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(255)
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

/// Runs a command to its end, and comes to its exit code. It is ended where what is held is lost.
///
/// Errors: Failed: no process can be started.
pub(super) async fn run(
    globals: &Globals,
    what: &str,
    held: &impl Held,
    command: Command,
    signals: &mut Signals,
) -> Outcome<u8> {
    let mut child = tokio::process::Command::new(std::env::current_exe()?);
    child.arg(HELD_CHILD).arg("--").args(&command.words).envs(command.variables);
    child.env(dev::PARENT_VARIABLE, std::process::id().to_string());
    child.process_group(0).stdin(if command.input.is_some() { Stdio::piped() } else { Stdio::inherit() });
    let mut child =
        child.spawn().map_err(|error| Failure::failed(format!("the command cannot be started: {error}")))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let group = group.ok_or_else(|| Failure::failed("the command has no process id"))?;
    // Not waited for yet, so the group is certainly this one. One that has ended needs no signal.
    let send = |signal| {
        let _ = kill_process_group(group, signal);
    };
    if command.input.is_none() {
        give_terminal(group);
    }
    let pipe = child.stdin.take();
    let feed = async {
        if let (Some(mut pipe), Some(input)) = (pipe, command.input) {
            // A command that reads less than all is its own affair.
            let _ = pipe.write_all(&input).await;
        }
        std::future::pending::<()>().await
    };
    tokio::pin!(feed);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            ended = child.wait() => {
                let status = ended?;
                return Ok(code(status));
            }
            signal = signals.next() => send(signal),
            () = &mut feed => {}
            _ = look.tick() => match (danger(held, told.map(|told| told.elapsed())), told) {
                (Danger::None, _) | (Danger::Near, Some(_)) => {}
                (Danger::Near, None) => {
                    told = Some(Instant::now());
                    let why = held.loss().map_or_else(|| "nothing is heard from the cluster".into(), |loss| loss.to_string());
                    globals.output().remark(&format!("quorate: {what} is being lost: {why}; the command is told to end"));
                    send(Signal::TERM);
                }
                (Danger::Here, _) => send(Signal::KILL),
            },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Danger {
    None,
    /// It is time to end.
    Near,
    /// It is time to be gone.
    Here,
}

/// `told`: how long ago the command was told to end.
fn danger(held: &impl Held, told: Option<Duration>) -> Danger {
    let timeout = held.timeout();
    match held.loss() {
        Some(Loss::Taken(_)) if told.is_none_or(|ago| ago < timeout / 3) => Danger::Near,
        Some(_) => Danger::Here,
        None => match held.time_left() {
            left if left <= timeout / 10 => Danger::Here,
            left if left <= timeout / 3 => Danger::Near,
            _ => Danger::None,
        },
    }
}

/// Makes a group that of the terminal's foreground, if this process is there.
fn give_terminal(group: Pid) {
    let terminal = io::stdin();
    if rustix::termios::tcgetpgrp(&terminal).is_ok_and(|front| front == rustix::process::getpgrp())
        && rustix::termios::tcsetpgrp(&terminal, group).is_ok()
    {
        // It may have wanted to read before it was allowed to.
        let _ = kill_process_group(group, Signal::CONT);
    }
}

/// Becomes a command that dies with the process that started this one.
///
/// Errors: Failed: that process is gone. Does not come back otherwise.
pub fn become_command(args: BecomeArgs) -> Outcome {
    dev::die_with_parent()?;
    let (program, words) = args.command.split_first().ok_or_else(|| Failure::usage("no command"))?;
    let error = std::process::Command::new(program).args(words).env_remove(dev::PARENT_VARIABLE).exec();
    let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
    Err(Failure::new(exit, format!("{}: {error}", program.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Option<Loss>, u64);

    impl Held for Fixed {
        fn loss(&self) -> Option<Loss> {
            self.0.clone()
        }

        fn time_left(&self) -> Duration {
            Duration::from_millis(self.1)
        }

        fn timeout(&self) -> Duration {
            Duration::from_secs(9)
        }
    }

    #[test]
    fn the_command_is_told_in_time_and_gone_before_the_deadline() {
        let second = Some(Duration::from_secs(1));
        let late = Some(Duration::from_secs(4));
        assert_eq!(danger(&Fixed(None, 8_000), None), Danger::None);
        assert_eq!(danger(&Fixed(None, 3_000), None), Danger::Near);
        assert_eq!(danger(&Fixed(None, 900), second), Danger::Here);
        assert_eq!(danger(&Fixed(None, 8_000), second), Danger::None, "the connection is back");
        assert_eq!(danger(&Fixed(Some(Loss::Session), 0), None), Danger::Here);
        let taken = Fixed(Some(Loss::Taken("x".into())), 0);
        assert_eq!(danger(&taken, None), Danger::Near);
        assert_eq!(danger(&taken, second), Danger::Near, "time to end");
        assert_eq!(danger(&taken, late), Danger::Here);
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(of_signal(Signal::INT), 130);
    }
}
