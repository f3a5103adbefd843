//! Waking a thread that may or may not sleep, without a system call when it does not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::Fd;

/// An eventfd, and whether anybody waits for it.
///
/// The sleeper calls [`will_wait`](Self::will_wait), looks once more for work, and reads the eventfd only if there is
/// none. The waker makes its work visible first and then asks [`take_sleeper`](Self::take_sleeper). Both steps are
/// sequentially consistent, so that at least one of the two sees the other.
///
/// Aligned so that no two of them share a cache line: wakers ask with every piece of work.
#[derive(Debug)]
#[repr(align(128))]
pub struct Doorbell {
    eventfd: OwnedFd,
    waiting: AtomicBool,
}

impl Doorbell {
    /// The eventfd blocks, because its sleepers read it through a ring: a read of a non-blocking one would not wait.
    pub fn new() -> io::Result<Self> {
        Ok(Self { eventfd: eventfd(0, EventfdFlags::CLOEXEC)?, waiting: AtomicBool::new(false) })
    }

    /// Sleeper: from now on the bell is rung.
    pub fn will_wait(&self) {
        self.waiting.swap(true, Ordering::SeqCst);
    }

    /// Sleeper: awake again, whatever woke it.
    pub fn awake(&self) {
        self.waiting.store(false, Ordering::Relaxed);
    }

    /// Waker: the eventfd to signal, if somebody sleeps. Only one waker gets it.
    pub fn take_sleeper(&self) -> Option<Fd> {
        self.waiting.swap(false, Ordering::SeqCst).then(|| self.fd())
    }

    /// Waker: signals at once, by a system call.
    pub fn ring(&self) {
        // Fails only if the count would overflow: then it is far above 0 already.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    pub fn fd(&self) -> Fd {
        Fd(self.eventfd.as_raw_fd())
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> i32 {
        self.eventfd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let bell = Doorbell::new().expect("an eventfd");
        assert_eq!(bell.take_sleeper(), None);
        bell.will_wait();
        assert_eq!(bell.take_sleeper(), Some(bell.fd()));
        assert_eq!(bell.take_sleeper(), None);
        bell.ring();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&bell, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
