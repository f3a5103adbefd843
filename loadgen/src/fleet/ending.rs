//! How connections end that the server does not end, and how a run does.

use super::{Fleet, nanos};
use crate::crew::Crew;
use crate::limits::{CLOSE_MAX, DRAIN_INTERRUPTED_MAX, DRAIN_MAX, SILENT_MIN};
use crate::slot::Link;
use crate::stats::ErrorKind;

/// How the run ends: no message begins any more, and those under way have until `until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    until: u64,
    closing_all: bool,
}

impl Fleet {
    /// Ends connections whose reply is overdue.
    pub(super) fn sweep(&mut self, now: u64) {
        let timeout = nanos(self.orders.reply_timeout);
        for slot in 0..self.slots.len() as u32 {
            let entry = &self.slots[slot as usize];
            let waits = matches!(entry.link, Link::Opening | Link::Open) && !entry.client.is_idle();
            if waits && now.saturating_sub(entry.client.asked_at()) > timeout {
                let opening = entry.link == Link::Opening;
                let kind = if opening { ErrorKind::ConnectTimedOut } else { ErrorKind::ReplyTimedOut };
                self.on_lost(slot, kind, b"");
            }
        }
    }

    /// Begins no message any more. `interrupted`: those under way get little time.
    pub(super) fn stop_soon(&mut self, now: u64, interrupted: bool) {
        self.orders.pace.stop();
        let drain = if interrupted { DRAIN_INTERRUPTED_MAX } else { DRAIN_MAX };
        let until = now + nanos(drain);
        match &mut self.ending {
            Some(ending) => ending.until = ending.until.min(until),
            None => {
                self.ending = Some(Ending { until, closing_all: false });
                self.dismiss(now, true);
            }
        }
    }

    /// Once the pace is over: idle connections say goodbye; what remains at the end of the drain is cut off.
    pub(super) fn end(&mut self, now: u64) {
        if self.ending.is_none() && self.orders.pace.is_over(now) {
            self.stats.missed += self.orders.pace.missed_count(now);
            // A number of messages is waited for: the time-out of each reply bounds that.
            let timed = self.orders.pace.has_end();
            let drain = if timed { nanos(DRAIN_MAX) } else { u64::MAX };
            self.ending = Some(Ending { until: now.saturating_add(drain), closing_all: false });
            self.dismiss(now, timed);
        }
        let Some(ending) = &mut self.ending else { return };
        if now < ending.until {
            return;
        }
        if ending.closing_all {
            // The kernel had its time, too.
            (0..self.slots.len() as u32).for_each(|slot| self.finish(slot));
            return;
        }
        *ending = Ending { until: now + nanos(CLOSE_MAX), closing_all: true };
        for slot in 0..self.slots.len() as u32 {
            let entry = &self.slots[slot as usize];
            match entry.link {
                Link::Opening | Link::Open if entry.client.is_unfinished() => {
                    self.on_lost(slot, ErrorKind::Unfinished, b"");
                }
                Link::Opening | Link::Open => self.drop_link(slot),
                Link::Closing | Link::Done => {}
                Link::Vacant | Link::Queued | Link::Retrying => self.finish(slot),
            }
        }
    }

    /// Sends away what has nothing to do. A claimed message still gets its one try.
    /// `at_once`: connections that are still being opened, too.
    fn dismiss(&mut self, now: u64, at_once: bool) {
        for slot in 0..self.slots.len() as u32 {
            let entry = &self.slots[slot as usize];
            match entry.link {
                Link::Opening | Link::Open
                    if at_once && entry.claimed.is_none() && !entry.client.is_opened() =>
                {
                    // A session that was just about to open is no error at the end of the time; a silent server is.
                    if now.saturating_sub(entry.client.asked_at()) >= nanos(SILENT_MIN) {
                        self.on_lost(slot, ErrorKind::ReplyTimedOut, b"");
                    } else {
                        self.drop_link(slot);
                    }
                }
                Link::Open => self.settle(slot, now),
                Link::Vacant | Link::Queued | Link::Retrying if entry.claimed.is_none() => self.finish(slot),
                _ => {}
            }
        }
    }
}
