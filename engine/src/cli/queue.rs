//! `ringmx queue`: the mail that waits for delivery, and what is to be done with it.

use std::collections::HashSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::admin::Client;
use super::spool::{Common, envelope_json, line, visit};
use crate::config::idn;
use crate::egress::{Named, Verb};
use crate::id::MessageId;
use crate::limits::{ORDER_LOOKS_COUNT_MAX, ORDERED_COUNT_MAX};
use crate::protocol::deferral::Deferral;
use crate::protocol::envelope::Envelope;
use crate::store::inspect::{Listed, State};

/// Between two looks for messages whose records moved: longer than a record moves.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// See the mail that waits for delivery, and decide what becomes of it
#[derive(Debug, Args)]
#[command(after_help = "\
Mail is listed from the spool itself; what is to be done with it is asked of the running server,
through the socket `control` in its spool, which only its user and root can open. It is done
at once, and is kept over restarts. What is being delivered at this moment is dealt with when that
attempt has ended; what was never tried yet is on its way, and cannot be named.

Without --spool or --config, the spool of the quick start: ./ringmx-data.

Examples:
  ringmx queue ls --config /etc/ringmx.toml
  ringmx queue ls --domain example.org --json
  ringmx queue retry --all
  ringmx queue retry --domain example.org
  ringmx queue hold 0CH1611EAG081-1 0CH1611EAG081-2
  ringmx queue release --tag suspect
  ringmx queue bounce --sender spammer@example.net
  ringmx queue rm 0CH1611EAG081-1

Exit status: 0 done, 1 no message fits, or some could not be found by the server any more,
2 no server, wrong usage, or the spool cannot be read.")]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List what waits, with attempts, next attempt and last error
    Ls(Selected),
    /// Try it now, also at a next hop that is left alone because it failed
    Retry(Selected),
    /// Keep it in the spool, whatever its routes say, until it is released
    Hold(Selected),
    /// Let it go its way now, past routes that hold their mail, with its whole lifetime in front of it
    Release(Selected),
    /// Remove it for good; nobody is told
    Rm(Selected),
    /// Give it up and tell its sender, as if the lifetime were over
    Bounce(Selected),
}

/// Which messages; all conditions that are given must be met.
#[derive(Debug, Args)]
struct Selected {
    /// As `queue ls`, the reply to the client and the log give it
    #[arg(value_name = "ID")]
    ids: Vec<MessageId>,
    /// With a recipient in this domain
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// From this reverse-path; `<>` is the null reverse-path
    #[arg(long, value_name = "MAILBOX")]
    sender: Option<String>,
    /// With this tag of a rule
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Held: by its route, by an operator, or because no route takes it
    #[arg(long)]
    held: bool,
    /// All that waits
    #[arg(long, conflicts_with_all = ["ids", "domain", "sender", "tag", "held"])]
    all: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &QueueArgs, output: &mut impl Write) -> Result<u8, Failure> {
    let (verb, selected) = match &args.command {
        QueueCommand::Ls(selected) => return list(selected, output),
        QueueCommand::Retry(selected) => (Verb::Retry, selected),
        QueueCommand::Hold(selected) => (Verb::Hold, selected),
        QueueCommand::Release(selected) => (Verb::Release, selected),
        QueueCommand::Rm(selected) => (Verb::Remove, selected),
        QueueCommand::Bounce(selected) => (Verb::Bounce, selected),
    };
    if !selected.all && selected.is_open() {
        let message = "say which messages: by ID, --domain, --sender, --tag, --held, or --all of them";
        return Err(Failure::Usage(message.to_owned()));
    }
    order(verb, selected, output)
}

fn list(selected: &Selected, output: &mut impl Write) -> Result<u8, Failure> {
    let mut failed = Ok(());
    visit(&selected.common.path()?, false, &mut |listed| {
        if listed.state != State::Undelivered || !selected.fits(listed) {
            return ControlFlow::Continue(());
        }
        let text = if selected.common.json { envelope_json(listed).to_string() } else { line(listed) };
        failed = writeln!(output, "{text}");
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failed?;
    Ok(0)
}

fn order(verb: Verb, selected: &Selected, output: &mut impl Write) -> Result<u8, Failure> {
    let path = selected.common.path()?;
    let client = Client::of_spool(&path);
    let (named, fresh_count) = find(&path, &|listed| selected.fits(listed))?;
    let found_count = named.len();
    let ask = |named: &[Named]| ask(named, |some| client.order(verb, some));
    let done_count = carry_out(named, ask, |missed| {
        std::thread::sleep(LOOK_INTERVAL);
        Ok(find(&path, &|listed| missed.contains(&listed.id))?.0)
    })?;
    let missed_count = found_count.saturating_sub(done_count);
    let outcome = json!({
        "verb": verb.name(), "done": done_count, "missed": missed_count, "on_their_way": fresh_count,
    });
    if selected.common.json {
        writeln!(output, "{outcome}")?;
    } else {
        write!(output, "{}", told(verb, &outcome))?;
    }
    Ok(u8::from(done_count == 0 || missed_count > 0))
}

/// The messages that wait and fit, and how many that fit were never tried.
fn find(path: &Path, fits: &dyn Fn(&Listed<'_>) -> bool) -> Result<(Vec<Named>, usize), Failure> {
    let (mut named, mut fresh_count) = (Vec::new(), 0);
    visit(path, false, &mut |listed| {
        if listed.state == State::Undelivered && fits(listed) {
            let Listed { shard, epoch, offset, id, .. } = *listed;
            match Deferral::read(listed.envelope) {
                Some(_) => named.push(Named { shard, epoch, offset, id }),
                None => fresh_count += 1,
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok((named, fresh_count))
}

/// Asks the server for it, and again for those that it misses: between our look at the spool and the server's at the
/// order, their records may have moved. How many messages it was done with.
fn carry_out(
    mut named: Vec<Named>,
    ask: impl Fn(&[Named]) -> Result<HashSet<MessageId>, Failure>,
    look_again: impl Fn(&HashSet<MessageId>) -> Result<Vec<Named>, Failure>,
) -> Result<usize, Failure> {
    let mut done_count = 0;
    for looks_left in (0..ORDER_LOOKS_COUNT_MAX).rev() {
        let missed = ask(&named)?;
        done_count += named.len() - missed.len();
        if missed.is_empty() || looks_left == 0 {
            break;
        }
        named = look_again(&missed)?;
    }
    Ok(done_count)
}

/// Gives as many orders as it takes, and those messages that the server does not know.
fn ask(
    named: &[Named],
    order: impl Fn(&[Named]) -> Result<Value, String>,
) -> Result<HashSet<MessageId>, Failure> {
    let mut missed = HashSet::new();
    for named in named.chunks(ORDERED_COUNT_MAX) {
        let answer = order(named).map_err(Failure::Server)?;
        if let Some(why) = answer["error"].as_str() {
            return Err(Failure::Server(why.to_owned()));
        }
        let ids = answer["missed"].as_array().into_iter().flatten();
        missed.extend(ids.filter_map(|id| id.as_str()?.parse::<MessageId>().ok()));
    }
    Ok(missed)
}

fn told(verb: Verb, outcome: &Value) -> String {
    let mut text = format!("{}: {}\n", verb.name(), outcome["done"]);
    if outcome["missed"] != 0 {
        text += &format!("not found by the server any more, see `ringmx queue ls`: {}\n", outcome["missed"]);
    }
    if outcome["on_their_way"] != 0 {
        text += &format!("never tried yet, and on their way: {}\n", outcome["on_their_way"]);
    }
    text
}

impl Selected {
    /// It asks for nothing.
    fn is_open(&self) -> bool {
        let Self { ids, domain, sender, tag, held, .. } = self;
        ids.is_empty() && domain.is_none() && sender.is_none() && tag.is_none() && !held
    }

    fn fits(&self, listed: &Listed<'_>) -> bool {
        if self.is_open() {
            return true;
        }
        let is_held = Deferral::read(listed.envelope).is_some_and(|deferral| deferral.due_unix_us.is_none());
        if (!self.ids.is_empty() && !self.ids.contains(&listed.id)) || (self.held && !is_held) {
            return false;
        }
        if self.domain.is_none() && self.sender.is_none() && self.tag.is_none() {
            return true;
        }
        let Ok(envelope) = Envelope::parse(listed.envelope) else { return false };
        let is_from = |sender: &String| {
            let sender = sender.strip_prefix('<').and_then(|it| it.strip_suffix('>')).unwrap_or(sender);
            envelope.reverse_path().eq_ignore_ascii_case(sender.as_bytes())
        };
        self.sender.as_ref().is_none_or(is_from)
            && self.tag.as_ref().is_none_or(|tag| envelope.tags().any(|of| of == tag))
            && self.domain.as_ref().is_none_or(|domain| envelope.recipients().any(|to| is_in(to, domain)))
    }
}

fn is_in(recipient: &[u8], domain: &str) -> bool {
    let of = recipient.rsplit(|&octet| octet == b'@').next().unwrap_or_default();
    let of = String::from_utf8_lossy(of);
    idn::to_ascii(&of).eq_ignore_ascii_case(&idn::to_ascii(domain))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::id::SessionId;

    fn named(number: u32) -> Named {
        Named { shard: 0, epoch: 1, offset: 64, id: MessageId { session: SessionId(1), transaction: number } }
    }

    #[test]
    fn a_message_that_is_always_missed_is_looked_for_so_often() {
        let (asked_count, looked_count) = (Cell::new(0), Cell::new(0));
        let ask = |_: &[Named]| {
            asked_count.set(asked_count.get() + 1);
            Ok(HashSet::from([named(2).id]))
        };
        let look_again = |missed: &HashSet<MessageId>| {
            looked_count.set(looked_count.get() + 1);
            assert_eq!(*missed, HashSet::from([named(2).id]));
            Ok(vec![named(2)])
        };
        assert!(carry_out(vec![named(1), named(2)], ask, look_again).is_ok_and(|done_count| done_count == 1));
        assert_eq!(
            (asked_count.get(), looked_count.get()),
            (ORDER_LOOKS_COUNT_MAX, ORDER_LOOKS_COUNT_MAX - 1)
        );
    }

    #[test]
    fn more_messages_than_an_order_names_are_in_several() {
        let counts = RefCell::new(Vec::new());
        let order = |some: &[Named]| {
            counts.borrow_mut().push(some.len());
            let last = some.last().map(|named| named.id.to_string());
            Ok(json!({ "missed": [last] }))
        };
        let all: Vec<Named> = (1..=2 * ORDERED_COUNT_MAX as u32 + 1).map(named).collect();
        let missed = ask(&all, order).unwrap_or_default();
        assert_eq!(*counts.borrow(), [ORDERED_COUNT_MAX, ORDERED_COUNT_MAX, 1]);
        let last = [ORDERED_COUNT_MAX as u32, 2 * ORDERED_COUNT_MAX as u32, 2 * ORDERED_COUNT_MAX as u32 + 1];
        assert_eq!(missed, last.into_iter().map(|number| named(number).id).collect(), "of each");
    }

    #[test]
    fn domains_are_compared_in_all_their_forms() {
        for (recipient, domain, expected) in [
            ("a@example.com", "EXAMPLE.com", true),
            ("\"x@example.org\"@example.com", "example.org", false),
            ("a@xn--bcher-kva.example", "B\u{fc}cher.example", true),
            ("postmaster", "example.com", false),
        ] {
            assert_eq!(is_in(recipient.as_bytes(), domain), expected, "{recipient}");
        }
    }

    #[test]
    fn what_was_not_done_is_told() {
        let outcome = json!({ "done": 2, "missed": 1, "on_their_way": 3 });
        let text = told(Verb::Remove, &outcome);
        assert_eq!(
            text,
            "removed: 2\nnot found by the server any more, see `ringmx queue ls`: 1\n\
             never tried yet, and on their way: 3\n"
        );
        let outcome = json!({ "done": 2, "missed": 0, "on_their_way": 0 });
        assert_eq!(told(Verb::Retry, &outcome), "to be tried now: 2\n");
    }
}
