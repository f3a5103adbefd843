//! Which messages count as sent in a group.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::LocalSet;

use super::client::Offered;
use super::*;
use crate::config::{RelayProtocol, RelayTls};

/// Takes so many messages and closes, in the middle of a group as well.
async fn take(mut stream: DuplexStream, mut count: usize) {
    let mut octets = vec![0; 1 << 16];
    while let Ok(len @ 1..) = stream.read(&mut octets).await {
        let text = String::from_utf8_lossy(&octets[..len]).into_owned();
        let taken_count = text.matches("BDAT ").count().min(count);
        stream.write_all("250 2.0.0 Ok\r\n".repeat(3 * taken_count).as_bytes()).await.unwrap();
        count -= taken_count;
        if count == 0 {
            return;
        }
    }
}

/// Over connections that take so many each, waves of messages, those of one at once: for each message whether it went
/// with others.
async fn grouped(connections: &[usize], waves: &[&[&Letter]]) -> Vec<bool> {
    let hop = Rc::new(Hop::new(
        Arc::new(Relay {
            protocol: RelayProtocol::Smtp,
            next_hops: Vec::new(),
            balance: false,
            tls: RelayTls::Off,
            connections_max: 1,
            message_rate: None,
            timeout: Duration::from_secs(300),
        }),
        None,
    ));
    // The last is used first.
    for &count in connections.iter().rev() {
        let (ours, theirs) = duplex(1 << 20);
        tokio::task::spawn_local(take(theirs, count));
        let mut client = Client::new(Box::new(ours), "hop".to_owned(), &hop.relay);
        client.offered = Offered { pipelining: true, chunking: true, ..Offered::default() };
        hop.keep(client, Vec::new());
    }
    let one = |letter: Letter| {
        let hop = Rc::clone(&hop);
        tokio::task::spawn_local(async move {
            let content: Rc<[u8]> = Rc::from(&b"x"[..]);
            let delivered = hop.deliver(&Rc::new(letter), Body::Memory(&content), "mx.example").await;
            delivered.is_grouped
        })
    };
    let mut grouped = Vec::new();
    for wave in waves {
        let tasks: Vec<_> = wave.iter().map(|&letter| one(letter.clone())).collect();
        for task in tasks {
            grouped.push(task.await.unwrap());
        }
    }
    grouped
}

fn letter() -> Letter {
    let to = Addressee { path: b"a@x".to_vec(), ..Addressee::default() };
    Letter { recipients: vec![to], ..Letter::default() }
}

#[tokio::test(start_paused = true)]
async fn who_goes_with_others_is_grouped_and_nobody_else() {
    let plain = &letter();
    let needs_more = &Letter { smtputf8: true, ..letter() };
    // The first message of a wave finds a connection and nobody who waits.
    for (connections, waves, expected) in [
        (&[9][..], &[&[plain][..], &[plain]][..], &[false, false][..]),
        (&[9], &[&[plain, plain]], &[false, false]),
        (&[9], &[&[plain, plain, plain, plain]], &[false, true, true, true]),
        (&[9], &[&[plain, plain, plain], &[plain]], &[false, true, true, false]),
        // It cannot be given to this hop, so that the other one goes alone.
        (&[9], &[&[plain, plain, needs_more]], &[false, false, false]),
        // The connection is lost behind the first of a group, or the second: the last goes alone then.
        (&[2, 9], &[&[plain, plain, plain]], &[false, true, false]),
        (&[3, 9], &[&[plain, plain, plain, plain]], &[false, true, true, false]),
    ] {
        let found = LocalSet::new().run_until(grouped(connections, waves)).await;
        assert_eq!(found, expected, "{connections:?}, {:?}", waves.iter().map(|wave| wave.len()));
    }
}
