//! The notations of single values: sizes, times, domains, addresses to bind to.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::idn::to_ascii;
use crate::limits::{DOMAIN_LEN_MAX, LABEL_LEN_MAX};
use crate::policy::clients::Rate;

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
const TIME_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60 * 1000), ("h", 3600 * 1000), ("d", 24 * 3600 * 1000)];

/// Where service names are looked up, unless `services` names another file. A name of [`SERVICES`] works without it.
const SERVICES_PATH: &str = "/etc/services";
const SERVICES: &[(&str, u16)] =
    &[("smtp", 25), ("submissions", 465), ("smtps", 465), ("submission", 587), ("lmtp", 24)];

/// Octets from `50MiB`, `10MB`, `4096B` or `4096`.
pub(super) fn parse_size(text: &str) -> Result<u64, &'static str> {
    let (number, unit) = split_number(text.trim());
    let number: u64 = number.parse().map_err(|_| "it begins with no whole number of 64 bits")?;
    let unit = unit.trim_start();
    let factor = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some(&(_, factor)) => factor,
        None if unit.is_empty() => 1,
        None => return Err("the units are B, KiB, MiB, GiB, and kB, MB, GB for powers of 1000"),
    };
    number.checked_mul(factor).ok_or("it is beyond 64 bits")
}

/// The size in the largest unit that divides it.
pub fn format_size(size: u64) -> String {
    let unit =
        SIZE_UNITS.iter().rev().find(|(name, factor)| name.ends_with("iB") && size.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) if size > 0 => format!("{}{name}", size / factor),
        _ => format!("{size}B"),
    }
}

/// A time from `300s`, `5m`, `1h30m`, `250ms`, `5d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let mut rest = text.trim();
    let mut total_ms = 0u64;
    if rest.is_empty() {
        return Err("it is empty");
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let number: u64 = number.parse().map_err(|_| "a whole number of 64 bits is missing")?;
        let unit_len = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit_len);
        let Some((_, factor)) = TIME_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(if unit.is_empty() { "its unit is missing" } else { "the units are ms, s, m, h, d" });
        };
        let part = number.checked_mul(*factor).ok_or("it is beyond 64 bits")?;
        total_ms = total_ms.checked_add(part).ok_or("it is beyond 64 bits")?;
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(total_ms))
}

/// So many, or a size, in a time: `600/m`, `100/10s`, `10GiB/h`.
pub(super) fn parse_rate(text: &str) -> Result<Rate, &'static str> {
    let (count, per) = text.split_once('/').ok_or("it has no `/` between the number and its time")?;
    let count = parse_size(count)?;
    let per = per.trim();
    // `/m` is `/1m`.
    let is_unit = per.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    let per = if is_unit { parse_duration(&format!("1{per}")) } else { parse_duration(per) }?;
    if count == 0 || per.is_zero() {
        return Err("neither the number nor the time can be 0");
    }
    Ok(Rate::new(count, per))
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// A domain in lower case and with A-labels, without a trailing dot. Underscores are taken: domains with them receive
/// mail.
pub(super) fn parse_domain(text: &str) -> Result<String, &'static str> {
    let domain = to_ascii(text.strip_suffix('.').unwrap_or(text)).into_owned();
    if !domain.is_ascii() {
        return Err("it is no internationalized domain name");
    }
    if domain.is_empty() || domain.len() > DOMAIN_LEN_MAX {
        return Err("it has to be 1 to 255 octets long");
    }
    if domain.parse::<IpAddr>().is_ok() {
        return Err("it is an IP address");
    }
    if domain.contains('*') {
        return Err("it must name one domain, without a wildcard");
    }
    for label in domain.split('.') {
        if label.is_empty() || label.len() > LABEL_LEN_MAX {
            return Err("each part between dots has to be 1 to 63 octets long");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err("only letters, digits, `-`, `_` and dots make up a domain");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part of it may begin or end with `-`");
        }
    }
    Ok(domain)
}

/// A database of services: names of ports.
#[derive(Clone, Debug, Default)]
pub(super) enum Services {
    /// The system's.
    #[default]
    System,
    Named {
        path: PathBuf,
        text: String,
    },
}

impl Services {
    fn text(&self) -> &str {
        static SYSTEM: OnceLock<String> = OnceLock::new();
        match self {
            Self::System => SYSTEM.get_or_init(|| std::fs::read_to_string(SERVICES_PATH).unwrap_or_default()),
            Self::Named { text, .. } => text,
        }
    }

    fn port(&self, name: &str) -> Result<u16, String> {
        let found = find_service(name, self.text());
        let (found, path) = match self {
            // Small containers have no such file.
            Self::System => {
                let built_in = SERVICES.iter().find(|(known, _)| *known == name).map(|&(_, port)| port);
                (found.or(built_in), Path::new(SERVICES_PATH))
            }
            Self::Named { path, .. } => (found, path.as_path()),
        };
        found.ok_or_else(|| format!("`{name}` is no TCP service in {}", path.display()))
    }
}

/// `192.0.2.1:25`, `[2001:db8::1]:25`, or with a name from the system's services for the port.
pub fn parse_bind(text: &str) -> Result<SocketAddr, String> {
    parse_bind_with(text, &Services::System)
}

pub(super) fn parse_bind_with(text: &str, services: &Services) -> Result<SocketAddr, String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("it has no port".to_owned());
    };
    let bare: Result<IpAddr, _> = host.parse();
    if matches!(bare, Ok(IpAddr::V6(_))) || text.parse::<IpAddr>().is_ok() {
        return Err("an IPv6 address stands between [ and ]".to_owned());
    }
    let with_port_zero = format!("{host}:0");
    let Ok(mut address) = with_port_zero.parse::<SocketAddr>() else {
        return Err(format!("`{host}` is not an IP address"));
    };
    address.set_port(parse_port_with(port, services)?);
    Ok(address)
}

/// `25`, or the name of a service.
pub fn parse_port(text: &str) -> Result<u16, String> {
    parse_port_with(text, &Services::System)
}

fn parse_port_with(port: &str, services: &Services) -> Result<u16, String> {
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        return port.parse().map_err(|_| format!("`{port}` is not a port from 0 to 65535"));
    }
    services.port(port)
}

/// Looks `name` up in a services database: `name port/protocol alias ... # comment`.
fn find_service(name: &str, services: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        (first == name || words.any(|alias| alias == name)).then(|| port.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in
            [("0", 0), ("512", 512), ("50MiB", 50 << 20), ("10 kB", 10_000), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "MiB", "5M", "1.5MiB", "-1", "5 MiB x", "99999999999999999999", "99999999999999GiB"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for size in [0, 1, 1000, 1024, 50 << 20, 3 << 30, (1 << 20) + 1] {
            assert_eq!(parse_size(&format_size(size)), Ok(size));
        }
        assert_eq!(format_size(50 << 20), "50MiB");
    }

    #[test]
    fn durations() {
        for (text, ms) in
            [("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("5d", 432_000_000), ("1m 5s", 65_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "5", "m", "5min", "5m3", "-5s", "1.5h", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, count, secs) in [
            ("600/m", 600, 60),
            ("600/1m", 600, 60),
            ("5 / 90s", 5, 90),
            ("10GiB/h", 10 << 30, 3600),
            ("1/1m30s", 1, 90),
        ] {
            assert_eq!(parse_rate(text), Ok(Rate::new(count, Duration::from_secs(secs))), "{text}");
        }
        for text in ["", "600", "600/", "/m", "0/m", "600/0s", "600/minute", "-1/m", "600/m/m", "600/5"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn domains() {
        assert_eq!(parse_domain("Example.COM."), Ok("example.com".to_owned()));
        assert_eq!(parse_domain("localhost"), Ok("localhost".to_owned()));
        assert_eq!(parse_domain("_a.xn--bcher-kva.example"), Ok("_a.xn--bcher-kva.example".to_owned()));
        assert_eq!(parse_domain("B\u{dc}CHER.example."), Ok("xn--bcher-kva.example".to_owned()));
        for text in
            ["", ".", "a..b", "-a.b", "a-.b", "xn--ü.example", "*.a", "192.0.2.1", "a b", "a@b", "::1"]
        {
            assert!(parse_domain(text).is_err(), "{text}");
        }
        assert!(parse_domain(&"a".repeat(64)).is_err());
        assert!(parse_domain(&"a.".repeat(128)).is_ok());
        assert!(parse_domain(&"a.".repeat(129)).is_err());
    }

    #[test]
    fn addresses() {
        let text = "smtp 25/tcp mail # mail\nsnpp 444/tcp\nonly-udp 99/udp\nbroken\n#no 1/tcp\n";
        let services = Services::Named { path: "x".into(), text: text.into() };
        for (text, address) in [
            ("0.0.0.0:25", "0.0.0.0:25"),
            ("[::]:smtp", "[::]:25"),
            ("127.0.0.1:mail", "127.0.0.1:25"),
            ("[2001:db8::1]:2525", "[2001:db8::1]:2525"),
            ("127.0.0.1:snpp", "127.0.0.1:444"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(parse_bind_with(text, &services), Ok(address.parse().unwrap()), "{text}");
        }
        for text in
            ["25", ":25", "*:25", "localhost:25", "::1", "::1:25", "[::1]", "1.2.3.4:", "1.2.3.4:65536"]
        {
            assert!(parse_bind_with(text, &services).is_err(), "{text}");
        }
        for text in ["1.2.3.4:only-udp", "1.2.3.4:no", "1.2.3.4:-1", "1.2.3.4:+25", "1.2.3.4:lmtp"] {
            assert!(parse_bind_with(text, &services).is_err(), "{text}");
        }
    }
}
