//! Messages from a directory: each file is one.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::limits::{CORPUS_FILES_COUNT_MAX, CORPUS_LEN_MAX};

/// Why a corpus cannot be used; each names the file, or the directory.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: no file to send in it; files whose name begins with a dot and directories do not count", .0.display())]
    None(PathBuf),
    #[error("{}: more than {CORPUS_FILES_COUNT_MAX} files", .0.display())]
    TooMany(PathBuf),
    #[error("{}: empty, and an empty file is no message", .0.display())]
    Empty(PathBuf),
    #[error("{}: with it the corpus is larger than {CORPUS_LEN_MAX} octets, which all are kept in memory", .0.display())]
    TooLarge(PathBuf),
    #[error("{}: line {line} has an octet above 127, which needs `--body 8bitmime` (RFC 6152)", path.display())]
    EightBit { path: PathBuf, line: usize },
}

/// The octets of the files in `directory`, in the order of their names.
pub fn load(directory: &Path, eight_bit: bool) -> Result<Vec<Vec<u8>>, CorpusError> {
    let mut left = CORPUS_LEN_MAX;
    let mut files = Vec::new();
    for path in paths(directory)? {
        let failed = |error| CorpusError::Io { path: path.clone(), error };
        let mut octets = Vec::new();
        // One more than there is room for is enough to know, whatever the file grows to.
        let read_len = fs::File::open(&path)
            .and_then(|file| file.take(left + 1).read_to_end(&mut octets))
            .map_err(failed)?;
        left = left.checked_sub(read_len as u64).ok_or_else(|| CorpusError::TooLarge(path.clone()))?;
        if octets.is_empty() {
            return Err(CorpusError::Empty(path));
        }
        if let (false, Some(at)) = (eight_bit, octets.iter().position(|octet| !octet.is_ascii())) {
            let line = octets[..at].iter().filter(|&&octet| octet == b'\n').count() + 1;
            return Err(CorpusError::EightBit { path, line });
        }
        files.push(octets);
    }
    if files.is_empty() { Err(CorpusError::None(directory.to_owned())) } else { Ok(files) }
}

fn paths(directory: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    let failed = |error| CorpusError::Io { path: directory.to_owned(), error };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // Behind links, too; what is neither a file nor a directory would be waited for, perhaps for ever.
        let kind = fs::metadata(&path).map_err(|error| CorpusError::Io { path: path.clone(), error })?;
        if !hidden && kind.is_file() {
            paths.push(path);
        }
        if paths.len() > CORPUS_FILES_COUNT_MAX {
            return Err(CorpusError::TooMany(directory.to_owned()));
        }
    }
    paths.sort();
    Ok(paths)
}
