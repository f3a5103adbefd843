//! Content that has a file of its own, on its way into another: in pieces, so that no message is in memory whole.

use std::path::Path;
use std::sync::Arc;

use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::fs::File;

use super::error::DeliveryError;
use crate::checksum;
use crate::spool::content_ref::ContentRef;
use crate::store::content_path;

/// Octets read at once.
pub(super) const PIECE_LEN: usize = 256 << 10;

/// Where the content of a large message is.
#[derive(Clone, Debug)]
pub(super) struct LargeContent {
    /// Of the shard.
    pub directory: Arc<Path>,
    pub content: ContentRef,
}

impl LargeContent {
    /// Writes the content with LF line ends behind what stands in `target` up to `at`; returns where it ends.
    ///
    /// # Errors
    /// Says what failed where: content that fails its checksum too, of which all has been written then.
    pub(super) async fn copy(
        &self,
        target: &File,
        target_path: &Path,
        mut at: u64,
    ) -> Result<u64, DeliveryError> {
        let mut pieces = self.pieces();
        let mut lines = LineEnds::default();
        let mut with_lf = Vec::with_capacity(PIECE_LEN + 1);
        while let Some(piece) = pieces.next().await? {
            with_lf.clear();
            lines.append(&piece, pieces.read_len == self.content.len, &mut with_lf);
            let written_len = with_lf.len() as u64;
            let (written, back) = target.write_all_at(with_lf, at).await;
            with_lf = back;
            written.map_err(DeliveryError::of("write", target_path))?;
            at += written_len;
        }
        Ok(at)
    }

    /// As it is stored, from its beginning.
    pub(super) fn pieces(&self) -> LargePieces<'_> {
        LargePieces { content: self, file: None, read_len: 0, crc: 0 }
    }
}

/// The content of a large message, one piece after the other.
pub(super) struct LargePieces<'a> {
    content: &'a LargeContent,
    /// None before the first.
    file: Option<File>,
    read_len: u64,
    crc: u32,
}

impl std::fmt::Debug for LargePieces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LargePieces").field("read_len", &self.read_len).finish_non_exhaustive()
    }
}

impl LargePieces<'_> {
    /// At most [`PIECE_LEN`] octets, `None` behind the last.
    ///
    /// # Errors
    /// Says what failed where: content that fails its checksum too, in place of its end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, DeliveryError> {
        let ContentRef { number, len: content_len, crc, .. } = self.content.content;
        let path = content_path(&self.content.directory, number);
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&path).await.map_err(DeliveryError::of("open", &path))?,
        };
        if self.read_len == content_len {
            file.close().await.map_err(DeliveryError::of("read", &path))?;
            let damaged = "its checksum is wrong; `ringmx spool verify` lists the damage";
            let damaged = std::io::Error::new(std::io::ErrorKind::InvalidData, damaged);
            return if self.crc == crc { Ok(None) } else { Err(DeliveryError::of("read", &path)(damaged)) };
        }
        let len = (content_len - self.read_len).min(PIECE_LEN as u64) as usize;
        let piece = vec![0; len];
        // Without the slice it would read on to the end of the vector's capacity.
        let (read, back) = file.read_exact_at(piece.slice(..len), self.read_len).await;
        let piece = back.into_inner();
        read.map_err(DeliveryError::of("read", &path))?;
        self.crc = checksum::crc32c_append(self.crc, &piece);
        self.read_len += len as u64;
        self.file = Some(file);
        Ok(Some(piece))
    }
}

/// Makes each CR LF an LF, in pieces.
#[derive(Debug, Default)]
struct LineEnds {
    /// The piece before ended in a CR, which is held back.
    holds_cr: bool,
}

impl LineEnds {
    fn append(&mut self, piece: &[u8], is_last: bool, out: &mut Vec<u8>) {
        if self.holds_cr && piece.first() != Some(&b'\n') {
            out.push(b'\r');
        }
        self.holds_cr = piece.last() == Some(&b'\r');
        super::maildir::append_with_lf(&piece[..piece.len() - usize::from(self.holds_cr)], out);
        if is_last && self.holds_cr {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn line_ends_become_lf_in_pieces_as_in_one(content in "[a\r\n]{1,40}", len in 1..8usize) {
            let (mut lines, mut found) = (LineEnds::default(), Vec::new());
            let count = content.len().div_ceil(len);
            for (index, piece) in content.as_bytes().chunks(len).enumerate() {
                lines.append(piece, index + 1 == count, &mut found);
            }
            prop_assert_eq!(found, content.replace("\r\n", "\n").into_bytes());
        }
    }
}
