//! What a stored envelope says of the attempts made so far. A message that was not delivered at its first attempt is
//! stored again with an envelope that begins with these fields and keeps the recipients that are left:
//!
//! | tag | field | value |
//! |---|---|---|
//! | 32 | deferral | the five numbers of [`Deferral`] in their order, little endian; the last of 4 octets, others of 8 |
//! | 33 | last error | why the last attempt failed, UTF-8 |
//! | 35 | delay told | empty: its sender was told that it takes long |
//! | 134 | mark | what an operator has said of it: 1 held, 2 released (see [`Mark`]) |
//!
//! They stand in front, so that they can be read where the rest cannot.

use super::envelope::{TAG_FAILED, TAG_FORWARD_PATH, TAG_MARK, TAG_NOTIFY, TAG_ORCPT, Writer, field};
use crate::limits::LAST_ERROR_LEN_MAX;

const TAG_DEFERRAL: u8 = 32;
const TAG_LAST_ERROR: u8 = 33;
const TAG_DELAY_TOLD: u8 = 35;
const VALUE_LEN: usize = 36;
const HELD: u64 = u64::MAX;

/// The state of a message between two attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deferral {
    /// Epoch of the segment of the record that this one replaces or updates.
    pub origin_epoch: u64,
    /// Its offset there.
    pub origin_offset: u64,
    /// When the first attempt ended, in microseconds since 1970.
    pub since_unix_us: u64,
    /// When the next one is due; `None` for a message that is held, which is stored as all ones.
    pub due_unix_us: Option<u64>,
    /// Attempts at a delivery, all failed for some recipient.
    pub attempts: u32,
    /// Empty where none has failed. Cut at [`LAST_ERROR_LEN_MAX`] octets when it is written.
    pub last_error: String,
    pub mark: Mark,
    /// The sender knows that it takes long.
    pub delay_told: bool,
}

/// What an operator has said of a message. A reader that does not know it would deliver what is held, so its tag is one
/// that must be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing.
    #[default]
    None,
    /// It stays in the spool.
    Held,
    /// It goes its way, past routes that hold their mail.
    Released,
}

/// What has become of a recipient, of which the sender is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Failed,
    /// It is still being tried.
    Delayed,
    Delivered,
    /// A next hop has it that tells nobody.
    Relayed,
}

/// How the delivery to a recipient has ended, of which the sender is to be told: mostly, that it has failed for good.
/// Its stored form is four texts with an octet 0 between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub action: Action,
    /// Enhanced status code: RFC 3463.
    pub status: String,
    /// The next hop that said so; empty if none did.
    pub remote: String,
    /// What it said, or what went wrong: one line.
    pub reason: String,
}

/// What becomes of a recipient in an envelope that is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// Done with.
    Gone,
    Stays,
    Failed(&'a Failure),
}

impl Action {
    const ALL: [Self; 4] = [Self::Failed, Self::Delayed, Self::Delivered, Self::Relayed];

    /// As a notice has it: RFC 3464 §2.3.3.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }
}

impl Failure {
    pub fn read(stored: &[u8]) -> Self {
        let mut texts =
            stored.split(|&octet| octet == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let mut next = || texts.next().unwrap_or_default();
        let (status, remote, reason, action) = (next(), next(), next(), next());
        let is = |of: &Action| of.name() == action;
        Self { action: Action::ALL.into_iter().find(is).unwrap_or_default(), status, remote, reason }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let texts = [&self.status, &self.remote, &self.reason, self.action.name()];
        for (index, text) in texts.into_iter().enumerate() {
            out.extend((index > 0).then_some(0));
            let len = text.floor_char_boundary(LAST_ERROR_LEN_MAX);
            out.extend(text.bytes().take(len).map(|octet| if octet == 0 { b'?' } else { octet }));
        }
    }
}

impl Mark {
    /// None of what is no mark.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        match value {
            [1] => Some(Self::Held),
            [2] => Some(Self::Released),
            _ => None,
        }
    }
}

impl Deferral {
    /// The deferral at the front of an envelope, which may be unreadable behind it; `None` for one that came from a
    /// client.
    pub fn read(envelope: &[u8]) -> Option<Self> {
        let (tag, value, rest) = field(envelope)?;
        let value: &[u8; VALUE_LEN] = value.try_into().ok().filter(|_| tag == TAG_DEFERRAL)?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| value[at + index]));
        let mut next = rest;
        let mut next_if = |wanted: u8| {
            let (tag, value, after) = field(next)?;
            next = if tag == wanted { after } else { next };
            Some(value).filter(|_| tag == wanted)
        };
        let (last_error, delay_told, mark) =
            (next_if(TAG_LAST_ERROR), next_if(TAG_DELAY_TOLD), next_if(TAG_MARK));
        Some(Self {
            origin_epoch: number(0),
            origin_offset: number(8),
            since_unix_us: number(16),
            due_unix_us: Some(number(24)).filter(|&due| due != HELD),
            attempts: u32::from_le_bytes(std::array::from_fn(|index| value[32 + index])),
            last_error: last_error.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default(),
            mark: mark.and_then(Mark::read).unwrap_or_default(),
            delay_told: delay_told.is_some(),
        })
    }

    /// Appends `envelope` to `out` with this deferral in place of its own, and with the recipients as `fate` says of
    /// their positions.
    pub fn rewrite<'a>(&self, envelope: &[u8], fate: impl Fn(usize) -> Fate<'a>, out: &mut Vec<u8>) {
        self.write(&mut Writer(out));
        let mut rest = envelope;
        let (mut position, mut present) = (0, Fate::Stays);
        while let Some((tag, _, after)) = field(rest) {
            let whole = &rest[..rest.len() - after.len()];
            rest = after;
            let is_wanted = match tag {
                TAG_DEFERRAL | TAG_LAST_ERROR | TAG_DELAY_TOLD | TAG_MARK => false,
                TAG_FORWARD_PATH => {
                    present = fate(position);
                    position += 1;
                    present != Fate::Gone
                }
                // They belong to the recipient before them.
                TAG_NOTIFY | TAG_ORCPT => present != Fate::Gone,
                // The first reason stays.
                TAG_FAILED => present == Fate::Stays,
                _ => true,
            };
            if is_wanted {
                out.extend_from_slice(whole);
            }
            if let (TAG_FORWARD_PATH, Fate::Failed(failure)) = (tag, present) {
                Writer(out).field_with(TAG_FAILED, |out| failure.write(out));
            }
        }
        // What is no field was none before either: it is not for us to mend.
        out.extend_from_slice(rest);
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.field_with(TAG_DEFERRAL, |out| {
            let due = self.due_unix_us.unwrap_or(HELD);
            for number in [self.origin_epoch, self.origin_offset, self.since_unix_us, due] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&self.attempts.to_le_bytes());
        });
        if !self.last_error.is_empty() {
            let len = self.last_error.floor_char_boundary(LAST_ERROR_LEN_MAX);
            let text = &self.last_error.as_bytes()[..len];
            writer.field_with(TAG_LAST_ERROR, |out| out.extend_from_slice(text));
        }
        if self.delay_told {
            writer.field_with(TAG_DELAY_TOLD, |_| {});
        }
        let mark = match self.mark {
            Mark::None => return,
            Mark::Held => 1,
            Mark::Released => 2,
        };
        writer.field_with(TAG_MARK, |out| out.push(mark));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::envelope::Envelope;
    use crate::protocol::params::RcptParams;
    use crate::protocol::path::{ForwardPath, Mailbox};

    fn fresh() -> Vec<u8> {
        let mut octets = Vec::new();
        let mut writer = Writer(&mut octets);
        writer.reverse_path(None);
        writer.helo(b"mail.example");
        for recipient in ["a@x", "b@x", "c@x"] {
            writer.forward_path(&ForwardPath::Mailbox(Mailbox::parse(recipient.as_bytes()).unwrap()));
            let orcpt = format!("rfc822;{recipient}");
            writer.rcpt_params(&RcptParams { orcpt: Some(orcpt.as_bytes()), ..RcptParams::default() });
        }
        octets
    }

    fn deferral() -> Deferral {
        Deferral {
            origin_epoch: 7,
            origin_offset: 4160,
            since_unix_us: 1_763_780_000_000_000,
            due_unix_us: Some(1_763_780_060_000_000),
            attempts: 2,
            last_error: "no room \u{2013} \u{e9}".into(),
            mark: Mark::Held,
            delay_told: true,
        }
    }

    #[test]
    fn it_comes_back_with_the_recipients_that_are_left() {
        let mut once = Vec::new();
        deferral().rewrite(
            &fresh(),
            |position| if position == 1 { Fate::Gone } else { Fate::Stays },
            &mut once,
        );
        assert_eq!(Deferral::read(&once), Some(deferral()));
        let envelope = Envelope::parse(&once).unwrap();
        assert_eq!(envelope.recipients().collect::<Vec<_>>(), [b"a@x", b"c@x"]);
        assert_eq!(envelope.helo(), Some(&b"mail.example"[..]));
        let params: Vec<_> = once.windows(9).filter(|octets| octets.starts_with(b"rfc822;")).collect();
        assert_eq!(params, [b"rfc822;a@", b"rfc822;c@"], "with their own parameters");
        assert_eq!(once.iter().filter(|&&octet| octet == TAG_MARK).count(), 1);
        let mark = Mark::Released;
        let later = Deferral { due_unix_us: None, last_error: String::new(), mark, ..deferral() };
        let mut twice = Vec::new();
        later.rewrite(&once, |position| if position == 1 { Fate::Stays } else { Fate::Gone }, &mut twice);
        assert_eq!(Deferral::read(&twice), Some(later));
        assert_eq!(Envelope::parse(&twice).unwrap().recipients().collect::<Vec<_>>(), [b"c@x"]);
        assert_eq!(Deferral::read(&fresh()), None);
    }

    #[test]
    fn a_failure_stays_with_its_recipient() {
        let failure = Failure {
            action: Action::Relayed,
            status: "5.1.1".into(),
            remote: "mail.internal:25".into(),
            reason: "550 5.1.1 nobody\u{e9}".into(),
        };
        let fate = |position| if position == 1 { Fate::Failed(&failure) } else { Fate::Stays };
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        deferral().rewrite(&fresh(), fate, &mut once);
        deferral().rewrite(
            &once,
            |position| if position == 0 { Fate::Gone } else { Fate::Stays },
            &mut twice,
        );
        for (octets, failed) in
            [(once, vec![None, Some(&failure), None]), (twice, vec![Some(&failure), None])]
        {
            let envelope = Envelope::parse(&octets).unwrap();
            let found: Vec<_> = envelope.recipients_with_params().collect();
            assert!(found.iter().all(|recipient| recipient.params.orcpt.is_some()));
            let found: Vec<_> = found.iter().map(|recipient| recipient.failed.map(Failure::read)).collect();
            assert_eq!(found.iter().map(Option::as_ref).collect::<Vec<_>>(), failed);
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let long = Deferral { last_error: "\u{2013}".repeat(LAST_ERROR_LEN_MAX), ..deferral() };
        let mut octets = Vec::new();
        long.rewrite(&fresh(), |_| Fate::Stays, &mut octets);
        let read = Deferral::read(&octets).unwrap().last_error;
        assert!(read.len() <= LAST_ERROR_LEN_MAX && read.chars().all(|c| c == '\u{2013}'), "{}", read.len());
    }

    #[test]
    fn an_unreadable_envelope_is_carried_along_as_it_is() {
        let unreadable = [&fresh()[..], b"\x82\xff\xffcut"].concat();
        let mut octets = Vec::new();
        deferral().rewrite(&unreadable, |_| Fate::Stays, &mut octets);
        assert_eq!(Deferral::read(&octets), Some(deferral()));
        assert!(octets.ends_with(&unreadable));
    }

    proptest! {
        #[test]
        fn any_octets_are_carried_without_panic(envelope: Vec<u8>) {
            let mut octets = Vec::new();
            deferral().rewrite(&envelope, |_| Fate::Stays, &mut octets);
            prop_assert_eq!(Deferral::read(&octets), Some(deferral()));
            let _ = Deferral::read(&envelope);
        }
    }
}
