//! One SMTP session (RFC 5321 §3.1), without a socket: bytes and the time go in, replies and what to do next come out.
//!
//! ```text
//! Session::receive(context, input, out) -> Progress { consumed, next }
//!   next = Input   give more bytes when they come
//!   next = Commit  make `Session::message` durable, then call `Session::committed`
//!   next = StartTls  send what is in `out`, carry out the handshake, then call `Session::secured`
//!   next = Close   send what is in `out`, then close
//! Session::is_waiting: nothing is consumed until the caller has brought a file (`wants_file`), written a piece
//!   (`next_piece`), or ended the commit
//! ```
//!
//! All decisions on (phase, command) are in this file, the work is in the files of its purpose: the envelope in
//! `mail.rs`, content and commit in `content.rs`, BDAT in `chunking.rs`, refusals and ends in `ending.rs`, who the
//! client is and what it may use in `guard.rs`, TLS in `securing.rs`. What a refusal says is in `fault.rs`.

mod chunking;
mod content;
mod context;
mod ending;
mod fault;
mod guard;
mod held;
mod live;
mod mail;
mod memory;
mod phase;
mod rules;
mod securing;
mod service;
#[cfg(test)]
mod tests;
mod trace;
mod transaction;

use std::net::SocketAddr;
use std::time::Duration;

use smallvec::SmallVec;

use chunking::Skipped;
pub use context::{Context, Pool};
pub use fault::{Error, Fault};
use guard::Usage;
pub use guard::{EarlyTalker, Guard, SessionLimits};
pub use held::{Piece, Spilled};
pub use live::LiveTransactions;
use phase::Phase;
pub use securing::TlsMode;
pub use service::{Replies, Service, Settings};
pub use trace::DateCache;
pub use transaction::Transaction;

use crate::id::SessionId;
use crate::limits;
use crate::policy::clients::Visit;
use crate::protocol::command::{self, Command, Malformed};
use crate::protocol::extension::Extension;
use crate::protocol::line::{self, Discarded, Framed};
use crate::protocol::reply;
use crate::security::Secured;
use crate::session::fault::Budget;

/// What one call of [`Session::receive`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Octets of the input that are done with. The caller presents the rest again, with more behind it.
    pub consumed: usize,
    pub next: Next,
}

/// What the session wants from its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Input,
    Commit,
    /// What `out` holds is the last in clear. Nothing is to be presented to the session before
    /// [`Session::secured`]; what has been received and not consumed is to be thrown away.
    StartTls,
    Close,
}

/// The server's side of one session.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    /// Who connected, until a front end says who the client is.
    client: SocketAddr,
    /// The client's place in the table of clients.
    visit: Visit,
    /// It may use XCLIENT.
    may_xclient: bool,
    /// Of a network that no limit is meant for.
    is_unlimited: bool,
    /// A proxy's own connection.
    is_check: bool,
    is_refused: bool,
    /// None in clear.
    secured: Option<Box<Secured>>,
    phase: Phase,
    /// As the client gave it; empty before EHLO or HELO. Most names fit without an allocation.
    helo: SmallVec<[u8; 40]>,
    /// EHLO rather than HELO.
    extended: bool,
    /// Octets of an over-long command line thrown away so far; above 0 exactly while its end has not come.
    discarded_len: u32,
    /// A chunk that is refused, while its octets have not all come.
    skipped: Option<Skipped>,
    budget: Budget,
    used: Usage,
    /// The last MAIL was refused for an error of ours: the RCPT and DATA that a pipelining client had already sent
    /// behind it are no faults of its.
    mail_failed: bool,
    transactions_count: u32,
    messages_count: u32,
    /// When the client last completed a command or brought content on, for the time-outs of RFC 5321 §4.5.3.2.
    active_at: Duration,
    /// Octets of content since then.
    progress_len: u32,
}

impl Session {
    pub fn new(id: SessionId, client: SocketAddr, now: Duration) -> Self {
        Self {
            id,
            client,
            visit: Visit::default(),
            may_xclient: false,
            is_unlimited: false,
            is_check: false,
            is_refused: false,
            secured: None,
            phase: Phase::Start,
            helo: SmallVec::new(),
            extended: false,
            discarded_len: 0,
            skipped: None,
            budget: Budget::default(),
            used: Usage::default(),
            mail_failed: false,
            transactions_count: 0,
            messages_count: 0,
            active_at: now,
            progress_len: 0,
        }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The configuration that its open transaction began under.
    pub fn generation(&self) -> Option<u32> {
        self.phase.transaction().map(|transaction| transaction.generation)
    }

    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Messages accepted so far.
    pub fn messages_count(&self) -> u32 {
        self.messages_count
    }

    /// The server speaks first (RFC 5321 §3.1): its greeting, or why there is no session. But a proxy speaks before it.
    pub fn greet(&mut self, cx: &mut Context<'_>, refusal: Option<Error>, out: &mut Vec<u8>) -> Next {
        if let Some(error) = refusal {
            return self.fail_and_close(cx, error, out);
        }
        let guard = &cx.service.settings.guard;
        if guard.proxies.contains(self.client.ip()) {
            self.enter(cx, Phase::Proxy);
            return Next::Input;
        }
        self.may_xclient = guard.xclient.contains(self.client.ip());
        self.arrive(cx, None, guard.greet_delay, out)
    }

    /// Takes what the client sent. Stops consuming when a commit is pending, when the session is over, when the input
    /// ends inside a command line, or when `out` holds more than a client may leave unread.
    pub fn receive(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let step = match &self.phase {
                Phase::Closing(_) => return Progress { consumed: input.len(), next: Next::Close },
                Phase::Committing { .. } | Phase::Tarpit { .. } | Phase::Securing { .. } => {
                    return Progress { consumed, next: Next::Input };
                }
                _ if rest.is_empty() || out.len() >= limits::PENDING_OUTPUT_LEN_MAX => {
                    return Progress { consumed, next: Next::Input };
                }
                Phase::Proxy => self.receive_proxy_header(cx, rest, out),
                Phase::Greeting { .. } => self.receive_before_greeting(cx, rest, out),
                Phase::Body(_) => self.receive_content(cx, rest, out),
                _ if self.skipped.is_some() => Some(self.skip(cx, rest, out)),
                _ if self.discarded_len > 0 => self.discard_line(cx, rest, out),
                _ => self.receive_line(cx, rest, out),
            };
            let Some(step) = step else { return Progress { consumed, next: Next::Input } };
            consumed += step.consumed;
            self.used.add_octets(step.consumed);
            match step.next {
                Next::Input => {}
                next => return Progress { consumed, next },
            }
        }
    }

    /// One command line; `None` if its end has not come.
    fn receive_line(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Option<Progress> {
        match line::next(input) {
            Framed::Incomplete => None,
            Framed::TooLong => self.discard_line(cx, input, out),
            Framed::BareNewline { consumed } => {
                let next = self.dismiss(cx, Fault::BareNewline, out);
                Some(Progress { consumed, next })
            }
            Framed::Line { line, consumed } => {
                self.active_at = cx.now.monotonic;
                cx.pool.stats.commands.bump();
                let next = match command::parse(line, cx.service.offered(self.secured.is_some())) {
                    // RFC 3207 §6: read behind the handshake, it would pass for something that came through TLS.
                    Ok(Command::StartTls) if consumed < input.len() && self.is_offered_starttls(cx) => {
                        let next = self.dismiss(cx, Fault::ClearBehindStartTls, out);
                        return Some(Progress { consumed: input.len(), next });
                    }
                    Ok(command) => {
                        let is_early =
                            consumed < input.len() && command.is_last_in_group(self.may_pipeline(cx));
                        let early = if is_early { self.meet_early_talker(cx, out) } else { None };
                        early.unwrap_or_else(|| self.obey(cx, command, out))
                    }
                    // Where the next command begins is not known.
                    Err(Malformed::Chunk) => self.dismiss(cx, Fault::Malformed(Malformed::Chunk), out),
                    Err(_) if matches!(self.phase, Phase::TurnedAway) => {
                        self.refuse(cx, Fault::TurnedAway, out)
                    }
                    Err(malformed) => self.refuse(cx, Fault::Malformed(malformed), out),
                };
                Some(Progress { consumed, next })
            }
        }
    }

    /// RFC 2920 §3.1: once the reply to EHLO has said so. Whoever says HELO was not told.
    fn may_pipeline(&self, cx: &Context<'_>) -> bool {
        self.extended && cx.service.settings.extensions.has(Extension::Pipelining)
    }

    /// Throws an over-long line away up to its end, and answers it then, once.
    fn discard_line(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Option<Progress> {
        let discarded = line::discard(input);
        let (Discarded::All(consumed) | Discarded::ToEnd(consumed) | Discarded::ToBareNewline(consumed)) =
            discarded;
        self.discarded_len = self.discarded_len.saturating_add(u32::try_from(consumed).unwrap_or(u32::MAX));
        let next = match discarded {
            Discarded::All(0) => return None,
            _ if self.discarded_len as usize > limits::DISCARDED_LINE_LEN_MAX => {
                self.dismiss(cx, Fault::LineEndless, out)
            }
            Discarded::All(_) => Next::Input,
            Discarded::ToEnd(_) => {
                self.discarded_len = 0;
                self.active_at = cx.now.monotonic;
                self.refuse(cx, Fault::LineTooLong, out)
            }
            Discarded::ToBareNewline(_) => self.dismiss(cx, Fault::BareNewline, out),
        };
        Some(Progress { consumed, next })
    }

    /// The one match on (phase, command).
    fn obey(&mut self, cx: &mut Context<'_>, command: Command<'_>, out: &mut Vec<u8>) -> Next {
        self.used.add_command();
        if self.budget.spend_command(&cx.service.settings.guard.session_limits) && !self.is_unlimited {
            return self.dismiss(cx, Fault::TooManyCommands, out);
        }
        match (&self.phase, command) {
            (_, Command::Quit) => {
                self.enter(cx, Phase::Closing("quit"));
                cx.reply(&reply::CLOSING, out);
                Next::Close
            }
            (Phase::TurnedAway, Command::Bdat(chunk)) => self.skip_chunk(cx, chunk, Fault::TurnedAway, out),
            (Phase::TurnedAway, _) => self.refuse(cx, Fault::TurnedAway, out),
            (_, Command::Ehlo(name)) => self.hello(cx, name, true, out),
            (_, Command::Helo(name)) => self.hello(cx, name, false, out),
            (_, Command::Noop) => cx.reply(&reply::OK, out),
            (_, Command::Help) => cx.reply(&reply::HELP, out),
            (_, Command::Vrfy) => cx.reply(&reply::NOT_VERIFIED, out),
            (_, Command::Rset) => {
                // RFC 5321 §4.1.1.5: allowed at any time, even before EHLO, where there is nothing to abort.
                if !matches!(self.phase, Phase::Start) {
                    self.enter(cx, Phase::Idle);
                }
                cx.reply(&reply::OK, out)
            }
            (_, Command::Xclient(argument)) => self.xclient(cx, argument, out),
            (_, Command::StartTls) => self.start_tls(cx, out),
            (_, Command::Expn | Command::Auth) => self.refuse(cx, Fault::NotOffered, out),
            (_, Command::Bdat(chunk)) if !cx.service.settings.extensions.has(Extension::Chunking) => {
                self.skip_chunk(cx, chunk, Fault::NotOffered, out)
            }

            (Phase::Start, Command::Bdat(chunk)) => self.skip_chunk(cx, chunk, Fault::HelloFirst, out),
            (Phase::Start, _) => self.refuse(cx, Fault::HelloFirst, out),
            (Phase::Idle, Command::Bdat(chunk)) => self.skip_chunk(cx, chunk, Fault::MailFirst, out),
            (Phase::Idle, Command::Mail(mail)) => self.mail(cx, &mail, out),
            (Phase::Idle, _) => self.refuse(cx, Fault::MailFirst, out),
            (Phase::Mail(_), Command::Mail(_)) => self.refuse(cx, Fault::NestedMail, out),
            (Phase::Mail(_), Command::Rcpt(rcpt)) => self.rcpt(cx, &rcpt, out),
            (Phase::Mail(_), Command::Data) => self.data(cx, out),
            (Phase::Mail(_) | Phase::Chunks(_), Command::Bdat(chunk)) => self.bdat(cx, chunk, out),
            (Phase::Chunks(_), _) => self.refuse(cx, Fault::ChunkExpected, out),
            (Phase::Proxy | Phase::Securing { .. } | Phase::Greeting { .. } | Phase::Tarpit { .. }, _)
            | (Phase::Body(_) | Phase::Committing { .. } | Phase::Closing(_), _) => {
                unreachable!("no command is read in this phase")
            }
        }
    }

    /// The only writer of the phase but for `take`, which is always followed by it. A transaction left behind goes back
    /// to the pool.
    fn enter(&mut self, cx: &mut Context<'_>, phase: Phase) {
        let begins = matches!(phase, Phase::Securing { .. });
        let before = std::mem::replace(&mut self.phase, phase);
        let ends = matches!(before, Phase::Securing { .. });
        if begins || ends {
            let pool = &mut *cx.pool;
            pool.handshakes_count = pool.handshakes_count + usize::from(begins) - usize::from(ends);
            pool.stats.handshakes_now.set(pool.handshakes_count as u64);
        }
        if let Some(transaction) = before.into_transaction() {
            cx.pool.release(transaction);
        }
    }
}
