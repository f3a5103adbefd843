//! The log, the admin side, and the commands that ask a server.

use std::time::Duration;

/// Events that a worker may be ahead of the log, and that are taken of it at a time: what it logs in the 50 ms between
/// two looks at the highest rate. About 4 MiB a worker. What comes beyond is counted.
pub const EVENTS_COUNT_MAX: usize = 32 * 1024;
/// Octets of lines of the log that are held back to be written at once.
pub const LOG_BATCH_LEN_MAX: usize = 256 << 10;
/// Connections to the admin side at one time; others wait in the listener's queue.
pub const ADMIN_CONNECTIONS_COUNT_MAX: usize = 32;
/// The whole life of such a connection: a scraper connects again, and one that says nothing does not keep its place.
pub const ADMIN_CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// Octets of one reply that `ringmx probe` reads: that to EHLO has some tens of lines.
pub const PROBE_REPLY_LEN_MAX: u64 = 64 << 10;
/// How long a command waits for the whole answer of a running server: a change waits for it to bind.
pub const ADMIN_ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// The same for a reload: long lists are read, by a server that has better things to do.
pub const RELOAD_ANSWER_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// Octets of such an answer.
pub const ADMIN_ANSWER_LEN_MAX: u64 = 16 << 20;
/// Octets of an order for messages that wait: some ten thousand of their names.
pub const ORDER_LEN_MAX: usize = 4 << 20;
/// Messages that one order names: they fit into it.
pub const ORDERED_COUNT_MAX: usize = 10_000;
/// How often an order looks for messages whose records moved between its look and the server's.
pub const ORDER_LOOKS_COUNT_MAX: u32 = 10;
