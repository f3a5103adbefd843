//! One run from one seed: a machine, some clients, and what must hold whatever happened.

use std::time::Duration;

use ringmx::limits;
use ringmx_ring::AcceptMode;
use ringmx_ring::sim::{ClientState, Faults, Random, Settings};

use super::actor::{Actor, Behaviour, Ending, Reading};
use super::machine::{DRAIN_TIME, Machine, Plan};
use super::recovered::Records;
use super::reference::{self, Reference};
use super::script::Script;
use super::segments::Supply;

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Everything that a healthy machine may do: no reply may change.
    Healthy,
    /// Writes fail or fall short.
    SickDisk,
    /// Segments, memory, connections and descriptors run out.
    Scarce,
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

/// Plays the run of this seed.
///
/// # Panics
/// When something does not hold.
pub fn play(seed: u64, world: World) {
    let random = &mut Random::new(seed ^ 0x7061_7274);
    let plan = plan(seed, world, random);
    let fate = match random.len(0..=3) {
        0 => Fate::PowerCut { turn: random.below(400) },
        1 => Fate::Drain { turn: random.below(400) },
        _ => Fate::Rest,
    };
    let machine = Machine::new(seed, &plan);
    let mut run = Run { machine, world, fate, plan, actors: Vec::new(), to_come: random.len(1..=8) };
    run.play(random);
}

fn plan(seed: u64, world: World, random: &mut Random) -> Plan {
    let mut settings = Settings::random(seed);
    let faults = settings.faults;
    settings.faults = match world {
        World::Healthy => Faults { accept_error: 0.0, write_error: 0.0, short_write: 0.0, ..faults },
        World::SickDisk => Faults { accept_error: 0.0, ..faults },
        World::Scarce => Faults { write_error: 0.0, short_write: 0.0, ..faults },
    };
    settings.write_time_max = [Duration::from_micros(200), Duration::from_millis(20)][random.len(0..=1)];
    let timeouts = [(300, 180), (20, 10)][random.len(0..=1)];
    let mut plan = Plan {
        settings,
        segment_capacity: [16 << 10, 64 << 10][random.len(0..=1)],
        accept_mode: [AcceptMode::Multishot, AcceptMode::Single][random.len(0..=1)],
        command_timeout: Duration::from_secs(timeouts.0),
        data_timeout: Duration::from_secs(timeouts.1),
        ..Plan::default()
    };
    if world == World::Scarce {
        plan.supply = [Supply::Plenty, Supply::Scarce][random.len(0..=1)];
        plan.content_len_max = [4 << 10, 16 << 10, 64 << 20][random.len(0..=2)];
        plan.connections_max = [1, 3, 100][random.len(0..=2)];
        plan.settings.fds_max = [8, 1024][random.len(0..=1)];
    }
    plan
}

struct Run {
    machine: Machine,
    world: World,
    fate: Fate,
    plan: Plan,
    actors: Vec<Actor>,
    /// Clients that have not connected yet.
    to_come: usize,
}

/// More turns than any run needs.
const TURNS_MAX: u64 = 3_000_000;

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
        self.check_records();
    }

    /// Everybody has gone, and nothing is on its way.
    fn is_over(&self) -> bool {
        let simulation = &self.machine.simulation;
        simulation.is_idle()
            && self
                .actors
                .iter()
                .all(|actor| actor.is_done(simulation) || actor.behaviour.reading == Reading::Never)
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
        let mut next_at = acting.filter_map(Actor::next_at).min();
        if self.to_come > 0 {
            next_at = Some(next_at.unwrap_or(Duration::MAX).min(simulation.now() + Duration::from_millis(1)));
        }
        self.machine.turn_until(next_at);
    }

    fn connect(&mut self, random: &mut Random) {
        let noise = [0.0, 0.2, 0.6][random.len(0..=2)];
        let script = Script::random(random, self.actors.len(), 6, noise);
        let behaviour = Behaviour::random(random);
        let actor = self.machine.actor(script, behaviour);
        self.actors.push(actor);
    }

    /// What the keeper and the reader of the shard do meanwhile.
    fn keep(&mut self, random: &mut Random) {
        if self.plan.supply == Supply::Scarce && random.chance(0.02) {
            self.machine.keeper.refill();
        }
        if random.chance(0.1) {
            self.machine.keeper.reader_sleeps();
        }
    }

    fn cut_power(&mut self) {
        self.actors
            .iter_mut()
            .for_each(|actor| actor.inbox.extend(self.machine.simulation.take(actor.client)));
        self.check_records();
    }

    fn drain(&mut self, random: &mut Random) {
        self.machine.stop();
        self.to_come = 0;
        let limit = DRAIN_TIME + Duration::from_secs(1);
        let until = self.machine.simulation.now() + limit;
        while !self.machine.worker.is_drained() {
            assert!(self.machine.simulation.now() <= until, "drains for ever");
            self.turn(random);
        }
    }

    /// Every reply that came is one that should have come, in its place; whoever stayed got all of them.
    fn check_replies(&self) {
        if self.world != World::Healthy {
            return;
        }
        for (index, actor) in self.actors.iter().enumerate() {
            let expected = Reference::of(&self.machine.service, actor.address, &actor.sent).replies;
            let got = reference::blotted(&actor.inbox);
            let context = || {
                let (got, expected) = (String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
                let sent = String::from_utf8_lossy(&actor.sent);
                let behaviour = &actor.behaviour;
                let state = self.machine.simulation.state(actor.client);
                format!(
                    "client {index}, {behaviour:?}, {state:?}\nsent {sent:?}\ngot {got:?}\nnot {expected:?}"
                )
            };
            let drained = matches!(self.fate, Fate::Drain { .. });
            let early = drained || !actor.behaviour.stays();
            let rest = got.strip_prefix(&expected[..]);
            assert!(rest.is_some() || early, "replies are missing\n{}", context());
            if let Some(last) = rest.filter(|rest| !rest.is_empty()) {
                let timed_out = last.starts_with(b"421 4.4.2 ") && actor.behaviour.ending == Ending::Silence
                    || last.starts_with(b"421 4.4.2 ") && !actor.behaviour.stays();
                let stopped = last.starts_with(b"421 4.3.2 ") && drained;
                assert!(timed_out || stopped, "a reply too many\n{}", context());
            }
            if rest.is_none() {
                let line_start = got.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| {
                    got[..at].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1)
                });
                let cut = if drained && got[line_start..].starts_with(b"421 4.3.2 ") {
                    line_start
                } else {
                    got.len()
                };
                assert!(expected.starts_with(&got[..cut]), "wrong replies\n{}", context());
            }
            if actor.behaviour.stays() && !drained {
                let state = self.machine.simulation.state(actor.client);
                assert_eq!(state, ClientState::Ended, "{}", context());
                let last = actor.codes().last().copied();
                let closes = actor.behaviour.ending == Ending::HalfClose || matches!(last, Some(221 | 421));
                assert!(closes, "an end without a word\n{}", context());
            }
        }
    }

    /// Every message that a client was told is queued is on the disk, whole.
    fn check_records(&mut self) {
        let records: Records = self.machine.recover();
        for actor in &self.actors {
            let ids = reference::queued(&actor.inbox);
            if ids.is_empty() {
                continue;
            }
            let reference = Reference::of(&self.machine.service, actor.address, &actor.sent);
            for id in ids {
                let record = records.get(&id).unwrap_or_else(|| panic!("{id} is lost"));
                let marker = reference::marker(&record.envelope);
                let expected = reference.messages.get(&marker);
                assert_eq!(Some(record), expected, "{id} is not what the client sent");
                if let Some(message) = actor.script.messages.iter().find(|message| message.marker == marker) {
                    assert!(record.body == message.content, "{id} is not what the script says");
                }
            }
        }
    }
}
