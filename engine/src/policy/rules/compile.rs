//! From rules as they are listed to rules as they are found; and which of them nothing can ever find.

use std::collections::HashSet;

use super::action::Action;
use super::{Protection, Rule, RuleSet, Stage, StageRules};
use crate::limits::PROTECTIONS_COUNT_MAX;
use crate::policy::matcher::{
    Classes, Coverage, NameMatcher, NameRules, NetworkMatcher, NetworkRules, Patterns, RuleIndex,
    TooManyClasses,
};
use crate::policy::network::Network;

/// A rule as it is listed. A condition that is `None` holds for all.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    pub stage: Stage,
    pub client: Option<Vec<Network>>,
    /// Their names.
    pub listeners: Option<Vec<Box<str>>>,
    pub helo: Option<Patterns>,
    pub from: Option<Patterns>,
    pub to: Option<Patterns>,
    /// MAIL announces more octets.
    pub size_over: Option<u64>,
    pub protection: Protection,
    pub action: Action,
    /// File and line.
    pub place: Box<str>,
}

/// A rule that can never match. Both are positions in the list of all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    pub rule: usize,
    /// The rules before it that together take all it could match.
    pub by: Vec<usize>,
    pub why: Why,
}

/// Where a hidden rule is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rule before it takes everything.
    CatchAll,
    /// Rules before it take all of its networks, or names.
    Covered,
}

/// The rules cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("stage {stage}: {source}", stage = .stage.name())]
    Classes { stage: Stage, source: TooManyClasses },
    #[error("stage {stage} has more than 65535 rules: put what is treated alike into lists", stage = .0.name())]
    TooManyRules(Stage),
    #[error(
        "stage {stage} has more than {PROTECTIONS_COUNT_MAX} different lists of client certificates: put what is \
         treated alike into one", stage = .0.name()
    )]
    TooManyProtections(Stage),
}

/// The rules of one stage, with their positions in the list of all.
struct Listed<'a> {
    specs: Vec<(usize, &'a RuleSpec)>,
}

impl RuleSet {
    /// # Errors
    /// There are too many rules, or they overlap in too many ways.
    pub fn compile(
        specs: &[RuleSpec],
        tags: Vec<Box<str>>,
        postmaster_domain: &str,
    ) -> Result<(Self, Vec<Hidden>), CompileError> {
        let mut set =
            Self { tags: tags.into(), postmaster_domain: postmaster_domain.into(), ..Self::default() };
        let mut hidden = Vec::new();
        for stage in Stage::ALL {
            let specs: Vec<_> = specs.iter().enumerate().filter(|(_, spec)| spec.stage == stage).collect();
            if specs.len() > usize::from(RuleIndex::MAX) {
                return Err(CompileError::TooManyRules(stage));
            }
            let listed = Listed { specs };
            if listed.protections().len() > PROTECTIONS_COUNT_MAX {
                return Err(CompileError::TooManyProtections(stage));
            }
            set.stages[stage as usize] =
                listed.compile(&mut hidden).map_err(|source| CompileError::Classes { stage, source })?;
        }
        hidden.sort_by_key(|hidden| hidden.rule);
        Ok((set, hidden))
    }
}

impl Listed<'_> {
    fn compile(&self, hidden: &mut Vec<Hidden>) -> Result<StageRules, TooManyClasses> {
        let all: Vec<RuleIndex> = (0..self.specs.len() as RuleIndex).collect();
        let is_final: Vec<bool> = self
            .specs
            .iter()
            .map(|(_, spec)| spec.conditions_count() == 0 && spec.action.decides())
            .collect();
        let mut classes = Classes::new(is_final);
        let whole = classes.class_of(&all)?;
        let all = classes.rules(whole).to_vec();
        if let Some(catch_all) = classes.final_rule(whole) {
            for at in usize::from(catch_all) + 1..self.specs.len() {
                hidden.push(Hidden {
                    rule: self.specs[at].0,
                    by: self.named(&[catch_all]),
                    why: Why::CatchAll,
                });
            }
        }
        let protections = self.protections();
        let rules = self.specs.iter().map(|(at, spec)| Rule {
            action: spec.action.clone(),
            number: *at as u32 + 1,
            place: spec.place.clone(),
            listeners: spec.listeners.as_deref().map(Into::into),
            size_over: spec.size_over,
            protection: protections.iter().position(|one| *one == spec.protection).map(|at| at as u8),
        });
        let rules = rules.collect();
        let mut stage =
            StageRules { rules, all: all.into(), protections: protections.into(), ..StageRules::default() };
        stage.client = self.networks(hidden)?;
        stage.helo = self.names(|spec| spec.helo.as_ref(), hidden)?;
        stage.reverse_path = self.names(|spec| spec.from.as_ref(), hidden)?;
        stage.forward_path = self.names(|spec| spec.to.as_ref(), hidden)?;
        Ok(stage)
    }

    /// What they ask of TLS, each once.
    fn protections(&self) -> Vec<Protection> {
        let mut found: Vec<Protection> = Vec::new();
        for (_, RuleSpec { protection, .. }) in &self.specs {
            if protection.conditions_count() > 0 && !found.contains(protection) {
                found.push(protection.clone());
            }
        }
        found
    }

    /// The rules without such a condition, and those behind which nothing can match where it holds.
    fn dimension(&self, has: impl Fn(&RuleSpec) -> bool) -> (Vec<RuleIndex>, Vec<bool>) {
        let without = self.specs.iter().enumerate().filter(|(_, (_, spec))| !has(spec));
        let everywhere = without.map(|(index, _)| index as RuleIndex).collect();
        let is_final = self
            .specs
            .iter()
            .map(|(_, spec)| spec.conditions_count() == usize::from(has(spec)) && spec.action.decides());
        (everywhere, is_final.collect())
    }

    fn networks(&self, hidden: &mut Vec<Hidden>) -> Result<Option<NetworkMatcher>, TooManyClasses> {
        if self.specs.iter().all(|(_, spec)| spec.client.is_none()) {
            return Ok(None);
        }
        let (everywhere, is_final) = self.dimension(|spec| spec.client.is_some());
        let listed = self.specs.iter().enumerate().flat_map(|(index, (_, spec))| {
            spec.client.iter().flatten().map(move |network| (*network, index as RuleIndex))
        });
        let networks = listed.collect();
        let coverage = Coverage::new(NetworkRules { networks, everywhere, is_final })?;
        self.find_hidden(&coverage.reachable_rules(self.specs.len()), hidden, |spec| {
            let everything = [Network::ALL_IPV4, Network::ALL_IPV6];
            let networks = spec.client.as_deref().unwrap_or(&everything);
            networks.iter().flat_map(|network| coverage.final_rules(*network)).collect()
        });
        Ok(Some(NetworkMatcher::of(coverage)))
    }

    fn names(
        &self,
        patterns: impl Fn(&RuleSpec) -> Option<&Patterns>,
        hidden: &mut Vec<Hidden>,
    ) -> Result<Option<NameMatcher>, TooManyClasses> {
        if self.specs.iter().all(|(_, spec)| patterns(spec).is_none()) {
            return Ok(None);
        }
        let (everywhere, is_final) = self.dimension(|spec| patterns(spec).is_some());
        let mut rules = NameRules::new(everywhere, is_final)?;
        for (index, (_, spec)) in self.specs.iter().enumerate() {
            for pattern in patterns(spec).into_iter().flat_map(Patterns::iter) {
                rules.insert(pattern, index as RuleIndex)?;
            }
        }
        let matcher = rules.finish()?;
        self.find_hidden(&matcher.reachable_rules(self.specs.len()), hidden, |spec| {
            patterns(spec)
                .into_iter()
                .flat_map(Patterns::iter)
                .filter_map(|name| matcher.final_rule(name))
                .collect()
        });
        Ok(Some(matcher))
    }

    /// Adds those that are out of reach; `covering` gives the rules that take what a rule lists.
    fn find_hidden(
        &self,
        reachable: &[bool],
        hidden: &mut Vec<Hidden>,
        covering: impl Fn(&RuleSpec) -> Vec<RuleIndex>,
    ) {
        let known: HashSet<usize> = hidden.iter().map(|hidden| hidden.rule).collect();
        for (index, (at, spec)) in self.specs.iter().enumerate() {
            if reachable[index] || known.contains(at) {
                continue;
            }
            let mut by: Vec<RuleIndex> =
                covering(spec).into_iter().filter(|rule| usize::from(*rule) < index).collect();
            by.sort_unstable();
            by.dedup();
            hidden.push(Hidden { rule: *at, by: self.named(&by), why: Why::Covered });
        }
    }

    /// The positions among all rules.
    fn named(&self, rules: &[RuleIndex]) -> Vec<usize> {
        rules.iter().map(|rule| self.specs[usize::from(*rule)].0).collect()
    }
}

impl RuleSpec {
    fn conditions_count(&self) -> usize {
        [
            self.client.is_some(),
            self.listeners.is_some(),
            self.helo.is_some(),
            self.from.is_some(),
            self.to.is_some(),
            self.size_over.is_some(),
        ]
        .into_iter()
        .map(usize::from)
        .sum::<usize>()
            + self.protection.conditions_count()
    }
}
