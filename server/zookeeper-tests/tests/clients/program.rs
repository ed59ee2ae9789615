//! A client as a process: what it prints is read as it comes, and it is ended by its process id.
//!
//! Promises: no wait without a deadline; a failure shows what the program has said. Absent: which programs (`main.rs`).

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

/// A program's own waits end after two minutes; it has to be able to tell why.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running client.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Program {
    /// Starts it, with its input and output in our hands.
    pub(crate) fn start(mut command: Command) -> Result<Self, Failed> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let (sender, lines) = channel();
        follow(child.stdout.take(), sender.clone());
        follow(child.stderr.take(), sender);
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, said: Vec::new() })
    }

    /// Types a line.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failed> {
        let stdin = self.stdin.as_mut().ok_or("its input is closed")?;
        Ok(writeln!(stdin, "{line}").and_then(|()| stdin.flush())?)
    }

    /// Reads until a line contains this.
    pub(crate) fn line_with(&mut self, wanted: &str) -> Result<String, Failed> {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if line.contains(wanted) {
                return Ok(line);
            }
        }
        Err(format!("it does not say `{wanted}`, but:\n{}", self.said.join("\n")).into())
    }

    /// Closes its input, waits for its end, and requires that it was a good one.
    pub(crate) fn end(mut self) -> Result<(), Failed> {
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        // Until both pipes are closed: then it has ended, or is about to.
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.said.push(line);
        }
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let said = || Failed::from(format!("it ended with {status}:\n{}", self.said.join("\n")));
                return if status.success() { Ok(()) } else { Err(said()) };
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("it does not end:\n{}", self.said.join("\n")).into())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(pipe: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}
