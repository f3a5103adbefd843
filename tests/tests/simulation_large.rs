//! Large messages on the simulated machine, one case each: what runs by seed meet seldom.

use std::time::Duration;

use ringmx::config::Durability;
use ringmx::limits;
use ringmx::store::Room;
use ringmx_ring::BLOCK_LEN;
use ringmx_ring::sim::{Client, Faults};
use tests::simulation::machine::{Machine, Plan};
use tests::simulation::segments::Supply;

const HEAD: &[u8] = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n";

fn plan() -> Plan {
    Plan { inline_len_max: 1024, ..Plan::default() }
}

fn begun(machine: &mut Machine, content_len: usize) -> Client {
    let (client, _) = machine.connect();
    machine.settle();
    machine.simulation.send(client, &[HEAD, &b"x".repeat(content_len)].concat());
    machine.settle();
    client
}

fn said(machine: &Machine, client: Client) -> String {
    String::from_utf8(machine.simulation.take(client)).expect("ASCII")
}

#[test]
fn a_message_that_is_aborted_gives_its_file_back() {
    let mut machine = Machine::new(1, &plan());
    for round in 0..50 {
        let client = begun(&mut machine, 5000);
        if round % 2 == 0 {
            machine.simulation.reset(client);
        } else {
            machine.simulation.half_close(client);
        }
        machine.pass(Duration::from_secs(10));
        assert_eq!((machine.keeper.files().len(), machine.keeper.spare_files_count()), (1, 1), "{round}");
    }
    assert!(machine.recover().is_empty());
}

#[test]
fn a_disk_that_is_full_costs_the_message_and_not_the_shard() {
    let mut machine = Machine::new(2, &plan());
    let client = begun(&mut machine, 3000);
    said(&machine, client);
    machine.keeper.set_room(Room::Spent);
    machine.simulation.send(client, &[&b"x".repeat(5000)[..], b"\r\n.\r\nMAIL FROM:<>\r\n"].concat());
    machine.settle();
    let replies = said(&machine, client);
    // The reserve is spent: what is under way is given up, and nothing new begins.
    assert!(replies.starts_with("452 4.3.1 ") && replies.matches("452 4.3.1 ").count() == 2, "{replies}");
    machine.keeper.set_room(Room::Low);
    machine.simulation.send(client, b"MAIL FROM:<>\r\n");
    machine.settle();
    assert!(said(&machine, client).starts_with("452 4.3.1 "));
    machine.keeper.set_room(Room::Plenty);
    machine.simulation.send(client, &[&HEAD[8..], b"x\r\n.\r\n"].concat());
    machine.settle();
    assert!(said(&machine, client).contains("250 2.0.0 queued"));
    machine.finish();
}

#[test]
fn a_write_that_fails_loses_no_promise_and_its_file_is_not_used_again() {
    for seed in 0..50 {
        let mut plan = plan();
        plan.settings.faults = Faults { write_error: 0.3, short_write: 0.3, ..Faults::HARMLESS };
        let mut machine = Machine::new(seed, &plan);
        let mut ids = Vec::new();
        for _ in 0..5 {
            let client = begun(&mut machine, 5000);
            machine.simulation.send(client, b"\r\n.\r\n");
            machine.pass(Duration::from_secs(1));
            let replies = machine.simulation.take(client);
            ids.extend(tests::simulation::reference::queued(&replies));
        }
        let records = machine.recover();
        assert!(ids.iter().all(|id| records.contains_key(id)), "seed {seed}");
    }
}

/// Wherever the power fails while a large message comes in: what was promised is there, whole.
#[test]
fn lost_power_loses_nothing_that_was_promised() {
    let mut promised_count = 0;
    for seed in 0..300 {
        let mut plan = plan();
        plan.settings.write_time_max = Duration::from_millis(20);
        let mut machine = Machine::new(seed, &plan);
        let client = begun_in(&mut machine, 7000);
        machine.pass(Duration::from_micros(300 * seed));
        let ids = tests::simulation::reference::queued(&machine.simulation.take(client));
        promised_count += ids.len();
        // Reading back checks each content against its checksum.
        let records = machine.recover();
        assert!(
            ids.iter().all(|id| records.get(id).is_some_and(|stored| stored.body.len() == 7002)),
            "{seed}"
        );
    }
    assert!(
        (1..300).contains(&promised_count),
        "{promised_count} promised: the cuts come too late or too early"
    );
}

fn begun_in(machine: &mut Machine, content_len: usize) -> Client {
    let (client, _) = machine.connect();
    machine.turn();
    machine.simulation.send(client, &[HEAD, &b"x".repeat(content_len), b"\r\n.\r\n"].concat());
    client
}

/// A session that waits for a file takes nothing, blames nobody, and gets one in the end or a reply.
#[test]
fn without_files_a_large_message_waits_and_is_then_refused() {
    let mut machine = Machine::new(4, &plan());
    machine.keeper.set_files(false);
    let client = begun(&mut machine, 5000);
    machine.simulation.send(client, b"\r\n.\r\nNOOP\r\n");
    machine.pass(Duration::from_secs(5));
    assert!(said(&machine, client).ends_with("<CRLF>.<CRLF>\r\n"), "nothing behind the 354");
    machine.pass(Duration::from_secs(6));
    let replies = said(&machine, client);
    assert!(replies.starts_with("452 4.3.1 ") && replies.ends_with("250 2.0.0 ok\r\n"), "{replies}");
    machine.simulation.send(client, &[&HEAD[8..], &b"x".repeat(5000)[..], b"\r\n.\r\n"].concat());
    machine.pass(Duration::from_secs(5));
    machine.keeper.set_files(true);
    machine.pass(Duration::from_secs(1));
    assert!(said(&machine, client).contains("250 2.0.0 queued"));
    machine.finish();
}

/// A worker that is faster than the keeper: its messages wait for the next segment instead of being sent away.
#[test]
fn what_finds_no_segment_waits_for_the_next_one() {
    let plan = Plan { supply: Supply::Scarce, segment_capacity: 16 << 10, ..plan() };
    let mut machine = Machine::new(5, &plan);
    machine.keeper.refill();
    let mut clients = Vec::new();
    for len in [900, 5000, 900, 5000, 900, 5000, 900, 5000] {
        let client = begun(&mut machine, len);
        machine.simulation.send(client, b"\r\n.\r\nQUIT\r\n");
        machine.pass(Duration::from_millis(100));
        clients.push(client);
    }
    let said: Vec<_> = clients.iter().map(|client| said(&machine, *client)).collect();
    let is_answered = |said: &&String| said.contains("250 2.0.0 queued");
    let answered_count = said.iter().filter(is_answered).count();
    assert!((1..8).contains(&answered_count), "{said:?}");
    assert!(said.iter().all(|said| !said.contains("452")), "{said:?}");
    assert_eq!(machine.stats.messages_delayed.get() as usize, 8 - answered_count);
    // One of them does not wait for its answer.
    machine.simulation.reset(clients[7]);
    for _ in 0..8 {
        machine.keeper.refill();
        machine.pass(Duration::from_millis(100));
    }
    let late = clients.iter().map(|client| self::said(&machine, *client));
    let late_count = late.filter(|said| said.contains("250 2.0.0 queued")).count();
    assert!(late_count >= 7 - answered_count, "{late_count} behind {answered_count}");
    machine.finish();
}

#[test]
fn the_wait_for_a_segment_has_an_end() {
    let mut machine = Machine::new(6, &Plan { supply: Supply::Scarce, segment_capacity: 16 << 10, ..plan() });
    machine.keeper.refill();
    let taken = begun(&mut machine, 900);
    machine.simulation.send(taken, b"\r\n.\r\n");
    machine.pass(Duration::from_secs(1));
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let client = begun(&mut machine, 900);
        machine.simulation.send(client, b"\r\n.\r\nNOOP\r\n");
        waiting.push(client);
    }
    machine.pass(Duration::from_secs(9));
    let count = |machine: &Machine, code: &str| {
        waiting.iter().filter(|client| said(machine, **client).contains(code)).count()
    };
    assert_eq!(count(&machine, "452 "), 0);
    machine.pass(Duration::from_secs(2));
    assert!(count(&machine, "452 4.3.1 ") > 0, "nobody waits for ever");
    // Nothing is coming: nobody waits at all.
    machine.keeper.set_coming(false);
    let client = begun(&mut machine, 900);
    machine.simulation.send(client, b"\r\n.\r\n");
    machine.pass(Duration::from_millis(100));
    let replies = said(&machine, client);
    assert!(replies.contains("452 4.3.1 ") || replies.contains("250 2.0.0 queued"), "{replies}");
    machine.finish();
}

/// Who was promised no sync waits for the disk all the same, rather than have the server hold what it sends.
#[test]
fn clients_that_are_ahead_of_the_disk_wait_for_it() {
    const CLIENTS_COUNT: usize = 100;
    const CONTENT_LEN: usize = 512 << 10;
    let mut plan = Plan {
        durabilities: vec![Durability::None],
        segment_capacity: 64 << 20,
        memory_len_max: 256 << 20,
        message_len_max: 1 << 20,
        inline_len_max: 1 << 20,
        ..Plan::default()
    };
    plan.settings.faults = Faults::HARMLESS;
    plan.settings.write_time_max = Duration::from_secs(3600);
    let mut machine = Machine::new(8, &plan);
    let clients: Vec<_> = (0..CLIENTS_COUNT).map(|_| begun_in(&mut machine, CONTENT_LEN)).collect();
    machine.pass(Duration::from_secs(5));
    let answered = |machine: &Machine| {
        clients.iter().filter(|client| said(machine, **client).contains("250 2.0.0 queued")).count()
    };
    let early_count = answered(&machine);
    let len_max = limits::QUEUED_LEN_MAX + limits::FLIGHTS_COUNT_MAX * limits::BATCH_LEN_SOFT_MAX;
    let count_max = len_max / CONTENT_LEN + limits::FLIGHTS_COUNT_MAX + 1;
    assert!((count_max / 2..=count_max).contains(&early_count), "{early_count} of {count_max}");
    machine.pass(Duration::from_secs(48 * 3600));
    assert_eq!(early_count + answered(&machine), CLIENTS_COUNT);
    machine.finish();
    assert_eq!(machine.published().len(), CLIENTS_COUNT);
}

/// Of much content that is to be written at once, so many pieces are under way; the rest waits for them.
#[test]
fn the_pieces_of_a_message_under_way_are_bounded() {
    let mut plan = Plan { inline_len_max: 4 << 20, message_len_max: 8 << 20, ..Plan::default() };
    plan.settings.write_time_max = Duration::from_secs(100);
    plan.settings.buffer_len = 64 << 10;
    plan.settings.socket_buffer_len = 8 << 20..=8 << 20;
    let mut machine = Machine::new(7, &plan);
    let (client, _) = machine.connect();
    machine.settle();
    machine.simulation.send(client, &[HEAD, &b"x".repeat(5 << 20)].concat());
    // None of the writes has ended yet.
    machine.pass(Duration::from_millis(100));
    // Each buffer is twice the one before, up to the longest.
    let piece_lens = (1..).map(|class| (BLOCK_LEN << class).min(limits::CHUNK_LEN_MAX));
    let under_way: usize = piece_lens.take(limits::WRITING_PIECES_COUNT_MAX.into()).sum();
    assert_eq!(machine.stats.spool_octets.get() as usize, under_way);
    machine.simulation.send(client, b"\r\n.\r\n");
    machine.pass(Duration::from_secs(10_000));
    assert!(said(&machine, client).contains("250 2.0.0 queued"));
    machine.finish();
}

/// 450 clients at once send more than the disk takes meanwhile. `head`: up to DATA.
fn crowd(head: &[u8]) -> (Machine, Vec<Client>) {
    let mut plan = Plan { connections_max: 500, segment_capacity: 1 << 20, ..plan() };
    plan.message_len_max = 1 << 20;
    plan.settings.write_time_max = Duration::from_secs(20);
    plan.settings.buffer_len = 16 << 10;
    plan.settings.socket_buffer_len = 1 << 20..=1 << 20;
    let mut machine = Machine::new(3, &plan);
    let clients: Vec<Client> = (0..450).map(|_| machine.connect().0).collect();
    machine.pass(Duration::from_secs(1));
    clients.iter().for_each(|client| machine.simulation.send(*client, head));
    machine.pass(Duration::from_secs(1));
    clients.iter().for_each(|client| drop(machine.simulation.take(*client)));
    let content = [&b"x".repeat(998)[..], b"\r\n"].concat().repeat(512);
    for client in &clients {
        machine.simulation.send(*client, &[&content[..], b".\r\n"].concat());
        machine.turn_until(Some(machine.simulation.now() + Duration::from_millis(1)));
    }
    machine.pass(Duration::from_secs(2000));
    (machine, clients)
}

#[test]
fn clients_who_announce_large_content_are_all_served() {
    let (mut machine, clients) =
        crowd(b"EHLO a\r\nMAIL FROM:<> SIZE=512000\r\nRCPT TO:<a@example.com>\r\nDATA\r\n");
    for client in clients {
        let said = said(&machine, client);
        assert!(said.starts_with("250 2.0.0 queued"), "{said}");
    }
    assert_eq!(machine.stats.inputs_dropped.get(), 0);
    machine.finish();
}

/// Nobody could know of it, and what has come has come. Each hears what became of its message.
#[test]
fn clients_whose_content_has_no_place_are_told() {
    let (mut machine, clients) = crowd(HEAD);
    let replies: Vec<String> = clients.iter().map(|client| said(&machine, *client)).collect();
    let count = |code: &str| replies.iter().filter(|reply| reply.starts_with(code)).count();
    assert_eq!(count("250 2.0.0 queued") + count("452 4.3.1 "), clients.len(), "{replies:?}");
    let (queued, dropped) = (count("250"), machine.stats.inputs_dropped.get());
    assert!(queued > 100 && dropped > 0 && count("452") == dropped as usize, "{queued} {dropped}");
    machine.finish();
}
