//! What is told of a message: that it was taken, and what came of each attempt at it.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Events;
use super::line::{Line, mailbox, without_addresses};
use crate::egress::error::{DeliveryError, Problem};
use crate::egress::flush::unix_us;
use crate::egress::job::{Attempt, Failed, Job, Told, Verdict};
use crate::egress::plan::{Kept, Way};
use crate::protocol::deferral::Action;
use crate::protocol::envelope::Envelope;

impl Events {
    /// That a message was accepted. It is told when its first attempt begins; what a crash repeats is told again.
    pub(in crate::egress) fn tell_accepted(&self, job: &Job) {
        let mut line = Line {
            time: job.ticket.meta.received_unix_us,
            event: "accepted",
            id: job.ticket.meta.id,
            octets: Some(job.octets),
            ..Line::default()
        };
        if let Ok(envelope) = Envelope::parse(&job.envelope) {
            line.listener = envelope.listener();
            line.client = envelope.client().map(|(client, _)| client.to_canonical());
            line.recipients = Some(envelope.recipients_count());
            line.tls = Some(envelope.security().map_or(Cow::Borrowed("off"), |security| {
                format!("{} {}", security.version.name(), security.cipher.name()).into()
            }));
            if self.addresses {
                line.from = Some(mailbox(envelope.reverse_path()));
                line.to = Some(envelope.recipients().map(mailbox).collect());
            }
        }
        let mut lines = Vec::new();
        line.append_to(&mut lines);
        self.push(&lines);
    }

    /// What came of an attempt at a message.
    pub(in crate::egress) fn tell_attempt(&self, job: &Job, verdict: &Verdict) {
        let account = Account::new(job, verdict, self.addresses);
        let mut lines = Vec::new();
        account.write(&mut lines);
        if !lines.is_empty() {
            self.push(&lines);
        }
    }
}

/// What there is to tell of an attempt.
struct Account<'a> {
    job: &'a Job,
    is_held_as_before: bool,
    next_attempt: Option<u64>,
    addresses: bool,
    recipients: Vec<&'a [u8]>,
    /// What all lines have.
    common: Line<'a>,
}

/// Recipients that fared alike.
struct Group<'a> {
    line: Line<'a>,
    positions: Vec<u16>,
}

impl<'a> Account<'a> {
    fn new(job: &'a Job, verdict: &Verdict, addresses: bool) -> Self {
        let now_unix_us = unix_us();
        let meta = &job.ticket.meta;
        let envelope = Envelope::parse(&job.envelope).ok().filter(|_| addresses);
        Self {
            job,
            is_held_as_before: matches!(verdict, Verdict::Held),
            next_attempt: if let Verdict::Deferred(change) = verdict { change.due_unix_us } else { None },
            addresses,
            recipients: envelope.map(|envelope| envelope.recipients().collect()).unwrap_or_default(),
            common: Line {
                time: now_unix_us,
                id: meta.id,
                attempt: Some(job.ticket.attempts() + 1),
                age_ms: Some(now_unix_us.saturating_sub(meta.received_unix_us) / 1000),
                ..Line::default()
            },
        }
    }

    fn write(&self, lines: &mut Vec<u8>) {
        for attempt in &self.job.copies {
            self.write_groups(self.of_copy(attempt), lines);
        }
        let has_failed = |failed: &&Failed| failed.recipient.failure.action == Action::Failed;
        let new = self.job.failed.iter().filter(|failed| failed.is_new).filter(has_failed);
        self.write_groups(self.of_failures(new), lines);
        self.write_notices(lines);
        if self.job.discards {
            Line { event: "discarded", ..self.common.clone() }.append_to(lines);
        }
        if self.job.is_removed {
            Line { event: "removed", ..self.common.clone() }.append_to(lines);
        }
        // Together with what is tried again it is told once.
        let is_told = self.is_held_as_before || (self.next_attempt.is_some() && self.job.ticket.is_retry());
        if let Some(kept) = self.job.kept.as_ref().filter(|_| !is_told) {
            let (route, why) = match kept {
                Kept::ByOperator => (None, "by order of the operator".into()),
                Kept::ByRoute(route) => (Some(*route), "its route holds its mail".into()),
                Kept::NoRoute(domain) => (None, format!("no route takes {domain}").into()),
                Kept::Unreadable(error) => (None, error.to_string().into()),
                Kept::Undeliverable => (None, "it cannot be delivered, and its sender cannot be told".into()),
            };
            Line { event: "held", route, why: Some(why), ..self.common.clone() }.append_to(lines);
        }
    }

    /// Who got it, and who is to get it by a later attempt.
    fn of_copy(&self, attempt: &'a Attempt) -> Groups<'a> {
        let target = match &attempt.copy.way {
            Way::Maildir { .. } => "maildir",
            Way::Relay { hop, .. } => hop.relay().protocol.name(),
        };
        // Without a connection there is nothing to say of it.
        let next_hop = attempt.next_hop.as_deref().map(Cow::Borrowed);
        let tls = next_hop.as_ref().map(|_| Cow::Borrowed(attempt.tls.as_deref().unwrap_or("off")));
        let route = Some(attempt.copy.route_index);
        let common = Line { route, target: Some(target), ..self.common.clone() };
        let mut groups = Groups::default();
        for (&position, outcome) in attempt.copy.recipients.iter().zip(&attempt.outcomes) {
            let Ok(reply) = outcome else { continue };
            let reply = self.shown(Cow::Borrowed(&**reply));
            groups.add("delivered", &reply, position, || Line {
                next_hop: next_hop.clone(),
                octets: Some(attempt.octets),
                tls: tls.clone(),
                reply: Some(reply.clone()).filter(|reply| !reply.is_empty()),
                ..common.clone()
            });
        }
        for (position, error) in attempt.transient() {
            let text = self.error(error);
            if error.is_no_attempt() {
                groups.add("put-off", &text, position, || Line {
                    attempt: None,
                    next_hop: said(error).0,
                    why: Some(text.clone()),
                    next_attempt: self.next_attempt,
                    ..common.clone()
                });
                continue;
            }
            groups.add("deferred", &text, position, || {
                let (next_hop, reply) = said(error);
                Line {
                    next_hop,
                    tls: tls.clone(),
                    status: Some(error.failure(false).status.into()),
                    reply: reply.map(|reply| self.shown(reply.into())),
                    error: Some(text.clone()),
                    next_attempt: self.next_attempt,
                    ..common.clone()
                }
            });
        }
        groups
    }

    /// Who will not get it.
    fn of_failures(&self, failures: impl Iterator<Item = &'a Failed>) -> Groups<'a> {
        let mut groups = Groups::default();
        for failed in failures {
            let failure = &failed.recipient.failure;
            let (told, why) = match failed.told {
                Told::Sender => ("sender", None),
                Told::Nobody(why) => ("nobody", Some(why.into())),
                Told::NotYet(_) => ("later", None),
                Told::Held => ("held", None),
            };
            let of = |attempt: &&Attempt| attempt.copy.recipients.contains(&failed.position);
            let route = self.job.copies.iter().find(of).map(|attempt| attempt.copy.route_index);
            let key = format!("{route:?} {told} {} {} {}", failure.status, failure.remote, failure.reason);
            groups.add("failed", &key, failed.position, || Line {
                route,
                next_hop: Some(Cow::Borrowed(&*failure.remote)).filter(|remote| !remote.is_empty()),
                status: Some(Cow::Borrowed(&*failure.status)),
                reply: Some(self.shown(Cow::Borrowed(&*failure.reason))),
                told: Some(told),
                why,
                ..self.common.clone()
            });
        }
        groups
    }

    /// What became of the notices to the sender.
    fn write_notices(&self, lines: &mut Vec<u8>) {
        for action in [Action::Failed, Action::Delivered, Action::Relayed] {
            self.write_notice(action, lines);
        }
        let before = self.job.ticket.deferral.as_ref().is_some_and(|before| before.delay_told);
        if self.job.delay_told && !before {
            let about = Some(Action::Delayed.name());
            Line { event: "notice", about, ..self.common.clone() }.append_to(lines);
        }
    }

    fn write_notice(&self, action: Action, lines: &mut Vec<u8>) {
        let about = Some(action.name());
        let failed = self.job.failed.iter().filter(|failed| failed.recipient.failure.action == action);
        let sent = failed.clone().filter(|failed| matches!(failed.told, Told::Sender));
        let positions: Vec<u16> = sent.map(|failed| failed.position).collect();
        if !positions.is_empty() {
            let line = Line { event: "notice", about, ..self.common.clone() };
            self.with_recipients(line, &positions).append_to(lines);
        }
        let not_yet = failed.clone().find_map(|failed| match &failed.told {
            Told::NotYet(error) => Some(error),
            _ => None,
        });
        if let Some(error) = not_yet {
            let error = Some(self.error(error));
            let next_attempt = self.next_attempt;
            Line { event: "notice", about, error, next_attempt, ..self.common.clone() }.append_to(lines);
        }
    }

    fn write_groups(&self, groups: Groups<'a>, lines: &mut Vec<u8>) {
        for Group { line, positions } in groups.groups {
            self.with_recipients(line, &positions).append_to(lines);
        }
    }

    fn with_recipients(&self, line: Line<'a>, positions: &[u16]) -> Line<'a> {
        let path = |position: &u16| self.recipients.get(usize::from(*position)).copied().map(mailbox);
        let to = self.addresses.then(|| positions.iter().filter_map(path).collect());
        Line { recipients: Some(positions.len()), to, ..line }
    }

    fn error(&self, error: &DeliveryError) -> Cow<'a, str> {
        match error {
            // Most paths of Maildirs are made of addresses.
            DeliveryError::File { action, source, .. } if !self.addresses => {
                format!("cannot {action} in the Maildir: {source}").into()
            }
            error => self.shown(error.to_string().into()),
        }
    }

    fn shown(&self, text: Cow<'a, str>) -> Cow<'a, str> {
        if self.addresses || !text.contains('@') {
            return text;
        }
        without_addresses(&text).into_owned().into()
    }
}

/// In the order of their first recipients.
#[derive(Default)]
struct Groups<'a> {
    groups: Vec<Group<'a>>,
    /// By event and text.
    known: HashMap<(&'static str, String), usize>,
}

impl<'a> Groups<'a> {
    fn add(&mut self, event: &'static str, text: &str, position: u16, line: impl FnOnce() -> Line<'a>) {
        let at = *self.known.entry((event, text.to_owned())).or_insert(self.groups.len());
        if at == self.groups.len() {
            self.groups.push(Group { line: Line { event, ..line() }, positions: Vec::new() });
        }
        self.groups[at].positions.push(position);
    }
}

/// The next hop that an error is of, and what it said.
fn said<'a>(error: &DeliveryError) -> (Option<Cow<'a, str>>, Option<String>) {
    let DeliveryError::Relay(error) = error else { return (None, None) };
    let hop = Some(error.hop.clone()).filter(|hop| !hop.is_empty());
    let reply = match &error.problem {
        Problem::Said(_, reply) => Some(reply.text()),
        Problem::Answered(code, line) => Some(format!("{code} {line}").trim_end().to_owned()),
        _ => None,
    };
    (hop.map(Cow::Owned), reply)
}
