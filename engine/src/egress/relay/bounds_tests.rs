//! What a next hop that is silent, slow or idle can hold up, and what it is sent before it has said anything. The clock
//! is tokio's, paused: it goes on when nothing else does.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::task::LocalSet;

use super::client::Offered;
use super::*;
use crate::config::{NextHop, RelayProtocol, RelayTls};
use crate::limits::{
    GROUPED_CONTENT_LEN_MAX, GROUPED_RECIPIENTS_COUNT_MAX, HOP_CONNECT_TIME_MAX, HOP_QUIT_TIME_MAX,
};

const MOMENT: Duration = Duration::from_millis(10);

fn relay_to(next_hops: Vec<NextHop>) -> Arc<Relay> {
    Arc::new(Relay {
        protocol: RelayProtocol::Smtp,
        next_hops,
        balance: false,
        tls: RelayTls::Off,
        connections_max: 1,
        message_rate: None,
        timeout: Duration::from_secs(300),
    })
}

/// A connection, and the next hop's end of it.
fn connected() -> (Client, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Client::new(Box::new(ours), "hop".to_owned(), &relay_to(Vec::new())), theirs)
}

/// All that was sent, once our end is closed.
async fn sent_to(mut hop: DuplexStream) -> Vec<u8> {
    let mut sent = Vec::new();
    hop.read_to_end(&mut sent).await.unwrap();
    sent
}

/// An address that is silent: as many wait there to be accepted as its queue holds.
fn silent_address() -> (SocketAddr, Socket, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let knock = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.connect_timeout(&address.into(), Duration::from_millis(200)).map(|()| socket)
    };
    let waiting = std::iter::from_fn(|| knock().ok()).take(100).collect();
    (address, listener, waiting)
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_silent_is_given_up() {
    let (address, _listener, waiting) = silent_address();
    assert!(waiting.len() < 100, "it is full");
    let relay = relay_to(vec![NextHop::Tcp { host: address.ip().to_string(), port: address.port() }]);
    let began_at = Instant::now();
    let connected = connect(&relay, relay.next_hops.iter(), None, "mx.example").await;
    let Err(RelayError { problem: Problem::Unreachable(why), .. }) = connected else {
        panic!("it is silent")
    };
    assert!(why.contains("no answer within"), "{why}");
    let took = began_at.elapsed();
    assert!(took >= HOP_CONNECT_TIME_MAX && took < HOP_CONNECT_TIME_MAX + MOMENT, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_its_time() {
    let (client, hop) = connected();
    let of_hop = Hop::new(relay_to(Vec::new()), None);
    let run = async {
        of_hop.keep(client, Vec::new());
        let idle_since = Instant::now();
        of_hop.reap(idle_since + HOP_IDLE_TIME_MAX - MOMENT);
        assert_eq!(of_hop.idle.borrow().len(), 1, "kept until then");
        of_hop.reap(idle_since + HOP_IDLE_TIME_MAX);
        assert_eq!(of_hop.idle.borrow().len(), 0);
        sent_to(hop).await
    };
    assert_eq!(LocalSet::new().run_until(run).await, b"QUIT\r\n");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_quit_is_left() {
    let (client, hop) = connected();
    let began_at = Instant::now();
    client.quit().await;
    let took = began_at.elapsed();
    assert!(took >= HOP_QUIT_TIME_MAX && took < HOP_QUIT_TIME_MAX + MOMENT, "{took:?}");
    assert_eq!(sent_to(hop).await, b"QUIT\r\n", "and then it was closed");
}

/// What goes out before the next hop has said anything: the commands as lines, and how many octets of content.
async fn first_group(offered: Offered, recipients_count: usize, content_len: u64) -> (Vec<String>, usize) {
    let (mut client, hop) = connected();
    client.offered = offered;
    let to = |number: usize| Addressee { path: format!("{number}@x").into_bytes(), ..Addressee::default() };
    let letter = Letter { recipients: (0..recipients_count).map(to).collect(), ..Letter::default() };
    let content = Rc::from(vec![b'.'; usize::try_from(content_len).unwrap()]);
    let body = Body::Memory(&content);
    let sending = client.send(&letter, &body);
    assert!(timeout(MOMENT, sending).await.is_err(), "it waits for a reply");
    drop(client);
    let text = String::from_utf8(sent_to(hop).await).unwrap();
    let mut lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
    let content_sent = lines.pop().unwrap_or_default();
    (lines, content_sent.len())
}

#[tokio::test(start_paused = true)]
async fn what_goes_out_before_a_reply_is_bounded() {
    const COUNT: usize = GROUPED_RECIPIENTS_COUNT_MAX;
    const LEN: u64 = GROUPED_CONTENT_LEN_MAX;
    let both = Offered { pipelining: true, chunking: true, ..Offered::default() };
    let (lines, content_len) = first_group(both, COUNT, LEN).await;
    assert_eq!((lines.len(), content_len as u64), (1 + COUNT + 1, LEN));
    assert_eq!(lines[COUNT + 1], format!("BDAT {LEN} LAST"));
    let (lines, content_len) = first_group(both, COUNT, LEN + 1).await;
    assert_eq!((lines.len(), content_len), (1 + COUNT, 0), "content waits for the replies");
    let (lines, content_len) = first_group(both, COUNT + 1, LEN).await;
    assert_eq!((&lines[..], content_len), (&["MAIL FROM:<>".to_owned()][..], 0), "each command waits");

    let data = Offered { pipelining: true, ..Offered::default() };
    let (lines, content_len) = first_group(data, COUNT, LEN).await;
    assert_eq!((lines.len(), lines[COUNT + 1].as_str(), content_len), (1 + COUNT + 1, "DATA", 0));
    let (lines, _) = first_group(data, COUNT + 1, LEN).await;
    assert_eq!(lines.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_next_hop_that_stalls_is_slow_and_one_that_moves_is_waited_for() {
    let hop = Rc::new(Hop::new(relay_to(Vec::new()), None));
    let count = users_count_max(hop.relay.connections_max);
    let _places: Vec<Place> = (0..count).map(|_| Place::take(Rc::clone(&hop))).collect();
    let _connection = hop.connection().await.expect("the first is free");
    assert!(hop.is_full());
    let (began_at, moved_at) = (Instant::now(), Cell::new(Instant::now()));
    let moved_until = began_at + 5 * HOP_STALL_TIME_MAX;
    let moves = async {
        while Instant::now() < moved_until {
            for _ in 0..2 {
                tokio::time::sleep(HOP_STALL_TIME_MAX / 2 - MOMENT).await;
                assert!(hop.is_full(), "whoever comes waits outside");
            }
            hop.stall.end();
            moved_at.set(Instant::now());
        }
    };
    // As each turn of a thread does.
    let looks = async {
        moves.await;
        for _ in 0..4 {
            tokio::time::sleep(HOP_STALL_TIME_MAX / 4).await;
            hop.reap(Instant::now());
        }
    };
    let (connection, ()) = tokio::join!(hop.connection(), looks);
    assert!(connection.is_none() && !hop.is_full(), "it is slow");
    let waited = moved_at.get().elapsed();
    assert!(waited >= HOP_STALL_TIME_MAX && waited < 2 * HOP_STALL_TIME_MAX, "{waited:?}");
    assert!(began_at.elapsed() > 5 * HOP_STALL_TIME_MAX);
}

/// The clock jumps, as for a process that was stopped.
#[tokio::test(start_paused = true)]
async fn who_stood_still_itself_calls_no_next_hop_slow() {
    let hop = Rc::new(Hop::new(relay_to(Vec::new()), None));
    let count = users_count_max(hop.relay.connections_max);
    let _places: Vec<Place> = (0..count).map(|_| Place::take(Rc::clone(&hop))).collect();
    tokio::time::advance(100 * HOP_STALL_TIME_MAX).await;
    assert!(hop.is_full(), "it could not get on");
    for _ in 0..2 {
        tokio::time::advance(HOP_STALL_TIME_MAX / 2).await;
        hop.reap(Instant::now());
    }
    assert!(!hop.is_full(), "it was looked at, and did not");
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_failed_is_forgotten_when_nobody_asks_for_it() {
    let (hops, relay) = (Hops::default(), relay_to(Vec::new()));
    hops.of(&relay).note_trouble(&Problem::Busy.at("next.example"));
    tokio::time::advance(HOP_REST_TIME_MAX).await;
    hops.reap();
    assert_eq!(hops.hops.borrow().len(), 1, "what is known of it may be asked for");
    tokio::time::advance(HOP_REST_TIME_LEAST).await;
    hops.reap();
    assert_eq!(hops.hops.borrow().len(), 0);
}

#[test]
fn deferred_messages_are_looked_at_one_behind_the_other() {
    let hop = Hop::new(relay_to(Vec::new()), None);
    let first: Vec<u64> = (0..3).map(|_| hop.next_look(1000)).collect();
    assert_eq!(first, [1200, 1201, 1202]);
    let last = (0..10_000).map(|_| hop.next_look(1100)).last();
    assert_eq!(last, Some(1300 + 9_999));
    assert_eq!(hop.next_look(20_000), 20_200);
}
