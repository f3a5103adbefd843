//! How a session guards the server: whose session it is, how much of the server it may use, and whom it lets wait.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::event::Kind;
use crate::limits;
use crate::policy::clients::{ClientLimits, Used};
use crate::policy::network::NetworkSet;
use crate::policy::rules::Stage;
use crate::protocol::command::Malformed;
use crate::protocol::proxy::{self, Origin};
use crate::protocol::xclient;
use crate::session::phase::Phase;
use crate::session::rules::{Asked, Asking};
use crate::session::{Context, Fault, Next, Progress, Session, TlsMode};

/// A listener's guard; immutable.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Who connects from here is a proxy, and must say whose connection it is. All others are clients.
    pub proxies: NetworkSet,
    /// Who may use XCLIENT.
    pub xclient: NetworkSet,
    /// Whom no limit of use and no delay is meant for; the budgets of faults are.
    pub unlimited: NetworkSet,
    pub client_limits: ClientLimits,
    pub session_limits: SessionLimits,
    pub early_talker: EarlyTalker,
    /// How long the greeting waits for an early talker.
    pub greet_delay: Duration,
    /// How long a client waits for its next command to be read, from half of a budget of faults on.
    pub tarpit: Duration,
    /// Octets of content that a client must bring within each `data_timeout`.
    pub data_progress: u32,
    /// From the reply to DATA to the end of data.
    pub data_time_max: Duration,
}

/// What is done when octets come before the reply that they had to wait for (RFC 5321 §4.3.1, RFC 2920 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyTalker {
    /// A permanent refusal ends the session.
    Reject,
    /// The session ends without a word.
    Close,
    /// It is logged and counted.
    Note,
}

/// The limits of one session; what is `None` has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Since the last accepted message.
    pub faults_max: u16,
    /// Since the last accepted message.
    pub refused_recipients_max: u16,
    /// Since the last accepted message.
    pub commands_max: u32,
    pub transactions_max: Option<u32>,
    /// Accepted and refused, in all transactions.
    pub recipients_max: Option<u32>,
    /// Received, commands included.
    pub octets_max: Option<u64>,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            faults_max: limits::FAULTS_COUNT_MAX,
            refused_recipients_max: limits::REFUSED_RECIPIENTS_COUNT_MAX,
            commands_max: limits::COMMANDS_COUNT_MAX,
            transactions_max: None,
            recipients_max: None,
            octets_max: None,
        }
    }
}

impl Default for Guard {
    /// Nobody is trusted, nobody waits, and nothing is limited but what is in `limits`.
    fn default() -> Self {
        Self {
            proxies: NetworkSet::default(),
            xclient: NetworkSet::default(),
            unlimited: NetworkSet::default(),
            client_limits: ClientLimits::default(),
            session_limits: SessionLimits::default(),
            early_talker: EarlyTalker::Note,
            greet_delay: Duration::ZERO,
            tarpit: Duration::ZERO,
            data_progress: limits::DATA_PROGRESS_LEN,
            data_time_max: limits::DATA_TIME_MAX,
        }
    }
}

/// What a session has used, and what of it the table of clients does not know yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    octets: u64,
    recipients: u32,
    uncharged: Used,
}

impl Usage {
    pub(super) fn add_octets(&mut self, count: usize) {
        self.octets = self.octets.saturating_add(count as u64);
        self.uncharged.octets = self.uncharged.octets.saturating_add(count as u32);
    }

    pub(super) fn add_recipient(&mut self) {
        self.recipients = self.recipients.saturating_add(1);
        self.uncharged.recipients = self.uncharged.recipients.saturating_add(1);
    }

    pub(super) fn add_command(&mut self) {
        self.uncharged.commands = self.uncharged.commands.saturating_add(1);
    }

    pub(super) fn add_fault(&mut self) {
        self.uncharged.faults = self.uncharged.faults.saturating_add(1);
    }
}

impl Session {
    /// The client is known: its address is what every rule, limit and log line sees from here on. `through`: who
    /// brought it. `greet_delay`: how long its greeting waits.
    pub(super) fn arrive(
        &mut self,
        cx: &mut Context<'_>,
        through: Option<SocketAddr>,
        greet_delay: Duration,
        out: &mut Vec<u8>,
    ) -> Next {
        let (guard, now) = (&cx.service.settings.guard, cx.now.monotonic);
        self.active_at = now;
        if !self.is_check {
            cx.log(self.id, Kind::Connected { client: self.client, through });
        }
        self.is_unlimited = self.is_check || guard.unlimited.contains(self.client.ip());
        if !self.is_unlimited {
            match cx.pool.clients.enter(self.client.ip(), &guard.client_limits, now) {
                Ok(visit) => {
                    cx.pool.stats.clients_untracked.add(u64::from(visit.is_untracked()));
                    self.visit = visit;
                }
                Err(limit) => {
                    self.is_refused = true;
                    return self.dismiss(cx, Fault::Limit(limit), out);
                }
            }
        }
        if cx.service.settings.tls == TlsMode::Implicit && self.secured.is_none() {
            return self.secure_first(cx);
        }
        self.welcome(cx, greet_delay, out)
    }

    /// The rules are asked, and the greeting comes, now or when its delay is over.
    pub(super) fn welcome(&mut self, cx: &mut Context<'_>, greet_delay: Duration, out: &mut Vec<u8>) -> Next {
        let matching = self.matching(cx, Stage::Connect, &Asking::default());
        let asked = if self.is_check { Asked::default() } else { self.ask(cx, matching) };
        if let Some(next) = self.refuse_as_ruled(cx, Stage::Connect, &asked, out) {
            return next;
        }
        let greet_delay = if self.is_unlimited { asked.delay } else { greet_delay.max(asked.delay) };
        if greet_delay.is_zero() {
            return self.say_greeting(cx, out);
        }
        self.enter(cx, Phase::Greeting { until: cx.now.monotonic + greet_delay, is_early: false });
        Next::Input
    }

    pub(super) fn say_greeting(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        self.active_at = cx.now.monotonic;
        self.enter(cx, Phase::Start);
        out.extend_from_slice(&cx.service.greeting);
        Next::Input
    }

    /// The client left: what it used is counted, its place in the table is free.
    pub(super) fn leave(&mut self, cx: &Context<'_>) {
        let (limits, used) =
            (&cx.service.settings.guard.client_limits, std::mem::take(&mut self.used.uncharged));
        cx.pool.clients.charge(&self.visit, limits, used, cx.now.monotonic);
        cx.pool.clients.leave(std::mem::take(&mut self.visit));
    }

    /// The header of a proxy; `None` if its end has not come.
    pub(super) fn receive_proxy_header(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        let (header, consumed) = match proxy::parse(input) {
            Ok(parsed) => parsed?,
            Err(why) => {
                let next = self.give_up_proxy(cx, why.name());
                return Some(Progress { consumed: input.len(), next });
            }
        };
        let mut through = None;
        match header.origin {
            // The proxy's own connection, of which it says so itself: no client is to be told of or limited.
            Origin::Local => self.is_check = true,
            // The specification wants the connection's own address then. It is no proof of who the client is.
            Origin::Unknown => {}
            Origin::Tcp { client, .. } => {
                through = Some(self.client);
                self.client = client;
                self.may_xclient = cx.service.settings.guard.xclient.contains(client.ip());
            }
        }
        let next = self.arrive(cx, through, cx.service.settings.guard.greet_delay, out);
        Some(Progress { consumed, next })
    }

    /// A proxy that does not say whose connection it is gets no reply: it could not tell ours from the client's.
    pub(super) fn give_up_proxy(&mut self, cx: &mut Context<'_>, why: &'static str) -> Next {
        cx.pool.stats.proxies_refused.bump();
        cx.log(self.id, Kind::ProxyRefused { proxy: self.client, why });
        self.enter(cx, Phase::Closing("no-proxy-header"));
        Next::Close
    }

    /// XCLIENT: a trusted front end says whose session it hands on; the session begins anew.
    pub(super) fn xclient(&mut self, cx: &mut Context<'_>, argument: &[u8], out: &mut Vec<u8>) -> Next {
        if !self.may_xclient {
            return self.refuse(cx, Fault::NotOffered, out);
        }
        match self.phase {
            Phase::Mail(_) => return self.refuse(cx, Fault::NestedMail, out),
            Phase::Chunks(_) => return self.refuse(cx, Fault::ChunkExpected, out),
            _ => {}
        }
        let Some(said) = xclient::parse(argument) else {
            return self.refuse(cx, Fault::Malformed(Malformed::BadParam), out);
        };
        self.leave(cx);
        let front_end = self.client;
        if let Some(address) = said.address {
            // An unknown client must not pass for the front end.
            let address = address.known().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            self.client = SocketAddr::new(address, 0);
        }
        if let Some(port) = said.port {
            self.client.set_port(port.known().unwrap_or(0));
        }
        self.helo.clear();
        self.extended = false;
        // It waits for us by protocol: there is nothing to find out by a delay.
        self.arrive(cx, Some(front_end), Duration::ZERO, out)
    }

    /// Octets came before the reply that they had to wait for. `None`: the session goes on.
    pub(super) fn meet_early_talker(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Option<Next> {
        cx.pool.stats.early_talkers.bump();
        let (client, fault) = (self.client, Fault::EarlyTalker);
        match cx.service.settings.guard.early_talker {
            EarlyTalker::Note => {
                cx.log(self.id, Kind::Noted { client, fault: fault.name() });
                None
            }
            EarlyTalker::Reject => {
                self.used.add_fault();
                Some(self.dismiss(cx, fault, out))
            }
            EarlyTalker::Close => {
                self.used.add_fault();
                cx.pool.stats.faults.bump();
                cx.log(self.id, Kind::Noted { client, fault: fault.name() });
                self.enter(cx, Phase::Closing(fault.name()));
                Some(Next::Close)
            }
        }
    }

    /// Input although the greeting waits. `None`: it stays unread until the greeting.
    pub(super) fn receive_before_greeting(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        let Phase::Greeting { is_early, .. } = &mut self.phase else { unreachable!("checked by `receive`") };
        if std::mem::replace(is_early, true) {
            return None;
        }
        let next = self.meet_early_talker(cx, out)?;
        Some(Progress { consumed: input.len(), next })
    }

    /// Whether a transaction may begin.
    pub(super) fn admit_transaction(&mut self, cx: &Context<'_>) -> Result<(), Fault> {
        if self.is_unlimited {
            return Ok(());
        }
        let guard = &cx.service.settings.guard;
        let SessionLimits { transactions_max, recipients_max, octets_max, .. } = guard.session_limits;
        if transactions_max.is_some_and(|max| self.transactions_count >= max) {
            return Err(Fault::TooManyTransactions);
        }
        if recipients_max.is_some_and(|max| self.used.recipients >= max) {
            return Err(Fault::TooManyRecipientsInSession);
        }
        if octets_max.is_some_and(|max| self.used.octets >= max) {
            return Err(Fault::TooManyOctets);
        }
        let (clients, used) = (&cx.pool.clients, std::mem::take(&mut self.used.uncharged));
        let begun = clients.begin_transaction(&self.visit, &guard.client_limits, used, cx.now.monotonic);
        begun.map_err(Fault::Limit)
    }

    /// From half of a budget of faults on, a client waits: its reply is sent, its next command stays unread.
    pub(super) fn tarpit(&mut self, cx: &mut Context<'_>) {
        let guard = &cx.service.settings.guard;
        let waits =
            !guard.tarpit.is_zero() && !self.is_unlimited && self.budget.is_half_spent(&guard.session_limits);
        if waits {
            self.wait(cx, guard.tarpit);
        }
    }

    /// The client's next command stays unread for so long.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>, delay: Duration) {
        if !delay.is_zero() && matches!(self.phase, Phase::Start | Phase::Idle | Phase::Mail(_)) {
            cx.pool.stats.tarpits.bump();
            let transaction = self.phase.take().into_transaction();
            self.enter(cx, Phase::Tarpit { until: cx.now.monotonic + delay, transaction });
        }
    }

    /// The wait is over.
    pub(super) fn leave_tarpit(&mut self, cx: &mut Context<'_>) -> Next {
        self.active_at = cx.now.monotonic;
        let phase = match self.phase.take().into_transaction() {
            Some(transaction) => Phase::Mail(transaction),
            None if self.helo.is_empty() => Phase::Start,
            None => Phase::Idle,
        };
        self.enter(cx, phase);
        Next::Input
    }

    /// Content has come. Only so much of it that it makes a difference puts the deadline off: a client that drips is as
    /// good as one that is silent.
    pub(super) fn make_progress(&mut self, cx: &Context<'_>, len: usize) {
        self.progress_len = self.progress_len.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        if self.progress_len >= cx.service.settings.guard.data_progress {
            // As if the octets had come one by one.
            self.progress_len %= cx.service.settings.guard.data_progress;
            self.active_at = cx.now.monotonic;
        }
    }

    /// Whether nothing is read because the client is made to wait.
    pub fn is_delayed(&self) -> bool {
        matches!(self.phase, Phase::Tarpit { .. } | Phase::Greeting { is_early: true, .. })
    }

    /// Whether its limits left the client no session.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether nobody wanted to send mail: a proxy looked whether we are alive.
    pub fn is_check(&self) -> bool {
        self.is_check || matches!(self.phase, Phase::Proxy)
    }
}
