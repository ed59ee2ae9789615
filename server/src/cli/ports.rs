//! [`holder`]: who has a TCP port of this machine, as far as /proc tells.
//!
//! Best effort, for one sentence in an error: other users' processes do not show their sockets. Absent: other systems.

use std::{fs, path::Path};

/// The process that listens on a port: its id and its command, cut at 80 characters.
pub(super) fn holder(port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| listener(line, port)).collect::<Vec<_>>())
        .collect();
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd")).ok()?.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|to| wanted.iter().any(|socket| to == Path::new(socket.as_str())))
        });
        holds.then(|| (pid, command(pid)))
    })
}

/// A sentence's end for a taken port: ` by process 17 (nginx -g daemon)`, or nothing.
pub(super) fn by_whom(port: u16) -> String {
    holder(port).map_or_else(String::new, |(pid, command)| format!(" by process {pid} ({command})"))
}

/// An error about an address that cannot be bound, with who has its port.
pub(super) fn with_holder(text: String, address: &str) -> String {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    match port.map_or_else(String::new, by_whom) {
        by if by.is_empty() => text,
        by => format!("{text}; it is taken{by}"),
    }
}

/// The inode of a line of /proc/net/tcp that tells of a listener on the port.
fn listener(line: &str, port: u16) -> Option<String> {
    /// `TCP_LISTEN` of the kernel's include/net/tcp_states.h.
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = fields.get(1)?.rsplit_once(':')?.1;
    (*fields.get(3)? == LISTEN && u16::from_str_radix(local, 16) == Ok(port))
        .then(|| fields.get(9).copied())?
        .map(Into::into)
}

fn command(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = bytes
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty())
        .map(|w| String::from_utf8_lossy(w).into())
        .collect();
    let text: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let (pid, command) = holder(port).expect("this very process");
        assert_eq!(pid, std::process::id());
        assert!(!command.is_empty() && by_whom(port).contains(&pid.to_string()));
        drop(socket);
        assert_eq!(holder(port), None);
        assert_eq!(with_holder("x".into(), "no address"), "x");
    }
}
