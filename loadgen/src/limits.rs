//! Every bound of the generator in one place: what a server, or a long run, could make grow.

use std::time::Duration;

/// Longest reply line that is read, CR LF included, in octets. RFC 5321 §4.5.3.1.5 allows 512; a server that writes a
/// little more is measured all the same, one that never ends its line is not.
pub const REPLY_LINE_LEN_MAX: usize = 1024;
/// Lines of one multi-line reply. An EHLO reply with every registered extension has fewer than 60.
pub const REPLY_LINES_COUNT_MAX: usize = 128;
/// Octets given to the kernel in one send. Larger content goes out in several, so that memory per connection is bounded
/// whatever the size of a message.
pub const SEND_LEN_MAX: usize = 256 << 10;
/// Octets a connection's send buffer keeps between messages; a larger one is returned to the allocator.
pub const SEND_BUFFER_KEPT_MAX: usize = 64 << 10;
/// Connections that one thread opens at the same time: below the usual listen backlog, so that no SYN is dropped and
/// repeated only after a second.
pub const OPENING_COUNT_MAX: usize = 256;
/// First wait before a lost connection is opened again; it doubles with each failure that follows.
pub const RETRY_FIRST: Duration = Duration::from_millis(10);
/// Longest wait before a lost connection is opened again.
pub const RETRY_LAST: Duration = Duration::from_secs(1);
/// Lost connections in a row, without one accepted message between them, after which a slot is given up where no
/// `--duration` ends the run: about half a minute.
pub const FAILURES_IN_A_ROW_MAX: u32 = 32;
/// Longest latency that a histogram tells apart; longer ones count as this.
pub const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Longest wait of one turn: how soon a thread sees that it is to stop.
pub const TURN_WAIT_MAX: Duration = Duration::from_millis(100);
/// Longest time that an open loop waits for its connections to be open before its first arrival.
pub const WARM_UP_MAX: Duration = Duration::from_secs(5);
/// How often a thread looks for connections whose reply is overdue.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How long transactions under way may take to end once the run is over, or interrupted.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
pub const DRAIN_INTERRUPTED_MAX: Duration = Duration::from_secs(1);
/// A connection that has waited so long for its greeting when the time is over counts as not answered.
pub const SILENT_MIN: Duration = Duration::from_secs(1);
/// How long connections may take to say goodbye and close once no transaction is under way.
pub const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Connections of one run: what six digits of a token name.
pub const CONNECTIONS_COUNT_MAX: u32 = 1_000_000;
/// Largest content in octets.
pub const CONTENT_LEN_MAX: u64 = 1 << 30;
/// Sizes drawn from a distribution at a run's beginning, of which each message has one: enough for its last thousandth.
pub const SIZES_COUNT: usize = 8192;
/// Largest size that is drawn, in octets: the memory of a run's contents, whatever the distribution.
pub const SIZE_DRAWN_MAX: usize = 64 << 20;
/// Largest deviation of a log-normal distribution's logarithm: at 4, one in a thousand is 200,000 times the median.
pub const SIGMA_MAX: f64 = 4.0;
/// All files of a corpus, in octets: they are kept in memory.
pub const CORPUS_LEN_MAX: u64 = 1 << 30;
pub const CORPUS_FILES_COUNT_MAX: usize = 1 << 20;
/// Recipients of one transaction: what RFC 5321 §4.5.3.1.8 lets every client rely on.
pub const RECIPIENTS_COUNT_MAX: usize = 100;
/// Longest mailbox on the command line, without angle brackets. RFC 5321 §4.5.3.1.
pub const MAILBOX_LEN_MAX: usize = 64 + 1 + 255;
/// How often misbehaving clients are looked at: what many of them do falls into few bursts otherwise.
pub const MISCHIEF_LOOK: Duration = Duration::from_millis(1);
/// How often one that never reads asks for another reply.
pub const MISCHIEF_TICK: Duration = Duration::from_millis(20);
/// From the end of a misbehaving client's connection to its next one.
pub const MISCHIEF_PAUSE: Duration = Duration::from_millis(100);
/// How long an early talker waits for what the server says; how long a send waits until the server counts as one that
/// has stopped reading.
pub const OUTCOME_WAIT_MAX: Duration = Duration::from_secs(2);
/// Receive buffer of a client that never reads, in octets: the kernel's least is about that.
pub const DEAF_RECEIVE_BUFFER_LEN: usize = 4096;
/// Octets of a misbehaving client's message.
pub const MISCHIEF_CONTENT_LEN: usize = 4096;
/// Points of a run's timeline, and how far apart they are at first.
pub const TIMELINE_POINTS_COUNT_MAX: usize = 120;
pub const TIMELINE_INTERVAL: Duration = Duration::from_millis(100);
/// Kinds of error told apart by reply code; others are added up without the code.
pub const ERROR_ENTRIES_COUNT_MAX: usize = 100;
/// Octets of a reply's text kept as an example and in the ledger.
pub const TEXT_KEPT_MAX: usize = 256;
/// Octets of a stored message that are searched for its token: whoever adds more fields than that is not measured here.
pub const HEADER_SECTION_LEN_MAX: u64 = 256 << 10;
/// Missing messages that are named; all are counted.
pub const MISSING_NAMED_COUNT_MAX: usize = 20;
/// Arrivals in a Poisson process that nobody took are drawn one by one up to here, the rest by their mean: about a
/// second.
pub const MISSED_DRAWN_COUNT_MAX: u64 = 1 << 26;
/// Addresses that connections come from: all of one network of 16 bits.
pub const SOURCES_COUNT_MAX: usize = 1 << 16;

// A pipelining group leaves room for content behind it in its send.
const _: () = assert!(SEND_LEN_MAX > 2 * RECIPIENTS_COUNT_MAX * (MAILBOX_LEN_MAX + 64));
const _: () = assert!(REPLY_LINE_LEN_MAX >= 512);
const _: () = assert!(SEND_BUFFER_KEPT_MAX <= SEND_LEN_MAX);
