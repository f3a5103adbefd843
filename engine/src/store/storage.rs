//! How much room the spool's file system has left, with marks at which new mail is refused and taken again.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::StatVfs;

use crate::limits::FREE_MIN_DEFAULT_MAX;
use crate::stats::LINES_LEN;

/// Inodes that must stay free: for acknowledgements, deferred segments and deliveries on the same file system.
const FREE_INODES_MIN: u64 = 1024;

/// What may be begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Room {
    #[default]
    Plenty = 0,
    /// No new message: what is free is for those that are under way, and for delivering and acknowledging.
    Low = 1,
    /// Half of the reserve is used up: large messages under way are given up too.
    Spent = 2,
}

/// When there is too little, and when enough again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// Bytes that must stay free; `None` for a twentieth of the file system, 1 GiB at most.
    pub free_min: Option<u64>,
}

/// Read by anybody, by workers in every turn; written by one thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Storage {
    room: AtomicU8,
    free: AtomicU64,
    free_inodes: AtomicU64,
}

const _: () = assert!(align_of::<Storage>() >= LINES_LEN);

impl Storage {
    pub fn room(&self) -> Room {
        match self.room.load(Ordering::Relaxed) {
            0 => Room::Plenty,
            1 => Room::Low,
            _ => Room::Spent,
        }
    }

    /// Bytes that are free for the server.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Inodes that are free; 0 also where the file system has no fixed number of them.
    pub fn free_inodes(&self) -> u64 {
        self.free_inodes.load(Ordering::Relaxed)
    }

    pub(super) fn judge(&self, marks: &Marks, found: &StatVfs) {
        let (free, size) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
        let free_min = marks.free_min.unwrap_or_else(|| (size / 20).min(FREE_MIN_DEFAULT_MAX));
        // Some file systems make inodes as they need them and say 0 of 0.
        let free_inodes = if found.f_files == 0 { u64::MAX } else { found.f_favail };
        let before = self.room();
        let room = room_after(before, free, free_min).max(room_after(before, free_inodes, FREE_INODES_MIN));
        self.free.store(free, Ordering::Relaxed);
        self.free_inodes.store(found.f_favail, Ordering::Relaxed);
        if room == before {
            return;
        }
        self.room.store(room as u8, Ordering::Relaxed);
        match room {
            Room::Plenty => tracing::info!(free, free_inodes = found.f_favail, "the spool has room again"),
            _ => tracing::error!(
                free,
                free_min,
                free_inodes = found.f_favail,
                ?room,
                "the spool's disk is nearly full: new mail is answered 452 until a quarter more than `min_free` is free"
            ),
        }
    }
}

/// Too little below `min`, enough from a quarter above it on.
fn room_after(before: Room, free: u64, min: u64) -> Room {
    let enough = if before == Room::Plenty { min } else { min.saturating_add(min / 4) };
    if free < min / 2 {
        Room::Spent
    } else if free < enough {
        Room::Low
    } else {
        Room::Plenty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_has_a_low_and_a_high_mark() {
        let mut room = Room::Plenty;
        let mut steps = [1000, 400, 399, 200, 199, 200, 399, 400, 499, 500, 400].map(|free| {
            room = room_after(room, free, 400);
            room
        });
        let (p, l, s) = (Room::Plenty, Room::Low, Room::Spent);
        assert_eq!(steps, [p, p, l, l, s, l, l, l, l, p, p]);
        steps.sort_unstable();
        assert_eq!((steps[0], steps[10]), (p, s), "Spent is the worst");
    }
}
