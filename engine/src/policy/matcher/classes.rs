//! Lists of rules, each kept once.

use std::collections::HashMap;

use crate::limits::RULE_LIST_ENTRIES_COUNT_MAX;

/// Position of a rule in its stage.
pub type RuleIndex = u16;

/// Number of a list of rules.
pub type Class = u16;

/// The conditions of the rules overlap in more ways than can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the rules of one stage overlap in more than {} ways: give what is treated alike to one rule, in a list, and put \
     rules without further conditions first", usize::from(Class::MAX) + 1
)]
pub struct TooManyClasses;

/// Ascending lists of rules, each with a number. A list ends with its first final rule.
#[derive(Debug)]
pub struct Classes {
    rules: Vec<RuleIndex>,
    /// Of each list; one more at the end.
    starts: Vec<u32>,
    /// By rule; see [`Classes::new`].
    is_final: Vec<bool>,
    numbers: HashMap<Box<[RuleIndex]>, Class>,
    /// What a list becomes with one more rule: the same few are asked for a million times.
    with_rule: HashMap<(Class, RuleIndex), Class>,
    with_class: HashMap<(Class, Class), Class>,
}

impl Classes {
    /// `is_final`: behind which rules nothing can match. Rules beyond its end are not final.
    pub fn new(is_final: Vec<bool>) -> Self {
        Self {
            rules: Vec::new(),
            starts: vec![0],
            is_final,
            numbers: HashMap::new(),
            with_rule: HashMap::new(),
            with_class: HashMap::new(),
        }
    }

    /// The list with this number.
    pub fn rules(&self, class: Class) -> &[RuleIndex] {
        let class = usize::from(class);
        &self.rules[self.starts[class] as usize..self.starts[class + 1] as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rule behind which nothing can match, if the list has one.
    pub fn final_rule(&self, class: Class) -> Option<RuleIndex> {
        self.rules(class).last().copied().filter(|rule| self.is_final(*rule))
    }

    /// By rule, whether any of the `used` lists has it.
    pub fn rules_of(&self, used: &[bool], rules_count: usize) -> Vec<bool> {
        let mut found = vec![false; rules_count];
        for (class, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            for rule in self.rules(class as Class) {
                found[usize::from(*rule)] = true;
            }
        }
        found
    }

    /// The number of an ascending list.
    ///
    /// # Errors
    /// There is none left.
    pub fn class_of(&mut self, rules: &[RuleIndex]) -> Result<Class, TooManyClasses> {
        let end = rules.iter().position(|rule| self.is_final(*rule)).map_or(rules.len(), |at| at + 1);
        let rules = &rules[..end];
        if let Some(class) = self.numbers.get(rules) {
            return Ok(*class);
        }
        let class = Class::try_from(self.len()).map_err(|_| TooManyClasses)?;
        if self.rules.len() + rules.len() > RULE_LIST_ENTRIES_COUNT_MAX {
            return Err(TooManyClasses);
        }
        self.rules.extend_from_slice(rules);
        self.starts.push(self.rules.len() as u32);
        self.numbers.insert(rules.into(), class);
        Ok(class)
    }

    /// The list with one more rule.
    ///
    /// # Errors
    /// As [`class_of`](Self::class_of).
    pub fn with_rule(&mut self, class: Class, rule: RuleIndex) -> Result<Class, TooManyClasses> {
        if let Some(known) = self.with_rule.get(&(class, rule)) {
            return Ok(*known);
        }
        let with_rule = self.with_rules(class, &[rule])?;
        self.with_rule.insert((class, rule), with_rule);
        Ok(with_rule)
    }

    /// The list with more rules, in any order.
    ///
    /// # Errors
    /// As [`class_of`](Self::class_of).
    pub fn with_rules(&mut self, class: Class, rules: &[RuleIndex]) -> Result<Class, TooManyClasses> {
        let mut merged = [self.rules(class), rules].concat();
        merged.sort_unstable();
        merged.dedup();
        self.class_of(&merged)
    }

    /// The list with the rules of another.
    ///
    /// # Errors
    /// As [`class_of`](Self::class_of).
    pub fn with_class(&mut self, class: Class, other: Class) -> Result<Class, TooManyClasses> {
        if let Some(known) = self.with_class.get(&(class, other)) {
            return Ok(*known);
        }
        let rules = self.rules(other).to_vec();
        let with_class = self.with_rules(class, &rules)?;
        self.with_class.insert((class, other), with_class);
        Ok(with_class)
    }

    /// No more lists are to come.
    pub fn forget_building(&mut self) {
        (self.numbers, self.with_rule, self.with_class) = Default::default();
        self.rules.shrink_to_fit();
        self.starts.shrink_to_fit();
    }

    /// Octets of memory, once [`forget_building`](Self::forget_building) was called.
    pub fn memory_len(&self) -> usize {
        self.rules.capacity() * size_of::<RuleIndex>()
            + self.starts.capacity() * size_of::<u32>()
            + self.is_final.len()
    }

    fn is_final(&self, rule: RuleIndex) -> bool {
        self.is_final.get(usize::from(rule)).is_some_and(|is_final| *is_final)
    }
}
