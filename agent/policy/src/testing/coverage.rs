//! Which rules the cases of tests made fire.
//!
//! In: the rules of a set, and those that fired. Out: a [`Coverage`].

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::PolicySet;

/// Each rule of the policies under test, and whether a case made it fire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, bool>);

impl Coverage {
    /// Notes the rules of a set, as yet without a case.
    pub fn add_set(&mut self, set: &PolicySet) {
        for rule in set.rule_names() {
            self.0.entry(rule).or_default();
        }
    }

    /// Notes rules that fired.
    pub fn add_fired<'r>(&mut self, rules: impl IntoIterator<Item = &'r String>) {
        for rule in rules {
            if let Some(fired) = self.0.get_mut(rule) {
                *fired = true;
            }
        }
    }

    /// How many rules there are.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.0.len()
    }

    /// How many of them fired.
    #[must_use]
    pub fn fired(&self) -> usize {
        self.0.values().filter(|fired| **fired).count()
    }

    /// Those that never fired.
    #[must_use]
    pub fn never_fired(&self) -> BTreeSet<&str> {
        let silent = self.0.iter().filter(|(_, fired)| !**fired);
        silent.map(|(rule, _)| rule.as_str()).collect()
    }

    /// How many of a hundred rules fired, rounded down; 100 where there is no rule.
    #[must_use]
    pub fn percent(&self) -> usize {
        (self.fired() * 100).checked_div(self.rules()).unwrap_or(100)
    }
}
