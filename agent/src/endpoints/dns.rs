//! Addresses behind DNS names.
//!
//! In: names that are wanted, and answers of a [`Resolve`]. Out: each name's addresses, those of earlier answers for a
//! while too: a load balancer's name gives some of its addresses now and others next time, and a client may hold on to any.
//! A lookup that fails changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::grace::GracePeriods;

/// How long an address counts after DNS stopped naming it: longer than the minute or so for which resolvers keep an
/// answer of a load balancer.
const GRACE_PERIOD: Duration = Duration::from_secs(600);

/// Names that are looked up. The API server has a handful; more come from Services that anyone may have made.
pub(super) const NAMES_MAX: usize = 256;

/// Addresses held for one name, of all its answers together.
const ADDRESSES_MAX: usize = 1024;

/// Looks names up.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The machine's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

#[derive(Debug)]
struct Known {
    addresses: GracePeriods<IpAddr>,
    answered: bool,
    /// Addresses of the last answer that there was no room for.
    omitted: usize,
}

/// What is known of the wanted names.
#[derive(Debug, Default)]
pub(super) struct DnsNames {
    known: BTreeMap<String, Known>,
    omitted: usize,
}

impl DnsNames {
    /// Makes these the wanted names, the first ones first where there are too many; says whether one is new.
    pub(super) fn want<'a>(&mut self, hosts: impl IntoIterator<Item = &'a String>) -> bool {
        let (mut wanted, mut omitted) = (BTreeSet::new(), BTreeSet::new());
        for host in hosts {
            if wanted.len() < NAMES_MAX || wanted.contains(host) {
                wanted.insert(host);
            } else {
                omitted.insert(host);
            }
        }
        if omitted.len() != self.omitted {
            self.omitted = omitted.len();
            if let Some(first) = omitted.first() {
                tracing::error!(
                    names = omitted.len(), limit = NAMES_MAX, %first,
                    "more load balancers' names lead to protected endpoints than the agent looks up: enforced pods can reach the addresses of the \
                     others"
                );
            }
        }
        self.known.retain(|host, _| wanted.contains(host));
        let mut new = false;
        for host in wanted {
            self.known.entry(host.clone()).or_insert_with(|| {
                new = true;
                Known {
                    addresses: GracePeriods::new(GRACE_PERIOD),
                    answered: false,
                    omitted: 0,
                }
            });
        }
        new
    }

    /// The names to look up.
    pub(super) fn wanted(&self) -> Vec<String> {
        self.known.keys().cloned().collect()
    }

    /// Takes an answer in; one for a name that nobody wants any more is dropped.
    pub(super) fn answer(&mut self, host: &str, found: &[IpAddr], now: Instant) {
        let Some(known) = self.known.get_mut(host) else {
            return;
        };
        known.answered = true;
        let held: BTreeSet<_> = known.addresses.keys().copied().collect();
        let room = ADDRESSES_MAX.saturating_sub(held.len());
        let (old, new): (Vec<_>, Vec<_>) = found
            .iter()
            .map(IpAddr::to_canonical)
            .partition(|address| held.contains(address));
        let omitted = new.len().saturating_sub(room);
        if omitted > known.omitted {
            tracing::error!(
                host,
                omitted,
                limit = ADDRESSES_MAX,
                "a protected endpoint's name has more addresses than the agent holds: enforced pods can reach those that are left out"
            );
        }
        known.omitted = omitted;
        let named = old.into_iter().chain(new.into_iter().take(room));
        known.addresses.refresh(now, named.map(|address| (address, ())));
    }

    /// A name's addresses, none before its first answer.
    pub(super) fn addresses(&self, host: &str) -> impl Iterator<Item = IpAddr> {
        let known = self.known.get(host);
        known
            .into_iter()
            .flat_map(|known| known.addresses.keys().copied())
    }

    /// Whether the name has had an answer once.
    pub(super) fn answered(&self, host: &str) -> bool {
        self.known.get(host).is_some_and(|known| known.answered)
    }

    /// How many names and addresses there is no room for.
    pub(super) fn omitted(&self) -> usize {
        let addresses: usize = self.known.values().map(|known| known.omitted).sum();
        self.omitted + addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_that_dns_stops_naming_stays_for_ten_minutes() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let host = "lb.example".to_owned();
        let mut names = DnsNames::default();
        assert!(names.want([&host]));
        assert!(!names.want([&host]) && !names.answered(&host));
        names.answer(&host, &ips(&["192.0.2.1", "::ffff:192.0.2.2"]), at(0));
        names.answer(&host, &ips(&["192.0.2.3"]), at(30));
        let now = |names: &DnsNames| names.addresses("lb.example").collect::<Vec<_>>();
        assert_eq!(now(&names), ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
        names.answer(&host, &ips(&["192.0.2.3"]), at(629));
        assert_eq!(now(&names).len(), 3);
        names.answer(&host, &ips(&["192.0.2.3"]), at(630));
        assert_eq!(now(&names), ips(&["192.0.2.3"]));
        names.want([]);
        names.answer(&host, &ips(&["192.0.2.3"]), at(660));
        assert!(now(&names).is_empty(), "nobody wants it any more");
    }

    #[test]
    fn the_first_names_are_kept_where_there_are_too_many() {
        let mut names = DnsNames::default();
        let hosts: Vec<String> = (0..=NAMES_MAX)
            .map(|number| format!("{number}.example"))
            .collect();
        names.want(&hosts);
        assert_eq!((names.wanted().len(), names.omitted()), (NAMES_MAX, 1));
        assert!(names.wanted().contains(&hosts[0]) && !names.wanted().contains(&hosts[NAMES_MAX]));
        let many: Vec<IpAddr> = (0..2000_u32)
            .map(|number| IpAddr::from(number.to_be_bytes()))
            .collect();
        names.answer(&hosts[0], &many, Instant::now());
        assert_eq!(names.addresses(&hosts[0]).count(), ADDRESSES_MAX);
        assert_eq!(names.omitted(), 1 + 2000 - ADDRESSES_MAX);
        names.answer(&hosts[0], &many[..1], Instant::now());
        assert_eq!(names.omitted(), 1, "the next answer has few");
    }
}
