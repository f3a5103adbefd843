//! Delivery into a Maildir: one file a message, written to `tmp`, made durable, moved to `new`.
//!
//! The file's name is made from the record alone. Delivering a record again, because a crash fell between delivery and
//! acknowledgement, replaces the file in `new` instead of adding a second one.

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tokio_uring::fs::{DirBuilder, File, OpenOptions, remove_file, rename};

use super::error::DeliveryError;
use super::large::LargeContent;
use crate::spool::record::RecordMeta;

/// Directories ringmx makes are for the owner of the mail alone, and so are the files.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The name of a message's file in `tmp` and `new`: time of receipt, what makes it unique, host.
pub(super) fn file_name(meta: &RecordMeta, hostname: &str) -> String {
    let (secs, us) = (meta.received_unix_us / 1_000_000, meta.received_unix_us % 1_000_000);
    let mut name = format!("{secs}.M{us}R{}.", meta.id);
    for character in hostname.chars() {
        // As the Maildir specification has it; a colon would begin the flags.
        match character {
            '/' => name.push_str("\\057"),
            ':' => name.push_str("\\072"),
            other => name.push(other),
        }
    }
    name
}

/// What final delivery puts in front of the content: the reverse-path (RFC 5321 §4.4), and whom this copy is for.
pub(super) fn head<'a>(reverse_path: &[u8], recipients: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut head = b"Return-Path: <".to_vec();
    append_printable(reverse_path, &mut head);
    head.extend_from_slice(b">\n");
    for recipient in recipients {
        head.extend_from_slice(b"Delivered-To: ");
        append_printable(recipient, &mut head);
        head.push(b'\n');
    }
    head
}

/// No mailbox that was accepted holds a control octet. One that does, whatever wrote it, must not end its field.
fn append_printable(mailbox: &[u8], out: &mut Vec<u8>) {
    out.extend(mailbox.iter().map(|&octet| if octet.is_ascii_control() { b'?' } else { octet }));
}

/// Appends stored content with the line ends of a Maildir: each CR LF becomes LF.
pub(super) fn append_with_lf(content: &[u8], out: &mut Vec<u8>) {
    out.reserve(content.len());
    let mut from = 0;
    for cr in memchr::memchr_iter(b'\r', content) {
        if content.get(cr + 1) == Some(&b'\n') {
            out.extend_from_slice(&content[from..cr]);
            from = cr + 1;
        }
    }
    out.extend_from_slice(&content[from..]);
}

/// The directory whose sync makes a delivery durable.
pub(super) fn new_directory(maildir: &Path) -> PathBuf {
    maildir.join("new")
}

/// Delivers `bytes` under `name`. The file is durable when this returns, its name in `new` not until [`sync_directory`]
/// has returned for [`new_directory`]. Gives the bytes back.
///
/// # Errors
/// Says what failed where; nothing is left in `tmp` then, as far as the file system lets that be.
pub(super) async fn deliver(
    maildir: &Path,
    name: &str,
    bytes: Vec<u8>,
) -> (Result<(), DeliveryError>, Vec<u8>) {
    let tmp_path = maildir.join("tmp").join(name);
    let file = match create(maildir, &tmp_path).await {
        Ok(file) => file,
        Err(error) => return (Err(error), bytes),
    };
    let (written, bytes) = write(file, bytes).await;
    let mut delivered = written.map_err(DeliveryError::of("write", &tmp_path));
    if delivered.is_ok() {
        delivered = publish(maildir, &tmp_path, name).await;
    }
    if delivered.is_err() {
        // The delivery has failed already, and the next attempt replaces what stays behind.
        drop(remove_file(&tmp_path).await);
    }
    (delivered, bytes)
}

/// As [`deliver`], `head` and then content that has a file of its own. Returns the octets of the file delivered.
pub(super) async fn deliver_large(
    maildir: &Path,
    name: &str,
    head: &[u8],
    content: &LargeContent,
) -> Result<u64, DeliveryError> {
    let tmp_path = maildir.join("tmp").join(name);
    let file = create(maildir, &tmp_path).await?;
    let written = async {
        let (written, head) = file.write_all_at(head.to_vec(), 0).await;
        written.map_err(DeliveryError::of("write", &tmp_path))?;
        let len = content.copy(&file, &tmp_path, head.len() as u64).await?;
        file.sync_data().await.map_err(DeliveryError::of("sync", &tmp_path))?;
        Ok(len)
    };
    let written = written.await;
    let closed = file.close().await.map_err(DeliveryError::of("write", &tmp_path));
    let mut delivered = written.and_then(|len| closed.map(|()| len));
    if let Ok(len) = delivered {
        delivered = publish(maildir, &tmp_path, name).await.map(|()| len);
    }
    if delivered.is_err() {
        drop(remove_file(&tmp_path).await);
    }
    delivered
}

/// Opens a new file in `tmp`; makes the Maildir if it is not there.
async fn create(maildir: &Path, tmp_path: &Path) -> Result<File, DeliveryError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let mut opened = options.open(tmp_path).await;
    match opened.as_ref().map_err(io::Error::kind) {
        Err(io::ErrorKind::NotFound) => {
            make(maildir).await?;
            opened = options.open(tmp_path).await;
        }
        // Left by an attempt that a crash interrupted. Never written through: it might be a link to anywhere.
        Err(io::ErrorKind::AlreadyExists) => {
            remove_file(tmp_path).await.map_err(DeliveryError::of("remove", tmp_path))?;
            opened = options.open(tmp_path).await;
        }
        _ => {}
    }
    opened.map_err(DeliveryError::of("create", tmp_path))
}

/// Writes the whole file and makes it durable. By `write_all_at`: `writev_at_all` of this runtime begins a vector again
/// after a short write.
async fn write(file: File, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
    let (mut written, bytes) = file.write_all_at(bytes, 0).await;
    if written.is_ok() {
        written = file.sync_data().await;
    }
    let closed = file.close().await;
    (written.and(closed), bytes)
}

/// Moves the file from `tmp` to `new`, over one of the same name.
async fn publish(maildir: &Path, tmp_path: &Path, name: &str) -> Result<(), DeliveryError> {
    let new_path = new_directory(maildir).join(name);
    let mut moved = rename(tmp_path, &new_path).await;
    if matches!(&moved, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        make(maildir).await?;
        moved = rename(tmp_path, &new_path).await;
    }
    moved.map_err(DeliveryError::of("move a file to", &new_path))
}

/// Makes a Maildir, directories above it included.
///
/// `tmp` comes last, once all else is durable: whoever finds a `tmp` to write to can rely on `new`, also when a crash
/// or another thread came in between.
async fn make(maildir: &Path) -> Result<(), DeliveryError> {
    let mut builder = DirBuilder::new();
    let _ = builder.recursive(true).mode(DIRECTORY_MODE);
    for name in ["new", "cur"] {
        let path = maildir.join(name);
        builder.create(&path).await.map_err(DeliveryError::of("create the directory", &path))?;
    }
    for directory in maildir.ancestors() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        match sync_directory(directory).await {
            // A directory that the server may not read is one in which it has made nothing.
            Err(DeliveryError::File { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied && directory != maildir =>
            {
                break;
            }
            synced => synced?,
        }
    }
    let path = maildir.join("tmp");
    builder.create(&path).await.map_err(DeliveryError::of("create the directory", &path))
}

/// Makes the names in a directory durable.
pub(super) async fn sync_directory(path: &Path) -> Result<(), DeliveryError> {
    let flags = i32::try_from(OFlags::DIRECTORY.bits()).expect("the flag is a low bit");
    let synced = async {
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path).await?;
        let synced = match cfg!(ringmx_mutant = "no_directory_sync") {
            true => Ok(()),
            false => directory.sync_all().await,
        };
        directory.close().await.and(synced)
    };
    synced.await.map_err(DeliveryError::of("sync the directory", path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{MessageId, SessionId};

    #[test]
    fn names_are_made_from_the_record_alone() {
        let id = MessageId { session: SessionId(0x1234), transaction: 7 };
        let meta = RecordMeta { id, received_unix_us: 1_763_780_000_000_042, ..RecordMeta::default() };
        assert_eq!(
            file_name(&meta, "mx/1:a.example"),
            "1763780000.M42R00000000004HM-7.mx\\0571\\072a.example"
        );
    }

    #[test]
    fn heads_stay_fields() {
        assert_eq!(head(b"", [&b"a@b"[..]]), b"Return-Path: <>\nDelivered-To: a@b\n");
        let found = head(b"x\r\nBcc: y", [&b"a\n\n@b"[..], b"c@d"]);
        assert_eq!(found, b"Return-Path: <x??Bcc: y>\nDelivered-To: a??@b\nDelivered-To: c@d\n");
    }

    proptest! {
        #[test]
        fn line_ends_become_lf(content in "[ab\r\n]{0,40}") {
            let mut found = Vec::new();
            append_with_lf(content.as_bytes(), &mut found);
            prop_assert_eq!(found, content.replace("\r\n", "\n").into_bytes());
        }
    }
}
