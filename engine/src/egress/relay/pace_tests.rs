//! That a next hop gets no more than its rate, and whom that holds up. The clock is tokio's, paused.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::LocalSet;

use super::client::Offered;
use super::*;
use crate::config::{RelayProtocol, RelayTls};
use crate::policy::clients::Rate;

const MINUTE: Duration = Duration::from_secs(60);

fn relay(message_rate: Option<Rate>) -> Arc<Relay> {
    Arc::new(Relay {
        protocol: RelayProtocol::Smtp,
        next_hops: Vec::new(),
        balance: false,
        tls: RelayTls::Off,
        connections_max: 1,
        message_rate,
        timeout: Duration::from_secs(300),
    })
}

/// Takes every message, and notes when its MAIL came and how many came at once.
async fn take_all(mut stream: DuplexStream, came: Rc<RefCell<Vec<Instant>>>, most: Rc<Cell<usize>>) {
    let mut octets = vec![0; 1 << 20];
    while let Ok(len @ 1..) = stream.read(&mut octets).await {
        let text = String::from_utf8_lossy(&octets[..len]).into_owned();
        let count_of = |verb: &str| text.matches(verb).count();
        let count = count_of("MAIL FROM:");
        came.borrow_mut().extend(std::iter::repeat_n(Instant::now(), count));
        most.set(most.get().max(count));
        let replies = "250 2.0.0 Ok\r\n".repeat(count + count_of("RCPT TO:") + count_of("BDAT "));
        stream.write_all(replies.as_bytes()).await.unwrap();
    }
}

/// Gives it so many messages at once, unasked whether it has places; when they came, and how many of them together.
async fn deliver(hop: &Rc<Hop>, count: usize) -> (Vec<Instant>, usize) {
    let (came, most) = (Rc::default(), Rc::default());
    let (ours, theirs) = duplex(1 << 20);
    tokio::task::spawn_local(take_all(theirs, Rc::clone(&came), Rc::clone(&most)));
    let mut client = Client::new(Box::new(ours), "hop".to_owned(), &hop.relay);
    client.offered = Offered { pipelining: true, chunking: true, ..Offered::default() };
    hop.keep(client, Vec::new());
    let one = |hop: Rc<Hop>| async move {
        let to = Addressee { path: b"a@x".to_vec(), ..Addressee::default() };
        let letter = Rc::new(Letter { recipients: vec![to], ..Letter::default() });
        let content: Rc<[u8]> = Rc::from(&b"x"[..]);
        loop {
            let delivered = hop.deliver(&letter, Body::Memory(&content), "mx.example").await;
            match &delivered.sent[0] {
                Ok(_) => return,
                Err(error) if matches!(error.problem, Problem::Full) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let tasks: Vec<_> = (0..count).map(|_| tokio::task::spawn_local(one(Rc::clone(hop)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let came = came.borrow().clone();
    (came, most.get())
}

fn assert_held_to(rate: u64, came: &[Instant]) {
    for (index, &first) in came.iter().enumerate() {
        let within = came[index..].iter().take_while(|&&at| at < first + MINUTE).count();
        assert!(within as u64 <= rate, "{within} in the minute from message {index} on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hop_gets_no_more_than_its_rate_in_groups_either_and_holds_up_no_other() {
    for rate in [1, 20, 200] {
        let run = async {
            let hops = Hops::default();
            let paced = hops.of(&relay(Some(Rate::new(rate, MINUTE))));
            let (count, began_at) = (3 * rate as usize, Instant::now());
            let other = async {
                let (came, most) = deliver(&hops.of(&relay(None)), 50).await;
                (came.len(), most, began_at.elapsed())
            };
            let ((came, most), other) = tokio::join!(deliver(&paced, count), other);
            assert_held_to(rate, &came);
            assert_eq!(came.len(), count);
            let took = *came.last().unwrap() - came[0];
            assert!(took < 4 * MINUTE, "{took:?} for three minutes' mail");
            assert_eq!(most > 1, rate == 200, "{most} at once: groups are counted too");
            assert_eq!((other.0, other.2), (50, Duration::ZERO));
            assert!(other.1 > 8, "without a rate a group has many: {}", other.1);
        };
        LocalSet::new().run_until(run).await;
    }
}

/// As two threads have it: each knows of its own messages, and the rate is of both.
#[tokio::test(start_paused = true)]
async fn threads_share_a_rate() {
    let run = async {
        let (paces, relay) = (Arc::<Paces>::default(), relay(Some(Rate::new(60, MINUTE))));
        let threads = [Hops::new(Arc::clone(&paces)), Hops::new(paces)];
        let hops = threads.each_ref().map(|hops| hops.of(&relay));
        let (one, other) = tokio::join!(deliver(&hops[0], 60), deliver(&hops[1], 60));
        let mut came = [one.0, other.0].concat();
        came.sort();
        assert_eq!(came.len(), 120);
        assert_held_to(60, &came);
    };
    LocalSet::new().run_until(run).await;
}

/// Who asks first begins no more than may go, and knows when the next may.
#[tokio::test(start_paused = true)]
async fn whoever_is_over_the_rate_waits_outside() {
    let (hops, rate) = (Hops::default(), Rate::new(60, MINUTE));
    let (hop, other) = (hops.of(&relay(Some(rate))), hops.of(&relay(None)));
    let mut places = Vec::new();
    while !hop.is_full() {
        places.push(Place::take(Rc::clone(&hop)));
        assert!(places.len() <= 4, "three of a twentieth, and one");
    }
    assert_eq!(places.len(), 4);
    assert!(!other.is_full() && other.free_at().is_none());
    let free_at = hop.free_at().unwrap();
    tokio::time::advance(free_at - Instant::now()).await;
    assert!(!hop.is_full());
    places.push(Place::take(Rc::clone(&hop)));
    assert!(hop.is_full());
    // They are spread as the messages are, though nobody waits for a disk's sake for days.
    let each = u64::try_from(Pace::new(rate).each().as_millis()).unwrap();
    let looks: Vec<u64> = (0..1000).map(|_| hop.next_look(1_000_000)).collect();
    assert_eq!(looks[..2], [1_000_200, 1_000_200 + each]);
    assert_eq!(looks[999], 1_000_000 + HOP_LOOK_TIME_MAX.as_secs() * 1000);
    hop.note_trouble(&Problem::Busy.at("next.example"));
    assert!(!hop.is_full(), "mail of a hop in trouble is deferred at once");
}
