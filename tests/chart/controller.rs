//! The controller: what the chart renders of it, and what it does on a real cluster: one replica leads, node CAs for the right node
//! alone, bundles where pods need them, labels of nodes, and a root that is made once.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_controller::names;
use picket_tests::install::{Installer, LIMIT, wait};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::Test;
use crate::helm::{NAMESPACE, object};
use crate::installed::{NOWHERE, installer};
use crate::rendered::with;
use crate::world::World;

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    the_controller_has_few_rights,
    the_values_of_trust_reach_the_controller,
    one_replica_leads_and_another_takes_over,
    a_node_gets_a_ca_for_itself_alone,
    bundles_are_where_pods_need_them,
    a_node_with_a_ready_agent_is_labelled,
    the_root_is_made_once_and_nothing_is_left,
};

/// How soon a bundle follows a label.
const SOON: Duration = Duration::from_secs(5);

fn container(chart: &[Value]) -> Result<&Value> {
    Ok(&object(chart, "Deployment", "picket-controller")?["spec"]["template"]["spec"]["containers"][0])
}

fn the_controller_has_few_rights(world: &mut World) -> Result<()> {
    let chart = with(world, "")?;
    let deployment = &object(&chart, "Deployment", "picket-controller")?["spec"];
    ensure!(deployment["replicas"] == 2, "{deployment:#}");
    let pod = &deployment["template"]["spec"];
    for key in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"] {
        ensure!(pod[key].is_null(), "{key}: {pod:#}");
    }
    let rights = &pod["securityContext"];
    ensure!(
        rights["runAsNonRoot"] == true && rights["seccompProfile"]["type"] == "RuntimeDefault",
        "{rights:#}"
    );
    let wanted = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    let rights = &container(&chart)?["securityContext"];
    ensure!(*rights == wanted, "{rights:#}");

    // What RBAC can bound by a name is bounded.
    let named = [
        ("signers", names::SIGNER),
        ("configmaps", names::BUNDLE),
        ("secrets", names::ROOT_SECRET),
        ("leases", names::LEASE),
    ];
    let roles = chart.iter().filter(|object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        name.starts_with("picket-controller")
            && object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"))
    });
    let rules: Vec<&Value> = roles
        .flat_map(|role| role["rules"].as_array().into_iter().flatten())
        .collect();
    ensure!(rules.len() >= 10, "{rules:#?}");
    for rule in rules {
        ensure!(!rule.to_string().contains('*'), "{rule:#}");
        for (resource, name) in named {
            let is_of = rule["resources"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(resource)));
            let only_makes = rule["verbs"] == json!(["create"]);
            ensure!(
                !is_of || only_makes || rule["resourceNames"] == json!([name]),
                "{resource}: {rule:#}"
            );
        }
    }
    let budget = &object(&chart, "PodDisruptionBudget", "picket-controller")?["spec"];
    ensure!(budget["maxUnavailable"] == 1, "{budget:#}");
    ensure!(budget["selector"] == deployment["selector"], "{budget:#}");
    Ok(())
}

fn the_values_of_trust_reach_the_controller(world: &mut World) -> Result<()> {
    let arguments = |values: &str| -> Result<Vec<String>> {
        let chart = with(world, values)?;
        let all = container(&chart)?["args"].as_array().context("args")?.clone();
        Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    ensure!(
        arguments("")? == ["controller", "--log-format=text"],
        "{:?}",
        arguments("")?
    );
    let given = arguments("trust: {existingSecret: mine}")?;
    ensure!(given.contains(&"--root-secret=mine".to_owned()), "{given:?}");
    // A name of the leaf certificates outside the bound would break every one of them.
    let names = "tls: {extraNames: [api.example.com]}\ntrust: {permittedNames: [example.org, 10.0.0.0/8]}";
    let given = arguments(names)?;
    for name in ["example.org", "10.0.0.0/8", "api.example.com"] {
        ensure!(given.contains(&format!("--permitted-name={name}")), "{given:?}");
    }
    ensure!(
        arguments("tls: {extraNames: [api.example.com]}")?.len() == 2,
        "a bound that nobody asked for"
    );

    let group = |chart: &[Value]| -> Result<Value> {
        let pod = &object(chart, "Deployment", "picket-controller")?["spec"]["template"]["spec"];
        Ok(pod["securityContext"]["fsGroup"].clone())
    };
    ensure!(group(&with(world, "")?)?.is_null(), "a group that nothing needs");
    let chart = with(world, "trust: {volume: {csi: {driver: kms.example.com}}}")?;
    ensure!(
        group(&chart)? == 65532,
        "files for root and their group cannot be read"
    );
    let given = container(&chart)?;
    ensure!(
        given["args"]
            .as_array()
            .is_some_and(|all| all.contains(&json!("--root-folder=/etc/picket/root")))
    );
    ensure!(
        given["volumeMounts"][0]["mountPath"] == "/etc/picket/root",
        "{given:#}"
    );
    let volumes = &object(&chart, "Deployment", "picket-controller")?["spec"]["template"]["spec"]["volumes"];
    ensure!(
        *volumes == json!([{"name": "root", "csi": {"driver": "kms.example.com"}}]),
        "{volumes:#}"
    );

    let role = |values: &str| -> Result<String> {
        let chart = with(world, values)?;
        Ok(object(&chart, "Role", "picket-controller")?["rules"].to_string())
    };
    ensure!(role("trust: {existingSecret: mine}")?.contains("\"mine\""));
    ensure!(
        !role("")?.contains("delete"),
        "only the uninstallation removes the root"
    );
    Ok(())
}

/// The chart installed, without agents.
struct Controlled<'w>(Installer<'w>);

impl<'w> Deref for Controlled<'w> {
    type Target = Installer<'w>;

    fn deref(&self) -> &Installer<'w> {
        &self.0
    }
}

fn install(world: &mut World) -> Result<Controlled<'_>> {
    let installer = Controlled(installer(world)?);
    installer.run(&["install"], &NOWHERE)?;
    installer.wait_for_leader()?;
    Ok(installer)
}

impl Controlled<'_> {
    fn wait_for_leader(&self) -> Result<()> {
        self.wait_for_controller()?;
        wait("a leader", || Ok(!self.leader()?.is_empty()))
    }

    /// Labels `agents`, and waits for its bundle; gives how long that took.
    fn enrol_and_wait(&self) -> Result<Duration> {
        let label = [
            "label",
            "namespace",
            "agents",
            "picket.dev/enrolled=true",
            "--overwrite",
        ];
        self.kubectl(&label)?;
        self.wait_for_bundle("agents", "a bundle after the label", |text| !text.is_empty())
    }

    /// The replica that holds the Lease.
    fn leader(&self) -> Result<String> {
        let path = "jsonpath={.spec.holderIdentity}";
        self.kubectl(&["-n", NAMESPACE, "get", "lease", "picket-controller", "-o", path])
    }

    /// A pod that does nothing, of this service account, once it is Ready.
    fn idle_pod(&self, namespace: &str, name: &str, account: &str, labels: &Value) -> Result<()> {
        self.make_pod(namespace, name, account, labels)?;
        self.cluster.wait_ready(namespace, name, LIMIT).map(drop)
    }

    fn make_pod(&self, namespace: &str, name: &str, account: &str, labels: &Value) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "serviceAccountName": account, "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "idle", "image": "picket.test/busybox:1", "imagePullPolicy": "Never", "command": ["sleep", "3600"],
                }],
            },
        });
        self.cluster.apply(&pod.to_string())
    }

    fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.kubectl(&[
            "-n",
            namespace,
            "delete",
            "pod",
            name,
            "--ignore-not-found",
            "--force",
            "--grace-period=0",
        ])
        .map(drop)
    }

    /// A kubeconfig with a token of this account, bound to a pod if one is named.
    fn login(&self, namespace: &str, account: &str, pod: Option<&str>) -> Result<PathBuf> {
        let mut arguments = vec!["-n", namespace, "create", "token", account];
        if let Some(pod) = pod {
            arguments.extend(["--bound-object-kind=Pod", "--bound-object-name", pod]);
        }
        let token = self.kubectl(&arguments)?;
        let (server, ca) = (self.cluster.server(), self.cluster.ca_cert());
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": ca}}],
            "users": [{"name": "u", "user": {"token": token.trim()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let file = self
            .cluster
            .dir()
            .join(format!("{namespace}-{account}-{}.json", pod.unwrap_or("none")));
        std::fs::write(&file, text.to_string())?;
        Ok(file)
    }

    /// Asks for the CA of a node, and gives the request's name.
    fn ask_for_ca(&self, login: &std::path::Path, node: &str, key: &KeyPair) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("picket node CA {node}"));
        let request = params.serialize_request(key)?.pem()?;
        let object = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "picket-node-ca-"},
            "spec": {
                "signerName": "picket.dev/node-ca", "request": STANDARD.encode(request),
                "usages": ["cert sign", "digital signature"], "expirationSeconds": 259_200,
            },
        });
        let login = format!("--kubeconfig={}", login.display());
        let arguments = [
            login.as_str(),
            "create",
            "-f",
            "-",
            "-o",
            "jsonpath={.metadata.name}",
        ];
        self.cluster
            .kubectl_client()
            .run(&arguments, Some(&object.to_string()))
    }

    /// The status of a request once it has a certificate, or a reason for none.
    fn answer(&self, request: &str) -> Result<Value> {
        let mut status = Value::Null;
        wait("an answer of the signer", || {
            let text = self.kubectl(&["get", "csr", request, "-o", "json"])?;
            status = serde_json::from_str::<Value>(&text)?["status"].take();
            let is_denied = status["conditions"][0]["type"] == "Denied";
            Ok(is_denied || status["certificate"].is_string())
        })?;
        Ok(status)
    }

    /// The bundle of a namespace; empty where there is none.
    fn bundle(&self, namespace: &str) -> Result<String> {
        let arguments = [
            "-n",
            namespace,
            "get",
            "configmap",
            "picket-ca.crt",
            "--ignore-not-found",
            "-o",
            "jsonpath={.data.ca\\.crt}",
        ];
        self.kubectl(&arguments)
    }

    /// Waits for a bundle, or for its absence, and gives the time that took.
    fn wait_for_bundle(&self, namespace: &str, what: &str, holds: impl Fn(&str) -> bool) -> Result<Duration> {
        let begin = Instant::now();
        while !holds(&self.bundle(namespace)?) {
            if begin.elapsed() > Duration::from_secs(20) {
                bail!("{what}: not within 20 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(begin.elapsed())
    }
}

fn one_replica_leads_and_another_takes_over(world: &mut World) -> Result<()> {
    let installer = install(world)?;
    let first = installer.leader()?;
    let pods = installer.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "name"])?;
    ensure!(pods.contains(&first), "{first} is none of {pods}");
    // Of two replicas that are Ready one has work; the log of the other says nothing of leading.
    let mut leaders = 0;
    for pod in pods.lines() {
        let log = installer.kubectl(&["-n", NAMESPACE, "logs", pod])?;
        leaders += usize::from(log.contains("this replica leads"));
    }
    ensure!(leaders == 1, "{leaders} replicas lead");
    // Its process ends without a word, so that the Lease has to run out.
    let begin = Instant::now();
    installer.delete_pod(NAMESPACE, &first)?;
    wait("another leader", || {
        let leader = installer.leader()?;
        Ok(!leader.is_empty() && leader != first)
    })?;
    ensure!(
        begin.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        begin.elapsed()
    );
    installer.remove(&[])
}

fn a_node_gets_a_ca_for_itself_alone(world: &mut World) -> Result<()> {
    let installer = install(world)?;
    let rule = [
        "create",
        "clusterrole",
        "picket-test-csr",
        "--verb=create",
        "--resource=certificatesigningrequests",
    ];
    let bind = [
        "create",
        "clusterrolebinding",
        "picket-test-csr",
        "--clusterrole=picket-test-csr",
        "--serviceaccount=picket-system:picket",
        "--serviceaccount=agents:default",
    ];
    for kind in ["clusterrole", "clusterrolebinding"] {
        installer.kubectl(&["delete", kind, "picket-test-csr", "--ignore-not-found"])?;
    }
    installer.kubectl(&rule)?;
    installer.kubectl(&bind)?;
    installer.idle_pod(NAMESPACE, "idle", "picket", &json!({}))?;
    installer.idle_pod("agents", "idle", "default", &json!({}))?;
    let node = installer.cluster.node().name.clone();
    let key = KeyPair::generate()?;

    let agent = installer.login(NAMESPACE, "picket", Some("idle"))?;
    let request = installer.ask_for_ca(&agent, &node, &key)?;
    let status = installer.answer(&request)?;
    ensure!(status["conditions"][0]["type"] == "Approved", "{status:#}");
    let certificate = STANDARD.decode(status["certificate"].as_str().context("a certificate")?)?;
    let certificate = String::from_utf8(certificate)?;
    ensure!(
        certificate.matches("BEGIN CERTIFICATE").count() == 1,
        "{certificate}"
    );
    verify_strictly(&installer, &certificate, &key)?;

    let stranger = installer.login("agents", "default", Some("idle"))?;
    let unbound = installer.login(NAMESPACE, "picket", None)?;
    // The policy `node-bound` refuses the last of these before the controller sees the request.
    installer.kubectl(&[
        "delete",
        "validatingadmissionpolicybinding",
        "node-bound.picket.dev",
    ])?;
    wait("requests without a node", || {
        Ok(installer.ask_for_ca(&unbound, &node, &key).is_ok())
    })?;
    for (login, name, reason) in [
        (&agent, "node-of-another", "SubjectNotTheNode"),
        (&stranger, node.as_str(), "NotAnAgent"),
        (&unbound, node.as_str(), "TokenNotBoundToNode"),
    ] {
        let request = installer.ask_for_ca(login, name, &key)?;
        let status = installer.answer(&request)?;
        let condition = &status["conditions"][0];
        ensure!(
            condition["type"] == "Denied" && condition["reason"] == reason && status["certificate"].is_null(),
            "{reason}: {status:#}"
        );
    }
    for namespace in [NAMESPACE, "agents"] {
        installer.delete_pod(namespace, "idle")?;
    }
    for kind in ["clusterrole", "clusterrolebinding"] {
        installer.kubectl(&["delete", kind, "picket-test-csr"])?;
    }
    installer.remove(&[])
}

/// OpenSSL verifies a leaf of this node CA as strictly as it can, with the bundle as the only root.
fn verify_strictly(installer: &Controlled<'_>, node_ca: &str, key: &KeyPair) -> Result<()> {
    installer.enrol_and_wait()?;
    let bundle = installer.bundle("agents")?;
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled-"])?;
    let issuer = Issuer::from_ca_cert_pem(node_ca, KeyPair::from_pem(&key.serialize_pem())?)?;
    let mut params = CertificateParams::new(vec!["kubernetes.default.svc".to_owned()])?;
    params.use_authority_key_identifier_extension = true;
    params.not_before = std::time::SystemTime::now().into();
    params.not_after = (std::time::SystemTime::now() + Duration::from_secs(3600)).into();
    let leaf = params.signed_by(&KeyPair::generate()?, &issuer)?.pem();
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let mut command = std::process::Command::new("openssl");
    command.args([
        "verify",
        "-x509_strict",
        "-verify_hostname",
        "kubernetes.default.svc",
        "-CAfile",
    ]);
    command
        .arg(file("root.pem", &bundle)?)
        .arg("-untrusted")
        .arg(file("ca.pem", node_ca)?);
    let done = command
        .arg(file("leaf.pem", &leaf)?)
        .output()
        .context("run openssl")?;
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    ensure!(done.status.success(), "{text}");
    Ok(())
}

fn bundles_are_where_pods_need_them(world: &mut World) -> Result<()> {
    let installer = install(world)?;
    installer.wait_for_root()?;
    ensure!(installer.bundle("agents")?.is_empty(), "nothing asked for it");
    let took = installer.enrol_and_wait()?;
    ensure!(took < SOON, "the bundle took {took:?}");
    let bundle = installer.bundle("agents")?;

    installer.kubectl(&["-n", "agents", "delete", "configmap", "picket-ca.crt"])?;
    installer.wait_for_bundle("agents", "the bundle that was deleted", |text| text == bundle)?;
    let patch = r#"{"data":{"ca.crt":"mine"}}"#;
    installer.kubectl(&[
        "-n",
        "agents",
        "patch",
        "configmap",
        "picket-ca.crt",
        "--type=merge",
        "-p",
        patch,
    ])?;
    installer.wait_for_bundle("agents", "the bundle that was changed", |text| text == bundle)?;

    // Another root: both are in the bundle before the other one signs.
    installer.kubectl(&[
        "-n",
        NAMESPACE,
        "annotate",
        "secret",
        "picket-root-ca",
        "picket.dev/rotate=now",
    ])?;
    let both = |text: &str| text.matches("BEGIN CERTIFICATE").count() == 2 && text.starts_with(&bundle);
    installer.wait_for_bundle("agents", "both roots", both)?;
    let path = "jsonpath={.metadata.annotations}";
    let left = installer.kubectl(&["-n", NAMESPACE, "get", "secret", "picket-root-ca", "-o", path])?;
    ensure!(
        !left.contains("rotate"),
        "it would be replaced again and again: {left}"
    );

    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled-"])?;
    installer.wait_for_bundle("agents", "the end of the bundle", str::is_empty)?;
    // No node takes it, since none has an agent.
    installer.make_pod(
        "agents",
        "enrolled",
        "default",
        &json!({"picket.dev/enrolled": "true"}),
    )?;
    installer.wait_for_bundle("agents", "a bundle for a pod", |text| !text.is_empty())?;
    installer.delete_pod("agents", "enrolled")?;
    installer.wait_for_bundle("agents", "the end of the pod's bundle", str::is_empty)?;
    installer.remove(&[])
}

impl Controlled<'_> {
    fn wait_for_root(&self) -> Result<()> {
        wait("the root", || {
            Ok(!self
                .kubectl(&[
                    "-n",
                    NAMESPACE,
                    "get",
                    "secret",
                    "picket-root-ca",
                    "--ignore-not-found",
                    "-o",
                    "name",
                ])?
                .is_empty())
        })
    }

    /// The value of the node's label.
    fn node_label(&self) -> Result<String> {
        let path = "jsonpath={.metadata.labels.picket\\.dev/agent}";
        self.kubectl(&["get", "node", &self.cluster.node().name, "-o", path])
    }
}

fn a_node_with_a_ready_agent_is_labelled(world: &mut World) -> Result<()> {
    let installer = install(world)?;
    let node = installer.cluster.node().name.clone();
    ensure!(installer.node_label()?.is_empty(), "no agent is ready");
    let labels = json!({"app.kubernetes.io/name": "picket", "app.kubernetes.io/component": "agent"});
    installer.idle_pod(NAMESPACE, "stand-in", "default", &labels)?;
    wait("the node's label", || Ok(installer.node_label()? == "ready"))?;
    let path = "jsonpath={.items[*].reason}";
    wait("an Event", || {
        let reasons = installer.kubectl(&[
            "-n",
            "default",
            "get",
            "events",
            "--field-selector",
            "involvedObject.kind=Node",
            "-o",
            path,
        ])?;
        Ok(reasons.contains("AgentReady"))
    })?;

    // The controller's account may change nothing else of a node. A server-side apply asks for no right to read.
    let account = "--as=system:serviceaccount:picket-system:picket-controller";
    let apply = |metadata: Value| -> Result<String> {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
        let arguments = [
            account,
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=test",
            "-f",
            "-",
        ];
        let done = installer.cluster.kubectl_stdin(&arguments, &object.to_string())?;
        ensure!(!done.status.success(), "the account may write {object}");
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let metadata = |key: &str, name: &str, value: &str| json!({"name": node, key: {name: value}});
    for (part, reason) in [
        (
            metadata("labels", "other", "x"),
            "the label picket.dev/agent of a node alone",
        ),
        (
            metadata("labels", "picket.dev/agent", "maybe"),
            "has the value ready",
        ),
        (
            metadata("annotations", "other", "x"),
            "may change labels of a node alone",
        ),
    ] {
        let said = apply(part)?;
        ensure!(said.contains(reason), "{said}");
    }
    for (arguments, reason) in [
        (
            ["-n", NAMESPACE, "get", "secrets", "-o", "name"],
            "cannot list resource",
        ),
        (
            ["-n", "agents", "create", "configmap", "other", "--save-config"],
            "cannot create resource",
        ),
    ] {
        let done = installer
            .cluster
            .kubectl(&[&[account], arguments.as_slice()].concat())?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            !done.status.success() && said.contains(reason),
            "{arguments:?}: {said}"
        );
    }
    installer.delete_pod(NAMESPACE, "stand-in")?;
    wait("the end of the node's label", || {
        Ok(installer.node_label()?.is_empty())
    })?;
    installer.remove(&[])
}

fn the_root_is_made_once_and_nothing_is_left(world: &mut World) -> Result<()> {
    let installer = install(world)?;
    installer.wait_for_root()?;
    let root = || {
        installer.kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "secret",
            "picket-root-ca",
            "-o",
            "jsonpath={.data}",
        ])
    };
    let first = root()?;
    ensure!(
        first.contains("ca.crt") && first.contains("ca.key") && !first.contains("next"),
        "unlike a root"
    );
    installer.enrol_and_wait()?;
    installer.run(
        &["upgrade"],
        &[NOWHERE.as_slice(), &["--set", "log.format=json"]].concat(),
    )?;
    installer.wait_for_leader()?;
    ensure!(
        root()? == first,
        "the upgrade made another root: pods that trust the first reach no API server"
    );

    installer.remove(&[])?;
    ensure!(installer.bundle("agents")?.is_empty(), "the bundle stays");
    let secret = [
        "-n",
        NAMESPACE,
        "get",
        "secret",
        "picket-root-ca",
        "--ignore-not-found",
        "-o",
        "name",
    ];
    ensure!(installer.kubectl(&secret)?.is_empty(), "the root stays");
    installer.kubectl(&["label", "namespace", "agents", "picket.dev/enrolled-"])?;
    let kinds = "all,configmap,secret,serviceaccount,lease,role,rolebinding,clusterrole,clusterrolebinding,poddisruptionbudget,flowschema,\
                 prioritylevelconfiguration,mutatingadmissionpolicy,mutatingadmissionpolicybinding,validatingadmissionpolicy,\
                 validatingadmissionpolicybinding";
    // Helm waits for the Deployment's end, and not for that of its pods.
    let selector = "app.kubernetes.io/name=picket";
    wait("the end of all that the release was", || {
        let left = installer.kubectl(&["get", kinds, "-A", "-l", selector, "-o", "name"])?;
        Ok(left.trim().is_empty())
    })
}
