//! Paths and mailboxes: the grammar of RFC 5321 §4.1.2 and §4.1.3, borrowed from the line and valid once parsed.
//!
//! Local-parts and domains may hold UTF-8, as RFC 6531 §3.3 extends the grammar; whether the client may send it is not
//! judged here. Which U-labels are registered is the DNS's matter: a label is taken unless it holds what no U-label can
//! and what looks like something else, such as spaces or full-width dots.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::{DOMAIN_LEN_MAX, LABEL_LEN_MAX, LOCAL_PART_LEN_MAX, U_LABEL_CHARS_COUNT_MAX};

/// Stored form of [`ForwardPath::Postmaster`]; no mailbox, since it has no domain.
const STORED_POSTMASTER: &[u8] = b"postmaster";

/// The argument of MAIL: where notices of failure go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath<'a> {
    /// `<>`: nowhere (RFC 5321 §4.5.5).
    Null,
    Mailbox(Mailbox<'a>),
}

/// The argument of RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardPath<'a> {
    /// `<Postmaster>` without a domain, in any case (RFC 5321 §4.5.1).
    Postmaster,
    Mailbox(Mailbox<'a>),
}

/// `local-part@domain`, both as the client wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mailbox<'a> {
    pub local_part: LocalPart<'a>,
    pub domain: Domain<'a>,
}

/// At most [`LOCAL_PART_LEN_MAX`] octets, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalPart<'a> {
    DotString(&'a [u8]),
    /// With its quotes and backslashes.
    Quoted(&'a [u8]),
}

/// At most [`DOMAIN_LEN_MAX`] octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain<'a> {
    Name(&'a [u8]),
    /// With its brackets.
    Literal(&'a [u8]),
}

/// Why there is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    Syntax,
    LocalPartTooLong,
    DomainTooLong,
    /// Both of its parts are too long.
    PathTooLong,
}

impl<'a> ReversePath<'a> {
    /// Parses a path off the front of `input`; gives what follows it too.
    ///
    /// `Reverse-path = Path / "<>"`
    pub fn parse(input: &'a [u8]) -> Result<(Self, &'a [u8]), PathFault> {
        if let Some(rest) = input.strip_prefix(b"<>") {
            return Ok((Self::Null, rest));
        }
        let (mailbox, rest) = path(input)?;
        Ok((Self::Mailbox(mailbox), rest))
    }
}

impl<'a> ReversePath<'a> {
    /// Parses all of `text`, the stored form: empty for the null reverse-path.
    pub fn parse_stored(text: &'a [u8]) -> Result<Self, PathFault> {
        if text.is_empty() { Ok(Self::Null) } else { Mailbox::parse(text).map(Self::Mailbox) }
    }
}

impl<'a> ForwardPath<'a> {
    /// Parses a path off the front of `input`; gives what follows it too.
    ///
    /// `"<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path`, `Forward-path = Path`
    pub fn parse(input: &'a [u8]) -> Result<(Self, &'a [u8]), PathFault> {
        const POSTMASTER: &[u8] = b"<postmaster>";
        if let Some((start, rest)) = input.split_at_checked(POSTMASTER.len())
            && start.eq_ignore_ascii_case(POSTMASTER)
        {
            return Ok((Self::Postmaster, rest));
        }
        let (mailbox, rest) = path(input)?;
        Ok((Self::Mailbox(mailbox), rest))
    }

    /// Parses all of `text`, the stored form.
    pub fn parse_stored(text: &'a [u8]) -> Result<Self, PathFault> {
        if text == STORED_POSTMASTER { Ok(Self::Postmaster) } else { Mailbox::parse(text).map(Self::Mailbox) }
    }

    /// Appends the stored form: `local-part@domain` as written, or `postmaster`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Postmaster => out.extend_from_slice(STORED_POSTMASTER),
            Self::Mailbox(mailbox) => mailbox.write(out),
        }
    }
}

impl<'a> Mailbox<'a> {
    /// Parses all of `text`, such as a stored mailbox.
    pub fn parse(text: &'a [u8]) -> Result<Self, PathFault> {
        match mailbox(text)? {
            (mailbox, []) => Ok(mailbox),
            _ => Err(PathFault::Syntax),
        }
    }

    /// Appends `local-part@domain` as written.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.local_part.as_bytes());
        out.push(b'@');
        out.extend_from_slice(self.domain.as_bytes());
    }
}

impl<'a> LocalPart<'a> {
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::DotString(bytes) | Self::Quoted(bytes) => bytes,
        }
    }
}

impl<'a> Domain<'a> {
    /// Parses all of `text` as a name or an address literal.
    pub fn parse(text: &'a [u8]) -> Result<Self, PathFault> {
        let (domain, rest) = domain(text)?;
        match domain.len_checked()? {
            domain if rest.is_empty() => Ok(domain),
            _ => Err(PathFault::Syntax),
        }
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Name(bytes) | Self::Literal(bytes) => bytes,
        }
    }

    /// The address of a literal.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Literal(bytes) => literal_address(bytes.strip_prefix(b"[")?.strip_suffix(b"]")?),
        }
    }

    fn len_checked(self) -> Result<Self, PathFault> {
        if self.as_bytes().len() > DOMAIN_LEN_MAX { Err(PathFault::DomainTooLong) } else { Ok(self) }
    }
}

/// `Path = "<" [ A-d-l ":" ] Mailbox ">"`
///
/// RFC 5321 §4.1.2 and appendix C: a source route must be accepted, should be ignored.
fn path(input: &[u8]) -> Result<(Mailbox<'_>, &[u8]), PathFault> {
    let inner = input.strip_prefix(b"<").ok_or(PathFault::Syntax)?;
    let (mailbox, rest) = mailbox(source_route(inner)?)?;
    let rest = rest.strip_prefix(b">").ok_or(PathFault::Syntax)?;
    Ok((mailbox, rest))
}

/// What follows a source route, if there is one.
///
/// `A-d-l = At-domain *( "," At-domain )`, `At-domain = "@" Domain`
fn source_route(mut input: &[u8]) -> Result<&[u8], PathFault> {
    while let Some(at_domain) = input.strip_prefix(b"@") {
        let (Domain::Name(_), rest) = domain(at_domain)? else { return Err(PathFault::Syntax) };
        input = match rest {
            [b',', rest @ ..] if rest.starts_with(b"@") => rest,
            [b':', rest @ ..] if !rest.starts_with(b"@") => rest,
            _ => return Err(PathFault::Syntax),
        };
    }
    Ok(input)
}

/// `Mailbox = Local-part "@" ( Domain / address-literal )`
fn mailbox(input: &[u8]) -> Result<(Mailbox<'_>, &[u8]), PathFault> {
    let (local_part, rest) = local_part(input)?;
    let (domain, rest) = domain(rest.strip_prefix(b"@").ok_or(PathFault::Syntax)?)?;
    let local_part_too_long = local_part.as_bytes().len() > LOCAL_PART_LEN_MAX;
    match (local_part_too_long, domain.len_checked()) {
        (false, Ok(domain)) => Ok((Mailbox { local_part, domain }, rest)),
        (false, Err(fault)) => Err(fault),
        (true, Ok(_)) => Err(PathFault::LocalPartTooLong),
        (true, Err(_)) => Err(PathFault::PathTooLong),
    }
}

/// `Local-part = Dot-string / Quoted-string`
fn local_part(input: &[u8]) -> Result<(LocalPart<'_>, &[u8]), PathFault> {
    let is_quoted = input.starts_with(b"\"");
    let len = if is_quoted { quoted_string_len(input)? } else { dot_string_len(input)? };
    let (text, rest) = input.split_at(len);
    if !text.is_ascii() && !is_utf8_text(text) {
        return Err(PathFault::Syntax);
    }
    Ok((if is_quoted { LocalPart::Quoted(text) } else { LocalPart::DotString(text) }, rest))
}

/// UTF-8 without control characters and line ends, which ASCII has too but not above 127.
fn is_utf8_text(text: &[u8]) -> bool {
    let is_line_end = |c| matches!(c, '\u{2028}' | '\u{2029}');
    str::from_utf8(text).is_ok_and(|text| !text.chars().any(|c| c.is_control() || is_line_end(c)))
}

/// `Dot-string = Atom *("." Atom)`, `Atom = 1*atext`
fn dot_string_len(input: &[u8]) -> Result<usize, PathFault> {
    let is_in_dot_string = |octet| is_atext(octet) || octet == b'.' || !octet.is_ascii();
    let len = input.iter().take_while(|&&octet| is_in_dot_string(octet)).count();
    if input[..len].split(|&octet| octet == b'.').all(|atom| !atom.is_empty()) {
        Ok(len)
    } else {
        Err(PathFault::Syntax)
    }
}

/// `Quoted-string = DQUOTE *QcontentSMTP DQUOTE`, `QcontentSMTP = qtextSMTP / quoted-pairSMTP`,
/// `quoted-pairSMTP = %d92 %d32-126`, `qtextSMTP = %d32-33 / %d35-91 / %d93-126 / UTF8-non-ascii`
fn quoted_string_len(input: &[u8]) -> Result<usize, PathFault> {
    let mut at = 1;
    loop {
        at += match input.get(at..).unwrap_or_default() {
            [b'"', ..] => return Ok(at + 1),
            [b'\\', b' '..=b'~', ..] => 2,
            [b' '..=b'[' | b']'..=b'~' | 0x80.., ..] => 1,
            _ => return Err(PathFault::Syntax),
        };
    }
}

/// `Domain / address-literal`, of any length.
fn domain(input: &[u8]) -> Result<(Domain<'_>, &[u8]), PathFault> {
    let len = if input.starts_with(b"[") { literal_len(input)? } else { name_len(input)? };
    let (domain, rest) = input.split_at(len);
    Ok((if domain.starts_with(b"[") { Domain::Literal(domain) } else { Domain::Name(domain) }, rest))
}

/// `Domain = sub-domain *("." sub-domain)`, `sub-domain =/ U-label`
///
/// An underscore counts as a letter: the grammar has none, but hosts with one in their name send mail.
fn name_len(input: &[u8]) -> Result<usize, PathFault> {
    let is_in_name =
        |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | 0x80..);
    let len = input.iter().take_while(|&&octet| is_in_name(octet)).count();
    if input[..len].split(|&octet| octet == b'.').all(is_sub_domain) {
        Ok(len)
    } else {
        Err(PathFault::Syntax)
    }
}

/// `sub-domain = Let-dig [Ldh-str]`, `Ldh-str = *( ALPHA / DIGIT / "-" ) Let-dig`; the octets are known to be of
/// `Ldh-str`.
fn is_sub_domain(label: &[u8]) -> bool {
    let is_valid = if label.is_ascii() { label.len() <= LABEL_LEN_MAX } else { is_u_label(label) };
    is_valid && !label.is_empty() && !label.starts_with(b"-") && !label.ends_with(b"-")
}

/// RFC 5890 §2.3.2.1, as far as it can be told without tables: UTF-8 of no more characters than an A-label can stand
/// for, without white space, general punctuation but the two joiners, private use, and the wide forms of ASCII.
fn is_u_label(label: &[u8]) -> bool {
    let is_excluded = |c: char| {
        c.is_control()
            || c.is_whitespace()
            || matches!(c, '\u{2000}'..='\u{200b}' | '\u{200e}'..='\u{206f}' | '\u{3000}'..='\u{3002}')
            || matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fe50}'..='\u{fe6f}' | '\u{feff}'..='\u{ffff}')
    };
    str::from_utf8(label).is_ok_and(|label| {
        label.chars().count() <= U_LABEL_CHARS_COUNT_MAX && !label.chars().any(is_excluded)
    })
}

/// `address-literal = "[" ( IPv4-address-literal / IPv6-address-literal / General-address-literal ) "]"`
///
/// No tag of a general address literal is registered, so none can be reached: they are refused.
fn literal_len(input: &[u8]) -> Result<usize, PathFault> {
    let close = input.iter().position(|&octet| octet == b']').ok_or(PathFault::Syntax)?;
    literal_address(&input[1..close]).map(|_| close + 1).ok_or(PathFault::Syntax)
}

/// `IPv4-address-literal = Snum 3("." Snum)`, `IPv6-address-literal = "IPv6:" IPv6-addr`
///
/// Leading zeros, which the grammar allows, are refused: some programs read them as octal.
fn literal_address(inner: &[u8]) -> Option<IpAddr> {
    const TAG: &str = "IPv6:";
    let text = str::from_utf8(inner).ok()?;
    match text.split_at_checked(TAG.len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case(TAG) => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// RFC 5322 §3.2.3: `atext`.
pub(super) fn is_atext(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(path: &[u8]) -> Result<String, PathFault> {
        let (path, rest) = ForwardPath::parse(path)?;
        assert_eq!(rest, b"");
        let mut out = Vec::new();
        path.write(&mut out);
        assert_eq!(ForwardPath::parse_stored(&out), Ok(path));
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn mailboxes_are_taken_as_written() {
        for mailbox in [
            "a@b",
            "A.b+c-d_e=f@Example.COM",
            "!#$%&'*+-/=?^_`{|}~@x--y.example",
            "\"\"@example.com",
            "\"a b\"@example.com",
            "\"a\\\"b\\\\c\"@example.com",
            "\"<@>,:\"@example.com",
            "a@1.2.3.4",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "a@[ipv6:2001:db8::192.0.2.1]",
            "\u{e9}.\u{65e5}@b\u{fc}cher.example",
            "\"\u{e9} x\"@xn--bcher-kva.example",
            "a@\u{915}\u{200d}b.\u{1f4e7}",
        ] {
            assert_eq!(written(format!("<{mailbox}>").as_bytes()).as_deref(), Ok(mailbox));
            assert!(Mailbox::parse(mailbox.as_bytes()).is_ok(), "{mailbox}");
        }
    }

    #[test]
    fn what_the_grammar_does_not_have_is_refused() {
        for path in [
            "",
            "<",
            "a@b",
            "<a@b",
            "a@b>",
            "<a>",
            "<@b>",
            "<a@>",
            "< a@b>",
            "<a@b >",
            "<a b@c>",
            "<a@b@c>",
            "<.a@b>",
            "<a.@b>",
            "<a..b@c>",
            "<\"a@b>",
            "<\"a\"b@c>",
            "<\"a\\\"@b>",
            "<\"\t\"@b>",
            "<a@-b>",
            "<a@b->",
            "<a@b..c>",
            "<a@.b>",
            "<a@b.>",
            "<a@b+c>",
            "<a@[]>",
            "<a@[1.2.3]>",
            "<a@[1.2.3.256]>",
            "<a@[01.2.3.4]>",
            "<a@[::1]>",
            "<a@[IPv6:1.2.3.4]>",
            "<a@[IPv6:fe80::1%1]>",
            "<a@[x400:y]>",
            "<a@[1.2.3.4>",
            "<a@b[1.2.3.4]>",
            "<<a@b>>",
            "<a@b,c@d>",
            "<a@-\u{e9}>",
            "<a@\u{e9}->",
            "<a@\u{e9}\u{3002}example>",
            "<a@\u{ff0e}b>",
            "<a@b\u{a0}>",
            "<a@b\u{202e}c>",
            "<\u{85}@b>",
            "<\"\u{2028}\"@b>",
            "<\"\\\u{e9}\"@b>",
            "<(c)a@b>",
            "<a@b\0>",
        ] {
            assert_eq!(written(path.as_bytes()), Err(PathFault::Syntax), "{path}");
        }
    }

    #[test]
    fn source_routes_are_ignored() {
        assert_eq!(written(b"<@a,@b.c:user@d>").as_deref(), Ok("user@d"));
        assert_eq!(written(b"<@a:\"x,@y:z\"@d>").as_deref(), Ok("\"x,@y:z\"@d"));
        for path in [
            "<@a>",
            "<@a:>",
            "<@a,:u@d>",
            "<@a,b:u@d>",
            "<@a:@b:u@d>",
            "<@a u@d>",
            "<@:u@d>",
            "<@[1.2.3.4]:u@d>",
        ] {
            assert_eq!(written(path.as_bytes()), Err(PathFault::Syntax), "{path}");
        }
    }

    #[test]
    fn null_and_postmaster_are_of_their_own_kind() {
        assert_eq!(ReversePath::parse(b"<> SIZE=1"), Ok((ReversePath::Null, &b" SIZE=1"[..])));
        assert_eq!(ReversePath::parse(b"<Postmaster>"), Err(PathFault::Syntax));
        assert_eq!(ForwardPath::parse(b"<POSTmaster>"), Ok((ForwardPath::Postmaster, &b""[..])));
        assert_eq!(ForwardPath::parse(b"<>"), Err(PathFault::Syntax));
        assert_eq!(written(b"<postmaster>").as_deref(), Ok("postmaster"));
        assert!(matches!(ForwardPath::parse(b"<postmaster@b>"), Ok((ForwardPath::Mailbox(_), _))));
    }

    #[test]
    fn each_bound_is_taken_and_one_octet_more_is_not() {
        let name =
            |len: usize| [vec!["x".repeat(LABEL_LEN_MAX); 3].join("."), "y".repeat(len - 3 * 64)].join(".");
        let path = |local: usize, domain: usize| format!("<{}@{}>", "l".repeat(local), name(domain));
        assert!(written(path(LOCAL_PART_LEN_MAX, DOMAIN_LEN_MAX).as_bytes()).is_ok());
        assert!(written(format!("<a@{}>", "\u{e9}".repeat(U_LABEL_CHARS_COUNT_MAX)).as_bytes()).is_ok());
        let quoted = |len: usize| format!("<\"{}\"@b>", "l".repeat(len - 2));
        assert!(written(quoted(LOCAL_PART_LEN_MAX).as_bytes()).is_ok());
        for (path, fault) in [
            (path(LOCAL_PART_LEN_MAX + 1, DOMAIN_LEN_MAX), PathFault::LocalPartTooLong),
            (quoted(LOCAL_PART_LEN_MAX + 1), PathFault::LocalPartTooLong),
            (path(1, DOMAIN_LEN_MAX).replace("yyy>", "y.yyy>"), PathFault::DomainTooLong),
            (path(LOCAL_PART_LEN_MAX + 1, DOMAIN_LEN_MAX).replace("yyy>", "y.yyy>"), PathFault::PathTooLong),
            (format!("<a@{}>", "x".repeat(LABEL_LEN_MAX + 1)), PathFault::Syntax),
            (format!("<a@{}>", "\u{e9}".repeat(U_LABEL_CHARS_COUNT_MAX + 1)), PathFault::Syntax),
        ] {
            assert_eq!(written(path.as_bytes()), Err(fault), "{path}");
        }
        assert_eq!(
            Domain::parse(name(DOMAIN_LEN_MAX).as_bytes()).map(|d| d.as_bytes().len()),
            Ok(DOMAIN_LEN_MAX)
        );
        assert_eq!(
            Domain::parse((name(DOMAIN_LEN_MAX - 1) + ".z").as_bytes()),
            Err(PathFault::DomainTooLong)
        );
    }

    #[test]
    fn literals_have_an_address() {
        let address = |text: &'static [u8]| Domain::parse(text).expect("a literal").address();
        assert_eq!(address(b"[192.0.2.1]"), "192.0.2.1".parse().ok());
        assert_eq!(address(b"[IPV6:2001:DB8::1]"), "2001:db8::1".parse().ok());
        assert_eq!(address(b"192.0.2.1"), None);
    }

    #[test]
    fn octets_that_are_not_utf8_are_refused() {
        for path in [&b"<\xe9@b>"[..], b"<\"\xe9\"@b>", b"<a@\xe9>", b"<\xed\xa0\x80@b>", b"<\xc0\xaf@b>"] {
            assert_eq!(ForwardPath::parse(path), Err(PathFault::Syntax), "{}", path.escape_ascii());
        }
    }

    proptest! {
        /// What parses is what was written: between the angle brackets, behind the source route.
        #[test]
        fn parsed_paths_are_written_back(path in r#"<?(@[ab.]{1,3}:)?["ab.\\ ]{0,8}@?[ab.\-\[\]1:]{0,9}>?.?"#) {
            if let Ok((ForwardPath::Mailbox(mailbox), rest)) = ForwardPath::parse(path.as_bytes()) {
                let mut out = Vec::new();
                mailbox.write(&mut out);
                let taken = &path.as_bytes()[..path.len() - rest.len()];
                prop_assert!(taken.strip_suffix(b">").is_some_and(|taken| taken.ends_with(&out)));
                prop_assert_eq!(Mailbox::parse(&out), Ok(mailbox));
            }
        }

        #[test]
        fn any_octets_are_parsed_without_panic(path in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ForwardPath::parse(&path);
            let _ = ReversePath::parse(&path);
            let _ = Domain::parse(&path);
            let _ = Mailbox::parse(&path);
        }
    }
}
