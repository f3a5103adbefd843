//! What a client may say, and for how long: RFC 5321 and its extensions, PROXY and XCLIENT.

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
/// Octets of one decoded value of XCLIENT: a domain is the longest.
pub const XCLIENT_VALUE_LEN_MAX: usize = 255;
/// Octets of a PROXY header of version 1, CR LF included: its specification, §2.1, has no longer one.
pub const PROXY_LINE_LEN_MAX: usize = 107;
/// Octets of a unique id in a PROXY header: its specification, §2.2.5.
pub const PROXY_UNIQUE_ID_LEN_MAX: usize = 128;

const _: () = assert!(COMMAND_LINE_LEN_MAX >= 512 + 26 + 17 + 1000 + 10);
const _: () = assert!(RECIPIENTS_COUNT_MAX >= 100);
const _: () = assert!(RECEIVED_FIELDS_COUNT_MAX >= 100);
const _: () = assert!(PATH_LEN_MAX >= 256);
