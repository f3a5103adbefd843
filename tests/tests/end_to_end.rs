//! The real binary from outside: real clients, real mail, a real Maildir.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::maildir::{Delivered, with_crlf, with_lf};
use tests::mime;

const FROM: &str = "sender@example.org";
const TO: &str = "recipient@example.com";

/// Said where a test cannot be carried out on this machine.
fn skip(what: &str) {
    eprintln!("\n*** SKIPPED: {what} ***\n");
}

fn one(home: &Home) -> Delivered {
    home.maildir().wait_for(1).remove(0)
}

/// Sends content by a client of ours and compares what the spool and the Maildir hold with it.
fn check_round_trip(contents: &[(String, Vec<u8>)], options: &Options) {
    // The spool is read when the message may have been delivered.
    let home = Home::new(&Options { spool: "retain = \"1h\"", ..options.clone() });
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    let mut ids = Vec::new();
    for (name, content) in contents {
        let id = client.send(FROM, &[TO], content).unwrap_or_else(|error| panic!("{name}: {error}"));
        let stored = home.cat(&id);
        let trace_len: usize = stored.split_inclusive(|&octet| octet == b'\n').take(3).map(<[u8]>::len).sum();
        assert_eq!(stored.len() - trace_len, content.len(), "{name} in the spool");
        assert!(stored[trace_len..] == content[..], "{name} differs in the spool");
        ids.push(id);
    }
    client.quit().expect("a goodbye");
    let delivered = home.maildir().wait_for(contents.len());
    for ((name, content), id) in contents.iter().zip(&ids) {
        let file = delivered.iter().find(|message| message.name.contains(&format!("R{id}.")));
        let file = file.unwrap_or_else(|| panic!("{name}: {id} is not delivered"));
        assert_eq!(file.return_path, format!("<{FROM}>").as_bytes());
        assert_eq!(file.delivered_to, [TO.as_bytes()]);
        assert!(text(&file.trace).contains(id.as_str()), "{}", text(&file.trace));
        assert!(file.content == with_lf(content), "{name} differs in the Maildir");
    }
    home.verify();
    server.stop();
    assert_eq!(home.undelivered(), [""; 0]);
}

#[test]
fn generated_mail_comes_out_octet_by_octet() {
    let mut contents: Vec<(String, Vec<u8>)> =
        (0..60).map(|seed| (format!("seed {seed}"), mime::message(seed))).collect();
    let odd: [(&str, &[u8]); 7] = [
        ("nothing", b""),
        ("an empty line", b"\r\n"),
        ("dots", b".\r\n..\r\n...\r\n.x\r\n..x\r\n. \r\n"),
        ("8 bit", b"Subject: \xe9\r\n\r\n\x80\xff\x00\x01\r\n"),
        ("a header section alone", b"Subject: x\r\n"),
        (
            "fields like ours",
            b"Return-Path: <x@y>\r\nDelivered-To: z\r\nReceived: from here\r\n\tfolded\r\n\r\nx\r\n",
        ),
        ("a folded start", b"\tfolded\r\n\r\nFrom x\r\n>From y\r\n"),
    ];
    contents.extend(odd.map(|(name, content)| (name.to_owned(), content.to_vec())));
    contents.push(("one long line".to_owned(), [&vec![b'x'; 500_000][..], b"\r\n"].concat()));
    check_round_trip(&contents, &Options::default());
}

#[test]
fn the_corpus_of_cpython_comes_out_octet_by_octet() {
    let script = "import os, test.test_email as t; print(os.path.join(os.path.dirname(t.__file__), 'data'))";
    let found = Command::new("python3").args(["-c", script]).output().expect("python3 runs");
    let dir = PathBuf::from(text(&found.stdout).trim());
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("msg_") && name.ends_with(".txt")
    });
    paths.sort();
    if !found.status.success() || paths.is_empty() {
        return skip("this python3 ships no test/test_email/data/msg_*.txt: its corpus was not sent");
    }
    let read =
        |path: &PathBuf| (path.display().to_string(), with_crlf(&std::fs::read(path).expect("a message")));
    let contents: Vec<(String, Vec<u8>)> = paths.iter().map(read).collect();
    println!("{} messages of {}", contents.len(), dir.display());
    check_round_trip(&contents, &Options::default());
}

#[test]
fn a_message_of_exactly_the_limit_comes_out_and_one_octet_more_does_not() {
    const LIMIT: usize = 50 << 20;
    let options =
        Options { max_message_size: "50MiB", segment_size: "64MiB", workers: 1, ..Options::default() };
    let mut content = Vec::with_capacity(LIMIT + 1);
    let line = b".dots and \xe9 8-bit octets \x00\x80\xff up to the very end of the limit\r\n";
    while content.len() + line.len() + 2 <= LIMIT {
        content.extend_from_slice(line);
    }
    content.resize(LIMIT - 2, b'z');
    content.extend_from_slice(b"\r\n");
    assert_eq!(content.len(), LIMIT);
    check_round_trip(&[("50 MiB".to_owned(), content.clone())], &options);

    content.insert(0, b'x');
    let home = Home::new(&options);
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    client.begin(FROM, &[TO]).expect("a transaction");
    client.write(&tests::client::stuffed(&content)).expect("content");
    assert!(client.expect(552).expect("a refusal").text.starts_with("5.3.4"));
    client.quit().expect("a goodbye");
    server.stop();
    assert_eq!(home.undelivered(), [""; 0]);
}

fn run(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the client starts");
    child.stdin.take().expect("piped").write_all(input).expect("the client reads");
    child.wait_with_output().expect("the client ends")
}

#[test]
fn smtplib_delivers() {
    const SCRIPT: &str = r#"
import smtplib, sys
from email.message import EmailMessage
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "sender@example.org", "recipient@example.com", "café"
message.set_content("Grüße\n.\n..\nlast\n", cte="8bit")
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=30) as client:
    client.ehlo("client.example")
    assert client.has_extn("8bitmime") and client.has_extn("pipelining") and client.has_extn("size")
    assert client.vrfy("x")[0] == 252 and client.noop()[0] == 250 and client.help()
    client.send_message(message)
    refused = client.sendmail("", ["a@example.com", "b@example.net"], b"Subject: null\r\n\r\nx\r\n")
    assert list(refused) == ["b@example.net"] and refused["b@example.net"][0] == 550, refused
    try:
        client.sendmail("x@example.org", ["y@example.net"], b"x")
        sys.exit("relayed")
    except smtplib.SMTPRecipientsRefused:
        pass
"#;
    let home = Home::new(&Options::default());
    let server = home.serve();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(server.address.port().to_string());
    let output = run(python, b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let delivered = home.maildir().wait_for(2);
    let body = |message: &Delivered| text(&message.content);
    assert!(
        delivered.iter().any(|message| body(message).ends_with("\n\nGrüße\n.\n..\nlast\n")),
        "{delivered:?}"
    );
    let null = delivered.iter().find(|message| message.return_path == b"<>").expect("the null reverse-path");
    assert_eq!(null.delivered_to, [b"a@example.com"]);
    assert_eq!(body(null), "Subject: null\n\nx\n");
    server.stop();
}

#[test]
fn curl_delivers() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl is missing: delivery by curl was not tried");
    }
    let home = Home::new(&Options::default());
    let server = home.serve();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "30", "--mail-from", FROM, "--mail-rcpt", TO, "--upload-file", "-"]);
    curl.arg(format!("smtp://{}", server.address));
    let output = run(curl, b"Subject: curl\r\n\r\n.stuffed\r\nlast\r\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&one(&home).content), "Subject: curl\n\n.stuffed\nlast\n");
    server.stop();
}

#[test]
fn two_hundred_sessions_send_fifty_messages_each() {
    const SESSIONS: usize = 200;
    const MESSAGES: usize = 50;
    let home = Home::new(&Options { segment_size: "16MiB", ..Options::default() });
    let server = home.serve();
    let address = server.address;
    let session = move |number: usize| -> Vec<(String, String)> {
        let mut client = Client::ready(address).expect("a session");
        let send = |message: usize| {
            let token = format!("token-{number}-{message}.");
            let content = format!("Subject: {token}\r\n\r\n{}\r\n", "x".repeat(message * 40));
            let id = client.send(FROM, &[TO], content.as_bytes()).expect("a 250");
            (token, id)
        };
        let sent = (0..MESSAGES).map(send).collect();
        client.quit().expect("a goodbye");
        sent
    };
    let began = Instant::now();
    let threads: Vec<_> = (0..SESSIONS).map(|number| std::thread::spawn(move || session(number))).collect();
    let sent: Vec<(String, String)> =
        threads.into_iter().flat_map(|thread| thread.join().expect("a session")).collect();
    let ids: HashSet<&String> = sent.iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), SESSIONS * MESSAGES, "ids are unique");
    println!("{} messages taken in {:?}", sent.len(), began.elapsed());

    let delivered = home.maildir().wait_for(SESSIONS * MESSAGES);
    println!("and delivered in {:?}", began.elapsed());
    let subject = |message: &Delivered| {
        let content = text(&message.content);
        let line = content.lines().next().unwrap_or_default();
        line.strip_prefix("Subject: ").expect("a subject").to_owned()
    };
    let tokens: HashSet<String> = delivered.iter().map(subject).collect();
    assert_eq!(tokens.len(), delivered.len(), "each is delivered once");
    assert!(sent.iter().all(|(token, _)| tokens.contains(token)));
    assert!(home.maildir().names_in("tmp").is_empty());
    server.stop();
    println!("stopped after {:?}", began.elapsed());
    home.verify();
    assert_eq!(home.undelivered(), [""; 0]);
    println!("verified after {:?}", began.elapsed());
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let home = Home::new(&Options { deliver: Some("deliver = \"hold\""), ..Options::default() });
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    let held: Vec<String> =
        (0..5).map(|n| client.send(FROM, &[TO], format!("n: {n}\r\n").as_bytes()).expect("a 250")).collect();
    client.quit().expect("a goodbye");
    server.stop();
    let mut undelivered = home.undelivered();
    undelivered.sort();
    assert_eq!(undelivered, held);

    home.configure(&Options::default(), "127.0.0.1:0");
    let server = home.serve();
    let delivered = home.maildir().wait_for(5);
    assert!(held.iter().all(|id| delivered.iter().any(|message| message.name.contains(&format!("R{id}.")))));
    server.stop();
    let server = home.serve();
    Client::ready(server.address).expect("a session").send(FROM, &[TO], b"sixth\r\n").expect("a 250");
    home.maildir().wait_for(6);
    server.stop();
}

#[test]
fn a_session_has_one_id_everywhere() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    let id = client.send(FROM, &[TO], b"x\r\n").expect("a 250");
    client.say("XYZZY", 500).expect("a refusal");
    client.quit().expect("a goodbye");
    let session = id.split('-').next().expect("SESSION-N").to_owned();
    assert!(text(&one(&home).trace).contains(&format!("id {id};")));
    let log = server.stop();
    let lines: Vec<Value> =
        log.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    for message in ["message accepted", "refused"] {
        let line = lines.iter().find(|line| line["message"] == message).expect("a line about it");
        assert_eq!(line["session"], session.as_str(), "{line}");
    }
    for message in ["message accepted", "delivered"] {
        let line = lines.iter().find(|line| line["message"] == message).expect("a line about it");
        assert_eq!(line["id"], id.as_str(), "{line}");
    }
    // A key that comes twice is lost on most readers.
    assert!(log.iter().all(|line| line.matches("\"message\":").count() == 1), "{}", log.join("\n"));
}

/// The server still takes mail.
fn check_alive(server: &Server) {
    let mut client = Client::ready(server.address).expect("a session");
    client.send(FROM, &[TO], b"alive\r\n").expect("a 250");
    client.quit().expect("a goodbye");
}

#[test]
fn whatever_comes_on_the_port_the_server_goes_on() {
    let home = Home::new(&Options::default());
    let mut server = home.serve();
    let mut tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    tls.extend((0..500u32).map(|n| (n * 7 + n / 3) as u8));
    let endless = vec![b'x'; 3 << 20];
    let long = [b"NOOP ".as_slice(), &vec![b'y'; 1 << 19], b"\r\nQUIT\r\n"].concat();
    let newlines = vec![b'\n'; 100_000];
    let inputs: [&[u8]; 8] = [
        b"",
        &tls,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &endless,
        &long,
        &newlines,
        &[0; 65536],
        b"EHLO x\r\nMAIL FR",
    ];
    for input in inputs {
        for orderly in [true, false] {
            let mut client = Client::connect(server.address).expect("a greeting");
            // The server may have ended the session before it has all of it.
            let written = client.write(input);
            if orderly && written.is_ok() {
                drop(client.stream().shutdown(std::net::Shutdown::Write));
                while client.reply().is_ok() {}
            }
        }
    }
    assert!(server.is_running());
    check_alive(&server);
    server.stop();
}

#[test]
fn clients_that_vanish_in_any_state_leave_nothing() {
    // They do not wait for replies.
    let home = Home::new(&Options { listener: "early_talker = \"note\"", ..Options::default() });
    let mut server = home.serve();
    let states: [&[u8]; 7] = [
        b"",
        b"EHLO x\r\n",
        b"EHLO x\r\nMAIL FROM:<a@example.org>\r\n",
        b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n",
        b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n",
        b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nhalf a li",
        b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n",
    ];
    for round in 0..40 {
        for state in states {
            let mut client = Client::connect_silently(server.address).expect("a connection");
            client.write(state).expect("the server reads");
            if round % 2 == 0 {
                // A reset instead of an orderly end.
                rustix::net::sockopt::set_socket_linger(client.stream(), Some(Duration::ZERO))
                    .expect("an option");
            }
        }
    }
    assert!(server.is_running());
    check_alive(&server);
    // Those whose end-of-data arrived may have been taken; nothing else, and nothing of it is left half done.
    server.stop();
    assert!(home.maildir().names().len() <= 41);
    home.verify();
}

#[test]
fn no_reply_is_destroyed_by_a_reset() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    for _ in 0..20 {
        let mut client = Client::ready(server.address).expect("a session");
        // What stands behind QUIT is unread when the server closes.
        client.write(b"QUIT\r\n").expect("a write");
        client.write(&b"NOOP\r\n".repeat(2000)).expect("a write");
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(client.expect(221).expect("the goodbye arrives").text, "2.0.0 goodbye");
        client.expect_end().expect("an orderly end");
    }
    server.stop();
}

#[test]
fn a_drain_ends_sessions_with_421() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    let mut idle = Client::ready(server.address).expect("a session");
    let mut busy = Client::ready(server.address).expect("a session");
    busy.begin(FROM, &[TO]).expect("a transaction");
    let stopped = std::thread::scope(|scope| {
        let stop = scope.spawn(move || server.stop());
        assert!(idle.expect(421).expect("told").text.starts_with("4.3.2"));
        idle.expect_end().expect("an orderly end");
        busy.write(b"finished in time\r\n.\r\n").expect("a write");
        busy.queued().expect("what has begun is finished");
        assert!(busy.expect(421).expect("told").text.starts_with("4.3.2"));
        // The server waits a while for clients that do not close.
        drop((idle, busy));
        stop.join().expect("it ends")
    });
    assert!(!stopped.is_empty());
    let server = home.serve();
    assert_eq!(text(&one(&home).content), "finished in time\n");
    server.stop();
}

#[test]
fn the_clock_runs_for_silent_clients() {
    let home = Home::new(&Options {
        listener: "command_timeout = \"1s\"\ndata_timeout = \"1s\"",
        ..Options::default()
    });
    let server = home.serve();
    let mut silent = Client::connect(server.address).expect("a greeting");
    assert!(silent.expect(421).expect("told").text.starts_with("4.4.2"));
    silent.expect_end().expect("an orderly end");
    let mut stalled = Client::ready(server.address).expect("a session");
    stalled.begin(FROM, &[TO]).expect("a transaction");
    stalled.write(b"half").expect("a write");
    assert!(stalled.expect(421).expect("told").text.starts_with("4.4.2"));
    stalled.expect_end().expect("an orderly end");
    drop((silent, stalled));
    server.stop();
}

#[test]
fn mail_waits_in_the_spool_while_the_maildir_cannot_be_written() {
    let home = Home::new(&Options::default());
    std::fs::write(home.maildir().path(), b"in the way").expect("a file");
    let server = home.serve();
    let id = Client::ready(server.address)
        .expect("a session")
        .send(FROM, &[TO], b"x\r\n")
        .expect("a 250 all the same");
    let path = home.maildir().path().display().to_string();
    eventually("an error that names the path", || {
        server.log.lines().iter().find(|line| line.contains(&path) && !line.contains("INFO")).cloned()
    });
    assert_eq!(home.undelivered(), [id.as_str()]);
    std::fs::remove_file(home.maildir().path()).expect("the way is free");
    assert!(one(&home).name.contains(&id), "delivered by the retry");
    server.stop();
}

/// Each promise on a server of its own, and two listeners of different promises on one.
#[test]
fn mail_of_every_durability_comes_out_and_the_metrics_say_what_was_promised() {
    for (durability, listener, promised) in [
        ("sync", "", "sync"),
        ("async", "", "async"),
        ("none", "", "none"),
        ("none", "durability = \"sync\"", "sync"),
    ] {
        let options = Options { durability, listener, workers: 1, ..Options::default() };
        let home = Home::new(&options);
        let server = home.serve();
        let mut client = Client::ready(server.address).expect("a session");
        let contents: Vec<Vec<u8>> = (0..20).map(mime::message).collect();
        for content in &contents {
            client.send(FROM, &[TO], content).expect("taken");
        }
        client.quit().expect("a goodbye");
        let mut delivered: Vec<_> =
            home.maildir().wait_for(contents.len()).into_iter().map(|file| file.content).collect();
        let mut expected: Vec<_> = contents.iter().map(|content| with_lf(content)).collect();
        delivered.sort_unstable();
        expected.sort_unstable();
        assert!(delivered == expected, "{durability} {listener}");
        home.verify();
        server.stop();
        assert_eq!(home.undelivered(), [""; 0], "{promised}");
    }
}

#[test]
fn chunks_and_addresses_in_utf8_reach_the_maildir() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    let mut client = Client::ready(server.address).expect("a session");
    client.say("MAIL FROM:<jos\u{e9}@b\u{fc}cher.example> SMTPUTF8", 250).expect("a 250");
    client.say(&format!("RCPT TO:<{TO}>"), 250).expect("a 250");
    // Long enough to come in many pieces, and cut within a line end.
    let content = [&b"Subject: x\r\n\r\n.\r\n"[..], &b"a line\r\n".repeat(100_000)].concat();
    let (head, tail) = content.split_at(content.len() - 1);
    client.write(&[format!("BDAT {}\r\n", head.len()).as_bytes(), head].concat()).expect("written");
    let taken = client.expect(250).expect("a 250");
    assert_eq!(taken.text, format!("2.0.0 {} octets received", head.len()));
    client.write(&[b"BDAT 1 LAST\r\n", tail, b"QUIT\r\n"].concat()).expect("written");
    let id = client.queued().expect("a 250");
    client.expect(221).expect("a goodbye");
    let delivered = one(&home);
    assert!(delivered.name.contains(&format!("R{id}.")));
    assert_eq!(text(&delivered.return_path), "<jos\u{e9}@b\u{fc}cher.example>");
    assert!(text(&delivered.trace).contains(" with UTF8SMTP id "), "{}", text(&delivered.trace));
    assert!(delivered.content == with_lf(&content));
    home.verify();
    server.stop();
}
