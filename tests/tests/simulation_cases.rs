//! What runs by seed have found, and what one seed in a million would find: each case by itself.

use std::time::Duration;

use ringmx_ring::sim::ClientState;
use tests::simulation::machine::{Machine, Plan};

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
