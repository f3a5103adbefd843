//! Where mail goes.

use std::sync::Arc;
use std::time::Duration;

use super::{PathTemplate, Relay};

/// Where the mail of some domains goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// At least one.
    pub domains: Vec<DomainPattern>,
    pub deliver: Deliver,
    /// Waits between attempts, at least one; the last repeats.
    pub retry: Vec<Duration>,
    /// How long mail is tried; then it has failed. RFC 5321 §4.5.4.1 asks for 4 to 5 days at least.
    pub lifetime: Duration,
}

/// Whom notices of mail that could not be delivered are given to.
#[derive(Clone, Debug)]
pub struct Bounce {
    pub relay: Arc<Relay>,
    /// Waits between attempts, at least one; the last repeats.
    pub retry: Vec<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    Any,
    /// In lower case.
    Exact(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deliver {
    Maildir {
        path: PathTemplate,
    },
    /// Over SMTP or LMTP.
    Relay(Arc<Relay>),
    /// Acknowledged without a trace.
    Discard,
    /// Kept in the spool.
    Hold,
}

impl Route {
    pub fn matches(&self, domain: &str) -> bool {
        self.domains.iter().any(|pattern| pattern.matches(domain))
    }
}

impl DomainPattern {
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(domain),
        }
    }
}

