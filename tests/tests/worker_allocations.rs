//! No allocation per message: a worker that has warmed up takes mail with the buffers that it has.

use std::time::Duration;

use ringmx_ring::sim::Client;
use tests::allocations::{Counting, counted};
use tests::simulation::machine::{Machine, Plan};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CLIENTS_COUNT: usize = 40;

/// Every client sends one message; the allocations of the worker's turns meanwhile.
fn round(machine: &mut Machine, clients: &[Client], content_len: usize) -> u64 {
    let head =
        b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@other.example>\r\nDATA\r\n";
    let content = [&b"x".repeat(content_len)[..], b"\r\n.\r\n"].concat();
    let mut allocations = 0;
    for part in [&head[..], &content] {
        clients.iter().for_each(|client| machine.simulation.send(*client, part));
        while !machine.simulation.is_idle() {
            let until = machine.simulation.now() + Duration::from_millis(1);
            machine.simulation.stop_at(Some(until));
            let before = counted();
            machine.worker.turn().expect("the power is on");
            allocations += counted() - before;
        }
    }
    while machine.events.pop().is_some() {}
    clients.iter().for_each(|client| drop(machine.simulation.take(*client)));
    allocations
}

#[test]
fn no_message_allocates_once_warm() {
    let plan = Plan { segment_capacity: 32 << 20, ..Plan::default() };
    let mut machine = Machine::new(1, &plan);
    let clients: Vec<Client> = (0..CLIENTS_COUNT).map(|_| machine.connect().0).collect();
    machine.settle();
    clients.iter().for_each(|client| machine.simulation.send(*client, b"EHLO client.example\r\n"));
    machine.settle();
    // Until the numbers of the transactions, which stand in the trace field, have two digits, as they keep; and until
    // as many buffers are there as the worker and its reader have at most.
    let cold: u64 = (0..30).map(|_| round(&mut machine, &clients, 4000)).sum();
    assert!(cold > 0, "the counter counts");

    let messages = machine.stats.messages.get();
    // Refused recipients end a session after a while, but for the messages that are accepted between them.
    let warm: u64 = (0..50).map(|_| round(&mut machine, &clients, 4000)).sum();
    let messages = machine.stats.messages.get() - messages;
    assert_eq!(messages, 50 * CLIENTS_COUNT as u64);
    assert_eq!(warm, 0, "allocations in {messages} messages");
    machine.finish();
}
