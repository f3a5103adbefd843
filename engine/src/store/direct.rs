//! Direct files: reads and writes that pass the page cache by.
//!
//! A durable direct write is one order to the disk; a buffered one first fills pages, which a worker thread of the
//! kernel then writes out. Not every file system takes direct writes, so a start tries one.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ringmx_ring::{BLOCK_LEN, BlockBuffer};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// The file that the trial is made in. A start removes it, also one that a crash left.
const PROBE_NAME: &str = "probe";

/// How segments are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// Past the page cache.
    Direct,
    /// Through the page cache, because a direct write was refused with this errno.
    Buffered(i32),
}

impl Writes {
    /// Writes a block directly in `directory`, and says whether it got there.
    ///
    /// # Errors
    /// When the directory takes no file at all.
    pub(super) fn probe(directory: &Path) -> io::Result<Self> {
        let path = directory.join(PROBE_NAME);
        let outcome = try_direct(&path);
        let removed = std::fs::remove_file(&path);
        match outcome {
            Ok(()) => removed.map(|()| Self::Direct),
            // Refused when the file is opened (tmpfs of older kernels, some overlays), or by the first write; a full
            // disk tells nothing, and may hold mail to deliver.
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(errno @ (Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT)) => {
                    Ok(Self::Buffered(errno.raw_os_error()))
                }
                _ => Err(error),
            },
        }
    }

    /// A second descriptor of a segment's file, for writes; `None` where the first one will do.
    pub(super) fn open(self, path: &Path) -> io::Result<Option<File>> {
        match self {
            Self::Direct => open_direct().open(path).map(Some),
            Self::Buffered(_) => Ok(None),
        }
    }

    /// The word of the log and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered(_) => "buffered",
        }
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str(self.name()),
            Self::Buffered(errno) => {
                let why = io::Error::from_raw_os_error(*errno);
                write!(f, "{} (a direct write was tried and refused: {why})", self.name())
            }
        }
    }
}

fn open_direct() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::DIRECT.bits() as i32);
    options
}

fn try_direct(path: &Path) -> io::Result<()> {
    let file = open_direct().create(true).truncate(true).open(path)?;
    let mut block = BlockBuffer::new();
    block.resize(BLOCK_LEN, b'p');
    file.write_all_at(&block, 0)?;
    rustix::fs::fdatasync(file.as_fd())?;
    block.clear();
    block.resize(BLOCK_LEN, 0);
    file.read_exact_at(&mut block, 0)?;
    if block.iter().all(|byte| *byte == b'p') { Ok(()) } else { Err(Errno::OPNOTSUPP.into()) }
}

/// Reads `len` bytes at `offset` directly into `scratch`, by whole blocks; returns where they stand in it.
pub(super) fn read_blocks(
    file: &File,
    scratch: &mut BlockBuffer,
    offset: u64,
    len: usize,
) -> io::Result<std::ops::Range<usize>> {
    let skipped = (offset % BLOCK_LEN as u64) as usize;
    let blocks_len = (skipped + len).next_multiple_of(BLOCK_LEN);
    if scratch.len() < blocks_len {
        scratch.resize(blocks_len, 0);
    }
    file.read_exact_at(&mut scratch[..blocks_len], offset - skipped as u64)?;
    Ok(skipped..skipped + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_probed_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let writes = Writes::probe(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let path = directory.path().join("file");
        std::fs::write(&path, [7; 3 * BLOCK_LEN]).unwrap();
        assert_eq!(writes.open(&path).unwrap().is_some(), writes == Writes::Direct);
        assert!(Writes::probe(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn any_part_is_read_by_whole_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..4 * BLOCK_LEN).map(|at| ((at * 31) >> 3) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = Writes::probe(directory.path()).unwrap().open(&path).unwrap();
        let file = file.unwrap_or_else(|| File::open(&path).unwrap());
        let mut scratch = BlockBuffer::new();
        for (offset, len) in [(0, 1), (5, 0), (4095, 2), (4096, 4096), (1, 4 * BLOCK_LEN - 1), (8191, 4097)] {
            let range = read_blocks(&file, &mut scratch, offset as u64, len).unwrap();
            assert!(scratch[range] == content[offset..offset + len], "{len} at {offset}");
        }
        let behind_the_end = read_blocks(&file, &mut scratch, 4 * BLOCK_LEN as u64, 1);
        assert_eq!(behind_the_end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
