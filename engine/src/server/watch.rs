//! The proof that our addresses are ours, once at the start and then again and again: a connection to each of them must
//! be accepted by one of our workers, nobody may be able to join it, and nobody else may listen there.
//!
//! Once the sockets are sealed a joiner can hardly come. What still can come between are redirections by the packet
//! filter, programs at the kernel's socket look-up, sockets bound to one device, and root.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use ringmx_ring::{Exclusivity, can_be_joined};
use socket2::{Domain, Socket, Type};

use super::holder::strangers;
use super::{Board, Proof, Standing, Visit, Visitors};
use crate::limits::{OWN_ADDRESSES_COUNT_MAX, PROOF_TIME_MAX, SHOWN_GREETING_LEN_MAX};
use crate::readiness::{Obstacle, Readiness};

/// Who answers at an address of ours, if it is not us.
#[derive(Debug, thiserror::Error)]
#[error("{address} of the listener `{listener}` is bound, but not ours: {why}")]
pub struct Unproven {
    pub address: SocketAddr,
    pub listener: String,
    pub why: String,
}

/// What the watch is made of.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    pub board: Arc<Board>,
    pub visitors: Arc<Visitors>,
    pub readiness: Arc<Readiness>,
    pub interval: Duration,
}

/// The thread that looks. Dropped, it ends.
#[derive(Debug)]
pub struct Watch {
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What one connection met.
enum Answer {
    Ours,
    /// Nobody, and it may be better soon: the address cannot be reached from here, or the workers have no time.
    Unreachable(String),
    Other(String),
}

impl Watch {
    /// Looks every interval, first after one.
    ///
    /// # Errors
    /// Of the system, when there can be no thread.
    pub fn start(options: WatchOptions) -> io::Result<Self> {
        let (wake, wakes) = channel();
        let thread = Builder::new().name("watch".into()).spawn(move || watch(&options, &wakes))?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Looks now.
    pub fn poke(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.send(());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.wake.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watch over the addresses panicked");
        }
    }
}

fn watch(options: &WatchOptions, wakes: &Receiver<()>) {
    loop {
        match wakes.recv_timeout(options.interval) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => drop(options.look()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl WatchOptions {
    /// Looks at every address once; readiness, board and log say what it finds.
    ///
    /// # Errors
    /// The first address where somebody else answers, or could.
    pub fn look(&self) -> Result<(), Unproven> {
        let standings = self.board.standings();
        let (mut unproven, mut failed) = (None, false);
        let strangers = strangers_at(&standings);
        for standing in &standings {
            let (proof, is_other) = self.prove(standing, &strangers);
            failed |= matches!(proof, Proof::Failed(_));
            if let (Proof::Failed(why), true, None) = (&proof, is_other, &unproven) {
                let (address, listener) = (standing.address, standing.listener.clone());
                unproven = Some(Unproven { address, listener, why: why.clone() });
            }
            let Some(before) = self.board.prove(standing.id, proof.clone()) else { continue };
            let (listener, address) = (&standing.listener, standing.address);
            match &proof {
                Proof::Failed(why) if before != proof => {
                    tracing::error!(listener, %address, why, "an address of ours is not answered by us");
                }
                Proof::Ours if matches!(before, Proof::Failed(_)) => {
                    tracing::info!(listener, %address, "the address is answered by us again");
                }
                _ => {}
            }
        }
        if failed {
            self.readiness.set(Obstacle::PortLost);
        } else {
            self.readiness.clear(Obstacle::PortLost);
        }
        unproven.map_or(Ok(()), Err)
    }

    /// What is known now, and whether somebody else is to blame.
    fn prove(&self, standing: &Standing, strangers: &[(SocketAddr, String)]) -> (Proof, bool) {
        let failed = |why: String| (Proof::Failed(why), true);
        let is_open = standing.exclusivity == Exclusivity::Open;
        if !is_open {
            // An error tells nothing: behind the drop of privileges ports below 1024 are not for us either.
            if let Ok(true) = can_be_joined(standing.address) {
                return failed("the kernel lets other programs of this user join it".to_owned());
            }
            if let Some((_, who)) = strangers.iter().find(|(address, _)| *address == standing.address) {
                return failed(format!("{who} too"));
            }
        }
        for address in reachable(standing.address) {
            match ask(address, standing, &self.visitors) {
                Answer::Ours => {}
                // Whoever shares the address answers too, and may.
                Answer::Other(_) if is_open => {}
                Answer::Other(why) => return failed(why),
                Answer::Unreachable(why) => return (Proof::Failed(why), false),
            }
        }
        (Proof::Ours, false)
    }
}

/// Those who listen where we do, by our address.
fn strangers_at(standings: &[Standing]) -> Vec<(SocketAddr, String)> {
    let exclusive = standings.iter().filter(|standing| standing.exclusivity != Exclusivity::Open);
    let ours: Vec<_> = exclusive.map(|standing| (standing.address, standing.inodes.clone())).collect();
    let holder_at = |address: SocketAddr, inodes: &[u64]| {
        let others = ours.iter().filter(|(other, _)| *other != address).map(|(_, inodes)| inodes.clone());
        let known: Vec<u64> = others.flatten().chain(inodes.iter().copied()).collect();
        strangers(&[(address, known)]).first().map(|holder| (address, holder.to_string()))
    };
    if strangers(&ours).is_empty() {
        return Vec::new();
    }
    ours.iter().filter_map(|(address, inodes)| holder_at(*address, inodes)).collect()
}

/// The addresses by which this host reaches itself at `address`: of a wildcard the loopback first.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    if !address.ip().is_unspecified() {
        return vec![address];
    }
    let loopback: IpAddr =
        if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let own = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        // Without those that need a scope to be reached.
        let v6 = storage.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip);
        v4.or_else(|| v6.filter(|ip| !ip.is_unicast_link_local()).map(IpAddr::V6))
    });
    let asked = std::iter::once(loopback).chain(chosen(own, address));
    asked.map(|ip| SocketAddr::new(ip, address.port())).collect()
}

/// Which of this host's addresses are asked, besides the loopback.
fn chosen(own: impl Iterator<Item = IpAddr>, wildcard: SocketAddr) -> impl Iterator<Item = IpAddr> {
    let own: BTreeSet<IpAddr> =
        own.filter(|ip| ip.is_ipv4() == wildcard.is_ipv4() && !ip.is_loopback()).collect();
    own.into_iter().take(OWN_ADDRESSES_COUNT_MAX)
}

/// Connects from a port that the workers are told of, and sees whether one of them accepts.
fn ask(address: SocketAddr, standing: &Standing, visitors: &Visitors) -> Answer {
    let unreachable = |error: io::Error| Answer::Unreachable(format!("no connection to {address}: {error}"));
    let bound = || -> io::Result<(Socket, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        let mut source = address;
        source.set_port(0);
        socket.bind(&source.into())?;
        let source = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok((socket, source))
    };
    let (socket, source) = match bound() {
        Ok(bound) => bound,
        Err(error) => return unreachable(error),
    };
    let expected = visitors.expect(source, Visit::Look);
    if let Err(error) = socket.connect_timeout(&address.into(), PROOF_TIME_MAX) {
        return unreachable(error);
    }
    let mut stream = TcpStream::from(socket);
    let began = Instant::now();
    let mut greeting = Vec::new();
    // A worker of ours closes without a word.
    while let Some(left) = PROOF_TIME_MAX.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        if expected.seen_at() == Some(standing.id) {
            return Answer::Ours;
        }
        let mut octets = [0; 128];
        drop(stream.set_read_timeout(Some(left)));
        match stream.read(&mut octets) {
            Err(_) if greeting.is_empty() && expected.seen_at().is_none() => {
                let why =
                    format!("{address} took a connection, but no worker had it within {PROOF_TIME_MAX:?}");
                return Answer::Unreachable(why);
            }
            Ok(len)
                if len > 0 && greeting.len() < SHOWN_GREETING_LEN_MAX && !octets[..len].contains(&b'\n') =>
            {
                greeting.extend_from_slice(&octets[..len]);
            }
            Ok(len) => {
                greeting.extend_from_slice(&octets[..len]);
                break;
            }
            Err(_) => break,
        }
    }
    match expected.seen_at() {
        Some(id) if id == standing.id => Answer::Ours,
        Some(_) => Answer::Other(format!("another listener of this server answers at {address}")),
        None if greeting.is_empty() => {
            Answer::Other(format!("somebody else took a connection to {address} and ended it without a word"))
        }
        None => {
            let greeting = String::from_utf8_lossy(&greeting);
            let line: String =
                greeting.lines().next().unwrap_or_default().chars().take(SHOWN_GREETING_LEN_MAX).collect();
            Answer::Other(format!("another program answers at {address}: {}", line.escape_debug()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;
    use crate::config::Durability;
    use crate::server::PortId;

    fn options(listener: &TcpListener) -> WatchOptions {
        let board = Board::default();
        board.replace(vec![Standing {
            id: PortId(3),
            listener: "mx".into(),
            address: listener.local_addr().unwrap(),
            exclusivity: Exclusivity::Shared,
            durability: Durability::Sync,
            inodes: vec![rustix::fs::fstat(listener).unwrap().st_ino],
            proof: Proof::Missing,
        }]);
        WatchOptions {
            board: Arc::new(board),
            visitors: Arc::default(),
            readiness: Arc::new(Readiness::new()),
            interval: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_answer_by_us_is_told_from_one_by_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = options(&listener);
        let visitors = Arc::clone(&options.visitors);
        let answering = std::thread::spawn(move || {
            // A worker, another listener of ours, another program, and one that says nothing.
            for id in [Some(3), Some(4), None] {
                let (mut stream, peer) = listener.accept().unwrap();
                match id {
                    Some(id) => assert_eq!(visitors.arrived(peer, PortId(id)), Some(Visit::Look)),
                    None => write!(stream, "220 evil{}\r\n", "!".repeat(2 * SHOWN_GREETING_LEN_MAX)).unwrap(),
                }
            }
            drop(listener.accept());
        });
        options.look().unwrap();
        assert_eq!(options.board.standings()[0].proof, Proof::Ours);
        for part in ["another listener", "another program answers", "without a word"] {
            let unproven = options.look().unwrap_err().to_string();
            assert!(unproven.contains(part), "{unproven}");
            assert!(unproven.matches('!').count() < SHOWN_GREETING_LEN_MAX, "{unproven}");
            assert!(options.readiness.obstacles().any(|it| it == Obstacle::PortLost));
        }
        answering.join().unwrap();
        // Nobody listens any more: whoever comes gets the address.
        assert!(options.look().unwrap_err().to_string().contains("lets other programs"));
        let mut standings = options.board.standings();
        standings[0].exclusivity = Exclusivity::Open;
        options.board.replace(standings);
        // Nobody is to blame, but it is not proved.
        options.look().unwrap();
        assert!(
            matches!(&options.board.standings()[0].proof, Proof::Failed(why) if why.contains("no connection"))
        );
    }

    #[test]
    fn a_stranger_on_the_address_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = options(&listener);
        let mut standings = options.board.standings();
        standings[0].inodes.clear();
        options.board.replace(standings);
        let unproven = options.look().unwrap_err().to_string();
        assert!(unproven.contains(&format!("(pid {})", std::process::id())), "{unproven}");
    }

    #[test]
    fn a_wildcard_is_reached_by_each_own_address() {
        let all = reachable("0.0.0.0:25".parse().unwrap());
        assert_eq!(all[0], "127.0.0.1:25".parse().unwrap());
        assert!(all.iter().all(|address| address.is_ipv4() && address.port() == 25), "{all:?}");
        assert_eq!(reachable("[::]:25".parse().unwrap())[0], "[::1]:25".parse().unwrap());
        let one: SocketAddr = "192.0.2.1:25".parse().unwrap();
        assert_eq!(reachable(one), [one]);
        let many = (0..=OWN_ADDRESSES_COUNT_MAX as u8).map(|last| IpAddr::from([192, 0, 2, last]));
        assert_eq!(chosen(many, "0.0.0.0:25".parse().unwrap()).count(), OWN_ADDRESSES_COUNT_MAX);
    }
}
