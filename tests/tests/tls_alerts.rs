//! Alerts in every state of a session: each ends it or does not, with the right answer, a line in the log, and a count.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ContentType, SupportedProtocolVersion};

use tests::client::Client;
use tests::engine::{Home, Options, PATIENCE, Server, eventually};
use tests::records::Records;
use tests::tls::{self, Authority};

const LISTENER: &str = "tls = \"MODE\"\n[limits]\nconnections_per_client = 10000\nconnections_per_network = 10000\n\
                        connection_rate_per_client = \"none\"\nconnection_rate_per_network = \"none\"\n\
                        [[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n[admin]\nbind = \"127.0.0.1:0\"\n";

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// RFC 8446 §6.
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const HANDSHAKE_FAILURE: u8 = 40;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;
/// Of no registry.
const UNKNOWN: u8 = 200;

fn serve(mode: &str) -> (Home, Server, std::path::PathBuf) {
    let listener = Box::leak(LISTENER.replace("MODE", mode).into_boxed_str());
    let home = Home::new(&Options { listener, ..Options::default() });
    let authority = Authority::new("ringmx tests");
    let path = authority.write(home.path());
    authority.issue(home.path(), "mx", &["mx.example"]);
    let server = home.serve();
    (home, server, path)
}

/// Waits for a line of this client's with this word in it.
fn wait_for_line(server: &Server, client: SocketAddr, word: &str) {
    let client = format!("\"client\":\"{client}\"");
    eventually(&format!("{word} of {client}"), || {
        server.log.lines().iter().any(|line| line.contains(&client) && line.contains(word)).then_some(())
    });
}

fn assert_nothing_stored(home: &Home) {
    assert_eq!(home.undelivered(), [""; 0]);
    assert!(home.maildir().names().is_empty());
}

/// What becomes of a session under TLS.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Nothing.
    GoesOn,
    /// The client has said that it ends: so does the server, in order.
    Ends,
    /// It is closed without a word.
    Closed(&'static str),
    /// It is closed with an alert.
    Alert(u8, &'static str),
}

use Outcome::{Alert, Closed, Ends, GoesOn};

/// Name, content of the record, what becomes of a session of TLS 1.2 and of one of 1.3.
const ALERTS: &[(&str, &[u8], Outcome, Outcome)] = &[
    ("close_notify", &[WARNING, CLOSE_NOTIFY], Ends, Ends),
    ("fatal close_notify", &[FATAL, CLOSE_NOTIFY], Ends, Ends),
    (
        "fatal",
        &[FATAL, INTERNAL_ERROR],
        Closed("alert from the client: internal_error"),
        Closed("alert from the client: internal_error"),
    ),
    ("fatal, unknown", &[FATAL, UNKNOWN], Closed("alert from the client"), Closed("alert from the client")),
    ("user_canceled", &[WARNING, USER_CANCELED], GoesOn, GoesOn),
    // 1.3 has no other warnings (RFC 8446 §6).
    ("another warning", &[WARNING, NO_RENEGOTIATION], GoesOn, Alert(DECODE_ERROR, "alert from the client")),
    (
        "no level",
        &[9, CLOSE_NOTIFY],
        Alert(ILLEGAL_PARAMETER, "alert from the client"),
        Alert(ILLEGAL_PARAMETER, "alert from the client"),
    ),
    (
        "half of one",
        &[FATAL],
        Alert(DECODE_ERROR, "malformed message"),
        Alert(DECODE_ERROR, "malformed message"),
    ),
    (
        "more than one",
        &[WARNING, CLOSE_NOTIFY, 0],
        Alert(DECODE_ERROR, "malformed message"),
        Alert(DECODE_ERROR, "malformed message"),
    ),
];

/// Name, lines that lead there, octets that are not answered.
const STATES: &[(&str, &[&str], &[u8])] = &[
    ("right after the handshake", &[], b""),
    ("in a line", &[], b"EHLO cli"),
    ("after EHLO", &["EHLO x"], b""),
    ("after MAIL", &["EHLO x", "MAIL FROM:<a@example.org>"], b""),
    ("after RCPT", &["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>"], b""),
    (
        "in DATA",
        &["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>", "DATA"],
        b"Subject: x\r\n\r\nhalf of it\r\n.\r",
    ),
    (
        "in BDAT",
        &["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>"],
        b"BDAT 100 LAST\r\nSubject: x\r\n\r\nhalf of it\r\n",
    ),
];

/// A session led into a state, with the records in our hands.
fn session(server: &Server, config: &Arc<ClientConfig>, lines: &[&str], rest: &[u8]) -> Records {
    let stream = TcpStream::connect(server.address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    let mut stream = tls::secure(stream, config, "mx.example").expect("secured");
    assert!(tls::reply(&mut stream).expect("a greeting").starts_with("220 "));
    for line in lines {
        let reply = tls::say(&mut stream, line).expect("a reply");
        assert!(reply.starts_with('2') || reply.starts_with('3'), "{line}: {reply}");
    }
    stream.write_all(rest).expect("written");
    Records::take_over(stream)
}

fn config(authority: &std::path::Path, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut config = (*tls::client_config_for(authority, &[version])).clone();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

#[test]
fn each_alert_in_each_state_of_a_session() {
    let (home, server, authority) = serve("implicit");
    let mut failed_count = 0;
    for version in VERSIONS {
        let config = config(&authority, version);
        for (state, lines, rest) in STATES {
            for (name, content, of_12, of_13) in ALERTS {
                let outcome = if version.version == TLS12.version { of_12 } else { of_13 };
                let mut records = session(&server, &config, lines, rest);
                let client = records.local_address();
                records.send(ContentType::Alert, content).expect("written");
                if let GoesOn = outcome {
                    if rest.is_empty() {
                        records.send(ContentType::ApplicationData, b"NOOP\r\n").expect("written");
                        let (_, reply) = records.receive().expect("a record").expect("a reply");
                        assert!(reply.starts_with(b"250 "), "{name} {state}");
                    }
                    records.send(ContentType::Alert, &[WARNING, CLOSE_NOTIFY]).expect("written");
                }
                let answer = match outcome {
                    GoesOn | Ends => Some([WARNING, CLOSE_NOTIFY]),
                    Closed(_) => None,
                    Alert(description, _) => Some([FATAL, *description]),
                };
                let what = format!("{:?}: {name} {state}", version.version);
                if let Some(answer) = answer {
                    let got = records.receive().expect("a record");
                    assert_eq!(got, Some((ContentType::Alert, answer.to_vec())), "{what}");
                }
                assert_eq!(records.receive().expect("an end"), None, "{what}");
                drop(records);
                match outcome {
                    GoesOn | Ends => wait_for_line(&server, client, "\"reason\":\"client-closed\""),
                    Closed(why) | Alert(_, why) => {
                        failed_count += 1;
                        wait_for_line(&server, client, &format!("\"why\":\"{why}\""));
                    }
                }
            }
        }
    }
    assert_eq!(server.metric("ringmx_tls_failed_total"), failed_count);
    assert_eq!(server.metric("ringmx_handshakes_failed_total"), 0);
    let count = (VERSIONS.len() * STATES.len() * ALERTS.len()) as u64;
    for name in ["handshakes", "handshakes_by_cipher", "handshakes_by_client_certificate"] {
        assert_eq!(server.metric(&format!("ringmx_{name}_total")), count, "{name}");
    }
    server.stop();
    assert_nothing_stored(&home);
}

/// The server has said all: its 221, and that no more comes. What the client still says changes nothing.
#[test]
fn alerts_behind_quit_are_not_listened_to() {
    let (home, server, authority) = serve("implicit");
    for version in VERSIONS {
        let config = config(&authority, version);
        for (name, content, ..) in ALERTS {
            let mut records = session(&server, &config, &["EHLO x"], b"QUIT\r\n");
            let client = records.local_address();
            let (_, reply) = records.receive().expect("a record").expect("a reply");
            assert!(reply.starts_with(b"221 "), "{name}");
            records.send(ContentType::Alert, content).expect("written");
            let goodbye = Some((ContentType::Alert, vec![WARNING, CLOSE_NOTIFY]));
            assert_eq!(records.receive().expect("a record"), goodbye, "{name}");
            assert_eq!(records.receive().expect("an end"), None, "{name}");
            drop(records);
            wait_for_line(&server, client, "\"reason\":\"quit\"");
        }
    }
    assert_eq!(server.metric("ringmx_tls_failed_total"), 0);
    server.stop();
    assert_nothing_stored(&home);
}

/// What becomes of a handshake: the alert that answers it, and what the log says. None: it is still awaited.
type Broken = Option<(Option<u8>, &'static str)>;

/// Name, contents of records, what becomes of the handshake; also behind a ServerHello of 1.3.
const HANDSHAKE_ALERTS: &[(&str, &[&[u8]], Broken, Broken)] = &[
    // Nobody vouches for these: anybody could put them in.
    ("close_notify", &[&[WARNING, CLOSE_NOTIFY]], None, Some((Some(DECODE_ERROR), "alert from the client"))),
    ("a warning", &[&[WARNING, USER_CANCELED]], None, None),
    (
        "warnings without end",
        &[&[WARNING, USER_CANCELED] as &[u8]; 8],
        Some((None, "against the protocol")),
        Some((None, "against the protocol")),
    ),
    (
        "fatal",
        &[&[FATAL, HANDSHAKE_FAILURE]],
        Some((None, "alert from the client: handshake_failure")),
        Some((None, "alert from the client: handshake_failure")),
    ),
    (
        "fatal, unknown",
        &[&[FATAL, UNKNOWN]],
        Some((None, "alert from the client")),
        Some((None, "alert from the client")),
    ),
    (
        "no level",
        &[&[9, CLOSE_NOTIFY]],
        Some((Some(ILLEGAL_PARAMETER), "alert from the client")),
        Some((Some(ILLEGAL_PARAMETER), "alert from the client")),
    ),
    (
        "half of one",
        &[&[FATAL]],
        Some((Some(DECODE_ERROR), "malformed message")),
        Some((Some(DECODE_ERROR), "malformed message")),
    ),
];

/// In clear, as long as there are no keys.
fn record(content: &[u8]) -> Vec<u8> {
    [&[21, 3, 3, 0, content.len() as u8][..], content].concat()
}

/// A connection on which the handshake is due.
fn connect(server: &Server, mode: &str) -> TcpStream {
    let stream = if mode == "starttls" {
        let mut client = Client::ready(server.address).expect("a session");
        client.say("STARTTLS", 220).expect("220");
        client.stream().try_clone().expect("a socket")
    } else {
        TcpStream::connect(server.address).expect("connected")
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Says the ClientHello and reads the first octet of what answers it.
fn say_hello(stream: &mut TcpStream, config: &Arc<ClientConfig>) {
    let name = ServerName::try_from("mx.example").expect("a name");
    let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a client");
    connection.write_tls(stream).expect("written");
    stream.read_exact(&mut [0]).expect("a ServerHello");
}

#[test]
fn each_alert_before_and_within_a_handshake() {
    for mode in ["starttls", "implicit"] {
        let (home, server, authority) = serve(mode);
        let mut count = 0;
        for hello in [None, Some(&TLS12), Some(&TLS13)] {
            for (name, contents, of_12, of_13) in HANDSHAKE_ALERTS {
                let is_13 = hello.is_some_and(|version| version.version == TLS13.version);
                let broken = if is_13 { of_13 } else { of_12 };
                let mut stream = connect(&server, mode);
                let client = stream.local_addr().expect("a socket");
                if let Some(version) = hello {
                    say_hello(&mut stream, &config(&authority, version));
                }
                let records: Vec<u8> = contents.iter().flat_map(|content| record(content)).collect();
                stream.write_all(&records).expect("written");
                if broken.is_none() {
                    stream.shutdown(Shutdown::Write).expect("ended");
                }
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).expect("an end");
                let what = format!("{mode}: {name} behind {hello:?}: {answer:x?}");
                count += 1;
                let Some((description, why)) = broken else {
                    assert!(hello.is_some() || answer.is_empty(), "{what}");
                    wait_for_line(&server, client, "\"reason\":\"no-close-notify\"");
                    continue;
                };
                match (description, hello) {
                    (None, None) => assert!(answer.is_empty(), "{what}"),
                    (Some(description), None) => assert_eq!(answer, record(&[FATAL, *description]), "{what}"),
                    // With keys of 1.3 an alert is sealed; its length is not.
                    _ => {}
                }
                wait_for_line(&server, client, &format!("\"why\":\"{why}\""));
            }
        }
        assert_eq!(server.metric("ringmx_handshakes_failed_total"), count);
        assert_eq!(server.metric("ringmx_tls_failed_total"), 0);
        assert_eq!(server.metric("ringmx_handshakes_open"), 0);
        server.stop();
        assert_nothing_stored(&home);
    }
}

/// Name, kind of the record, content.
const OUT_OF_ORDER: &[(&str, u8, &[u8])] = &[
    ("content", 23, b"QUIT\r\n"),
    ("Finished", 22, &[20, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("a ServerHelloDone", 22, &[14, 0, 0, 0]),
    ("a HelloRequest", 22, &[0, 0, 0, 0]),
];

/// What a client may say at some other time, and what it may never say, behind the ServerHello.
#[test]
fn what_comes_out_of_order_within_a_handshake_ends_it() {
    let (home, server, authority) = serve("implicit");
    for version in VERSIONS {
        // With 1.3 there are keys by now, and what comes in clear is none of it.
        let reasons: &[&str] = if version.version == TLS12.version {
            &["message out of order"]
        } else {
            &["message out of order", "record that does not decrypt"]
        };
        for (name, kind, content) in OUT_OF_ORDER {
            let mut stream = connect(&server, "implicit");
            let client = format!("\"client\":\"{}\"", stream.local_addr().expect("a socket"));
            say_hello(&mut stream, &config(&authority, version));
            let mut octets = record(content);
            octets[0] = *kind;
            stream.write_all(&octets).expect("written");
            stream.read_to_end(&mut Vec::new()).expect("an end");
            let what = format!("{name} behind {:?}", version.version);
            let line = eventually(&what, || {
                let is_it = |line: &String| line.contains(&client) && line.contains("TLS failed");
                server.log.lines().into_iter().find(is_it)
            });
            let is_told = reasons.iter().any(|why| line.contains(&format!("\"why\":\"{why}\"")));
            assert!(is_told, "{what}: {line}");
        }
    }
    let count = (VERSIONS.len() * OUT_OF_ORDER.len()) as u64;
    assert_eq!(server.metric("ringmx_handshakes_failed_total"), count);
    server.stop();
    assert_nothing_stored(&home);
}
