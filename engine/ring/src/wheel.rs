//! A timer wheel for deadlines that nearly always move before they fire.

use std::time::Duration;

/// Width of one slot: deadlines fire up to this much late, never early.
const TICK: Duration = Duration::from_millis(64);
/// Slots of the wheel; a deadline further away than `TICK * SLOTS_COUNT` (about 4 minutes) goes round again.
const SLOTS_COUNT: usize = 4096;

/// Hashed wheel: each key has one entry. A deadline that moves later costs nothing, because a due entry is only a
/// question to its owner ("are you due?"), who answers by scheduling it again; one that moves earlier is added again.
#[derive(Debug)]
pub struct Wheel<K> {
    slots: Vec<Vec<K>>,
    /// Bit n is set exactly when slot n holds an entry: the next one is found in 64 words, not 4,096 slots.
    occupied: [u64; SLOTS_COUNT / 64],
    /// The next tick to be looked at.
    next_tick: u64,
}

impl<K: Copy> Wheel<K> {
    pub fn new(now: Duration) -> Self {
        let slots = std::iter::repeat_with(Vec::new).take(SLOTS_COUNT).collect();
        Self { slots, occupied: [0; SLOTS_COUNT / 64], next_tick: tick_of(now) }
    }

    /// Asks for `key` to come due at `deadline`.
    pub fn schedule(&mut self, key: K, deadline: Duration) {
        // One tick more: a slot is due only when its whole tick has passed.
        let tick = (tick_of(deadline) + 1).max(self.next_tick);
        let tick = tick.min(self.next_tick + SLOTS_COUNT as u64 - 1);
        let slot = tick as usize % SLOTS_COUNT;
        self.slots[slot].push(key);
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Moves everything due at `now` into `due`.
    pub fn advance(&mut self, now: Duration, due: &mut Vec<K>) {
        let tick_now = tick_of(now);
        // After a long sleep each slot needs one look, not one a tick.
        let behind = (tick_now + 1).saturating_sub(self.next_tick).min(SLOTS_COUNT as u64);
        for tick in self.next_tick..self.next_tick + behind {
            let slot = tick as usize % SLOTS_COUNT;
            if self.occupied[slot / 64] & 1 << (slot % 64) == 0 {
                continue;
            }
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            due.append(&mut self.slots[slot]);
            self.slots[slot].shrink_to(64);
        }
        self.next_tick = self.next_tick.max(tick_now + 1);
    }

    /// How long until the next entry can be due; `None` when the wheel is empty.
    pub fn next_after(&self, now: Duration) -> Option<Duration> {
        let start = self.next_tick as usize % SLOTS_COUNT;
        let words = self.occupied.len();
        // The first word is looked at twice: its slots from `start` on come first, those before `start` last.
        let ahead = (0..=words).find_map(|step| {
            let index = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                step if step == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let word = self.occupied[index] & mask;
            let slot = index * 64 + word.trailing_zeros() as usize;
            (word != 0).then(|| (slot + SLOTS_COUNT - start) % SLOTS_COUNT)
        })?;
        let tick = u32::try_from(self.next_tick + ahead as u64).unwrap_or(u32::MAX);
        Some((TICK * tick).saturating_sub(now))
    }
}

fn tick_of(time: Duration) -> u64 {
    (time.as_millis() / TICK.as_millis()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn nothing_fires_early_and_everything_fires_within_two_ticks() {
        let mut wheel = Wheel::new(ms(0));
        for deadline in (0..600).map(|n| ms(n * 37)) {
            wheel.schedule(deadline, deadline);
        }
        let mut fired = 0;
        for now in (0..400).map(|n| ms(n * 64)) {
            let mut due = Vec::new();
            wheel.advance(now, &mut due);
            for deadline in due {
                assert!(deadline <= now, "{deadline:?} fired at {now:?}");
                assert!(now - deadline <= 2 * TICK, "{deadline:?} fired at {now:?}");
                fired += 1;
            }
        }
        assert_eq!(fired, 600);
        assert_eq!(wheel.next_after(ms(30_000)), None);
    }

    #[test]
    fn a_far_deadline_comes_up_early_to_be_scheduled_again() {
        let mut wheel = Wheel::new(ms(5));
        wheel.schedule('a', Duration::from_secs(3600));
        let wait = wheel.next_after(ms(5)).expect("one entry");
        assert!(wait < Duration::from_secs(3600));
        let mut due = Vec::new();
        wheel.advance(ms(5) + wait, &mut due);
        assert_eq!(due, ['a']);
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut wheel = Wheel::new(ms(0));
        (0..1000).for_each(|n| wheel.schedule(n, ms(n)));
        let mut due = Vec::new();
        wheel.advance(Duration::from_secs(86_400), &mut due);
        assert_eq!(due.len(), 1000);
    }
}
