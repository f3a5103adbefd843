//! What a worker tells the log: fixed-size events over a bounded queue. The control thread formats them; when it falls
//! behind, events are counted and dropped, never waited for. An event holds no content and no address of a recipient.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::id::{MessageId, SessionId};
use crate::security::{CipherSuite, Security};
use crate::stats::LINES_LEN;
use crate::time::Now;

/// Something that happened on a worker, with the time and the session it happened in.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub at: Now,
    /// Zero where it belongs to no session.
    pub session: SessionId,
    pub kind: Kind,
}

/// Why a session ended in which nobody wanted to send mail: no line of the log is made of it by default.
pub const CHECK: &str = "health check";

/// What happened. Names of the log lines, in the order of a session's life.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The client is known. `through`: the proxy, or the peer that used XCLIENT, that said so.
    Connected { client: SocketAddr, through: Option<SocketAddr> },
    /// A proxy did not say whose connection it brings.
    ProxyRefused { proxy: SocketAddr, why: &'static str },
    /// The TLS handshake is done.
    Secured { client: SocketAddr, security: Security, resumed: bool },
    /// There is no TLS where there should be, or no more: the connection is closed.
    TlsFailed { client: SocketAddr, why: &'static str },
    /// A fault that is not answered, because that is what the listener does about it.
    Noted { client: SocketAddr, fault: &'static str },
    /// A command or the content was refused: the client's fault.
    Faulted { client: SocketAddr, fault: &'static str, code: u16 },
    /// A rule refused: by its number in the configuration of this generation. `code`: 0 where it said nothing.
    Ruled {
        client: SocketAddr,
        generation: u32,
        rule: u32,
        stage: &'static str,
        action: &'static str,
        code: u16,
    },
    /// A message is durable and its 250 is on the way. `wait` is the time from end-of-data to the commit; `cipher`: of
    /// the connection, if it is protected.
    Accepted {
        message: MessageId,
        client: SocketAddr,
        cipher: Option<CipherSuite>,
        content_len: u64,
        recipients_count: u16,
        wait: Duration,
    },
    /// A message with line ends other than CRLF was taken, of which the log is to tell; `lookalike`: one of them stands
    /// beside a dot on a line of its own.
    BareNewlines { message: MessageId, client: SocketAddr, lookalike: bool },
    /// A message was not taken although the client did nothing wrong: our error.
    Failed { client: SocketAddr, error: &'static str, code: u16 },
    /// The session ended. `reason`: `quit`, the name of the last fault or error, or what became of the connection.
    Closed { client: SocketAddr, reason: &'static str, messages_count: u32, lasted: Duration },
    /// A commit of this worker's shard failed with this errno; the shard stops. So many messages in it were answered
    /// before, as `durability` of their listeners is not `sync`.
    ShardFailed { shard: u16, errno: i32, unsaved_count: u64 },
    /// A worker has no room for another connection and answered 421.
    Shed { client: SocketAddr },
    /// accept, or another operation that is not a client's doing, failed with this errno.
    RingError { operation: &'static str, errno: i32 },
}

/// One worker's queue to the log.
#[derive(Clone, Debug)]
pub struct EventQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: ArrayQueue<Event>,
    dropped_count: AtomicU64,
}

const _: () = assert!(align_of::<Inner>() >= LINES_LEN);

impl EventQueue {
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Inner { queue: ArrayQueue::new(capacity), dropped_count: AtomicU64::new(0) }))
    }

    /// Never waits: an event that finds the queue full is counted instead.
    pub fn push(&self, event: Event) {
        if self.0.queue.push(event).is_err() {
            self.0.dropped_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn pop(&self) -> Option<Event> {
        self.0.queue.pop()
    }

    /// Events dropped since the start.
    pub fn dropped_count(&self) -> u64 {
        self.0.dropped_count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_queue_full_is_counted() {
        let queue = EventQueue::new(2);
        let event = |errno| {
            let at = Now { monotonic: Duration::ZERO, unix: Duration::ZERO };
            Event { at, session: SessionId(0), kind: Kind::RingError { operation: "accept", errno } }
        };
        (0..5).for_each(|errno| queue.push(event(errno)));
        assert_eq!(queue.dropped_count(), 3);
        let told = std::iter::from_fn(|| queue.pop())
            .filter(|it| matches!(it.kind, Kind::RingError { errno: 0..2, .. }));
        assert_eq!(told.count(), 2, "the first ones");
    }
}
