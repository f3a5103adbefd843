//! Handshakes, certificates, tickets.

use std::time::Duration;

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
/// How long a key seals tickets: one lives for once to twice as long. RFC 8446 §4.6.1 allows 7 days.
pub const TICKET_KEY_TIME_MAX: Duration = Duration::from_secs(6 * 3600);
/// Octets of a PEM file: a chain has some thousands.
pub const PEM_FILE_LEN_MAX: u64 = 1 << 20;
