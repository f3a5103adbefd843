//! The whole server and its addresses: it takes none from others, gives none away, and says who answers there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, PATIENCE, Server, binary, eventually, text};
use tests::occupant::{Mode, OTHER_USERS, Occupant};
use tests::privilege::is_root;

/// A home with listeners of one's own.
fn home(listeners: &str) -> Home {
    let home = Home::new(&Options::default());
    reconfigure(&home, listeners);
    home
}

fn reconfigure(home: &Home, listeners: &str) {
    let text = format!(
        "hostname = \"mx.example\"\nworkers = 2\n{listeners}\n[spool]\npath = \"spool\"\nsegment_size = \"4MiB\"\n\
         [recipients]\ndomains = [\"example.com\"]\n[[route]]\ndomains = [\"*\"]\ndeliver = \"maildir\"\n\
         path = \"maildir\"\n[watch]\ninterval = \"100ms\"\n[admin]\nbind = \"127.0.0.1:0\"\n"
    );
    std::fs::write(home.config(), text).expect("a configuration");
}

fn at(bind: &str) -> Home {
    home(&format!("[[listener]]\nname = \"mx\"\nmax_message_size = \"1MiB\"\nbind = [\"{bind}\"]\n"))
}

fn serve_as(home: &Home, user: u32) -> Result<Server, Output> {
    let mut command = Command::new(home.open_to_all());
    command.args(["serve", "--log-format", "json", "--config"]).arg(home.config());
    command.uid(user).gid(user);
    home.spawn(command)
}

/// The one error of a start that is refused.
fn refusal(result: Result<Server, Output>) -> String {
    let output = match result {
        Ok(server) => panic!("it serves:\n{}", server.log.lines().join("\n")),
        Err(output) => output,
    };
    assert_eq!(output.status.code(), Some(1));
    let log = text(&output.stderr);
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("\"ERROR\"")).collect();
    assert_eq!(errors.len(), 1, "one error:\n{log}");
    errors[0].to_owned()
}

/// Everything that overlaps with an address of the loopback or a wildcard: itself, an address that it holds, its
/// family's wildcard, and the one of both families.
fn overlapping(address: SocketAddr) -> Vec<(SocketAddr, Mode)> {
    let port = address.port();
    let (held, wildcard): (IpAddr, IpAddr) = match address {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    let dual = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let mut all = Vec::new();
    for reuse_port in [false, true] {
        let mode = Mode { reuse_port, ..Mode::PLAIN };
        let of = |ip| (SocketAddr::new(ip, port), mode);
        all.extend([(address, mode), of(held), of(wildcard), (dual, Mode { v6_only: false, ..mode })]);
    }
    all
}

fn refuses_all(server: &Server, others: &mut [Occupant]) {
    for other in others {
        for (address, mode) in overlapping(server.address) {
            assert_eq!(other.bind(address, mode), Err("EADDRINUSE".to_owned()), "{address} {mode:?}");
        }
    }
}

#[test]
fn nobody_takes_or_shares_a_running_servers_port() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        nobody_takes_or_shares(address);
    }
}

fn nobody_takes_or_shares(address: &str) {
    let server = at(address).serve();
    let kind = server.log.find("listening").expect("a line")["exclusive"].clone();
    refuses_all(&server, &mut [Occupant::new()]);
    if is_root("a sealed group, and another user's server") {
        assert_eq!(kind, "sealed group, one socket per worker");
        refuses_all(&server, &mut OTHER_USERS.map(Occupant::of_user));
        let home = at(address);
        let server = serve_as(&home, OTHER_USERS[0]).expect("a server of an ordinary user");
        let kind = server.log.find("listening").expect("a line")["exclusive"].clone();
        assert_eq!(kind, "one socket shared by all workers");
        let others = [Occupant::of_user(OTHER_USERS[0]), Occupant::of_user(OTHER_USERS[1]), Occupant::new()];
        refuses_all(&server, &mut { others });
        for _ in 0..20 {
            Client::ready(server.address).expect("a session");
        }
        server.stop();
    }
    server.stop();
}

#[test]
fn a_start_on_a_taken_port_names_who_has_it() {
    let ours = [
        ("127.0.0.1", IpAddr::from(Ipv4Addr::LOCALHOST)),
        ("0.0.0.0", Ipv4Addr::UNSPECIFIED.into()),
        ("[::1]", Ipv6Addr::LOCALHOST.into()),
        ("[::]", Ipv6Addr::UNSPECIFIED.into()),
    ];
    let mut occupants = vec![Occupant::new()];
    if is_root("other users") {
        occupants.push(Occupant::of_user(OTHER_USERS[0]));
    }
    for occupant in &mut occupants {
        for (text, ip) in ours {
            let dual: IpAddr = Ipv6Addr::UNSPECIFIED.into();
            for reuse_port in [false, true] {
                let mode = Mode { reuse_port, v6_only: false, ..Mode::PLAIN };
                for their_ip in [ip, dual] {
                    let (number, address) = occupant.bind((their_ip, 0).into(), mode).expect("a free port");
                    let error = refusal(at(&format!("{text}:{}", address.port())).try_serve());
                    let holder = format!("(pid {}) listens on {address}", occupant.pid());
                    assert!(error.contains(&holder) && error.contains("python3"), "{holder}: {error}");
                    occupant.ask(&format!("close {number}")).expect("an open socket");
                }
            }
        }
    }
}

#[test]
fn an_ordinary_user_is_told_whose_the_port_is() {
    if !is_root("another user's server") {
        return;
    }
    let mut occupant = Occupant::new();
    let (_, address) = occupant.bind((Ipv4Addr::LOCALHOST, 0).into(), Mode::JOINER).expect("a free port");
    let error = refusal(serve_as(&at(&address.to_string()), OTHER_USERS[0]));
    assert!(error.contains("a program of the user with id 0, which only root can name"), "{error}");
    let error = refusal(serve_as(&at("127.0.0.1:1"), OTHER_USERS[0]));
    assert!(
        error.contains("permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"),
        "{error}"
    );
}

#[test]
fn what_is_shared_on_purpose_can_be_joined() {
    let server = home(
        "[[listener]]\nname = \"mx\"\nmax_message_size = \"1MiB\"\nbind = [\"127.0.0.1:0\"]\nexclusive = false\n",
    )
    .serve();
    Occupant::new().bind(server.address, Mode::JOINER).expect("it joins");
    server.stop();
}

/// What the server says to a GET.
fn admin(server: &Server, path: &str) -> (u16, String) {
    let line = server.log.find("admin HTTP").expect("a line");
    let address: SocketAddr = line["address"].as_str().expect("an address").parse().expect("an address");
    tests::client::http_get(address, path).expect("an answer")
}

/// Who is root can copy the private owner. The watch sees it: it is not us alone who listen there.
#[test]
fn a_joiner_is_noticed_and_named() {
    if !is_root("copying the private owner") {
        return;
    }
    let server = at("127.0.0.1:0").serve();
    assert_eq!(admin(&server, "/readyz").0, 200);
    let owner = owner_of(server.address).expect("the listener is in /proc/net/tcp");
    let mut thief = Occupant::new();
    let mode = Mode { owner: Some(owner), ..Mode::JOINER };
    let (number, _) = thief.bind(server.address, mode).expect("it copies the owner");
    let body = eventually("readiness fails", || {
        let (status, body) = admin(&server, "/readyz");
        (status == 503).then_some(body)
    });
    assert!(body.contains("port lost"), "{body}");
    let named = format!("python3 (pid {}) listens on {} too", thief.pid(), server.address);
    eventually("the log names it", || {
        let lines = server.log.lines();
        lines.iter().any(|line| line.contains("not answered by us") && line.contains(&named)).then_some(())
    });
    let (_, metrics) = admin(&server, "/metrics");
    let proof = format!("ringmx_listener_answered_by_us{{listener=\"mx\",address=\"{}\"}} 0", server.address);
    assert!(metrics.contains(&proof), "{proof}");
    thief.ask(&format!("close {number}")).expect("an open socket");
    eventually("it recovers", || (admin(&server, "/readyz").0 == 200).then_some(()));
    eventually("the log says so", || server.log.find("the address is answered by us again"));
    server.stop();
}

/// The owner of a listening socket, as the kernel shows it to everybody.
fn owner_of(address: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let port = format!(":{:04X}", address.port());
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1].ends_with(&port) && words[3] == "0A").then(|| words[7].parse().ok()).flatten()
    })
}

#[test]
fn systemd_is_told_when_the_addresses_are_proved() {
    let home = at("127.0.0.1:0");
    let path = home.path().join("notify");
    let notify = UnixDatagram::bind(&path).expect("a socket");
    notify.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut command = Command::new(binary("ringmx"));
    command.args(["serve", "--log-format", "json", "--config"]).arg(home.config());
    command.env("NOTIFY_SOCKET", &path);
    let server = home.spawn(command).expect("a server");
    let told = || {
        let mut octets = [0; 64];
        let len = notify.recv(&mut octets).expect("a datagram");
        text(&octets[..len])
    };
    assert_eq!(told(), "READY=1");
    server.stop();
    assert_eq!(told(), "STOPPING=1");
}

fn probe(args: &[&str]) -> (Option<i32>, Value) {
    let output =
        Command::new(binary("ringmx")).arg("probe").args(args).arg("--json").output().expect("it runs");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

#[test]
fn a_probe_tells_who_answers_and_whether_it_is_this_server() {
    let (server, other) = (at("127.0.0.1:0").serve(), at("127.0.0.1:0").serve());
    let line = server.log.find("admin HTTP").expect("a line");
    let admin = line["address"].as_str().expect("an address");
    let target = server.address.to_string();
    let (status, report) = probe(&[&target]);
    assert_eq!(status, Some(0), "{report}");
    assert_eq!((&report["hostname"], &report["this_server"]), (&"mx.example".into(), &Value::Null));
    assert!(
        report["extensions"].as_array().is_some_and(|all| all.contains(&"PIPELINING".into())),
        "{report}"
    );
    assert!(report["connect_ms"].is_number() && report["greeting_ms"].is_number(), "{report}");
    let (status, report) = probe(&[&target, "--admin", admin]);
    assert_eq!((status, &report["this_server"]), (Some(0), &Value::Bool(true)), "{report}");
    let (status, report) = probe(&[&other.address.to_string(), "--admin", admin]);
    assert_eq!((status, &report["this_server"]), (Some(1), &Value::Bool(false)), "{report}");
    other.stop();
    // Nobody, and somebody who speaks no SMTP.
    server.stop();
    let (status, report) = probe(&[&target, "--timeout", "5"]);
    assert_eq!(status, Some(1));
    assert!(report["error"].as_str().is_some_and(|why| why.contains("no connection to")), "{report}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let talker = std::thread::spawn(move || {
        std::io::Write::write_all(&mut listener.accept().expect("a client").0, b"SSH-2.0-x\r\n")
            .expect("sent");
    });
    let (status, report) = probe(&[&address]);
    assert_eq!((status, report["error"].as_str()), (Some(1), Some("no greeting: no SMTP: `SSH-2.0-x`")));
    talker.join().expect("it has talked");
    assert_eq!(probe(&["127.0.0.1:no-such-service"]).0, Some(2));
}
