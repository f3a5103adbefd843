//! One run of the server on a filesystem whose disk remembers everything.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tests::engine::{Home, Options, text};
use tests::random::Random;

use crate::Error;
use crate::disk::{Event, Image};
use crate::fuse::{Disk, Disks};
use crate::load::{self, Acknowledged, Load};
use crate::system::{Filesystem, LoopDevice};

/// About what a flush takes on a fast disk. It lets several messages wait for one commit, as they do in service.
const FLUSH_TIME: Duration = Duration::from_micros(500);
/// Acknowledgements and recycling go on behind the last 250.
const TAIL: Duration = Duration::from_millis(150);
/// The server's directory on the filesystem.
pub(crate) const HOME: &str = "home";

/// What the server and its clients do while the disk records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Small segments that fill, are delivered into a Maildir beside the spool, and are recycled; a restart in between.
    Steady,
    /// Mail at once behind the start, while the first segments are being made; nothing is delivered, so no other sync
    /// covers up for one that is missing.
    FirstUse,
    /// Nothing can be delivered, and what was not delivered at its first attempt has to make room for the intake.
    Undeliverable,
}

impl Workload {
    pub(crate) const ALL: [Self; 3] = [Self::Steady, Self::FirstUse, Self::Undeliverable];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::FirstUse => "first use",
            Self::Undeliverable => "undeliverable",
        }
    }

    fn options(self) -> Options {
        let base = Options { max_message_size: "400KiB", ..Options::default() };
        match self {
            // So that some messages have files of their own, as larger ones have elsewhere.
            Self::Steady => {
                Options { segment_size: "1MiB", workers: 1, spool: "inline_size = \"64KiB\"", ..base }
            }
            // Below a file there can be no directory.
            Self::Undeliverable => Options {
                deliver: Some("deliver = \"maildir\"\npath = \"ringmx.toml/maildir\""),
                ..Self::Steady.options()
            },
            Self::FirstUse => Options {
                segment_size: "16MiB",
                workers: 1,
                deliver: Some("deliver = \"hold\""),
                spool: "inline_size = \"4KiB\"",
                ..base
            },
        }
    }

    /// What each start of the server gets to do.
    fn loads(self) -> Vec<Load> {
        match self {
            Self::Steady | Self::Undeliverable => {
                vec![Load { connections_count: 4, messages_count: 16, len_max: 380_000 }; 2]
            }
            Self::FirstUse => vec![Load { connections_count: 2, messages_count: 8, len_max: 200_000 }],
        }
    }
}

/// What recovery runs with: everything is delivered, by one worker or two.
pub(crate) fn recovery_options(random: &mut Random) -> Options {
    Options { deliver: None, workers: 1 + random.below(2), ..Workload::Steady.options() }
}

/// What the disk and the clients saw.
#[derive(Debug)]
pub(crate) struct Recording {
    pub blank: Image,
    pub events: Vec<Event>,
    pub acknowledged: Vec<Acknowledged>,
    /// The server started at this position; before it the filesystem was made.
    pub start: usize,
    /// The last position before the server was killed.
    pub end: usize,
}

/// Where things are mounted, and which server is tested.
#[derive(Debug)]
pub(crate) struct Bench {
    pub disks: Disks,
    /// Where the filesystem under test is mounted.
    pub directory: PathBuf,
    pub ringmx: PathBuf,
}

impl Bench {
    /// Makes a filesystem, runs the server on it and takes the disk's log.
    pub(crate) fn record(
        &self,
        filesystem: Filesystem,
        workload: Workload,
        seed: u64,
    ) -> Result<Recording, Error> {
        let blank = Image::blank(Filesystem::IMAGE_LEN);
        let disk = Disk::recording(blank.clone(), FLUSH_TIME);
        let file = self.disks.add(disk.clone());
        let device = LoopDevice::attach(&file.path)?;
        filesystem.make(&device.path)?;
        let mount = filesystem.mount(&device, &self.directory)?;
        drop(device);
        prove_flushes(&mount.directory, &disk)?;
        let directory = mount.directory.join(HOME);
        std::fs::create_dir(&directory).map_err(Error::io("create the server's directory"))?;
        let home = Home::within(directory, &workload.options());
        sync_filesystem(&mount.directory)?;
        let start = disk.position();
        let mut acknowledged = Vec::new();
        for (number, load) in workload.loads().into_iter().enumerate() {
            let server =
                home.try_serve_with(&self.ringmx).map_err(|output| Error::NotServed(text(&output.stderr)))?;
            let sent = load::send(
                &number.to_string(),
                load,
                server.address,
                &disk,
                seed.wrapping_add(number as u64),
            );
            acknowledged.extend(sent.map_err(|error| Error::Load(error, server.log.lines().join("\n")))?);
            std::thread::sleep(TAIL);
            server.kill();
        }
        let end = disk.position();
        drop(mount);
        Ok(Recording { blank, events: disk.take_log(), acknowledged, start, end })
    }
}

/// Whatever a filesystem makes durable must reach the disk as a flush behind its writes, or the test proves nothing:
/// by fsync, and by a direct write with RWF_DSYNC's flag, which changes no metadata.
fn prove_flushes(directory: &Path, disk: &Disk) -> Result<(), Error> {
    const LEN: usize = 4096;
    let path = directory.join("flushes");
    let proves = |what: &'static str, mark: u8, act: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
        let before = disk.position();
        // O_DIRECT wants its buffer on a block: take what of a larger one is.
        let buffer = vec![mark; 2 * LEN];
        let from = buffer.as_ptr().align_offset(LEN);
        act(&buffer[from..from + LEN]).map_err(Error::io("write a file to prove flushes"))?;
        let events = disk.events_since(before);
        let is_marked = |event: &Event| match event {
            Event::Write { octets, .. } => octets.windows(64).any(|window| window == [mark; 64]),
            Event::Flush => false,
        };
        let written = events.iter().position(is_marked);
        let flushed = events.iter().rposition(|event| matches!(event, Event::Flush));
        if written.is_some() && written < flushed { Ok(()) } else { Err(Error::NoFlush(what)) }
    };
    proves("fsync", 0xA5, &mut |octets| {
        let mut file = File::create(&path)?;
        file.write_all(octets)?;
        file.sync_all()
    })?;
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
    proves("a direct write with O_DSYNC", 0x5A, &mut |octets| {
        File::options().write(true).custom_flags(flags).open(&path)?.write_all_at(octets, 0)
    })?;
    std::fs::remove_file(&path).map_err(Error::io("remove a file"))
}

fn sync_filesystem(directory: &Path) -> Result<(), Error> {
    let directory = File::open(directory).map_err(Error::io("open the mounted filesystem"))?;
    rustix::fs::syncfs(directory).map_err(|errno| Error::io("sync the mounted filesystem")(errno.into()))
}
