//! One shard's directory and what is done to its files. Each step leaves a state that [`super::Spool::open`]
//! understands; the names S0 to S9 are those of `engine/docs/spool-format.md`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringmx_ring::BlockBuffer;
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};

use super::direct::Writes;
use super::loans::Loans;
use super::segment::{Segment, ack_path};
use crate::spool::BLOCK_LEN;
use crate::spool::segment::SegmentHeader;

/// Bytes of zeros written at once into a new segment.
const ZEROS_LEN: usize = 4 << 20;

/// A shard's directory, held open so that names in it can be made durable.
#[derive(Debug)]
pub(super) struct ShardDir {
    pub shard: u16,
    pub path: PathBuf,
    dir: File,
    writes: Writes,
    loans: Arc<Loans>,
}

/// What a name in a shard's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Segment(u32),
    Ack(u32),
    /// A segment whose creation was not finished: never used.
    New(u32),
    /// A segment with damage, set aside.
    SetAside(u32),
    /// A segment being removed: all of its mail was delivered.
    Gone(u32),
    /// The content of a large message. These files have numbers of their own.
    Content(u32),
}

impl Name {
    /// `None` for what ringmx did not put there.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, extension) = name.split_once('.')?;
        let number =
            Some(number).filter(|digits| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit()));
        let number = number?.parse().ok()?;
        match extension {
            "seg" => Some(Self::Segment(number)),
            "ack" => Some(Self::Ack(number)),
            "new" => Some(Self::New(number)),
            "damaged" => Some(Self::SetAside(number)),
            "gone" => Some(Self::Gone(number)),
            "content" => Some(Self::Content(number)),
            _ => None,
        }
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Self::Segment(number)
            | Self::Ack(number)
            | Self::New(number)
            | Self::SetAside(number)
            | Self::Gone(number)
            | Self::Content(number) => number,
        }
    }
}

/// The name of a shard's directory.
pub(super) fn directory_name(shard: u16) -> String {
    format!("shard-{shard:03}")
}

/// The shard of a directory's name.
pub(super) fn parse_directory_name(name: &str) -> Option<u16> {
    let shard = name.strip_prefix("shard-")?.parse().ok()?;
    (directory_name(shard) == name).then_some(shard)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    sync_names(&File::open(path)?)
}

fn sync_names(directory: &File) -> io::Result<()> {
    if cfg!(ringmx_mutant = "no_directory_sync") { Ok(()) } else { directory.sync_all() }
}

/// Makes a segment's header durable, and of a new file its blocks too, before the first batch of its epoch.
fn sync_first(file: &File) -> io::Result<()> {
    if cfg!(ringmx_mutant = "no_segment_sync") { Ok(()) } else { file.sync_all() }
}

impl ShardDir {
    /// Opens the directory of a shard, creates it if need be. The name is durable when this returns.
    pub(super) fn open(spool: &Path, shard: u16, writes: Writes) -> io::Result<Self> {
        let path = spool.join(directory_name(shard));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync_directory(spool)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let dir = File::open(&path)?;
        Ok(Self { shard, path, dir, writes, loans: Arc::new(Loans::new()) })
    }

    pub(super) fn writes(&self) -> Writes {
        self.writes
    }

    /// What the shard's worker has lent to its reader.
    pub(super) fn loans(&self) -> &Arc<Loans> {
        &self.loans
    }

    fn fresh(&self, header: &SegmentHeader, path: PathBuf, file: File, direct: Option<File>) -> Segment {
        Segment::fresh(header, path, file).with_writer(direct, Arc::clone(&self.loans))
    }

    pub(super) fn segment_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:08}.seg"))
    }

    /// Creates a segment's file with all its blocks, so that a later write to it allocates nothing: it cannot
    /// meet a full disk, and a durable write changes no metadata.
    pub(super) fn create(&self, header: &SegmentHeader) -> io::Result<Segment> {
        let path = self.segment_path(header.number);
        let new_path = path.with_extension("new");
        // S1: the file exists under a name that says it is not finished.
        let file = open_options().create(true).truncate(true).open(&new_path)?;
        let direct = self.writes.open(&new_path)?;
        let created = write_blocks(direct.as_ref().unwrap_or(&file), header)
            // S2: its acknowledgements are empty, whatever an earlier file of this number left.
            .and_then(|()| open_options().create(true).truncate(true).open(ack_path(&path)))
            // S3: complete under its own name; S4 once that is durable.
            .and_then(|_| fs::rename(&new_path, &path))
            .and_then(|()| sync_names(&self.dir));
        if let Err(error) = created {
            // Gives the blocks back to a full disk. If this fails too, the next start removes the file.
            if fs::remove_file(&new_path).is_ok() {
                drop(fs::remove_file(ack_path(&path)));
            }
            return Err(error);
        }
        if direct.is_none() {
            // Zeros nobody will read need no memory.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        Ok(self.fresh(header, path, file, direct))
    }

    /// Gives a wholly acknowledged file a new epoch. All its batches are void once the header is durable
    /// (S6).
    pub(super) fn recycle(&self, header: &SegmentHeader) -> io::Result<Segment> {
        let path = self.segment_path(header.number);
        let file = open_options().open(&path)?;
        let direct = self.writes.open(&path)?;
        match &direct {
            Some(direct) => write_durably(direct, &blocks(header, BLOCK_LEN as usize))?,
            None => {
                file.write_all_at(&header.encode(), 0)?;
                sync_first(&file)?;
            }
        }
        // Only now: acknowledgements of the old epoch guard its records until the header is durable. They
        // need not be gone durably, entries of another epoch count for nothing.
        open_options().create(true).truncate(true).open(ack_path(&path))?;
        Ok(self.fresh(header, path, file, direct))
    }

    /// Removes a segment and its acknowledgements. They go only when no start can find the records without them, and
    /// the new name goes last (S8): acknowledgements alone are then never ours, but tell that somebody removed mail.
    pub(super) fn delete(&self, number: u32) -> io::Result<()> {
        let path = self.segment_path(number);
        fs::rename(&path, path.with_extension("gone"))?;
        sync_names(&self.dir)?;
        remove_if_there(&ack_path(&path))?;
        sync_names(&self.dir)?;
        fs::remove_file(path.with_extension("gone"))
    }

    /// Gives back the space of a wholly acknowledged segment but keeps its header. Needs no space itself.
    pub(super) fn cut(&self, number: u32) -> io::Result<()> {
        let file = open_options().open(self.segment_path(number))?;
        file.set_len(BLOCK_LEN)?;
        file.sync_all()
    }

    /// Keeps a damaged segment under a name that no start reads.
    pub(super) fn set_aside(&self, number: u32) -> io::Result<PathBuf> {
        let path = self.segment_path(number);
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside)?;
        sync_names(&self.dir)?;
        remove_if_there(&ack_path(&path))?;
        Ok(aside)
    }

    /// The names ringmx gave in this directory, in no order.
    pub(super) fn names(&self) -> io::Result<Vec<Name>> {
        names(&self.path)
    }

    /// Removes what an interrupted creation or deletion left: acknowledgements of no segment first, so that they are
    /// never alone (see [`missing`]), then unfinished and former segments.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let names = self.names()?;
        for name in &names {
            match *name {
                Name::Ack(number) if !names.contains(&Name::Segment(number)) => {
                    remove_if_there(&ack_path(&self.segment_path(number)))?;
                }
                _ => {}
            }
        }
        sync_names(&self.dir)?;
        for name in &names {
            match *name {
                Name::New(number) => fs::remove_file(self.segment_path(number).with_extension("new"))?,
                Name::Gone(number) => fs::remove_file(self.segment_path(number).with_extension("gone"))?,
                _ => {}
            }
        }
        sync_names(&self.dir)
    }
}

/// The names ringmx gave in a shard's directory, in no order.
pub(super) fn names(path: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.extend(entry?.file_name().to_str().and_then(Name::parse));
    }
    Ok(names)
}

pub(super) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A link would have the server write to a file that is not of the spool.
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Header first, then zeros to the end: written once, so that no block is left in the state "allocated,
/// unwritten", which the first durable write to it would have to change.
fn write_blocks(file: &File, header: &SegmentHeader) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, header.capacity) {
        // Not every file system can; the zeros below allocate as well.
        Err(rustix::io::Errno::OPNOTSUPP) | Ok(()) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut bytes = blocks(header, ZEROS_LEN);
    let mut at = 0;
    while at < header.capacity {
        let len = usize::try_from(header.capacity - at).unwrap_or(usize::MAX).min(ZEROS_LEN);
        file.write_all_at(&bytes[..len], at)?;
        if at == 0 {
            bytes.clear();
            bytes.resize(ZEROS_LEN, 0);
        }
        at += len as u64;
    }
    sync_first(file)
}

/// The header and zeros behind it, aligned as a direct write wants it.
fn blocks(header: &SegmentHeader, len: usize) -> BlockBuffer {
    let mut bytes = BlockBuffer::new();
    bytes.extend_from_slice(&header.encode());
    bytes.resize(len, 0);
    bytes
}

/// A write at the beginning of the file that is on stable storage when it returns. It changes no length, so unlike a
/// sync of the file it asks the file system's journal for nothing: a keeper that recycles keeps up with a busy disk.
fn write_durably(file: &File, bytes: &[u8]) -> io::Result<()> {
    let flags =
        if cfg!(ringmx_mutant = "no_segment_sync") { ReadWriteFlags::empty() } else { ReadWriteFlags::DSYNC };
    let written_len = pwritev2(file, &[IoSlice::new(bytes)], 0, flags)?;
    if written_len == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Numbers of segments that are not there although their acknowledgements are, of these names: the server leaves no
/// such state, not for a moment.
pub(super) fn missing(names: &[Name]) -> impl Iterator<Item = u32> {
    let alone = |number| {
        let there = [Name::Segment(number), Name::New(number), Name::SetAside(number), Name::Gone(number)];
        !there.iter().any(|name| names.contains(name))
    };
    names.iter().filter_map(move |name| match *name {
        Name::Ack(number) => alone(number).then_some(number),
        _ => None,
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
