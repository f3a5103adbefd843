//! Waking a thread that may or may not sleep, without a system call when it does not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::Fd;

/// What is written into the pipe.
pub(crate) const RING: &[u8] = b"!";
/// Rings that one read takes: who rings has seen somebody sleep, so that there are few.
pub(crate) const RINGS_LEN: usize = 64;

/// A pipe, and whether anybody waits for it.
///
/// The sleeper calls [`will_wait`](Self::will_wait), looks once more for work, and reads the pipe only if there is
/// none. The waker makes its work visible first and then asks [`take_sleeper`](Self::take_sleeper). Both steps are
/// sequentially consistent, so that at least one of the two sees the other.
///
/// No eventfd: a ring's write to one that blocks goes by a thread of the kernel (Linux 6.18), and the reader of one
/// that does not block cannot wait by a ring. A pipe has two ends, and each has a way of its own.
///
/// Aligned so that no two of them share a cache line: wakers ask with every piece of work.
#[derive(Debug)]
#[repr(align(128))]
pub struct Doorbell {
    /// Blocks, because its sleepers read it through a ring: a read that does not block would not wait.
    ear: OwnedFd,
    /// Does not block: a pipe that is full has been rung.
    button: OwnedFd,
    waiting: AtomicBool,
}

impl Doorbell {
    pub fn new() -> io::Result<Self> {
        let (ear, button) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&button, OFlags::NONBLOCK)?;
        Ok(Self { ear, button, waiting: AtomicBool::new(false) })
    }

    /// Sleeper: from now on the bell is rung.
    pub fn will_wait(&self) {
        self.waiting.swap(true, Ordering::SeqCst);
    }

    /// Sleeper: awake again, whatever woke it.
    pub fn awake(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }

    /// Waker: what to signal, if somebody sleeps. Only one waker gets it.
    pub fn take_sleeper(&self) -> Option<Fd> {
        self.waiting.swap(false, Ordering::SeqCst).then(|| Fd(self.button.as_raw_fd()))
    }

    /// Waker: signals at once, by a system call.
    pub fn ring(&self) {
        // Fails only if the pipe is full: then it was rung already.
        let _ = rustix::io::write(&self.button, RING);
    }

    /// Sleeper: what to wait for.
    pub fn fd(&self) -> Fd {
        Fd(self.ear.as_raw_fd())
    }
}

impl AsFd for Doorbell {
    /// The sleeper's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bell: &Doorbell) -> usize {
        let mut rings = [0; RINGS_LEN];
        rustix::io::read(bell, &mut rings).expect("rung")
    }

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let bell = Doorbell::new().expect("a pipe");
        assert_eq!(bell.take_sleeper(), None);
        bell.will_wait();
        assert_eq!(bell.take_sleeper(), Some(Fd(bell.button.as_raw_fd())));
        assert_eq!(bell.take_sleeper(), None);
        bell.ring();
        assert_eq!(heard(&bell), 1);
    }

    #[test]
    fn who_rings_never_waits() {
        let bell = Doorbell::new().expect("a pipe");
        (0..100_000).for_each(|_| bell.ring());
        assert_eq!(heard(&bell), RINGS_LEN);
    }
}
