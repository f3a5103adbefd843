//! One connection to a next hop, as a client of SMTP (RFC 5321) or LMTP (RFC 2033). By HTTP it is [`super::http`] that
//! speaks.
//!
//! The commands up to DATA go out in one group where the next hop offers PIPELINING (RFC 2920), with the content behind
//! them where it is small and CHUNKING is offered (RFC 3030), so that such a message costs one round trip, and several
//! that wait together cost one, too: see [`super::group`]. By BDAT the
//! content goes as it is stored; for DATA a dot is added where a line begins with one, and what is left of stray CR and
//! LF becomes a space: servers that take them for line ends would see another message in there.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use super::Delivered;
use super::letter::{Body, Letter};
use super::reply::Reply;
use super::transparency::Transparency;
use crate::config::{Relay, RelayProtocol};
use crate::egress::error::{Problem, RelayError, Status};
use crate::limits::{GROUPED_CONTENT_LEN_MAX, GROUPED_RECIPIENTS_COUNT_MAX, HOP_QUIT_TIME_MAX};

/// RFC 5321 §4.5.3.2.6 gives the reply to end-of-data twice the time of the others.
const END_OF_DATA_TIMES: u32 = 2;

/// What a connection needs of its transport.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

/// What the next hop offers in its reply to EHLO or LHLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offered {
    pub pipelining: bool,
    pub chunking: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub starttls: bool,
    pub requiretls: bool,
    /// Octets; `Some(0)` is no limit that it tells. RFC 1870.
    pub size: Option<u64>,
}

impl Offered {
    fn read(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => offered.pipelining = true,
                "CHUNKING" => offered.chunking = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                "REQUIRETLS" => offered.requiretls = true,
                "SIZE" => offered.size = Some(words.next().and_then(|size| size.parse().ok()).unwrap_or(0)),
                _ => {}
            }
        }
        offered
    }
}

/// What became of a message for one recipient: the reply that says it is the next hop's, or why not.
pub(in crate::egress) type Sent = Result<String, RelayError>;

pub(super) struct Client {
    stream: Box<dyn Transport>,
    /// Octets received behind the last reply.
    pub(super) received: Vec<u8>,
    /// As the configuration names it.
    pub(super) hop: String,
    protocol: RelayProtocol,
    /// Ours, as it was told.
    hostname: String,
    pub(super) offered: Offered,
    pub(super) timeout: Duration,
    /// Protocol and cipher suite; None in clear.
    pub(super) tls: Option<String>,
    /// By an authority that the route trusts.
    pub(super) is_verified: bool,
    pub(super) transactions_count: u32,
    pub(super) used_at: Instant,
    /// Something was said in the present transaction: what fails from here on did not fail because the next hop had
    /// closed an idle connection.
    pub(super) has_replied: bool,
    /// The present transaction goes with others, in one group.
    pub(super) is_grouped: bool,
    /// No other transaction may follow.
    pub(super) is_spent: bool,
}

impl Client {
    pub(super) fn new(stream: Box<dyn Transport>, hop: String, relay: &Relay) -> Self {
        Self {
            stream,
            received: Vec::new(),
            hop,
            protocol: relay.protocol.clone(),
            hostname: String::new(),
            offered: Offered::default(),
            timeout: relay.timeout,
            tls: None,
            is_verified: false,
            transactions_count: 0,
            used_at: Instant::now(),
            has_replied: false,
            is_grouped: false,
            is_spent: false,
        }
    }

    fn is_lmtp(&self) -> bool {
        self.protocol == RelayProtocol::Lmtp
    }

    /// Whether the connection failed before the next hop said anything to the present transaction.
    pub(super) fn has_only_been_closed(&self) -> bool {
        !self.has_replied
    }

    /// Whether nothing has come that nobody asked for, and the connection is not closed.
    pub(super) async fn is_quiet(&mut self) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        let read = self.stream.read_buf(&mut self.received);
        tokio::time::timeout(Duration::ZERO, read).await.is_err()
    }

    /// The greeting, and the reply to EHLO or LHLO.
    pub(super) async fn greet(&mut self, hostname: &str) -> Result<(), RelayError> {
        let greeting = self.reply("the greeting").await?;
        self.demand(greeting.is_positive(), "the connection", &greeting)?;
        self.hello(hostname).await
    }

    /// Again behind STARTTLS (RFC 3207 §4.2).
    pub(super) async fn hello(&mut self, hostname: &str) -> Result<(), RelayError> {
        hostname.clone_into(&mut self.hostname);
        let verb = self.hello_verb();
        let mut reply = self.command(verb, &format!("{verb} {hostname}\r\n")).await?;
        // RFC 5321 §3.2: an old server knows HELO only.
        if reply.is_permanent() && !self.is_lmtp() && self.tls.is_none() {
            reply = self.command("HELO", &format!("HELO {hostname}\r\n")).await?;
            self.offered = Offered::default();
        } else {
            self.offered = Offered::read(&reply);
        }
        self.demand(reply.is_positive(), verb, &reply)
    }

    /// Whether all that was said was said to what was asked: nothing else is answered like EHLO, which may come between
    /// any two transactions (RFC 5321 §4.1.4).
    pub(super) async fn confirm(&mut self) -> Result<(), RelayError> {
        let line = format!("{} {}\r\n", self.hello_verb(), self.hostname);
        let reply = self.command(self.hello_verb(), &line).await?;
        if Offered::read(&reply) == self.offered && self.received.is_empty() {
            return Ok(());
        }
        Err(self.problem(Problem::Garbled("more replies than it was given commands".to_owned())))
    }

    fn hello_verb(&self) -> &'static str {
        if self.is_lmtp() { "LHLO" } else { "EHLO" }
    }

    /// Asks for TLS; the transport is to be exchanged by [`into_stream`](Self::into_stream) then.
    pub(super) async fn start_tls(&mut self) -> Result<(), RelayError> {
        let reply = self.command("STARTTLS", "STARTTLS\r\n").await?;
        self.demand(reply.is_positive(), "STARTTLS", &reply)?;
        if self.received.is_empty() {
            return Ok(());
        }
        // Somebody has put it there for the session under TLS.
        Err(self.problem(Problem::Garbled("something in clear behind the reply to STARTTLS".to_owned())))
    }

    pub(super) fn into_stream(self) -> Box<dyn Transport> {
        self.stream
    }

    /// Whether transactions may follow each other in one group.
    pub(super) fn takes_groups(&self) -> bool {
        self.offered.pipelining && self.offered.chunking && !matches!(self.protocol, RelayProtocol::Http(_))
    }

    /// The content that may go in one group with its commands, where it is small.
    pub(super) fn groups<'a>(&self, letter: &Letter, body: &Body<'a>) -> Option<&'a Rc<[u8]>> {
        let has_room = letter.recipients.len() <= GROUPED_RECIPIENTS_COUNT_MAX;
        let small = body.small().filter(|content| content.len() as u64 <= GROUPED_CONTENT_LEN_MAX);
        small.filter(|_| has_room && self.takes_groups())
    }

    /// One transaction. The result is one for each recipient, in order.
    ///
    /// # Errors
    /// The connection cannot be used any more; nobody knows whether the message was taken if that came behind its end.
    pub(super) async fn send(&mut self, letter: &Letter, body: &Body<'_>) -> Result<Vec<Sent>, RelayError> {
        self.has_replied = false;
        if let Err(lacking) = self.check(letter, body.len()) {
            return Ok(vec![Err(lacking); letter.recipients.len()]);
        }
        if let RelayProtocol::Http(target) = &self.protocol {
            self.transactions_count += 1;
            let target = Arc::clone(target);
            return self.post(&target, letter, body).await;
        }
        if let Some(content) = self.groups(letter, body) {
            let mut group = Vec::new();
            self.compose(letter, content, &mut group);
            self.send_group(&group).await?;
            return self.hear(letter).await;
        }
        self.transactions_count += 1;
        let count = letter.recipients.len();
        let is_grouped = self.offered.pipelining && count <= GROUPED_RECIPIENTS_COUNT_MAX;
        let mut commands = Vec::new();
        letter.mail(&self.offered, body.len(), &mut commands);
        if is_grouped {
            letter.recipients.iter().for_each(|recipient| recipient.rcpt(&self.offered, &mut commands));
            if !self.offered.chunking {
                commands.extend_from_slice(b"DATA\r\n");
            }
        }
        self.write(&commands, "MAIL").await?;
        let transfer = self.hear_envelope(letter, is_grouped).await?;
        if self.offered.chunking {
            self.send_chunk(transfer, body).await
        } else {
            self.send_data(transfer, body).await
        }
    }

    /// Appends a whole transaction, for who [takes groups](Self::takes_groups); nothing for a message that the next hop
    /// cannot be given.
    pub(super) fn compose(&mut self, letter: &Letter, content: &[u8], group: &mut Vec<u8>) {
        let len = content.len() as u64;
        if self.check(letter, len).is_err() {
            return;
        }
        self.transactions_count += 1;
        letter.mail(&self.offered, len, group);
        letter.recipients.iter().for_each(|recipient| recipient.rcpt(&self.offered, group));
        let _ = write!(group, "BDAT {len} LAST\r\n");
        group.extend_from_slice(content);
    }

    pub(super) async fn send_group(&mut self, group: &[u8]) -> Result<(), RelayError> {
        self.has_replied = false;
        self.write(group, "MAIL").await
    }

    /// What is said to the next transaction of a group. As [`send`](Self::send) otherwise.
    pub(super) async fn hear(&mut self, letter: &Letter) -> Result<Vec<Sent>, RelayError> {
        let transfer = self.hear_envelope(letter, true).await?;
        self.end(transfer).await
    }

    async fn hear_envelope(&mut self, letter: &Letter, is_grouped: bool) -> Result<Transfer, RelayError> {
        let count = letter.recipients.len();
        let mail = self.reply("MAIL").await?;
        let mut outcomes: Vec<Sent> = Vec::with_capacity(count);
        if is_grouped || mail.is_positive() {
            let mut command = Vec::new();
            for recipient in &letter.recipients {
                if !is_grouped {
                    command.clear();
                    recipient.rcpt(&self.offered, &mut command);
                    self.write(&command, "RCPT").await?;
                }
                let reply = self.reply("RCPT").await?;
                outcomes.push(self.demand(reply.is_positive(), "RCPT", &reply).map(|()| String::new()));
            }
        }
        if let Err(refused) = self.demand(mail.is_positive(), "MAIL", &mail) {
            outcomes = vec![Err(refused); count];
        }
        let accepted = (0..count).filter(|&index| outcomes[index].is_ok()).collect();
        Ok(Transfer { accepted, outcomes, is_grouped })
    }

    /// RFC 3030: the content as it is.
    async fn send_chunk(&mut self, transfer: Transfer, body: &Body<'_>) -> Result<Vec<Sent>, RelayError> {
        if transfer.accepted.is_empty() {
            return self.reset(transfer.outcomes).await;
        }
        self.write(format!("BDAT {} LAST\r\n", body.len()).as_bytes(), "BDAT").await?;
        let mut pieces = body.pieces();
        while let Some(piece) = pieces.next().await? {
            self.write(&piece, "the content").await?;
        }
        self.end(transfer).await
    }

    async fn send_data(&mut self, transfer: Transfer, body: &Body<'_>) -> Result<Vec<Sent>, RelayError> {
        if !transfer.is_grouped {
            if transfer.accepted.is_empty() {
                return self.reset(transfer.outcomes).await;
            }
            self.write(b"DATA\r\n", "DATA").await?;
        }
        let reply = self.reply("DATA").await?;
        if reply.code != 354 {
            let refused = self.error("DATA", &reply);
            let mut outcomes = transfer.outcomes;
            transfer.accepted.iter().for_each(|&index| outcomes[index] = Err(refused.clone()));
            return self.reset(outcomes).await;
        }
        // RFC 2920 §3.1: nobody is left, and it wants content all the same.
        if transfer.accepted.is_empty() {
            self.write(b".\r\n", "end-of-data").await?;
            let _ = self.reply_to_end().await?;
            return Ok(transfer.outcomes);
        }
        let mut pieces = body.pieces();
        let mut transparency = Transparency::default();
        let mut out = Vec::new();
        while let Some(piece) = pieces.next().await? {
            // The last piece goes together with the end.
            if !out.is_empty() {
                self.write(&out, "the content").await?;
                out.clear();
            }
            transparency.append(&piece, &mut out);
        }
        transparency.end(&mut out);
        self.write(&out, "end-of-data").await?;
        self.end(transfer).await
    }

    /// The reply to the whole message; by LMTP one for each recipient that was accepted (RFC 2033 §4.2).
    async fn end(&mut self, transfer: Transfer) -> Result<Vec<Sent>, RelayError> {
        let Transfer { accepted, mut outcomes, .. } = transfer;
        if accepted.is_empty() || !self.is_lmtp() {
            let reply = self.reply_to_end().await?;
            let outcome = self.demand(reply.is_positive(), "the message", &reply).map(|()| reply.text());
            accepted.into_iter().for_each(|index| outcomes[index] = outcome.clone());
            return Ok(outcomes);
        }
        for index in accepted {
            let reply = self.reply_to_end().await?;
            outcomes[index] = self.demand(reply.is_positive(), "the message", &reply).map(|()| reply.text());
        }
        Ok(outcomes)
    }

    /// After a transaction without content, so that another can begin.
    async fn reset(&mut self, outcomes: Vec<Sent>) -> Result<Vec<Sent>, RelayError> {
        let reply = self.command("RSET", "RSET\r\n").await?;
        self.demand(reply.is_positive(), "RSET", &reply)?;
        Ok(outcomes)
    }

    /// What the message needs and the next hop lacks; its content is `len` octets.
    pub(super) fn check(&self, letter: &Letter, len: u64) -> Result<(), RelayError> {
        let lacks = |what: &str, status| Err(self.problem(Problem::Lacks(what.to_owned(), Status(status))));
        // RFC 8689 §4.2.1: TLS, and a certificate that is verified.
        if letter.requiretls && !self.is_verified {
            let what = "a verified TLS connection (`tls = \"verified\"`), which REQUIRETLS wants";
            return lacks(what, "5.7.10");
        }
        if matches!(self.protocol, RelayProtocol::Http(_)) {
            return Ok(());
        }
        // And a hop that does the same.
        if letter.requiretls && !self.offered.requiretls {
            return lacks("REQUIRETLS, which the message needs", "5.7.30");
        }
        if letter.smtputf8 && !self.offered.smtputf8 {
            return lacks("SMTPUTF8, which the message needs", "5.6.7");
        }
        if letter.eight_bit && !self.offered.eight_bit_mime {
            return lacks("8BITMIME, which the message needs", "5.6.3");
        }
        match self.offered.size {
            Some(max) if max > 0 && len > max => {
                let what = format!("room: its SIZE is {max} octets, the message has {len}");
                lacks(&what, "5.3.4")
            }
            _ => Ok(()),
        }
    }

    /// With how it went.
    pub(super) fn delivered(&self, sent: Vec<Sent>) -> Delivered {
        Delivered {
            sent,
            tls: self.tls.clone(),
            next_hop: Some(self.hop.clone()),
            dsn: self.offered.dsn,
            is_grouped: self.is_grouped,
        }
    }

    /// The same for all recipients.
    pub(super) fn failed(&self, letter: &Letter, error: &RelayError) -> Delivered {
        self.delivered(vec![Err(error.clone()); letter.recipients.len()])
    }

    /// Says goodbye, for a short time.
    pub(super) async fn quit(mut self) {
        let quit = async {
            if !matches!(self.protocol, RelayProtocol::Http(_)) {
                drop(self.command("QUIT", "QUIT\r\n").await);
            }
            drop(self.stream.shutdown().await);
        };
        drop(tokio::time::timeout(HOP_QUIT_TIME_MAX, quit).await);
    }

    async fn command(&mut self, stage: &'static str, line: &str) -> Result<Reply, RelayError> {
        self.write(line.as_bytes(), stage).await?;
        self.reply(stage).await
    }

    pub(super) async fn write(&mut self, octets: &[u8], stage: &'static str) -> Result<(), RelayError> {
        let written = async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(self.timeout, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.problem(Problem::Lost(stage, error.to_string()))),
            Err(_) => Err(self.problem(Problem::TimedOut(stage, self.timeout))),
        }
    }

    async fn reply_to_end(&mut self) -> Result<Reply, RelayError> {
        self.reply_within("end-of-data", self.timeout * END_OF_DATA_TIMES).await
    }

    async fn reply(&mut self, stage: &'static str) -> Result<Reply, RelayError> {
        self.reply_within(stage, self.timeout).await
    }

    /// The time is for the whole reply: a next hop that drips must not hold a connection for ever.
    async fn reply_within(&mut self, stage: &'static str, time: Duration) -> Result<Reply, RelayError> {
        let mut until = None;
        loop {
            match Reply::parse(&self.received) {
                Ok(Some((reply, len))) => {
                    self.received.drain(..len);
                    self.has_replied = true;
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(garbled) => return Err(self.problem(Problem::Garbled(format!("{garbled}, to {stage}")))),
            }
            let until = *until.get_or_insert_with(|| Instant::now() + time);
            self.receive(until, stage, time).await?;
        }
    }

    /// More octets. `time`: what the wait until then is called.
    pub(super) async fn receive(
        &mut self,
        until: Instant,
        stage: &'static str,
        time: Duration,
    ) -> Result<(), RelayError> {
        let problem = match timeout_at(until, self.stream.read_buf(&mut self.received)).await {
            Ok(Ok(0)) => Problem::Lost(stage, "the next hop has closed it".to_owned()),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => Problem::Lost(stage, error.to_string()),
            Err(_) => Problem::TimedOut(stage, time),
        };
        Err(self.problem(problem))
    }

    fn demand(&self, is_met: bool, stage: &'static str, reply: &Reply) -> Result<(), RelayError> {
        if is_met { Ok(()) } else { Err(self.error(stage, reply)) }
    }

    fn error(&self, stage: &'static str, reply: &Reply) -> RelayError {
        self.problem(Problem::Said(stage, reply.clone()))
    }

    pub(super) fn problem(&self, problem: Problem) -> RelayError {
        problem.at(&self.hop)
    }
}

/// A transaction whose recipients have been answered.
struct Transfer {
    /// Positions among the recipients.
    accepted: Vec<usize>,
    outcomes: Vec<Sent>,
    /// DATA has been sent, where there is no CHUNKING.
    is_grouped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_read() {
        let reply = b"250-mx\r\n250-pipelining\r\n250-SIZE 1000\r\n250-X-THING a b\r\n250 8BITMIME\r\n";
        let (reply, _) = Reply::parse(reply).unwrap().unwrap();
        let expected =
            Offered { pipelining: true, size: Some(1000), eight_bit_mime: true, ..Offered::default() };
        assert_eq!(Offered::read(&reply), expected);
    }
}
