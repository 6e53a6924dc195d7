//! What admission changes in a workload that an AI agent writes: the same as the MutatingAdmissionPolicy of deploy/admission-guards.yaml.
//!
//! In: a request to create or change a workload. Out: the patch that gives its pods the label of enrolment; none where the template has
//! the label, or is as it was. Controllers create the pods by accounts of their own, so that the template carries the label.

use serde_json::{Map, Value, json};

use super::patch::{PatchOperation, set_in_map};
use super::review::{AdmissionRequest, ReviewFault};
use crate::names::ENROLLED;

/// Where each kind has its template.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("apps", "deployments", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("", "podtemplates", "/template"),
];

/// What has to change.
pub(super) fn patch(request: &AdmissionRequest) -> Result<Vec<PatchOperation>, ReviewFault> {
    let resource = &request.resource;
    let is_known =
        |(group, name, _): &&(&str, &str, &str)| resource.group == *group && resource.resource == *name;
    let path = TEMPLATES.iter().find(is_known).map(|(_, _, path)| *path);
    let is_write = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
    let Some(path) = path.filter(|_| is_write && request.sub_resource.is_empty()) else {
        return Err(ReviewFault::unexpected(request));
    };
    if !request.object.is_object() {
        return Err(ReviewFault::Object("object"));
    }
    let (after, before) = (
        template(&request.object, path),
        template(&request.old_object, path),
    );
    // A workload of somebody else stays as it is where an agent changes its replicas only.
    if after == before {
        return Ok(Vec::new());
    }
    let metadata = after.map_or(&Value::Null, |template| &template["metadata"]);
    let change = match metadata.is_object() {
        true => set_in_map(
            &metadata["labels"],
            &format!("{path}/metadata/labels"),
            ENROLLED,
            "true",
        ),
        false => Some(PatchOperation::add(
            format!("{path}/metadata"),
            json!({"labels": {ENROLLED: "true"}}),
        )),
    };
    Ok(change.into_iter().collect())
}

/// What is at the path; one without a field counts as none.
fn template<'object>(object: &'object Value, path: &str) -> Option<&'object Value> {
    let found = object.pointer(path)?;
    let is_empty = found.is_null() || found.as_object().is_some_and(Map::is_empty);
    (!is_empty).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::super::patch::testing::apply;
    use super::super::review::RequestedResource;
    use super::*;

    fn request(kind: (&str, &str), operation: &str, object: &Value, before: &Value) -> AdmissionRequest {
        AdmissionRequest {
            uid: "u".to_owned(),
            resource: RequestedResource {
                group: kind.0.to_owned(),
                version: "v1".to_owned(),
                resource: kind.1.to_owned(),
            },
            sub_resource: String::new(),
            operation: operation.to_owned(),
            object: object.clone(),
            old_object: before.clone(),
        }
    }

    fn put(path: &str, template: &Value) -> Value {
        let keys: Vec<&str> = path.split('/').skip(1).collect();
        keys.iter()
            .rev()
            .fold(template.clone(), |below, key| json!({*key: below}))
    }

    #[test]
    fn each_kind_gets_the_label_in_its_template_once() {
        let rows = [
            (
                json!({"spec": {}}),
                json!({"metadata": {"labels": {ENROLLED: "true"}}, "spec": {}}),
            ),
            (
                json!({"metadata": {}, "spec": {}}),
                json!({"metadata": {"labels": {ENROLLED: "true"}}, "spec": {}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "b", ENROLLED: "no"}}}),
                json!({"metadata": {"labels": {"a": "b", ENROLLED: "true"}}}),
            ),
        ];
        for (group, kind, path) in TEMPLATES {
            for (template, wanted) in &rows {
                let (object, wanted) = (put(path, template), put(path, wanted));
                let made = patch(&request((group, kind), "CREATE", &object, &Value::Null)).unwrap();
                assert_eq!(apply(&object, &made), wanted, "{kind}");
                let again = patch(&request((group, kind), "CREATE", &wanted, &Value::Null)).unwrap();
                assert_eq!(again, [], "{kind}");
                let changed = put(path, &json!({"spec": {"x": "y"}}));
                let changed = patch(&request((group, kind), "UPDATE", &object, &changed)).unwrap();
                assert_eq!(apply(&object, &changed), wanted, "{kind}: another template");
                // Somebody scales it.
                let same = patch(&request((group, kind), "UPDATE", &object, &object)).unwrap();
                assert_eq!(same, [], "{kind}");
            }
        }
    }

    #[test]
    fn another_request_is_refused() {
        let object = put("/spec/template", &json!({"spec": {}}));
        let with = |change: &dyn Fn(&mut AdmissionRequest)| {
            let mut request = request(("apps", "deployments"), "CREATE", &object, &Value::Null);
            change(&mut request);
            patch(&request).is_err()
        };
        assert!(!with(&|_| {}));
        assert!(with(&|request| request.resource.group = "extensions".to_owned()));
        assert!(with(&|request| request.resource.resource = "pods".to_owned()));
        assert!(with(&|request| request.sub_resource = "scale".to_owned()));
        assert!(with(&|request| request.operation = "DELETE".to_owned()));
        assert!(with(&|request| request.object = Value::Null));
    }
}
