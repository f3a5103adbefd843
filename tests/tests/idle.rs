//! Ten thousand connections that do nothing, and then have said half a command each: what they hold.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use tests::client::Client;
use tests::engine::{Home, Options, PATIENCE, Server, allow_descriptors, eventually};

const CONNECTIONS_COUNT: usize = 10_000;
/// Resident octets of the process that a connection may add.
const RESIDENT_LEN_MAX: usize = 2048;
/// Together 96 MiB: three times the receive buffers of two workers, since the kernel deals the connections out.
const WARM_MESSAGES_COUNT: usize = 32;
const WARM_CONTENT_LEN: usize = 3 << 20;
const HALF_A_COMMAND: &[u8] = b"MAIL FROM:<somebody.with.a.name.of.some.length@a-sending-host.exa";
const THE_OTHER_HALF: &[u8] = b"mple>\r\n";

/// What is held at one moment, in octets.
struct Held {
    resident: usize,
    /// Of the cgroup, or of the machine where the cgroup does not tell; both ends of the connections are in it.
    kernel: usize,
}

fn held(server: &Server) -> Held {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    Held { resident: kib(&status, "VmRSS:"), kernel: kernel_memory().1 }
}

/// Where it was read, and octets.
fn kernel_memory() -> (String, usize) {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path_of = |mark: &str| cgroups.lines().find_map(|line| line.split_once(mark)).map(|(_, path)| path);
    if let Some(path) = path_of("0::/") {
        let stat = PathBuf::from("/sys/fs/cgroup").join(path).join("memory.stat");
        let text = std::fs::read_to_string(&stat).unwrap_or_default();
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
        if let (Some(kernel), Some(sock)) = (field("kernel "), field("sock ")) {
            let sum = kernel + sock;
            return (stat.display().to_string(), sum);
        }
    }
    if let Some(path) = path_of(":memory:/") {
        let usage = PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.kmem.usage_in_bytes");
        if let Some(sum) = std::fs::read_to_string(&usage).ok().and_then(|text| text.trim().parse().ok()) {
            return (usage.display().to_string(), sum);
        }
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("/proc is there");
    ("/proc/meminfo Slab (the whole machine)".into(), kib(&meminfo, "Slab:"))
}

fn kib(text: &str, name: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn reply(client: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut octet = [0];
    while !line.ends_with(b"\r\n") {
        client.read_exact(&mut octet).expect("a reply");
        line.push(octet[0]);
    }
    String::from_utf8(line).expect("ASCII")
}

#[test]
fn ten_thousand_idle_connections_hold_little() {
    allow_descriptors(CONNECTIONS_COUNT as u64 + 256);
    let home = Home::new(&Options {
        max_message_size: "4MiB",
        segment_size: "16MiB",
        deliver: Some("deliver = \"discard\""),
        listener: "connections_max = 12000",
        ..Options::default()
    });
    let server = home.serve();
    let connect = || {
        let mut client = TcpStream::connect(server.address).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert!(reply(&mut client).starts_with("220 "));
        client
    };
    // The receive buffers and the batch buffers belong to the workers: enough content to touch all of them.
    let content = [&vec![b'x'; WARM_CONTENT_LEN][..], b"\r\n"].concat();
    for _ in 0..WARM_MESSAGES_COUNT {
        let mut client = Client::ready(server.address).expect("a session");
        client.send("ada@client.example", &["bob@example.com"], &content).expect("a 250");
        client.quit().expect("a goodbye");
    }
    let before = held(&server);
    let mut clients: Vec<TcpStream> = (0..CONNECTIONS_COUNT).map(|_| connect()).collect();
    let idle = held(&server);
    clients.iter_mut().for_each(|client| client.write_all(HALF_A_COMMAND).expect("sent"));
    // No reply tells that half a command has arrived: the server has read it when the memory stands still.
    let mut last = 0;
    let half = eventually("half a command each", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = held(&server);
        let settled = now.resident == last;
        last = now.resident;
        settled.then_some(now)
    });

    let mut table = format!("{CONNECTIONS_COUNT} connections; octets a connection:\n");
    let _ = writeln!(table, "  {:24} {:>10} {:>10}", "", "process", "kernel");
    for (what, held) in [("idle", &idle), ("half a command each", &half)] {
        let grown = |now: usize, then: usize| now.saturating_sub(then) / CONNECTIONS_COUNT;
        let (process, kernel) = (grown(held.resident, before.resident), grown(held.kernel, before.kernel));
        let _ = writeln!(table, "  {what:24} {process:>10} {kernel:>10}");
        assert!(process < RESIDENT_LEN_MAX, "{table}");
    }
    let _ = writeln!(table, "  kernel: {}, both ends of each connection", kernel_memory().0);
    eprintln!("{table}");

    for client in clients.iter_mut().step_by(100) {
        client.write_all(THE_OTHER_HALF).expect("sent");
        assert!(reply(client).starts_with("503 5.5.1 no EHLO yet"), "every connection lives");
    }
    drop(clients);
    server.stop();
}
