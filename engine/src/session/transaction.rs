//! One mail transaction (RFC 5321 §3.3): envelope and content, in buffers that are used again.

use std::net::SocketAddr;
use std::time::Duration;

use crate::id::MessageId;
use crate::limits;
use crate::policy::newline::{BareNewline, Refusal};
use crate::policy::rules::RuleSet;
use crate::protocol::command::{Chunk, Mail, Rcpt};
use crate::protocol::data::{Decoder, End, Sink};
use crate::protocol::envelope;
use crate::protocol::path::ReversePath;
use crate::security::Security;
use crate::session::held::{Held, Piece, Spilled};
use crate::session::memory::{Memory, Pressure};
use crate::session::trace::ReceivedFields;
use crate::session::{Error, Fault};
use crate::time::Now;

/// What MAIL, RCPT and DATA gathered. Dropped whole by RSET; its buffers go back to the pool.
#[derive(Debug, Default)]
pub struct Transaction {
    pub id: MessageId,
    /// The configuration that it began under.
    pub(super) generation: u32,
    /// When the reply to DATA was given (monotonic).
    pub(super) content_began_at: Duration,
    /// What MAIL said of the content's size.
    pub(super) announced_size: Option<u64>,
    /// Bit n: it has tag n of its generation.
    tags: u64,
    /// When end-of-data came, in microseconds since 1970; before it, when MAIL did.
    pub received_unix_us: u64,
    /// Recipients refused.
    pub(super) refused_count: u16,
    /// A chunk was answered with why the message is refused.
    pub(super) refusal_told: bool,
    /// In its stored form (`protocol::envelope`), so that a recipient is one append.
    envelope: Vec<u8>,
    /// Octets of it that are counted as memory.
    envelope_held_len: usize,
    recipients_count: usize,
    /// Our trace field, then what the client sent, with CR LF line ends and without dot-stuffing.
    held: Held,
    /// Octets that the client sent of it, kept or not.
    received_len: u64,
    received_fields: ReceivedFields,
    decoder: Decoder,
    /// The chunk that is being received, or was last.
    chunk: Option<OpenChunk>,
    /// MAIL had SMTPUTF8.
    smtputf8: bool,
    /// Why the content is only read to its end and not kept.
    refused: Option<Refused>,
}

/// A chunk of BDAT.
#[derive(Clone, Copy, Debug)]
struct OpenChunk {
    announced: Chunk,
    left_len: u64,
}

/// What a piece of input came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) consumed: usize,
    pub(super) done: Option<Done>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// A chunk of this length, and another one follows.
    Chunk(u64),
    Content(End),
}

/// A message that does not get its 250.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Fault(Fault),
    Error(Error),
}

impl Transaction {
    /// MAIL. Everything a former use left behind is cleared here.
    pub(super) fn begin(
        &mut self,
        id: MessageId,
        now: Now,
        client: SocketAddr,
        helo: &[u8],
        listener: &str,
        mail: &Mail<'_>,
    ) {
        let (mut envelope, held) = (std::mem::take(&mut self.envelope), std::mem::take(&mut self.held));
        envelope.clear();
        let smtputf8 = mail.params.smtputf8;
        *self = Self {
            id,
            generation: self.generation,
            announced_size: mail.params.size,
            received_unix_us: now.unix_us(),
            envelope,
            held,
            smtputf8,
            ..Self::default()
        };
        let mut writer = envelope::Writer(&mut self.envelope);
        match &mail.reverse_path {
            ReversePath::Null => writer.reverse_path(None),
            ReversePath::Mailbox(mailbox) => writer.reverse_path(Some(mailbox)),
        }
        writer.client(client.ip(), client.port());
        writer.helo(helo);
        writer.listener(listener);
        if let Some(body) = mail.params.body {
            writer.body(body);
        }
        if smtputf8 {
            writer.smtputf8();
        }
        if mail.params.requiretls {
            writer.requiretls();
        }
        if let Some(ret) = mail.params.ret {
            writer.ret(ret);
        }
        if let Some(envid) = mail.params.envid {
            writer.envid(envid);
        }
    }

    /// `local-part@domain`; empty for the null reverse-path.
    pub(super) fn reverse_path(&self) -> &[u8] {
        envelope::first_value(&self.envelope)
    }

    /// Gives the message tags that it does not have yet; bit n is tag n of `rules`.
    pub(super) fn add_tags(&mut self, tags: u64, rules: &RuleSet) {
        let mut new = tags & !self.tags;
        self.tags |= new;
        while new != 0 {
            let tag = new.trailing_zeros() as u8;
            envelope::Writer(&mut self.envelope).tag(rules.tag(tag));
            new &= new - 1;
        }
    }

    /// The session is under TLS.
    pub(super) fn secure(&mut self, security: &Security) {
        envelope::Writer(&mut self.envelope).security(security);
    }

    pub(super) fn smtputf8(&self) -> bool {
        self.smtputf8
    }

    /// Counts the envelope's memory; false when the budget has no room for more of it.
    pub(super) fn hold_envelope(&mut self, memory: &mut Memory) -> bool {
        let len = self.envelope.capacity();
        let pressed = memory.pressure() > Pressure::None && len > limits::PRESSED_ENVELOPE_LEN_MAX;
        let fits = len <= self.envelope_held_len || (!pressed && memory.grow(len - self.envelope_held_len));
        if fits {
            self.envelope_held_len = len.max(self.envelope_held_len);
        }
        fits
    }

    /// Whether it has as many recipients as it may have, or one more may leave no room in the record for the rest of
    /// the envelope: with long ORCPTs (RFC 3461 §4.2) these are fewer.
    pub(super) fn has_all_recipients(&self) -> bool {
        let rest_len = limits::PATH_LEN_MAX + limits::ORCPT_LEN_MAX + limits::ENVELOPE_REST_LEN_MAX;
        self.recipients_count >= limits::RECIPIENTS_COUNT_MAX
            || self.envelope.len() + rest_len > limits::ENVELOPE_LEN_MAX
    }

    pub(super) fn add_recipient(&mut self, rcpt: &Rcpt<'_>, memory: &mut Memory) -> bool {
        let before = self.envelope.len();
        let mut writer = envelope::Writer(&mut self.envelope);
        writer.forward_path(&rcpt.forward_path);
        writer.rcpt_params(&rcpt.params);
        if !self.hold_envelope(memory) {
            self.envelope.truncate(before);
            self.envelope.shrink_to(self.envelope_held_len);
            return false;
        }
        self.recipients_count += 1;
        true
    }

    pub fn recipients_count(&self) -> usize {
        self.recipients_count
    }

    /// The envelope's stored form.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    #[cfg(test)]
    pub(super) fn envelope_capacity(&self) -> usize {
        self.envelope.capacity()
    }

    /// The content as it will be stored, in parts, where it is not in a file.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.held.parts()
    }

    /// Where the content is, once all of it has been given to a file.
    pub fn spilled(&self) -> Option<Spilled> {
        self.held.spilled()
    }

    pub(super) fn announced_len(&self) -> u64 {
        let of_chunk = self.chunk.as_ref().map_or(0, |chunk| chunk.announced.len);
        self.announced_size.unwrap_or(0).max(of_chunk)
    }

    /// Octets of content, our trace field included.
    pub fn content_len(&self) -> u64 {
        self.held.len()
    }

    /// The content begins with our trace field.
    pub(super) fn begin_content(&mut self, trace: &[u8], inline_len_max: usize, memory: &mut Memory) {
        self.held.begin(inline_len_max);
        self.held.feel(memory.pressure());
        self.held.append(trace, memory);
    }

    /// BDAT: so many octets follow. What cannot fit is refused before it has come.
    pub(super) fn begin_chunk(&mut self, chunk: Chunk, len_max: u64, memory: &mut Memory) {
        if self.chunk.is_none() {
            self.decoder = Decoder::of_chunks();
        }
        self.chunk = Some(OpenChunk { announced: chunk, left_len: chunk.len });
        if self.received_len.saturating_add(chunk.len) > len_max {
            self.refuse(Refused::Fault(Fault::ContentTooLarge), memory);
        }
    }

    /// Takes content as far as there is room for it; what is over a limit is read on to its end, so that the dialogue
    /// stays in step, but not kept. Nothing is consumed when the caller has something to do first: see
    /// [`is_full`](Self::is_full).
    pub(super) fn receive(&mut self, input: &[u8], len_max: u64, memory: &mut Memory) -> Received {
        self.held.feel(memory.pressure());
        let room = if self.refused.is_some() { usize::MAX } else { self.held.room() };
        let Self { held, received_len, received_fields, refused, decoder, .. } = self;
        let mut keeper = Keeper { held, received_len, received_fields, refused, len_max, memory };
        let Some(chunk) = &mut self.chunk else {
            let decoded = decoder.decode(&input[..input.len().min(room)], &mut keeper);
            return Received { consumed: decoded.consumed, done: decoded.end.map(Done::Content) };
        };
        let consumed = usize::try_from(chunk.left_len).unwrap_or(usize::MAX).min(room).min(input.len());
        decoder.decode(&input[..consumed], &mut keeper);
        chunk.left_len -= consumed as u64;
        let done = match chunk.announced {
            _ if chunk.left_len > 0 => None,
            Chunk { last: true, .. } => Some(Done::Content(decoder.finish(&mut keeper))),
            Chunk { len, last: false } => Some(Done::Chunk(len)),
        };
        Received { consumed, done }
    }

    /// Why nothing more is kept, if so.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Whether content is only taken again when a file was brought or a piece of it written.
    pub(super) fn is_full(&self) -> bool {
        self.refused.is_none() && self.held.room() == 0
    }

    pub(super) fn file(&self) -> Option<u32> {
        self.held.file()
    }

    pub(super) fn use_file(&mut self, number: u32) {
        self.held.use_file(number);
    }

    pub(super) fn next_piece(&mut self, ended: bool, memory: &mut Memory) -> Option<Piece> {
        self.held.next_piece(ended, memory)
    }

    pub(super) fn written(&mut self, len: usize) {
        self.held.written(len);
    }

    /// At end-of-data: whether the message can be taken.
    pub(super) fn verdict(&self, end: End, bare_newline: BareNewline) -> Result<(), Refused> {
        if let Some(refused @ Refused::Fault(_)) = self.refused {
            return Err(refused);
        }
        bare_newline.verdict(end).map_err(|refusal| {
            Refused::Fault(match refusal {
                Refusal::Lookalike => Fault::EndOfDataLookalike,
                Refusal::BareNewline => Fault::BareNewlineInContent,
            })
        })?;
        if self.received_fields.count() > limits::RECEIVED_FIELDS_COUNT_MAX {
            return Err(Refused::Fault(Fault::Loop));
        }
        // Last: what could not be taken at any time is not worth another try.
        self.refused.map_or(Ok(()), Err)
    }

    /// Content that comes from now on is not kept, and what was kept is freed at once: the rest of it may take long to
    /// come.
    pub(super) fn refuse(&mut self, refused: Refused, memory: &mut Memory) {
        self.refused.get_or_insert(refused);
        self.held.clear(memory);
    }

    /// Before it goes back to the pool: keeps an envelope's buffer of the usual size, gives the rest back.
    pub(super) fn clear(&mut self, memory: &mut Memory) {
        self.held.clear(memory);
        memory.shrink(std::mem::take(&mut self.envelope_held_len));
        self.envelope.clear();
        self.envelope.shrink_to(limits::POOLED_ENVELOPE_LEN_MAX);
    }
}

/// Appends content within the limits.
struct Keeper<'a> {
    held: &'a mut Held,
    received_len: &'a mut u64,
    received_fields: &'a mut ReceivedFields,
    refused: &'a mut Option<Refused>,
    len_max: u64,
    memory: &'a mut Memory,
}

impl Sink for Keeper<'_> {
    fn content(&mut self, bytes: &[u8]) {
        *self.received_len += bytes.len() as u64;
        self.received_fields.look_at(bytes);
        if *self.received_len > self.len_max {
            *self.refused = Some(Refused::Fault(Fault::ContentTooLarge));
        }
        if self.refused.is_some() {
            return self.held.clear(self.memory);
        }
        self.held.append(bytes, self.memory);
    }
}
