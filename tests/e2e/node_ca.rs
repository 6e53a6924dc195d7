//! A node CA that is signed in the cluster: an agent without one serves nobody, and with one over a restart and an upgrade.
//!
//! The test decides on the request in place of Picket's controller.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use picket_tests::output::Done;
use picket_tests::tests;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! { a_node_ca_comes_from_the_cluster_and_outlives_the_agent };

/// Where the pod keeps the root.
const ROOT: &str = "/tmp/node-ca-root.crt";

/// A root that the test signs by.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    fn new() -> Result<Self> {
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
        params
            .distinguished_name
            .push(DnType::CommonName, "a root of the test");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Approves a request and fills in a certificate of three days.
    fn decide(&self, world: &World, request: &Value) -> Result<()> {
        let name = request["metadata"]["name"].as_str().context("a name")?;
        let pem = BASE64_STANDARD.decode(request["spec"]["request"].as_str().context("a request")?)?;
        let mut asked = CertificateSigningRequestParams::from_pem(&String::from_utf8(pem)?)?;
        let now = SystemTime::now();
        asked.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        asked.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        asked.params.not_before = (now - Duration::from_secs(60)).into();
        asked.params.not_after = (now + Duration::from_secs(72 * 3600)).into();
        let signed = BASE64_STANDARD.encode(asked.signed_by(&self.issuer)?.pem());
        let kubectl = world.cluster.kubectl_client();
        kubectl.run(&["certificate", "approve", name], None)?;
        let status = json!({"status": {"certificate": signed}}).to_string();
        let arguments = [
            "patch",
            "csr",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        kubectl.run(&arguments, None).map(drop)
    }
}

/// The requests for node CAs.
fn requests(world: &World) -> Result<Vec<Value>> {
    let field = "--field-selector=spec.signerName=picket.dev/node-ca";
    let listed = world
        .cluster
        .kubectl_client()
        .run(&["get", "csr", field, "-o", "json"], None)?;
    let listed: Value = serde_json::from_str(&listed)?;
    Ok(listed["items"].as_array().cloned().unwrap_or_default())
}

/// Whether a pod that trusts the root alone gets an answer.
fn asks(world: &World) -> Result<Done> {
    world.worker(&format!(
        "curl -sS --max-time 5 --cacert {ROOT} -o /dev/null -w 'code %{{http_code}}' https://10.96.0.1/version"
    ))
}

fn serves(world: &World) -> Result<()> {
    let said = asks(world)?.good()?;
    ensure!(said.starts_with("code ") && said != "code 000", "{said}");
    Ok(())
}

fn a_node_ca_comes_from_the_cluster_and_outlives_the_agent(world: &mut World) -> Result<()> {
    let before = fs::read_to_string(world.agent.config_file())?;
    let mut config: Value = serde_json::from_str(&before)?;
    let tls = config["tls"].as_object_mut().context("tls")?;
    tls.retain(|key, _| !key.starts_with("ca"));
    tls.insert("nodeCA".to_owned(), json!("cluster"));
    world.agent.stop()?;
    fs::write(world.agent.config_file(), serde_json::to_string_pretty(&config)?)?;
    let tried = by_cluster(world);
    let restored = restore(world, &before);
    tried.and(restored)
}

fn restore(world: &mut World, config: &str) -> Result<()> {
    world.agent.stop()?;
    fs::write(world.agent.config_file(), config)?;
    world.agent.restart().map(drop)
}

fn by_cluster(world: &mut World) -> Result<()> {
    world.agent.begin()?;
    let root = Root::new()?;
    let pem = &root.pem;
    world.worker(&format!("cat > {ROOT} <<'END'\n{pem}END"))?.good()?;
    let request = until(|| Ok(requests(world)?.into_iter().next()))?;
    let name = request["metadata"]["name"].as_str().context("a name")?.to_owned();
    let waits = format!("CertificateSigningRequest {name} waits for Picket's controller");
    until(|| {
        Ok(world
            .agent
            .admin("/readyz")
            .ok()
            .filter(|(code, body)| *code == 503 && body.contains(&waits)))
    })?;
    ensure!(asks(world)?.code != 0, "a pod gets a session without a node CA");
    let wanted = json!({"signerName": "picket.dev/node-ca", "expirationSeconds": 259_200, "usages": ["cert sign", "digital signature"]});
    for (field, value) in wanted.as_object().into_iter().flatten() {
        ensure!(request["spec"][field] == *value, "{field}: {request:#}");
    }
    root.decide(world, &request)?;
    until(|| Ok((world.agent.admin("/readyz")?.0 == 200).then_some(())))?;
    serves(world)?;
    let renewals = world
        .agent
        .metric("picket_node_ca_renewals_total", &["result=\"success\""])?;
    ensure!(renewals == 1.0, "{renewals} renewals");

    // No controller from here on: what is kept is enough for a restart, and for a successor.
    world.agent.stop()?;
    world.agent.restart()?;
    serves(world)?;
    let mut first = world.agent.succeed()?;
    world.agent.wait()?;
    let ended = first.wait()?;
    ensure!(ended.success(), "{ended}");
    serves(world)?;
    let count = requests(world)?.len();
    ensure!(count == 1, "{count} requests");
    let kept = world.agent.state_directory().join("node-ca.pem");
    ensure!(kept.exists(), "no {}", kept.display());
    Ok(())
}
