//! What the audit log says of requests: where other programs look for a decision, and what became of writes whose client left.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use picket_tests::output::Done;
use picket_tests::tests;
use serde_json::Value;

use crate::Test;
use crate::life::until;
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    decisions_are_where_siem_rules_look,
    an_answer_names_its_record,
    what_kubectl_sends_to_correlate_is_on_record,
    effects_of_writes_that_were_reset_are_on_record,
    a_command_cannot_hide_in_its_record,
    every_argument_is_shown_however_its_key_is_written,
    long_commands_run_and_are_recorded_whole,
    long_selectors_and_many_fields_pass_as_they_do_directly,
    a_head_beyond_the_limit_is_refused_with_a_status_and_one_record,
};

/// As the API server's own records have it, in its own words.
fn decisions_are_where_siem_rules_look(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    world.worker("kubectl get configmap tick -n lab")?.good()?;
    world
        .worker("kubectl -n vault get secret crown")?
        .refused(&["Forbidden"])?;
    let about = |name: &'static str| move |record: &Value| record["objectRef"]["name"] == name;
    let allowed = picket.wait("the read", about("tick"))?;
    let theirs = server.wait("the read", about("tick"))?;
    let decision = "authorization.k8s.io/decision";
    ensure!(
        allowed["annotations"][decision] == theirs["annotations"][decision],
        "{allowed:#} {theirs:#}"
    );
    let denied = picket.wait("the denial", about("crown"))?;
    ensure!(denied["annotations"][decision] == "forbid", "{denied:#}");
    for (record, words) in [(&allowed, "Picket: allowed by "), (&denied, "Picket: denied")] {
        let reason = record["annotations"]["authorization.k8s.io/reason"].as_str();
        ensure!(
            reason.is_some_and(|reason| reason.starts_with(words)),
            "{record:#}"
        );
    }
    Ok(())
}

/// The API server's answers, and Picket's own.
fn an_answer_names_its_record(world: &mut World) -> Result<()> {
    for (path, code) in [
        ("/api/v1/namespaces/lab/configmaps/seed", 200),
        ("/api/v1/namespaces/vault/secrets/crown", 403),
        ("/api/v1//namespaces", 400),
    ] {
        let picket = world.picket_log();
        let answer = world
            .python("worker", crate::identity::REQUEST, &["GET", path])?
            .good()?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(
            answer["code"] == code && answer["auditID"].is_string(),
            "{path}: {answer:#}"
        );
        let record = picket.wait("the record", |record| record["auditID"] == answer["auditID"])?;
        ensure!(record["requestURI"] == path, "{record:#}");
        ensure!(record["responseStatus"]["code"] == code, "{record:#}");
    }
    Ok(())
}

fn what_kubectl_sends_to_correlate_is_on_record(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    world
        .worker("kubectl get configmap tick -n lab; kubectl get secret crown -n vault")?
        .refused(&["Forbidden"])?;
    let mut sessions = Vec::new();
    for name in ["tick", "crown"] {
        let record = picket.wait("the read", |record| record["objectRef"]["name"] == name)?;
        ensure!(record["trace"]["kubectlCommand"] == "kubectl get", "{record:#}");
        sessions.push(record["trace"]["kubectlSession"].clone());
    }
    let [first, second] = &sessions[..] else {
        unreachable!()
    };
    ensure!(
        first.as_str().is_some_and(|id| id.len() == 36) && first != second,
        "{sessions:?}"
    );
    Ok(())
}

/// Creates ConfigMaps and resets each connection some time after the last byte was sent: 0 to 11 ms, and later, for a machine
/// whose disk takes longer than that to store the first record.
const RESETS: &str = r#"
import json, os, socket, ssl, struct, time
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=folder + "ca.crt")
token = open(folder + "token").read()
for number in range(40):
    plain = socket.create_connection((os.environ["KUBERNETES_SERVICE_HOST"], 443), timeout=20)
    secure = context.wrap_socket(plain, server_hostname="kubernetes.default.svc")
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"reset-{number}"}})
    secure.sendall((f"POST /api/v1/namespaces/lab/configmaps HTTP/1.1\r\nHost: kubernetes\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
    time.sleep((number if number < 12 else 5 * (number - 11)) / 1000)
    secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(secure.detach())
print("done")
"#;

/// No effect without a record of it, whenever the client left.
fn effects_of_writes_that_were_reset_are_on_record(world: &mut World) -> Result<()> {
    let (picket, server) = (world.picket_log(), world.server_log());
    world.python("worker", RESETS, &[])?.good()?;
    // Whatever is under way comes to its end.
    std::thread::sleep(Duration::from_secs(2));
    let listed = world.admin(&["get", "configmaps", "-n", "lab", "-o", "name"])?;
    let effects: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("configmap/"))
        .filter(|name| name.starts_with("reset-"))
        .collect();
    // The API server's log has the names; both logs have the ids.
    let created = server.all(|record| {
        record["verb"] == "create"
            && record["objectRef"]["resource"] == "configmaps"
            && record["stage"] == "ResponseComplete"
    })?;
    let ids: BTreeMap<&str, &str> = created
        .iter()
        .filter_map(|record| Some((record["objectRef"]["name"].as_str()?, record["auditID"].as_str()?)))
        .collect();
    let mut wrong = Vec::new();
    for effect in &effects {
        let id = ids
            .get(effect)
            .with_context(|| format!("the API server did not record {effect}"))?;
        let record = until(|| {
            let found =
                picket.all(|record| record["auditID"] == **id && record["stage"] == "ResponseComplete")?;
            Ok(found.into_iter().next())
        })
        .with_context(|| format!("no record of {effect}"))?;
        let (outcome, code) = (&record["decision"]["outcome"], &record["responseStatus"]["code"]);
        if (outcome != "allow" || code != 201) && outcome != "unknown" {
            wrong.push(format!("{effect}: {outcome} {code}"));
        }
    }
    for effect in &effects {
        world.admin(&["delete", "configmap", effect, "-n", "lab"])?;
    }
    let records = picket.all(|record| record["verb"] == "create")?;
    ensure!(!effects.is_empty(), "no write took effect: {records:?}");
    ensure!(
        wrong.is_empty(),
        "{} of {} effects: {wrong:?}",
        wrong.len(),
        effects.len()
    );
    Ok(())
}

/// What looks like a secret, and a command beside it that runs.
const DISGUISES: [&str; 4] = [
    ": '-----BEGIN PRIVATE KEY'; touch /tmp/hidden",
    "password=x;touch${IFS}/tmp/hidden",
    ": --token \"$(touch /tmp/hidden)\"",
    "TOKEN=touch; $TOKEN /tmp/hidden",
];

fn a_command_cannot_hide_in_its_record(world: &mut World) -> Result<()> {
    for disguise in DISGUISES {
        let picket = world.picket_log();
        let quoted = disguise.replace('\'', r"'\''");
        world
            .worker(&format!("kubectl exec target -n lab -- sh -c '{quoted}'"))?
            .good()?;
        world
            .run("lab", "target", &["rm", "/tmp/hidden"])?
            .good()
            .with_context(|| format!("{disguise} did not run"))?;
        let record = picket.wait("the exec", |record| {
            record["exec"]["command"][0] == "sh" && record["stage"] == "ResponseComplete"
        })?;
        let script = record["exec"]["command"][2].as_str().unwrap_or_default();
        ensure!(
            script.contains("touch") && script.contains("/tmp/hidden"),
            "{disguise} is recorded as {script}"
        );
        ensure!(
            record["query"]["sha256"].as_str().map(str::len) == Some(64),
            "{record:#}"
        );
    }
    Ok(())
}

fn every_argument_is_shown_however_its_key_is_written(world: &mut World) -> Result<()> {
    let picket = world.picket_log();
    let path =
        "/api/v1/namespaces/vault/pods/x/exec?command=sh&%63ommand=-c&c%6fmmand=touch+%2Ftmp%2F%E2%80%AEx";
    world
        .worker(&format!("kubectl get --raw '{path}'"))?
        .refused(&["not found"])?;
    let record = picket.wait("the exec", |record| {
        record["exec"]["command"] == serde_json::json!(["sh", "-c", "touch /tmp/\u{202e}x"])
            && record["stage"] == "ResponseComplete"
    })?;
    ensure!(record["responseStatus"]["code"] == 404, "{record:#}");
    let spool = world.agent.audit_directory().display().to_string();
    let shown = Done::from(world.agent.picket(&["audit", "tail", "-n", "5", &spool])?).good()?;
    ensure!(
        shown.contains(r"$ sh -c 'touch /tmp/\u{202e}x'"),
        "tail shows {shown}"
    );
    Ok(())
}

/// The shell line that runs a script of so many bytes in the target, and what the script prints.
fn long_exec(bytes: usize) -> String {
    format!(
        "kubectl exec target -n lab -- sh -c \": $(head -c {bytes} /dev/zero | tr '\\0' a); echo last words\""
    )
}

fn long_commands_run_and_are_recorded_whole(world: &mut World) -> Result<()> {
    for bytes in [8_000, 60_000, 66_000, 120_000] {
        let picket = world.picket_log();
        let direct = world
            .run("direct", "worker", &["sh", "-c", &long_exec(bytes)])?
            .good()?;
        let said = world.worker(&long_exec(bytes))?.good()?;
        ensure!(said == direct && said.contains("last words"), "{bytes}: {said}");
        let record = picket.wait("the exec", |record| {
            record["exec"]["command"][0] == "sh" && record["stage"] == "ResponseComplete"
        })?;
        ensure!(record["decision"]["outcome"] == "allow", "{record:#}");
        let script = record["exec"]["command"][2].as_str().unwrap_or_default();
        ensure!(
            script.ends_with("; echo last words") && script.starts_with(": aaaa"),
            "{bytes}: the script is recorded in {} bytes",
            script.len()
        );
        let whole = bytes < 64_000;
        ensure!(
            whole == record["exec"]["commandSHA256"].is_null() && (!whole || script.len() > bytes),
            "{bytes}: {}",
            record["exec"]["commandSHA256"]
        );
    }
    Ok(())
}

/// Lists with a label selector of so many bytes, and gets with so many header fields, over HTTP/2 and HTTP/1.1.
fn long_selectors_and_many_fields_pass_as_they_do_directly(world: &mut World) -> Result<()> {
    for bytes in [60_000, 66_000, 125_000] {
        let line = format!(
            "kubectl get pods -n lab -o name -l \"app notin ($(head -c {bytes} /dev/zero | tr '\\0' , | sed 's/,/,a/g; s/^,//'))\""
        );
        let direct = world.run("direct", "worker", &["sh", "-c", &line])?;
        let said = world.worker(&line)?;
        ensure!(
            (said.code, &said.out) == (direct.code, &direct.out),
            "{bytes}: {said:?} and directly {direct:?}"
        );
    }
    Ok(())
}

/// Sends a head of so many bytes and prints the status and the beginning of the answer.
const LONG_HEAD: &str = r#"
import os, socket, ssl, sys
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=folder + "ca.crt")
token = open(folder + "token").read()
plain = socket.create_connection((os.environ["KUBERNETES_SERVICE_HOST"], 443), timeout=20)
secure = context.wrap_socket(plain, server_hostname="kubernetes.default.svc")
kind, size = sys.argv[1], int(sys.argv[2])
selector, fields = "", ""
if kind == "target":
    selector = "&labelSelector=" + "a" * size
else:
    fields = "".join(f"x-{number}: {number}\r\n" for number in range(size))
secure.sendall((f"GET /api/v1/namespaces/lab/configmaps/tick?pretty=false{selector} HTTP/1.1\r\nHost: kubernetes\r\n"
    f"Authorization: Bearer {token}\r\nConnection: close\r\n{fields}\r\n").encode())
answer = b""
while True:
    piece = secure.recv(65536)
    if not piece:
        break
    answer += piece
print(answer.split(b" ")[1].decode(), answer[-400:].decode())
"#;

fn a_head_beyond_the_limit_is_refused_with_a_status_and_one_record(world: &mut World) -> Result<()> {
    for (kind, size) in [("target", "900000"), ("fields", "2000")] {
        let said = world.python("worker", LONG_HEAD, &[kind, size])?.good()?;
        ensure!(said.starts_with("200"), "{kind} {size}: {said}");
    }
    let picket = world.picket_log();
    let said = world
        .python("worker", LONG_HEAD, &["target", "1200000"])?
        .good()?;
    ensure!(said.starts_with("431") && said.contains("1048576"), "{said}");
    picket.wait("the refusal", |record| {
        record["decision"]["reason"] == "head_too_long"
    })?;
    let records = picket.all(|record| record["decision"]["reason"] == "head_too_long")?;
    ensure!(records.len() == 1, "{records:?}");
    Ok(())
}
