//! The CertificateSigningRequest of a node CA, and what its status says.
//!
//! In: a PKCS#10 request; the object as the API server shows it. Out: the object to create; the certificates that were issued, or that
//! nobody has decided yet, or who refused and why. Nothing here asks anybody.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use picket_controller::names::SIGNER;

/// What the object's name begins with.
const NAME: &str = "picket-node-ca-";

/// How long a node CA is to be valid. A new one is due after a third, so that a controller may be away for two days.
pub(super) const LIFETIME: Duration = Duration::from_secs(72 * 3600);

/// What the key is to be used for: leaves, and the requests themselves (k8s.io/api certificates/v1, `KeyUsage`).
const USAGES: [&str; 2] = ["cert sign", "digital signature"];

/// The longest part of a refusal that is told.
const MESSAGE_BYTES: usize = 400;

/// The object for a request in PEM.
pub(super) fn object(pem: &str) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.as_bytes().to_vec()),
            signer_name: SIGNER.to_owned(),
            usages: Some(USAGES.map(str::to_owned).to_vec()),
            expiration_seconds: i32::try_from(LIFETIME.as_secs()).ok(),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody has decided, or nothing is signed yet.
    Open,
    /// PEM certificates.
    Issued(Vec<u8>),
    /// Somebody denied it, or the signer cannot sign it; what was said.
    Refused(String),
}

/// Reads an object's status. A refusal counts even where there is a certificate.
pub(super) fn answer(request: &CertificateSigningRequest) -> Answer {
    let Some(status) = &request.status else {
        return Answer::Open;
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let refusal = conditions
        .iter()
        .find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"));
    match (refusal, &status.certificate) {
        (Some(condition), _) => Answer::Refused(said(condition)),
        (None, Some(certificate)) if !certificate.0.is_empty() => Answer::Issued(certificate.0.clone()),
        (None, _) => Answer::Open,
    }
}

/// A refusal in words, on one line.
fn said(condition: &CertificateSigningRequestCondition) -> String {
    let words = [condition.reason.as_deref(), condition.message.as_deref()];
    let words: Vec<_> = words
        .into_iter()
        .flatten()
        .filter(|word| !word.is_empty())
        .collect();
    let text = match words.is_empty() {
        true => "no reason is given".to_owned(),
        false => words.join(": "),
    };
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.truncate(line.floor_char_boundary(MESSAGE_BYTES));
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_object_asks_for_a_ca_of_three_days_and_nothing_else() {
        let made = serde_json::to_value(object("pem")).expect("an object");
        assert_eq!(
            made,
            json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"generateName": "picket-node-ca-"},
                "spec": {
                    "request": "cGVt", "signerName": "picket.dev/node-ca", "expirationSeconds": 259_200,
                    "usages": ["cert sign", "digital signature"],
                },
            })
        );
    }

    #[test]
    fn a_request_is_open_until_it_is_signed_or_refused() {
        let of = |status: serde_json::Value| {
            let mut object = serde_json::to_value(object("pem")).expect("an object");
            object["status"] = status;
            answer(&serde_json::from_value(object).expect("a request"))
        };
        let condition =
            |kind: &str| json!({"type": kind, "status": "True", "reason": "Node", "message": "is\nanother"});
        let refused = Answer::Refused("Node: is another".to_owned());
        assert_eq!(of(json!({})), Answer::Open);
        assert_eq!(of(json!({"conditions": [condition("Approved")]})), Answer::Open);
        let signed = json!({"conditions": [condition("Approved")], "certificate": "cGVt"});
        assert_eq!(of(signed), Answer::Issued(b"pem".to_vec()));
        for kind in ["Denied", "Failed"] {
            assert_eq!(of(json!({"conditions": [condition(kind)]})), refused);
            let both = json!({"conditions": [condition("Approved"), condition(kind)], "certificate": "cGVt"});
            assert_eq!(of(both), refused, "{kind}");
        }
        let silent = json!({"conditions": [{"type": "Denied", "status": "True"}]});
        assert_eq!(of(silent), Answer::Refused("no reason is given".to_owned()));
    }
}
