//! What of a cut the server gets back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tests::engine::{Home, eventually, text};
use tests::random::Random;

use crate::Error;
use crate::disk::Cut;
use crate::fuse::Disk;
use crate::load::Acknowledged;
use crate::message;
use crate::recording::{Bench, HOME, Recording, recovery_options};
use crate::system::{Filesystem, LoopDevice};

/// What one power cut did.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub acknowledged_count: usize,
    /// Messages found, acknowledged or not.
    pub recovered_count: usize,
    /// Further copies of messages.
    pub duplicates_count: usize,
    /// Acknowledged and gone.
    pub lost: Vec<String>,
    /// Found, but not as they were sent; or called damaged by the server.
    pub corrupt: Vec<String>,
    /// Why recovery itself did not do what it should.
    pub failure: Option<String>,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.corrupt.is_empty() && self.failure.is_none()
    }

    /// What is wrong, in a line or some.
    pub(crate) fn complaint(&self) -> String {
        let some = |what: &str, list: &[String]| match list {
            [] => None,
            [first, ..] => Some(format!("{} {what}, the first: {first}", list.len())),
        };
        let parts = [some("lost", &self.lost), some("corrupt", &self.corrupt), self.failure.clone()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// Where the power is cut: half of the time right when a client saw its 250, which is when a sync that is missing has
/// covered least.
pub(crate) fn positions(recording: &Recording, count: usize, random: &mut Random) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..count)
        .map(|_| {
            let acknowledged = &recording.acknowledged;
            let of = |number: usize| acknowledged[number].position;
            match random.below(8) {
                0..3 if !acknowledged.is_empty() => of(random.below(acknowledged.len())),
                3 if !acknowledged.is_empty() => of(random.below(acknowledged.len().min(4))),
                4 | 5 if !acknowledged.is_empty() => of(random.below(acknowledged.len())) + random.below(12),
                _ => recording.start + random.below(recording.end + 1 - recording.start),
            }
            .min(recording.end)
        })
        .collect();
    positions.sort_unstable();
    positions
}

impl Bench {
    /// Starts the server on what a cut at `position` left, and looks for what was acknowledged before it.
    pub(crate) fn check(
        &self,
        filesystem: Filesystem,
        recording: &Recording,
        cut: Cut,
        position: usize,
        random: &mut Random,
    ) -> Result<Verdict, Error> {
        let disk = self.disks.add(Disk::plain(cut.image));
        let device = LoopDevice::attach(&disk.path)?;
        filesystem.repair(&device.path)?;
        let mount = filesystem.mount(&device, &self.directory)?;
        drop(device);
        let acknowledged: Vec<&Acknowledged> =
            recording.acknowledged.iter().filter(|message| message.position <= position).collect();
        let mut verdict = Verdict { acknowledged_count: acknowledged.len(), ..Verdict::default() };
        // What the harness of the real server finds wrong, it says by a panic.
        let recovered = catch_unwind(AssertUnwindSafe(|| recover(&mount.directory, random, &mut verdict)));
        match recovered {
            Ok(found) => judge(&found?, &acknowledged, &mut verdict),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned();
                verdict.failure = Some(said.unwrap_or_else(|| "recovery panicked".to_owned()));
            }
        }
        Ok(verdict)
    }
}

/// Has the server deliver all that it has; the files of the Maildir.
fn recover(
    directory: &Path,
    random: &mut Random,
    verdict: &mut Verdict,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let home = Home::within(directory.join(HOME), &recovery_options(random));
    if home.spool().join("ringmx-spool").exists() {
        let output = home.run(["spool", "verify"]);
        if !output.status.success() {
            let said = [text(&output.stdout), text(&output.stderr)].concat();
            verdict.corrupt.extend(said.lines().map(|line| format!("spool verify: {line}")));
        }
    }
    match home.try_serve() {
        Ok(server) => {
            eventually("all is delivered", || home.undelivered().is_empty().then_some(()));
            server.stop();
        }
        Err(output) => verdict.failure = Some(format!("the server does not start: {}", text(&output.stderr))),
    }
    let maildir = home.maildir();
    Ok(maildir.names().into_iter().map(|name| (name.clone(), maildir.read(&name))).collect())
}

fn judge(found: &BTreeMap<String, Vec<u8>>, acknowledged: &[&Acknowledged], verdict: &mut Verdict) {
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for (name, file) in found {
        match message::check(file) {
            Ok(key) => *copies.entry(key).or_default() += 1,
            Err(why) => verdict.corrupt.push(format!("{name}: {why}")),
        }
    }
    verdict.recovered_count = copies.len();
    verdict.duplicates_count = copies.values().map(|count| count - 1).sum();
    let lost = acknowledged.iter().filter(|message| !copies.contains_key(&message.key));
    verdict.lost = lost.map(|message| message.key.clone()).collect();
}
