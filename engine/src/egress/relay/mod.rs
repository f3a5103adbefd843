//! Handing mail on to other servers: what is known of each next hop, and its connections.
//!
//! - [`reply`]: what a next hop says; [`letter`]: what it is given; [`client`]: one connection to it.
//! - [`pace`]: how many messages a time it is given; [`stall`]: for how long it has taken none.
//! - [`group`]: messages that wait for a connection, and go together on it.
//! - [`connect`](connect()): from a name to a connection, under TLS where that is wanted.
//!
//! A hop takes as many messages as it has connections, and as many again wait for one. While it keeps up, whoever comes
//! then waits; a hop that does not answer, or takes long, is left alone for a while, and its mail is deferred at once:
//! a next hop in trouble holds up nobody else's mail.

#[cfg(test)]
mod bounds_tests;
mod client;
mod connect;
mod group;
#[cfg(test)]
mod group_tests;
mod http;
mod letter;
mod pace;
#[cfg(test)]
mod pace_tests;
mod reply;
mod stall;
mod transparency;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::error::{Problem, RelayError};
use crate::config::Relay;
use crate::limits::{
    GROUPED_MESSAGES_COUNT_MAX, HOP_IDLE_TIME_MAX, HOP_LOOK_TIME_MAX, HOP_REST_TIME_LEAST, HOP_REST_TIME_MAX,
    HOP_STALL_TIME_MAX, HOP_TRANSACTIONS_COUNT_MAX, HOP_USERS_COUNT_MAX,
};
use client::Client;
pub(super) use client::Sent;
use connect::{connect, tls_config};
use group::{Group, Line, Waiting};
pub(super) use letter::{Addressee, Body, Letter};
use pace::Pace;
pub(super) use pace::Paces;
pub(super) use reply::Reply;
use stall::Stall;

/// Before another look at a deferred message whose next hop has no place.
const LOOK_WAIT_MS: u64 = 200;
/// Between two such looks.
const LOOK_APART_MS: u64 = 1;

/// All next hops of one egress thread.
#[derive(Default)]
pub(super) struct Hops {
    hops: RefCell<HashMap<Arc<Relay>, Rc<Hop>>>,
    paces: Arc<Paces>,
}

impl std::fmt::Debug for Hops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hops").field("count", &self.hops.borrow().len()).finish_non_exhaustive()
    }
}

impl Hops {
    pub(super) fn new(paces: Arc<Paces>) -> Self {
        Self { paces, ..Self::default() }
    }

    pub(super) fn of(&self, relay: &Arc<Relay>) -> Rc<Hop> {
        let mut hops = self.hops.borrow_mut();
        let new = || Rc::new(Hop::new(Arc::clone(relay), self.paces.of(relay)));
        let hop = hops.entry(Arc::clone(relay)).or_insert_with(new);
        Rc::clone(hop)
    }

    /// Forgets who is in trouble: who knows better has said so.
    pub(super) fn forgive(&self) {
        self.hops.borrow().values().for_each(|hop| drop(hop.trouble.take()));
    }

    /// Says goodbye on connections that were idle for long.
    pub(super) fn reap(&self) {
        let now = Instant::now();
        self.hops.borrow_mut().retain(|_, hop| {
            hop.reap(now);
            let is_used = Rc::strong_count(hop) > 1 || !hop.idle.borrow().is_empty();
            is_used || hop.is_troubled(now) || hop.free_at().is_some()
        });
    }
}

/// What is known of one next hop.
pub(super) struct Hop {
    relay: Arc<Relay>,
    /// How TLS begins; or why it cannot.
    tls: Result<Option<Arc<ClientConfig>>, String>,
    connections: Semaphore,
    line: Line,
    idle: RefCell<Vec<Client>>,
    /// Messages that have a connection or wait for one.
    users_count: Cell<usize>,
    /// Since a transaction ended, or the first of the present ones began.
    stall: Stall,
    /// Connections made, for a turn of each next hop.
    turn: Cell<usize>,
    trouble: RefCell<Option<Trouble>>,
    /// What it is given by all threads, counted as it goes out.
    pace: Option<Arc<Pace>>,
    /// What is begun here for it, so that no more begins at once than may go out.
    entry: Option<Pace>,
    /// When the last deferred message that it had no place for is to be looked at again.
    last_look_unix_ms: Cell<u64>,
}

/// A hop that failed.
struct Trouble {
    failures_count: u32,
    rests_until: Instant,
    why: String,
    /// One message is with it, to see whether it is over.
    is_probed: bool,
}

/// A message's place at a hop, taken before its delivery begins: whoever looks next sees it.
#[derive(Debug)]
pub(super) struct Place(Rc<Hop>);

impl std::fmt::Debug for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hop").field(&self.relay.name()).finish()
    }
}

/// A thread knows each next hop once.
impl PartialEq for Hop {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Hop {}

impl Hash for Hop {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

impl Place {
    pub(super) fn take(hop: Rc<Hop>) -> Self {
        if hop.users_count.get() == 0 {
            hop.stall.end();
        }
        hop.users_count.set(hop.users_count.get() + 1);
        if let Some(entry) = hop.entry.as_ref().filter(|_| hop.trouble.borrow().is_none()) {
            // Who begins unasked is counted when it goes out.
            let _ = entry.take(Instant::now());
        }
        Self(hop)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.users_count.set(self.0.users_count.get() - 1);
    }
}

impl Hop {
    fn new(relay: Arc<Relay>, pace: Option<Arc<Pace>>) -> Self {
        Self {
            tls: tls_config(&relay),
            connections: Semaphore::new(relay.connections_max),
            line: Line::default(),
            idle: RefCell::default(),
            users_count: Cell::new(0),
            stall: Stall::default(),
            turn: Cell::new(0),
            trouble: RefCell::default(),
            pace,
            entry: relay.message_rate.map(Pace::new),
            last_look_unix_ms: Cell::new(0),
            relay,
        }
    }

    /// Whether another message should wait outside: all places are taken, and they get free soon, or its rate lets
    /// none go now.
    pub(super) fn is_full(&self) -> bool {
        let is_taken = || self.users_count.get() >= users_count_max(self.relay.connections_max);
        self.trouble.borrow().is_none() && (self.free_at().is_some() || (is_taken() && self.moves()))
    }

    pub(super) fn name(&self) -> String {
        self.relay.name()
    }

    pub(super) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// When its rate lets another message go, if not now.
    pub(super) fn free_at(&self) -> Option<Instant> {
        let pace = self.pace.as_deref()?;
        let now = Instant::now();
        pace.free_at(now).max(self.entry.as_ref().and_then(|entry| entry.free_at(now)))
    }

    /// When to look again at a deferred message that it has no place for. One is looked at behind the other: each look
    /// reads from the disk, and however many wait, they cost no more.
    pub(super) fn next_look(&self, now_unix_ms: u64) -> u64 {
        let each = self.entry.as_ref().map_or(Duration::ZERO, Pace::each);
        let apart_ms = u64::try_from(each.as_millis()).unwrap_or(u64::MAX).max(LOOK_APART_MS);
        let behind = self.last_look_unix_ms.get().saturating_add(apart_ms);
        let latest_ms = HOP_LOOK_TIME_MAX.as_secs() * 1000;
        let latest = now_unix_ms.saturating_add(latest_ms);
        let look = behind.min(latest).max(now_unix_ms.saturating_add(LOOK_WAIT_MS));
        self.last_look_unix_ms.set(look);
        look
    }

    /// Whether a transaction has ended just now, or it is we who wait.
    fn moves(&self) -> bool {
        self.stall.look() < HOP_STALL_TIME_MAX || self.free_at().is_some()
    }

    /// Waits until its rate lets a message go, and counts it. Another thread may have come first: for a hop that is in
    /// trouble, and for long, nobody waits with a connection in hand.
    async fn keep_pace(&self) -> Result<(), RelayError> {
        let Some(pace) = &self.pace else { return Ok(()) };
        loop {
            let now = Instant::now();
            let Err(free_at) = pace.take(now) else { return Ok(()) };
            if self.trouble.borrow().is_some() || free_at > now + HOP_STALL_TIME_MAX {
                return Err(Problem::Full.at(&self.relay.name()));
            }
            tokio::time::sleep_until(free_at).await;
            self.stall.end();
        }
    }

    /// One transaction. The result is one for each recipient, in order, and how the connection was protected.
    pub(super) async fn deliver(&self, letter: &Rc<Letter>, body: Body<'_>, hostname: &str) -> Delivered {
        let all = |error: RelayError| {
            let sent = vec![Err(error); letter.recipients.len()];
            Delivered { sent, tls: None, next_hop: None, dsn: false, is_grouped: false }
        };
        if let Some(error) = self.resting() {
            return all(error);
        }
        let _connection = match self.connection_or_group(letter, &body).await {
            Turn::Connection(permit) => permit,
            Turn::Over(delivered) => return delivered,
            Turn::Busy => return all(Problem::Busy.at(&self.relay.name())),
        };
        // It may have failed while this one waited.
        if let Some(error) = self.resting() {
            return all(error);
        }
        if let Err(error) = self.keep_pace().await {
            return all(error);
        }
        if let Some(error) = self.resting() {
            return all(error);
        }
        // From here on nothing returns before the hop's state is known again.
        let is_probe = self.trouble.borrow_mut().as_mut().map(|trouble| trouble.is_probed = true).is_some();
        // Who goes along with another message needs no room for this.
        let delivered = Box::pin(self.transact(letter, &body, hostname)).await;
        self.stall.end();
        match &delivered {
            Err(error) if error.is_of_hop() => self.note_trouble(error),
            _ => self.note_health(is_probe),
        }
        delivered.unwrap_or_else(all)
    }

    /// The right to a connection; or it went with who had one.
    async fn connection_or_group(&self, letter: &Rc<Letter>, body: &Body<'_>) -> Turn<'_> {
        if let Ok(permit) = self.connections.try_acquire() {
            return Turn::Connection(permit);
        }
        let Some(content) = body.small() else {
            return self.connection().await.map_or(Turn::Busy, Turn::Connection);
        };
        let waiting = self.line.join(letter, content);
        let turn = self.wait_in_line(&waiting).await;
        self.line.leave(&waiting);
        turn
    }

    async fn wait_in_line(&self, waiting: &Waiting) -> Turn<'_> {
        loop {
            tokio::select! {
                biased;
                delivered = waiting.changed() => {
                    if let Some(delivered) = delivered {
                        return Turn::Over(delivered);
                    }
                }
                // It may have been taken along since it began to wait for one.
                permit = self.connection(), if !waiting.is_taken() => {
                    if !waiting.is_taken() {
                        return permit.map_or(Turn::Busy, Turn::Connection);
                    }
                }
            }
        }
    }

    /// None if nobody gives one back in time.
    async fn connection(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.connections.try_acquire() {
            return Some(permit);
        }
        loop {
            if !self.moves() {
                return None;
            }
            if let Ok(permit) = timeout(HOP_STALL_TIME_MAX, self.connections.acquire()).await {
                return Some(permit.expect("the semaphore is never closed"));
            }
        }
    }

    /// Why the hop is left alone; None if it is well, or a message is to see whether it is.
    fn resting(&self) -> Option<RelayError> {
        let trouble = self.trouble.borrow();
        let trouble =
            trouble.as_ref().filter(|trouble| trouble.is_probed || Instant::now() < trouble.rests_until)?;
        Some(Problem::Resting(trouble.why.clone()).at(&self.relay.name()))
    }

    fn note_trouble(&self, error: &RelayError) {
        let mut trouble = self.trouble.borrow_mut();
        let failures_count = trouble.as_ref().map_or(0, |trouble| trouble.failures_count);
        // Messages that were under way together fail together.
        let is_another = trouble.as_ref().is_none_or(|trouble| trouble.is_probed);
        let failures_count = failures_count + u32::from(is_another);
        let (rests_until, why) = (Instant::now() + rest_after(failures_count), error.to_string());
        *trouble = Some(Trouble { failures_count, rests_until, why, is_probed: false });
        drop(trouble);
        self.idle.borrow_mut().clear();
    }

    fn note_health(&self, is_probe: bool) {
        // Of those that were under way when it failed only a probe says more.
        if is_probe {
            *self.trouble.borrow_mut() = None;
        }
    }

    /// By a connection that there is, or by a new one.
    async fn transact(
        &self,
        letter: &Letter,
        body: &Body<'_>,
        hostname: &str,
    ) -> Result<Delivered, RelayError> {
        while let Some(mut client) = self.take_idle() {
            // Who says more than it was asked would say it in place of the next answer.
            if !client.is_quiet().await {
                continue;
            }
            match self.send(&mut client, letter, body).await {
                Ok(sent) => return Ok(self.keep(client, sent)),
                // The hop had closed it while it was idle.
                Err(RelayError { problem: Problem::Lost(..), .. }) if client.has_only_been_closed() => {}
                Err(error) => return Err(error),
            }
        }
        let tls = self.tls.as_ref().map_err(|why| Problem::Tls(why.clone()).at(&self.relay.name()))?;
        let hops = &self.relay.next_hops;
        let first = if self.relay.balance { self.turn.replace(self.turn.get() + 1) } else { 0 };
        let order = (0..hops.len()).map(|index| &hops[(first + index) % hops.len()]);
        let mut client = Box::pin(connect(&self.relay, order, tls.as_ref(), hostname)).await?;
        let sent = self.send(&mut client, letter, body).await?;
        Ok(self.keep(client, sent))
    }

    /// Together with those in line that may go with it.
    async fn send(
        &self,
        client: &mut Client,
        letter: &Letter,
        body: &Body<'_>,
    ) -> Result<Vec<Sent>, RelayError> {
        client.is_grouped = false;
        // One message is enough to see whether a hop is well again, and whether a connection says what it is asked.
        let is_proven = self.trouble.borrow().is_none() && client.transactions_count > 0;
        let small = client.groups(letter, body).filter(|_| is_proven);
        let Some(content) = small.filter(|_| client.check(letter, body.len()).is_ok()) else {
            return client.send(letter, body).await;
        };
        let now = Instant::now();
        let may_go = || self.pace.as_ref().is_none_or(|pace| pace.take(now).is_ok());
        let group = self.line.take(letter, body.len(), may_go);
        let content_len: usize = group.iter().map(|one| one.content.len()).sum();
        let mut commands = Vec::with_capacity(content.len() + content_len + 256 * GROUPED_MESSAGES_COUNT_MAX);
        client.compose(letter, content, &mut commands);
        let alone_count = client.transactions_count;
        group.iter().for_each(|one| client.compose(&one.letter, &one.content, &mut commands));
        client.is_grouped = client.transactions_count > alone_count;
        client.send_group(&commands).await?;
        let sent = client.hear(letter).await?;
        self.hear_others(client, group, has_refusal(&sent)).await;
        Ok(sent)
    }

    /// Tells the others of a group what has become of them. Behind one whose connection is lost they stand in line
    /// again. What is said behind a refusal counts when it is sure that it was said to them: some say too much about
    /// one.
    async fn hear_others(&self, client: &mut Client, mut group: Group<'_>, mut is_refused: bool) {
        let mut unsure = Vec::new();
        let mut outcome = Ok(());
        while let Some(other) = group.pop() {
            client.has_replied = false;
            let sent = match client.check(&other.letter, other.content.len() as u64) {
                Err(lacking) => Ok(vec![Err(lacking); other.letter.recipients.len()]),
                Ok(()) => client.hear(&other.letter).await,
            };
            self.stall.end();
            match sent {
                Ok(sent) if is_refused => unsure.push((other, sent)),
                Ok(sent) => {
                    is_refused = has_refusal(&sent);
                    other.tell(client.delivered(sent));
                }
                // Some take so many messages on a connection and no more.
                Err(error) if matches!(error.problem, Problem::Lost(..)) && client.has_only_been_closed() => {
                    group.put_back(other);
                    outcome = Err(error);
                    break;
                }
                Err(error) => {
                    if error.is_of_hop() {
                        self.note_trouble(&error);
                    }
                    other.tell(client.failed(&other.letter, &error));
                    outcome = Err(error);
                    break;
                }
            }
        }
        if outcome.is_ok() && !unsure.is_empty() {
            outcome = client.confirm().await;
        }
        client.is_spent |= outcome.is_err();
        for (other, sent) in unsure {
            let delivered = match &outcome {
                Ok(()) => client.delivered(sent),
                Err(error) => client.failed(&other.letter, error),
            };
            other.tell(delivered);
        }
    }

    /// It failed a while ago at most: of a hop that no route names any more this is to be forgotten, too.
    fn is_troubled(&self, now: Instant) -> bool {
        let trouble = self.trouble.borrow();
        trouble.as_ref().is_some_and(|trouble| now < trouble.rests_until + HOP_REST_TIME_MAX)
    }

    fn take_idle(&self) -> Option<Client> {
        self.idle.borrow_mut().pop()
    }

    fn keep(&self, mut client: Client, sent: Vec<Sent>) -> Delivered {
        let delivered = client.delivered(sent);
        client.used_at = Instant::now();
        if client.transactions_count < HOP_TRANSACTIONS_COUNT_MAX && !client.is_spent {
            self.idle.borrow_mut().push(client);
        } else {
            tokio::task::spawn_local(client.quit());
        }
        delivered
    }

    fn reap(&self, now: Instant) {
        self.stall.look();
        let old = |client: &mut Client| now.saturating_duration_since(client.used_at) >= HOP_IDLE_TIME_MAX;
        for client in self.idle.borrow_mut().extract_if(.., old) {
            tokio::task::spawn_local(client.quit());
        }
    }
}

/// Messages that may be with a hop or wait for it: as many again as have connections, or what those take along.
fn users_count_max(connections_max: usize) -> usize {
    let grouped_max = (connections_max * GROUPED_MESSAGES_COUNT_MAX).min(HOP_USERS_COUNT_MAX);
    grouped_max.max(2 * connections_max)
}

fn has_refusal(sent: &[Sent]) -> bool {
    sent.iter().any(Result::is_err)
}

/// How a message goes on that is with a hop.
enum Turn<'a> {
    Connection(SemaphorePermit<'a>),
    Over(Delivered),
    Busy,
}

/// How long a hop is left alone after so many failures in a row.
fn rest_after(failures_count: u32) -> Duration {
    HOP_REST_TIME_LEAST
        .saturating_mul(1_u32 << failures_count.saturating_sub(1).min(16))
        .min(HOP_REST_TIME_MAX)
}

/// What came of a transaction.
pub(super) struct Delivered {
    pub sent: Vec<Sent>,
    /// Protocol and cipher suite; None in clear.
    pub tls: Option<String>,
    /// Whom it was with, as the configuration names it.
    pub next_hop: Option<String>,
    /// The hop was given what the sender wants to be told of.
    pub dsn: bool,
    /// It went with others.
    pub is_grouped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_has_so_many_users() {
        let found: Vec<usize> = [1, 4, 8, 20, 64, 100].into_iter().map(users_count_max).collect();
        assert_eq!(found, [16, 64, 128, 128, 128, 200]);
    }

    #[test]
    fn a_hop_rests_twice_as_long_each_time_up_to_the_most() {
        let rests: Vec<u64> = (1..=9).map(|count| rest_after(count).as_secs()).collect();
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
        assert_eq!((rest_after(10), rest_after(u32::MAX)), (HOP_REST_TIME_MAX, HOP_REST_TIME_MAX));
    }
}
