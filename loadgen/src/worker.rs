//! One thread: its ring, and the crew that the ring works for.
//!
//! Each turn: what the time asks for, one send for each connection that has something to say, one wait, then all that
//! came of it; at its end the ledger is written and the counts are published.

use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringmx_ring::{Completion, Errno, Fd, Payload, Ring, Token, Uring};
use socket2::{Domain, Protocol, Socket, Type};

use crate::crew::Crew;
use crate::limits::{SEND_BUFFER_KEPT_MAX, TURN_WAIT_MAX};
use crate::secure::{Begin, Progress, Secure};
use crate::stats::ErrorKind;

const CONNECT: u8 = 1;
const RECV: u8 = 2;
const SEND: u8 = 3;
const CANCEL: u8 = 4;
const CLOSE: u8 = 5;

/// What threads tell each other. Each writes its own `live` once a turn.
#[derive(Debug, Default)]
pub struct Control {
    /// Set by a signal: end soon.
    pub interrupted: Arc<AtomicBool>,
    /// Set by a thread that met an error when the first one is to end the run.
    pub failed: AtomicBool,
    /// Set when the run is over, for whoever has no end of its own.
    pub finished: AtomicBool,
}

/// What a thread shows while it runs.
#[derive(Debug, Default)]
pub struct Live {
    pub accepted: AtomicU64,
    pub errors: AtomicU64,
    pub open: AtomicU64,
}

/// A thread's part in a run.
#[derive(Debug)]
pub struct Assignment {
    pub server: SocketAddr,
    /// The common start of all clocks.
    pub started: Instant,
    /// The first error ends the run.
    pub fail_fast: bool,
    pub control: Arc<Control>,
    pub live: Arc<Live>,
}

/// The ring's side of a connection. Its descriptor is closed only when nothing is under way on it.
#[derive(Debug, Default)]
struct Socketed {
    fd: Option<Fd>,
    /// Counts connections, so that a late completion of a former one is told apart.
    generation: u32,
    connecting: bool,
    recv_armed: bool,
    send_in_flight: bool,
    /// The crew wants it closed.
    closing: bool,
    close_queued: bool,
    /// Octets of the send under way that are already sent.
    sent_len: usize,
    /// The send buffer, while it is not in the ring.
    out: Vec<u8>,
    /// None in clear.
    tls: Option<Box<Secure>>,
}

impl Socketed {
    fn is_quiet(&self) -> bool {
        !self.connecting && !self.recv_armed && !self.send_in_flight
    }
}

pub struct Worker<'a, C> {
    ring: &'a mut Uring,
    server: SocketAddr,
    crew: C,
    sockets: Vec<Socketed>,
    started: Instant,
    /// Between TLS and the crew.
    plain: Vec<u8>,
}

impl<'a, C: Crew> Worker<'a, C> {
    /// Runs to the end and gives the crew back. Errors are of the ring and of the ledger.
    pub fn run(ring: &'a mut Uring, crew: C, assignment: Assignment) -> io::Result<C> {
        let Assignment { server, started, fail_fast, control, live } = assignment;
        let sockets = (0..crew.connections_count()).map(|_| Socketed::default()).collect();
        let mut worker = Self { ring, server, crew, sockets, started, plain: Vec::new() };
        let mut completions = Vec::new();
        let mut stopped = false;
        loop {
            let now = worker.now();
            let interrupted = control.interrupted.load(Ordering::Relaxed);
            let over = control.failed.load(Ordering::Relaxed) || control.finished.load(Ordering::Relaxed);
            if !stopped && (interrupted || over) {
                stopped = true;
                worker.crew.stop(now, interrupted);
            }
            worker.crew.advance(now);
            worker.open_all();
            worker.send_all();
            worker.close_all();
            if worker.crew.is_done() {
                return Ok(worker.crew);
            }
            let wait = Duration::from_nanos(worker.crew.wake_at(now).saturating_sub(worker.now()));
            worker.ring.turn(Some(wait.min(TURN_WAIT_MAX)), &mut completions)?;
            let now = worker.now();
            for completion in completions.drain(..) {
                worker.dispatch(now, completion);
            }
            worker.crew.account()?;
            let [accepted_count, errors_count, open_count] = worker.crew.progress();
            live.accepted.store(accepted_count, Ordering::Relaxed);
            live.errors.store(errors_count, Ordering::Relaxed);
            live.open.store(open_count, Ordering::Relaxed);
            if fail_fast && errors_count > 0 {
                control.failed.store(true, Ordering::Relaxed);
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn token(&self, kind: u8, slot: u32) -> Token {
        Token::new(kind, self.sockets[slot as usize].generation, slot)
    }

    fn open_all(&mut self) {
        for slot in std::mem::take(&mut self.crew.wishes().opening) {
            match self.new_socket(slot) {
                Ok(fd) => {
                    let socket = &mut self.sockets[slot as usize];
                    socket.fd = Some(fd);
                    socket.connecting = true;
                    let token = self.token(CONNECT, slot);
                    self.ring.connect(token, fd, self.server);
                }
                Err(error) => {
                    let errno = Errno(error.raw_os_error().unwrap_or(0));
                    self.crew.on_lost(slot, connect_error(errno), error.to_string().as_bytes());
                }
            }
        }
    }

    /// A blocking socket: the ring itself waits, and completes when it is done.
    fn new_socket(&self, slot: u32) -> io::Result<Fd> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = self.crew.source(slot) {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        self.crew.shape(slot, &socket)?;
        Ok(Fd(socket.into_raw_fd()))
    }

    /// One send for each connection that has something to say and is not sending.
    fn send_all(&mut self) {
        let now = self.now();
        let mut sending = std::mem::take(&mut self.crew.wishes().sending);
        for slot in sending.drain(..) {
            let socket = &mut self.sockets[slot as usize];
            if socket.send_in_flight {
                self.crew.postpone(slot);
                continue;
            }
            socket.out.clear();
            match &mut socket.tls {
                None => self.crew.transmit(slot, now, &mut socket.out),
                Some(tls) => {
                    self.plain.clear();
                    if tls.is_done() {
                        self.crew.transmit(slot, now, &mut self.plain);
                    } else {
                        self.crew.postpone(slot);
                    }
                    tls.transmit(&self.plain, &mut socket.out);
                }
            }
            if let (Some(fd), false) = (socket.fd, socket.out.is_empty()) {
                socket.send_in_flight = true;
                socket.sent_len = 0;
                let out = std::mem::take(&mut socket.out);
                let token = self.token(SEND, slot);
                self.ring.send(token, fd, out, 0);
            }
        }
        // Nothing was added meanwhile; its memory is used again.
        self.crew.wishes().sending = sending;
    }

    fn close_all(&mut self) {
        for slot in std::mem::take(&mut self.crew.wishes().closing) {
            let socket = &mut self.sockets[slot as usize];
            socket.closing = true;
            let (fd, recv_alone) = (socket.fd, !socket.connecting && !socket.send_in_flight);
            match fd {
                Some(_) if socket.is_quiet() => {}
                // The kernel finds one operation by its token, but walks over all there are to find those of a
                // descriptor.
                Some(_) if recv_alone => self.ring.cancel(self.token(CANCEL, slot), self.token(RECV, slot)),
                Some(fd) => self.ring.cancel_all(self.token(CANCEL, slot), fd),
                None => {}
            }
            self.close_when_quiet(slot);
        }
    }

    /// Close is a join: of the connect, the recv and the send.
    fn close_when_quiet(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        if !socket.closing || socket.close_queued || !socket.is_quiet() {
            return;
        }
        let token = Token::new(CLOSE, socket.generation, slot);
        match socket.fd {
            Some(fd) => {
                socket.close_queued = true;
                self.ring.close(token, fd);
            }
            None => self.closed(slot),
        }
    }

    fn closed(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        let mut out = std::mem::take(&mut socket.out);
        out.clear();
        *socket = Socketed { generation: socket.generation.wrapping_add(1), out, ..Socketed::default() };
        let now = self.now();
        self.crew.on_closed(slot, now);
    }

    fn dispatch(&mut self, now: u64, completion: Completion) {
        let Completion { token, result, more, payload } = completion;
        let slot = token.slot();
        let known = self.sockets.get(slot as usize);
        if known.is_none_or(|socket| self.token(token.kind(), slot) != token || socket.fd.is_none()) {
            if let Payload::Lent(lent) = payload {
                self.ring.give_back(lent);
            }
            return;
        }
        match token.kind() {
            CONNECT => self.on_connected(slot, result),
            RECV => self.on_received(now, slot, result, more, payload),
            SEND => self.on_sent(slot, result, payload),
            CLOSE => self.closed(slot),
            _ => {}
        }
        self.close_when_quiet(slot);
    }

    fn on_connected(&mut self, slot: u32, result: Result<u32, Errno>) {
        let socket = &mut self.sockets[slot as usize];
        socket.connecting = false;
        match result {
            Ok(_) if socket.closing => {}
            Ok(_) => {
                self.crew.on_connected(slot);
                if self.crew.tls().is_some_and(|terms| terms.begin == Begin::AtOnce) {
                    self.begin_tls(slot);
                }
                if self.crew.reads(slot) {
                    self.arm_recv(slot);
                }
            }
            Err(errno) => self.crew.on_lost(slot, connect_error(errno), errno.to_string().as_bytes()),
        }
    }

    fn begin_tls(&mut self, slot: u32) {
        let now = self.now();
        let Some(terms) = self.crew.tls() else { return };
        match Secure::begin(terms, now) {
            Ok(tls) => {
                self.sockets[slot as usize].tls = Some(tls);
                self.crew.want_flush(slot);
            }
            Err(error) => self.crew.on_lost(slot, ErrorKind::TlsFailed, error.as_bytes()),
        }
    }

    fn arm_recv(&mut self, slot: u32) {
        if let Some(fd) = self.sockets[slot as usize].fd {
            self.sockets[slot as usize].recv_armed = true;
            let token = self.token(RECV, slot);
            self.ring.recv(token, fd);
        }
    }

    fn on_received(&mut self, now: u64, slot: u32, result: Result<u32, Errno>, more: bool, payload: Payload) {
        self.sockets[slot as usize].recv_armed = more;
        if let Payload::Lent(lent) = payload {
            let octets = self.ring.bytes(&lent);
            match &mut self.sockets[slot as usize].tls {
                None => self.crew.on_received(slot, now, octets),
                Some(tls) => take_records(&mut self.crew, slot, now, tls, octets, &mut self.plain),
            }
            self.ring.give_back(lent);
            if self.crew.starts_tls(slot) {
                self.begin_tls(slot);
            }
        }
        match result {
            Ok(0) => self.crew.on_lost(slot, ErrorKind::ConnectionClosed, b""),
            Ok(_) | Err(Errno::NO_BUFFERS) => {}
            Err(errno) => self.crew.on_lost(slot, lost_error(errno), errno.to_string().as_bytes()),
        }
        if !more && self.crew.is_open(slot) {
            self.arm_recv(slot);
        }
    }

    fn on_sent(&mut self, slot: u32, result: Result<u32, Errno>, payload: Payload) {
        let socket = &mut self.sockets[slot as usize];
        socket.send_in_flight = false;
        let Payload::Returned(bytes) = payload else { return };
        let sent_len = match result {
            Ok(sent_len) => socket.sent_len + sent_len as usize,
            // The recv meets the end as well, after the reply that may say why; it reports.
            Err(_) if socket.recv_armed => return,
            Err(errno) => {
                self.crew.on_lost(slot, lost_error(errno), errno.to_string().as_bytes());
                return;
            }
        };
        if let (Some(fd), false, true) = (socket.fd, socket.closing, sent_len < bytes.len()) {
            socket.sent_len = sent_len;
            socket.send_in_flight = true;
            let token = self.token(SEND, slot);
            self.ring.send(token, fd, bytes, sent_len);
            return;
        }
        socket.out = bytes;
        if socket.out.capacity() > SEND_BUFFER_KEPT_MAX {
            socket.out = Vec::new();
        }
        self.crew.on_sent(slot);
    }
}

/// Records of the server's in, plaintext to the crew.
fn take_records<C: Crew>(
    crew: &mut C,
    slot: u32,
    now: u64,
    tls: &mut Secure,
    octets: &[u8],
    plain: &mut Vec<u8>,
) {
    plain.clear();
    match tls.receive(octets, now, plain) {
        Ok(Progress::Done { took_ns, resumed }) => crew.on_secured(slot, took_ns, resumed),
        Ok(Progress::None) => {}
        Err(error) => return crew.on_lost(slot, ErrorKind::TlsFailed, error.as_bytes()),
    }
    if !plain.is_empty() {
        crew.on_received(slot, now, plain);
    }
    if tls.has_output() {
        crew.want_flush(slot);
    }
}

fn connect_error(errno: Errno) -> ErrorKind {
    /// Of a source address: all its ports are taken.
    const ADDRESS_IN_USE: i32 = 98;
    const ADDRESS_NOT_AVAILABLE: i32 = 99;
    const TIMED_OUT: i32 = 110;
    const REFUSED: i32 = 111;
    match errno {
        Errno::PROCESS_FILES | Errno::SYSTEM_FILES => ErrorKind::NoDescriptor,
        Errno(ADDRESS_IN_USE | ADDRESS_NOT_AVAILABLE) => ErrorKind::NoLocalPort,
        Errno(TIMED_OUT) => ErrorKind::ConnectTimedOut,
        Errno(REFUSED) => ErrorKind::ConnectRefused,
        _ => ErrorKind::ConnectFailed,
    }
}

fn lost_error(errno: Errno) -> ErrorKind {
    match errno {
        Errno::CONNECTION_RESET | Errno::BROKEN_PIPE => ErrorKind::ConnectionReset,
        _ => ErrorKind::ConnectionFailed,
    }
}
