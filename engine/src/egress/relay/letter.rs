//! What a next hop is given: the commands of a transaction, and the content in pieces.

use std::io::Write as _;
use std::rc::Rc;

use super::super::large::{LargeContent, LargePieces};
use super::client::Offered;
use crate::egress::error::RelayError;
use crate::id::MessageId;
use crate::protocol::envelope::{Envelope, Recipient};
use crate::protocol::params::{Body as BodyType, Notify, Ret};

/// Octets of content in memory that are handed on at once.
const PIECE_LEN: usize = 64 << 10;

/// The envelope of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::egress) struct Letter {
    /// The message's, where it has one.
    pub id: MessageId,
    /// Empty: the null reverse-path.
    pub reverse_path: Vec<u8>,
    pub recipients: Vec<Addressee>,
    /// BODY=8BITMIME, as the client said.
    pub eight_bit: bool,
    pub smtputf8: bool,
    /// It goes to hops alone that prove who they are under TLS, and promise the same.
    pub requiretls: bool,
    pub ret: Option<Ret>,
    pub envid: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::egress) struct Addressee {
    pub path: Vec<u8>,
    pub notify: Option<Notify>,
    pub orcpt: Option<Vec<u8>>,
}

impl Letter {
    /// Without recipients.
    pub(in crate::egress) fn of(envelope: &Envelope<'_>) -> Self {
        Self {
            id: MessageId::default(),
            reverse_path: envelope.reverse_path().to_vec(),
            recipients: Vec::new(),
            eight_bit: envelope.body() == Some(BodyType::EightBitMime),
            smtputf8: envelope.smtputf8(),
            requiretls: envelope.requiretls(),
            ret: envelope.ret(),
            envid: envelope.envid().map(<[u8]>::to_vec),
        }
    }

    /// Appends the command MAIL, with the parameters that the next hop knows.
    pub(super) fn mail(&self, offered: &Offered, content_len: u64, line: &mut Vec<u8>) {
        line.extend_from_slice(b"MAIL FROM:<");
        line.extend_from_slice(&self.reverse_path);
        line.push(b'>');
        if offered.size.is_some() {
            let _ = write!(line, " SIZE={content_len}");
        }
        if self.eight_bit && offered.eight_bit_mime {
            line.extend_from_slice(b" BODY=8BITMIME");
        }
        if self.smtputf8 {
            line.extend_from_slice(b" SMTPUTF8");
        }
        if self.requiretls {
            line.extend_from_slice(b" REQUIRETLS");
        }
        if offered.dsn {
            match self.ret {
                Some(Ret::Full) => line.extend_from_slice(b" RET=FULL"),
                Some(Ret::Headers) => line.extend_from_slice(b" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = &self.envid {
                line.extend_from_slice(b" ENVID=");
                line.extend_from_slice(envid);
            }
        }
        line.extend_from_slice(b"\r\n");
    }
}

impl Addressee {
    pub(in crate::egress) fn of(recipient: &Recipient<'_>) -> Self {
        Self {
            path: recipient.path.to_vec(),
            notify: recipient.params.notify,
            orcpt: recipient.params.orcpt.map(<[u8]>::to_vec),
        }
    }

    /// Appends the command RCPT.
    pub(super) fn rcpt(&self, offered: &Offered, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(&self.path);
        out.push(b'>');
        if offered.dsn {
            if let Some(notify) = self.notify {
                let _ = write!(out, " NOTIFY={notify}");
            }
            if let Some(orcpt) = &self.orcpt {
                out.extend_from_slice(b" ORCPT=");
                out.extend_from_slice(orcpt);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Content as it is stored, with CR LF.
#[derive(Clone, Copy, Debug)]
pub(in crate::egress) enum Body<'a> {
    Memory(&'a Rc<[u8]>),
    File(&'a LargeContent),
}

/// The next octets of a content.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    Memory(&'a [u8]),
    File(Vec<u8>),
}

impl std::ops::Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(octets) => octets,
            Self::File(octets) => octets,
        }
    }
}

impl<'a> Body<'a> {
    pub(in crate::egress) fn len(&self) -> u64 {
        match self {
            Self::Memory(content) => content.len() as u64,
            Self::File(content) => content.content.len,
        }
    }

    /// What is in memory.
    pub(super) fn small(&self) -> Option<&'a Rc<[u8]>> {
        match self {
            Self::Memory(content) => Some(content),
            Self::File(_) => None,
        }
    }

    pub(super) fn pieces(&self) -> Pieces<'a> {
        match self {
            Self::Memory(content) => Pieces::Memory(content),
            Self::File(content) => Pieces::File(content.pieces()),
        }
    }
}

#[derive(Debug)]
pub(super) enum Pieces<'a> {
    Memory(&'a [u8]),
    File(LargePieces<'a>),
}

impl<'a> Pieces<'a> {
    /// `None` behind the last. A file that does not hold what it should is an error: the connection is to be closed
    /// then, before the end of the message.
    pub(super) async fn next(&mut self) -> Result<Option<Piece<'a>>, RelayError> {
        match self {
            Self::Memory([]) => Ok(None),
            Self::Memory(rest) => {
                let (piece, after) = rest.split_at(rest.len().min(PIECE_LEN));
                *rest = after;
                Ok(Some(Piece::Memory(piece)))
            }
            Self::File(pieces) => {
                let piece = pieces.next().await.map_err(|error| RelayError::of_spool(&error))?;
                Ok(piece.map(Piece::File))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_to_who_offers_them() {
        let letter = Letter {
            reverse_path: b"a@x".to_vec(),
            eight_bit: true,
            ret: Some(Ret::Headers),
            envid: Some(b"e+31".to_vec()),
            ..Letter::default()
        };
        let to =
            Addressee { path: b"b@y".to_vec(), orcpt: Some(b"rfc822;c@z".to_vec()), ..Addressee::default() };
        let all = Offered { dsn: true, eight_bit_mime: true, size: Some(0), ..Offered::default() };
        let mut out = Vec::new();
        to.rcpt(&all, &mut out);
        to.rcpt(&Offered::default(), &mut out);
        assert_eq!(out, b"RCPT TO:<b@y> ORCPT=rfc822;c@z\r\nRCPT TO:<b@y>\r\n");
        out.clear();
        letter.mail(&all, 7, &mut out);
        letter.mail(&Offered::default(), 7, &mut out);
        let expected = b"MAIL FROM:<a@x> SIZE=7 BODY=8BITMIME RET=HDRS ENVID=e+31\r\nMAIL FROM:<a@x>\r\n";
        assert_eq!(out, expected);
    }
}
