//! What a worker works for: connections without sockets, which say what is to be opened, sent and closed.

use std::io;
use std::net::IpAddr;

use socket2::Socket;

use crate::secure::Terms;
use crate::stats::ErrorKind;

/// What the ring is to do next, by slot: filled by a crew, emptied by the worker each turn.
#[derive(Debug, Default)]
pub struct Wishes {
    pub opening: Vec<u32>,
    pub sending: Vec<u32>,
    pub closing: Vec<u32>,
}

/// All connections of a thread. Times are nanoseconds since the run's start.
pub trait Crew {
    fn connections_count(&self) -> u32;

    fn wishes(&mut self) -> &mut Wishes;

    /// Does what the time asks for.
    fn advance(&mut self, now: u64);

    /// When [`advance`](Self::advance) is to be called next at the latest.
    fn wake_at(&mut self, now: u64) -> u64;

    /// Begins nothing any more. `interrupted`: what is under way gets little time.
    fn stop(&mut self, now: u64, interrupted: bool);

    fn is_done(&self) -> bool;

    /// The end of a turn.
    fn account(&mut self) -> io::Result<()>;

    /// Accepted messages, errors and open connections so far, to be shown.
    fn progress(&self) -> [u64; 3];

    /// The address that a slot's connections come from, if that was asked for.
    fn source(&self, slot: u32) -> Option<IpAddr>;

    /// How connections are protected.
    fn tls(&self) -> Option<&Terms> {
        None
    }

    /// Last word on a slot's socket before it connects.
    fn shape(&self, _slot: u32, _socket: &Socket) -> io::Result<()> {
        Ok(())
    }

    /// Whether the slot takes what the server sends.
    fn reads(&self, _slot: u32) -> bool {
        true
    }

    fn is_open(&self, slot: u32) -> bool;

    /// The connection is up.
    fn on_connected(&mut self, slot: u32);

    fn on_received(&mut self, slot: u32, now: u64, input: &[u8]);

    /// The connection broke, or could not be opened, not by our will.
    fn on_lost(&mut self, slot: u32, kind: ErrorKind, reason: &[u8]);

    /// The descriptor is closed and nothing of the connection is under way.
    fn on_closed(&mut self, slot: u32, now: u64);

    /// What the slot sends now; called with what [`Wishes::sending`] names, when its last send is over.
    fn transmit(&mut self, slot: u32, now: u64, out: &mut Vec<u8>);

    /// The slot of [`Wishes::sending`] is still sending: [`on_sent`](Self::on_sent) asks again.
    fn postpone(&mut self, slot: u32);

    /// A send is over, and there may be more.
    fn on_sent(&mut self, slot: u32);

    /// There is something to send that is not the client's word.
    fn want_flush(&mut self, _slot: u32) {}

    /// True once behind the 220 to STARTTLS: the handshake is due.
    fn starts_tls(&mut self, _slot: u32) -> bool {
        false
    }

    /// The handshake is done.
    fn on_secured(&mut self, _slot: u32, _took_ns: u64, _resumed: bool) {}
}
