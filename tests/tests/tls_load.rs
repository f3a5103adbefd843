//! TLS under load: the load generator's handshakes, and who is served while they flood in.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, Server, binary};
use tests::tls::{self, Authority};

const LIMITS: &str = "[limits]\nconnections_per_client = 10000\nconnections_per_network = 10000\n\
                      connection_rate_per_client = \"none\"\nconnection_rate_per_network = \"none\"\n\
                      [[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";

fn serve(tls: &str, workers: usize) -> (Home, Server) {
    let listener = Box::leak(format!("tls = \"{tls}\"\n{LIMITS}").into_boxed_str());
    let options = Options { listener, workers, deliver: Some("deliver = \"discard\""), ..Options::default() };
    let home = Home::new(&options);
    let authority = Authority::new("ringmx tests");
    authority.write(home.path());
    authority.issue(home.path(), "mx", &["mx.example"]);
    let server = home.serve();
    (home, server)
}

/// `loadgen run`, which opens a connection for each message.
fn load(server: &Server, args: &[&str], messages: &str, report: &std::path::Path) -> Child {
    let mut load = Command::new(binary("loadgen"));
    load.arg("run").arg(server.address.to_string()).args(["--connections", "20", "--size", "1000"]);
    load.args(["--messages-per-connection", "1", "--messages", messages, "--fail-on", "errors"]);
    load.args(args).arg("--json").arg(report);
    load.stdout(Stdio::null()).spawn().expect("loadgen starts")
}

fn end(mut load: Child, report: &std::path::Path) -> Value {
    let status = load.wait().expect("a child of ours");
    let text = std::fs::read(report).expect("a report");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&text));
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn full_and_resumed_handshakes_of_both_versions_carry_mail() {
    for mode in ["starttls", "implicit"] {
        let (home, server) = serve(mode, 2);
        for version in [&[][..], &["--tls-1-2"]] {
            for resume in [&[][..], &["--tls-resume"]] {
                let args = [&["--tls", mode][..], version, resume].concat();
                let path = home.path().join("report.json");
                let report = end(load(&server, &args, "200", &path), &path);
                let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
                let (all, resumed) = (count("handshakes"), count("handshakes_resumed"));
                assert!(all >= 200, "{mode} {args:?}: {all} handshakes");
                // Those that begin before the first ticket has come are full ones.
                assert!(if resume.is_empty() { resumed == 0 } else { resumed >= 100 }, "{args:?}: {resumed}");
            }
        }
        server.stop();
    }
}

#[test]
fn clear_and_established_sessions_go_on_while_handshakes_flood_in() {
    // One worker, so that nobody can step aside.
    let (home, server) = serve("starttls", 1);
    let config = tls::client_config(&home.path().join("authority.pem"));
    let mut established = tls::start_tls(server.address, &config, "mx.example").expect("secured");
    assert!(tls::say(&mut established, "EHLO x").expect("a reply").starts_with("250 "));
    let mut clear = Client::ready(server.address).expect("a session in clear");
    let path = home.path().join("report.json");
    let mut flood = load(&server, &["--tls", "starttls"], "1500", &path);
    let mut count = 0;
    while flood.try_wait().expect("a child of ours").is_none() {
        clear.say("NOOP", 250).expect("a session in clear goes on");
        assert!(tls::say(&mut established, "NOOP").expect("so does one under TLS").starts_with("250 "));
        count += 1;
    }
    // Handshakes alone would have kept the worker busy all the time.
    assert!(count >= 100, "{count} commands of each while 1500 handshakes were made");
    end(flood, &path);
    server.stop();
}
