//! Listening sockets that are ours alone.
//!
//! Facts measured on Linux 6.18, which the order of the steps below rests on (`tests/tests/binding.rs` repeats them):
//! - A process of the same user may join another's SO_REUSEPORT group and takes a share of its connections. The kernel
//!   compares the sockets' owners, and `fchown` *before* `bind` sets the owner: a group of a private owner cannot be
//!   joined by anybody who does not copy that number. It needs CAP_CHOWN; behind `bind` it comes too late.
//! - A socket bound without SO_REUSEPORT meets EADDRINUSE if anybody, in any mode, listens on an overlapping address.
//!   The option can be set afterwards, before `listen`, to open a group.
//! - Without CAP_CHOWN one socket without SO_REUSEPORT, shared by all threads, is exclusive too.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Uid, fchown};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What keeps other programs off the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusivity {
    /// A SO_REUSEPORT group whose sockets belong to a private owner: one socket a thread, spread by the kernel.
    Sealed,
    /// One socket without SO_REUSEPORT, shared by all threads.
    Shared,
    /// Nothing: a SO_REUSEPORT group that processes of the same user may join.
    Open,
}

impl Exclusivity {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Shared => "shared",
            Self::Open => "open",
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Sealed => "sealed group, one socket per worker",
            Self::Shared => "one socket shared by all workers",
            Self::Open => "not exclusive: a group that others of the same user may join",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub address: SocketAddr,
    /// One socket for each, where the kernel can be made to keep others out of such a group.
    pub threads_count: usize,
    /// The private owner of sealed sockets: random, and the same for all addresses of one process.
    pub owner: u32,
    /// False to share the address with other processes of the same user.
    pub exclusive: bool,
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
    #[error("{address}: the socket that was handed in {why}")]
    Unfit { address: SocketAddr, why: &'static str },
    #[error("{address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

impl BindError {
    /// The same EADDRINUSE whether `bind` meets it or `listen`.
    pub fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { address },
            io::ErrorKind::PermissionDenied => Self::Permission { address },
            _ => Self::Other { address, source },
        }
    }
}

impl BindError {
    /// From which [`new`](Self::new) makes the same.
    pub fn errno(&self) -> i32 {
        let of = |errno: rustix::io::Errno| errno.raw_os_error();
        match self {
            Self::Taken { .. } => of(rustix::io::Errno::ADDRINUSE),
            Self::Permission { .. } => of(rustix::io::Errno::ACCESS),
            Self::Unfit { .. } => of(rustix::io::Errno::INVAL),
            Self::Other { source, .. } => source.raw_os_error().unwrap_or_else(|| of(rustix::io::Errno::IO)),
        }
    }
}

/// Binds an address for some threads and listens: exclusively, unless asked not to.
pub fn listen(request: &Request) -> Result<Listening, BindError> {
    listen_group(request).map_err(|error| BindError::new(request.address, error))
}

/// Takes a bound socket from somebody else, such as systemd, as the shared exclusive kind, and listens.
///
/// # Errors
/// Where it has SO_REUSEPORT: changing its owner now would not keep others out of its group.
pub fn adopt(socket: OwnedFd) -> Result<Listening, BindError> {
    let socket = Socket::from(socket);
    let address = (socket.local_addr().ok().and_then(|address| address.as_socket()))
        .unwrap_or_else(|| (std::net::Ipv4Addr::UNSPECIFIED, 0).into());
    let other = |error| BindError::new(address, error);
    let unfit = |why| Err(BindError::Unfit { address, why });
    if address.port() == 0 || socket.r#type().map_err(other)? != Type::STREAM {
        return unfit("is no bound TCP socket");
    }
    if socket.reuse_port().map_err(other)? {
        return unfit("has SO_REUSEPORT, so that other processes may join it: switch ReusePort= off");
    }
    if address.is_ipv6() && !socket.only_v6().map_err(other)? {
        return unfit("takes IPv4 too: write BindIPv6Only=ipv6-only, and a second address for IPv4");
    }
    // A ring that waits on a non-blocking socket is told EAGAIN.
    socket.set_nonblocking(false).map_err(other)?;
    socket.set_tcp_nodelay(true).map_err(other)?;
    socket.listen(BACKLOG).map_err(other)?;
    Ok(Listening { address, exclusivity: Exclusivity::Shared, sockets: vec![socket.into()] })
}

/// What any other program of this user would do to take a share of an address: a socket with SO_REUSEPORT, bound to it.
/// Gives true if the kernel lets it.
///
/// # Errors
/// Where the kernel refuses it for another reason than that the address is in use, such as a port below 1024.
pub fn can_be_joined(address: SocketAddr) -> io::Result<bool> {
    let socket = new_socket(address)?;
    socket.set_reuse_port(true)?;
    match socket.bind(&address.into()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

/// From now on the socket takes no new connection: SYNs are dropped, so that their clients try again, and find the
/// address closed or another server there. Who has begun to connect comes through.
pub fn refuse_new(socket: &TcpListener) -> io::Result<()> {
    // Classic BPF; the packet begins with the TCP header, whose octet 13 has the flags: drop SYN without ACK.
    const LOAD_OCTET: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN_AND_ACK: u32 = 0x12;
    const SYN: u32 = 0x02;
    let filter = [
        SockFilter::new(LOAD_OCTET, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN_AND_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    socket2::SockRef::from(socket).attach_filter(&filter)
}

fn listen_group(request: &Request) -> io::Result<Listening> {
    let &Request { address, threads_count, owner, exclusive } = request;
    let first = new_socket(address)?;
    let sealed = exclusive && threads_count > 1 && seal(&first, owner);
    if !exclusive {
        first.set_reuse_port(true)?;
    }
    first.bind(&address.into())?;
    // With port 0 the kernel has chosen one; the rest of the group must have the same.
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    if sealed || !exclusive {
        sockets[0].set_reuse_port(true)?;
        for _ in 1..threads_count {
            let socket = new_socket(address)?;
            if sealed && !seal(&socket, owner) {
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
    let exclusivity = match (exclusive, sealed) {
        (false, _) => Exclusivity::Open,
        (true, true) => Exclusivity::Sealed,
        (true, false) => Exclusivity::Shared,
    };
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

    fn request(threads_count: usize, exclusive: bool) -> Request {
        Request { address: (Ipv4Addr::LOCALHOST, 0).into(), threads_count, owner: 0x7a00_0001, exclusive }
    }

    #[test]
    fn nobody_joins_and_nobody_is_joined() {
        for threads_count in [1, 4] {
            let ours = listen(&request(threads_count, true)).expect("a free port");
            assert!(!can_be_joined(ours.address).expect("bind"), "{threads_count}");
            let again = Request { address: ours.address, owner: 0x7a00_0002, ..request(threads_count, true) };
            let second = listen(&again);
            assert!(matches!(second, Err(BindError::Taken { .. })), "{second:?}");
        }
    }

    #[test]
    fn what_is_not_exclusive_can_be_joined() {
        for threads_count in [1, 2] {
            let ours = listen(&request(threads_count, false)).expect("a free port");
            assert_eq!((ours.exclusivity, ours.sockets.len()), (Exclusivity::Open, threads_count));
            assert!(can_be_joined(ours.address).expect("bind"), "{threads_count}");
        }
    }

    #[test]
    fn a_socket_with_reuse_port_is_not_adopted() {
        let bound = |reuse_port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_port(reuse_port).expect("an option");
            let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
            socket.bind(&any.into()).expect("a free port");
            OwnedFd::from(socket)
        };
        assert!(matches!(adopt(bound(true)), Err(BindError::Unfit { .. })));
        let ours = adopt(bound(false)).expect("adopted");
        assert_eq!(ours.exclusivity, Exclusivity::Shared);
        assert!(!can_be_joined(ours.address).expect("bind"));
    }

    #[test]
    fn who_has_begun_to_connect_comes_through_and_nobody_else() {
        let ours = listen(&request(1, true)).expect("a free port");
        let before = TcpStream::connect(ours.address).expect("connected");
        refuse_new(&ours.sockets[0]).expect("a filter");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        // Its SYN is dropped: it neither connects nor is refused, for as long as the listener lives.
        assert_eq!(
            socket.connect(&ours.address.into()).expect_err("still connecting").raw_os_error(),
            Some(115)
        );
        let (accepted, _) = ours.sockets[0].accept().expect("the first");
        ours.sockets[0].set_nonblocking(true).expect("an option");
        let none = ours.sockets[0].accept().expect_err("nobody else");
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(accepted.peer_addr().expect("a peer"), before.local_addr().expect("an address"));
    }
}
