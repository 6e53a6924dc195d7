//! Tests of the judgement: each way in which a request is unfit is denied with its reason.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519,
};

use super::*;
use crate::names::SIGNER;

const ACCOUNT: &str = "system:serviceaccount:picket-system:picket";
const NODE: &str = "node-1";

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn pem(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

/// A request as an agent makes it.
pub(crate) fn fit() -> CertificateSigningRequest {
    let key = KeyPair::generate().unwrap();
    let extra = [
        (NODE_NAME.to_owned(), vec![NODE.to_owned()]),
        (
            "authentication.kubernetes.io/pod-name".to_owned(),
            vec!["picket-x".to_owned()],
        ),
    ];
    CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            username: Some(ACCOUNT.to_owned()),
            extra: Some(BTreeMap::from(extra)),
            usages: Some(vec!["digital signature".to_owned(), "cert sign".to_owned()]),
            expiration_seconds: Some(3600),
            request: ByteString(pem(&params("picket node CA node-1"), &key).into_bytes()),
            signer_name: SIGNER.to_owned(),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    }
}

/// What is said of a request that is fit but for this.
fn refused(change: impl FnOnce(&mut CertificateSigningRequestSpec)) -> Refusal {
    let mut csr = fit();
    change(&mut csr.spec);
    judge(&csr, ACCOUNT).unwrap_err()
}

fn with_request(text: String) -> Refusal {
    refused(|spec| spec.request = ByteString(text.into_bytes()))
}

#[test]
fn an_agents_request_for_its_own_node_is_fit() {
    let request = judge(&fit(), ACCOUNT).unwrap();
    assert_eq!(
        (request.node.as_str(), request.lifetime),
        (NODE, Duration::from_secs(3600))
    );
    let mut csr = fit();
    csr.spec.expiration_seconds = None;
    assert_eq!(judge(&csr, ACCOUNT).unwrap().lifetime, NODE_CA_LIFETIME);
}

#[test]
fn another_account_is_denied() {
    for name in [
        "system:serviceaccount:agents:picket",
        "system:serviceaccount:picket-system:default",
        "kubernetes-admin",
        "",
    ] {
        let refusal = refused(|spec| spec.username = Some(name.to_owned()));
        assert_eq!(refusal.reason(), "NotAnAgent", "{name}");
        assert!(refusal.to_string().contains(ACCOUNT), "{refusal}");
    }
    assert_eq!(refused(|spec| spec.username = None).reason(), "NotAnAgent");
}

#[test]
fn a_token_that_does_not_prove_one_node_is_denied() {
    let with = |names: Option<Vec<&str>>| {
        refused(|spec| {
            let extra = spec.extra.as_mut().unwrap();
            extra.remove(NODE_NAME);
            if let Some(names) = names {
                extra.insert(
                    NODE_NAME.to_owned(),
                    names.into_iter().map(str::to_owned).collect(),
                );
            }
        })
    };
    for names in [None, Some(vec![]), Some(vec![""])] {
        assert_eq!(with(names), Refusal::NoNode);
    }
    assert_eq!(with(Some(vec![NODE, "node-2"])), Refusal::SeveralNodes(2));
    assert_eq!(refused(|spec| spec.extra = None), Refusal::NoNode);
}

#[test]
fn another_nodes_name_is_denied() {
    let key = KeyPair::generate().unwrap();
    for name in [
        "picket node CA node-2",
        "picket node CA node-1 ",
        "picket node CA node-10",
        "Picket node CA node-1",
        "node-1",
        "",
    ] {
        let refusal = with_request(pem(&params(name), &key));
        assert_eq!(refusal.reason(), "SubjectNotTheNode", "{name:?}");
        assert!(
            refusal.to_string().contains("CN=picket node CA node-1"),
            "{refusal}"
        );
    }
    // The right name beside another attribute.
    let mut more = params("picket node CA node-1");
    more.distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    assert_eq!(with_request(pem(&more, &key)).reason(), "SubjectNotTheNode");
}

#[test]
fn other_usages_and_longer_lives_are_denied() {
    let with = |usages: &[&str]| {
        refused(|spec| spec.usages = Some(usages.iter().map(|usage| (*usage).to_owned()).collect()))
    };
    for usages in [
        &[][..],
        &["cert sign"],
        &["cert sign", "digital signature", "server auth"],
        &["cert sign", "server auth"],
    ] {
        assert_eq!(with(usages), Refusal::Usages, "{usages:?}");
    }
    let most = i32::try_from(NODE_CA_LIFETIME.as_secs()).unwrap();
    for seconds in [most + 1, i32::MAX, -1] {
        let refusal = refused(|spec| spec.expiration_seconds = Some(seconds));
        assert_eq!(refusal, Refusal::Lifetime(seconds.into()));
    }
    let mut csr = fit();
    csr.spec.expiration_seconds = Some(most);
    judge(&csr, ACCOUNT).unwrap();
}

#[test]
fn a_request_that_its_key_did_not_sign_is_denied() {
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let params = params("picket node CA node-1");
    let der = |key| params.serialize_request(key).unwrap().der().to_vec();
    // The other key in the place of the one that signed.
    let (mut bytes, key, wrong) = (der(&one), one.der_bytes(), other.der_bytes());
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(wrong);
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let text = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    assert_eq!(with_request(text), Refusal::Signature);
}

#[test]
fn another_kind_of_key_is_denied() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let refusal = with_request(pem(&params("picket node CA node-1"), &key));
        assert_eq!(refusal, Refusal::Key, "{algorithm:?}");
    }
}

#[test]
fn what_is_not_one_request_is_denied() {
    let key = KeyPair::generate().unwrap();
    let one = pem(&params("picket node CA node-1"), &key);
    let truncated = one.replacen("MI", "MA", 1);
    for text in [String::new(), "x".to_owned(), one.clone() + &one, truncated] {
        assert_eq!(with_request(text), Refusal::Unreadable);
    }
}

#[test]
fn no_extension_that_is_asked_for_comes_into_the_certificate() {
    use crate::authority::{Authority, PermittedNames, certificates, make_root};
    let mut params = params("picket node CA node-1");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(5));
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![rcgen::SanType::DnsName("api.example.com".try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let mut csr = fit();
    csr.spec.request = ByteString(pem(&params, &key).into_bytes());
    let request = judge(&csr, ACCOUNT).unwrap();
    let now = std::time::SystemTime::now();
    let signed = Authority::read(&make_root(now).unwrap())
        .unwrap()
        .sign_node_ca(
            &request.node,
            &request.key,
            request.lifetime,
            &PermittedNames::default(),
            now,
        )
        .unwrap();
    let der = certificates(&signed, "test").unwrap().remove(0);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let constraints = certificate.basic_constraints().unwrap().unwrap().value;
    assert_eq!(constraints.path_len_constraint, Some(0));
    assert!(!certificate.key_usage().unwrap().unwrap().value.crl_sign());
    assert_eq!(
        certificate.public_key().subject_public_key.data.as_ref(),
        key.der_bytes()
    );
}

#[test]
fn every_reason_is_counted_from_0_on() {
    let text = String::new;
    let all = [
        Refusal::OtherAccount {
            found: text(),
            expected: text(),
        },
        Refusal::NoNode,
        Refusal::SeveralNodes(2),
        Refusal::Usages,
        Refusal::Lifetime(0),
        Refusal::Unreadable,
        Refusal::Signature,
        Refusal::Key,
        Refusal::OtherNode {
            found: text(),
            node: text(),
            expected: text(),
        },
    ];
    for refusal in all {
        assert!(Refusal::REASONS.contains(&refusal.reason()), "{refusal:?}");
    }
}
