//! What of Picket's own objects is to be acted on, as the cluster's agents say it.
//!
//! In: the AgentIdentities, AgentGrants and AgentPolicies of the cluster with their conditions. Out: findings. A policy that is not valid
//! denies requests of all its subjects, so it is told with that, and once.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt as _};
use picket_controller::lenient::Lenient;
use picket_policy::api::v1alpha1::{AgentGrantSpec, AgentIdentitySpec, AgentPolicySpec, Spec as _};
use picket_policy::api::{API_VERSION, GROUP};

use crate::cli::target::conditions::Conditions;
use crate::cli::target::person::{AskError, list};
use crate::store::{DENIES_EVERYONE, DENIES_SUBJECTS};

/// The kinds with their resources.
const KINDS: [(&str, &str); 3] = [
    (AgentIdentitySpec::KIND, AgentIdentitySpec::PLURAL),
    (AgentGrantSpec::KIND, AgentGrantSpec::PLURAL),
    (AgentPolicySpec::KIND, AgentPolicySpec::PLURAL),
];

/// An object of which an agent said something that is to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectTold {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) conditions: Conditions,
}

/// Objects of one of Picket's kinds, whatever their versions say.
pub(super) fn of_kind(client: &Client, kind: &str, plural: &str) -> Api<Lenient<DynamicObject>> {
    let version = API_VERSION.rsplit('/').next().unwrap_or(API_VERSION);
    let kind = GroupVersionKind::gvk(GROUP, version, kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&kind, plural))
}

/// The objects.
pub(super) async fn ask(client: &Client) -> Result<Vec<ObjectTold>, AskError> {
    let mut told = Vec::new();
    for (kind, plural) in KINDS {
        let what = format!("{plural}.{GROUP}");
        let objects = list(&of_kind(client, kind, plural), &what, &ListParams::default()).await?;
        told.extend(objects.iter().map(|object| ObjectTold {
            kind,
            name: object.name_any(),
            conditions: Conditions::of_latest(object),
        }));
    }
    Ok(told)
}

/// How many are not in force as they are written.
pub(super) fn refused(objects: &[ObjectTold]) -> usize {
    let refused = objects.iter().filter(|told| told.conditions.refused().is_some());
    refused.count()
}

/// What is to be acted on.
pub(super) fn findings(objects: &[ObjectTold]) -> Vec<String> {
    objects.iter().flat_map(of_object).collect()
}

fn of_object(told: &ObjectTold) -> Vec<String> {
    let (object, conditions) = (format!("{} {}", told.kind, told.name), &told.conditions);
    let mut findings = Vec::new();
    if let Some(refused) = conditions.refused() {
        let message = refused.message.as_str();
        let denies = [
            (DENIES_EVERYONE, "every request of every agent is denied"),
            (DENIES_SUBJECTS, "every request of its subjects is denied"),
        ];
        let denies = denies
            .iter()
            .find_map(|(end, said)| Some((message.strip_suffix(end)?, *said)));
        findings.push(match denies {
            Some((reason, said)) => format!("{object} is not valid, and {said}: {reason}"),
            None => format!("{object} is not in force as written: {message}"),
        });
    }
    if let Some(conflict) = conditions
        .conflict()
        .filter(|_| !conditions.is_refused_for_conflict())
    {
        findings.push(format!("{object} conflicts: {conflict}"));
    }
    if let Some(remark) = conditions.remark() {
        findings.push(format!("{object} is in force, and {remark}"));
    }
    findings
}
