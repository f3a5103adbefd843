//! A session with everything around it but a socket and a disk: a virtual clock, and a journal that does as it is told.
//!
//! [`Pair`] keeps the contract of the worker: input that the session does not consume is presented again with what
//! comes behind it, nothing is presented while a commit is pending, and each commit is answered once.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ringmx::config::Config;
use ringmx::event::{EventQueue, Kind};
use ringmx::id::SessionIds;
use ringmx::limits;
use ringmx::policy::Policy;
use ringmx::policy::clients::{Clients, Used};
use ringmx::policy::network::NetworkSet;
use ringmx::policy::newline::BareNewline;
use ringmx::policy::recipient::Recipients;
use ringmx::policy::rules::RuleSet;
use ringmx::protocol::envelope::Envelope;
use ringmx::protocol::extension::Extensions;
use ringmx::protocol::params::{Body, Notify, Ret};
use ringmx::security::{Secured, Security};
use ringmx::session::{
    Context, Error, Guard, Next, Piece, Pool, Replies, Service, Session, Settings, Spilled, TlsMode,
};
use ringmx::stats::WorkerStats;
use ringmx::time::Now;

/// When every session here begins: Sun, 22 Nov 2026 03:15:00 UTC.
pub const UNIX_SECS: u64 = 1_795_317_300;
pub const HOSTNAME: &str = "mx.example";
pub const CLIENT: &str = "192.0.2.7:40123";
/// More than one write of any dialogue causes.
const EVENTS_COUNT_MAX: usize = 256;

/// What the listener and the worker of a session are like.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_message_size: u64,
    pub banner: Option<Box<str>>,
    pub extensions: Extensions,
    pub bare_newline: BareNewline,
    pub bare_newline_exclude: NetworkSet,
    pub domains: Vec<String>,
    pub client: SocketAddr,
    pub command_timeout: Duration,
    pub data_timeout: Duration,
    /// Octets of envelopes and content in memory.
    pub memory_max: usize,
    /// Octets of content from which on it has a file.
    pub inline_size: usize,
    /// Texts of replies by enhanced status code.
    pub texts: HashMap<Box<str>, Box<str>>,
    pub help_url: Option<Box<str>>,
    pub tls: TlsMode,
    pub guard: Guard,
    /// Clients that are connected already, each as often as it is there.
    pub connected: Vec<IpAddr>,
    /// `[[rule]]`s, each a text of `key = value; key = value`.
    pub rules: Vec<String>,
    /// The keys of `[recipients]`, in the same form; in place of `domains`.
    pub recipients: Option<String>,
    /// TLS handshakes of other sessions that are under way.
    pub handshakes_open: usize,
    /// What the client used in sessions before.
    pub used_before: Used,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_message_size: 50 << 20,
            banner: None,
            extensions: Extensions::DEFAULT,
            bare_newline: BareNewline::default(),
            bare_newline_exclude: NetworkSet::default(),
            domains: vec![
                "example.com".to_owned(),
                "[192.0.2.25]".to_owned(),
                "[IPv6:2001:db8::25]".to_owned(),
            ],
            client: CLIENT.parse().expect("an address"),
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(180),
            memory_max: 256 << 20,
            inline_size: 256 << 10,
            texts: HashMap::new(),
            help_url: None,
            tls: TlsMode::Off,
            guard: Guard::default(),
            connected: Vec::new(),
            rules: Vec::new(),
            recipients: None,
            handshakes_open: 0,
            used_before: Used::default(),
        }
    }
}

impl Options {
    /// What a configuration with these rules and recipients comes to.
    fn configured(&self) -> (Arc<RuleSet>, Arc<Recipients>) {
        let domains = || Arc::new(Recipients::new(&self.domains).expect("domains"));
        if self.rules.is_empty() && self.recipients.is_none() {
            return (Arc::default(), domains());
        }
        let keys = |text: &str| text.replace("; ", "\n");
        let recipients = keys(self.recipients.as_deref().unwrap_or("domains = [\"example.com\"]"));
        let mut text = format!(
            "hostname = \"{HOSTNAME}\"\n[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:0\"]\n\
             [recipients]\n{recipients}\n[[route]]\ndomains = [\"*\"]\ndeliver = \"hold\"\n"
        );
        for rule in &self.rules {
            text += &format!("[[rule]]\n{}\n", keys(rule));
        }
        let config = Config::parse(&text, "dialogue.toml").unwrap_or_else(|error| panic!("{error}"));
        let recipients = if self.recipients.is_some() { config.recipients.table } else { domains() };
        (config.rules, recipients)
    }
}

/// What the journal does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commits {
    Succeed,
    Fail(Error),
    /// Nothing, until [`Pair::complete`].
    Wait,
}

/// A message for which the journal said that it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: String,
    pub reverse_path: Vec<u8>,
    pub recipients: Vec<Vec<u8>>,
    /// NOTIFY and ORCPT, in the order of the recipients.
    pub notices: Vec<(Option<Notify>, Option<Vec<u8>>)>,
    pub body: Option<Body>,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    pub envid: Option<Vec<u8>>,
    /// Of rules.
    pub tags: Vec<String>,
    pub helo: Vec<u8>,
    pub security: Option<Security>,
    /// Our trace field: the lines up to the first that is not folded.
    pub trace: Vec<u8>,
    /// The rest.
    pub content: Vec<u8>,
}

/// A session, its client's half of the connection, the clock and the journal.
#[derive(Debug)]
pub struct Pair {
    session: Session,
    service: Service,
    policy: Policy,
    pool: Pool,
    now: Now,
    /// Received, not consumed.
    parked: Vec<u8>,
    out: Vec<u8>,
    commits: Commits,
    /// What a session that wants a file gets.
    files: Result<(), Error>,
    /// What is in the file of the present transaction.
    file: Vec<u8>,
    files_count: u32,
    closed: bool,
    ended: bool,
    pub stored: Vec<Stored>,
    /// What the log would name as the causes of refusals, with the codes of their replies; as far as replies were read.
    pub causes: Vec<(&'static str, u16)>,
}

impl Pair {
    /// A connection that nobody has said anything on.
    pub fn new(options: &Options) -> Self {
        let unix = Duration::from_secs(UNIX_SECS);
        let now = Now { monotonic: Duration::from_secs(1000), unix };
        let (rules, recipients) = options.configured();
        let policy = Policy { generation: 0, recipients, rules };
        let service = Service::new(Settings {
            hostname: HOSTNAME.into(),
            banner: options.banner.clone(),
            message_len_max: options.max_message_size,
            extensions: options.extensions,
            bare_newline: options.bare_newline,
            bare_newline_exclude: options.bare_newline_exclude.clone(),
            listener: "mx".into(),
            replies: Arc::new(Replies::new(options.texts.clone(), options.help_url.clone())),
            tls: options.tls,
            guard: options.guard.clone(),
            command_timeout: options.command_timeout,
            data_timeout: options.data_timeout,
        });
        let (stats, events) = (Arc::new(WorkerStats::default()), EventQueue::new(EVENTS_COUNT_MAX));
        let mut pool = Pool::new(stats, events, options.memory_max, options.inline_size);
        let (clients, limits) = (Clients::new(64, RandomState::new()), &options.guard.client_limits);
        let enter = |client| clients.enter(client, limits, now.monotonic).expect("within the limits");
        options.connected.iter().for_each(|client| drop(enter(*client)));
        if options.used_before != Used::default() {
            let visit = enter(options.client.ip());
            clients.charge(&visit, limits, options.used_before, now.monotonic);
            clients.leave(visit);
        }
        pool.clients = Arc::new(clients);
        pool.handshakes_count = options.handshakes_open;
        Self {
            session: Session::new(SessionIds::new(3).next(now), options.client, now.monotonic),
            service,
            policy,
            pool,
            now,
            parked: Vec::new(),
            out: Vec::new(),
            commits: Commits::Succeed,
            files: Ok(()),
            file: Vec::new(),
            files_count: 0,
            closed: false,
            ended: false,
            stored: Vec::new(),
            causes: Vec::new(),
        }
    }

    /// A pair whose greeting has been read.
    pub fn greeted(options: &Options) -> Self {
        let mut pair = Self::new(options);
        pair.greet(None);
        pair.replies();
        pair
    }

    pub fn greet(&mut self, refusal: Option<Error>) {
        let cx = &mut Context {
            now: self.now,
            service: &self.service,
            policy: &self.policy,
            pool: &mut self.pool,
        };
        let next = self.session.greet(cx, refusal, &mut self.out);
        self.follow(next);
    }

    /// The client writes. Where a handshake is awaited nothing in clear is one.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.session.is_securing() {
            let cx = &mut Context {
                now: self.now,
                service: &self.service,
                policy: &self.policy,
                pool: &mut self.pool,
            };
            let next = self.session.distrust(cx, "not TLS");
            self.follow(next);
        } else if !self.closed {
            self.parked.extend_from_slice(bytes);
            self.pump();
        }
    }

    pub fn is_securing(&self) -> bool {
        self.session.is_securing()
    }

    /// The handshake that is under way ends.
    pub fn shake_hands(&mut self, result: Result<Secured, &'static str>) {
        let cx = &mut Context {
            now: self.now,
            service: &self.service,
            policy: &self.policy,
            pool: &mut self.pool,
        };
        let next = match result {
            Ok(secured) => self.session.secured(cx, secured, &mut self.out),
            Err(why) => self.session.distrust(cx, why),
        };
        self.follow(next);
        self.pump();
    }

    /// The client ends its direction; the connection is over when all it sent has been answered.
    pub fn end_input(&mut self) {
        self.ended = true;
        if self.is_securing() {
            return self.follow(Next::Close);
        }
        self.pump();
    }

    /// The connection is gone.
    pub fn vanish(&mut self) {
        let cx = &mut Context {
            now: self.now,
            service: &self.service,
            policy: &self.policy,
            pool: &mut self.pool,
        };
        self.session.end(cx);
        self.closed = true;
        self.out.clear();
    }

    /// Time passes; a deadline that it reaches is kept to the instant.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now.monotonic + time;
        while let Some(deadline) =
            self.session.deadline(&self.service).filter(|&at| at <= until && !self.closed)
        {
            self.advance_to(deadline);
            let cx = &mut Context {
                now: self.now,
                service: &self.service,
                policy: &self.policy,
                pool: &mut self.pool,
            };
            let next = self.session.timeout(cx, &mut self.out);
            self.follow(next);
            self.pump();
        }
        self.advance_to(until);
    }

    fn advance_to(&mut self, monotonic: Duration) {
        self.now.unix += monotonic.saturating_sub(self.now.monotonic);
        self.now.monotonic = monotonic;
    }

    /// The server is told to stop.
    pub fn stop(&mut self) {
        self.pool.draining = true;
        let cx = &mut Context {
            now: self.now,
            service: &self.service,
            policy: &self.policy,
            pool: &mut self.pool,
        };
        let next = self.session.stop(cx, &mut self.out);
        self.follow(next);
    }

    /// What the journal will do from now on.
    pub fn set_commits(&mut self, commits: Commits) {
        self.commits = commits;
    }

    /// What MAIL is answered although nothing is wrong with it.
    pub fn set_storage_error(&mut self, error: Option<Error>) {
        self.pool.storage_error = error;
    }

    /// What the content of a large message is given from now on.
    pub fn set_files(&mut self, files: Result<(), Error>) {
        self.files = files;
    }

    /// How many files there were.
    pub fn files_count(&self) -> u32 {
        self.files_count
    }

    pub fn is_committing(&self) -> bool {
        self.session.message().is_some()
    }

    /// The commit under way ends.
    pub fn complete(&mut self, result: Result<(), Error>) {
        assert!(self.is_committing(), "no commit is under way");
        self.commit_ended(result);
        self.pump();
    }

    /// What the server said since the last call. It goes on where it waited for its client to read.
    pub fn replies(&mut self) -> Vec<u8> {
        for line in self.out.split_inclusive(|&octet| octet == b'\n') {
            assert!(line.ends_with(b"\r\n") && line.len() <= limits::REPLY_LINE_LEN_MAX, "{line:?}");
            assert!(line[..line.len() - 2].iter().all(|octet| matches!(octet, b' '..=b'~')), "{line:?}");
        }
        self.causes.extend(std::iter::from_fn(|| self.pool.events.pop()).filter_map(
            |event| match event.kind {
                Kind::Faulted { fault: name, code, .. } | Kind::Failed { error: name, code, .. } => {
                    Some((name, code))
                }
                Kind::Ruled { action, code, .. } => Some((action, code)),
                _ => None,
            },
        ));
        let replies = std::mem::take(&mut self.out);
        if !self.closed {
            self.pump();
        }
        replies
    }

    /// The server has ended the session, or the client the connection.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether what the client sent waits because the client is made to.
    pub fn is_delayed(&self) -> bool {
        !self.closed && self.session.is_delayed()
    }

    /// Octets of content that the sessions are said to hold.
    pub fn content_octets_held(&self) -> u64 {
        self.pool.stats.memory_octets_now.get()
    }

    fn pump(&mut self) {
        while !self.closed && !self.is_committing() && !self.session.is_delayed() && !self.is_securing() {
            let cx = &mut Context {
                now: self.now,
                service: &self.service,
                policy: &self.policy,
                pool: &mut self.pool,
            };
            let progress = self.session.receive(cx, &self.parked, &mut self.out);
            assert!(progress.consumed <= self.parked.len());
            self.parked.drain(..progress.consumed);
            let spilled = self.spill();
            match progress.next {
                Next::Input if spilled => {}
                Next::Input => {
                    // Between commands less than one line may be left over: nobody can make it grow. What a client
                    // sends while it is made to wait, or does not read its replies, stays with the kernel.
                    let len_max = limits::COMMAND_LINE_LEN_MAX.max(limits::PROXY_HEADER_LEN_MAX);
                    let waits = self.session.is_delayed() || self.out.len() >= limits::PENDING_OUTPUT_LEN_MAX;
                    let is_bounded = self.parked.len() < len_max || waits;
                    assert!(is_bounded, "{} octets", self.parked.len());
                    if self.ended {
                        self.follow(Next::Close);
                    }
                    return;
                }
                Next::Commit => match self.commits {
                    Commits::Succeed => self.commit_ended(Ok(())),
                    Commits::Fail(error) => self.commit_ended(Err(error)),
                    Commits::Wait => assert!(self.is_committing()),
                },
                Next::StartTls => self.follow(Next::StartTls),
                Next::Close => self.follow(Next::Close),
            }
        }
    }

    /// Does what the content of a large message wants; false if that is nothing.
    fn spill(&mut self) -> bool {
        let cx = &mut Context {
            now: self.now,
            service: &self.service,
            policy: &self.policy,
            pool: &mut self.pool,
        };
        let wanted = self.session.wants_file();
        match self.files {
            Ok(()) if wanted => {
                self.files_count += 1;
                self.file.clear();
                self.session.use_file(self.files_count);
            }
            Err(error) if wanted => self.session.refuse_content(cx, error),
            _ => {}
        }
        let mut spilled = wanted;
        while let Some(Piece { offset, bytes }) = self.session.next_piece(&mut self.pool) {
            assert_eq!(self.session.file(), Some(self.files_count));
            assert_eq!(offset, self.file.len() as u64, "a piece stands behind the one before");
            assert!(bytes.len().is_multiple_of(4096) && bytes.as_ptr().addr().is_multiple_of(4096));
            self.file.extend_from_slice(&bytes);
            self.session.written(bytes.len());
            self.pool.give_back(bytes);
            spilled = true;
        }
        spilled
    }

    fn commit_ended(&mut self, result: Result<(), Error>) {
        let message = self.session.message().expect("a message to commit");
        if result.is_ok() {
            let envelope = Envelope::parse(message.envelope()).expect("an envelope that can be read back");
            let stored = match message.spilled() {
                Some(Spilled { file, len, crc }) => {
                    assert!(file == self.files_count && self.file.len() as u64 - len < 4096);
                    let content = self.file[..len as usize].to_vec();
                    assert_eq!(crc32c::crc32c(&content), crc);
                    content
                }
                None => message.parts().collect::<Vec<_>>().concat(),
            };
            let (trace, content) = split_trace(&stored);
            self.stored.push(Stored {
                id: message.id.to_string(),
                reverse_path: envelope.reverse_path().to_vec(),
                recipients: envelope.recipients().map(<[u8]>::to_vec).collect(),
                notices: envelope
                    .recipients_with_params()
                    .map(|recipient| (recipient.params.notify, recipient.params.orcpt.map(<[u8]>::to_vec)))
                    .collect(),
                body: envelope.body(),
                smtputf8: envelope.smtputf8(),
                ret: envelope.ret(),
                envid: envelope.envid().map(<[u8]>::to_vec),
                tags: envelope.tags().map(str::to_owned).collect(),
                helo: envelope.helo().unwrap_or_default().to_vec(),
                security: envelope.security(),
                trace: trace.to_vec(),
                content: content.to_vec(),
            });
        }
        let cx = &mut Context {
            now: self.now,
            service: &self.service,
            policy: &self.policy,
            pool: &mut self.pool,
        };
        let next = self.session.committed(cx, result, &mut self.out);
        self.follow(next);
    }

    fn follow(&mut self, next: Next) {
        if next == Next::StartTls {
            assert!(self.is_securing());
            self.parked.clear();
        }
        if next == Next::Close {
            self.closed = true;
            assert!(self.ended || !self.session.ended_by().is_empty(), "the log is told why");
            let cx = &mut Context {
                now: self.now,
                service: &self.service,
                policy: &self.policy,
                pool: &mut self.pool,
            };
            self.session.end(cx);
            assert_eq!(self.content_octets_held(), 0, "a session that is over holds no content");
        }
    }
}

/// The first field with its folded lines, and what follows.
fn split_trace(content: &[u8]) -> (&[u8], &[u8]) {
    assert!(content.starts_with(b"Received: from "), "the trace field comes first");
    let mut at = 0;
    loop {
        let line =
            content[at..].iter().position(|&octet| octet == b'\n').expect("a trace field of whole lines");
        at += line + 1;
        if !content[at..].starts_with(b"\t") {
            return content.split_at(at);
        }
        // The date is the last line, behind `;`: content may itself begin with a tab.
        if content[..at].ends_with(b";\r\n") {
            let last = content[at..].iter().position(|&octet| octet == b'\n').expect("the date's line");
            return content.split_at(at + last + 1);
        }
    }
}
