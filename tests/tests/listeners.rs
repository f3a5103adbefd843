//! Addresses that come and go while the server runs, rights that it gives away, and sockets that it is handed.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tests::client::Client;
use tests::engine::{Home, Options, binary, eventually, text};
use tests::occupant::{Mode, OTHER_USERS, Occupant};
use tests::privilege::is_root;

fn listener(home: &Home, args: &[&str]) -> Output {
    home.run(["listener"].iter().chain(args))
}

/// What `ringmx listener ls --json` says.
fn listed(home: &Home) -> Vec<Value> {
    let output = listener(home, &["ls", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// A port of this address that nobody has; below 1024 if it is to be.
fn free_port(ip: &str, below_1024: bool) -> SocketAddr {
    let ports = if below_1024 { 900..1024 } else { 0..1 };
    let bound = ports.filter_map(|port| TcpListener::bind(format!("{ip}:{port}")).ok()).next();
    bound.and_then(|bound| bound.local_addr().ok()).expect("a free port")
}

#[test]
fn addresses_come_and_go_and_nobody_notices_who_is_elsewhere() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    let kept = server.address;
    let added = free_port("127.0.0.2", false);
    let name = added.to_string();

    // Sessions at the address that stays, one after the other, all the time.
    let (stop, sessions_count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&sessions_count));
            std::thread::spawn(move || -> std::io::Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    Client::ready(kept)?.say("QUIT", 221)?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let goes_on = || {
        let before = sessions_count.load(Ordering::Relaxed);
        eventually("sessions go on", || (sessions_count.load(Ordering::Relaxed) > before + 20).then_some(()));
    };
    let mut long = Client::ready(kept).expect("a session");
    for _ in 0..2 {
        goes_on();
        done(&listener(&home, &["add", "mx", &name]));
        assert_eq!(listed(&home).len(), 2);
        let mut there = Client::ready(added).expect("a session at the new address");
        goes_on();
        // All of these are in the queues when the address is taken away, or on their way there.
        let waiting: Vec<TcpStream> =
            (0..100).map(|_| TcpStream::connect(added).expect("connected")).collect();
        done(&listener(&home, &["rm", &name]));
        assert_eq!(listed(&home).len(), 1);
        for mut stream in waiting {
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).expect("not reset");
            assert_eq!(&greeting, b"220 ");
        }
        there.send("", &["a@example.com"], b"x\r\n").expect("its session goes on");
        let refused = || TcpStream::connect(added).err().map(|error| error.kind());
        let kind = eventually("the address is closed", refused);
        assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
        there.send("", &["a@example.com"], b"x\r\n").expect("its session goes on behind the end");
        goes_on();
    }
    long.send("", &["a@example.com"], b"x\r\n").expect("the first session goes on");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no panic").expect("none is refused or reset");
    }
    server.stop();
}

#[test]
fn what_cannot_be_changed_is_refused_with_the_reason() {
    let home = Home::new(&Options::default());
    assert_eq!(listener(&home, &["ls"]).status.code(), Some(2), "no server");
    let server = home.serve();
    let listening = server.address.to_string();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("an address").to_string();
    for (args, why) in [
        (vec!["add", "mx", &*taken], "is taken"),
        (vec!["add", "mx", "127.0.0.1:65536"], "not a port from 0 to 65535"),
        (vec!["add", "mx", "127.0.0.1:no-such-service"], "no TCP service"),
        (vec!["add", "mx", "localhost:25"], "is not an IP address"),
        (vec!["add", "other", "127.0.0.1:0"], "there is no listener `other`; there are mx"),
        (vec!["rm", &*taken], "no listener binds"),
    ] {
        let output = listener(&home, &args);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    }
    // The pid of whoever has it is named here too.
    let said = text(&listener(&home, &["add", "mx", &taken]).stdout);
    assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
    let all = listed(&home);
    assert_eq!((all.len(), &all[0]["address"]), (1, &Value::from(listening)));
    assert_eq!((&all[0]["listener"], &all[0]["answered_by_us"]), (&"mx".into(), &true.into()));
    Client::ready(server.address).expect("it goes on");
    server.stop();
}

fn status(pid: u32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn a_server_that_gave_its_rights_away_still_adds_ports() {
    if !is_root("rights to give away") {
        return;
    }
    let user = OTHER_USERS[0];
    let four = [(); 4].map(|()| user.to_string()).join("\t");
    let home = Home::new(&Options::default());
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    chown(home.path(), Some(user), Some(user)).expect("chown");
    let (first, second) = (free_port("127.0.0.3", true), free_port("127.0.0.4", true));
    home.configure(&Options::default(), &first.to_string());
    let text_before = std::fs::read_to_string(home.config()).expect("a configuration");
    std::fs::write(home.config(), format!("user = \"{user}\"\ngroup = \"{user}\"\n{text_before}"))
        .expect("it");
    let server = home.serve();
    assert_eq!(status(server.pid(), "Uid"), four);
    assert_eq!(status(server.pid(), "Gid"), four);
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(server.pid(), set), "0000000000000000", "{set}");
    }
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).expect("children");
    let helper: u32 = children.trim().parse().expect("one helper");
    // CAP_CHOWN is 0, CAP_NET_BIND_SERVICE 10.
    assert_eq!(status(helper, "CapPrm"), format!("{:016x}", 1 | 1 << 10));
    assert_eq!(status(helper, "Uid"), four);

    done(&listener(&home, &["add", "mx", &second.to_string()]));
    for standing in listed(&home) {
        assert_eq!(standing["exclusive"], "sealed", "{standing}");
    }
    for address in [first, second] {
        let mut client = Client::ready(address).expect("a session");
        client.send("", &["a@example.com"], b"x\r\n").expect("a 250");
        for mut other in [Occupant::new(), Occupant::of_user(user)] {
            assert!(other.bind(address, Mode::JOINER).is_err());
        }
    }
    let said = text(&listener(&home, &["add", "mx", &format!("127.0.0.5:{}", first.port())]).stdout);
    assert!(said.contains("listens on"), "{said}");
    server.stop();
    eventually("the helper ends", || {
        (!std::path::Path::new(&format!("/proc/{helper}")).exists()).then_some(())
    });
}

/// Starts the server as systemd does with sockets that it has bound.
fn serve_handed(home: &Home, socket: &Socket, name: &str) -> Result<tests::engine::Server, Output> {
    // The shell gives the number 3 to the socket, and its own pid to the server.
    let script = format!(
        "exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES={name} exec \"$@\"",
        socket.as_raw_fd()
    );
    socket.set_cloexec(false).expect("an option");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]).arg(binary("ringmx"));
    command.args(["serve", "--log-format", "json", "--config"]).arg(home.config());
    home.spawn(command)
}

#[test]
fn a_socket_from_systemd_is_served_unless_others_may_join_it() {
    let bound = |reuse_port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(reuse_port).expect("an option");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        socket.bind(&any.into()).expect("a free port");
        let address = socket.local_addr().expect("bound").as_socket().expect("IP");
        (socket, address)
    };
    let home = Home::new(&Options::default());
    let (socket, address) = bound(false);
    home.configure(&Options::default(), &address.to_string());
    let server = serve_handed(&home, &socket, "mx").expect("a server");
    assert_eq!(server.address, address);
    let line = server.log.find("listening").expect("a line");
    assert_eq!(line["exclusive"], "one socket shared by all workers");
    Client::ready(address).expect("a session");
    server.stop();

    let refused =
        |socket: &Socket, name: &str| text(&serve_handed(&home, socket, name).expect_err("a refusal").stderr);
    home.configure(&Options::default(), "127.0.0.1:0");
    let log = refused(&socket, "mx");
    assert!(
        log.contains(&format!("{address} was handed in by the service manager for the listener `mx`")),
        "{log}"
    );
    // The name of its unit, where nothing else is said.
    let log = refused(&socket, "ringmx.socket");
    assert!(
        log.contains(&format!("{address} was handed in by the service manager, and no listener")),
        "{log}"
    );
    let (socket, address) = bound(true);
    home.configure(&Options::default(), &address.to_string());
    let log = refused(&socket, "mx");
    assert!(log.contains("has SO_REUSEPORT") && log.contains("switch ReusePort= off"), "{log}");
}
