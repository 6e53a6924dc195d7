//! A client that says that it is somebody else than its pod: with a token, by impersonation. What is refused here would
//! otherwise be answered with the agent's rights; a direct client is refused too, or gets that other one's rights.

use anyhow::{Result, ensure};
use picket_tests::secrets::Reach;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::identity::{REQUEST, REVIEW, WHO_AM_I};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    kubectl_with_another_token_is_refused,
    kubectl_as_another_user_is_refused,
    the_pods_own_tokens_pass,
    a_token_among_websocket_protocols_is_refused,
};

/// With some options kubectl does not look for its in-cluster configuration any more, so it is told where the server is.
const SEED: &str = "account=/var/run/secrets/kubernetes.io/serviceaccount; kubectl get configmap seed -n lab \
                    -o jsonpath={.data.colour} -s https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT \
                    --certificate-authority=$account/ca.crt";

/// A bearer token and a password that open nothing.
const NOBODYS: &str = "a-bearer-of-nobodys";
const PASSWORD: &str = "a-password-of-nobodys";

/// A token of the worker's service account as Secrets hold them.
const SECRET: &str = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: worker-token\n  \
                      namespace: agents\n  annotations: {kubernetes.io/service-account.name: worker}\n";

/// Every word of `options` is refused where the same line without them is answered; one record says why.
fn refused(world: &World, options: &str, reason: &str, told: &[&str]) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    let said = world.worker(&format!("{SEED} {options}"))?;
    let mut words = vec!["Allowed instead: the same request with"];
    words.extend(told);
    said.refused(&words)?;
    // Discovery is cached or refused like everything else, so any record of this kind will do.
    let record = picket.wait("the refusal", |record| record["decision"]["reason"] == reason)?;
    ensure!(record["decision"]["outcome"] == "deny", "{record:#}");
    ensure!(record["agent"]["identity"] == "worker", "{record:#}");
    ensure!(record["responseStatus"]["code"] == 403, "{record:#}");
    let message = record["decision"]["message"].as_str().unwrap_or_default();
    ensure!(told.iter().all(|word| message.contains(word)), "{record:#}");
    world.admin(&["get", "namespace", "lab"])?;
    let asked = |record: &Value| record["auditID"] == picket_id(&picket, reason);
    ensure!(server.all(asked)?.is_empty(), "the API server was asked");
    Ok(())
}

fn picket_id(log: &picket_tests::audit::Since, reason: &str) -> Value {
    let refusals = log.all(|record| record["decision"]["reason"] == reason);
    refusals
        .unwrap_or_default()
        .first()
        .map_or(Value::Null, |record| record["auditID"].clone())
}

fn token(world: &World, account: &str, options: &[&str]) -> Result<String> {
    let mut arguments = vec!["create", "token", account, "-n", "agents"];
    arguments.extend(options);
    let token = world.admin(&arguments)?.trim().to_owned();
    let name = format!("a token of {account} by TokenRequest");
    world.secrets.add(&name, &token, Reach::Everywhere)?;
    Ok(token)
}

fn kubectl_with_another_token_is_refused(world: &mut World) -> Result<()> {
    for secret in [NOBODYS, PASSWORD, "bm9ib2R5cyB0b2tlbg"] {
        world
            .secrets
            .add("a credential of nobody", secret, Reach::Everywhere)?;
    }
    let direct = world.run(
        "direct",
        "worker",
        &["sh", "-c", &format!("{SEED} --token={NOBODYS}")],
    )?;
    direct.refused(&["logged in to the server"])?;
    refused(
        world,
        &format!("--token={NOBODYS}"),
        "client_credential",
        &["no token of this pod"],
    )?;
    let stranger = token(world, "stranger", &[])?;
    let named = ["a token of service account agents/stranger"];
    refused(world, &format!("--token={stranger}"), "client_credential", &named)?;
    let remote = token(
        world,
        "worker",
        &["--bound-object-kind=Pod", "--bound-object-name=remote"],
    )?;
    let named = ["a token of another pod, agents/remote"];
    refused(world, &format!("--token={remote}"), "client_credential", &named)?;
    let vault = [
        "--audience=vault",
        "--bound-object-kind=Pod",
        "--bound-object-name=worker",
    ];
    let vault = token(world, "worker", &vault)?;
    refused(
        world,
        &format!("--token={vault}"),
        "client_credential",
        &["for another audience"],
    )?;
    let basic = format!("--username=admin --password={PASSWORD}");
    refused(
        world,
        &basic,
        "client_credential",
        &["another scheme than Bearer"],
    )
}

fn kubectl_as_another_user_is_refused(world: &mut World) -> Result<()> {
    let direct = world.run(
        "direct",
        "worker",
        &[
            "sh",
            "-c",
            &format!("{SEED} --token=$(cat $account/token) --as=alice"),
        ],
    )?;
    direct.refused(&["Forbidden"])?;
    let told = ["Impersonate-", "--as, --as-group or --as-uid"];
    refused(
        world,
        "--token=$(cat $account/token) --as=alice",
        "client_impersonation",
        &told,
    )?;
    refused(
        world,
        "--token=$(cat $account/token) --as=agent:worker --as-group=agents:lab",
        "client_impersonation",
        &told,
    )?;
    refused(
        world,
        "--token=$(cat $account/token) --as=alice --as-uid=7",
        "client_impersonation",
        &told,
    )
}

/// The mounted token in any form, no token, and the account's tokens that are bound to no pod.
fn the_pods_own_tokens_pass(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let unbound = token(world, "worker", &[])?;
    world.cluster.apply(SECRET)?;
    let from_secret = crate::life::until(|| {
        let arguments = [
            "get",
            "secret",
            "worker-token",
            "-n",
            "agents",
            "-o",
            "go-template={{.data.token | base64decode}}",
        ];
        Ok(Some(world.admin(&arguments)?).filter(|token| token.starts_with("ey")))
    });
    world.admin(&["delete", "secret", "worker-token", "-n", "agents"])?;
    let from_secret = from_secret?;
    world
        .secrets
        .add("the token of a Secret", &from_secret, Reach::Everywhere)?;
    for options in [
        "--token=$(cat $account/token)".to_owned(),
        format!("--token={unbound}"),
        format!("--token={from_secret}"),
    ] {
        let colour = world.worker(&format!("{SEED} {options}"))?.good()?;
        ensure!(colour == "green", "{options}: {colour}");
    }
    let colour = world
        .worker("kubectl get configmap seed -n lab -o jsonpath={.data.colour}")?
        .good()?;
    ensure!(colour == "green", "{colour}");
    let arguments = ["POST", WHO_AM_I, REVIEW, "Authorization="];
    let answer: Value = serde_json::from_str(&world.python("worker", REQUEST, &arguments)?.good()?)?;
    ensure!(
        answer["body"]["status"]["userInfo"]["username"] == "agent:worker",
        "{answer:#}"
    );
    let refusals = picket.all(|record| record["decision"]["outcome"] == "deny")?;
    ensure!(refusals.is_empty(), "{refusals:#?}");
    Ok(())
}

fn a_token_among_websocket_protocols_is_refused(world: &mut World) -> Result<()> {
    let path = "/api/v1/namespaces/lab/configmaps?watch=1";
    let protocol = "Sec-WebSocket-Protocol=base64url.bearer.authorization.k8s.io.bm9ib2R5cyB0b2tlbg, base64.binary.k8s.io";
    let upgrade = [
        "Connection=Upgrade",
        "Upgrade=websocket",
        "Sec-WebSocket-Version=13",
        "Sec-WebSocket-Key=AAAAAAAAAAAAAAAAAAAAAA==",
    ];
    let mut arguments = vec!["GET", path, protocol];
    arguments.extend(upgrade);
    let answer: Value = serde_json::from_str(&world.python("worker", REQUEST, &arguments)?.good()?)?;
    ensure!(answer["code"] == 403, "{answer:#}");
    let message = answer["body"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("no token of this pod"), "{answer:#}");
    Ok(())
}
