//! One mail transaction (RFC 5321 §3.3): envelope and content, in buffers that are used again.

use std::net::SocketAddr;

use crate::id::MessageId;
use crate::limits;
use crate::protocol::command::Mail;
use crate::protocol::data::{Decoded, Decoder, End, Sink};
use crate::protocol::envelope;
use crate::protocol::path::{ForwardPath, ReversePath};
use crate::session::held::{Held, Piece, Spilled};
use crate::session::memory::{Memory, Pressure};
use crate::session::trace::ReceivedFields;
use crate::session::{Error, Fault};
use crate::time::Now;

/// What MAIL, RCPT and DATA gathered. Dropped whole by RSET; its buffers go back to the pool.
#[derive(Debug, Default)]
pub struct Transaction {
    pub id: MessageId,
    /// When end-of-data came, in microseconds since 1970; before it, when MAIL did.
    pub received_unix_us: u64,
    /// Recipients refused.
    pub(super) refused_count: u16,
    /// In its stored form (`protocol::envelope`), so that a recipient is one append.
    envelope: Vec<u8>,
    /// Octets of it that are counted as memory.
    envelope_held_len: usize,
    recipients_count: usize,
    /// Our trace field, then what the client sent, with CR LF line ends and without dot-stuffing.
    held: Held,
    trace_len: u64,
    received_fields: ReceivedFields,
    decoder: Decoder,
    /// Why the content is only read to its end and not kept.
    refused: Option<Refused>,
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
        mail: &Mail<'_>,
    ) {
        let (mut envelope, held) = (std::mem::take(&mut self.envelope), std::mem::take(&mut self.held));
        envelope.clear();
        *self = Self { id, received_unix_us: now.unix_us(), envelope, held, ..Self::default() };
        let mut writer = envelope::Writer(&mut self.envelope);
        match &mail.reverse_path {
            ReversePath::Null => writer.reverse_path(None),
            ReversePath::Mailbox(mailbox) => writer.reverse_path(Some(mailbox)),
        }
        writer.client(client.ip(), client.port());
        writer.helo(helo);
        if let Some(body) = mail.params.body {
            writer.body(body);
        }
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

    pub(super) fn add_recipient(&mut self, forward_path: &ForwardPath<'_>, memory: &mut Memory) -> bool {
        let before = self.envelope.len();
        envelope::Writer(&mut self.envelope).forward_path(forward_path);
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

    /// The content as it will be stored, in parts, where it is not in a file.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.held.parts()
    }

    /// Where the content is, once all of it has been given to a file.
    pub fn spilled(&self) -> Option<Spilled> {
        self.held.spilled()
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
        self.trace_len = trace.len() as u64;
    }

    /// Takes content as far as there is room for it; what is over a limit is read on to its end, so that the dialogue
    /// stays in step, but not kept. Nothing is consumed when the caller has something to do first: see
    /// [`is_full`](Self::is_full).
    pub(super) fn decode(&mut self, input: &[u8], len_max: u64, memory: &mut Memory) -> Decoded {
        self.held.feel(memory.pressure());
        let room = if self.refused.is_some() { usize::MAX } else { self.held.room() };
        let content_len_max = len_max.saturating_add(self.trace_len);
        let Self { held, received_fields, refused, .. } = self;
        let mut keeper = Keeper { held, received_fields, refused, content_len_max, memory };
        self.decoder.decode(&input[..input.len().min(room)], &mut keeper)
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
    pub(super) fn verdict(&self, end: End) -> Result<(), Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        if end.lookalike {
            return Err(Refused::Fault(Fault::EndOfDataLookalike));
        }
        if self.received_fields.count() > limits::RECEIVED_FIELDS_COUNT_MAX {
            return Err(Refused::Fault(Fault::Loop));
        }
        Ok(())
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
    received_fields: &'a mut ReceivedFields,
    refused: &'a mut Option<Refused>,
    /// Trace field included.
    content_len_max: u64,
    memory: &'a mut Memory,
}

impl Sink for Keeper<'_> {
    fn content(&mut self, bytes: &[u8]) {
        if self.refused.is_some() {
            return;
        }
        if self.held.len() + bytes.len() as u64 > self.content_len_max {
            *self.refused = Some(Refused::Fault(Fault::ContentTooLarge));
            return self.held.clear(self.memory);
        }
        self.received_fields.look_at(bytes);
        self.held.append(bytes, self.memory);
    }
}
