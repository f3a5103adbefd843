//! What a client's octets go through: nothing, or TLS, from the first octet or behind STARTTLS. The client's side of it
//! is rustls's.
//!
//! Keys and random numbers differ from run to run; lengths do not, and nothing else decides what happens: the
//! certificate's key is one whose signatures are all of one length.

use std::io::{Read, Write};
use std::sync::Arc;

use ringmx::security::{CipherSuite, Security, Version};
use ringmx_ring::sim::{Client, Simulation};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion};

use super::actor::codes;

/// The lines that a client says in clear, each behind the reply to the one before.
pub const OPENING: [&[u8]; 2] = [b"EHLO client.example\r\n", b"STARTTLS\r\n"];
const READY_TO_START: u16 = 220;

#[derive(Debug)]
pub struct Wire {
    pub client: Client,
    stage: Stage,
    /// Octets that have come, of any kind.
    pub heard_len: usize,
    /// Records that are to be sent.
    records: Vec<u8>,
    /// What came in clear before TLS.
    pub heard_in_clear: Vec<u8>,
    has_said_goodbye: bool,
}

#[derive(Debug)]
enum Stage {
    Clear,
    /// So many lines of the opening have been said.
    Opening {
        said_count: usize,
        connection: Box<ClientConnection>,
    },
    Tls(Box<ClientConnection>),
}

impl Wire {
    pub fn clear(client: Client) -> Self {
        Self::of(client, Stage::Clear)
    }

    /// `opens_in_clear`: TLS comes behind STARTTLS.
    pub fn tls(client: Client, config: Arc<ClientConfig>, opens_in_clear: bool) -> Self {
        let name = ServerName::try_from("mx.example").expect("a name");
        let mut connection = Box::new(ClientConnection::new(config, name).expect("a client"));
        connection.set_buffer_limit(None);
        let stage = if opens_in_clear {
            Stage::Opening { said_count: 0, connection }
        } else {
            Stage::Tls(connection)
        };
        Self::of(client, stage)
    }

    fn of(client: Client, stage: Stage) -> Self {
        Self {
            client,
            stage,
            heard_len: 0,
            records: Vec::new(),
            heard_in_clear: Vec::new(),
            has_said_goodbye: false,
        }
    }

    pub fn is_clear(&self) -> bool {
        matches!(self.stage, Stage::Clear)
    }

    /// Whether TLS comes behind STARTTLS, which it has not yet.
    pub fn opens_in_clear(&self) -> bool {
        matches!(self.stage, Stage::Opening { .. })
    }

    pub fn has_records(&self) -> bool {
        let is_wanted = matches!(&self.stage, Stage::Tls(connection) if connection.wants_write());
        is_wanted || !self.records.is_empty()
    }

    /// What protects it, once the handshake is done.
    pub fn security(&self) -> Option<Security> {
        let Stage::Tls(connection) = &self.stage else { return None };
        let cipher = connection.negotiated_cipher_suite().filter(|_| !connection.is_handshaking())?;
        let version = match connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Version::Tls12,
            _ => Version::Tls13,
        };
        Some(Security { version, cipher: CipherSuite(u16::from(cipher.suite())), certificate: None })
    }

    /// Whether all that was written has been sent, and nothing of a handshake is due.
    pub fn is_quiet(&self) -> bool {
        match &self.stage {
            Stage::Clear => true,
            Stage::Opening { .. } => false,
            Stage::Tls(connection) => !self.has_records() && !connection.is_handshaking(),
        }
    }

    /// What the server has said, as the client of SMTP hears it.
    ///
    /// # Panics
    /// On what is no TLS, or no reply where one is due.
    pub fn take(&mut self, simulation: &Simulation) -> Vec<u8> {
        let octets = simulation.take(self.client);
        self.heard_len += octets.len();
        match &mut self.stage {
            Stage::Clear => octets,
            Stage::Opening { .. } => {
                self.heard_in_clear.extend(octets);
                self.go_on_in_clear(simulation);
                Vec::new()
            }
            Stage::Tls(connection) => {
                let mut rest = &octets[..];
                let mut plain = Vec::new();
                while !rest.is_empty() {
                    connection.read_tls(&mut rest).expect("memory");
                    connection.process_new_packets().expect("the server's records are sound");
                    // Its end is an error until all of it has come.
                    drop(connection.reader().read_to_end(&mut plain));
                }
                plain
            }
        }
    }

    /// The next line of the opening, or the handshake, if its reply has come.
    fn go_on_in_clear(&mut self, simulation: &Simulation) {
        let Stage::Opening { said_count, .. } = &mut self.stage else { return };
        let (codes, len) = codes(&self.heard_in_clear);
        // A server that stops says 421, and nothing comes of it.
        if codes.len() <= *said_count || codes.last() >= Some(&400) {
            return;
        }
        assert_eq!(codes.len(), *said_count + 1, "replies to what was not said");
        if let Some(line) = OPENING.get(*said_count) {
            *said_count += 1;
            return simulation.send(self.client, line);
        }
        assert_eq!((codes.last(), len), (Some(&READY_TO_START), self.heard_in_clear.len()), "no STARTTLS");
        let Stage::Opening { connection, .. } = std::mem::replace(&mut self.stage, Stage::Clear) else {
            unreachable!("looked at above")
        };
        self.stage = Stage::Tls(connection);
    }

    /// To be sealed and sent; what is written before the handshake is done waits for it.
    pub fn write(&mut self, plain: &[u8]) {
        let (Stage::Tls(connection) | Stage::Opening { connection, .. }) = &mut self.stage else { return };
        connection.writer().write_all(plain).expect("memory");
    }

    /// No more will be written; true if that has to be sent first. Every other client just stops.
    pub fn say_goodbye(&mut self) -> bool {
        let Stage::Tls(connection) = &mut self.stage else { return false };
        if std::mem::replace(&mut self.has_said_goodbye, true) || self.heard_len.is_multiple_of(2) {
            return false;
        }
        connection.send_close_notify();
        true
    }

    /// Octets of records that can be sent now.
    pub fn records_len(&mut self) -> usize {
        if let Stage::Tls(connection) = &mut self.stage {
            while connection.wants_write() {
                connection.write_tls(&mut self.records).expect("memory");
            }
        }
        self.records.len()
    }

    /// Sends so many octets of records.
    pub fn send_records(&mut self, simulation: &Simulation, len: usize) {
        let octets: Vec<u8> = self.records.drain(..len).collect();
        if !octets.is_empty() {
            simulation.send(self.client, &octets);
        }
    }
}
