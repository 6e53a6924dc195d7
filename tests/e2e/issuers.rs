//! Real issuers of tokens: the API server's own, and a certified OpenID provider whose keys rotate and which is down for a while.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use picket_tests::cluster::TestNode;
use picket_tests::issuer::Provider;
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    tokens_of_the_api_server_prove_a_pod_and_a_caller_of_the_gateway,
    a_certified_provider_rotates_its_keys_and_no_request_fails,
    an_issuer_that_is_down_leaves_the_keys_at_hand_and_comes_back_by_itself,
};

const GATEWAY: u16 = 6445;
const PROVIDER: u16 = 9444;
/// Where no issuer listens.
const NOBODY: u16 = 9445;

/// The URL of the test cluster's API server as an issuer.
const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";
/// The audience of callers of the gateway. The provider wants a URI.
pub(crate) const AUDIENCE: &str = "https://picket.test";

/// What everybody here asks for, and may.
const POD: &str = "/api/v1/namespaces/lab/pods/target";

/// How long an issuer that is there again may take to be asked again: the longest pause after failures, and the fetch.
const BACK: Duration = Duration::from_secs(60);

/// Asks once and prints the status, `Retry-After` and the body: a client that tries again by itself would hide a failure.
const ASK: &str = r#"
import http.client, json, ssl, sys
host, port, ca, token, path = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
client = http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
client.request("GET", path, headers={"Authorization": "Bearer " + token})
answer = client.getresponse()
print(json.dumps({"status": answer.status, "retry": answer.headers.get("Retry-After"), "body": answer.read().decode()}))
"#;

/// The first node's agent with a gateway and issuers, until this is given up.
pub(crate) struct Bed {
    folder: tempfile::TempDir,
    before: String,
    pub(crate) provider: Provider,
    caller: TestNode,
    host: String,
    ca: PathBuf,
}

impl Bed {
    fn open(world: &mut World) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let node = world.cluster.node().clone();
        let provider = Provider::start(&node, &folder.path().join("issuer"), PROVIDER)?;
        let before = std::fs::read_to_string(world.agent.config_file())?;
        let mut config: Value = serde_json::from_str(&before)?;
        let issuers = folder.path().join("issuers.json");
        config["gateway"] = json!({"listen": format!("0.0.0.0:{GATEWAY}")});
        config["authentication"] = json!({"configFile": issuers});
        let ca = config["tls"]["caCertificateFile"].as_str().context("a CA")?;
        let bed = Self {
            ca: PathBuf::from(ca),
            host: node.address.to_string(),
            caller: world.cluster.nodes().get(1).context("a second node")?.clone(),
            provider,
            folder,
            before,
        };
        let cluster_ca = std::fs::read_to_string(world.cluster.ca_cert())?;
        std::fs::write(&issuers, bed.issuers(&cluster_ca)?.to_string())?;
        // The API server lets nobody read its keys who shows no credential, unless it is told to.
        world.cluster.apply(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: issuer-discovery}\nroleRef: \
             {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:service-account-issuer-discovery}\nsubjects:\n- \
             {apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:unauthenticated}\n",
        )?;
        world.agent.write_objects("issuers.yaml", &bed.objects())?;
        restart(world, &config.to_string())?;
        Ok(bed)
    }

    /// The issuers, as the API server's own configuration has them.
    fn issuers(&self, cluster_ca: &str) -> Result<Value> {
        let issuer = |url: &str, ca: &str| {
            json!({
                "issuer": {"url": url, "audiences": [AUDIENCE], "certificateAuthority": ca},
                "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}},
            })
        };
        let mut cluster = issuer(CLUSTER, cluster_ca);
        cluster["issuer"]["discoveryURL"] =
            format!("https://{}:6443/.well-known/openid-configuration", self.host).into();
        cluster["issuer"]["audiences"] = json!([AUDIENCE, "picket.dev"]);
        cluster["issuer"]["audienceMatchPolicy"] = "MatchAny".into();
        cluster["claimMappings"]["username"]["prefix"] = "".into();
        let ca = self.provider.ca()?;
        Ok(json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [cluster, issuer(&self.provider.url(), &ca), issuer(&self.nobody(), &ca)],
        }))
    }

    /// Changes the issuers' file, which the agent reads again by itself.
    pub(crate) fn rewrite_issuers(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.folder.path().join("issuers.json");
        let text = std::fs::read_to_string(&file)?;
        Ok(std::fs::write(file, change(text))?)
    }

    /// The issuer that never answers.
    fn nobody(&self) -> String {
        format!("https://{}:{NOBODY}", self.host)
    }

    /// Who is recognised by which token. All may what `worker` may.
    fn objects(&self) -> String {
        let identity = |name: &str, attest: &str| {
            format!(
                "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: {name}}}\nspec: {{owner: o, groups: [issued], \
                 attest: {{{attest}}}}}\n---\n"
            )
        };
        let jwt = |issuer: &str, subject: &str, audience: &str| {
            format!("jwt: {{issuer: '{issuer}', subject: '{subject}', audience: '{audience}'}}")
        };
        let (pod, account) = (
            "system:serviceaccount:agents:stranger",
            "system:serviceaccount:direct:worker",
        );
        let of_pod = format!(
            "pod: {{namespace: agents, serviceAccount: stranger}}, {}",
            jwt(CLUSTER, pod, "picket.dev")
        );
        [
            identity("proven-pod", &of_pod),
            identity("ci-account", &jwt(CLUSTER, account, AUDIENCE)),
            identity("ci-oidc", &jwt(&self.provider.url(), "ci", AUDIENCE)),
            identity("ci-nobody", &jwt(&self.nobody(), "ci", AUDIENCE)),
            "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: issued}\nspec:\n  to: {groups: [issued]}\n  upstream: \
             {impersonate: {user: 'agent:worker', groups: ['agents:lab', 'picket:agents']}}\n  rules:\n  - {apiGroups: [''], \
             resources: [pods], verbs: [get]}\n"
                .to_owned(),
        ]
        .concat()
    }

    fn close(self, world: &mut World) -> Result<()> {
        world.agent.remove_objects("issuers.yaml")?;
        world.admin(&["delete", "clusterrolebinding", "issuer-discovery"])?;
        restart(world, &self.before)
    }

    /// What the gateway answers to a token.
    fn ask(&self, token: &str) -> Result<Value> {
        ask(&self.caller, (&self.host, &self.ca), token)
    }

    /// That the gateway answers so, and the record says so.
    fn wants(&self, world: &World, what: &str, token: &str, expected: (u16, &str)) -> Result<Value> {
        let log = world.picket_log();
        let answer = self.ask(token)?;
        ensure!(answer["status"] == expected.0, "{what}: {answer}");
        let record = log.wait(what, |record| {
            record["requestURI"] == POD && record["responseStatus"]["code"] == expected.0
        })?;
        let reason = record["decision"]["reason"].as_str().unwrap_or_default();
        ensure!(reason == expected.1, "{what}: {record:#}");
        Ok(record)
    }
}

/// One request from a node to the gateway, whose address and CA are given.
fn ask(caller: &TestNode, (host, ca): (&str, &Path), token: &str) -> Result<Value> {
    let mut command = Command::new("python3");
    command
        .args(["-c", ASK, host, &GATEWAY.to_string()])
        .arg(ca)
        .args([token, POD]);
    let done = Done::from(caller.output(command)?);
    Ok(serde_json::from_str(&done.good()?)?)
}

fn restart(world: &mut World, config: &str) -> Result<()> {
    std::fs::write(world.agent.config_file(), config)?;
    world.agent.stop()?;
    world.agent.restart()?;
    Ok(())
}

/// Runs a test with the issuers, and puts the agent back.
pub(crate) fn with_issuers(
    world: &mut World,
    test: impl FnOnce(&World, &mut Bed) -> Result<()>,
) -> Result<()> {
    let mut bed = Bed::open(world)?;
    let done = test(world, &mut bed);
    bed.close(world)?;
    done
}

fn tokens_of_the_api_server_prove_a_pod_and_a_caller_of_the_gateway(world: &mut World) -> Result<()> {
    with_issuers(world, |world, bed| {
        a_pod(world)?;
        an_account(world, bed)
    })
}

/// The token that is mounted into the pod is evidence beside the kernel's word; another pod's is none.
fn a_pod(world: &World) -> Result<()> {
    // With a token of its own kubectl does not look for its in-cluster configuration, so it is told where the server is.
    let kubectl = |token: &str| {
        let line = format!(
            "account=/var/run/secrets/kubernetes.io/serviceaccount; kubectl get --raw {POD} {token} \
             -s https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT --certificate-authority=$account/ca.crt </dev/null"
        );
        world.run("agents", "stranger", &["sh", "-c", &line])
    };
    let log = world.picket_log();
    kubectl("--token=$(cat $account/token)")?.good()?;
    let record = log.wait("the pod's request", |record| {
        record["agent"]["identity"] == "proven-pod"
    })?;
    let subject = "system:serviceaccount:agents:stranger";
    ensure!(
        record["agent"]["attestation"] == "pod+jwt"
            && record["agent"]["token"]
                == json!({"issuer": CLUSTER, "subject": subject, "username": subject, "verified": true}),
        "{record:#}"
    );
    // Another pod of the same account, which no node runs.
    world.cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: twin, namespace: agents}\nspec: {serviceAccountName: stranger, nodeSelector: \
         {no: node}, containers: [{name: main, image: picket.test/tools:1}]}\n",
    )?;
    let issue = |more: &[&str]| {
        let mut arguments = vec!["create", "token", "stranger", "-n", "agents"];
        arguments.extend(more);
        world.admin(&arguments).map(|token| token.trim().to_owned())
    };
    let audience = "--audience=picket.dev";
    let cases = [
        (
            "another pod's",
            issue(&[audience, "--bound-object-kind=Pod", "--bound-object-name=twin"])?,
            "jwt_pod",
        ),
        ("bound to no pod", issue(&[audience])?, "jwt_pod"),
        (
            "for the API server",
            issue(&["--bound-object-kind=Pod", "--bound-object-name=stranger"])?,
            "jwt_audience",
        ),
    ];
    world.admin(&["delete", "pod", "twin", "-n", "agents", "--now"])?;
    for (what, token, reason) in cases {
        let log = world.picket_log();
        kubectl(&format!("--token={token}"))?.refused(&[])?;
        let record = log.wait(what, |record| record["decision"]["reason"] == reason)?;
        ensure!(
            record["agent"]["token"]["subject"] == subject,
            "{what}: {record:#}"
        );
    }
    Ok(())
}

/// A token of a service account opens the gateway for whoever holds it, as it opens the API server.
fn an_account(world: &World, bed: &Bed) -> Result<()> {
    let issue = |audience: &str| {
        let token = world.admin(&[
            "create",
            "token",
            "worker",
            "-n",
            "direct",
            &format!("--audience={audience}"),
        ]);
        token.map(|token| token.trim().to_owned())
    };
    let good = issue(AUDIENCE)?;
    let record = bed.wants(world, "an account's", &good, (200, ""))?;
    ensure!(
        record["agent"]["identity"] == "ci-account"
            && record["agent"]["attestation"] == "jwt"
            && record["user"]["username"] == "system:serviceaccount:direct:worker",
        "{record:#}"
    );
    bed.wants(
        world,
        "for another",
        &issue("https://other.test")?,
        (401, "jwt_audience"),
    )?;
    unsigned(world, bed, &good)
}

/// What anybody can make of a token is worth nothing.
fn unsigned(world: &World, bed: &Bed, token: &str) -> Result<()> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        bail!("no token: {} parts", parts.len());
    };
    // {"alg":"none"}
    let none = format!("eyJhbGciOiJub25lIn0.{payload}.");
    bed.wants(world, "alg none", &none, (401, "jwt_algorithm"))?;
    bed.wants(
        world,
        "no signature",
        &format!("{header}.{payload}."),
        (401, "jwt_signature"),
    )?;
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{header}.{payload}.{other}{}", &signature[1..]);
    bed.wants(world, "another signature", &forged, (401, "jwt_signature"))?;
    Ok(())
}

fn a_certified_provider_rotates_its_keys_and_no_request_fails(world: &mut World) -> Result<()> {
    with_issuers(world, |world, bed| {
        its_tokens(world, bed)?;
        rotation(world, bed)
    })
}

fn its_tokens(world: &World, bed: &mut Bed) -> Result<()> {
    let good = bed.provider.token("ci", AUDIENCE)?;
    let record = bed.wants(world, "the provider's", &good, (200, ""))?;
    ensure!(
        record["agent"]["identity"] == "ci-oidc" && record["user"]["username"] == "oidc:ci",
        "{record:#}"
    );
    let other = bed.provider.token("ci", "https://other.test")?;
    bed.wants(world, "for another", &other, (401, "jwt_audience"))?;
    let stranger = bed.provider.token("other", AUDIENCE)?;
    let record = bed.wants(world, "somebody unknown", &stranger, (403, "identity_none"))?;
    ensure!(record["agent"]["token"]["subject"] == "other", "{record:#}");
    // Its tokens live for 600 s, and clocks may differ by 60 s.
    bed.provider.shift_clock(-665)?;
    let expired = bed.provider.token("ci", AUDIENCE)?;
    bed.provider.shift_clock(0)?;
    let record = bed.wants(world, "expired", &expired, (401, "jwt_expired"))?;
    let token = json!({"issuer": bed.provider.url(), "subject": "ci", "verified": true});
    ensure!(record["agent"]["token"] == token, "{record:#}");
    unsigned(world, bed, &good)
}

/// Tokens of the key before count while that key is published. Those of a new key count from their first request on.
fn rotation(world: &World, bed: &mut Bed) -> Result<()> {
    let old = bed.provider.token("ci", AUDIENCE)?;
    let (caller, host, ca) = (bed.caller.clone(), bed.host.clone(), bed.ca.clone());
    let over = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| -> Result<usize> {
        let steady = scope.spawn(|| -> Result<usize> {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = ask(&caller, (&host, &ca), &old)?;
                ensure!(answer["status"] == 200, "of the old key: {answer}");
                asked += 1;
            }
            Ok(asked)
        });
        let rotated = (0..3).try_for_each(|round| -> Result<()> {
            bed.provider.rotate()?;
            let new = bed.provider.token("ci", AUDIENCE)?;
            let answer = bed.ask(&new)?;
            ensure!(answer["status"] == 200, "of the new key, round {round}: {answer}");
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        let asked = steady.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        rotated.and(asked)
    })?;
    ensure!(asked > 0, "nothing was asked with the old token meanwhile");
    // The old key leaves the key set, and a token of a new key has the set fetched.
    bed.provider.rotate()?;
    bed.provider.retire()?;
    let new = bed.provider.token("ci", AUDIENCE)?;
    bed.wants(world, "of the only key", &new, (200, ""))?;
    bed.wants(world, "of a key that is gone", &old, (401, "jwt_unknown_key"))?;
    Ok(())
}

fn an_issuer_that_is_down_leaves_the_keys_at_hand_and_comes_back_by_itself(world: &mut World) -> Result<()> {
    with_issuers(world, outage)
}

fn outage(world: &World, bed: &mut Bed) -> Result<()> {
    let first = bed.provider.token("ci", AUDIENCE)?;
    bed.wants(world, "at first", &first, (200, ""))?;
    // Not shown before, so that no memory of it can help.
    let known = bed.provider.token("ci", AUDIENCE)?;
    bed.provider.rotate()?;
    let unknown = bed.provider.token("ci", AUDIENCE)?;
    bed.provider.end();
    bed.wants(world, "a new token of a key at hand", &known, (200, ""))?;
    let url = bed.provider.url();
    let refused = bed.ask(&unknown)?;
    let told = refused["body"].as_str().unwrap_or_default();
    ensure!(
        refused["status"] == 503 && !refused["retry"].is_null() && told.contains(&url),
        "{refused}"
    );
    let record = bed.wants(
        world,
        "of a key that nobody can ask for",
        &unknown,
        (503, "jwt_issuer_unavailable"),
    )?;
    let token = json!({"issuer": url, "verified": false});
    ensure!(record["agent"]["token"] == token, "{record:#}");
    let log = std::fs::read_to_string(world.agent.log_file())?;
    let said = |issuer: &str, what: &str| {
        log.lines()
            .any(|line| line.contains(issuer) && line.contains(what))
    };
    ensure!(
        said(&url, "the issuer's keys cannot be fetched") && said(&url, "at_hand=true"),
        "the log does not say it"
    );
    // An issuer that has never answered.
    let of_nobody = format!(
        "{}.{}.c2ln",
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ",
        base64url(&json!({"iss": bed.nobody()}).to_string())
    );
    bed.wants(
        world,
        "of an issuer that never answered",
        &of_nobody,
        (503, "jwt_issuer_unavailable"),
    )?;
    ensure!(said(&bed.nobody(), "at_hand=false"), "the log does not say it");
    bed.wants(world, "still a key at hand", &first, (200, ""))?;

    bed.provider.resume()?;
    let deadline = Instant::now() + BACK;
    while bed.ask(&unknown)?["status"] != 200 {
        ensure!(
            Instant::now() < deadline,
            "the issuer is there again, and its keys are not"
        );
    }
    let log = std::fs::read_to_string(world.agent.log_file())?;
    let back = |line: &str| line.contains(&url) && line.contains("the issuer's keys are at hand");
    // At the start, and now.
    ensure!(
        log.lines()
            .rev()
            .take_while(|line| !line.contains("cannot be fetched"))
            .any(back),
        "the log does not say it"
    );
    Ok(())
}

/// Base64 for URLs without padding (RFC 4648 section 5), of text.
fn base64url(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letters = text.as_bytes().chunks(3).flat_map(|chunk| {
        let bits = (0..3).fold(0_u32, |bits, at| {
            bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0))
        });
        (0..=chunk.len()).map(move |at| char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]))
    });
    letters.collect()
}
