//! What runs by seed have found, and what one seed in a million would find: each case by itself.

use std::time::Duration;

use ringmx::config::Durability;
use ringmx::limits;
use ringmx::limits::FLIGHTS_COUNT_MAX;
use ringmx_ring::Errno;
use ringmx_ring::sim::{Client, ClientState, Faults, Random};
use tests::simulation::machine::{Machine, Plan};
use tests::simulation::reference;

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).expect("ASCII")
}

/// A reset while the message is being committed: the reply has nowhere to go.
#[test]
fn a_reply_does_not_follow_the_close() {
    let mut plan = Plan::default();
    plan.settings.write_time_max = Duration::from_secs(1);
    let mut machine = Machine::new(1, &plan);
    let (client, _) = machine.connect();
    machine.settle();
    machine.simulation.send(client, b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n.\r\n");
    machine.turn();
    machine.simulation.reset(client);
    // The probe stops the test at a send behind the close.
    machine.settle();
    assert_eq!(machine.stats.messages.get(), 1);
    machine.finish();
}

/// The timer wheel holds about four minutes; RFC 5321 §4.5.3.2.7 wants five.
#[test]
fn a_silent_client_is_told_after_the_command_timeout() {
    for (timeout, stays) in [(20, 19), (262, 261), (300, 299), (3600, 3599)] {
        let plan = Plan { command_timeout: Duration::from_secs(timeout), ..Plan::default() };
        let mut machine = Machine::new(1, &plan);
        let (client, _) = machine.connect();
        machine.pass(Duration::from_secs(stays));
        assert_eq!(machine.simulation.state(client), ClientState::Open, "{timeout} s");
        machine.simulation.take(client);
        machine.pass(Duration::from_secs(2));
        assert!(text(&machine.simulation.take(client)).starts_with("421 4.4.2 "), "{timeout} s");
        machine.pass(Duration::from_secs(6));
        assert_eq!(machine.simulation.state(client), ClientState::Ended);
        assert_eq!(machine.stats.connections_now.get(), 0);
        machine.finish();
    }
}

/// Past the drain's end the worker waits for the disk, and does not ask again and again.
#[test]
fn a_drain_ends_and_sleeps_until_then() {
    let mut plan = Plan::default();
    plan.settings.write_time_max = Duration::from_secs(300);
    let mut machine = Machine::new(3, &plan);
    let (client, _) = machine.connect();
    machine.settle();
    machine.simulation.send(client, b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n.\r\n");
    machine.pass(Duration::from_secs(1));
    machine.stop();
    let turns = machine.stats.turns.get();
    machine.pass(Duration::from_secs(300));
    assert!(machine.worker.is_drained());
    assert!(machine.stats.turns.get() - turns < 30, "{} turns", machine.stats.turns.get() - turns);
    assert_eq!(machine.stats.messages.get(), 1);
    machine.finish();
}

/// Replies to all that was sent before a half-close go out, however many they are.
#[test]
fn a_half_close_behind_much_pipelined_input_is_answered_whole() {
    for seed in 0..50 {
        let mut plan = Plan::default();
        plan.settings.socket_buffer_len = 4096..=4096;
        plan.guard.session_limits.commands_max = u32::MAX;
        plan.settings.faults = Faults { cancel_race: 0.5, ..Faults::HARMLESS };
        let mut machine = Machine::new(seed, &plan);
        let (client, _) = machine.connect();
        let input = [&b"EHLO a\r\n"[..], &b"HELP\r\n".repeat(5000), b"NOOP\r\n"].concat();
        machine.simulation.send(client, &input);
        machine.simulation.half_close(client);
        let mut got = Vec::new();
        while machine.simulation.state(client) == ClientState::Open {
            machine.turn_until(Some(machine.simulation.now() + Duration::from_millis(1)));
            got.extend(machine.simulation.take(client));
        }
        got.extend(machine.simulation.take(client));
        let helped = got.split(|octet| *octet == b'\n').filter(|line| line.starts_with(b"214 ")).count();
        assert_eq!(helped, 5000, "seed {seed}");
        assert!(got.ends_with(b"250 2.0.0 ok\r\n"));
        machine.finish();
    }
}

/// A client that pipelines for ever and never reads costs a fixed amount of memory.
#[test]
fn replies_that_nobody_reads_are_bounded() {
    for command in [&b"HELP\r\n"[..], b"EHLO a\r\n", b"NOOP\r\n", b"RSET\r\n"] {
        let mut plan = Plan::default();
        plan.settings.socket_buffer_len = 8192..=8192;
        plan.settings.buffer_len = 512;
        plan.guard.session_limits.commands_max = u32::MAX;
        let mut machine = Machine::new(5, &plan);
        let (client, _) = machine.connect();
        machine.simulation.set_reading(client, false);
        machine.simulation.send(client, &command.repeat(400_000));
        machine.pass(Duration::from_secs(100));
        let ledger = machine.ledger.borrow().clone();
        assert!(
            ledger.send_len_max < limits::PENDING_OUTPUT_LEN_MAX + limits::REPLY_LINE_LEN_MAX,
            "{}",
            ledger.send_len_max
        );
        let received = machine.stats.octets_received.get() as usize;
        // Two buffers of replies, what the socket holds, what is parked, and what one turn can bring.
        let answered = (2 * limits::PENDING_OUTPUT_LEN_MAX + 8192).div_ceil(14) * command.len();
        assert!(received < answered + limits::PARKED_INPUT_LEN_MAX + 64 * 512, "{received}");
        // Nobody takes the replies: the send's patience ends.
        machine.pass(limits::SEND_TIME_MAX);
        assert_eq!(machine.stats.connections_now.get(), 0);
        machine.finish();
    }
}

/// Input behind an end-of-data waits in the socket while the message is committed.
#[test]
fn input_behind_a_commit_is_bounded() {
    for buffer_len in [512, 4 << 10] {
        let mut plan = Plan::default();
        plan.settings.write_time_max = Duration::from_secs(200);
        plan.settings.buffer_len = buffer_len;
        let mut machine = Machine::new(7, &plan);
        let (client, _) = machine.connect();
        let message = b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nx\r\n.\r\n";
        machine.simulation.send(client, &[&b"EHLO a\r\n"[..], &message.repeat(20_000)].concat());
        machine.pass(Duration::from_secs(1));
        assert_eq!(machine.ledger.borrow().writes, 1);
        let received = machine.stats.octets_received.get() as usize;
        // What one turn can bring is all receive buffers, full.
        let turn_len_max = usize::from(plan.settings.buffers_count) * buffer_len;
        assert!(received <= limits::PARKED_INPUT_LEN_MAX + turn_len_max, "{received}");
        machine.simulation.reset(client);
        machine.pass(Duration::from_secs(200));
        machine.finish();
    }
}

/// Refused contents must not eat up what others hold: the budget is exact.
#[test]
fn refused_contents_do_not_loosen_the_memory_budget() {
    let plan = Plan { memory_len_max: 24 << 10, ..Plan::default() };
    let mut machine = Machine::new(11, &plan);
    let (holder, _) = machine.connect();
    let (other, _) = machine.connect();
    let head = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n";
    machine.settle();
    machine.simulation.send(holder, &[&head[..], &b"x".repeat(3000)].concat());
    machine.settle();
    // Above the size that the listener takes, so refused again and again.
    let refused = [&head[8..], &b"x".repeat(8200), b"\r\n.\r\n"].concat();
    machine.simulation.send(other, b"EHLO a\r\n");
    for _ in 0..10 {
        machine.simulation.send(other, &refused);
        machine.settle();
    }
    // The gauge is brought up to date by the end of a transaction.
    let held = machine.stats.memory_octets_now.get();
    assert!((3000..9000).contains(&held), "{held} octets held, says the gauge");
    machine.finish();
}

/// Whoever comes after the stop is told so at once.
#[test]
fn a_client_that_comes_while_draining_is_told() {
    let mut told = 0;
    for seed in 0..100 {
        let mut plan = Plan::default();
        plan.settings.faults = Faults { cancel_race: 1.0, ..Faults::HARMLESS };
        let mut machine = Machine::new(seed, &plan);
        let (early, _) = machine.connect();
        machine.settle();
        // Keeps the worker from ending at once.
        machine.simulation.send(early, b"EHLO a\r\nMAIL FROM:<>\r\n");
        machine.settle();
        machine.stop();
        let (late, _) = machine.connect();
        machine.pass(Duration::from_secs(10));
        let got = machine.simulation.take(late);
        if !got.is_empty() {
            told += 1;
            let last = text(&got).lines().last().expect("not empty");
            assert!(last.starts_with("421 4.3.2 shutting down"), "seed {seed}: {}", text(&got));
            assert_eq!(machine.simulation.state(late), ClientState::Ended);
        }
        machine.finish();
    }
    assert!(told > 0);
}

/// Those who were told that there are too many do not count among them.
#[test]
fn shed_connections_do_not_keep_others_out() {
    let mut machine = Machine::new(13, &Plan { connections_max: 2, ..Plan::default() });
    let (first, _) = machine.connect();
    let (second, _) = machine.connect();
    machine.settle();
    let shed: Vec<_> = (0..3).map(|_| machine.connect().0).collect();
    machine.settle();
    for client in shed {
        assert!(text(&machine.simulation.take(client)).starts_with("421 4.3.2 too many"));
    }
    // Those who were shed linger; the first two leave.
    machine.simulation.reset(first);
    machine.simulation.reset(second);
    machine.settle();
    let (next, _) = machine.connect();
    machine.settle();
    assert!(text(&machine.simulation.take(next)).starts_with("220 "));
    machine.finish();
}

/// What a message costs in the ring's operations, once its session is under way.
#[test]
fn a_message_costs_few_operations() {
    const CLIENTS_COUNT: u64 = 40;
    const ROUNDS_COUNT: u64 = 25;
    let mut machine = Machine::new(17, &Plan { segment_capacity: 16 << 20, ..Plan::default() });
    let clients: Vec<_> = (0..CLIENTS_COUNT).map(|_| machine.connect().0).collect();
    machine.settle();
    clients.iter().for_each(|client| machine.simulation.send(*client, b"EHLO client.example\r\n"));
    machine.settle();
    let before = machine.ledger.borrow().clone();
    for _ in 0..ROUNDS_COUNT {
        let parts =
            [&b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n"[..], b"Subject: x\r\n\r\nx\r\n.\r\n"];
        for part in parts {
            clients.iter().for_each(|client| machine.simulation.send(*client, part));
            machine.settle();
        }
    }
    let after = machine.ledger.borrow().clone();
    let messages = CLIENTS_COUNT * ROUNDS_COUNT;
    assert_eq!(machine.stats.messages.get(), messages);
    // The probe stops the test at two sends on one connection in a turn.
    assert_eq!(after.sends - before.sends, 2 * messages, "one behind DATA, one behind the commit");
    assert_eq!(after.received - before.received, 2 * messages, "one for each part");
    assert_eq!(after.recvs - before.recvs, 0, "a multishot receive goes on");
    assert_eq!(after.cancels + after.closes - before.cancels - before.closes, 0);
    // All that ended in one turn is one write; the clients end theirs together.
    assert_eq!(after.writes - before.writes, ROUNDS_COUNT);
    let turns = after.turns - before.turns;
    assert!(turns < messages / 2, "{turns} turns");
    machine.finish();
}

const HELLO: &[u8] = b"EHLO a\r\n";
const MESSAGE: &[u8] = b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n";

/// Clients that have said hello.
fn connected(machine: &mut Machine, count: usize) -> Vec<Client> {
    let clients: Vec<_> = (0..count).map(|_| machine.connect().0).collect();
    clients.iter().for_each(|client| machine.simulation.send(*client, HELLO));
    machine.settle();
    clients
}

/// The ids that these clients were told.
fn queued(machine: &Machine, clients: &[Client]) -> Vec<String> {
    clients.iter().flat_map(|client| reference::queued(&machine.simulation.take(*client))).collect()
}

/// The power fails while several batches are on their way, each of which is there, torn or absent. What was answered is
/// there, also behind what is not.
#[test]
fn a_power_cut_meets_several_writes_in_flight() {
    let (mut flights_max, mut behind_holes, mut unanswered) = (0, 0, 0);
    for seed in 0..300 {
        let random = &mut Random::new(seed);
        let mut plan = Plan { segment_capacity: [24 << 10, 256 << 10][random.len(0..=1)], ..Plan::default() };
        plan.settings.write_time_max = Duration::from_millis(20);
        let mut machine = Machine::new(seed, &plan);
        let clients = connected(&mut machine, 12);
        for client in &clients {
            machine.simulation.send(*client, MESSAGE);
            machine.pass(Duration::from_micros(random.below(3000)));
        }
        machine.pass(Duration::from_millis(random.below(10)));
        let answered = queued(&machine, &clients);
        let (published, records) = (machine.published(), machine.recover());
        for id in &answered {
            assert!(records.contains_key(id), "seed {seed}: {id} is lost");
        }
        flights_max = flights_max.max(machine.ledger.borrow().writes_in_flight_max);
        behind_holes += answered.iter().filter(|id| !published.contains_key(*id)).count();
        unanswered += records.len() - answered.len();
    }
    assert_eq!(flights_max, FLIGHTS_COUNT_MAX);
    assert!(behind_holes > 100 && unanswered > 100, "{behind_holes} behind holes, {unanswered} unanswered");
}

/// One write fails while others fly: those that were or will be durable are answered 250 and found, by egress and after
/// a restart; the others are not answered so, and the worker takes no more.
#[test]
fn a_write_fails_while_others_fly() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..300 {
        let random = &mut Random::new(seed);
        let mut plan = Plan { segment_capacity: [24 << 10, 256 << 10][random.len(0..=1)], ..Plan::default() };
        plan.settings.write_time_max = Duration::from_millis(20);
        let mut machine = Machine::new(seed, &plan);
        let clients = connected(&mut machine, 12);
        let fails_from = random.len(0..=11);
        for (index, client) in clients.iter().enumerate() {
            machine.simulation.send(*client, MESSAGE);
            machine.pass(Duration::from_micros(random.below(3000)));
            if index == fails_from {
                let faults = Faults { short_write: 1.0, ..Faults::NONE };
                match random.len(0..=2) {
                    0 => machine.simulation.set_write_error(Some(Errno::IO)),
                    1 => machine.simulation.set_write_error(Some(Errno::NO_SPACE)),
                    _ => machine.simulation.set_faults(faults),
                }
            }
        }
        machine.pass(Duration::from_millis(100));
        machine.simulation.set_write_error(None);
        let answers: Vec<_> = clients.iter().map(|client| machine.simulation.take(*client)).collect();
        let ids: Vec<String> = answers.iter().flat_map(|answer| reference::queued(answer)).collect();
        let refusals = answers.iter().filter(|answer| text(answer).contains("\r\n451 4.3.0 ")).count();
        assert_eq!(ids.len() + refusals, 12, "seed {seed}");
        (taken, refused) = (taken + ids.len(), refused + refusals);
        assert_eq!(machine.stats.shards_failed.get(), u64::from(refusals > 0), "seed {seed}");
        if refusals > 0 {
            let (late, _) = machine.connect();
            machine.settle();
            assert!(text(&machine.simulation.take(late)).starts_with("421 4.3.0 "), "seed {seed}");
        }
        machine.finish();
        let (published, records) = (machine.published(), machine.recover());
        for id in &ids {
            assert!(published.contains_key(id), "seed {seed}: {id} is not to be read");
            assert!(records.contains_key(id), "seed {seed}: {id} is lost");
        }
    }
    assert!(taken > 300 && refused > 300, "{taken} taken, {refused} refused");
}

/// Who asks for a sync waits for the disk, the others do not.
#[test]
fn a_reply_waits_for_what_its_listener_promises() {
    for (durability, waits) in
        [(Durability::Sync, true), (Durability::Async, false), (Durability::None, false)]
    {
        let mut plan = Plan { durabilities: vec![durability], ..Plan::default() };
        plan.settings.write_time_max = Duration::from_secs(60);
        let mut machine = Machine::new(1, &plan);
        let clients = connected(&mut machine, 1);
        machine.simulation.send(clients[0], MESSAGE);
        machine.pass(Duration::from_millis(1));
        assert_eq!(queued(&machine, &clients).is_empty(), waits, "{durability}");
        assert_eq!(machine.stats.messages_at_risk_now.get(), u64::from(durability == Durability::Async));
        machine.pass(Duration::from_secs(130));
        assert_eq!(queued(&machine, &clients).len(), usize::from(waits), "{durability}");
        let stats = &machine.stats;
        let syncs = (stats.commits_synced.get(), stats.syncs.get());
        assert_eq!(syncs, (u64::from(waits), u64::from(durability == Durability::Async)), "{durability}");
        assert_eq!(stats.messages_at_risk_now.get(), 0);
        machine.finish();
        assert_eq!(machine.published().len(), 1, "{durability}");
    }
}

/// A promise of a sync within the interval holds; before its end the message may be lost, and the gauge says so.
#[test]
fn an_async_message_is_durable_after_the_interval() {
    let mut lost = 0;
    for seed in 0..200 {
        let mut plan = Plan {
            durabilities: vec![Durability::Async],
            async_interval: Duration::from_millis(100),
            ..Plan::default()
        };
        plan.settings.write_time_max = Duration::from_millis(1);
        let mut machine = Machine::new(seed, &plan);
        let clients = connected(&mut machine, 1);
        machine.simulation.send(clients[0], MESSAGE);
        let is_early = seed % 2 == 0;
        machine.pass(Duration::from_millis(if is_early { 50 } else { 110 }));
        assert_eq!(queued(&machine, &clients).len(), 1);
        assert_eq!(machine.stats.messages_at_risk_now.get(), u64::from(is_early));
        let records = machine.recover();
        assert!(is_early || records.len() == 1, "seed {seed}: lost behind its sync");
        lost += 1 - records.len();
    }
    assert!(lost > 20, "{lost}");
}

/// A sync fails like a write: the shard stops, nothing is synced there again, and the log says how many messages were
/// answered in vain.
#[test]
fn a_failed_sync_stops_the_shard() {
    let plan = Plan { durabilities: vec![Durability::Async], ..Plan::default() };
    let mut machine = Machine::new(1, &plan);
    let clients = connected(&mut machine, 1);
    machine.simulation.send(clients[0], MESSAGE);
    machine.pass(Duration::from_millis(500));
    machine.simulation.set_write_error(Some(Errno::IO));
    machine.pass(Duration::from_secs(3));
    machine.simulation.set_write_error(None);
    assert_eq!((machine.stats.shards_failed.get(), machine.stats.syncs.get()), (1, 1));
    machine.simulation.send(clients[0], MESSAGE);
    machine.pass(Duration::from_secs(3));
    let answer = machine.simulation.take(clients[0]);
    assert!(text(&answer).contains("\r\n45"), "{}", text(&answer));
    assert_eq!(machine.stats.syncs.get(), 1);
    machine.finish();
    assert_eq!(machine.published().len(), 1, "the kernel may still have it, and egress delivers it");
}
