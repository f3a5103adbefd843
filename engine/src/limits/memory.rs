//! What content and envelopes hold of a worker's memory, and how long they wait for the disk.

use std::time::Duration;

/// Octets of the longest piece that content is written to a file in: long enough that a disk is at its full speed,
/// short enough that 200 streams with two each hold 50 MiB.
pub const CHUNK_LEN_MAX: usize = 128 * 1024;
/// Pieces of one message that are written at the same time: as many as content of the default inline size is in.
pub const WRITING_PIECES_COUNT_MAX: u8 = 16;
/// How long a session waits for a file or a segment before its message is answered 452. They are made within
/// milliseconds, or tens of them on a busy disk; one that takes longer has no room for more.
pub const STORAGE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks for a file or a segment while somebody waits for one.
pub const STORAGE_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Octets of content that a transaction holds in memory at most while memory is short: what most messages have.
pub const PRESSED_CONTENT_LEN_MAX: usize = 16 * 1024;
/// Octets of unused buffers that a worker keeps: the content of a thousand small messages.
pub const SPARE_BUFFERS_LEN_MAX: usize = 8 << 20;
/// Octets of envelope that a transaction may hold while memory is short: about fifty recipients.
pub const PRESSED_ENVELOPE_LEN_MAX: usize = 4 * 1024;
/// Octets of envelope buffer that a pooled transaction keeps.
pub const POOLED_ENVELOPE_LEN_MAX: usize = 4 * 1024;
/// Pooled transactions of a worker: at most 1 MiB with their envelopes.
pub const POOLED_TRANSACTIONS_COUNT_MAX: usize = 256;
