//! What the process has and uses: descriptors, CPU time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of all threads so far, user and system, in seconds.
pub fn cpu_secs() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU time of this thread so far, user and system, in seconds.
pub fn thread_cpu_secs() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// `USER_HZ`, in which the kernel tells times to programs: 100 wherever io_uring runs.
const TICKS_PER_SEC: f64 = 100.0;

/// Time that the cores of this machine were not idle since it started, steal not counted, in seconds of one core; 0
/// where the kernel does not tell.
pub fn machine_busy_secs() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
    let ticks = |(index, field): (usize, &str)| match index {
        // idle, iowait, and from steal on: guests are in user time already.
        3 | 4 | 7.. => 0,
        _ => field.parse::<u64>().unwrap_or(0),
    };
    fields.enumerate().map(ticks).sum::<u64>() as f64 / TICKS_PER_SEC
}

/// Sees to it that `needed` descriptors may be open, or as many as are allowed, and gives how many that is. The soft
/// limit is often 1024, the hard one far higher.
pub fn raise_descriptor_limit(needed: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.unwrap_or(u64::MAX);
    let wanted = needed.min(maximum.unwrap_or(u64::MAX));
    if current >= wanted || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_err() {
        return current;
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_lowered() {
        let before = raise_descriptor_limit(1);
        assert!(raise_descriptor_limit(before.saturating_add(1)) >= before);
        assert!(raise_descriptor_limit(1) >= before);
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = cpu_secs();
        let mut sum = 0u64;
        while cpu_secs() <= before {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
