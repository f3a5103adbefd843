//! What a PROXY header says, read the slow way: the whole input at once, octet by octet, as the specification lists it.

use std::net::{IpAddr, SocketAddr};

use ringmx::limits::PROXY_HEADER_LEN_MAX;
use ringmx::protocol::proxy::Origin;

/// What an input that never goes on begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Header(Origin, usize),
    /// It could become a header.
    Begun,
    Malformed,
}

pub fn read(input: &[u8]) -> Read {
    let signature = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
    if input.iter().zip(signature).all(|(octet, wanted)| *octet == wanted) {
        return read_binary(input);
    }
    let line: Vec<u8> = input.iter().copied().take_while(|octet| *octet != b'\n').collect();
    if !line.iter().zip(b"PROXY ").all(|(octet, wanted)| octet == wanted) {
        return Read::Malformed;
    }
    let consumed = line.len() + 1;
    // 107 octets are the most that a line has, its end included.
    if line.len() >= 107 {
        return Read::Malformed;
    }
    if line.len() == input.len() {
        return Read::Begun;
    }
    let Ok(text) = String::from_utf8(line) else { return Read::Malformed };
    let Some(text) = text.strip_suffix('\r') else { return Read::Malformed };
    let words: Vec<&str> = text.split(' ').collect();
    if words.get(1) == Some(&"UNKNOWN") {
        return Read::Header(Origin::Unknown, consumed);
    }
    let address = |at: usize, port_at: usize| -> Option<SocketAddr> {
        let ip: IpAddr = words[at].parse().ok()?;
        let port: u16 = words[port_at].parse().ok()?;
        // No sign, no zeros in front.
        (port.to_string() == words[port_at] && ip.is_ipv4() == (words[1] == "TCP4"))
            .then(|| SocketAddr::new(ip, port))
    };
    if words.len() != 6 || !matches!(words[1], "TCP4" | "TCP6") {
        return Read::Malformed;
    }
    match (address(2, 4), address(3, 5)) {
        (Some(client), Some(server)) => Read::Header(Origin::Tcp { client, server }, consumed),
        _ => Read::Malformed,
    }
}

fn read_binary(input: &[u8]) -> Read {
    if input.len() < 16 {
        return Read::Begun;
    }
    let len = 16 + usize::from(input[14]) * 256 + usize::from(input[15]);
    let (version, command) = (input[12] >> 4, input[12] & 15);
    if version != 2 || command > 1 || len > PROXY_HEADER_LEN_MAX {
        return Read::Malformed;
    }
    if input.len() < len {
        return Read::Begun;
    }
    let addresses_end = 16
        + match input[13] {
            0x00 => 0,
            0x11 | 0x12 => 12,
            0x21 | 0x22 => 36,
            0x31 | 0x32 => 216,
            _ => return Read::Malformed,
        };
    if addresses_end > len || !values_are_whole(&input[..len], addresses_end) {
        return Read::Malformed;
    }
    let port = |at: usize| u16::from(input[at]) * 256 + u16::from(input[at + 1]);
    let ip = |at: usize, len: usize| -> IpAddr {
        if len == 4 {
            std::array::from_fn::<u8, 4, _>(|index| input[at + index]).into()
        } else {
            std::array::from_fn::<u8, 16, _>(|index| input[at + index]).into()
        }
    };
    let tcp = |len: usize| Origin::Tcp {
        client: SocketAddr::new(ip(16, len), port(16 + 2 * len)),
        server: SocketAddr::new(ip(16 + len, len), port(18 + 2 * len)),
    };
    let origin = match (command, input[13]) {
        (0, _) => Origin::Local,
        (_, 0x11) => tcp(4),
        (_, 0x21) => tcp(16),
        _ => Origin::Unknown,
    };
    Read::Header(origin, len)
}

fn values_are_whole(header: &[u8], begin: usize) -> bool {
    let mut at = begin;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else { return false };
        let end = at + 3 + usize::from(high) * 256 + usize::from(low);
        let Some(value) = header.get(at + 3..end) else { return false };
        let fits = match kind {
            0x03 => value.len() == 4 && checksum(header, at + 3) == value,
            0x05 => value.len() <= 128,
            0x20 => value.len() >= 5 && nested_are_whole(&value[5..]),
            _ => true,
        };
        if !fits {
            return false;
        }
        at = end;
    }
    true
}

fn nested_are_whole(mut values: &[u8]) -> bool {
    while !values.is_empty() {
        let Some(&[_, high, low]) = values.get(..3) else { return false };
        let Some(rest) = values.get(3 + usize::from(high) * 256 + usize::from(low)..) else { return false };
        values = rest;
    }
    true
}

/// CRC-32C (Castagnoli, reflected), bit by bit, with 0 in place of the checksum at `at`.
fn checksum(header: &[u8], at: usize) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (index, &octet) in header.iter().enumerate() {
        crc ^= u32::from(if (at..at + 4).contains(&index) { 0 } else { octet });
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).to_be_bytes()
}
