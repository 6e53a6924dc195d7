//! An agent asks for a person by the person's token, of a real issuer: its grant and the person's RBAC decide together.

use anyhow::{Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::json;

use crate::Test;
use crate::issuers::{AUDIENCE, Bed, with_issuers};
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    an_agent_asks_for_a_person_where_its_grant_and_the_persons_rbac_both_allow_it,
};

/// Both allow it.
const BOTH: &str = "/api/v1/namespaces/lab/pods/target";
/// The agent's grant on behalf of people alone allows it.
const AGENT: &str = "/api/v1/namespaces/lab/configmaps/seed";
/// The person's RBAC alone allows it.
const PERSON: &str = "/api/v1/namespaces/lab/serviceaccounts/default";

/// What the person may do at the API server, and the node's right to act as the person.
const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: person, namespace: lab}
rules: [{apiGroups: [""], resources: [pods, serviceaccounts], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: person, namespace: lab}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: person}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "oidc:ci"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: node-acts-for-person}
rules: [{apiGroups: [authentication.k8s.io], resources: [users], resourceNames: ["oidc:ci"], verbs: ["impersonate:user-info"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: node-acts-for-person}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: node-acts-for-person}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "picket:nodes"}]
"#;

fn grant(issuer: &str) -> String {
    format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: for-people}}\nspec:\n  to: {{identities: [worker]}}\n  \
         upstream: {{onBehalfOf: {{issuers: ['{issuer}'], users: ['oidc:ci']}}}}\n  namespaces: [lab]\n  rules:\n  \
         - {{apiGroups: [''], resources: [pods, configmaps], verbs: [get]}}\n"
    )
}

/// No agent reads pods for this person.
const RULE: &str = r#"
apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata: {name: people}
spec:
  rules:
  - name: not-for-ci
    match: {verbs: [get], resources: [pods]}
    when: has(agent.onBehalfOf) && agent.onBehalfOf.username == 'oidc:ci' && agent.name == 'worker'
    action: Deny
    message: Pods are not read for this person.
"#;

/// What the worker's pod gets with a token that is not its own.
fn ask(world: &World, path: &str, token: &str) -> Result<Done> {
    world.worker(&format!(
        "kubectl get --raw {path} --token={token} -s https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT \
         --certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt </dev/null"
    ))
}

fn an_agent_asks_for_a_person_where_its_grant_and_the_persons_rbac_both_allow_it(
    world: &mut World,
) -> Result<()> {
    with_issuers(world, |world, bed| {
        world.cluster.apply(RIGHTS)?;
        let tested = without_a_grant(world, bed).and_then(|()| with_a_grant(world, bed));
        world.agent.remove_objects("people.yaml")?;
        world.admin(&["delete", "role,rolebinding", "person", "-n", "lab"])?;
        world.admin(&["delete", "clusterrole,clusterrolebinding", "node-acts-for-person"])?;
        tested
    })
}

/// The refusal, with what the record says of it.
fn refused(world: &World, path: &str, token: &str, reason: &str, told: &[&str]) -> Result<()> {
    let log = world.picket_log();
    ask(world, path, token)?.refused(told)?;
    let record = log.wait(reason, |record| {
        record["requestURI"] == path && record["decision"]["reason"] == reason
    })?;
    ensure!(
        record["agent"]["identity"] == "worker" && !record.to_string().contains(token),
        "{record:#}"
    );
    Ok(())
}

fn without_a_grant(world: &World, bed: &mut Bed) -> Result<()> {
    let token = bed.provider.token("ci", AUDIENCE)?;
    refused(world, BOTH, &token, "client_credential", &["onBehalfOf"])
}

/// A rule about the person refuses the agent in the person's name, and not the agent by itself.
fn a_rule_sees_the_person(world: &World, token: &str) -> Result<()> {
    world.agent.write_objects("people-rule.yaml", RULE)?;
    let refused = until(|| {
        let said = ask(world, BOTH, token)?;
        Ok((said.code != 0).then_some(said))
    });
    let own = world.worker(&format!("kubectl get --raw {BOTH}"));
    world.agent.remove_objects("people-rule.yaml")?;
    refused?.refused(&[
        "agent worker on behalf of oidc:ci may not get pods",
        "(policy people, rule not-for-ci): Pods are not read for this person.",
    ])?;
    own?.good()?;
    until(|| Ok((ask(world, BOTH, token)?.code == 0).then_some(())))
}

fn with_a_grant(world: &World, bed: &mut Bed) -> Result<()> {
    world
        .agent
        .write_objects("people.yaml", &grant(&bed.provider.url()))?;
    let token = bed.provider.token("ci", AUDIENCE)?;
    let log = world.picket_log();
    // The grant and the RBAC objects take a moment to be in force.
    until(|| Ok((ask(world, BOTH, &token)?.code == 0).then_some(())))?;
    let record = log.wait("the person's request", |record| {
        record["requestURI"] == BOTH && record["responseStatus"]["code"] == 200
    })?;
    let chain = json!({"issuer": bed.provider.url(), "subject": "ci", "username": "oidc:ci", "actors": [{"subject": "portal"}]});
    ensure!(
        record["impersonatedUser"]["username"] == "oidc:ci"
            && record["impersonatedUser"]["extra"]["picket.dev/identity"] == json!(["worker"])
            && record["agent"]["identity"] == "worker"
            && record["agent"]["attestation"] == "pod"
            && record["agent"]["onBehalfOf"] == chain
            && record["decision"]["policy"] == "for-people",
        "{record:#}"
    );
    a_rule_sees_the_person(world, &token)?;
    // The API server decides last, by the person's RBAC.
    ask(world, AGENT, &token)?.refused(&["User \"oidc:ci\" cannot get resource \"configmaps\""])?;
    refused(
        world,
        PERSON,
        &token,
        "no_grant",
        &["agent worker on behalf of oidc:ci may not get serviceaccounts"],
    )?;
    let other = bed.provider.token("other", AUDIENCE)?;
    refused(
        world,
        BOTH,
        &other,
        "not_on_behalf_of",
        &["may not ask on behalf of oidc:other"],
    )?;
    let elsewhere = bed.provider.token("ci", "https://other.test")?;
    refused(world, BOTH, &elsewhere, "jwt_audience", &[])?;
    bed.provider.shift_clock(-665)?;
    let expired = bed.provider.token("ci", AUDIENCE);
    bed.provider.shift_clock(0)?;
    refused(world, BOTH, &expired?, "jwt_expired", &[])?;
    // The agent's own requests are as before.
    world.worker(&format!("kubectl get --raw {AGENT}"))?.good()?;
    // A mapping that makes one of the API server's own users.
    bed.rewrite_issuers(|text| text.replace("\"prefix\":\"oidc:\"", "\"prefix\":\"system:\""))?;
    until(|| {
        let said = ask(world, BOTH, &token)?;
        Ok(said.err.contains("a part of the cluster").then_some(()))
    })?;
    refused(world, BOTH, &token, "person_unfit", &["a part of the cluster"])
}
