//! Who holds a port that we cannot have.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use procfs::net::{TcpNetEntry, TcpState, tcp, tcp6};
use procfs::process::{FDTarget, Process, all_processes};

/// Who listens on `address` or on one that overlaps it, in words. Reads all of /proc: for use after a bind failed.
pub fn who_listens(address: SocketAddr) -> String {
    let holders: Vec<String> = holders(address).iter().map(Holder::to_string).collect();
    if holders.is_empty() {
        return "by a program of another user, which only root can name (`ss -ltnp` as root)".to_owned();
    }
    holders.join(", ")
}

/// A process that listens on an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    address: SocketAddr,
    program: String,
    pid: i32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) listens on {}", self.program, self.pid, self.address)
    }
}

/// As far as this process may see: the descriptors of other users are hidden from all but root.
fn holders(address: SocketAddr) -> Vec<Holder> {
    let entries = tcp().into_iter().chain(tcp6()).flatten();
    let listening = entries.filter(|entry| entry.state == TcpState::Listen);
    let by_inode: HashMap<u64, SocketAddr> = listening
        .filter(|entry| overlaps(entry.local_address, address))
        .map(|TcpNetEntry { inode, local_address, .. }| (inode, local_address))
        .collect();
    let processes = all_processes().into_iter().flatten().flatten();
    let mut found: Vec<Holder> = processes.flat_map(|process| sockets_of(&process, &by_inode)).collect();
    found.sort();
    found.dedup();
    found
}

fn sockets_of(process: &Process, by_inode: &HashMap<u64, SocketAddr>) -> Vec<Holder> {
    let descriptors = process.fd().into_iter().flatten().flatten();
    let addresses = descriptors.filter_map(|descriptor| match descriptor.target {
        FDTarget::Socket(inode) => by_inode.get(&inode).copied(),
        _ => None,
    });
    let holder = |address| {
        let program = process.stat().map_or_else(|_| "a program".to_owned(), |stat| stat.comm);
        Holder { address, program, pid: process.pid }
    };
    addresses.map(holder).collect()
}

/// Whether the kernel refuses the one where the other listens: the same port, and the same address or a wildcard. An
/// IPv6 wildcard may stand for IPv4 as well (IPV6_V6ONLY off), which /proc does not tell.
fn overlaps(theirs: SocketAddr, ours: SocketAddr) -> bool {
    let (their_ip, our_ip) = (theirs.ip().to_canonical(), ours.ip().to_canonical());
    let dual = |ip: IpAddr| ip.is_ipv6() && ip.is_unspecified();
    let same_family = their_ip.is_ipv4() == our_ip.is_ipv4();
    theirs.port() == ours.port()
        && (their_ip == our_ip
            || dual(their_ip)
            || (same_family && (their_ip.is_unspecified() || our_ip.is_unspecified())))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_by_every_address_that_overlaps() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pid = std::process::id() as i32;
        for asked in [address, SocketAddr::new("0.0.0.0".parse().unwrap(), address.port())] {
            let found = holders(asked);
            assert!(found.iter().any(|holder| holder.pid == pid && holder.address == address), "{found:?}");
        }
        let other = SocketAddr::new("127.0.0.2".parse().unwrap(), address.port());
        assert!(holders(other).iter().all(|holder| holder.pid != pid));
    }

    #[test]
    fn a_dual_wildcard_overlaps_both_families() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(overlaps(address("[::]:25"), address("192.0.2.1:25")));
        assert!(overlaps(address("[::ffff:192.0.2.1]:25"), address("192.0.2.1:25")));
        assert!(overlaps(address("[2001:db8::1]:25"), address("[::]:25")));
        assert!(!overlaps(address("0.0.0.0:25"), address("[2001:db8::1]:25")));
        assert!(!overlaps(address("0.0.0.0:25"), address("0.0.0.0:26")));
    }
}
