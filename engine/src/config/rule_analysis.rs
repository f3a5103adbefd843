//! What is hardly meant in rules: those that can never match, and lists that end without saying what happens to the
//! rest.

use super::reader::Reader;
use super::sections::{Built, Rules};
use crate::policy::rules::{Action, Hidden, Stage, Why};

/// Rules that are named in one message.
const NAMED_COUNT_MAX: usize = 5;

pub(super) fn analyse(reader: &Reader, built: &Built) {
    for hidden in &built.hidden_rules {
        explain_hidden(reader, &built.rules, hidden);
    }
    for stage in Stage::ALL {
        find_idle_accepts(reader, &built.rules, stage);
    }
    relays(reader, built);
}

fn explain_hidden(reader: &Reader, rules: &Rules, hidden: &Hidden) {
    let span = rules.spans[hidden.rule];
    let by = places(rules, &hidden.by);
    let stage = rules.specs[hidden.rule].stage.name();
    match hidden.why {
        Why::CatchAll => reader.warn_as(
            "rule-behind-catch-all",
            span,
            format!("this rule never matches: the rule at {by} takes everything at stage \"{stage}\""),
            "move it before that rule, or remove it",
        ),
        Why::Covered => reader.warn_as(
            "rule-never-matches",
            span,
            format!("this rule never matches: all that it lists is taken before it, by {by}"),
            "move it further up, narrow what stands before it, or remove it",
        ),
    }
}

/// Accepting changes nothing unless something behind it refuses.
fn find_idle_accepts(reader: &Reader, rules: &Rules, stage: Stage) {
    let of_stage: Vec<usize> =
        (0..rules.specs.len()).filter(|index| rules.specs[*index].stage == stage).collect();
    let last_refusal = of_stage.iter().rposition(|index| rules.specs[*index].action.refuses());
    let behind = &of_stage[last_refusal.map_or(0, |at| at + 1)..];
    let is_accept = |index: &&usize| rules.specs[**index].action == Action::Accept;
    // At RCPT an accept in front of a relay keeps it from relaying.
    let relays = behind.iter().any(|index| rules.specs[*index].action == Action::Relay);
    let Some(first) = behind.iter().find(is_accept).filter(|_| !relays) else { return };
    let name = stage.name();
    let message = format!(
        "this rule changes nothing: no rule of stage \"{name}\" behind it refuses anything, and what no rule \
         refuses is accepted"
    );
    let help = format!(
        "end with [[rule]] stage = \"{name}\", action = \"reject\", if all others are meant to be refused"
    );
    reader.warn_as("rule-no-catch-all", rules.spans[*first], message, help);
}

/// A relay for everybody, and one whose mail no route takes.
fn relays(reader: &Reader, built: &Built) {
    let Built { rules, config, .. } = built;
    for (spec, span) in rules.specs.iter().zip(&rules.spans) {
        if spec.action != Action::Relay {
            continue;
        }
        if spec.client.is_none() && spec.to.is_none() {
            let message = "this rule relays from everybody to everybody: an open relay";
            reader.warn_as(
                "rule-open-relay",
                *span,
                message,
                "name the `client`s that may relay, or the domains in `to`",
            );
        }
        if !config.routes.iter().any(|route| route.matches("*")) {
            let message = "no [[route]] takes the mail of all domains that this rule may relay to";
            reader.warn_as(
                "rule-relay-without-route",
                *span,
                message,
                "end with [[route]] domains = [\"*\"]",
            );
        }
    }
}

fn places(rules: &Rules, indexes: &[usize]) -> String {
    let place = |index: &usize| rules.specs[*index].place.to_string();
    let named: Vec<String> = indexes.iter().take(NAMED_COUNT_MAX).map(place).collect();
    let more = indexes.len().saturating_sub(NAMED_COUNT_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    named.join(", ") + &rest
}
