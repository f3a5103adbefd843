//! Many cuts on one filesystem, and what they add up to.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use tests::random::Random;

use crate::Error;
use crate::check::{Verdict, positions};
use crate::disk::Replay;
use crate::recording::{Bench, Workload};
use crate::system::Filesystem;

/// Cuts made from one recording.
const CUTS_PER_RECORDING: usize = 10;

/// What is asked of one filesystem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Campaign<'a> {
    pub filesystem: Filesystem,
    pub cuts_count: usize,
    pub seed: u64,
    /// The first bad cut says enough.
    pub until_bad: bool,
    /// Where images of bad cuts go.
    pub keep: Option<&'a Path>,
    pub interrupted: &'a AtomicBool,
}

/// All cuts of one filesystem, added up.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sum {
    pub filesystem: String,
    pub seed: u64,
    pub cuts: usize,
    pub acknowledged: usize,
    pub recovered: usize,
    pub lost: usize,
    pub corrupt: usize,
    pub duplicates: usize,
    /// Cuts behind which the server did not start, or did not deliver.
    pub failures: usize,
    pub complaints: Vec<Complaint>,
}

impl Sum {
    pub(crate) fn is_good(&self) -> bool {
        self.complaints.is_empty()
    }

    fn add(&mut self, verdict: &Verdict) {
        self.cuts += 1;
        self.acknowledged += verdict.acknowledged_count;
        self.recovered += verdict.recovered_count;
        self.lost += verdict.lost.len();
        self.corrupt += verdict.corrupt.len();
        self.duplicates += verdict.duplicates_count;
        self.failures += usize::from(verdict.failure.is_some());
    }
}

/// A cut that lost something.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Complaint {
    pub workload: &'static str,
    /// Which recording of the campaign, from 0.
    pub recording: usize,
    /// Which cut of the campaign, from 1.
    pub cut: usize,
    /// Events of the disk before the cut.
    pub position: usize,
    pub what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, recording, cut, position, what } = self;
        write!(f, "cut {cut} (recording {recording}, {workload}, position {position}): {what}")
    }
}

impl Campaign<'_> {
    /// Runs it on the bench; `tick` is called behind each cut.
    pub(crate) fn run(&self, bench: &Bench, mut tick: impl FnMut(&Sum)) -> Result<Sum, Error> {
        let mut sum = Sum { filesystem: self.filesystem.to_string(), seed: self.seed, ..Sum::default() };
        for number in 0.. {
            let left = self.cuts_count - sum.cuts;
            if left == 0 || (self.until_bad && !sum.is_good()) {
                break;
            }
            // The workloads take turns.
            let workload = Workload::ALL[number % Workload::ALL.len()];
            self.record_and_cut(bench, workload, number, left.min(CUTS_PER_RECORDING), &mut sum, &mut tick)?;
        }
        Ok(sum)
    }

    fn record_and_cut(
        &self,
        bench: &Bench,
        workload: Workload,
        number: usize,
        cuts_count: usize,
        sum: &mut Sum,
        tick: &mut impl FnMut(&Sum),
    ) -> Result<(), Error> {
        self.check_interrupted()?;
        let mut random = Random::new(self.seed.wrapping_add((number as u64) << 32));
        let recording = bench.record(self.filesystem, workload, random.number())?;
        let mut replay = Replay::new(recording.blank.clone(), &recording.events);
        for position in positions(&recording, cuts_count, &mut random) {
            self.check_interrupted()?;
            let cut = replay.cut(position, &mut random);
            let image = cut.image.clone();
            let verdict = bench.check(self.filesystem, &recording, cut, position, &mut random)?;
            sum.add(&verdict);
            if !verdict.is_good() {
                if let Some(directory) = self.keep {
                    let path =
                        directory.join(format!("{}-{}-cut-{}.img", self.filesystem, self.seed, sum.cuts));
                    image.save(&path).map_err(Error::io(&format!("write {}", path.display())))?;
                }
                let (workload, what) = (workload.name(), verdict.complaint());
                sum.complaints.push(Complaint { workload, recording: number, cut: sum.cuts, position, what });
            }
            tick(sum);
            if self.until_bad && !sum.is_good() {
                break;
            }
        }
        Ok(())
    }

    fn check_interrupted(&self) -> Result<(), Error> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}
