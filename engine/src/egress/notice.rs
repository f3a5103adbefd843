//! The notice to a sender of what has become of its mail: RFC 3464, in the form of RFC 6522.

use crate::limits::RETURNED_LEN_MAX;
use crate::protocol::deferral::{Action, Failure};
use crate::protocol::envelope::Recipient;
use crate::protocol::params::{Notify, Ret};

/// A recipient whose delivery has ended, or takes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailedRecipient {
    pub path: Vec<u8>,
    /// `addr-type;xtext`: RFC 3461 §4.2.
    pub orcpt: Option<Vec<u8>>,
    pub notify: Option<Notify>,
    pub failure: Failure,
}

impl FailedRecipient {
    pub(super) fn of(recipient: &Recipient<'_>, failure: Failure) -> Self {
        let orcpt = recipient.params.orcpt.map(<[u8]>::to_vec);
        Self { path: recipient.path.to_vec(), orcpt, notify: recipient.params.notify, failure }
    }
}

/// What a notice tells of.
pub(super) struct Subject<'a> {
    /// Of this server.
    pub hostname: &'a str,
    /// What makes the notice's own id unique.
    pub id: &'a str,
    pub sender: &'a [u8],
    pub envid: Option<&'a [u8]>,
    pub ret: Option<Ret>,
    /// At least one, and what has become of all of them.
    pub recipients: &'a [FailedRecipient],
    pub action: Action,
    /// RFC 5322 dates: of the notice, and of the message's receipt.
    pub now: &'a str,
    pub received: &'a str,
    /// What there is of the message, with CR LF, from its beginning; `is_whole`: to its end.
    pub content: &'a [u8],
    pub is_whole: bool,
}

impl Subject<'_> {
    /// The message, with CR LF. In ASCII but for what it returns.
    pub(super) fn write(&self) -> Vec<u8> {
        let Self { hostname, id, now, .. } = self;
        let boundary = format!("{id}/{hostname}");
        let returned = self.returned();
        // RFC 6533 has forms for addresses beyond ASCII that fewer servers take than this.
        let encoding = if returned.is_ascii() { "7bit" } else { "8bit" };
        let mut out = Vec::new();
        let mut line = |text: &str| {
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        line(&format!("From: Mail Delivery System <MAILER-DAEMON@{hostname}>"));
        line(&format!("To: <{}>", ascii(self.sender)));
        let (subject, explanation) = self.words();
        line(&format!("Subject: {subject}"));
        line(&format!("Date: {now}"));
        line(&format!("Message-ID: <{id}.notice@{hostname}>"));
        // RFC 3834 §5: no machine is to answer it.
        line("Auto-Submitted: auto-replied");
        line("MIME-Version: 1.0");
        line("Content-Type: multipart/report; report-type=delivery-status;");
        line(&format!("\tboundary=\"{boundary}\""));
        line("");
        line(&format!("--{boundary}"));
        line("Content-Type: text/plain; charset=us-ascii");
        line("");
        line(&format!("This is the mail server {hostname}."));
        line("");
        line(explanation);
        for recipient in self.recipients {
            line("");
            line(&format!("<{}>", ascii(&recipient.path)));
            let Failure { remote, reason, .. } = &recipient.failure;
            let said = if remote.is_empty() { String::new() } else { format!("{remote}: ") };
            line(&format!("    {}", ascii(format!("{said}{reason}").as_bytes())));
        }
        line("");
        line(&format!("--{boundary}"));
        line("Content-Type: message/delivery-status");
        line("");
        if let Some(envid) = self.envid {
            line(&format!("Original-Envelope-Id: {}", ascii(&from_xtext(envid))));
        }
        line(&format!("Reporting-MTA: dns; {hostname}"));
        line(&format!("Arrival-Date: {}", self.received));
        for recipient in self.recipients {
            line("");
            self.write_status(recipient, &mut line);
        }
        line("");
        line(&format!("--{boundary}"));
        let is_whole = self.returns_all();
        line(if is_whole { "Content-Type: message/rfc822" } else { "Content-Type: text/rfc822-headers" });
        line(&format!("Content-Transfer-Encoding: {encoding}"));
        line("");
        out.extend_from_slice(returned);
        if !returned.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        out
    }

    /// The subject, and what it means.
    fn words(&self) -> (&'static str, &'static str) {
        match self.action {
            Action::Failed => (
                "Your message could not be delivered",
                "Your message could not be delivered to these recipients. It will not be tried again.",
            ),
            Action::Delayed => (
                "Your message is delayed",
                "Your message waits for these recipients. It is still tried; you need not send it again.",
            ),
            Action::Delivered => {
                ("Your message was delivered", "Your message was delivered to these recipients.")
            }
            Action::Relayed => (
                "Your message was handed on",
                "Your message was handed on to a server that does not tell whether it is delivered.",
            ),
        }
    }

    /// RFC 3464 §2.3.
    fn write_status(&self, recipient: &FailedRecipient, line: &mut impl FnMut(&str)) {
        if let Some(orcpt) = &recipient.orcpt {
            let (kind, address) = split_once(orcpt, b';');
            line(&format!("Original-Recipient: {}; {}", ascii(kind), ascii(&from_xtext(address))));
        }
        line(&format!("Final-Recipient: rfc822; {}", ascii(&recipient.path)));
        line(&format!("Action: {}", self.action.name()));
        line(&format!("Status: {}", ascii(recipient.failure.status.as_bytes())));
        if !recipient.failure.remote.is_empty() {
            line(&format!("Remote-MTA: dns; {}", ascii(recipient.failure.remote.as_bytes())));
            line(&format!("Diagnostic-Code: smtp; {}", ascii(recipient.failure.reason.as_bytes())));
        }
    }

    /// RFC 3461 §4.3: RET=FULL is about failures alone.
    fn returns_all(&self) -> bool {
        self.action == Action::Failed
            && self.ret == Some(Ret::Full)
            && self.is_whole
            && self.content.len() <= RETURNED_LEN_MAX
    }

    fn returned(&self) -> &[u8] {
        if self.returns_all() {
            return self.content;
        }
        let header = &self.content[..header_len(self.content)];
        if header.len() <= RETURNED_LEN_MAX {
            return header;
        }
        // Whole lines.
        let cut = &header[..RETURNED_LEN_MAX];
        &cut[..memchr::memrchr(b'\n', cut).map_or(0, |at| at + 1)]
    }
}

/// Octets of the header section, without the empty line behind it.
fn header_len(content: &[u8]) -> usize {
    if content.starts_with(b"\r\n") {
        return 0;
    }
    memchr::memmem::find(content, b"\r\n\r\n").map_or(content.len(), |at| at + 2)
}

/// Printable ASCII, so that a mailbox or a reply cannot end its line.
fn ascii(octets: &[u8]) -> String {
    let printable = |octet: u8| if matches!(octet, b' '..=b'~') { octet as char } else { '?' };
    octets.iter().map(|&octet| printable(octet)).collect()
}

/// RFC 3461 §4: `+` and two hexadecimal digits stand for an octet.
fn from_xtext(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        match digits.filter(|_| octet == b'+').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(meant) => {
                out.push(meant);
                rest = &after[2..];
            }
            None => out.push(octet),
        }
    }
    out
}

fn split_once(octets: &[u8], mark: u8) -> (&[u8], &[u8]) {
    match memchr::memchr(mark, octets) {
        Some(at) => (&octets[..at], &octets[at + 1..]),
        None => (b"rfc822", octets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] =
        b"Received: from a\r\n\tby b\r\nRECEIVED: from c\r\nSubject: x\r\n\r\nReceived: no\r\n";

    fn subject<'a>(recipients: &'a [FailedRecipient]) -> Subject<'a> {
        Subject {
            hostname: "mx.example",
            id: "0CR6Z-1",
            sender: b"a@client.example",
            envid: Some(b"e+3D1"),
            ret: None,
            recipients,
            action: Action::Failed,
            now: "Sun, 22 Nov 2026 16:00:00 +0000",
            received: "Sun, 22 Nov 2026 15:00:00 +0000",
            content: CONTENT,
            is_whole: true,
        }
    }

    fn recipients() -> Vec<FailedRecipient> {
        let failure = |status: &str, remote: &str, reason: &str| Failure {
            status: status.into(),
            remote: remote.into(),
            reason: reason.into(),
            action: Action::Failed,
        };
        vec![
            FailedRecipient {
                path: b"b@example.com".to_vec(),
                orcpt: Some(b"rfc822;b+2Bx@old.example".to_vec()),
                notify: None,
                failure: failure("5.1.1", "mail.internal:25", "550 5.1.1 nobody\r\nhere"),
            },
            FailedRecipient {
                path: b"c@example.com".to_vec(),
                orcpt: None,
                notify: None,
                failure: failure("5.4.7", "", "mailbox not available"),
            },
        ]
    }

    #[test]
    fn a_notice_has_the_parts_of_rfc_3464() {
        let recipients = recipients();
        let text = String::from_utf8(subject(&recipients).write()).unwrap();
        for line in [
            "To: <a@client.example>",
            "Auto-Submitted: auto-replied",
            "Original-Envelope-Id: e=1",
            "Reporting-MTA: dns; mx.example",
            "Original-Recipient: rfc822; b+x@old.example",
            "Final-Recipient: rfc822; b@example.com",
            "Action: failed",
            "Status: 5.1.1",
            "Remote-MTA: dns; mail.internal:25",
            "Diagnostic-Code: smtp; 550 5.1.1 nobody??here",
            "Status: 5.4.7",
            "Content-Type: text/rfc822-headers",
            "Subject: x",
            "--0CR6Z-1/mx.example--",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(!text.contains("Received: no"), "the body is not returned");
        assert!(
            text.lines().all(|line| line.len() <= 998) && !text.replace("\r\n", "").contains(['\r', '\n'])
        );
    }

    #[test]
    fn who_wants_the_message_back_gets_it_if_it_is_small() {
        let recipients = recipients();
        let text = |ret, is_whole| {
            let subject = Subject { ret: Some(ret), is_whole, ..subject(&recipients) };
            String::from_utf8(subject.write()).unwrap()
        };
        assert!(text(Ret::Full, true).contains("Received: no\r\n"));
        assert!(!text(Ret::Full, false).contains("Received: no\r\n"));
        assert!(!text(Ret::Headers, true).contains("Received: no\r\n"));
    }

    /// What is returned of the content of a failed message, whose sender wants all of it.
    fn returned(content: &[u8]) -> Vec<u8> {
        let recipients = recipients();
        Subject { ret: Some(Ret::Full), content, ..subject(&recipients) }.returned().to_vec()
    }

    #[test]
    fn what_is_returned_is_bounded() {
        let line = b"X-Line: 45678901234567890123456789012345678901234567890123456789012\r\n";
        assert!(!RETURNED_LEN_MAX.is_multiple_of(line.len()), "the bound is within a line");
        let lines = line.repeat(RETURNED_LEN_MAX / line.len());
        let body = |len: usize| [line, &b"\r\n"[..], &vec![b'b'; len - line.len() - 2]].concat();
        let (all, more) = (body(RETURNED_LEN_MAX), body(RETURNED_LEN_MAX + 1));
        assert_eq!(returned(&all), all);
        assert_eq!(returned(&more), line, "the header section alone");
        let header = |len: usize| [&lines, &vec![b'h'; len - lines.len() - 2][..], b"\r\n\r\nbody"].concat();
        let (all, more) = (header(RETURNED_LEN_MAX), header(RETURNED_LEN_MAX + 1));
        assert_eq!(returned(&all), all[..RETURNED_LEN_MAX]);
        assert_eq!(returned(&more), lines, "whole lines of it");
    }

    #[test]
    fn each_action_has_its_words() {
        let recipients = recipients();
        for (action, expected) in [
            (Action::Delayed, ["Subject: Your message is delayed", "Action: delayed"]),
            (Action::Delivered, ["Subject: Your message was delivered", "Action: delivered"]),
            (Action::Relayed, ["Subject: Your message was handed on", "Action: relayed"]),
        ] {
            let subject = Subject { action, ret: Some(Ret::Full), ..subject(&recipients) };
            let text = String::from_utf8(subject.write()).unwrap();
            assert!(expected.iter().all(|line| text.lines().any(|found| found == *line)), "{text}");
            assert!(!text.contains("Received: no"), "the body is not returned");
        }
    }
}
