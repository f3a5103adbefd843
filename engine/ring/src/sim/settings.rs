//! What a simulation is like, and how often which fault happens.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Random;

/// Sizes and times of the simulated machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Receive buffers, and octets of each.
    pub buffers_count: u16,
    pub buffer_len: usize,
    /// Octets that a socket holds in each direction, chosen for each connection.
    pub socket_buffer_len: RangeInclusive<usize>,
    /// Descriptors that may be open at once; beyond it `accept` fails with EMFILE, as in the kernel also while nobody
    /// connects.
    pub fds_max: usize,
    /// Longest time from the server's socket to the client.
    pub network_time_max: Duration,
    /// Longest time that a write takes.
    pub write_time_max: Duration,
    /// What the wall clock says when the monotonic clock says 0.
    pub unix_start: Duration,
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            buffers_count: 64,
            buffer_len: 16 * 1024,
            socket_buffer_len: 64 * 1024..=64 * 1024,
            fds_max: 1024,
            network_time_max: Duration::from_micros(50),
            write_time_max: Duration::from_micros(200),
            unix_start: Duration::from_secs(1_700_000_000),
            faults: Faults::NONE,
        }
    }
}

impl Settings {
    /// A machine and a mix of faults by seed: small and large buffers, and each fault absent, rare or frequent, so that
    /// a run of many seeds meets combinations that no fixed mix has.
    pub fn random(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x5e77_1465);
        let socket_buffer_len = [1..=64, 512..=4096, 64 * 1024..=256 * 1024][random.len(0..=2)].clone();
        Self {
            buffers_count: [2, 8, 64][random.len(0..=2)],
            buffer_len: [16, 512, 16 * 1024][random.len(0..=2)],
            socket_buffer_len,
            faults: Faults::random(random),
            ..Self::default()
        }
    }
}

/// Probabilities, from 0 (never) to 1 (always), each asked when the fault could happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// A receive gets a part of the bytes there are, down to one.
    pub short_recv: f64,
    /// A send ends before all bytes are taken, though the connection is well.
    pub short_send: f64,
    /// The client gets what was sent in parts.
    pub short_arrival: f64,
    /// A receive ends with ENOBUFS although there are buffers.
    pub no_buffers: f64,
    /// A multishot operation succeeds but ends, as it does when the completion queue is full.
    pub multishot_end: f64,
    /// `accept` fails: EMFILE, ENFILE (the connection still waits) or ECONNABORTED (it is gone).
    pub accept_error: f64,
    /// A completion comes up to `delay_max` later than it could.
    pub delay: f64,
    pub delay_max: Duration,
    /// A completion comes behind others of the same moment.
    pub reorder: f64,
    /// What is cancelled gets a last chance to end by itself: ENOENT, EALREADY, or bytes before ECANCELED.
    pub cancel_race: f64,
    /// A turn returns without having waited, as on a signal.
    pub interrupt: f64,
    /// A write fails: EIO (any part of it may have reached the disk) or ENOSPC (none has).
    pub write_error: f64,
    /// A write takes a part of the bytes.
    pub short_write: f64,
}

impl Faults {
    /// A machine that never fails.
    pub const NONE: Self = Self {
        short_recv: 0.0,
        short_send: 0.0,
        short_arrival: 0.0,
        no_buffers: 0.0,
        multishot_end: 0.0,
        accept_error: 0.0,
        delay: 0.0,
        delay_max: Duration::from_millis(5),
        reorder: 0.0,
        cancel_race: 0.0,
        interrupt: 0.0,
        write_error: 0.0,
        short_write: 0.0,
    };

    /// Everything that a healthy machine may do to a program: no connection and no byte is lost.
    pub const HARMLESS: Self = Self {
        short_recv: 0.5,
        short_send: 0.2,
        short_arrival: 0.5,
        no_buffers: 0.1,
        multishot_end: 0.1,
        delay: 0.3,
        reorder: 0.5,
        cancel_race: 0.3,
        interrupt: 0.1,
        ..Self::NONE
    };

    /// Everything at once.
    pub const ALL: Self = Self { accept_error: 0.1, write_error: 0.05, short_write: 0.05, ..Self::HARMLESS };

    /// Each fault absent, rare or frequent.
    pub fn random(random: &mut Random) -> Self {
        let mut often = |most: f64| [0.0, 0.02, most][random.len(0..=2)];
        Self {
            short_recv: often(0.9),
            short_send: often(0.5),
            short_arrival: often(0.9),
            no_buffers: often(0.3),
            multishot_end: often(0.5),
            accept_error: often(0.3),
            delay: often(0.5),
            delay_max: Duration::from_millis(5),
            reorder: often(0.9),
            cancel_race: often(0.9),
            interrupt: often(0.3),
            write_error: often(0.2),
            short_write: often(0.2),
        }
    }
}
