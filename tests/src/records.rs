//! TLS records of any type and content, sealed with the keys of a handshake that was done as it should be: what no
//! library says by itself. The handshake and the sealing are rustls's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};

use crate::tls::Stream;

/// Octets of a record before what it holds. RFC 8446 §5.1.
const HEADER_LEN: usize = 5;
/// Octets of a nonce that belong to the key and not to the record, in TLS 1.2. RFC 5288 §3.
const FIXED_LEN: usize = 4;

/// A connection under TLS whose client writes each record by hand.
pub struct Records {
    stream: TcpStream,
    /// With the number of the next record, as the other too.
    sealer: (Box<dyn MessageEncrypter>, u64),
    opener: (Box<dyn MessageDecrypter>, u64),
}

impl Records {
    /// Takes over a session of which all that came has been read, and whose configuration allows it.
    ///
    /// # Panics
    /// When the configuration does not, or the cipher is not AES-GCM.
    pub fn take_over(stream: Stream) -> Self {
        let (connection, stream) = (stream.conn, stream.sock);
        let suite = connection.negotiated_cipher_suite().expect("the handshake is done");
        let secrets = connection.dangerous_extract_secrets().expect("the configuration allows it");
        let (tx, rx) = (aes_gcm(secrets.tx.1), aes_gcm(secrets.rx.1));
        let (mut sealer, opener) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                (suite.aead_alg.encrypter(tx.0, tx.1), suite.aead_alg.decrypter(rx.0, rx.1))
            }
            SupportedCipherSuite::Tls12(suite) => {
                let (fixed, explicit) = tx.1.as_ref().split_at(FIXED_LEN);
                let opener = suite.aead_alg.decrypter(rx.0, &rx.1.as_ref()[..FIXED_LEN]);
                (suite.aead_alg.encrypter(tx.0, fixed, explicit), opener)
            }
        };
        // A key keeps to the order of its records: those that the library sealed count, too.
        for number in 0..secrets.tx.0 {
            seal(&mut *sealer, number, ContentType::ApplicationData, b"");
        }
        Self { stream, sealer: (sealer, secrets.tx.0), opener: (opener, secrets.rx.0) }
    }

    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a socket")
    }

    pub fn send(&mut self, typ: ContentType, content: &[u8]) -> io::Result<()> {
        let (sealer, number) = &mut self.sealer;
        let record = seal(&mut **sealer, *number, typ, content);
        *number += 1;
        self.stream.write_all(&record)
    }

    /// The next record; None at the end of the connection.
    ///
    /// # Panics
    /// On a record that is not the server's.
    pub fn receive(&mut self) -> io::Result<Option<(ContentType, Vec<u8>)>> {
        let mut header = [0; HEADER_LEN];
        if self.stream.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut header[1..])?;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        self.stream.read_exact(&mut payload)?;
        let (opener, number) = &mut self.opener;
        let typ = ContentType::from(header[0]);
        let message = InboundOpaqueMessage::new(typ, ProtocolVersion::TLSv1_2, &mut payload);
        let opened = opener.decrypt(message, *number).expect("the server's keys");
        *number += 1;
        Ok(Some((opened.typ, opened.payload.to_vec())))
    }
}

fn seal(sealer: &mut dyn MessageEncrypter, number: u64, typ: ContentType, content: &[u8]) -> Vec<u8> {
    let payload = OutboundChunks::Single(content);
    let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
    sealer.encrypt(message, number).expect("the key is good for it").encode()
}

fn aes_gcm(secrets: ConnectionTrafficSecrets) -> (AeadKey, Iv) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
            (key, iv)
        }
        _ => panic!("another cipher than AES-GCM"),
    }
}
