//! What is to be done with a message: its recipients, gathered by where their mail goes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use super::maildir;
use super::notice::FailedRecipient;
use super::relay::{Addressee, Hop, Hops, Letter};
use crate::config::{Addressed, Config, Deliver, RelayProtocol, idn};
use crate::limits::HTTP_RECIPIENTS_COUNT_MAX;
use crate::protocol::deferral::{Failure, Mark};
use crate::protocol::envelope::{Envelope, EnvelopeError, Recipient};
use crate::protocol::params::Notify;

/// The whole way of one message that is left to go.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One for each directory and each next hop, by HTTP for each fifty recipients, in the order of their first ones.
    pub copies: Vec<Copy>,
    /// Recipients whose delivery has failed in a former attempt, and whose sender is to be told.
    pub failed: Vec<(u16, FailedRecipient)>,
    /// Why the message stays in the spool, whatever else is done with it.
    pub kept: Option<Kept>,
    /// Positions in the envelope of the recipients for whom it stays; empty where the envelope cannot be read.
    pub kept_recipients: Vec<u16>,
    /// Some recipient's route discards.
    pub discards: bool,
    /// Some recipient's sender wants to know of its delivery.
    pub wants_notice: bool,
}

/// A message that goes to one place, once for all its recipients there.
#[derive(Debug)]
pub(super) struct Copy {
    /// Positions in the envelope of the recipients it is for.
    pub recipients: Vec<u16>,
    /// Position of the route in the configuration.
    pub route_index: usize,
    pub way: Way,
}

#[derive(Debug)]
pub(super) enum Way {
    /// One file to be written. `head`: what stands in front of the content.
    Maildir { directory: PathBuf, head: Vec<u8> },
    /// One transaction with a next hop; its recipients are the copy's, in the same order.
    Relay { hop: Rc<Hop>, letter: Rc<Letter> },
}

/// Why a message is held without another attempt. The next start looks at it again, and a change of the routes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The route at this position holds its mail.
    ByRoute(usize),
    ByOperator,
    /// No route takes this domain: the configuration has changed since the message was accepted.
    NoRoute(String),
    Unreadable(EnvelopeError),
    /// It cannot be delivered, and there is no way to its sender: no `[bounce]`.
    Undeliverable,
}

/// Where a copy goes.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Destination {
    Directory(PathBuf),
    Relay(Rc<Hop>),
}

struct Place<'a> {
    route_index: usize,
    destination: Destination,
    recipients: Vec<(u16, Recipient<'a>)>,
}

impl Plan {
    pub(super) fn new(envelope: &[u8], config: &Config, hops: &Hops, mark: Mark) -> Self {
        let envelope = match Envelope::parse(envelope) {
            Ok(envelope) => envelope,
            Err(error) => return Self { kept: Some(Kept::Unreadable(error)), ..Self::default() },
        };
        if mark == Mark::Held {
            let kept_recipients = (0..).take(envelope.recipients_count()).collect();
            return Self { kept: Some(Kept::ByOperator), kept_recipients, ..Self::default() };
        }
        let mut plan = Self::default();
        let mut places: Vec<Place<'_>> = Vec::new();
        #[expect(
            clippy::mutable_key_type,
            reason = "hops are told apart by where they are, which does not change"
        )]
        let mut by_destination: HashMap<Destination, usize> = HashMap::new();
        let (listener, tags) = (envelope.listener(), envelope.tags().collect::<Vec<_>>());
        for (position, recipient) in (0u16..).zip(envelope.recipients_with_params()) {
            if let Some(failure) = recipient.failed {
                plan.failed.push((position, FailedRecipient::of(&recipient, Failure::read(failure))));
                continue;
            }
            plan.wants_notice |= recipient.params.notify.is_some_and(|notify| notify.has(Notify::SUCCESS));
            let (local_part, domain) = split(recipient.path, config);
            let domain = &*idn::to_ascii(&String::from_utf8_lossy(domain)).into_owned();
            let addressed = Addressed { mailbox: recipient.path, domain, listener, tags: &tags };
            let route = match mark {
                Mark::Released => config.route_for_released(&addressed),
                Mark::None | Mark::Held => config.route_for(&addressed),
            };
            let Some((route_index, route)) = route else {
                plan.kept = Some(Kept::NoRoute(domain.escape_debug().to_string()));
                plan.kept_recipients.push(position);
                continue;
            };
            let destination = match &route.deliver {
                Deliver::Discard => {
                    plan.discards = true;
                    continue;
                }
                Deliver::Hold => {
                    plan.kept.get_or_insert(Kept::ByRoute(route_index));
                    plan.kept_recipients.push(position);
                    continue;
                }
                // One mailbox, however its local-part was written.
                Deliver::Maildir { path } => {
                    Destination::Directory(path.expand(&local_part.to_ascii_lowercase(), domain.as_bytes()))
                }
                Deliver::Relay(relay) => Destination::Relay(hops.of(relay)),
            };
            let at = *by_destination.entry(destination).or_insert_with_key(|destination| {
                let destination = destination.clone();
                places.push(Place { route_index, destination, recipients: Vec::new() });
                places.len() - 1
            });
            places[at].recipients.push((position, recipient));
        }
        plan.copies = places.into_iter().flat_map(Place::split).map(|place| place.copy(&envelope)).collect();
        plan
    }
}

impl Place<'_> {
    /// As many as one request of HTTP names recipients.
    fn split(mut self) -> Vec<Self> {
        let mut places = Vec::new();
        if let Destination::Relay(hop) = &self.destination
            && matches!(hop.relay().protocol, RelayProtocol::Http(_))
        {
            while self.recipients.len() > HTTP_RECIPIENTS_COUNT_MAX {
                let rest = self.recipients.split_off(HTTP_RECIPIENTS_COUNT_MAX);
                let recipients = std::mem::replace(&mut self.recipients, rest);
                let destination = self.destination.clone();
                places.push(Place { route_index: self.route_index, destination, recipients });
            }
        }
        places.push(self);
        places
    }

    fn copy(self, envelope: &Envelope<'_>) -> Copy {
        let Place { route_index, destination, recipients } = self;
        let way = match destination {
            Destination::Directory(directory) => {
                let paths = recipients.iter().map(|(_, recipient)| recipient.path);
                Way::Maildir { directory, head: maildir::head(envelope.reverse_path(), paths) }
            }
            Destination::Relay(hop) => {
                let addressees = recipients.iter().map(|(_, recipient)| Addressee::of(recipient)).collect();
                let letter = Letter { recipients: addressees, ..Letter::of(envelope) };
                Way::Relay { hop, letter: Rc::new(letter) }
            }
        };
        let recipients = recipients.into_iter().map(|(position, _)| position).collect();
        Copy { recipients, route_index, way }
    }
}

/// Local-part and domain of a stored mailbox; a `<Postmaster>` without a domain is the configured one's.
fn split<'a>(recipient: &'a [u8], config: &'a Config) -> (&'a [u8], &'a [u8]) {
    match memchr::memrchr(b'@', recipient) {
        Some(at) => (&recipient[..at], &recipient[at + 1..]),
        None => (recipient, config.recipients.postmaster_domain.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::protocol::envelope::Writer;
    use crate::protocol::path::{ForwardPath, Mailbox};

    const CONFIG: &str = r#"
        [[listener]]
        bind = ["127.0.0.1:0"]
        [recipients]
        domains = ["a.example", "b\u00fccher.example", "b.example", "hold.example", "drop.example", "http.example"]
        [[route]]
        domains = ["a.example", "b\u00fccher.example"]
        deliver = "maildir"
        path = "/mail/{domain}/{local_part}"
        [[route]]
        domains = ["b.example"]
        deliver = "maildir"
        path = "/mail/shared"
        [[route]]
        domains = ["hold.example"]
        deliver = "hold"
        [[route]]
        domains = ["drop.example"]
        deliver = "discard"
        [[route]]
        domains = ["http.example"]
        deliver = "http"
        url = "http://127.0.0.1:8080/"
        secret = "x"
    "#;

    fn directory(copy: &Copy) -> &Path {
        match &copy.way {
            Way::Maildir { directory, .. } => directory,
            Way::Relay { .. } => panic!("it goes to a next hop"),
        }
    }

    fn head(copy: &Copy) -> &[u8] {
        match &copy.way {
            Way::Maildir { head, .. } => head,
            Way::Relay { .. } => panic!("it goes to a next hop"),
        }
    }

    fn plan(recipients: &[&str]) -> Plan {
        let config = Config::parse(CONFIG, "/etc/test.toml").unwrap();
        let mut envelope = Vec::new();
        let mut writer = Writer(&mut envelope);
        writer.reverse_path(Some(&Mailbox::parse(b"s@sender.example").unwrap()));
        for recipient in recipients {
            writer.forward_path(&match *recipient {
                "postmaster" => ForwardPath::Postmaster,
                mailbox => ForwardPath::Mailbox(Mailbox::parse(mailbox.as_bytes()).unwrap()),
            });
        }
        Plan::new(&envelope, &config, &Hops::default(), Mark::None)
    }

    #[test]
    fn recipients_are_gathered_by_directory() {
        let plan =
            plan(&["X@A.example", "y@b.example", "\"x\"@a.example", "z@B.example", "Postmaster@a.example"]);
        let found: Vec<_> = plan.copies.iter().map(|copy| (copy.route_index, directory(copy))).collect();
        let expected = [
            (0, Path::new("/mail/a.example/x")),
            (1, Path::new("/mail/shared")),
            (0, Path::new("/mail/a.example/postmaster")),
        ];
        assert_eq!(found, expected);
        assert_eq!(
            plan.copies.iter().map(|copy| &copy.recipients[..]).collect::<Vec<_>>(),
            [&[0, 2][..], &[1, 3], &[4]]
        );
        assert_eq!(
            head(&plan.copies[0]).escape_ascii().to_string(),
            r#"Return-Path: <s@sender.example>\nDelivered-To: X@A.example\nDelivered-To: \"x\"@a.example\n"#
        );
        assert!(plan.kept.is_none() && !plan.discards);
    }

    #[test]
    fn by_http_a_request_has_so_many_recipients() {
        let recipients: Vec<String> =
            (0..=HTTP_RECIPIENTS_COUNT_MAX).map(|number| format!("{number}@http.example")).collect();
        let plan = plan(&recipients.iter().map(String::as_str).collect::<Vec<_>>());
        let counts: Vec<usize> = plan.copies.iter().map(|copy| copy.recipients.len()).collect();
        assert_eq!(counts, [HTTP_RECIPIENTS_COUNT_MAX, 1]);
        let all: Vec<u16> = plan.copies.into_iter().flat_map(|copy| copy.recipients).collect();
        assert!(all.into_iter().eq(0..=HTTP_RECIPIENTS_COUNT_MAX as u16));
    }

    #[test]
    fn a_domain_is_one_in_all_its_forms() {
        let plan = plan(&["x@xn--bcher-kva.example", "X@b\u{fc}cher.example", "\u{e9}@a.example"]);
        let found: Vec<_> = plan.copies.iter().map(directory).collect();
        assert_eq!(found, [Path::new("/mail/xn--bcher-kva.example/x"), Path::new("/mail/a.example/%C3%A9")]);
        assert!(plan.kept.is_none());
    }

    #[test]
    fn a_postmaster_without_a_domain_is_ours() {
        assert_eq!(directory(&plan(&["postmaster"]).copies[0]), Path::new("/mail/a.example/postmaster"));
    }

    #[test]
    fn what_no_route_takes_or_one_holds_is_kept() {
        let held = plan(&["x@hold.example", "x@b.example", "x@drop.example"]);
        assert_eq!((held.kept, held.copies.len(), held.discards), (Some(Kept::ByRoute(2)), 1, true));
        assert_eq!(held.kept_recipients, [0]);
        let gone = plan(&["x@hold.example", "x@gone.example"]);
        assert_eq!((gone.kept, gone.copies.len()), (Some(Kept::NoRoute("gone.example".into())), 0));
        assert_eq!(gone.kept_recipients, [0, 1]);
        let config = Config::parse(CONFIG, "/etc/test.toml").unwrap();
        let damaged = Plan::new(b"\x88\0\0", &config, &Hops::default(), Mark::None);
        assert_eq!(damaged.kept, Some(Kept::Unreadable(EnvelopeError::UnknownTag(136))));
    }

    #[test]
    fn no_recipient_leaves_the_directory_of_the_template() {
        for recipient in [
            r#""../../etc/passwd"@a.example"#,
            r#""..\/..\/x"@a.example"#,
            r#"".."@a.example"#,
            r#""."@a.example"#,
            r#""/"@a.example"#,
            r#"""@a.example"#,
            r#""a b%2F"@a.example"#,
        ] {
            let plan = plan(&[recipient]);
            let directory = directory(&plan.copies[0]);
            assert_eq!(directory.parent(), Some(Path::new("/mail/a.example")), "{recipient}");
            assert!(directory.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
        }
    }
}
