//! What systemd is told, and what it hands in.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use ringmx_ring::{BindError, Listening, adopt, take_handed_sockets};

/// The listening sockets that were handed in: sd_listen_fds(3). Before anything else is opened.
///
/// # Errors
/// For a socket that could not be kept to ourselves.
pub fn handed_sockets() -> Result<Vec<Listening>, BindError> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // The variables may have come through a process for which they were meant.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or_default();
    take_handed_sockets(count as usize).into_iter().map(adopt).collect()
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
