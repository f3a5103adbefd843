//! The same octets given to a bare session, all at once, with a spool that never fails: what the replies should be.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringmx::event::EventQueue;
use ringmx::id::SessionId;
use ringmx::protocol::envelope::Envelope;
use ringmx::session::{Context, Next, Pool, Service, Session};
use ringmx::time::Now;

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
    /// Replies, the greeting first, with ids blotted out.
    pub replies: Vec<u8>,
    /// By the local-part of the first recipient.
    pub messages: HashMap<String, Stored>,
}

impl Reference {
    pub fn of(service: &Arc<Service>, client: SocketAddr, input: &[u8]) -> Self {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_secs(1_700_000_000) };
        let mut pool = Pool::new(Arc::default(), EventQueue::new(1), usize::MAX);
        let cx = &mut Context { now, service, pool: &mut pool };
        let mut session = Session::new(SessionId(1), client, now.monotonic);
        let (mut reference, mut out) = (Self::default(), Vec::new());
        session.greet(cx, None, &mut out);
        let mut consumed = 0;
        loop {
            let progress = session.receive(cx, &input[consumed..], &mut out);
            let quiet = progress.consumed == 0 && out.is_empty();
            consumed += progress.consumed;
            let mut next = progress.next;
            if next == Next::Commit {
                let message = session.message().expect("a commit has a message");
                let stored = Stored {
                    envelope: message.envelope().to_vec(),
                    body: without_trace(message.content()).to_vec(),
                };
                reference.messages.insert(marker(&stored.envelope), stored);
                next = session.committed(cx, Ok(()), &mut out);
            }
            reference.replies.append(&mut out);
            if next == Next::Close || (quiet && next == Next::Input) {
                break;
            }
        }
        reference.replies = blotted(&reference.replies);
        reference
    }
}

/// The content behind the trace field, which has three lines.
pub fn without_trace(content: &[u8]) -> &[u8] {
    let end = content.iter().enumerate().filter(|(_, octet)| **octet == b'\n').nth(2).map(|(at, _)| at + 1);
    &content[end.expect("a trace field has three lines")..]
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
