//! Names to classes: mailboxes, domains and suffixes of domains.

use super::classes::{Class, Classes, RuleIndex, TooManyClasses};
use super::key::Key;
use super::pattern::Pattern;
use super::table::{NameTable, Position};

/// Collects the patterns of all rules of a stage that ask for one kind of name.
#[derive(Debug)]
pub struct NameRules {
    /// A name's number is the class of the rules that list it.
    table: NameTable,
    classes: Classes,
    everywhere: Vec<RuleIndex>,
    nothing: Class,
}

/// Maps a name to the rules that may match it; immutable. A lookup allocates nothing. What is listed more precisely has
/// all the rules of what it lies in too: `a@mail.example.com` those of `mail.example.com` and of `.example.com`. So the
/// most precise entry is the only one that counts, and its list keeps the order of the rules.
#[derive(Debug)]
pub struct NameMatcher {
    table: NameTable,
    classes: Classes,
    /// Of a name that nothing lists.
    elsewhere: Class,
    null: Class,
    has_mailboxes: bool,
    /// Bit n: there is a suffix with n dots.
    suffix_depths: u128,
}

impl NameRules {
    /// `everywhere`: the rules that ask for no such name, ascending. `is_final`: by rule, whether nothing else is asked
    /// for.
    ///
    /// # Errors
    /// Too many rules.
    pub fn new(everywhere: Vec<RuleIndex>, is_final: Vec<bool>) -> Result<Self, TooManyClasses> {
        let mut classes = Classes::new(is_final);
        let nothing = classes.class_of(&[])?;
        Ok(Self { table: NameTable::default(), classes, everywhere, nothing })
    }

    /// # Errors
    /// The rules list names in more combinations than there are classes.
    pub fn insert(&mut self, pattern: Pattern<'_>, rule: RuleIndex) -> Result<(), TooManyClasses> {
        let (position, _) = self.table.insert(pattern.as_bytes(), self.nothing);
        let class = self.classes.with_rule(self.table.number(position), rule)?;
        self.table.set_number(position, class);
        Ok(())
    }

    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn finish(self) -> Result<NameMatcher, TooManyClasses> {
        let Self { table, mut classes, everywhere, nothing: _ } = self;
        let elsewhere = classes.class_of(&everywhere)?;
        let mut matcher = NameMatcher {
            table,
            classes,
            elsewhere,
            null: elsewhere,
            has_mailboxes: false,
            suffix_depths: 0,
        };
        let mut by_depth: Vec<(usize, Position)> = Vec::new();
        let (mut domains, mut mailboxes) = (Vec::new(), Vec::new());
        for position in matcher.table.positions() {
            match matcher.table.name(position) {
                Key::NULL => mailboxes.push(position),
                name if name.starts_with(b".") => by_depth.push((dots_count(name), position)),
                name if name.contains(&b'@') => mailboxes.push(position),
                _ => domains.push(position),
            }
        }
        by_depth.sort_unstable_by_key(|(depth, _)| *depth);
        // A name's parents are there before it: its class is complete then.
        for (depth, position) in by_depth {
            matcher.complete(position)?;
            matcher.suffix_depths |= 1 << depth;
        }
        domains.into_iter().try_for_each(|position| matcher.complete(position))?;
        matcher.has_mailboxes = !mailboxes.is_empty();
        mailboxes.into_iter().try_for_each(|position| matcher.complete(position))?;
        matcher.null = matcher.table.get(Key::NULL).unwrap_or(elsewhere);
        matcher.table.shrink();
        matcher.classes.forget_building();
        Ok(matcher)
    }
}

impl NameMatcher {
    /// The rules that may match a mailbox or a domain, ascending.
    pub fn rules(&self, key: &Key) -> &[RuleIndex] {
        self.classes.rules(self.class(key))
    }

    /// Those that may match the null reverse-path.
    pub fn rules_of_null(&self) -> &[RuleIndex] {
        self.classes.rules(self.null)
    }

    /// By rule: whether there is a name for which it is not hidden by a final one before it.
    pub fn reachable_rules(&self, rules_count: usize) -> Vec<bool> {
        let mut used = vec![false; self.classes.len()];
        used[usize::from(self.elsewhere)] = true;
        self.table.positions().for_each(|position| used[usize::from(self.table.number(position))] = true);
        self.classes.rules_of(&used, rules_count)
    }

    /// The final rule that ends the list of what the pattern lists.
    pub fn final_rule(&self, pattern: Pattern<'_>) -> Option<RuleIndex> {
        self.classes.final_rule(self.table.get(pattern.as_bytes()).unwrap_or(self.elsewhere))
    }

    /// Octets of memory.
    pub fn memory_len(&self) -> usize {
        size_of::<Self>() + self.table.memory_len() + self.classes.memory_len()
    }

    fn class(&self, key: &Key) -> Class {
        if self.has_mailboxes
            && key.local_part().is_some()
            && let Some(class) = self.table.get(key.as_bytes())
        {
            return class;
        }
        self.table.get(key.domain()).unwrap_or_else(|| self.class_of_suffix(key.domain()))
    }

    /// Of the longest suffix that is listed and shorter than the name.
    fn class_of_suffix(&self, name: &[u8]) -> Class {
        if self.suffix_depths == 0 {
            return self.elsewhere;
        }
        let mut depth = dots_count(name);
        for (at, octet) in name.iter().enumerate() {
            if *octet != b'.' {
                continue;
            }
            let may_be_listed =
                self.suffix_depths.checked_shr(depth as u32).is_some_and(|bits| bits & 1 == 1);
            if may_be_listed
                && at > 0
                && let Some(class) = self.table.get(&name[at..])
            {
                return class;
            }
            depth -= 1;
        }
        self.elsewhere
    }

    /// Adds the rules of what the name lies in to those that list it.
    fn complete(&mut self, position: Position) -> Result<(), TooManyClasses> {
        let name = self.table.name(position);
        let around = match name.iter().rposition(|octet| *octet == b'@') {
            Some(at) => {
                let domain = &name[at + 1..];
                self.table.get(domain).unwrap_or_else(|| self.class_of_suffix(domain))
            }
            None => self.class_of_suffix(name),
        };
        let class = self.classes.with_class(around, self.table.number(position))?;
        self.table.set_number(position, class);
        Ok(())
    }
}

fn dots_count(name: &[u8]) -> usize {
    name.iter().filter(|octet| **octet == b'.').count()
}
