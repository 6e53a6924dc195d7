//! What a client reads of an answer: through Picket as from the API server directly.
//!
//! The cases come from public reports about other proxies before the Kubernetes API.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    conditional_requests,
    media_types,
    names_of_fields_as_go_writes_them,
    field_managers_and_dry_runs,
    warnings_of_the_server,
    exec_and_copy_by_kubectl_proxy,
    reviews_of_oneself,
    names_in_the_handshake,
    refusals_are_not_cached,
};

/// Makes `ask` for the probes below: one request on a connection of its own, whose answer it prints without what differs each time.
const ASK: &str = r#"
import hashlib, http.client, json, os, re, socket, ssl, sys
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
token = open(account + "/token").read()
host = os.environ["KUBERNETES_SERVICE_HOST"]
CHANGING = {"date", "audit-id", "content-length", "transfer-encoding", "connection", "keep-alive", "last-modified", "expires",
    "x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"}
def ask(method, path, headers={}, body=None):
    connection = http.client.HTTPSConnection(host, 443, context=context, timeout=20)
    connection.request(method, path, body=body, headers={"Authorization": "Bearer " + token, **headers})
    answer = connection.getresponse()
    # The revision of a collection, and an object's age in a table.
    body = re.sub(rb'"resourceVersion":"[0-9]+"|"([0-9]+[smhdy])+"', b"", answer.read())
    fields = sorted((n.lower(), v) for n, v in answer.getheaders() if n.lower() not in CHANGING)
    print(method, path, headers, answer.status, fields, len(body), hashlib.sha256(body).hexdigest()[:16])
    return answer, body
"#;

/// Runs a probe in the enforced pod and in the direct one; gives what both printed.
fn probe(world: &World, program: &str, lines: usize) -> Result<String> {
    let program = format!("{ASK}{program}");
    let run = |namespace: &str| -> Result<String> {
        world
            .run(namespace, "worker", &["python3", "-c", &program])?
            .good()
            .with_context(|| format!("in {namespace}"))
    };
    let (ours, theirs) = (run("agents")?, run("direct")?);
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        ensure!(ours == theirs, "through Picket: {ours}\ndirect: {theirs}");
    }
    let count = ours.lines().count();
    ensure!(
        count == lines && theirs.lines().count() == lines,
        "{count} of {lines} lines:\n{ours}\ndirect:\n{theirs}"
    );
    Ok(ours)
}

/// Runs a shell line in both pods; gives what both printed, with each pod's own user written as USER.
fn shell(world: &World, line: &str) -> Result<String> {
    let run = |namespace: &str, user: &str| -> Result<String> {
        let done = world.run(namespace, "worker", &["sh", "-c", line])?;
        let said = format!("{}\n{}\nended with {}", done.out, done.err, done.code);
        Ok(said.replace(user, "USER"))
    };
    let ours = run("agents", "agent:worker")?;
    let theirs = run("direct", "system:serviceaccount:direct:worker")?;
    ensure!(ours == theirs, "through Picket:\n{ours}\ndirect:\n{theirs}");
    Ok(ours)
}

/// ETags, hashes and ranges of discovery and OpenAPI (kubernetes/kubernetes#113903, #44957).
fn conditional_requests(world: &mut World) -> Result<()> {
    let program = r#"
_, body = ask("GET", "/openapi/v3")
url = json.loads(body)["paths"]["apis/apps/v1"]["serverRelativeURL"]
answer, _ = ask("GET", url)
ask("GET", url, {"If-None-Match": answer.getheader("ETag")})
ask("GET", url.split("?")[0] + "?hash=OLD")
ask("GET", url, {"Range": "bytes=0-9"})
ask("GET", url, {"Accept": "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", "Accept-Encoding": "gzip"})
aggregated = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}
for path in ["/api", "/apis"]:
    answer, _ = ask("GET", path, aggregated)
    ask("GET", path, {**aggregated, "If-None-Match": answer.getheader("ETag")})
"#;
    let said = probe(world, program, 10)?;
    for wanted in [" 304 ", " 301 ", " 206 ", "'etag'"] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

/// Tables with whole objects, metadata alone, protobuf and CBOR (gravitational/teleport#46683).
fn media_types(world: &mut World) -> Result<()> {
    let program = r#"
configmaps = "/api/v1/namespaces/lab/configmaps"
for form in ["application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
    "application/yaml", "application/cbor", "text/html"]:
    for included in ["None", "Metadata", "Object"]:
        ask("GET", configmaps + "/seed?includeObject=" + included, {"Accept": form})
for form in ["as=Table", "as=PartialObjectMetadataList"]:
    ask("GET", configmaps + "?labelSelector=watched&includeObject=Object", {"Accept": "application/json;%s;v=v1;g=meta.k8s.io" % form})
"#;
    let said = probe(world, program, 23)?;
    ensure!(said.contains(" 406 ") && said.contains(" 200 "), "{said}");
    Ok(())
}

/// Clients and scripts that compare names with their case (linkerd/linkerd2#2878, istio/istio#18672, envoyproxy/envoy#8463).
fn names_of_fields_as_go_writes_them(world: &mut World) -> Result<()> {
    let program = r#"
for path in ["/version", "/api/v1/namespaces/lab/configmaps/none", "/api/v1/nodes/none", "/apis"]:
    connection = http.client.HTTPSConnection(host, 443, context=context, timeout=20)
    connection.request("GET", path, headers={"Authorization": "Bearer " + token})
    names = {name for name, _ in connection.getresponse().getheaders()}
    # Picket's own refusals come from no flow schema, and the framing is each hop's own.
    print(path, sorted(name for name in names - {"Content-Length", "Transfer-Encoding"} if not name.startswith("X-Kubernetes-Pf-")))
"#;
    let said = probe(world, program, 4)?;
    ensure!(
        said.contains("'Audit-Id'") && said.contains("'Content-Type'"),
        "{said}"
    );
    Ok(())
}

/// The manager of a field comes from the user agent or a parameter, and a conflict names it (kubernetes/kubernetes#38217);
/// a dry run changes nothing (kubernetes/kubernetes#82402).
fn field_managers_and_dry_runs(world: &mut World) -> Result<()> {
    let line = r#"
        printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: parity, namespace: lab}\ndata: {a: "1"}\n' > /tmp/one.yaml
        sed s/1/2/ /tmp/one.yaml | sed s/v2/v1/ > /tmp/two.yaml
        kubectl apply --server-side --dry-run=server -f /tmp/one.yaml
        kubectl get configmap parity -n lab
        kubectl apply --server-side -f /tmp/one.yaml
        kubectl apply --server-side --field-manager=other -f /tmp/two.yaml
        kubectl apply --server-side --field-manager=other --force-conflicts -f /tmp/two.yaml
        kubectl label configmap parity -n lab a=b
        kubectl get configmap parity -n lab --show-managed-fields -o jsonpath='{range .metadata.managedFields[*]}{.manager} {.operation} {.fieldsV1}{"\n"}{end}'
        kubectl delete configmap parity -n lab --dry-run=server
        kubectl delete configmap parity -n lab"#;
    let said = shell(world, line)?;
    for wanted in [
        "NotFound",
        "conflict with \"kubectl\"",
        "other Apply",
        "kubectl-label Update",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

/// Each `Warning` of the API server arrives, several of one answer too (kubernetes/kubernetes#73032).
fn warnings_of_the_server(world: &mut World) -> Result<()> {
    let line = r#"
        printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: parity, namespace: lab}\nunknown: 1\nother: 2\n' > /tmp/warn.yaml
        kubectl apply --dry-run=server --validate=warn -f /tmp/warn.yaml
        kubectl apply --dry-run=server --validate=strict -f /tmp/warn.yaml
        kubectl apply --dry-run=server --validate=warn --warnings-as-errors -f /tmp/warn.yaml"#;
    let said = shell(world, line)?;
    for wanted in [
        "Warning: unknown field \"unknown\"",
        "Warning: unknown field \"other\"",
        "2 warnings received",
        "strict decoding error",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

/// `kubectl proxy` upgrades without a server name in its handshake (tailscale/tailscale#12647, kubernetes/kubernetes#32026).
fn exec_and_copy_by_kubectl_proxy(world: &mut World) -> Result<()> {
    let line = r#"
        kubectl proxy --disable-filter --port=8001 > /tmp/proxy.log 2>&1 & proxy=$!
        until wget -q -O /dev/null http://127.0.0.1:8001/version 2>/dev/null; do sleep 0.1; done
        by="kubectl --server http://127.0.0.1:8001 -n lab"
        $by get configmap seed -o jsonpath='{.data.colour}'; echo
        $by exec target -- hostname
        $by logs target
        $by cp target:/srv/index.html /tmp/copied.html > /dev/null 2>&1 && cat /tmp/copied.html
        kill $proxy"#;
    let said = shell(world, line)?;
    for wanted in ["green", "target", "started", "served"] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

/// What every user may ask about itself (gravitational/teleport#55878, #66069; kubernetes/kubernetes#79395).
fn reviews_of_oneself(world: &mut World) -> Result<()> {
    let line = r#"
        kubectl auth can-i list configmaps -n lab
        kubectl auth can-i delete nodes
        kubectl auth can-i --list -n lab | grep -c 'configmaps'"#;
    let said = shell(world, line)?;
    ensure!(said.starts_with("yes\nno\n1\n"), "{said}");
    let who = world.worker("kubectl auth whoami -o json")?.good()?;
    let who: Value = serde_json::from_str(&who)?;
    let groups = &who["status"]["userInfo"]["groups"];
    ensure!(
        *groups == serde_json::json!(["agents:lab", "picket:agents", "system:authenticated"]),
        "each group is one of its own: {groups}"
    );
    Ok(())
}

/// Clients that name no server, another one, or an address (kubernetes/kubernetes#97385, kubernetes/client-go#637).
fn names_in_the_handshake(world: &mut World) -> Result<()> {
    let program = r#"
for name in [None, "kubernetes", "kubernetes.default.svc.cluster.local", "localhost", "elsewhere.example"]:
    for newest in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
        loose = ssl.create_default_context(cafile=account + "/ca.crt")
        loose.check_hostname = False
        loose.maximum_version = newest
        plain = socket.create_connection((host, 443), timeout=20)
        secure = loose.wrap_socket(plain, server_hostname=name)
        secure.sendall(b"GET /version HTTP/1.1\r\nHost: whatever\r\nAuthorization: Bearer " + token.encode() + b"\r\nConnection: close\r\n\r\n")
        print(name, secure.version(), secure.selected_alpn_protocol(), secure.recv(15))
"#;
    let said = probe(world, program, 10)?;
    ensure!(said.matches("HTTP/1.1 200").count() == 10, "{said}");
    Ok(())
}

/// Picket's own answers say of caches what the API server's do (kubernetes/kubernetes#81945, openshift/origin#3184).
fn refusals_are_not_cached(world: &mut World) -> Result<()> {
    let program = r#"
for path in ["/api/v1/namespaces/vault/secrets/none", "/api/v1/nodes/none", "/metrics"]:
    answer, _ = ask("GET", path)
    assert answer.status == 403, answer.status
    assert answer.getheader("Cache-Control") == "no-cache, private", answer.getheaders()
"#;
    for namespace in ["agents", "direct"] {
        world
            .run(
                namespace,
                "worker",
                &["python3", "-c", &format!("{ASK}{program}")],
            )?
            .good()
            .with_context(|| format!("in {namespace}"))?;
    }
    Ok(())
}
