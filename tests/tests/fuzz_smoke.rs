//! Runs every fuzz target for some seconds: first its corpus, then mutations of it, drawn from a seed.
//!
//! `FUZZ_SECONDS=60` runs each longer, `FUZZ_SEED=7` runs other inputs, `FUZZ_TARGET=session` runs one alone. A failure
//! prints the input; put it into `fuzz/corpus/<target>/` when it is mended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::fuzz::{TARGETS, Target};
use tests::random::Random;

const INPUT_LEN_MAX: usize = 4096;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What is committed for a target, in the order of file names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.iter().map(|path| std::fs::read(path).expect("a corpus file")).collect()
}

fn mutate(input: &mut Vec<u8>, target: &Target, corpus: &[Vec<u8>], random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 | 1 => {
                let word = random.pick(target.words).as_bytes();
                input.splice(at..at, word.iter().copied());
            }
            2 => input.truncate(at),
            3 if at < input.len() => input[at] ^= 1 << random.below(8),
            4 if at < input.len() => input[at] = random.number() as u8,
            5 => {
                let end = (at + random.below(30)).min(input.len());
                let run: Vec<u8> = input.drain(at..end).collect();
                if random.one_in(2) {
                    let to = random.below(input.len() + 1);
                    let times = 1 + random.below(3);
                    input.splice(to..to, run.repeat(times));
                }
            }
            _ => {
                let other = &random.pick(corpus)[..];
                let from = random.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
        }
    }
    input.truncate(INPUT_LEN_MAX);
}

fn run(target: &Target, seed: u64, time: Duration) {
    let corpus = corpus(target);
    let mut random = Random::new(seed);
    let (began, mut runs_count) = (Instant::now(), 0u64);
    let mut pool = corpus.clone();
    while began.elapsed() < time {
        let index = usize::try_from(runs_count).unwrap_or(usize::MAX);
        let input = if let Some(input) = corpus.get(index) {
            input.clone()
        } else {
            let mut input = if random.one_in(8) { Vec::new() } else { random.pick(&pool).clone() };
            mutate(&mut input, target, &pool, &mut random);
            input
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            eprintln!("{}, FUZZ_SEED={seed}, run {runs_count}: b\"{}\"", target.name, input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
        // Now and then one to go on from, so that inputs wander away from the corpus.
        if random.one_in(50) {
            if pool.len() < 500 {
                pool.push(input);
            } else {
                let at = corpus.len() + random.below(pool.len() - corpus.len());
                pool[at] = input;
            }
        }
        runs_count += 1;
    }
    println!("{}: FUZZ_SEED={seed}: {runs_count} inputs", target.name);
    assert!(runs_count > corpus.len() as u64, "{}: only {runs_count} inputs in {time:?}", target.name);
}

#[test]
fn every_target_stands_some_seconds() {
    let (time, seed) = (Duration::from_secs(number("FUZZ_SECONDS", 2)), number("FUZZ_SEED", 1));
    let only = std::env::var("FUZZ_TARGET").ok();
    let targets = TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| target.name == only));
    // One target a core at a time.
    let waiting = Mutex::new(targets);
    let next = || waiting.lock().expect("nobody panics with it").next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    run(target, seed, time);
                }
            });
        }
    });
}

#[test]
fn every_target_has_a_libfuzzer_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for target in TARGETS {
        let path = format!("fuzz_targets/{}.rs", target.name);
        assert!(fuzz.join(&path).is_file(), "{path} is missing");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path} is not in fuzz/Cargo.toml");
    }
}
