//! The file of the events and those before it: `path` is the newest, then `path.1` to `path.N`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::EventsConfig;

/// Others than the server's user and group learn nothing of mail.
const MODE: u32 = 0o640;

#[derive(Debug)]
pub(super) struct EventsFile {
    path: PathBuf,
    max_len: u64,
    keep: u32,
    /// `None` after an error: the next line opens it again.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
}

/// Lines that are not in the file.
#[derive(Debug)]
pub(super) struct Lost {
    pub lines_count: u64,
    pub error: io::Error,
}

impl EventsFile {
    /// Makes its directory too.
    pub(super) fn open(config: &EventsConfig) -> io::Result<Self> {
        let EventsConfig { path, max_size, keep, .. } = config;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let open = Some(Open::new(path)?);
        Ok(Self { path: path.clone(), max_len: *max_size, keep: *keep, open })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes whole lines behind those that are there. A file that would be too long becomes `path.1` first.
    pub(super) fn append(&mut self, mut lines: &[u8]) -> Result<(), Lost> {
        while !lines.is_empty() {
            lines = self.append_some(lines).map_err(|error| Lost {
                lines_count: memchr::memchr_iter(b'\n', lines).count() as u64,
                error,
            })?;
        }
        Ok(())
    }

    /// What is left over then.
    fn append_some<'a>(&mut self, lines: &'a [u8]) -> io::Result<&'a [u8]> {
        let mut open = match self.open.take().filter(|open| open.is_at(&self.path)) {
            Some(open) => open,
            None => Open::new(&self.path)?,
        };
        let mut fitting = fitting(lines, self.max_len.saturating_sub(open.len));
        if fitting.is_empty() && open.len > 0 {
            drop(open);
            self.rotate()?;
            open = Open::new(&self.path)?;
            fitting = self::fitting(lines, self.max_len);
        }
        // One that fits into no file has one of its own.
        if fitting.is_empty() {
            fitting = &lines[..memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1)];
        }
        open.file.write_all(fitting)?;
        open.len += fitting.len() as u64;
        self.open = Some(open);
        Ok(&lines[fitting.len()..])
    }

    fn rotate(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (0..self.keep).rev() {
            match fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        // To open a pipe would wait for who reads it.
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
        let mut len = file.metadata()?.len();
        // A crash, or a full disk, has cut the last line: what follows must not go on in it.
        if len > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                len += 1;
            }
        }
        Ok(Self { file, len })
    }

    /// Whether the path still leads to it: somebody may have moved it away.
    fn is_at(&self, path: &Path) -> bool {
        let place = |found: fs::Metadata| (found.dev(), found.ino());
        let here = self.file.metadata().map(place);
        here.is_ok_and(|here| fs::metadata(path).map(place).is_ok_and(|there| there == here))
    }
}

/// The whole lines at the front that `room` has room for.
fn fitting(lines: &[u8], room: u64) -> &[u8] {
    if lines.len() as u64 <= room {
        return lines;
    }
    let cut = &lines[..usize::try_from(room).unwrap_or(usize::MAX)];
    &cut[..memchr::memrchr(b'\n', cut).map_or(0, |at| at + 1)]
}

/// 0 is the newest.
fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The files that there are, oldest first. Those that a server rotates meanwhile are neither missed nor given twice.
///
/// # Errors
/// When one of them cannot be opened, with its path.
pub fn open_for_reading(config: &EventsConfig) -> Result<Vec<File>, (PathBuf, io::Error)> {
    let (mut files, mut known) = (Vec::new(), Vec::new());
    for number in 0..=config.keep {
        let path = rotated(&config.path, number);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((found, file)) => {
                let place = (found.dev(), found.ino());
                if !known.contains(&place) {
                    known.push(place);
                    files.push(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err((path, error)),
        }
    }
    files.reverse();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        config: EventsConfig,
    }

    impl Scene {
        fn new(max_size: u64, keep: u32) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("below/events.jsonl");
            Self { directory, config: EventsConfig { path, max_size, keep, addresses: false } }
        }

        /// By name.
        fn files(&self) -> Vec<(String, String)> {
            let entries = fs::read_dir(self.directory.path().join("below")).unwrap().map(Result::unwrap);
            let mut files: Vec<_> = entries
                .map(|entry| {
                    (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
                })
                .collect();
            files.sort();
            files
        }

        fn read(&self) -> String {
            let mut all = String::new();
            for mut file in open_for_reading(&self.config).unwrap() {
                file.read_to_string(&mut all).unwrap();
            }
            all
        }
    }

    fn pair(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    #[test]
    fn a_full_file_gives_way_to_the_next() {
        let scene = Scene::new(8, 2);
        let mut file = EventsFile::open(&scene.config).unwrap();
        file.append(b"111\n222\n333\n").unwrap();
        file.append(b"444\n").unwrap();
        file.append(b"too long for any\n555\n").unwrap();
        let expected = [
            pair("events.jsonl", "555\n"),
            pair("events.jsonl.1", "too long for any\n"),
            pair("events.jsonl.2", "333\n444\n"),
        ];
        assert_eq!(scene.files(), expected);
        assert_eq!(scene.read(), "333\n444\ntoo long for any\n555\n");
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_wanted() {
        let scene = Scene::new(8, 0);
        let mut file = EventsFile::open(&scene.config).unwrap();
        file.append(b"111\n222\n333\n").unwrap();
        assert_eq!(scene.files(), [pair("events.jsonl", "333\n")]);
    }

    #[test]
    fn a_line_that_was_cut_ends_before_the_next_begins() {
        let scene = Scene::new(100, 1);
        EventsFile::open(&scene.config).unwrap().append(b"111\n22").unwrap();
        EventsFile::open(&scene.config).unwrap().append(b"333\n").unwrap();
        assert_eq!(scene.read(), "111\n22\n333\n");
    }

    #[test]
    fn a_file_that_somebody_moved_away_is_made_anew() {
        let scene = Scene::new(100, 1);
        let mut file = EventsFile::open(&scene.config).unwrap();
        file.append(b"111\n").unwrap();
        fs::rename(&scene.config.path, scene.directory.path().join("below/mine")).unwrap();
        file.append(b"222\n").unwrap();
        assert_eq!(scene.files(), [pair("events.jsonl", "222\n"), pair("mine", "111\n")]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_next_may_be() {
        let scene = Scene::new(100, 1);
        let mut file = EventsFile::open(&scene.config).unwrap();
        fs::remove_file(&scene.config.path).unwrap();
        fs::create_dir(&scene.config.path).unwrap();
        let Lost { lines_count, error } = file.append(b"111\n222\n").unwrap_err();
        assert_eq!((lines_count, error.kind()), (2, io::ErrorKind::InvalidInput));
        fs::remove_dir(&scene.config.path).unwrap();
        file.append(b"333\n").unwrap();
        assert_eq!(scene.read(), "333\n");
    }
}
