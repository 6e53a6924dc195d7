//! The pod's credential is worth nothing at the API server, and there is no other way to it.

use anyhow::{Context, Result, ensure};
use picket_tests::secrets::Reach;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;
use picket_tests::output::Done;

pub(crate) const TESTS: &[Test] = tests! {
    is_useless_directly,
    manifest_is_as_it_was,
    endpoint_address_is_caught,
    mapped_v6_address_is_caught,
    other_names_are_served,
    is_never_written_down,
    a_second_token_serves_others,
};

const TOKEN: &str = "cat /var/run/secrets/kubernetes.io/serviceaccount/token";

/// Dials the address and family that the arguments give, with the pod's bundle; prints what the socket says of its peer and
/// what /version answers.
const DIAL: &str = r#"
import json, socket, ssl, sys
host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
plain = socket.socket(family, socket.SOCK_STREAM)
plain.settimeout(20)
plain.connect((host, port))
peer = plain.getpeername()[:2]
secure = context.wrap_socket(plain, server_hostname=name)
secure.sendall(b"GET /version HTTP/1.1\r\nHost: kubernetes\r\nConnection: close\r\n\r\n")
answer = b""
while chunk := secure.recv(65536):
    answer += chunk
print(json.dumps({"peer": peer, "status": int(answer.split(b" ")[1]), "body": answer.split(b"\r\n\r\n", 1)[1].decode()}))
"#;

fn is_useless_directly(world: &mut World) -> Result<()> {
    let token = world.worker(TOKEN)?.good()?;
    let said = directly(world, token.trim())?;
    said.refused(&["Unauthorized"])?;
    // The same question with a token that was left alone is answered, so it is the token that is worth nothing.
    let token = world.run("direct", "worker", &["sh", "-c", TOKEN])?.good()?;
    directly(world, token.trim())?.good().map(drop)
}

/// Asks the API server from the node, with no one in between.
fn directly(world: &World, token: &str) -> Result<Done> {
    let ca = world.cluster.ca_cert().display().to_string();
    let client = world.cluster.kubectl_client();
    let mut command = client.command(&[
        "get",
        "configmap",
        "seed",
        "-n",
        "lab",
        "--server",
        world.cluster.server(),
    ])?;
    command
        .args(["--certificate-authority", &ca, "--token", token])
        .env("KUBECONFIG", "/dev/null");
    // kubectl asks for a password where a token is refused, unless there is no one to ask.
    Ok(command.stdin(std::process::Stdio::null()).output()?.into())
}

fn manifest_is_as_it_was(world: &mut World) -> Result<()> {
    let pod = |namespace: &str| -> Result<Value> {
        let text = world.admin(&["get", "pod", "worker", "-n", namespace, "-o", "json"])?;
        Ok(serde_json::from_str::<Value>(&text)?["spec"].clone())
    };
    let (mut enrolled, mut plain) = (pod("agents")?, pod("direct")?);
    let sources = |spec: &mut Value| spec["volumes"][0]["projected"]["sources"].take();
    let (changed, usual) = (sources(&mut enrolled), sources(&mut plain));
    ensure!(
        changed[0]["serviceAccountToken"]["audience"] == "picket.dev",
        "{changed:#}"
    );
    ensure!(changed[1]["configMap"]["name"] == "picket-ca.crt", "{changed:#}");
    ensure!(usual[1]["configMap"]["name"] == "kube-root-ca.crt", "{usual:#}");
    let selector = enrolled["nodeSelector"].take();
    ensure!(
        selector == serde_json::json!({"picket.dev/agent": "ready"}),
        "{selector}"
    );
    let rights = enrolled["containers"][0]["securityContext"].take();
    ensure!(
        rights == serde_json::json!({"capabilities": {"drop": ["NET_RAW"]}}),
        "{rights}"
    );
    for (path, field) in [("", "nodeSelector"), ("/containers/0", "securityContext")] {
        let object = enrolled.pointer_mut(path).and_then(Value::as_object_mut);
        object.context("a mapping")?.remove(field);
    }
    // The volume's generated name aside, nothing else in the two pods differs.
    let text = |spec: &Value| {
        let name = spec["volumes"][0]["name"].as_str().unwrap_or_default().to_owned();
        spec.to_string().replace(&name, "volume")
    };
    ensure!(
        text(&enrolled) == text(&plain),
        "the pods differ:\n{enrolled:#}\n{plain:#}"
    );
    Ok(())
}

fn dialled(world: &World, host: &str, port: &str, name: &str) -> Result<Value> {
    let picket = world.picket_log();
    let answer: Value = serde_json::from_str(&world.python("worker", DIAL, &[host, port, name])?.good()?)?;
    // The bundle holds Picket's authority alone, so the handshake itself shows who answered.
    ensure!(
        answer["status"] == 200
            && answer["body"]
                .as_str()
                .is_some_and(|body| body.contains("gitVersion")),
        "{answer}"
    );
    ensure!(
        answer["peer"][0] == host && answer["peer"][1].as_u64() == port.parse().ok(),
        "the client sees {answer}, not {host}:{port}"
    );
    picket.wait("the request", |record| {
        record["requestURI"] == "/version" && record["decision"]["outcome"] == "allow"
    })?;
    Ok(answer)
}

fn endpoint_address_is_caught(world: &mut World) -> Result<()> {
    let address = world.cluster.node().address.to_string();
    dialled(world, &address, "6443", &address).map(drop)
}

fn mapped_v6_address_is_caught(world: &mut World) -> Result<()> {
    dialled(world, "::ffff:10.96.0.1", "443", "10.96.0.1")?;
    let address = world.cluster.node().address.to_string();
    dialled(world, &format!("::ffff:{address}"), "6443", &address).map(drop)
}

fn other_names_are_served(world: &mut World) -> Result<()> {
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "10.96.0.1",
    ] {
        dialled(world, "10.96.0.1", "443", name)?;
    }
    Ok(())
}

fn is_never_written_down(world: &mut World) -> Result<()> {
    let token = world.worker(TOKEN)?.good()?;
    world
        .secrets
        .add("the pod's token", token.trim(), Reach::Everywhere)?;
    let secret = "c2VjcmV0LW9mLXNvbWVib2R5LWVsc2U";
    world
        .secrets
        .add("a token in a request", secret, Reach::OfRequest)?;
    let picket = world.picket_log();
    let header = format!("Authorization=Bearer {secret}");
    let path = format!("/api/v1/namespaces/lab/configmaps?access_token={secret}");
    let request = crate::identity::REQUEST;
    world
        .python(
            "worker",
            request,
            &["GET", "/api/v1/namespaces/lab/configmaps/seed"],
        )?
        .good()?;
    world
        .python(
            "worker",
            request,
            &["GET", &path, &header, &format!("Cookie=token={secret}")],
        )?
        .good()?;
    picket.wait("the list", |record| record["verb"] == "list")?;
    world.search()
}

/// Whoever checks tokens with a TokenReview that names no audience refuses the mounted one, and takes a second projection that
/// the manifest asks for: enrolment leaves it as it is.
fn a_second_token_serves_others(world: &mut World) -> Result<()> {
    let pod: Value =
        serde_json::from_str(&world.admin(&["get", "pod", "stranger", "-n", "agents", "-o", "json"])?)?;
    let audience = |name: &str| {
        let volumes = pod["spec"]["volumes"].as_array()?;
        let volume = volumes.iter().find(|volume| {
            volume["name"]
                .as_str()
                .is_some_and(|found| found.starts_with(name))
        })?;
        volume
            .pointer("/projected/sources/0/serviceAccountToken/audience")?
            .as_str()
    };
    ensure!(audience("kube-api-access") == Some("picket.dev"), "{pod:#}");
    ensure!(audience("vault-token") == Some("vault"), "{pod:#}");

    let mounted = world.run("agents", "stranger", &["sh", "-c", TOKEN])?.good()?;
    let second = world
        .run("agents", "stranger", &["cat", "/var/run/secrets/vault/token"])?
        .good()?;
    let direct = world.run("direct", "worker", &["sh", "-c", TOKEN])?.good()?;
    for (name, token, audiences, accepted) in [
        ("a token without Picket", &direct, &[][..], true),
        ("the mounted token", &mounted, &[], false),
        ("the mounted token", &mounted, &["picket.dev"], true),
        ("the second token", &second, &["vault"], true),
        ("the second token", &second, &[], false),
    ] {
        let status = review(world, token, audiences)?;
        ensure!(
            (status["authenticated"] == true) == accepted,
            "{name}, audiences {audiences:?}: {status:#}"
        );
    }
    let status = review(world, &second, &["vault"])?;
    ensure!(
        status["user"]["username"] == "system:serviceaccount:agents:stranger",
        "{status:#}"
    );
    ensure!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-name"][0] == "stranger",
        "{status:#}"
    );
    Ok(())
}

fn review(world: &World, token: &str, audiences: &[&str]) -> Result<Value> {
    let mut spec = serde_json::json!({"token": token.trim()});
    if !audiences.is_empty() {
        spec["audiences"] = audiences.into();
    }
    let review =
        serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
    let made = world
        .cluster
        .kubectl_stdin(&["create", "-f", "-", "-o", "json"], &review.to_string())?;
    let made: Value = serde_json::from_str(&Done::from(made).good()?)?;
    Ok(made["status"].clone())
}
