//! The configuration: TOML text in, a validated and immutable [`Config`] out, or every error of the text at once.
//!
//! The way of a text: [`include`] reads it and what it includes into one tree of values that know their places
//! ([`source`]); [`sections`] takes the values out of it through the [`reader`], which checks types and reports what
//! nobody asked for; [`analysis`] looks for what is valid but hardly meant. Nothing behind this module sees text again.
//!
//! Relative paths start at the directory of the file they stand in. Any string may be given as `{ env = "NAME" }` or
//! `{ file = "PATH" }`, so that a secret need not stand in the configuration.

mod analysis;
mod authorities;
mod finding;
pub mod idn;
mod include;
mod list;
mod listener_analysis;
mod reader;
mod relay;
mod route;
mod rule_analysis;
mod sections;
mod source;
mod template;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use authorities::Authorities;
pub use finding::{ConfigError, Finding, Place, Severity};
pub use relay::{HttpTarget, NextHop, Relay, RelayProtocol, RelayTls, Secret};
pub use route::{Addressed, Bounce, Conditions, Deliver, DomainPattern, Route};
pub use template::PathTemplate;
pub use value::{format_size, parse_bind, parse_port};

use crate::policy::network::NetworkSet;
use crate::policy::newline::BareNewline;
use crate::policy::recipient;
use crate::policy::rules::{RuleSet, RuleSpec};
use crate::protocol::extension::Extensions;
use crate::session::{Guard, TlsMode};
use crate::store::Retention;

/// What `ringmx serve` runs without `--config`; also an example to start from.
pub const QUICK_START: &str = include_str!("../../examples/quick-start.toml");

/// A whole valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name in the greeting and the trace field. Default: the system's host name.
    pub hostname: String,
    /// 1 to 256. Default: one per available core.
    pub workers: usize,
    /// Whom the server becomes once its addresses are bound: names or numbers.
    pub user: Option<String>,
    pub group: Option<String>,
    /// At least one; neither names nor addresses repeat, except for port 0.
    pub listeners: Vec<Listener>,
    /// For all listeners with TLS, which need one; the first is for clients that ask for none by name.
    pub certificates: Vec<CertificateFiles>,
    pub spool: SpoolConfig,
    pub recipients: Recipients,
    pub rules: Arc<RuleSet>,
    /// The first that matches wins; each domain of `recipients` has one.
    pub routes: Vec<Route>,
    /// Without it mail that cannot be delivered is held.
    pub bounce: Option<Bounce>,
    /// Where the admin HTTP listens; None where it is not wanted.
    pub admin: Option<SocketAddr>,
    pub log: Log,
    /// Where what happens to messages is told; None where nobody wants to know.
    pub events: Option<EventsConfig>,
    pub replies: Replies,
    pub timeouts: Timeouts,
    /// How often the server looks who answers at its addresses.
    pub watch_interval: Duration,
}

/// One service: its addresses and the limits of its sessions.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// At least one. Port 0 lets the system choose.
    pub bind: Vec<SocketAddr>,
    /// False to share the addresses with other processes of the same user.
    pub exclusive: bool,
    /// The name in the greeting, the reply to EHLO and the trace field. Default: that of the whole configuration.
    pub hostname: String,
    /// Printable ASCII behind the name in the greeting; None for the built-in one.
    pub banner: Option<String>,
    /// What the reply to EHLO lists.
    pub extensions: Extensions,
    pub bare_newline: BareNewline,
    /// Clients to which `bare_newline` does not apply.
    pub bare_newline_exclude: NetworkSet,
    /// Octets of content. RFC 1870.
    pub max_message_size: u64,
    /// The wait for the next command. RFC 5321 §4.5.3.2.7.
    pub command_timeout: Duration,
    /// The wait for more content. RFC 5321 §4.5.3.2.5.
    pub data_timeout: Duration,
    /// Connections that one worker holds open at this listener; beyond it, 421.
    pub connections_max: usize,
    pub tls: TlsMode,
    /// What is asked of clients under TLS.
    pub client_certificates: ClientCertificates,
    /// Whom it trusts, and what it lets clients do.
    pub guard: Guard,
    /// What a 250 promises here, if not what the spool's says.
    pub durability: Option<Durability>,
}

/// A certificate and its key: paths of PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and behind it those of its issuers.
    pub chain: PathBuf,
    pub key: PathBuf,
    /// Where there are none, they are made when the server starts: for trying things out.
    pub self_signed: bool,
}

/// What a listener asks of its clients under TLS. Who shows no certificate is served all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nothing.
    #[default]
    Off,
    /// A certificate of anybody's making; only that the client has its key is proved.
    Record,
    /// The same, and whether it leads to an authority in this file.
    Verify { authorities: PathBuf },
}

#[derive(Clone, Debug)]
pub struct SpoolConfig {
    pub path: PathBuf,
    /// Of listeners that say nothing else.
    pub durability: Durability,
    /// How long mail of listeners with [`Durability::Async`] may wait for its sync.
    pub async_interval: Duration,
    /// Octets of one segment file; holds the largest message that has no file of its own.
    pub segment_size: u64,
    /// How long delivered mail stays readable; `None`: until its place is needed.
    pub retention: Option<Retention>,
    /// Octets of content from which on a message gets a file of its own.
    pub inline_size: u64,
    /// Octets of envelopes and content that all workers together hold in memory.
    pub memory: u64,
    /// Octets of the spool's file system that must stay free; `None` for a twentieth, 1 GiB at most.
    pub min_free: Option<u64>,
}

/// What a 250 promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The message is on stable storage.
    Sync,
    /// The message will be on stable storage within the spool's `async_interval`: a crash loses what is younger.
    Async,
    /// The message is on its way to the kernel: a crash of the system loses it, and one of the program what came last.
    None,
}

/// Whom mail is accepted for.
#[derive(Clone, Debug)]
pub struct Recipients {
    /// In lower case, internationalized ones with A-labels; at least one.
    pub domains: BTreeSet<String>,
    /// The domain of a `<Postmaster>` without one (RFC 5321 §4.1.1.3): the host name where it is one of `domains`,
    /// otherwise the first of them as configured.
    pub postmaster_domain: String,
    /// With the domains in every form in which a client may write them, and the mailboxes.
    pub table: Arc<recipient::Recipients>,
}

#[derive(Clone, Copy, Debug)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

/// The file of the events stream, and those before it: `path.1` to `path.N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    pub path: PathBuf,
    /// Octets of one file.
    pub max_size: u64,
    /// Files that are kept besides the newest.
    pub keep: u32,
    /// Addresses of senders and recipients are told.
    pub addresses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The operator's words in negative replies.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    /// Enhanced status code, such as `5.7.1`, to the text that replaces the built-in one: printable ASCII, of a length
    /// that leaves room for `help_url` in a reply line.
    pub texts: BTreeMap<String, String>,
    /// Appended to permanent negative replies.
    pub help_url: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// How long a shutdown waits for sessions to end by themselves.
    pub drain: Duration,
}

/// A configuration with all that is to be said about it: None where there are errors among the findings.
#[derive(Debug)]
pub struct Checked {
    pub config: Option<Config>,
    pub findings: Vec<Finding>,
    /// As they are listed, for those who explain the compiled ones.
    pub rules: Vec<RuleSpec>,
}

impl Config {
    /// The configuration of `ringmx serve` without `--config`.
    pub fn quick_start() -> Self {
        Self::parse(QUICK_START, "quick-start.toml").expect("a test parses the built-in text")
    }

    /// Reads `text`, which came from the file `file_name` or is to be treated as if it had.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        check_text(text, file_name).into_result()
    }

    /// Reads the file at `path` and what it includes.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        check_file(path).into_result()
    }

    /// The route of a recipient, and its position. None only where the configuration has changed since the mail was
    /// accepted: each domain of `recipients` has one.
    pub fn route_for(&self, addressed: &Addressed<'_>) -> Option<(usize, &Route)> {
        route::first_of(&self.routes, addressed, |_| true)
    }

    /// The same for mail that an operator has released: past routes that hold, where there is another.
    pub fn route_for_released(&self, addressed: &Addressed<'_>) -> Option<(usize, &Route)> {
        let goes_on = |route: &Route| route.deliver != Deliver::Hold;
        route::first_of(&self.routes, addressed, goes_on).or_else(|| self.route_for(addressed))
    }
}

impl Checked {
    /// # Errors
    /// Everything that is wrong.
    pub fn into_result(self) -> Result<Config, ConfigError> {
        self.config.ok_or_else(|| ConfigError {
            findings: self.findings.into_iter().filter(|f| f.severity == Severity::Error).collect(),
        })
    }
}

impl Config {
    /// What a 250 promises at this listener.
    pub fn durability_of(&self, listener: &Listener) -> Durability {
        listener.durability.unwrap_or(self.spool.durability)
    }

    /// Whether mail goes the same ways by another configuration.
    pub fn routes_like(&self, other: &Self) -> bool {
        let of = |config: &Self| {
            let Self { routes, bounce, hostname, .. } = config;
            format!("{routes:?} {bounce:?} {hostname} {}", config.recipients.postmaster_domain)
        };
        of(self) == of(other)
    }

    /// The same without what may be long, for those who keep it: rules and recipients have a life of their own.
    pub fn without_lists(&self) -> Self {
        let recipients = Recipients {
            domains: BTreeSet::new(),
            postmaster_domain: self.recipients.postmaster_domain.clone(),
            table: Arc::default(),
        };
        Self { rules: Arc::default(), recipients, ..self.clone() }
    }

    /// The keys whose values differ in another configuration, and that only a restart changes.
    pub fn changes_that_need_a_restart(&self, other: &Self) -> Vec<&'static str> {
        fn differ<T: std::fmt::Debug>(one: T, other: T) -> bool {
            format!("{one:?}") != format!("{other:?}")
        }
        let changes = [
            ("workers", self.workers != other.workers),
            ("spool", differ(&self.spool, &other.spool)),
            ("admin", self.admin != other.admin),
            ("log", differ(self.log, other.log)),
            ("events", self.events != other.events),
            ("timeouts", differ(self.timeouts, other.timeouts)),
        ];
        changes.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }

    /// Whether any listener's 250 promises this.
    pub fn has_durability(&self, durability: Durability) -> bool {
        self.listeners.iter().any(|listener| self.durability_of(listener) == durability)
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::None => "none",
        })
    }
}

impl LogLevel {
    /// The name in the configuration and in `tracing`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Reads and analyses the file at `path`, with errors and warnings; the file system it names is not looked at.
pub fn check_file(path: &Path) -> Checked {
    let mut loader = include::Loader::default();
    let root = loader.load_file(path);
    finish(loader, root)
}

/// As [`check_file`], for a text.
pub fn check_text(text: &str, file_name: &str) -> Checked {
    let mut loader = include::Loader::default();
    let root = loader.load_text(text.to_owned(), file_name);
    finish(loader, Some(root))
}

fn finish(loader: include::Loader, root: Option<source::Table>) -> Checked {
    let include::Loader { sources, problems, .. } = loader;
    // What a half-read text lacks is not missing: only the errors that broke the reading are told.
    let root = match root {
        Some(root) if problems.is_empty() => root,
        _ => return Checked { config: None, findings: sources.findings(problems), rules: Vec::new() },
    };
    let reader = reader::Reader::new(sources);
    let built = sections::build(&reader, &root);
    if !reader.has_errors() {
        analysis::analyse(&reader, &built);
    }
    let sections::Built { config, rules, .. } = built;
    let config = (!reader.has_errors()).then_some(config);
    Checked { config, findings: reader.into_findings(), rules: rules.specs }
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod tests;
