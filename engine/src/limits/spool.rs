//! Records, segments and commits.

use super::{PATH_LEN_MAX, RECIPIENTS_COUNT_MAX};

/// Longest text of an error that is kept, in octets: the reply of a next hop and what we say around it.
pub const LAST_ERROR_LEN_MAX: usize = 600;
/// Bytes of envelope that the smallest segment has room for beside the largest content: all recipients with the longest
/// path and their field headers, and room for what is stored once (client, HELO name, listener, times).
pub const ENVELOPE_LEN_MAX: usize = RECIPIENTS_COUNT_MAX * (PATH_LEN_MAX + 8) + 4096;
/// Of these what follows the last recipient, and its field headers: security, listener, time of receipt.
pub const ENVELOPE_REST_LEN_MAX: usize = 512;
/// Bytes of trace field in front of the content, at most.
pub const TRACE_LEN_MAX: usize = 4096;
/// Octets of content that a header of the spool may say, so that no sum of lengths overflows: one that says more is
/// damaged.
pub const RECORD_CONTENT_LEN_MAX: u64 = 1 << 48;
/// Largest segment. Acknowledgements hold offsets in units of 8 bytes in 32 bits, which would do for 32 GiB; recovery
/// reads a whole segment, so it is kept well below.
pub const SEGMENT_SIZE_MAX: u64 = 4 << 30;
/// A batch that has grown to this many bytes takes no further record; the next one begins behind it.
pub const BATCH_LEN_SOFT_MAX: usize = 4 << 20;
/// Octets that wait for their write to begin, from which on every message waits for its own: as much as may be on its
/// way, so that the buffers that are kept do for both.
pub const QUEUED_LEN_MAX: usize = FLIGHTS_COUNT_MAX * BATCH_LEN_SOFT_MAX;
/// Writes on their way at once, those counted that have ended and wait for one before them. Beyond three the wait gets
/// hardly shorter, and each costs a sync.
pub const FLIGHTS_COUNT_MAX: usize = 4;
/// Larger buffers are given back to the allocator after their write, so that one large message is not held for good.
pub const BUFFER_KEPT_LEN_MAX: usize = 2 * BATCH_LEN_SOFT_MAX;
/// Bytes of buffers kept: what a few full batches need, or many small ones.
pub const BUFFERS_KEPT_LEN_MAX: usize = 8 * BATCH_LEN_SOFT_MAX;
/// Buffers kept: more than are in flight and with the reader together.
pub const BUFFERS_KEPT_COUNT_MAX: usize = 128;
/// Lists of tickets kept: those in flight, and one that collects.
pub const TICKET_LISTS_KEPT_COUNT_MAX: usize = 8;
/// Empty files that a shard keeps beyond those that are ready; more are deleted.
pub const SPARE_FILES_COUNT_MAX: usize = 64;
/// Most segments that a shard may have ready.
pub const READY_SEGMENTS_COUNT_MAX: usize = 4;
/// Delivered segments a shard keeps for reuse beyond those that are ready; more are deleted.
pub const SPARE_SEGMENTS_COUNT_MAX: usize = 2;
/// Bytes that one write of deferred messages holds, unless a single record is longer.
pub const DEFERRED_WRITE_LEN_MAX: usize = 1 << 20;
/// Bytes of memory that a shard has on loan: a few large batches, or the small ones of some milliseconds.
pub const LENT_LEN_MAX: usize = 16 << 20;
/// Batches of one segment on loan.
pub const LENT_COUNT_MAX: usize = 64;
/// Times that a tool reads the deferred segments because the server has begun another one meanwhile.
pub const READS_COUNT_MAX: usize = 8;
/// Of the space that must stay free: never more than this where the configuration does not say.
pub const FREE_MIN_DEFAULT_MAX: u64 = 1 << 30;
