//! Commands: a line becomes a [`Command`] or a [`Malformed`]. Whether the session may have it now is the session's
//! matter.

use super::extension::{Extension, Extensions};
use super::params::{MailParams, RcptParams};
use super::path::{Domain, ForwardPath, PathFault, ReversePath};
use crate::limits::{DOMAIN_LEN_MAX, LABEL_LEN_MAX};

/// One command, borrowed from its line. RFC 5321 §4.1.1; BDAT: RFC 3030, STARTTLS: RFC 3207, AUTH: RFC 4954.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Ehlo(HeloName<'a>),
    Helo(HeloName<'a>),
    Mail(Mail<'a>),
    Rcpt(Rcpt<'a>),
    Data,
    Bdat(Chunk),
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    StartTls,
    Auth,
    /// Its argument, which [`super::xclient`] reads for those who may use it.
    Xclient(&'a [u8]),
}

/// What the client calls itself: a domain or an address literal, at most [`DOMAIN_LEN_MAX`] octets, all of them
/// printable ASCII. Underscores, a trailing dot and an IPv6 literal without its tag are let through, since honest
/// clients send them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeloName<'a>(pub &'a [u8]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail<'a> {
    pub reverse_path: ReversePath<'a>,
    pub params: MailParams<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcpt<'a> {
    pub forward_path: ForwardPath<'a>,
    pub params: RcptParams<'a>,
    /// An octet above 127 is in it: MAIL must have had SMTPUTF8.
    pub needs_smtputf8: bool,
}

/// What BDAT announces (RFC 3030 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command; `u64::MAX` when it says more than that.
    pub len: u64,
    pub last: bool,
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// No verb, or one that the engine does not know.
    UnknownVerb,
    /// The argument is not of the verb's form, such as MAIL without `FROM:`.
    Syntax,
    /// An octet above 127 (RFC 5321 §2.4) in anything but the argument of MAIL, RCPT, VRFY or EXPN.
    NonAscii,
    /// An octet above 127 in the argument of one of these, without SMTPUTF8 (RFC 6531 §3.5).
    NonAsciiPath(Side),
    /// Octets above 127 that are not UTF-8 (RFC 6531 §3.3).
    NotUtf8,
    /// EHLO's or HELO's argument is neither a domain nor an address literal.
    HeloName,
    ReversePath,
    ForwardPath,
    LocalPartTooLong(Side),
    DomainTooLong(Side),
    PathTooLong(Side),
    /// A parameter of MAIL or RCPT that no extension served here has.
    UnknownParam,
    /// A parameter that is not of the form of a parameter, or whose value is not of its form.
    BadParam,
    DuplicateParam,
    /// BODY with a value other than 7BIT and 8BITMIME.
    UnsupportedBody,
    ArgumentMissing,
    /// RFC 5321 §4.1.1: a verb without arguments was given one.
    ArgumentUnexpected,
    /// An octet below 32, or 127: a bare CR, a tab, or not SMTP at all.
    ControlOctet,
    /// BDAT whose argument does not say how many octets follow: the next command cannot be found.
    Chunk,
}

/// Whose path it is: MAIL's or RCPT's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Sender,
    Recipient,
}

impl Command<'_> {
    /// The verb, in capitals.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Ehlo(_) => "EHLO",
            Self::Helo(_) => "HELO",
            Self::Mail(_) => "MAIL",
            Self::Rcpt(_) => "RCPT",
            Self::Data => "DATA",
            Self::Bdat(_) => "BDAT",
            Self::Rset => "RSET",
            Self::Noop => "NOOP",
            Self::Vrfy => "VRFY",
            Self::Expn => "EXPN",
            Self::Help => "HELP",
            Self::Quit => "QUIT",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Xclient(_) => "XCLIENT",
        }
    }

    /// Whether the client must wait for the reply before it sends anything else. `pipelining`: it was told that it may
    /// send groups of commands. RFC 2920 §3.1, and RFC 3207 §4.2, RFC 4954 §4 for theirs.
    pub fn is_last_in_group(&self, pipelining: bool) -> bool {
        match self {
            Self::Ehlo(_) | Self::Helo(_) | Self::Data | Self::Vrfy | Self::Expn | Self::Noop => true,
            Self::StartTls | Self::Auth | Self::Xclient(_) => true,
            Self::Mail(_) | Self::Rcpt(_) | Self::Rset | Self::Help => !pipelining,
            // RFC 3030 §4.2: the octets of a chunk are sent right behind BDAT. Behind QUIT nothing is read.
            Self::Bdat(_) | Self::Quit => false,
        }
    }
}

/// Parses a line without its CRLF. Parameters of extensions that are not among `offered` are unknown.
///
/// RFC 5321 §2.4: verbs in any case. §4.1.1: white space before the line end is let through.
pub fn parse(line: &[u8], offered: Extensions) -> Result<Command<'_>, Malformed> {
    let line = trim_end(line);
    // RFC 5321 §4.1.2: all that a command may hold is of %d32-126. A fold without `any`, so that it becomes vector
    // code.
    if line.iter().fold(false, |found, &octet| found | octet.is_ascii_control()) {
        return Err(Malformed::ControlOctet);
    }
    let (verb, argument) = match line.iter().position(|&octet| octet == b' ') {
        Some(at) => (&line[..at], trim_start(&line[at..])),
        None => (line, &[][..]),
    };
    // The longest verb is STARTTLS.
    let mut capitals = [0; 8];
    let capitals = capitals.get_mut(..verb.len()).ok_or(Malformed::UnknownVerb)?;
    capitals.copy_from_slice(verb);
    capitals.make_ascii_uppercase();
    let is_ascii = line.is_ascii();
    if !is_ascii {
        let side = match &*capitals {
            b"MAIL" => Side::Sender,
            b"RCPT" | b"VRFY" | b"EXPN" => Side::Recipient,
            _ => return Err(Malformed::NonAscii),
        };
        if !offered.has(Extension::SmtpUtf8) {
            return Err(Malformed::NonAsciiPath(side));
        }
        if str::from_utf8(line).is_err() {
            return Err(Malformed::NotUtf8);
        }
    }
    match &*capitals {
        // ehlo = "EHLO" SP ( Domain / address-literal ) CRLF
        b"EHLO" => helo_name(argument).map(Command::Ehlo),
        // helo = "HELO" SP Domain CRLF; address literals are let through, since honest clients send them.
        b"HELO" => helo_name(argument).map(Command::Helo),
        b"MAIL" => mail(argument, is_ascii, offered).map(Command::Mail),
        b"RCPT" => rcpt(argument, is_ascii, offered).map(Command::Rcpt),
        // data = "DATA" CRLF; rset = "RSET" CRLF; quit = "QUIT" CRLF; RFC 3207 §4: STARTTLS has no parameters.
        b"DATA" => without_argument(argument, Command::Data),
        b"RSET" => without_argument(argument, Command::Rset),
        b"QUIT" => without_argument(argument, Command::Quit),
        b"STARTTLS" => without_argument(argument, Command::StartTls),
        // noop = "NOOP" [ SP String ] CRLF; help = "HELP" [ SP String ] CRLF
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => name_argument(argument, is_ascii, Command::Vrfy),
        b"EXPN" => name_argument(argument, is_ascii, Command::Expn),
        b"BDAT" => chunk(argument).map(Command::Bdat),
        b"AUTH" => Ok(Command::Auth),
        b"XCLIENT" => Ok(Command::Xclient(argument)),
        _ => Err(Malformed::UnknownVerb),
    }
}

/// `mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF`
fn mail(argument: &[u8], is_ascii: bool, offered: Extensions) -> Result<Mail<'_>, Malformed> {
    let path = path_argument(argument, b"FROM:")?;
    let (reverse_path, rest) = ReversePath::parse(path).map_err(|fault| path_fault(fault, Side::Sender))?;
    let params = MailParams::parse(behind_path(rest, Side::Sender)?, offered)?;
    if is_ascii || params.smtputf8 {
        Ok(Mail { reverse_path, params })
    } else {
        Err(Malformed::NonAsciiPath(Side::Sender))
    }
}

/// `rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF`
fn rcpt(argument: &[u8], is_ascii: bool, offered: Extensions) -> Result<Rcpt<'_>, Malformed> {
    let path = path_argument(argument, b"TO:")?;
    let (forward_path, rest) =
        ForwardPath::parse(path).map_err(|fault| path_fault(fault, Side::Recipient))?;
    let params = RcptParams::parse(behind_path(rest, Side::Recipient)?, offered)?;
    Ok(Rcpt { forward_path, params, needs_smtputf8: !is_ascii })
}

/// RFC 3030 §2: `bdat-cmd = "BDAT" SP chunk-size [ SP end-marker ] CR LF`, `chunk-size = 1*DIGIT`,
/// `end-marker = "LAST"`
fn chunk(argument: &[u8]) -> Result<Chunk, Malformed> {
    let digits = argument.iter().take_while(|octet| octet.is_ascii_digit()).count();
    let (digits, behind) = argument.split_at(digits);
    let last = match trim_start(behind) {
        [] => false,
        marker if behind.starts_with(b" ") && marker.eq_ignore_ascii_case(b"LAST") => true,
        _ => return Err(Malformed::Chunk),
    };
    if digits.is_empty() {
        return Err(Malformed::Chunk);
    }
    let digit = |len: u64, digit: &u8| len.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Ok(Chunk { len: digits.iter().fold(0, digit), last })
}

/// What follows `FROM:` or `TO:`. RFC 5321 §3.3: spaces are not permitted there; many clients send one, so they are let
/// through.
fn path_argument<'a>(argument: &'a [u8], prefix: &[u8]) -> Result<&'a [u8], Malformed> {
    if argument.is_empty() {
        return Err(Malformed::ArgumentMissing);
    }
    match argument.split_at_checked(prefix.len()) {
        Some((start, path)) if start.eq_ignore_ascii_case(prefix) => Ok(trim_start(path)),
        _ => Err(Malformed::Syntax),
    }
}

/// Nothing, or what begins with a space.
fn behind_path(rest: &[u8], side: Side) -> Result<&[u8], Malformed> {
    if rest.is_empty() || rest.starts_with(b" ") {
        Ok(rest)
    } else {
        Err(path_fault(PathFault::Syntax, side))
    }
}

fn path_fault(fault: PathFault, side: Side) -> Malformed {
    match (fault, side) {
        (PathFault::Syntax, Side::Sender) => Malformed::ReversePath,
        (PathFault::Syntax, Side::Recipient) => Malformed::ForwardPath,
        (PathFault::LocalPartTooLong, side) => Malformed::LocalPartTooLong(side),
        (PathFault::DomainTooLong, side) => Malformed::DomainTooLong(side),
        (PathFault::PathTooLong, side) => Malformed::PathTooLong(side),
    }
}

/// What EHLO, HELO and XCLIENT take for a client's name of itself.
pub(super) fn helo_name(argument: &[u8]) -> Result<HeloName<'_>, Malformed> {
    if argument.is_empty() {
        return Err(Malformed::ArgumentMissing);
    }
    let valid = if argument.starts_with(b"[") { is_helo_literal(argument) } else { is_helo_domain(argument) };
    if valid && argument.len() <= DOMAIN_LEN_MAX { Ok(HeloName(argument)) } else { Err(Malformed::HeloName) }
}

fn is_helo_literal(literal: &[u8]) -> bool {
    let untagged = || {
        let inner = literal.strip_prefix(b"[")?.strip_suffix(b"]")?;
        str::from_utf8(inner).ok()?.parse::<std::net::Ipv6Addr>().ok()
    };
    Domain::parse(literal).is_ok() || untagged().is_some()
}

fn is_helo_domain(name: &[u8]) -> bool {
    name.strip_suffix(b".").unwrap_or(name).split(|&octet| octet == b'.').all(|label| {
        !label.is_empty()
            && label.len() <= LABEL_LEN_MAX
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
            && label.iter().all(|&octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    })
}

fn without_argument<'a>(argument: &[u8], command: Command<'a>) -> Result<Command<'a>, Malformed> {
    if argument.is_empty() { Ok(command) } else { Err(Malformed::ArgumentUnexpected) }
}

/// `vrfy = "VRFY" SP String CRLF`, `expn = "EXPN" SP String CRLF`. Neither is looked at, so it may be any text; RFC
/// 6531 §3.7.4.2: with octets above 127 only if SMTPUTF8 is behind it.
fn name_argument<'a>(
    argument: &[u8],
    is_ascii: bool,
    command: Command<'a>,
) -> Result<Command<'a>, Malformed> {
    const PARAM: &[u8] = b" SMTPUTF8";
    let has_param = || {
        let behind = argument.split_at_checked(argument.len().wrapping_sub(PARAM.len()));
        behind.is_some_and(|(_, behind)| behind.eq_ignore_ascii_case(PARAM))
    };
    if argument.is_empty() {
        Err(Malformed::ArgumentMissing)
    } else if is_ascii || has_param() {
        Ok(command)
    } else {
        Err(Malformed::NonAsciiPath(Side::Recipient))
    }
}

fn trim_start(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|&&octet| octet == b' ').count();
    &text[spaces..]
}

fn trim_end(line: &[u8]) -> &[u8] {
    let white = line.iter().rev().take_while(|&&octet| octet == b' ' || octet == b'\t').count();
    &line[..line.len() - white]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::params::Body;
    use super::super::path::{LocalPart, Mailbox};
    use super::*;

    fn parse(line: &[u8]) -> Result<Command<'_>, Malformed> {
        super::parse(line, Extensions::DEFAULT)
    }

    fn rcpt(forward_path: ForwardPath<'_>) -> Result<Command<'_>, Malformed> {
        Ok(Command::Rcpt(Rcpt { forward_path, params: RcptParams::default(), needs_smtputf8: false }))
    }

    fn mailbox() -> Mailbox<'static> {
        Mailbox { local_part: LocalPart::DotString(b"a"), domain: Domain::Name(b"b.example") }
    }

    #[test]
    fn verbs_in_any_case_and_trailing_white_space() {
        for (line, command) in [
            ("DATA", Command::Data),
            ("data", Command::Data),
            ("RsEt \t ", Command::Rset),
            ("NOOP", Command::Noop),
            ("NOOP anything <goes>", Command::Noop),
            ("HELP MAIL", Command::Help),
            ("VRFY someone", Command::Vrfy),
            ("EXPN list", Command::Expn),
            ("QUIT", Command::Quit),
            ("starttls", Command::StartTls),
            ("AUTH PLAIN AGEAYg==", Command::Auth),
            ("BDAT 5 LAST", Command::Bdat(Chunk { len: 5, last: true })),
            ("bdat  0", Command::Bdat(Chunk { len: 0, last: false })),
            ("BDAT 0007  last", Command::Bdat(Chunk { len: 7, last: true })),
            ("BDAT 18446744073709551616", Command::Bdat(Chunk { len: u64::MAX, last: false })),
            ("VRFY \u{e9} smtputf8", Command::Vrfy),
            ("EXPN \u{e9} SMTPUTF8", Command::Expn),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(command), "{line}");
            assert!(line.to_ascii_uppercase().starts_with(command.verb()));
        }
    }

    #[test]
    fn mail_and_rcpt() {
        let path = ReversePath::Mailbox(mailbox());
        let plain = Ok(Command::Mail(Mail { reverse_path: path, params: MailParams::default() }));
        assert_eq!(parse(b"MAIL FROM:<a@b.example>"), plain);
        assert_eq!(parse(b"mail  From: <a@b.example> "), plain);
        assert_eq!(parse(b"MAIL FROM:<@c,@d:a@b.example>"), plain);
        let params = MailParams { size: Some(5), body: Some(Body::EightBitMime), ..MailParams::default() };
        assert_eq!(
            parse(b"MAIL FROM:<> SIZE=5 BODY=8BITMIME"),
            Ok(Command::Mail(Mail { reverse_path: ReversePath::Null, params }))
        );
        let forward_path = ForwardPath::Mailbox(mailbox());
        assert_eq!(parse(b"RCPT TO:<a@b.example>"), rcpt(forward_path));
        assert_eq!(parse(b"rcpt to:  <a@b.example>"), rcpt(forward_path));
        let forward_path = ForwardPath::Postmaster;
        assert_eq!(parse(b"RCPT TO:<PostMaster>"), rcpt(forward_path));
    }

    #[test]
    fn each_way_to_be_malformed_has_its_name() {
        let long = "x".repeat(crate::limits::LOCAL_PART_LEN_MAX + 1);
        let name = ["y"; 128].join(".");
        for (line, malformed) in [
            ("", Malformed::UnknownVerb),
            (" ", Malformed::UnknownVerb),
            (" NOOP", Malformed::UnknownVerb),
            ("NOOPS", Malformed::UnknownVerb),
            ("STARTTLSS", Malformed::UnknownVerb),
            ("MAILFROM:<a@b>", Malformed::UnknownVerb),
            ("GET / HTTP/1.1", Malformed::UnknownVerb),
            ("MAIL", Malformed::ArgumentMissing),
            ("MAIL ", Malformed::ArgumentMissing),
            ("MAIL <a@b>", Malformed::Syntax),
            ("MAIL TO:<a@b>", Malformed::Syntax),
            ("MAIL FROM <a@b>", Malformed::Syntax),
            ("MAIL FROM :<a@b>", Malformed::Syntax),
            ("MAIL FROM:", Malformed::ReversePath),
            ("MAIL FROM:a@b", Malformed::ReversePath),
            ("MAIL FROM:<a@b>SIZE=1", Malformed::ReversePath),
            ("MAIL FROM:<a@b>> SIZE=1", Malformed::ReversePath),
            ("MAIL FROM:<a@b> SIZE=x", Malformed::BadParam),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=1", Malformed::DuplicateParam),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", Malformed::UnsupportedBody),
            ("MAIL FROM:<a@b> SMTPUTF8=1", Malformed::BadParam),
            ("MAIL FROM:<a@b> RET=FULL", Malformed::UnknownParam),
            ("RCPT", Malformed::ArgumentMissing),
            ("RCPT TO", Malformed::Syntax),
            ("RCPT TO:<>", Malformed::ForwardPath),
            ("RCPT TO:<a>", Malformed::ForwardPath),
            ("RCPT TO:<a@b>x", Malformed::ForwardPath),
            ("RCPT TO:<a@b> NOTIFY=NEVER", Malformed::UnknownParam),
            (&format!("RCPT TO:<{long}@b>"), Malformed::LocalPartTooLong(Side::Recipient)),
            (&format!("RCPT TO:<a@{name}.z>"), Malformed::DomainTooLong(Side::Recipient)),
            (&format!("RCPT TO:<{long}@{name}.z>"), Malformed::PathTooLong(Side::Recipient)),
            ("EHLO", Malformed::ArgumentMissing),
            ("VRFY", Malformed::ArgumentMissing),
            ("DATA now", Malformed::ArgumentUnexpected),
            ("QUIT now", Malformed::ArgumentUnexpected),
            ("RSET .", Malformed::ArgumentUnexpected),
            ("NOOP \u{e9}", Malformed::NonAscii),
            ("\u{e9}", Malformed::NonAscii),
            ("mail FROM:<a@\u{e9}>", Malformed::NonAsciiPath(Side::Sender)),
            ("VRFY \u{e9}", Malformed::NonAsciiPath(Side::Recipient)),
            ("VRFY \u{e9} SMTPUTF9", Malformed::NonAsciiPath(Side::Recipient)),
            ("BDAT", Malformed::Chunk),
            ("BDAT LAST", Malformed::Chunk),
            ("BDAT -1", Malformed::Chunk),
            ("BDAT 1k", Malformed::Chunk),
            ("BDAT 1LAST", Malformed::Chunk),
            ("BDAT 1 FIRST", Malformed::Chunk),
            ("BDAT 1 LAST 2", Malformed::Chunk),
            ("NO\rOP", Malformed::ControlOctet),
            ("NOOP\r", Malformed::ControlOctet),
            ("NOOP\tx", Malformed::ControlOctet),
            ("NOOP \0\u{e9}", Malformed::ControlOctet),
            ("\u{16}\u{3}\u{1}", Malformed::ControlOctet),
            ("NOOP \u{7f}", Malformed::ControlOctet),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(malformed), "{line:?}");
        }
    }

    #[test]
    fn octets_above_127_need_smtputf8() {
        let line = "MAIL FROM:<\u{e9}@b\u{fc}cher.example> SMTPUTF8";
        let parsed = parse(line.as_bytes());
        assert!(matches!(parsed, Ok(Command::Mail(mail)) if mail.params.smtputf8), "{parsed:?}");
        let without = Extensions::DEFAULT.without(Extension::SmtpUtf8);
        assert_eq!(super::parse(line.as_bytes(), without), Err(Malformed::NonAsciiPath(Side::Sender)));
        let line = "RCPT TO:<\u{e9}@b>".as_bytes();
        assert!(matches!(parse(line), Ok(Command::Rcpt(rcpt)) if rcpt.needs_smtputf8));
        assert_eq!(super::parse(line, without), Err(Malformed::NonAsciiPath(Side::Recipient)));
        assert_eq!(parse(b"MAIL FROM:<\xe9@b> SMTPUTF8"), Err(Malformed::NotUtf8));
        assert_eq!(parse(b"RCPT TO:<\xc3\xa9@b> \xff"), Err(Malformed::NotUtf8));
        // RFC 6531 §3.3: no more than UTF-8 in paths, and no control characters of its own.
        assert_eq!(parse("RCPT TO:<a\u{85}@b>".as_bytes()), Err(Malformed::ForwardPath));
    }

    #[test]
    fn helo_names() {
        let longest = [vec!["x".repeat(LABEL_LEN_MAX); 3].join("."), "y".repeat(62)].join(".") + ".";
        for name in [
            "a",
            "mx1.example.com",
            "mx1.example.com.",
            "WIN_HOST",
            "_x.y_",
            "192.0.2.1",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
            "[::1]",
            &longest,
        ] {
            assert_eq!(
                parse(format!("EHLO {name}").as_bytes()),
                Ok(Command::Ehlo(HeloName(name.as_bytes())))
            );
            assert_eq!(
                parse(format!("helo  {name} ").as_bytes()),
                Ok(Command::Helo(HeloName(name.as_bytes())))
            );
        }
        let label = "x".repeat(LABEL_LEN_MAX + 1);
        for name in [
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "-a",
            "a-",
            "a.-.b",
            "a,b",
            "[1.2.3]",
            "[]",
            "[",
            "<a>",
            "a@b",
            "(a)",
            &label,
            &format!("{longest}z"),
        ] {
            assert_eq!(parse(format!("EHLO {name}").as_bytes()), Err(Malformed::HeloName), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_without_panic(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&line);
        }

        #[test]
        fn almost_commands_are_parsed_without_panic(
            line in "(MAIL FROM:|RCPT TO:|EHLO |NOOP)[ <@>,:\"\\\\a.\\[\\]1=-]{0,24}( [A-Z0-9=]{0,9}){0,3}",
        ) {
            // Whatever is taken holds nothing that a line, a trace field or a log could be broken with.
            if let Ok(Command::Ehlo(HeloName(name))) = parse(line.as_bytes()) {
                prop_assert!(name.iter().all(|octet| octet.is_ascii_graphic()) && name.len() <= DOMAIN_LEN_MAX);
            }
        }
    }
}
