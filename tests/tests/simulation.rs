//! Runs by seed: `SIM_SEED=n` plays one again, `SIM_SECONDS=n` plays for longer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use tests::simulation::play::{World, play};

/// Plays runs of this world until the time is over.
fn play_many(world: World, first_seed: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("SIM_SEED") {
        return play(seed, world);
    }
    let until = Instant::now() + Duration::from_secs(number("SIM_SECONDS").unwrap_or(6));
    let mut seed = first_seed;
    while Instant::now() < until {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(seed, world))) {
            eprintln!("{world:?} with SIM_SEED={seed}");
            resume_unwind(panic);
        }
        seed += 1;
    }
    println!("{world:?}: {} runs", seed - first_seed);
}

#[test]
fn a_healthy_machine_changes_no_reply_and_loses_no_message() {
    play_many(World::Healthy, 0);
}

#[test]
fn a_failing_disk_gets_no_promise() {
    play_many(World::SickDisk, 1_000_000);
}

#[test]
fn scarcity_loses_no_message() {
    play_many(World::Scarce, 2_000_000);
}
