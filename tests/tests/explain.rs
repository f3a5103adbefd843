//! `ringmx explain` beside the real server: what it says of a session is what the session gets, and by the same rules.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, Server, text};

const LISTENER: &str = "limits = { unlimited = [\"127.0.0.0/8\"] }";
const RULES: &str = r#"
[[rule]]
stage = "connect"
client = ["127.0.0.9"]
action = "tag"
tag = "near"
[[rule]]
stage = "connect"
client = ["127.0.0.8/31"]
action = "reject"
[[rule]]
stage = "helo"
helo = [".bad.example"]
client = ["127.0.0.0/30", "127.0.0.4/30"]
action = "reject"
[[rule]]
stage = "mail"
from = ["big.example"]
size_over = "1kB"
action = "reject"
[[rule]]
stage = "mail"
from = ["spam.example", "<>"]
action = "defer"
[[rule]]
stage = "rcpt"
to = ["y@example.com"]
from = ["a@ok.example"]
action = "accept"
[[rule]]
stage = "rcpt"
to = ["y@example.com", "postmaster"]
action = "reject"
[[rule]]
stage = "rcpt"
to = ["partner.example"]
client = ["127.0.0.7"]
action = "relay"
"#;
const RECIPIENTS: [&str; 5] =
    ["x@example.com", "y@example.com", "postmaster@example.com", "z@partner.example", "z@elsewhere.example"];
const ANNOUNCED_SIZE: &str = "5000";

struct Session {
    client: IpAddr,
    helo: &'static str,
    mail: &'static str,
}

/// All that differ in what the rules ask for.
fn sessions() -> impl Iterator<Item = Session> {
    let clients = [5, 7, 8, 9, 10].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
    clients.into_iter().flat_map(|client| {
        ["mail.ok.example", "mail.bad.example"].into_iter().flat_map(move |helo| {
            let mails = ["a@ok.example", "b@ok.example", "a@spam.example", "a@big.example", ""];
            mails.into_iter().map(move |mail| Session { client, helo, mail })
        })
    })
}

/// The steps of `explain`, and whether it ends as if something was refused.
fn explained(home: &Home, session: &Session) -> (Vec<Value>, bool) {
    let (client, mail) = (session.client.to_string(), format!("<{}>", session.mail));
    let mut args = vec!["explain", "--json", "--size", ANNOUNCED_SIZE];
    args.extend(["--client", &client, "--helo", session.helo, "--mail", &mail]);
    args.extend(RECIPIENTS.iter().flat_map(|recipient| ["--rcpt", recipient]));
    let output = home.run(&args);
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {}", text(&output.stderr)));
    (told["stages"].as_array().expect("stages").clone(), output.status.code() == Some(1))
}

/// The codes of the replies, up to the first that turns the session away.
fn answered(server: &Server, session: &Session) -> Vec<u16> {
    let mut client = Client::connect_silently_from(session.client, server.address).expect("a connection");
    let mut codes = vec![client.reply().expect("a greeting").code];
    let mail = format!("MAIL FROM:<{}> SIZE={ANNOUNCED_SIZE}", session.mail);
    for line in [format!("EHLO {}", session.helo), mail] {
        if codes.iter().all(|code| code / 100 == 2) {
            codes.push(ask(&mut client, &line));
        }
    }
    if codes.iter().all(|code| code / 100 == 2) {
        codes.extend(RECIPIENTS.map(|recipient| ask(&mut client, &format!("RCPT TO:<{recipient}>"))));
    }
    codes
}

fn ask(client: &mut Client, line: &str) -> u16 {
    client.write(format!("{line}\r\n").as_bytes()).expect("written");
    client.reply().expect("a reply").code
}

#[test]
fn a_session_gets_what_was_explained() {
    let home = Home::new(&Options { listener: LISTENER, ..Options::default() });
    let config = std::fs::read_to_string(home.config()).expect("a configuration");
    std::fs::write(home.config(), format!("{config}{RULES}")).expect("a configuration");
    let server = home.serve();
    let mut expected_places = Vec::new();
    for session in sessions() {
        let (steps, is_refused) = explained(&home, &session);
        let codes = answered(&server, &session);
        let Session { client, helo, mail } = session;
        let case = format!("{client} {helo} <{mail}>: {codes:?} {steps:#?}");
        let accepted: Vec<bool> = codes.iter().map(|code| code / 100 == 2).collect();
        let told: Vec<bool> = steps.iter().map(|step| step["accepted"] == true).collect();
        assert_eq!(told, accepted, "{case}");
        assert_eq!(is_refused, accepted.contains(&false), "{case}");
        let refused = steps.iter().filter(|step| step["accepted"] == false);
        expected_places.extend(refused.filter_map(|step| step["rule"]["place"].as_str().map(str::to_owned)));
    }
    let log = server.stop();
    let lines = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let refusals = lines.filter(|line| line["message"] == "refused by a rule");
    let mut places: Vec<String> =
        refusals.filter_map(|line| line["place"].as_str().map(str::to_owned)).collect();
    places.sort_unstable();
    expected_places.sort_unstable();
    assert_eq!(places, expected_places);
    places.dedup();
    assert_eq!(places.len(), 5, "every rule that refuses has refused somebody");
}
