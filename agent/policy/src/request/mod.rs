//! The one canonical reading of an HTTP request: what the API server will take it for, or a refusal.
//!
//! In: a request's head. Out: a [`CanonicalRequest`], whose [`KubeRequest`] policy, audit and upstream all share, or a
//! [`ReadError`], which the client sees as 400. Whatever two parsers could read differently is refused instead of guessed.

mod error;
mod head;
mod long_target;
mod object;
mod old_object;
mod patch;
mod path;
mod query;
mod read;
mod selector;

pub use error::{MAX_HEAD, ReadError};
pub use head::CanonicalRequest;
pub use long_target::LongTarget;
pub use object::{BODY_LIMIT, BodyInput, ObjectName, RequestObject};
pub use old_object::{BindError, BoundBody, MODIFIED, OldObject};

pub use crate::kubernetes::verbs::Verb;
pub(crate) use crate::kubernetes::verbs::VerbSet;

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An API resource, as `RequestInfo` of k8s.io/apiserver has it.
    Resource {
        /// API group; empty for the core group.
        group: String,
        /// API version, such as `v1`.
        version: String,
        /// Plural resource name, such as `pods`.
        resource: String,
        /// Subresource, such as `exec`.
        subresource: Option<String>,
        /// Namespace; for `namespaces/x` itself it is `x`, as the API server has it.
        namespace: Option<String>,
        /// Object name from the path, or from `fieldSelector=metadata.name=...` of a list or watch.
        name: Option<String>,
    },
    /// Any other path, such as `/version`.
    NonResource {
        /// The decoded path as the API server matches it, trailing slash included.
        path: String,
    },
}

/// What an exec or attach asks to run, from its query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    /// The container; the pod's default one if absent.
    pub container: Option<String>,
    /// The argument vector; empty for attach.
    pub command: Vec<String>,
    /// The environment of an exec, each variable as `NAME=VALUE` (KEP-6035). API servers without the feature `ExecEnvVar` ignore it.
    pub env: Vec<String>,
    /// Whether standard input is asked for.
    pub stdin: bool,
    /// Whether standard output is asked for.
    pub stdout: bool,
    /// Whether standard error is asked for.
    pub stderr: bool,
    /// Whether a terminal is asked for.
    pub tty: bool,
}

/// A request as the API server will read it. Made by [`KubeRequest::read`] only.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KubeRequest {
    /// The Kubernetes verb, or the HTTP method in lower case for a non-resource path.
    pub verb: Verb,
    /// The path, percent-decoded once, without a trailing slash for resources.
    pub path: String,
    /// What it is about.
    pub target: Target,
    /// Command and streams of `pods/exec` and `pods/attach`.
    pub exec: Option<Exec>,
    /// Whether the query has `dryRun` once and it is `All`. A delete with a body takes its options from there instead, so of a
    /// delete this is what was asked for, and no reason to let anything pass.
    pub dry_run: bool,
    /// Whether a patch is a server-side apply, which creates the object where there is none.
    pub apply: bool,
    /// What the API server asks for behind `nodes/proxy`, `services/proxy` or `pods/proxy`: the path after `proxy`, with a slash
    /// at its end where the request has one. `None` elsewhere.
    pub proxy_path: Option<String>,
    /// Whether the client asks to switch protocols (exec, attach, port-forward, a watch over WebSocket).
    pub upgrade: bool,
    /// Whether this is aggregated discovery (KEP-3352), which client-go asks for first, and of whose refusals it shows a text alone.
    pub discovery: bool,
    /// Whether the response goes on until someone ends it: a watch or `logs -f`.
    pub follow: bool,
    /// `resourceVersion` of the query.
    pub resource_version: Option<String>,
    /// `fieldSelector` of the query, unparsed.
    pub field_selector: Option<String>,
    /// `labelSelector` of the query, unparsed.
    pub label_selector: Option<String>,
    /// The object of a create, an update or a patch, where a rule looks into it.
    pub object: RequestObject,
    /// The object that an update, a patch or a delete finds, where a rule looks at it.
    pub old_object: OldObject,
    /// Whether what is sent is held to that object, or to there being none, so that it can neither change nor create another.
    pub held: bool,
}

/// Subresources that open a session in a pod, whichever HTTP method asks for it: WebSocket clients use GET, SPDY
/// clients POST, for the same effect.
const SESSIONS: [&str; 3] = ["exec", "attach", "portforward"];

impl KubeRequest {
    /// Whether the request opens a session into a pod (exec, attach, port-forward).
    #[must_use]
    pub fn is_session(&self) -> bool {
        match &self.target {
            Target::Resource {
                group,
                resource,
                subresource: Some(sub),
                ..
            } => group.is_empty() && resource == "pods" && SESSIONS.contains(&sub.as_str()),
            _ => false,
        }
    }

    /// Whether the request can change something: writes, sessions, and anything sent through a proxy.
    #[must_use]
    pub fn is_mutating(&self) -> bool {
        self.verb.is_mutating() || self.is_session() || self.is_proxied()
    }

    /// Whether the API server hands the request on to something behind it (`pods/proxy`, `services/proxy`, `nodes/proxy`).
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        matches!(&self.target, Target::Resource { subresource: Some(sub), .. } if sub == "proxy")
    }

    /// Whether the request stores an object that rules can look into: a create, an update or a patch of a resource. The body of a
    /// session or of a proxied request is no object.
    #[must_use]
    pub fn has_object(&self) -> bool {
        matches!(self.verb, Verb::Create | Verb::Update | Verb::Patch)
            && matches!(self.target, Target::Resource { .. })
            && !self.is_session()
            && !self.is_proxied()
    }

    /// Whether the request has objects that rules can look into, and nobody read one.
    pub(crate) fn is_unread(&self) -> bool {
        (self.has_object() || self.acts_on_stored())
            && self.object == RequestObject::Unread
            && self.old_object == OldObject::Unread
    }

    /// Says that no rule judges the objects of the request.
    pub(crate) fn forgo_objects(&mut self) {
        if self.has_object() {
            self.object = RequestObject::Sought;
        }
        if self.acts_on_stored() {
            self.old_object = OldObject::Sought;
        }
    }

    /// API group, or the empty string.
    #[must_use]
    pub fn group(&self) -> &str {
        match &self.target {
            Target::Resource { group, .. } => group,
            Target::NonResource { .. } => "",
        }
    }

    /// Resource with its subresource as RBAC writes it (`pods/exec`), or the path of a non-resource request.
    #[must_use]
    pub fn resource_words(&self) -> String {
        match &self.target {
            Target::Resource {
                resource,
                subresource: Some(sub),
                ..
            } => format!("{resource}/{sub}"),
            Target::Resource { resource, .. } => resource.clone(),
            Target::NonResource { path } => path.clone(),
        }
    }

    /// Namespace, where the request has one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match &self.target {
            Target::Resource { namespace, .. } => namespace.as_deref(),
            Target::NonResource { .. } => None,
        }
    }

    /// Object name, where the request has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.target {
            Target::Resource { name, .. } => name.as_deref(),
            Target::NonResource { .. } => None,
        }
    }

    /// The name of the object that the request is about: of the path, or of a new object.
    #[must_use]
    pub fn object_name(&self) -> ObjectName<'_> {
        if let Some(name) = self.name() {
            return ObjectName::Known(name);
        }
        if self.verb != Verb::Create || !self.has_object() {
            return ObjectName::None;
        }
        let RequestObject::Read(object) = &self.object else {
            // Without an object nothing is made.
            return match self.object {
                RequestObject::Absent | RequestObject::Sought => ObjectName::None,
                _ => ObjectName::Unknown,
            };
        };
        let text = |pointer| {
            let text = object.pointer(pointer).and_then(serde_json::Value::as_str);
            text.filter(|text| !text.is_empty())
        };
        match (text("/metadata/name"), text("/metadata/generateName")) {
            (Some(name), _) => ObjectName::Known(name),
            (None, Some(prefix)) => ObjectName::Begins(prefix),
            (None, None) => ObjectName::None,
        }
    }

    /// The verb, but `create` for every session: grants and rules take one for a creation, whichever method its client uses. WebSocket
    /// clients send GET.
    #[must_use]
    pub fn verb_of_effect(&self) -> Verb {
        match self.verb {
            Verb::Get if self.is_session() => Verb::Create,
            verb => verb,
        }
    }

    /// What was asked, in words for a message: `delete pods "x" in namespace "y"`.
    #[must_use]
    pub fn words(&self) -> String {
        use std::fmt::Write as _;
        let verb = self.verb_of_effect();
        let mut words = format!("{verb} {}", self.resource_words());
        if let Target::Resource {
            group,
            resource,
            namespace,
            name,
            ..
        } = &self.target
        {
            if !group.is_empty() {
                let _ = write!(words, ".{group}");
            }
            if let Some(name) = name {
                let _ = write!(words, " \"{name}\"");
            }
            match namespace {
                Some(namespace) if resource != "namespaces" => {
                    let _ = write!(words, " in namespace \"{namespace}\"");
                }
                _ => {}
            }
        }
        words
    }
}
