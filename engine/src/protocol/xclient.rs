//! The argument of XCLIENT, by which a trusted front end says whose session it hands on.
//! <https://www.postfix.org/XCLIENT_README.html>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::command::helo_name;
use crate::limits::XCLIENT_VALUE_LEN_MAX;

/// What the reply to EHLO lists for those who may use it.
pub const EXTENSION: &str = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

/// What was said about the client; `None` where nothing was. All else is checked for its form only: what the client
/// calls itself, it says by the EHLO or HELO that follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xclient {
    pub address: Option<Known<IpAddr>>,
    pub port: Option<Known<u16>>,
}

/// `[UNAVAILABLE]` and `[TEMPUNAVAIL]` say that the front end does not know either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<T> {
    Unavailable,
    As(T),
}

impl<T> Known<T> {
    pub fn known(self) -> Option<T> {
        match self {
            Self::Unavailable => None,
            Self::As(value) => Some(value),
        }
    }
}

/// Reads `ADDR=192.0.2.7 NAME=client.example`: `xclient-command = XCLIENT 1*( SP attribute-name "=" attribute-value )`.
/// `None` if it is not of that form.
pub fn parse(argument: &[u8]) -> Option<Xclient> {
    let mut xclient = Xclient::default();
    for attribute in argument.split(|&octet| octet == b' ') {
        let at = attribute.iter().position(|&octet| octet == b'=')?;
        let (name, value) = (&attribute[..at], decode(&attribute[at + 1..])?);
        // RFC 5321 §2.4: words in any case. The longest is DESTADDR.
        let mut capitals = [0; 8];
        let capitals = capitals.get_mut(..name.len())?;
        capitals.copy_from_slice(name);
        capitals.make_ascii_uppercase();
        match &*capitals {
            b"ADDR" => xclient.address = Some(known(&value, address)?),
            b"PORT" => xclient.port = Some(known(&value, number)?),
            b"PROTO" => drop(known(&value, protocol)?),
            b"HELO" => drop(known(&value, helo)?),
            b"DESTADDR" => drop(known(&value, address)?),
            b"DESTPORT" => drop(known(&value, number)?),
            b"NAME" | b"LOGIN" => {}
            _ => return None,
        }
    }
    Some(xclient)
}

fn known<T>(value: &[u8], read: fn(&[u8]) -> Option<T>) -> Option<Known<T>> {
    if [&b"[UNAVAILABLE]"[..], b"[TEMPUNAVAIL]"].iter().any(|word| value.eq_ignore_ascii_case(word)) {
        return Some(Known::Unavailable);
    }
    read(value).map(Known::As)
}

/// `192.0.2.7`, `IPV6:2001:db8::7`.
fn address(value: &[u8]) -> Option<IpAddr> {
    const IPV6: &str = "IPV6:";
    let text = str::from_utf8(value).ok()?;
    match text.split_at_checked(IPV6.len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case(IPV6) => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::from)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
    }
}

fn number(value: &[u8]) -> Option<u16> {
    let digits = str::from_utf8(value).ok()?;
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn protocol(value: &[u8]) -> Option<()> {
    (value.eq_ignore_ascii_case(b"ESMTP") || value.eq_ignore_ascii_case(b"SMTP")).then_some(())
}

fn helo(value: &[u8]) -> Option<()> {
    helo_name(value).ok().map(drop)
}

/// RFC 3461 §4: `xtext = *( xchar / hexchar )`, xchar being printable but `+` and `=`, hexchar `+` and two digits in
/// capitals. Small letters are let through.
fn decode(text: &[u8]) -> Option<SmallVec<[u8; XCLIENT_VALUE_LEN_MAX]>> {
    let mut value = SmallVec::new();
    let mut rest = text;
    while let Some((&octet, behind)) = rest.split_first() {
        rest = behind;
        value.push(match octet {
            b'+' => {
                let (digits, behind) = rest.split_first_chunk::<2>()?;
                rest = behind;
                let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
                (high? * 16 + low?) as u8
            }
            b'=' => return None,
            b'!'..=b'~' => octet,
            _ => return None,
        });
        if value.len() > XCLIENT_VALUE_LEN_MAX {
            return None;
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_front_end_says() {
        let xclient =
            parse(b"ADDR=192.0.2.7 NAME=client.example PORT=40123 PROTO=ESMTP HELO=client.example").unwrap();
        assert_eq!(xclient.address, Some(Known::As("192.0.2.7".parse().unwrap())));
        assert_eq!(xclient.port, Some(Known::As(40123)));
        let xclient = parse(b"addr=ipv6:2001:db8::7 login=a+40b").unwrap();
        assert_eq!(xclient.address, Some(Known::As("2001:db8::7".parse().unwrap())));
        assert_eq!(xclient.port, None);
        let xclient = parse(
            b"ADDR=[UNAVAILABLE] PORT=[TEMPUNAVAIL] NAME=[UNAVAILABLE] DESTADDR=192.0.2.25 DESTPORT=25",
        );
        let xclient = xclient.unwrap();
        assert_eq!((xclient.address, xclient.port), (Some(Known::Unavailable), Some(Known::Unavailable)));
        // xtext: what could be mistaken for the notation comes coded.
        assert_eq!(
            parse(b"ADDR=192+2E0.2.7").unwrap().address,
            Some(Known::As("192.0.2.7".parse().unwrap()))
        );
        assert!(parse(b"HELO=a+2Db.example").is_some());
    }

    #[test]
    fn what_is_not_of_the_form() {
        for argument in [
            "",
            "ADDR",
            "=192.0.2.7",
            "ADDR=",
            "ADDR=2001:db8::7",
            "ADDR=IPV6:192.0.2.7",
            "ADDR=192.0.2.7  PORT=1",
            "ADDR=192.0.2.7 ",
            "PORT=65536",
            "PORT=+2B1",
            "PORT=-1",
            "PROTO=LMTP",
            "HELO=a b",
            "HELO=a+20b",
            "HELO=a+",
            "HELO=a+2",
            "HELO=a+2G",
            "NAME=a=b",
            "NAME=a+",
            "DESTADDR=x",
            "DESTPORT=x",
            "SOMETHING=x",
        ] {
            assert_eq!(parse(argument.as_bytes()), None, "{argument}");
        }
        assert!(parse(&[b"NAME=", &[b'x'; XCLIENT_VALUE_LEN_MAX][..]].concat()).is_some());
        assert_eq!(parse(&[b"NAME=", &[b'x'; XCLIENT_VALUE_LEN_MAX + 1][..]].concat()), None);
    }
}
