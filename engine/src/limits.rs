//! Every bound of the engine, in one place: what a stranger can make grow stops at a number with a name and a reason.

use std::time::Duration;

/// Longest command line, CR LF included, in octets. RFC 5321 §4.5.3.1.4 sets 512 as the least a server must take;
/// extensions add to it (SIZE 26, 8BITMIME 17, DSN about 1,000, SMTPUTF8 10), and 2,048 holds all of them.
pub const COMMAND_LINE_LEN_MAX: usize = 2048;
/// Octets of one over-long command line that are read and thrown away before the session is closed with 421.
pub const DISCARDED_LINE_LEN_MAX: usize = 1 << 20;
/// Longest reply line the engine writes, CR LF included. RFC 5321 §4.5.3.1.5.
pub const REPLY_LINE_LEN_MAX: usize = 512;
/// Longest local-part in octets. RFC 5321 §4.5.3.1.1 sets 64 as the least; senders that code the recipient into the
/// reverse-path (VERP, SRS) need more.
pub const LOCAL_PART_LEN_MAX: usize = 256;
/// Longest domain in octets. RFC 5321 §4.5.3.1.2.
pub const DOMAIN_LEN_MAX: usize = 255;
/// Longest domain label in octets. RFC 1035 §2.3.4.
pub const LABEL_LEN_MAX: usize = 63;
/// Longest path, `<` and `>` included, source route not. RFC 5321 §4.5.3.1.3 sets 256 as the least.
pub const PATH_LEN_MAX: usize = LOCAL_PART_LEN_MAX + 1 + DOMAIN_LEN_MAX + 2;
/// Recipients of one transaction. RFC 5321 §4.5.3.1.8 sets 100 as the least; beyond it the reply is 452 (§4.5.3.1.10).
pub const RECIPIENTS_COUNT_MAX: usize = 1000;
/// Received fields in a message before it counts as a loop. RFC 5321 §6.3 wants at least 100.
pub const RECEIVED_FIELDS_COUNT_MAX: usize = 100;
/// Protocol faults of one session since its last accepted message, before 421 and close.
pub const FAULTS_COUNT_MAX: u16 = 20;
/// Refused recipients of one session since its last accepted message, before 421 and close: more than one full
/// transaction of a sender with an old list, far less than a harvest of addresses.
pub const REFUSED_RECIPIENTS_COUNT_MAX: u16 = 200;
/// The most that a budget of faults may be configured to.
pub const FAULTS_COUNT_MOST: u16 = 60_000;
/// Commands of one session since its last accepted message, before 421 and close: what three transactions of as many
/// recipients as there may be need.
pub const COMMANDS_COUNT_MAX: u32 = 3 * RECIPIENTS_COUNT_MAX as u32;
/// Digits of SIZE's value. RFC 1870 §6.
pub const SIZE_DIGITS_MAX: usize = 20;
/// Octets of ENVID's value. RFC 3461 §4.4.
pub const ENVID_LEN_MAX: usize = 100;
/// Octets of ORCPT's value. RFC 3461 §4.2.
pub const ORCPT_LEN_MAX: usize = 500;
/// Characters of a U-label: of the 63 octets of its A-label `xn--` takes 4, and each character at least one more.
pub const U_LABEL_CHARS_COUNT_MAX: usize = LABEL_LEN_MAX - 4;

/// Octets of one chunk of BDAT (RFC 3030) that are read even where the chunk is refused, so that the dialogue stays in
/// step: as many as the largest message of any listener. Beyond it the session is closed with 421 instead.
pub const BDAT_LEN_MAX: u64 = 1 << 30;

/// Octets of a PROXY header. The protocol allows 64 KiB; what proxies send fits into some hundreds, with a client's
/// certificate into some thousands.
pub const PROXY_HEADER_LEN_MAX: usize = 4096;
/// How long a proxy may take to send its header. Its specification wants at least 3 s, for a packet that is lost.
pub const PROXY_HEADER_TIME_MAX: Duration = Duration::from_secs(5);
/// Octets of content within each time-out of content, for a client that is not to be taken for a silent one. RFC 5321
/// §4.5.3.2.5 gives the client 3 minutes for each block that it sends to TCP, and a block has more.
pub const DATA_PROGRESS_LEN: u32 = 1024;
/// The most that it may be configured to: more than this in a time-out is asked of no line.
pub const DATA_PROGRESS_MOST: u32 = 1 << 20;
/// How long all of a message's content may take. 50 MiB in this time are 60 kbit/s.
pub const DATA_TIME_MAX: Duration = Duration::from_secs(2 * 3600);
/// Entries of the table that counts what clients do, over all workers: 64 octets each. Each connection has two.
pub const CLIENTS_COUNT_MAX: usize = 1 << 16;

/// How long a client may take for a TLS handshake. It has one or two round trips and no person in it; this leaves time
/// for packets that are lost.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(30);
/// Octets that a client may send for a handshake. A ClientHello has about 2,000 with a post-quantum key share (RFC 8446
/// §4.1.2 allows 128 KiB and more); what is far beyond is a client's certificates, of which 32 KiB hold a long chain.
pub const HANDSHAKE_LEN_MAX: usize = 32 * 1024;
/// From when the files of a certificate have changed until new connections get it.
pub const CERTIFICATE_RENEWAL_TIME_MAX: Duration = Duration::from_secs(2);
/// Handshakes of a worker under way at one time, so that those who begin one and do not go on hold at most 64 MiB of
/// buffers. Beyond it STARTTLS is answered 454 (RFC 3207 §4), and a connection that begins with TLS is closed. Sessions
/// in clear, and those whose handshake is done, are none of them.
pub const HANDSHAKES_COUNT_MAX: usize = 1024;
/// How long one turn of a worker works on handshakes, if one alone does not take longer; the rest waits for the next
/// turn. About four of the cheap kind. It is what everybody else waits for them.
pub const HANDSHAKES_TURN_TIME_MAX: Duration = Duration::from_millis(1);
/// How long a certificate must still be valid not to be warned of: authorities and their clients renew at 30 days.
pub const CERTIFICATE_TIME_LEAST: Duration = Duration::from_secs(21 * 24 * 3600);
/// Tickets for resumption that a client gets with a full handshake: one is enough for one connection after the other.
pub const TICKETS_COUNT: usize = 1;

const _: () = assert!(COMMAND_LINE_LEN_MAX >= 512 + 26 + 17 + 1000 + 10);
const _: () = assert!(RECIPIENTS_COUNT_MAX >= 100);
const _: () = assert!(RECEIVED_FIELDS_COUNT_MAX >= 100);
const _: () = assert!(PATH_LEN_MAX >= 256);

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

/// Octets of received but unread input of one connection before its receiving stops: one receive buffer. What the turn
/// brings until then comes on top.
pub const PARKED_INPUT_LEN_MAX: usize = 16 * 1024;
/// Octets of such input of all connections of a worker; beyond it those that have more than their part are cut off. A
/// turn can bring 16 MiB, all receive buffers, and then it stops.
pub const PARKED_INPUTS_LEN_MAX: usize = 64 << 20;
/// Octets of replies that wait to be sent to one client before its input stays unread.
pub const PENDING_OUTPUT_LEN_MAX: usize = 64 * 1024;
/// Octets of a send buffer that goes back to the worker's pool.
pub const POOLED_OUTPUT_LEN_MAX: usize = 16 * 1024;
/// Pooled send buffers of a worker: at most 16 MiB.
pub const POOLED_OUTPUTS_COUNT_MAX: usize = 1024;
/// Connections that a worker has slots for even if the listeners of its start ask for fewer: others may come. Address
/// space until they are used.
pub const CONNECTIONS_COUNT_LEAST: usize = 1 << 17;
/// Addresses that may be listened on at the same time; the queue in which a worker is told of changes has room for two
/// changes to each.
pub const PORTS_COUNT_MAX: usize = 1024;
/// Connections beyond the worker's limit, or beyond a client's, that are told so with a 421, at one time; more are
/// closed without a word.
pub const SHED_CONNECTIONS_COUNT_MAX: usize = 64;
/// How long a client may take to accept one send. As long as RFC 5321 §4.5.3.2 gives it for a command.
pub const SEND_TIME_MAX: Duration = Duration::from_secs(300);
/// How long the last reply of a session may take to be sent.
pub const LAST_REPLY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long, after our last reply, we read what the client still sends: closing with unread input resets the
/// connection, and the reset destroys the reply (RFC 9293 §3.6.1 and Linux's tcp_close).
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
/// Octets read and thrown away meanwhile.
pub const LINGER_LEN_MAX: usize = 1 << 20;
/// How long accepting pauses after it failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
