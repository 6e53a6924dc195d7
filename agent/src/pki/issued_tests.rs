//! Unit tests: what was issued is used only where it is what was asked for, and where clients would accept its leaves.

use rcgen::{CertificateSigningRequestParams, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints};
use x509_parser::prelude::FromDer as _;

use super::super::testing::{Root, stranger};
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const ASKED: Duration = Duration::from_secs(72 * 3600);
const NAME: &str = "picket node CA node-1";

fn names() -> LeafNames {
    LeafNames::new(&["api.example".to_owned()]).expect("names")
}

/// Why a certificate is refused that a root signs so; nothing where it is used.
fn refusal(change: impl FnOnce(&mut CertificateSigningRequestParams)) -> Option<String> {
    let (request, root, now) = (
        CaRequest::new(NAME).expect("a request"),
        Root::new("root"),
        SystemTime::now(),
    );
    let issued = root.sign_with(&request.pem, now, change);
    let checked = request.check(issued.as_bytes(), ASKED, &names(), now);
    checked.err().map(|error| error.to_string())
}

#[test]
fn a_request_has_the_common_name_and_nothing_else() {
    let request = CaRequest::new(NAME).expect("a request");
    let read = CertificateSigningRequestParams::from_pem(&request.pem).expect("signed by its key");
    let names: Vec<_> = read.params.distinguished_name.iter().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(read.params.subject_alt_names.is_empty() && read.params.key_usages.is_empty());
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.pem.as_bytes()).expect("PEM");
    let (_, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .expect("PKCS#10");
    assert_eq!(
        csr.certification_request_info.subject.to_string(),
        format!("CN={NAME}")
    );
    let other = CaRequest::new(NAME).expect("a request");
    assert_ne!(
        request.key.serialize_der(),
        other.key.serialize_der(),
        "a new key each time"
    );
}

#[test]
fn what_was_asked_for_is_used_with_its_own_key() {
    let (request, root, now) = (
        CaRequest::new(NAME).expect("a request"),
        Root::new("root"),
        SystemTime::now(),
    );
    let issued = root.sign(&request.pem, now);
    // A key in the answer is another's, and is not used.
    let foreign = KeyPair::generate().expect("a key").serialize_pem();
    for answer in [
        issued.clone(),
        format!("{issued}{}", root.pem),
        format!("{foreign}{issued}"),
    ] {
        let ca = request
            .check(answer.as_bytes(), ASKED, &names(), now)
            .expect("good");
        assert!(ca.not_after > now + 71 * HOUR && ca.not_after < now + 73 * HOUR);
        let files = CaFiles::in_one("f".into());
        let kept = NodeCa::parse(&files, &CaSource::in_one(ca.pem.into_bytes()), now).expect("usable");
        assert_eq!(kept.chain.len(), 1, "the root is not sent");
    }
    assert!(!format!("{request:?}").contains("PRIVATE"));
}

#[test]
fn what_was_not_asked_for_is_refused() {
    let now = SystemTime::now();
    assert_eq!(refusal(|_| {}), None);
    type Change = Box<dyn FnOnce(&mut CertificateSigningRequestParams)>;
    let cases: [(&str, Change); 8] = [
        (
            "is of `CN=picket node CA node-2`, and `CN=picket node CA node-1` was asked for",
            Box::new(|of| {
                of.params
                    .distinguished_name
                    .push(DnType::CommonName, "picket node CA node-2")
            }),
        ),
        (
            "was asked for",
            Box::new(|of| {
                of.params
                    .distinguished_name
                    .push(DnType::OrganizationName, "system:masters")
            }),
        ),
        (
            "is not a CA that may sign",
            Box::new(|of| of.params.is_ca = IsCa::ExplicitNoCa),
        ),
        (
            "is not a CA that may sign",
            Box::new(|of| of.params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ),
        (
            "this is not the key of the certificate",
            Box::new(|of| {
                let other = CaRequest::new("other").expect("a request");
                let other = CertificateSigningRequestParams::from_pem(&other.pem).expect("read");
                of.public_key = other.public_key;
            }),
        ),
        (
            "valid from",
            Box::new(move |of| of.params.not_before = (now + HOUR).into()),
        ),
        (
            "more than twice as long as was asked for",
            Box::new(move |of| of.params.not_after = (now + 150 * HOUR).into()),
        ),
        (
            "a leaf of the issued certificate is not valid",
            Box::new(|of| {
                of.params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("cluster.local".to_owned())],
                    excluded_subtrees: Vec::new(),
                });
            }),
        ),
    ];
    for (said, change) in cases {
        let refused = refusal(change).unwrap_or_else(|| panic!("it is used: {said}"));
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[test]
fn a_chain_that_does_not_hold_together_is_refused() {
    let (request, root, now) = (
        CaRequest::new(NAME).expect("a request"),
        Root::new("root"),
        SystemTime::now(),
    );
    let issued = root.sign(&request.pem, now);
    let check = |answer: &str| request.check(answer.as_bytes(), ASKED, &names(), now);
    let error = check(&format!("{issued}{}", stranger("another root"))).expect_err("another root");
    assert!(matches!(error, IssuedCaError::Chain(_)), "{error}");
    let error = check(&format!("{}{issued}", root.pem)).expect_err("the root first");
    assert!(matches!(error, IssuedCaError::Name { .. }), "{error}");
    let error = check("no certificate").expect_err("nothing").to_string();
    assert_eq!(error, "the issued certificate:1: no certificate in it");
}
