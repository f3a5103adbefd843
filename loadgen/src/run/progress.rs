//! What is seen of a run while it lasts: a bar on a terminal, and points of its timeline.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::drive::Thread;
use crate::fleet::Fleet;
use crate::limits::TIMELINE_INTERVAL;
use crate::mischief::Gang;
use crate::options::LoadArgs;
use crate::process::{cpu_secs, machine_busy_secs};
use crate::timeline::{Point, Timeline};
use crate::worker::Live;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// A short run is not made longer by its display.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for the threads to end. `cpu_before`: of this process, at the start.
pub(super) fn show(
    args: &LoadArgs,
    threads: &[Thread<Fleet>],
    started: Instant,
    (cpu_before, gang): (f64, Option<&Thread<Gang>>),
) -> Timeline {
    let (bar, machine_before) = (bar(args), machine_busy_secs());
    let mut timeline = Timeline::new(TIMELINE_INTERVAL.as_secs_f64());
    let mut shown_at = Duration::ZERO;
    let look = || {
        let sum = |of: fn(&Live) -> &AtomicU64| {
            threads.iter().map(|thread| of(&thread.live).load(Ordering::Relaxed)).sum::<u64>()
        };
        let misbehaving = gang.map_or(0, |gang| gang.live.open.load(Ordering::Relaxed));
        Point {
            at_secs: started.elapsed().as_secs_f64(),
            accepted: sum(|live| &live.accepted),
            errors: sum(|live| &live.errors),
            open: sum(|live| &live.open) + misbehaving,
            cpu_secs: cpu_secs() - cpu_before,
            machine_secs: machine_busy_secs() - machine_before,
        }
    };
    timeline.add(Point::default());
    while threads.iter().any(|thread| !thread.is_finished()) {
        std::thread::sleep(LOOK_INTERVAL);
        let elapsed = started.elapsed();
        if timeline.is_due(elapsed.as_secs_f64()) {
            timeline.add(look());
        }
        if !bar.is_hidden() && elapsed >= shown_at + PROGRESS_INTERVAL {
            shown_at = elapsed;
            let Point { at_secs, accepted, errors, open, .. } = look();
            let rate = accepted as f64 / at_secs;
            let elapsed_ms = elapsed.as_millis() as u64;
            bar.set_position(if args.messages.is_some() { accepted } else { elapsed_ms });
            bar.set_message(format!(
                "{accepted} accepted, {rate:.0} messages/s, {open} connections, {errors} errors"
            ));
        }
    }
    timeline.end(look());
    bar.finish_and_clear();
    timeline
}

fn bar(args: &LoadArgs) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let duration_ms = args.duration_max().map_or(0, |duration| duration.as_millis() as u64);
    let len = args.messages.unwrap_or(duration_ms);
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:30} {msg}").expect("a valid template");
    ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr()).with_style(style)
}
