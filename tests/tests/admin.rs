//! The admin side under clients that do not go.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ringmx::limits;
use tests::engine::{Home, Options, PATIENCE};

const LISTENER: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";

#[test]
fn connections_have_places_and_a_life() {
    let home = Home::new(&Options { listener: LISTENER, ..Options::default() });
    let server = home.serve();
    let line = server.log.find("admin HTTP").expect("a line");
    let address: SocketAddr = line["address"].as_str().expect("an address").parse().expect("an address");
    let connect = || TcpStream::connect(address).expect("connected");
    let silent: Vec<TcpStream> = (0..limits::ADMIN_CONNECTIONS_COUNT_MAX).map(|_| connect()).collect();
    let mut waiting = connect();
    waiting.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").expect("written");
    waiting.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let kept_out = waiting.read(&mut [0]).expect_err("all places are taken");
    assert_eq!(kept_out.kind(), ErrorKind::WouldBlock);
    // The life of the others ends, though they say nothing.
    waiting.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("200 OK"), "{answer}");
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
    }
    server.stop();
}

#[test]
fn an_order_has_a_length() {
    let home = Home::new(&Options::default());
    let server = home.serve();
    for (len, answered) in [(limits::ORDER_LEN_MAX, "400 "), (limits::ORDER_LEN_MAX + 1, "413 ")] {
        let mut stream = UnixStream::connect(home.spool().join("control")).expect("the control socket");
        write!(stream, "POST /queue HTTP/1.0\r\nContent-Length: {len}\r\n\r\n").expect("written");
        // Whoever refuses it does not read it.
        drop(stream.write_all(&vec![b' '; len]));
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        assert!(answer.starts_with(&format!("HTTP/1.0 {answered}")), "{len}: {answer}");
    }
    server.stop();
}
