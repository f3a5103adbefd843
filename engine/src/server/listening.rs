//! Which TCP sockets of this network namespace listen.
//!
//! The kernel is asked by netlink, because it then walks over those that listen and no others. /proc/net/tcp6 makes it
//! walk over all sockets to find that no more of that family come: 10 ms and more beside many connections, on a core
//! that is a worker's. /proc is read where there is no netlink (sock_diag is a module, and containers may forbid it).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use procfs::net::{TcpNetEntries, TcpNetEntry};
use procfs::{FromBufReadSI, current_system_info};

/// In the column `st` of /proc/net/tcp.
const STATE_LISTEN: &str = "0A";

/// A listening socket of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) inode: u64,
    /// Who made the socket, or to whom it was given.
    pub(super) user: u32,
}

/// None that is known, where neither way tells any.
pub(super) fn listening() -> Vec<Listening> {
    by_netlink().unwrap_or_else(|_| by_proc())
}

fn by_netlink() -> io::Result<Vec<Listening>> {
    Ok([ask(AF_INET, SocketId::new_v4())?, ask(AF_INET6, SocketId::new_v6())?].concat())
}

/// Those of one family, by sock_diag(7).
fn ask(family: u8, any: SocketId) -> io::Result<Vec<Listening>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    let mut question = NetlinkMessage::from(SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::LISTEN,
        socket_id: any,
    }));
    question.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    question.finalize();
    let mut octets = vec![0; question.buffer_len()];
    question.serialize(&mut octets);
    socket.send(&octets, 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if take(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

/// Whether this was the last of the answer.
fn take(mut datagram: &[u8], found: &mut Vec<Listening>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                found.push((*socket).into());
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        // Messages begin at multiples of four.
        let len = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(len..).unwrap_or_default();
    }
    Ok(false)
}

impl From<InetResponse> for Listening {
    fn from(InetResponse { header, .. }: InetResponse) -> Self {
        let address = SocketAddr::new(header.socket_id.source_address, header.socket_id.source_port);
        Self { address, inode: header.inode.into(), user: header.uid }
    }
}

impl From<TcpNetEntry> for Listening {
    fn from(entry: TcpNetEntry) -> Self {
        Self { address: entry.local_address, inode: entry.inode, user: entry.uid }
    }
}

/// The kernel lists listening sockets before all others, and no more than those are read.
fn by_proc() -> Vec<Listening> {
    let of_file = |path: &str| -> Vec<Listening> {
        let Ok(file) = File::open(path) else { return Vec::new() };
        let is_listening = |line: &String| line.split_whitespace().nth(3) == Some(STATE_LISTEN);
        let mut lines = BufReader::new(file).lines().map_while(Result::ok);
        let mut text = lines.next().unwrap_or_default();
        for line in lines.take_while(is_listening) {
            text.push('\n');
            text.push_str(&line);
        }
        let entries = TcpNetEntries::from_buf_read(text.as_bytes(), current_system_info());
        entries.map_or_else(|_| Vec::new(), |entries| entries.0.into_iter().map(Listening::from).collect())
    };
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(of_file).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// More than one part of an answer holds.
    const LISTENERS_COUNT: usize = 600;

    #[test]
    fn both_ways_tell_the_same_of_sockets_that_stay() {
        let mut ours: Vec<TcpListener> =
            (0..LISTENERS_COUNT).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        ours.push(TcpListener::bind("0.0.0.0:0").unwrap());
        ours.extend(["[::1]:0", "[::]:0"].into_iter().filter_map(|address| TcpListener::bind(address).ok()));
        let (by_netlink, by_proc) = (by_netlink(), by_proc());
        for listener in &ours {
            let (address, inode) =
                (listener.local_addr().unwrap(), rustix::fs::fstat(listener).unwrap().st_ino);
            let of = |list: &[Listening]| list.iter().copied().find(|it| it.inode == inode);
            let known = of(&by_proc).expect("listed");
            assert_eq!(known.address, address);
            // A kernel without sock_diag, or a container that forbids it: then there is one way.
            if let Ok(by_netlink) = &by_netlink {
                assert_eq!(of(by_netlink), Some(known), "{address}");
            }
        }
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let mut found = Vec::new();
        take(&[1; 16], &mut found).unwrap_err();
        take(&[0; 3], &mut found).unwrap_err();
        assert!(!take(&[], &mut found).unwrap() && found.is_empty());
    }
}
