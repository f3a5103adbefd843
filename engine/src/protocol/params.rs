//! The ESMTP parameters of MAIL and RCPT (RFC 5321 §4.1.2): SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), DSN
//! (RFC 3461) and REQUIRETLS (RFC 8689). A parameter of an extension that is not offered is as unknown as any other.

use super::command::Malformed;
use super::extension::{Extension, Extensions};
use super::path::is_atext;
use crate::limits::{ENVID_LEN_MAX, ORCPT_LEN_MAX, SIZE_DIGITS_MAX};

/// The parameters of MAIL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParams<'a> {
    /// The content's size in octets as the client estimates it (RFC 1870 §6); `u64::MAX` when it says more than that.
    pub size: Option<u64>,
    pub body: Option<Body>,
    /// The message may have addresses and header fields in UTF-8.
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    /// In xtext, as the client wrote it.
    pub envid: Option<&'a [u8]>,
    /// The message goes through TLS alone, as far as it goes.
    pub requiretls: bool,
}

/// The parameters of RCPT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RcptParams<'a> {
    pub notify: Option<Notify>,
    /// `addr-type ";" xtext`, as the client wrote it.
    pub orcpt: Option<&'a [u8]>,
}

/// What the client says the content's octets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// No octet above 127. RFC 6152 §2: what holds where MAIL says nothing.
    #[default]
    SevenBit,
    EightBitMime,
}

/// What a notice of failure gives back of the message. RFC 3461 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// When the sender wants a notice for a recipient. RFC 3461 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify {
    bits: u8,
}

impl Notify {
    pub const NEVER: Self = Self { bits: 0 };
    pub const SUCCESS: Self = Self { bits: 1 };
    pub const FAILURE: Self = Self { bits: 2 };
    pub const DELAY: Self = Self { bits: 4 };

    pub const fn and(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits }
    }

    /// All of `other`'s are wanted.
    pub const fn has(self, other: Self) -> bool {
        self.bits & other.bits == other.bits
    }

    pub(super) const fn bits(self) -> u8 {
        self.bits
    }

    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self { bits })
    }
}

impl std::fmt::Display for Notify {
    /// As RCPT has it: `esmtp-value` of RFC 3461 §4.1.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [(Self::SUCCESS, "SUCCESS"), (Self::FAILURE, "FAILURE"), (Self::DELAY, "DELAY")];
        let words: Vec<_> = words.into_iter().filter(|(of, _)| self.has(*of)).map(|(_, word)| word).collect();
        f.write_str(&if words.is_empty() { "NEVER".to_owned() } else { words.join(",") })
    }
}

impl<'a> MailParams<'a> {
    /// Parses what follows the path: nothing, or a space and parameters.
    ///
    /// `Mail-parameters = esmtp-param *(SP esmtp-param)`
    pub fn parse(input: &'a [u8], offered: Extensions) -> Result<Self, Malformed> {
        let mut params = Self::default();
        for param in split(input) {
            let (keyword, value) = esmtp_param(param)?;
            let is = |name: &[u8], of| keyword.eq_ignore_ascii_case(name) && offered.has(of);
            if is(b"SIZE", Extension::Size) {
                set(&mut params.size, size(value)?)?;
            } else if is(b"BODY", Extension::EightBitMime) {
                set(&mut params.body, body(value)?)?;
            } else if is(b"SMTPUTF8", Extension::SmtpUtf8) {
                flag(&mut params.smtputf8, value)?;
            } else if is(b"REQUIRETLS", Extension::RequireTls) {
                flag(&mut params.requiretls, value)?;
            } else if is(b"RET", Extension::Dsn) {
                set(&mut params.ret, ret(value)?)?;
            } else if is(b"ENVID", Extension::Dsn) {
                set(&mut params.envid, envid(value)?)?;
            } else {
                return Err(Malformed::UnknownParam);
            }
        }
        Ok(params)
    }
}

impl<'a> RcptParams<'a> {
    /// Parses what follows the path: nothing, or a space and parameters.
    pub fn parse(input: &'a [u8], offered: Extensions) -> Result<Self, Malformed> {
        let mut params = Self::default();
        for param in split(input) {
            let (keyword, value) = esmtp_param(param)?;
            let is = |name: &[u8]| keyword.eq_ignore_ascii_case(name) && offered.has(Extension::Dsn);
            if is(b"NOTIFY") {
                set(&mut params.notify, notify(value)?)?;
            } else if is(b"ORCPT") {
                set(&mut params.orcpt, orcpt(value)?)?;
            } else {
                return Err(Malformed::UnknownParam);
            }
        }
        Ok(params)
    }
}

/// A parameter without a value: RFC 6531 §3.4, RFC 8689 §2.
fn flag(slot: &mut bool, value: Option<&[u8]>) -> Result<(), Malformed> {
    match (value, std::mem::replace(slot, true)) {
        (None, false) => Ok(()),
        (None, true) => Err(Malformed::DuplicateParam),
        (Some(_), _) => Err(Malformed::BadParam),
    }
}

/// The parameters, however many spaces are between them.
fn split(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|&octet| octet == b' ').filter(|param| !param.is_empty())
}

/// `esmtp-param = esmtp-keyword ["=" esmtp-value]`
fn esmtp_param(param: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let (keyword, value) = match param.iter().position(|&octet| octet == b'=') {
        Some(at) => (&param[..at], Some(&param[at + 1..])),
        None => (param, None),
    };
    let is_valid = is_keyword(keyword) && value.is_none_or(is_value);
    if is_valid { Ok((keyword, value)) } else { Err(Malformed::BadParam) }
}

/// `esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")`
fn is_keyword(keyword: &[u8]) -> bool {
    keyword.first().is_some_and(u8::is_ascii_alphanumeric)
        && keyword.iter().all(|&octet| octet.is_ascii_alphanumeric() || octet == b'-')
}

/// `esmtp-value = 1*(%d33-60 / %d62-126)`; RFC 6531 §3.3 adds `UTF8-non-ascii`.
fn is_value(value: &[u8]) -> bool {
    !value.is_empty()
        && value.iter().all(|&octet| (octet.is_ascii_graphic() && octet != b'=') || !octet.is_ascii())
}

/// RFC 1870 §6: `size-value ::= 1*20DIGIT`
fn size(value: Option<&[u8]>) -> Result<u64, Malformed> {
    let digits = value.filter(|digits| digits.len() <= SIZE_DIGITS_MAX).ok_or(Malformed::BadParam)?;
    digits.iter().try_fold(0u64, |size, digit| match digit {
        b'0'..=b'9' => Ok(size.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
        _ => Err(Malformed::BadParam),
    })
}

/// RFC 6152 §2: `body-value ::= "7BIT" / "8BITMIME"`
fn body(value: Option<&[u8]>) -> Result<Body, Malformed> {
    let value = value.ok_or(Malformed::BadParam)?;
    if value.eq_ignore_ascii_case(b"7BIT") {
        Ok(Body::SevenBit)
    } else if value.eq_ignore_ascii_case(b"8BITMIME") {
        Ok(Body::EightBitMime)
    } else {
        Err(Malformed::UnsupportedBody)
    }
}

/// RFC 3461 §4.3: `ret-value = "FULL" / "HDRS"`
fn ret(value: Option<&[u8]>) -> Result<Ret, Malformed> {
    match value {
        Some(value) if value.eq_ignore_ascii_case(b"FULL") => Ok(Ret::Full),
        Some(value) if value.eq_ignore_ascii_case(b"HDRS") => Ok(Ret::Headers),
        _ => Err(Malformed::BadParam),
    }
}

/// RFC 3461 §4.4: xtext of printable ASCII.
fn envid(value: Option<&[u8]>) -> Result<&[u8], Malformed> {
    let is_valid = |value: &&[u8]| value.len() <= ENVID_LEN_MAX && is_xtext(value);
    value.filter(is_valid).ok_or(Malformed::BadParam)
}

/// RFC 3461 §4.1: `notify-esmtp-value = "NEVER" / 1#notify-list-element`. NEVER stands alone.
fn notify(value: Option<&[u8]>) -> Result<Notify, Malformed> {
    let value = value.ok_or(Malformed::BadParam)?;
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Ok(Notify::NEVER);
    }
    let events = [
        (&b"SUCCESS"[..], Notify::SUCCESS),
        (&b"FAILURE"[..], Notify::FAILURE),
        (&b"DELAY"[..], Notify::DELAY),
    ];
    value.split(|&octet| octet == b',').try_fold(Notify::NEVER, |wanted, element| {
        let event = events.iter().find(|(name, _)| element.eq_ignore_ascii_case(name));
        event.map(|&(_, event)| wanted.and(event)).ok_or(Malformed::BadParam)
    })
}

/// RFC 3461 §4.2: `original-recipient-address = addr-type ";" xtext`; RFC 6533 §3: UTF-8 as it is behind `utf-8`.
fn orcpt(value: Option<&[u8]>) -> Result<&[u8], Malformed> {
    let value = value.filter(|value| value.len() <= ORCPT_LEN_MAX).ok_or(Malformed::BadParam)?;
    let at = value.iter().position(|&octet| octet == b';').ok_or(Malformed::BadParam)?;
    let (addr_type, address) = (&value[..at], &value[at + 1..]);
    let is_atom = !addr_type.is_empty() && addr_type.iter().copied().all(is_atext);
    let is_utf8 = addr_type.eq_ignore_ascii_case(b"utf-8");
    let is_address = !address.is_empty() && is_xtext(address) && (is_utf8 || address.is_ascii());
    if is_atom && is_address { Ok(value) } else { Err(Malformed::BadParam) }
}

/// RFC 3461 §4: `xtext = *( xchar / hexchar )`, `hexchar = "+" 2(%x30-39 / %x41-46)`. What it stands for has to be
/// printable, since it ends up in a header field. Octets above 127 pass.
fn is_xtext(text: &[u8]) -> bool {
    let digit = |octet: u8| match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    };
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first == b'+' {
            let [high, low, behind @ ..] = rest else { return false };
            let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return false };
            if !matches!(high << 4 | low, b' '..=b'~') {
                return false;
            }
            rest = behind;
        }
    }
    true
}

fn set<T>(field: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::DuplicateParam),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSN: Extensions = Extensions::DEFAULT.with(Extension::Dsn);

    fn mail(text: &str) -> Result<MailParams<'_>, Malformed> {
        MailParams::parse(text.as_bytes(), DSN)
    }

    fn rcpt(text: &str) -> Result<RcptParams<'_>, Malformed> {
        RcptParams::parse(text.as_bytes(), DSN)
    }

    #[test]
    fn known_parameters_in_any_case_and_order() {
        let sized = |size, body| Ok(MailParams { size, body, ..MailParams::default() });
        assert_eq!(mail(""), sized(None, None));
        assert_eq!(mail("  "), sized(None, None));
        assert_eq!(mail(" SIZE=0"), sized(Some(0), None));
        assert_eq!(mail(" size=1234 body=8bitmime"), sized(Some(1234), Some(Body::EightBitMime)));
        assert_eq!(mail(" BODY=7BIT  Size=00000000000000000007 "), sized(Some(7), Some(Body::SevenBit)));
        assert_eq!(mail(" SIZE=18446744073709551615"), sized(Some(u64::MAX), None));
        assert_eq!(mail(" SIZE=99999999999999999999"), sized(Some(u64::MAX), None));
        assert_eq!(mail(" smtputf8"), Ok(MailParams { smtputf8: true, ..MailParams::default() }));
        let (ret, envid) = (Some(Ret::Headers), Some(&b"a+2Bb+20"[..]));
        assert_eq!(mail(" ret=hdrs EnvId=a+2Bb+20"), Ok(MailParams { ret, envid, ..MailParams::default() }));
        assert_eq!(mail(" RET=FULL").map(|params| params.ret), Ok(Some(Ret::Full)));
    }

    #[test]
    fn requiretls_is_a_word_where_it_is_offered() {
        let mail = |text: &'static str| MailParams::parse(text.as_bytes(), Extensions::WITH_NOTICES);
        assert_eq!(mail(" requiretls"), Ok(MailParams { requiretls: true, ..MailParams::default() }));
        assert_eq!(mail(" REQUIRETLS=1"), Err(Malformed::BadParam));
        assert_eq!(mail(" REQUIRETLS REQUIRETLS"), Err(Malformed::DuplicateParam));
    }

    #[test]
    fn each_way_to_be_wrong_has_its_name() {
        let longest = |len: usize| format!(" ENVID={}", "x".repeat(len));
        assert!(mail(&longest(ENVID_LEN_MAX)).is_ok());
        for (text, malformed) in [
            (" SIZE", Malformed::BadParam),
            (" SIZE=", Malformed::BadParam),
            (" SIZE=-1", Malformed::BadParam),
            (" SIZE=+1", Malformed::BadParam),
            (" SIZE=1k", Malformed::BadParam),
            (" SIZE=000000000000000000001", Malformed::BadParam),
            (" SIZE=1=2", Malformed::BadParam),
            (" =1", Malformed::BadParam),
            (" -A=1", Malformed::BadParam),
            (" A_B=1", Malformed::BadParam),
            (" <a@b>", Malformed::BadParam),
            (" BODY", Malformed::BadParam),
            (" BODY=BINARYMIME", Malformed::UnsupportedBody),
            (" SIZE=1 SIZE=1", Malformed::DuplicateParam),
            (" BODY=7BIT BODY=8BITMIME", Malformed::DuplicateParam),
            (" SMTPUTF8=1", Malformed::BadParam),
            (" SMTPUTF8 SMTPUTF8", Malformed::DuplicateParam),
            (" RET", Malformed::BadParam),
            (" RET=BODY", Malformed::BadParam),
            (" RET=FULL RET=FULL", Malformed::DuplicateParam),
            (" ENVID", Malformed::BadParam),
            (" ENVID=", Malformed::BadParam),
            (" ENVID=a+", Malformed::BadParam),
            (" ENVID=a+2", Malformed::BadParam),
            (" ENVID=a+2b", Malformed::BadParam),
            (" ENVID=a+0A", Malformed::BadParam),
            (" ENVID=a+7F", Malformed::BadParam),
            (" ENVID=a ENVID=b", Malformed::DuplicateParam),
            (&longest(ENVID_LEN_MAX + 1), Malformed::BadParam),
            (" NOTIFY=NEVER", Malformed::UnknownParam),
            (" REQUIRETLS", Malformed::UnknownParam),
            (" SIZED=1", Malformed::UnknownParam),
        ] {
            assert_eq!(mail(text), Err(malformed), "{text}");
        }
    }

    #[test]
    fn recipients_have_the_parameters_of_notices() {
        assert_eq!(rcpt(" "), Ok(RcptParams::default()));
        for (value, wanted) in [
            ("NEVER", Notify::NEVER),
            ("success", Notify::SUCCESS),
            ("DELAY,Failure", Notify::FAILURE.and(Notify::DELAY)),
            ("SUCCESS,SUCCESS", Notify::SUCCESS),
        ] {
            assert_eq!(rcpt(&format!(" NOTIFY={value}")).map(|params| params.notify), Ok(Some(wanted)));
        }
        for value in ["rfc822;a+2Bb@c.example", "utf-8;\\x{E9}@b", "utf-8;\u{e9}@b", "x400;a"] {
            let params = RcptParams { orcpt: Some(value.as_bytes()), ..RcptParams::default() };
            assert_eq!(rcpt(&format!(" orcpt={value}")), Ok(params));
        }
        let longest = |len: usize| format!(" ORCPT=rfc822;{}", "x".repeat(len - 7));
        assert!(rcpt(&longest(ORCPT_LEN_MAX)).is_ok());
        for text in [
            " NOTIFY",
            " NOTIFY=",
            " NOTIFY=NEVER,SUCCESS",
            " NOTIFY=SUCCESS,NEVER",
            " NOTIFY=SUCCESS,",
            " NOTIFY=,SUCCESS",
            " NOTIFY=LATER",
            " ORCPT",
            " ORCPT=a@b",
            " ORCPT=;a@b",
            " ORCPT=rfc822;",
            " ORCPT=rfc(822;a@b",
            " ORCPT=rfc822;a+0D+0A@b",
            " ORCPT=rfc822;\u{e9}@b",
            &longest(ORCPT_LEN_MAX + 1),
            " ,",
        ] {
            assert_eq!(rcpt(text), Err(Malformed::BadParam), "{text}");
        }
        for text in [" NOTIFY=DELAY NOTIFY=DELAY", " ORCPT=a;b ORCPT=a;b"] {
            assert_eq!(rcpt(text), Err(Malformed::DuplicateParam), "{text}");
        }
        assert_eq!(rcpt(" SIZE=1"), Err(Malformed::UnknownParam));
    }

    #[test]
    fn what_is_not_offered_is_unknown_whatever_its_value() {
        for (text, extension) in [
            (" SIZE=x", Extension::Size),
            (" BODY", Extension::EightBitMime),
            (" SMTPUTF8", Extension::SmtpUtf8),
            (" RET=x", Extension::Dsn),
            (" ENVID", Extension::Dsn),
        ] {
            let offered = DSN.without(extension);
            assert_eq!(MailParams::parse(text.as_bytes(), offered), Err(Malformed::UnknownParam), "{text}");
        }
        for text in [" NOTIFY=x", " ORCPT=x"] {
            let offered = Extensions::DEFAULT;
            assert_eq!(RcptParams::parse(text.as_bytes(), offered), Err(Malformed::UnknownParam), "{text}");
        }
    }
}
