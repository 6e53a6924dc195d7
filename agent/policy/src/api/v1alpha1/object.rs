//! What every object has: `apiVersion`, `kind`, `metadata` and a `spec`.
//!
//! In: a document of one kind. Out: an [`Object`] with a typed [`Spec`], and errors in its metadata.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::api::API_VERSION;
use crate::api::field::FieldErrors;
use crate::kubernetes::resources::is_subdomain;
use crate::yaml::FieldPath;

/// An object of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "")]
#[schemars(bound = "S: Spec")]
pub struct Object<S: Spec> {
    /// The group and version of the object.
    pub api_version: ApiVersion,
    /// The kind of the object.
    pub kind: KindName<S>,
    /// The object's name, and what API servers keep beside it.
    pub metadata: ObjectMeta,
    /// What the object says.
    pub spec: S,
}

/// The part of an object that differs from kind to kind.
pub trait Spec: fmt::Debug + Clone + PartialEq + Eq + Serialize + DeserializeOwned + JsonSchema {
    /// The kind as it is written.
    const KIND: &'static str;
    /// The kind in URLs.
    const PLURAL: &'static str;
    /// What [`Spec::validate`] refuses and an API server can refuse too, though its schema cannot say it.
    const CEL_RULES: &'static [CelRule] = &[];
    /// Fields of the design that this version does not have, each by its path with `[]` for an index.
    const PLANNED_FIELDS: &'static [&'static str] = &[];
    /// Words of the design that this version does not have, each with its field's path.
    const PLANNED_WORDS: &'static [(&'static str, &'static [&'static str])] = &[];
    /// Fields that had another name before: the old path and the new one.
    const RENAMED_FIELDS: &'static [(&'static str, &'static str)] = &[];

    /// Notes what is wrong that the schema cannot say. `path` is that of the spec.
    fn validate(&self, path: &FieldPath, errors: &mut FieldErrors);
}

/// A rule that an API server holds objects to, in CEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CelRule {
    /// The field that it is about, by its path with `[]` for an index.
    pub path: &'static str,
    /// What must be true of the field, which is `self`.
    pub rule: &'static str,
    /// What a person is told where it is not.
    pub message: &'static str,
}

impl<S: Spec> Object<S> {
    /// Notes what is wrong that the schema cannot say.
    pub fn validate(&self, errors: &mut FieldErrors) {
        self.metadata.validate(&FieldPath::new("metadata"), errors);
        self.spec.validate(&FieldPath::new("spec"), errors);
    }
}

/// `picket.dev/v1alpha1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApiVersion;

impl Serialize for ApiVersion {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        serializer.serialize_str(API_VERSION)
    }
}

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = Cow::<str>::deserialize(deserializer)?;
        if version == API_VERSION {
            Ok(Self)
        } else {
            Err(D::Error::custom(format!(
                "apiVersion is {version:?}; it must be {API_VERSION}"
            )))
        }
    }
}

impl JsonSchema for ApiVersion {
    fn schema_name() -> Cow<'static, str> {
        "ApiVersion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": [API_VERSION]})
    }
}

/// The name of a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KindName<S>(PhantomData<S>);

impl<S> Default for KindName<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S: Spec> fmt::Debug for KindName<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::KIND)
    }
}

impl<S: Spec> Serialize for KindName<S> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        serializer.serialize_str(S::KIND)
    }
}

impl<'de, S: Spec> Deserialize<'de> for KindName<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = Cow::<str>::deserialize(deserializer)?;
        if kind == S::KIND {
            Ok(Self::default())
        } else {
            Err(D::Error::custom(format!(
                "kind is {kind:?}; it must be {}",
                S::KIND
            )))
        }
    }
}

impl<S: Spec> JsonSchema for KindName<S> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Kind", S::KIND).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": [S::KIND]})
    }
}

/// The object's name, and what API servers keep beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectMeta {
    /// The object's name, unique among the objects of its kind.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: String,
    /// Labels, for people and tools; Picket does not read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations, for people and tools; Picket does not read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Set by an API server, and ignored in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Set by an API server, and ignored in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Set by an API server, and ignored in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Set by an API server, and ignored in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Set by an API server, and ignored in a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_fields: Option<serde_json::Value>,
}

impl ObjectMeta {
    pub(in crate::api) fn validate(&self, path: &FieldPath, errors: &mut FieldErrors) {
        if !is_subdomain(&self.name) {
            let path = path.field("name");
            let reason = format!(
                "field `{path}` is {:?}; it must be lower-case letters, digits, - and ., at most 253 (RFC 1123)",
                self.name
            );
            errors.add(path, reason);
        }
    }
}
