//! DATA, the content behind it or behind BDAT, and the commit that ends the transaction.

use crate::event::Kind;
use crate::policy::newline::BareNewline;
use crate::protocol::data::End;
use crate::protocol::reply::{self, Reply};
use crate::session::fault::Budget;
use crate::session::phase::Phase;
use crate::session::trace::{self, Protocol};
use crate::session::transaction::{Done, Refused};
use crate::session::{Context, Error, Fault, Next, Piece, Pool, Progress, Session, Transaction};

impl Session {
    pub(super) fn data(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        if let Err(fault) = self.begin_content(cx) {
            return self.refuse(cx, fault, out);
        }
        cx.reply(&reply::START_CONTENT, out)
    }

    /// From `Mail` to `Body`, with the trace field written.
    pub(super) fn begin_content(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Phase::Mail(transaction) = &self.phase else { unreachable!("checked by `obey`") };
        if transaction.recipients_count() == 0 {
            // RFC 2920 §3.1: a pipelining client sends DATA although all its recipients were refused.
            let all_refused = transaction.refused_count > 0;
            return Err(if all_refused { Fault::NoValidRecipients } else { Fault::RecipientFirst });
        }
        let Phase::Mail(mut transaction) = self.phase.take() else { unreachable!("matched above") };
        let security = self.secured_by().map(|secured| secured.security);
        let protocol = match (transaction.smtputf8(), self.extended, security.is_some()) {
            (true, _, true) => Protocol::Utf8SmtpS,
            (true, _, false) => Protocol::Utf8Smtp,
            (false, true, true) => Protocol::EsmtpS,
            (false, true, false) => Protocol::Esmtp,
            (false, false, _) => Protocol::Smtp,
        };
        let (id, pool) = (transaction.id, &mut *cx.pool);
        pool.trace.clear();
        trace::write_received(
            &mut pool.trace,
            &trace::Received {
                helo: &self.helo,
                client: self.client.ip(),
                hostname: &cx.service.settings.hostname,
                protocol,
                security,
                id,
                date: pool.date.rfc5322(cx.now),
            },
        );
        transaction.begin_content(&pool.trace, pool.inline_len_max, &mut pool.memory);
        transaction.content_began_at = cx.now.monotonic;
        self.progress_len = 0;
        self.enter(cx, Phase::Body(transaction));
        Ok(())
    }

    /// Content up to end-of-data, or to the end of a chunk; `None` while there is no room for more: then a file is to
    /// be brought or a piece to be written.
    pub(super) fn receive_content(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        let Phase::Body(transaction) = &mut self.phase else { unreachable!("checked by `receive`") };
        let len_max = cx.service.settings.message_len_max;
        let received = transaction.receive(input, len_max, &mut cx.pool.memory);
        self.make_progress(cx, received.consumed);
        let next = match received.done {
            None if received.consumed == 0 => return None,
            None => Next::Input,
            Some(Done::Chunk(len)) => self.end_chunk(cx, len, out),
            Some(Done::Content(end)) => self.end_content(cx, end, out),
        };
        Some(Progress { consumed: received.consumed, next })
    }

    fn end_content(&mut self, cx: &mut Context<'_>, end: End, out: &mut Vec<u8>) -> Next {
        let Phase::Body(mut transaction) = self.phase.take() else { unreachable!("content ends in `Body`") };
        transaction.received_unix_us = cx.now.unix_us();
        // No policy has anything against line ends as they should be: most messages cost no lookup.
        let is_clean = end == End::default();
        let policy = if is_clean { BareNewline::Note } else { cx.service.bare_newline(self.client.ip()) };
        let message = transaction.id;
        match transaction.verdict(end, policy) {
            Ok(()) => {
                if end.bare_newlines && policy == BareNewline::Note {
                    let (client, lookalike) = (self.client, end.lookalike);
                    cx.log(self.id, Kind::BareNewlines { message, client, lookalike });
                }
                self.enter(cx, Phase::Committing { transaction, ended_at: cx.now.monotonic });
                Next::Commit
            }
            Err(refused) => {
                let told = transaction.refusal_told;
                cx.pool.release(transaction);
                self.enter(cx, Phase::Idle);
                self.answer(cx, refused, told, out)
            }
        }
    }

    /// Says why a message does not get its 250.
    ///
    /// RFC 3030 §2: a client that was `told` with a chunk may still have others under way. They are answered in the
    /// same words, and neither cost it anything nor count again.
    pub(super) fn answer(
        &mut self,
        cx: &mut Context<'_>,
        refused: Refused,
        told: bool,
        out: &mut Vec<u8>,
    ) -> Next {
        match refused {
            Refused::Fault(fault) if told => cx.reply(&Reply::from(fault), out),
            Refused::Fault(fault) => self.refuse(cx, fault, out),
            Refused::Error(error) if told => cx.reply(&Reply::from(error), out),
            Refused::Error(error) => self.fail(cx, error, out),
        }
    }

    /// Whether the client has announced content that will go to a file, by SIZE (RFC 1870 §6) or with a chunk of BDAT.
    pub fn expects_file(&self, pool: &Pool) -> bool {
        let announced_len = self.phase.transaction().map_or(0, Transaction::announced_len);
        announced_len > pool.inline_len_max as u64
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
        if let Phase::Body(transaction) | Phase::Chunks(transaction) = &mut self.phase {
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
        let cipher = self.secured.as_ref().map(|secured| secured.security.cipher);
        cx.log(self.id, Kind::Accepted { message, client, cipher, content_len, recipients_count, wait });
        reply::encode_queued(message, out);
        if cx.pool.draining { self.fail_and_close(cx, Error::Stopping, out) } else { Next::Input }
    }
}
