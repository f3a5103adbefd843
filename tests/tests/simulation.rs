//! Runs by seed: `SIM_SEED=n` plays one again, `SIM_SECONDS=n` plays for longer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use tests::simulation::play::{Cuts, World, play};
use tests::simulation::segments::Syncs;

/// So many runs find any missing sync.
const SEEDS_UNTIL_FOUND: u64 = 50;

/// Runs with power cuts in each of two worlds, however slow the machine.
const CUT_RUNS_MIN: u64 = 1000;

/// Plays runs of this world until the time is over.
fn play_many(world: World, cuts: Cuts, first_seed: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("SIM_SEED") {
        println!("{:?}", play(seed, world, cuts));
        return;
    }
    let until = Instant::now() + Duration::from_secs(number("SIM_SECONDS").unwrap_or(6));
    let runs_min = if cuts == Cuts::Once { 0 } else { CUT_RUNS_MIN };
    let mut seed = first_seed;
    while Instant::now() < until || seed - first_seed < runs_min {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(seed, world, cuts))) {
            eprintln!("{world:?}, {cuts:?} with SIM_SEED={seed}");
            resume_unwind(panic);
        }
        seed += 1;
    }
    println!("{world:?}, {cuts:?}: {} runs", seed - first_seed);
}

#[test]
fn a_healthy_machine_changes_no_reply_and_loses_no_message() {
    play_many(World::Healthy, Cuts::Once, 0);
}

#[test]
fn a_failing_disk_gets_no_promise() {
    play_many(World::SickDisk, Cuts::Once, 1_000_000);
}

#[test]
fn scarcity_loses_no_message() {
    play_many(World::Scarce, Cuts::Once, 2_000_000);
}

#[test]
fn under_tls_nothing_is_answered_otherwise() {
    play_many(World::Secured, Cuts::Once, 6_000_000);
}

/// Under TLS, too, although no two handshakes have the same octets.
#[test]
fn a_seed_plays_the_same_run_again() {
    for world in [World::Healthy, World::Secured] {
        let (mut messages_count, mut handshakes_count) = (0, 0);
        for seed in 7_000_000..7_000_020 {
            let once = play(seed, world, Cuts::Once);
            assert_eq!(play(seed, world, Cuts::Once), once, "{world:?}, {seed}");
            messages_count += once.messages;
            handshakes_count += once.handshakes;
        }
        assert!(messages_count > 0 && (handshakes_count > 0) == (world == World::Secured), "{world:?}");
    }
}

/// At every point where the power may fail, every write that is not durable is dropped, torn or kept.
#[test]
fn the_power_may_fail_behind_every_turn() {
    play_many(World::Healthy, Cuts::Always(Syncs::All), 3_000_000);
}

#[test]
fn the_power_may_fail_behind_every_turn_of_a_failing_disk() {
    play_many(World::SickDisk, Cuts::Always(Syncs::All), 4_000_000);
}

/// The tests above fail where a sync is missing, or they would prove nothing.
#[test]
fn a_missing_sync_is_found() {
    for syncs in [Syncs::NoBatch, Syncs::NoHeader, Syncs::NoContent] {
        let play = |seed, syncs| {
            catch_unwind(AssertUnwindSafe(|| play(5_000_000 + seed, World::Healthy, Cuts::Always(syncs))))
        };
        let found = (0..SEEDS_UNTIL_FOUND).find(|&seed| play(seed, syncs).is_err());
        let seed = found.unwrap_or_else(|| panic!("{syncs:?} survives {SEEDS_UNTIL_FOUND} runs"));
        assert!(play(seed, Syncs::All).is_ok(), "run {seed} fails anyway");
        println!("{syncs:?} is found in run {seed}");
    }
}
