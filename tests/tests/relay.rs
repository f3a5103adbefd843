//! Delivery to next hops: each form of a transaction, each kind of trouble, and what senders hear.

use std::fmt::Write as _;
use std::time::Duration;

use rustix::process::Signal;
use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::next_hop::{Act, Behaviour, NextHop, Taken};

const SENDER: &str = "ada@client.example";
const ALL: &[&str] = &["PIPELINING", "CHUNKING", "SIZE 0", "8BITMIME", "SMTPUTF8", "DSN"];
/// Lines with dots, and an end without a line end's worth of them.
const CONTENT: &[u8] = b"Subject: x\r\n\r\n.\r\n..a\r\n.b\r\nthe end\r\n";

/// A domain and its route.
struct Route<'a> {
    domain: &'a str,
    deliver: &'a str,
    hop: &'a NextHop,
    timeout: &'a str,
    more: &'a str,
}

impl<'a> Route<'a> {
    fn new(domain: &'a str, hop: &'a NextHop) -> Self {
        Self { domain, deliver: "smtp", hop, timeout: "1s", more: "" }
    }
}

fn configure(home: &Home, routes: &[Route<'_>], bounce: Option<&NextHop>) {
    let domains: Vec<String> = routes.iter().map(|route| format!("\"{}\"", route.domain)).collect();
    let mut config = format!(
        "hostname = \"mx.example\"\nworkers = 2\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
         [admin]\nbind = \"127.0.0.1:0\"\n[spool]\npath = \"spool\"\nsegment_size = \"4MiB\"\n[recipients]\ndomains = [{}]\n",
        domains.join(", ")
    );
    for Route { domain, deliver, hop, timeout, more } in routes {
        let _ = write!(
            config,
            "[[route]]\ndomains = [\"{domain}\"]\ndeliver = \"{deliver}\"\nnext_hop = [\"{}\"]\nretry = [\"1s\"]\n\
             timeout = \"{timeout}\"\n{more}\n",
            hop.address
        );
    }
    if let Some(hop) = bounce {
        let _ = write!(config, "[bounce]\nnext_hop = [\"{}\"]\nretry = [\"1s\"]\n", hop.address);
    }
    std::fs::write(home.config(), config).expect("a configuration is written");
}

fn serve(routes: &[Route<'_>], bounce: Option<&NextHop>) -> (Home, Server) {
    let home = Home::new(&Options::default());
    configure(&home, routes, bounce);
    let server = home.serve();
    (home, server)
}

fn send(server: &Server, to: &[&str], content: &[u8]) -> String {
    let mut client = Client::ready(server.address).expect("a session");
    let id = client.send(SENDER, to, content).expect("a 250");
    client.quit().expect("a goodbye");
    id
}

fn wait_until_empty(home: &Home) {
    eventually("an empty spool", || home.undelivered().is_empty().then_some(()));
}

/// What was taken is what was sent, behind our trace field.
fn assert_whole(taken: &Taken, content: &[u8]) {
    assert!(taken.content.starts_with(b"Received: from "), "{}", text(&taken.content));
    assert!(taken.content.ends_with(content), "{}", text(&taken.content));
}

#[test]
fn mail_goes_on_byte_by_byte_in_every_form() {
    let forms: &[(&str, &[&str])] = &[
        ("bare.example", &[]),
        ("pipelining.example", &["PIPELINING"]),
        ("chunking.example", &["CHUNKING"]),
        ("both.example", &["PIPELINING", "CHUNKING"]),
        ("all.example", ALL),
    ];
    let hop = |(_, extensions): &(&str, &[&'static str])| {
        NextHop::start(Behaviour { extensions: extensions.to_vec(), ..Behaviour::default() })
    };
    let hops: Vec<NextHop> = forms.iter().map(hop).collect();
    let routes: Vec<_> = forms.iter().zip(&hops).map(|((domain, _), hop)| Route::new(domain, hop)).collect();
    let (home, server) = serve(&routes, None);
    // In memory and in a file of its own.
    let large = [b"Subject: large\r\n\r\n", &b".x\r\n..\r\nabcdefgh\r\n".repeat(60_000)[..]].concat();
    for (form, _) in forms {
        let to = [format!("a@{form}"), format!("b@{form}"), format!("\"c d\"@{form}")];
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        for content in [CONTENT, &large] {
            send(&server, &to, content);
        }
    }
    for ((form, extensions), hop) in forms.iter().zip(&hops) {
        let mut taken = hop.wait_for(form, 2);
        taken.sort_by_key(|taken| taken.content.len());
        assert_whole(&taken[0], CONTENT);
        assert_whole(&taken[1], &large);
        for taken in &taken {
            assert!(taken.mail.starts_with(&format!("MAIL FROM:<{SENDER}>")), "{}", taken.mail);
            assert_eq!(taken.mail.contains(" SIZE="), extensions.contains(&"SIZE 0"), "{}", taken.mail);
            let expected = ["a", "b", "\"c d\""].map(|name| format!("RCPT TO:<{name}@{form}>"));
            assert_eq!(taken.recipients, expected);
            assert_eq!(taken.by_bdat, extensions.contains(&"CHUNKING"));
        }
    }
    wait_until_empty(&home);
    server.stop();
    home.verify();
}

/// Each next hop is in trouble of its own until it is well; nobody's mail is lost, and nobody's waits for another's.
#[test]
fn trouble_passes_and_the_mail_arrives() {
    let drip = Act::Drip("220 next.example ESMTP, as slowly as can be", Duration::from_millis(200));
    let troubles: &[(&str, &str, Act)] = &[
        ("greeting-421.example", "connect", Act::Say("421 4.3.2 not now")),
        ("greeting-554.example", "connect", Act::Say("554 5.7.1 go away")),
        ("greeting-close.example", "connect", Act::Close),
        ("greeting-hang.example", "connect", Act::Hang),
        ("greeting-drip.example", "connect", drip),
        ("greeting-garbled.example", "connect", Act::Say("hello")),
        ("ehlo-421.example", "EHLO", Act::Say("421 4.3.2 not now")),
        ("mail-451.example", "MAIL", Act::Say("451 4.3.0 not now")),
        ("mail-hang.example", "MAIL", Act::Hang),
        ("rcpt-450.example", "RCPT", Act::Say("450 4.2.1 not now")),
        ("rcpt-552.example", "RCPT", Act::Say("552 5.5.3 too many recipients")),
        ("rcpt-close.example", "RCPT", Act::Close),
        ("data-451.example", "DATA", Act::Say("451 4.3.0 not now")),
        ("data-hang.example", "DATA", Act::Hang),
        ("content-close.example", "content", Act::Close),
        ("end-452.example", "end", Act::Say("452 4.3.1 full")),
        ("end-hang.example", "end", Act::Hang),
        ("end-garbled.example", "end", Act::Say("250-one\r\n251 two")),
    ];
    let behaviour = |acts| Behaviour { extensions: vec!["PIPELINING"], acts, ..Behaviour::default() };
    let hops: Vec<NextHop> =
        troubles.iter().map(|&(_, stage, act)| NextHop::start(behaviour(vec![(stage, act)]))).collect();
    let well = NextHop::start(behaviour(vec![]));
    let bounce = NextHop::start(Behaviour::default());
    let mut routes: Vec<_> =
        troubles.iter().zip(&hops).map(|((domain, ..), hop)| Route::new(domain, hop)).collect();
    routes.push(Route::new("well.example", &well));
    let (home, server) = serve(&routes, Some(&bounce));
    let ids: Vec<String> =
        troubles.iter().map(|(domain, ..)| send(&server, &[&format!("a@{domain}")], CONTENT)).collect();
    send(&server, &["a@well.example"], CONTENT);
    well.wait_for("mail beside troubles", 1);
    eventually("an attempt at each", || {
        let lines = server.log.lines();
        let tried =
            |id: &String| lines.iter().any(|line| line.contains("delivery failed") && line.contains(id));
        ids.iter().all(tried).then_some(())
    });
    hops.iter().for_each(|hop| hop.behave(behaviour(vec![])));
    for ((domain, ..), hop) in troubles.iter().zip(&hops) {
        let taken = hop.wait_for(domain, 1);
        assert_eq!(taken.len(), 1, "{domain}: once");
        assert_whole(&taken[0], CONTENT);
    }
    wait_until_empty(&home);
    assert_eq!(bounce.taken(), [], "nobody is told of what passes");
    server.stop();
}

#[test]
fn a_lost_answer_may_make_two_of_a_message_and_never_none() {
    let act = vec![("end", Act::Close)];
    let hop = NextHop::start(Behaviour { acts: act, ..Behaviour::default() });
    let (home, server) = serve(&[Route::new("a.example", &hop)], None);
    send(&server, &["a@a.example"], CONTENT);
    hop.wait_for("the first", 1);
    hop.behave(Behaviour::default());
    let taken = hop.wait_for("the second", 2);
    assert_whole(&taken[1], CONTENT);
    wait_until_empty(&home);
    server.stop();
}

/// Offered, and then refused: without it the mail goes in clear, unless the route wants TLS.
#[test]
fn a_next_hop_that_refuses_starttls_gets_mail_in_clear() {
    let act = Act::Say("454 4.7.0 not now");
    let behaviour =
        Behaviour { extensions: vec!["STARTTLS"], acts: vec![("STARTTLS", act)], ..Behaviour::default() };
    let hops = [(); 2].map(|()| NextHop::start(behaviour.clone()));
    let required = Route { more: "tls = \"required\"", ..Route::new("required.example", &hops[1]) };
    let (home, server) = serve(&[Route::new("a.example", &hops[0]), required], None);
    let id = send(&server, &["a@required.example"], CONTENT);
    send(&server, &["a@a.example"], CONTENT);
    assert_whole(&hops[0].wait_for("mail in clear", 1)[0], CONTENT);
    let failed = |line: &String| line.contains("delivery failed") && line.contains(&id);
    eventually("a failure", || server.log.lines().into_iter().find(failed));
    assert_eq!(hops[1].taken(), []);
    assert_eq!(home.undelivered(), [id]);
    server.stop();
}

#[test]
fn connections_are_used_again() {
    let hop = NextHop::start(Behaviour { extensions: ALL.to_vec(), ..Behaviour::default() });
    let (home, server) =
        serve(&[Route { more: "connections_max = 1", ..Route::new("a.example", &hop) }], None);
    let count = ringmx::limits::HOP_TRANSACTIONS_COUNT_MAX as usize;
    let mut client = Client::ready(server.address).expect("a session");
    let mut send = || client.send("a@client.example", &["a@a.example"], CONTENT).expect("a 250");
    (0..count).for_each(|_| drop(send()));
    hop.wait_for("as many messages as one connection takes", count);
    // Two workers share one delivery thread.
    assert_eq!(hop.connections_count(), 1);
    send();
    hop.wait_for("one more", count + 1);
    assert_eq!(hop.connections_count(), 2);
    wait_until_empty(&home);
    server.stop();
}

/// More mail than a next hop takes at once waits for it, and is not put off.
#[test]
fn a_next_hop_that_keeps_up_is_waited_for() {
    let hop = NextHop::start(Behaviour { extensions: ALL.to_vec(), ..Behaviour::default() });
    let (home, server) =
        serve(&[Route { more: "connections_max = 2", ..Route::new("a.example", &hop) }], None);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::ready(server.address).expect("a session");
                for _ in 0..100 {
                    client.send(SENDER, &["a@a.example"], CONTENT).expect("a 250");
                }
            });
        }
    });
    assert_eq!(hop.wait_for("400 messages", 400).len(), 400);
    wait_until_empty(&home);
    let log = server.stop().join("\n");
    assert!(!log.contains("delivery failed"), "{log}");
}

/// One that takes ten messages a second, and has hundreds to take.
#[test]
fn a_next_hop_that_is_behind_holds_up_no_other() {
    const WAITING_COUNT: usize = 1200;
    let slowly = ("end", Act::Drip("250 2.0.0 taken so slow", Duration::from_millis(4)));
    let slow =
        NextHop::start(Behaviour { extensions: ALL.to_vec(), acts: vec![slowly], ..Behaviour::default() });
    let swift = NextHop::start(Behaviour { extensions: ALL.to_vec(), ..Behaviour::default() });
    let routes = [
        Route { more: "connections_max = 1", ..Route::new("a.example", &slow) },
        Route::new("b.example", &swift),
    ];
    let (_home, server) = serve(&routes, None);
    send_many(&server, "slow", WAITING_COUNT);
    (0..20).for_each(|_| drop(send(&server, &["b@b.example"], CONTENT)));
    swift.wait_for("the others", 20);
    let taken_count = slow.taken().len();
    assert!(taken_count < WAITING_COUNT / 2, "it had taken {taken_count} by then");
    server.stop();
}

/// As a machine is that was suspended: its next hop has said nothing meanwhile that it could hear. Mail that waits for
/// a connection, and mail that goes along with other.
#[test]
fn a_server_that_was_stopped_calls_no_next_hop_slow() {
    const COUNT: usize = 40;
    let stop_time = ringmx::limits::HOP_STALL_TIME_MAX + Duration::from_millis(800);
    for extensions in [&[][..], ALL] {
        // So long it takes for its answer to a message.
        let answers_in = |time: Duration| {
            let reply = "250 2.0.0 taken so slow";
            let acts = vec![("end", Act::Drip(reply, time / reply.len() as u32))];
            Behaviour { extensions: extensions.to_vec(), acts, ..Behaviour::default() }
        };
        let hop = NextHop::start(answers_in(Duration::ZERO));
        let route = Route { timeout: "1m", more: "connections_max = 1", ..Route::new("a.example", &hop) };
        let (home, server) = serve(&[route], None);
        send(&server, &["a@a.example"], CONTENT);
        hop.wait_for("what proves the connection", 1);
        hop.behave(answers_in(Duration::from_millis(500)));
        send_many(&server, "one", COUNT);
        hop.wait_for("one for which others wait", 2);
        hop.behave(answers_in(stop_time + Duration::from_millis(500)));
        hop.wait_for("one of those", 3);
        server.signal(Signal::STOP);
        hop.behave(answers_in(Duration::ZERO));
        std::thread::sleep(stop_time);
        server.signal(Signal::CONT);
        assert_eq!(hop.wait_for("all of them", COUNT + 1).len(), COUNT + 1);
        wait_until_empty(&home);
        let log = server.stop().join("\n");
        assert!(!log.contains("delivery failed"), "{extensions:?}: {log}");
    }
}

/// Its surplus 250 must not be taken for the answer to the next message.
#[test]
fn a_next_hop_that_says_too_much_is_not_believed_twice() {
    let acts = vec![("end", Act::Say("452 4.3.1 full\r\n250 2.0.0 taken as 1"))];
    let hop = NextHop::start(Behaviour { extensions: ALL.to_vec(), acts, ..Behaviour::default() });
    let (home, server) = serve(&[Route::new("a.example", &hop)], None);
    let ids: Vec<String> = (0..5).map(|_| send(&server, &["a@a.example"], CONTENT)).collect();
    eventually("an attempt at each", || {
        let listed = text(&home.run(["spool", "ls", "--json"]).stdout);
        let tried =
            |id: &String| listed.lines().any(|line| line.contains(id) && line.contains("\"attempts\":"));
        ids.iter().all(tried).then_some(())
    });
    hop.behave(Behaviour { extensions: ALL.to_vec(), ..Behaviour::default() });
    assert_eq!(hop.wait_for("all of them", ids.len()).len(), ids.len());
    wait_until_empty(&home);
    server.stop();
}

/// So slow to greet that mail waits for its one connection.
const GREETS_SLOWLY: (&str, Act) =
    ("EHLO", Act::Drip("250-next.example\r\n250-PIPELINING\r\n250 CHUNKING", Duration::from_millis(5)));

/// Sends so many from several sessions, each with a content of its own, and gives these.
fn send_many(server: &Server, name: &str, count: usize) -> Vec<Vec<u8>> {
    let contents: Vec<Vec<u8>> =
        (0..count).map(|index| format!("Subject: {name} {index}\r\n\r\nhello\r\n").into_bytes()).collect();
    std::thread::scope(|scope| {
        for contents in contents.chunks(count.div_ceil(4)) {
            scope.spawn(move || {
                let mut client = Client::ready(server.address).expect("a session");
                for content in contents {
                    client.send(SENDER, &["a@a.example"], content).expect("a 250");
                }
            });
        }
    });
    contents
}

/// How often each content was taken; behind its trace field, which we have added.
fn counts_of(taken: &[Taken], contents: &[Vec<u8>]) -> Vec<usize> {
    let count = |content: &Vec<u8>| taken.iter().filter(|one| one.content.ends_with(content)).count();
    contents.iter().map(count).collect()
}

/// What waits for a connection goes out together, each once.
#[test]
fn mail_that_waits_goes_in_groups() {
    let hop = NextHop::start(Behaviour { acts: vec![GREETS_SLOWLY], ..Behaviour::default() });
    let (home, server) =
        serve(&[Route { more: "connections_max = 1", ..Route::new("a.example", &hop) }], None);
    let contents = send_many(&server, "one", 60);
    let taken = hop.wait_for("all of it", contents.len());
    wait_until_empty(&home);
    assert_eq!(counts_of(&taken, &contents), vec![1; contents.len()]);
    // Who is followed, and who follows such a one.
    let follows = |pair: &[Taken]| pair[0].is_followed && !pair[1].is_followed;
    let grouped = taken.iter().filter(|one| one.is_followed).count()
        + taken.windows(2).filter(|it| follows(it)).count();
    assert!(grouped > 0, "nothing went together");
    eventually("a count", || (server.metric("ringmx_delivery_relayed_total") == 60).then_some(()));
    assert_eq!(server.metric("ringmx_delivery_grouped_total"), grouped as u64);
    server.stop();
}

/// Whatever it does in the middle of a group, none of it is lost; and nothing comes twice whose answer was heard.
#[test]
fn groups_survive_what_happens_in_their_middle() {
    let too_much = Act::Say("452 4.3.1 full\r\n250 2.0.0 taken as 1");
    for (stage, act, may_double) in [
        ("MAIL", Act::Say("451 4.7.1 later"), false),
        ("RCPT", Act::Say("450 4.2.1 later"), false),
        ("end", Act::Say("452 4.3.1 full"), false),
        ("end", too_much, true),
        ("end", Act::Close, true),
        // What it said before may be lost with the connection.
        ("RCPT", Act::Close, true),
    ] {
        let greets = || Behaviour { acts: vec![GREETS_SLOWLY], ..Behaviour::default() };
        let hop = NextHop::start(greets());
        let (home, server) =
            serve(&[Route { more: "connections_max = 1", ..Route::new("a.example", &hop) }], None);
        let mut contents = send_many(&server, "one", 40);
        hop.wait_for("some", 1);
        hop.behave(Behaviour { acts: vec![GREETS_SLOWLY, (stage, act)], ..Behaviour::default() });
        contents.extend(send_many(&server, "two", 40));
        hop.behave(greets());
        let all = eventually("all of it", || {
            let taken = hop.taken();
            counts_of(&taken, &contents).iter().all(|&count| count > 0).then_some(taken)
        });
        wait_until_empty(&home);
        assert!(may_double || all.len() == contents.len(), "{stage}: {act:?}: {} came", all.len());
        server.stop();
    }
}

/// What cannot be delivered: the next hop's word, and what the sender is told.
#[test]
fn senders_hear_what_cannot_be_delivered() {
    let refusals: &[(&str, &str, Act, &str, &str)] = &[
        ("mail.example", "MAIL", Act::Say("550 5.7.1 not from you"), "5.7.1", "550 5.7.1 not from you"),
        ("rcpt.example", "RCPT", Act::Say("550-5.1.1 nobody\r\n550 5.1.1 here"), "5.1.1", "nobody"),
        ("data.example", "DATA", Act::Say("554 no data"), "5.0.0", "554 no data"),
        ("end.example", "end", Act::Say("554 5.6.0 spam"), "5.6.0", "554 5.6.0 spam"),
        ("size.example", "-", Act::Close, "5.3.4", "its SIZE is 20 octets"),
    ];
    let hop = |(domain, stage, act, ..): &(&'static str, &'static str, Act, &str, &str)| {
        let extensions = if *domain == "size.example" { vec!["SIZE 20"] } else { vec!["PIPELINING", "DSN"] };
        NextHop::start(Behaviour { extensions, acts: vec![(*stage, *act)], ..Behaviour::default() })
    };
    let hops: Vec<NextHop> = refusals.iter().map(hop).collect();
    let bounce = NextHop::start(Behaviour { extensions: vec!["PIPELINING"], ..Behaviour::default() });
    let routes: Vec<_> =
        refusals.iter().zip(&hops).map(|((domain, ..), hop)| Route::new(domain, hop)).collect();
    let (home, server) = serve(&routes, Some(&bounce));
    for (domain, ..) in refusals {
        send(&server, &[&format!("nobody@{domain}")], CONTENT);
    }
    let notices = bounce.wait_for("a notice of each", refusals.len());
    for (domain, _, _, status, reason) in refusals {
        let is_of = |notice: &&Taken| text(&notice.content).contains(&format!("<nobody@{domain}>"));
        let notice = notices.iter().find(is_of).unwrap_or_else(|| panic!("a notice of {domain}"));
        assert_eq!(notice.mail, "MAIL FROM:<>");
        assert_eq!(notice.recipients, [format!("RCPT TO:<{SENDER}>")]);
        let content = text(&notice.content);
        for part in [
            &format!("Status: {status}\r\n"),
            *reason,
            "Action: failed",
            "report-type=delivery-status",
            "Subject: x\r\n",
        ] {
            assert!(content.contains(part), "{domain}: {part}:\n{content}");
        }
    }
    wait_until_empty(&home);
    assert_eq!(bounce.taken().len(), refusals.len());
    let log = server.stop().join("\n");
    assert!(log.contains("cannot be delivered to a recipient") && !log.contains("nobody@"), "{log}");
}

/// One is taken, one refused for now, one for ever: each by itself, and nobody gets the message twice.
#[test]
fn recipients_fare_each_by_itself() {
    for (deliver, ok) in [("lmtp", true), ("smtp", false)] {
        let stage = |smtp, lmtp| if ok { lmtp } else { smtp };
        let later = (stage("RCPT TO:<later", "end RCPT TO:<later"), Act::Say("450 4.2.2 over quota"));
        let never = (stage("RCPT TO:<never", "end RCPT TO:<never"), Act::Say("550 5.1.1 nobody"));
        let behaviour = |acts| Behaviour { is_lmtp: ok, extensions: vec!["PIPELINING"], acts };
        let hop = NextHop::start(behaviour(vec![later, never]));
        let bounce = NextHop::start(Behaviour::default());
        let (home, server) = serve(&[Route { deliver, ..Route::new("a.example", &hop) }], Some(&bounce));
        send(&server, &["now@a.example", "later@a.example", "never@a.example"], CONTENT);
        assert_eq!(hop.wait_for("one", 1)[0].recipients, ["RCPT TO:<now@a.example>"]);
        let notice = text(&bounce.wait_for("a notice", 1)[0].content);
        assert!(notice.contains("<never@a.example>") && !notice.contains("later@"), "{notice}");
        hop.behave(behaviour(vec![never]));
        assert_eq!(hop.wait_for("the other", 2)[1].recipients, ["RCPT TO:<later@a.example>"]);
        wait_until_empty(&home);
        assert_eq!((hop.taken().len(), bounce.taken().len()), (2, 1));
        server.stop();
    }
}

#[test]
fn what_is_tried_for_too_long_has_failed() {
    let hop = NextHop::start(Behaviour {
        acts: vec![("RCPT", Act::Say("451 4.7.1 greylisted"))],
        ..Behaviour::default()
    });
    let bounce = NextHop::start(Behaviour::default());
    let (home, server) =
        serve(&[Route { more: "lifetime = \"2s\"", ..Route::new("a.example", &hop) }], Some(&bounce));
    send(&server, &["a@a.example"], CONTENT);
    let notice = text(&bounce.wait_for("a notice", 1)[0].content);
    assert!(notice.contains("Status: 5.4.7") && notice.contains("451 4.7.1 greylisted"), "{notice}");
    wait_until_empty(&home);
    server.stop();
}

#[test]
fn mail_without_a_sender_is_given_up_without_a_notice() {
    let hop = NextHop::start(Behaviour {
        acts: vec![("RCPT", Act::Say("550 5.1.1 nobody"))],
        ..Behaviour::default()
    });
    let bounce = NextHop::start(Behaviour::default());
    let (home, server) = serve(&[Route::new("a.example", &hop)], Some(&bounce));
    let mut client = Client::ready(server.address).expect("a session");
    client.send("", &["a@a.example"], CONTENT).expect("a 250");
    let line = eventually("the end of it", || server.log.find("cannot be delivered to a recipient"));
    assert_eq!(line["told"], "null reverse-path");
    wait_until_empty(&home);
    assert_eq!(bounce.taken(), []);
    server.stop();
}

/// Without `[bounce]` nobody can be told: the message stays, and goes its way when there is one.
#[test]
fn without_a_way_to_the_sender_mail_is_held_until_there_is_one() {
    let hop = NextHop::start(Behaviour {
        acts: vec![("RCPT", Act::Say("550 5.1.1 nobody"))],
        ..Behaviour::default()
    });
    let bounce = NextHop::start(Behaviour {
        acts: vec![("MAIL", Act::Say("451 4.3.0 not now"))],
        ..Behaviour::default()
    });
    let (home, server) = serve(&[Route::new("a.example", &hop)], None);
    let warned = home.run(["check"]);
    assert!(text(&warned.stdout).contains("no [bounce]"), "{}", text(&warned.stdout));
    let id = send(&server, &["a@a.example"], CONTENT);
    eventually("a held message", || {
        server.log.find("kept in the spool: it cannot be delivered, and its sender cannot be told. Add [bounce] and reload")
    });
    assert_eq!(home.undelivered(), [id]);
    configure(&home, &[Route::new("a.example", &hop)], Some(&bounce));
    let reloaded = home.run(["reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    let line = "a notice to a sender was not sent, and is tried again: see the next hop's log";
    eventually("a notice that waits", || server.log.find(line));
    // The failure is in the spool by now.
    server.kill();
    bounce.behave(Behaviour::default());
    let server = home.serve();
    let notice = text(&bounce.wait_for("a notice", 1)[0].content);
    assert!(
        notice.contains("Final-Recipient: rfc822; a@a.example") && notice.contains("550 5.1.1 nobody"),
        "{notice}"
    );
    wait_until_empty(&home);
    server.stop();
}
