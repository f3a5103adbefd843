//! The ports of one worker: accepting at them, and their coming and going while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringmx_ring::{Completion, Errno, Fd, Ring};

use crate::event::Kind;
use crate::limits;
use crate::server::PortId;
use crate::server::journal::Segments;
use crate::server::op::Op;
use crate::server::worker::{Due, Port, Worker};

/// What a worker is told while it runs: put into its queue, then its bell is rung.
#[derive(Debug)]
pub enum PortChange {
    Open(Port),
    /// Accept no more there. Its sessions go on. The latch tells when nothing in the ring refers to the socket.
    Close(PortId, Arc<Latch>),
    /// A connection that was accepted elsewhere.
    Adopt(PortId, Fd),
}

/// Counts down what is still to be waited for.
#[derive(Debug)]
pub struct Latch(AtomicUsize);

impl Latch {
    pub fn new(count: usize) -> Self {
        Self(AtomicUsize::new(count))
    }

    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    fn count_down(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How far a port is used. Its place among the ports is taken anew once nothing refers to it.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// An accept is in the ring.
    pub(super) accepting: bool,
    /// No more connections are wanted.
    closed: bool,
    /// Whom to tell when the last accept has ended.
    closing: Option<Arc<Latch>>,
    /// Open connections without those that were or could not be told that there is no session for them.
    pub(super) sessions_count: usize,
    pub(super) connections_count: usize,
}

impl Use {
    fn is_over(&self) -> bool {
        self.closed && !self.accepting && self.connections_count == 0
    }

    fn end(&mut self) {
        if let Some(latch) = self.closing.take_if(|_| !self.accepting) {
            latch.count_down();
        }
    }
}

impl<R: Ring, S: Segments> Worker<R, S> {
    pub(super) fn accept(&mut self, listener_index: u32) {
        let (port, used) = (&self.ports[listener_index as usize], &mut self.uses[listener_index as usize]);
        if used.accepting || used.closed || self.drain_until.is_some() {
            return;
        }
        used.accepting = true;
        self.ring.accept(Op::Accept { listener_index }.token(), port.fd, port.mode);
    }

    pub(super) fn on_accept(&mut self, listener_index: u32, completion: &Completion) {
        let used = &mut self.uses[listener_index as usize];
        used.accepting = completion.more;
        match completion.result {
            Ok(fd) => self.begin(Fd(fd as i32), listener_index),
            // The client gave up while it waited in the queue; or we did.
            Err(Errno::CONNECTION_ABORTED | Errno::CANCELED) => {}
            Err(errno) => {
                self.log(Kind::RingError { operation: "accept", errno: errno.0 });
                if !completion.more {
                    let due = self.now.monotonic + limits::ACCEPT_PAUSE;
                    self.wheel.schedule(Due::Listener(listener_index), due);
                    return self.uses[listener_index as usize].end();
                }
            }
        }
        self.uses[listener_index as usize].end();
        self.accept(listener_index);
    }

    pub(super) fn apply(&mut self, change: PortChange) {
        let index_of = |ports: &[Port], uses: &[Use], id| {
            (0..ports.len()).find(|&index| ports[index].id == id && !uses[index].is_over())
        };
        match change {
            PortChange::Open(port) => {
                let index = self.uses.iter().position(Use::is_over).unwrap_or(self.ports.len());
                if index == self.ports.len() {
                    self.ports.push(port);
                    self.uses.push(Use::default());
                } else {
                    self.ports[index] = port;
                    self.uses[index] = Use::default();
                }
                self.accept(index as u32);
            }
            PortChange::Close(id, latch) => {
                let Some(index) = index_of(&self.ports, &self.uses, id) else { return latch.count_down() };
                let used = &mut self.uses[index];
                used.closed = true;
                used.closing = Some(latch);
                used.end();
                if used.accepting {
                    let accept = Op::Accept { listener_index: index as u32 };
                    self.ring.cancel(Op::Aside.token(), accept.token());
                }
            }
            PortChange::Adopt(id, fd) => match index_of(&self.ports, &self.uses, id) {
                Some(index) => self.begin(fd, index as u32),
                None => self.ring.close(Op::Aside.token(), fd),
            },
        }
    }
}
