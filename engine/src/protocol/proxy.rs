//! The PROXY protocol, versions 1 and 2: what a proxy in front of us says about the client, before the client's first
//! octet. <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, cited here as PP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::checksum;
use crate::limits::{self, PROXY_LINE_LEN_MAX, PROXY_UNIQUE_ID_LEN_MAX};

/// PP §2.2: begins every header of version 2, and nothing else that is a protocol.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_LEN: usize = 16;
/// PP §2.2.6: client flags and the result of the verification, in front of the nested values.
const SSL_FIXED_LEN: usize = 5;
const CLIENT_USED_SSL: u8 = 1;

const _: () = assert!(
    limits::PROXY_HEADER_LEN_MAX > FIXED_LEN + 216 && limits::PROXY_HEADER_LEN_MAX > PROXY_LINE_LEN_MAX
);

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub origin: Origin,
    /// PP §2.2.1: the application's protocol that the client asked for by ALPN.
    pub alpn: Option<&'a [u8]>,
    /// PP §2.2.5: the proxy's name for the connection.
    pub unique_id: Option<&'a [u8]>,
    /// PP §2.2.6: the client speaks TLS with the proxy.
    pub tls: Option<Tls<'a>>,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The proxy's own: it looks whether we are alive.
    Local,
    /// The proxy does not tell (v1 UNKNOWN, v2 UNSPEC, or not TCP over IP).
    Unknown,
    Tcp {
        client: SocketAddr,
        /// The address that the client connected to.
        server: SocketAddr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// The client showed a certificate and it was verified.
    pub verified: bool,
    /// Such as `TLSv1.3`.
    pub version: Option<&'a [u8]>,
}

/// It is no header, or one that must not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Neither version's first octets.
    NotAHeader,
    /// Of a version, a command or a family that PP does not have, or of a form that it does not.
    Syntax,
    TooLong,
    /// PP §2.2.3: the checksum is there and is not the header's.
    Checksum,
}

impl Malformed {
    /// For log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAHeader => "no header",
            Self::Syntax => "malformed header",
            Self::TooLong => "header too long",
            Self::Checksum => "wrong checksum",
        }
    }
}

/// Takes a header off `input`: the header and how many octets it has; `None` if more input is needed. What would be
/// malformed whatever came behind it is refused at once.
pub fn parse(input: &[u8]) -> Result<Option<(Header<'_>, usize)>, Malformed> {
    let of_signature = input.len().min(SIGNATURE.len());
    if input[..of_signature] == SIGNATURE[..of_signature] {
        return if input.len() < FIXED_LEN { Ok(None) } else { parse_binary(input) };
    }
    let of_word = input.len().min(6);
    if input[..of_word] != b"PROXY "[..of_word] {
        return Err(Malformed::NotAHeader);
    }
    let line_end = memchr::memchr(b'\n', &input[..input.len().min(PROXY_LINE_LEN_MAX)]);
    match line_end {
        Some(at) => {
            let line = input[..at].strip_suffix(b"\r").ok_or(Malformed::Syntax)?;
            let line = str::from_utf8(line).map_err(|_| Malformed::Syntax)?;
            let (alpn, unique_id, tls) = (None, None, None);
            Ok(Some((Header { origin: parse_line(line)?, alpn, unique_id, tls }, at + 1)))
        }
        None if input.len() >= PROXY_LINE_LEN_MAX => Err(Malformed::TooLong),
        None => Ok(None),
    }
}

/// PP §2.1: `PROXY TCP4 192.0.2.1 192.0.2.25 56324 25`, each between single spaces.
fn parse_line(line: &str) -> Result<Origin, Malformed> {
    let mut words = line.split(' ');
    let (_proxy, family) = (words.next(), words.next());
    let is_ipv4 = match family {
        // PP §2.1: whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(Origin::Unknown),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(Malformed::Syntax),
    };
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        if is_ipv4 {
            Some(word.parse::<Ipv4Addr>().ok()?.into())
        } else {
            Some(word.parse::<Ipv6Addr>().ok()?.into())
        }
    };
    let (client, server) = (address(), address());
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        // PP §2.1: digits, without leading zeros.
        let canonical =
            word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
        word.parse().ok().filter(|_| canonical)
    };
    let (client_port, server_port) = (port(), port());
    match (client, server, client_port, server_port, words.next()) {
        (Some(client), Some(server), Some(client_port), Some(server_port), None) => Ok(Origin::Tcp {
            client: SocketAddr::new(client, client_port),
            server: SocketAddr::new(server, server_port),
        }),
        _ => Err(Malformed::Syntax),
    }
}

/// PP §2.2. `input` holds the fixed part.
fn parse_binary(input: &[u8]) -> Result<Option<(Header<'_>, usize)>, Malformed> {
    let (version_and_command, family) = (input[12], input[13]);
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([input[14], input[15]]));
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Syntax),
    };
    if len > limits::PROXY_HEADER_LEN_MAX {
        return Err(Malformed::TooLong);
    }
    let Some(header) = input.get(..len) else { return Ok(None) };
    let (addresses, values) = split_addresses(family, &header[FIXED_LEN..])?;
    // PP §2.2: of LOCAL, the family and the addresses are to be ignored.
    let origin = if is_local { Origin::Local } else { addresses };
    let mut parsed = Header { origin, alpn: None, unique_id: None, tls: None };
    let mut values = Values(values);
    while let Some(value) = values.next() {
        let (kind, value) = value?;
        match kind {
            0x01 => parsed.alpn = Some(value),
            0x03 => verify_checksum(header, header.len() - values.0.len() - value.len(), value)?,
            0x05 if value.len() > PROXY_UNIQUE_ID_LEN_MAX => return Err(Malformed::Syntax),
            0x05 => parsed.unique_id = Some(value),
            0x20 => parsed.tls = parse_tls(value)?,
            _ => {}
        }
    }
    Ok(Some((parsed, len)))
}

/// The addresses, and what follows them.
fn split_addresses(family: u8, rest: &[u8]) -> Result<(Origin, &[u8]), Malformed> {
    let addresses_len = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(Malformed::Syntax),
    };
    let (addresses, values) = rest.split_at_checked(addresses_len).ok_or(Malformed::Syntax)?;
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    let ipv4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).expect("4 octets"));
    let ipv6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).expect("16 octets"));
    let origin = match family {
        0x11 => Origin::Tcp {
            client: SocketAddr::new(ipv4(0), port(8)),
            server: SocketAddr::new(ipv4(4), port(10)),
        },
        0x21 => Origin::Tcp {
            client: SocketAddr::new(ipv6(0), port(32)),
            server: SocketAddr::new(ipv6(16), port(34)),
        },
        _ => Origin::Unknown,
    };
    Ok((origin, values))
}

/// Type, length, value: to the end, without rest.
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    type Item = Result<(u8, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let all = std::mem::take(&mut self.0);
        let (&kind, rest) = all.split_first()?;
        let split = rest.split_first_chunk::<2>();
        let split = split.and_then(|(len, rest)| rest.split_at_checked(u16::from_be_bytes(*len).into()));
        let Some((value, rest)) = split else { return Some(Err(Malformed::Syntax)) };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

fn parse_tls(value: &[u8]) -> Result<Option<Tls<'_>>, Malformed> {
    let (fixed, values) = value.split_first_chunk::<SSL_FIXED_LEN>().ok_or(Malformed::Syntax)?;
    let [client, verify @ ..] = *fixed;
    let mut tls = Tls { verified: client & 0x06 != 0 && verify == [0; 4], version: None };
    for value in Values(values) {
        if let (0x21, version) = value? {
            tls.version = Some(version);
        }
    }
    Ok((client & CLIENT_USED_SSL != 0).then_some(tls))
}

/// PP §2.2.3: CRC-32C over the whole header, the checksum's own octets, which stand at `at`, being 0.
fn verify_checksum(header: &[u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let expected: [u8; 4] = value.try_into().map_err(|_| Malformed::Syntax)?;
    let before = checksum::crc32c_append(checksum::crc32c(&header[..at]), &[0; 4]);
    let checksum = checksum::crc32c_append(before, &header[at + expected.len()..]);
    if checksum == u32::from_be_bytes(expected) { Ok(()) } else { Err(Malformed::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(client: &str, server: &str) -> Origin {
        Origin::Tcp { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn line(text: &str) -> Result<Origin, Malformed> {
        let (header, consumed) = parse(text.as_bytes())?.expect("a whole line");
        assert_eq!(consumed, text.find('\n').unwrap() + 1);
        Ok(header.origin)
    }

    /// A header of version 2, of which every proper prefix wants more.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        let header = [&SIGNATURE[..], &[command, family], &len, rest].concat();
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} octets");
        }
        header
    }

    fn value(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 25, 0x9c, 0xbb, 0, 25];

    #[test]
    fn lines_of_version_1() {
        let ipv4 = tcp("192.0.2.7:40123", "192.0.2.25:25");
        assert_eq!(line("PROXY TCP4 192.0.2.7 192.0.2.25 40123 25\r\n"), Ok(ipv4));
        assert_eq!(line("PROXY TCP4 192.0.2.7 192.0.2.25 40123 25\r\nEHLO x\r\n"), Ok(ipv4));
        let ipv6 = tcp("[2001:db8::7]:0", "[::1]:65535");
        assert_eq!(line("PROXY TCP6 2001:DB8::7 ::1 0 65535\r\n"), Ok(ipv6));
        assert_eq!(line("PROXY UNKNOWN\r\n"), Ok(Origin::Unknown));
        assert_eq!(line("PROXY UNKNOWN ffff:: anything at all\r\n"), Ok(Origin::Unknown));
    }

    #[test]
    fn lines_that_are_none() {
        for text in [
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.25 40123\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.25 40123 25 \r\n",
            "PROXY TCP4  192.0.2.7 192.0.2.25 40123 25\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.25 40123 25\n",
            "PROXY TCP4 192.0.2.7 192.0.2.25 40123 65536\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.25 +40123 25\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.25 040123 25\r\n",
            "PROXY TCP4 192.0.2.007 192.0.2.25 40123 25\r\n",
            "PROXY TCP4 ::1 ::1 40123 25\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.25 40123 25\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.25 40123 25\r\n",
            "PROXY tcp4 192.0.2.7 192.0.2.25 40123 25\r\n",
        ] {
            let parsed = parse(text.as_bytes());
            assert!(matches!(parsed, Err(Malformed::Syntax | Malformed::NotAHeader)), "{text:?}: {parsed:?}");
        }
        for text in ["EHLO x\r\n", "proxy TCP4", "PROXX", " PROXY ", "\n", "\r\n\r\n\r", "\0"] {
            assert_eq!(parse(text.as_bytes()), Err(Malformed::NotAHeader), "{text:?}");
        }
    }

    #[test]
    fn a_line_has_107_octets_at_most() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(PROXY_LINE_LEN_MAX - 16));
        assert_eq!(line(&longest), Ok(Origin::Unknown));
        for end in 0..longest.len() {
            assert_eq!(parse(&longest.as_bytes()[..end]), Ok(None));
        }
        let longer = longest.replace("UNKNOWN ", "UNKNOWN  ");
        assert_eq!(parse(longer.as_bytes()), Err(Malformed::TooLong));
        assert_eq!(parse(&longer.as_bytes()[..PROXY_LINE_LEN_MAX]), Err(Malformed::TooLong));
    }

    #[test]
    fn headers_of_version_2() {
        let ipv4 = binary(0x21, 0x11, &IPV4);
        let input = [&ipv4[..], b"EHLO x\r\n"].concat();
        let (header, consumed) = parse(&input).unwrap().unwrap();
        assert_eq!(header.origin, tcp("192.0.2.7:40123", "192.0.2.25:25"));
        assert_eq!((consumed, header.tls, header.alpn, header.unique_id), (ipv4.len(), None, None, None));
        let mut addresses = [0; 36];
        (addresses[15], addresses[31], addresses[33], addresses[35]) = (1, 2, 3, 4);
        let ipv6 = binary(0x21, 0x21, &addresses);
        assert_eq!(parse(&ipv6).unwrap().unwrap().0.origin, tcp("[::1]:3", "[::2]:4"));
        for (command, family, rest, origin) in [
            (0x20, 0x00, &[][..], Origin::Local),
            (0x20, 0x11, &IPV4[..], Origin::Local),
            (0x21, 0x00, &[][..], Origin::Unknown),
            (0x21, 0x12, &IPV4[..], Origin::Unknown),
            (0x21, 0x31, &[0; 216][..], Origin::Unknown),
        ] {
            assert_eq!(parse(&binary(command, family, rest)).unwrap().unwrap().0.origin, origin);
        }
    }

    #[test]
    fn headers_that_are_none() {
        let header = |command, family, rest: &[u8]| {
            [&SIGNATURE[..], &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
        };
        for (command, family, rest) in [
            (0x11, 0x11, &IPV4[..]),
            (0x22, 0x11, &IPV4[..]),
            (0x21, 0x13, &IPV4[..]),
            (0x21, 0x41, &IPV4[..]),
            (0x21, 0x11, &IPV4[..11]),
            (0x20, 0x11, &IPV4[..11]),
            (0x21, 0x21, &IPV4[..]),
        ] {
            assert_eq!(parse(&header(command, family, rest)), Err(Malformed::Syntax), "{command} {family}");
        }
        // Told by the fixed part alone: nothing more is waited for.
        let long = header(0x21, 0x11, &[0; limits::PROXY_HEADER_LEN_MAX]);
        assert_eq!(parse(&long[..FIXED_LEN]), Err(Malformed::TooLong));
        let fits =
            [&IPV4[..], &value(0xee, &vec![0; limits::PROXY_HEADER_LEN_MAX - FIXED_LEN - 15])].concat();
        assert!(matches!(parse(&header(0x21, 0x11, &fits)), Ok(Some(_))));
    }

    #[test]
    fn values_behind_the_addresses() {
        let tls = [&[1 | 2, 0, 0, 0, 0][..], &value(0x21, b"TLSv1.3"), &value(0x22, b"client")].concat();
        let values = [
            value(0x01, b"smtp"),
            value(0x05, b"id-7"),
            value(0x20, &tls),
            value(0xe0, b"?"),
            value(0x04, b""),
        ];
        let header = binary(0x21, 0x11, &[&IPV4[..], &values.concat()].concat());
        let (header, _) = parse(&header).unwrap().unwrap();
        assert_eq!((header.alpn, header.unique_id), (Some(&b"smtp"[..]), Some(&b"id-7"[..])));
        assert_eq!(header.tls, Some(Tls { verified: true, version: Some(b"TLSv1.3") }));
        for (tls, expected) in [
            (&[0, 0, 0, 0, 0][..], None),
            (&[1, 0, 0, 0, 0], Some(Tls { verified: false, version: None })),
            (&[3, 0, 0, 0, 1], Some(Tls { verified: false, version: None })),
        ] {
            let header = binary(0x21, 0x11, &[&IPV4[..], &value(0x20, tls)].concat());
            assert_eq!(parse(&header).unwrap().unwrap().0.tls, expected);
        }
        let too_long = value(0x05, &[b'x'; PROXY_UNIQUE_ID_LEN_MAX + 1]);
        let cut = &value(0x01, b"smtp")[..6];
        for values in [
            &too_long[..],
            cut,
            &[1],
            &[1, 0],
            &value(0x20, &[1, 0, 0, 0]),
            &value(0x20, &[1, 0, 0, 0, 0, 0x21]),
        ] {
            let header = binary(0x21, 0x11, &[&IPV4[..], values].concat());
            assert_eq!(parse(&header), Err(Malformed::Syntax), "{values:?}");
        }
    }

    #[test]
    fn a_checksum_is_verified_where_it_is() {
        let rest = [&IPV4[..], &value(0x05, b"id"), &value(0x03, &[0; 4]), &value(0x01, b"smtp")].concat();
        let mut header = binary(0x21, 0x11, &rest);
        let at = FIXED_LEN + IPV4.len() + 5 + 3;
        assert_eq!(parse(&header), Err(Malformed::Checksum));
        let checksum = crc32c::crc32c(&header).to_be_bytes();
        header[at..at + 4].copy_from_slice(&checksum);
        assert!(matches!(parse(&header), Ok(Some(_))));
        // But for the type of the checksum itself, without which there is none.
        for place in (FIXED_LEN..header.len()).filter(|place| *place != at - 3) {
            header[place] ^= 1;
            assert!(parse(&header).is_err(), "octet {place}");
            header[place] ^= 1;
        }
    }
}
