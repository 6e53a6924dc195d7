//! Leader election: of the controller's replicas one works at a time.
//!
//! In: the Lease `picket-controller`, and this replica's name. Out: the work runs while the replica holds the Lease, and is dropped
//! before another may hold it.
//!
//! As in client-go, a Lease counts by when this process saw it change, never by the times written in it, so that clocks may differ.
//! A Lease of an older version than was seen before is of objects that were set back, as by a restore of etcd. Watches that were taken up
//! would hear nothing then (kubernetes/kubernetes#107457), so that the work ends and begins anew, with lists.
//! The crates for this were looked at: kube-leader-election compares clocks and lets two lead for a while; the others follow older
//! releases of kube.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, timeout};

use crate::health::Health;
use crate::kubernetes::{labels, printable};
use crate::lenient::Lenient;
use crate::metrics::ControllerMetrics;
use crate::names::LEASE;

/// How long others wait after the last renewal that they saw. The three are client-go's defaults
/// (k8s.io/component-base/config/v1alpha1/defaults.go).
const DURATION: Duration = Duration::from_secs(15);
/// How long a holder works without having renewed. The rest up to [`DURATION`] is for what it sent last to arrive.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The pause between attempts.
const RETRY: Duration = Duration::from_secs(2);

/// Where the Lease is kept.
pub(crate) trait LeaseStore {
    /// The Lease, if it exists.
    fn get(&self) -> impl Future<Output = Result<Option<Lease>, kube::Error>> + Send;
    /// Creates it; fails where it exists.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, kube::Error>> + Send;
    /// Replaces the version that the object names; fails where there is another.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<Lease, kube::Error>> + Send;
}

impl LeaseStore for Api<Lenient<Lease>> {
    async fn get(&self) -> Result<Option<Lease>, kube::Error> {
        Ok(self.get_opt(LEASE).await?.map(|lease| lease.0))
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        let created = Self::create(self, &PostParams::default(), &Lenient(lease.clone())).await?;
        Ok(created.0)
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        let (parameters, lease) = (PostParams::default(), Lenient(lease.clone()));
        let replaced = Self::replace(self, LEASE, &parameters, &lease).await?;
        Ok(replaced.0)
    }
}

/// A replica that stands for election.
pub(crate) struct Candidate<S> {
    store: S,
    identity: String,
    health: Health,
    metrics: ControllerMetrics,
    seen: Option<SeenLease>,
}

/// A Lease as it was when it last changed, and when this process saw that.
struct SeenLease {
    lease: Lease,
    at: Instant,
}

impl<S: LeaseStore> Candidate<S> {
    pub(crate) fn new(store: S, identity: String, health: Health, metrics: ControllerMetrics) -> Self {
        Self {
            store,
            identity,
            health,
            metrics,
            seen: None,
        }
    }

    /// Runs `work` whenever this replica leads, and drops it when it cannot renew; until `stop` ends, after which the Lease is given
    /// back. Work that ends by itself ends the candidacy too.
    pub(crate) async fn run<W: Future<Output = ()>>(
        mut self,
        stop: impl Future<Output = ()>,
        work: impl Fn() -> W,
    ) {
        let led = async {
            loop {
                let renewed_at = self.acquire().await;
                tracing::info!(identity = self.identity, "this replica leads");
                self.health.set_leading(true);
                let lost = tokio::select! {
                    () = self.keep(renewed_at) => true,
                    () = work() => false,
                };
                self.health.set_leading(false);
                if !lost {
                    return;
                }
                tracing::error!(
                    "this replica cannot renew the Lease by which it led, so that another may lead: all work is stopped"
                );
            }
        };
        tokio::select! {
            () = led => {}
            () = stop => {}
        }
        self.health.set_leading(false);
        self.release().await;
    }

    /// Waits until this replica holds the Lease; since when it does, at the latest.
    async fn acquire(&mut self) -> Instant {
        loop {
            let asked_at = Instant::now();
            if self.attempt(RENEW_DEADLINE).await {
                return asked_at;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until that has not succeeded for [`RENEW_DEADLINE`], or another holds the Lease.
    async fn keep(&mut self, mut renewed_at: Instant) {
        loop {
            tokio::time::sleep(RETRY).await;
            let left = (renewed_at + RENEW_DEADLINE).saturating_duration_since(Instant::now());
            // The time counts from before the request: another replica may have seen the Lease change at any moment after it.
            let asked_at = Instant::now();
            if !left.is_zero() && self.attempt(left).await {
                renewed_at = asked_at;
                continue;
            }
            let held = self
                .seen
                .as_ref()
                .is_some_and(|seen| holder(&seen.lease) == self.identity);
            if !held || renewed_at.elapsed() >= RENEW_DEADLINE {
                return;
            }
        }
    }

    /// One attempt to take or renew the Lease; whether this replica holds it now.
    async fn attempt(&mut self, limit: Duration) -> bool {
        match timeout(limit, self.try_hold()).await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = printable(&error),
                    "the Lease cannot be read or written; the controller tries again"
                );
                false
            }
            Err(_) => {
                tracing::warn!("the API server does not answer about the Lease; the controller tries again");
                false
            }
        }
    }

    async fn try_hold(&mut self) -> Result<bool, kube::Error> {
        let found = self.store.get().await?;
        self.health.heard();
        let Some(found) = found else {
            // Whoever led has to stop: the Lease that proved it is gone.
            if self.forget() {
                return Ok(false);
            }
            let created = self.store.create(&self.claim(None)).await?;
            self.note(created);
            return Ok(true);
        };
        if self.shows_reset(&found) {
            self.metrics.found_reset();
            tracing::warn!(
                version = found.metadata.resource_version,
                "the API server's objects were set back to an older state, as by a restore of etcd: the controller lists all of them anew"
            );
            if self.forget() {
                return Ok(false);
            }
        }
        self.note(found.clone());
        let seen_at = self.seen.as_ref().map_or_else(Instant::now, |seen| seen.at);
        if !is_free(&found, &self.identity, seen_at, Instant::now()) {
            return Ok(false);
        }
        let written = self.store.replace(&self.claim(Some(&found))).await?;
        self.note(written);
        Ok(true)
    }

    /// Whether a Lease is of an older version than was seen before. Versions compare as numbers (KEP-5504).
    fn shows_reset(&self, found: &Lease) -> bool {
        let version = |lease: &Lease| lease.metadata.resource_version.as_ref()?.parse::<u64>().ok();
        let seen = self.seen.as_ref().and_then(|seen| version(&seen.lease));
        version(found).zip(seen).is_some_and(|(found, seen)| found < seen)
    }

    /// Forgets the Lease; says whether it was this replica's.
    fn forget(&mut self) -> bool {
        self.seen
            .take()
            .is_some_and(|seen| holder(&seen.lease) == self.identity)
    }

    /// Remembers the Lease, and when it changed.
    fn note(&mut self, lease: Lease) {
        let is_same =
            |seen: &SeenLease| seen.lease.metadata.resource_version == lease.metadata.resource_version;
        if !self.seen.as_ref().is_some_and(is_same) {
            self.seen = Some(SeenLease {
                lease,
                at: Instant::now(),
            });
        }
    }

    /// The Lease as this replica's.
    fn claim(&self, found: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_renewal = before.holder_identity.as_deref() == Some(self.identity.as_str());
        let transitions = before.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds(DURATION)),
            acquire_time: before
                .acquire_time
                .filter(|_| is_renewal)
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if is_renewal {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        };
        let metadata = found.map_or_else(
            || ObjectMeta {
                name: Some(LEASE.to_owned()),
                labels: Some(labels()),
                ..ObjectMeta::default()
            },
            |found| found.metadata.clone(),
        );
        Lease {
            metadata,
            spec: Some(spec),
        }
    }

    /// Gives the Lease back, so that another replica need not wait for it to run out.
    async fn release(&mut self) {
        let Some(seen) = self
            .seen
            .as_ref()
            .filter(|seen| holder(&seen.lease) == self.identity)
        else {
            return;
        };
        let mut lease = seen.lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match timeout(RETRY, self.store.replace(&lease)).await {
            Ok(Ok(_)) => tracing::info!("the Lease is given back"),
            Ok(Err(error)) => tracing::warn!(
                error = printable(&error),
                "the Lease is not given back; it runs out"
            ),
            Err(_) => tracing::warn!("the Lease is not given back; it runs out"),
        }
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// Who holds a Lease; empty where nobody does.
fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

/// Whether a replica may take a Lease that it saw change at `seen_at` last.
fn is_free(lease: &Lease, identity: &str, seen_at: Instant, now: Instant) -> bool {
    let held_for = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let held_for = held_for.and_then(|seconds| u64::try_from(seconds).ok());
    let held_for = held_for.map_or(DURATION, Duration::from_secs);
    holder(lease).is_empty() || holder(lease) == identity || now.duration_since(seen_at) >= held_for
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
