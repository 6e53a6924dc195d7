//! How much an agent may ask for, by all policies that are about it.
//!
//! In: `spec.limits` of the AgentPolicies, then a principal. Out: the strictest number of each limit, with the policy that sets it.
//! Nothing is counted here: that is for whoever sees the requests.

use std::collections::HashMap;
use std::sync::Arc;

use super::PolicySet;
use super::rules::{CompiledPolicy, only_identities};
use crate::api::v1alpha1::{AgentPolicy, Limits, Mode};
use crate::identity::Principal;

/// A number that holds for an agent, and the AgentPolicy that sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<'s, T> {
    /// The number.
    pub most: T,
    /// The policy; the first by name where several set the same.
    pub policy: &'s Arc<str>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second, on average; at least 1.
    pub per_second: u32,
    /// Requests at once; at least 1.
    pub burst: u32,
}

/// The limits of one mode. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSet<'s> {
    /// Requests a second. The policy is the one with the lowest rate; the burst may be another's.
    pub rate: Option<Limit<'s, Rate>>,
    /// Requests under way.
    pub concurrent: Option<Limit<'s, u32>>,
    /// Refusals of the same request in a minute.
    pub repeated_denials: Option<Limit<'s, u32>>,
}

/// The limits of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EffectiveLimits<'s> {
    /// Those of policies in mode Enforce.
    pub enforced: LimitSet<'s>,
    /// Those of policies in mode Audit, which refuse nothing.
    pub audited: LimitSet<'s>,
}

impl EffectiveLimits<'_> {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The limits of one policy.
#[derive(Debug, Clone, Copy)]
struct PolicyLimits {
    /// Its place in the table.
    policy: u32,
    limits: Limits,
}

/// Every policy with limits, found by the identity where the policy names identities plainly.
#[derive(Debug, Default)]
pub(super) struct LimitIndex {
    by_identity: HashMap<Box<str>, Vec<PolicyLimits>>,
    shared: Vec<PolicyLimits>,
}

impl LimitIndex {
    /// Adds the limits of the policy that has this place.
    pub(super) fn add(&mut self, policy: u32, object: &AgentPolicy) {
        let Some(limits) = object.spec.limits else { return };
        let limits = PolicyLimits { policy, limits };
        match only_identities(object.spec.subjects.as_ref()) {
            Some(identities) => {
                for identity in identities {
                    self.by_identity.entry(identity.into()).or_default().push(limits);
                }
            }
            None => self.shared.push(limits),
        }
    }
}

impl<'s> LimitSet<'s> {
    fn add(&mut self, limits: &Limits, policy: &'s Arc<str>) {
        if let Some(per_second) = limits.requests_per_second {
            let rate = Rate {
                per_second: per_second.max(1),
                burst: limits.burst_of(per_second).max(1),
            };
            self.rate = Some(match self.rate {
                None => Limit { most: rate, policy },
                Some(before) => {
                    let burst = rate.burst.min(before.most.burst);
                    let (per_second, policy) =
                        (before.most.per_second, before.policy).min((rate.per_second, policy));
                    let most = Rate { per_second, burst };
                    Limit { most, policy }
                }
            });
        }
        for (held, given) in [
            (&mut self.concurrent, limits.concurrent_requests),
            (&mut self.repeated_denials, limits.repeated_denials_per_minute),
        ] {
            let Some(given) = given.map(|most| (most.max(1), policy)) else {
                continue;
            };
            let before = held.map_or(given, |before| (before.most, before.policy));
            let (most, policy) = before.min(given);
            *held = Some(Limit { most, policy });
        }
    }
}

impl PolicySet {
    /// The limits of an agent: of several policies about it the strictest number of each. Nothing is allocated.
    #[must_use]
    pub fn limits(&self, principal: &Principal) -> EffectiveLimits<'_> {
        let mut found = EffectiveLimits::default();
        let own = self.limits.by_identity.get(principal.name());
        for entry in own.into_iter().flatten().chain(&self.limits.shared) {
            let policy: Option<&CompiledPolicy> = self.rules.policies.get(entry.policy as usize);
            let Some(policy) = policy.filter(|policy| policy.is_about(principal)) else {
                continue;
            };
            let set = match policy.mode {
                Mode::Enforce => &mut found.enforced,
                Mode::Audit => &mut found.audited,
            };
            set.add(&entry.limits, &policy.name);
        }
        found
    }
}
