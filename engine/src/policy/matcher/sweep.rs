//! From networks that lie inside of one another to intervals that lie beside one another.

use super::classes::{Class, Classes, RuleIndex, TooManyClasses};

/// A network of a rule, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim<T> {
    pub(super) first: T,
    pub(super) last: T,
    pub(super) rule: RuleIndex,
}

/// All numbers from `start` up to the next interval's, which share a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval<T> {
    pub(super) start: T,
    pub(super) class: Class,
}

/// A number of addresses.
pub(super) trait Number: Copy + Ord {
    const ZERO: Self;
    /// `None` behind the last one.
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    const ZERO: Self = 0;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    const ZERO: Self = 0;
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// A network that the sweep is inside of.
struct Open<T> {
    last: T,
    class: Class,
}

/// Intervals in ascending order, from 0 on, neighbours of different classes. `outside` is the class of what no claim
/// holds. Claims lie apart or inside of one another, as networks do.
pub(super) fn intervals<T: Number>(
    mut claims: Vec<Claim<T>>,
    outside: Class,
    classes: &mut Classes,
) -> Result<Vec<Interval<T>>, TooManyClasses> {
    // A network comes before those inside of it.
    claims.sort_unstable_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)).then(a.rule.cmp(&b.rule)));
    let mut out = vec![Interval { start: T::ZERO, class: outside }];
    let mut open: Vec<Open<T>> = Vec::new();
    for same in claims.chunk_by(|a, b| (a.first, a.last) == (b.first, b.last)) {
        let Claim { first, last, rule } = same[0];
        close(&mut open, Some(first), outside, &mut out);
        let around = open.last().map_or(outside, |open| open.class);
        let class = if same.len() == 1 {
            classes.with_rule(around, rule)?
        } else {
            let rules: Vec<RuleIndex> = same.iter().map(|claim| claim.rule).collect();
            classes.with_rules(around, &rules)?
        };
        begin(&mut out, first, class);
        open.push(Open { last, class });
    }
    close(&mut open, None, outside, &mut out);
    Ok(out)
}

/// Leaves the networks that end before `until`.
fn close<T: Number>(open: &mut Vec<Open<T>>, until: Option<T>, outside: Class, out: &mut Vec<Interval<T>>) {
    while let Some(ended) = open.pop_if(|open| until.is_none_or(|until| open.last < until)) {
        let around = open.last().map_or(outside, |open| open.class);
        if let Some(start) = ended.last.next() {
            begin(out, start, around);
        }
    }
}

fn begin<T: Number>(out: &mut Vec<Interval<T>>, start: T, class: Class) {
    // What would be empty is replaced.
    out.pop_if(|interval| interval.start == start);
    if out.last().is_none_or(|interval| interval.class != class) {
        out.push(Interval { start, class });
    }
}

/// The classes of the numbers from `first` to `last`.
pub(super) fn classes_within<T: Number>(
    intervals: &[Interval<T>],
    first: T,
    last: T,
) -> impl Iterator<Item = Class> {
    let at = intervals.partition_point(|interval| interval.start <= first) - 1;
    intervals[at..].iter().take_while(move |interval| interval.start <= last).map(|interval| interval.class)
}
