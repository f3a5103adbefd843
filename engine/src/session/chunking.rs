//! BDAT (RFC 3030): content in chunks of a length told before. The octets of a chunk are read whatever becomes of it,
//! and before it is answered: only then is the next octet a command.

use crate::limits;
use crate::protocol::command::Chunk;
use crate::protocol::reply;
use crate::session::phase::Phase;
use crate::session::{Context, Fault, Next, Progress, Session};

/// A chunk that is refused already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipped {
    left_len: u64,
    why: Fault,
}

impl Session {
    /// BDAT within a transaction.
    pub(super) fn bdat(&mut self, cx: &mut Context<'_>, chunk: Chunk, out: &mut Vec<u8>) -> Next {
        if chunk.len > limits::BDAT_LEN_MAX {
            return self.dismiss(cx, Fault::ChunkEndless, out);
        }
        if matches!(self.phase, Phase::Mail(_)) {
            if let Err(fault) = self.begin_content(cx) {
                return self.skip_chunk(cx, chunk, fault, out);
            }
        } else {
            let Phase::Chunks(transaction) = self.phase.take() else { unreachable!("checked by `obey`") };
            self.enter(cx, Phase::Body(transaction));
        }
        let Phase::Body(transaction) = &mut self.phase else { unreachable!("entered above") };
        transaction.begin_chunk(chunk, cx.service.settings.message_len_max, &mut cx.pool.memory);
        if chunk.len > 0 {
            return Next::Input;
        }
        // Nothing will come that could end it.
        self.receive_content(cx, &[], out).map_or(Next::Input, |progress| progress.next)
    }

    /// The chunk is whole and not the last.
    pub(super) fn end_chunk(&mut self, cx: &mut Context<'_>, len: u64, out: &mut Vec<u8>) -> Next {
        let Phase::Body(mut transaction) = self.phase.take() else { unreachable!("a chunk ends in `Body`") };
        let refused = transaction.refused();
        let told = std::mem::replace(&mut transaction.refusal_told, refused.is_some());
        self.enter(cx, Phase::Chunks(transaction));
        self.active_at = cx.now.monotonic;
        match refused {
            None => {
                reply::encode_chunk_taken(len, out);
                Next::Input
            }
            Some(refused) => self.answer(cx, refused, told, out),
        }
    }

    /// BDAT that is refused whatever the chunk holds.
    pub(super) fn skip_chunk(
        &mut self,
        cx: &mut Context<'_>,
        chunk: Chunk,
        why: Fault,
        out: &mut Vec<u8>,
    ) -> Next {
        if chunk.len > limits::BDAT_LEN_MAX {
            return self.dismiss(cx, Fault::ChunkEndless, out);
        }
        self.skipped = Some(Skipped { left_len: chunk.len, why });
        if chunk.len == 0 { self.skip(cx, &[], out).next } else { Next::Input }
    }

    /// Throws the octets of a refused chunk away, and answers it behind the last.
    pub(super) fn skip(&mut self, cx: &mut Context<'_>, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let Some(skipped) = &mut self.skipped else { return Progress { consumed: 0, next: Next::Input } };
        let consumed = usize::try_from(skipped.left_len).unwrap_or(usize::MAX).min(input.len());
        skipped.left_len -= consumed as u64;
        let Skipped { left_len, why } = *skipped;
        self.make_progress(cx, consumed);
        if left_len > 0 {
            return Progress { consumed, next: Next::Input };
        }
        self.skipped = None;
        Progress { consumed, next: self.refuse(cx, why, out) }
    }
}
