//! A server that cannot serve says so once, names what is in the way, and exits with a status that is not 0.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use ringmx::spool::FORMAT_VERSION;
use tests::client::Client;
use tests::engine::{Home, Options, binary, eventually, text};

/// The log's errors; there must be one, and the exit status must not be 0.
fn one_error(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(&output.stderr));
    let log = text(&output.stderr);
    let errors: Vec<&str> =
        log.lines().filter(|line| line.contains("\"ERROR\"") || line.starts_with("ringmx: ")).collect();
    assert_eq!(errors.len(), 1, "one error:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    errors[0].to_owned()
}

fn refused(home: &Home) -> String {
    match home.try_serve() {
        Ok(server) => panic!("it serves:\n{}", server.log.lines().join("\n")),
        Err(output) => one_error(&output),
    }
}

#[test]
fn a_port_that_another_program_listens_on() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address").to_string();
    let home = Home::new(&Options::default());
    home.configure(&Options::default(), &address);
    let error = refused(&home);
    assert!(error.contains(&address), "{error}");
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
}

#[test]
fn a_port_that_another_ringmx_of_the_same_user_listens_on() {
    let (first, second) = (Home::new(&Options::default()), Home::new(&Options::default()));
    let server = first.serve();
    let address = server.address.to_string();
    second.configure(&Options::default(), &address);
    let holder = format!("ringmx (pid {}) listens on {address}", server.pid());
    let error = refused(&second);
    assert!(error.contains(&holder), "{error}");
    // The wildcard address overlaps.
    second.configure(&Options::default(), &format!("0.0.0.0:{}", server.address.port()));
    let error = refused(&second);
    assert!(error.contains(&holder), "{error}");
    // Every connection still reaches the first.
    for _ in 0..50 {
        Client::ready(server.address)
            .expect("a session")
            .send("", &["a@example.com"], b"x\r\n")
            .expect("a 250");
    }
    first.maildir().wait_for(50);
    server.stop();
}

#[test]
fn a_spool_that_another_ringmx_uses() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    let error = refused(&home);
    assert!(error.contains(&server.pid().to_string()) && error.contains("spool"), "{error}");
    Client::ready(server.address).expect("a session");
    server.stop();
    home.serve().stop();
}

#[test]
fn a_spool_that_cannot_be_made() {
    let home = Home::new(&Options::default());
    std::fs::write(home.spool(), b"in the way").expect("a file");
    let error = refused(&home);
    assert!(error.contains(&home.spool().display().to_string()), "{error}");
    assert_eq!(std::fs::read(home.spool()).expect("a file"), b"in the way");
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                // The socket `control` can only be there or not.
                let bytes = if path.is_file() { std::fs::read(&path).expect("a file") } else { Vec::new() };
                found.insert(path.display().to_string(), bytes);
            }
        }
    }
    found
}

#[test]
fn a_spool_of_a_newer_version_is_not_touched() {
    let home = Home::new(&Options { segment_size: "2MiB", max_message_size: "64KiB", ..Options::default() });
    let server = home.serve();
    Client::ready(server.address).expect("a session").send("", &["a@example.com"], b"x\r\n").expect("a 250");
    server.stop();
    let marker = home.spool().join("ringmx-spool");
    let version = std::fs::read_to_string(&marker).expect("the marker");
    let (present, next) = (format!(" {FORMAT_VERSION}\n"), format!(" {}\n", FORMAT_VERSION + 1));
    std::fs::write(&marker, version.replace(&present, &next)).expect("a newer marker");
    let before = contents(&home.spool());
    let error = refused(&home);
    assert!(error.contains("newer") && error.contains(&marker.display().to_string()), "{error}");
    assert!(contents(&home.spool()) == before, "something changed");
    std::fs::write(&marker, version).expect("the marker");
    home.serve().stop();
}

/// Runs a command whose `io_uring_setup` is refused with EPERM, as by the seccomp filter of a container. The numbers
/// are those of `linux/filter.h`, `linux/seccomp.h` and `linux/prctl.h`.
const WITHOUT_IO_URING: &str = r#"
import ctypes, os, struct, sys
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_system_that_forbids_io_uring() {
    let home = Home::new(&Options::default());
    let ringmx = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(["-c", WITHOUT_IO_URING]).arg(binary("ringmx")).args(args).arg("--config");
        command.arg(home.config());
        command
    };
    let found = ringmx(&["check", "--json"]).output().expect("python3 runs");
    let said = text(&found.stdout);
    assert!(said.contains("\"kernel-io-uring\"") && said.contains("kernel.io_uring_disabled=0"), "{said}");
    let server = home.spawn(ringmx(&["serve", "--log-format", "json"]));
    let error = one_error(&server.expect_err("a server without a ring"));
    assert!(error.contains("io_uring") && error.contains("seccomp profile"), "{error}");
}

#[test]
fn a_configuration_that_is_wrong() {
    let home = Home::new(&Options::default());
    let config = std::fs::read_to_string(home.config()).expect("a configuration");
    std::fs::write(home.config(), config.replace("workers", "wrokers")).expect("a typing error");
    let output = home.try_serve().expect_err("it is wrong");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("workers"), "{}", text(&output.stderr));
    assert!(!home.spool().exists());
    let checked = home.run(["check"]);
    assert_eq!(checked.status.code(), Some(2));
}

#[test]
fn a_disk_that_is_full_and_has_room_again() {
    let options = Options {
        deliver: Some("deliver = \"hold\""),
        segment_size: "2MiB",
        max_message_size: "256KiB",
        workers: 1,
        ..Options::default()
    };
    let home = Home::new(&options);
    std::fs::create_dir(home.spool()).expect("a directory");
    // A file system of its own, which only the server's mount namespace sees.
    let script = "mount -t tmpfs -o size=24m tmpfs spool && head -c 12000000 /dev/zero > spool/ballast && \
                  exec \"$0\" serve --log-format json --config \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", script]).arg(binary("ringmx")).arg(home.config());
    let server = match home.spawn(command) {
        Ok(server) => server,
        Err(output) if !text(&output.stderr).contains("timestamp") => {
            let why = text(&output.stderr);
            return eprintln!("\n*** SKIPPED: no file system to fill can be mounted here: {why} ***\n");
        }
        Err(output) => panic!("{}", text(&output.stderr)),
    };
    let mut client = Client::ready(server.address).expect("a session");
    let content = [&vec![b'x'; 100_000][..], b"\r\n"].concat();
    let mut taken = 0;
    let refusal = loop {
        client.write(b"MAIL FROM:<>\r\n").expect("a write");
        let reply = client.reply().expect("a reply");
        if reply.code != 250 {
            break reply;
        }
        client.say("RCPT TO:<a@example.com>", 250).expect("a recipient");
        client.say("DATA", 354).expect("a go-ahead");
        client.write(&tests::client::stuffed(&content)).expect("content");
        let reply = client.reply().expect("a reply");
        if reply.code != 250 {
            break reply;
        }
        taken += 1;
        assert!(taken < 1000, "the disk never gets full");
    };
    assert!(refusal.code == 452 && refusal.text.starts_with("4.3.1"), "{refusal:?}");
    assert!(taken > 10, "{taken}");
    std::fs::remove_file(format!("/proc/{}/root{}/ballast", server.pid(), home.spool().display()))
        .expect("the ballast");
    eventually("mail is taken again", || client.send("", &["a@example.com"], &content).ok());
    client.quit().expect("a goodbye");
    let spool = format!("/proc/{}/root{}", server.pid(), home.spool().display());
    let output = Command::new(binary("ringmx"))
        .args(["spool", "ls", "--spool", &spool])
        .output()
        .expect("ringmx runs");
    assert_eq!(text(&output.stdout).lines().count(), taken + 1, "{}", text(&output.stderr));
    server.stop();
}
