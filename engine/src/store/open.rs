//! Opening a spool: what a former run left is checked before anything is changed, then put in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;

use super::acks;
use super::content::{ContentKeeper, FoundContent, content_path};
use super::direct::Writes;
use super::error::StoreError;
use super::handles::{ShardFeed, ShardHandles};
use super::keeper::Keeper;
use super::retention::Retention;
use super::root::{self, Lock};
use super::segment::{Segment, ack_path};
use super::shard::{self, Name, ShardDir};
use super::site;
use super::stock::{ShardPlan, Spare};
use super::storage::Marks;
use crate::limits::{READY_SEGMENTS_COUNT_MAX, SEGMENT_SIZE_MAX};
use crate::spool::batch::{BATCH_HEADER_LEN, BatchHeader};
use crate::spool::segment::{
    FIRST_BATCH_AT, HeaderFault, Role, SEGMENT_SIZE_DEFAULT, SegmentHeader, segment_size_min,
};
use crate::spool::{BLOCK_LEN, FORMAT_VERSION, ReadAt, block_end};

/// Epochs left out where a segment's own cannot be read: far more than are used up between two segments that can be.
const UNKNOWN_EPOCHS_COUNT: u64 = 1 << 20;

/// How a spool is to be kept.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    pub path: PathBuf,
    /// One for each worker. Directories of further shards are emptied and then removed.
    pub shards_count: u16,
    /// Bytes of each new segment; rounded up to whole blocks.
    pub segment_size: u64,
    /// Largest content of a record, in octets.
    pub max_message_size: u64,
    /// Segments each shard has ready for its worker, 1 to 4.
    pub ready_count: usize,
    /// How long delivered mail stays readable; `None`: until its file is needed.
    pub retention: Option<Retention>,
    /// When the disk has too little room for new mail.
    pub marks: Marks,
}

impl SpoolOptions {
    pub fn new(path: impl Into<PathBuf>, shards_count: u16, max_message_size: u64) -> Self {
        let segment_size = segment_size_min(max_message_size).max(SEGMENT_SIZE_DEFAULT);
        let ready_count = READY_SEGMENTS_COUNT_MAX;
        let (path, retention, marks) = (path.into(), None, Marks::default());
        Self { path, shards_count, segment_size, max_message_size, ready_count, retention, marks }
    }
}

/// An opened spool: locked, checked and recovered, with nothing running yet.
#[derive(Debug)]
pub struct Spool {
    options: SpoolOptions,
    lock: Lock,
    plans: Vec<ShardPlan>,
    writes: Writes,
}

/// A segment file as found.
struct FoundSegment {
    number: u32,
    path: PathBuf,
    file: File,
    len: u64,
    /// `None` where it is damaged.
    header: Option<SegmentHeader>,
    /// The disk does not give what has to be known of it.
    is_unreadable: bool,
}

impl Spool {
    /// Opens the spool, creates it if need be. Of each segment it reads the first two blocks and the last
    /// acknowledgement; how far the segments are filled is found when they are read. Fails without a change to any mail
    /// when another server holds the spool, or a newer version wrote to it.
    pub fn open(mut options: SpoolOptions) -> Result<Self, StoreError> {
        options.segment_size = block_end(options.segment_size);
        let (size, min) = (options.segment_size, segment_size_min(options.max_message_size));
        if size < min || size > SEGMENT_SIZE_MAX {
            return Err(StoreError::SegmentSize { size, min, max: SEGMENT_SIZE_MAX });
        }
        let path = options.path.clone();
        root::check_marker(&path)?;
        root::create_directory(&path)?;
        if let Some(file_system) = site::network_file_system(&path) {
            return Err(StoreError::Network { path, file_system });
        }
        let lock = root::lock(&path)?;
        // Again under the lock: another server may have been creating it.
        let version = root::check_marker(&path)?;
        let mut found = BTreeMap::new();
        for shard in root::shards(&path)? {
            found.insert(shard, find_segments(&path.join(shard::directory_name(shard)), shard)?);
        }
        for remark in site::survey(&path, options.shards_count, options.segment_size) {
            tracing::warn!(help = remark.help, "{}", remark.text);
        }
        // Everything has been read and is of a known version. From here on files change, and before the first segment
        // of the present version is written the marker says so: an older server is kept out.
        if version != Some(u32::from(FORMAT_VERSION)) {
            root::write_marker(&path)?;
        }
        root::sweep(&path).map_err(StoreError::io("remove delivered shards from", &path))?;
        let writes = Writes::probe(&path).map_err(StoreError::io("write to", &path))?;
        for shard in 0..options.shards_count {
            found.entry(shard).or_default();
        }
        let mut plans = Vec::new();
        for (shard, segments) in found {
            plans.extend(plan_shard(&options, writes, shard, segments)?);
        }
        Ok(Self { options, lock, plans, writes })
    }

    /// How its segments will be written, as a trial has shown.
    pub fn writes(&self) -> Writes {
        self.writes
    }

    /// Starts the keeper. The handles are those of shards 0 to `shards_count`, in order; a feed exists for
    /// every shard that is filled or still has mail.
    pub fn start(self) -> Result<(Keeper, Vec<ShardHandles>, Vec<ShardFeed>), StoreError> {
        let Self { options, lock, plans, .. } = self;
        let content = ContentKeeper::start(&options.path, &plans, options.marks)?;
        Keeper::start(lock, &options, plans, content)
    }
}

/// Reads the headers of a shard's segments, in order of their numbers.
fn find_segments(directory: &Path, shard: u16) -> Result<Vec<FoundSegment>, StoreError> {
    let mut names = shard::names(directory).map_err(StoreError::io("list", directory))?;
    names.sort_unstable_by_key(|name| name.number());
    let numbers = names.into_iter().filter_map(|name| match name {
        Name::Segment(number) => Some(number),
        _ => None,
    });
    let mut segments = Vec::new();
    for number in numbers {
        let path = directory.join(format!("{number:08}.seg"));
        let file = shard::open_options().open(&path).map_err(StoreError::io("open", &path))?;
        let len = file.metadata().map_err(StoreError::io("read", &path))?.len();
        let (header, is_unreadable) = match read_header(&file, len, shard, number) {
            Ok(Ok(header)) => (Some(header), false),
            Ok(Err(fault)) => match StoreError::header(&path, fault) {
                Some(error) => return Err(error),
                None => (None, false),
            },
            Err(error) if is_of_disk(&error) => (None, true),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        segments.push(FoundSegment { number, path, file, len, header, is_unreadable });
    }
    Ok(segments)
}

/// Whether a disk says by this error that it has lost something. Of others an operator can remove the cause.
pub(super) fn is_of_disk(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::NODATA | Errno::REMOTEIO | Errno::ILSEQ)
    )
}

/// The header of a segment's file, from its first batch where both copies are lost.
pub(super) fn read_header(
    file: &File,
    len: u64,
    shard: u16,
    number: u32,
) -> io::Result<Result<SegmentHeader, HeaderFault>> {
    #[cfg(test)]
    super::tests::trouble::fail_read(number)?;
    let mut blocks = vec![0; usize::try_from(len.min(2 * BLOCK_LEN)).unwrap_or(0)];
    ReadAt::read_exact_at(file, &mut blocks, 0)?;
    let (first, second) = blocks.split_at(blocks.len().min(BLOCK_LEN as usize));
    let parsed = SegmentHeader::parse(first);
    if parsed != Err(HeaderFault::Damaged) {
        return Ok(parsed);
    }
    let salvaged = SegmentHeader::salvage(second, shard, number, len).ok_or(HeaderFault::Damaged);
    if salvaged.is_ok() {
        tracing::error!(shard, number, "a segment's header is unreadable; taken from its first batch");
    }
    Ok(salvaged)
}

/// The shard's files of large messages.
fn find_content(dir: &ShardDir, names: &[Name]) -> FoundContent {
    let mut found = FoundContent::default();
    for name in names {
        let Name::Content(number) = *name else { continue };
        found.last_number = found.last_number.max(number);
        // Content has a trace field at the least. One whose length cannot be read is no reason to give it up.
        if content_path(&dir.path, number).metadata().is_ok_and(|metadata| metadata.len() == 0) {
            found.empty.push(number);
        } else {
            found.unnamed.insert(number);
        }
    }
    found
}

/// Sorts one shard's segments. `None` for one that is neither filled nor holds anything: it is removed.
fn plan_shard(
    options: &SpoolOptions,
    writes: Writes,
    shard: u16,
    segments: Vec<FoundSegment>,
) -> Result<Option<ShardPlan>, StoreError> {
    let active = shard < options.shards_count;
    let directory = options.path.join(shard::directory_name(shard));
    let dir = ShardDir::open(&options.path, shard, writes).map_err(StoreError::io("open", &directory))?;
    let names = dir.names().map_err(StoreError::io("list", &directory))?;
    for number in shard::missing(&names) {
        let path = dir.segment_path(number);
        tracing::error!(path = %path.display(), "a segment is gone, and with it what mail in it was not delivered: its \
            acknowledgements are there without it");
    }
    dir.sweep().map_err(StoreError::io("clean up", &directory))?;
    let names = dir.names().map_err(StoreError::io("list", &directory))?;
    let numbers = names.iter().filter(|name| !matches!(name, Name::Content(_))).map(|name| name.number());
    let next_number = numbers.max().map_or(1, |last| last + 1);
    let set_aside_epochs = names.iter().filter_map(|name| match name {
        Name::SetAside(number) => set_aside_epoch(&dir.segment_path(*number).with_extension("damaged")),
        _ => None,
    });
    let epochs = segments.iter().filter_map(|segment| Some(segment.header?.epoch));
    let newest_epoch = epochs.chain(set_aside_epochs).max().unwrap_or(0);
    let mut sorted = Sorted::default();
    let mut has_damage = names.iter().any(|name| matches!(name, Name::SetAside(_)));
    for segment in segments {
        if segment.is_unreadable {
            sorted.leave_alone(&segment.path);
        } else if segment.header.is_none() {
            let path = &segment.path;
            tracing::error!(path = %path.display(), "neither the segment's header nor its first batch is readable; set aside");
            dir.set_aside(segment.number).map_err(StoreError::io("rename", path))?;
            has_damage = true;
        }
        sorted.take(segment, active)?;
    }
    let Sorted { mut recovered, mut deferred, spares, delivered, unread, unreadable_count } = sorted;
    has_damage |= unreadable_count > 0;
    // Above whatever such a segment has: an epoch that came again would make of its mail another's.
    let newest_epoch = newest_epoch + if unreadable_count > 0 { UNKNOWN_EPOCHS_COUNT } else { 0 };
    recovered.sort_by_key(|segment| segment.epoch);
    deferred.sort_by_key(|segment| segment.epoch);
    let is_retained = options.retention.is_some() && !delivered.is_empty();
    if !active && recovered.is_empty() && deferred.is_empty() && !has_damage && !is_retained {
        root::remove_shard(&options.path, &directory).map_err(StoreError::io("remove", &directory))?;
        return Ok(None);
    }
    if !recovered.is_empty() {
        tracing::info!(shard, segments_count = recovered.len(), "mail of a former run is left to deliver");
    }
    let content = FoundContent { has_damage, ..find_content(&dir, &names) };
    Ok(Some(ShardPlan {
        dir,
        active,
        recovered,
        deferred,
        spares,
        delivered,
        unread,
        unreadable_count,
        content,
        next_number,
        newest_epoch,
    }))
}

/// A shard's segments by what is to be done with them: see [`ShardPlan`].
#[derive(Default)]
struct Sorted {
    recovered: Vec<Arc<Segment>>,
    deferred: Vec<Arc<Segment>>,
    spares: Vec<Spare>,
    delivered: Vec<(Spare, SystemTime)>,
    unread: Vec<Segment>,
    unreadable_count: u64,
}

impl Sorted {
    /// The other segments of the shard are served; the next start tries again.
    fn leave_alone(&mut self, path: &Path) {
        self.unreadable_count += 1;
        tracing::error!(
            path = %path.display(),
            "a segment cannot be read: what mail waits in it waits on, all other mail is served. See the kernel's log for \
             the state of the disk, copy the segment while that is possible, and start again"
        );
    }

    /// Does nothing with a segment that has no header. `active`: a worker fills the shard.
    fn take(&mut self, found: FoundSegment, active: bool) -> Result<(), StoreError> {
        let path = found.path.clone();
        match self.try_take(found, active) {
            Err(error) if is_of_disk(&error) => {
                self.leave_alone(&path);
                Ok(())
            }
            taken => taken.map_err(StoreError::io("read", &path)),
        }
    }

    fn try_take(&mut self, found: FoundSegment, active: bool) -> io::Result<()> {
        let FoundSegment { number, path, file, len, header: Some(header), .. } = found else { return Ok(()) };
        if is_truncated(&header, len) {
            let capacity = header.capacity;
            tracing::error!(path = %path.display(), len, capacity, "a segment was cut short; what mail stood behind is lost");
        }
        let acks_path = ack_path(&path);
        if acks::is_complete(&acks_path, header.epoch)? {
            let spare = Spare { number, epoch: header.epoch, capacity: header.capacity.min(len) };
            match acknowledged_at(&path) {
                Some(since) => self.delivered.push((spare, since)),
                None => self.spares.push(spare),
            }
            return Ok(());
        }
        let begins_with_mail = begins_with_batch(&file, &header)?;
        let segment = Segment::former(&header, path, file);
        // Never filled, as those that were ready when the server stopped: but only all of the file tells. Deferred
        // segments are read beside the service anyway.
        if !begins_with_mail && active && header.role == Role::Intake {
            self.unread.push(segment);
            return Ok(());
        }
        if !begins_with_mail && !active {
            segment.recover()?;
            if segment.committed() == FIRST_BATCH_AT {
                self.spares.push(Spare::of(&segment));
                return Ok(());
            }
        }
        match header.role {
            Role::Intake => self.recovered.push(Arc::new(segment)),
            // Which of their records count only all of them together tell.
            Role::Deferred => self.deferred.push(Arc::new(segment)),
        }
        Ok(())
    }
}

/// Whether a file is shorter than it was made. One of which the server wants only the header has a single block.
pub(super) fn is_truncated(header: &SegmentHeader, len: u64) -> bool {
    len < header.capacity && len != BLOCK_LEN
}

/// Whether the first batch of the segment is there. Where it is not, later ones may be: writes may have been under way
/// when a crash came, and the first is not always the first to arrive.
fn begins_with_batch(file: &File, header: &SegmentHeader) -> io::Result<bool> {
    let mut bytes = [0; BATCH_HEADER_LEN];
    match ReadAt::read_exact_at(file, &mut bytes, FIRST_BATCH_AT) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    Ok(BatchHeader::parse(&bytes, FIRST_BATCH_AT).is_some_and(|batch| batch.stamp == header.stamp()))
}

/// When the last acknowledgement of a segment was written, as far as the file system tells.
fn acknowledged_at(path: &Path) -> Option<SystemTime> {
    ack_path(path).metadata().and_then(|metadata| metadata.modified()).ok()
}

/// The epoch of a segment that was set aside; `None` where its header is part of the damage.
fn set_aside_epoch(path: &Path) -> Option<u64> {
    let mut block = [0; BLOCK_LEN as usize];
    ReadAt::read_exact_at(&File::open(path).ok()?, &mut block, 0).ok()?;
    SegmentHeader::parse(&block).ok().map(|header| header.epoch)
}
