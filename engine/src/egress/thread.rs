//! Threads that may hang in the kernel, at a dead disk: a stop does not wait for them for ever.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Thread {
    handle: JoinHandle<()>,
    /// Closed when the thread ends.
    alive: Receiver<()>,
}

impl Thread {
    pub(super) fn start(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (alive_sender, alive) = channel();
        let body = move || {
            let _alive = alive_sender;
            body();
        };
        Ok(Self { handle: Builder::new().name(name).spawn(body)?, alive })
    }

    pub(super) fn name(&self) -> &str {
        self.handle.thread().name().unwrap_or_default()
    }

    /// Waits for its end; false when that has not come by then: the thread is left behind.
    pub(super) fn join(self, until: Instant) -> bool {
        match self.alive.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => {
                drop(self.handle.join());
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_hangs_is_left_behind() {
        let (never, hangs) = channel::<()>();
        let thread = Thread::start("hangs".to_owned(), move || {
            let _ = hangs.recv();
        })
        .unwrap();
        assert_eq!(thread.name(), "hangs");
        assert!(!thread.join(Instant::now() + Duration::from_millis(20)));
        drop(never);
        let thread = Thread::start("ends".to_owned(), || {}).unwrap();
        assert!(thread.join(Instant::now() + Duration::from_secs(60)));
    }
}
