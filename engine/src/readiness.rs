//! Whether the server takes mail right now, and if not, why: set by whoever knows, read by `/readyz` and the metrics.

use std::sync::atomic::{AtomicU32, Ordering};

/// A reason not to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The listeners are not all bound and proved.
    Starting,
    /// A shutdown waits for the last sessions.
    Draining,
    /// No segment can be made ready: new mail is answered 452.
    SpoolFull,
    /// The disk has less room than is kept for delivering: new mail is answered 452.
    SpoolLow,
    /// A worker's sessions hold all the memory there is for content: new mail is answered 452 there.
    MemoryFull,
    /// A shard failed and takes no more mail.
    ShardFailed,
    /// A worker ended before its time.
    WorkerFailed,
    /// Somebody else, or nobody, answers at an address of ours.
    PortLost,
}

const ALL: [Obstacle; 8] = [
    Obstacle::Starting,
    Obstacle::Draining,
    Obstacle::SpoolFull,
    Obstacle::SpoolLow,
    Obstacle::MemoryFull,
    Obstacle::ShardFailed,
    Obstacle::WorkerFailed,
    Obstacle::PortLost,
];

/// What an operator should look at although mail is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The files of certificates hold something that cannot be used.
    CertificatesStale,
}

impl Warning {
    /// For operators.
    pub fn text(self) -> &'static str {
        match self {
            Self::CertificatesStale => {
                "certificates: the files cannot be used, older ones serve, see the log"
            }
        }
    }
}

/// The obstacles and warnings there are. Each is one bit, so that setting and asking never wait.
#[derive(Debug)]
pub struct Readiness {
    obstacles: AtomicU32,
    warnings: AtomicU32,
}

impl Obstacle {
    /// For operators.
    pub fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting: the listeners are not up yet",
            Self::Draining => "draining: the server is stopping",
            Self::SpoolFull => "spool full: no segment can be made, new mail is answered 452",
            Self::SpoolLow => "spool low: less than `min_free` is free, new mail is answered 452",
            Self::MemoryFull => {
                "memory full: content takes all of `[spool] memory`, new mail is answered 452"
            }
            Self::ShardFailed => "spool failed: a write to a shard failed, see the log",
            Self::WorkerFailed => "worker failed: see the log",
            Self::PortLost => "port lost: an address of ours is not answered by us, see the log",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Not ready: [`Obstacle::Starting`].
    pub fn new() -> Self {
        Self { obstacles: AtomicU32::new(Obstacle::Starting.bit()), warnings: AtomicU32::new(0) }
    }

    /// True if it was not there before.
    pub fn set(&self, obstacle: Obstacle) -> bool {
        self.obstacles.fetch_or(obstacle.bit(), Ordering::AcqRel) & obstacle.bit() == 0
    }

    /// True if it was there before.
    pub fn clear(&self, obstacle: Obstacle) -> bool {
        self.obstacles.fetch_and(!obstacle.bit(), Ordering::AcqRel) & obstacle.bit() != 0
    }

    pub fn is_ready(&self) -> bool {
        self.obstacles.load(Ordering::Acquire) == 0
    }

    /// At one moment; empty when ready.
    pub fn obstacles(&self) -> impl Iterator<Item = Obstacle> + use<> {
        let bits = self.obstacles.load(Ordering::Acquire);
        ALL.into_iter().filter(move |obstacle| bits & obstacle.bit() != 0)
    }

    /// Says whether there is this to warn of.
    pub fn warn(&self, warning: Warning, there: bool) {
        let bit = 1 << warning as u32;
        if there {
            self.warnings.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.warnings.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    pub fn warnings(&self) -> impl Iterator<Item = Warning> + use<> {
        let bits = self.warnings.load(Ordering::Acquire);
        [Warning::CertificatesStale].into_iter().filter(move |warning| bits & (1 << *warning as u32) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_no_obstacle() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        assert!(readiness.set(Obstacle::SpoolFull) && !readiness.set(Obstacle::SpoolFull));
        assert_eq!(readiness.obstacles().collect::<Vec<_>>(), [Obstacle::Starting, Obstacle::SpoolFull]);
        assert!(readiness.clear(Obstacle::Starting) && !readiness.clear(Obstacle::Starting));
        assert!(readiness.clear(Obstacle::SpoolFull) && readiness.is_ready());
        readiness.warn(Warning::CertificatesStale, true);
        assert!(readiness.is_ready() && readiness.warnings().eq([Warning::CertificatesStale]));
        readiness.warn(Warning::CertificatesStale, false);
        assert_eq!(readiness.warnings().count(), 0);
        assert!(ALL.iter().enumerate().all(|(index, obstacle)| obstacle.bit() == 1 << index));
    }
}
