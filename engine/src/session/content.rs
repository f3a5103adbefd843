//! DATA, the content behind it, and the commit that ends the transaction.

use crate::event::Kind;
use crate::protocol::reply;
use crate::session::fault::Budget;
use crate::session::phase::Phase;
use crate::session::transaction::Refused;
use crate::session::{Context, Error, Fault, Next, Progress, Session, Transaction, trace};

impl Session {
    pub(super) fn data(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
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
    pub(super) fn receive_content(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
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
                    Refused::Fault(fault) => self.refuse(cx, fault, out),
                    Refused::Error(error) => self.fail(cx, error, out),
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
}
