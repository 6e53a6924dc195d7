//! Persons' tokens of agents that the kernel's word alone does not prove: clients of the gateway with a certificate, and agents that are
//! known by a token, to which the issuer gave the person's.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};

use super::on_behalf_of::{Bed, POD};
use super::sessions::{end, ends, rejudging, watch};
use super::world::{Answer, ask_over, policies, target};
use crate::pki::{TrustBundle, TrustBundles};

const ID: &str = "spiffe://one/ci/deploy";

/// A trust domain with one client's certificate and key.
struct Clients {
    _folder: tempfile::TempDir,
    bundles: Arc<TrustBundles>,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Clients {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "one");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let file = folder.path().join("one");
        std::fs::write(&file, params.self_signed(&key).expect("a CA").pem()).expect("written");
        let ca = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![SanType::URI(ID.try_into().expect("a name"))];
        let certificate = params.signed_by(&key, &ca).expect("a leaf").der().clone();
        let bundles = TrustBundles::open(vec![TrustBundle {
            trust_domain: "one".to_owned(),
            file,
        }]);
        Self {
            _folder: folder,
            bundles,
            certificate,
            key: key.serialize_der(),
        }
    }

    /// The answer to a request of this client at the gateway.
    async fn ask(&self, bed: &Bed, token: &str) -> Answer {
        let (client, mut accepted) = bed.world.accepted().await;
        accepted.workload = None;
        accepted.process = None;
        bed.world.serve(accepted);
        let key = PrivateKeyDer::try_from(self.key.clone()).expect("a key");
        let mut config = bed
            .world
            .trusting()
            .with_client_auth_cert(vec![self.certificate.clone()], key)
            .expect("a client");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("127.0.0.1").expect("a name"), client)
            .await
            .expect("a TLS session");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::get(target(POD));
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        ask_over(&mut sender, request, "").await
    }
}

/// The agent is known so, and has a grant on behalf of `ann` where `acts`.
fn attested(bed: &Bed, attest: &str, acts: bool) {
    let mut to = format!("{attest}}}");
    if acts {
        to += &format!(
            "\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: people}}\nspec:\n  to: {{identities: \
             [fixer]}}\n  upstream: {{onBehalfOf: {{issuers: ['{}'], users: [ann]}}}}\n  rules: [{{verbs: [get, list, watch], \
             apiGroups: [''], resources: [pods]}}]",
            bed.issuer.url()
        );
    }
    // A second agent, which a token names.
    to += &format!(
        "\n---\napiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: other}}\nspec: {{owner: o, attest: {{jwt: \
         {{issuer: '{}', subject: other-bot}}}}}}",
        bed.issuer.url()
    );
    let set = policies("attest: {pod: {namespace: ns, serviceAccount: fixer}}}", &to);
    bed.world.store.replace_for_tests(set);
}

#[tokio::test]
async fn a_client_of_the_gateway_with_a_certificate_asks_for_a_person() {
    let clients = Clients::new();
    let bed = Bed::with_clients(Arc::clone(&clients.bundles)).await;
    let token = |subject: &str| bed.key.token("k", &bed.claims(subject));
    let service_account = bed.key.token("k", &{
        let mut claims = bed.claims("system:serviceaccount:x:y");
        claims["kubernetes.io"] = json!({"namespace": "x", "serviceaccount": {"name": "y", "uid": "s"}});
        claims
    });
    let cases = [
        (true, token("ann"), 200, "", "ann"),
        // Its own request, by the certificate alone.
        (true, String::new(), 200, "", "agent:fixer"),
        (true, token("eve"), 403, "not_on_behalf_of", ""),
        (true, token("other-bot"), 403, "identity_ambiguous", ""),
        (true, service_account, 403, "client_credential", ""),
        (true, "nonsense".to_owned(), 401, "jwt_malformed", ""),
        // Nobody looks for whom it would ask.
        (false, token("ann"), 401, "foreign_credential", ""),
    ];
    for (acts, token, status, reason, _) in &cases {
        attested(&bed, &format!("attest: {{spiffe: {{id: '{ID}'}}}}"), *acts);
        let answer = clients.ask(&bed, token).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), *status, "{reason}: {said}");
    }
    let records = bed.world.ended(cases.len()).await;
    for (record, (.., reason, user)) in records.iter().zip(&cases) {
        let got = record["decision"]["reason"].as_str().unwrap_or_default();
        assert_eq!(got, *reason, "{record:#}");
        if !user.is_empty() {
            assert_eq!(record["impersonatedUser"]["username"], *user, "{record:#}");
            assert_eq!(record["agent"]["attestation"], "x509", "{record:#}");
            assert_eq!(record["user"]["username"], ID, "{record:#}");
        }
    }
    assert_eq!(records[0]["agent"]["onBehalfOf"]["username"], "ann");
    let seen = bed.world.seen();
    let users: Vec<_> = seen
        .iter()
        .map(|seen| seen.headers["impersonate-user"].clone())
        .collect();
    assert_eq!(users, ["ann", "agent:fixer"]);
}

/// An agent that is known by its pod and a token.
fn by_token(bed: &Bed, more: &str) -> String {
    format!(
        "attest: {{pod: {{namespace: ns, serviceAccount: fixer}}, jwt: {{issuer: '{}', subject: bot{more}}}}}",
        bed.issuer.url()
    )
}

#[tokio::test]
async fn a_token_that_was_given_to_an_agent_for_a_person_proves_both() {
    let bed = Bed::with_clients(Arc::default()).await;
    let token = |subject: &str, act: Value| {
        let mut claims = bed.claims(subject);
        claims["act"] = act;
        bed.key.token("k", &claims)
    };
    let url = bed.issuer.url();
    let bot = || json!({"sub": "bot"});
    let cases = [
        ("", token("ann", bot()), 200, "", "ann"),
        (
            "",
            token("ann", json!({"sub": "bot", "iss": url})),
            200,
            "",
            "ann",
        ),
        // Its own token, whoever used it before.
        ("", token("bot", Value::Null), 200, "", "agent:fixer"),
        ("", token("bot", bot()), 200, "", "agent:fixer"),
        ("", token("eve", bot()), 403, "not_on_behalf_of", ""),
        ("", token("ann", Value::Null), 401, "identity_incomplete", ""),
        (
            "",
            token("ann", json!({"sub": "portal", "act": {"sub": "bot"}})),
            401,
            "identity_incomplete",
            "",
        ),
        (
            "",
            token("ann", json!({"sub": "bot", "iss": "https://other.example"})),
            401,
            "identity_incomplete",
            "",
        ),
        ("", token("ann", json!("bot")), 401, "identity_incomplete", ""),
        (
            "",
            token("system:serviceaccount:x:y", bot()),
            401,
            "identity_incomplete",
            "",
        ),
        (
            ", audience: elsewhere",
            token("ann", bot()),
            401,
            "identity_incomplete",
            "",
        ),
        (
            ", claims: {groups: sre}",
            token("ann", bot()),
            401,
            "identity_incomplete",
            "",
        ),
    ];
    for (more, token, status, reason, _) in &cases {
        attested(&bed, &by_token(&bed, more), true);
        let answer = bed.ask(POD, token).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), *status, "{reason}: {said}");
    }
    let records = bed.world.ended(cases.len()).await;
    for (record, (.., reason, user)) in records.iter().zip(&cases) {
        let got = record["decision"]["reason"].as_str().unwrap_or_default();
        assert_eq!(got, *reason, "{record:#}");
        if !user.is_empty() {
            assert_eq!(record["impersonatedUser"]["username"], *user, "{record:#}");
            assert_eq!(record["agent"]["attestation"], "pod+jwt", "{record:#}");
        }
    }
    assert_eq!(
        records[0]["agent"]["onBehalfOf"],
        json!({"issuer": url, "subject": "ann", "username": "ann", "actors": [{"subject": "bot"}]})
    );
    assert!(records[3]["agent"]["onBehalfOf"].is_null(), "{:#}", records[3]);
    // Without a grant on behalf of people the token is nobody's.
    attested(&bed, &by_token(&bed, ""), false);
    let answer = bed.ask(POD, &token("ann", bot())).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn such_a_watch_ends_with_the_grant_and_never_goes_on_as_the_agent() {
    let bed = Bed::with_clients(Arc::default()).await;
    attested(&bed, &by_token(&bed, ""), true);
    let pods = rejudging(&bed.world);
    pods.raise(bed.world.store.epoch());
    let mut claims = bed.claims("ann");
    claims["act"] = json!({"sub": "bot"});
    let ann = watch(&bed.world, &bed.key.token("k", &claims)).await;
    attested(&bed, &by_token(&bed, ""), false);
    end(ann, Instant::now(), "grant").await;
    let [.., cause] = ends(&bed.world).await.remove(0);
    assert_eq!(cause, "identity_incomplete");
}

/// By other objects the same token is one that was given to the agent for somebody else.
#[tokio::test]
async fn a_watch_of_the_agents_own_ends_where_its_token_becomes_a_persons() {
    let bed = Bed::with_clients(Arc::default()).await;
    attested(
        &bed,
        &by_token(&bed, "").replace("subject: bot", "subject: ann"),
        true,
    );
    let pods = rejudging(&bed.world);
    pods.raise(bed.world.store.epoch());
    let mut claims = bed.claims("ann");
    claims["act"] = json!({"sub": "bot"});
    let own = watch(&bed.world, &bed.key.token("k", &claims)).await;
    assert_eq!(bed.world.seen()[0].headers["impersonate-user"], "agent:fixer");
    attested(&bed, &by_token(&bed, ""), true);
    end(own, Instant::now(), "identity").await;
}
