//! Segments over simulated files, and a keeper that may run out of them.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringmx::config::Durability;
use ringmx::server::Segments;
use ringmx::spool::FORMAT_VERSION;
use ringmx::spool::commit::Readable;
use ringmx::spool::segment::{FIRST_BATCH_AT, Role, SegmentHeader};
use ringmx::store::Room;
use ringmx_ring::sim::{Random, Simulation};
use ringmx_ring::{BlockBuffer, Fd};

use super::machine::Plan;
use super::probe::Aside;

/// Batches that the reader has in memory at once: a worker that has warmed up needs no more than that.
const LENT_COUNT_MAX: usize = 2;

/// One segment: a simulated file whose header is on disk, and what the worker said of it.
#[derive(Debug)]
pub struct SimSegment {
    pub header: SegmentHeader,
    pub fd: Fd,
    pub published: AtomicU64,
    pub sealed: AtomicBool,
    pub failed: AtomicBool,
}

/// The file of a large message.
#[derive(Debug)]
pub struct SimFile {
    pub fd: Fd,
    pub number: u32,
}

/// How many segments there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Always one more.
    Plenty,
    /// Only what [`SegmentKeeper::refill`] has brought.
    Scarce,
}

/// Which syncs are made. Without one of them, the tests of lost power must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    All,
    /// No batch is durable when its write completes.
    NoBatch,
    /// The header of a recycled segment is not durable when the segment is taken.
    NoHeader,
    /// The file of a large message is not durable when the record that names it is written.
    NoContent,
}

struct Shared {
    simulation: Simulation,
    supply: Supply,
    syncs: Syncs,
    capacity: u64,
    random: RefCell<Random>,
    ready: RefCell<VecDeque<Arc<SimSegment>>>,
    all: RefCell<Vec<Arc<SimSegment>>>,
    files: RefCell<Vec<Arc<SimFile>>>,
    /// Their descriptors.
    content: Rc<RefCell<HashSet<Fd>>>,
    /// Came back, to be used again.
    spare_files: RefCell<Vec<Arc<SimFile>>>,
    room: Cell<Room>,
    has_files: Cell<bool>,
    /// Whoever finds no segment may wait for one.
    is_coming: Cell<bool>,
    reader: Fd,
    reader_sleeps: Cell<bool>,
    /// What is published is durable.
    all_durable: bool,
    /// Batches that the reader has had in memory.
    spent: RefCell<VecDeque<BlockBuffer>>,
}

/// The test's side.
#[derive(Clone)]
pub struct SegmentKeeper(Rc<Shared>);

/// The worker's side.
pub struct SimSegments(Rc<Shared>);

impl SegmentKeeper {
    pub fn new(simulation: &Simulation, plan: &Plan, seed: u64) -> Self {
        let Plan { supply, syncs, segment_capacity: capacity, .. } = *plan;
        let all_durable = plan.durabilities == [Durability::Sync] && syncs == Syncs::All;
        Self(Rc::new(Shared {
            simulation: simulation.clone(),
            supply,
            syncs,
            capacity,
            random: RefCell::new(Random::new(seed)),
            ready: RefCell::default(),
            all: RefCell::default(),
            files: RefCell::default(),
            content: Rc::default(),
            spare_files: RefCell::default(),
            room: Cell::default(),
            has_files: Cell::new(true),
            is_coming: Cell::new(plan.is_coming),
            reader: simulation.create_bell(),
            reader_sleeps: Cell::new(false),
            all_durable,
            spent: RefCell::default(),
        }))
    }

    pub fn segments(&self) -> SimSegments {
        SimSegments(Rc::clone(&self.0))
    }

    /// Makes one more segment ready.
    pub fn refill(&self) {
        let segment = self.0.create();
        self.0.ready.borrow_mut().push_back(segment);
    }

    /// All segments there ever were.
    pub fn all(&self) -> Vec<Arc<SimSegment>> {
        self.0.all.borrow().clone()
    }

    /// All content files there ever were.
    pub fn files(&self) -> Vec<Arc<SimFile>> {
        self.0.files.borrow().clone()
    }

    /// The descriptors of those, and of all that come.
    pub fn content(&self) -> Rc<RefCell<HashSet<Fd>>> {
        Rc::clone(&self.0.content)
    }

    /// Those that came back and are not in use again.
    pub fn spare_files_count(&self) -> usize {
        self.0.spare_files.borrow().len()
    }

    /// Whether there are files for large messages, from now on.
    pub fn set_files(&self, has_files: bool) {
        self.0.has_files.set(has_files);
    }

    /// Whether a segment comes to those who wait, from now on.
    pub fn set_coming(&self, is_coming: bool) {
        self.0.is_coming.set(is_coming);
    }

    /// What the disk has room for, from now on.
    pub fn set_room(&self, room: Room) {
        self.0.room.set(room);
    }

    /// The reader of the shard has nothing to do.
    pub fn reader_sleeps(&self) {
        self.0.reader_sleeps.set(true);
    }

    /// The reader was woken and has not gone to sleep again.
    pub fn is_reader_awake(&self) -> bool {
        !self.0.reader_sleeps.get()
    }

    /// How often the reader's bell rang since the last call.
    pub fn take_rings(&self) -> u64 {
        self.0.simulation.take_signals(self.0.reader)
    }
}

impl Shared {
    /// A fresh segment, or one whose file was a segment before: its old batches are still there.
    fn create(&self) -> Arc<SimSegment> {
        let mut random = self.random.borrow_mut();
        let mut all = self.all.borrow_mut();
        let number = all.len() as u32;
        let epoch = u64::from(number) + 1;
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            role: Role::Intake,
            shard: 0,
            number,
            epoch,
            key: random.next(),
            capacity: self.capacity,
        };
        let former = all.iter().find(|segment| segment.sealed.load(Ordering::Relaxed));
        let content = match former.filter(|_| random.chance(0.5)) {
            Some(former) => self.simulation.durable_content(former.fd),
            None => vec![0; self.capacity as usize],
        };
        let fd = self.simulation.open_file(content);
        self.simulation.write_file(fd, 0, &header.encode(), self.syncs != Syncs::NoHeader);
        let segment = Arc::new(SimSegment {
            header,
            fd,
            published: AtomicU64::new(FIRST_BATCH_AT),
            sealed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        all.push(Arc::clone(&segment));
        segment
    }
}

impl Segments for SimSegments {
    type Segment = SimSegment;
    type File = SimFile;

    fn take(&mut self) -> Option<Arc<SimSegment>> {
        let _aside = Aside::enter();
        match self.0.supply {
            Supply::Plenty => Some(self.0.create()),
            Supply::Scarce => self.0.ready.borrow_mut().pop_front(),
        }
    }

    fn available(&self) -> bool {
        self.0.supply == Supply::Plenty || !self.0.ready.borrow().is_empty()
    }

    fn is_coming(&self) -> bool {
        self.0.is_coming.get()
    }

    fn header(segment: &SimSegment) -> SegmentHeader {
        segment.header
    }

    fn fd(segment: &SimSegment) -> Fd {
        segment.fd
    }

    fn publish(&self, segment: &SimSegment, batch: Readable) -> Option<BlockBuffer> {
        let _aside = Aside::enter();
        let Readable { offset, end, bytes, .. } = batch;
        assert!(!segment.sealed.load(Ordering::Relaxed), "published behind the seal");
        let before = segment.published.swap(end, Ordering::Relaxed);
        assert!(
            before == offset && end <= segment.header.capacity,
            "published {before}, then {offset} to {end}"
        );
        let content = self.0.simulation.content(segment.fd);
        assert!(content[offset as usize..end as usize] == bytes[..], "lent what was not written");
        if self.0.all_durable {
            let durable = self.0.simulation.durable_content(segment.fd);
            assert!(content[..end as usize] == durable[..end as usize], "published before it was durable");
        }
        let mut spent = self.0.spent.borrow_mut();
        if spent.len() >= LENT_COUNT_MAX || self.0.random.borrow_mut().chance(0.5) {
            return Some(bytes);
        }
        spent.push_back(bytes);
        None
    }

    fn take_spent(&self) -> Option<BlockBuffer> {
        let _aside = Aside::enter();
        let is_through = self.0.random.borrow_mut().chance(0.5);
        if is_through { self.0.spent.borrow_mut().pop_front() } else { None }
    }

    fn seal(&self, segment: &SimSegment) {
        assert!(!segment.sealed.swap(true, Ordering::Relaxed), "sealed twice");
    }

    fn fail(&self, segment: &SimSegment, durable_to: Option<u64>) {
        assert!(!segment.sealed.swap(true, Ordering::Relaxed), "failed behind the seal");
        segment.failed.store(true, Ordering::Relaxed);
        if let Some(durable_to) = durable_to {
            segment.published.fetch_max(durable_to, Ordering::Relaxed);
        }
    }

    fn take_file(&mut self) -> Option<(u32, Arc<SimFile>)> {
        let _aside = Aside::enter();
        let mut random = self.0.random.borrow_mut();
        if !self.0.has_files.get() || (self.0.supply == Supply::Scarce && random.chance(0.5)) {
            return None;
        }
        // Used again with what is in it: nobody relies on its being empty.
        let spare = self.0.spare_files.borrow_mut().pop();
        let file = spare.unwrap_or_else(|| {
            let mut files = self.0.files.borrow_mut();
            let fd = self.0.simulation.open_file(Vec::new());
            let file = Arc::new(SimFile { fd, number: files.len() as u32 + 1 });
            files.push(Arc::clone(&file));
            self.0.content.borrow_mut().insert(fd);
            file
        });
        Some((file.number, file))
    }

    fn has_file(&self) -> bool {
        self.0.has_files.get()
    }

    fn file_fd(file: &SimFile) -> Fd {
        file.fd
    }

    fn give_file_back(&self, file: Arc<SimFile>, failed: bool) {
        let _aside = Aside::enter();
        let mut spares = self.0.spare_files.borrow_mut();
        assert!(!spares.iter().any(|spare| spare.number == file.number), "given back twice");
        if !failed {
            spares.push(file);
        }
    }

    fn room(&self) -> Room {
        self.0.room.get()
    }

    fn sleeping_reader(&self) -> Option<Fd> {
        self.0.reader_sleeps.replace(false).then_some(self.0.reader)
    }
}
