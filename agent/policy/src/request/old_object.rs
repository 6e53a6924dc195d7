//! The object that a write finds in the cluster, where a rule looks at it as `oldObject`: how it is asked for, and that the write changes
//! or deletes no other.
//!
//! In: an update, a patch or a delete. Out: the GET that asks for the stored object; then, with the API server's answer, the body to
//! send. That body names the version of the object that was judged, so that the API server answers 409 where it has changed since.

use std::fmt;
use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde_json::{Map, Value as Json};
use thiserror::Error;

use super::error::ReadError;
use super::head::CanonicalRequest;
use super::object::{BodyInput, RequestObject};
use super::{KubeRequest, Target, Verb};
use crate::body;
use crate::kubernetes::resources::shows_object;

/// A version that no object has, since etcd's first write makes a later one. A write that names it creates, or is answered 409 where there
/// is an object by now (k8s.io/apiserver pkg/registry/generic/registry/store.go, `Update`).
pub(super) const NO_VERSION: &str = "1";

/// The object that a write finds in the cluster, as far as the API server was asked. Only writes whose rules look at it have it asked for.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum OldObject {
    /// Nobody asked, or the answer tells no object.
    #[default]
    Unread,
    /// There is none: the write creates.
    Absent,
    /// All of it.
    Read(Arc<Json>),
    /// It, or the body that would name its version, is larger than [`BODY_LIMIT`](super::BODY_LIMIT).
    TooLarge,
    /// The API server does not show it to the agent's user.
    Forbidden,
    /// Rules that look at it do not judge this request, as with [`RequestObject::Sought`].
    Sought,
}

impl fmt::Debug for OldObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a Secret.
        f.write_str(match self {
            Self::Unread => "Unread",
            Self::Absent => "Absent",
            Self::Read(_) => "Read",
            Self::TooLarge => "TooLarge",
            Self::Forbidden => "Forbidden",
            Self::Sought => "Sought",
        })
    }
}

/// Why a write cannot be held to the object that it is judged on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BindError {
    /// Its body or query cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It names another version or another object than the stored one, or that one changed while it was judged. The text is the API
    /// server's.
    #[error("{0}")]
    Conflict(String),
}

/// A body that names the version that was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundBody {
    /// What to send.
    pub bytes: Vec<u8>,
    /// Whether the client named that version itself, so that a conflict is for it to resolve.
    pub named_by_client: bool,
}

impl KubeRequest {
    /// Whether the request changes or deletes objects that are stored already, and so has an `oldObject` in admission.
    #[must_use]
    pub fn acts_on_stored(&self) -> bool {
        matches!(
            self.verb,
            Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection
        ) && matches!(self.target, Target::Resource { .. })
            && !self.is_session()
            && !self.is_proxied()
    }

    /// Whether the stored object, or that there is none, was learned for rules that only note or warn, and may be another by now.
    pub(crate) fn is_only_looked_at(&self) -> bool {
        !self.held && matches!(self.old_object, OldObject::Read(_) | OldObject::Absent)
    }

    /// Whether the request is about one stored object, which a GET of its path shows.
    #[must_use]
    pub fn has_old_object(&self) -> bool {
        self.acts_on_stored() && self.name().is_some()
    }
}

impl CanonicalRequest {
    /// The GET that shows what the write finds: of the same path, but of the object itself for a subresource that is the whole object, such
    /// as its status. `None` for a target that is too long to ask so, and for what finds no one object.
    pub(crate) fn as_get(&self) -> Option<Self> {
        if !self.kube().has_old_object() {
            return None;
        }
        let head = self.head();
        let mut parts = self.copied_head()?;
        parts.method = Method::GET;
        let mut uri = head.uri.clone().into_parts();
        // The write's options are none of a read.
        let mut path = head.uri.path();
        let mut target = self.kube().target.clone();
        if let Target::Resource {
            group,
            resource,
            subresource,
            ..
        } = &mut target
            && subresource
                .as_deref()
                .is_some_and(|sub| shows_object(group, resource, sub))
        {
            // Roles that give writes to a status rarely give to read it, and of `finalize` there is no GET.
            *subresource = None;
            path = path.trim_end_matches('/').rsplit_once('/')?.0;
        }
        uri.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        parts.uri = Uri::from_parts(uri).ok()?;
        parts.headers = HeaderMap::new();
        parts
            .headers
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        parts
            .headers
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(agent) = head.headers.get(USER_AGENT) {
            parts.headers.insert(USER_AGENT, agent.clone());
        }
        let look = Self::read(parts).ok()?;
        let kube = look.kube();
        (kube.verb == Verb::Get && kube.target == target && !kube.follow).then_some(look)
    }

    /// The same request as it came, before anything was judged or bound. `None` for a target that is longer than a URI.
    #[must_use]
    pub fn as_it_came(&self) -> Option<Self> {
        Self::read(self.copied_head()?).ok()
    }

    /// Keeps what the API server answered for the object. Whoever reads the body afterwards binds it.
    pub fn set_old_object(&mut self, old: OldObject) {
        let kube = self.kube_mut();
        kube.held = matches!(old, OldObject::Read(_) | OldObject::Absent);
        kube.old_object = old;
    }

    /// Keeps what the API server answered for the object, for rules that only note or warn: nothing that is sent is held to it.
    pub fn look_at_old_object(&mut self, old: OldObject) {
        let kube = self.kube_mut();
        kube.held = false;
        kube.old_object = old;
    }

    /// Reads the object of an update, as [`CanonicalRequest::read_object`] does, and names the version and the UID of the stored object in
    /// what is sent. By its version alone an update could still create: where there is no object any more, the API server compares none.
    ///
    /// # Errors
    /// Where the body cannot be read, or names another version or object.
    pub fn bind_update(&mut self, input: BodyInput<'_>) -> Result<Option<BoundBody>, BindError> {
        let version = match &self.kube().old_object {
            OldObject::Read(old) => version_of(old).map(str::to_owned),
            OldObject::Absent if !self.kube().dry_run => Some(NO_VERSION.to_owned()),
            _ => None,
        };
        let uid = match &self.kube().old_object {
            OldObject::Read(old) => uid_of(old).map(str::to_owned),
            _ => None,
        };
        let (bytes, version) = match (input, version) {
            (BodyInput::Whole(bytes @ [_, ..]), Some(version)) => (bytes, version),
            (input, version) => {
                self.unbound(input, version.as_deref());
                let sent = self.read_object(input)?;
                return Ok(sent.map(|bytes| BoundBody {
                    bytes,
                    named_by_client: true,
                }));
            }
        };
        let mut value = self.read_value(bytes)?;
        self.complete(&mut value);
        let fields = value.as_object_mut().ok_or(NO_MAPPING)?;
        let metadata = mapping_at(fields, "metadata")?;
        let given = named_version(metadata);
        let creates = self.kube().old_object == OldObject::Absent;
        if !creates && given.as_deref().is_some_and(|given| given != version) {
            return Err(self.conflict(MODIFIED));
        }
        if let Some(uid) = uid
            && !names_uid(metadata, &uid)
        {
            return Err(self.conflict(RECREATED));
        }
        let before = metadata.insert("resourceVersion".to_owned(), version.into());
        let sent = body::write(&value);
        if creates && let Some(Json::Object(metadata)) = value.get_mut("metadata") {
            // A new object has no version, which rules may look for.
            match before {
                Some(before) => metadata.insert("resourceVersion".to_owned(), before),
                None => metadata.remove("resourceVersion"),
            };
        }
        self.set_object(RequestObject::Read(Arc::new(value)));
        self.says_json(sent.len());
        Ok(Some(BoundBody {
            bytes: sent,
            named_by_client: given.is_some(),
        }))
    }

    /// Whether the object that a patch makes was made of the stored one that was looked at.
    #[must_use]
    pub fn is_made_of_old(&self, made: &Json, is_new: bool) -> bool {
        match &self.kube().old_object {
            OldObject::Read(old) => !is_new && version_of(old) == version_of(made),
            OldObject::Absent => is_new || version_of(made).is_none(),
            _ => true,
        }
    }

    /// The options of a delete, with the version and the UID of the stored object as preconditions. Without a body they are those of the
    /// query, which the API server does not look at where there is a body (k8s.io/apiserver pkg/endpoints/handlers/delete.go,
    /// `DeleteResource`).
    ///
    /// # Errors
    /// Where the options cannot be read, cannot be held to a version, or name another one.
    pub fn bind_delete(&mut self, input: BodyInput<'_>) -> Result<Option<BoundBody>, BindError> {
        let old = match &self.kube().old_object {
            OldObject::Read(old) => Some(Arc::clone(old)),
            // An object that is made by now is another one than was judged.
            OldObject::Absent => None,
            _ => return Ok(None),
        };
        let version = old.as_deref().map_or(Some(NO_VERSION), version_of);
        let Some(version) = version else {
            self.set_old_object(OldObject::Unread);
            return Ok(None);
        };
        let mut options = match input {
            BodyInput::Whole([]) => self.options_of_query()?,
            BodyInput::Whole(bytes) => match self.read_value(bytes)? {
                Json::Object(options) => options,
                _ => return Err(NO_MAPPING.into()),
            },
            BodyInput::TooLarge | BodyInput::Unread => {
                self.set_old_object(OldObject::TooLarge);
                return Ok(None);
            }
        };
        let ignores = options.get(IGNORE_READ_ERRORS);
        if ignores.is_some_and(|value| !matches!(value, Json::Null | Json::Bool(false))) {
            return Err(ReadError::Bound("it asks to delete what is stored whatever that is").into());
        }
        let preconditions = mapping_at(&mut options, "preconditions")?;
        let given = preconditions
            .get("resourceVersion")
            .filter(|given| !given.is_null());
        let named_by_client = given.is_some();
        if old.is_some() && given.is_some_and(|given| given.as_str() != Some(version)) {
            return Err(self.conflict(
                "the resourceVersion in the precondition does not match that in record. The object might have been modified",
            ));
        }
        preconditions.insert("resourceVersion".to_owned(), version.into());
        if let Some(uid) = old.as_deref().and_then(uid_of) {
            let given = preconditions.get("uid").filter(|given| !given.is_null());
            if given.is_some_and(|given| given.as_str() != Some(uid)) {
                return Err(self.conflict(RECREATED));
            }
            preconditions.insert("uid".to_owned(), uid.into());
        }
        let sent = body::write(&Json::Object(options));
        self.says_json(sent.len());
        Ok(Some(BoundBody {
            bytes: sent,
            named_by_client,
        }))
    }

    /// The conflict that the API server would answer.
    #[must_use]
    pub fn conflict(&self, why: &str) -> BindError {
        let kube = self.kube();
        let group = match kube.group() {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let resource = match &kube.target {
            Target::Resource { resource, .. } => resource.as_str(),
            Target::NonResource { path } => path,
        };
        let name = kube.name().unwrap_or_default();
        BindError::Conflict(format!(
            "Operation cannot be fulfilled on {resource}{group} {name:?}: {why}"
        ))
    }

    /// Forgets a stored object to which the body cannot be held, so that the rules that look at it fire.
    fn unbound(&mut self, input: BodyInput<'_>, version: Option<&str>) {
        match (&self.kube().old_object, input, version) {
            (OldObject::Read(_) | OldObject::Absent, BodyInput::TooLarge | BodyInput::Unread, Some(_)) => {
                self.set_old_object(OldObject::TooLarge);
            }
            (OldObject::Read(_), _, None) => self.set_old_object(OldObject::Unread),
            _ => {}
        }
    }

    /// Says that what is sent is JSON, and how long it is.
    fn says_json(&mut self, length: usize) {
        let json = HeaderValue::from_static("application/json");
        self.head_mut().headers.insert(CONTENT_TYPE, json);
        self.set_length(length);
    }

    /// The options that the query of a delete has (k8s.io/apimachinery pkg/apis/meta/v1, `Convert_url_Values_To_v1_DeleteOptions`), without
    /// a kind, as kubectl sends them. What is not known there is refused: it may be an option of a later release, and would be left out
    /// without a word.
    fn options_of_query(&self) -> Result<Map<String, Json>, ReadError> {
        let query = self.query()?;
        let mut options = Map::new();
        let mut preconditions = Map::new();
        for key in query.keys() {
            let value = query.get(key).unwrap_or_default();
            let option: Json = match key {
                "gracePeriodSeconds" => {
                    let seconds: i64 = value
                        .parse()
                        .map_err(|_| ReadError::Query("has a gracePeriodSeconds that is no number"))?;
                    seconds.into()
                }
                "orphanDependents" | IGNORE_READ_ERRORS => query.flag(key).into(),
                "propagationPolicy" => value.into(),
                "dryRun" => query.all(key).collect::<Vec<_>>().into(),
                "uid" | "resourceVersion" => {
                    if !value.is_empty() {
                        preconditions.insert(key.to_owned(), value.into());
                    }
                    continue;
                }
                _ if OF_EVERY_QUERY.contains(&key) => continue,
                _ => {
                    return Err(ReadError::Bound(
                        "its query has a key that is no option of a deletion",
                    ));
                }
            };
            options.insert(key.to_owned(), option);
        }
        if !preconditions.is_empty() {
            options.insert("preconditions".to_owned(), Json::Object(preconditions));
        }
        Ok(options)
    }
}

/// What the API server says of an object that has another version.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// What the API server says where there is another object of that name by now.
const RECREATED: &str = "the UID in the precondition does not match that in record. The object might have been deleted and then recreated";

/// The option that deletes what cannot be read, without a look at preconditions.
const IGNORE_READ_ERRORS: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Keys that say nothing of a deletion.
const OF_EVERY_QUERY: [&str; 4] = ["fieldManager", "fieldValidation", "pretty", "timeout"];

const NO_MAPPING: ReadError = ReadError::Bound("it is no mapping");

/// The version of an object.
fn version_of(object: &Json) -> Option<&str> {
    let version = object.pointer("/metadata/resourceVersion")?.as_str()?;
    is_version(version).then_some(version)
}

/// The UID of an object, which no other one ever has.
pub(super) fn uid_of(object: &Json) -> Option<&str> {
    let uid = object.pointer("/metadata/uid")?.as_str()?;
    (!uid.is_empty()).then_some(uid)
}

/// Has metadata name an object by its UID; whether they name no other. A write that names a UID creates nothing (k8s.io/apiserver
/// pkg/registry/rest/update.go, `Preconditions`; of an apply pkg/endpoints/handlers/patch.go, `applyPatch`).
pub(super) fn names_uid(metadata: &mut Map<String, Json>, uid: &str) -> bool {
    let given = metadata.get("uid").and_then(Json::as_str);
    match given.filter(|given| !given.is_empty()) {
        Some(given) => given == uid,
        None => {
            metadata.insert("uid".to_owned(), uid.into());
            true
        }
    }
}

/// Whether a text names a version. The API server reads it as a number, and takes 0 for none.
pub(super) fn is_version(text: &str) -> bool {
    !text.bytes().all(|byte| byte == b'0')
}

/// The version that metadata name.
pub(super) fn named_version(metadata: &Map<String, Json>) -> Option<String> {
    let given = metadata.get("resourceVersion")?.as_str()?;
    is_version(given).then(|| given.to_owned())
}

/// The mapping of a key, which is made where there is none.
fn mapping_at<'m>(
    fields: &'m mut Map<String, Json>,
    key: &str,
) -> Result<&'m mut Map<String, Json>, ReadError> {
    let value = fields.entry(key).or_insert(Json::Null);
    if value.is_null() {
        *value = Json::Object(Map::new());
    }
    value.as_object_mut().ok_or(NO_MAPPING)
}
