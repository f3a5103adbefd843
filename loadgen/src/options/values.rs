//! What options are read from, and into.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::limits::{CONTENT_LEN_MAX, MAILBOX_LEN_MAX, SEND_LEN_MAX, SIGMA_MAX, SOURCES_COUNT_MAX};

/// Cores in the order they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// # Panics
    /// When `cores` is empty.
    pub fn new(cores: Vec<usize>) -> Self {
        assert!(!cores.is_empty(), "a thread needs a core");
        Self(cores)
    }

    pub fn to_vec(&self) -> Vec<usize> {
        self.0.clone()
    }

    /// The core of a thread.
    pub fn of(&self, thread_index: usize) -> usize {
        self.0[thread_index % self.0.len()]
    }
}

/// Addresses in the order connections take them; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<IpAddr>);

impl Sources {
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0
    }
}

/// `127.0.0.2-127.0.0.9,127.1.0.1`: a range is of IPv4 addresses.
pub(super) fn sources(text: &str) -> Result<Sources, String> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let Some((first, last)) = part.split_once('-') else {
            addresses.push(part.trim().parse::<IpAddr>().map_err(|_| format!("`{part}` is not an address"))?);
            continue;
        };
        let number = |text: &str| {
            text.trim()
                .parse::<Ipv4Addr>()
                .map(u32::from)
                .map_err(|_| format!("`{text}` is not an IPv4 address"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last || (last - first) as usize >= SOURCES_COUNT_MAX {
            return Err(format!("`{part}` is not a range of at most {SOURCES_COUNT_MAX} addresses"));
        }
        addresses.extend((first..=last).map(|number| IpAddr::V4(number.into())));
    }
    if addresses.len() > SOURCES_COUNT_MAX {
        return Err(format!("at most {SOURCES_COUNT_MAX} addresses"));
    }
    Ok(Sources(addresses))
}

/// `10`, `10s`, `500ms`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("unknown unit `{unit}`: use ms, s, m or h")),
    };
    let secs = number.parse::<f64>().map_err(|_| "not a number".to_owned())? * factor;
    if !(0.001..=1e6).contains(&secs) {
        return Err("must lie between 1 ms and 1,000,000 s".to_owned());
    }
    Ok(Duration::from_secs_f64(secs))
}

/// `--size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// Octets.
    Fixed(u64),
    /// The median in octets, and the standard deviation of the natural logarithm.
    LogNormal { median: u64, sigma: f64 },
}

impl Size {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(parameters) = text.strip_prefix("lognormal:") else { return size(text).map(Self::Fixed) };
        let (median, sigma) =
            parameters.split_once(',').ok_or("lognormal takes two: lognormal:MEDIAN,SIGMA")?;
        let sigma_of = |text: &str| text.parse().ok().filter(|sigma| (0.0..=SIGMA_MAX).contains(sigma));
        let sigma = sigma_of(sigma).ok_or_else(|| format!("SIGMA must lie between 0 and {SIGMA_MAX}"))?;
        Ok(Self::LogNormal { median: size(median)?, sigma })
    }
}

pub(super) fn chunk(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("at least one octet".to_owned()),
        len => Ok(len),
    }
}

/// What goes out in one send.
pub(super) fn at_once(text: &str) -> Result<u64, String> {
    match size(text)? {
        len if len < SEND_LEN_MAX as u64 => Ok(len),
        _ => Err(format!("less than {SEND_LEN_MAX} octets")),
    }
}

pub(super) fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor| (0.0..=1000.0).contains(factor));
    factor.ok_or_else(|| "a ratio between 0 and 1000".to_owned())
}

/// `4096`, `4KiB`, `1MiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let number_len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        _ => return Err(format!("unknown unit `{unit}`: use KiB or MiB")),
    };
    let octets = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    octets
        .filter(|&octets| octets <= CONTENT_LEN_MAX)
        .ok_or_else(|| format!("at most {CONTENT_LEN_MAX} octets"))
}

/// Not the grammar of RFC 5321 §4.1.2: what a server makes of an odd mailbox may be the test. But it must not end the
/// command it stands in.
pub(super) fn mailbox(text: &str) -> Result<String, String> {
    if text.len() > MAILBOX_LEN_MAX {
        return Err(format!("longer than {MAILBOX_LEN_MAX} octets"));
    }
    match text.chars().find(|&c| c.is_control() || c == '<' || c == '>') {
        Some(c) => {
            Err(format!("`{}` does not belong there; no angle brackets are needed", c.escape_default()))
        }
        None => Ok(text.to_owned()),
    }
}

pub(super) fn recipient(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("empty".to_owned()) } else { mailbox(text) }
}

pub(super) fn helo(text: &str) -> Result<String, String> {
    if text.contains(' ') { Err("a space does not belong there".to_owned()) } else { recipient(text) }
}

pub(super) fn cores(text: &str) -> Result<Cores, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("`{text}` is not a core"));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= 1024 {
            return Err(format!("`{part}` is not a range of cores"));
        }
        cores.extend(first..=last);
    }
    Ok(Cores(cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_lists_are_read() {
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(size("50MiB"), Ok(50 << 20));
        assert_eq!(size("4 KiB"), Ok(4096));
        assert_eq!(cores("0,2-4"), Ok(Cores(vec![0, 2, 3, 4])));
        assert_eq!(Cores(vec![3, 5]).of(3), 5);
        let listed = sources("127.0.0.254-127.0.1.1,::1").expect("addresses");
        let texts: Vec<String> = listed.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1", "::1"]);
    }

    #[test]
    fn a_distribution_of_sizes_is_read() {
        assert_eq!(Size::parse("8KiB"), Ok(Size::Fixed(8192)));
        assert_eq!(Size::parse("lognormal:8KiB,1.5"), Ok(Size::LogNormal { median: 8192, sigma: 1.5 }));
        for text in
            ["lognormal:8KiB", "lognormal:8KiB,", "lognormal:8KiB,-1", "lognormal:8KiB,NaN", "lognormal:x,1"]
        {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }
}
