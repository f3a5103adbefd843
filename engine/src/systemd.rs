//! What systemd is told, and what it hands in.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use ringmx_ring::{BindError, Listening, adopt, take_handed_sockets};

/// A socket that was handed in.
#[derive(Debug)]
pub struct Handed {
    pub listening: Listening,
    /// `FileDescriptorName=` of its unit; the unit's own name where that says nothing.
    pub name: Option<String>,
}

/// The listening sockets that were handed in: sd_listen_fds_with_names(3). Before anything else is opened.
///
/// # Errors
/// For a socket that could not be kept to ourselves.
pub fn handed_sockets() -> Result<Vec<Handed>, BindError> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // The variables may have come through a process for which they were meant.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or_default();
    let mut names = names(std::env::var("LISTEN_FDNAMES").ok().as_deref(), count as usize).into_iter();
    let named = |socket| Ok(Handed { listening: adopt(socket)?, name: names.next() });
    take_handed_sockets(count as usize).into_iter().map(named).collect()
}

/// None unless there is one for each socket.
fn names(text: Option<&str>, count: usize) -> Vec<String> {
    let names: Vec<String> = text.unwrap_or_default().split(':').map(str::to_owned).collect();
    if names.len() == count { names } else { Vec::new() }
}

/// Tells the service manager, if there is one that wants to know: sd_notify(3).
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(Path::new(&path), state) {
        tracing::warn!(%error, state, "systemd cannot be told");
    }
}

fn send(path: &Path, state: &str) -> io::Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_where_there_are_as_many_as_sockets() {
        assert_eq!(names(Some("mx:submission"), 2), ["mx", "submission"]);
        assert_eq!(names(Some("mx"), 2), [""; 0]);
        assert_eq!(names(None, 2), [""; 0]);
    }

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listening = UnixDatagram::bind(&path).unwrap();
        let mut octets = [0; 64];
        send(&path, "READY=1").unwrap();
        assert_eq!(listening.recv(&mut octets).unwrap(), 7);
        assert_eq!(&octets[..7], b"READY=1");

        let name = format!("ringmx-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listening = UnixDatagram::bind_addr(&address).unwrap();
        send(Path::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(listening.recv(&mut octets).unwrap(), 10);
        assert!(send(Path::new("/nobody/here"), "READY=1").is_err());
    }
}
