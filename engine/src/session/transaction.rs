//! One mail transaction (RFC 5321 §3.3): envelope and content, in memory that is used again.

use std::net::SocketAddr;

use crate::id::MessageId;
use crate::limits;
use crate::protocol::command::Mail;
use crate::protocol::data::{Decoded, Decoder, End, Sink};
use crate::protocol::envelope;
use crate::protocol::path::{ForwardPath, ReversePath};
use crate::session::context::Memory;
use crate::session::trace;
use crate::session::{Error, Fault};
use crate::time::Now;

/// What MAIL, RCPT and DATA gathered. Dropped whole by RSET; its two buffers go back to the pool.
#[derive(Debug, Default)]
pub struct Transaction {
    pub id: MessageId,
    /// When end-of-data came, in microseconds since 1970; before it, when MAIL did.
    pub received_unix_us: u64,
    /// Recipients refused.
    pub(super) refused_count: u16,
    /// In its stored form (`protocol::envelope`), so that a recipient is one append.
    envelope: Vec<u8>,
    recipients_count: usize,
    /// Our trace field, then what the client sent, with CR LF line ends and without dot-stuffing.
    content: Vec<u8>,
    trace_len: usize,
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
        let (mut envelope, content) = (std::mem::take(&mut self.envelope), std::mem::take(&mut self.content));
        envelope.clear();
        *self = Self { id, received_unix_us: now.unix_us(), envelope, content, ..Self::default() };
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

    pub(super) fn add_recipient(&mut self, forward_path: &ForwardPath<'_>) {
        envelope::Writer(&mut self.envelope).forward_path(forward_path);
        self.recipients_count += 1;
    }

    pub fn recipients_count(&self) -> usize {
        self.recipients_count
    }

    /// The envelope's stored form.
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }

    /// The content as it will be stored.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Where the trace field is to be written.
    pub(super) fn start_content(&mut self) -> &mut Vec<u8> {
        self.content.clear();
        &mut self.content
    }

    /// Takes content; what is over a limit is read on to its end, so that the dialogue stays in step, but not kept.
    pub(super) fn decode(&mut self, input: &[u8], len_max: u64, memory: &mut Memory) -> Decoded {
        if self.trace_len == 0 {
            self.trace_len = self.content.len();
        }
        let content_len_max = usize::try_from(len_max).unwrap_or(usize::MAX).saturating_add(self.trace_len);
        let mut keeper =
            Keeper { content: &mut self.content, refused: &mut self.refused, content_len_max, memory };
        self.decoder.decode(input, &mut keeper)
    }

    /// At end-of-data: whether the message can be taken.
    pub(super) fn verdict(&self, end: End) -> Result<(), Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        if end.lookalike {
            return Err(Refused::Fault(Fault::EndOfDataLookalike));
        }
        if trace::received_fields_count(&self.content[self.trace_len..]) > limits::RECEIVED_FIELDS_COUNT_MAX {
            return Err(Refused::Fault(Fault::Loop));
        }
        Ok(())
    }

    pub(super) fn memory_len(&self) -> usize {
        self.content.capacity()
    }

    /// Before it goes back to the pool: keeps what most messages need, frees the rest.
    pub(super) fn shrink(&mut self) {
        self.content.clear();
        self.content.shrink_to(limits::POOLED_CONTENT_LEN_MAX);
        self.envelope.clear();
        self.envelope.shrink_to(limits::POOLED_ENVELOPE_LEN_MAX);
    }
}

/// Appends content within the limits.
struct Keeper<'a> {
    content: &'a mut Vec<u8>,
    refused: &'a mut Option<Refused>,
    /// Trace field included.
    content_len_max: usize,
    memory: &'a mut Memory,
}

impl Sink for Keeper<'_> {
    fn content(&mut self, bytes: &[u8]) {
        if self.refused.is_some() {
            return;
        }
        let len = self.content.len() + bytes.len();
        if len > self.content_len_max {
            return self.refuse(Refused::Fault(Fault::ContentTooLarge));
        }
        if len > self.content.capacity() {
            // Doubling, as Vec would, but never beyond what the message may become; just enough where that is too much.
            let before = self.content.capacity();
            let doubled = len.max(before * 2).min(self.content_len_max);
            let Some(wanted) = [doubled, len].into_iter().find(|wanted| self.memory.grow(wanted - before))
            else {
                return self.refuse(Refused::Error(Error::NoMemory));
            };
            self.content.reserve_exact(wanted - self.content.len());
            self.memory.correct(wanted - before, self.content.capacity() - before);
        }
        self.content.extend_from_slice(bytes);
    }
}

impl Keeper<'_> {
    /// Frees at once what was kept: the rest of the content may take long to come.
    fn refuse(&mut self, refused: Refused) {
        *self.refused = Some(refused);
        self.memory.shrink(self.content.capacity());
        *self.content = Vec::new();
    }
}
