//! Reading what was set aside: damaged segments that no server looks into any more.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::error::StoreError;
use super::inspect::{Listed, State, inline_content, names, shards};
use super::open::read_header;
use super::shard::{self, Name};
use crate::limits::SEGMENT_SIZE_MAX;
use crate::spool::batch::{BATCH_HEADER_LEN, BatchHeader};
use crate::spool::content_ref::ContentRef;
use crate::spool::recover::recover;
use crate::spool::segment::{FIRST_BATCH_AT, HeaderFault, Role, SegmentHeader};
use crate::spool::walk::{Found, Walk};
use crate::spool::{BLOCK_LEN, ReadAt};

/// Visits each message that is readable in a segment that was set aside, until `visit` breaks. Whether it was delivered
/// is not known: its acknowledgements went when the segment was set aside. That happens once all that was readable is
/// delivered, or at a start that could not read the segment's header.
pub fn list_set_aside(
    path: &Path,
    visit: &mut dyn FnMut(&Listed<'_>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    for shard in shards(path)? {
        let directory = path.join(shard::directory_name(shard));
        let mut names = names(&directory)?;
        names.sort_unstable_by_key(|name| name.number());
        for name in names {
            let Name::SetAside(number) = name else { continue };
            let path = directory.join(format!("{number:08}.damaged"));
            let file = File::open(&path).map_err(StoreError::io("open", &path))?;
            let header = find_header(&file, shard, number).map_err(StoreError::io("read", &path))?;
            let header = match header {
                Ok(header) => header,
                Err(HeaderFault::Damaged) => continue,
                Err(fault) => match StoreError::header(&path, fault) {
                    Some(error) => return Err(error),
                    None => continue,
                },
            };
            let segment = SetAside { shard, path: &path, file, header };
            if segment.visit(visit).map_err(StoreError::io("read", &path))?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct SetAside<'a> {
    shard: u16,
    path: &'a Path,
    file: File,
    header: SegmentHeader,
}

impl SetAside<'_> {
    fn visit(&self, visit: &mut dyn FnMut(&Listed<'_>) -> ControlFlow<()>) -> io::Result<ControlFlow<()>> {
        let extent = recover(&self.file, &self.header, self.file.metadata()?.len())?;
        let mut walk = Walk::new(&self.header);
        while let Some(found) = walk.next(&self.file, extent.end)? {
            let Found::Record(record) = found else { continue };
            let listed = Listed {
                id: record.meta.id,
                received_unix_us: record.meta.received_unix_us,
                state: State::SetAside,
                envelope: record.envelope,
                content: inline_content(&record),
                content_file: ContentRef::of(&record),
                shard: self.shard,
                epoch: self.header.epoch,
                path: self.path,
                offset: record.offset_in_segment,
            };
            if visit(&listed).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The segment's header, or else what it must have been by the batch with the greatest epoch, wherever that stands.
fn find_header(file: &File, shard: u16, number: u32) -> io::Result<Result<SegmentHeader, HeaderFault>> {
    let len = file.metadata()?.len();
    let header = read_header(file, len, shard, number)?;
    if header != Err(HeaderFault::Damaged) {
        return Ok(header);
    }
    let (mut newest, mut bytes, mut at) = (None, [0; BATCH_HEADER_LEN], FIRST_BATCH_AT);
    while at.saturating_add(BLOCK_LEN) <= len {
        ReadAt::read_exact_at(file, &mut bytes, at)?;
        newest = newest.max(BatchHeader::parse(&bytes, at).map(|batch| (batch.stamp.epoch, at)));
        at += BLOCK_LEN;
    }
    let Some((_, at)) = newest else { return Ok(Err(HeaderFault::Damaged)) };
    ReadAt::read_exact_at(file, &mut bytes, at)?;
    let Some(batch) = BatchHeader::parse(&bytes, at) else { return Ok(Err(HeaderFault::Damaged)) };
    let (version, epoch, key) = (batch.stamp.version, batch.stamp.epoch, batch.stamp.key);
    let capacity = len.min(SEGMENT_SIZE_MAX);
    Ok(Ok(SegmentHeader { version, role: Role::default(), shard, number, epoch, key, capacity }))
}
