//! The ring that a simulated machine offers.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::descriptors::Object;
use super::operation::Kind;
use super::world::World;
use crate::{AcceptMode, BlockBuffer, Clock, Completion, Fd, Lent, Ring, Token};

/// The view that the program under test has of a [`Simulation`](super::Simulation).
pub struct SimRing {
    world: Rc<RefCell<World>>,
    /// Outside of the world, so that lent bytes can be borrowed from the ring.
    pool: Vec<u8>,
    buffer_len: usize,
}

impl SimRing {
    pub(super) fn new(world: &Rc<RefCell<World>>) -> Self {
        let mut inner = world.borrow_mut();
        if std::mem::replace(&mut inner.ring_is_out, true) {
            inner.misuse("a second ring at once");
        }
        let buffer_len = inner.settings.buffer_len;
        let pool = vec![0; usize::from(inner.settings.buffers_count) * buffer_len];
        Self { world: Rc::clone(world), pool, buffer_len }
    }

    fn queue(&self, token: Token, fd: Fd, kind: Kind) {
        self.world.borrow_mut().queued.push((token, fd, kind));
    }

    fn buffer_offset(&self, buffer_index: u16) -> usize {
        usize::from(buffer_index) * self.buffer_len
    }
}

impl Ring for SimRing {
    fn clock(&mut self) -> Clock {
        let world = self.world.borrow();
        Clock { monotonic: world.now, unix: world.settings.unix_start + world.now }
    }

    fn turn(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let turned = self.world.borrow_mut().turn(timeout)?;
        for (buffer_index, bytes) in turned.fills {
            let offset = self.buffer_offset(buffer_index);
            self.pool[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        completions.extend(turned.completions);
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.world.borrow().is_due()
    }

    fn accept(&mut self, token: Token, listener: Fd, mode: AcceptMode) {
        self.queue(token, listener, Kind::Accept(mode));
    }

    fn recv(&mut self, token: Token, socket: Fd) {
        self.queue(token, socket, Kind::Recv { attempted: false, once: false });
    }

    fn recv_once(&mut self, token: Token, socket: Fd) {
        self.queue(token, socket, Kind::Recv { attempted: false, once: true });
    }

    fn send(&mut self, token: Token, socket: Fd, bytes: Vec<u8>, sent_len: usize) {
        assert!(sent_len <= bytes.len(), "more sent than there is");
        self.queue(token, socket, Kind::Send { bytes, sent_len, done_len: 0 });
    }

    fn shutdown_write(&mut self, socket: Fd) {
        let mut world = self.world.borrow_mut();
        let found = world.descriptors.find(socket).map(|description| world.descriptors.object(description));
        if let Some(Object::Connection(connection)) = found {
            // Fails only if the stream is gone already, which its `recv` tells.
            let _ = world.connections[connection].shutdown_write();
            world.touch(connection);
        }
    }

    fn close(&mut self, token: Token, fd: Fd) {
        self.queue(token, fd, Kind::Close);
    }

    fn cancel(&mut self, token: Token, target: Token) {
        self.queue(token, Fd(-1), Kind::Cancel(target));
    }

    fn cancel_all(&mut self, token: Token, fd: Fd) {
        self.queue(token, fd, Kind::CancelAll);
    }

    fn write(&mut self, token: Token, file: Fd, offset: u64, bytes: BlockBuffer, durable: bool) {
        self.queue(token, file, Kind::Write { bytes, offset, durable });
    }

    fn sync(&mut self, token: Token, file: Fd) {
        self.queue(token, file, Kind::Sync { before: 0 });
    }

    fn signal(&mut self, token: Token, bell: Fd) {
        self.queue(token, bell, Kind::Signal);
    }

    fn await_signal(&mut self, token: Token, bell: Fd) {
        self.queue(token, bell, Kind::AwaitSignal(0));
    }

    fn bytes(&self, lent: &Lent) -> &[u8] {
        let offset = self.buffer_offset(lent.buffer_index);
        &self.pool[offset..offset + lent.len()]
    }

    fn give_back(&mut self, lent: Lent) {
        let mut world = self.world.borrow_mut();
        if world.free_buffers.contains(&lent.buffer_index) {
            world.misuse(&format!("buffer {} is given back twice", lent.buffer_index));
        }
        world.free_buffers.push_back(lent.buffer_index);
    }

    fn peer(&mut self, socket: Fd) -> Option<SocketAddr> {
        let world = self.world.borrow();
        match world.descriptors.object(world.descriptors.find(socket)?) {
            Object::Connection(connection) => {
                let connection = &world.connections[connection];
                connection.is_connected().then_some(connection.address)
            }
            _ => None,
        }
    }
}

impl Drop for SimRing {
    fn drop(&mut self) {
        // Borrowed already only while misuse unwinds.
        if let Ok(mut world) = self.world.try_borrow_mut() {
            world.drop_ring();
        }
    }
}
