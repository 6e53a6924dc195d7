//! Revocations that files take back: an agent that was ended may act again.
//!
//! In: the set before and the set after. Out: the identities that were revoked and are not any more. With files a revocation lasts as
//! long as the file says it. A tool that removes a file and writes it anew takes the revocation back as well, so those that were
//! revoked when they went are remembered.

use std::collections::BTreeSet;

use picket_policy::PolicySet;
use picket_policy::api::v1alpha1::State;

/// How many identities that went while they were revoked are remembered. A name takes some 100 bytes; nobody has so many in files.
const REMEMBERED: usize = 10_000;

/// Remembers which identities were revoked when they went.
#[derive(Debug, Default)]
pub(super) struct Reversals {
    gone: BTreeSet<String>,
}

impl Reversals {
    /// The identities that were revoked, in `before` or when they went, and are not any more in `after`. Nobody revoked those `by_removal`:
    /// they are shut out since their file is gone. Of the cluster's nothing is remembered: an object that is made anew is another one.
    pub(super) fn update(
        &mut self,
        before: &PolicySet,
        after: &PolicySet,
        by_removal: impl Fn(&str) -> bool,
        of_cluster: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let identities = before.identities().iter();
        let revoked: BTreeSet<&str> = identities
            .filter(|identity| identity.state == State::Revoked && !by_removal(&identity.name))
            .map(|identity| identity.name.as_str())
            .collect();
        let mut reversed = Vec::new();
        let mut there = BTreeSet::new();
        for identity in after.identities() {
            let name = identity.name.as_str();
            there.insert(name);
            // The one that is there again is compared from here on.
            let was_revoked = self.gone.remove(name) || revoked.contains(name);
            if was_revoked && identity.state != State::Revoked {
                reversed.push(name.to_owned());
            }
        }
        let gone = revoked
            .into_iter()
            .filter(|name| !there.contains(name) && !of_cluster(name));
        let room = REMEMBERED.saturating_sub(self.gone.len());
        self.gone.extend(gone.take(room).map(str::to_owned));
        reversed
    }
}

#[cfg(test)]
#[path = "reversed_tests.rs"]
mod tests;
