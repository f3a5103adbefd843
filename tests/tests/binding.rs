//! What the kernel does with sockets that want the same address: the facts that exclusive binding rests on, and that
//! our sockets keep everybody off. `tests/tests/ports.rs` has the same with the whole server.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use ringmx_ring::{BindError, Exclusivity, Listening, Request, listen};
use tests::occupant::{Mode, OTHER_USERS, Occupant};
use tests::privilege::is_root;

/// A private owner, as the server draws one for each start.
const OWNER: u32 = 0x7123_4567;
const CONNECTIONS_COUNT: usize = 400;

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Connections that stay open, one after the other.
fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect()
}

fn ours(address: SocketAddr, threads_count: usize) -> Result<Listening, BindError> {
    listen(&Request { address, threads_count, owner: OWNER, exclusive: true })
}

fn queued(socket: &TcpListener) -> usize {
    socket.set_nonblocking(true).expect("an open socket");
    std::iter::from_fn(|| socket.accept().ok()).count()
}

/// No member has less than half of its part or more than twice: by chance once in some billion runs.
fn assert_even(counts: &[usize]) {
    let part = counts.iter().sum::<usize>() / counts.len();
    assert_eq!(counts.iter().sum::<usize>(), CONNECTIONS_COUNT);
    assert!(counts.iter().all(|&count| count > part / 2 && count < part * 2), "{counts:?}");
}

/// What root and an ordinary user meet alike: run as the one and as the other.
fn as_each_user(test: &str, check: impl Fn(&dyn Fn() -> Occupant)) {
    check(&Occupant::new);
    if is_root(test) {
        check(&|| Occupant::of_user(OTHER_USERS[0]));
    }
}

#[test]
fn a_process_of_the_same_user_joins_a_group_and_takes_a_share() {
    as_each_user("joining as another user", |user| {
        let (mut first, mut second) = (user(), user());
        let (group, address) = first.bind(loopback(), Mode::JOINER).expect("a free port");
        let (joined, _) = second.bind(address, Mode::JOINER).expect("it joins");
        let _clients = connect(address, CONNECTIONS_COUNT);
        assert_even(&[first.accept(group), second.accept(joined)]);
    });
}

#[test]
fn a_process_of_another_user_cannot_join() {
    if !is_root("another user") {
        return;
    }
    for (mut first, mut second) in [
        (Occupant::new(), Occupant::of_user(OTHER_USERS[0])),
        (Occupant::of_user(OTHER_USERS[0]), Occupant::of_user(OTHER_USERS[1])),
        (Occupant::of_user(OTHER_USERS[0]), Occupant::new()),
    ] {
        let (_, address) = first.bind(loopback(), Mode::JOINER).expect("a free port");
        assert_eq!(second.bind(address, Mode::JOINER), Err("EADDRINUSE".to_owned()));
    }
}

#[test]
fn switching_the_option_off_after_bind_keeps_nobody_out_and_breaks_the_spread() {
    as_each_user("joining as another user", |user| {
        let (mut first, mut second) = (user(), user());
        let (one, address) = first.bind(loopback(), Mode::JOINER).expect("a free port");
        let (two, _) = first.bind(address, Mode::JOINER).expect("a second of its own");
        first.ask(&format!("reuse_off {one}")).expect("an option");
        first.ask(&format!("reuse_off {two}")).expect("an option");
        second.bind(address, Mode::JOINER).expect("it joins all the same");
        drop(second);
        let _clients = connect(address, CONNECTIONS_COUNT);
        let counts = [first.accept(one), first.accept(two)];
        assert!(counts.contains(&0), "all go to one: {counts:?}");
    });
}

#[test]
fn a_sealed_group_spreads_evenly_and_nobody_joins() {
    if !is_root("sealing") {
        return;
    }
    for threads_count in [2, 4, 8] {
        let ours = ours(loopback(), threads_count).expect("a free port");
        assert_eq!((ours.exclusivity, ours.sockets.len()), (Exclusivity::Sealed, threads_count));
        for mut other in [Occupant::new(), Occupant::of_user(OTHER_USERS[0])] {
            assert_eq!(other.bind(ours.address, Mode::JOINER), Err("EADDRINUSE".to_owned()));
        }
        // Who copies the private owner gets in: the seal is no defence against an attacker who is root.
        let mut thief = Occupant::new();
        thief.bind(ours.address, Mode { owner: Some(OWNER), ..Mode::JOINER }).expect("it copies the owner");
        drop(thief);
        let _clients = connect(ours.address, CONNECTIONS_COUNT);
        assert_even(&ours.sockets.iter().map(queued).collect::<Vec<_>>());
    }
}

#[test]
fn an_owner_given_after_bind_does_not_seal() {
    if !is_root("giving sockets away") {
        return;
    }
    let (mut first, mut second) = (Occupant::new(), Occupant::new());
    let (one, address) = first.bind(loopback(), Mode::JOINER).expect("a free port");
    first.ask(&format!("chown {one} {OWNER}")).expect("root may");
    second.bind(address, Mode::JOINER).expect("it joins all the same");
}

#[test]
fn without_the_right_to_seal_one_socket_is_exclusive_too() {
    as_each_user("another user's socket", |user| {
        let mut first = user();
        let (_, address) = first.bind(loopback(), Mode::PLAIN).expect("a free port");
        for mut other in [Occupant::new(), user()] {
            for mode in [Mode::PLAIN, Mode::JOINER] {
                assert_eq!(other.bind(address, mode), Err("EADDRINUSE".to_owned()), "{mode:?}");
            }
        }
    });
}

/// The kernel's rule, said slowly: the same port, and the same address, or a wildcard that covers the other.
fn overlap(a: (IpAddr, Mode), b: (IpAddr, Mode)) -> bool {
    let covers = |(one, mode): (IpAddr, Mode), (other, _): (IpAddr, Mode)| {
        one == other
            || one.is_unspecified() && (one.is_ipv4() == other.is_ipv4() || one.is_ipv6() && !mode.v6_only)
    };
    covers(a, b) || covers(b, a)
}

/// Everything that another program may have bound before us, or try behind us.
fn others() -> Vec<(IpAddr, Mode)> {
    let mut all = Vec::new();
    for reuse_port in [false, true] {
        let mode = Mode { reuse_port, ..Mode::PLAIN };
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::UNSPECIFIED.into()] {
            all.push((ip, mode));
        }
        for ip in [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv6Addr::UNSPECIFIED.into()] {
            all.push((ip, mode));
            all.push((ip, Mode { v6_only: false, ..mode }));
        }
    }
    all
}

fn users() -> Vec<(&'static str, Occupant)> {
    let mut users = vec![("same user", Occupant::new())];
    if is_root("other users") {
        users.push(("other user", Occupant::of_user(OTHER_USERS[0])));
    }
    users
}

/// Each of our ways to bind, each address, each kind of other program: the one that comes second is refused if they
/// overlap, and only then.
#[test]
fn whoever_comes_second_is_refused() {
    let mut users = users();
    let our_ips: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let mut refused_count = 0;
    for (threads_count, our_ip) in [1, 4].into_iter().flat_map(|count| our_ips.map(|ip| (count, ip))) {
        for (ip, mode) in others() {
            for (user, occupant) in &mut users {
                let case = format!("{threads_count} threads at {our_ip}, {user} at {ip}: {mode:?}");
                let overlaps = overlap((our_ip, Mode::PLAIN), (ip, mode));
                refused_count += usize::from(overlaps);
                let first = ours((our_ip, 0).into(), threads_count).expect("a free port");
                let port = first.address.port();
                let second = occupant.bind((ip, port).into(), mode);
                match &second {
                    Err(error) if overlaps => assert_eq!(error, "EADDRINUSE", "{case}"),
                    Ok((number, _)) if !overlaps => drop(occupant.ask(&format!("close {number}"))),
                    _ => panic!("{case}: {second:?}"),
                }
                drop(first);

                let (number, address) = occupant.bind((ip, 0).into(), mode).expect("a free port");
                let second = ours((our_ip, address.port()).into(), threads_count);
                match &second {
                    Err(BindError::Taken { .. }) if overlaps => {}
                    Ok(_) if !overlaps => {}
                    _ => panic!("{case}, who was first: {second:?}"),
                }
                occupant.ask(&format!("close {number}")).expect("an open socket");
            }
        }
    }
    assert!(refused_count > 100, "{refused_count}");
}

/// A connection that waits in a listener's queue when it is closed is reset, unless the kernel is told to move it. The
/// script runs in a network namespace of its own, where that can be switched.
#[test]
fn closing_a_listener_resets_those_who_wait_unless_they_are_moved() {
    if !is_root("a network namespace") {
        return;
    }
    for (migrate, resets) in [(0, true), (1, false)] {
        let mut command = Command::new("unshare");
        let setup = format!(
            "ip link set lo up 2>/dev/null || ifconfig lo up; echo {migrate} > /proc/sys/net/ipv4/tcp_migrate_req"
        );
        command.args([
            "--net",
            "--",
            "sh",
            "-c",
            &format!("{setup} && exec python3 -c \"$1\""),
            "sh",
            MIGRATION,
        ]);
        let output = command.output().expect("unshare runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = told.trim().parse::<usize>();
        let count = told.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(count > 0, resets, "{count} of 200 reset with tcp_migrate_req={migrate}");
    }
}

/// Prints how many of 200 connections end with a reset when one of four listeners is closed.
const MIGRATION: &str = "
import socket
def listener(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, 15, 1)
    s.bind(('127.0.0.1', port))
    s.listen(512)
    return s
group = [listener(0)]
port = group[0].getsockname()[1]
group += [listener(port) for _ in range(3)]
clients = [socket.create_connection(('127.0.0.1', port)) for _ in range(200)]
group[0].close()
resets = 0
for client in clients:
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        pass
    except ConnectionResetError:
        resets += 1
print(resets)
";

#[test]
fn nobody_is_reset_while_the_same_socket_is_held_elsewhere() {
    let ours = ours(loopback(), 1).expect("a free port");
    let held = ours.sockets[0].try_clone().expect("a second descriptor");
    let mut clients = connect(ours.address, 20);
    drop(ours);
    for client in &mut clients {
        client.set_nonblocking(true).expect("an open socket");
        let error = client.read(&mut [0]).expect_err("nothing comes");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
    assert_eq!(queued(&held), 20);
}

#[test]
fn members_are_numbered_in_the_order_of_listen_and_the_last_moves_into_a_hole() {
    let mut other = Occupant::new();
    let (first, address) = other.bind(loopback(), Mode::JOINER).expect("a free port");
    let group: Vec<usize> = std::iter::once(first)
        .chain((0..3).map(|_| other.bind(address, Mode::JOINER).expect("it joins").0))
        .collect();
    for index in 0..4 {
        assert_eq!(taker(&mut other, address, index, &group), group[index]);
    }
    other.ask(&format!("close {}", group[1])).expect("an open socket");
    let mut left = group.clone();
    left.remove(1);
    let takers = [0, 1, 2].map(|index| taker(&mut other, address, index, &left));
    assert_eq!(takers, [group[0], group[3], group[2]]);
}

/// The member that gets a connection when the kernel is told to pick the one with this index.
fn taker(other: &mut Occupant, address: SocketAddr, index: usize, members: &[usize]) -> usize {
    other.ask(&format!("pick {index} {}", members[0])).expect("a filter");
    let _client = TcpStream::connect(address).expect("connected");
    let counts: Vec<usize> = members.iter().map(|&member| other.accept(member)).collect();
    members[counts.iter().position(|&count| count == 1).expect("one has it")]
}
