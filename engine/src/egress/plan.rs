//! What is to be done with a message: its recipients, gathered by where their mail goes.

use std::collections::HashMap;
use std::path::PathBuf;

use super::maildir;
use crate::config::{Config, Deliver, idn};
use crate::protocol::envelope::{Envelope, EnvelopeError};

/// The whole way of one message that is left to go.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// One for each directory, in the order of their first recipients.
    pub copies: Vec<MaildirCopy>,
    /// Why the message stays in the spool, whatever else is done with it.
    pub kept: Option<Kept>,
    /// Positions in the envelope of the recipients for whom it stays; empty where the envelope cannot be read.
    pub kept_recipients: Vec<u16>,
    /// Some recipient's route discards.
    pub discards: bool,
}

/// One file to be written: a message that goes to a Maildir, once for all its recipients there.
#[derive(Debug)]
pub(super) struct MaildirCopy {
    /// Positions in the envelope of the recipients it is for.
    pub recipients: Vec<u16>,
    /// Position of the route in the configuration.
    pub route_index: usize,
    pub directory: PathBuf,
    /// What stands in front of the content.
    pub head: Vec<u8>,
}

/// Why a message is held without another attempt. The next start looks at it again, and a change of the routes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The route at this position holds its mail.
    ByRoute(usize),
    /// No route takes this domain: the configuration has changed since the message was accepted.
    NoRoute(String),
    Unreadable(EnvelopeError),
}

struct Place<'a> {
    route_index: usize,
    directory: PathBuf,
    recipients: Vec<(u16, &'a [u8])>,
}

impl Plan {
    pub(super) fn new(envelope: &[u8], config: &Config) -> Self {
        let envelope = match Envelope::parse(envelope) {
            Ok(envelope) => envelope,
            Err(error) => return Self { kept: Some(Kept::Unreadable(error)), ..Self::default() },
        };
        let mut plan = Self::default();
        let mut places: Vec<Place<'_>> = Vec::new();
        let mut by_directory: HashMap<PathBuf, usize> = HashMap::new();
        for (position, recipient) in (0u16..).zip(envelope.recipients()) {
            let (local_part, domain) = split(recipient, config);
            let domain = &*idn::to_ascii(&String::from_utf8_lossy(domain)).into_owned();
            let route = config.route_for(domain);
            let Some((route_index, route)) = route else {
                plan.kept = Some(Kept::NoRoute(domain.escape_debug().to_string()));
                plan.kept_recipients.push(position);
                continue;
            };
            match &route.deliver {
                Deliver::Discard => plan.discards = true,
                Deliver::Hold => {
                    plan.kept.get_or_insert(Kept::ByRoute(route_index));
                    plan.kept_recipients.push(position);
                }
                Deliver::Maildir { path } => {
                    // One mailbox, however its local-part was written.
                    let directory = path.expand(&local_part.to_ascii_lowercase(), domain.as_bytes());
                    let at = *by_directory.entry(directory).or_insert_with_key(|directory| {
                        let directory = directory.clone();
                        places.push(Place { route_index, directory, recipients: Vec::new() });
                        places.len() - 1
                    });
                    places[at].recipients.push((position, recipient));
                }
            }
        }
        let copies = places.into_iter().map(|place| {
            let Place { route_index, directory, recipients } = place;
            let (recipients, paths): (Vec<u16>, Vec<&[u8]>) = recipients.into_iter().unzip();
            let head = maildir::head(envelope.reverse_path(), paths);
            MaildirCopy { recipients, route_index, directory, head }
        });
        plan.copies = copies.collect();
        plan
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
        domains = ["a.example", "b\u00fccher.example", "b.example", "hold.example", "drop.example"]
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
    "#;

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
        Plan::new(&envelope, &config)
    }

    #[test]
    fn recipients_are_gathered_by_directory() {
        let plan =
            plan(&["X@A.example", "y@b.example", "\"x\"@a.example", "z@B.example", "Postmaster@a.example"]);
        let found: Vec<_> =
            plan.copies.iter().map(|copy| (copy.route_index, copy.directory.as_path())).collect();
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
            plan.copies[0].head.escape_ascii().to_string(),
            r#"Return-Path: <s@sender.example>\nDelivered-To: X@A.example\nDelivered-To: \"x\"@a.example\n"#
        );
        assert!(plan.kept.is_none() && !plan.discards);
    }

    #[test]
    fn a_domain_is_one_in_all_its_forms() {
        let plan = plan(&["x@xn--bcher-kva.example", "X@b\u{fc}cher.example", "\u{e9}@a.example"]);
        let found: Vec<_> = plan.copies.iter().map(|copy| copy.directory.as_path()).collect();
        assert_eq!(found, [Path::new("/mail/xn--bcher-kva.example/x"), Path::new("/mail/a.example/%C3%A9")]);
        assert!(plan.kept.is_none());
    }

    #[test]
    fn a_postmaster_without_a_domain_is_ours() {
        assert_eq!(plan(&["postmaster"]).copies[0].directory, Path::new("/mail/a.example/postmaster"));
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
        let damaged = Plan::new(b"\x85\0\0", &config);
        assert_eq!(damaged.kept, Some(Kept::Unreadable(EnvelopeError::UnknownTag(133))));
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
            let directory = &plan.copies[0].directory;
            assert_eq!(directory.parent(), Some(Path::new("/mail/a.example")), "{recipient}");
            assert!(directory.components().all(|part| !matches!(part, std::path::Component::ParentDir)));
        }
    }
}
