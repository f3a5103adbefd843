//! `ringmx spool`: reads a spool without the lock and without a change, also while a server runs.
//!
//! A file may be recycled under the reader's eyes. So the header is read again after the acknowledgements and
//! after a walk; when its epoch has changed, all records of the former epoch were delivered or deferred meanwhile. So
//! the intake's segments are read first: what is deferred meanwhile is found among the deferred.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::acks::AckSet;
use super::content::{ContentReader, content_path};
use super::error::StoreError;
use super::open::{is_of_disk, is_truncated, read_header};
use super::overlay::Overlay;
use super::reader::describe;
use super::root;
use super::segment::ack_path;
use super::shard::{self, Name};
use crate::id::MessageId;
use crate::spool::ack::AckKind;
use crate::spool::commit::Place;
use crate::spool::content_ref::ContentRef;
use crate::spool::record::{Record, RecordKind};
use crate::spool::recover::{Extent, recover};
use crate::spool::segment::{HeaderFault, Role, SegmentHeader};
use crate::spool::walk::{Found, Walk};
use crate::spool::{BLOCK_LEN, ReadAt};

/// Octets of a large message read at once.
const CAT_PIECE_LEN: usize = 256 << 10;

/// Whether a record still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Undelivered,
    /// Delivered, discarded or failed for good; its file has not been used again yet.
    Delivered,
    /// In a damaged segment that was set aside: see [`super::list_set_aside`].
    SetAside,
}

/// One message in the spool.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    pub id: MessageId,
    /// In microseconds since 1970.
    pub received_unix_us: u64,
    pub state: State,
    /// In its stored form.
    pub envelope: &'a [u8],
    /// CRLF line ends, trace field in front; empty where it has a file of its own.
    pub content: &'a [u8],
    /// The file that holds the content of a large message.
    pub content_file: Option<ContentRef>,
    pub shard: u16,
    /// Of the segment.
    pub epoch: u64,
    pub path: &'a Path,
    /// In the file at `path`.
    pub offset: u64,
}

/// Something [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Mail is damaged or lost. Otherwise a trace of a crash that harmed nobody.
    pub is_error: bool,
    pub path: PathBuf,
    /// In the file.
    pub offset: u64,
    /// The message concerned, where it can be told.
    pub id: Option<MessageId>,
    pub text: String,
}

/// What [`stat`] tells of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStat {
    pub shard: u16,
    /// Files of segments, those without mail included.
    pub segments_count: u64,
    /// Of those files and those of large messages.
    pub bytes: u64,
    pub records_count: u64,
    pub undelivered_count: u64,
    /// Damaged segments set aside.
    pub set_aside_count: u64,
    /// Files that hold the content of large messages.
    pub content_files_count: u64,
}

/// A segment as it was when its acknowledgements were read.
pub(super) struct View {
    shard: u16,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) header: SegmentHeader,
    extent: Extent,
    pub(super) acks: AckSet,
}

/// Visits each message once: by shard, first the intake's, then what was deferred, oldest segment first, until `visit`
/// breaks. Returns how many stretches were damaged, each of which may have held messages; [`verify`] tells where.
pub fn list(path: &Path, visit: &mut dyn FnMut(&Listed<'_>) -> ControlFlow<()>) -> Result<u64, StoreError> {
    let mut damages_count = 0;
    for shard in shards(path)? {
        // A message may be deferred between the two: it is not told twice.
        let mut told = HashSet::new();
        let segments = segments(path, shard)?;
        for SegmentFile { path, .. } in segments.iter().filter(|segment| segment.role == Role::Intake) {
            let Some(view) = View::open(path, shard)? else {
                damages_count += u64::from(path.exists());
                continue;
            };
            let flow = view.list(&mut damages_count, &mut |record| {
                let state = match view.acks.kind(record.offset_in_segment, record.meta.id) {
                    Some(AckKind::Moved) => return Ok(ControlFlow::Continue(())),
                    Some(_) => State::Delivered,
                    None => State::Undelivered,
                };
                if state == State::Undelivered {
                    told.insert(record.meta.id);
                }
                Ok(visit(&view.listed(record, state, record.envelope)))
            })?;
            if flow.is_break() {
                return Ok(damages_count);
            }
        }
        let overlay = Overlay::read(path, shard)?;
        if list_deferred(&overlay, &told, &mut damages_count, visit)?.is_break() {
            break;
        }
    }
    Ok(damages_count)
}

fn list_deferred(
    overlay: &Overlay,
    told: &HashSet<MessageId>,
    damages_count: &mut u64,
    visit: &mut dyn FnMut(&Listed<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    for view in overlay.views() {
        let flow = view.list(damages_count, &mut |record| {
            let place = Place { epoch: view.header.epoch, offset: record.offset_in_segment };
            let state = match view.acks.kind(place.offset, record.meta.id) {
                _ if told.contains(&record.meta.id) => return Ok(ControlFlow::Continue(())),
                Some(AckKind::Moved) => return Ok(ControlFlow::Continue(())),
                Some(_) => State::Delivered,
                None if overlay.is_live(place) => State::Undelivered,
                None => return Ok(ControlFlow::Continue(())),
            };
            let envelope = overlay.envelope(place)?;
            Ok(visit(&view.listed(record, state, envelope.as_deref().unwrap_or(record.envelope))))
        })?;
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Listed<'_> {
    /// Octets of content.
    pub fn content_len(&self) -> u64 {
        self.content_file.map_or(self.content.len() as u64, |file| file.len)
    }

    /// Reads content that has a file of its own, so that [`Self::write_content`] gives out nothing that is damaged.
    ///
    /// # Errors
    /// Names the file. It may also be gone because the message was delivered since it was listed.
    pub fn check_content(&self) -> io::Result<()> {
        let Some(file) = self.content_file else { return Ok(()) };
        ContentReader::open(self.directory(), file)
            .and_then(ContentReader::check)
            .map_err(self.unreadable(file))
    }

    /// Writes the exact content: CRLF line ends, no dot-stuffing, trace field in front. What is in the record has been
    /// checked.
    pub fn write_content(&self, out: &mut dyn io::Write) -> io::Result<()> {
        if let Some(file) = self.content_file {
            let mut reader = ContentReader::open(self.directory(), file).map_err(self.unreadable(file))?;
            let mut piece = Vec::new();
            while reader.next(&mut piece, CAT_PIECE_LEN).map_err(self.unreadable(file))? {
                out.write_all(&piece)?;
            }
        }
        out.write_all(self.content)
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    fn unreadable(&self, file: ContentRef) -> impl Fn(io::Error) -> io::Error {
        let path = content_path(self.directory(), file.number);
        move |error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
    }
}

/// Reads everything and returns what is not as it should be.
pub fn verify(path: &Path) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for shard in shards(path)? {
        let directory = path.join(shard::directory_name(shard));
        let names_before = names(&directory)?;
        for name in foreign(&directory)? {
            let text = "not a file of the spool; left alone".into();
            findings.push(Finding { is_error: false, path: name, offset: 0, id: None, text });
        }
        for &name in &names_before {
            if let Name::SetAside(number) = name {
                let path = directory.join(format!("{number:08}.damaged"));
                let text =
                    "a damaged segment, set aside; move it away once nothing more is wanted from it".into();
                findings.push(Finding { is_error: true, path, offset: 0, id: None, text });
            }
        }
        for segment in segments(path, shard)? {
            findings.extend(verify_segment(&segment.path, shard)?);
        }
        // Twice: a name that a server changes while the directory is read can be missed.
        let names_after = names(&directory)?;
        let missing_after: Vec<u32> = shard::missing(&names_after).collect();
        for number in shard::missing(&names_before).filter(|number| missing_after.contains(number)) {
            let path = directory.join(format!("{number:08}.seg"));
            let text = "the segment is gone, and with it what mail in it was not delivered: its acknowledgements are \
                        there without it";
            findings.push(Finding { is_error: true, path, offset: 0, id: None, text: text.into() });
        }
    }
    Ok(findings)
}

/// Counts what each shard holds. Reads the headers of batches, and deferred mail whole.
pub fn stat(path: &Path) -> Result<Vec<ShardStat>, StoreError> {
    let mut stats = Vec::new();
    for shard in shards(path)? {
        let mut stat = ShardStat { shard, ..ShardStat::default() };
        let names = names(&path.join(shard::directory_name(shard)))?;
        stat.set_aside_count = names.iter().filter(|name| matches!(name, Name::SetAside(_))).count() as u64;
        for name in &names {
            let Name::Content(number) = *name else { continue };
            // Gone meanwhile, perhaps; those without content are ready for the next message.
            let file = content_path(&path.join(shard::directory_name(shard)), number).metadata();
            let len = file.map_or(0, |file| file.len());
            stat.content_files_count += u64::from(len > 0);
            stat.bytes += len;
        }
        for SegmentFile { path, role, .. } in segments(path, shard)? {
            let Some(view) = View::open(&path, shard)? else { continue };
            stat.segments_count += 1;
            stat.bytes += view.file.metadata().map_err(StoreError::io("read", &path))?.len();
            if role == Role::Deferred {
                continue;
            }
            stat.records_count += view.extent.records_count;
            stat.undelivered_count +=
                view.extent.records_count.saturating_sub(view.acks.count_below(view.extent.end));
        }
        let deferred_count = Overlay::read(path, shard)?.len() as u64;
        stat.records_count += deferred_count;
        stat.undelivered_count += deferred_count;
        stats.push(stat);
    }
    Ok(stats)
}

impl View {
    /// Visits the messages of this segment, and counts its damaged stretches.
    fn list(
        &self,
        damages_count: &mut u64,
        visit: &mut dyn FnMut(&Record<'_>) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let (mut walk, mut damages_here_count) = (Walk::new(&self.header), 0);
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue()
            && let Some(found) = self.next(&mut walk)?
        {
            match found {
                Found::Damage(damage) => {
                    damages_here_count += u64::from(damage.offset < self.extent.watermark);
                }
                Found::Record(record) if record.meta.kind != RecordKind::Update => flow = visit(&record)?,
                Found::Record(_) => {}
            }
        }
        // Not where a server has used the file again meanwhile.
        if damages_here_count > 0 && self.is_current().map_err(StoreError::io("read", &self.path))? {
            *damages_count += damages_here_count;
        }
        Ok(flow)
    }

    fn listed<'a>(&'a self, record: &Record<'a>, state: State, envelope: &'a [u8]) -> Listed<'a> {
        Listed {
            id: record.meta.id,
            received_unix_us: record.meta.received_unix_us,
            state,
            envelope,
            content: inline_content(record),
            content_file: ContentRef::of(record),
            shard: self.shard,
            epoch: self.header.epoch,
            path: &self.path,
            offset: record.offset_in_segment,
        }
    }

    /// `None` where the file is gone or its header unreadable.
    pub(super) fn open(path: &Path, shard: u16) -> Result<Option<Self>, StoreError> {
        match Self::try_open(path, shard) {
            Ok(Some(Ok(view))) => Ok(Some(view)),
            Ok(None) => Ok(None),
            Ok(Some(Err(fault))) => StoreError::header(path, fault).map_or(Ok(None), Err),
            Err(error) if is_of_disk(&error) => Ok(None),
            Err(error) => Err(StoreError::io("read", path)(error)),
        }
    }

    fn try_open(path: &Path, shard: u16) -> io::Result<Option<Result<Self, HeaderFault>>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let len = file.metadata()?.len();
        let number = number(path);
        loop {
            let header = match read_header(&file, len, shard, number)? {
                Ok(header) => header,
                Err(fault) => return Ok(Some(Err(fault))),
            };
            let extent = recover(&file, &header, len)?;
            let acks = AckSet::load_file(&ack_path(path), header.epoch)?;
            let view = Self { shard, path: path.to_owned(), file: file.try_clone()?, header, extent, acks };
            if view.is_current()? {
                return Ok(Some(Ok(view)));
            }
        }
    }

    /// Whether the file still carries the epoch of this view.
    fn is_current(&self) -> io::Result<bool> {
        let len = self.file.metadata()?.len();
        let header = read_header(&self.file, len, self.shard, self.header.number)?;
        Ok(header.is_ok_and(|header| header.epoch == self.header.epoch))
    }

    pub(super) fn next<'a>(&self, walk: &'a mut Walk) -> Result<Option<Found<'a>>, StoreError> {
        walk.next(&self.file, self.extent.end).map_err(StoreError::io("read", &self.path))
    }
}

fn verify_segment(path: &Path, shard: u16) -> Result<Vec<Finding>, StoreError> {
    let finding = |is_error, offset, id, text| Finding { is_error, path: path.to_owned(), offset, id, text };
    let Some(view) = View::open(path, shard)? else {
        let text = "neither the segment's header nor its first batch is readable".into();
        return Ok(if path.exists() { vec![finding(true, 0, None, text)] } else { Vec::new() });
    };
    let mut findings = Vec::new();
    let mut block = [0; BLOCK_LEN as usize];
    ReadAt::read_exact_at(&view.file, &mut block, 0).map_err(StoreError::io("read", path))?;
    let (first, second) = block.split_at(block.len() / 2);
    if first != second || SegmentHeader::parse(&block).is_err() {
        findings.push(finding(
            false,
            0,
            None,
            "a copy of the segment's header, or what stands beside it, is damaged".into(),
        ));
    }
    let len = view.file.metadata().map_err(StoreError::io("read", path))?.len();
    if is_truncated(&view.header, len) {
        let text =
            format!("the file is {} octets short; what mail stood there is lost", view.header.capacity - len);
        findings.push(finding(true, len, None, text));
    }
    let mut walk = Walk::new(&view.header);
    while let Some(found) = view.next(&mut walk)? {
        if let Found::Record(record) = &found
            && !view.acks.contains(record.offset_in_segment, record.meta.id)
        {
            findings.extend(verify_content(&view, record).map_err(StoreError::io("read", path))?);
        }
        if let Found::Damage(damage) = found {
            let is_error = damage.offset < view.extent.watermark;
            let mut text = describe(&damage);
            if !is_error {
                text += ": a write that is under way, or was when the server stopped, and that no client got a 250 \
                         for; or damage to what was written last";
            }
            findings.push(finding(is_error, damage.offset, damage.meta.map(|meta| meta.id), text));
        }
    }
    for &offset in &view.acks.unreadable {
        let text = "an unreadable acknowledgement; the message it stood for may be delivered again".into();
        findings.push(Finding { path: ack_path(path), ..finding(false, offset, None, text) });
    }
    let is_current = view.is_current().map_err(StoreError::io("read", path))?;
    Ok(if is_current { findings } else { Vec::new() })
}

/// Reads the file of a large message that waits; `None` where all is well, or where the content is in the record.
fn verify_content(view: &View, record: &Record<'_>) -> io::Result<Option<Finding>> {
    let (Some(content), Some(directory)) = (ContentRef::of(record), view.path.parent()) else {
        return Ok(None);
    };
    let Err(error) = ContentReader::open(directory, content).and_then(ContentReader::check) else {
        return Ok(None);
    };
    let (path, offset, id) =
        (content_path(directory, content.number), record.offset_in_segment, record.meta.id);
    // Delivered meanwhile: then its file may be another message's.
    if AckSet::load_file(&ack_path(&view.path), view.header.epoch)?.contains(offset, id) {
        return Ok(None);
    }
    let segment = view.path.display();
    let text = format!(
        "the content of the message {id}, whose record is in {segment} at {offset}, cannot be read: {error}"
    );
    Ok(Some(Finding { is_error: true, path, offset: 0, id: Some(id), text }))
}

pub(super) fn inline_content<'a>(record: &Record<'a>) -> &'a [u8] {
    if ContentRef::of(record).is_some() { &[] } else { record.content }
}

/// The shards of an existing spool of a known version.
pub(super) fn shards(path: &Path) -> Result<Vec<u16>, StoreError> {
    if root::check_marker(path)?.is_none() {
        return Err(StoreError::NoSpool { path: path.to_owned() });
    }
    root::shards(path)
}

/// What ringmx did not put into a shard's directory.
fn foreign(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = |directory: &Path| -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(paths),
            other => other?,
        };
        for entry in entries {
            let name = entry?.file_name();
            if name.to_str().and_then(Name::parse).is_none() {
                paths.push(directory.join(name));
            }
        }
        paths.sort_unstable();
        Ok(paths)
    };
    read(directory).map_err(StoreError::io("list", directory))
}

pub(super) fn names(directory: &Path) -> Result<Vec<Name>, StoreError> {
    match shard::names(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(StoreError::io("list", directory)),
    }
}

/// A segment as its directory and its header name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentFile {
    /// 0 where the header cannot be read.
    epoch: u64,
    pub(super) path: PathBuf,
    pub(super) role: Role,
}

/// A shard's segments, oldest epoch first.
pub(super) fn segments(path: &Path, shard: u16) -> Result<Vec<SegmentFile>, StoreError> {
    let directory = path.join(shard::directory_name(shard));
    let mut segments = Vec::new();
    for name in names(&directory)? {
        let Name::Segment(number) = name else { continue };
        let path = directory.join(format!("{number:08}.seg"));
        let header = File::open(&path).and_then(|file| {
            let len = file.metadata()?.len();
            read_header(&file, len, shard, number)
        });
        match header {
            Ok(header) => {
                let (epoch, role) =
                    header.map_or_else(|_| (0, Role::default()), |header| (header.epoch, header.role));
                segments.push(SegmentFile { epoch, path, role });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_of_disk(&error) => {
                segments.push(SegmentFile { epoch: 0, path, role: Role::default() });
            }
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        }
    }
    segments.sort_unstable_by(|one, other| (one.epoch, &one.path).cmp(&(other.epoch, &other.path)));
    Ok(segments)
}

fn number(path: &Path) -> u32 {
    let name = path.file_name().and_then(|name| Name::parse(name.to_str()?));
    name.map_or(0, Name::number)
}
