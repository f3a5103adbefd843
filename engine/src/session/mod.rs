//! One SMTP session (RFC 5321 §3.1), without a socket: bytes and the time go in, replies and what to do next come out.
//!
//! ```text
//! Session::receive(context, input, out) -> Progress { consumed, next }
//!   next = Input   give more bytes when they come
//!   next = Commit  make `Session::message` durable, then call `Session::committed`
//!   next = Close   send what is in `out`, then close
//! ```
//!
//! All decisions on (phase, command) are in this file; what a refusal says is in `fault.rs`.

mod context;
mod fault;
mod phase;
#[cfg(test)]
mod tests;
mod trace;
mod transaction;

use std::net::SocketAddr;
use std::time::Duration;

use smallvec::SmallVec;

pub use context::{Context, Pool, Replies, Service};
pub use fault::{Error, Fault};
use phase::Phase;
pub use trace::DateCache;
pub use transaction::Transaction;

use crate::event::Kind;
use crate::id::{MessageId, SessionId};
use crate::limits;
use crate::protocol::command::{self, Command, HeloName, Mail, Rcpt};
use crate::protocol::line::{self, Framed};
use crate::protocol::reply::{self, Reply};
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
    Close,
}

/// The server's side of one session.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    client: SocketAddr,
    phase: Phase,
    /// As the client gave it; empty before EHLO or HELO. Most names fit without an allocation.
    helo: SmallVec<[u8; 40]>,
    /// EHLO rather than HELO.
    extended: bool,
    /// Octets of an over-long command line thrown away so far; above 0 exactly while its end has not come.
    discarded_len: usize,
    budget: Budget,
    /// The last MAIL was refused for an error of ours: the RCPT and DATA that a pipelining client had already sent
    /// behind it are no faults of its.
    mail_failed: bool,
    transactions_count: u32,
    messages_count: u32,
    /// When the client last completed a command or sent content, for the time-outs of RFC 5321 §4.5.3.2.
    active_at: Duration,
}

impl Session {
    pub fn new(id: SessionId, client: SocketAddr, now: Duration) -> Self {
        Self {
            id,
            client,
            phase: Phase::Start,
            helo: SmallVec::new(),
            extended: false,
            discarded_len: 0,
            budget: Budget::default(),
            mail_failed: false,
            transactions_count: 0,
            messages_count: 0,
            active_at: now,
        }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Messages accepted so far.
    pub fn messages_count(&self) -> u32 {
        self.messages_count
    }

    /// The server speaks first (RFC 5321 §3.1): its greeting, or why there is no session.
    pub fn greet(&mut self, cx: &mut Context<'_>, refusal: Option<Error>, out: &mut Vec<u8>) -> Next {
        if let Some(error) = refusal {
            return self.fail_and_close(cx, error, out);
        }
        reply::encode_greeting(&cx.service.hostname, out);
        Next::Input
    }

    /// Takes what the client sent. Stops consuming when a commit is pending, when the session is over, when the input
    /// ends inside a command line, or when `out` holds more than a client may leave unread.
    pub fn receive(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let step = match &self.phase {
                Phase::Closing => return Progress { consumed: input.len(), next: Next::Close },
                Phase::Committing { .. } => return Progress { consumed, next: Next::Input },
                _ if rest.is_empty() || out.len() >= limits::PENDING_OUTPUT_LEN_MAX => {
                    return Progress { consumed, next: Next::Input };
                }
                Phase::Body(_) => self.receive_content(cx, rest, out),
                _ if self.discarded_len > 0 => Some(self.discard_line(cx, rest, out)),
                _ => self.receive_line(cx, rest, out),
            };
            let Some(step) = step else { return Progress { consumed, next: Next::Input } };
            consumed += step.consumed;
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
            Framed::TooLong => Some(self.discard_line(cx, input, out)),
            Framed::BareNewline { consumed } => {
                self.active_at = cx.now.monotonic;
                let next = self.refuse(cx, Fault::BareNewline, out);
                Some(Progress { consumed, next })
            }
            Framed::Line { line, consumed } => {
                self.active_at = cx.now.monotonic;
                cx.pool.stats.commands.bump();
                let next = match command::parse(line) {
                    Ok(command) => self.obey(cx, command, out),
                    Err(malformed) => self.refuse(cx, Fault::Malformed(malformed), out),
                };
                Some(Progress { consumed, next })
            }
        }
    }

    /// Throws an over-long line away up to its end, and answers it then, once.
    fn discard_line(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let (consumed, ended) = line::discard(input);
        self.discarded_len += consumed;
        let next = if self.discarded_len > limits::DISCARDED_LINE_LEN_MAX {
            self.dismiss(cx, Fault::LineEndless, out)
        } else if ended {
            self.discarded_len = 0;
            self.active_at = cx.now.monotonic;
            self.refuse(cx, Fault::LineTooLong, out)
        } else {
            Next::Input
        };
        Progress { consumed, next }
    }

    /// The one match on (phase, command).
    fn obey(&mut self, cx: &mut Context<'_>, command: Command<'_>, out: &mut Vec<u8>) -> Next {
        match (&self.phase, command) {
            (_, Command::Quit) => {
                self.enter(cx, Phase::Closing);
                cx.reply(&reply::CLOSING, out);
                Next::Close
            }
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
            (_, Command::Expn | Command::Auth | Command::Bdat | Command::StartTls) => {
                self.refuse(cx, Fault::NotOffered, out)
            }

            (Phase::Start, _) => self.refuse(cx, Fault::HelloFirst, out),
            (Phase::Idle, Command::Mail(mail)) => self.mail(cx, &mail, out),
            (Phase::Idle, _) => self.refuse(cx, Fault::MailFirst, out),
            (Phase::Mail(_), Command::Mail(_)) => self.refuse(cx, Fault::NestedMail, out),
            (Phase::Mail(_), Command::Rcpt(rcpt)) => self.rcpt(cx, &rcpt, out),
            (Phase::Mail(_), Command::Data) => self.data(cx, out),
            (Phase::Body(_) | Phase::Committing { .. } | Phase::Closing, _) => {
                unreachable!("no command is read in this phase")
            }
        }
    }

    /// EHLO or HELO: at any time, and it resets the transaction (RFC 5321 §4.1.4).
    fn hello(&mut self, cx: &mut Context<'_>, name: HeloName<'_>, extended: bool, out: &mut Vec<u8>) -> Next {
        self.enter(cx, Phase::Idle);
        self.helo.clear();
        self.helo.extend_from_slice(name.0);
        self.extended = extended;
        out.extend_from_slice(if extended { &cx.service.ehlo_reply } else { &cx.service.helo_reply });
        Next::Input
    }

    fn mail(&mut self, cx: &mut Context<'_>, mail: &Mail<'_>, out: &mut Vec<u8>) -> Next {
        // RFC 1870 §6.1: a declared size above the limit is refused before anything is sent.
        if mail.params.size.is_some_and(|size| size > cx.service.message_len_max) {
            return self.refuse(cx, Fault::DeclaredTooLarge, out);
        }
        if cx.pool.draining {
            return self.fail_and_close(cx, Error::Stopping, out);
        }
        let taken = match cx.pool.storage_error {
            Some(error) => Err(error),
            None => cx.pool.take_transaction().ok_or(Error::NoMemory),
        };
        self.mail_failed = taken.is_err();
        let mut transaction = match taken {
            Ok(transaction) => transaction,
            Err(error) => return self.fail(cx, error, out),
        };
        self.transactions_count = self.transactions_count.saturating_add(1);
        let message = MessageId { session: self.id, transaction: self.transactions_count };
        transaction.begin(message, cx.now, self.client, &self.helo, mail);
        self.enter(cx, Phase::Mail(transaction));
        cx.reply(&reply::SENDER_OK, out)
    }

    fn rcpt(&mut self, cx: &mut Context<'_>, rcpt: &Rcpt<'_>, out: &mut Vec<u8>) -> Next {
        let Phase::Mail(transaction) = &mut self.phase else { unreachable!("checked by `obey`") };
        if !cx.service.recipients.accepts(&rcpt.forward_path) {
            cx.pool.stats.recipients_refused.bump();
            transaction.refused_count = transaction.refused_count.saturating_add(1);
            return self.refuse(cx, Fault::RelayDenied, out);
        }
        if transaction.recipients_count() >= limits::RECIPIENTS_COUNT_MAX {
            return self.refuse(cx, Fault::TooManyRecipients, out);
        }
        transaction.add_recipient(&rcpt.forward_path);
        cx.reply(&reply::RECIPIENT_OK, out)
    }

    fn data(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        let Phase::Mail(transaction) = &self.phase else { unreachable!("checked by `obey`") };
        if transaction.recipients_count() == 0 {
            // RFC 2920 §3.1: a pipelining client sends DATA although all its recipients were refused.
            let all_refused = transaction.refused_count > 0;
            let fault = if all_refused { Fault::NoValidRecipients } else { Fault::RecipientFirst };
            return self.refuse(cx, fault, out);
        }
        let Phase::Mail(mut transaction) = self.phase.take() else { unreachable!("matched above") };
        let (id, date, before) = (transaction.id, cx.pool.date.rfc5322(cx.now), transaction.memory_len());
        trace::write_received(
            transaction.start_content(),
            &trace::Received {
                helo: &self.helo,
                client: self.client.ip(),
                hostname: &cx.service.hostname,
                extended: self.extended,
                id,
                date,
            },
        );
        // Counted also where it is too much: the trace field is small, and the content will be refused.
        cx.pool.memory.correct(before, transaction.memory_len());
        self.enter(cx, Phase::Body(transaction));
        cx.reply(&reply::START_CONTENT, out)
    }

    /// Content up to end-of-data.
    fn receive_content(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Option<Progress> {
        let Phase::Body(transaction) = &mut self.phase else { unreachable!("checked by `receive`") };
        self.active_at = cx.now.monotonic;
        let decoded = transaction.decode(input, cx.service.message_len_max, &mut cx.pool.memory);
        let Some(end) = decoded.end else {
            return Some(Progress { consumed: decoded.consumed, next: Next::Input });
        };
        let Phase::Body(mut transaction) = self.phase.take() else { unreachable!("matched above") };
        transaction.received_unix_us = cx.now.unix_us();
        let verdict = transaction.verdict(end);
        let next = match verdict {
            Ok(()) => {
                self.enter(cx, Phase::Committing { transaction, ended_at: cx.now.monotonic });
                Next::Commit
            }
            Err(refused) => {
                cx.pool.release(transaction);
                self.enter(cx, Phase::Idle);
                match refused {
                    transaction::Refused::Fault(fault) => self.refuse(cx, fault, out),
                    transaction::Refused::Error(error) => self.fail(cx, error, out),
                }
            }
        };
        Some(Progress { consumed: decoded.consumed, next })
    }

    /// The message to be made durable, after [`Next::Commit`].
    pub fn message(&self) -> Option<&Transaction> {
        match &self.phase {
            Phase::Committing { transaction, .. } => Some(transaction),
            _ => None,
        }
    }

    /// The commit of [`message`](Self::message) is over. The only place that takes responsibility (RFC 5321 §6.1): `Ok`
    /// says that the message is on stable storage, as far as the listener's durability promises.
    pub fn committed(&mut self, cx: &mut Context<'_>, result: Result<(), Error>, out: &mut Vec<u8>) -> Next {
        let Phase::Committing { transaction, ended_at } = self.phase.take() else {
            unreachable!("a commit ends once, in the phase that it began in")
        };
        self.active_at = cx.now.monotonic;
        let (message, content_len) = (transaction.id, transaction.content().len() as u64);
        let recipients_count = transaction.recipients_count() as u16;
        cx.pool.release(transaction);
        self.enter(cx, Phase::Idle);
        if let Err(error) = result {
            return self.fail(cx, error, out);
        }
        self.budget = Budget::default();
        self.messages_count = self.messages_count.saturating_add(1);
        cx.pool.stats.messages.bump();
        cx.pool.stats.content_octets.add(content_len);
        let wait = cx.now.monotonic.saturating_sub(ended_at);
        let client = self.client;
        cx.log(self.id, Kind::Accepted { message, client, content_len, recipients_count, wait });
        reply::encode_queued(message, out);
        if cx.pool.draining { self.fail_and_close(cx, Error::Stopping, out) } else { Next::Input }
    }

    /// When the session is to be ended if nothing comes; `None` while it waits for us.
    pub fn deadline(&self, service: &Service) -> Option<Duration> {
        match self.phase {
            Phase::Committing { .. } | Phase::Closing => None,
            Phase::Body(_) => Some(self.active_at + service.data_timeout),
            _ => Some(self.active_at + service.command_timeout),
        }
    }

    /// The deadline has passed (RFC 5321 §4.5.3.2.7).
    pub fn timeout(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        self.dismiss(cx, Fault::TimedOut, out)
    }

    /// The server stops. A session outside of a transaction ends now, others when theirs has.
    pub fn stop(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        match self.phase {
            Phase::Start | Phase::Idle => self.fail_and_close(cx, Error::Stopping, out),
            Phase::Closing => Next::Close,
            _ => Next::Input,
        }
    }

    /// The connection is gone: gives everything back.
    pub fn end(&mut self, cx: &mut Context<'_>) {
        self.enter(cx, Phase::Closing);
    }

    /// Answers a fault; after too many of them the session is over.
    fn refuse(&mut self, cx: &mut Context<'_>, fault: Fault, out: &mut Vec<u8>) -> Next {
        self.blame(cx, fault, out);
        if self.mail_failed && fault == Fault::MailFirst {
            return Next::Input;
        }
        match self.budget.spend(fault) {
            None => Next::Input,
            Some(last) => self.dismiss(cx, last, out),
        }
    }

    /// Answers a fault that ends the session.
    fn dismiss(&mut self, cx: &mut Context<'_>, fault: Fault, out: &mut Vec<u8>) -> Next {
        self.blame(cx, fault, out);
        self.enter(cx, Phase::Closing);
        Next::Close
    }

    fn blame(&self, cx: &Context<'_>, fault: Fault, out: &mut Vec<u8>) {
        let reply = Reply::from(fault);
        cx.pool.stats.faults.bump();
        cx.log(self.id, Kind::Faulted { client: self.client, fault: fault.name(), code: reply.code });
        cx.reply(&reply, out);
    }

    /// Answers an error of ours, which costs the client nothing.
    fn fail(&self, cx: &Context<'_>, error: Error, out: &mut Vec<u8>) -> Next {
        let reply = Reply::from(error);
        cx.pool.stats.messages_failed.bump();
        cx.log(self.id, Kind::Failed { client: self.client, error: error.name(), code: reply.code });
        cx.reply(&reply, out)
    }

    fn fail_and_close(&mut self, cx: &mut Context<'_>, error: Error, out: &mut Vec<u8>) -> Next {
        cx.reply(&Reply::from(error), out);
        self.enter(cx, Phase::Closing);
        Next::Close
    }

    /// The only writer of the phase but for `take`, which is always followed by it. A transaction left behind goes back
    /// to the pool.
    fn enter(&mut self, cx: &mut Context<'_>, phase: Phase) {
        if let Some(transaction) = std::mem::replace(&mut self.phase, phase).into_transaction() {
            cx.pool.release(transaction);
        }
    }
}
