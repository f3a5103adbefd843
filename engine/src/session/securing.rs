//! STARTTLS, and TLS from the first octet: what a session does about the handshake, which its caller carries out.
//!
//! Between [`Next::StartTls`](super::Next) and [`Session::secured`] the session is given nothing. What it learnt before
//! is forgotten then (RFC 3207 §4.2).

use crate::event::Kind;
use crate::limits;
use crate::protocol::reply::{self, Reply};
use crate::security::Secured;
use crate::session::phase::Phase;
use crate::session::{Context, Error, Fault, Next, Session};

/// What TLS a listener has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    #[default]
    Off,
    /// Offered: RFC 3207.
    StartTls,
    /// As `StartTls`, and no mail without it.
    Required,
    /// From the first octet on: RFC 8314 §3.3.
    Implicit,
}

impl TlsMode {
    pub const ALL: [Self; 4] = [Self::Off, Self::StartTls, Self::Required, Self::Implicit];

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::StartTls => "starttls",
            Self::Required => "required",
            Self::Implicit => "implicit",
        }
    }

    pub(super) fn offers_starttls(self) -> bool {
        matches!(self, Self::StartTls | Self::Required)
    }
}

impl Session {
    /// What protects the session; None while it is in clear.
    pub fn secured_by(&self) -> Option<&Secured> {
        self.secured.as_deref()
    }

    /// Whether the handshake is under way.
    pub fn is_securing(&self) -> bool {
        matches!(self.phase, Phase::Securing { .. })
    }

    /// False where TLS has to come first and has not come: what is said in clear is not understood.
    pub(super) fn may_speak(&self, cx: &Context<'_>) -> bool {
        cx.service.settings.tls != TlsMode::Implicit || self.secured.is_some()
    }

    /// Whether STARTTLS is offered now.
    pub(super) fn is_offered_starttls(&self, cx: &Context<'_>) -> bool {
        cx.service.settings.tls.offers_starttls() && self.secured.is_none()
    }

    pub(super) fn start_tls(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Next {
        if self.secured.is_some() {
            return self.refuse(cx, Fault::AlreadySecure, out);
        }
        if !self.is_offered_starttls(cx) {
            return self.refuse(cx, Fault::NotOffered, out);
        }
        match self.phase {
            Phase::Start => return self.refuse(cx, Fault::HelloFirst, out),
            Phase::Mail(_) => return self.refuse(cx, Fault::NestedMail, out),
            Phase::Chunks(_) => return self.refuse(cx, Fault::ChunkExpected, out),
            _ => {}
        }
        if cx.pool.handshakes_count >= limits::HANDSHAKES_COUNT_MAX {
            let (error, reply) = (Error::TlsBusy, Reply::from(Error::TlsBusy));
            cx.pool.stats.handshakes_refused.bump();
            cx.log(self.id, Kind::Failed { client: self.client, error: error.name(), code: reply.code });
            return cx.reply(&reply, out);
        }
        cx.reply(&reply::START_TLS, out);
        self.begin_securing(cx, false)
    }

    /// The handshake comes before the greeting. Nobody can be told in clear that there are too many.
    pub(super) fn secure_first(&mut self, cx: &mut Context<'_>) -> Next {
        if cx.pool.handshakes_count >= limits::HANDSHAKES_COUNT_MAX {
            cx.pool.stats.handshakes_refused.bump();
            return self.distrust(cx, Error::TlsBusy.name());
        }
        self.begin_securing(cx, true)
    }

    fn begin_securing(&mut self, cx: &mut Context<'_>, greet: bool) -> Next {
        let until = cx.now.monotonic + limits::HANDSHAKE_TIME_MAX;
        self.enter(cx, Phase::Securing { until, greet });
        Next::StartTls
    }

    /// The handshake is done. What comes from here on came through TLS, and all that was said before is as if it had
    /// not been.
    pub fn secured(&mut self, cx: &mut Context<'_>, secured: Secured, out: &mut Vec<u8>) -> Next {
        let Phase::Securing { greet, .. } = self.phase else {
            unreachable!("a handshake ends once, in the phase that it began in")
        };
        let Secured { security, resumed, .. } = secured;
        cx.log(self.id, Kind::Secured { client: self.client, security, resumed });
        cx.pool.stats.handshakes.bump();
        cx.pool.stats.secured.count(&security);
        cx.pool.stats.handshakes_resumed.add(u64::from(resumed));
        self.secured = Some(Box::new(secured));
        self.active_at = cx.now.monotonic;
        self.helo.clear();
        self.extended = false;
        self.mail_failed = false;
        if greet {
            return self.welcome(cx, cx.service.settings.guard.greet_delay, out);
        }
        self.enter(cx, Phase::Start);
        Next::Input
    }

    /// There will be no TLS, or there is no more: what came may have been tampered with, and in clear nothing can be
    /// said. Nothing that has not been answered is used.
    pub fn distrust(&mut self, cx: &mut Context<'_>, why: &'static str) -> Next {
        let stats = &cx.pool.stats;
        if self.is_securing() {
            stats.handshakes_failed.bump()
        } else {
            stats.tls_failed.bump()
        }
        cx.log(self.id, Kind::TlsFailed { client: self.client, why });
        // A message that came whole is stored; its client hears nothing of it, and sends it again (RFC 1047).
        if self.message().is_none() {
            self.enter(cx, Phase::Closing("tls-failed"));
        }
        Next::Close
    }
}
