//! What the sessions of a worker keep and hold at most.

use std::net::SocketAddr;
use std::time::Duration;

use super::memory::{Memory, Pressure};
use super::*;
use crate::event::EventQueue;
use crate::id::MessageId;
use crate::protocol::command::{Mail, Rcpt};
use crate::protocol::extension::Extensions;
use crate::time::Now;

const CLIENT: &str = "192.0.2.1:40000";

fn mail() -> Mail<'static> {
    match command::parse(b"MAIL FROM:<ada@client.example>", Extensions::DEFAULT) {
        Ok(Command::Mail(mail)) => mail,
        other => panic!("{other:?}"),
    }
}

fn rcpt() -> Rcpt<'static> {
    match command::parse(b"RCPT TO:<bob@example.com>", Extensions::DEFAULT) {
        Ok(Command::Rcpt(rcpt)) => rcpt,
        other => panic!("{other:?}"),
    }
}

fn begin(transaction: &mut Transaction) {
    let id = MessageId { session: SessionId(1), transaction: 1 };
    let client: SocketAddr = CLIENT.parse().unwrap();
    let now = Now { monotonic: Duration::from_secs(1), unix: Duration::from_secs(1_795_317_300) };
    transaction.begin(id, now, client, b"client.example", "mx", &mail());
}

/// Takes recipients until there is no memory for another, or as many as may be.
fn add_recipients(transaction: &mut Transaction, memory: &mut Memory) {
    let count = limits::RECIPIENTS_COUNT_MAX;
    (0..count).take_while(|_| transaction.add_recipient(&rcpt(), memory)).for_each(drop);
}

#[test]
fn an_envelope_is_small_while_memory_is_short() {
    let (mut transaction, mut memory) = (Transaction::default(), Memory::new(1 << 20));
    begin(&mut transaction);
    assert!(memory.grow(600 << 10));
    assert_eq!(memory.pressure(), Pressure::High);
    add_recipients(&mut transaction, &mut memory);
    let len = transaction.envelope().len();
    assert!(
        (limits::PRESSED_ENVELOPE_LEN_MAX / 2..=limits::PRESSED_ENVELOPE_LEN_MAX).contains(&len),
        "{len}"
    );
    assert!(transaction.recipients_count() > 50);
    memory.shrink(600 << 10);
    assert_eq!(memory.pressure(), Pressure::None);
    add_recipients(&mut transaction, &mut memory);
    assert!(transaction.recipients_count() > limits::RECIPIENTS_COUNT_MAX);
    transaction.clear(&mut memory);
    assert_eq!(memory.held_len(), 0);
}

/// All 1,000 of any length without parameters, and with the longest ORCPT hundreds: RFC 5321 §4.5.3.1.8 wants 100.
#[test]
fn an_envelope_never_outgrows_its_record() {
    let path = format!("{}@{}{}", "x".repeat(64), "y.".repeat(91), "example");
    let orcpt = format!(" ORCPT=rfc822;{}", "z".repeat(limits::ORCPT_LEN_MAX - "rfc822;".len()));
    for (params, least) in [("", limits::RECIPIENTS_COUNT_MAX), (&*orcpt, 300)] {
        let line = format!("RCPT TO:<{path}>{params}");
        let Ok(Command::Rcpt(rcpt)) = command::parse(line.as_bytes(), Extensions::WITH_NOTICES) else {
            panic!("{line}");
        };
        let (mut transaction, mut memory) = (Transaction::default(), Memory::new(1 << 30));
        begin(&mut transaction);
        while !transaction.has_all_recipients() {
            assert!(transaction.add_recipient(&rcpt, &mut memory));
        }
        let (count, len) = (transaction.recipients_count(), transaction.envelope().len());
        assert!(count >= least, "{count}");
        assert!(len + limits::ENVELOPE_REST_LEN_MAX <= limits::ENVELOPE_LEN_MAX, "{len}");
    }
}

#[test]
fn the_pool_keeps_so_many_transactions_and_of_each_a_small_envelope() {
    let mut pool = Pool::new(Default::default(), EventQueue::new(16), 1 << 30, 256 << 10);
    let count = limits::POOLED_TRANSACTIONS_COUNT_MAX + 10;
    let mut transactions: Vec<_> = (0..count).map(|_| pool.take_transaction().unwrap()).collect();
    begin(&mut transactions[0]);
    add_recipients(&mut transactions[0], &mut pool.memory);
    assert!(transactions[0].envelope_capacity() > limits::POOLED_ENVELOPE_LEN_MAX);
    transactions.into_iter().for_each(|transaction| pool.release(transaction));
    assert_eq!(pool.spare.len(), limits::POOLED_TRANSACTIONS_COUNT_MAX);
    let kept_len = pool.spare.iter().map(|transaction| transaction.envelope_capacity()).max();
    assert_eq!(kept_len, Some(limits::POOLED_ENVELOPE_LEN_MAX));
    assert_eq!(pool.memory.held_len(), 0);
}
