//! What senders ask for, and get: delivery status notifications (RFC 3461, RFC 3464), and TLS on all of the way (RFC
//! 8689).

use std::fmt::Write as _;
use std::io::Write as _;

use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually, text};
use tests::next_hop::{Act, Behaviour, NextHop, Taken};
use tests::tls::{Authority, Stream, client_config, reply, say, start_tls};

const SENDER: &str = "ada@client.example";
const CONTENT: &[u8] = b"Subject: x\r\n\r\nhello\r\n.\r\n";

/// `hop.example` goes to the hop, `lmtp.example` there by LMTP, `box.example` to a Maildir.
fn configure(home: &Home, hop: &NextHop, bounce: Option<&NextHop>) {
    let mut config =
        "hostname = \"mx.example\"\nworkers = 1\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[spool]\n\
                      path = \"spool\"\nsegment_size = \"4MiB\"\n[recipients]\n\
                      domains = [\"hop.example\", \"lmtp.example\", \"box.example\"]\n\
                      [[route]]\ndomains = [\"box.example\"]\ndeliver = \"maildir\"\npath = \"maildir\"\n"
            .to_owned();
    for (domain, deliver) in [("hop.example", "smtp"), ("lmtp.example", "lmtp")] {
        let _ = write!(
            config,
            "[[route]]\ndomains = [\"{domain}\"]\ndeliver = \"{deliver}\"\nnext_hop = [\"{}\"]\nretry = [\"1s\"]\n",
            hop.address
        );
    }
    if let Some(hop) = bounce {
        let _ = write!(
            config,
            "[bounce]\nnext_hop = [\"{}\"]\nretry = [\"1s\"]\ndelay_after = \"1s\"\n",
            hop.address
        );
    }
    std::fs::write(home.config(), config).expect("a configuration is written");
}

fn serve(hop: &NextHop, bounce: Option<&NextHop>) -> (Home, Server) {
    let home = Home::new(&Options::default());
    configure(&home, hop, bounce);
    let server = home.serve();
    (home, server)
}

/// MAIL and RCPTs with these parameters.
fn send(server: &Server, mail: &str, rcpts: &[&str]) {
    let mut client = Client::ready(server.address).expect("a session");
    client.say(&format!("MAIL FROM:<{SENDER}> {mail}"), 250).expect("a 250");
    for rcpt in rcpts {
        client.say(&format!("RCPT TO:{rcpt}"), 250).expect("a 250");
    }
    client.say("DATA", 354).expect("a 354");
    client.write(&tests::client::stuffed(CONTENT)).expect("content is taken");
    client.queued().expect("a 250");
    client.quit().expect("a goodbye");
}

fn wait_until_empty(home: &Home) {
    eventually("an empty spool", || home.undelivered().is_empty().then_some(()));
}

fn offers_dsn(server: &Server) -> bool {
    let mut client = Client::connect(server.address).expect("a greeting");
    let reply = client.say("EHLO client.example", 250).expect("a 250");
    reply.text.contains("DSN")
}

/// Each line is in the notice.
fn assert_tells(notice: &Taken, lines: &[&str]) {
    assert_eq!(
        (notice.mail.as_str(), &notice.recipients[..]),
        ("MAIL FROM:<>", &[format!("RCPT TO:<{SENDER}>")][..])
    );
    let content = text(&notice.content);
    for line in lines {
        assert!(content.lines().any(|found| found == *line), "{line}:\n{content}");
    }
}

#[test]
fn notices_are_offered_where_there_is_a_way_to_senders() {
    let hop = NextHop::start(Behaviour::default());
    let (home, server) = serve(&hop, None);
    assert!(!offers_dsn(&server));
    configure(&home, &hop, Some(&hop));
    let reloaded = home.run(["reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    assert!(offers_dsn(&server));
    let told = text(&reloaded.stdout);
    assert!(!told.contains("restart"), "{told}");
    server.stop();
}

#[test]
fn who_asks_hears_that_mail_was_delivered() {
    let hop = NextHop::start(Behaviour::default());
    let bounce = NextHop::start(Behaviour::default());
    let (home, server) = serve(&hop, Some(&bounce));
    let rcpts = [
        "<a@box.example> NOTIFY=SUCCESS ORCPT=rfc822;first+2Ba@old.example",
        "<b@box.example> NOTIFY=FAILURE",
        "<c@box.example>",
    ];
    send(&server, "RET=FULL ENVID=x+3D1", &rcpts);
    let notice = &bounce.wait_for("a notice", 1)[0];
    assert_tells(
        notice,
        &[
            "Subject: Your message was delivered",
            "Original-Envelope-Id: x=1",
            "Original-Recipient: rfc822; first+a@old.example",
            "Final-Recipient: rfc822; a@box.example",
            "Action: delivered",
            "Status: 2.0.0",
            "Subject: x",
        ],
    );
    let content = text(&notice.content);
    assert!(!content.contains("b@box.example") && !content.contains("c@box.example"), "{content}");
    assert!(!content.contains("hello"), "RET is about failures: {content}");
    wait_until_empty(&home);
    assert_eq!(bounce.taken().len(), 1);
    server.stop();
}

/// RFC 3461 §5.2: a hop that offers DSN is asked, one that does not makes us tell that it has the message.
#[test]
fn a_next_hop_that_offers_dsn_tells_the_sender_itself() {
    let hop = NextHop::start(Behaviour { extensions: vec!["DSN"], ..Behaviour::default() });
    let bounce = NextHop::start(Behaviour::default());
    let (home, server) = serve(&hop, Some(&bounce));
    send(&server, "RET=HDRS ENVID=e1", &["<a@hop.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@y.example"]);
    let taken = &hop.wait_for("the message", 1)[0];
    assert!(taken.mail.ends_with(" RET=HDRS ENVID=e1"), "{}", taken.mail);
    assert_eq!(taken.recipients, ["RCPT TO:<a@hop.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@y.example"]);
    wait_until_empty(&home);
    assert_eq!(bounce.taken(), []);
    hop.behave(Behaviour::default());
    server.stop();
    // Connections of before knew what it offered then.
    let server = home.serve();
    send(&server, "", &["<b@hop.example> NOTIFY=SUCCESS", "<c@hop.example> NOTIFY=NEVER"]);
    let notice = &bounce.wait_for("a notice", 1)[0];
    let remote = format!("Remote-MTA: dns; {}", hop.address);
    assert_tells(notice, &["Action: relayed", "Final-Recipient: rfc822; b@hop.example", &remote]);
    assert!(!text(&notice.content).contains("c@hop.example"));
    wait_until_empty(&home);
    hop.behave(Behaviour { is_lmtp: true, ..Behaviour::default() });
    server.stop();
    let server = home.serve();
    send(&server, "", &["<d@lmtp.example> NOTIFY=SUCCESS"]);
    let notice = &bounce.wait_for("another notice", 2)[1];
    assert_tells(notice, &["Action: delivered", "Final-Recipient: rfc822; d@lmtp.example"]);
    wait_until_empty(&home);
    server.stop();
}

/// The notice waits, durable; the mail is not delivered again for it.
#[test]
fn a_notice_of_delivery_is_tried_again_without_the_mail() {
    let hop = NextHop::start(Behaviour::default());
    let refusing =
        || Behaviour { acts: vec![("MAIL", Act::Say("451 4.3.0 not now"))], ..Behaviour::default() };
    let bounce = NextHop::start(refusing());
    let (home, server) = serve(&hop, Some(&bounce));
    send(&server, "", &["<a@hop.example> NOTIFY=SUCCESS"]);
    eventually("a notice that waits", || {
        server.log.find("a notice to a sender was not sent, and is tried again: see the next hop's log")
    });
    eventually("a message that waits for it", || {
        text(&home.run(["spool", "ls"]).stdout).contains("no notice to the sender yet").then_some(())
    });
    server.kill();
    bounce.behave(Behaviour::default());
    let server = home.serve();
    assert_tells(
        &bounce.wait_for("a notice", 1)[0],
        &["Action: relayed", "Final-Recipient: rfc822; a@hop.example"],
    );
    wait_until_empty(&home);
    assert_eq!((hop.taken().len(), bounce.taken().len()), (1, 1));
    server.stop();
}

#[test]
fn who_asks_hears_once_that_mail_takes_long() {
    let hop = NextHop::start(Behaviour {
        acts: vec![("RCPT", Act::Say("450 4.2.1 greylisted"))],
        ..Behaviour::default()
    });
    let bounce = NextHop::start(Behaviour::default());
    let (home, server) = serve(&hop, Some(&bounce));
    send(
        &server,
        "",
        &["<a@hop.example> NOTIFY=DELAY,FAILURE", "<b@hop.example>", "<c@hop.example> NOTIFY=NEVER"],
    );
    let notice = &bounce.wait_for("a notice", 1)[0];
    assert_tells(
        notice,
        &[
            "Subject: Your message is delayed",
            "Action: delayed",
            "Status: 4.2.1",
            "Final-Recipient: rfc822; a@hop.example",
        ],
    );
    let content = text(&notice.content);
    assert!(!content.contains("b@hop.example") && !content.contains("c@hop.example"), "{content}");
    let attempts = || {
        let listed = text(&home.run(["spool", "ls", "--json"]).stdout);
        let listed: serde_json::Value = serde_json::from_str(listed.lines().next()?).ok()?;
        listed["attempts"].as_u64()
    };
    let before = attempts().expect("it waits");
    server.kill();
    let server = home.serve();
    eventually("two more attempts", || attempts().filter(|&count| count >= before + 2));
    hop.behave(Behaviour::default());
    hop.wait_for("the message", 1);
    wait_until_empty(&home);
    assert_eq!(bounce.taken().len(), 1, "not again, and nothing of its delivery");
    server.stop();
}

/// A whole transaction under TLS; the id that its 250 names.
fn send_secured(stream: &mut Stream, mail: &str, to: &str) -> String {
    for (line, code) in [
        ("EHLO client.example".to_owned(), "250"),
        (format!("MAIL FROM:<{SENDER}> {mail}"), "250"),
        (format!("RCPT TO:<{to}>"), "250"),
        ("DATA".to_owned(), "354"),
    ] {
        let said = say(stream, &line).expect("a reply");
        assert!(said.starts_with(code), "{line}: {said}");
    }
    stream.write_all(&tests::client::stuffed(CONTENT)).expect("content is taken");
    let said = reply(stream).expect("a reply");
    said.rsplit(' ').next().expect("an id").to_owned()
}

#[test]
fn who_asks_for_tls_gets_it_on_all_of_the_way() {
    const TLS: &str = "tls = \"starttls\"\n[[certificate]]\nchain = \"mx.pem\"\nkey = \"mx.key\"\n";
    let authority = Authority::new("ringmx tests");
    let clear = NextHop::start(Behaviour { extensions: vec!["REQUIRETLS"], ..Behaviour::default() });
    // Who can send notices offers it.
    let bounce = format!("[bounce]\nnext_hop = [\"{}\"]\n", clear.address);
    let serve = |listener: String, deliver: Option<String>| {
        let (listener, deliver) = (&*listener.leak(), deliver.map(|deliver| &*deliver.leak()));
        let home = Home::new(&Options { listener, deliver, ..Options::default() });
        authority.issue(home.path(), "mx", &["localhost", "127.0.0.1"]);
        let server = home.serve();
        (home, server)
    };
    let (back_home, back) = serve(format!("{TLS}{bounce}"), None);
    let (plain_home, plain) = serve(TLS.to_owned(), None);
    let pem = authority.write(back_home.path());
    let deliver = format!(
        "deliver = \"smtp\"\nnext_hop = [\"localhost:{}\"]\ntls = \"verified\"\nauthorities = \"{}\"",
        back.address.port(),
        pem.display()
    );
    let (home, server) = serve(format!("{TLS}{bounce}"), Some(deliver.clone()));
    let mut in_clear = Client::ready(server.address).expect("a session");
    in_clear.say(&format!("MAIL FROM:<{SENDER}> REQUIRETLS"), 555).expect("it is not offered in clear");
    let mut stream = start_tls(server.address, &client_config(&pem), "localhost").expect("a handshake");
    send_secured(&mut stream, "REQUIRETLS", "a@example.com");
    wait_until_empty(&home);
    let listed = eventually("the message behind", || {
        Some(text(&back_home.run(["spool", "ls", "--all", "--json"]).stdout)).filter(|it| !it.is_empty())
    });
    assert!(listed.contains("\"requiretls\":true"), "{listed}");
    server.stop();
    // A next hop that does not offer it, and one without a certificate that anybody has verified.
    let port = |server: &Server| server.address.port().to_string();
    let elsewhere = deliver.replace(&port(&back), &port(&plain));
    let unverified = format!("deliver = \"smtp\"\nnext_hop = [\"{}\"]", clear.address);
    for (deliver, status) in [(elsewhere, "5.7.30"), (unverified, "5.7.10")] {
        let (home, server) = serve(format!("{TLS}{bounce}"), Some(deliver));
        let mut stream = start_tls(server.address, &client_config(&pem), "localhost").expect("a handshake");
        send_secured(&mut stream, "REQUIRETLS", "a@example.com");
        let line = eventually(status, || server.log.find("cannot be delivered to a recipient"));
        assert_eq!(
            (&line["status"], &line["told"]),
            (&status.into(), &"the notice to its sender was refused".into())
        );
        wait_until_empty(&home);
        server.stop();
    }
    assert_eq!(clear.taken(), [], "neither mail nor notice goes in clear");
    drop(plain_home);
    plain.stop();
    back.stop();
}
