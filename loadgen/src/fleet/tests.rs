//! A fleet driven by hand: connections that succeed, break and stall, on a clock that the test turns.

use std::sync::Arc;

use super::*;
use crate::client::Pipelining;
use crate::crew::Crew;
use crate::limits::FAILURES_IN_A_ROW_MAX;
use crate::pace::Pace;
use crate::profile::Profile;
use crate::token::Token;
use crate::workload::Workload;
use crate::workload::tests::recipe;

const MS: u64 = 1_000_000;

fn fleet(connections_count: u32, pace: Pace, messages_per_connection: Option<u64>) -> Fleet {
    Fleet::new(Orders {
        run: 1,
        first_connection: 10,
        connections_count,
        sources: Vec::new(),
        tls: None,
        pipelining: Pipelining::Off,
        messages_per_connection,
        reply_timeout: Duration::from_secs(60),
        workload: Arc::new(Workload::new(&recipe(1000)).expect("room")),
        pace,
        ledger: None,
    })
}

fn messages(count: u64) -> Pace {
    Pace::share(0, 1, Some(count), None, None)
}

/// Plays kernel and server for one turn: `reply` gives the server's octets for each send.
fn turn(fleet: &mut Fleet, now: u64, reply: &mut dyn FnMut(&[u8]) -> Option<&'static [u8]>) {
    fleet.advance(now);
    for slot in std::mem::take(&mut fleet.wishes.opening) {
        fleet.on_connected(slot);
        fleet.on_received(slot, now, b"220 mx\r\n");
    }
    for slot in std::mem::take(&mut fleet.wishes.sending) {
        let mut out = Vec::new();
        fleet.transmit(slot, now, &mut out);
        if out.is_empty() {
            continue;
        }
        fleet.on_sent(slot);
        match reply(&out) {
            Some(b"") => {}
            Some(reply) => fleet.on_received(slot, now, reply),
            None => fleet.on_lost(slot, ErrorKind::ConnectionClosed, b""),
        }
    }
    for slot in std::mem::take(&mut fleet.wishes.closing) {
        fleet.on_closed(slot, now);
    }
    fleet.account().expect("no ledger");
}

/// A server that takes everything.
fn kind(sent: &[u8]) -> Option<&'static [u8]> {
    Some(match sent.get(..4) {
        Some(b"EHLO" | b"MAIL" | b"RCPT") => b"250 ok\r\n",
        Some(b"DATA") => b"354 go\r\n",
        Some(b"QUIT") => b"221 bye\r\n",
        _ => b"250 queued\r\n",
    })
}

/// Turns until the fleet is done; gives the time that took.
fn drive(fleet: &mut Fleet, reply: &mut dyn FnMut(&[u8]) -> Option<&'static [u8]>) -> u64 {
    let mut now = 0;
    for _ in 0..100_000 {
        if fleet.is_done() {
            let stats = &fleet.stats;
            assert_eq!(stats.started, stats.accepted + stats.refused + stats.in_doubt + stats.aborted);
            assert_eq!((fleet.opening_count, fleet.open_count), (0, 0));
            return now;
        }
        turn(fleet, now, reply);
        now += MS;
    }
    panic!("never done: {fleet:?}");
}

#[test]
fn every_message_is_sent_once_and_connections_are_reused() {
    let mut fleet = fleet(3, messages(100), None);
    let mut tokens = std::collections::HashSet::new();
    drive(&mut fleet, &mut |sent| {
        if let Some(at) = memchr::memmem::find(sent, b"X-Loadgen: ") {
            assert!(tokens.insert(sent[at + 11..at + 11 + Token::LEN].to_vec()));
        }
        kind(sent)
    });
    assert_eq!((fleet.stats.accepted, fleet.stats.connections_opened, tokens.len()), (100, 3, 100));
    assert_eq!(fleet.stats.errors.total(), 0);
}

#[test]
fn a_connection_ends_after_its_messages() {
    for (messages_per_connection, connections_opened) in [(1, 100), (7, 15), (1000, 1)] {
        let mut fleet = fleet(1, messages(100), Some(messages_per_connection));
        drive(&mut fleet, &mut kind);
        assert_eq!((fleet.stats.accepted, fleet.stats.connections_opened), (100, connections_opened));
        assert_eq!(fleet.stats.errors.total(), 0);
    }
}

#[test]
fn a_lost_connection_is_opened_again_and_its_message_not_taken_for_accepted() {
    let mut fleet = fleet(2, messages(50), None);
    let mut contents_count = 0;
    drive(&mut fleet, &mut |sent| {
        contents_count += u64::from(sent.ends_with(b"\r\n.\r\n"));
        if sent.ends_with(b"\r\n.\r\n") && contents_count % 10 == 0 { None } else { kind(sent) }
    });
    let stats = &fleet.stats;
    assert_eq!((stats.accepted, stats.in_doubt, stats.connections_opened), (45, 5, 6), "{stats:?}");
    assert_eq!(stats.errors.sorted()[0].kind, ErrorKind::ConnectionClosed);
}

#[test]
fn a_server_that_drops_everybody_is_given_up_with_a_pause_between() {
    let mut fleet = fleet(1, messages(1000), None);
    let took = drive(&mut fleet, &mut |_| None);
    let stats = &fleet.stats;
    assert_eq!(stats.connections_opened, u64::from(FAILURES_IN_A_ROW_MAX));
    assert_eq!(stats.errors.total(), u64::from(FAILURES_IN_A_ROW_MAX) + 1);
    assert!(took > 20_000 * MS, "{took}");
}

#[test]
fn refusals_are_counted_and_the_session_goes_on() {
    let mut fleet = fleet(2, messages(10), None);
    drive(&mut fleet, &mut |sent| {
        if sent.starts_with(b"RCPT") { Some(b"550 5.1.1 who\r\n") } else { kind(sent) }
    });
    let stats = &fleet.stats;
    assert_eq!((stats.started, stats.refused, stats.connections_opened), (10, 10, 2));
    let errors = stats.errors.sorted();
    assert_eq!((errors[0].kind, errors[0].code, errors[0].count), (ErrorKind::RecipientRefused, 550, 10));
    assert_eq!(errors[0].example, "5.1.1 who");
}

#[test]
fn a_421_for_the_content_is_a_refusal_not_a_doubt() {
    let mut fleet = fleet(1, messages(3), None);
    drive(&mut fleet, &mut |sent| {
        if sent.ends_with(b"\r\n.\r\n") { Some(b"421 4.3.2 closing\r\n") } else { kind(sent) }
    });
    assert_eq!((fleet.stats.refused, fleet.stats.in_doubt), (3, 0));
}

#[test]
fn a_stalled_server_times_out() {
    let mut fleet = fleet(1, messages(1), None);
    let took =
        drive(&mut fleet, &mut |sent| if sent.ends_with(b"\r\n.\r\n") { Some(b"") } else { kind(sent) });
    assert_eq!((fleet.stats.in_doubt, fleet.stats.errors.sorted()[0].kind), (1, ErrorKind::ReplyTimedOut));
    assert!((60_000 * MS..61_000 * MS).contains(&took), "{took}");
}

#[test]
fn a_run_with_an_end_does_not_wait_for_a_stalled_server() {
    let mut fleet = fleet(2, Pace::share(0, 1, None, Some(100 * MS), None), None);
    let took = drive(&mut fleet, &mut |sent| if sent.starts_with(b"DATA") { Some(b"") } else { kind(sent) });
    assert_eq!((fleet.stats.aborted, fleet.stats.errors.sorted()[0].kind), (2, ErrorKind::Unfinished));
    assert!(took < 10_200 * MS, "{took}");
}

#[test]
fn a_server_that_never_greets_does_not_hold_a_run_with_an_end() {
    for (end_at, errors_count) in [(100 * MS, 0), (2000 * MS, 2)] {
        let mut fleet = fleet(2, Pace::share(0, 1, None, Some(end_at), None), None);
        fleet.advance(0);
        std::mem::take(&mut fleet.wishes.opening).into_iter().for_each(|slot| fleet.on_connected(slot));
        let took = drive(&mut fleet, &mut |_| None);
        assert_eq!((fleet.stats.started, fleet.stats.errors.total()), (0, errors_count));
        assert!(took < end_at + 10 * MS, "{took}");
    }
}

#[test]
fn an_open_loop_uses_all_connections_and_counts_from_the_intended_time() {
    for messages_per_connection in [None, Some(1)] {
        let mut fleet = fleet(
            5,
            Pace::share(0, 1, None, Some(1000 * MS), Some(&Profile::steady(100.0))),
            messages_per_connection,
        );
        drive(&mut fleet, &mut kind);
        let stats = &fleet.stats;
        assert_eq!((stats.accepted, stats.missed), (100, 0));
        assert_eq!(stats.connections_opened, messages_per_connection.map_or(5, |_| 100));
        // Four turns of one millisecond to take a message; the times of arrival fall on turns.
        assert!(stats.histogram(Interval::Transaction).max() >= 3 * MS);
    }
}

#[test]
fn arrivals_without_a_connection_are_told() {
    let mut fleet = fleet(1, Pace::share(0, 1, None, Some(1000 * MS), Some(&Profile::steady(1000.0))), None);
    drive(&mut fleet, &mut kind);
    let stats = &fleet.stats;
    assert!(stats.missed > 500 && stats.missed + stats.started <= 1001, "{stats:?}");
    // The backlog grew to most of a second, and the latency says so.
    assert!(stats.histogram(Interval::Transaction).max() > 500 * MS);
}

#[test]
fn stopping_ends_soon() {
    let mut fleet = fleet(4, messages(1_000_000), None);
    for now in 0..100 {
        turn(&mut fleet, now * MS, &mut kind);
    }
    fleet.stop(100 * MS, true);
    let took = drive(&mut fleet, &mut kind);
    assert!(took < 10 * MS, "{took}");
    assert_eq!(fleet.stats.errors.total(), 0);
}
