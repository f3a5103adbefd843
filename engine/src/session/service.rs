//! What a listener offers to its sessions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use crate::policy::network::NetworkSet;
use crate::policy::newline::BareNewline;
use crate::protocol::extension::{Extension, Extensions};
use crate::protocol::reply::{self, Reply};
use crate::protocol::xclient;
use crate::session::{Guard, TlsMode};

/// RFC 3207 §2.
const STARTTLS: &str = "STARTTLS";

/// What may differ from listener to listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In the greeting, the EHLO reply and the trace field.
    pub hostname: Box<str>,
    /// Behind the host's name in the greeting, in place of [`reply::GREETING`]'s text.
    pub banner: Option<Box<str>>,
    /// Octets of content without our trace field; announced as SIZE.
    pub message_len_max: u64,
    pub extensions: Extensions,
    pub bare_newline: BareNewline,
    /// Clients whose line ends are only noted, whatever `bare_newline` says.
    pub bare_newline_exclude: NetworkSet,
    /// The listener's name, as the rules know it.
    pub listener: Box<str>,
    pub replies: Arc<Replies>,
    pub tls: TlsMode,
    /// Whom it trusts, and what it lets clients do.
    pub guard: Guard,
    /// RFC 5321 §4.5.3.2.7.
    pub command_timeout: Duration,
    /// RFC 5321 §4.5.3.2.5.
    pub data_timeout: Duration,
}

impl Settings {
    /// What the configuration's defaults come to.
    pub fn new(hostname: &str) -> Self {
        Self {
            hostname: hostname.into(),
            banner: None,
            message_len_max: 50 << 20,
            extensions: Extensions::DEFAULT,
            bare_newline: BareNewline::default(),
            bare_newline_exclude: NetworkSet::default(),
            listener: "".into(),
            replies: Arc::default(),
            tls: TlsMode::default(),
            guard: Guard::default(),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(300),
        }
    }
}

/// What a reply to EHLO has to say of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Nothing,
    StartTls,
    /// There is TLS: what needs it can be offered (RFC 8689 §2).
    Secured,
}

/// A listener's settings and the replies made of them: immutable, shared by the sessions of a worker.
#[derive(Debug)]
pub struct Service {
    pub settings: Settings,
    pub(super) greeting: Box<[u8]>,
    /// By [`Offer`], and then whether XCLIENT is in it.
    ehlo_replies: [[Box<[u8]>; 2]; 3],
    pub(super) helo_reply: Box<[u8]>,
}

impl Service {
    pub fn new(settings: Settings) -> Self {
        let (mut greeting, mut helo_reply) = (Vec::new(), Vec::new());
        reply::encode_greeting(&settings.hostname, settings.banner.as_deref(), &mut greeting);
        let ehlo_reply = |offer: Offer, more: &[&str]| {
            let offered = offered(settings.extensions, offer == Offer::Secured);
            let lines: Vec<String> = offered.iter().map(|it| ehlo_line(it, &settings)).collect();
            let lines = lines.iter().map(String::as_str);
            let lines: Vec<&str> = lines.chain((offer == Offer::StartTls).then_some(STARTTLS)).collect();
            let mut ehlo_reply = Vec::new();
            reply::encode_ehlo(&settings.hostname, &[&lines, more].concat(), &mut ehlo_reply);
            ehlo_reply.into_boxed_slice()
        };
        let ehlo_replies = [Offer::Nothing, Offer::StartTls, Offer::Secured]
            .map(|offer| [ehlo_reply(offer, &[]), ehlo_reply(offer, &[xclient::EXTENSION])]);
        reply::encode_helo(&settings.hostname, &mut helo_reply);
        Self { settings, greeting: greeting.into(), ehlo_replies, helo_reply: helo_reply.into() }
    }

    pub(super) fn ehlo_reply(&self, offer: Offer, xclient: bool) -> &[u8] {
        &self.ehlo_replies[offer as usize][usize::from(xclient)]
    }

    /// What a session is offered.
    pub(super) fn offered(&self, is_secured: bool) -> Extensions {
        offered(self.settings.extensions, is_secured)
    }

    /// What is done about the line ends of a client's content.
    pub(super) fn bare_newline(&self, client: IpAddr) -> BareNewline {
        if self.settings.bare_newline_exclude.contains(client) {
            BareNewline::Note
        } else {
            self.settings.bare_newline
        }
    }
}

fn offered(extensions: Extensions, is_secured: bool) -> Extensions {
    if is_secured { extensions } else { extensions.without(Extension::RequireTls) }
}

/// An extension with what it announces: the numbers that are enforced.
fn ehlo_line(extension: Extension, settings: &Settings) -> String {
    let keyword = extension.keyword();
    match extension {
        Extension::Size => format!("{keyword} {}", settings.message_len_max),
        // RFC 9422 §4: transactions of a session, where they are limited, and recipients of one. Domains are not.
        Extension::Limits => {
            let transactions_max = settings.guard.session_limits.transactions_max;
            let mailmax = transactions_max.map_or_else(String::new, |max| format!(" MAILMAX={max}"));
            format!("{keyword}{mailmax} RCPTMAX={}", limits::RECIPIENTS_COUNT_MAX)
        }
        _ => keyword.to_owned(),
    }
}

/// The operator's own words for replies.
#[derive(Debug, Default)]
pub struct Replies {
    /// By enhanced status code.
    texts: HashMap<Box<str>, Box<str>>,
    /// Appended to permanent negative replies: where a refused sender finds help.
    help_url: Option<Box<str>>,
}

impl Replies {
    /// Texts by enhanced status code; both texts and URL are printable ASCII (the configuration checks it).
    pub fn new(texts: HashMap<Box<str>, Box<str>>, help_url: Option<Box<str>>) -> Self {
        Self { texts, help_url }
    }

    pub(super) fn encode(&self, reply: &Reply, out: &mut Vec<u8>) {
        // RFC 5321 §4.2.1: 4yz and 5yz are the negative ones; the others' texts are nobody's concern.
        if reply.code < 400 || (self.texts.is_empty() && self.help_url.is_none()) {
            return reply::encode(reply, out);
        }
        let text = self.texts.get(reply.enhanced).map_or(reply.text, |text| text);
        let help_url = self.help_url.as_deref().filter(|_| reply.code >= 500);
        reply::encode_text(reply, text, help_url, out);
    }
}
