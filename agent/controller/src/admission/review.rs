//! An AdmissionReview (`admission.k8s.io/v1`): the API server's question, and the answer.
//!
//! In: a body, and what to do with the object in it. Out: the answer's body, and what became of the request. A question that is not
//! this webhook's own is refused: an answer that changes nothing would leave a pod outside of Picket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::patch::PatchOperation;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// The question. Fields that are absent are null.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: AdmissionRequest,
}

/// What is asked about.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AdmissionRequest {
    pub(super) uid: String,
    pub(super) resource: RequestedResource,
    #[serde(default)]
    pub(super) sub_resource: String,
    pub(super) operation: String,
    #[serde(default)]
    pub(super) object: Value,
    #[serde(default)]
    pub(super) old_object: Value,
}

/// The kind of the object, as the path of its requests has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RequestedResource {
    #[serde(default)]
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewFault {
    /// The configuration sends another kind of request than the program knows.
    #[error(
        "Picket's webhook has no answer to {operation} of {resource}: is its MutatingWebhookConfiguration changed?"
    )]
    Unexpected { operation: String, resource: String },
    /// The object is none of its kind.
    #[error("Picket's webhook cannot read the object: {0} is missing")]
    Object(&'static str),
}

impl ReviewFault {
    /// For a request of a kind that the webhook does not know.
    pub(super) fn unexpected(request: &AdmissionRequest) -> Self {
        let RequestedResource {
            group,
            version,
            resource,
        } = &request.resource;
        let parts = [group, version, resource, &request.sub_resource];
        let parts = parts.map(String::as_str).into_iter();
        let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        Self::Unexpected {
            operation: request.operation.clone(),
            resource: parts.join("/"),
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReviewOutcome {
    Changed,
    /// All is as it has to be: the API server asks again where other admission changed the object.
    Unchanged,
    Refused,
}

/// Answers a question; none where the body is no AdmissionReview.
pub(super) fn answer(
    body: &[u8],
    patch: impl Fn(&AdmissionRequest) -> Result<Vec<PatchOperation>, ReviewFault>,
) -> Option<(ReviewOutcome, Value)> {
    let review: Review = serde_json::from_slice(body).ok()?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return None;
    }
    let request = &review.request;
    let (outcome, mut response) = match patch(request) {
        Ok(patch) if patch.is_empty() => (ReviewOutcome::Unchanged, json!({"allowed": true})),
        Ok(patch) => {
            let patch = STANDARD.encode(json!(patch).to_string());
            let response = json!({"allowed": true, "patchType": "JSONPatch", "patch": patch});
            (ReviewOutcome::Changed, response)
        }
        Err(fault) => {
            let status = json!({"code": 400, "reason": "BadRequest", "message": fault.to_string()});
            (
                ReviewOutcome::Refused,
                json!({"allowed": false, "status": status}),
            )
        }
    };
    response["uid"] = json!(request.uid);
    let review = json!({"apiVersion": API_VERSION, "kind": KIND, "response": response});
    Some((outcome, review))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Value {
        json!({"apiVersion": API_VERSION, "kind": KIND, "request": {
            "uid": "u-1", "operation": "CREATE", "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": {"a": "b"}, "oldObject": null, "userInfo": {"username": "somebody"}, "dryRun": false,
        }})
    }

    fn ask(
        question: &Value,
        patch: impl Fn(&AdmissionRequest) -> Result<Vec<PatchOperation>, ReviewFault>,
    ) -> Option<(ReviewOutcome, Value)> {
        answer(question.to_string().as_bytes(), patch)
    }

    #[test]
    fn a_patch_travels_in_base64() {
        let patch = |request: &AdmissionRequest| {
            assert_eq!(
                (&request.object["a"], &request.old_object),
                (&json!("b"), &Value::Null)
            );
            Ok(vec![
                PatchOperation::add("/a", "c"),
                PatchOperation::Remove {
                    path: "/d".to_owned(),
                },
            ])
        };
        let (outcome, review) = ask(&question(), patch).unwrap();
        assert_eq!(outcome, ReviewOutcome::Changed);
        let encoded = review["response"]["patch"].as_str().unwrap();
        let patch: Value = serde_json::from_slice(&STANDARD.decode(encoded).unwrap()).unwrap();
        assert_eq!(
            patch,
            json!([{"op": "add", "path": "/a", "value": "c"}, {"op": "remove", "path": "/d"}])
        );
        let wanted = json!({"apiVersion": API_VERSION, "kind": KIND, "response":
            {"uid": "u-1", "allowed": true, "patchType": "JSONPatch", "patch": encoded}});
        assert_eq!(review, wanted);
    }

    #[test]
    fn nothing_to_change_has_no_patch() {
        let (outcome, review) = ask(&question(), |_| Ok(Vec::new())).unwrap();
        assert_eq!(outcome, ReviewOutcome::Unchanged);
        assert_eq!(review["response"], json!({"uid": "u-1", "allowed": true}));
    }

    #[test]
    fn a_fault_refuses_the_object() {
        let (outcome, review) = ask(&question(), |request| Err(ReviewFault::unexpected(request))).unwrap();
        assert_eq!(outcome, ReviewOutcome::Refused);
        let response = &review["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!("u-1"), &json!(false))
        );
        let said = response["status"]["message"].as_str().unwrap();
        assert!(said.contains("no answer to CREATE of v1/pods:"), "{said}");
    }

    #[test]
    fn what_is_no_review_has_no_answer() {
        let with = |pointer: &str, value: Value| {
            let mut question = question();
            *question.pointer_mut(pointer).unwrap() = value;
            question
        };
        for wrong in [
            Value::Null,
            json!({}),
            with("/apiVersion", json!("admission.k8s.io/v1beta1")),
            with("/kind", json!("ConversionReview")),
            with("/request", Value::Null),
            with("/request/uid", Value::Null),
            with("/request/resource", Value::Null),
        ] {
            assert!(ask(&wrong, |_| Ok(Vec::new())).is_none(), "{wrong}");
        }
        assert!(answer(b"\xff", |_| Ok(Vec::new())).is_none());
    }
}
