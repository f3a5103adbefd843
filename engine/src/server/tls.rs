//! TLS between a connection's bytes and its session: records in, plaintext out, and the other way round. No socket, no
//! clock, no thread; while nothing is under way nothing is held but what rustls holds.
//!
//! ```text
//! Tls::begin(terms, clear)          `clear`: what is still to be sent in clear, the 220 to STARTTLS
//! Tls::receive(octets)              as they come
//! Tls::advance(&mut plain) -> Step  until there is none
//! Tls::seal(plain, last, &mut wire) what is to be sent now
//! ```

use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

use crate::limits;
use crate::security::Secured;
use crate::tls::Terms;

/// Octets that a record adds to what it holds: RFC 8446 §5.2 has 5 + 1 + 16, RFC 5288 §3 has 5 + 8 + 16.
const RECORD_OVERHEAD_LEN: usize = 32;
/// Octets of plaintext in a record. RFC 8446 §5.1.
const RECORD_LEN_MAX: usize = 1 << 14;
/// A fatal alert in clear, `decode_error`: there are no keys yet. RFC 8446 §6.
const ALERT_IN_CLEAR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

/// What one call of [`Tls::advance`] came to.
#[derive(Debug)]
pub enum Step {
    /// The handshake is done.
    Secured(Secured),
    /// This is no TLS, or not what was agreed on. An alert may have been written.
    Failed(&'static str),
}

pub struct Tls {
    connection: UnbufferedServerConnection,
    terms: Arc<Terms>,
    /// Received, not yet read: less than a record once [`advance`](Self::advance) has read all.
    incoming: Vec<u8>,
    /// To be sent before what is sealed next.
    outgoing: Vec<u8>,
    stage: Stage,
    /// In the worker's list of handshakes that are to go on.
    pub(super) is_listed: bool,
    /// Our close_notify is on its way, or will never be.
    has_said_goodbye: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// So many octets of it have been read.
    Handshake {
        read_len: usize,
    },
    Secured,
    /// The client's close_notify has come.
    Ended,
    Failed,
}

impl std::fmt::Debug for Tls {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Tls {
    /// `clear` goes out before anything else, as it is.
    pub fn begin(terms: Arc<Terms>, clear: Vec<u8>) -> Result<Box<Self>, Error> {
        Ok(Box::new(Self {
            connection: UnbufferedServerConnection::new(Arc::clone(&terms.config))?,
            terms,
            incoming: Vec::new(),
            outgoing: clear,
            stage: Stage::Handshake { read_len: 0 },
            is_listed: false,
            has_said_goodbye: false,
        }))
    }

    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshake { .. })
    }

    /// Whether the client has said that it will send no more. If the connection ends without it, somebody may have cut
    /// it (RFC 8446 §6.1).
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Octets held of what was received.
    pub fn held_len(&self) -> usize {
        self.incoming.len()
    }

    pub fn has_output(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn owes_goodbye(&self) -> bool {
        !self.has_said_goodbye && matches!(self.stage, Stage::Secured | Stage::Ended)
    }

    /// Octets have come. `spare`: buffers to take one from.
    pub fn receive(&mut self, octets: &[u8], spare: &mut Vec<Vec<u8>>) {
        if self.incoming.capacity() == 0 {
            self.incoming = spare.pop().unwrap_or_default();
        }
        self.incoming.extend_from_slice(octets);
    }

    /// Reads what has come, appends plaintext to `plain`, and goes on with the handshake. None: there is nothing more
    /// to do without more octets. `now`: since 1970.
    pub fn advance(&mut self, plain: &mut Vec<u8>, now: Duration) -> Option<Step> {
        if self.stage == Stage::Failed {
            self.incoming.clear();
            return None;
        }
        let mut read_len = 0;
        let step = loop {
            let status = self.connection.process_tls_records(&mut self.incoming[read_len..]);
            read_len += status.discard;
            let mut is_read = false;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => {
                    self.stage = Stage::Ended;
                    break None;
                }
                // Handshake or traffic goes on with what comes next; early data is not offered.
                Ok(_) => is_read = true,
                Err(error) => {
                    self.write_alert();
                    break Some(self.fail(name_of(&error)));
                }
            }
            if self.is_handshaking() && !self.connection.is_handshaking() {
                self.stage = Stage::Secured;
                break Some(Step::Secured(self.terms.secured(&self.connection, now)));
            }
            if is_read {
                break None;
            }
        };
        self.incoming.drain(..read_len.min(self.incoming.len()));
        if let Stage::Handshake { read_len: len } = &mut self.stage {
            *len += read_len;
            // What is left is the beginning of a message of it. Mail that came right behind a handshake is read by now.
            if *len + self.incoming.len() > limits::HANDSHAKE_LEN_MAX {
                return Some(self.fail_endless());
            }
        }
        step
    }

    /// Takes the buffer of received octets when it holds none.
    pub fn take_spare(&mut self) -> Vec<u8> {
        if self.incoming.is_empty() { std::mem::take(&mut self.incoming) } else { Vec::new() }
    }

    /// Appends to `wire` what is to be sent: what the handshake has to say, then `plain`, then, behind the `last` of
    /// it, that no more will come.
    pub fn seal(&mut self, plain: &[u8], last: bool, wire: &mut Vec<u8>) {
        wire.append(&mut std::mem::take(&mut self.outgoing));
        let says_goodbye = last && self.owes_goodbye();
        self.has_said_goodbye |= says_goodbye;
        // Nothing can be said any more, and the connection must not be asked: what it remembers its place in is gone.
        if self.stage == Stage::Failed {
            return;
        }
        while !plain.is_empty() || says_goodbye {
            // What is held of a record stays where it is: the connection remembers its place.
            let UnbufferedStatus { discard, state, .. } =
                self.connection.process_tls_records(&mut self.incoming);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, wire),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    if !plain.is_empty() {
                        let records_count = plain.len().div_ceil(RECORD_LEN_MAX);
                        let sealed_len = plain.len() + records_count * RECORD_OVERHEAD_LEN;
                        append(wire, sealed_len, |buffer| needed(traffic.encrypt(plain, buffer)));
                    }
                    if says_goodbye {
                        append(wire, RECORD_OVERHEAD_LEN, |buffer| {
                            needed(traffic.queue_close_notify(buffer))
                        });
                    }
                    return;
                }
                // Nothing can be said any more, and `advance` says why.
                _ => return,
            }
            self.incoming.drain(..discard);
        }
    }

    fn fail(&mut self, why: &'static str) -> Step {
        self.stage = Stage::Failed;
        self.incoming = Vec::new();
        Step::Failed(why)
    }

    /// The alert that the connection has for the client, if it has one. Without one it would look for more records, at
    /// its place in octets that are not there.
    fn write_alert(&mut self) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.outgoing),
                _ => return,
            }
        }
    }

    /// More than any handshake needs. There is an alert for it as long as there are no keys.
    fn fail_endless(&mut self) -> Step {
        if self.connection.protocol_version().is_none() {
            self.outgoing.extend_from_slice(&ALERT_IN_CLEAR);
        }
        self.fail("handshake too long")
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    append(out, 0, |buffer| match data.encode(buffer) {
        Ok(len) => Ok(len),
        Err(EncodeError::InsufficientSize(needed)) => Err(needed),
        Err(EncodeError::AlreadyEncoded) => Ok(0),
    });
}

/// A sender whose keys are used up (RFC 8446 §5.5) says nothing more.
fn needed(encrypted: Result<usize, EncryptError>) -> Result<usize, InsufficientSizeError> {
    match encrypted {
        Ok(len) => Ok(len),
        Err(EncryptError::InsufficientSize(needed)) => Err(needed),
        Err(EncryptError::EncryptExhausted) => Ok(0),
    }
}

/// Appends what `write` writes: into `len` octets, or into as many as it says it needs.
fn append(
    out: &mut Vec<u8>,
    len: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, InsufficientSizeError>,
) {
    let start = out.len();
    out.resize(start + len, 0);
    let written_len = match write(&mut out[start..]) {
        Ok(len) => len,
        Err(InsufficientSizeError { required_size }) => {
            out.resize(start + required_size, 0);
            write(&mut out[start..]).unwrap_or(0)
        }
    };
    out.truncate(start + written_len);
}

/// In words for the log.
fn name_of(error: &Error) -> &'static str {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "not TLS",
        Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => "not a version of TLS",
        Error::InvalidMessage(InvalidMessage::MessageTooLarge) => "record too long",
        Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => "handshake message too long",
        Error::InvalidMessage(_) => "malformed message",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "message out of order"
        }
        Error::DecryptError => "record that does not decrypt",
        Error::PeerSentOversizedRecord => "record too long",
        Error::PeerIncompatible(why) => name_of_incompatibility(why),
        Error::PeerMisbehaved(_) => "against the protocol",
        Error::NoApplicationProtocol => "client wants another protocol",
        Error::InvalidCertificate(_) => "client certificate is not usable",
        Error::AlertReceived(alert) => name_of_alert(*alert),
        _ => "error of ours",
    }
}

fn name_of_incompatibility(why: &PeerIncompatible) -> &'static str {
    match why {
        PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => "client is too old: no TLS 1.2 of today",
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite in common",
        PeerIncompatible::NoKxGroupsInCommon => "no key exchange in common",
        PeerIncompatible::NoSignatureSchemesInCommon => "no signature in common",
        _ => "nothing in common",
    }
}

/// RFC 8446 §6.2: what the client has against us.
fn name_of_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "alert from the client: unknown_ca",
        AlertDescription::BadCertificate => "alert from the client: bad_certificate",
        AlertDescription::CertificateExpired => "alert from the client: certificate_expired",
        AlertDescription::CertificateUnknown => "alert from the client: certificate_unknown",
        AlertDescription::HandshakeFailure => "alert from the client: handshake_failure",
        AlertDescription::ProtocolVersion => "alert from the client: protocol_version",
        AlertDescription::UserCanceled => "alert from the client: user_canceled",
        AlertDescription::InternalError => "alert from the client: internal_error",
        AlertDescription::DecryptError => "alert from the client: decrypt_error",
        AlertDescription::BadRecordMac => "alert from the client: bad_record_mac",
        _ => "alert from the client",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion};

    use super::*;
    use crate::config::ClientCertificates;
    use crate::tls::{Acceptor, Certificate};

    /// A server and a client without anything between them.
    struct Pair {
        acceptor: Acceptor,
        config: Arc<ClientConfig>,
        server: Box<Tls>,
        client: ClientConnection,
        /// What came out at the server.
        plain: Vec<u8>,
        handshakes_count: usize,
    }

    impl Pair {
        fn new(version: &'static SupportedProtocolVersion) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (chain, key) = (directory.path().join("a.pem"), directory.path().join("a.key"));
            let pair = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["mx.example".to_owned()]).unwrap();
            std::fs::write(&chain, params.self_signed(&pair).unwrap().pem()).unwrap();
            std::fs::write(&key, pair.serialize_pem()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let certificate = Certificate::load(&chain, &key, &provider).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&chain).unwrap()).unwrap();
            let config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let acceptor = Acceptor::new(&[certificate], &ClientCertificates::Off).unwrap();
            Self::of(acceptor, Arc::new(config))
        }

        fn of(acceptor: Acceptor, config: Arc<ClientConfig>) -> Self {
            let name = ServerName::try_from("mx.example").unwrap();
            let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
            client.set_buffer_limit(None);
            let server = Tls::begin(acceptor.terms(), Vec::new()).unwrap();
            Self { acceptor, config, server, client, plain: Vec::new(), handshakes_count: 0 }
        }

        /// Another connection of the same two.
        fn again(self) -> Self {
            Self::of(self.acceptor, self.config)
        }

        /// Octets for the server, in pieces; why it failed.
        fn receive(&mut self, octets: &[u8], piece_len: usize) -> Option<&'static str> {
            for piece in octets.chunks(piece_len) {
                self.server.receive(piece, &mut Vec::new());
                while let Some(step) = self.server.advance(&mut self.plain, Duration::ZERO) {
                    match step {
                        Step::Secured(_) => self.handshakes_count += 1,
                        Step::Failed(why) => return Some(why),
                    }
                }
            }
            None
        }

        /// What the client has to say.
        fn said(&mut self) -> Vec<u8> {
            let mut octets = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut octets).unwrap();
            }
            octets
        }

        /// The server's octets to the client; how many.
        fn answer(&mut self, plain: &[u8], last: bool) -> usize {
            let mut wire = Vec::new();
            self.server.seal(plain, last, &mut wire);
            let mut rest = &wire[..];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets().unwrap();
            }
            wire.len()
        }

        /// Both ways until nobody has more to say.
        fn carry(&mut self, piece_len: usize) {
            loop {
                let said = self.said();
                assert_eq!(self.receive(&said, piece_len), None);
                if self.answer(b"", false) == 0 && said.is_empty() {
                    return;
                }
            }
        }
    }

    #[test]
    fn a_session_comes_through_in_pieces_of_any_length() {
        for version in [&TLS12, &TLS13] {
            for piece_len in [1, 2, 7, 100, usize::MAX] {
                let mut pair = Pair::new(version);
                pair.carry(piece_len);
                assert!(pair.handshakes_count == 1 && !pair.server.is_handshaking());
                pair.client.writer().write_all(b"EHLO x\r\n").unwrap();
                pair.carry(piece_len);
                assert_eq!(pair.plain, b"EHLO x\r\n");
                pair.answer(b"250 ok\r\n", true);
                let mut reply = Vec::new();
                // To the end: our close_notify has come.
                pair.client.reader().read_to_end(&mut reply).unwrap();
                assert_eq!(reply, b"250 ok\r\n");
                assert!(!pair.server.is_ended() && !pair.server.owes_goodbye());
                pair.client.send_close_notify();
                pair.carry(piece_len);
                assert!(pair.server.is_ended());
            }
        }
    }

    /// Each costs the server a record and the client memory; with none, nobody resumes.
    #[test]
    fn a_client_gets_as_many_tickets_as_limits_says() {
        let mut pair = Pair::new(&TLS13);
        pair.carry(usize::MAX);
        assert_eq!(pair.client.tls13_tickets_received() as usize, limits::TICKETS_COUNT);
        let mut pair = pair.again();
        pair.carry(usize::MAX);
        assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(pair.client.tls13_tickets_received() as usize, limits::TICKETS_COUNT);
    }

    /// In a resumed handshake of TLS 1.2 the client has the last word, and the server nothing to answer.
    #[test]
    fn a_session_is_resumed_in_pieces_of_any_length() {
        for version in [&TLS12, &TLS13] {
            for piece_len in [1, 7, usize::MAX] {
                let mut pair = Pair::new(version);
                pair.carry(piece_len);
                let mut pair = pair.again();
                pair.carry(piece_len);
                assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Resumed));
                assert!(pair.handshakes_count == 1 && !pair.server.is_handshaking(), "{version:?}");
            }
        }
    }

    #[test]
    fn an_idle_session_holds_no_buffer() {
        let mut pair = Pair::new(&TLS13);
        pair.carry(1);
        pair.answer(b"220 hello\r\n", false);
        drop(pair.server.take_spare());
        assert_eq!((pair.server.incoming.capacity(), pair.server.outgoing.capacity()), (0, 0));
    }

    /// The client's last words of the handshake may wait for their turn, and mail comes right behind them.
    #[test]
    fn mail_right_behind_the_handshake_is_no_part_of_it() {
        let mut pair = Pair::new(&TLS13);
        let hello = pair.said();
        assert_eq!(pair.receive(&hello, usize::MAX), None);
        pair.answer(b"", false);
        let mail = vec![b'x'; 2 * limits::HANDSHAKE_LEN_MAX];
        pair.client.writer().write_all(&mail).unwrap();
        let said = pair.said();
        assert_eq!(pair.receive(&said, usize::MAX), None);
        assert_eq!((pair.handshakes_count, pair.plain.len()), (1, mail.len()));
    }

    #[test]
    fn a_handshake_that_does_not_end_is_ended() {
        let mut pair = Pair::new(&TLS13);
        // A ClientHello that says it has 65,000 octets.
        let hello = [&[1, 0, 0xfd, 0xe8][..], &[0; 65_000]].concat();
        let mut records = Vec::new();
        for part in hello.chunks(1000) {
            let len = (part.len() as u16).to_be_bytes();
            records.extend_from_slice(&[22, 3, 1, len[0], len[1]]);
            records.extend_from_slice(part);
        }
        assert_eq!(pair.receive(&records, 500), Some("handshake too long"));
        let mut wire = Vec::new();
        pair.server.seal(b"", true, &mut wire);
        assert_eq!(wire, ALERT_IN_CLEAR);
        assert_eq!(pair.receive(b"anything", 1), None);
        assert_eq!(pair.server.held_len(), 0);
    }

    /// The connection remembers its place within the first record, and an error must not make it look there again.
    #[test]
    fn what_is_malformed_behind_a_part_of_a_message_is_refused() {
        for version in [&TLS12, &TLS13] {
            for malformed in [&b"\x16\x03\x01\xff\xff"[..], b"\x99\x03\x03\0\x01x", b"\x16\x09\x01\0\x01x"] {
                for piece_len in [1, 7, usize::MAX] {
                    let mut pair = Pair::new(version);
                    let hello = pair.said();
                    let mut octets = vec![22, 3, 1, 0, 20];
                    octets.extend_from_slice(&hello[5..25]);
                    octets.extend_from_slice(malformed);
                    assert!(pair.receive(&octets, piece_len).is_some(), "{malformed:?}");
                    let mut wire = Vec::new();
                    pair.server.seal(b"221 bye\r\n", true, &mut wire);
                    assert!(!wire.windows(3).any(|octets| octets == b"221"), "nothing in clear");
                }
            }
        }
    }

    #[test]
    fn a_record_that_was_tampered_with_is_not_read() {
        for version in [&TLS12, &TLS13] {
            let mut pair = Pair::new(version);
            pair.carry(usize::MAX);
            pair.client.writer().write_all(b"QUIT\r\n").unwrap();
            let mut said = pair.said();
            *said.last_mut().unwrap() ^= 1;
            assert_eq!(pair.receive(&said, usize::MAX), Some("record that does not decrypt"));
            assert!(pair.plain.is_empty() && pair.server.has_output(), "an alert is due");
        }
    }
}
