//! What each identity may ask of this node: requests a second, requests at once, and the same refused request in a minute.
//!
//! In: an agent's limits by the policies in force, and its requests as they begin, are refused and end. Out: a place for a request, or
//! a [`LimitExceeded`].
//!
//! | file | holds |
//! |---|---|
//! | `mod` | the counts of each identity |
//! | `bucket` | the token bucket |
//! | `breaker` | the same refused request, counted |
//! | `exceeded` | what client and record are told |
//! | `metrics` | metrics |
//!
//! The threads of the data path share the counts of an identity without a lock: requests that pass touch atomic words alone. An identity
//! keeps its counts when policies change: a reload fills no bucket. Counts of identities that no object names go with the next new one.

mod breaker;
mod bucket;
mod exceeded;
mod metrics;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use picket_policy::{EffectiveLimits, FiredRule, KubeRequest, Limit, PolicySet, Principal, Target};

use crate::audit::{AuditId, RequestCount};
use breaker::{Breaker, Repeated, WINDOW};
use bucket::TokenBucket;
use exceeded::{Exceeded, Facts};

pub use breaker::OpenBreaker;
pub use exceeded::{LimitExceeded, LimitKind, Repeat};
pub use metrics::{BreakerGuard, LimitMetrics};

/// Nanoseconds of a second: moments are counted in them.
const SECOND: u64 = 1_000_000_000;

/// How many seconds after a refusal a place may be free. It is free when a request ends, which nobody knows.
const RETRY_CONCURRENT: u32 = 1;

/// The counts of one mode.
#[derive(Debug, Default)]
struct ModeCounts {
    bucket: TokenBucket,
    breaker: Breaker,
}

/// The counts of one identity.
#[derive(Debug, Default)]
pub struct IdentityCounts {
    enforced: ModeCounts,
    /// As if the policies in mode Audit refused.
    audited: ModeCounts,
    /// Requests that have begun and not ended.
    under_way: AtomicU32,
    /// The moment until which rate and requests at once are no news; one for each.
    told_until: [AtomicU64; 2],
}

impl IdentityCounts {
    /// Counts one more request, where fewer are under way than the limit says; else gives the limit.
    fn begin<'s>(&self, limit: Option<Limit<'s, u32>>) -> Result<(), Limit<'s, u32>> {
        let Some(limit) = limit else {
            self.under_way.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let more = |count: u32| (count < limit.most).then_some(count + 1);
        let begun = self
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.map(drop).map_err(|_| limit)
    }

    /// Whether nobody was told of a limit for a minute; from now on somebody was.
    fn is_news(&self, kind: LimitKind, now: u64) -> bool {
        let told = &self.told_until[usize::from(kind == LimitKind::Concurrent)];
        let later = |until: u64| (now >= until).then_some(now + WINDOW);
        told.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later)
            .is_ok()
    }
}

impl RequestCount for IdentityCounts {
    fn ended(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that may go on.
#[derive(Debug, Default)]
pub struct Admitted {
    /// What counts the request until it ends, where that matters.
    pub counts: Option<Arc<IdentityCounts>>,
    /// What policies in mode Audit would have refused.
    pub would_deny: Vec<FiredRule>,
}

/// The counts of all identities.
#[derive(Debug)]
pub struct RequestLimits {
    began: Instant,
    /// Replaced where an identity is new, which is once each.
    identities: ArcSwap<HashMap<Arc<str>, Arc<IdentityCounts>>>,
    /// Keyed, so that no agent can choose requests that count as one.
    hasher: RandomState,
    metrics: LimitMetrics,
}

/// The agent whose request is counted.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The policies in force.
    pub policies: &'a PolicySet,
    /// The agent.
    pub principal: &'a Principal,
    /// Its identity's name.
    pub name: &'a Arc<str>,
}

impl RequestLimits {
    /// Counts nothing yet.
    #[must_use]
    pub fn new(metrics: LimitMetrics) -> Self {
        Self {
            began: Instant::now(),
            identities: ArcSwap::default(),
            hasher: RandomState::new(),
            metrics,
        }
    }

    /// The moment now, in nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        // 64 bits last for 584 years.
        self.began.elapsed().as_nanos() as u64
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &LimitMetrics {
        &self.metrics
    }

    /// Counts a request that begins at `now`, before anything of it is judged.
    ///
    /// # Errors
    /// The limit that it exceeds. It is not counted then.
    pub fn admit(&self, asker: Asker<'_>, now: u64) -> Result<Admitted, LimitExceeded> {
        let limits = asker.policies.limits(asker.principal);
        if limits.is_empty() {
            return Ok(Admitted::default());
        }
        let counts = self.counts(asker);
        let (enforced, audited) = (limits.enforced, limits.audited);
        let crowded = |limit: &Limit<'_, u32>| counts.under_way.load(Ordering::Relaxed) >= limit.most;
        let over_audited = audited.concurrent.filter(crowded);
        let counted = enforced.concurrent.is_some() || audited.concurrent.is_some();
        if counted && let Err(limit) = counts.begin(enforced.concurrent) {
            let exceeded = Exceeded::Concurrent(limit.most);
            let wait = u64::from(RETRY_CONCURRENT) * SECOND;
            return Err(self.refusal(asker, &counts, (exceeded, limit.policy), now, wait));
        }
        // From here on the count ends with this.
        let place = Place(counted.then_some(&*counts));
        if let Some(limit) = enforced.rate
            && let Err(wait) = counts.enforced.bucket.take(now, limit.most)
        {
            let exceeded = Exceeded::Rate(limit.most);
            return Err(self.refusal(asker, &counts, (exceeded, limit.policy), now, wait));
        }
        let mut would_deny = Vec::new();
        let mut note = |exceeded: Exceeded, policy: &Arc<str>| {
            self.metrics.limited(exceeded.kind(), false);
            would_deny.push(finding(policy, &exceeded));
        };
        if let Some(limit) = over_audited {
            note(Exceeded::Concurrent(limit.most), limit.policy);
        }
        if let Some(limit) = audited.rate
            && counts.audited.bucket.take(now, limit.most).is_err()
        {
            note(Exceeded::Rate(limit.most), limit.policy);
        }
        place.keep();
        Ok(Admitted {
            counts: counted.then_some(counts),
            would_deny,
        })
    }

    fn refusal(
        &self,
        asker: Asker<'_>,
        counts: &IdentityCounts,
        (exceeded, policy): (Exceeded, &Arc<str>),
        now: u64,
        wait: u64,
    ) -> LimitExceeded {
        let kind = exceeded.kind();
        self.metrics.limited(kind, true);
        LimitExceeded::new(Facts {
            agent: Arc::clone(asker.name),
            owner: asker.principal.identity().owner.clone(),
            policy: Arc::clone(policy),
            exceeded,
            retry_after: seconds(wait),
            news: counts.is_news(kind, now),
            repeat: None,
        })
    }

    /// Counts a refusal of a request; `by` is what refuses it, and `refusal` what the client would be told.
    ///
    /// # Errors
    /// The limit, where the same request was refused too often in the last minute. What is noted otherwise is of policies in mode Audit.
    pub fn refused(
        &self,
        asker: Asker<'_>,
        request: &KubeRequest,
        (by, refusal): (&str, &dyn Fn() -> String),
        record: AuditId,
        now: u64,
    ) -> Result<Option<FiredRule>, LimitExceeded> {
        let EffectiveLimits { enforced, audited } = asker.policies.limits(asker.principal);
        if enforced.repeated_denials.is_none() && audited.repeated_denials.is_none() {
            return Ok(None);
        }
        let counts = self.counts(asker);
        let request = self.same(asker.principal, request, by);
        if let Some(limit) = enforced.repeated_denials {
            let repeated = counts.enforced.breaker.refused(request, limit.most, record, now);
            let (repeat, open) = match repeated {
                Repeated::Told => (None, None),
                Repeated::Opens(open) => (Some(Repeat::First(Arc::clone(&open))), Some(open)),
                Repeated::Open(open) => (Some(Repeat::Further(Arc::clone(&open))), Some(open)),
            };
            if let Some(open) = open {
                self.metrics.limited(LimitKind::RepeatedDenials, true);
                return Err(LimitExceeded::new(Facts {
                    agent: Arc::clone(asker.name),
                    owner: asker.principal.identity().owner.clone(),
                    policy: Arc::clone(limit.policy),
                    exceeded: Exceeded::RepeatedDenials {
                        most: limit.most,
                        refusal: refusal(),
                    },
                    retry_after: seconds(open.until().saturating_sub(now)),
                    news: matches!(repeat, Some(Repeat::First(_))),
                    repeat,
                }));
            }
        }
        let Some(limit) = audited.repeated_denials else {
            return Ok(None);
        };
        match counts.audited.breaker.refused(request, limit.most, record, now) {
            Repeated::Told => Ok(None),
            Repeated::Opens(_) | Repeated::Open(_) => {
                self.metrics.limited(LimitKind::RepeatedDenials, false);
                let exceeded = Exceeded::RepeatedDenials {
                    most: limit.most,
                    refusal: String::new(),
                };
                Ok(Some(finding(limit.policy, &exceeded)))
            }
        }
    }

    /// The counts of an identity; made with its first request under a limit.
    fn counts(&self, asker: Asker<'_>) -> Arc<IdentityCounts> {
        if let Some(counts) = self.identities.load().get(&**asker.name) {
            return Arc::clone(counts);
        }
        let new = Arc::new(IdentityCounts::default());
        let all = self.identities.rcu(|all| {
            let mut all = HashMap::clone(all);
            let identities = asker.policies.identities();
            if all.len() >= identities.len() {
                let named: HashSet<_> = identities.iter().map(|identity| identity.name.as_str()).collect();
                all.retain(|name, _| named.contains(&**name));
            }
            all.entry(Arc::clone(asker.name))
                .or_insert_with(|| Arc::clone(&new));
            all
        });
        // What was there before; another thread may have added the same identity.
        all.get(&**asker.name).map_or_else(
            || {
                let now = self.identities.load();
                now.get(&**asker.name).map_or(new, Arc::clone)
            },
            Arc::clone,
        )
    }

    /// A number for a request that is refused for this. The body has no part in it, nor has the API version.
    fn same(&self, principal: &Principal, request: &KubeRequest, by: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        request.verb_of_effect().as_str().hash(&mut hasher);
        match &request.target {
            Target::Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            } => {
                (group, resource, subresource, namespace, name).hash(&mut hasher);
            }
            Target::NonResource { path } => path.hash(&mut hasher),
        }
        request.proxy_path.hash(&mut hasher);
        request.exec.as_ref().map(|exec| &exec.command).hash(&mut hasher);
        principal
            .person()
            .map(|person| person.username())
            .hash(&mut hasher);
        by.hash(&mut hasher);
        hasher.finish()
    }
}

/// Takes a count back, unless the request goes on.
struct Place<'c>(Option<&'c IdentityCounts>);

impl Place<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(counts) = self.0 {
            counts.ended();
        }
    }
}

/// Whole seconds until then, at least 1: `Retry-After` has no smaller unit (RFC 9110 section 10.2.3).
fn seconds(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds.div_ceil(SECOND))
        .unwrap_or(u32::MAX)
        .max(1)
}

fn finding(policy: &Arc<str>, exceeded: &Exceeded) -> FiredRule {
    FiredRule {
        policy: policy.to_string(),
        rule: exceeded.kind().rule().to_owned(),
        message: exceeded.to_string(),
    }
}

#[cfg(test)]
mod tests;
