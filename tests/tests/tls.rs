//! TLS from outside: the real server with OpenSSL, curl and Python as clients, and with octets that are no TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tests::client::Client;
use tests::engine::{Home, Options, PATIENCE, Server, eventually, text};
use tests::tls::{self, Authority};

const STARTTLS: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";
const IMPLICIT: &str = "tls = \"implicit\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";

/// A server whose certificate is for `mx.example`.
fn serve(listener: &'static str) -> (Home, Server) {
    serve_with(listener, |_, _| {})
}

fn serve_with(listener: &'static str, prepare: impl FnOnce(&Authority, &Path)) -> (Home, Server) {
    // openssl does not wait for replies.
    let listener =
        Box::leak(format!("early_talker = \"note\"\ncommand_timeout = \"30s\"\n{listener}").into_boxed_str());
    let home = Home::new(&Options { listener, ..Options::default() });
    let authority = Authority::new("ringmx tests");
    authority.write(home.path());
    authority.issue(home.path(), "mx", &["mx.example"]);
    prepare(&authority, home.path());
    let server = home.serve();
    (home, server)
}

/// `openssl s_client`, told `said`; what it printed, and whether it ended well.
fn openssl(home: &Home, address: SocketAddr, args: &[&str], said: &str) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-CAfile", "authority.pem"]);
    // Without these a line that begins with R asks for a renegotiation.
    if !said.starts_with('R') {
        command.args(["-ign_eof", "-crlf"]);
    }
    if !args.contains(&"-implicit") {
        command.args(["-starttls", "smtp", "-name", "client.example"]);
    }
    command.args(args.iter().filter(|arg| **arg != "-implicit")).current_dir(home.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("openssl cannot be run: {error}; install it (Debian: apt-get install openssl)")
    });
    let mut stdin = child.stdin.take().expect("piped");
    // A client that was refused has gone already.
    drop(stdin.write_all(said.as_bytes()));
    let output = child.wait_with_output().expect("openssl ends");
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[track_caller]
fn assert_has(output: &str, wanted: &str) {
    assert!(output.contains(wanted), "`{wanted}` is not in\n{output}");
}

#[test]
fn openssl_agrees_on_each_version_and_checks_the_certificate() {
    for (mode, listener) in [(None, STARTTLS), (Some("-implicit"), IMPLICIT)] {
        let (home, server) = serve(listener);
        for (version, cipher) in [("1_2", "ECDHE-ECDSA-AES256-GCM-SHA384"), ("1_3", "TLS_AES_256_GCM_SHA384")]
        {
            let version_arg = format!("-tls{version}");
            let mut args = vec![&*version_arg, "-verify_return_error", "-verify_hostname", "mx.example"];
            args.extend(mode);
            let (ended_well, output) = openssl(&home, server.address, &args, "EHLO x\nNOOP\nQUIT\n");
            assert!(ended_well, "{output}");
            assert_has(&output, &format!("New, TLSv{}, Cipher is {cipher}", version.replace('_', ".")));
            assert_has(&output, "Verify return code: 0 (ok)");
            assert_has(&output, "Compression: NONE");
            assert_has(&output, "221 2.0.0");
        }
        server.stop();
    }
}

#[test]
fn versions_before_1_2_and_ciphers_without_forward_secrecy_are_refused() {
    let (home, server) = serve(STARTTLS);
    let old = ["-cipher", "ALL:@SECLEVEL=0"];
    for refused in [
        &["-tls1"][..],
        &["-tls1_1"],
        &["-tls1_2", "-cipher", "AES256-GCM-SHA384:AES128-SHA"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
    ] {
        let args = if refused.len() == 1 { [refused, &old].concat() } else { refused.to_vec() };
        let (_, output) = openssl(&home, server.address, &args, "QUIT\n");
        assert_has(&output, "Cipher is (NONE)");
        assert!(!output.contains("221 "), "{output}");
    }
    let log = server.stop().join("\n");
    assert_has(&log, "client is too old");
    assert_has(&log, "no cipher suite in common");
}

#[test]
fn a_client_cannot_renegotiate() {
    let (home, server) = serve(STARTTLS);
    // `R` asks for it.
    let (_, output) = openssl(&home, server.address, &["-tls1_2"], "R\n");
    assert_has(&output, "RENEGOTIATING");
    assert_has(&output, "no renegotiation");
    server.stop();
}

/// The kernel chooses the worker of a connection. That it is never the same one in as many is out of the question.
const RESUMED_COUNT_MAX: usize = 64;

#[test]
fn sessions_are_resumed_by_tickets_of_any_worker() {
    const WITH_ADMIN: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n\
                              [admin]\nbind = \"127.0.0.1:0\"\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let (home, server) = serve(WITH_ADMIN);
        let out = [version, "-sess_out", "session.pem"];
        let (ended_well, output) = openssl(&home, server.address, &out, "EHLO x\nQUIT\n");
        assert!(ended_well && output.contains("New, TLSv1."), "{output}");
        let resumed_count =
            |worker| server.metric(&format!("ringmx_handshakes_resumed_total{{worker=\"{worker}\"}}"));
        let both_resumed = (0..RESUMED_COUNT_MAX).any(|_| {
            let resume = [version, "-sess_in", "session.pem"];
            let (_, output) = openssl(&home, server.address, &resume, "EHLO x\nQUIT\n");
            assert_has(&output, "Reused, TLSv1.");
            assert_has(&output, "221 2.0.0");
            resumed_count(0) > 0 && resumed_count(1) > 0
        });
        assert!(both_resumed, "{version}: {} and {}", resumed_count(0), resumed_count(1));
        server.stop();
    }
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    const TWO: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n\
                       [[certificate]]\nchain = \"more.pem\"\nkey = \"more.key\"\n";
    let (home, server) = serve_with(TWO, |authority, path| {
        authority.issue(path, "more", &["mail.example.net", "*.example.org", "mx.example"]);
    });
    for (asked, subject) in [
        ("mx.example", "mx.example"),
        ("mail.example.net", "mail.example.net"),
        ("MAIL.example.NET", "mail.example.net"),
        ("any.example.org", "mail.example.net"),
        ("a.b.example.org", "mx.example"),
        ("example.org", "mx.example"),
        ("nobody.example", "mx.example"),
    ] {
        let (_, output) = openssl(&home, server.address, &["-servername", asked], "QUIT\n");
        assert_has(&output, &format!("subject=CN = {subject}\n"));
    }
    let (_, output) = openssl(&home, server.address, &["-noservername"], "QUIT\n");
    assert_has(&output, "subject=CN = mx.example\n");
    server.stop();
}

#[test]
fn clients_certificates_are_recorded_and_verified() {
    const VERIFY: &str = "tls = \"starttls\"\nclient_certificates = \"verify\"\n\
                          client_authorities = \"authority.pem\"\n\
                          [[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";
    const RECORD: &str = "tls = \"starttls\"\nclient_certificates = \"record\"\n\
                          [[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";
    let message =
        "EHLO client.example\nMAIL FROM:<a@example.org>\nRCPT TO:<b@example.com>\nDATA\nx\n.\nQUIT\n";
    for (listener, ours) in [(VERIFY, "verified"), (RECORD, "not verified")] {
        let (home, server) = serve_with(listener, |authority, path| {
            authority.issue(path, "client", &["client.example"]);
            Authority::new("somebody else").issue(path, "stranger", &["client.example"]);
            authority.issue_until(path, "old", &["client.example"], 2021);
        });
        for version in ["-tls1_2", "-tls1_3"] {
            for (file, is) in [
                (Some("client"), Some(ours)),
                (Some("stranger"), Some("not verified")),
                (Some("old"), Some("not verified")),
                (None, None),
            ] {
                let before = home.maildir().names().len();
                let paths = file.map(|file| [format!("{file}.pem"), format!("{file}.key")]);
                let mut args = vec![version];
                if let Some([chain, key]) = &paths {
                    args.extend(["-cert", chain, "-key", key]);
                }
                let (ended_well, output) = openssl(&home, server.address, &args, message);
                assert!(ended_well && output.contains("250 2.0.0 queued"), "{file:?} {output}");
                let messages = home.maildir().wait_for(before + 1);
                let traces = messages.iter().map(|message| text(&message.trace));
                let has = |trace: &String| match is {
                    Some(is) => trace.contains(&format!("client certificate {is}, SHA-256")),
                    None => !trace.contains("client certificate"),
                };
                assert!(
                    traces.clone().any(|trace| has(&trace)),
                    "{file:?}: {:?}",
                    traces.collect::<Vec<_>>()
                );
            }
        }
        server.stop();
    }
}

#[test]
fn rules_ask_for_tls_and_for_the_clients_certificate() {
    const RULES: &str = "tls = \"starttls\"\nclient_certificates = \"verify\"\n\
                         client_authorities = \"authority.pem\"\n\
                         [[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n\
                         [[rule]]\nstage = \"rcpt\"\nclient_certificate = [\".partner.example\"]\naction = \"relay\"\n\
                         [[rule]]\nstage = \"mail\"\ntls = false\naction = \"defer\"\n";
    let (home, server) = serve_with(RULES, |authority, path| {
        authority.issue(path, "partner", &["mx.partner.example"]);
        authority.issue(path, "other", &["mx.other.example"]);
        Authority::new("somebody else").issue(path, "stranger", &["mx.partner.example"]);
    });
    let said = "EHLO x\nMAIL FROM:<a@partner.example>\nRCPT TO:<b@elsewhere.example>\nQUIT\n";
    for (file, reply) in [("partner", "250 2.1.5"), ("other", "550 5.7.1"), ("stranger", "550 5.7.1")] {
        let args = ["-cert", &format!("{file}.pem"), "-key", &format!("{file}.key")];
        let (_, output) = openssl(&home, server.address, &args, said);
        assert_has(&output, "250 2.1.0");
        assert_has(&output, reply);
    }
    let mut clear = Client::ready(server.address).expect("a session in clear");
    clear.say("MAIL FROM:<a@partner.example>", 450).expect("not without TLS");
    server.stop();
}

fn python(home: &Home, script: &str, address: SocketAddr) -> String {
    let mut command = Command::new("python3");
    command.args(["-c", script, &address.port().to_string()]).current_dir(home.path());
    let output = command.output().expect("python3 runs");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn smtplib_and_curl_deliver_under_tls() {
    for listener in [STARTTLS, IMPLICIT] {
        let (home, server) = serve(listener);
        let implicit = listener == IMPLICIT;
        let script = "import smtplib, ssl, sys\n\
            c = ssl.create_default_context(cafile='authority.pem'); c.check_hostname = False\n\
            port = int(sys.argv[1])\n\
            if IMPLICIT:\n    s = smtplib.SMTP_SSL('127.0.0.1', port, context=c)\n\
            else:\n    s = smtplib.SMTP('127.0.0.1', port); s.starttls(context=c)\n\
            s.sendmail('a@example.org', ['b@example.com'], b'Subject: x\\r\\n\\r\\n' + b'y' * 200000 + b'\\r\\n')\n\
            s.quit()\n";
        let script = script.replace("IMPLICIT", if implicit { "True" } else { "False" });
        python(&home, &script, server.address);
        let has_curl = Command::new("curl").arg("--version").output().is_ok();
        if !has_curl {
            eprintln!("curl is not installed: only smtplib delivers");
            home.maildir().wait_for(1);
            server.stop();
            continue;
        }
        std::fs::write(home.path().join("mail.eml"), "Subject: curl\r\n\r\nhello\r\n").expect("written");
        let scheme = if implicit { "smtps" } else { "smtp" };
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--ssl-reqd", "--cacert", "authority.pem"]);
        curl.args(["--resolve", &format!("mx.example:{}:127.0.0.1", server.address.port())]);
        curl.args([
            "--mail-from",
            "a@example.org",
            "--mail-rcpt",
            "b@example.com",
            "--upload-file",
            "mail.eml",
        ]);
        curl.arg(format!("{scheme}://mx.example:{}", server.address.port())).current_dir(home.path());
        let output = curl.output().expect("curl runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        for message in home.maildir().wait_for(2) {
            let trace = text(&message.trace);
            assert!(
                trace.contains("with ESMTPS id ") && trace.contains("tls TLS_AES_256_GCM_SHA384"),
                "{trace}"
            );
        }
        server.stop();
    }
}

#[test]
fn what_protected_a_message_stands_in_its_envelope_the_log_and_the_metrics() {
    const TOLD: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n\
                        [admin]\nbind = \"127.0.0.1:0\"\n[log]\nlevel = \"debug\"\n";
    let home =
        Home::new(&Options { listener: TOLD, deliver: Some("deliver = \"hold\""), ..Options::default() });
    let authority = Authority::new("ringmx tests");
    let path = authority.write(home.path());
    authority.issue(home.path(), "mx", &["mx.example"]);
    let server = home.serve();
    let of_versions = [
        (&rustls::version::TLS12, "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        (&rustls::version::TLS13, "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ];
    for (version, _, _) in of_versions {
        let config = tls::client_config_for(&path, &[version]);
        let mut stream = tls::start_tls(server.address, &config, "mx.example").expect("secured");
        for (line, reply) in
            [("EHLO x", "250"), ("MAIL FROM:<>", "250"), ("RCPT TO:<b@example.com>", "250"), ("DATA", "354")]
        {
            assert!(tls::say(&mut stream, line).expect("a reply").starts_with(reply));
        }
        assert!(tls::say(&mut stream, ".").expect("a reply").starts_with("250 2.0.0 queued"));
    }
    let listed = text(&home.run(["spool", "ls", "--json"]).stdout);
    for (_, version, cipher) in of_versions {
        assert_has(&listed, &format!("\"tls\":{{\"cipher\":\"{cipher}\",\"version\":\"{version}\"}}"));
        for message in ["secured", "message accepted"] {
            let line = eventually(message, || {
                let is_it =
                    |line: &String| line.contains(&format!("\"{message}\"")) && line.contains(version);
                server.log.lines().into_iter().find(is_it)
            });
            assert_has(&line, &format!("\"version\":\"{version}\",\"cipher\":\"{cipher}\""));
        }
        let count = |worker| {
            let labels = format!("worker=\"{worker}\",version=\"{version}\",cipher=\"{cipher}\"");
            server.metric(&format!("ringmx_handshakes_by_cipher_total{{{labels}}}"))
        };
        assert_eq!(count(0) + count(1), 1, "{cipher}");
    }
    server.stop();
}

/// What the server answers to octets where a handshake is due, up to the end of the connection.
fn answer(address: SocketAddr, starttls: bool, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = if starttls {
        let mut client = Client::ready(address).expect("a session");
        client.say("STARTTLS", 220).expect("220");
        client.stream().try_clone().expect("a socket")
    } else {
        TcpStream::connect(address).expect("connected")
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    for piece in pieces {
        // It may have closed already.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

/// An alert record in clear, fatal: RFC 8446 §6.
fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

const UNEXPECTED_MESSAGE: u8 = 10;
const DECODE_ERROR: u8 = 50;

/// A handshake record with this message, cut where told.
fn record(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).expect("a record");
    [&[22, 3, 1][..], &len.to_be_bytes(), message].concat()
}

/// The beginning of a handshake message that says it has so many octets.
fn header(kind: u8, len: u32) -> Vec<u8> {
    [&[kind][..], &len.to_be_bytes()[1..]].concat()
}

#[test]
fn what_is_no_handshake_gets_an_alert_and_nothing_is_stored() {
    // A ClientHello of 64 KiB, in records of 16 KiB.
    let endless: Vec<u8> = {
        let message = [header(1, 65_000), vec![0; 65_000]].concat();
        message.chunks(16_000).flat_map(record).collect()
    };
    let sslv2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 7, 0, 0xc0];
    let cases: &[(&str, Vec<u8>, &[u8], &str)] = &[
        ("clear text", b"EHLO x\r\nMAIL FROM:<a@b>\r\n".to_vec(), &[DECODE_ERROR], "not TLS"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[DECODE_ERROR], "not TLS"),
        ("SSLv2", sslv2.to_vec(), &[DECODE_ERROR], "not TLS"),
        ("a record without octets", record(b""), &[DECODE_ERROR, UNEXPECTED_MESSAGE], ""),
        ("a record that is too long", [22, 3, 1, 0x50, 0].to_vec(), &[22, DECODE_ERROR], ""),
        (
            "another message first",
            record(&[header(11, 1), vec![0]].concat()),
            &[UNEXPECTED_MESSAGE, DECODE_ERROR],
            "",
        ),
        (
            "application data first",
            [23, 3, 3, 0, 1, 0].to_vec(),
            &[UNEXPECTED_MESSAGE],
            "message out of order",
        ),
        ("a ClientHello of nothing", record(&header(1, 0)), &[DECODE_ERROR], "malformed message"),
        // Too long, or malformed if it comes all at once.
        ("a ClientHello of 64 KiB", endless, &[DECODE_ERROR], "TLS failed"),
    ];
    for (listener, starttls) in [(STARTTLS, true), (IMPLICIT, false)] {
        let (home, server) = serve(listener);
        for (name, octets, alerts, why) in cases {
            let whole = answer(server.address, starttls, &[octets]);
            assert!(alerts.iter().any(|&description| whole == alert(description)), "{name}: {whole:x?}");
            if octets.len() < 100 {
                let single: Vec<&[u8]> = octets.chunks(1).collect();
                assert_eq!(answer(server.address, starttls, &single), whole, "{name}, octet by octet");
            }
            eventually(name, || server.log.lines().iter().any(|line| line.contains(why)).then_some(()));
        }
        // Silence, and half of a record, get no answer but an end.
        for octets in [&b""[..], &[22, 3, 1, 0, 100, 1]] {
            let stream = TcpStream::connect(server.address).expect("connected");
            (&stream).write_all(octets).expect("written");
            drop(stream);
        }
        // Fatal alerts of the client's are not answered.
        for description in [0, 40, 48, 90] {
            let answer = answer(server.address, starttls, &[&alert(description)]);
            assert!(answer.is_empty() || answer == alert(UNEXPECTED_MESSAGE), "{description}: {answer:x?}");
        }
        // It goes on serving.
        let config = tls::client_config(&home.path().join("authority.pem"));
        let stream = if starttls {
            tls::start_tls(server.address, &config, "mx.example")
        } else {
            tls::secure(TcpStream::connect(server.address).expect("connected"), &config, "mx.example")
        };
        stream.expect("secured");
        server.stop();
        assert_eq!(home.undelivered(), [""; 0]);
        assert!(home.maildir().names().is_empty());
    }
}

#[test]
fn a_connection_that_is_cut_within_its_content_leaves_nothing() {
    let (home, server) = serve(STARTTLS);
    let config = tls::client_config(&home.path().join("authority.pem"));
    for close_notify in [false, true] {
        let mut stream = tls::start_tls(server.address, &config, "mx.example").expect("secured");
        for line in ["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>", "DATA"] {
            tls::say(&mut stream, line).expect("a reply");
        }
        stream.write_all(b"Subject: x\r\n\r\nhalf of it\r\n").expect("written");
        if close_notify {
            stream.conn.send_close_notify();
            stream.flush().expect("written");
        }
        stream.sock.shutdown(std::net::Shutdown::Write).expect("ended");
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
        assert!(rest.is_empty(), "{}", text(&rest));
    }
    let log = server.stop().join("\n");
    assert_has(&log, "\"reason\":\"no-close-notify\"");
    assert_has(&log, "\"reason\":\"client-closed\"");
    assert_eq!(home.undelivered(), [""; 0]);
    assert!(home.maildir().names().is_empty());
}

#[test]
fn a_record_that_was_tampered_with_ends_the_session() {
    let (home, server) = serve(STARTTLS);
    let config = tls::client_config(&home.path().join("authority.pem"));
    let mut stream = tls::start_tls(server.address, &config, "mx.example").expect("secured");
    for line in ["EHLO x", "MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>", "DATA"] {
        tls::say(&mut stream, line).expect("a reply");
    }
    stream.write_all(b"Subject: x\r\n\r\nx\r\n").expect("written");
    // A record of the right form that no key has sealed, with what would be the end in clear.
    stream.sock.write_all(b"\x17\x03\x03\x00\x20\r\n.\r\n012345678901234567890123456").expect("written");
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).expect_err("an alert");
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    let log = server.stop().join("\n");
    assert_has(&log, "record that does not decrypt");
    assert_eq!(home.undelivered(), [""; 0]);
}

#[test]
fn handshakes_come_one_octet_at_a_time() {
    let (home, server) = serve(IMPLICIT);
    let config = tls::client_config(&home.path().join("authority.pem"));
    let name = rustls::pki_types::ServerName::try_from("mx.example").expect("a name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    while connection.is_handshaking() {
        while connection.wants_write() {
            let mut octets = Vec::new();
            connection.write_tls(&mut octets).expect("written");
            for octet in octets {
                stream.write_all(&[octet]).expect("written");
            }
        }
        if connection.is_handshaking() {
            connection.read_tls(&mut stream).expect("octets");
            connection.process_new_packets().expect("a handshake");
        }
    }
    let mut stream = rustls::StreamOwned::new(connection, stream);
    assert!(tls::reply(&mut stream).expect("a greeting").starts_with("220 mx.example"));
    server.stop();
}

#[test]
fn a_message_of_many_records_and_pipelined_sessions_come_through() {
    let (home, server) = serve(IMPLICIT);
    let config = tls::client_config(&home.path().join("authority.pem"));
    let stream = TcpStream::connect(server.address).expect("connected");
    let mut stream = tls::secure(stream, &config, "mx.example").expect("secured");
    let line = [&[b'x'; 70][..], b"\r\n"].concat();
    let content = line.repeat(10_000);
    let mail = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n";
    stream.write_all(b"EHLO x\r\n").expect("written");
    stream.write_all(mail.as_bytes()).expect("written");
    stream.write_all(&content).expect("written");
    stream.write_all(format!(".\r\n{mail}short\r\n.\r\nQUIT\r\n").as_bytes()).expect("written");
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).expect("replies up to a close_notify");
    assert_eq!(text(&replies).matches("250 2.0.0 queued").count(), 2, "{}", text(&replies));
    assert!(text(&replies).contains("221 2.0.0"), "{}", text(&replies));
    let lens: Vec<usize> = home.maildir().wait_for(2).iter().map(|message| message.content.len()).collect();
    assert!(lens.contains(&(content.len() - 10_000)), "{lens:?}");
    server.stop();
}

#[test]
fn what_does_not_fit_together_is_told_at_the_start() {
    for (damage, told) in [
        ("another key", "is not the key of the first certificate"),
        ("no key", "no private key"),
        ("no certificate", "no certificate in it"),
        ("no file", "cannot read"),
        ("unreadable", "cannot read"),
    ] {
        let home = Home::new(&Options { listener: STARTTLS, ..Options::default() });
        let authority = Authority::new("ringmx tests");
        authority.issue(home.path(), "mx", &["mx.example"]);
        authority.issue(home.path(), "other", &["mx.example"]);
        let path = |name: &str| home.path().join(name);
        match damage {
            "another key" => std::fs::rename(path("other.key"), path("mx.key")).expect("renamed"),
            "no key" => std::fs::write(path("mx.key"), "nothing").expect("written"),
            "no certificate" => std::fs::write(path("mx.pem"), "nothing").expect("written"),
            "no file" => std::fs::remove_file(path("mx.pem")).expect("removed"),
            // Not even by root.
            _ => {
                std::fs::remove_file(path("mx.key")).expect("removed");
                std::fs::create_dir(path("mx.key")).expect("a directory");
            }
        }
        let refused = home.try_serve().expect_err("a server without a certificate");
        assert_has(&text(&refused.stderr), told);
        assert_has(&text(&refused.stderr), "mx.");
    }
}

#[test]
fn a_client_that_asks_for_another_protocol_is_refused() {
    let (home, server) = serve(STARTTLS);
    let (_, output) = openssl(&home, server.address, &["-alpn", "http/1.1"], "QUIT\n");
    assert_has(&output, "no application protocol");
    let (_, output) = openssl(&home, server.address, &["-alpn", "h2,smtp"], "QUIT\n");
    assert_has(&output, "ALPN protocol: smtp");
    server.stop();
}
