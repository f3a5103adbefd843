//! A reload that changes addresses and what is offered there: who is connected elsewhere does not notice, and what
//! cannot be done leaves everything as it was.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::atomic::{AtomicBool, Ordering};

use tests::client::Client;
use tests::engine::{Home, Options, eventually};
use tests::occupant::{Mode, OTHER_USERS, Occupant};
use tests::privilege::is_root;
use tests::reloading::{Reloading, send_all_the_time};

fn start() -> Reloading {
    Reloading::start(Home::new(&Options::default()), "")
}

fn free_port(ip: &str) -> SocketAddr {
    let bound = TcpListener::bind((ip, 0)).expect("a free port");
    bound.local_addr().expect("an address")
}

/// A second listener; `lines` are its own.
fn second(address: SocketAddr, lines: &str) -> String {
    format!("[[listener]]\nname = \"second\"\nbind = [\"{address}\"]\n{lines}\n")
}

fn reloaded(setup: &Reloading, lines: &str) {
    let line = setup.reload(lines);
    assert!(line.contains("\"reloaded\""), "{line}");
}

/// The greeting, and the lines of the reply to EHLO.
fn heard(address: SocketAddr) -> (String, Vec<String>) {
    let stream = TcpStream::connect(address).expect("connected");
    let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
    let mut line = || lines.next().expect("a line").expect("not reset");
    let greeting = line();
    std::io::Write::write_all(&mut &stream, b"EHLO client.example\r\n").expect("a command");
    let mut reply = vec![line()];
    while reply.last().is_some_and(|line| line.starts_with("250-")) {
        reply.push(line());
    }
    (greeting, reply)
}

#[test]
fn listeners_come_change_and_go_and_nobody_notices_who_is_elsewhere() {
    let setup = start();
    let kept = setup.server.address;
    let added = free_port("127.0.0.2");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| send_all_the_time(kept, &stop))).collect();
        let mut first = Client::ready(kept).expect("a session");
        for _ in 0..2 {
            reloaded(&setup, &second(added, "hostname = \"one.example\""));
            assert_eq!(heard(added).0, "220 one.example ESMTP ringmx");
            let mut under_old_terms = Client::ready(added).expect("a session");
            let rule = "[[rule]]\nstage = \"rcpt\"\nlistener = [\"second\"]\naction = \"reject\"\n";
            let terms = "hostname = \"two.example\"\nbanner = \"new\"\nmax_message_size = \"64KiB\"\n\
                         disable_extensions = [\"CHUNKING\"]\nconnections_max = 3\n";
            reloaded(&setup, &format!("{}{rule}", second(added, terms)));
            // At once, on whichever worker, and nowhere else.
            for _ in 0..8 {
                let (greeting, reply) = heard(added);
                assert_eq!(greeting, "220 two.example new");
                assert!(reply.iter().any(|line| &line[4..] == "SIZE 65536"), "{reply:?}");
                assert!(!reply.iter().any(|line| &line[4..] == "CHUNKING"), "{reply:?}");
                assert_eq!(heard(kept).0, "220 mx.example ESMTP ringmx");
            }
            let mut client = Client::ready(added).expect("a session");
            client.say("MAIL FROM:<>", 250).expect("a transaction");
            client.say("RCPT TO:<a@example.com>", 550).expect("the rule of this listener");
            let large = b"x\r\n".repeat(40_000);
            let message = b"x\r\n";
            first.send("", &["a@example.com"], &large).expect("the other listener's rules");
            // Rules are the transaction's, the limits are the session's.
            under_old_terms.say("MAIL FROM:<> SIZE=120000", 250).expect("its limits");
            under_old_terms.say("RSET", 250).expect("an end");

            // In the queues when the address goes, or on their way there.
            let waiting: Vec<TcpStream> =
                (0..3).map(|_| TcpStream::connect(added).expect("connected")).collect();
            reloaded(&setup, "");
            for mut stream in waiting {
                let mut code = [0; 3];
                stream.read_exact(&mut code).expect("not reset");
                assert!(code == *b"220" || code == *b"421", "{code:?}");
            }
            under_old_terms.send("", &["a@example.com"], message).expect("its session goes on");
            let refused = || TcpStream::connect(added).err().map(|error| error.kind());
            let kind = eventually("the address is closed", refused);
            assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
            first.send("", &["a@example.com"], message).expect("the first session goes on");
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let count = client.join().expect("no panic").expect("none is refused or reset");
            assert!(count > 0);
        }
    });
    setup.server.stop();
}

/// Its socket stays; connections that wait in the kernel while its terms change are served under one or the other.
#[test]
fn a_listener_whose_terms_change_refuses_nobody() {
    let mut setup = start();
    let address = setup.server.address;
    let base = setup.base.clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| send_all_the_time(address, &stop))).collect();
        for number in 0..12 {
            setup.base = base.replace("name = \"mx\"", &format!("name = \"mx\"\nbanner = \"{number}\""));
            reloaded(&setup, "");
            for _ in 0..4 {
                assert_eq!(heard(address).0, format!("220 mx.example {number}"));
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no panic").expect("none is refused or reset");
        }
    });
    setup.server.stop();
}

#[test]
fn what_cannot_be_bound_leaves_everything_as_it_was() {
    let setup = start();
    let address = setup.server.address;
    let occupant = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = occupant.local_addr().expect("an address");
    let free = free_port("127.0.0.2");
    let rule = "[[rule]]\nstage = \"rcpt\"\naction = \"reject\"\n";
    let both = format!("[[listener]]\nname = \"second\"\nbind = [\"{free}\", \"{taken}\"]\n{rule}");
    let line = setup.reload(&both);
    let holder = format!("(pid {})", std::process::id());
    for part in ["reload refused", &format!("{taken} is taken"), &holder] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(TcpStream::connect(free).is_err(), "the other address was bound for nothing");
    let mut client = Client::ready(address).expect("a session");
    client.send("", &["a@example.com"], b"x\r\n").expect("the old rules");
    drop(occupant);
    reloaded(&setup, &both);
    Client::ready(taken).expect("a session");
    Client::ready(free).expect("a session");
    setup.server.stop();
}

fn low_port(ip: &str) -> SocketAddr {
    let bound = (900..1024).find_map(|port| TcpListener::bind((ip, port)).ok());
    bound.and_then(|bound| bound.local_addr().ok()).expect("a free port")
}

/// A server that root started, and that has become this user since.
fn start_as(user: u32) -> Reloading {
    let home = Home::new(&Options::default());
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    chown(home.path(), Some(user), Some(user)).expect("chown");
    home.configure(&Options::default(), &low_port("127.0.0.6").to_string());
    let text = fs::read_to_string(home.config()).expect("a configuration");
    fs::write(home.config(), format!("user = \"{user}\"\ngroup = \"{user}\"\n{text}")).expect("a file");
    Reloading::start(home, "")
}

#[test]
fn a_server_that_gave_its_rights_away_takes_new_addresses() {
    if !is_root("rights to give away") {
        return;
    }
    let user = OTHER_USERS[0];
    let setup = start_as(user);
    let address = low_port("127.0.0.7");
    reloaded(&setup, &second(address, ""));
    let mut client = Client::ready(address).expect("a session");
    client.send("", &["a@example.com"], b"x\r\n").expect("a 250");
    for mut other in [Occupant::new(), Occupant::of_user(user)] {
        assert!(other.bind(address, Mode::JOINER).is_err());
    }
    setup.server.stop();
}

#[test]
fn a_list_that_may_not_be_read_leaves_the_old_one_in_force() {
    if !is_root("rights to give away") {
        return;
    }
    let setup = start_as(OTHER_USERS[0]);
    let list = setup.home.path().join("list");
    let rule = format!("[[rule]]\nstage = \"rcpt\"\nto_file = \"{}\"\naction = \"reject\"\n", list.display());
    let write = |mailbox: &str, mode: u32| {
        fs::write(&list, format!("{mailbox}\n")).expect("a file");
        fs::set_permissions(&list, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    write("old@example.com", 0o644);
    reloaded(&setup, &rule);
    write("new@example.com", 0o600);
    let line = setup.reload(&rule);
    for part in ["reload refused", "list cannot be read: Permission denied"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let mut client = Client::ready(setup.server.address).expect("a session");
    client.say("MAIL FROM:<a@example.org>", 250).expect("a beginning");
    client.say("RCPT TO:<old@example.com>", 550).expect("the old list");
    client.say("RCPT TO:<new@example.com>", 250).expect("not the new one");
    setup.server.stop();
}
