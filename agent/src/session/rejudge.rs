//! Judges the sessions again whenever something changed that a judgement depends on.
//!
//! In: changes of the policy set, of pods, and the passing of time. Out: [`Registry::sweep`], on a thread that may block, so
//! that thousands of sessions do not hold up those that carry requests. Changes that come during a sweep share the next.
//! [`recheck`] is the judgement itself: a session goes on as what it was permitted as, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use picket_policy::{Inputs, ItemFilter, KubeRequest, PolicySet, Principal, Recheck, UpstreamUser};
use tokio::sync::watch;

use super::{Facts, Registry};
use crate::reject::Rejection;
use crate::workload::PodChanges;

/// The longest sleep until an expiry. The expiry is a date and the sleep is not, so the clock is looked at again: it may
/// have been set, or the machine may have slept.
const NAP: Duration = Duration::from_secs(1);

/// How long to sleep when an expiry is `milliseconds` away.
pub(super) fn nap(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)).min(NAP)
}

/// Whether a session may go on, as its pod's principal and the policy set are now; gives the moment at which time alone may
/// end it.
///
/// # Errors
/// Why it may not: its request would be refused, the pod is another agent, the request would be sent as another user, or rules
/// hide other objects of its answer.
pub fn recheck(
    policies: &PolicySet,
    principal: &Principal,
    facts: &Facts,
    inputs: Inputs<'_>,
) -> Result<Option<Timestamp>, Rejection> {
    recheck_request(
        policies,
        principal,
        inputs,
        &Permitted {
            identity: &facts.identity,
            request: &facts.request,
            user: &facts.user,
            approved: facts.approved,
            filter: facts.filter.as_ref(),
        },
    )
}

/// What a request was permitted as.
#[derive(Debug, Clone, Copy)]
pub struct Permitted<'a> {
    /// The agent.
    pub identity: &'a str,
    /// What was asked.
    pub request: &'a KubeRequest,
    /// The user that the API server was asked as.
    pub user: &'a Arc<UpstreamUser>,
    /// Whether a person approved it.
    pub approved: bool,
    /// What is taken out of its answer.
    pub filter: Option<&'a Arc<ItemFilter>>,
}

/// As [`recheck`], for a request that is under way and no session.
///
/// # Errors
/// As [`recheck`].
pub fn recheck_request(
    policies: &PolicySet,
    principal: &Principal,
    inputs: Inputs<'_>,
    permitted: &Permitted<'_>,
) -> Result<Option<Timestamp>, Rejection> {
    if principal.name() != permitted.identity {
        return Err(Rejection::IdentityChanged {
            was: permitted.identity.to_owned(),
            is: principal.name().to_owned(),
        });
    }
    let ends_at = principal.identity().ends_at();
    let sooner = |until| [ends_at, until].into_iter().flatten().min();
    let (until, filter) = match policies.recheck(principal, permitted.request, inputs) {
        Recheck::Permit { user, until, filter } if user == *permitted.user => (until, filter),
        Recheck::Permit { user, .. } => {
            return Err(Rejection::UserChanged {
                was: permitted.user.username().to_owned(),
                is: user.username().to_owned(),
            });
        }
        Recheck::Ask { until, filter } if permitted.approved => (until, filter),
        Recheck::Ask { .. } => return Err(Rejection::ApprovalMissing),
        Recheck::Deny(denial) => return Err(Rejection::Denied(denial)),
    };
    let is_outdated = |filter: &Arc<ItemFilter>| inputs.namespaces.is_some_and(|now| filter.is_outdated(now));
    if filter.as_ref() != permitted.filter || permitted.filter.is_some_and(is_outdated) {
        return Err(Rejection::FilterChanged);
    }
    Ok(sooner(until))
}

/// Sweeps after each change of `policy` and of `pods`, and when time alone ends a session; for as long as it is polled.
pub async fn run<T>(registry: Registry, mut policy: watch::Receiver<T>, pods: PodChanges) {
    let mut policy_changes = true;
    loop {
        tokio::select! {
            changed = policy.changed(), if policy_changes => policy_changes = changed.is_ok(),
            () = pods.next() => {}
            () = registry.expired() => {}
        }
        let (sweeping, since) = (registry.clone(), Instant::now());
        let swept = tokio::task::spawn_blocking(move || sweeping.sweep(since)).await;
        match swept {
            Ok(0) => {}
            Ok(ended) => tracing::info!(ended, millis = since.elapsed().as_millis(), "sessions were ended"),
            Err(error) => {
                let ended = registry.end_all(&Rejection::Unjudged, since);
                tracing::error!(%error, ended, "sessions could not be judged again, so they were ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use picket_policy::api::AnyObject;
    use picket_policy::api::v1alpha1::Action;
    use picket_policy::{NamespaceFacts, Namespaces};

    use super::super::{SessionKind, testing};
    use super::*;
    use crate::identity::{self, resolve::testing as resolving};

    const OBJECTS: &str = "
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: fixer}
spec: {owner: team-a, attest: {pod: {namespace: ns, serviceAccount: fixer}}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: read}
spec:
  to: {identities: [fixer]}
  upstream: {impersonate: {user: 'agent:fixer'}}
  rules: [{verbs: [get, watch], apiGroups: [''], resources: [pods]}]
---
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: guard}
spec:
  rules:
  - {name: other, match: {verbs: [watch], resources: [secrets]}, action: Deny, message: no}
";

    /// The judgement on a running watch of pods after the objects were changed.
    fn judged(from: &str, to: &str, identity: &str) -> Result<(), &'static str> {
        assert!(OBJECTS.contains(from), "{from}");
        let documents = picket_policy::read_documents("f.yaml", &OBJECTS.replace(from, to)).expect("valid");
        let policies = PolicySet::compile(documents).expect("a policy set");
        let pod = resolving::pod("fixer", "fixer");
        let principal =
            identity::resolve(&policies, &resolving::evidence(&pod), Timestamp::now()).expect("an agent");
        let facts = testing::facts(SessionKind::Watch, identity);
        recheck(&policies, &principal, &facts, Inputs::at(Timestamp::now()))
            .map(drop)
            .map_err(|rejection| rejection.code())
    }

    #[test]
    fn a_session_goes_on_as_what_it_was_permitted_as_or_not_at_all() {
        for (from, to, judgement) in [
            ("resources: [pods]", "resources: [pods, secrets]", Ok(())),
            ("verbs: [get, watch]", "verbs: [get]", Err("no_grant")),
            ("resources: [secrets]", "resources: [pods]", Err("policy")),
            ("'agent:fixer'", "'agent:other'", Err("user_changed")),
            (
                "'agent:fixer'",
                "'agent:fixer', groups: [more]",
                Err("user_changed"),
            ),
            (
                "impersonate: {user: 'agent:fixer'}",
                "serviceAccount: {namespace: ns, name: fixer}",
                Err("user_changed"),
            ),
        ] {
            assert_eq!(judged(from, to, "fixer"), judgement, "{to}");
        }
        assert_eq!(judged("", "", "triage"), Err("identity_changed"));
        // It watches objects that it no longer may, or has missed some that it may see.
        let hidden = "match: {resources: [pods], names: [db]}, action: Filter";
        let other = "match: {verbs: [watch], resources: [secrets]}, action: Deny";
        assert_eq!(judged(other, hidden, "fixer"), Err("filter_changed"));
    }

    /// Namespace `n`, with this value of its label `env`.
    fn namespaces(env: &str) -> Arc<Namespaces> {
        let labels = BTreeMap::from([("env".to_owned(), env.to_owned())]);
        let facts = NamespaceFacts::described("n", &labels, &BTreeMap::new());
        Arc::new(Namespaces::listed([("n".to_owned(), facts)]))
    }

    #[test]
    fn a_session_goes_on_by_the_labels_that_its_namespace_has_now() {
        let other = "match: {verbs: [watch], resources: [secrets]}, action: Deny";
        let selector = "namespaceSelector: {matchLabels: {env: prod}}";
        let compiled = |rule: &str| {
            let objects = OBJECTS.replace(other, rule);
            let documents = picket_policy::read_documents("f.yaml", &objects).expect("valid");
            PolicySet::compile(documents).expect("a policy set")
        };
        let pod = resolving::pod("fixer", "fixer");
        let judged = |policies: &PolicySet, facts: &Facts, namespaces: &Arc<Namespaces>| {
            let principal =
                identity::resolve(policies, &resolving::evidence(&pod), Timestamp::now()).expect("an agent");
            let inputs = Inputs::at(Timestamp::now()).beside(Some(namespaces));
            let judged = recheck(policies, &principal, facts, inputs);
            judged.map(drop).map_err(|rejection| rejection.code())
        };
        let request = |path: &str| {
            let uri = path.parse().expect("a path");
            let request = KubeRequest::read(&http::Method::GET, &uri, &http::HeaderMap::new());
            Arc::new(request.expect("a request"))
        };
        let deny = compiled(&format!("match: {{resources: [pods], {selector}}}, action: Deny"));
        let facts = Facts {
            request: request("/api/v1/namespaces/n/pods?watch=true"),
            ..testing::facts(SessionKind::Watch, "fixer")
        };
        assert_eq!(judged(&deny, &facts, &namespaces("dev")), Ok(()));
        assert_eq!(judged(&deny, &facts, &namespaces("prod")), Err("policy"));

        // One that is filtered ends where its client has seen what is hidden now.
        let filter = compiled(&format!(
            "match: {{resources: [pods], {selector}}}, action: Filter"
        ));
        let begun = namespaces("dev");
        let all = request("/api/v1/pods?watch=true");
        let principal =
            identity::resolve(&filter, &resolving::evidence(&pod), Timestamp::now()).expect("an agent");
        let inputs = Inputs::at(Timestamp::now()).beside(Some(&begun));
        let Recheck::Permit { filter: hidden, .. } = filter.recheck(&principal, &all, inputs) else {
            panic!("the watch is refused");
        };
        let facts = Facts {
            request: all,
            filter: hidden,
            ..testing::facts(SessionKind::Watch, "fixer")
        };
        assert_eq!(judged(&filter, &facts, &begun), Ok(()));
        assert_eq!(judged(&filter, &facts, &namespaces("dev")), Ok(()));
        assert_eq!(
            judged(&filter, &facts, &namespaces("prod")),
            Err("filter_changed")
        );
    }

    #[test]
    fn a_session_is_judged_again_when_its_identity_or_its_grant_ends() {
        for (identity, grant) in [("2030", "2031"), ("2031", "2030")] {
            let objects = OBJECTS
                .replace(
                    "owner: team-a,",
                    &format!("owner: team-a, expiresAt: '{identity}-01-01T00:00:00Z',"),
                )
                .replace(
                    "  to: {",
                    &format!("  expiresAt: '{grant}-01-01T00:00:00Z'\n  to: {{"),
                );
            let documents = picket_policy::read_documents("f.yaml", &objects).expect("valid");
            let policies = PolicySet::compile(documents).expect("a policy set");
            let pod = resolving::pod("fixer", "fixer");
            let now = "2027-01-01T00:00:00Z".parse().expect("a moment");
            let principal = identity::resolve(&policies, &resolving::evidence(&pod), now).expect("an agent");
            let facts = testing::facts(SessionKind::Watch, "fixer");
            let until = recheck(&policies, &principal, &facts, Inputs::at(now)).expect("permitted");
            assert_eq!(
                until.map(|until| until.to_string()).as_deref(),
                Some("2030-01-01T00:00:00Z")
            );
        }
    }

    #[test]
    fn what_a_person_must_approve_by_now_goes_on_where_a_person_did() {
        let objects = OBJECTS.replace("resources: [secrets]", "resources: [pods]");
        let mut documents = picket_policy::read_documents("f.yaml", &objects).expect("valid");
        for document in &mut documents {
            if let AnyObject::Policy(policy) = &mut document.object {
                // No file can say so yet.
                policy.spec.rules[0].action = Action::RequireApproval;
            }
        }
        let policies = PolicySet::compile(documents).expect("a policy set");
        let pod = resolving::pod("fixer", "fixer");
        let principal =
            identity::resolve(&policies, &resolving::evidence(&pod), Timestamp::now()).expect("an agent");
        for (approved, judgement) in [(true, Ok(())), (false, Err("approval_missing"))] {
            let facts = Facts {
                approved,
                ..testing::facts(SessionKind::Watch, "fixer")
            };
            let judged = recheck(&policies, &principal, &facts, Inputs::at(Timestamp::now()));
            assert_eq!(judged.map(drop).map_err(|rejection| rejection.code()), judgement);
        }
    }
}
