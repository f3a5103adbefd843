//! The ESMTP parameters of MAIL (RFC 5321 §4.1.2): SIZE (RFC 1870) and BODY (RFC 6152). RCPT has none that are served.

use super::command::Malformed;
use crate::limits::SIZE_DIGITS_MAX;

/// The parameters of MAIL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// The content's size in octets as the client estimates it (RFC 1870 §6); `u64::MAX` when it says more than that.
    pub size: Option<u64>,
    pub body: Option<Body>,
}

/// What the client says the content's octets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// No octet above 127. RFC 6152 §2: what holds where MAIL says nothing.
    #[default]
    SevenBit,
    EightBitMime,
}

impl MailParams {
    /// Parses what follows the path: nothing, or a space and parameters.
    ///
    /// `Mail-parameters = esmtp-param *(SP esmtp-param)`
    pub fn parse(input: &[u8]) -> Result<Self, Malformed> {
        let mut params = Self::default();
        for (keyword, value) in split(input).map(esmtp_param) {
            if !is_keyword(keyword) || value.is_some_and(|value| !is_value(value)) {
                return Err(Malformed::BadParam);
            }
            if keyword.eq_ignore_ascii_case(b"SIZE") {
                set(&mut params.size, size(value)?)?;
            } else if keyword.eq_ignore_ascii_case(b"BODY") {
                set(&mut params.body, body(value)?)?;
            } else {
                return Err(Malformed::UnknownParam);
            }
        }
        Ok(params)
    }
}

/// Judges what follows the path of RCPT: no parameter is known.
pub fn refuse_rcpt_params(input: &[u8]) -> Result<(), Malformed> {
    match split(input).map(esmtp_param).next() {
        None => Ok(()),
        Some((keyword, value)) if is_keyword(keyword) && value.is_none_or(is_value) => {
            Err(Malformed::UnknownParam)
        }
        Some(_) => Err(Malformed::BadParam),
    }
}

/// The parameters, however many spaces are between them.
fn split(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|&octet| octet == b' ').filter(|param| !param.is_empty())
}

/// `esmtp-param = esmtp-keyword ["=" esmtp-value]`
fn esmtp_param(param: &[u8]) -> (&[u8], Option<&[u8]>) {
    match param.iter().position(|&octet| octet == b'=') {
        Some(at) => (&param[..at], Some(&param[at + 1..])),
        None => (param, None),
    }
}

/// `esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")`
fn is_keyword(keyword: &[u8]) -> bool {
    keyword.first().is_some_and(u8::is_ascii_alphanumeric)
        && keyword.iter().all(|&octet| octet.is_ascii_alphanumeric() || octet == b'-')
}

/// `esmtp-value = 1*(%d33-60 / %d62-126)`
fn is_value(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|&octet| octet.is_ascii_graphic() && octet != b'=')
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

fn set<T>(field: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::DuplicateParam),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(size: Option<u64>, body: Option<Body>) -> Result<MailParams, Malformed> {
        Ok(MailParams { size, body })
    }

    #[test]
    fn known_parameters_in_any_case_and_order() {
        let parse = |text: &str| MailParams::parse(text.as_bytes());
        assert_eq!(parse(""), mail(None, None));
        assert_eq!(parse("  "), mail(None, None));
        assert_eq!(parse(" SIZE=0"), mail(Some(0), None));
        assert_eq!(parse(" size=1234 body=8bitmime"), mail(Some(1234), Some(Body::EightBitMime)));
        assert_eq!(parse(" BODY=7BIT  Size=00000000000000000007 "), mail(Some(7), Some(Body::SevenBit)));
        assert_eq!(parse(" SIZE=18446744073709551615"), mail(Some(u64::MAX), None));
        assert_eq!(parse(" SIZE=99999999999999999999"), mail(Some(u64::MAX), None));
    }

    #[test]
    fn each_way_to_be_wrong_has_its_name() {
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
            (" SMTPUTF8", Malformed::UnknownParam),
            (" SIZE=1 RET=HDRS", Malformed::UnknownParam),
            (" SIZED=1", Malformed::UnknownParam),
        ] {
            assert_eq!(MailParams::parse(text.as_bytes()), Err(malformed), "{text}");
        }
    }

    #[test]
    fn rcpt_takes_none() {
        assert_eq!(refuse_rcpt_params(b""), Ok(()));
        assert_eq!(refuse_rcpt_params(b" "), Ok(()));
        assert_eq!(refuse_rcpt_params(b" NOTIFY=NEVER"), Err(Malformed::UnknownParam));
        assert_eq!(refuse_rcpt_params(b" ,"), Err(Malformed::BadParam));
    }
}
