//! Which rules may match a fact, found in a few steps however many rules there are.
//!
//! The rules of a stage are an ordered list, of which the first that matches decides. Each kind of condition, such as
//! the client's network, is compiled into a matcher of its own: it maps a fact to its *class*, the ascending list of
//! the rules whose condition holds for it or that have no such condition. All facts that meet the same conditions share
//! a class, and there are far fewer classes than networks or names. The first rule that all lists of a stage have in
//! common is then the first that matches; see [`first_common`].
//!
//! A rule that asks for nothing but this one condition is *final*: where it holds, nothing behind it can match, and the
//! list ends with it. A rule that no list has can never match, which is how `ringmx check` finds it, exactly.

mod classes;
mod ipv4;
mod ipv6;
mod key;
mod names;
mod pattern;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use classes::{Class, Classes, RuleIndex, TooManyClasses};
use ipv4::Ipv4Table;
use ipv6::Ipv6Table;
pub use key::Key;
pub use names::{NameMatcher, NameRules};
pub use pattern::{Pattern, Patterns};
use sweep::Interval;
pub use table::{NameTable, Position};

use crate::policy::network::{Address, Network};

/// What a matcher of networks is made of.
#[derive(Clone, Debug, Default)]
pub struct NetworkRules {
    /// Each network with the rule that lists it, in any order.
    pub networks: Vec<(Network, RuleIndex)>,
    /// The rules that ask for no network: they are in every class. Ascending.
    pub everywhere: Vec<RuleIndex>,
    /// By rule: nothing but its networks is asked for.
    pub is_final: Vec<bool>,
}

/// Maps a client's address to the rules that may match it; immutable. A lookup allocates nothing, and reads at most
/// three cache lines of which each one's place depends on the one before for an IPv4 address, six for an IPv6 address,
/// and then the class's list, of which there are few.
#[derive(Debug)]
pub struct NetworkMatcher {
    classes: Classes,
    ipv4: Ipv4Table,
    ipv6: Ipv6Table,
}

/// The addresses cut into intervals of one class each: what a [`NetworkMatcher`] is built of, and what an analysis of
/// the rules asks.
#[derive(Debug)]
pub struct Coverage {
    classes: Classes,
    ipv4: Vec<Interval<u32>>,
    ipv6: Vec<Interval<u128>>,
}

impl Coverage {
    /// # Errors
    /// The networks overlap in more ways than there are classes.
    pub fn new(rules: NetworkRules) -> Result<Self, TooManyClasses> {
        let NetworkRules { networks, everywhere, is_final } = rules;
        let mut classes = Classes::new(is_final);
        let outside = classes.class_of(&everywhere)?;
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (network, rule) in networks {
            match network.first() {
                IpAddr::V4(first) => {
                    let behind = u32::MAX.checked_shr(network.prefix_len().into()).unwrap_or(0);
                    ipv4.push(sweep::Claim { first: first.to_bits(), last: first.to_bits() | behind, rule });
                }
                IpAddr::V6(first) => {
                    let behind = u128::MAX.checked_shr(network.prefix_len().into()).unwrap_or(0);
                    ipv6.push(sweep::Claim { first: first.to_bits(), last: first.to_bits() | behind, rule });
                }
            }
        }
        let ipv4 = sweep::intervals(ipv4, outside, &mut classes)?;
        let ipv6 = sweep::intervals(ipv6, outside, &mut classes)?;
        Ok(Self { classes, ipv4, ipv6 })
    }

    /// By rule: whether there is an address for which it is not hidden by a final one before it.
    pub fn reachable_rules(&self, rules_count: usize) -> Vec<bool> {
        let mut used = vec![false; self.classes.len()];
        let ipv4 = self.ipv4.iter().map(|interval| interval.class);
        for class in ipv4.chain(self.ipv6.iter().map(|interval| interval.class)) {
            used[usize::from(class)] = true;
        }
        self.classes.rules_of(&used, rules_count)
    }

    /// The final rules that end the lists of the network's addresses; ascending.
    pub fn final_rules(&self, network: Network) -> Vec<RuleIndex> {
        let classes: Vec<Class> = match network.first() {
            IpAddr::V4(first) => {
                let behind = u32::MAX.checked_shr(network.prefix_len().into()).unwrap_or(0);
                sweep::classes_within(&self.ipv4, first.to_bits(), first.to_bits() | behind).collect()
            }
            IpAddr::V6(first) => {
                let behind = u128::MAX.checked_shr(network.prefix_len().into()).unwrap_or(0);
                sweep::classes_within(&self.ipv6, first.to_bits(), first.to_bits() | behind).collect()
            }
        };
        let ends = classes.into_iter().filter_map(|class| self.classes.final_rule(class));
        let mut rules: Vec<RuleIndex> = ends.collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

impl NetworkMatcher {
    /// # Errors
    /// The networks overlap in more ways than there are classes.
    pub fn new(rules: NetworkRules) -> Result<Self, TooManyClasses> {
        Ok(Self::of(Coverage::new(rules)?))
    }

    pub fn of(coverage: Coverage) -> Self {
        let Coverage { mut classes, ipv4, ipv6 } = coverage;
        classes.forget_building();
        Self { ipv4: Ipv4Table::new(&ipv4), ipv6: Ipv6Table::new(&ipv6), classes }
    }

    /// The rules that may match this client, ascending.
    pub fn rules(&self, client: Address) -> &[RuleIndex] {
        self.classes.rules(self.class(client, || ()))
    }

    /// Octets of memory.
    pub fn memory_len(&self) -> usize {
        size_of::<Self>() + self.classes.memory_len() + self.ipv4.memory_len() + self.ipv6.memory_len()
    }

    /// `on_load` is called for each cache line whose place depends on the one before.
    fn class(&self, client: Address, on_load: impl FnMut()) -> Class {
        match client.to_ipv4_bits() {
            Some(bits) => self.ipv4.class(bits, on_load),
            None => self.ipv6.class(client.to_bits(), on_load),
        }
    }
}

/// The first rule from `from` on that all ascending lists have.
pub fn first_common(lists: &[&[RuleIndex]], from: RuleIndex) -> Option<RuleIndex> {
    let mut wanted = from;
    loop {
        let before = wanted;
        for list in lists {
            wanted = if list.len() <= 8 {
                *list.iter().find(|rule| **rule >= wanted)?
            } else {
                *list.get(list.partition_point(|rule| *rule < wanted))?
            };
        }
        // One list is always right; of several, those of a whole round that raised nothing.
        if lists.len() == 1 || wanted == before {
            return Some(wanted);
        }
    }
}
