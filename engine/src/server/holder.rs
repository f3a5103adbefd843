//! Who holds a port that we cannot have.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use procfs::process::{FDTarget, Process, all_processes};

use super::listener::is_private_owner;
use super::listening::{Listening, listening};

const UNNAMED: &str = "a program of another user";

/// Who listens on `address` or on one that overlaps it, in words. Reads all of /proc: for use after a bind failed.
pub fn who_listens(address: SocketAddr) -> String {
    let (found, hidden) = holders(&overlapping(address));
    let named: Vec<String> = found.iter().map(Holder::to_string).collect();
    if let (true, Some(Listening { user, .. })) = (named.is_empty(), hidden.first()) {
        return format!(
            "by a program of the user with id {user}, which only root can name (`ss -ltnp` as root)"
        );
    }
    if named.is_empty() {
        return "by a socket that is bound and does not listen (`ss -tanp`, or a program that is just starting)"
            .to_owned();
    }
    named.join(", ")
}

/// Whether nobody has what keeps us off this address, as far as can be seen: the kernel closes what the ring of a
/// killed process holds a moment after the process is gone. Reads all of /proc.
pub(super) fn is_orphaned(address: SocketAddr) -> bool {
    let (found, hidden) = holders(&overlapping(address));
    let user = rustix::process::geteuid();
    // Of a sealed one only root sees whose it is.
    let may_be_nobodys =
        |socket: &Listening| user.is_root() || socket.user == user.as_raw() || is_private_owner(socket.user);
    found.is_empty() && hidden.iter().all(may_be_nobodys)
}

/// The same as a list, as far as this user may see.
pub fn listens_at(address: SocketAddr) -> Vec<Holder> {
    let (mut found, hidden) = holders(&overlapping(address));
    found.extend(hidden.into_iter().map(Holder::hidden));
    found
}

/// Who listens where we do without being one of us, though the kernel should have kept it off: what is `ours` is
/// addresses and the inodes of their sockets. IPv4 and IPv6 are looked at apart, as our sockets are.
pub(super) fn strangers(ours: &[(SocketAddr, Vec<u64>)]) -> Vec<Holder> {
    let is_strange = |entry: &Listening| {
        let touches = |(address, _): &(SocketAddr, Vec<u64>)| {
            address.is_ipv4() == entry.address.is_ipv4() && overlaps(entry.address, *address)
        };
        let is_ours = ours.iter().any(|(_, inodes)| inodes.contains(&entry.inode));
        !is_ours && ours.iter().any(touches)
    };
    let strange: Vec<Listening> = listening().into_iter().filter(is_strange).collect();
    if strange.is_empty() {
        return Vec::new();
    }
    let (mut found, hidden) = holders(&strange);
    found.extend(hidden.into_iter().map(Holder::hidden));
    found
}

/// A process that listens on an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub address: SocketAddr,
    pub program: String,
    /// 0 where it is hidden from this user.
    pub pid: i32,
}

impl Holder {
    fn hidden(socket: Listening) -> Self {
        Self { address: socket.address, program: UNNAMED.into(), pid: 0 }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "{} listens on {}", self.program, self.address),
            pid => write!(f, "{} (pid {pid}) listens on {}", self.program, self.address),
        }
    }
}

fn overlapping(address: SocketAddr) -> Vec<Listening> {
    listening().into_iter().filter(|entry| overlaps(entry.address, address)).collect()
}

/// As far as this process may see; and what is left: the descriptors of other users are hidden from all but root.
fn holders(sockets: &[Listening]) -> (Vec<Holder>, Vec<Listening>) {
    let by_inode: HashMap<u64, Listening> = sockets.iter().map(|it| (it.inode, *it)).collect();
    let mut hidden = by_inode.clone();
    let mut found = Vec::new();
    if !by_inode.is_empty() {
        for process in all_processes().into_iter().flatten().flatten() {
            found.extend(sockets_of(&process, &by_inode, &mut hidden));
        }
    }
    found.sort();
    found.dedup();
    (found, hidden.into_values().collect())
}

fn sockets_of(
    process: &Process,
    by_inode: &HashMap<u64, Listening>,
    hidden: &mut HashMap<u64, Listening>,
) -> Vec<Holder> {
    let descriptors = process.fd().into_iter().flatten().flatten();
    let sockets = descriptors.filter_map(|descriptor| match descriptor.target {
        FDTarget::Socket(inode) => by_inode.get(&inode),
        _ => None,
    });
    let holder = |&Listening { address, inode, .. }: &Listening| {
        hidden.remove(&inode);
        let program = process.stat().map_or_else(|_| UNNAMED.to_owned(), |stat| stat.comm);
        Holder { address, program, pid: process.pid }
    };
    sockets.map(holder).collect()
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
            let (found, _) = holders(&overlapping(asked));
            assert!(found.iter().any(|holder| holder.pid == pid && holder.address == address), "{found:?}");
        }
        let other = SocketAddr::new("127.0.0.2".parse().unwrap(), address.port());
        assert!(holders(&overlapping(other)).0.iter().all(|holder| holder.pid != pid));
        assert_eq!(strangers(&[(other, Vec::new())]), []);
        let strange = strangers(&[(address, Vec::new())]);
        assert!(strange.iter().any(|holder| holder.pid == pid), "{strange:?}");
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        assert_eq!(strangers(&[(address, vec![inode])]), []);
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
