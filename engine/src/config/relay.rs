//! Where mail is handed on to: another server, and how to speak with it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Authorities;
use crate::policy::clients::Rate;

/// The next hop of a route, or of the notices. Two that are equal share connections and what is known of the hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Relay {
    pub protocol: RelayProtocol,
    /// At least one.
    pub next_hops: Vec<NextHop>,
    /// Connections go to all of them in turn; otherwise to the first that answers.
    pub balance: bool,
    pub tls: RelayTls,
    /// Connections that one egress thread holds open at once.
    pub connections_max: usize,
    /// Messages that all egress threads give it together; None for as many as it takes.
    pub message_rate: Option<Rate>,
    /// The longest wait for a reply, and for octets to be taken; twice as long for the reply to end-of-data. RFC 5321
    /// §4.5.3.2 asks for 5 and 10 minutes.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RelayProtocol {
    Smtp,
    /// RFC 2033: a reply for each recipient.
    Lmtp,
    /// A POST for each message.
    Http(Arc<HttpTarget>),
}

/// Where messages are posted, besides at which host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpTarget {
    /// Host and port as in the URL.
    pub authority: String,
    /// With the query; begins with `/`.
    pub path: String,
    /// The key of the signature.
    pub secret: Secret,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn octets(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    /// Two that differ look different: configurations are compared by how they look.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.octets());
        write!(f, "Secret({:02x?})", &digest.as_ref()[..8])
    }
}

impl HttpTarget {
    /// The parts of `http(s)://host[:port][/path][?query]`: whether it is https, the host, and this.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn parse(url: &str, secret: Secret) -> Result<(bool, NextHop, Self), String> {
        let (is_secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("it begins with neither https:// nor http://".into()),
        };
        if !url.bytes().all(|octet| octet.is_ascii_graphic()) || url.contains('#') {
            return Err("a URL is printable ASCII without spaces and #; write others as %20".into());
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let hop = NextHop::parse(authority, Some(if is_secure { 443 } else { 80 }))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if !matches!(hop, NextHop::Tcp { .. }) {
            return Err("there is no host name or address in it".into());
        }
        Ok((is_secure, hop, Self { authority: authority.to_owned(), path, secret }))
    }
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum RelayTls {
    Off,
    /// Where it is offered, with whatever certificate (RFC 7435); in clear otherwise.
    #[default]
    Opportunistic,
    /// With whatever certificate.
    Required,
    /// With a certificate of one of these for the host's name.
    Verified(Arc<Authorities>),
}

impl RelayProtocol {
    /// As the configuration has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
            Self::Http(_) => "http",
        }
    }
}

impl RelayTls {
    /// As the configuration has them.
    pub const NAMES: [&str; 4] = ["off", "opportunistic", "required", "verified"];

    /// As the configuration has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Off => Self::NAMES[0],
            Self::Opportunistic => Self::NAMES[1],
            Self::Required => Self::NAMES[2],
            Self::Verified(_) => Self::NAMES[3],
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
    fn urls_are_read() {
        let parse = |url: &str| HttpTarget::parse(url, Secret::new("key"));
        for (url, is_secure, hop, path) in [
            ("http://in.example", false, "in.example:80", "/"),
            ("https://in.example/mail?x=1", true, "in.example:443", "/mail?x=1"),
            ("https://in.example:8443?x=1", true, "in.example:8443", "/?x=1"),
            ("http://[2001:db8::1]:81/a/b", false, "[2001:db8::1]:81", "/a/b"),
        ] {
            let (secure, found, target) = parse(url).unwrap();
            assert_eq!((secure, found.to_string().as_str(), target.path.as_str()), (is_secure, hop, path));
        }
        for url in [
            "in.example",
            "ftp://in.example",
            "http://",
            "http://u:p@in.example",
            "http://a/b c",
            "http://a/#b",
            "http://unix:/x",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_secret_is_not_shown_and_differs_from_another() {
        let shown = |text: &str| format!("{:?}", Secret::new(text));
        assert!(shown("key") == shown("key") && shown("key") != shown("other"));
        assert!(!shown("key").contains("key"));
    }

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
