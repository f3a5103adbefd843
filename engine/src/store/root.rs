//! The spool's own directory: the file that says what it is, and the lock.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::shard::{parse_directory_name, sync_directory};
use super::site;
use crate::spool::FORMAT_VERSION;

const MARKER_NAME: &str = "ringmx-spool";
const MARKER_PREFIX: &str = "ringmx spool, format version ";
const LOCK_NAME: &str = "lock";

/// The exclusive right to change a spool, held as long as this lives. The kernel frees it with the process.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Checks that `path` is a spool this version reads, and says of which version it is: `None` where there is none.
/// Changes nothing.
pub(super) fn check_marker(path: &Path) -> Result<Option<u32>, StoreError> {
    let marker = path.join(MARKER_NAME);
    let text = match fs::read(&marker) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Mail without its marker is not taken for an empty directory.
            let has_shards = path.is_dir() && !shards(path)?.is_empty();
            return if has_shards { Err(StoreError::BadMarker { path: marker }) } else { Ok(None) };
        }
        other => other.map_err(StoreError::io("read", &marker))?,
    };
    let version =
        str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(MARKER_PREFIX)?.trim_end().parse().ok());
    match version {
        None | Some(0) => Err(StoreError::BadMarker { path: marker }),
        Some(found) if found > u32::from(FORMAT_VERSION) => {
            Err(StoreError::Newer { path: marker, found, supported: u32::from(FORMAT_VERSION) })
        }
        version => Ok(version),
    }
}

/// Whether there is a spool, of whatever version.
pub(super) fn is_marked(path: &Path) -> bool {
    path.join(MARKER_NAME).exists()
}

/// Creates the directory, if need be with those above it.
pub(super) fn create_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(StoreError::io("create", path))?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    sync_directory(parent).map_err(StoreError::io("sync", parent))
}

/// Writes the marker. A crash leaves all of it or what was there before.
pub(super) fn write_marker(path: &Path) -> Result<(), StoreError> {
    let marker = path.join(MARKER_NAME);
    let new = path.join(format!("{MARKER_NAME}.new"));
    let text = format!("{MARKER_PREFIX}{FORMAT_VERSION}\n");
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &marker))
        .and_then(|()| sync_directory(path));
    written.map_err(StoreError::io("create", &marker))
}

/// Takes the lock, or says who holds it.
pub(super) fn lock(path: &Path) -> Result<Lock, StoreError> {
    let lock_path = path.join(LOCK_NAME);
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let mut file = opened.map_err(StoreError::io("create", &lock_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            let holder = pid.map(|pid| match site::program(pid) {
                Ok(program) => format!("{program}, pid {pid}"),
                Err(_) => format!("pid {pid}"),
            });
            return Err(StoreError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &lock_path)(error)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    written.map_err(StoreError::io("write", &lock_path))?;
    Ok(Lock { _file: file })
}

/// The shards with a directory here, in order.
pub(super) fn shards(path: &Path) -> Result<Vec<u16>, StoreError> {
    let read = |path: &Path| -> io::Result<Vec<u16>> {
        let mut shards = Vec::new();
        for entry in fs::read_dir(path)? {
            shards.extend(entry?.file_name().to_str().and_then(parse_directory_name));
        }
        shards.sort_unstable();
        Ok(shards)
    };
    read(path).map_err(StoreError::io("list", path))
}

/// Removes a shard whose mail is all delivered and which no worker fills any more. The new name is durable
/// before the first file goes: no start sees half a shard. Its epochs go with all that ever carried them.
pub(super) fn remove_shard(path: &Path, directory: &Path) -> io::Result<()> {
    let gone = directory.with_extension("gone");
    fs::rename(directory, &gone)?;
    sync_directory(path)?;
    fs::remove_dir_all(&gone)
}

/// Finishes removals that a crash interrupted.
pub(super) fn sweep(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name: PathBuf = entry?.file_name().into();
        let shard = name.file_stem().and_then(|stem| parse_directory_name(stem.to_str()?));
        if shard.is_some() && name.extension().is_some_and(|extension| extension == "gone") {
            fs::remove_dir_all(path.join(name))?;
        }
    }
    Ok(())
}
