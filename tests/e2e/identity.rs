//! Who asks, and as whom: the identity of the pod, what the client says of itself, and what reaches the API server.

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::world::World;
use picket_tests::audit::{Since, about};
use picket_tests::output::Done;
use picket_tests::running::Running;

pub(crate) const TESTS: &[Test] = tests! {
    a_rotated_certificate_is_used,
    the_server_sees_the_impersonated_user,
    the_source_is_the_pod_in_both_logs,
    what_only_a_proxy_may_say_is_dropped,
    a_service_account_has_its_groups,
    a_service_account_acts_by_its_own_token,
    a_suspended_identity_is_refused,
    a_pod_without_identity_is_refused,
    the_process_is_the_one_that_asked,
    the_right_to_impersonate_is_bounded,
    the_nodes_credential_speaks_for_its_agents_only,
    no_rule_lets_the_nodes_credential_be_a_master_a_node_or_a_service_account,
    impersonation_costs_the_server_one_check,
};

/// One request by the in-cluster configuration: arguments are the method, the path, and `NAME=VALUE` for each further header;
/// a `body=` is what it says. Prints the status code and the body as JSON, and with `hold` waits for its input to end.
pub(crate) const REQUEST: &str = r#"
import http.client, json, os, ssl, sys
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
method, path, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
headers = [("Accept", "application/json"), ("Content-Type", "application/json")]
headers += [tuple(word.split("=", 1)) for word in rest if "=" in word and not word.startswith("body=")]
if not any(name == "Authorization" for name, _ in headers):
    headers.append(("Authorization", "Bearer " + open(account + "/token").read()))
body = next((word[5:] for word in rest if word.startswith("body=")), "")
connection = http.client.HTTPSConnection(host, port, context=context, timeout=20)
connection.putrequest(method, path)
for name, value in headers:
    connection.putheader(name, value)
connection.putheader("Content-Length", str(len(body)))
connection.endheaders(body.encode())
answer = connection.getresponse()
text = answer.read().decode()
try:
    text = json.loads(text)
except ValueError:
    pass
print(json.dumps({"code": answer.status, "body": text, "retryAfter": answer.getheader("Retry-After"), "auditID": answer.getheader("Audit-Id"), "pid": os.getpid()}), flush=True)
if "hold" in rest:
    sys.stdin.read()
"#;

pub(crate) const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
pub(crate) const REVIEW: &str =
    r#"body={"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;

/// An identity for the pod that has none, with a grant that hands out more than the node may.
const TOO_MUCH: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: stranger}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: stranger}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: too-much}
spec:
  to: {identities: [stranger]}
  upstream: {impersonate: {user: "agent:worker", groups: ["agents:vault"]}}
  rules:
  - {apiGroups: [""], resources: [secrets], verbs: [get]}
"#;

fn the_server_sees_the_impersonated_user(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    world
        .worker("kubectl create configmap whose -n lab && kubectl delete configmap whose -n lab")?
        .good()?;
    let complete = |record: &Value| {
        about(record, "delete", "configmaps", "whose") && record["stage"] == "ResponseComplete"
    };
    let ours = picket.wait("the delete", complete)?;
    let theirs = server.wait("the delete", complete)?;
    let node = format!("picket:{}", world.cluster.node().name);
    ensure!(theirs["user"]["username"] == node.as_str(), "{theirs:#}");
    ensure!(
        theirs["impersonatedUser"]["username"] == "agent:worker",
        "{theirs:#}"
    );
    let groups = theirs["impersonatedUser"]["groups"]
        .as_array()
        .context("no groups")?;
    ensure!(groups.iter().any(|group| group == "agents:lab"), "{theirs:#}");
    for fact in ["username", "groups", "extra"] {
        ensure!(
            ours["impersonatedUser"][fact] == theirs["impersonatedUser"][fact]
                && !ours["impersonatedUser"][fact].is_null(),
            "the two logs have another user: {ours:#} {theirs:#}"
        );
    }
    ensure!(
        ours["auditID"] == theirs["auditID"],
        "one request has two ids: {} and {}",
        ours["auditID"],
        theirs["auditID"]
    );
    Ok(())
}

/// Both logs have the address that the API server sees of a pod that asks it directly; the API server's has the node's after it.
fn the_source_is_the_pod_in_both_logs(world: &mut World) -> Result<()> {
    for (at, pod) in [(0, "worker"), (1, "remote")] {
        let address = world
            .admin(&[
                "get",
                "pod",
                pod,
                "-n",
                "agents",
                "-o",
                "jsonpath={.status.podIP}",
            ])?
            .trim()
            .to_owned();
        let agent = if at == 0 { &world.agent } else { &world.other };
        let (picket, server) = (Since::now(&agent.audit_directory()), world.server_log());
        let path = format!("/api/v1/namespaces/lab/configmaps/source-of-{pod}");
        let arguments = [
            "GET",
            path.as_str(),
            "X-Forwarded-For=192.0.2.1",
            "X-Real-Ip=192.0.2.1",
        ];
        world.python(pod, REQUEST, &arguments)?.good()?;
        let wanted =
            |record: &Value| record["requestURI"] == path.as_str() && record["stage"] == "ResponseComplete";
        let theirs = server.wait("the request", wanted)?;
        let node = world.cluster.nodes()[at].address.to_string();
        ensure!(theirs["sourceIPs"] == json!([address, node]), "{pod}: {theirs:#}");
        let ours = picket.wait("the request", wanted)?;
        ensure!(ours["sourceIPs"] == json!([address]), "{pod}: {ours:#}");
    }
    let address = world.admin(&[
        "get",
        "pod",
        "worker",
        "-n",
        "direct",
        "-o",
        "jsonpath={.status.podIP}",
    ])?;
    let server = world.server_log();
    world.run(
        "direct",
        "worker",
        &[
            "kubectl",
            "get",
            "--raw",
            "/api/v1/namespaces/lab/configmaps/direct-source",
        ],
    )?;
    let theirs = server.wait("the direct request", |record| {
        record["requestURI"] == "/api/v1/namespaces/lab/configmaps/direct-source"
    })?;
    ensure!(theirs["sourceIPs"] == json!([address.trim()]), "{theirs:#}");
    Ok(())
}

fn what_only_a_proxy_may_say_is_dropped(world: &mut World) -> Result<()> {
    let plain = who(world, &[])?;
    ensure!(plain["username"] == "agent:worker", "Picket asks as {plain}");
    let pretending = who(
        world,
        &[
            "X-Remote-User=system:admin",
            "X-Remote-Group=system:masters",
            "X-Remote-Extra-Scopes=all",
            "Cookie=session=1",
            "X-Forwarded-For=192.0.2.1",
        ],
    )?;
    ensure!(
        plain == pretending,
        "a client made itself {pretending} out of {plain}"
    );
    ensure!(!plain["groups"].to_string().contains("system:masters"), "{plain}");
    Ok(())
}

fn who(world: &World, headers: &[&str]) -> Result<Value> {
    let mut arguments = vec!["POST", WHO_AM_I, REVIEW];
    arguments.extend(headers);
    who_is(world, "worker", &arguments)
}

fn who_is(world: &World, pod: &str, arguments: &[&str]) -> Result<Value> {
    let answer: Value = serde_json::from_str(&world.python(pod, REQUEST, arguments)?.good()?)?;
    ensure!(answer["code"] == 201, "{answer:#}");
    Ok(answer["body"]["status"]["userInfo"].clone())
}

/// An identity that acts as a service account, with or without further groups, and the node's rights to do so.
const ROBOT: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata: {name: stranger}
spec:
  owner: lab@example.test
  attest: {pod: {namespace: agents, serviceAccount: stranger}}
---
apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata: {name: robot}
spec:
  to: {identities: [stranger]}
  upstream: {impersonate: {user: "system:serviceaccount:lab:robot"}}
  rules:
  - {apiGroups: [""], resources: [configmaps], verbs: [get]}
"#;
const ROBOT_RIGHTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: lab}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: picket-node-robot}
rules:
- {apiGroups: [""], resources: [serviceaccounts], resourceNames: [robot], verbs: [impersonate]}
- apiGroups: [""]
  resources: [groups]
  resourceNames: ["agents:lab", "system:serviceaccounts", "system:serviceaccounts:lab"]
  verbs: [impersonate]
- apiGroups: [authentication.k8s.io]
  resources: [userextras/picket.dev/identity, userextras/picket.dev/pod, userextras/picket.dev/session]
  verbs: [impersonate]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: picket-node-robot}
roleRef: {kind: ClusterRole, name: picket-node-robot, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: Group, name: "picket:nodes", apiGroup: rbac.authorization.k8s.io}]
"#;

/// With groups in the grant too, where the API server by itself adds none; and the record has them all.
fn a_service_account_has_its_groups(world: &mut World) -> Result<()> {
    world.cluster.apply(ROBOT_RIGHTS)?;
    let seen = as_a_robot(world);
    world.agent.remove_objects("robot.yaml")?;
    world.admin(&["delete", "clusterrole,clusterrolebinding", "picket-node-robot"])?;
    world.admin(&["delete", "serviceaccount", "robot", "-n", "lab"])?;
    let [alone, with_groups] = seen?;
    let own = [
        "system:authenticated",
        "system:serviceaccounts",
        "system:serviceaccounts:lab",
    ];
    ensure!(alone == own, "without groups in the grant: {alone:?}");
    ensure!(
        with_groups == [&["agents:lab"][..], &own].concat(),
        "with groups in the grant: {with_groups:?}"
    );
    Ok(())
}

/// The groups that the API server sees, first without and then with groups in the grant.
fn as_a_robot(world: &World) -> Result<[Vec<String>; 2]> {
    let user = "user: \"system:serviceaccount:lab:robot\"";
    let more = ROBOT.replace(user, &format!("{user}, groups: [\"agents:lab\"]"));
    let mut seen = [Vec::new(), Vec::new()];
    for (objects, groups) in [ROBOT, &more].into_iter().zip(&mut seen) {
        world.agent.write_objects("robot.yaml", objects)?;
        let wanted = usize::from(objects.contains("agents:lab"));
        *groups = crate::life::until(|| {
            let picket = world.picket_log();
            let answer = world
                .python("stranger", REQUEST, &["POST", WHO_AM_I, REVIEW])?
                .good()?;
            let answer: Value = serde_json::from_str(&answer)?;
            let info = &answer["body"]["status"]["userInfo"];
            let groups = sorted(&info["groups"]);
            if answer["code"] != 201 || groups.iter().filter(|group| *group == "agents:lab").count() != wanted
            {
                return Ok(None);
            }
            let record = picket.wait("the review", |record| {
                record["objectRef"]["resource"] == "selfsubjectreviews"
                    && record["stage"] == "ResponseComplete"
            })?;
            ensure!(
                sorted(&record["impersonatedUser"]["groups"]) == groups,
                "the API server saw {groups:?}: {record:#}"
            );
            Ok(Some(groups))
        })?;
    }
    Ok(seen)
}

/// The right to request tokens of that account in that namespace, and what the account itself may do.
const TOKEN_RIGHTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer, namespace: lab}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: picket-node-tokens, namespace: lab}
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [deployer], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: picket-node-tokens, namespace: lab}
roleRef: {kind: Role, name: picket-node-tokens, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: Group, name: "picket:nodes", apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer-views, namespace: lab}
roleRef: {kind: ClusterRole, name: view, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: ServiceAccount, name: deployer, namespace: lab}]
"#;

/// The API server's own log has the account as the user, and the token's id; the node is nowhere in it.
pub(crate) fn a_service_account_acts_by_its_own_token(world: &mut World) -> Result<()> {
    let objects = ROBOT.replace(
        "impersonate: {user: \"system:serviceaccount:lab:robot\"}",
        "serviceAccount: {namespace: lab, name: deployer}",
    );
    world.agent.write_objects("deployer.yaml", &objects)?;
    let outcome = as_the_deployer(world);
    world.agent.remove_objects("deployer.yaml")?;
    world
        .cluster
        .kubectl_stdin(&["delete", "--ignore-not-found", "-f", "-"], TOKEN_RIGHTS)?;
    outcome
}

fn as_the_deployer(world: &World) -> Result<()> {
    const SEED: &str = "/api/v1/namespaces/lab/configmaps/seed";
    let ask = || -> Result<Value> {
        let answer = world.python("stranger", REQUEST, &["GET", SEED])?.good()?;
        Ok(serde_json::from_str(&answer)?)
    };
    // The account is not there, and nobody may have its tokens.
    let answer = crate::life::until(|| {
        let answer = ask()?;
        let told = answer.to_string().contains("service account lab/deployer");
        Ok(told.then_some(answer))
    })?;
    ensure!(
        answer["code"] == 403 && answer["retryAfter"].is_null(),
        "{answer:#}"
    );
    let message = answer["body"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("serviceaccounts/token"), "{message}");

    world.cluster.apply(TOKEN_RIGHTS)?;
    let (picket, server) = (world.picket_log(), world.server_log());
    let answer = crate::life::until(|| {
        let answer = ask()?;
        Ok((answer["code"] == 200).then_some(answer))
    })?;
    let last =
        |record: &Value| record["auditID"] == answer["auditID"] && record["stage"] == "ResponseComplete";
    let ours = picket.wait("the get", last)?;
    let theirs = server.wait("the get", last)?;
    let user = &theirs["user"];
    ensure!(
        user["username"] == "system:serviceaccount:lab:deployer",
        "{theirs:#}"
    );
    ensure!(theirs["impersonatedUser"].is_null(), "{theirs:#}");
    for fact in ["username", "groups"] {
        ensure!(
            ours["impersonatedUser"][fact] == user[fact],
            "{ours:#} {theirs:#}"
        );
    }
    ensure!(
        ours["credential"]["method"] == "service-account-token",
        "{ours:#}"
    );
    let id = &user["extra"]["authentication.kubernetes.io/credential-id"][0];
    ensure!(
        ours["credential"]["id"] == *id && id.as_str().is_some_and(|id| id.starts_with("JTI=")),
        "{ours:#} {theirs:#}"
    );
    // The node asked for the token as itself, once for all requests.
    let issued = server.all(|record| {
        about(record, "create", "serviceaccounts/token", "deployer")
            && record["stage"] == "ResponseComplete"
            && record["responseStatus"]["code"] == 201
    })?;
    ensure!(issued.len() == 1, "{issued:#?}");
    let node = format!("picket:{}", world.cluster.node().name);
    ensure!(issued[0]["user"]["username"] == node.as_str(), "{:#}", issued[0]);
    // What the account may not do, the node's rights do not help with.
    let path = "/api/v1/namespaces/vault/configmaps/seed";
    let answer = world.python("stranger", REQUEST, &["GET", path])?.good()?;
    ensure!(
        answer.contains("403") && answer.contains("system:serviceaccount:lab:deployer"),
        "{answer}"
    );
    Ok(())
}

fn sorted(groups: &Value) -> Vec<String> {
    let groups = groups.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut groups: Vec<_> = groups
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    groups.sort();
    groups
}

fn a_suspended_identity_is_refused(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let path = "/api/v1/namespaces/lab/configmaps/seed";
    let said = world.run("agents", "sleeper", &["kubectl", "get", "--raw", path])?;
    said.refused(&["Forbidden", "sleeper", "suspended"])?;
    // Nothing else is open to it either, not even what every user of the API server may ask.
    let said = world.run(
        "agents",
        "sleeper",
        &["kubectl", "get", "configmap", "seed", "-n", "lab"],
    )?;
    said.refused(&["Forbidden", "sleeper", "suspended"])?;
    let record = picket.wait("the denial", |record| record["agent"]["pod"]["name"] == "sleeper")?;
    ensure!(record["decision"]["outcome"] == "deny", "{record:#}");
    world.admin(&["get", "namespace", "lab"])?;
    let impersonated = |record: &Value| record["impersonatedUser"]["username"] == "agent:sleeper";
    ensure!(server.all(impersonated)?.is_empty(), "the API server was asked");
    Ok(())
}

fn a_pod_without_identity_is_refused(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    for path in [
        "/api/v1/namespaces/lab/configmaps/seed",
        "/api",
        "/version",
        "/healthz",
    ] {
        let answer = world.python("stranger", REQUEST, &["GET", path])?.good()?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(
            answer["code"] == 403 && answer["body"]["reason"] == "Forbidden",
            "{path}: {answer:#}"
        );
        let message = answer["body"]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("stranger") && message.contains("AgentIdentity"),
            "{path}: {message}"
        );
    }
    let record = picket.wait("the denial", |record| {
        record["agent"]["pod"]["name"] == "stranger"
    })?;
    ensure!(
        record["decision"]["outcome"] == "deny" && record["agent"]["identity"].is_null(),
        "{record:#}"
    );
    Ok(())
}

fn the_process_is_the_one_that_asked(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let argv = [
        "python3",
        "-c",
        REQUEST,
        "GET",
        "/api/v1/namespaces/lab/configmaps/seed",
        "hold",
    ];
    let mut running = Running::start(&world.cluster.kubectl_client(), "agents", "worker", &argv)?;
    let answer: Value = serde_json::from_str(&running.line()?)?;
    let record = picket.wait("the get", |record| about(record, "get", "configmaps", "seed"))?;
    let process = &record["agent"]["process"];
    let pid = process["pid"].as_u64().context("no pid")?;
    // It still runs, so the node's number for it can be checked against its own.
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("no such process on the node")?;
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .and_then(|line| line.split_whitespace().last());
    ensure!(
        inner == Some(answer["pid"].to_string().as_str()),
        "{process} is not {}",
        answer["pid"]
    );
    let exe = process["exe"].as_str().unwrap_or_default();
    ensure!(exe.contains("python3"), "{process}");
    ensure!(
        process["comm"]
            .as_str()
            .is_some_and(|comm| comm.starts_with("python3")),
        "{process}"
    );
    ensure!(record["agent"]["container"] == "main", "{record:#}");
    running.wait().map(drop)
}

/// A grant that names a group the node may not act as fails at the API server, whatever Picket thinks of it.
fn the_right_to_impersonate_is_bounded(world: &mut World) -> Result<()> {
    let server = world.server_log();
    world.agent.write_objects("too-much.yaml", TOO_MUCH)?;
    let path = "/api/v1/namespaces/vault/secrets/crown";
    let refused = crate::life::until(|| {
        let answer = world.python("stranger", REQUEST, &["GET", path])?.good()?;
        ensure!(!answer.contains("jewel"), "the secret came out");
        let reached = server.all(|record| record["requestURI"] == path)?;
        Ok((!reached.is_empty()).then_some((answer, reached)))
    });
    world.agent.remove_objects("too-much.yaml")?;
    let (answer, reached) = refused?;
    ensure!(
        answer.contains("cannot impersonate") && answer.contains("agents:vault"),
        "{answer}"
    );
    ensure!(reached[0]["responseStatus"]["code"] == 403, "{:#}", reached[0]);
    Ok(())
}

/// Whoever holds a node's credential can be the agents of the grants, and nobody else.
fn the_nodes_credential_speaks_for_its_agents_only(world: &mut World) -> Result<()> {
    let ask = |who: &[&str]| as_the_node(world, who);
    ask(&["--as=agent:worker", "--as-group=agents:lab"])?.good()?;
    for who in [
        &["--as=agent:worker", "--as-group=system:masters"][..],
        &["--as=agent:worker", "--as-group=agents:vault"],
        &["--as=agent:worker", "--as-uid=1"],
        &["--as=admin"],
        &["--as=system:serviceaccount:kube-system:default"],
        &["--as=system:node:node1"],
    ] {
        ask(who)?.refused(&["forbidden", "impersonat"])?;
    }
    Ok(())
}

/// A read with the node's own credential, as somebody else.
fn as_the_node(world: &World, who: &[&str]) -> Result<Done> {
    let client = world.cluster.kubectl_client();
    let mut command = client.command(&["get", "configmap", "seed", "-n", "lab"])?;
    command
        .args(who)
        .env("KUBECONFIG", world.agent.dir().join("kubeconfig"));
    Ok(command.stdin(std::process::Stdio::null()).output()?.into())
}

/// What an operator may add to deploy/rbac.yaml by mistake, in its verbs; and a group that it may add.
const TOO_POWERFUL: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: picket-node-too-powerful}
rules:
- apiGroups: [authentication.k8s.io]
  resources: [groups]
  resourceNames: ["system:masters", "agents:late"]
  verbs: ["impersonate:user-info"]
- apiGroups: [authentication.k8s.io]
  resources: [users]
  resourceNames: ["system:node:node1", "system:serviceaccount:kube-system:default"]
  verbs: ["impersonate:user-info"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: picket-node-too-powerful}
roleRef: {kind: ClusterRole, name: picket-node-too-powerful, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: Group, name: "picket:nodes", apiGroup: rbac.authorization.k8s.io}]
"#;

/// The API server itself (Kubernetes 1.36, constrained impersonation) refuses these under the verbs of deploy/rbac.yaml, even where
/// a rule names them.
fn no_rule_lets_the_nodes_credential_be_a_master_a_node_or_a_service_account(
    world: &mut World,
) -> Result<()> {
    world.cluster.apply(TOO_POWERFUL)?;
    let outcome = never_more_than_an_agent(world);
    world.admin(&[
        "delete",
        "clusterrole,clusterrolebinding",
        "picket-node-too-powerful",
    ])?;
    outcome
}

fn never_more_than_an_agent(world: &World) -> Result<()> {
    // The rule that lists `system:masters` is in force, and its other group is given.
    let late = [
        "--as=agent:worker",
        "--as-group=agents:lab",
        "--as-group=agents:late",
    ];
    crate::life::until(|| Ok(as_the_node(world, &late)?.good().ok()))?;
    for who in [
        &["--as=agent:worker", "--as-group=system:masters"][..],
        &[
            "--as=agent:worker",
            "--as-group=agents:lab",
            "--as-group=system:masters",
        ],
        &["--as=system:node:node1"],
        &["--as=system:serviceaccount:kube-system:default"],
    ] {
        as_the_node(world, who)?.refused(&["forbidden", "impersonat"])?;
    }
    Ok(())
}

/// So many reads, each of another object.
const READS: usize = 40;

/// Reads objects that are not there, over one connection: the API server impersonates before it looks.
const MANY_READS: &str = r#"
import http.client, os, ssl, sys
account = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=account + "/ca.crt")
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], 443, context=context, timeout=20)
for at in range(int(sys.argv[1])):
    connection.request("GET", "/api/v1/namespaces/lab/configmaps/cost-%d" % at)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 404, answer.status
"#;

/// The older verb costs a check for each user, group and extra: five a request here.
fn impersonation_costs_the_server_one_check(world: &mut World) -> Result<()> {
    // The first read makes the API server remember the mode and the user.
    world.worker(crate::life::GET_SEED)?.good()?;
    let (server, before) = (world.server_log(), impersonation_checks(world)?);
    world
        .python("worker", MANY_READS, &[&READS.to_string()])?
        .good()?;
    let checks = impersonation_checks(world)? - before;
    // What is kept expires after 10 s, and other pods ask too: half a check a request more.
    ensure!(
        checks <= READS as f64 * 1.5,
        "{READS} requests cost the API server {checks} checks"
    );
    let ours = |record: &Value| {
        record["requestURI"]
            .as_str()
            .is_some_and(|path| path.contains("/configmaps/cost-"))
            && record["stage"] == "ResponseComplete"
    };
    let seen = server.all(ours)?;
    ensure!(seen.len() == READS, "{} of {READS} records", seen.len());
    for record in seen {
        ensure!(
            record["authenticationMetadata"]["impersonationConstraint"] == "impersonate:user-info",
            "not constrained: {record:#}"
        );
    }
    Ok(())
}

/// How often the API server has judged a right to impersonate.
fn impersonation_checks(world: &World) -> Result<f64> {
    let text = world.admin(&["get", "--raw", "/metrics"])?;
    let counts = text
        .lines()
        .filter(|line| line.starts_with("apiserver_impersonation_authorization_attempts_total{"));
    Ok(counts
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}

/// The node's certificate is replaced, then broken, while the agent runs.
fn a_rotated_certificate_is_used(world: &mut World) -> Result<()> {
    let credential = || -> Result<Value> {
        let picket = world.picket_log();
        world.worker(crate::life::GET_SEED)?.good()?;
        let record = picket.wait("the get", |record| about(record, "get", "configmaps", "seed"))?;
        Ok(record["credential"]["id"].clone())
    };
    let first = credential()?;
    ensure!(
        first.is_string(),
        "the record does not say which certificate was used: {first}"
    );
    let files = world.agent.rotate_certificate(&world.cluster)?;
    let second = crate::life::until(|| Ok(Some(credential()?).filter(|id| *id != first)))?;
    std::fs::write(&files.cert, "nothing")?;
    let said = crate::life::until(|| {
        let (_, ready) = world.agent.admin("/readyz")?;
        Ok(ready.contains("upstream").then_some(ready))
    });
    let meanwhile = credential();
    world.agent.rotate_certificate(&world.cluster)?;
    ensure!(
        said?.contains(&files.cert.display().to_string()),
        "readiness does not name the broken file"
    );
    ensure!(
        meanwhile? == second,
        "the last good certificate is no longer in use"
    );
    crate::life::until(|| Ok(Some(credential()?).filter(|id| *id != second)))?;
    Ok(())
}
