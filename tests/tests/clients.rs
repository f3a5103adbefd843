//! Limits of clients and what a proxy says, on the real server with several workers.

use std::io;

use tests::client::Client;
use tests::engine::{Home, Options, Server, eventually};

const CONNECTIONS_MAX: usize = 10;

fn serve(listener: &'static str) -> (Home, Server) {
    let home = Home::new(&Options { workers: 4, listener, ..Options::default() });
    let server = home.serve();
    (home, server)
}

/// The greeting's code and text.
fn greeted(server: &Server) -> io::Result<(Client, u16, String)> {
    let mut client = Client::connect_silently(server.address)?;
    let reply = client.reply()?;
    Ok((client, reply.code, reply.text))
}

#[test]
fn of_four_workers_together_the_eleventh_connection_of_a_client_is_refused() {
    let (_home, server) = serve("limits = { unlimited = [], connections_per_client = 10 }");
    for _ in 0..3 {
        // The kernel deals them out over the workers; each worker alone would take ten.
        let mut clients: Vec<Client> = (0..CONNECTIONS_MAX)
            .map(|_| {
                eventually("those before are gone", || {
                    let (client, code, _) = greeted(&server).expect("a greeting");
                    (code == 220).then_some(client)
                })
            })
            .collect();
        let (mut refused, code, text) = greeted(&server).expect("a refusal");
        assert_eq!(code, 421, "{text}");
        assert!(text.starts_with("4.7.0 too many connections"), "{text}");
        refused.expect_end().expect("closed");
        // Who has its place keeps it.
        clients.iter_mut().for_each(|client| drop(client.say("NOOP", 250).expect("served")));
    }
    let line = eventually("a line in the log", || server.log.find("refused"));
    assert_eq!(line["fault"], "connections-per-client");
    assert_eq!(line["code"], 421);
    server.stop();
}

#[test]
fn a_proxy_says_who_the_client_is() {
    let (home, server) = serve("proxy_protocol = [\"127.0.0.0/8\"]\nlimits = { connections_per_client = 1 }");
    let proxied = |address: &str| {
        let mut client = Client::connect_silently(server.address).expect("a connection");
        let header = format!("PROXY TCP4 {address} 192.0.2.25 40001 25\r\n");
        client.write(header.as_bytes()).expect("a write");
        let code = client.reply().expect("a greeting").code;
        (client, code)
    };
    let (mut first, code) = proxied("203.0.113.9");
    assert_eq!(code, 220);
    // Loopback has no limit, but these are not loopback.
    assert_eq!(proxied("203.0.113.9").1, 421);
    assert_eq!(proxied("203.0.113.10").1, 220);
    first.say("EHLO client.example", 250).expect("EHLO");
    first.send("a@example.org", &["b@example.com"], b"Subject: x\r\n\r\nx\r\n").expect("a 250");
    let delivered = home.maildir().wait_for(1);
    let trace = String::from_utf8_lossy(&delivered[0].trace);
    assert!(trace.contains("from client.example ([203.0.113.9])"), "{trace}");
    let line = eventually("a line in the log", || server.log.find("message accepted"));
    assert_eq!(line["client"], "203.0.113.9:40001");
    // A health check, and a proxy that is configured otherwise.
    let mut check = Client::connect_silently(server.address).expect("a connection");
    check.write(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").expect("a write");
    check.expect(220).expect("a greeting");
    check.quit().expect("a goodbye");
    let mut wrong = Client::connect_silently(server.address).expect("a connection");
    wrong.write(b"EHLO client.example\r\n").expect("a write");
    wrong.expect_end().expect("closed without a word");
    eventually("a warning", || server.log.find("a proxy did not say whose connection it brings: closed"));
    let log = server.stop();
    assert!(!log.iter().any(|line| line.contains("health check")), "{}", log.join("\n"));
}
