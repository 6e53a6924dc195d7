//! Whether the agents of a DaemonSet may act as the users that the cluster's grants name, for somebody who looks from outside.
//!
//! In: a client with a person's own rights, and the agents' service account. Out: what the account may not do, for people.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;

use super::credentials::granted;
use super::needs::{Need, OnRights, first, judge};
use super::objects::KnownObjects;
use crate::cluster::rights::{Account, lacking_of};
use crate::store::Store;

/// How long the lists of all objects may take.
const LIMIT: Duration = Duration::from_secs(15);

/// What the account may not do that grants take, as `may not ...`; nothing where no grant names a user. Grants of files on the nodes
/// are not known.
///
/// # Errors
/// Why it is not known, in words for people.
pub(in crate::cli) async fn lacked(client: &Client, account: &Account) -> Result<Vec<String>, String> {
    let store = Store::open_or_deny_all(&[], true);
    let listed = tokio::time::timeout(LIMIT, store.list_cluster(client)).await;
    listed.map_err(|_| {
        format!(
            "the API server did not list the objects within {} s",
            LIMIT.as_secs()
        )
    })??;
    let known = KnownObjects {
        set: Some(store.current()),
        unlisted: None,
    };
    let grants = known.usable(Timestamp::now());
    if !grants.iter().any(|grant| grant.user().is_some()) {
        return Ok(Vec::new());
    }
    let needs = granted(&grants);
    let needs = first(&needs);
    let rights: BTreeSet<_> = needs.iter().flat_map(Need::rights).collect();
    let lacks = lacking_of(client, account, rights).await;
    let lacks = lacks.map_err(|error| error.to_string())?;
    // What else constrained impersonation takes is doctor's to ask, who has the account's own list of rules.
    Ok(judge(needs, &lacks, OnRights::Some).missing)
}
