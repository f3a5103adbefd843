//! What is under way to Maildirs and next hops, and how long those may take.

use std::time::Duration;

use super::{PATH_LEN_MAX, RECIPIENTS_COUNT_MAX};

/// Messages that one shard's index holds: 128 MiB of memory at most, twice that while it grows. Those beyond stay in
/// their segments until the index is made anew.
pub const DEFERRED_INDEX_COUNT_MAX: usize = if cfg!(test) { 1000 } else { 4 << 20 };
/// How long they stay there while the index is full: then it is made anew, of those that are due first.
pub const UNINDEXED_TIME_MAX: Duration = Duration::from_secs(600);
/// Records that one flush moves out of a segment.
pub const COMPACTION_COUNT_MAX: usize = 256;
/// Octets that one flush writes for compaction: a delivery's acknowledgement waits for them.
pub const COMPACTION_LEN_MAX: u64 = 4 << 20;
/// Directories synced at the same time.
pub const DIRECTORY_SYNCS_COUNT_MAX: usize = 64;
/// Octets of the message's header section that go into a notice, and of the whole message where its sender wants it
/// back (RFC 3461 §4.3 leaves the decision with us where it is large).
pub const RETURNED_LEN_MAX: usize = 64 << 10;
/// Segments open for reading at once: more than a worker fills and has ready, far fewer than a long backlog has.
pub const READING_SEGMENTS_COUNT_MAX: usize = 8;
/// Messages being written at the same time: enough for their syncs to share the file system's commits.
pub const DELIVERIES_COUNT_MAX: usize = 64;
/// Of those, second and later attempts: a dead disk behind one route must not take all places.
pub const RETRIES_COUNT_MAX: usize = DELIVERIES_COUNT_MAX / 2;
/// Messages with next hops at the same time, each of which takes some at most: a dozen in trouble leave places.
pub const RELAYS_COUNT_MAX: usize = 512;
/// Of those, with one next hop, besides two for each of its connections.
pub const HOP_USERS_COUNT_MAX: usize = RELAYS_COUNT_MAX / 4;
/// Of all, second and later attempts.
pub const RELAY_RETRIES_COUNT_MAX: usize = RELAYS_COUNT_MAX / 2;
/// Messages of a shard that wait for a place at a next hop which keeps up, while other mail goes past them: one
/// committed burst of several hundred sessions.
pub const STALLED_COUNT_MAX: usize = 512;
/// Octets of content held for deliveries. One message more may be held, of whatever length.
pub const DELIVERED_CONTENT_LEN_MAX: usize = 64 << 20;
/// Messages tried and neither acknowledged nor deferred yet.
pub const FINISHED_COUNT_MAX: usize = 1024;
/// How long one address of a next hop may take to accept a connection. A name may have more, and a route more names.
pub const HOP_CONNECT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a connection to a next hop is kept for the next message. Servers close idle ones after minutes (RFC 5321
/// §4.5.3.2.7).
pub const HOP_IDLE_TIME_MAX: Duration = Duration::from_secs(20);
/// Transactions on one connection to a next hop: some servers count them.
pub const HOP_TRANSACTIONS_COUNT_MAX: u32 = 1000;
/// How long a next hop whose places are all taken may end no transaction before it is slow: mail waits for a place at
/// one that keeps up, and is deferred for the others.
pub const HOP_STALL_TIME_MAX: Duration = Duration::from_secs(2);
/// How much of the time between two looks at a next hop counts against it: a delivery thread looks once a second.
pub const HOP_LOOK_TIME_COUNTED_MAX: Duration = Duration::from_secs(1);
/// How long a deferred message whose next hop has no place is not looked at, at most: its hop may have another rate, or
/// none, since a reload.
pub const HOP_LOOK_TIME_MAX: Duration = Duration::from_secs(600);
/// How long a next hop is left alone after a failure; twice as long after each further one, up to the second.
pub const HOP_REST_TIME_LEAST: Duration = Duration::from_secs(1);
/// How long a next hop is left alone after failures, at most.
pub const HOP_REST_TIME_MAX: Duration = Duration::from_secs(300);
/// Octets of content in one group of commands, which goes without a look at their replies: no more than sockets take
/// while replies wait.
pub const GROUPED_CONTENT_LEN_MAX: u64 = 64 << 10;
/// Messages in one group: if the connection is lost in it, that many at most may arrive twice.
pub const GROUPED_MESSAGES_COUNT_MAX: usize = 16;
/// Commands of RCPT in one group, so that their replies fit into the sockets between us.
pub const GROUPED_RECIPIENTS_COUNT_MAX: usize = 500;
/// How long a next hop may take to answer QUIT, which nothing depends on.
pub const HOP_QUIT_TIME_MAX: Duration = Duration::from_secs(5);
/// Octets of one reply of a next hop. RFC 5321 §4.5.3.1.5 has 512 a line; EHLO has some dozen lines.
pub const HOP_REPLY_LEN_MAX: usize = 64 << 10;
/// Octets of it that are kept as its text.
pub const HOP_REPLY_TEXT_LEN_MAX: usize = 400;
/// How long a notice is tried, since the first attempt at its message: mail has 5 days, and the notice as many.
pub const NOTICE_TIME_MAX: Duration = Duration::from_secs(10 * 24 * 3600);
/// How long deliveries under way may take to end after a stop.
pub const DELIVERY_STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// How much longer a delivery thread may take: one that hangs in the kernel, at a dead disk, is left behind.
pub const THREAD_STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the last events may take to be written at a stop, for the same reason.
pub const EVENTS_STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a delivery thread may take to look at its orders: one that hangs at a dead disk does not.
pub const ORDER_TIME_MAX: Duration = Duration::from_secs(10);
/// Octets of an answer's header section by HTTP, and of what is read of its body: any web server's is shorter.
pub const HTTP_ANSWER_LEN_MAX: usize = 64 << 10;
/// Fields of its header section.
pub const HTTP_ANSWER_FIELDS_COUNT_MAX: usize = 100;
/// Recipients of one request: each is a header field, and most servers take 8 KiB or a hundred of them.
pub const HTTP_RECIPIENTS_COUNT_MAX: usize = 50;
/// Octets of events that wait for their file, besides those of the last tail that found room.
pub const EVENTS_WAITING_LEN_MAX: usize = 1 << 20;
/// Octets of one event for its readers: a message has a thousand recipients, and each some hundred octets, escaped.
pub const EVENT_LEN_MAX: usize = 4 << 20;

// An octet of a mailbox is five at most there: a backslash, which JSON doubles, `x` and two digits.
const _: () = assert!(RECIPIENTS_COUNT_MAX * (5 * PATH_LEN_MAX + 3) + (64 << 10) <= EVENT_LEN_MAX);
