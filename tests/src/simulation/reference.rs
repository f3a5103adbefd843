//! The same octets given to a bare session: what the replies should be, and the records.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringmx::event::EventQueue;
use ringmx::id::SessionId;
use ringmx::policy::recipient::Recipients;
use ringmx::protocol::envelope::Envelope;
use ringmx::security::{Secured, Security};
use ringmx::session::{Context, Error, Next, Pool, Service, Session};
use ringmx::time::Now;

use super::wire::OPENING;

/// A message as it should be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub envelope: Vec<u8>,
    /// Content without our trace field.
    pub body: Vec<u8>,
}

/// What a session said and took.
#[derive(Debug, Default)]
pub struct Reference {
    /// Replies in clear before TLS; of the others, none is.
    pub in_clear: Vec<u8>,
    /// Replies, the greeting first, with ids blotted out.
    pub replies: Vec<u8>,
    /// By the local-part of the first recipient.
    pub messages: HashMap<String, Stored>,
}

impl Reference {
    /// With a spool that never fails.
    pub fn of(service: &Arc<Service>, client: SocketAddr, input: &[u8]) -> Self {
        Self::play(service, client, None, input, None)
    }

    /// The same, under TLS as the service has it.
    pub fn secured(service: &Arc<Service>, client: SocketAddr, security: Security, input: &[u8]) -> Self {
        Self::play(service, client, Some(security), input, None)
    }

    /// With a spool that fails where the replies `got` say so.
    pub fn guided(service: &Arc<Service>, client: SocketAddr, input: &[u8], got: &[u8]) -> Self {
        Self::play(service, client, None, input, Some(got))
    }

    fn play(
        service: &Arc<Service>,
        client: SocketAddr,
        security: Option<Security>,
        input: &[u8],
        got: Option<&[u8]>,
    ) -> Self {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        let mut pool = Pool::new(Arc::default(), EventQueue::new(1), usize::MAX, usize::MAX);
        let mut session = Session::new(SessionId(1), client, now.monotonic);
        let (mut reference, mut out) = (Self::default(), Vec::new());
        let refusal = got.and_then(|got| error(got, b"")).filter(|error| *error != Error::NoStorage);
        let policy = Recipients::new(["example.com"]).expect("a domain").into();
        let cx = &mut Context { now, service, policy: &policy, pool: &mut pool };
        let mut next = session.greet(cx, refusal, &mut out);
        if let Some(security) = security {
            // Each line behind the reply to the one before.
            let lines = if next == Next::StartTls { &[][..] } else { &OPENING };
            for line in lines {
                next = session.receive(cx, line, &mut out).next;
            }
            reference.in_clear.append(&mut out);
            assert_eq!(next, Next::StartTls, "a handshake is due");
            let secured = Secured { security, resumed: false, certificate_names: Box::default() };
            next = session.secured(cx, secured, &mut out);
        }
        reference.replies.append(&mut out);
        let (mut from, mut to) = (0, 0);
        while next != Next::Close && (from < to || to < input.len()) {
            let failure = got.and_then(|got| error(got, &reference.replies));
            cx.pool.storage_error = failure;
            if from == to {
                to = if got.is_some() { line_end(input, from) } else { input.len() };
            }
            if let Some(got) = got.filter(|_| failure == Some(Error::NoStorage) && is_rcpt(&input[from..to]))
            {
                // Refused for want of memory, of which the bare session has enough.
                reference.replies.extend_from_slice(line_behind(got, &reference.replies).unwrap_or_default());
                from = to;
                continue;
            }
            let progress = session.receive(cx, &input[from..to], &mut out);
            from += progress.consumed;
            if progress.consumed == 0 && out.is_empty() {
                // Within a line, or at the end.
                if to == input.len() {
                    break;
                }
                to = line_end(input, to);
            }
            next = progress.next;
            if next == Next::Commit {
                let message = session.message().expect("a commit has a message");
                let stored = Stored {
                    envelope: message.envelope().to_vec(),
                    body: without_trace(&message.parts().collect::<Vec<_>>().concat()).to_vec(),
                };
                reference.messages.insert(marker(&stored.envelope), stored);
                next = session.committed(cx, failure.map_or(Ok(()), Err), &mut out);
            }
            reference.replies.extend(blotted(&out));
            out.clear();
        }
        reference
    }
}

fn line_end(input: &[u8], from: usize) -> usize {
    input[from..].iter().position(|octet| *octet == b'\n').map_or(input.len(), |at| from + at + 1)
}

/// The server's own error in the reply that follows `before`. By lines, since the same refusal may have another text.
fn error(got: &[u8], before: &[u8]) -> Option<Error> {
    let reply = line_behind(got, before)?;
    let errors: [(&[u8], Error); 4] = [
        (b"421 4.3.0 ", Error::SpoolStopped),
        (b"421 4.3.2 too many", Error::Full),
        (b"451 4.3.0 ", Error::SpoolFailed),
        (b"452 4.3.1 ", Error::NoStorage),
    ];
    errors.into_iter().find(|(start, _)| reply.starts_with(start)).map(|(_, error)| error)
}

fn line_behind<'a>(got: &'a [u8], before: &[u8]) -> Option<&'a [u8]> {
    let lines_count = before.iter().filter(|octet| **octet == b'\n').count();
    got.split_inclusive(|octet| *octet == b'\n').nth(lines_count)
}

fn is_rcpt(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"RCPT "))
}

/// The content behind the trace field, whose last line is the date and follows a semicolon.
pub fn without_trace(content: &[u8]) -> &[u8] {
    let at = content.windows(3).position(|octets| octets == b";\r\n").expect("a trace field has a date") + 3;
    let date_len = content[at..].iter().position(|octet| *octet == b'\n').expect("the date has an end");
    &content[at + date_len + 1..]
}

/// The local-part of the first recipient.
pub fn marker(envelope: &[u8]) -> String {
    let envelope = Envelope::parse(envelope).expect("an envelope that the engine wrote");
    let first = envelope.recipients().next().expect("a message has a recipient");
    String::from_utf8_lossy(first).split('@').next().unwrap_or_default().to_owned()
}

const QUEUED: &[u8] = b"250 2.0.0 queued as ";

/// The ids of the messages that these replies take responsibility for.
pub fn queued(replies: &[u8]) -> Vec<String> {
    let lines = replies.split_inclusive(|octet| *octet == b'\n').filter(|line| line.ends_with(b"\r\n"));
    let ids = lines.filter_map(|line| line.strip_prefix(QUEUED));
    ids.map(|id| String::from_utf8_lossy(id).trim_end().to_owned()).collect()
}

/// The replies with the ids of messages blotted out: they depend on the time.
pub fn blotted(replies: &[u8]) -> Vec<u8> {
    let lines = replies.split_inclusive(|octet| *octet == b'\n');
    lines
        .flat_map(|line| if line.starts_with(QUEUED) { &b"250 2.0.0 queued\r\n"[..] } else { line })
        .copied()
        .collect()
}
