//! All that a suite's agents and the API server have written, searched for the suite's secrets.
//!
//! In: a [`Pair`] at the end of its tests. Out: an error that names each secret that stands in a log, a record, a metric, an
//! Event, an object's status or an answer of the administrators' socket.
//!
//! What Picket sends to the API server is in that server's audit log: the heads of all requests, and the bodies of those that
//! write Events and Picket's own objects.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::agent::Agent;
use crate::cluster::TestNode;
use crate::pair::Pair;
use crate::secrets::{Leak, Output, Reach, Writer};

/// What the administrators' socket shows.
const ADMIN: [&str; 5] = ["/metrics", "/readyz", "/version", "/v1/objects", "/v1/sessions"];

/// Files of an agent's folder that hold secrets by purpose: the key of the marks in records, and tokens that a test gives the
/// agent. All else in the folder is searched but the program.
const KEPT_SECRETS: [&str; 2] = ["redaction.key", "token"];

/// Prints each token that a kubelet keeps for its pods, and what the volume is for.
const TOKENS: &str = "for file in /var/lib/kubelet/pods/*/volumes/kubernetes.io~projected/*/*token*; do \
                      [ -f \"$file\" ] && echo \"$file $(cat \"$file\")\"; done; true";

/// Users of the API server who do not ask through Picket: the tests' administrator, and pods that are left alone.
const OWN_USERS: [&str; 2] = [
    r#""user":{"username":"picket-test-admin""#,
    r#""user":{"username":"system:serviceaccount:direct:"#,
];

/// Objects whose status Picket writes.
const OBJECTS: [&str; 4] = ["agentidentities", "agentgrants", "agentpolicies", "picketnodes"];

/// Fails where a secret of the suite stands where it must not.
///
/// # Errors
/// One does, or something cannot be read.
pub fn search(pair: &Pair) -> Result<()> {
    collect(pair)?;
    let findings = found(pair)?;
    let lines: Vec<String> = findings.iter().map(Leak::to_string).collect();
    ensure!(
        findings.is_empty(),
        "secrets are written down:\n{}",
        lines.join("\n")
    );
    Ok(())
}

/// Where secrets stand now.
fn found(pair: &Pair) -> Result<Vec<Leak>> {
    ensure!(!pair.secrets.is_empty(), "no secret is known to search for");
    pair.secrets.search(&outputs(pair)?)
}

/// Notes the secrets that are there without a test's doing: the pods' tokens, and the private keys of all parts.
///
/// # Errors
/// One cannot be read.
pub fn collect(pair: &Pair) -> Result<()> {
    for node in pair.cluster.nodes() {
        for (name, token) in tokens(node)? {
            pair.secrets.add(&name, token, Reach::Everywhere)?;
        }
    }
    for folder in ["pki", "picket-ca"] {
        for file in files(&pair.cluster.dir().join(folder))? {
            if file.extension().is_some_and(|extension| extension == "key") {
                let name = format!("the key {}", file.display());
                pair.secrets.add_key(&name, &fs::read_to_string(&file)?)?;
            }
        }
    }
    for agent in [&pair.agent, &pair.other] {
        let file = agent.audit_directory().join("redaction.key");
        if file.exists() {
            let name = format!("the key {}", file.display());
            pair.secrets.add(&name, fs::read(&file)?, Reach::Everywhere)?;
        }
    }
    Ok(())
}

/// The tokens that a node's kubelet keeps for pods, each with its file.
fn tokens(node: &TestNode) -> Result<Vec<(String, String)>> {
    let mut command = Command::new("sh");
    command.args(["-c", TOKENS]);
    let done = node.output(command)?;
    ensure!(done.status.success(), "the tokens of {}: {done:?}", node.name);
    let text = String::from_utf8_lossy(&done.stdout);
    let pairs = text.lines().filter_map(|line| line.rsplit_once(' '));
    Ok(pairs
        .map(|(file, token)| (format!("the token {file}"), token.to_owned()))
        .collect())
}

/// Everything that is written.
///
/// # Errors
/// Something cannot be read, or an agent does not answer.
pub fn outputs(pair: &Pair) -> Result<Vec<Output>> {
    let mut all = Vec::new();
    for agent in [&pair.agent, &pair.other] {
        of_agent(agent, &mut all)?;
    }
    let server = |name: &str, text: Vec<u8>| Output {
        name: name.to_owned(),
        writer: Writer::ApiServer,
        text,
    };
    let picket = |name: &str, text: String| Output {
        name: name.to_owned(),
        writer: Writer::Picket,
        text: text.into_bytes(),
    };
    let log = pair.cluster.node().dir.join("kube-apiserver.log");
    all.push(server(
        "the API server's audit log",
        without_tests_own(&fs::read(pair.cluster.audit_log())?),
    ));
    all.push(server("the API server's log", fs::read(log)?));
    let events = pair.admin(&["get", "events", "-A", "-o", "json"])?;
    all.push(picket("Events", events));
    let kinds = pair.admin(&["get", "crd", "-o", "name"])?;
    for kind in OBJECTS {
        let kind = format!("{kind}.picket.dev");
        if kinds.contains(&kind) {
            let objects = pair.admin(&["get", &kind, "-o", "json"])?;
            all.push(picket(&format!("objects {kind}"), objects));
        }
    }
    Ok(all)
}

/// The records of an audit log but those of the tests' own requests: what a test runs in a pod stands in its exec.
fn without_tests_own(log: &[u8]) -> Vec<u8> {
    let is_own = |line: &&[u8]| {
        let line = String::from_utf8_lossy(line);
        OWN_USERS.iter().any(|user| line.contains(user))
    };
    log.split_inclusive(|&byte| byte == b'\n')
        .filter(|line| !is_own(line))
        .collect::<Vec<_>>()
        .concat()
}

fn of_agent(agent: &Agent, all: &mut Vec<Output>) -> Result<()> {
    let node = &agent.node().name;
    for file in files(agent.dir())? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if file == agent.binary() || KEPT_SECRETS.iter().any(|kept| name.starts_with(kept)) {
            continue;
        }
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let below = file.strip_prefix(agent.dir()).unwrap_or(&file);
        all.push(Output {
            name: format!("{} of {node}", below.display()),
            writer: Writer::Picket,
            text,
        });
    }
    for path in ADMIN {
        let (code, text) = agent.admin(path).with_context(|| format!("{path} of {node}"))?;
        ensure!(code == 200, "{path} of {node} answers {code}: {text}");
        all.push(Output {
            name: format!("{path} of {node}"),
            writer: Writer::Picket,
            text: text.into_bytes(),
        });
    }
    Ok(())
}

/// The regular files of a folder and of those in it.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_the_tests_ask_themselves_is_left_out_and_nothing_else() {
        let line = |user: &str| format!("{{\"verb\":\"get\",\"user\":{{\"username\":\"{user}\"}}}}\n");
        let theirs = [line("picket:node1"), line("system:serviceaccount:agents:worker")].concat();
        let all = [
            line("picket-test-admin"),
            theirs.clone(),
            line("system:serviceaccount:direct:worker"),
        ];
        assert_eq!(without_tests_own(all.concat().as_bytes()), theirs.as_bytes());
    }
}
