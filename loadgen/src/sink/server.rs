//! One thread of the sink: its ring, its listener, its sessions.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use ringmx_ring::{AcceptMode, Completion, Errno, Fd, Key, Payload, Ring, Slab, Token, Uring};

use super::session::Session;
use crate::limits::TURN_WAIT_MAX;

const ACCEPT: u8 = 1;
const RECV: u8 = 2;
const SEND: u8 = 3;
const CANCEL: u8 = 4;
const CLOSE: u8 = 5;

/// Replies that wait for a client to read them; beyond it the connection is dropped.
const OUT_LEN_MAX: usize = 256 << 10;

#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub messages_count: u64,
    pub connections_count: u64,
    /// CPU time of its threads.
    pub cpu_secs: f64,
}

#[derive(Debug)]
struct Connection {
    fd: Fd,
    session: Session,
    out: Vec<u8>,
    /// The buffer that is not in use, for the replies during a send.
    spare: Vec<u8>,
    sent_len: usize,
    recv_armed: bool,
    send_in_flight: bool,
    /// To be closed: at once when `broken`, else when everything is sent.
    closing: bool,
    broken: bool,
    cancelled: bool,
    close_queued: bool,
    /// In `Server::dirty`.
    dirty: bool,
}

pub(super) struct Server<'a> {
    ring: &'a mut Uring,
    listener: Fd,
    mode: AcceptMode,
    pipelining: bool,
    connections: Slab<Connection>,
    /// What has something to send, or to close, at the end of this turn.
    dirty: Vec<Key>,
    totals: Totals,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        ring: &'a mut Uring,
        listener: &impl AsRawFd,
        mode: AcceptMode,
        pipelining: bool,
        connections_max: u32,
    ) -> Self {
        let connections = Slab::new(connections_max as usize);
        let listener = Fd(listener.as_raw_fd());
        let (dirty, totals) = (Vec::new(), Totals::default());
        Self { ring, listener, mode, pipelining, connections, dirty, totals }
    }

    pub(super) fn run(mut self, stop: &AtomicBool) -> io::Result<Totals> {
        let mut completions = Vec::new();
        self.accept();
        while !stop.load(Ordering::Relaxed) {
            self.ring.turn(Some(TURN_WAIT_MAX), &mut completions)?;
            for completion in completions.drain(..) {
                self.dispatch(completion);
            }
            let mut dirty = std::mem::take(&mut self.dirty);
            dirty.drain(..).for_each(|key| self.settle(key));
            self.dirty = dirty;
        }
        Ok(self.totals)
    }

    fn accept(&mut self) {
        self.ring.accept(Token::new(ACCEPT, 0, 0), self.listener, self.mode);
    }

    fn dispatch(&mut self, completion: Completion) {
        let Completion { token, result, more, payload } = completion;
        let key = Key { slot: token.slot(), generation: token.generation() };
        match token.kind() {
            ACCEPT => {
                if let Ok(fd) = result {
                    self.on_accepted(Fd(fd.cast_signed()));
                }
                if !more {
                    self.accept();
                }
            }
            RECV => self.on_received(key, result, more, payload),
            SEND => self.on_sent(key, result, payload),
            CLOSE => drop(self.connections.remove(key)),
            _ => {}
        }
    }

    fn on_accepted(&mut self, fd: Fd) {
        let mut out = Vec::new();
        let session = Session::new(&mut out);
        let connection = Connection {
            fd,
            session,
            out,
            spare: Vec::new(),
            sent_len: 0,
            recv_armed: true,
            send_in_flight: false,
            closing: false,
            broken: false,
            cancelled: false,
            close_queued: false,
            dirty: true,
        };
        match self.connections.insert(connection) {
            Ok(key) => {
                self.totals.connections_count += 1;
                self.ring.recv(token(RECV, key), fd);
                self.dirty.push(key);
            }
            Err(_) => self.ring.close(Token::new(CANCEL, 0, 0), fd),
        }
    }

    fn on_received(&mut self, key: Key, result: Result<u32, Errno>, more: bool, payload: Payload) {
        let connection = self.connections.get_mut(key);
        if let (Some(connection), Payload::Lent(lent)) = (connection, &payload) {
            let before = connection.session.messages_count;
            connection.session.receive(self.pipelining, self.ring.bytes(lent), &mut connection.out);
            self.totals.messages_count += connection.session.messages_count - before;
        }
        if let Payload::Lent(lent) = payload {
            self.ring.give_back(lent);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.recv_armed = more;
        connection.broken |= match result {
            Ok(0) => true,
            Ok(_) => connection.out.len() > OUT_LEN_MAX,
            Err(errno) => errno != Errno::NO_BUFFERS,
        };
        connection.closing |= connection.broken || connection.session.is_closed();
        if !connection.recv_armed && !connection.closing {
            connection.recv_armed = true;
            self.ring.recv(token(RECV, key), connection.fd);
        }
        self.touch(key);
    }

    fn on_sent(&mut self, key: Key, result: Result<u32, Errno>, payload: Payload) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.send_in_flight = false;
        if let Payload::Returned(bytes) = payload {
            match result {
                Ok(sent_len) if connection.sent_len + (sent_len as usize) < bytes.len() => {
                    connection.sent_len += sent_len as usize;
                    connection.send_in_flight = true;
                    self.ring.send(token(SEND, key), connection.fd, bytes, connection.sent_len);
                    return;
                }
                Ok(_) => connection.spare = bytes,
                Err(_) => (connection.broken, connection.closing) = (true, true),
            }
        }
        self.touch(key);
    }

    fn touch(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(key);
        }
    }

    /// One send, or the next step of closing: cancel, then close when nothing is under way.
    fn settle(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.dirty = false;
        if connection.send_in_flight && !connection.broken {
            return;
        }
        if !connection.out.is_empty() && !connection.broken {
            connection.spare.clear();
            let out = std::mem::replace(&mut connection.out, std::mem::take(&mut connection.spare));
            connection.send_in_flight = true;
            connection.sent_len = 0;
            self.ring.send(token(SEND, key), connection.fd, out, 0);
        } else if connection.closing && (connection.recv_armed || connection.send_in_flight) {
            if !connection.cancelled {
                connection.cancelled = true;
                // The kernel finds one operation by its token, but walks over all there are to find those of a
                // descriptor.
                if connection.send_in_flight {
                    self.ring.cancel_all(token(CANCEL, key), connection.fd);
                } else {
                    self.ring.cancel(token(CANCEL, key), token(RECV, key));
                }
            }
        } else if connection.closing && !connection.close_queued {
            connection.close_queued = true;
            self.ring.close(token(CLOSE, key), connection.fd);
        }
    }
}

fn token(kind: u8, key: Key) -> Token {
    Token::new(kind, key.generation, key.slot)
}
