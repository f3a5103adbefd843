//! What is hardly meant in rules: those that can never match, and lists that end without saying what happens to the
//! rest.

use std::collections::HashSet;

use super::reader::Reader;
use super::sections::{Built, Rules};
use crate::limits::NAMED_RULES_COUNT_MAX;
use crate::policy::rules::{Action, Hidden, Stage, Why};

pub(super) fn analyse(reader: &Reader, built: &Built) {
    for hidden in &built.hidden_rules {
        explain_hidden(reader, &built.rules, hidden);
    }
    for stage in Stage::ALL {
        find_idle_accepts(reader, built, stage);
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
fn find_idle_accepts(reader: &Reader, built: &Built, stage: Stage) {
    let Built { rules, hidden_rules, .. } = built;
    // Of hidden ones enough is said.
    let hidden: HashSet<usize> = hidden_rules.iter().map(|hidden| hidden.rule).collect();
    let of_stage: Vec<usize> = (0..rules.specs.len())
        .filter(|index| rules.specs[*index].stage == stage && !hidden.contains(index))
        .collect();
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
        if !config.routes.iter().any(|route| route.takes_all("*")) {
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
    let named: Vec<String> = indexes.iter().take(NAMED_RULES_COUNT_MAX).map(place).collect();
    let more = indexes.len().saturating_sub(NAMED_RULES_COUNT_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    named.join(", ") + &rest
}

#[cfg(test)]
mod tests {
    use crate::config::{Severity, check_text};
    use crate::limits::NAMED_RULES_COUNT_MAX;

    const TEXT: &str = "hostname = \"mx.example.com\"\n[[listener]]\nname = \"mx\"\nbind = [\"127.0.0.1:0\"]\n\
        [spool]\npath = \"/tmp\"\n[recipients]\ndomains = [\"example.com\"]\n[[route]]\ndomains = [\"example.com\"]\n\
        deliver = \"hold\"\n";

    /// Code and message of each finding about rules.
    fn found(rules: &str) -> Vec<(&'static str, String)> {
        let checked = check_text(&format!("{TEXT}{rules}"), "a.toml");
        let findings = checked.findings.into_iter().filter(|finding| finding.code.starts_with("rule-"));
        findings
            .map(|finding| {
                assert!(finding.severity == Severity::Warning && finding.help.is_some(), "{finding}");
                (finding.code, finding.message)
            })
            .collect()
    }

    #[test]
    fn rules_that_never_match_are_named_with_those_that_hide_them() {
        let found = found(
            "[[rule]]\nstage = \"connect\"\nclient = [\"10.0.0.0/9\"]\naction = \"accept\"\n\
             [[rule]]\nstage = \"connect\"\nclient = [\"10.128.0.0/9\"]\naction = \"drop\"\n\
             [[rule]]\nstage = \"connect\"\nclient = [\"10.0.0.0/255.0.0.0\"]\naction = \"accept\"\n\
             [[rule]]\nstage = \"connect\"\naction = \"reject\"\n\
             [[rule]]\nstage = \"connect\"\nclient = [\"192.0.2.1\"]\naction = \"accept\"\n",
        );
        assert_eq!(found[0].0, "rule-never-matches");
        assert!(found[0].1.ends_with("taken before it, by a.toml:12, a.toml:16"), "{}", found[0].1);
        assert_eq!(found[1].0, "rule-behind-catch-all");
        assert!(found[1].1.contains("the rule at a.toml:24 takes everything"), "{}", found[1].1);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn of_many_rules_the_first_are_named() {
        let halves: String = (0..NAMED_RULES_COUNT_MAX + 3)
            .map(|n| {
                format!(
                    "[[rule]]\nstage = \"connect\"\nclient = [\"10.{}.0.0/13\"]\naction = \"drop\"\n",
                    n * 8
                )
            })
            .collect();
        let whole = "[[rule]]\nstage = \"connect\"\nclient = [\"10.0.0.0/10\"]\naction = \"drop\"\n";
        let found = found(&format!("{halves}{whole}"));
        assert!(found.len() == 1 && found[0].1.contains(" and 3 more"), "{found:?}");
    }

    #[test]
    fn accepts_that_nothing_refuses_behind_change_nothing() {
        let accept = "[[rule]]\nstage = \"mail\"\nfrom = [\"a@b.example\"]\naction = \"accept\"\n";
        let reject = "[[rule]]\nstage = \"mail\"\naction = \"reject\"\n";
        assert_eq!(found(accept)[0].0, "rule-no-catch-all");
        assert!(found(&[accept, reject].concat()).is_empty());
    }

    #[test]
    fn relays_to_everybody_or_nowhere_are_told() {
        let codes = |rules: &str| found(rules).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
        let relay = "[[rule]]\nstage = \"rcpt\"\naction = \"relay\"\n";
        assert_eq!(codes(relay), ["rule-open-relay", "rule-relay-without-route"]);
        let some =
            format!("{relay}client = [\"10.0.0.0/8\"]\n[[route]]\ndomains = [\"*\"]\ndeliver = \"hold\"\n");
        assert!(codes(&some).is_empty());
    }

    #[test]
    fn what_a_rule_cannot_say_is_an_error_at_its_place() {
        for (rule, expected) in [
            ("stage = \"connect\"\naction = \"reject\"\ncode = 550", "cannot reply 550"),
            ("stage = \"rcpt\"\naction = \"reject\"\ncode = 450", "cannot reply 450"),
            ("stage = \"rcpt\"\naction = \"defer\"\nenhanced = \"5.7.1\"", "RFC 3463 that begins with 4"),
            (
                "stage = \"helo\"\naction = \"drop\"\nfrom = [\"a@b\"]",
                "`from` is not known at stage \"helo\"",
            ),
            ("stage = \"mail\"\naction = \"relay\"", "`relay` is an action of stage \"rcpt\""),
            ("stage = \"mail\"\naction = \"tag\"", "the rule has no `tag`"),
            ("stage = \"mail\"\naction = \"limit\"", "the rule limits nothing"),
            ("stage = \"mail\"\naction = \"limit\"\nconnections = 1", "counted at stage \"connect\""),
            (
                "stage = \"mail\"\naction = \"drop\"\nclient = [\"192.0.2.1/24\"]",
                "it has bits behind its prefix",
            ),
            (
                "stage = \"mail\"\naction = \"drop\"\nclient = [\"192.0.2.0/255.0.255.0\"]",
                "the ones have to stand in front",
            ),
            ("stage = \"mail\"\naction = \"drop\"\nclient = []", "`client` is empty"),
            ("stage = \"mail\"\naction = \"drop\"\nfrom = [\"*\"]", "is no mailbox, domain or .domain"),
            ("stage = \"mail\"\naction = \"drop\"\nlistener = [\"mix\"]", "`listener` cannot be \"mix\""),
            ("stage = \"mail\"\naction = \"reject\"\ntext = \"a\\nb\"", "printable ASCII"),
            ("action = \"drop\"", "the rule has no `stage`"),
            ("stage = \"mail\"", "the rule has no `action`"),
        ] {
            let checked = check_text(&format!("{TEXT}[[rule]]\n{rule}\n"), "a.toml");
            let errors: Vec<String> = checked.findings.iter().map(ToString::to_string).collect();
            let error = errors.iter().find(|error| error.contains(expected));
            let error = error.unwrap_or_else(|| panic!("{rule}: {errors:#?}"));
            assert!(checked.config.is_none() && error.starts_with("a.toml:1"), "{error}");
        }
    }
}
