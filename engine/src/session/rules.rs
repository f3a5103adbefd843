//! What the rules of a stage come to in a session.

use std::time::Duration;

use crate::event::Kind;
use crate::policy::rules::{Action, Facts, Matching, Refusal, Rule, Stage};
use crate::protocol::path::{ForwardPath, ReversePath};
use crate::session::phase::Phase;
use crate::session::{Context, Fault, Next, Session};

/// What a rule may ask for besides whose session it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asking<'a> {
    /// Where it is not the session's yet.
    pub(super) helo: Option<&'a [u8]>,
    pub(super) reverse_path: Option<ReversePath<'a>>,
    pub(super) forward_path: Option<&'a ForwardPath<'a>>,
    /// As MAIL announced it.
    pub(super) size: Option<u64>,
}

/// What the rules of a stage say.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    /// The one that ended the stage.
    decided: Option<&'a Rule>,
    /// How long the client has to wait.
    pub(super) delay: Duration,
    /// Bit n: tag n.
    pub(super) tags: u64,
}

impl Asked<'_> {
    /// Whether the recipient is taken wherever its mailbox is.
    pub(super) fn relays(&self) -> bool {
        self.decided.is_some_and(|rule| rule.action == Action::Relay)
    }
}

impl Session {
    /// The rules of a stage that match.
    pub(super) fn matching<'a>(&self, cx: &Context<'a>, stage: Stage, asking: &Asking<'_>) -> Matching<'a> {
        let listener = &cx.service.settings.listener;
        let Asking { helo, reverse_path, forward_path, size } = *asking;
        let (client, helo) = (self.client.ip().into(), helo.unwrap_or(&self.helo));
        let secured = self.secured_by();
        let facts = Facts { client, helo, reverse_path, forward_path, size, secured };
        cx.policy.rules.matching(stage, listener, &facts)
    }

    /// Asks those that match what is to be done: once for each thing that limits count.
    pub(super) fn ask<'a>(&mut self, cx: &Context<'_>, matching: Matching<'a>) -> Asked<'a> {
        let mut asked = Asked::default();
        for rule in matching {
            match &rule.action {
                Action::Tag(tag) => asked.tags |= 1 << tag,
                Action::Tarpit(delay) => asked.delay = asked.delay.max(*delay),
                Action::Limit(limit) => {
                    let (client, now) = (self.client.ip(), cx.now.monotonic);
                    if !cx.pool.clients.admit(&mut self.visit, client, limit, now) {
                        asked.decided = Some(rule);
                        break;
                    }
                }
                Action::Accept | Action::Relay | Action::Reject(_) | Action::Defer(_) | Action::Drop => {
                    asked.decided = Some(rule);
                    break;
                }
            }
        }
        asked
    }

    /// Asks the rules about a recipient of the open transaction.
    pub(super) fn ask_about<'a>(&mut self, cx: &Context<'a>, recipient: &ForwardPath<'_>) -> Asked<'a> {
        if !cx.policy.rules.has(Stage::Rcpt) {
            return Asked::default();
        }
        let Some(transaction) = self.phase.transaction() else { return Asked::default() };
        let asking = Asking {
            helo: None,
            // It was parsed before it was stored.
            reverse_path: ReversePath::parse_stored(transaction.reverse_path()).ok(),
            forward_path: Some(recipient),
            size: transaction.announced_size,
        };
        let matching = self.matching(cx, Stage::Rcpt, &asking);
        self.ask(cx, matching)
    }

    /// Does what the rules said, where that is to refuse; `None`: the stage goes on.
    pub(super) fn refuse_as_ruled(
        &mut self,
        cx: &mut Context<'_>,
        stage: Stage,
        asked: &Asked<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Next> {
        let rule = asked.decided?;
        let refusal = match &rule.action {
            Action::Reject(refusal) | Action::Defer(refusal) => Some(refusal),
            Action::Limit(limit) => Some(&limit.refusal),
            Action::Drop => None,
            Action::Accept | Action::Relay | Action::Tarpit(_) | Action::Tag(_) => return None,
        };
        cx.pool.stats.rules_refused.bump();
        let kind = Kind::Ruled {
            client: self.client,
            generation: cx.policy.generation,
            rule: rule.number,
            stage: stage.name(),
            action: rule.action.name(),
            code: refusal.map_or(0, |refusal| refusal.code),
        };
        cx.log(self.id, kind);
        if let Some(refusal) = refusal {
            out.extend_from_slice(refusal.line());
        }
        if refusal.is_none_or(Refusal::closes) {
            self.enter(cx, Phase::Closing("rule"));
            return Some(Next::Close);
        }
        match stage {
            Stage::Connect => {
                self.is_refused = true;
                self.enter(cx, Phase::TurnedAway);
            }
            Stage::Rcpt => {
                self.count_refused_recipient(cx);
                // As one who asks for mailboxes that are not there.
                let limits = &cx.service.settings.guard.session_limits;
                if let Some(last) = self.budget.spend(Fault::NoMailbox, limits) {
                    return Some(self.dismiss(cx, last, out));
                }
            }
            Stage::Helo | Stage::Mail => {}
        }
        self.wait(cx, asked.delay);
        Some(Next::Input)
    }

    /// The tags of the stages before MAIL, which belong to every message of the session: asked for anew, so that a
    /// message has those of the configuration that it begins under.
    pub(super) fn tags_before_mail(&self, cx: &Context<'_>) -> u64 {
        if !cx.policy.rules.has_tags() {
            return 0;
        }
        let mut tags = 0;
        for stage in [Stage::Connect, Stage::Helo] {
            let matching = self.matching(cx, stage, &Asking::default());
            for rule in matching.take_while(|rule| !rule.action.decides()) {
                if let Action::Tag(tag) = rule.action {
                    tags |= 1 << tag;
                }
            }
        }
        tags
    }
}
