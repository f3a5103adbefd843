//! Another configuration while the server runs: nobody is refused or reset for it, nobody gets a stale answer after
//! the log says that it is there, and what is wrong leaves the old one in force.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::client::Client;
use tests::engine::{Home, Options, binary, eventually, text};
use tests::reloading::{Reloading, send_all_the_time};

const CLIENTS_COUNT: usize = 6;
const RELOADS_COUNT: u64 = 12;
const NETWORKS_COUNT: u32 = 50_000;

/// Of a list that takes long to build.
const LONG_LIST_LEN: u32 = 200_000;
/// What the process may have more after many reloads of it than after one: what two generations take.
const MEMORY_KEPT_KIB_MAX: u64 = 40 << 10;

fn start(rules: &str) -> Reloading {
    Reloading::start(Home::new(&Options::default()), rules)
}

fn refuses(recipient: &str) -> String {
    format!("[[rule]]\nstage = \"rcpt\"\nto = [\"{recipient}\"]\naction = \"reject\"\n")
}

fn begin(address: SocketAddr) -> io::Result<Client> {
    let mut client = Client::ready(address)?;
    client.say("MAIL FROM:<a@example.org>", 250)?;
    Ok(client)
}

#[test]
fn sessions_do_not_notice_a_reload_and_new_ones_meet_the_new_rules() {
    let setup = start("");
    let address = setup.server.address;
    let networks = setup.home.path().join("networks");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS_COUNT).map(|_| scope.spawn(|| send_all_the_time(address, &stop))).collect();
        for number in 0..RELOADS_COUNT {
            let list: String = (0..NETWORKS_COUNT)
                .map(|at| format!("{}.{}.{}.0/24\n", 20 + number, at / 256 % 256, at % 256))
                .collect();
            fs::write(&networks, list).expect("a file");
            let list = format!(
                "[[rule]]\nstage = \"connect\"\nclient_file = \"{}\"\naction = \"drop\"\n",
                networks.display()
            );
            let line = setup.reload(&format!("{list}{}", refuses(&format!("x{number}@example.com"))));
            assert!(line.contains(&format!("\"generation\":{}", number + 2)), "{line}");
            // At once, on whichever worker.
            for _ in 0..4 {
                let mut client = begin(address).expect("a session");
                client.say(&format!("RCPT TO:<x{number}@example.com>"), 550).expect("the new rule");
                client.say(&format!("RCPT TO:<x{}@example.com>", number + 1), 250).expect("not the next one");
                client.quit().expect("an end");
            }
        }
        stop.store(true, Ordering::Relaxed);
        let counts: Vec<u64> = clients
            .into_iter()
            .map(|client| client.join().expect("no panic").expect("no refusal, no reset"))
            .collect();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    });
    setup.server.stop();
}

#[test]
fn a_transaction_keeps_its_rules_while_two_older_ones_live() {
    let setup = start(&refuses("x0@example.com"));
    let address = setup.server.address;
    let mut oldest = begin(address).expect("a session");
    setup.reload(&refuses("x1@example.com"));
    let mut middle = begin(address).expect("a session");
    oldest.say("RCPT TO:<x0@example.com>", 550).expect("its own rules");
    oldest.say("RCPT TO:<x1@example.com>", 250).expect("its own rules");
    setup.reload(&refuses("x2@example.com"));
    oldest.say("RCPT TO:<x0@example.com>", 550).expect("two back");
    middle.say("RCPT TO:<x1@example.com>", 550).expect("one back");
    middle.say("RCPT TO:<x2@example.com>", 250).expect("one back");
    // Outside of a transaction there is only the newest.
    oldest.say("RSET", 250).expect("an end");
    oldest.say("MAIL FROM:<a@example.org>", 250).expect("a beginning");
    oldest.say("RCPT TO:<x0@example.com>", 250).expect("new rules");
    oldest.say("RCPT TO:<x2@example.com>", 550).expect("new rules");
    setup.server.stop();
}

#[test]
fn what_is_wrong_leaves_the_old_rules_and_says_where() {
    let setup = start(&refuses("x0@example.com"));
    let list = setup.home.path().join("list");
    let with_list =
        format!("[[rule]]\nstage = \"connect\"\nclient_file = \"{}\"\naction = \"drop\"\n", list.display());
    let many = "192.0.2.0/24\n".repeat(999);
    let contents: [(&[u8], &str); 6] = [
        (b"192.0.2.1/24\n", "list:1: `192.0.2.1/24` is no network: it has bits behind its prefix"),
        (
            b"192.0.2.0/24\r\n\r\n192.0.2.0/255.0.255.0\r\n",
            "list:3: `192.0.2.0/255.0.255.0` is no network: 255.0.255.0",
        ),
        (&[many.as_bytes(), b"\0"].concat(), "list:1000: a NUL octet"),
        (&vec![b'1'; 100_000_000], "has a line 1024 octets long or longer, line 1"),
        (b"\xff\n", "list:1: not UTF-8"),
        (b"# nothing\n", "has no entry"),
    ];
    for (content, expected) in contents {
        fs::write(&list, content).expect("a file");
        let line = setup.reload(&with_list);
        assert!(line.contains("reload refused") && line.contains(expected), "{expected}: {line}");
    }
    fs::remove_file(&list).expect("it is there");
    let line = setup.reload(&with_list);
    assert!(line.contains("cannot be read: No such file"), "{line}");
    let listener = |name: &str, bind: &str| format!("[[listener]]\nname = \"{name}\"\nbind = [\"{bind}\"]\n");
    let rule = |lines: &str| format!("[[rule]]\nstage = \"connect\"\n{lines}\n");
    for (lines, expected) in [
        (rule("acton = \"reject\""), "did you mean `action`?"),
        (rule("client = [\"192.0.2.300\"]\naction = \"drop\""), "`192.0.2.300` in `client` is no network"),
        (rule("client = [\"192.0.2.1/24\"]\naction = \"drop\""), "write 192.0.2.0/24 for the network"),
        (listener("mx", "127.0.0.1:0"), "a second listener of the name `mx`"),
        (listener("other", "127.0.0.1:65536"), "`65536` is not a port from 0 to 65535"),
        (listener("other", "127.0.0.1:smpt"), "`smpt` is no TCP service in "),
        ("# \0\n".to_owned(), "ringmx.toml:"),
    ] {
        let line = setup.reload(&lines);
        for part in ["reload refused", "ringmx.toml:", expected] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    let mut client = begin(setup.server.address).expect("a session");
    client.say("RCPT TO:<x0@example.com>", 550).expect("the old rules");
    let log = setup.server.stop();
    let refused = log.iter().find(|line| line.contains("refused by a rule")).expect("it is told");
    assert!(refused.contains("ringmx.toml:") && refused.contains("\"rule\":1"), "{refused}");
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// 41 octets a network in the server: a generation that stayed would be seen.
#[test]
fn memory_returns_when_long_lists_take_one_anothers_place() {
    let setup = start("");
    let address = setup.server.address;
    let lists = [0, 1].map(|list| {
        let path = setup.home.path().join(format!("networks-{list}"));
        let networks =
            (0..LONG_LIST_LEN).map(|at| format!("2{:03x}:{:x}:{list}::/48\n", at % 4096, at / 4096));
        fs::write(&path, networks.collect::<String>()).expect("a file");
        path
    });
    let rules = |number: u64| {
        let list = lists[number as usize % 2].display();
        format!(
            "[[rule]]\nstage = \"connect\"\nclient_file = \"{list}\"\naction = \"drop\"\n{}",
            refuses(&format!("x{number}@example.com"))
        )
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| send_all_the_time(address, &stop))).collect();
        for number in 0..2 {
            setup.reload(&rules(number));
        }
        let before = resident_kib(setup.server.pid());
        for number in 2..2 + RELOADS_COUNT {
            setup.reload(&rules(number));
            let mut client = begin(address).expect("a session");
            client.say(&format!("RCPT TO:<x{number}@example.com>"), 550).expect("the new rule");
            client.say(&format!("RCPT TO:<x{}@example.com>", number - 1), 250).expect("not the old one");
            client.quit().expect("an end");
        }
        eventually("memory returns", || {
            (resident_kib(setup.server.pid()) < before + MEMORY_KEPT_KIB_MAX).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no panic").expect("no refusal, no reset");
        }
    });
    setup.server.stop();
}

#[test]
fn the_command_waits_for_what_comes_of_it() {
    let setup = start("");
    let spool = setup.home.spool();
    let ask = |args: &[&str]| {
        let mut command = Command::new(binary("ringmx"));
        let output = command.args(["reload", "--spool"]).arg(&spool).args(args).output().expect("it runs");
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let reload = |rules: &str, args: &[&str]| {
        fs::write(setup.home.config(), format!("{}{rules}", setup.base)).expect("a file");
        ask(args)
    };
    let in_force = || {
        let mut client = begin(setup.server.address).expect("a session");
        (0..4).find(|number| client.say(&format!("RCPT TO:<x{number}@example.com>"), 550).is_ok())
    };
    assert_eq!(reload(&refuses("x1@example.com"), &[]), (Some(0), "generation 2 is in force\n".to_owned()));
    assert_eq!(in_force(), Some(1));
    let (status, said) = reload(&format!("{}[[rule]]\nstage = 1\n", refuses("x2@example.com")), &[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.starts_with("the old configuration stays in force: ") && said.contains("ringmx.toml:"),
        "{said}"
    );
    assert_eq!(in_force(), Some(1));
    let (status, said) = reload(&refuses("x3@example.com"), &["--json"]);
    assert_eq!(status, Some(0), "{said}");
    let told: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&told["generation"], &told["needs_restart"]), (&3.into(), &serde_json::json!([])));
    assert_eq!(in_force(), Some(3));
    setup.server.stop();
    let (status, said) = ask(&[]);
    assert!(status == Some(2) && said.contains("cannot be asked"), "{said}");
}
