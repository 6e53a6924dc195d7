//! Tests of the CA: chains as clients verify them, and CAs that are unfit.

use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls_pki_types::{ServerName, UnixTime};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const NODE: &str = "node-1";

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A node's CA as the node has it: the certificates that are sent after a leaf, and the issuer.
struct NodeCa {
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

fn node_ca(authority: &Authority, permitted: &PermittedNames, now: SystemTime) -> NodeCa {
    let key = KeyPair::generate().unwrap();
    let pem = authority
        .sign_node_ca(NODE, &key, NODE_CA_LIFETIME, permitted, now)
        .unwrap();
    NodeCa {
        chain: certificates(&pem, "test").unwrap(),
        issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
    }
}

/// A leaf certificate as an agent mints it.
fn leaf(ca: &NodeCa, names: &[&str], now: SystemTime) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + 24 * HOUR).into());
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let san = |name: &&str| match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(san).collect();
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

/// What a rustls client says that trusts this bundle and dials this name.
fn verify(
    anchors: &str,
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    name: &str,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for der in certificates(anchors, "test").unwrap() {
        roots.add(der).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    verifier
        .verify_server_cert(leaf, chain, &name, &[], now)
        .map(drop)
}

#[test]
fn a_client_that_trusts_the_root_accepts_a_leaf_of_a_node() {
    let now = start();
    let authority = Authority::read(&make_root(now).unwrap()).unwrap();
    let ca = node_ca(&authority, &PermittedNames::default(), now);
    assert_eq!(ca.chain.len(), 1, "the root is not sent");
    let leaf = leaf(
        &ca,
        &["kubernetes.default.svc", "10.96.0.1", "api.example.com"],
        now,
    );
    let verify = |chain: &[_], name, now| verify(&authority.anchors, &leaf, chain, name, now);
    for name in ["kubernetes.default.svc", "10.96.0.1", "api.example.com"] {
        verify(&ca.chain, name, now).unwrap();
    }
    // A clock that is an hour behind, or behind by more.
    verify(&ca.chain, "10.96.0.1", now - HOUR).unwrap();
    verify(&ca.chain, "10.96.0.1", now - 2 * HOUR).unwrap_err();
    verify(&ca.chain, "10.96.0.2", now).unwrap_err();
    verify(&[], "10.96.0.1", now).unwrap_err();
    let other = Authority::read(&make_root(now).unwrap()).unwrap();
    self::verify(&other.anchors, &leaf, &ca.chain, "10.96.0.1", now).unwrap_err();
}

#[test]
fn a_node_signs_no_further_ca() {
    let now = start();
    let authority = Authority::read(&make_root(now).unwrap()).unwrap();
    let ca = node_ca(&authority, &PermittedNames::default(), now);
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + HOUR).into());
    params.distinguished_name.push(DnType::CommonName, "below");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let der = params.signed_by(&key, &ca.issuer).unwrap().der().clone();
    let below = NodeCa {
        issuer: Issuer::from_ca_cert_der(&der, key).unwrap(),
        chain: vec![der, ca.chain[0].clone()],
    };
    let leaf = leaf(&below, &["kubernetes"], now);
    verify(&authority.anchors, &leaf, &below.chain, "kubernetes", now).unwrap_err();
}

#[test]
fn certificates_carry_what_strict_verifiers_ask_for() {
    let now = start();
    let root = make_root(now).unwrap();
    let authority = Authority::read(&root).unwrap();
    let node = node_ca(&authority, &PermittedNames::default(), now)
        .chain
        .remove(0);
    let root = certificates(&root.certificates, "test").unwrap().remove(0);
    let mut serials = Vec::new();
    for (der, path_length, lifetime) in [(&root, 1, ROOT_LIFETIME), (&node, 0, NODE_CA_LIFETIME)] {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign());
        let identifiers: Vec<String> = certificate
            .extensions()
            .iter()
            .map(|extension| extension.oid.to_id_string())
            .filter(|oid| ["2.5.29.14", "2.5.29.35"].contains(&oid.as_str()))
            .collect();
        assert_eq!(identifiers.len(), 2, "subject and authority key identifiers");
        let serial = certificate.raw_serial().to_vec();
        assert!((14..=17).contains(&serial.len()), "128 random bits: {serial:?}");
        assert!(!serials.contains(&serial));
        serials.push(serial);
        assert_eq!(validity(&certificate), (now - BACKDATE, now + lifetime));
    }
    let (_, node) = x509_parser::parse_x509_certificate(&node).unwrap();
    assert_eq!(node.subject().to_string(), "CN=picket node CA node-1");
    assert!(node.subject_alternative_name().unwrap().is_none());
}

#[test]
fn a_node_ca_lives_no_longer_than_asked_for_nor_than_its_signer() {
    let now = start();
    let authority = Authority::read(&make_root(now).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let end = |lifetime, now| {
        let pem = authority
            .sign_node_ca(NODE, &key, lifetime, &PermittedNames::default(), now)
            .unwrap();
        let der = certificates(&pem, "test").unwrap().remove(0);
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        validity(&certificate).1
    };
    assert_eq!(end(HOUR, now), now + HOUR);
    assert_eq!(end(1000 * HOUR, now), now + NODE_CA_LIFETIME);
    let late = authority.not_after - HOUR;
    assert_eq!(end(NODE_CA_LIFETIME, late), authority.not_after);
    for never in [authority.not_after, now - 3 * HOUR] {
        let refused = authority.sign_node_ca(NODE, &key, HOUR, &PermittedNames::default(), never);
        assert!(matches!(refused, Err(AuthorityError::NotValidNow(..))));
    }
}

#[test]
fn permitted_names_bound_what_a_node_can_be_taken_for() {
    let now = start();
    let authority = Authority::read(&make_root(now).unwrap()).unwrap();
    let refuses = |permitted: &[&str], names: &[&str]| {
        let permitted: Vec<String> = permitted.iter().map(|name| (*name).to_owned()).collect();
        let ca = node_ca(&authority, &PermittedNames::new(&permitted).unwrap(), now);
        let leaf = leaf(&ca, names, now);
        verify(&authority.anchors, &leaf, &ca.chain, names[0], now).is_err()
    };
    let service = ["kubernetes.default.svc.cluster.local", "kubernetes"];
    assert!(!refuses(&["example.com"], &service));
    assert!(!refuses(&["example.com"], &["api.example.com"]));
    assert!(refuses(&["example.com"], &["api.example.org"]));
    assert!(
        refuses(&["example.com"], &["kubernetes", "api.example.org"]),
        "one name outside spoils all"
    );
    assert!(
        !refuses(&["example.com"], &["192.0.2.1"]),
        "without a range, addresses are free"
    );
    assert!(!refuses(&["10.0.0.0/8"], &["10.96.0.1", "kubernetes"]));
    assert!(refuses(&["10.0.0.0/8"], &["192.0.2.1"]));
    for wrong in ["10.0.0.0/33", "a b", "", "10.0.0.0/"] {
        assert!(PermittedNames::new(&[wrong.to_owned()]).is_err(), "{wrong}");
    }
}

/// A CA below this one, as cert-manager keeps one.
fn below(root: &CaPem, now: SystemTime, path_length: Option<u8>) -> CaPem {
    let key = KeyPair::from_pem(&root.key.0).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&root.certificates, key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "below");
    (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + 24 * HOUR).into());
    params.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    CaPem {
        certificates: params.signed_by(&key, &issuer).unwrap().pem(),
        key: KeyPem(key.serialize_pem()),
        roots: Some(root.certificates.clone()),
    }
}

#[test]
fn a_ca_below_a_root_of_others_is_sent_along() {
    let now = start();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "corporate root");
    (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + 48 * HOUR).into());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = CaPem {
        certificates: params.self_signed(&key).unwrap().pem(),
        key: KeyPem(key.serialize_pem()),
        roots: None,
    };
    let given = below(&root, now, None);
    let authority = Authority::read(&given).unwrap();
    assert_eq!(authority.anchors, root.certificates);
    let ca = node_ca(&authority, &PermittedNames::default(), now);
    assert_eq!(ca.chain.len(), 2);
    let leaf = leaf(&ca, &["kubernetes"], now);
    verify(&authority.anchors, &leaf, &ca.chain, "kubernetes", now).unwrap();

    let alone = CaPem {
        roots: None,
        ..given.clone()
    };
    assert!(matches!(Authority::read(&alone), Err(AuthorityError::NoRoot(_))));
    let no_root = CaPem {
        roots: Some(given.certificates.clone()),
        ..given
    };
    assert!(matches!(
        Authority::read(&no_root),
        Err(AuthorityError::NoRoot(_))
    ));
}

#[test]
fn what_may_not_sign_cas_is_refused() {
    let now = start();
    let (one, other) = (make_root(now).unwrap(), make_root(now).unwrap());
    let error = |ca: &CaPem| Authority::read(ca).unwrap_err().to_string();
    let crossed = CaPem {
        key: other.key.clone(),
        ..one.clone()
    };
    assert_eq!(error(&crossed), "the key is not the key of the first certificate");
    let keyless = CaPem {
        key: KeyPem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned()),
        ..one.clone()
    };
    assert!(error(&keyless).starts_with("the key cannot be used"));
    let empty = CaPem {
        certificates: String::new(),
        ..one.clone()
    };
    assert!(error(&empty).contains("holds no PEM certificate"));
    assert!(error(&below(&one, now, Some(0))).contains("path length is 0"));

    let leaf = rcgen::generate_simple_self_signed(vec!["kubernetes".to_owned()]).unwrap();
    let leaf = CaPem {
        certificates: leaf.cert.pem(),
        key: KeyPem(leaf.signing_key.serialize_pem()),
        roots: None,
    };
    assert!(error(&leaf).contains("no CA:TRUE"));

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let no_sign = CaPem {
        certificates: params.self_signed(&key).unwrap().pem(),
        key: KeyPem(key.serialize_pem()),
        roots: None,
    };
    assert!(error(&no_sign).contains("no keyCertSign"));
}

#[test]
fn no_debug_text_shows_a_key() {
    let root = make_root(start()).unwrap();
    let authority = Authority::read(&root).unwrap();
    let shown = format!("{root:?} {authority:?}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn a_certificate_of_the_controllers_own_is_for_one_name_and_within_the_roots_time() {
    const NAME: &str = "picket-webhook.picket-system.svc";
    let now = start();
    let authority = Authority::read(&make_root(now).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = |lifetime, at| authority.sign_server(NAME, &key, lifetime, at);
    let pem = signed(HOUR, now).unwrap();
    let leaf = certificates(&pem, "test").unwrap().remove(0);
    let verified = |name, at| verify(&authority.anchors, &leaf, &[], name, at);
    verified(NAME, now).unwrap();
    assert!(verified("kubernetes.default.svc", now).is_err());
    assert!(verified(NAME, now + 2 * HOUR).is_err(), "its time is over");
    let (_, read) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    assert!(!read.is_ca());
    let long = certificates(&signed(ROOT_LIFETIME * 2, now).unwrap(), "test").unwrap();
    let (_, read) = x509_parser::parse_x509_certificate(&long[0]).unwrap();
    assert_eq!(validity(&read).1, authority.not_after);
    assert!(matches!(
        signed(HOUR, authority.not_after),
        Err(AuthorityError::NotValidNow(..))
    ));
}
