//! Limits of a policy, with real clients: what they are answered, that they wait and go on, and what the records say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    above_the_rate_clients_are_told_to_wait_and_kubectl_does,
    a_watch_takes_a_place_until_it_ends,
    a_loop_is_told_once_and_ends_within_the_minute,
    limits_in_mode_audit_refuse_nothing,
};

/// Sends one request so many times over one connection, and prints code, `Retry-After` and `Audit-ID` of each answer, and the last body.
const REPEAT: &str = r#"
import http.client, json, os, ssl, sys
method, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=account + "ca.crt")
token = open(account + "token").read()
connection = http.client.HTTPSConnection(os.environ["KUBERNETES_SERVICE_HOST"], 443, context=context, timeout=20)
answers, body = [], b""
for _ in range(count):
    connection.request(method, path, headers={"Authorization": "Bearer " + token})
    answer = connection.getresponse()
    body = answer.read()
    answers.append([answer.status, answer.getheader("Retry-After"), answer.getheader("Audit-ID")])
print(json.dumps([answers, json.loads(body)]))
"#;

const SEED: &str = "/api/v1/namespaces/lab/configmaps/seed";
const LAB: &str = "/api/v1/namespaces/lab";

/// What the worker is answered, and the body of the last answer.
fn repeat(world: &World, method: &str, path: &str, count: usize) -> Result<(Vec<Value>, Value)> {
    let said = world
        .python("worker", REPEAT, &[method, path, &count.to_string()])?
        .good()?;
    serde_json::from_str(&said).with_context(|| said)
}

/// How many answers have a code.
fn of_code(answers: &[Value], code: u16) -> usize {
    answers.iter().filter(|answer| answer[0] == code).count()
}

/// Runs a test with these limits in force for the worker, and takes them away again.
fn with_limits(world: &mut World, spec: &str, test: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let policy = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{name: pace}}\nspec: {{subjects: {{identities: [worker]}}, {spec}}}\n"
    );
    let generation = |world: &World| world.agent.metric("picket_policy_generation", &[]);
    let before = generation(world)?;
    world.agent.write_objects("pace.yaml", &policy)?;
    until(|| Ok((generation(world)? > before).then_some(())))?;
    let tested = test(world);
    let during = generation(world)?;
    world.agent.remove_objects("pace.yaml")?;
    until(|| Ok((generation(world)? > during).then_some(())))?;
    tested
}

fn above_the_rate_clients_are_told_to_wait_and_kubectl_does(world: &mut World) -> Result<()> {
    with_limits(world, "limits: {requestsPerSecond: 1, burst: 4}", |world| {
        let log = world.picket_log();
        let (answers, body) = repeat(world, "GET", SEED, 12)?;
        ensure!((4..=6).contains(&of_code(&answers, 200)), "{answers:?}");
        ensure!(
            of_code(&answers, 200) + of_code(&answers, 429) == 12,
            "{answers:?}"
        );
        for answer in answers.iter().filter(|answer| answer[0] == 429) {
            ensure!(answer[1] == "1", "{answers:?}");
        }
        let cause = &body["details"]["causes"][0];
        ensure!(
            body["reason"] == "TooManyRequests"
                && cause["field"] == "limits.requestsPerSecond"
                && body["message"].as_str().is_some_and(|message| {
                    message.contains("policy pace") && message.contains("lab@example.test")
                }),
            "{body:#}"
        );
        let record = log.wait("the refusal", |record| {
            record["decision"]["reason"] == "rate_limited"
        })?;
        ensure!(
            record["decision"]["outcome"] == "deny"
                && record["decision"]["policy"] == "pace"
                && record["responseStatus"]["code"] == 429,
            "{record:#}"
        );
        // The bucket is empty. kubectl waits as it is told, and is answered.
        world.worker(&format!("kubectl get --raw {SEED}"))?.good()?;
        Ok(())
    })
}

fn a_watch_takes_a_place_until_it_ends(world: &mut World) -> Result<()> {
    with_limits(world, "limits: {concurrentRequests: 1}", |world| {
        let watch = world.start_worker(
            "kubectl get --raw '/api/v1/namespaces/lab/configmaps?watch=true&timeoutSeconds=25' 2>&1; echo over",
        )?;
        watch.line_with("ADDED")?;
        let (answers, body) = repeat(world, "GET", SEED, 2)?;
        ensure!(of_code(&answers, 429) == 2, "{answers:?}");
        let cause = &body["details"]["causes"][0];
        ensure!(cause["reason"] == "too_many_requests_at_once", "{body:#}");
        // kubectl tries ten times more, and then says why.
        world.worker(&format!("kubectl get --raw {SEED}"))?.refused(&[
            "TooManyRequests",
            "more than 1 requests under way",
            "policy pace, limits.concurrentRequests",
        ])?;
        watch.line_with("over")?;
        world.worker(&format!("kubectl get --raw {SEED}"))?.good()?;
        Ok(())
    })
}

fn a_loop_is_told_once_and_ends_within_the_minute(world: &mut World) -> Result<()> {
    with_limits(world, "limits: {repeatedDenialsPerMinute: 3}", |world| {
        let log = world.picket_log();
        let (answers, body) = repeat(world, "DELETE", LAB, 50)?;
        ensure!(
            of_code(&answers[..3], 403) == 3 && of_code(&answers[3..], 429) == 47,
            "{answers:?}"
        );
        ensure!(
            answers[3..].iter().all(|answer| answer[2] == answers[3][2]),
            "one record: {answers:?}"
        );
        let message = body["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("Namespaces are removed by the platform team."),
            "{message}"
        );
        // Others are not affected.
        let (others, _) = repeat(world, "DELETE", "/api/v1/namespaces/vault", 1)?;
        ensure!(of_code(&others, 403) == 1, "{others:?}");
        let (others, _) = repeat(world, "GET", SEED, 20)?;
        ensure!(of_code(&others, 200) == 20, "{others:?}");
        let open = || world.agent.metric("picket_open_breakers", &[]);
        ensure!(open()? == 1.0, "{}", open()?);

        // kubectl waits for the end of the minute, and is told the reason then.
        world
            .worker("kubectl delete namespace lab --wait=false")?
            .refused(&["Forbidden", "keep-namespaces"])?;
        let is_loop = |record: &Value| record["decision"]["reason"] == "loop";
        let last = log.wait_within(Duration::from_secs(30), "the loop's end", |record| {
            is_loop(record) && record["stage"] == "ResponseComplete"
        })?;
        // The 46 after the first one, and kubectl's.
        let repeats = last["decision"]["repeats"].as_u64().unwrap_or_default();
        ensure!(
            (47..50).contains(&repeats) && last["decision"]["outcome"] == "deny",
            "{last:#}"
        );
        let all = log.all(is_loop)?;
        ensure!(all.len() == 2 && all[0]["stage"] == "ResponseStarted", "{all:#?}");
        ensure!(
            all[0]["auditID"] == answers[3][2] && last["auditID"] == answers[3][2],
            "{all:#?}"
        );
        until(|| Ok((open()? == 0.0).then_some(())))?;
        let events = world.admin(&["get", "events", "-n", "agents", "-o", "json"])?;
        let events: Value = serde_json::from_str(&events)?;
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let told = items.iter().filter(|event| {
            event["reason"] == "LimitExceeded"
                && event["message"]
                    .as_str()
                    .is_some_and(|note| note.contains("same refused request"))
        });
        ensure!(told.count() == 1, "{items:#?}");
        Ok(())
    })
}

fn limits_in_mode_audit_refuse_nothing(world: &mut World) -> Result<()> {
    with_limits(
        world,
        "mode: Audit, limits: {requestsPerSecond: 1, burst: 1}",
        |world| {
            let log = world.picket_log();
            let (answers, _) = repeat(world, "GET", SEED, 5)?;
            ensure!(of_code(&answers, 200) == 5, "{answers:?}");
            let record = log.wait("what it would have refused", |record| {
                let noted = record["decision"]["wouldDeny"].as_array();
                noted.is_some_and(|noted| {
                    noted
                        .iter()
                        .any(|found| found["rule"] == "limits.requestsPerSecond")
                })
            })?;
            ensure!(record["decision"]["outcome"] == json!("allow"), "{record:#}");
            Ok(())
        },
    )
}
