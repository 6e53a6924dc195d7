//! Which client certificates count, and for whom.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::identity::resolve;
use crate::identity::resolve::testing;
use crate::pki::TrustBundle;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A CA, of a trust domain or between its root and leaves.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Ca {
    fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn between(&self, name: &str) -> Self {
        self.between_with(name, |_| ())
    }

    /// A CA between; `change` makes it another one than it should be.
    fn between_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A leaf with these URI names; `change` makes it another one than it should be.
    fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        let now = SystemTime::now();
        params.not_before = (now - DAY).into();
        params.not_after = (now + DAY).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }
}

/// Trust domains `one` and `two`, each with a CA and its file.
struct World {
    _folder: tempfile::TempDir,
    file: PathBuf,
    one: Ca,
    two: Ca,
    bundles: Arc<TrustBundles>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Ca::root("one"), Ca::root("two"));
        let bundle = |name: &str, ca: &Ca| {
            let file = folder.path().join(name);
            std::fs::write(&file, &ca.pem).unwrap();
            TrustBundle {
                trust_domain: name.to_owned(),
                file,
            }
        };
        let bundles = TrustBundles::open(vec![bundle("one", &one), bundle("two", &two)]);
        Self {
            file: folder.path().join("one"),
            _folder: folder,
            one,
            two,
            bundles,
        }
    }

    fn shown(&self, chain: &[CertificateDer<'static>]) -> ClientCertificate {
        ClientCertificate::of(chain, &self.bundles).expect("a certificate")
    }

    fn judged(&self, chain: &[CertificateDer<'static>]) -> Result<String, &'static str> {
        let found = self.shown(chain).check(Timestamp::now());
        found
            .map(|svid| svid.id.to_string())
            .map_err(|error| error.code())
    }
}

const ID: &str = "spiffe://one/ci/deploy";

#[test]
fn a_certificate_counts_if_it_is_one_workloads_of_its_own_trust_domain() {
    let world = World::new();
    let leaf = |change: fn(&mut CertificateParams)| world.judged(&[world.one.leaf(&[ID], change)]);
    let past = |params: &mut CertificateParams| params.not_after = (SystemTime::now() - DAY / 2).into();
    let future = |params: &mut CertificateParams| params.not_before = (SystemTime::now() + DAY / 2).into();
    assert_eq!(leaf(|_| ()).as_deref(), Ok(ID));
    assert_eq!(leaf(past), Err("certificate_expired"));
    assert_eq!(leaf(future), Err("certificate_not_yet_valid"));
    assert_eq!(
        leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        Err("certificate_ca")
    );
    for usages in [
        vec![],
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ] {
        let changed = world.one.leaf(&[ID], |params| params.key_usages = usages);
        assert_eq!(world.judged(&[changed]), Err("certificate_key_usage"));
    }
    assert_eq!(
        leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        Err("certificate_untrusted")
    );
    for uris in [
        &[][..],
        &[ID, ID],
        &[ID, "https://example.org"],
        &["https://one/ci"],
        &["spiffe://one"],
    ] {
        let leaf = world.one.leaf(uris, |_| ());
        assert_eq!(world.judged(&[leaf]), Err("certificate_spiffe_id"), "{uris:?}");
    }
    // A name of another kind may stand beside.
    let beside = |params: &mut CertificateParams| {
        let name = SanType::DnsName("ci.example.org".try_into().unwrap());
        params.subject_alt_names.push(name);
    };
    assert_eq!(leaf(beside).as_deref(), Ok(ID));
}

#[test]
fn a_ca_speaks_for_its_own_trust_domain_only() {
    let world = World::new();
    let of_two = |uri: &str| world.judged(&[world.two.leaf(&[uri], |_| ())]);
    assert_eq!(of_two("spiffe://two/x").as_deref(), Ok("spiffe://two/x"));
    assert_eq!(of_two(ID), Err("certificate_untrusted"));
    assert_eq!(of_two("spiffe://three/x"), Err("certificate_untrusted"));
    // Nor does sending the other domain's CA along help.
    let leaf = world.two.leaf(&[ID], |_| ());
    let chain = [leaf, world.two.der.clone(), world.one.der.clone()];
    assert_eq!(world.judged(&chain), Err("certificate_untrusted"));
}

#[test]
fn a_chain_may_have_cas_between_and_no_crowd_of_them() {
    let world = World::new();
    let between = world.one.between("between");
    let leaf = between.leaf(&[ID], |_| ());
    assert_eq!(
        world.judged(std::slice::from_ref(&leaf)),
        Err("certificate_untrusted")
    );
    let mut chain = vec![leaf, between.der.clone()];
    assert_eq!(world.judged(&chain).as_deref(), Ok(ID));
    chain.extend(std::iter::repeat_n(between.der.clone(), 7));
    assert_eq!(world.judged(&chain), Err("certificate_untrusted"));
}

#[test]
fn what_is_no_certificate_is_refused_and_costs_little() {
    let world = World::new();
    let good = world.one.leaf(&[ID], |_| ());
    let mut longer = good.to_vec();
    longer.push(0);
    let cut = good[..good.len() / 2].to_vec();
    for bytes in [Vec::new(), vec![0x30; 64 * 1024], cut, longer] {
        let began = std::time::Instant::now();
        assert_eq!(world.judged(&[bytes.into()]), Err("certificate_malformed"));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert!(ClientCertificate::of(&[], &world.bundles).is_none());
}

#[test]
fn a_connection_outlives_neither_its_certificate_nor_the_trust_in_it() {
    let world = World::new();
    let shown = world.shown(&[world.one.leaf(&[ID], |_| ())]);
    let now = Timestamp::now();
    let first = shown.check(now).expect("it counts");
    assert!(
        Arc::ptr_eq(&first, &shown.check(now).expect("it counts")),
        "verified once"
    );
    assert!(shown.check(now + 23.hours()).is_ok());
    assert_eq!(
        shown.check(first.until).map_err(|error| error.code()),
        Err("certificate_expired")
    );
    assert!(!world.bundles.refresh());

    // A file that cannot be used changes nothing.
    std::fs::write(&world.file, "no certificate").unwrap();
    assert!(!world.bundles.refresh() && shown.check(now).is_ok());
    std::fs::write(&world.file, &world.two.pem).unwrap();
    assert!(world.bundles.refresh());
    assert_eq!(
        shown.check(now).map_err(|error| error.code()),
        Err("certificate_untrusted")
    );
    std::fs::write(&world.file, format!("{}{}", world.two.pem, world.one.pem)).unwrap();
    assert!(world.bundles.refresh() && shown.check(now).is_ok());
}

#[test]
fn a_connection_outlives_no_ca_of_its_chain() {
    let world = World::new();
    let now = Timestamp::now();
    let end = Timestamp::from_second(now.as_second() + 3600).unwrap();
    let between = world.one.between_with("between", |params| {
        params.not_after = SystemTime::from(end).into();
    });
    let shown = world.shown(&[between.leaf(&[ID], |_| ()), between.der.clone()]);
    assert!(shown.check(now).is_ok());
    // Sessions are judged again at the very moment that they were told.
    let last = shown.check(end + 1.millisecond()).expect("its last second");
    assert_eq!(last.until, end + 1.second());
    assert_eq!(
        shown.check(last.until).map_err(|error| error.code()),
        Err("certificate_untrusted")
    );
    // One that nobody needs ends nothing, however old it is.
    let early = Timestamp::from_second(now.as_second() - 3600).unwrap();
    let unneeded = world.one.between_with("unneeded", |params| {
        params.not_after = SystemTime::from(early).into();
    });
    let shown = world.shown(&[world.one.leaf(&[ID], |_| ()), unneeded.der]);
    assert!(shown.check(now).expect("by its root").until > now);
}

#[test]
fn a_domain_whose_bundle_was_never_good_trusts_nobody_until_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Ca::root("one"), Ca::root("two"));
    let bundle = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        TrustBundle {
            trust_domain: name.to_owned(),
            file,
        }
    };
    let bundles = TrustBundles::open(vec![bundle("one", "no certificate"), bundle("two", &two.pem)]);
    let check = |ca: &Ca, id: &str| {
        let shown = ClientCertificate::of(&[ca.leaf(&[id], |_| ())], &bundles).unwrap();
        shown.check(Timestamp::now()).map(drop)
    };
    let fault = bundles.fault().unwrap();
    assert!(fault.contains("one:1: no certificate in it"), "{fault}");
    let refused = check(&one, ID).unwrap_err();
    assert_eq!(refused.code(), "certificate_untrusted");
    assert!(
        refused.to_string().contains("a cluster operator can correct"),
        "{refused}"
    );
    assert_eq!(
        check(&two, "spiffe://two/x"),
        Ok(()),
        "the other domain's is good"
    );
    bundle("one", &one.pem);
    assert!(bundles.refresh());
    assert_eq!((check(&one, ID), bundles.fault()), (Ok(()), None));
    bundle("one", "no certificate");
    assert!(!bundles.refresh());
    assert_eq!(
        (check(&one, ID), bundles.fault()),
        (Ok(()), None),
        "the last good one"
    );
}

#[test]
fn a_workloads_own_certificate_in_a_bundle_makes_its_key_no_ca() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.pem");
    let one = Ca::root("one");
    let usage = |usages: &[KeyUsagePurpose], is_ca: IsCa| {
        let mut params = CertificateParams::default();
        params.key_usages = usages.to_vec();
        params.is_ca = is_ca;
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), params, key)
    };
    let (workload, params, key) = usage(&[KeyUsagePurpose::DigitalSignature], IsCa::ExplicitNoCa);
    let minted = Ca {
        pem: String::new(),
        der: vec![0_u8].into(),
        issuer: Issuer::new(params, key),
    };
    for (not_a_ca, why) in [
        (workload, "no CA:TRUE"),
        (usage(&[], IsCa::NoCa).0, "no constraints"),
        (
            usage(
                &[KeyUsagePurpose::CrlSign],
                IsCa::Ca(BasicConstraints::Unconstrained),
            )
            .0,
            "no keyCertSign",
        ),
    ] {
        std::fs::write(&file, format!("{}{not_a_ca}", one.pem)).unwrap();
        let bundles = TrustBundles::open(vec![TrustBundle {
            trust_domain: "one".to_owned(),
            file: file.clone(),
        }]);
        let line = one.pem.lines().count() + 1;
        let fault = bundles.fault().unwrap_or_default();
        assert!(
            fault.contains(&format!("bundle.pem:{line}: not a CA")),
            "{why}: {fault}"
        );
        let shown = ClientCertificate::of(&[minted.leaf(&[ID], |_| ())], &bundles).unwrap();
        let refused = shown.check(Timestamp::now()).map_err(|error| error.code());
        assert_eq!(refused.map(drop), Err("certificate_untrusted"), "{why}");
    }
}

#[test]
fn all_that_an_identity_asks_for_must_hold_and_nothing_else_be_shown() {
    let world = World::new();
    let both = "pod: {namespace: ns, serviceAccount: fixer, selector: {matchLabels: {app: fixer}}}";
    let with = |attest: &str| {
        let object = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec: {{owner: o, attest: {{{attest}}}}}\n"
        );
        PolicySet::compile(picket_policy::read_documents("f.yaml", &object).unwrap()).unwrap()
    };
    let certificate = |id: &str| world.shown(&[world.one.leaf(&[id], |_| ())]);
    let (deploy, other) = (certificate(ID), certificate("spiffe://one/other"));
    let (fixer, quarantined) = (
        testing::pod("fixer", "fixer"),
        testing::pod("fixer", "quarantined"),
    );
    let spiffe = "spiffe: {id: 'spiffe://one/ci/deploy'}";
    let both_named = format!("{both}, {spiffe}");
    let evidence = |pod, certificate| Evidence {
        pod,
        process: None,
        peer: Ipv4Addr::LOCALHOST.into(),
        certificate,
        ..testing::evidence(&fixer)
    };
    for (attest, pod, shown, found) in [
        (spiffe, None, Some(&deploy), Ok("x509")),
        (spiffe, None, Some(&other), Err("identity_none")),
        (spiffe, None, None, Err("no_credential")),
        (spiffe, Some(&fixer), Some(&deploy), Ok("x509")),
        (&both_named, Some(&fixer), Some(&deploy), Ok("pod+x509")),
        (&both_named, Some(&fixer), None, Err("identity_incomplete")),
        (
            &both_named,
            Some(&fixer),
            Some(&other),
            Err("identity_incomplete"),
        ),
        (
            &both_named,
            Some(&quarantined),
            Some(&deploy),
            Err("identity_incomplete"),
        ),
        (&both_named, None, Some(&deploy), Err("identity_incomplete")),
        (both, Some(&fixer), None, Ok("pod")),
        (both, Some(&fixer), Some(&deploy), Err("foreign_credential")),
        (both, None, Some(&deploy), Err("identity_none")),
    ] {
        let now = Timestamp::now();
        let resolved = resolve(&with(attest), &evidence(pod, shown), now);
        let resolved = resolved.as_ref().map(picket_policy::Principal::attestation);
        assert_eq!(
            resolved.map_err(super::super::super::IdentityError::code),
            found,
            "{attest} {shown:?}"
        );
    }
}

#[test]
fn two_identities_of_one_caller_are_none() {
    let world = World::new();
    let objects = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec: {owner: o, attest: {pod: \
                   {namespace: ns, serviceAccount: fixer}}}\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\n\
                   metadata: {name: b}\nspec: {owner: o, attest: {spiffe: {id: 'spiffe://one/ci/deploy'}}}\n";
    let documents = picket_policy::read_documents("f.yaml", objects).unwrap();
    let policies = PolicySet::compile(documents).unwrap();
    let shown = world.shown(&[world.one.leaf(&[ID], |_| ())]);
    let fixer = testing::pod("fixer", "fixer");
    let evidence = Evidence {
        certificate: Some(&shown),
        ..testing::evidence(&fixer)
    };
    let error = resolve(&policies, &evidence, Timestamp::now()).unwrap_err();
    assert_eq!(error.code(), "identity_ambiguous");
}
