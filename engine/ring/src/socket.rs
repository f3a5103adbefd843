//! Listening sockets that are ours alone.
//!
//! Facts measured on Linux 6.18, which the order of the steps below rests on:
//! - A process of the same user may join another's SO_REUSEPORT group and takes a share of its connections. The kernel
//!   compares the sockets' owners, and `fchown` *before* `bind` sets the owner: a group of a private owner cannot be
//!   joined by anybody who does not copy that number. It needs CAP_CHOWN.
//! - A socket bound without SO_REUSEPORT meets EADDRINUSE if anybody, in any mode, listens on an overlapping address.
//!   The option can be set afterwards, before `listen`, to open a group.
//! - Without CAP_CHOWN one socket without SO_REUSEPORT, shared by all threads, is exclusive too.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use rustix::fs::{Gid, Uid, fchown};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What keeps other programs off the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusivity {
    /// A SO_REUSEPORT group whose sockets belong to a private owner: one socket a thread, spread by the kernel.
    Sealed,
    /// One socket without SO_REUSEPORT, shared by all threads.
    Shared,
}

/// The listening sockets of one address.
#[derive(Debug)]
pub struct Listening {
    /// As bound: the port is known even if 0 was asked for.
    pub address: SocketAddr,
    pub exclusivity: Exclusivity,
    /// One for each thread when sealed, else one for all.
    pub sockets: Vec<TcpListener>,
}

/// The address cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address} is taken: another program listens on it or on an address that overlaps it")]
    Taken { address: SocketAddr },
    #[error("{address}: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    Permission { address: SocketAddr },
    #[error("{address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

/// Binds `address` for `threads_count` threads, exclusively, and listens. `owner` is the private owner of sealed
/// sockets: random, and the same for all addresses of one process.
pub fn listen(address: SocketAddr, threads_count: usize, owner: u32) -> Result<Listening, BindError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { address },
        io::ErrorKind::PermissionDenied => BindError::Permission { address },
        _ => BindError::Other { address, source: error },
    };
    listen_group(address, threads_count, owner).map_err(failed)
}

fn listen_group(address: SocketAddr, threads_count: usize, owner: u32) -> io::Result<Listening> {
    let first = new_socket(address)?;
    let sealed = threads_count > 1 && seal(&first, owner);
    first.bind(&address.into())?;
    // With port 0 the kernel has chosen one; the rest of the group must have the same.
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    if sealed {
        sockets[0].set_reuse_port(true)?;
        for _ in 1..threads_count {
            let socket = new_socket(address)?;
            if !seal(&socket, owner) {
                return Err(io::Error::other("the owner of a second socket could not be set"));
            }
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            sockets.push(socket);
        }
    }
    // In core order: the index in the group is the order of listen().
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    let exclusivity = if sealed { Exclusivity::Sealed } else { Exclusivity::Shared };
    Ok(Listening { address, exclusivity, sockets: sockets.into_iter().map(TcpListener::from).collect() })
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not fail because a connection of the former process still lives. For two listening sockets
    // SO_REUSEADDR changes nothing on Linux.
    socket.set_reuse_address(true)?;
    // Inherited by accepted sockets, so that no connection pays a system call for it.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Gives the socket to the private owner. False without CAP_CHOWN.
fn seal(socket: &Socket, owner: u32) -> bool {
    fchown(socket.as_fd(), Some(Uid::from_raw(owner)), None::<Gid>).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    /// What any other program of the same user would do to join a group.
    fn join(address: SocketAddr) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(16)
    }

    #[test]
    fn nobody_joins_and_nobody_is_joined() {
        for threads_count in [1, 4] {
            let ours = listen(loopback(), threads_count, 0x7a00_0001).expect("a free port");
            let error = join(ours.address).expect_err("joined");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            let second = listen(ours.address, threads_count, 0x7a00_0002);
            assert!(matches!(second, Err(BindError::Taken { .. })), "{second:?}");
        }
    }

    #[test]
    fn a_group_spreads_connections() {
        let ours = listen(loopback(), 4, 0x7a00_0003).expect("a free port");
        if ours.exclusivity == Exclusivity::Shared {
            return eprintln!("not checked: sealing needs CAP_CHOWN");
        }
        let clients: Vec<_> =
            (0..200).map(|_| TcpStream::connect(ours.address).expect("connected")).collect();
        for socket in &ours.sockets {
            socket.set_nonblocking(true).expect("an open socket");
            let count = std::iter::from_fn(|| socket.accept().ok()).count();
            assert!(count > 20, "one listener of four got {count} of {}", clients.len());
        }
    }
}
