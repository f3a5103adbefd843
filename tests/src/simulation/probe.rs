//! A ring between the worker and the simulation: it counts, and stops the test at what no kernel would forgive.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringmx::limits::FLIGHTS_COUNT_MAX;
use ringmx_ring::sim::SimRing;
use ringmx_ring::{AcceptMode, BlockBuffer, Clock, Completion, Fd, Lent, Payload, Ring, Token};

use super::reference::queued;
use super::segments::Syncs;

thread_local! {
    static ASIDE_DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, what this thread does is the simulation's doing and not the worker's: for tests that count.
#[derive(Debug)]
pub struct Aside(());

impl Aside {
    pub fn enter() -> Self {
        ASIDE_DEPTH.set(ASIDE_DEPTH.get() + 1);
        Self(())
    }

    /// False also while the thread ends.
    pub fn is_inside() -> bool {
        ASIDE_DEPTH.try_with(|depth| depth.get() > 0).unwrap_or_default()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        ASIDE_DEPTH.set(ASIDE_DEPTH.get() - 1);
    }
}

/// What the worker has asked of its ring so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub turns: u64,
    pub accepts: u64,
    pub recvs: u64,
    pub sends: u64,
    pub closes: u64,
    pub cancels: u64,
    pub writes: u64,
    pub writes_completed: u64,
    /// Pieces of content to files of their own.
    pub content_writes: u64,
    pub syncs: u64,
    pub signals: u64,
    /// Receives that brought octets.
    pub received: u64,
    /// Octets of the longest send, and of all sends queued and not completed.
    pub send_len_max: usize,
    pub sending_len: usize,
    pub sending_len_max: usize,
    /// Ids of all messages that a reply took responsibility for, as soon as the worker asked to send it.
    pub promised: HashSet<String>,
    /// How far the clock goes on each time that it is read: work takes time.
    pub clock_step: Duration,
    clock_ahead: Duration,
    /// A write failed or fell short: no other may follow.
    pub write_failed: bool,
    accept_tokens: HashSet<Token>,
    /// Lengths.
    writes_in_flight: HashMap<Token, usize>,
    pub writes_in_flight_max: usize,
    /// Descriptors whose close is queued or done, until `accept` gives the number again.
    closed: HashSet<Fd>,
    /// Sockets that were sent to in this turn.
    sent_to: HashSet<Fd>,
}

impl Ledger {
    fn refuse_closed(&self, fd: Fd, operation: &str) {
        assert!(!self.closed.contains(&fd), "{operation} on {fd:?} behind its close");
    }

    fn completed(&mut self, completion: &Completion) {
        if self.accept_tokens.contains(&completion.token)
            && let Ok(fd) = completion.result
        {
            self.closed.remove(&Fd(fd as i32));
        }
        match &completion.payload {
            Payload::Lent(_) => self.received += 1,
            Payload::Written(_) => {
                // A piece of content is not among them.
                if let Some(len) = self.writes_in_flight.remove(&completion.token) {
                    self.writes_completed += 1;
                    self.write_failed |= completion.result != Ok(len as u32);
                }
            }
            Payload::Returned(bytes) => self.sending_len = self.sending_len.saturating_sub(bytes.len()),
            Payload::None => {}
        }
    }
}

/// Files of large messages.
pub struct Content {
    pub fds: Rc<RefCell<HashSet<Fd>>>,
    /// Synced in the place of one that is not to be.
    pub decoy: Fd,
}

/// The ring of a worker under test.
pub struct Probe {
    ring: SimRing,
    ledger: Rc<RefCell<Ledger>>,
    syncs: Syncs,
    /// The worker's bell is one of the real kernel; in the simulation it is `wake`.
    bell: Fd,
    wake: Fd,
    all_durable: bool,
    content: Content,
}

impl Probe {
    /// `all_durable`: somebody waits for each write.
    pub fn new(
        ring: SimRing,
        syncs: Syncs,
        bell: Fd,
        wake: Fd,
        all_durable: bool,
        content: Content,
    ) -> (Self, Rc<RefCell<Ledger>>) {
        let ledger = Rc::default();
        (Self { ring, ledger: Rc::clone(&ledger), syncs, bell, wake, all_durable, content }, ledger)
    }
}

impl Ring for Probe {
    fn clock(&mut self) -> Clock {
        let Clock { monotonic, unix } = self.ring.clock();
        let mut ledger = self.ledger.borrow_mut();
        let step = ledger.clock_step;
        ledger.clock_ahead += step;
        Clock { monotonic: monotonic + ledger.clock_ahead, unix: unix + ledger.clock_ahead }
    }

    fn turn(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let _aside = Aside::enter();
        let first = completions.len();
        self.ring.turn(timeout, completions)?;
        let mut ledger = self.ledger.borrow_mut();
        ledger.turns += 1;
        ledger.sent_to.clear();
        completions[first..].iter().for_each(|completion| ledger.completed(completion));
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.ring.has_more()
    }

    fn accept(&mut self, token: Token, listener: Fd, mode: AcceptMode) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        ledger.accepts += 1;
        ledger.accept_tokens.insert(token);
        self.ring.accept(token, listener, mode);
    }

    fn recv(&mut self, token: Token, socket: Fd) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        ledger.refuse_closed(socket, "recv");
        ledger.recvs += 1;
        self.ring.recv(token, socket);
    }

    fn recv_once(&mut self, token: Token, socket: Fd) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        ledger.refuse_closed(socket, "recv");
        ledger.recvs += 1;
        self.ring.recv_once(token, socket);
    }

    fn send(&mut self, token: Token, socket: Fd, bytes: Vec<u8>, sent_len: usize) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        ledger.refuse_closed(socket, "send");
        assert!(ledger.sent_to.insert(socket), "two sends on {socket:?} in one turn");
        assert!(sent_len < bytes.len(), "a send of nothing on {socket:?}");
        ledger.sends += 1;
        ledger.promised.extend(queued(&bytes[sent_len..]));
        ledger.send_len_max = ledger.send_len_max.max(bytes.len());
        ledger.sending_len += bytes.len();
        ledger.sending_len_max = ledger.sending_len_max.max(ledger.sending_len);
        self.ring.send(token, socket, bytes, sent_len);
    }

    fn shutdown_write(&mut self, socket: Fd) {
        let _aside = Aside::enter();
        self.ledger.borrow().refuse_closed(socket, "shutdown_write");
        self.ring.shutdown_write(socket);
    }

    fn close(&mut self, token: Token, fd: Fd) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        ledger.refuse_closed(fd, "close");
        ledger.closes += 1;
        ledger.closed.insert(fd);
        self.ring.close(token, fd);
    }

    fn cancel(&mut self, token: Token, target: Token) {
        let _aside = Aside::enter();
        self.ledger.borrow_mut().cancels += 1;
        self.ring.cancel(token, target);
    }

    fn cancel_all(&mut self, token: Token, fd: Fd) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        ledger.refuse_closed(fd, "cancel_all");
        ledger.cancels += 1;
        self.ring.cancel_all(token, fd);
    }

    fn write(&mut self, token: Token, file: Fd, offset: u64, bytes: BlockBuffer, durable: bool) {
        let _aside = Aside::enter();
        let mut ledger = self.ledger.borrow_mut();
        if self.content.fds.borrow().contains(&file) {
            // A sync makes it durable before a record names its file.
            ledger.content_writes += 1;
            return self.ring.write(token, file, offset, bytes, durable);
        }
        assert!(durable || !self.all_durable, "a write that is not durable");
        assert!(!ledger.write_failed, "a write at {offset} of {file:?} after one that failed");
        ledger.writes += 1;
        assert_eq!(ledger.writes_in_flight.insert(token, bytes.len()), None, "two writes of one name");
        let count = ledger.writes_in_flight.len();
        assert!(count <= FLIGHTS_COUNT_MAX, "{count} writes in flight");
        ledger.writes_in_flight_max = ledger.writes_in_flight_max.max(count);
        self.ring.write(token, file, offset, bytes, durable && self.syncs != Syncs::NoBatch);
    }

    fn sync(&mut self, token: Token, file: Fd) {
        let _aside = Aside::enter();
        self.ledger.borrow_mut().syncs += 1;
        let is_skipped = self.syncs == Syncs::NoContent && self.content.fds.borrow().contains(&file);
        self.ring.sync(token, if is_skipped { self.content.decoy } else { file });
    }

    fn signal(&mut self, token: Token, bell: Fd) {
        let _aside = Aside::enter();
        self.ledger.borrow_mut().signals += 1;
        self.ring.signal(token, bell);
    }

    fn await_signal(&mut self, token: Token, bell: Fd) {
        let _aside = Aside::enter();
        assert_eq!(bell, self.bell, "a worker waits for its own bell only");
        self.ring.await_signal(token, self.wake);
    }

    fn bytes(&self, lent: &Lent) -> &[u8] {
        self.ring.bytes(lent)
    }

    fn give_back(&mut self, lent: Lent) {
        let _aside = Aside::enter();
        self.ring.give_back(lent);
    }

    fn peer(&mut self, socket: Fd) -> Option<SocketAddr> {
        let _aside = Aside::enter();
        self.ring.peer(socket)
    }
}
