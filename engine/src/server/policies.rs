//! How a new policy gets to the workers, and how the old ones end.
//!
//! The [`Publisher`] puts a pointer to the newest policy where all workers see it. A worker looks at that pointer once
//! a turn, between waiting and answering: where it has not moved that is all; where it has, the worker takes the new
//! policy over and says so in its counters. Nothing in a session's way takes a lock, or counts a reference.
//!
//! A transaction goes on under the policy that it began under, up to two policies behind the newest
//! ([`LiveTransactions`] counts). The publisher keeps every policy until no worker has it any more: it is freed there,
//! not on a worker.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::limits::OLDER_GENERATIONS_COUNT_MAX;
use crate::policy::Policy;
use crate::session::{LiveTransactions, Session};

/// Where the newest policy is found.
pub type Published = ArcSwap<Policy>;

/// Of which there is one: it alone makes policies known and frees them.
#[derive(Debug)]
pub struct Publisher {
    published: Arc<Published>,
    /// Those that others took the place of and that somebody may still have.
    retired: Vec<Arc<Policy>>,
}

/// The policies of one worker.
#[derive(Debug)]
pub struct Policies {
    source: Cache<Arc<Published>, Arc<Policy>>,
    current: Arc<Policy>,
    /// Those that transactions go on under.
    older: [Option<Arc<Policy>>; OLDER_GENERATIONS_COUNT_MAX],
}

impl Publisher {
    pub fn new(policy: Policy) -> Self {
        Self { published: Arc::new(ArcSwap::from_pointee(policy)), retired: Vec::new() }
    }

    /// For workers.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Makes a policy known in place of the newest; its generation. Workers have it from their next turn on.
    pub fn publish(&mut self, policy: Policy) -> u32 {
        let generation = self.generation() + 1;
        self.retired.push(self.published.swap(Arc::new(Policy { generation, ..policy })));
        generation
    }

    /// Of the newest.
    pub fn generation(&self) -> u32 {
        self.published.load().generation
    }

    /// Frees the policies that nobody has any more; how many others are left besides the newest.
    pub fn free(&mut self) -> usize {
        // Nobody can get at one of them but who has it: once we are alone we stay so.
        self.retired.retain(|policy| Arc::strong_count(policy) > 1);
        self.retired.len()
    }
}

impl Policies {
    /// `live` begins with the generation that is the newest now.
    pub fn new(published: Arc<Published>, live: &mut LiveTransactions) -> Self {
        let mut source = Cache::new(published);
        let current = Arc::clone(source.load());
        live.advance(current.generation);
        Self { source, current, older: Default::default() }
    }

    /// Once a turn, before anybody is answered. True if there was a new policy: transactions begin under it now.
    pub fn refresh(&mut self, live: &mut LiveTransactions) -> bool {
        let newest = self.source.load();
        let is_new = newest.generation != self.current.generation;
        if is_new {
            let before = std::mem::replace(&mut self.current, Arc::clone(newest));
            live.advance(self.current.generation);
            self.drop_unused(live);
            let free = self.older.iter_mut().find(|older| older.is_none());
            if let Some(free) = free.filter(|_| live.is_live(before.generation)) {
                *free = Some(before);
            }
        } else {
            self.drop_unused(live);
        }
        is_new
    }

    /// The generation of the newest.
    pub fn newest(&self) -> u32 {
        self.current.generation
    }

    /// What a session is judged by: the policy of its transaction as long as that is kept, else the newest.
    pub fn of(&self, session: &Session) -> &Policy {
        self.of_generation(session.generation())
    }

    fn of_generation(&self, generation: Option<u32>) -> &Policy {
        let Some(generation) = generation.filter(|generation| *generation != self.current.generation) else {
            return &self.current;
        };
        let mut older = self.older.iter().flatten();
        older.find(|policy| policy.generation == generation).unwrap_or(&self.current)
    }

    fn drop_unused(&mut self, live: &LiveTransactions) {
        for older in &mut self.older {
            if older.as_ref().is_some_and(|policy| !live.is_live(policy.generation)) {
                *older = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Weak;

    use super::*;
    use crate::policy::rules::RuleSet;

    const WORKERS_COUNT: usize = 2;

    /// What can happen next. A worker's turns are steps of their own, since nothing happens to a worker within one.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Turn(usize),
        Begin(usize),
        EndOldest(usize),
        Publish,
        Free,
    }

    const STEPS: [Step; 8] = [
        Step::Turn(0),
        Step::Turn(1),
        Step::Begin(0),
        Step::Begin(1),
        Step::EndOldest(0),
        Step::EndOldest(1),
        Step::Publish,
        Step::Free,
    ];

    struct Worker {
        policies: Policies,
        live: LiveTransactions,
        /// What the others are told, as the counter of its turns is.
        told: u32,
        /// The generations that its open transactions began under.
        transactions: VecDeque<u32>,
    }

    struct World {
        publisher: Publisher,
        workers: Vec<Worker>,
        rules: Vec<Weak<RuleSet>>,
    }

    impl World {
        fn new() -> Self {
            let mut world =
                Self { publisher: Publisher::new(Policy::default()), workers: Vec::new(), rules: Vec::new() };
            world.publish();
            for _ in 0..WORKERS_COUNT {
                let mut live = LiveTransactions::default();
                let policies = Policies::new(Arc::clone(world.publisher.published()), &mut live);
                let told = policies.newest();
                world.workers.push(Worker { policies, live, told, transactions: VecDeque::new() });
            }
            world.publisher.free();
            world
        }

        fn publish(&mut self) {
            let rules = Arc::new(RuleSet::default());
            self.rules.push(Arc::downgrade(&rules));
            self.publisher.publish(Policy { rules, ..Policy::default() });
        }

        fn freed_count(&self) -> usize {
            self.rules.iter().filter(|rules| rules.strong_count() == 0).count()
        }

        fn step(&mut self, step: Step) {
            let freed_count = self.freed_count();
            match step {
                Step::Turn(index) => {
                    let Worker { policies, live, told, .. } = &mut self.workers[index];
                    policies.refresh(live);
                    *told = policies.newest();
                    assert_eq!(*told, self.publisher.generation(), "a turn sees the newest");
                }
                Step::Begin(index) => {
                    let Worker { policies, live, told, transactions } = &mut self.workers[index];
                    let generation = live.begin();
                    // Who saw `told` is promised that nothing older is used.
                    assert_eq!((generation, policies.of_generation(None).generation), (*told, *told));
                    transactions.push_back(generation);
                }
                Step::EndOldest(index) => {
                    let Worker { live, transactions, .. } = &mut self.workers[index];
                    if let Some(generation) = transactions.pop_front() {
                        live.end(generation);
                    }
                }
                Step::Publish => self.publish(),
                Step::Free => {
                    self.publisher.free();
                }
            }
            assert!(matches!(step, Step::Free) || self.freed_count() == freed_count, "freed by {step:?}");
            self.workers.iter().for_each(Worker::check);
        }

        /// Everything ends: what is left is the newest policy.
        fn finish(&mut self) {
            for index in 0..WORKERS_COUNT {
                while !self.workers[index].transactions.is_empty() {
                    self.step(Step::EndOldest(index));
                }
                self.step(Step::Turn(index));
            }
            assert_eq!(self.publisher.free(), 0);
            assert_eq!(self.freed_count(), self.rules.len() - 1);
        }
    }

    impl Worker {
        /// Each transaction is judged by what it began under, unless two other generations in use are newer than that.
        fn check(&self) {
            let newest = self.policies.newest();
            for &generation in &self.transactions {
                let used = self.policies.of_generation(Some(generation)).generation;
                let mut newer: Vec<u32> =
                    self.transactions.iter().copied().filter(|it| *it > generation).collect();
                newer.retain(|it| *it != newest);
                newer.dedup();
                if newer.len() < OLDER_GENERATIONS_COUNT_MAX {
                    let given_up = !self.live.is_live(generation);
                    assert!(used == generation || given_up, "{used} instead of {generation}");
                } else {
                    assert_eq!(used, newest);
                }
            }
        }
    }

    /// Every order of that many steps.
    fn play_all(depth: u32) -> u64 {
        let count = (STEPS.len() as u64).pow(depth);
        for number in 0..count {
            let mut world = World::new();
            let mut rest = number;
            for _ in 0..depth {
                world.step(STEPS[(rest % STEPS.len() as u64) as usize]);
                rest /= STEPS.len() as u64;
            }
            world.finish();
        }
        count
    }

    #[test]
    fn every_order_of_turns_transactions_and_reloads() {
        assert_eq!(play_all(5), 32_768);
    }

    #[test]
    fn long_orders_of_one_worker() {
        use Step::{Begin, EndOldest, Free, Publish, Turn};
        // More generations in use than are kept, and their end in every order of what comes between.
        let between = [Turn(0), EndOldest(0), Free, Publish];
        for number in 0..between.len().pow(6) {
            let mut world = World::new();
            for _ in 0..4 {
                [Begin(0), Publish, Turn(0)].into_iter().for_each(|step| world.step(step));
            }
            assert!(world.workers[0].policies.of_generation(Some(1)).generation != 1, "it was given up");
            for at in 0..6 {
                world.step(between[number / between.len().pow(at) % between.len()]);
            }
            world.finish();
        }
    }

    /// The real threads: no worker uses an older policy than the one that it was told of.
    #[test]
    fn threads_see_what_was_published() {
        let mut publisher = Publisher::new(Policy { generation: 1, ..Policy::default() });
        let told: Vec<_> =
            (0..WORKERS_COUNT).map(|_| Arc::new(std::sync::atomic::AtomicU32::new(0))).collect();
        const LAST: u32 = 2_000;
        std::thread::scope(|scope| {
            for told in &told {
                let published = Arc::clone(publisher.published());
                scope.spawn(move || {
                    let mut live = LiveTransactions::default();
                    let mut policies = Policies::new(published, &mut live);
                    while policies.newest() < LAST {
                        let before = policies.newest();
                        policies.refresh(&mut live);
                        assert!(policies.newest() >= before, "never back");
                        told.store(policies.newest(), std::sync::atomic::Ordering::Release);
                    }
                });
            }
            while publisher.generation() < LAST {
                let generation = publisher.publish(Policy::default());
                if generation.is_multiple_of(64) {
                    let is_seen = |told: &Arc<std::sync::atomic::AtomicU32>| {
                        told.load(std::sync::atomic::Ordering::Acquire) >= generation
                    };
                    while !told.iter().all(is_seen) {
                        std::thread::yield_now();
                    }
                    // Each worker has at most the newest.
                    assert_eq!(publisher.free(), 0);
                }
            }
        });
        assert_eq!(publisher.free(), 0);
    }
}
