//! One connection's slot: the descriptor, its session, and which operations are under way.
//!
//! ```text
//! Open ──session over──> Flushing ──all sent──> Lingering ──end of stream, or bounds──> Ending ──no op left──> Closed
//!   └───────connection lost, time is up─────────────────────────────────────────────────^
//! ```

use std::time::Duration;

use ringmx_ring::Fd;

use crate::limits;
use crate::server::parked::Parked;
use crate::server::spill::Spill;
use crate::server::tls::Tls;
use crate::session::{Service, Session};

/// Where the connection stands. The session's own phase is its own affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The session goes on.
    Open,
    /// The session is over; its last replies go out until `until`.
    Flushing { until: Duration },
    /// Our direction is ended; what the client still sends is read and thrown away, at most `left_len` octets.
    Lingering { until: Duration, left_len: usize },
    /// Everything under way is cancelled; the descriptor is closed when nothing is left.
    Ending,
    /// The close is under way; its completion frees the slot.
    Closed,
}

/// The receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recv {
    /// No operation exists.
    Off,
    /// Multishot, or for a buffer at a time.
    Armed { once: bool },
    /// A cancel has been queued; the receive still owes its last completion.
    Cancelling,
    /// The client has ended its direction. Never armed again.
    Ended,
}

/// Why a connection ended before its session did, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    ClientClosed,
    ConnectionLost,
    TimedOut,
    TooMuchInput,
    RefusedTooMany,
    Stopped,
    TlsFailed,
    /// Under TLS, without close_notify: somebody may have cut it. RFC 8446 §6.1.
    Cut,
}

impl Reason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClientClosed => "client-closed",
            Self::ConnectionLost => "connection-lost",
            Self::TimedOut => "timed-out",
            Self::TooMuchInput => "too-much-input",
            Self::RefusedTooMany => "refused-too-many",
            Self::Stopped => "stopped",
            Self::TlsFailed => "tls-failed",
            Self::Cut => "no-close-notify",
        }
    }
}

/// Exactly one per accepted descriptor.
#[derive(Debug)]
pub(super) struct Connection<F> {
    pub(super) fd: Fd,
    pub(super) session: Session,
    /// None in clear.
    pub(super) tls: Option<Box<Tls>>,
    pub(super) listener_index: u32,
    /// Among the open connections of its listener: false if it was refused a session, and only lingers.
    pub(super) counted: bool,
    pub(super) state: State,
    pub(super) recv: Recv,
    /// Operations queued and not completed, of every kind. The descriptor is closed only at 0, so that no completion
    /// can meet another connection's slot.
    pub(super) ops_count: u8,
    /// A send is under way; its bytes are with the ring.
    pub(super) sending: bool,
    /// Octets of the send under way that are sent.
    pub(super) sent_len: u32,
    /// When the send under way began.
    pub(super) send_began_at: Duration,
    /// In the worker's list of connections that have something to send this turn.
    pub(super) touched: bool,
    pub(super) parked: Parked,
    /// Replies not yet given to the ring, before TLS. Without memory when empty.
    pub(super) out: Vec<u8>,
    /// The file that the session's content goes to, or went to while something is still written there.
    pub(super) spill: Option<Box<Spill<F>>>,
    /// It has sent content that went to a file, or announced some: it may be faster than the disk, and input is taken
    /// from it a buffer at a time.
    pub(super) streams: bool,
    /// Its session waits for a file, and it is in the worker's list of those.
    pub(super) awaits_file: bool,
    /// When its entry in the timer wheel comes up; entries that come up earlier are left-overs.
    pub(super) alarm_at: Duration,
    /// None while it goes on, and where the session ended it.
    pub(super) reason: Option<Reason>,
    /// Milliseconds of the worker's clock, which is enough for the log.
    pub(super) began_ms: u64,
}

impl<F> Connection<F> {
    pub(super) fn new(fd: Fd, session: Session, listener_index: u32, counted: bool, now: Duration) -> Self {
        Self {
            fd,
            session,
            tls: None,
            listener_index,
            counted,
            state: State::Open,
            recv: Recv::Off,
            ops_count: 0,
            sending: false,
            sent_len: 0,
            send_began_at: now,
            touched: false,
            parked: Parked::default(),
            out: Vec::new(),
            spill: None,
            streams: false,
            awaits_file: false,
            alarm_at: Duration::MAX,
            reason: None,
            began_ms: now.as_millis() as u64,
        }
    }

    /// The session must not be given input now: it waits for its commit, its file or a write, its client is made to
    /// wait, or its replies are not being read.
    pub(super) fn is_blocked(&self) -> bool {
        self.session.is_waiting()
            || self.session.is_delayed()
            || self.tls.as_ref().is_some_and(|tls| tls.is_listed)
            || self.out.len() >= limits::PENDING_OUTPUT_LEN_MAX
    }

    /// Whether the client will send no more.
    pub(super) fn is_input_over(&self) -> bool {
        self.recv == Recv::Ended || self.tls.as_ref().is_some_and(|tls| tls.is_ended())
    }

    /// Octets received and not consumed.
    pub(super) fn input_len(&self) -> usize {
        self.parked.len() + self.tls.as_ref().map_or(0, |tls| tls.held_len())
    }

    /// Whether there is something to send.
    pub(super) fn has_output(&self) -> bool {
        let ends = matches!(self.state, State::Flushing { .. });
        let has_records = |tls: &Tls| tls.has_output() || (ends && tls.owes_goodbye());
        !self.out.is_empty() || self.tls.as_deref().is_some_and(has_records)
    }

    /// Whether more input is wanted. What is parked without being blocked is less than a command line.
    pub(super) fn wants_input(&self) -> bool {
        match self.state {
            State::Open if self.session.is_delayed() => false,
            State::Open => !self.is_blocked() || self.input_len() < limits::PARKED_INPUT_LEN_MAX,
            State::Flushing { .. } | State::Lingering { .. } => true,
            State::Ending | State::Closed => false,
        }
    }

    /// When something must happen although nothing comes; `None` while only we are waited for.
    pub(super) fn deadline(&self, service: &Service) -> Option<Duration> {
        match self.state {
            State::Open if self.sending => Some(self.send_began_at + limits::SEND_TIME_MAX),
            State::Open => self.session.deadline(service),
            State::Flushing { until } | State::Lingering { until, .. } => Some(until),
            State::Ending | State::Closed => None,
        }
    }

    /// When to look at it next: at its deadline, but no later than `latest`.
    pub(super) fn next_alarm_at(&self, service: &Service, latest: Duration) -> Duration {
        self.deadline(service).map_or(latest, |deadline| deadline.min(latest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/tests/idle.rs` measures all that an idle connection costs; this is what we answer for.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection<()>>() <= 392, "{}", size_of::<Connection<()>>());
    }
}
