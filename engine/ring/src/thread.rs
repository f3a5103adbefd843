//! Which cores there are, staying on one, and giving way to others; giving back what a thread needed for a while.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may run on, ascending.
pub fn available_cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// From now on the calling thread runs when no other wants its core, and is interrupted at once by each that does
/// (SCHED_IDLE): what takes long there makes nobody wait. There is no way back without a privilege.
pub fn give_way_to_all() -> io::Result<()> {
    // SAFETY: all of its fields are numbers, of which only the priority means something on Linux, and 0 is the one
    // that the policy has.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; the parameters live for the call, which keeps no pointer to them.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) } {
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

/// Binds the calling thread to one core.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}
