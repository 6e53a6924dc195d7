//! Objects of the API server, read without what whoever writes an object can make unreadable.
//!
//! In: an object's JSON. Out: the object without `metadata.managedFields`, with times that the calendar here knows.
//!
//! A client may send `managedFields` of its own. The API server stores their times as they are, year 10000 too, and nests their fields as deep
//! as it is told. One such object, which whoever may write one pod or Service makes, would end each list of its kind in an error, for as
//! long as the object is there: an agent would see no change any more. No part of Picket looks at these fields.

use std::borrow::Cow;
use std::fmt;
use std::io::ErrorKind;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::core::ObjectList;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number, Value};

/// What lies deeper in an object is left out, before the reader's own limit of 128 ends the whole list. No kind that Picket reads comes
/// near.
const DEPTH: usize = 96;

/// An object of the API server, read leniently.
#[derive(Debug, Clone)]
pub struct Lenient<K>(pub K);

impl<K> Lenient<K> {
    /// The event of the object itself.
    pub fn event(event: Event<Self>) -> Event<K> {
        match event {
            Event::Apply(object) => Event::Apply(object.0),
            Event::Delete(object) => Event::Delete(object.0),
            Event::InitApply(object) => Event::InitApply(object.0),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        }
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    /// Without it, metadata alone would be taken from whole objects: each pod with its environment.
    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl<K: Serialize> Serialize for Lenient<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Part::OBJECT.deserialize(deserializer)?;
        if let Ok(object) = K::deserialize(&value) {
            return Ok(Self(object));
        }
        correct_times(&mut value);
        K::deserialize(&value).map(Self).map_err(D::Error::custom)
    }
}

/// Lists objects leniently.
///
/// # Errors
/// The API server refuses it, cannot be reached, or answers with what is no list all the same.
pub async fn list<K>(api: &Api<Lenient<K>>, parameters: &ListParams) -> kube::Result<ObjectList<K>>
where
    K: Clone + fmt::Debug + DeserializeOwned,
{
    let ObjectList {
        types,
        metadata,
        items,
    } = api.list(parameters).await?;
    Ok(ObjectList {
        types,
        metadata,
        items: items.into_iter().map(|item| item.0).collect(),
    })
}

/// Whether an event of a watch could not be read. The watch goes on behind it, and the object counts as it was before.
///
/// kube takes a line that is no event for a Status, and a Status may lack every field.
pub fn is_unread(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) => true,
        // Bytes that are no text. What else ends a connection loses no event: the watch goes on from the version that it has.
        watcher::Error::WatchFailed(kube::Error::ReadEvents(error)) => error.kind() == ErrorKind::InvalidData,
        watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 0,
        _ => false,
    }
}

/// A part of an object that is to be read.
#[derive(Debug, Clone, Copy)]
struct Part {
    depth: usize,
    is_metadata: bool,
}

impl Part {
    const OBJECT: Self = Self {
        depth: 0,
        is_metadata: false,
    };

    /// The part below; nothing where it is not read.
    fn below(self, key: &str) -> Option<Self> {
        let is_left_out = self.depth >= DEPTH || (self.is_metadata && key == "managedFields");
        (!is_left_out).then_some(Self {
            depth: self.depth + 1,
            is_metadata: self.depth == 0 && key == "metadata",
        })
    }
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of the API server")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        match self.below("") {
            Some(part) => {
                while let Some(item) = items.next_element_seed(part)? {
                    read.push(item);
                }
            }
            None => while items.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            match self.below(&key) {
                Some(part) => {
                    let value = entries.next_value_seed(part)?;
                    read.insert(key, value);
                }
                None => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(read))
    }
}

/// The first moment of 1970.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Times that no calendar here has, such as those of year 10000, become the first moment of 1970.
fn correct_times(value: &mut Value) {
    match value {
        Value::String(text) if is_time(text) && text.parse::<Timestamp>().is_err() => {
            EPOCH.clone_into(text);
        }
        Value::Array(items) => items.iter_mut().for_each(correct_times),
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    // A condition must have one, and Go writes its zero so.
                    Value::Null if key == "lastTransitionTime" => *value = EPOCH.into(),
                    value => correct_times(value),
                }
            }
        }
        _ => {}
    }
}

/// Whether a text has the form of a time (RFC 3339), whatever its year: `10000-01-01T11:59:59Z`.
fn is_time(text: &str) -> bool {
    let is_of_time = |character: char| character.is_ascii_digit() || "-:.+TZ".contains(character);
    let mut parts = text.split('T');
    let date = parts.next().unwrap_or_default();
    let has_time = parts.next().is_some_and(|time| time.contains(':'));
    has_time && date.trim_start_matches('-').matches('-').count() == 2 && text.chars().all(is_of_time)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod, Service};
    use kube::ResourceExt as _;
    use kube::core::{DynamicObject, ObjectList, PartialObjectMeta, WatchEvent};
    use serde_json::json;

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{{}}{}", "{\"f:x\":".repeat(depth), "}".repeat(depth))
    }

    /// A Service as the API server sends it, with these entries of `managedFields`.
    fn service(managed: &str) -> String {
        format!(
            "{{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"s\",\"namespace\":\"n\",\"uid\":\"u\",\
             \"resourceVersion\":\"7\",\"creationTimestamp\":\"2026-01-01T00:00:00Z\",\"labels\":{{\"managedFields\":\"a\"}},\
             \"managedFields\":{managed}}},\"spec\":{{\"clusterIP\":\"10.0.0.1\",\"ports\":[{{\"port\":443,\"targetPort\":8443}}]}}}}"
        )
    }

    #[test]
    fn metadata_alone_is_asked_for_where_nothing_else_is_read() {
        assert!(Lenient::<PartialObjectMeta<Pod>>::metadata_api());
        assert!(!Lenient::<Pod>::metadata_api());
    }

    #[test]
    fn a_connection_that_ends_loses_no_event_and_bytes_that_are_no_text_do() {
        for (kind, unread) in [
            (ErrorKind::InvalidData, true),
            (ErrorKind::ConnectionReset, false),
            (ErrorKind::Other, false),
        ] {
            let error = watcher::Error::WatchFailed(kube::Error::ReadEvents(kind.into()));
            assert_eq!(is_unread(&error), unread, "{kind}");
        }
    }

    #[test]
    fn no_managed_fields_make_an_object_unreadable() {
        let entry = |time: &str, fields: &str| {
            format!(
                "[{{\"manager\":\"m\",\"operation\":\"Update\",\"apiVersion\":\"v1\",\"time\":\"{time}\",\"fieldsType\":\"FieldsV1\",\
                 \"fieldsV1\":{fields}}}]"
            )
        };
        for managed in [
            entry("10000-01-01T11:59:59Z", "{}"),
            entry("-0001-12-31T23:59:59Z", "{}"),
            entry("2026-01-01T00:00:00Z", &nested(5000)),
            "7".to_owned(),
        ] {
            let text = service(&managed);
            assert!(serde_json::from_str::<Service>(&text).is_err(), "{:.200}", text);
            let Lenient(read) = serde_json::from_str::<Lenient<Service>>(&text).unwrap();
            assert_eq!(
                (read.name_any().as_str(), read.resource_version().as_deref()),
                ("s", Some("7"))
            );
            assert_eq!(
                read.labels()["managedFields"],
                "a",
                "a label of that name is none of them"
            );
            assert!(read.creation_timestamp().is_some());
            let spec = read.spec.unwrap();
            assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.1"));
            assert_eq!(spec.ports.unwrap()[0].port, 443);

            let list = format!(
                "{{\"kind\":\"ServiceList\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"items\":[{text}]}}"
            );
            let list: ObjectList<Lenient<Service>> = serde_json::from_str(&list).unwrap();
            assert_eq!(list.items.len(), 1);
            let event = format!("{{\"type\":\"ADDED\",\"object\":{text}}}");
            let event: WatchEvent<Lenient<PartialObjectMeta<Service>>> =
                serde_json::from_str(&event).unwrap();
            assert!(matches!(event, WatchEvent::Added(_)));
        }
    }

    #[test]
    fn times_and_depths_elsewhere_end_no_list_either() {
        let node = json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": "10000-01-01T00:00:00Z", "effect": "NoSchedule", "timeAdded": "10000-01-01T00:00:00Z"}]},
        });
        let Lenient(node): Lenient<Node> = serde_json::from_value(node).unwrap();
        let taints = node.spec.unwrap().taints.unwrap();
        assert!(taints[0].time_added.is_some());
        let deep = format!("{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{}}}", nested(3000));
        let Lenient(read): Lenient<DynamicObject> = serde_json::from_str(&deep).unwrap();
        assert_eq!(read.name_any(), "p");
        let conditions = json!([{"type": "a", "status": "True", "reason": "r", "message": "", "lastTransitionTime": null}]);
        let service = json!({"metadata": {"name": "s"}, "status": {"conditions": conditions}});
        assert!(serde_json::from_value::<Service>(service.clone()).is_err());
        let Lenient(service): Lenient<Service> = serde_json::from_value(service).unwrap();
        assert_eq!(service.status.unwrap().conditions.unwrap().len(), 1);
        let wrong = json!({"metadata": {"name": "p"}, "spec": {"containers": 7}});
        assert!(
            serde_json::from_value::<Lenient<Pod>>(wrong).is_err(),
            "what is no pod is none"
        );
    }

    #[test]
    fn an_object_is_read_as_it_is() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"at": "10000-01-01T00:00:00Z"}, "generation": 3},
            "spec": {"containers": [{"name": "c", "args": ["1", "-1.5"]}], "terminationGracePeriodSeconds": 30, "hostPID": true},
            "status": {"startTime": "2026-01-01T00:00:00Z"},
        });
        let Lenient(read): Lenient<Pod> = serde_json::from_value(pod.clone()).unwrap();
        let strict: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(read, strict);
        assert_eq!(
            serde_json::to_value(Lenient(read)).unwrap(),
            serde_json::to_value(strict).unwrap()
        );
    }

    #[test]
    fn a_time_is_told_from_other_texts() {
        for (text, expected) in [
            ("10000-01-01T11:59:59Z", true),
            ("-001-01-01T11:59:59.5Z", true),
            ("2026-01-01T00:00:00+01:00", true),
            ("2026-01-01", false),
            ("T", false),
            ("10.0.0.1", false),
            ("a-b-cT1:2", false),
            ("", false),
        ] {
            assert_eq!(is_time(text), expected, "{text}");
        }
    }
}
