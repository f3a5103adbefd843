//! What clients do at the same time and in a time, over all workers: one table of a fixed size, of atomics.
//!
//! A client is counted twice: as itself (an IPv4 address, an IPv6 /64, which is what one subscriber gets), and with its
//! neighbours (an IPv4 /24, an IPv6 /48). The table is touched when a connection comes and goes and when a transaction
//! begins and ends, never for a command.
//!
//! It never grows. An entry that nobody is connected under and whose rates have recovered says nothing any more, and is
//! taken for the next client that needs one. Where all places for a client are taken, the client is not counted: a
//! stranger who fills the table must not lock honest clients out. The places are drawn with a secret of this start, so
//! that nobody can choose addresses that meet in one of them.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::{FAULTS_COUNT_MOST, RECIPIENTS_COUNT_MAX};
use crate::policy::network::Network;
use crate::policy::rules::RuleLimit;

/// Entries where a client may be: a lookup reads no more than these, each one cache line.
const PLACES_COUNT: usize = 8;
/// Low bits of an entry's word that count its open connections; the others tell whose it is.
const OPEN_BITS: u32 = 24;
const OPEN_MAX: u64 = (1 << OPEN_BITS) - 1;

/// How far around a client's address counts as the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// An IPv4 address, an IPv6 /64.
    Client,
    /// An IPv4 /24, an IPv6 /48.
    Network,
}

/// What is counted in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Connections,
    Transactions,
    Recipients,
    Faults,
    Octets,
    Commands,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections open at the same time.
    Open(Scope),
    Rate(Scope, Amount),
}

/// So many in a time, at once or spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u64,
    /// Nanoseconds.
    per: u64,
    /// Nanoseconds in which it recovers from one: known from the start, since every transaction asks.
    each: u64,
}

/// The limits of one scope; what is `None` has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeLimits {
    pub open_max: Option<u32>,
    pub connections: Option<Rate>,
    pub transactions: Option<Rate>,
    pub recipients: Option<Rate>,
    pub faults: Option<Rate>,
    pub octets: Option<Rate>,
    pub commands: Option<Rate>,
}

/// What a session has used, as far as the table does not know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// A transaction has no more than fit: accepted ones and a session's budget of refused ones.
    pub recipients: u16,
    /// No more than a session's budget, which fits.
    pub faults: u16,
    pub octets: u32,
    pub commands: u32,
}

const _: () = assert!(RECIPIENTS_COUNT_MAX + FAULTS_COUNT_MOST as usize <= u16::MAX as usize);

/// The limits of a client and of its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    pub client: ScopeLimits,
    pub network: ScopeLimits,
}

/// The table.
#[derive(Debug)]
pub struct Clients {
    secret: RandomState,
    /// A power of two, at least `PLACES_COUNT`.
    entries: Box<[Entry]>,
}

/// A connection's place in the table, given back with [`Clients::leave`]. While it is held its entries stay its own.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Visit {
    /// `None` where the table had no place.
    client: Option<Place>,
    network: Option<Place>,
    /// Of rules that limit connections; those of a third and further ones are not counted.
    rules: [Option<Place>; 2],
}

/// As many connections are open under an entry as may be.
struct Full;

/// Index of an entry, plus 1: an `Option` of it is as small as it.
type Place = std::num::NonZeroU32;

/// Fills a cache line, so that two clients share none.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry {
    /// Whose it is, and how many connections are open: one word, so that nobody can take an entry that is in use.
    word: AtomicU64,
    /// By `Amount`: when, in nanoseconds, the rate has recovered from what was counted (the theoretical arrival time
    /// of the generic cell rate algorithm, ITU-T I.371). What lies in the past counts for nothing.
    recovered_at: [AtomicU64; 6],
}

impl Clients {
    /// `entries_count` is rounded up to a power of two. The secret is drawn anew at each start.
    pub fn new(entries_count: usize, secret: RandomState) -> Self {
        let entries_count = entries_count.max(PLACES_COUNT).next_power_of_two();
        Self { secret, entries: (0..entries_count).map(|_| Entry::default()).collect() }
    }

    /// A client has connected.
    ///
    /// # Errors
    /// The limit that forbids it; then nothing is counted.
    pub fn enter(&self, client: IpAddr, limits: &ClientLimits, now: Duration) -> Result<Visit, Limit> {
        let now = nanos(now);
        let mut visit = Visit::default();
        for scope in [Scope::Client, Scope::Network] {
            let Ok(place) = self.occupy(self.hash(scope, client), limits.of(scope).open_max, now) else {
                self.leave(visit);
                return Err(Limit::Open(scope));
            };
            *visit.place(scope) = place;
        }
        // Of a transaction's amounts, those that earlier sessions have used up.
        let used_up = [Amount::Faults, Amount::Recipients, Amount::Octets, Amount::Commands];
        let allowed = used_up.into_iter().try_for_each(|amount| self.check(&visit, limits, amount, now));
        match allowed.and_then(|()| self.spend(&visit, limits, Amount::Connections, now)) {
            Ok(()) => Ok(visit),
            Err(limit) => {
                self.leave(visit);
                Err(limit)
            }
        }
    }

    /// A transaction begins. What the session has used until now is counted, whether or not it is too much.
    ///
    /// # Errors
    /// The limit that forbids it; then it is not counted itself.
    pub fn begin_transaction(
        &self,
        visit: &Visit,
        limits: &ClientLimits,
        used: Used,
        now: Duration,
    ) -> Result<(), Limit> {
        let now = nanos(now);
        let mut allowed = Ok(());
        for (scope, place) in visit.scopes() {
            let Some(place) = place else { continue };
            let (limits, entry) = (limits.of(scope), self.entry(place));
            for (amount, count) in used.amounts() {
                let Some(rate) = limits.rate(amount) else { continue };
                let charged = rate.charge(entry.recovered_at(amount), count, now);
                // A session's faults are its budget's concern; its client's are the next connection's.
                if amount != Amount::Faults && rate.one_more(charged, now).is_none() {
                    allowed = allowed.and(Err(Limit::Rate(scope, amount)));
                }
            }
        }
        allowed.and_then(|()| self.spend(visit, limits, Amount::Transactions, now))
    }

    /// Counts what a session has used, whether or not it is too much: the next connection or transaction is told.
    pub fn charge(&self, visit: &Visit, limits: &ClientLimits, used: Used, now: Duration) {
        let now = nanos(now);
        for (scope, place) in visit.scopes() {
            let Some(place) = place else { continue };
            for (amount, count) in used.amounts() {
                let Some(rate) = limits.of(scope).rate(amount) else { continue };
                rate.charge(self.entry(place).recovered_at(amount), count, now);
            }
        }
    }

    /// Whether a rule's limit lets the client do one more; then it is counted. Where the table has no place for it, it
    /// is let through.
    pub fn admit(&self, visit: &mut Visit, client: IpAddr, limit: &RuleLimit, now: Duration) -> bool {
        let now = nanos(now);
        let prefix_len =
            if client.to_canonical().is_ipv4() { limit.prefix_len_ipv4 } else { limit.prefix_len_ipv6 };
        let hash = self.secret.hash_one((limit.key, Network::around(client, prefix_len)));
        let place = match self.occupy(hash, limit.open_max, now) {
            Ok(Some(place)) => place,
            Ok(None) => return true,
            Err(Full) => return false,
        };
        let one_more = |at| limit.rate.map_or(Some(at), |rate| rate.one_more(at, now));
        let rate = &self.entry(place).recovered_at[0];
        let is_admitted = rate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        let free = visit.rules.iter_mut().find(|rule| rule.is_none());
        match free.filter(|_| is_admitted && limit.open_max.is_some()) {
            Some(free) => *free = Some(place),
            None => self.release(place),
        }
        is_admitted
    }

    /// The connection is over.
    pub fn leave(&self, visit: Visit) {
        for place in [visit.client, visit.network].into_iter().chain(visit.rules).flatten() {
            self.release(place);
        }
    }

    fn release(&self, place: Place) {
        self.entry(place).word.fetch_sub(1, Ordering::Release);
    }

    /// Whether one more would be beyond a rate.
    fn check(&self, visit: &Visit, limits: &ClientLimits, amount: Amount, now: u64) -> Result<(), Limit> {
        for (scope, place) in visit.scopes() {
            let (Some(place), Some(rate)) = (place, limits.of(scope).rate(amount)) else { continue };
            let recovered_at = self.entry(place).recovered_at(amount).load(Ordering::Relaxed);
            rate.one_more(recovered_at, now).ok_or(Limit::Rate(scope, amount))?;
        }
        Ok(())
    }

    /// Counts one, unless it is beyond a rate: who is refused does not use it up.
    fn spend(&self, visit: &Visit, limits: &ClientLimits, amount: Amount, now: u64) -> Result<(), Limit> {
        let mut spent: Option<(&AtomicU64, &Rate)> = None;
        for (scope, place) in visit.scopes() {
            let (Some(place), Some(rate)) = (place, limits.of(scope).rate(amount)) else { continue };
            let recovered_at = self.entry(place).recovered_at(amount);
            let one_more = |at| rate.one_more(at, now);
            if recovered_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
                if let Some((recovered_at, rate)) = spent {
                    recovered_at.fetch_sub(rate.each, Ordering::Relaxed);
                }
                return Err(Limit::Rate(scope, amount));
            }
            spent = Some((recovered_at, rate));
        }
        Ok(())
    }

    /// Opens a connection under the entry of this hash, which is found or taken; `None` where no place is free.
    fn occupy(&self, hash: u64, open_max: Option<u32>, now: u64) -> Result<Option<Place>, Full> {
        let open_max = open_max.map_or(OPEN_MAX, |max| u64::from(max).min(OPEN_MAX));
        let first = hash as usize & (self.entries.len() - 1) & !(PLACES_COUNT - 1);
        // 0 is nobody's.
        let owner = (hash >> OPEN_BITS << OPEN_BITS) | (1 << OPEN_BITS);
        // Another round only if another thread has changed an entry meanwhile.
        loop {
            let mut found = None;
            for index in first..first + PLACES_COUNT {
                let entry = &self.entries[index];
                let word = entry.word.load(Ordering::Acquire);
                if word & !OPEN_MAX == owner {
                    found = Some((index, word));
                    break;
                }
                if found.is_none() && word & OPEN_MAX == 0 && entry.has_recovered(now) {
                    found = Some((index, word));
                }
            }
            let Some((index, word)) = found else { return Ok(None) };
            let open_count = if word & !OPEN_MAX == owner { word & OPEN_MAX } else { 0 };
            if open_count >= open_max {
                return Err(Full);
            }
            let taken = &self.entries[index].word;
            if taken
                .compare_exchange(word, owner | (open_count + 1), Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return Ok(Place::new(index as u32 + 1));
            }
        }
    }

    fn hash(&self, scope: Scope, client: IpAddr) -> u64 {
        self.secret.hash_one(Network::around(client, scope.prefix_len(client)))
    }

    fn entry(&self, place: Place) -> &Entry {
        &self.entries[place.get() as usize - 1]
    }
}

impl Visit {
    /// Counted nowhere, because the table had no place for it or because nobody wanted it counted.
    pub fn is_untracked(&self) -> bool {
        self.client.is_none() || self.network.is_none()
    }

    fn scopes(&self) -> [(Scope, Option<Place>); 2] {
        [(Scope::Client, self.client), (Scope::Network, self.network)]
    }

    fn place(&mut self, scope: Scope) -> &mut Option<Place> {
        match scope {
            Scope::Client => &mut self.client,
            Scope::Network => &mut self.network,
        }
    }
}

impl Entry {
    fn recovered_at(&self, amount: Amount) -> &AtomicU64 {
        &self.recovered_at[amount as usize]
    }

    fn has_recovered(&self, now: u64) -> bool {
        self.recovered_at.iter().all(|recovered_at| recovered_at.load(Ordering::Relaxed) <= now)
    }
}

impl Scope {
    fn prefix_len(self, client: IpAddr) -> u8 {
        match (self, client.to_canonical()) {
            (Self::Client, IpAddr::V4(_)) => 32,
            (Self::Network, IpAddr::V4(_)) => 24,
            (Self::Client, IpAddr::V6(_)) => 64,
            (Self::Network, IpAddr::V6(_)) => 48,
        }
    }
}

impl Limit {
    /// For log lines; as the configuration calls it.
    pub fn name(self) -> &'static str {
        use Amount::{Commands, Connections, Faults, Octets, Recipients, Transactions};
        match self {
            Self::Open(Scope::Client) => "connections-per-client",
            Self::Open(Scope::Network) => "connections-per-network",
            Self::Rate(Scope::Client, Connections) => "connection-rate-per-client",
            Self::Rate(Scope::Network, Connections) => "connection-rate-per-network",
            Self::Rate(Scope::Client, Transactions) => "transaction-rate-per-client",
            Self::Rate(Scope::Network, Transactions) => "transaction-rate-per-network",
            Self::Rate(Scope::Client, Recipients) => "recipient-rate-per-client",
            Self::Rate(Scope::Network, Recipients) => "recipient-rate-per-network",
            Self::Rate(Scope::Client, Faults) => "fault-rate-per-client",
            Self::Rate(Scope::Network, Faults) => "fault-rate-per-network",
            Self::Rate(Scope::Client, Octets) => "size-rate-per-client",
            Self::Rate(Scope::Network, Octets) => "size-rate-per-network",
            Self::Rate(Scope::Client, Commands) => "command-rate-per-client",
            Self::Rate(Scope::Network, Commands) => "command-rate-per-network",
        }
    }
}

impl Used {
    fn amounts(self) -> [(Amount, u32); 4] {
        [
            (Amount::Recipients, self.recipients.into()),
            (Amount::Octets, self.octets),
            (Amount::Commands, self.commands),
            (Amount::Faults, self.faults.into()),
        ]
    }
}

impl Rate {
    /// Both above 0.
    pub const fn new(count: u64, per: Duration) -> Self {
        let nanos = per.as_nanos();
        let per = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        let count = if count == 0 { 1 } else { count };
        Self { count, per, each: per / count }
    }

    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The time in which there are so many, in nanoseconds.
    pub const fn nanos(&self) -> u64 {
        self.per
    }

    /// Nanoseconds in which the rate recovers from so many.
    fn cost(&self, count: u32) -> u64 {
        let count = u64::from(count);
        match self.per.checked_mul(count) {
            _ if count == 1 => self.each,
            Some(cost) => cost / self.count,
            // A division of 128 bits is slow.
            None => {
                let cost = u128::from(self.per) * u128::from(count) / u128::from(self.count);
                u64::try_from(cost).unwrap_or(u64::MAX)
            }
        }
    }

    /// When it will have recovered from one more; `None` if that is too much.
    fn one_more(&self, recovered_at: u64, now: u64) -> Option<u64> {
        let next = recovered_at.max(now).saturating_add(self.each);
        (next - now <= self.per).then_some(next)
    }

    /// Counts so many. When it will have recovered from them.
    ///
    /// Not in one step: of two threads that charge a client in the same nanoseconds, one may count for nothing. What is
    /// charged has happened and is not decided here, so that this is worth less than a locked instruction for each
    /// amount of each message. What may not happen is counted exactly: see `Clients::spend`.
    fn charge(&self, recovered_at: &AtomicU64, count: u32, now: u64) -> u64 {
        let at = recovered_at.load(Ordering::Relaxed);
        if count == 0 {
            return at;
        }
        let cost = self.cost(count);
        // However much it was, after twice the time it is forgiven.
        let forgiven_at = now.saturating_add(self.per.saturating_mul(2));
        let charged = at.max(now).saturating_add(cost).min(forgiven_at);
        recovered_at.store(charged, Ordering::Relaxed);
        charged
    }
}

impl ClientLimits {
    fn of(&self, scope: Scope) -> &ScopeLimits {
        match scope {
            Scope::Client => &self.client,
            Scope::Network => &self.network,
        }
    }
}

impl ScopeLimits {
    fn rate(&self, amount: Amount) -> Option<&Rate> {
        match amount {
            Amount::Connections => self.connections.as_ref(),
            Amount::Transactions => self.transactions.as_ref(),
            Amount::Recipients => self.recipients.as_ref(),
            Amount::Faults => self.faults.as_ref(),
            Amount::Octets => self.octets.as_ref(),
            Amount::Commands => self.commands.as_ref(),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
