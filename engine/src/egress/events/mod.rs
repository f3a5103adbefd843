//! The events stream: what happens to each message, as lines of JSON in a file that others follow.
//!
//! Tails hand [`line`]s over in memory ([`Events::push`]); a thread of its own writes them to the [`file`]. When it is
//! slower than the tails they wait: no event is left out for that, and no worker ever waits. What cannot be written is
//! counted and told, and keeps no mail from being delivered.

mod file;
mod line;
mod tell;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::report::{Report, Topic};
use super::thread::Thread;
use crate::config::EventsConfig;
use crate::limits::{EVENTS_STOP_TIME_MAX, EVENTS_WAITING_LEN_MAX};
pub use file::open_for_reading;
use file::{EventsFile, Lost};

/// What has become of the lines.
#[derive(Debug, Default)]
pub struct EventsStats {
    written_count: AtomicU64,
    lost_count: AtomicU64,
}

impl EventsStats {
    /// Lines in the file.
    pub fn written_count(&self) -> u64 {
        self.written_count.load(Ordering::Relaxed)
    }

    /// Lines that could not be written.
    pub fn lost_count(&self) -> u64 {
        self.lost_count.load(Ordering::Relaxed)
    }
}

/// The way of lines into the file.
#[derive(Debug)]
pub(super) struct Events {
    /// Addresses of senders and recipients are told.
    addresses: bool,
    waiting: Mutex<Waiting>,
    has_lines: Condvar,
    has_room: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with its line end.
    lines: Vec<u8>,
    is_closed: bool,
}

/// The thread that writes. Dropped, it ends behind the last line.
#[derive(Debug)]
pub(super) struct EventsThread {
    pub events: Arc<Events>,
    thread: Option<Thread>,
}

impl Events {
    /// Hands whole lines over. Waits while too many others do.
    fn push(&self, lines: &[u8]) {
        let mut waiting = self.lock();
        while waiting.lines.len() >= EVENTS_WAITING_LEN_MAX && !waiting.is_closed {
            waiting = self.has_room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.lines.extend_from_slice(lines);
        self.has_lines.notify_one();
    }

    /// Gives everything that waits, once there is something; false behind the last line.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        lines.clear();
        let mut waiting = self.lock();
        while waiting.lines.is_empty() && !waiting.is_closed {
            waiting = self.has_lines.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut waiting.lines, lines);
        self.has_room.notify_all();
        !lines.is_empty()
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.has_lines.notify_one();
        self.has_room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventsThread {
    /// # Errors
    /// When the file cannot be opened, or there can be no thread.
    pub(super) fn start(config: &EventsConfig, stats: Arc<EventsStats>) -> io::Result<Self> {
        let file = EventsFile::open(config)?;
        let events = Arc::new(Events {
            addresses: config.addresses,
            waiting: Mutex::default(),
            has_lines: Condvar::new(),
            has_room: Condvar::new(),
        });
        let source = Arc::clone(&events);
        let thread = Thread::start("events".to_owned(), move || write(&source, file, &stats))?;
        Ok(Self { events, thread: Some(thread) })
    }
}

impl Drop for EventsThread {
    fn drop(&mut self) {
        self.events.close();
        let until = Instant::now() + EVENTS_STOP_TIME_MAX;
        if !self.thread.take().is_none_or(|thread| thread.join(until)) {
            tracing::error!(
                "the last events cannot be written within {EVENTS_STOP_TIME_MAX:?}; they are lost"
            );
        }
    }
}

/// The body of the thread.
fn write(events: &Events, mut file: EventsFile, stats: &EventsStats) {
    let (mut lines, mut report) = (Vec::new(), Report::default());
    while events.take(&mut lines) {
        let count = memchr::memchr_iter(b'\n', &lines).count() as u64;
        let lost_count = match file.append(&lines) {
            Ok(()) => {
                if report.is_over(Topic::Events) {
                    tracing::info!("events can be written again");
                }
                0
            }
            Err(Lost { lines_count, error }) => {
                let path = file.path().display();
                report.problem(Topic::Events, |suppressed_count| {
                    tracing::error!(
                        %path, %error, lines_count, suppressed_count,
                        "cannot write events, these are lost; mail is delivered all the same. Make room there, or see \
                         its owner and mode"
                    );
                });
                lines_count
            }
        };
        stats.written_count.fetch_add(count - lost_count, Ordering::Relaxed);
        stats.lost_count.fetch_add(lost_count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn config(path: &std::path::Path) -> EventsConfig {
        EventsConfig { path: path.to_owned(), max_size: 1 << 20, keep: 1, addresses: false }
    }

    #[test]
    fn all_lines_are_in_the_file_when_it_stops() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        let stats = Arc::<EventsStats>::default();
        for _ in 0..2 {
            let thread = EventsThread::start(&config(&path), Arc::clone(&stats)).unwrap();
            (0..1000).for_each(|_| thread.events.push(b"{}\n"));
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"{}\n".repeat(2000));
        assert_eq!((stats.written_count(), stats.lost_count()), (2000, 0));
    }

    #[test]
    fn a_tail_waits_while_too_many_lines_do() {
        let events = Events {
            addresses: false,
            waiting: Mutex::default(),
            has_lines: Condvar::new(),
            has_room: Condvar::new(),
        };
        let line = vec![b'x'; EVENTS_WAITING_LEN_MAX / 4];
        let is_through = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..5).for_each(|_| events.push(&line));
                is_through.store(true, Ordering::Release);
            });
            while events.lock().lines.len() < EVENTS_WAITING_LEN_MAX {
                std::thread::yield_now();
            }
            assert!(!is_through.load(Ordering::Acquire));
            let (mut lines, mut taken) = (Vec::new(), 0);
            while taken < 5 * line.len() {
                assert!(events.take(&mut lines));
                taken += lines.len();
            }
            assert_eq!(taken, 5 * line.len());
        });
        assert!(is_through.load(Ordering::Acquire));
        events.close();
        assert!(!events.take(&mut Vec::new()));
    }
}
