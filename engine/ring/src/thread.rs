//! Which cores there are, staying on one, and giving way to others; giving back what a thread needed for a while.

use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may run on, ascending.
pub fn available_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// How long a thread that gives way may go on once it runs: the least that the kernel takes (Linux 6.12, EEVDF).
const SLICE: Duration = Duration::from_micros(100);

/// From now on the calling thread has the least share of a core that another wants (nice 19, SCHED_BATCH), in slices as
/// short as can be: what takes long there makes nobody wait. SCHED_IDLE would, though it says less: a thread that woke
/// and has had more than its share of late waits for the slice of the idle one, of up to 3 ms. There is no way back
/// without a privilege.
pub fn give_way_to_all() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_BATCH as u32,
        sched_flags: 0,
        sched_nice: 19,
        sched_priority: 0,
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: 0 is the calling thread; the attributes live for the call, which keeps no pointer to them, and tell their
    // own size.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives all that is free back to the system: the allocator keeps what a thread freed as long as it may need it again,
/// which for one that works once a day is too long. Takes milliseconds. Without effect on another allocator's memory.
pub fn give_memory_back() {
    // SAFETY: it has no conditions, and may be called by any thread, also one that never allocated here.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// While it lives, memory that any thread of this process touches for the first time comes in pages of 4 KiB. The
/// kernel clears a huge page in one go, 0.1 to 0.3 ms without a break, also for a thread that gives way to all: whoever
/// needs much new memory behind the workers' backs does it under this. Huge pages that are there stay.
#[derive(Debug)]
pub struct SmallPages {
    /// Whoever started the process may want no huge pages at all.
    before: u64,
}

impl SmallPages {
    /// One at a time: the end of the first ends it for all.
    pub fn only() -> Self {
        // SAFETY: it takes numbers only.
        let before = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0_u64, 0_u64, 0_u64, 0_u64) };
        Self::set(1);
        Self { before: u64::from(before > 0) }
    }

    /// A kernel without huge pages has no such call, and no need of it.
    fn set(disabled: u64) {
        // SAFETY: it takes numbers only, and memory keeps its contents whatever its pages.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, disabled, 0_u64, 0_u64, 0_u64) };
    }
}

impl Drop for SmallPages {
    fn drop(&mut self) {
        Self::set(self.before);
    }
}

/// Binds the calling thread to one core.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_alone() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let thread = std::thread::spawn(move || {
            give_way_to_all().unwrap();
            // SAFETY: 0 is the calling thread.
            (nice(), unsafe { libc::sched_getscheduler(0) })
        });
        assert_eq!(thread.join().unwrap(), (19, libc::SCHED_BATCH));
        assert_eq!(nice(), before);
    }

    /// In one test: it is the process's.
    #[test]
    fn small_pages_end_as_they_began() {
        // SAFETY: it takes numbers only.
        let disabled = || unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0_u64, 0_u64, 0_u64, 0_u64) };
        let at_first = disabled();
        for before in [1, 0] {
            SmallPages::set(before);
            let pages = SmallPages::only();
            assert_eq!(disabled(), 1);
            drop(pages);
            assert_eq!(disabled(), before as libc::c_int);
        }
        SmallPages::set(u64::from(at_first > 0));
    }
}
