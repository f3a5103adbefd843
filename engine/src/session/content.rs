//! DATA, the content behind it, and the commit that ends the transaction.

use crate::event::Kind;
use crate::protocol::reply;
use crate::session::fault::Budget;
use crate::session::phase::Phase;
use crate::session::transaction::Refused;
use crate::session::{Context, Error, Fault, Next, Piece, Pool, Progress, Session, Transaction, trace};

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
        let (id, pool) = (transaction.id, &mut *cx.pool);
        pool.trace.clear();
        trace::write_received(
            &mut pool.trace,
            &trace::Received {
                helo: &self.helo,
                client: self.client.ip(),
                hostname: &cx.service.hostname,
                extended: self.extended,
                id,
                date: pool.date.rfc5322(cx.now),
            },
        );
        transaction.begin_content(&pool.trace, pool.inline_len_max, &mut pool.memory);
        (self.content_began_at, self.progress_len) = (cx.now.monotonic, 0);
        self.enter(cx, Phase::Body(transaction));
        cx.reply(&reply::START_CONTENT, out)
    }

    /// Content up to end-of-data; `None` while there is no room for more: then a file is to be brought or a piece to be
    /// written.
    pub(super) fn receive_content(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        let Phase::Body(transaction) = &mut self.phase else { unreachable!("checked by `receive`") };
        let decoded = transaction.decode(input, cx.service.message_len_max, &mut cx.pool.memory);
        if decoded.consumed == 0 {
            return None;
        }
        self.make_progress(cx, decoded.consumed);
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

    /// The content has reached the size from which it gets a file: the caller is to bring one
    /// ([`use_file`](Self::use_file)) or to say why there is none ([`refuse_content`](Self::refuse_content)). Nothing
    /// is consumed before.
    pub fn wants_file(&self) -> bool {
        self.is_full() && self.file().is_none()
    }

    /// An empty file for the content of this transaction, by a number of the caller's.
    pub fn use_file(&mut self, number: u32) {
        if let Phase::Body(transaction) = &mut self.phase {
            transaction.use_file(number);
        }
    }

    /// The file that the content is being given to. When it is another than before, or none, the session has done with
    /// that one, whatever is being written to it.
    pub fn file(&self) -> Option<u32> {
        self.phase.transaction().and_then(Transaction::file)
    }

    /// The next piece to write to [`file`](Self::file). To be asked after each call that may have changed the content,
    /// until there is none. Once a message is [committing](Self::message) these are the last.
    pub fn next_piece(&mut self, pool: &mut Pool) -> Option<Piece> {
        let ended = matches!(self.phase, Phase::Committing { .. });
        self.phase.transaction_mut()?.next_piece(ended, &mut pool.memory)
    }

    /// A piece of `len` octets is in the present file. Its buffer goes back to [`Pool::give_back`].
    pub fn written(&mut self, len: usize) {
        if let Some(transaction) = self.phase.transaction_mut() {
            transaction.written(len);
        }
    }

    /// There is no file for the content, or writing to it failed: the content is read to its end and then refused.
    pub fn refuse_content(&mut self, cx: &mut Context<'_>, error: Error) {
        if let Phase::Body(transaction) = &mut self.phase {
            transaction.refuse(Refused::Error(error), &mut cx.pool.memory);
        }
    }

    /// Whether nothing is consumed until the caller has done something: committed the message, or made room for its
    /// content.
    pub fn is_waiting(&self) -> bool {
        self.message().is_some() || self.is_full()
    }

    fn is_full(&self) -> bool {
        matches!(&self.phase, Phase::Body(transaction) if transaction.is_full())
    }

    /// The message to be made durable, after [`Next::Commit`]: its content is in memory ([`Transaction::parts`]), or in
    /// a file once all pieces are written ([`Transaction::spilled`]).
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
        let (message, content_len) = (transaction.id, transaction.content_len());
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
