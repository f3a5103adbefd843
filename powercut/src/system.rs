//! Loop devices, filesystems and mounts, by the programs that every administrator uses. What is made is undone when its
//! value is dropped. A kill that leaves no time for that leaves nothing either: mounts live in a namespace of our own,
//! and a loop device detaches itself with its last user.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::Error;

/// What the spool lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filesystem {
    Ext4,
    Xfs,
    Btrfs,
    /// No journal: each name is durable by its directory's sync alone
    Ext2,
}

impl Filesystem {
    /// Octets of an image: more than the least that each of them can be made on.
    pub(crate) const IMAGE_LEN: u64 = 512 << 20;

    /// What makes one, quietly, without a discard that the disk would have to log.
    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => {
                ("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-K"]),
            Self::Ext2 => ("mkfs.ext2", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0"]),
        }
    }

    /// The programs that it takes, with the Debian package of each.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ext4 => &[("mkfs.ext4", "e2fsprogs")],
            Self::Xfs => &[("mkfs.xfs", "xfsprogs")],
            Self::Btrfs => &[("mkfs.btrfs", "btrfs-progs")],
            Self::Ext2 => &[("mkfs.ext2", "e2fsprogs"), ("e2fsck", "e2fsprogs")],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ext2 => "ext2",
        }
    }

    pub(crate) fn make(self, device: &Path) -> Result<(), Error> {
        let (program, arguments) = self.mkfs();
        run(Command::new(program).args(arguments).arg(device)).map(drop)
    }

    /// Repairs what a power cut left, where mounting does not.
    pub(crate) fn repair(self, device: &Path) -> Result<(), Error> {
        if self != Self::Ext2 {
            return Ok(());
        }
        let output = Command::new("e2fsck").args(["-f", "-y"]).arg(device).output();
        let output = output.map_err(Error::io("run e2fsck"))?;
        // 1: errors were corrected.
        match output.status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(Error::Program { command: "e2fsck -f -y".into(), said: text(&output.stdout) }),
        }
    }

    pub(crate) fn mount(self, device: &LoopDevice, directory: &Path) -> Result<Mount, Error> {
        // Periodic discards would only be refused.
        let options: &[&str] = if self == Self::Btrfs { &["-o", "nodiscard"] } else { &[] };
        run(Command::new("mount").args(["-t", self.name()]).args(options).arg(&device.path).arg(directory))?;
        Ok(Mount { directory: directory.to_owned() })
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A loop device over a file. It goes with its last user: this value, or what is mounted from it.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    pub path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Past the page cache of the file, so that a flush of the device is all there is between a write and the disk.
    pub(crate) fn attach(file: &Path) -> Result<Self, Error> {
        let output = run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file))?;
        let path = PathBuf::from(output.trim());
        let open = File::open(&path).map_err(Error::io("open a loop device"))?;
        // While it is open this only says that it is to go as soon as nobody uses it.
        run(Command::new("losetup").arg("--detach").arg(&path))?;
        Ok(Self { path, _open: open })
    }
}

/// A mounted filesystem.
#[derive(Debug)]
pub(crate) struct Mount {
    pub directory: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.directory)).is_ok() {
            return;
        }
        // A process of ours still ends; what it holds open goes with it.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.directory)) {
            eprintln!("powercut: {error}");
        }
    }
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, Error> {
    let shown = || {
        let words =
            std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
        words.collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    let output = command.output().map_err(Error::io(&format!("run {shown}")))?;
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = format!("{} {}{}", output.status, text(&output.stdout), text(&output.stderr));
    Err(Error::Program { command: shown, said: said.trim_end().to_owned() })
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// What is missing here; empty where the test can run.
pub(crate) fn missing(filesystems: &[Filesystem]) -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("it has to run as root: it mounts filesystems".to_owned());
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            missing.push(format!("{device} is missing: load the kernel module {}", module(device)));
        }
    }
    let always = [("losetup", "mount"), ("mount", "mount"), ("umount", "mount"), ("unshare", "util-linux")];
    let programs = filesystems.iter().flat_map(|filesystem| filesystem.programs());
    let mut packages: Vec<&str> = Vec::new();
    for (program, package) in always.iter().chain(programs) {
        if !is_there(program) && !packages.contains(package) {
            packages.push(package);
        }
    }
    if !packages.is_empty() {
        missing.push(format!("programs are missing: apt-get install {}", packages.join(" ")));
    }
    missing
}

fn module(device: &str) -> &'static str {
    if device == "/dev/fuse" { "fuse" } else { "loop" }
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
