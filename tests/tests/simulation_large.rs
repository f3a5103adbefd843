//! Large messages on the simulated machine, one case each: what runs by seed meet seldom.

use std::time::Duration;

use ringmx::store::Room;
use ringmx_ring::sim::{Client, Faults};
use tests::simulation::machine::{Machine, Plan};

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
