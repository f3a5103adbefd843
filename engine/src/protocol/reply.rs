//! Every reply the engine can give, and their encoding. No other module writes a reply code.
//!
//! Codes are RFC 5321's (§4.2.2, §4.3.2), enhanced status codes RFC 3463's and its registry's. RFC 2034 §4: they
//! precede the text of each 2yz, 4yz and 5yz reply but the greeting and the replies to EHLO and HELO. A text says what
//! is wrong and, behind `; `, what the client's operator can do; it holds nothing that the client sent.
//! `docs/replies.md` lists them all (`tests/tests/replies.rs` writes it).

use crate::id::MessageId;

/// One reply of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// Empty where RFC 2034 has none.
    pub enhanced: &'static str,
    pub text: &'static str,
}

/// A reply and when it is given, for the table in the documentation.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub name: &'static str,
    pub meaning: &'static str,
    pub reply: &'static Reply,
}

macro_rules! replies {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal $enhanced:literal $text:literal;)*) => {
        $($(#[doc = $doc])+ pub const $name: Reply = Reply { code: $code, enhanced: $enhanced, text: $text };)*

        /// All of them, by code.
        pub const ALL: &[Entry] =
            &[$(Entry { name: stringify!($name), meaning: concat!($($doc),+), reply: &$name },)*];
    };
}

replies! {
    /// HELP.
    HELP = 214 "2.0.0" "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT are served as in RFC 5321";
    /// The greeting; the host's name precedes the text.
    GREETING = 220 "" "ESMTP ringmx";
    /// STARTTLS: the handshake begins.
    START_TLS = 220 "2.0.0" "begin the TLS handshake";
    /// QUIT.
    CLOSING = 221 "2.0.0" "goodbye";
    /// HELO, and the first line to EHLO; the host's name precedes the text.
    HELLO = 250 "" "greets you";
    /// RSET, NOOP.
    OK = 250 "2.0.0" "ok";
    /// MAIL was taken.
    SENDER_OK = 250 "2.1.0" "sender ok";
    /// RCPT was taken.
    RECIPIENT_OK = 250 "2.1.5" "recipient ok";
    /// The message is durable and the engine is responsible for it; the message's id follows the text.
    QUEUED = 250 "2.0.0" "queued as";
    /// BDAT without LAST: the chunk was taken; its length precedes the text.
    CHUNK_TAKEN = 250 "2.0.0" "octets received";
    /// VRFY: mailboxes are not told.
    NOT_VERIFIED = 252 "2.5.0" "not verified here; send RCPT and see whether it is accepted";
    /// DATA: content is awaited.
    START_CONTENT = 354 "" "send the content, end it with <CRLF>.<CRLF>";

    /// The spool of the worker has failed; at the greeting or in place of the next reply.
    SPOOL_FAILED = 421 "4.3.0" "cannot store mail; closing, try again later";
    /// As many connections are open as the listener allows.
    FULL = 421 "4.3.2" "too many connections; closing, try again later";
    /// The server drains.
    SHUTTING_DOWN = 421 "4.3.2" "shutting down; closing, try again later";
    /// Nothing was received for the time allowed, or hardly anything.
    TIMED_OUT = 421 "4.4.2" "nothing came for too long; closing, connect again and send without pauses";
    /// The content took longer than all of it may.
    CONTENT_TOO_LONG = 421 "4.4.2" "content takes too long; closing, try again over a better line";
    /// The session's budget of faults is used up.
    TOO_MANY_FAULTS = 421 "4.7.0" "too many refused commands in this session; closing, the replies before this one say why";
    /// The session's budget of refused recipients is used up.
    TOO_MANY_REFUSED_RECIPIENTS = 421 "4.7.0" "too many refused recipients in this session; closing, remove those addresses";
    /// BDAT with more octets than are read to be thrown away.
    ENDLESS_CHUNK = 421 "4.3.4" "chunk far beyond the limit that SIZE states; closing, send a smaller message";
    /// A line ended with LF alone: what follows it is not read.
    BARE_NEWLINE = 421 "4.5.2" "line ended with a bare <LF>; closing, end lines with <CRLF>";
    /// BDAT whose argument does not tell how much follows: what follows is not read.
    BAD_CHUNK = 421 "4.5.4" "size of the chunk not understood; closing, send BDAT octets or BDAT octets LAST";
    /// A rule with `action = "defer"` or `"limit"` at the greeting.
    RULE_DEFERS_CLIENT = 421 "4.7.1" "not now, by a rule of this server; closing, try again later";
    /// An over-long command line went on beyond all bounds.
    ENDLESS_LINE = 421 "4.7.0" "command line does not end; closing, send commands in lines";
    /// More commands came than any message needs.
    TOO_MANY_COMMANDS = 421 "4.7.0" "too many commands without a message; closing, send messages";
    /// The session has had as many transactions as it may.
    TOO_MANY_TRANSACTIONS = 421 "4.7.0" "too many transactions in this session; closing, send the rest in another";
    /// The session has had as many recipients as it may.
    TOO_MANY_RECIPIENTS_IN_SESSION = 421 "4.7.0" "too many recipients in this session; closing, send the rest in another";
    /// The session has brought as many octets as it may.
    TOO_MANY_OCTETS = 421 "4.7.0" "too many octets in this session; closing, send the rest in another";
    /// The client, or its network, has as many connections open as it may.
    CLIENT_CONNECTIONS = 421 "4.7.0" "too many connections from your address or network; closing, close others and try again";
    /// The client, or its network, connects more often than it may.
    CLIENT_CONNECTION_RATE = 421 "4.7.0" "connections from your address or network come too fast; closing, try again later";
    /// The client, or its network, begins more transactions than it may.
    CLIENT_TRANSACTION_RATE = 421 "4.7.0" "messages from your address or network come too fast; closing, try again later";
    /// The client, or its network, names more recipients than it may.
    CLIENT_RECIPIENT_RATE = 421 "4.7.0" "recipients from your address or network come too fast; closing, try again later";
    /// The client, or its network, commits more faults than it may.
    CLIENT_FAULT_RATE = 421 "4.7.0" "too many faults from your address or network; closing, correct the client";
    /// The client, or its network, sends more octets than it may.
    CLIENT_SIZE_RATE = 421 "4.7.0" "octets from your address or network come too fast; closing, try again later";
    /// The client, or its network, gives more commands than it may.
    CLIENT_COMMAND_RATE = 421 "4.7.0" "commands from your address or network come too fast; closing, try again later";

    /// A rule with `action = "defer"` or `"limit"`, without a text of its own.
    RULE_DEFERS = 450 "4.7.1" "not now, by a rule of this server; try again later";
    /// The message could not be made durable.
    LOCAL_ERROR = 451 "4.3.0" "an error of this server, the message was not stored; try again later";
    /// MAIL, or the end of data: there is no room.
    NO_STORAGE = 452 "4.3.1" "no room to store the message; try again later";
    /// RCPT beyond the number that one transaction takes (RFC 5321 §4.5.3.1.10).
    TOO_MANY_RECIPIENTS = 452 "4.5.3" "too many recipients; send the rest in another transaction";

    /// STARTTLS when as many handshakes are under way as may be (RFC 3207 §4).
    TLS_BUSY = 454 "4.7.0" "too many TLS handshakes at this time; try again later";

    /// The verb is not known.
    UNKNOWN_COMMAND = 500 "5.5.1" "command not known; this is an SMTP server, send HELP for its commands";
    /// The line is longer than a command may be.
    LINE_TOO_LONG = 500 "5.5.2" "command line too long; the limit is 2048 octets with its <CRLF>";
    /// An octet below 32, or 127, in a command line.
    CONTROL_OCTET = 500 "5.5.2" "control character in the command; send printable ASCII ended with <CRLF>";
    /// An octet above 127 in a command line.
    NON_ASCII = 500 "5.5.2" "octet above 127 in the command; send printable ASCII";
    /// Octets above 127 that are not UTF-8 in an argument that may hold some.
    NOT_UTF8 = 500 "5.5.2" "octets above 127 that are not UTF-8; send UTF-8 or printable ASCII";
    /// The argument is not of the verb's form.
    BAD_ARGUMENT = 501 "5.5.4" "argument not understood; send MAIL FROM:<address> or RCPT TO:<address>";
    /// The verb needs an argument.
    ARGUMENT_MISSING = 501 "5.5.4" "argument missing; send it after the command and a space";
    /// The verb has no argument.
    ARGUMENT_UNEXPECTED = 501 "5.5.4" "the command takes no argument; send it alone";
    /// EHLO or HELO with something else than a name.
    BAD_HELO_NAME = 501 "5.5.4" "not a host name; send a domain name or an [address] literal";
    /// A parameter, or its value, is not of its form.
    BAD_PARAMETER = 501 "5.5.4" "parameter not understood; send KEYWORD or KEYWORD=value as the extension defines it";
    /// A parameter was given twice.
    DUPLICATE_PARAMETER = 501 "5.5.4" "parameter given twice; send it once";
    /// RCPT's path is not a path.
    BAD_RECIPIENT_SYNTAX = 501 "5.1.3" "recipient is not an address in <>; send RCPT TO:<local-part@domain>";
    /// MAIL's path is not a path.
    BAD_SENDER_SYNTAX = 501 "5.1.7" "sender is not an address in <>; send MAIL FROM:<local-part@domain> or MAIL FROM:<>";
    /// RFC 5321 §4.5.3.1.1; RCPT.
    RECIPIENT_LOCAL_PART_TOO_LONG = 501 "5.1.3" "local-part of the recipient too long; the limit is 256 octets";
    /// RFC 5321 §4.5.3.1.1; MAIL.
    SENDER_LOCAL_PART_TOO_LONG = 501 "5.1.7" "local-part of the sender too long; the limit is 256 octets";
    /// RFC 5321 §4.5.3.1.2; RCPT.
    RECIPIENT_DOMAIN_TOO_LONG = 501 "5.1.3" "domain of the recipient too long; the limit is 255 octets";
    /// RFC 5321 §4.5.3.1.2; MAIL.
    SENDER_DOMAIN_TOO_LONG = 501 "5.1.7" "domain of the sender too long; the limit is 255 octets";
    /// RFC 5321 §4.5.3.1.3; RCPT.
    RECIPIENT_PATH_TOO_LONG = 501 "5.1.3" "recipient too long; the limits are 256 octets before the @ and 255 behind it";
    /// RFC 5321 §4.5.3.1.3; MAIL.
    SENDER_PATH_TOO_LONG = 501 "5.1.7" "sender too long; the limits are 256 octets before the @ and 255 behind it";
    /// EXPN, and what was not announced: AUTH, STARTTLS where there is none, and BDAT where CHUNKING is switched off.
    NOT_IMPLEMENTED = 502 "5.5.1" "command not offered; the reply to EHLO lists what is";
    /// MAIL before EHLO or HELO.
    EXPECTED_HELLO = 503 "5.5.1" "no EHLO yet; send EHLO first";
    /// RCPT or DATA before MAIL.
    EXPECTED_MAIL = 503 "5.5.1" "no transaction is open; send MAIL first";
    /// MAIL within a transaction.
    EXPECTED_RCPT_OR_RSET = 503 "5.5.1" "a transaction is open; send RCPT, or RSET to begin another";
    /// DATA before any RCPT.
    EXPECTED_RCPT = 503 "5.5.1" "no recipient yet; send RCPT first";
    /// MAIL, RCPT or DATA between the chunks of BDAT.
    EXPECTED_BDAT = 503 "5.5.1" "content has begun with BDAT; send BDAT, or RSET to begin another transaction";

    /// Any command but QUIT from a client that was refused at its greeting (RFC 5321 §3.1).
    TURNED_AWAY = 503 "5.7.1" "no service for this client; send QUIT";
    /// STARTTLS again.
    TLS_ACTIVE = 503 "5.5.1" "TLS is active already; go on with EHLO";
    /// MAIL in clear where the listener requires TLS (RFC 3207 §4).
    TLS_REQUIRED = 530 "5.7.0" "TLS is required here; send STARTTLS first";

    /// RCPT of a mailbox that is not there, in a domain that is served.
    NO_MAILBOX = 550 "5.1.1" "no such mailbox here; check the address";
    /// A rule with `action = "reject"`, without a text of its own.
    RULE_REJECTS = 550 "5.7.1" "refused by a rule of this server; ask its postmaster";
    /// RCPT of a domain that is not served: never an open relay.
    RELAY_DENIED = 550 "5.7.1" "mail for the recipient's domain is not accepted here; check the address, and the domain's MX record";
    /// The content held a bare CR or LF, which the listener does not take.
    BARE_NEWLINE_IN_CONTENT = 550 "5.6.0" "a line ends with a bare <CR> or <LF>; end lines with <CRLF>";
    /// MAIL with an octet above 127 and without SMTPUTF8 (RFC 6531 §3.5).
    NON_ASCII_SENDER = 550 "5.6.7" "sender is internationalized; use an ASCII one, or SMTPUTF8 where EHLO lists it";
    /// MAIL announced, or the content turned out, to be larger than the listener takes.
    TOO_LARGE = 552 "5.3.4" "message too large; SIZE in the reply to EHLO is the limit in octets, send a smaller one";
    /// RCPT or VRFY with an octet above 127 and without SMTPUTF8 (RFC 6531 §3.5).
    NON_ASCII_RECIPIENT = 553 "5.6.7" "recipient is internationalized; use an ASCII one, or SMTPUTF8 where EHLO lists it";
    /// The message has passed too many servers (RFC 5321 §6.3).
    LOOP = 554 "5.4.6" "more than 100 Received fields, a mail loop; correct the forwarding that sends it here again";
    /// A rule with `action = "reject"` at the greeting; only QUIT is obeyed behind it.
    RULE_REJECTS_CLIENT = 554 "5.7.1" "no service for this client, by a rule of this server; ask its postmaster";
    /// Something came before the reply that it had to wait for, the greeting included.
    EARLY_TALKER = 554 "5.5.0" "something came before the reply that it has to wait for; wait for the reply to each command";
    /// Something came in clear behind STARTTLS, where it could be read as if it were protected; it is thrown away.
    CLEAR_BEHIND_STARTTLS = 554 "5.5.0" "something came in clear behind STARTTLS; wait for its reply, then begin TLS";
    /// DATA when every RCPT was refused.
    NO_VALID_RECIPIENTS = 554 "5.5.1" "every recipient was refused; the replies to RCPT say why";
    /// The content held what other servers could take for its end.
    END_OF_DATA_LOOKALIKE = 554 "5.6.0" "a line is a dot with a bare <CR>, a bare <LF> or a NUL beside it; end lines with <CRLF>";
    /// A parameter of MAIL or RCPT that is not announced.
    UNKNOWN_PARAMETER = 555 "5.5.4" "parameter not implemented; send only what the reply to EHLO lists";
    /// BODY with a value that is not announced.
    UNSUPPORTED_BODY = 555 "5.5.4" "BODY value not implemented; send BODY=7BIT or BODY=8BITMIME";
}

/// RFC 5321 §3.8: with this reply, and no other negative one, the server closes the connection.
pub const CLOSING_CODE: u16 = 421;
/// What the operator's rules may refuse with. For a greeting RFC 5321 §3.1 has the one code, and §3.8 the other.
pub const REJECT_CODES_AT_CONNECT: &[u16] = &[554];
pub const DEFER_CODES_AT_CONNECT: &[u16] = &[CLOSING_CODE];
/// RFC 5321 §4.3.2, for EHLO, HELO, MAIL and RCPT; those that say something else, such as that a verb is not known, are
/// left out.
pub const REJECT_CODES: &[u16] = &[550, 553, 554];
pub const DEFER_CODES: &[u16] = &[450, 451, 452, CLOSING_CODE];

/// A whole reply line of the operator's.
pub fn encode_own(code: u16, enhanced: &str, text: &str) -> Box<[u8]> {
    format!("{code} {enhanced} {text}\r\n").into_bytes().into()
}

/// Appends the reply's line.
///
/// RFC 5321 §4.2: `Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF`
pub fn encode(reply: &Reply, out: &mut Vec<u8>) {
    encode_start(reply, b' ', out);
    out.extend_from_slice(reply.text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the reply with another text, and behind it where to find help.
pub fn encode_text(reply: &Reply, text: &str, help: Option<&str>, out: &mut Vec<u8>) {
    encode_start(reply, b' ', out);
    out.extend_from_slice(text.as_bytes());
    if let Some(help) = help {
        out.extend_from_slice(b"; see ");
        out.extend_from_slice(help.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the greeting; `banner` stands in place of its text.
///
/// RFC 5321 §4.2: `Greeting = "220 " (Domain / address-literal) [ SP textstring ] CRLF`
pub fn encode_greeting(hostname: &str, banner: Option<&str>, out: &mut Vec<u8>) {
    encode_hello_line(&GREETING, b' ', hostname, banner.unwrap_or(GREETING.text), out);
}

/// Appends the reply to HELO.
pub fn encode_helo(hostname: &str, out: &mut Vec<u8>) {
    encode_hello_line(&HELLO, b' ', hostname, HELLO.text, out);
}

/// Appends the reply to EHLO; each extension is its line, such as `SIZE 52428800`.
///
/// RFC 5321 §4.1.1.1: `ehlo-ok-rsp = ( "250" SP Domain [ SP ehlo-greet ] CRLF ) / ( "250-" Domain [ SP ehlo-greet ]
/// CRLF
/// *( "250-" ehlo-line CRLF ) "250" SP ehlo-line CRLF )`
pub fn encode_ehlo(hostname: &str, extensions: &[&str], out: &mut Vec<u8>) {
    let separator = |is_last| if is_last { b' ' } else { b'-' };
    encode_hello_line(&HELLO, separator(extensions.is_empty()), hostname, HELLO.text, out);
    for (index, extension) in extensions.iter().enumerate() {
        encode_start(&HELLO, separator(index + 1 == extensions.len()), out);
        out.extend_from_slice(extension.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the reply that takes responsibility for a message (RFC 5321 §6.1).
pub fn encode_queued(message: MessageId, out: &mut Vec<u8>) {
    encode_start(&QUEUED, b' ', out);
    out.extend_from_slice(QUEUED.text.as_bytes());
    out.push(b' ');
    message.append_to(out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the reply to a BDAT that is not the last.
pub fn encode_chunk_taken(len: u64, out: &mut Vec<u8>) {
    encode_start(&CHUNK_TAKEN, b' ', out);
    out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
    out.push(b' ');
    out.extend_from_slice(CHUNK_TAKEN.text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn encode_hello_line(reply: &Reply, separator: u8, hostname: &str, text: &str, out: &mut Vec<u8>) {
    encode_start(reply, separator, out);
    out.extend_from_slice(hostname.as_bytes());
    out.push(b' ');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Code, separator and enhanced status code.
fn encode_start(reply: &Reply, separator: u8, out: &mut Vec<u8>) {
    // Three digits by hand: this runs once a command.
    let digit = |value: u16| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[digit(reply.code / 100), digit(reply.code / 10), digit(reply.code), separator]);
    if !reply.enhanced.is_empty() {
        out.extend_from_slice(reply.enhanced.as_bytes());
        out.push(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;
    use crate::limits::{
        COMMAND_LINE_LEN_MAX, DOMAIN_LEN_MAX, LOCAL_PART_LEN_MAX, RECEIVED_FIELDS_COUNT_MAX,
        REPLY_LINE_LEN_MAX,
    };

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn replies_are_well_formed() {
        for Entry { name, reply, meaning } in ALL {
            let line = encoded(|out| encode(reply, out));
            assert!(line.len() + DOMAIN_LEN_MAX < REPLY_LINE_LEN_MAX, "{name}");
            assert!(
                line.strip_suffix("\r\n").expect("a line").bytes().all(|b| matches!(b, b' '..=b'~')),
                "{name}"
            );
            assert!((200..560).contains(&reply.code) && !meaning.is_empty(), "{name}");
            // RFC 2034 §4: the class is the reply code's first digit; RFC 3463 §2: class "." subject "." detail.
            let hello = matches!(*name, "GREETING" | "HELLO");
            assert_eq!(reply.enhanced.is_empty(), hello || reply.code / 100 == 3, "{name}");
            if !reply.enhanced.is_empty() {
                let parts = reply
                    .enhanced
                    .split('.')
                    .map(|part| part.parse::<u16>().expect("a number"))
                    .collect::<Vec<_>>();
                assert_eq!((parts.len(), parts[0]), (3, reply.code / 100), "{name}");
                assert!(parts[1] <= 7 && parts[2] <= 999, "{name}");
            }
        }
    }

    #[test]
    fn replies_are_sorted_and_state_the_limits() {
        for pair in ALL.windows(2) {
            assert!(pair[0].reply.code <= pair[1].reply.code, "{}", pair[1].name);
        }
        assert!(LINE_TOO_LONG.text.contains(&COMMAND_LINE_LEN_MAX.to_string()));
        assert!(SENDER_LOCAL_PART_TOO_LONG.text.contains(&LOCAL_PART_LEN_MAX.to_string()));
        assert!(SENDER_DOMAIN_TOO_LONG.text.contains(&DOMAIN_LEN_MAX.to_string()));
        let both =
            format!("limits are {LOCAL_PART_LEN_MAX} octets before the @ and {DOMAIN_LEN_MAX} behind it");
        assert!(SENDER_PATH_TOO_LONG.text.contains(&both) && RECIPIENT_PATH_TOO_LONG.text.contains(&both));
        assert!(LOOP.text.contains(&RECEIVED_FIELDS_COUNT_MAX.to_string()));
    }

    #[test]
    fn lines_on_the_wire() {
        assert_eq!(encoded(|out| encode(&RELAY_DENIED, out)).get(..10), Some("550 5.7.1 "));
        assert_eq!(encoded(|out| encode(&OK, out)), "250 2.0.0 ok\r\n");
        assert_eq!(encoded(|out| encode(&START_CONTENT, out)).get(..8), Some("354 send"));
        assert_eq!(
            encoded(|out| encode_greeting("mx.example", None, out)),
            "220 mx.example ESMTP ringmx\r\n"
        );
        assert_eq!(encoded(|out| encode_greeting("mx", Some("ESMTP"), out)), "220 mx ESMTP\r\n");
        assert_eq!(encoded(|out| encode_chunk_taken(86, out)), "250 2.0.0 86 octets received\r\n");
        assert_eq!(encoded(|out| encode_helo("mx.example", out)), "250 mx.example greets you\r\n");
        let id = MessageId { session: SessionId(1), transaction: 2 };
        assert_eq!(encoded(|out| encode_queued(id, out)), "250 2.0.0 queued as 0000000000001-2\r\n");
    }

    #[test]
    fn ehlo_has_a_line_for_each_extension() {
        assert_eq!(encoded(|out| encode_ehlo("mx", &[], out)), "250 mx greets you\r\n");
        assert_eq!(
            encoded(|out| encode_ehlo("mx", &["PIPELINING", "SIZE 5", "8BITMIME"], out)),
            "250-mx greets you\r\n250-PIPELINING\r\n250-SIZE 5\r\n250 8BITMIME\r\n"
        );
    }
}
