//! Where mail is handed on to: another server, and how to speak with it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The next hop of a route, or of the notices. Two that are equal share connections and what is known of the hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Relay {
    pub protocol: RelayProtocol,
    /// At least one.
    pub next_hops: Vec<NextHop>,
    /// Connections go to all of them in turn; otherwise to the first that answers.
    pub balance: bool,
    pub tls: RelayTls,
    /// PEM file of the authorities that [`RelayTls::Verified`] trusts.
    pub authorities: PathBuf,
    /// Connections that one egress thread holds open at once.
    pub connections_max: usize,
    /// The longest wait for a reply, and for octets to be taken; twice as long for the reply to end-of-data. RFC 5321
    /// §4.5.3.2 asks for 5 and 10 minutes.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayProtocol {
    Smtp,
    /// RFC 2033: a reply for each recipient.
    Lmtp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// A name or an address.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// What TLS the next hop must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RelayTls {
    Off,
    /// Where it is offered, with whatever certificate (RFC 7435); in clear otherwise.
    #[default]
    Opportunistic,
    /// With whatever certificate.
    Required,
    /// With a certificate of a trusted authority for the host's name.
    Verified,
}

impl RelayProtocol {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
        }
    }
}

impl RelayTls {
    pub const ALL: [Self; 4] = [Self::Off, Self::Opportunistic, Self::Required, Self::Verified];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
        }
    }
}

impl NextHop {
    /// `host`, `host:port`, `[IPv6 address]:port` or `unix:/path`; `default_port` where none is given.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn parse(text: &str, default_port: Option<u16>) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err("the path must begin with /".into())
            };
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or("the bracket does not end")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| "what is in brackets is no IPv6 address")?;
                (host, after.strip_prefix(':'))
            }
            None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let is_name = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(is_name) {
            return Err("there is no host name or address in it".into());
        }
        let port = match port {
            Some(port) => {
                port.parse().ok().filter(|&port| port > 0).ok_or("the port is no number up to 65535")?
            }
            None => default_port.ok_or("it has no port")?,
        };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Relay {
    /// What to call it in a word: its first hop.
    pub fn name(&self) -> String {
        self.next_hops.first().map(NextHop::to_string).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read() {
        let parse = |text: &str| NextHop::parse(text, Some(25)).map(|hop| hop.to_string());
        for (text, shown) in [
            ("mail.internal", "mail.internal:25"),
            ("mail.internal:2525", "mail.internal:2525"),
            ("192.0.2.1:26", "192.0.2.1:26"),
            ("[2001:db8::1]:26", "[2001:db8::1]:26"),
            ("2001:db8::1", "[2001:db8::1]:25"),
            ("unix:/run/lmtp.sock", "unix:/run/lmtp.sock"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(shown));
        }
        for text in ["", ":25", "a b", "a:0", "a:65536", "[::1", "[x]:25", "unix:run/x"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(NextHop::parse("mail.internal", None).is_err());
    }
}
