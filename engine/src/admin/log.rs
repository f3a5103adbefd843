//! Log lines out of the workers' events. Every line about a session carries its id; none holds content or the address
//! of a recipient.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;
use tracing::{debug, error, info, warn};

use crate::event::{self, Event, EventQueue, Kind};
use crate::limits::EVENTS_COUNT_MAX;
use crate::logging;
use crate::reload::RulePlaces;
use crate::security::CipherSuite;

/// The reading end of the workers' queues.
#[derive(Debug)]
pub struct EventLog {
    /// Position is the worker's index.
    queues: Vec<Queue>,
    places: Arc<RulePlaces>,
}

#[derive(Debug)]
struct Queue {
    queue: EventQueue,
    /// Dropped events that the log has already told of.
    dropped_told: u64,
}

impl EventLog {
    pub fn new(queues: Vec<EventQueue>, places: Arc<RulePlaces>) -> Self {
        let queues = queues.into_iter().map(|queue| Queue { queue, dropped_told: 0 }).collect();
        Self { queues, places }
    }

    /// Writes a line for each event that waits. Each worker's events are in order.
    pub fn drain(&mut self) {
        logging::batched(|| {
            for (worker_index, Queue { queue, dropped_told }) in self.queues.iter_mut().enumerate() {
                for event in std::iter::from_fn(|| queue.pop()).take(EVENTS_COUNT_MAX) {
                    logging::at(event.at.unix, || write(&event, &self.places));
                }
                let dropped = queue.dropped_count();
                if dropped > *dropped_told {
                    let count = dropped - *dropped_told;
                    warn!(
                        worker = worker_index,
                        count, "log events dropped: the log is slower than the worker"
                    );
                    *dropped_told = dropped;
                }
            }
        });
    }
}

fn write(event: &Event, places: &RulePlaces) {
    let session = (event.session.0 != 0).then(|| tracing::field::display(event.session));
    match event.kind {
        Kind::Connected { client, through } => {
            let through = through.map(|proxy| tracing::field::display(Client(proxy)));
            debug!(session, client = %Client(client), through, "connected");
        }
        Kind::ProxyRefused { proxy, why } => {
            warn!(session, proxy = %Client(proxy), why, "a proxy did not say whose connection it brings: closed");
        }
        Kind::Secured { client, security, resumed } => {
            let (client, version, cipher) = (Client(client), security.version.name(), security.cipher.name());
            let certificate = security.certificate;
            let sha256 = certificate.map(|certificate| tracing::field::display(certificate.fingerprint));
            let verified = certificate.map(|certificate| certificate.verified);
            debug!(session, %client, version, cipher, resumed, client_sha256 = sha256, verified, "secured");
        }
        Kind::TlsFailed { client, why } => {
            info!(session, client = %Client(client), why, "TLS failed: closed");
        }
        Kind::Noted { client, fault } => {
            info!(session, client = %Client(client), fault, "noted");
        }
        Kind::Faulted { client, fault, code } => {
            info!(session, client = %Client(client), fault, code, "refused");
        }
        Kind::Ruled { client, generation, rule, stage, action, code } => {
            let (client, code) = (Client(client), (code != 0).then_some(code));
            let place = places.find(generation, rule);
            info!(session, %client, stage, rule, place, action, code, generation, "refused by a rule");
        }
        Kind::Accepted { message, client, cipher, content_len, recipients_count, wait } => {
            let wait_us = micros(wait);
            let (octets, recipients, client) = (content_len, recipients_count, Client(client));
            let (version, cipher) =
                (cipher.map(|cipher| cipher.version().name()), cipher.map(CipherSuite::name));
            info!(
                session, id = %message, %client, version, cipher, octets, recipients, wait_us,
                "message accepted"
            );
        }
        Kind::BareNewlines { message, client, lookalike } => {
            info!(session, id = %message, client = %Client(client), lookalike, "bare newlines in the content");
        }
        Kind::Failed { client, error, code } => {
            warn!(session, client = %Client(client), error, code, "message not taken: our error");
        }
        Kind::Closed { client, reason, messages_count, lasted } => {
            let (client, lasted_us, messages) = (Client(client), micros(lasted), messages_count);
            // A session that brought mail has been told of with each message.
            if messages == 0 && reason != event::CHECK {
                info!(session, %client, reason, messages, lasted_us, "closed without a message");
            } else {
                debug!(session, %client, reason, messages, lasted_us, "closed");
            }
        }
        Kind::ShardFailed { shard, errno, unsaved_count } => {
            let why = std::io::Error::from_raw_os_error(errno);
            error!(session, shard, %why, unsaved_count, "a commit failed: the shard takes no more mail");
        }
        Kind::Shed { client } => {
            warn!(session, client = %Client(client), "no room for another connection: answered 421");
        }
        Kind::RingError { operation, errno } => {
            let why = std::io::Error::from_raw_os_error(errno);
            error!(session, operation, %why, "an operation of the ring failed");
        }
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A client's address as people know it: what reached an IPv6 socket by IPv4 is IPv4.
struct Client(SocketAddr);

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = self.0.port();
        match self.0.ip().to_canonical() {
            // What `Display` writes, in one piece: each message is told of a client, and most are of IPv4.
            IpAddr::V4(ip) => {
                let mut text = SmallVec::<[u8; "255.255.255.255:65535".len()]>::new();
                let mut number = itoa::Buffer::new();
                for (octet, end) in ip.octets().into_iter().zip(*b"...:") {
                    text.extend_from_slice(number.format(octet).as_bytes());
                    text.push(end);
                }
                text.extend_from_slice(number.format(port).as_bytes());
                f.write_str(str::from_utf8(&text).expect("digits are ASCII"))
            }
            IpAddr::V6(ip) => write!(f, "[{ip}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::config::{Log, LogFormat, LogLevel};
    use crate::id::{MessageId, SessionIds};
    use crate::time::Now;

    /// The lines of a session's life at `level`.
    fn lines(format: LogFormat, level: LogLevel) -> String {
        let now = Now { monotonic: Duration::ZERO, unix: Duration::from_micros(1_763_780_000_000_001) };
        let session = SessionIds::new(1).next(now);
        let client: SocketAddr = "[::ffff:192.0.2.7]:4321".parse().unwrap();
        let message = MessageId { session, transaction: 1 };
        let wait = Duration::from_micros(250);
        let queue = EventQueue::new(5);
        let kinds = [
            Kind::Connected { client, through: None },
            Kind::Faulted { client, fault: "relay", code: 550 },
            Kind::Accepted { message, client, cipher: None, content_len: 4096, recipients_count: 2, wait },
            Kind::Closed { client, reason: "quit", messages_count: 1, lasted: wait },
        ];
        for kind in kinds {
            queue.push(Event { at: now, session, kind });
        }
        for _ in 0..3 {
            let kind = Kind::ShardFailed { shard: 0, errno: 5, unsaved_count: 0 };
            queue.push(Event { at: now, session: Default::default(), kind });
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let output = Arc::clone(&lines);
        let output = move |line: &[u8]| output.lock().unwrap().extend_from_slice(line);
        let subscriber = logging::subscriber(Log { format, level }, false, output);
        let mut log = EventLog::new(vec![queue], Arc::default());
        tracing::subscriber::with_default(subscriber, || {
            log.drain();
            log.drain();
        });
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_session_reads_as_a_story() {
        let text = lines(LogFormat::Human, LogLevel::Debug);
        let (story, dropped) = text.split_at(text.trim_end().rfind('\n').unwrap() + 1);
        let at = "2025-11-22T02:53:20.000001Z";
        let id = SessionIds::new(1)
            .next(Now { unix: Duration::from_micros(1_763_780_000_000_001), ..Default::default() });
        let message = MessageId { session: id, transaction: 1 };
        assert_eq!(
            story,
            format!(
                "{at} DEBUG connected session={id} client=192.0.2.7:4321\n\
                 {at}  INFO refused session={id} client=192.0.2.7:4321 fault=\"relay\" code=550\n\
                 {at}  INFO message accepted session={id} id={message} client=192.0.2.7:4321 octets=4096 \
                 recipients=2 wait_us=250\n\
                 {at} DEBUG closed session={id} client=192.0.2.7:4321 reason=\"quit\" messages=1 lasted_us=250\n\
                 {at} ERROR a commit failed: the shard takes no more mail shard=0 \
                 why=Input/output error (os error 5) unsaved_count=0\n"
            )
        );
        assert!(
            dropped
                .ends_with("WARN log events dropped: the log is slower than the worker worker=0 count=2\n")
        );
    }

    #[test]
    fn json_lines_hold_the_same() {
        let text = lines(LogFormat::Json, LogLevel::Info);
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1]["timestamp"], "2025-11-22T02:53:20.000001Z");
        assert_eq!(lines[1]["level"], "INFO");
        assert_eq!(lines[1]["message"], "message accepted");
        assert_eq!(lines[1]["octets"], 4096);
        assert_eq!(lines[0]["session"], lines[1]["session"]);
        assert!(lines[2].get("session").is_none());
    }

    #[test]
    fn a_client_is_shown_as_its_address() {
        for text in ["0.0.0.0:0", "255.255.255.255:65535", "192.0.2.7:4321", "[2001:db8::1]:25"] {
            assert_eq!(Client(text.parse().unwrap()).to_string(), text);
        }
    }

    #[test]
    fn levels_hide_what_is_below_them() {
        assert_eq!(lines(LogFormat::Human, LogLevel::Error).lines().count(), 1);
    }
}
