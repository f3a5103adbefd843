//! How a session refuses, fails and ends.

use std::time::Duration;

use crate::event::Kind;
use crate::limits;
use crate::protocol::reply::Reply;
use crate::session::phase::Phase;
use crate::session::{Context, Error, Fault, Next, Service, Session};

impl Session {
    /// When [`timeout`](Self::timeout) is to be called if nothing comes; `None` while the session waits for its caller.
    pub fn deadline(&self, service: &Service) -> Option<Duration> {
        match &self.phase {
            _ if self.is_waiting() => None,
            Phase::Committing { .. } | Phase::Closing(_) => None,
            Phase::Securing { until, .. } | Phase::Greeting { until, .. } | Phase::Tarpit { until, .. } => {
                Some(*until)
            }
            Phase::Proxy => Some(self.active_at + limits::PROXY_HEADER_TIME_MAX),
            Phase::Body(transaction) => {
                let last = transaction.content_began_at + service.settings.guard.data_time_max;
                Some(last.min(self.active_at + service.settings.data_timeout))
            }
            _ if self.skipped.is_some() => Some(self.active_at + service.settings.data_timeout),
            _ => Some(self.active_at + service.settings.command_timeout),
        }
    }

    /// The deadline has passed: what had to wait for it goes on, or the session ends (RFC 5321 §4.5.3.2.7). Input that
    /// was left unread is to be presented again.
    pub fn timeout(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        let fault = match &self.phase {
            Phase::Greeting { .. } => return self.say_greeting(cx, out),
            Phase::Tarpit { .. } => return self.leave_tarpit(cx),
            Phase::Proxy => return self.give_up_proxy(cx, "no header in time"),
            Phase::Securing { .. } => return self.distrust(cx, "no handshake in time"),
            Phase::Body(transaction)
                if cx.now.monotonic
                    >= transaction.content_began_at + cx.service.settings.guard.data_time_max =>
            {
                Fault::ContentTooLong
            }
            _ => Fault::TimedOut,
        };
        self.dismiss(cx, fault, out)
    }

    /// The server stops. A session outside of a transaction ends now, others when theirs has.
    pub fn stop(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        match self.phase {
            Phase::Proxy | Phase::Greeting { .. } | Phase::TurnedAway | Phase::Start | Phase::Idle => {
                self.fail_and_close(cx, Error::Stopping, out)
            }
            Phase::Tarpit { transaction: None, .. } => self.fail_and_close(cx, Error::Stopping, out),
            Phase::Securing { .. } => self.distrust(cx, Error::Stopping.name()),
            Phase::Closing(_) => Next::Close,
            _ => Next::Input,
        }
    }

    /// What ended the session, for the log: `quit`, or the fault or error.
    pub fn ended_by(&self) -> &'static str {
        if let Phase::Closing(why) = self.phase { why } else { "" }
    }

    /// The connection is gone: gives everything back.
    pub fn end(&mut self, cx: &mut Context<'_>) {
        cx.pool.stats.handshakes_failed.add(u64::from(self.is_securing()));
        self.leave(cx);
        let why = self.ended_by();
        self.enter(cx, Phase::Closing(why));
    }

    /// Answers a fault; after too many of them the session is over.
    pub(super) fn refuse(&mut self, cx: &mut Context<'_>, fault: Fault, out: &mut Vec<u8>) -> Next {
        self.blame(cx, fault, out);
        if self.mail_failed && fault == Fault::MailFirst {
            return Next::Input;
        }
        if fault.is_misconduct() {
            self.used.add_fault();
        }
        match self.budget.spend(fault, &cx.service.settings.guard.session_limits) {
            None => {
                self.tarpit(cx);
                Next::Input
            }
            Some(last) => self.dismiss(cx, last, out),
        }
    }

    /// Answers a fault that ends the session.
    pub(super) fn dismiss(&mut self, cx: &mut Context<'_>, fault: Fault, out: &mut Vec<u8>) -> Next {
        self.blame(cx, fault, out);
        self.enter(cx, Phase::Closing(fault.name()));
        Next::Close
    }

    fn blame(&self, cx: &Context<'_>, fault: Fault, out: &mut Vec<u8>) {
        let reply = Reply::from(fault);
        cx.pool.stats.faults.bump();
        cx.pool.stats.clients_limited.add(u64::from(matches!(fault, Fault::Limit(_))));
        cx.log(self.id, Kind::Faulted { client: self.client, fault: fault.name(), code: reply.code });
        if self.may_speak(cx) {
            cx.reply(&reply, out);
        }
    }

    /// Answers an error of ours, which costs the client nothing.
    pub(super) fn fail(&self, cx: &Context<'_>, error: Error, out: &mut Vec<u8>) -> Next {
        let reply = Reply::from(error);
        cx.pool.stats.messages_failed.bump();
        cx.log(self.id, Kind::Failed { client: self.client, error: error.name(), code: reply.code });
        cx.reply(&reply, out)
    }

    pub(super) fn fail_and_close(&mut self, cx: &mut Context<'_>, error: Error, out: &mut Vec<u8>) -> Next {
        if self.may_speak(cx) {
            cx.reply(&Reply::from(error), out);
        }
        self.enter(cx, Phase::Closing(error.name()));
        Next::Close
    }
}
