//! The client's side of one SMTP session: received octets in, octets to send out, no socket and no clock.
//!
//! ```text
//!  Greeting ─220─> Ehlo ─250─> Ready ──begin──> Mail ─> Rcpt ─> Data ─354─> Content ─sent─> Final ─250─> Ready
//!                     Ehlo ─250, STARTTLS─> StartTls ─220─> Securing ─handshake─> Ehlo
//!                                                └──────┬───────┬─ refused ─> Reset ─250─> Ready
//!                              by BDAT: Mail ─> Rcpt ─> Chunk ─250, for each; the last─> Ready
//!                                └─ any ─ Discard <─ 354 although nothing was accepted, pipelined: a lone dot
//!  Ready ──quit──> Quit ─221─> Closed
//! ```
//! When pipelining, MAIL, RCPT and DATA leave in one send and the same phases only read the replies. By BDAT the
//! content goes with them, in as many sends as it takes, while replies to what went before come in.

mod reading;

use crate::extension::{Extension, Extensions};
use crate::reply::{Malformed, Reader};
use crate::token::Token;
use crate::workload::{self, Transfer, Workload};

/// When a client groups commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipelining {
    /// Where the server offers it.
    Offered,
    /// Always; a server that does not offer it is a failure.
    Required,
    /// Never: one command per round trip.
    Off,
}

/// Which command a refusal answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Mail,
    Rcpt,
    Data,
    /// The end of data, or a chunk: a refusal of the whole message.
    Content,
}

/// What a reply meant. All waits are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// 220, so long after [`Client::open`].
    Greeted { waited_ns: u64 },
    /// 220 to STARTTLS: the handshake is due. Nothing is received or sent before [`Client::secured`].
    StartTls,
    /// EHLO was answered; the client is ready.
    Opened { waited_ns: u64 },
    /// One recipient was refused; the transaction goes on with the others, if there are any.
    RecipientRefused,
    /// One command per round trip: from MAIL to the reply to the last RCPT.
    RecipientsAnswered { waited_ns: u64 },
    /// 354: from MAIL to the permission to send content; and from DATA, where that waited for the replies before it.
    EnvelopeAccepted { waited_ns: u64, data_ns: Option<u64> },
    /// The 250 for the content: the server has taken responsibility (RFC 5321 §4.2.5).
    Accepted { token: Token, final_ns: u64, transaction_ns: u64 },
    /// The message was refused and is not stored.
    Refused(Step),
    /// The reply to QUIT: the connection may be closed.
    Closed,
}

/// Why a session cannot go on. Its connection is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Malformed(Malformed),
    /// Well-formed, but not a reply to anything that was sent, or with a code that has no meaning there.
    Unexpected,
    /// 421 in place of any reply (RFC 5321 §3.8).
    ServiceClosing,
    GreetingRefused,
    EhloRefused,
    /// The run needs it, and the server does not offer it, or refuses it.
    Missing(Extension),
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What becomes of the transaction under way when the connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// The end of data was not sent: the server cannot have accepted it.
    Aborted,
    /// The end of data was sent and not answered: stored or not (RFC 1047).
    InDoubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    StartTls,
    Securing,
    Ready,
    Mail,
    Rcpt { index: usize },
    Data,
    Content,
    Chunk,
    Final,
    Discard,
    Reset,
    Quit,
    Closed,
}

/// What the next send is to contain. One at a time: a pipelining group is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    Ehlo,
    StartTls,
    Mail,
    Rcpt { index: usize },
    Data,
    Group,
    Content,
    LoneDot,
    Reset,
    Quit,
}

/// The transaction under way; meaningful from [`Client::begin`] to its outcome.
#[derive(Clone, Copy, Debug)]
struct Transaction {
    token: Token,
    /// When it should have begun, for an open loop; else when MAIL was sent.
    intended_at: Option<u64>,
    /// When MAIL was sent.
    began_at: u64,
    recipients_accepted: usize,
    /// Refused and told so, while replies to the rest of its pipelining group are still to come.
    refused: bool,
    /// Octets of the content that were sent, and how many there are.
    sent_len: usize,
    wire_len: usize,
    /// Chunks that were sent whole, and those of them that were answered.
    chunks_sent: usize,
    chunks_answered: usize,
}

impl Transaction {
    fn new(token: Token, intended_at: Option<u64>, wire_len: usize) -> Self {
        Self {
            token,
            intended_at,
            began_at: 0,
            recipients_accepted: 0,
            refused: false,
            sent_len: 0,
            wire_len,
            chunks_sent: 0,
            chunks_answered: 0,
        }
    }

    fn is_sent(&self) -> bool {
        self.sent_len == self.wire_len
    }
}

/// One session after another over one connection slot.
#[derive(Debug)]
pub struct Client {
    pipelining: Pipelining,
    /// STARTTLS is to be sent on each connection.
    wants_starttls: bool,
    /// It was, and the handshake is done.
    secured: bool,
    phase: Phase,
    outgoing: Option<Outgoing>,
    reader: Reader,
    opened: bool,
    /// The code of the last reply read.
    code: u16,
    offered: Extensions,
    transaction: Transaction,
    /// When what the present phase waits for was sent.
    asked_at: u64,
}

impl Client {
    pub fn new(pipelining: Pipelining, wants_starttls: bool) -> Self {
        let token = Token { run: 0, connection: 0, number: 0 };
        Self {
            pipelining,
            wants_starttls,
            secured: false,
            phase: Phase::Closed,
            outgoing: None,
            reader: Reader::default(),
            opened: false,
            code: 0,
            offered: Extensions::default(),
            transaction: Transaction::new(token, None, 0),
            asked_at: 0,
        }
    }

    /// A connection is being opened; the server speaks first.
    pub fn open(&mut self, now: u64) {
        self.phase = Phase::Greeting;
        self.outgoing = None;
        self.reader.reset();
        self.opened = false;
        self.code = 0;
        self.secured = false;
        self.offered = Extensions::default();
        self.asked_at = now;
    }

    /// The handshake behind STARTTLS is done: all begins anew (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        debug_assert!(self.phase == Phase::Securing);
        self.secured = true;
        self.offered = Extensions::default();
        self.enter(Phase::Ehlo, Outgoing::Ehlo);
    }

    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Nothing is being waited for that could be overdue.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Closed)
    }

    /// EHLO was answered on this connection.
    pub fn is_opened(&self) -> bool {
        self.opened
    }

    /// A transaction is under way.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished().is_some()
    }

    /// When what is being waited for was sent.
    pub fn asked_at(&self) -> u64 {
        self.asked_at
    }

    /// The code of the last reply; 0 when there was none on this connection.
    pub fn reply_code(&self) -> u16 {
        self.code
    }

    /// The text of the last reply's last line.
    pub fn reply_text(&self) -> &[u8] {
        self.reader.text()
    }

    /// Begins a transaction. `intended_at`: when its arrival was due, in an open loop.
    pub fn begin(&mut self, token: Token, intended_at: Option<u64>, workload: &Workload) {
        debug_assert!(self.is_ready());
        self.transaction = Transaction::new(token, intended_at, workload.wire_len(token));
        self.phase = Phase::Mail;
        self.outgoing = Some(if self.groups() { Outgoing::Group } else { Outgoing::Mail });
    }

    /// Ends the session in order.
    pub fn quit(&mut self) {
        debug_assert!(self.is_ready());
        self.phase = Phase::Quit;
        self.outgoing = Some(Outgoing::Quit);
    }

    /// The connection is gone, or given up: what of the transaction?
    pub fn lose(&mut self) -> Option<Unfinished> {
        let unfinished = self.unfinished();
        self.phase = Phase::Closed;
        self.outgoing = None;
        unfinished
    }

    fn unfinished(&self) -> Option<Unfinished> {
        match self.phase {
            Phase::Mail | Phase::Rcpt { .. } | Phase::Data | Phase::Content | Phase::Chunk | Phase::Final => {
                match (self.transaction.refused, self.transaction.is_sent()) {
                    (true, _) => None,
                    (false, true) => Some(Unfinished::InDoubt),
                    (false, false) => Some(Unfinished::Aborted),
                }
            }
            Phase::Greeting | Phase::Ehlo | Phase::StartTls | Phase::Securing | Phase::Ready => None,
            // Refused, and counted as that.
            Phase::Discard | Phase::Reset => None,
            Phase::Quit | Phase::Closed => None,
        }
    }

    pub fn has_outgoing(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Appends what is to be sent now to `out`. Called when nothing of this connection is being sent.
    pub fn transmit(&mut self, now: u64, workload: &Workload, out: &mut Vec<u8>) {
        let Some(outgoing) = self.outgoing.take() else { return };
        self.asked_at = now;
        let size_offered = self.offered.has(Extension::Size);
        match outgoing {
            Outgoing::Ehlo => out.extend_from_slice(&workload.ehlo),
            Outgoing::StartTls => out.extend_from_slice(workload::STARTTLS),
            Outgoing::Mail => {
                self.transaction.began_at = now;
                out.extend_from_slice(workload.mail(self.transaction.token, size_offered));
            }
            Outgoing::Group => {
                self.transaction.began_at = now;
                workload.append_group(self.transaction.token, size_offered, out);
                if let Transfer::Bdat { .. } = workload.transfer {
                    self.transmit_chunks(workload, out);
                }
            }
            Outgoing::Rcpt { index } => out.extend_from_slice(&workload.rcpt[index]),
            Outgoing::Data => out.extend_from_slice(workload::DATA),
            Outgoing::Content => match workload.transfer {
                Transfer::Data => self.transmit_content(workload, out),
                Transfer::Bdat { .. } => self.transmit_chunks(workload, out),
            },
            Outgoing::LoneDot => out.extend_from_slice(workload::END_OF_DATA),
            Outgoing::Reset => out.extend_from_slice(workload::RSET),
            Outgoing::Quit => out.extend_from_slice(workload::QUIT),
        }
    }

    fn transmit_content(&mut self, workload: &Workload, out: &mut Vec<u8>) {
        let transaction = &mut self.transaction;
        transaction.sent_len = workload.append_content(transaction.token, transaction.sent_len, out);
        if transaction.is_sent() {
            self.phase = Phase::Final;
        } else {
            self.outgoing = Some(Outgoing::Content);
        }
    }

    /// As many chunks as there is room for, or one where each waits for its reply.
    fn transmit_chunks(&mut self, workload: &Workload, out: &mut Vec<u8>) {
        let groups = self.groups();
        let transaction = &mut self.transaction;
        while !transaction.is_sent() && Workload::has_room(out) {
            transaction.sent_len = workload.append_content(transaction.token, transaction.sent_len, out);
            if workload.ends_chunk(transaction.sent_len, transaction.wire_len) {
                transaction.chunks_sent += 1;
                if !groups {
                    return;
                }
            }
        }
        if !transaction.is_sent() {
            self.outgoing = Some(Outgoing::Content);
        }
    }

    fn enter(&mut self, phase: Phase, outgoing: Outgoing) {
        self.phase = phase;
        self.outgoing = Some(outgoing);
    }

    fn groups(&self) -> bool {
        self.pipelining != Pipelining::Off && self.offered.has(Extension::Pipelining)
    }
}

#[cfg(test)]
mod tests;
