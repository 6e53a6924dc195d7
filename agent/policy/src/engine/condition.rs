//! The condition of a rule (`when`), and whether it holds for a request.
//!
//! In: the expressions of an AgentPolicy; later a request, its agent, and the user that the API server will be asked as. Out:
//! [`Held`]. An expression without an outcome counts as the policy's `failurePolicy` says.
//!
//! What expressions see has the names of a ValidatingAdmissionPolicy's variables, and of its `request`
//! (k8s.io/api/admission/v1, `AdmissionRequest`), so that a rule can move there. `agent`, `request.verb` and `request.path` are
//! Picket's own.

use std::cell::OnceCell;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::grants::is_dry_run;
use super::match_input::{is_over_all_namespaces, may_create};
use super::namespaces::{NamespaceObject, Namespaces, UnknownNamespace};
use crate::api::v1alpha1::{FailurePolicy, ROOTS, Rule};
use crate::cel::{Activation, Composition, EvaluationError, Expression};
use crate::identity::Principal;
use crate::request::{KubeRequest, ObjectName, OldObject, RequestObject, Target, Verb};
use crate::upstream_user::UpstreamUser;

/// A rule's condition, compiled.
#[derive(Debug)]
pub(super) struct Condition {
    expression: Expression,
    variables: Arc<Composition>,
    on_failure: FailurePolicy,
    uses_namespace: bool,
    uses_object: bool,
    uses_old_object: bool,
    uses_request: bool,
}

/// That an expression has no outcome, and what that counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    why: NoOutcome,
    counts_as: FailurePolicy,
}

/// Why an expression has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoOutcome {
    /// Its evaluation failed.
    Expression(EvaluationError),
    /// The body is larger than is read.
    BodyTooLarge,
    /// The object is not known, as of a request that is only thought of.
    ObjectUnknown,
    /// The stored object, or the body that would be held to it, is larger than is read.
    OldObjectTooLarge,
    /// RBAC does not show the stored object to the agent's user.
    OldObjectForbidden,
    /// The request is for many objects at once.
    OldObjectsMany,
    /// The stored object is not known.
    OldObjectUnknown,
    /// `namespaceObject` is not known.
    NamespaceUnknown(UnknownNamespace),
    /// It is no expression: the labels that the rule's namespaceSelector asks for are not known.
    LabelsUnknown(UnknownNamespace),
}

impl Failure {
    /// That the labels of a request's namespace are not known. Nobody's failurePolicy lets such a request pass.
    pub(super) fn of_labels(why: UnknownNamespace) -> Self {
        Self {
            why: NoOutcome::LabelsUnknown(why),
            counts_as: FailurePolicy::Fail,
        }
    }

    /// Why the rule fires all the same, or does not, for whoever sent this request.
    pub(super) fn explain(self, request: &KubeRequest) -> String {
        let namespace = match request.namespace() {
            Some(namespace) => format!("namespace \"{namespace}\""),
            None => "the namespaces".to_owned(),
        };
        let why = match self.why {
            NoOutcome::LabelsUnknown(why) => {
                return format!("the labels of {namespace} are not known, which counts as a match: {why}");
            }
            NoOutcome::Expression(error) => error.to_string(),
            NoOutcome::BodyTooLarge => "the request's body is larger than 1.5 MiB".to_owned(),
            NoOutcome::ObjectUnknown => "the request's object is not known".to_owned(),
            NoOutcome::OldObjectTooLarge => {
                "the stored object, or the request's body, is larger than 1.5 MiB".to_owned()
            }
            NoOutcome::OldObjectForbidden => {
                "the API server does not show the stored object: the agent's user needs `get` on it, and the node the right to ask as that user".to_owned()
            }
            NoOutcome::OldObjectsMany => {
                "the request is for many objects at once, so that there is no one `oldObject`".to_owned()
            }
            NoOutcome::OldObjectUnknown => "the stored object is not known".to_owned(),
            NoOutcome::NamespaceUnknown(why @ UnknownNamespace::All) => format!("{why}"),
            NoOutcome::NamespaceUnknown(why) => format!("{namespace} is not known, as {why}"),
        };
        let counts = match self.counts_as {
            FailurePolicy::Fail => "that counts as true",
            FailurePolicy::Ignore => "failurePolicy Ignore lets the request pass",
        };
        format!("its `when` has no outcome here: {why}; {counts}")
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It has no outcome, and the rule fires.
    Failed(Failure),
    /// It has no outcome, and the rule does not fire.
    Ignored(Failure),
}

impl Condition {
    /// The condition of a rule. Nothing where there is none, or none that compiles: such a rule fires always, so that a fault in the
    /// checks of the reader can only refuse more.
    pub(super) fn of(rule: &Rule, variables: &Arc<Composition>, on_failure: FailurePolicy) -> Option<Self> {
        let expression = Expression::compile_rule(rule.when.as_deref()?, &ROOTS, variables).ok()?;
        Some(Self {
            uses_namespace: expression.uses("namespaceObject"),
            uses_object: expression.uses("object"),
            uses_old_object: expression.uses("oldObject"),
            uses_request: expression.uses("request"),
            expression,
            variables: Arc::clone(variables),
            on_failure,
        })
    }

    /// Its text.
    pub(super) fn text(&self) -> &str {
        self.expression.text()
    }

    /// Whether it looks at the namespace of the request.
    pub(super) fn uses_namespace(&self) -> bool {
        self.uses_namespace
    }

    /// Whether it looks into the object of the request.
    pub(super) fn uses_object(&self) -> bool {
        self.uses_object
    }

    /// Whether it looks at the object that is stored.
    pub(super) fn uses_old_object(&self) -> bool {
        self.uses_old_object
    }

    /// Whether it looks at the request, whose name may be in the body.
    pub(super) fn uses_request(&self) -> bool {
        self.uses_request
    }

    /// Whether it holds where it looks at a stored object that nobody asks for.
    pub(super) fn holds_unseen(facts: &Facts<'_>) -> Held {
        match facts.request.object {
            RequestObject::Sought => Held::No,
            _ => unseen(NoOutcome::OldObjectUnknown),
        }
    }

    /// Whether it holds.
    pub(super) fn holds<'a>(&'a self, facts: &Facts<'_>, activation: &mut Activation<'a>) -> Held {
        if self.uses_old_object
            && let Some(held) = old_object_missing(facts.request)
        {
            return held;
        }
        if self.uses_namespace {
            match facts.namespace() {
                NamespaceObject::Known(_) => {}
                NamespaceObject::Unknown(why) => return unseen(NoOutcome::NamespaceUnknown(why)),
                NamespaceObject::Silent => return Held::No,
            }
        }
        let is_nameless = self.uses_request && facts.request.object_name() == ObjectName::Unknown;
        if self.uses_object || is_nameless {
            match &facts.request.object {
                // The only answer that lets pass what is not known: see there why.
                RequestObject::Sought => return Held::No,
                RequestObject::TooLarge => return unseen(NoOutcome::BodyTooLarge),
                RequestObject::Unread if facts.request.has_object() => {
                    return unseen(NoOutcome::ObjectUnknown);
                }
                RequestObject::Unread | RequestObject::Absent | RequestObject::Read(_) => {}
            }
        }
        match self.expression.holds(activation, &self.variables) {
            Ok(true) => Held::Yes,
            Ok(false) => Held::No,
            Err(error @ EvaluationError::TooCostly) => unseen(NoOutcome::Expression(error)),
            Err(error) => {
                let failure = Failure {
                    why: NoOutcome::Expression(error),
                    counts_as: self.on_failure,
                };
                match self.on_failure {
                    FailurePolicy::Fail => Held::Failed(failure),
                    FailurePolicy::Ignore => Held::Ignored(failure),
                }
            }
        }
    }
}

/// The outcome for a request that may also create: where a condition does not hold, its outcome for the creation counts.
pub(super) fn or_as_creation(held: Held, as_creation: impl FnOnce() -> Held) -> Held {
    match held {
        Held::No | Held::Ignored(_) => match as_creation() {
            Held::No => held,
            other => other,
        },
        held => held,
    }
}

/// What a client can bring about by itself must not be what lets it pass.
fn unseen(why: NoOutcome) -> Held {
    Held::Failed(Failure {
        why,
        counts_as: FailurePolicy::Fail,
    })
}

/// What an expression comes to that looks at the stored object, where that cannot be seen.
fn old_object_missing(request: &KubeRequest) -> Option<Held> {
    if request.object == RequestObject::Sought {
        return Some(Held::No);
    }
    match request.old_object {
        OldObject::Sought => Some(Held::No),
        OldObject::TooLarge => Some(unseen(NoOutcome::OldObjectTooLarge)),
        OldObject::Forbidden => Some(unseen(NoOutcome::OldObjectForbidden)),
        OldObject::Unread if request.verb == Verb::DeleteCollection => {
            Some(unseen(NoOutcome::OldObjectsMany))
        }
        OldObject::Unread if request.acts_on_stored() => Some(unseen(NoOutcome::OldObjectUnknown)),
        OldObject::Unread | OldObject::Absent | OldObject::Read(_) => None,
    }
}

/// What the expressions of one decision see. Each value is made where an expression asks for it, and once.
pub(super) struct Facts<'a> {
    pub(super) principal: &'a Principal,
    pub(super) request: &'a KubeRequest,
    /// As whom the API server is asked, where a grant allows the request.
    user: Option<&'a UpstreamUser>,
    pub(super) namespaces: &'a Namespaces,
    /// Another operation than the verb's.
    operation: Option<&'static str>,
    agent: OnceCell<Json>,
    connected: OnceCell<Json>,
    asked: OnceCell<Json>,
}

impl<'a> Facts<'a> {
    /// The facts of a request, which the API server is asked as this user if a grant allows it.
    pub(super) fn new(
        principal: &'a Principal,
        request: &'a KubeRequest,
        user: Option<&'a UpstreamUser>,
        namespaces: &'a Namespaces,
    ) -> Self {
        Self {
            principal,
            request,
            user,
            namespaces,
            operation: None,
            agent: OnceCell::new(),
            connected: OnceCell::new(),
            asked: OnceCell::new(),
        }
    }

    /// The facts of the same request as one that creates, where an update or a patch can do so: whether there is an object shows in the
    /// API server alone. A rule that fires on either fires.
    pub(super) fn as_creation(&self) -> Option<Self> {
        let request = self.request;
        let stored = match &request.object {
            RequestObject::Read(object) if request.verb == Verb::Patch => object
                .pointer("/metadata/resourceVersion")
                .and_then(Json::as_str)
                .is_some_and(|version| !version.is_empty()),
            _ => false,
        };
        // An object that is only looked at may be gone by then.
        let stored = stored || (request.held && matches!(request.old_object, OldObject::Read(_)));
        (may_create(request) && !stored).then(|| Self {
            operation: Some("CREATE"),
            ..Self::new(self.principal, request, self.user, self.namespaces)
        })
    }

    /// `object`: the new object of a create, an update or a patch; the options of a session or a proxied request; else `null`.
    pub(super) fn object(&self) -> &Json {
        match &self.request.object {
            RequestObject::Read(object) => object,
            _ => self
                .connected
                .get_or_init(|| connect_options(self.request).unwrap_or(Json::Null)),
        }
    }

    /// `oldObject`: the stored object of an update, a patch or a delete; else `null`.
    pub(super) fn old_object(&self) -> &Json {
        match &self.request.old_object {
            OldObject::Read(object) => object,
            _ => &Json::Null,
        }
    }

    /// The namespace of the request. `null` of what is in none, and of Namespaces themselves, as a ValidatingAdmissionPolicy has it.
    fn namespace(&self) -> NamespaceObject<'_> {
        let is_namespace = matches!(&self.request.target, Target::Resource { group, resource, .. }
            if group.is_empty() && resource.eq_ignore_ascii_case("namespaces"));
        match self.request.namespace() {
            Some(namespace) if !is_namespace => self.namespaces.object(namespace),
            None if is_over_all_namespaces(self.request) => NamespaceObject::Unknown(UnknownNamespace::All),
            _ => NamespaceObject::Known(&Json::Null),
        }
    }

    /// `namespaceObject`.
    pub(super) fn namespace_object(&self) -> &Json {
        match self.namespace() {
            NamespaceObject::Known(object) => object,
            // Nobody evaluates an expression that asks for it.
            NamespaceObject::Unknown(_) | NamespaceObject::Silent => &Json::Null,
        }
    }

    /// `request`.
    pub(super) fn request(&self) -> &Json {
        self.asked.get_or_init(|| self.request_value())
    }

    /// `agent`.
    pub(super) fn agent(&self) -> &Json {
        self.agent.get_or_init(|| self.agent_value())
    }

    fn request_value(&self) -> Json {
        let request = self.request;
        let mut value = Map::new();
        let mut set = |name: &str, of: Json| value.insert(name.to_owned(), of);
        set("verb", request.verb.as_str().into());
        set("path", request.path.as_str().into());
        // Of a delete the body says it, and a session runs all the same.
        set("dryRun", is_dry_run(request).into());
        if let Some(operation) = self.operation.or_else(|| operation(request)) {
            set("operation", operation.into());
        }
        if let Target::Resource {
            group,
            version,
            resource,
            subresource,
            namespace,
            name,
        } = &request.target
        {
            set(
                "resource",
                json!({"group": group, "version": version, "resource": resource}),
            );
            set("subResource", subresource.as_deref().unwrap_or_default().into());
            set("namespace", namespace.as_deref().unwrap_or_default().into());
            set("name", self.name(name.as_deref()).unwrap_or_default().into());
        }
        if let Some(user) = self.user {
            set(
                "userInfo",
                json!({"username": user.username(), "groups": user.effective_groups()}),
            );
        }
        Json::Object(value)
    }

    /// The object's name: of the path, or of the body where a new object has its own.
    fn name<'s>(&'s self, of_path: Option<&'s str>) -> Option<&'s str> {
        of_path.or_else(|| match &self.request.object {
            RequestObject::Read(object) => object.pointer("/metadata/name")?.as_str(),
            _ => None,
        })
    }

    fn agent_value(&self) -> Json {
        let principal = self.principal;
        let mut value = json!({
            "name": principal.name(),
            "owner": principal.identity().owner,
            "groups": principal.groups(),
            "attestation": principal.attestation(),
        });
        let mut set = |name: &str, of: Json| {
            value
                .as_object_mut()
                .and_then(|map| map.insert(name.to_owned(), of))
        };
        if let (Some(namespace), Some(pod)) = (principal.namespace(), principal.pod()) {
            set("namespace", namespace.into());
            set("pod", pod.into());
        }
        if let Some(person) = principal.person() {
            set(
                "onBehalfOf",
                json!({
                    "username": person.username(),
                    "groups": person.groups(),
                    "issuer": person.issuer(),
                    "subject": person.subject(),
                }),
            );
        }
        value
    }
}

/// The operation of an admission request. Requests that only read have none.
fn operation(request: &KubeRequest) -> Option<&'static str> {
    if matches!(request.target, Target::NonResource { .. }) {
        return None;
    }
    if request.is_session() || request.is_proxied() {
        return Some("CONNECT");
    }
    match request.verb {
        Verb::Create => Some("CREATE"),
        Verb::Update | Verb::Patch => Some("UPDATE"),
        Verb::Delete | Verb::DeleteCollection => Some("DELETE"),
        _ => None,
    }
}

/// The options of a request that connects to a pod, as admission has them for `object` (k8s.io/api/core/v1, `PodExecOptions` and the
/// like), without what is at its zero value.
fn connect_options(request: &KubeRequest) -> Option<Json> {
    if !request.is_session() && !request.is_proxied() {
        return None;
    }
    let Target::Resource {
        resource,
        subresource,
        ..
    } = &request.target
    else {
        return None;
    };
    let kind = match (resource.as_str(), subresource.as_deref()?) {
        (_, "exec") => "PodExecOptions",
        (_, "attach") => "PodAttachOptions",
        (_, "portforward") => "PodPortForwardOptions",
        ("nodes", _) => "NodeProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    };
    let mut value = Map::new();
    value.insert("apiVersion".to_owned(), "v1".into());
    value.insert("kind".to_owned(), kind.into());
    if let Some(exec) = &request.exec {
        for (name, flag) in [
            ("stdin", exec.stdin),
            ("stdout", exec.stdout),
            ("stderr", exec.stderr),
            ("tty", exec.tty),
        ] {
            if flag {
                value.insert(name.to_owned(), true.into());
            }
        }
        if let Some(container) = &exec.container {
            value.insert("container".to_owned(), container.as_str().into());
        }
        if !exec.command.is_empty() {
            value.insert("command".to_owned(), exec.command.as_slice().into());
        }
    }
    if let Some(path) = &request.proxy_path {
        value.insert("path".to_owned(), path.as_str().into());
    }
    Some(Json::Object(value))
}
