//! The client's side of one SMTP session: received octets in, octets to send out, no socket and no clock.
//!
//! ```text
//!  Greeting ─220─> Ehlo ─250─> Ready ──begin──> Mail ─> Rcpt ─> Data ─354─> Content ─sent─> Final ─250─> Ready
//!                     Ehlo ─250, STARTTLS─> StartTls ─220─> Securing ─handshake─> Ehlo
//!                                ^                └──────┴───────┴─ refused ─> Reset ─250─> Ready
//!                                └─ any ─ Discard <─ 354 although nothing was accepted, pipelined: a lone dot
//!  Ready ──quit──> Quit ─221─> Closed
//! ```
//! When pipelining, MAIL, RCPT and DATA leave in one send and the same phases only read the replies.

use crate::reply::{Malformed, Reader};
use crate::workload::{self, Token, Workload};

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
    /// The end of data: a refusal of the whole message.
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
    /// 354: from MAIL to the permission to send content.
    EnvelopeAccepted { waited_ns: u64 },
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
    /// [`Pipelining::Required`], and the server does not offer it.
    PipeliningMissing,
    /// STARTTLS is wanted, and the server does not offer it, or refuses it.
    StartTlsMissing,
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
    Content { sent_len: usize },
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
    pipelining_offered: bool,
    starttls_offered: bool,
    size_offered: bool,
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
            pipelining_offered: false,
            starttls_offered: false,
            size_offered: false,
            transaction: Transaction {
                token,
                intended_at: None,
                began_at: 0,
                recipients_accepted: 0,
                refused: false,
            },
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
        self.forget_extensions();
        self.asked_at = now;
    }

    /// The handshake behind STARTTLS is done: all begins anew (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        debug_assert!(self.phase == Phase::Securing);
        self.secured = true;
        self.forget_extensions();
        self.enter(Phase::Ehlo, Outgoing::Ehlo);
    }

    fn forget_extensions(&mut self) {
        self.pipelining_offered = false;
        self.starttls_offered = false;
        self.size_offered = false;
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
    pub fn begin(&mut self, token: Token, intended_at: Option<u64>) {
        debug_assert!(self.is_ready());
        self.transaction =
            Transaction { token, intended_at, began_at: 0, recipients_accepted: 0, refused: false };
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
            Phase::Mail | Phase::Rcpt { .. } | Phase::Data if self.transaction.refused => None,
            Phase::Mail | Phase::Rcpt { .. } | Phase::Data | Phase::Content { .. } => {
                Some(Unfinished::Aborted)
            }
            Phase::Final => Some(Unfinished::InDoubt),
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
        match outgoing {
            Outgoing::Ehlo => out.extend_from_slice(&workload.ehlo),
            Outgoing::StartTls => out.extend_from_slice(workload::STARTTLS),
            Outgoing::Mail => {
                self.transaction.began_at = now;
                out.extend_from_slice(workload.mail(self.size_offered));
            }
            Outgoing::Group => {
                self.transaction.began_at = now;
                out.extend_from_slice(workload.group(self.size_offered));
            }
            Outgoing::Rcpt { index } => out.extend_from_slice(&workload.rcpt[index]),
            Outgoing::Data => out.extend_from_slice(workload::DATA),
            Outgoing::Content => self.transmit_content(workload, out),
            Outgoing::LoneDot => out.extend_from_slice(workload::END_OF_DATA),
            Outgoing::Reset => out.extend_from_slice(workload::RSET),
            Outgoing::Quit => out.extend_from_slice(workload::QUIT),
        }
    }

    fn transmit_content(&mut self, workload: &Workload, out: &mut Vec<u8>) {
        let Phase::Content { sent_len } = self.phase else { return };
        let (sent_len, ended) = workload.content(self.transaction.token, sent_len, out);
        if ended {
            self.phase = Phase::Final;
        } else {
            self.phase = Phase::Content { sent_len };
            self.outgoing = Some(Outgoing::Content);
        }
    }

    /// Reads on in `input` until a reply means something to the caller, and moves `input` behind it. `None` when
    /// `input` is used up. [`reply_code`](Self::reply_code) and [`reply_text`](Self::reply_text) tell of that reply.
    pub fn receive(
        &mut self,
        now: u64,
        workload: &Workload,
        input: &mut &[u8],
    ) -> Result<Option<Event>, Failure> {
        while let Some(line) = self.reader.next(input)? {
            if self.phase == Phase::Ehlo && line.code == 250 {
                self.note_extension();
            }
            if !line.last {
                continue;
            }
            self.code = line.code;
            if line.code == 421 {
                return Err(Failure::ServiceClosing);
            }
            if let Some(event) = self.react(now, workload)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The one match on (phase, reply).
    fn react(&mut self, now: u64, workload: &Workload) -> Result<Option<Event>, Failure> {
        let waited_ns = now.saturating_sub(self.asked_at);
        let refused = (400..600).contains(&self.code);
        Ok(match (self.phase, self.code) {
            // A command of this phase still waits to be sent, so that this is no reply to it.
            _ if self.outgoing.is_some() => return Err(Failure::Unexpected),
            (Phase::Greeting, 220) => {
                self.enter(Phase::Ehlo, Outgoing::Ehlo);
                Some(Event::Greeted { waited_ns })
            }
            (Phase::Greeting, _) if refused => return Err(Failure::GreetingRefused),
            (Phase::StartTls, 220) => {
                self.phase = Phase::Securing;
                Some(Event::StartTls)
            }
            (Phase::StartTls, _) if refused => return Err(Failure::StartTlsMissing),
            (Phase::Ehlo, 250) => self.after_ehlo(waited_ns)?,
            (Phase::Ehlo, _) if refused => return Err(Failure::EhloRefused),
            (Phase::Mail, 250) => {
                self.await_rcpt(0);
                None
            }
            (Phase::Mail, _) if refused && self.groups() => {
                self.transaction.refused = true;
                self.await_rcpt(0);
                Some(Event::Refused(Step::Mail))
            }
            (Phase::Mail, _) if refused => Some(self.refuse(Step::Mail)),
            // RFC 5321 §4.2.2: 251, user not local; will forward. 252 is not a reply to RCPT.
            (Phase::Rcpt { index }, 250 | 251) => {
                self.transaction.recipients_accepted += 1;
                self.after_rcpt(index, workload);
                None
            }
            (Phase::Rcpt { index }, _) if refused => self.after_rcpt_refused(index, workload),
            (Phase::Data, _) => self.after_data(waited_ns, now)?,
            (Phase::Final, 250) => {
                self.phase = Phase::Ready;
                let began_at = self.transaction.intended_at.unwrap_or(self.transaction.began_at);
                Some(Event::Accepted {
                    token: self.transaction.token,
                    final_ns: waited_ns,
                    transaction_ns: now.saturating_sub(began_at),
                })
            }
            (Phase::Final, _) if refused => {
                self.phase = Phase::Ready;
                Some(Event::Refused(Step::Content))
            }
            (Phase::Discard, _) if refused => {
                self.phase = Phase::Ready;
                None
            }
            (Phase::Reset, 250) => {
                self.phase = Phase::Ready;
                None
            }
            (Phase::Quit, 221) => {
                self.phase = Phase::Closed;
                Some(Event::Closed)
            }
            _ => return Err(Failure::Unexpected),
        })
    }

    fn after_ehlo(&mut self, waited_ns: u64) -> Result<Option<Event>, Failure> {
        if self.wants_starttls && !self.secured {
            self.enter(Phase::StartTls, Outgoing::StartTls);
            return if self.starttls_offered { Ok(None) } else { Err(Failure::StartTlsMissing) };
        }
        if self.pipelining == Pipelining::Required && !self.pipelining_offered {
            return Err(Failure::PipeliningMissing);
        }
        self.opened = true;
        self.phase = Phase::Ready;
        Ok(Some(Event::Opened { waited_ns }))
    }

    fn enter(&mut self, phase: Phase, outgoing: Outgoing) {
        self.phase = phase;
        self.outgoing = Some(outgoing);
    }

    /// Sends the command of the next phase, unless it is in the group that was sent.
    fn enter_in_group(&mut self, phase: Phase, outgoing: Outgoing) {
        self.phase = phase;
        if !self.groups() {
            self.outgoing = Some(outgoing);
        }
    }

    fn await_rcpt(&mut self, index: usize) {
        self.enter_in_group(Phase::Rcpt { index }, Outgoing::Rcpt { index });
    }

    fn after_rcpt(&mut self, index: usize, workload: &Workload) {
        if index + 1 < workload.rcpt.len() {
            self.await_rcpt(index + 1);
        } else {
            self.enter_in_group(Phase::Data, Outgoing::Data);
        }
    }

    fn after_rcpt_refused(&mut self, index: usize, workload: &Workload) -> Option<Event> {
        // After a refused MAIL, the 503 of its RCPT is no news.
        let news = !self.transaction.refused;
        let last = index + 1 == workload.rcpt.len();
        if last && self.transaction.recipients_accepted == 0 && !self.groups() {
            return Some(self.refuse(Step::Rcpt));
        }
        self.after_rcpt(index, workload);
        if last && self.transaction.recipients_accepted == 0 {
            self.transaction.refused = true;
            return if news { Some(Event::Refused(Step::Rcpt)) } else { None };
        }
        if news { Some(Event::RecipientRefused) } else { None }
    }

    fn after_data(&mut self, waited_ns: u64, now: u64) -> Result<Option<Event>, Failure> {
        Ok(match (self.transaction.refused, self.code) {
            (false, 354) => {
                self.enter(Phase::Content { sent_len: 0 }, Outgoing::Content);
                let waited_ns =
                    if self.groups() { waited_ns } else { now.saturating_sub(self.transaction.began_at) };
                Some(Event::EnvelopeAccepted { waited_ns })
            }
            // RFC 2920 §3.1: a client must be prepared for a 354 after all its recipients were refused, and sends one
            // dot.
            (true, 354) => {
                self.enter(Phase::Discard, Outgoing::LoneDot);
                None
            }
            (false, 400..600) => Some(self.refuse(Step::Data)),
            (true, 400..600) => {
                self.enter(Phase::Reset, Outgoing::Reset);
                None
            }
            _ => return Err(Failure::Unexpected),
        })
    }

    /// Nothing of the transaction is under way any more; RSET brings the server to the same view.
    fn refuse(&mut self, step: Step) -> Event {
        self.enter(Phase::Reset, Outgoing::Reset);
        Event::Refused(step)
    }

    fn groups(&self) -> bool {
        self.pipelining != Pipelining::Off && self.pipelining_offered
    }

    fn note_extension(&mut self) {
        let line = self.reader.text();
        let keyword = line.split(|&octet| octet == b' ').next().unwrap_or_default();
        self.pipelining_offered |= keyword.eq_ignore_ascii_case(b"PIPELINING");
        self.starttls_offered |= keyword.eq_ignore_ascii_case(b"STARTTLS");
        self.size_offered |= keyword.eq_ignore_ascii_case(b"SIZE");
    }
}

#[cfg(test)]
mod tests;
