//! For how long a next hop has ended no transaction, as far as we were there.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::HOP_LOOK_TIME_COUNTED_MAX;

/// Time since the last movement, counted from look to look: a thread looks once a second at least, and of a longer
/// pause, in which it stood still itself (a stopped process, a suspended machine), only that much counts.
#[derive(Debug)]
pub(super) struct Stall {
    time: Cell<Duration>,
    looked_at: Cell<Instant>,
}

impl Default for Stall {
    fn default() -> Self {
        Self { time: Cell::default(), looked_at: Cell::new(Instant::now()) }
    }
}

impl Stall {
    /// Something moves.
    pub(super) fn end(&self) {
        self.time.take();
        self.looked_at.set(Instant::now());
    }

    pub(super) fn look(&self) -> Duration {
        let pause = self.looked_at.replace(Instant::now()).elapsed();
        self.time.set(self.time.get() + pause.min(HOP_LOOK_TIME_COUNTED_MAX));
        self.time.get()
    }
}
