//! The namespaces whose pods can act as an agent, and as which.
//!
//! In: the identities of a set. Out: whether pods of a namespace can act as any agent, or as another one than the caller.
//!
//! An identity says by `attest.pod` where its pods are. A service account's token and a SPIFFE ID of that form say it too: the
//! pods of that account are the ones that have the credential.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::identity::Identity;

/// What the subject of a service account's token begins with (k8s.io/apiserver, pkg/authentication/serviceaccount/util.go).
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The namespaces that identities name.
#[derive(Debug, Default)]
pub(super) struct AgentNamespaces(HashMap<String, Agents>);

/// Whom the pods of a namespace can act as.
#[derive(Debug)]
enum Agents {
    /// The identity with this name alone.
    Only(String),
    /// Two or more identities.
    Several,
}

impl AgentNamespaces {
    /// Notes where an identity's pods are.
    pub(super) fn add(&mut self, identity: &Identity) {
        let attest = &identity.attest;
        let by_pod = attest.pod.as_ref().map(|pod| pod.namespace.as_str());
        let by_token = attest
            .jwt
            .as_ref()
            .and_then(|jwt| jwt.subject.strip_prefix(SERVICE_ACCOUNT)?.split(':').next());
        let by_certificate = attest
            .spiffe
            .as_ref()
            .and_then(|spiffe| namespace_of_spiffe_id(&spiffe.id));
        for namespace in [by_pod, by_token, by_certificate].into_iter().flatten() {
            self.0
                .entry(namespace.to_ascii_lowercase())
                .and_modify(|agents| agents.join(&identity.name))
                .or_insert_with(|| Agents::Only(identity.name.clone()));
        }
    }

    /// Whether pods of a namespace can act as some agent.
    pub(super) fn has_agents(&self, namespace: &str) -> bool {
        self.0.contains_key(&*lower(namespace))
    }

    /// Whether pods of a namespace can act as another agent than this one.
    pub(super) fn has_others(&self, namespace: &str, agent: &str) -> bool {
        match self.0.get(&*lower(namespace)) {
            None => false,
            Some(Agents::Only(name)) => name != agent,
            Some(Agents::Several) => true,
        }
    }
}

impl Agents {
    fn join(&mut self, other: &str) {
        if matches!(self, Self::Only(name) if name != other) {
            *self = Self::Several;
        }
    }
}

/// The namespace in `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, the form that SPIRE and Istio give to pods.
fn namespace_of_spiffe_id(id: &str) -> Option<&str> {
    let (_, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
    let mut segments = path.split('/');
    let mut is = |word: &str| segments.next() == Some(word);
    if !is("ns") {
        return None;
    }
    let namespace = segments.next()?;
    (segments.next() == Some("sa")).then_some(namespace)
}

/// API servers write namespaces in lower case; another spelling must find the same one.
fn lower(namespace: &str) -> Cow<'_, str> {
    if namespace.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(namespace.to_ascii_lowercase())
    } else {
        Cow::Borrowed(namespace)
    }
}
