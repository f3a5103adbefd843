//! What a worker's operations are for: the kinds in a `Token`.

use ringmx_ring::{Key, Token};

use crate::spool::commit::FlightId;

/// Where a completion belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A connection on the listener with this index.
    Accept {
        listener_index: u32,
    },
    Connection(ConnectionOp, Key),
    /// A write of the journal.
    Commit {
        flight: FlightId,
    },
    /// A sync of the journal: of the segment whose epoch ends in these bits.
    Sync {
        epoch: u32,
    },
    /// Somebody woke the worker.
    Wake,
    /// The worker woke somebody, or closed a descriptor nobody waits for.
    Aside,
}

/// An operation of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionOp {
    Recv,
    Send,
    Cancel,
    Close,
    /// A piece of content into its file.
    Piece,
    /// The sync of that file.
    Sync,
}

const ACCEPT: u8 = 1;
const COMMIT: u8 = 2;
const WAKE: u8 = 3;
const ASIDE: u8 = 4;
const RECV: u8 = 5;
const SEND: u8 = 6;
const CANCEL: u8 = 7;
const CLOSE: u8 = 8;
const SYNC: u8 = 9;
const PIECE: u8 = 10;
const FILE_SYNC: u8 = 11;

impl Op {
    pub(super) fn token(self) -> Token {
        match self {
            Self::Accept { listener_index } => Token::new(ACCEPT, 0, listener_index),
            Self::Commit { flight } => Token::new(COMMIT, 0, flight),
            Self::Sync { epoch } => Token::new(SYNC, 0, epoch),
            Self::Wake => Token::new(WAKE, 0, 0),
            Self::Aside => Token::new(ASIDE, 0, 0),
            Self::Connection(op, key) => {
                let kind = match op {
                    ConnectionOp::Recv => RECV,
                    ConnectionOp::Send => SEND,
                    ConnectionOp::Cancel => CANCEL,
                    ConnectionOp::Close => CLOSE,
                    ConnectionOp::Piece => PIECE,
                    ConnectionOp::Sync => FILE_SYNC,
                };
                Token::new(kind, key.generation, key.slot)
            }
        }
    }

    /// Total: `None` for what no token of ours says.
    pub(super) fn of(token: Token) -> Option<Self> {
        let key = Key { slot: token.slot(), generation: token.generation() };
        Some(match token.kind() {
            ACCEPT => Self::Accept { listener_index: token.slot() },
            COMMIT => Self::Commit { flight: token.slot() },
            SYNC => Self::Sync { epoch: token.slot() },
            WAKE => Self::Wake,
            ASIDE => Self::Aside,
            RECV => Self::Connection(ConnectionOp::Recv, key),
            SEND => Self::Connection(ConnectionOp::Send, key),
            CANCEL => Self::Connection(ConnectionOp::Cancel, key),
            CLOSE => Self::Connection(ConnectionOp::Close, key),
            PIECE => Self::Connection(ConnectionOp::Piece, key),
            FILE_SYNC => Self::Connection(ConnectionOp::Sync, key),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_survives_its_token() {
        let key = Key { slot: 77, generation: 5 };
        let connection = [
            ConnectionOp::Recv,
            ConnectionOp::Send,
            ConnectionOp::Cancel,
            ConnectionOp::Close,
            ConnectionOp::Piece,
            ConnectionOp::Sync,
        ];
        let ops = connection.map(|op| Op::Connection(op, key));
        let others = [
            Op::Accept { listener_index: 3 },
            Op::Commit { flight: u32::MAX },
            Op::Sync { epoch: 7 },
            Op::Wake,
            Op::Aside,
        ];
        for op in ops.into_iter().chain(others) {
            assert_eq!(Op::of(op.token()), Some(op));
        }
        assert_eq!(Op::of(Token::new(100, 0, 0)), None);
    }
}
