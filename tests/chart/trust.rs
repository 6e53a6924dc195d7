//! Trust under load, on two nodes: a root that is replaced to its end.
//!
//! In: the [`crate::lab`], whose clients read `ca.crt` anew for each connection. Out: not one of their handshakes failed.

use std::io::Write as _;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use picket_tests::cluster::TestNode;
use picket_tests::install::wait;
use serde_json::{Value, json};

use crate::Test;
use crate::helm::{NAMESPACE, said};
use crate::lab::{ENROLLED, Lab, lab, load_of, mark};
use crate::watched::Watched;
use crate::world::{WRONG_CLOCK, World};

pub(crate) const TESTS: &[Test] = picket_tests::tests! {
    a_controller_whose_clock_is_an_hour_off_fails_no_handshake,
    a_root_is_replaced_without_a_failed_handshake,
    a_root_that_is_lost_is_replaced_and_pods_are_served_again,
};

/// The Secret with the roots.
const ROOT: &str = "picket-root-ca";

/// What runs the controller.
const CONTROLLER: &str = "deployment/picket-controller";

/// Where a pod has its bundle.
const BUNDLE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// A handshake with what is dialled as the API server, by a bundle that was read once.
const HANDSHAKE: &str = r#"
import os, socket, ssl
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
context = ssl.create_default_context(cafile="/tmp/earlier.crt")
context.wrap_socket(socket.create_connection((host, port)), server_hostname=host)
print("trusted")
"#;

/// Whichever way its clock is off, nodes take the CAs that it signs, and pods the certificates below them.
fn a_controller_whose_clock_is_an_hour_off_fails_no_handshake(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let watched = Watched::start(&lab)?;
    for (clock, hours) in [("+1h", 73), ("-1h", 71)] {
        lab.set_clock_of_controller(clock)?;
        lab.renew_node_cas()?;
        let since = mark();
        for node in lab.cluster.nodes() {
            let left = lab.life_of_node_ca(node)?.as_secs_f64() / 3600.0;
            ensure!(
                (left - f64::from(hours)).abs() < 0.2,
                "with a clock at {clock} a CA ends in {left} h"
            );
            lab.wait_answered(ENROLLED, node, since)?;
        }
    }
    lab.scale_controller(0)?;
    lab.kubectl(&[
        "-n",
        NAMESPACE,
        "set",
        "env",
        CONTROLLER,
        "LD_PRELOAD-",
        "FAKETIME-",
    ])?;
    lab.scale_controller(2)?;
    lab.renew_node_cas()?;
    let failed = watched.nobody_went_past()?;
    ensure!(failed.is_empty(), "handshakes or requests failed: {failed:?}");
    watched.the_exempt_notice_nothing()
}

/// Each step of deploy/docs/trust.md, "Rotation of the root", with the days between them taken out of the record in the Secret.
fn a_root_is_replaced_without_a_failed_handshake(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let pod = load_of(lab.cluster.node());
    let in_pod = |argv: &[&str]| -> Result<Output> { lab.cluster.exec(ENROLLED, &pod, "main", argv) };
    in_pod(&["cp", BUNDLE, "/tmp/earlier.crt"])?;
    let handshake = || in_pod(&["python3", "-c", HANDSHAKE]);
    ensure!(
        handshake()?.status.success(),
        "the bundle is not trusted from the start"
    );
    let watched = Watched::start(&lab)?;
    let earlier = lab.root("ca.crt")?;

    lab.kubectl(&[
        "-n",
        NAMESPACE,
        "annotate",
        "secret",
        ROOT,
        "picket.dev/rotate=now",
    ])?;
    wait("every bundle has the next root", || {
        Ok(lab.rotation()?["nextPublished"].is_string())
    })?;
    let next = lab.root("next.crt")?;
    lab.wait_for_bundle(&format!("{earlier}{next}"))?;

    // A day later.
    lab.change_rotation(|record| record["nextPublished"] = json!("2020-01-01T00:00:00Z"))?;
    wait("the next root signs", || Ok(lab.root("ca.crt")? == next))?;
    lab.renew_node_cas()?;
    lab.wait_for_bundle(&format!("{next}{earlier}"))?;

    // Three days later.
    lab.change_rotation(|record| record["retired"][0]["until"] = json!("2020-01-01T00:00:00Z"))?;
    lab.wait_for_bundle(&next)?;
    let since = mark();
    for node in lab.cluster.nodes() {
        lab.wait_answered(ENROLLED, node, since)?;
    }
    let failed = watched.nobody_went_past()?;
    ensure!(failed.is_empty(), "handshakes or requests failed: {failed:?}");
    ensure!(watched.answered()? > 20, "{} requests", watched.answered()?);
    let refused = handshake()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        !refused.status.success() && said.contains("CERTIFICATE_VERIFY_FAILED"),
        "a client that read the bundle before the rotation is still served: {said}"
    );
    // The informers read their bundle once in five minutes.
    lab.kubectl(&["-n", ENROLLED, "delete", "pod", "informers"])?;
    lab.settle()
}

/// As by `kubectl delete namespace picket-system` and another installation: nobody tells the agents, whose CAs lead to the root that is gone.
fn a_root_that_is_lost_is_replaced_and_pods_are_served_again(world: &mut World) -> Result<()> {
    let lab = lab(world)?;
    let lost = lab.root("ca.crt")?;
    lab.scale_controller(0)?;
    lab.kubectl(&["-n", NAMESPACE, "delete", "secret", ROOT])?;
    lab.scale_controller(2)?;
    wait("another root", || {
        Ok(lab.root("ca.crt").is_ok_and(|now| now != lost))
    })?;
    lab.wait_for_bundle(&lab.root("ca.crt")?)?;
    let since = mark();
    for node in lab.cluster.nodes() {
        lab.wait_answered(ENROLLED, node, since)?;
    }
    lab.kubectl(&["-n", ENROLLED, "delete", "pod", "informers"])?;
    lab.settle()
}

impl Lab<'_> {
    /// Has each node ask for another CA, and waits for it.
    fn renew_node_cas(&self) -> Result<()> {
        let nodes = self.cluster.nodes();
        let before: Vec<_> = nodes.iter().map(|node| self.node_ca_of(node)).collect();
        nodes.iter().try_for_each(|node| self.forget_node_ca(node))?;
        for (node, before) in nodes.iter().zip(before) {
            wait("another CA of the node", || {
                let now = self.node_ca_of(node);
                Ok(now.is_some() && now != before)
            })?;
        }
        Ok(())
    }

    /// Replaces the controller by one whose clock is off. Only the older build's image has what that takes.
    fn set_clock_of_controller(&self, clock: &str) -> Result<()> {
        self.scale_controller(0)?;
        let image = format!("controller={}", self.older.reference);
        self.kubectl(&["-n", NAMESPACE, "set", "image", CONTROLLER, &image])?;
        let variables = [format!("LD_PRELOAD={WRONG_CLOCK}"), format!("FAKETIME={clock}")];
        let [library, clock] = variables.each_ref().map(String::as_str);
        // Times that are measured, and not told, are right.
        let measured = "FAKETIME_DONT_FAKE_MONOTONIC=1";
        self.kubectl(&[
            "-n", NAMESPACE, "set", "env", CONTROLLER, library, clock, measured,
        ])?;
        self.scale_controller(2)
    }

    /// For how long the CA of a node is valid from now on.
    fn life_of_node_ca(&self, node: &TestNode) -> Result<Duration> {
        let pem = self.node_ca_of(node).context("the node has no CA")?;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&pem)?;
        let mut command = std::process::Command::new("openssl");
        command.args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"]);
        let told = said(command.arg(file.path()).output().context("run openssl")?)?;
        let (_, end) = told.trim().split_once('=').context("no date")?;
        let end: Timestamp = end.parse()?;
        Ok(Duration::try_from(end.duration_since(Timestamp::now()))?)
    }

    /// A part of the Secret; empty where it has none.
    fn root(&self, key: &str) -> Result<String> {
        let secret = self.kubectl(&["-n", NAMESPACE, "get", "secret", ROOT, "-o", "json"])?;
        let secret: Value = serde_json::from_str(&secret)?;
        let bytes = STANDARD.decode(secret["data"][key].as_str().unwrap_or_default())?;
        Ok(String::from_utf8(bytes)?)
    }

    /// The record of the rotation.
    fn rotation(&self) -> Result<Value> {
        let text = self.root("rotation.json")?;
        Ok(if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        })
    }

    /// Changes the record, as if time had passed.
    fn change_rotation(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut record = self.rotation()?;
        ensure!(record.is_object(), "no rotation is under way");
        change(&mut record);
        let patch = json!({"data": {"rotation.json": STANDARD.encode(record.to_string())}}).to_string();
        self.kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "secret",
            ROOT,
            "--type=merge",
            "-p",
            &patch,
        ])
        .map(drop)
    }

    /// Waits until running pods have this bundle. A kubelet brings it within a minute or two; a change of the pod has it look at once.
    fn wait_for_bundle(&self, bundle: &str) -> Result<()> {
        wait("the bundle of the namespace", || {
            let path = "jsonpath={.data.ca\\.crt}";
            let found = self.kubectl(&["-n", ENROLLED, "get", "configmap", "picket-ca.crt", "-o", path])?;
            Ok(found == bundle)
        })?;
        let turn = format!("picket.test/turn={:.3}", mark());
        self.kubectl(&["-n", ENROLLED, "annotate", "pods", "--all", "--overwrite", &turn])?;
        for node in self.cluster.nodes() {
            wait("the bundle in a pod", || {
                let found = self.kubectl(&["-n", ENROLLED, "exec", &load_of(node), "--", "cat", BUNDLE]);
                Ok(found.is_ok_and(|found| found == bundle))
            })
            .with_context(|| node.name.clone())?;
        }
        Ok(())
    }
}
