//! One run from one seed: a machine, some clients, and what must hold whatever happened.

use std::time::Duration;

use ringmx::config::Durability;
use ringmx::session::TlsMode;
use ringmx_ring::AcceptMode;
use ringmx_ring::sim::{ClientState, Faults, Random, Settings};

use super::actor::{Actor, Behaviour, Ending, Reading};
use super::machine::{DRAIN_TIME, Machine, Plan};
use super::recovered::Records;
use super::reference::{self, Reference};
use super::script::Script;
use super::segments::{Supply, Syncs};

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Everything that a healthy machine may do: no reply may change.
    Healthy,
    /// Writes fail or fall short.
    SickDisk,
    /// Segments, memory, connections and descriptors run out.
    Scarce,
    /// As `Healthy`, and all clients come under TLS.
    Secured,
}

/// When the power may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// Once, or not at all, as the seed has it.
    Once,
    /// Behind every turn: what would be on disk is drawn again and again, and the run goes on.
    Always(Syncs),
}

/// How a run ends, if not by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Rest,
    /// The power is cut in this turn.
    PowerCut {
        turn: u64,
    },
    /// The server is stopped in this turn.
    Drain {
        turn: u64,
    },
}

/// What tells a run from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    pub ended_at: Duration,
    pub turns: u64,
    pub completions: u64,
    pub octets_received: u64,
    pub messages: u64,
    pub handshakes: u64,
}

/// Plays the run of this seed.
///
/// # Panics
/// When something does not hold.
pub fn play(seed: u64, world: World, cuts: Cuts) -> Footprint {
    let random = &mut Random::new(seed ^ 0x7061_7274);
    let mut plan = plan(seed, world, random);
    if let Cuts::Always(syncs) = cuts {
        plan.syncs = syncs;
        plan.durabilities = vec![Durability::Sync];
        // Every cut reads every segment; small ones fill and are recycled sooner.
        plan.segment_capacity = 16 << 10;
    }
    let fate = match random.len(0..=3) {
        0 => Fate::PowerCut { turn: random.below(400) },
        1 => Fate::Drain { turn: random.below(400) },
        _ => Fate::Rest,
    };
    let machine = Machine::new(seed, &plan);
    let (actors, kept) = (Vec::new(), Records::new());
    let mut run =
        Run { machine, world, cuts, fate, plan, actors, kept, cut_at: (0, 0, 0), to_come: random.len(1..=8) };
    run.play(random);
    let (stats, ended_at) = (&run.machine.stats, run.machine.simulation.now());
    Footprint {
        ended_at,
        turns: stats.turns.get(),
        completions: stats.completions.get(),
        octets_received: stats.octets_received.get(),
        messages: stats.messages.get(),
        handshakes: stats.handshakes.get(),
    }
}

fn plan(seed: u64, world: World, random: &mut Random) -> Plan {
    let mut settings = Settings::random(seed);
    let faults = settings.faults;
    settings.faults = match world {
        World::Healthy | World::Secured => {
            Faults { accept_error: 0.0, write_error: 0.0, short_write: 0.0, ..faults }
        }
        World::SickDisk => Faults { accept_error: 0.0, ..faults },
        World::Scarce => Faults { write_error: 0.0, short_write: 0.0, ..faults },
    };
    settings.write_time_max = [Duration::from_micros(200), Duration::from_millis(20)][random.len(0..=1)];
    let timeouts = [(300, 180), (20, 10)][random.len(0..=1)];
    let mut plan = Plan {
        settings,
        segment_capacity: [16 << 10, 64 << 10][random.len(0..=1)],
        accept_mode: [AcceptMode::Multishot, AcceptMode::Single][random.len(0..=1)],
        durabilities: durabilities(random),
        async_interval: [Duration::from_millis(10), Duration::from_secs(1)][random.len(0..=1)],
        command_timeout: Duration::from_secs(timeouts.0),
        data_timeout: Duration::from_secs(timeouts.1),
        inline_len_max: [1 << 10, 4 << 10, 256 << 10][random.len(0..=2)],
        ..Plan::default()
    };
    if world == World::Secured {
        plan.tls = [TlsMode::Implicit, TlsMode::StartTls, TlsMode::Required][random.len(0..=2)];
    }
    if world == World::Scarce {
        plan.supply = [Supply::Plenty, Supply::Scarce][random.len(0..=1)];
        plan.is_coming = random.chance(0.5);
        plan.memory_len_max = [4 << 10, 16 << 10, 64 << 20][random.len(0..=2)];
        plan.connections_max = [1, 3, 100][random.len(0..=2)];
    }
    plan
}

/// Mostly what must not lose anything alone; else all promises beside each other in one log.
fn durabilities(random: &mut Random) -> Vec<Durability> {
    use Durability::{Async, None, Sync};
    match random.len(0..=3) {
        0 | 1 => vec![Sync],
        2 => vec![Sync, Async],
        _ => vec![Sync, Async, None],
    }
}

struct Run {
    machine: Machine,
    world: World,
    cuts: Cuts,
    fate: Fate,
    plan: Plan,
    actors: Vec<Actor>,
    /// What cuts found of messages that were promised.
    kept: Records,
    /// What the ledger said at the last cut.
    cut_at: (u64, u64, usize),
    /// Clients that have not connected yet.
    to_come: usize,
}

/// More turns than any run needs.
const TURNS_MAX: u64 = 300_000;

impl Run {
    fn play(&mut self, random: &mut Random) {
        let mut turns = 0;
        while self.to_come > 0 || self.machine.stats.connections_now.get() > 0 || !self.is_over() {
            turns += 1;
            assert!(turns < TURNS_MAX, "no end at {:?}", self.machine.simulation.now());
            match self.fate {
                Fate::PowerCut { turn } if turn == turns => return self.cut_power(),
                Fate::Drain { turn } if turn == turns => {
                    self.drain(random);
                    break;
                }
                _ => {}
            }
            self.turn(random);
        }
        self.machine.finish();
        self.actors.iter_mut().for_each(|actor| actor.act(&self.machine.simulation, random));
        self.check_replies();
        self.check_records(false);
    }

    /// Everybody has gone, and nothing is on its way.
    fn is_over(&self) -> bool {
        let simulation = &self.machine.simulation;
        let is_over = |actor: &Actor| actor.is_done(simulation) || actor.behaviour.reading == Reading::Never;
        simulation.is_idle() && self.actors.iter().all(is_over)
    }

    fn turn(&mut self, random: &mut Random) {
        if self.to_come > 0 && random.chance(0.2) {
            self.to_come -= 1;
            self.connect(random);
        }
        self.keep(random);
        for actor in &mut self.actors {
            actor.act(&self.machine.simulation, random);
        }
        let simulation = &self.machine.simulation;
        let acting = self.actors.iter().filter(|actor| !actor.is_done(simulation));
        let mut next_at = acting.filter_map(|actor| actor.next_at(simulation.now())).min();
        if self.to_come > 0 {
            next_at = Some(next_at.unwrap_or(Duration::MAX).min(simulation.now() + Duration::from_millis(1)));
        }
        self.machine.turn_until(next_at);
        if self.cuts != Cuts::Once {
            self.check_cuts(random);
        }
    }

    /// What was promised up to now is on disk whatever a power cut would leave, and always the same. Where neither a
    /// write nor a promise has come since the last look, nothing can have changed.
    fn check_cuts(&mut self, random: &mut Random) {
        let ledger = self.machine.ledger.borrow();
        let at = (ledger.writes, ledger.writes_completed, ledger.promised.len());
        if std::mem::replace(&mut self.cut_at, at) == at {
            return;
        }
        let promised = ledger.promised.clone();
        drop(ledger);
        for _ in 0..2 {
            let mut records = self.machine.recover_as_if_cut(random);
            for id in &promised {
                let found = records.remove(id).unwrap_or_else(|| panic!("{id} would be lost"));
                let kept = self.kept.entry(id.clone()).or_insert_with(|| found.clone());
                assert!(*kept == found, "{id} would change");
            }
        }
    }

    fn connect(&mut self, random: &mut Random) {
        let noise = [0.0, 0.2, 0.6][random.len(0..=2)];
        let script = Script::random(random, self.actors.len(), 6, noise);
        let behaviour = Behaviour::random(random);
        let actor = self.machine.actor(script, behaviour);
        self.actors.push(actor);
    }

    /// What the keeper and the reader of the shard do meanwhile.
    fn keep(&self, random: &mut Random) {
        if self.plan.supply == Supply::Scarce && random.chance(0.02) {
            self.machine.keeper.refill();
        }
        if random.chance(0.1) {
            self.machine.keeper.reader_sleeps();
        }
    }

    fn cut_power(&mut self) {
        self.actors.iter_mut().for_each(|actor| actor.take(&self.machine.simulation));
        self.check_records(true);
    }

    fn drain(&mut self, random: &mut Random) {
        self.machine.stop();
        self.to_come = 0;
        let limit = DRAIN_TIME + Duration::from_secs(1);
        let until = self.machine.simulation.now() + limit;
        let mut turns = 0;
        while !self.machine.worker.is_drained() {
            turns += 1;
            let now = self.machine.simulation.now();
            assert!(now <= until && turns < TURNS_MAX, "drains for ever, at {now:?}");
            self.turn(random);
        }
    }

    /// Every reply that came is one that should have come, in its place; whoever stayed got all of them.
    fn check_replies(&self) {
        // Where content finds no memory, the reply is not known beforehand.
        if self.is_short_of_memory() {
            return;
        }
        for (index, actor) in self.actors.iter().enumerate() {
            if let Err(wrong) = self.judge(actor) {
                let state = self.machine.simulation.state(actor.client);
                let got = String::from_utf8_lossy(&actor.inbox);
                let expected = self.reference(actor).replies;
                let (sent, expected) =
                    (String::from_utf8_lossy(&actor.sent), String::from_utf8_lossy(&expected));
                let behaviour = &actor.behaviour;
                panic!(
                    "{wrong}: client {index}, {behaviour:?}, {state:?}\nsent {sent:?}\ngot {got:?}\nnot {expected:?}"
                );
            }
        }
    }

    fn is_short_of_memory(&self) -> bool {
        self.plan.memory_len_max < Plan::default().memory_len_max
    }

    fn reference(&self, actor: &Actor) -> Reference {
        let service = &self.machine.service;
        match self.world {
            World::Healthy => Reference::of(service, actor.address, &actor.sent),
            // Nothing is answered before the handshake is done.
            World::Secured => actor.wire.security().map_or_else(Reference::default, |security| {
                Reference::secured(service, actor.address, security, &actor.sent)
            }),
            _ => Reference::guided(service, actor.address, &actor.sent, &reference::blotted(&actor.inbox)),
        }
    }

    fn judge(&self, actor: &Actor) -> Result<(), &'static str> {
        let state = self.machine.simulation.state(actor.client);
        if self.world == World::Scarce && state == ClientState::Reset && actor.inbox.is_empty() {
            // Aborted in the queue, or more clients than can be told that there are too many.
            return Ok(());
        }
        let drained = matches!(self.fate, Fate::Drain { .. });
        let reference = self.reference(actor);
        if self.world == World::Secured && actor.wire.security().is_some() {
            if actor.wire.heard_in_clear != reference.in_clear {
                return Err("wrong replies in clear");
            }
        } else if self.world == World::Secured && !drained && actor.behaviour.stays() {
            return Err("no handshake");
        }
        let expected = reference.replies;
        let got = reference::blotted(&actor.inbox);
        // One more reply than the client's words ask for: why the server ends the session.
        let timed_out: &[u8] = b"421 4.4.2 ";
        let may_time_out = actor.behaviour.ending == Ending::Silence || !actor.behaviour.stays();
        let last_words: &[&[u8]] = match (drained, may_time_out) {
            (false, false) => &[],
            (false, true) => &[timed_out],
            (true, _) => &[b"421 4.3.2 shutting", timed_out],
        };
        let last_at = last_line_at(&got);
        // Cut short where the client left.
        let last = &got[last_at..];
        let has_last_word = !last.is_empty()
            && last_words.iter().any(|word| last.starts_with(word) || word.starts_with(last));
        let answers = if has_last_word { &got[..last_at] } else { &got[..] };
        if !expected.starts_with(answers) {
            return Err("wrong replies");
        }
        if drained || !actor.behaviour.stays() {
            return Ok(());
        }
        let has_end =
            has_last_word || actor.behaviour.ending != Ending::Silence || last_line(&expected, b"421 ");
        match state {
            _ if answers != expected => Err("replies are missing"),
            ClientState::Ended if has_end => Ok(()),
            ClientState::Ended => Err("an end without a word"),
            // Dismissed, and it did not stop talking for as long as the server lingers.
            ClientState::Reset if last_line(&expected, b"421 ") => Ok(()),
            _ => Err("not ended well"),
        }
    }

    /// Every message that a client was told is queued is on the disk, whole, as far as its listener promises; and
    /// egress would find it.
    fn check_records(&mut self, power_was_cut: bool) {
        let published: Records = self.machine.published();
        let records: Records = self.machine.recover();
        for actor in &self.actors {
            let ids = reference::queued(&actor.inbox);
            if ids.is_empty() {
                continue;
            }
            let reference = self.reference(actor);
            for id in ids {
                let is_sync = actor.durability == Durability::Sync;
                // What has failed, or not happened before the power was cut, was promised to nobody else.
                let may_be_unwritten = !is_sync && (power_was_cut || self.world == World::SickDisk);
                let may_be_lost = may_be_unwritten || actor.durability == Durability::None;
                let is_published = published.contains_key(&id);
                assert!(is_published || may_be_unwritten || power_was_cut, "{id} is nowhere to be read");
                let Some(record) = records.get(&id) else {
                    assert!(may_be_lost, "{id} is lost");
                    continue;
                };
                let marker = reference::marker(&record.envelope);
                // Without memory the bare session, which has it, may have lost patience sooner.
                let expected = reference.messages.get(&marker);
                if expected.is_some() || !self.is_short_of_memory() {
                    assert_eq!(Some(record), expected, "{id} is not what the client sent");
                }
                if let Some(message) = actor.script.messages.iter().find(|message| message.marker == marker) {
                    assert!(record.body == message.content, "{id} is not what the script says");
                }
            }
        }
    }
}

/// Where the last line begins.
fn last_line_at(replies: &[u8]) -> usize {
    let whole = replies.strip_suffix(b"\r\n").unwrap_or(replies);
    whole.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1)
}

fn last_line(replies: &[u8], start: &[u8]) -> bool {
    replies[last_line_at(replies)..].starts_with(start)
}
