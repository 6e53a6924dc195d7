//! A public MCP server in an enrolled pod, unchanged: its tools work within the grant, and beyond it they are refused as kubectl is.
//!
//! In: `kubernetes-mcp-server` as npm has it, started for a call of one tool as an LLM's client starts it, with JSON-RPC on its standard
//! input. Out: what the tool answers, and records that name the executable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use picket_tests::audit::about;
use picket_tests::node_js::NodeJs;
use picket_tests::tests;
use serde_json::{Value, json};

use crate::Test;
use crate::lines::{Line, python};
use crate::world::World;

pub(crate) const TESTS: &[Test] = tests! {
    a_tool_of_an_mcp_server_works_within_the_grant,
    four_clients_are_refused_alike_and_told_apart,
};

/// Where the server is in the pods' image.
pub(crate) const INSIDE: &str = "/usr/bin/kubernetes-mcp-server";

/// The server's program on this machine.
///
/// # Errors
/// npm has none for this machine's processor, or cannot be reached the first time.
pub(crate) fn server() -> Result<PathBuf> {
    let name = "kubernetes-mcp-server-linux-amd64";
    let packages = NodeJs::find()?.packages("mcp-server")?;
    let program = packages.join(name).join("bin").join(name);
    ensure!(
        program.is_file(),
        "the package of kubernetes-mcp-server has no program for {}",
        std::env::consts::ARCH
    );
    Ok(program)
}

/// A call of a tool as a line of a shell, which prints the result alone. The server ends with its input, so that the input stays open
/// until the result is there. It dials the Service by name, which the cluster has no DNS for.
fn call(tool: &str, arguments: &Value) -> String {
    let messages = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}
        }}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}),
    ];
    let input: String = messages.iter().map(|message| format!(" '{message}'")).collect();
    let done = r#"grep -q '"id":2' /tmp/mcp"#;
    let named =
        "grep -q kubernetes.default.svc /etc/hosts || echo 10.96.0.1 kubernetes.default.svc >> /etc/hosts";
    format!(
        "{named}; rm -f /tmp/mcp; (printf '%s\\n'{input}; for i in $(seq 100); do sleep 0.2; {done} 2>/dev/null && break; done) | \
         {INSIDE} --log-file /tmp/mcp.log > /tmp/mcp; {done} && grep '\"id\":2' /tmp/mcp || {{ cat /tmp/mcp /tmp/mcp.log >&2; exit 1; }}"
    )
}

/// Whether the tool failed, and what it answered.
fn result(said: &str) -> Result<(bool, String)> {
    let answer: Value = serde_json::from_str(said.trim()).with_context(|| format!("the answer {said}"))?;
    let result = &answer["result"];
    let texts = result["content"].as_array().context("no content")?;
    let text = texts.iter().filter_map(|part| part["text"].as_str()).collect();
    Ok((result["isError"] == true, text))
}

fn a_tool_of_an_mcp_server_works_within_the_grant(world: &mut World) -> Result<()> {
    let log = world.picket_log();
    let said = world
        .worker(&call("pods_list_in_namespace", &json!({"namespace": "lab"})))?
        .good()?;
    let (failed, text) = result(&said)?;
    ensure!(!failed && text.contains("target"), "{text}");
    let record = log.wait("the list", |record| about(record, "list", "pods", ""))?;
    ensure!(
        record["decision"]["outcome"] == "allow" && executable(&record) == "kubernetes-mcp-server",
        "{record:#}"
    );
    Ok(())
}

fn executable(record: &Value) -> &str {
    let path = record["agent"]["process"]["exe"].as_str().unwrap_or_default();
    Path::new(path)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn four_clients_are_refused_alike_and_told_apart(world: &mut World) -> Result<()> {
    const NAME: &str = "doomed-by-a-tool";
    /// What all of them read. kubectl and the tool put words of their own before it.
    const MESSAGE: &str = "agent worker may not delete namespaces \"doomed-by-a-tool\" (policy guardrails, rule keep-namespaces): \
                           Namespaces are removed by the platform team.";
    let log = world.picket_log();
    let tool = json!({"apiVersion": "v1", "kind": "Namespace", "name": NAME});
    let said = world.worker(&call("resources_delete", &tool))?.good()?;
    let (failed, text) = result(&said)?;
    ensure!(failed && text.contains(MESSAGE), "the tool: {text}");

    let others = [
        Line::new(format!("kubectl delete namespace {NAME}")),
        python("CoreV1Api", "delete_namespace", &json!({"name": NAME})),
        Line::new(format!("ask DELETE /api/v1/namespaces/{NAME}")),
    ];
    for line in &others {
        let said = line.run(world)?;
        let text = format!("{}{}", said.out, said.err)
            .replace("\\\"", "\"")
            .replace('\\', "");
        ensure!(
            said.code != 0 && text.contains(MESSAGE),
            "{}: {text}",
            line.name()
        );
    }
    let is_denial = |record: &Value| {
        about(record, "delete", "namespaces", NAME) && record["decision"]["outcome"] == "deny"
    };
    let mut records = Vec::new();
    for _ in 0..100 {
        records = log.all(is_denial)?;
        if records.len() >= 4 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let found: BTreeSet<&str> = records.iter().map(executable).collect();
    let python = found.iter().find(|name| name.starts_with("python")).copied();
    let python = python.context("no record of Python")?;
    let wanted = BTreeSet::from(["curl", "kubectl", "kubernetes-mcp-server", python]);
    ensure!(
        found == wanted && records.len() == 4,
        "{} records by {found:?}",
        records.len()
    );
    let messages: BTreeSet<String> = records
        .iter()
        .map(|record| record["decision"]["message"].to_string())
        .collect();
    ensure!(messages.len() == 1, "{messages:?}");
    Ok(())
}
