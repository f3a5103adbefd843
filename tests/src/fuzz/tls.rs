//! Octets where records of TLS should be, at every stage of a connection.

use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringmx::config::ClientCertificates;
use ringmx::limits::HANDSHAKE_LEN_MAX;
use ringmx::server::{Step, Tls};
use ringmx::tls::{Acceptor, Certificate};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection};

use crate::tls::{Authority, client_config_for};

/// What a connection may hold of what came: a record of RFC 5246 §6.2.3, which is the longer one, with its header.
const RECORD_LEN_MAX: usize = 5 + (1 << 14) + 2048;
/// What a server says by itself: hello, certificates, tickets, alerts.
const FLIGHT_LEN_MAX: usize = 16 * 1024;
/// More turns than that a handshake does not have.
const ROUNDS_COUNT_MAX: usize = 10;

struct Ends {
    acceptor: Acceptor,
    /// Of TLS 1.2 and 1.3.
    configs: [Arc<ClientConfig>; 2],
}

/// Made once: a key costs more than a run.
fn ends() -> &'static Ends {
    static ENDS: OnceLock<Ends> = OnceLock::new();
    ENDS.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new("ringmx tests");
        let roots = authority.write(directory.path());
        authority.issue(directory.path(), "mx", &["mx.example"]);
        let file = |name: &str| directory.path().join(name);
        let loaded = Certificate::load(&file("mx.pem"), &file("mx.key"), &Arc::new(default_provider()));
        let asked = ClientCertificates::Record;
        let acceptor = Acceptor::new(&[loaded.expect("a certificate")], &asked).expect("terms");
        Ends { acceptor, configs: [&TLS12, &TLS13].map(|version| client_config_for(&roots, &[version])) }
    })
}

/// A server's end, a client's, and what came out at the server.
struct Pair {
    server: Box<Tls>,
    client: ClientConnection,
    piece_len: usize,
    plain: Vec<u8>,
    has_failed: bool,
}

impl Pair {
    fn new(version: usize, piece_len: usize) -> Self {
        let Ends { acceptor, configs } = ends();
        let name = ServerName::try_from("mx.example").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(&configs[version]), name).expect("a client");
        client.set_buffer_limit(None);
        let server = Tls::begin(acceptor.terms(), Vec::new()).expect("a server");
        Self { server, client, piece_len, plain: Vec::new(), has_failed: false }
    }

    /// Octets of the wire for the server.
    fn receive(&mut self, octets: &[u8]) {
        for piece in octets.chunks(self.piece_len) {
            let plain_len = self.plain.len();
            self.server.receive(piece, &mut Vec::new());
            let mut steps_count = 0;
            while let Some(step) = self.server.advance(&mut self.plain, Duration::ZERO) {
                self.has_failed |= matches!(step, Step::Failed(_));
                steps_count += 1;
                assert!(steps_count <= 2, "a handshake ends once, and a connection fails once");
            }
            if self.has_failed {
                assert_eq!(self.server.held_len(), 0, "nothing is kept for nobody");
            }
            let held_max = if self.server.is_handshaking() { HANDSHAKE_LEN_MAX } else { RECORD_LEN_MAX };
            assert!(self.server.held_len() <= held_max, "{} octets held", self.server.held_len());
            let read_max = RECORD_LEN_MAX + piece.len();
            assert!(self.plain.len() - plain_len <= read_max, "more plaintext than octets");
        }
    }

    /// What the client has to say.
    fn said(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut octets).expect("memory takes it");
        }
        octets
    }

    /// What the server has to say, `plain` in it, to the client, who may have heard enough.
    fn answer(&mut self, plain: &[u8], last: bool) -> usize {
        let mut wire = Vec::new();
        self.server.seal(plain, last, &mut wire);
        assert!(wire.len() <= FLIGHT_LEN_MAX, "{} octets", wire.len());
        let mut rest = &wire[..];
        while !rest.is_empty() {
            if self.client.read_tls(&mut rest).is_err() || self.client.process_new_packets().is_err() {
                break;
            }
        }
        wire.len()
    }

    /// The handshake, with one octet of each of the client's flights changed by `spoil`.
    fn shake_hands(&mut self, spoil: impl Fn(&mut [u8])) {
        for _ in 0..ROUNDS_COUNT_MAX {
            let mut said = self.said();
            spoil(&mut said);
            self.receive(&said);
            if self.answer(b"", false) == 0 && said.is_empty() {
                return;
            }
        }
    }
}

/// Whatever comes in whatever pieces: what is no record of the client's gives no plaintext, what is one gives all of
/// it, and no more is held than a record. The first octet chooses version and stage, the second the pieces.
pub fn fuzz_tls(data: &[u8]) {
    let [choice, piece_len, input @ ..] = data else { return };
    let piece_len = if *piece_len == 0 { usize::from(u16::MAX) } else { usize::from(*piece_len) };
    let mut pair = Pair::new(usize::from(choice & 1), piece_len);
    match (choice >> 1) % 6 {
        0 => pair.receive(input),
        1 => {
            let hello = pair.said();
            pair.receive(&hello);
            pair.receive(input);
        }
        2 => {
            pair.shake_hands(|_| ());
            assert!(!pair.server.is_handshaking() && !pair.has_failed);
            pair.receive(input);
        }
        3 => {
            pair.shake_hands(|_| ());
            pair.client.writer().write_all(input).expect("no limit");
            let said = pair.said();
            pair.receive(&said);
            assert!(pair.plain == input && !pair.has_failed, "all that the client said");
            pair.plain.clear();
        }
        4 => {
            pair.shake_hands(|_| ());
            pair.client.send_close_notify();
            let said = pair.said();
            pair.receive(&said);
            assert!(pair.server.is_ended());
            pair.receive(&input.repeat(16));
        }
        _ => pair.shake_hands(|flight| {
            if let [high, low, change, ..] = *input
                && let Some(octet) = flight.get_mut(usize::from(high) << 8 | usize::from(low))
            {
                *octet ^= change;
            }
        }),
    }
    assert!(pair.plain.is_empty(), "nobody has said that: {}", pair.plain.escape_ascii());
    pair.answer(b"250 2.0.0 ok\r\n", true);
    assert!(!pair.server.owes_goodbye());
}
