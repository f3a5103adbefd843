//! One thread's ring: operations go in, completions come out, and nothing else happens.
//!
//! [`Ring`] is what a worker is generic over. [`Uring`] is the kernel's io_uring; with the feature `sim`,
//! `sim::SimRing` is a network and a disk in memory whose every fault is chosen by a seed. This crate knows bytes,
//! slots and descriptors, and no protocol. It holds all of the project's `unsafe` code.
//!
//! Ownership is what makes the interface safe: bytes to send or write are moved into the ring and come back with the
//! completion; received bytes are lent by the ring as a [`Lent`] and given back. The kernel never holds a pointer to
//! memory that the caller could free.

mod blocks;
mod buffers;
mod doorbell;
mod handed;
mod in_flight;
#[cfg(feature = "sim")]
pub mod sim;
mod slab;
mod socket;
mod thread;
mod token;
mod uring;
mod wheel;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use blocks::{BLOCK_LEN, BlockBuffer};
pub use doorbell::Doorbell;
pub use handed::take_handed_sockets;
pub use slab::{Key, Slab};
pub use socket::{BindError, Exclusivity, Listening, Request, adopt, can_be_joined, listen, refuse_new};
pub use thread::{SmallPages, available_cores, give_memory_back, give_way_to_all, pin_to_core};
pub use token::Token;
pub use uring::{Options, SetupError, Uring};
pub use wheel::Wheel;

/// A descriptor's number. Whoever holds the resource closes it; a stale number makes an operation fail, nothing worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fd(pub i32);

/// One reading of both clocks, as durations since the ring's start and since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub monotonic: Duration,
    pub unix: Duration,
}

/// How a listening socket is accepted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptMode {
    /// One operation gives connections until a completion says `more: false`. For a socket of this thread alone.
    Multishot,
    /// One operation, one connection. For a socket that threads share: multishot waiters keep their place in the
    /// kernel's exclusive wait queue, so that the first thread would get every connection.
    Single,
}

/// An errno value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const IO: Self = Self(5);
    pub const NO_SPACE: Self = Self(28);
    pub const QUOTA: Self = Self(122);
    pub const CANCELED: Self = Self(125);
    pub const NO_BUFFERS: Self = Self(105);
    pub const CONNECTION_RESET: Self = Self(104);
    pub const CONNECTION_ABORTED: Self = Self(103);
    pub const BROKEN_PIPE: Self = Self(32);
    pub const BAD_DESCRIPTOR: Self = Self(9);
    pub const PROCESS_FILES: Self = Self(24);
    pub const SYSTEM_FILES: Self = Self(23);
    pub const NO_ENTRY: Self = Self(2);
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// A receive buffer that the ring has lent: move-only, read with [`Ring::bytes`], returned with [`Ring::give_back`].
#[derive(Debug)]
#[must_use = "a lent buffer that is not given back is lost to all connections of this ring"]
pub struct Lent {
    buffer_index: u16,
    len: u32,
}

impl Lent {
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a completion brings back besides its result.
#[derive(Debug)]
pub enum Payload {
    None,
    /// Of `recv`: the bytes received.
    Lent(Lent),
    /// Of `send`: the bytes that were given, for reuse.
    Returned(Vec<u8>),
    /// Of `write`: the bytes that were given, for reuse.
    Written(BlockBuffer),
}

/// The end of an operation, or one step of a multishot one.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    /// Bytes moved, a new descriptor for `accept`, or the reason of failure.
    pub result: Result<u32, Errno>,
    /// The operation goes on. False: it is over and must be armed again if it is still wanted.
    pub more: bool,
    pub payload: Payload,
}

/// A ring: submit, wait, complete. Every method but [`turn`](Self::turn) only queues; each queued operation ends in
/// exactly one completion with `more: false`, which carries its token.
pub trait Ring {
    /// Reads the clocks.
    fn clock(&mut self) -> Clock;

    /// Submits what is queued, waits for a completion or the time-out, and appends all completions there are.
    fn turn(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// Whether the next [`turn`](Self::turn) finds work without waiting: something has happened since the last one. It
    /// may still bring no completion.
    fn has_more(&self) -> bool;

    /// Accepts connections. `result` is the new descriptor, close-on-exec.
    fn accept(&mut self, token: Token, listener: Fd, mode: AcceptMode);

    /// Receives until cancelled, at end of stream (a result of 0) or on an error. No buffer is held while nothing
    /// comes.
    fn recv(&mut self, token: Token, socket: Fd);

    /// The same for one completion, which brings a buffer at most. Cancelling what goes on comes too late for what a
    /// fast client has sent already: half a mebibyte at a time.
    fn recv_once(&mut self, token: Token, socket: Fd);

    /// Sends `bytes[sent_len..]`; the result may be short.
    fn send(&mut self, token: Token, socket: Fd, bytes: Vec<u8>, sent_len: usize);

    /// Ends our direction of the stream, at once: a plain system call, because io_uring hands this one to a kernel
    /// worker thread, which costs more than it saves.
    fn shutdown_write(&mut self, socket: Fd);

    /// Closes the descriptor.
    fn close(&mut self, token: Token, fd: Fd);

    /// Cancels the `recv` or `accept` that was queued under `target`.
    fn cancel(&mut self, token: Token, target: Token);

    /// Cancels every operation on the descriptor.
    fn cancel_all(&mut self, token: Token, fd: Fd);

    /// Writes all of `bytes` at `offset`; the result may be short. With `durable`, completion means that the bytes and
    /// what is needed to read them back are on stable storage (RWF_DSYNC).
    fn write(&mut self, token: Token, file: Fd, offset: u64, bytes: BlockBuffer, durable: bool);

    /// Puts on stable storage what writes that have completed put into the file, and what is needed to read it back
    /// (fdatasync). The result is 0. After a failure nobody knows what of it is there, and another sync may report
    /// success without it.
    fn sync(&mut self, token: Token, file: Fd);

    /// Rings a bell, by the end of it that [`Doorbell::take_sleeper`] gave.
    fn signal(&mut self, token: Token, bell: Fd);

    /// Completes when the bell whose [`Doorbell::fd`] this is has been rung since the last time, however often.
    fn await_signal(&mut self, token: Token, bell: Fd);

    /// The bytes of a lent buffer.
    fn bytes(&self, lent: &Lent) -> &[u8];

    /// Returns a lent buffer to the ring.
    fn give_back(&mut self, lent: Lent);

    /// The address at the other end; a multishot accept does not give it.
    fn peer(&mut self, socket: Fd) -> Option<SocketAddr>;
}
