//! What replies mean.

use super::{Client, Event, Failure, Outgoing, Phase, Pipelining, Step};
use crate::extension::Extension;
use crate::workload::{Transfer, Workload};

impl Client {
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
                self.offered.note(self.reader.text());
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
            _ if self.outgoing.is_some() && !self.sends_ahead(workload) => return Err(Failure::Unexpected),
            (Phase::Greeting, 220) => {
                self.enter(Phase::Ehlo, Outgoing::Ehlo);
                Some(Event::Greeted { waited_ns })
            }
            (Phase::Greeting, _) if refused => return Err(Failure::GreetingRefused),
            (Phase::StartTls, 220) => {
                self.phase = Phase::Securing;
                Some(Event::StartTls)
            }
            (Phase::StartTls, _) if refused => return Err(Failure::Missing(Extension::StartTls)),
            (Phase::Ehlo, 250) => self.after_ehlo(waited_ns, workload)?,
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
                self.after_rcpt(index, now, workload)
            }
            (Phase::Rcpt { index }, _) if refused => self.after_rcpt_refused(index, now, workload),
            (Phase::Data, _) => self.after_data(waited_ns, now)?,
            (Phase::Chunk, _) => self.after_chunk(waited_ns, now)?,
            (Phase::Final, 250) => Some(self.accept(waited_ns, now)),
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

    /// Of a group, content may still be leaving while the replies to what went before it come in.
    fn sends_ahead(&self, workload: &Workload) -> bool {
        self.outgoing == Some(Outgoing::Content) && self.groups() && workload.transfer != Transfer::Data
    }

    fn after_ehlo(&mut self, waited_ns: u64, workload: &Workload) -> Result<Option<Event>, Failure> {
        if self.wants_starttls && !self.secured {
            self.enter(Phase::StartTls, Outgoing::StartTls);
            let offered = self.offered.has(Extension::StartTls);
            return if offered { Ok(None) } else { Err(Failure::Missing(Extension::StartTls)) };
        }
        let mut needed = workload.needed;
        if self.pipelining == Pipelining::Required {
            needed.add(Extension::Pipelining);
        }
        if let Some(missing) = self.offered.lacks(needed) {
            return Err(Failure::Missing(missing));
        }
        self.opened = true;
        self.phase = Phase::Ready;
        Ok(Some(Event::Opened { waited_ns }))
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

    fn after_rcpt(&mut self, index: usize, now: u64, workload: &Workload) -> Option<Event> {
        if index + 1 < workload.rcpt.len() {
            self.await_rcpt(index + 1);
            return None;
        }
        match workload.transfer {
            Transfer::Data => self.enter_in_group(Phase::Data, Outgoing::Data),
            Transfer::Bdat { .. } => self.enter_in_group(Phase::Chunk, Outgoing::Content),
        }
        let waited_ns = now.saturating_sub(self.transaction.began_at);
        (!self.groups()).then_some(Event::RecipientsAnswered { waited_ns })
    }

    fn after_rcpt_refused(&mut self, index: usize, now: u64, workload: &Workload) -> Option<Event> {
        // After a refused MAIL, the 503 of its RCPT is no news.
        let news = !self.transaction.refused;
        let last = index + 1 == workload.rcpt.len();
        if last && self.transaction.recipients_accepted == 0 && !self.groups() {
            return Some(self.refuse(Step::Rcpt));
        }
        // The refusal says more than that the last reply was one.
        let _ = self.after_rcpt(index, now, workload);
        if last && self.transaction.recipients_accepted == 0 {
            self.transaction.refused = true;
            return if news { Some(Event::Refused(Step::Rcpt)) } else { None };
        }
        if news { Some(Event::RecipientRefused) } else { None }
    }

    fn after_data(&mut self, waited_ns: u64, now: u64) -> Result<Option<Event>, Failure> {
        Ok(match (self.transaction.refused, self.code) {
            (false, 354) => {
                self.enter(Phase::Content, Outgoing::Content);
                let data_ns = (!self.groups()).then_some(waited_ns);
                let waited_ns = now.saturating_sub(self.transaction.began_at);
                Some(Event::EnvelopeAccepted { waited_ns, data_ns })
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

    /// The reply to a chunk that was sent whole. RFC 3030 §2: behind a refused one the transaction is to be reset.
    fn after_chunk(&mut self, waited_ns: u64, now: u64) -> Result<Option<Event>, Failure> {
        let groups = self.groups();
        let transaction = &mut self.transaction;
        if transaction.chunks_answered == transaction.chunks_sent {
            return Err(Failure::Unexpected);
        }
        transaction.chunks_answered += 1;
        let last = transaction.is_sent() && transaction.chunks_answered == transaction.chunks_sent;
        Ok(match (transaction.refused, self.code) {
            (false, 250) if last => Some(self.accept(waited_ns, now)),
            (false, 250) => {
                if !groups {
                    self.outgoing = Some(Outgoing::Content);
                }
                None
            }
            (false, 400..600) if last || !groups => Some(self.refuse(Step::Content)),
            (false, 400..600) => {
                transaction.refused = true;
                Some(Event::Refused(Step::Content))
            }
            (true, 400..600) => {
                if last {
                    self.enter(Phase::Reset, Outgoing::Reset);
                }
                None
            }
            _ => return Err(Failure::Unexpected),
        })
    }

    fn accept(&mut self, final_ns: u64, now: u64) -> Event {
        self.phase = Phase::Ready;
        let began_at = self.transaction.intended_at.unwrap_or(self.transaction.began_at);
        Event::Accepted {
            token: self.transaction.token,
            final_ns,
            transaction_ns: now.saturating_sub(began_at),
        }
    }

    /// Nothing of the transaction is under way any more; RSET brings the server to the same view.
    fn refuse(&mut self, step: Step) -> Event {
        self.enter(Phase::Reset, Outgoing::Reset);
        Event::Refused(step)
    }
}
