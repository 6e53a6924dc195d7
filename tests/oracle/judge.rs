//! The API server's own code, as a program that answers questions.
//!
//! In: roles and requests. Out: the roles of every cluster, and a [`Verdict`] for each request.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use picket_tests::build::GoProgram;
use serde::{Deserialize, Serialize};

/// A rule as RBAC objects have it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct RoleRule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

/// A cluster role.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) rules: Vec<RoleRule>,
}

/// A request's line, and whether a patch is a server-side apply, which only a header says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RequestLine {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    #[serde(skip)]
    pub(crate) apply: bool,
}

/// A role, the namespaces that it is bound in (none for everywhere), and requests.
#[derive(Debug, Serialize)]
pub(crate) struct Question {
    pub(crate) rules: Vec<RoleRule>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) requests: Vec<RequestLine>,
}

/// What the API server makes of a request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Verdict {
    /// Why it cannot read the request; nothing else is filled in then.
    pub(crate) error: String,
    pub(crate) is_resource: bool,
    pub(crate) verb: String,
    pub(crate) path: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) field_selector: String,
    pub(crate) label_selector: String,
    /// The role allows the request.
    pub(crate) allowed: bool,
    /// The role allows the same with the verb `create`.
    pub(crate) may_create: bool,
}

/// The roles that every cluster starts with.
pub(crate) fn cluster_roles() -> Result<Vec<Role>> {
    let output = Command::new(GoProgram::RbacOracle.path()?)
        .arg("roles")
        .output()
        .context("run the oracle")?;
    ensure!(
        output.status.success(),
        "the oracle failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let roles = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    roles.collect::<Result<_, _>>().context("read the roles")
}

/// Asks every question, and hands on each with its verdicts.
pub(crate) fn judge(
    questions: &[Question],
    mut answered: impl FnMut(&Question, &[Verdict]) -> Result<()>,
) -> Result<()> {
    let mut oracle = Command::new(GoProgram::RbacOracle.path()?)
        .arg("judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run the oracle")?;
    let mut input = BufWriter::new(oracle.stdin.take().context("no stdin")?);
    let output = oracle.stdout.take().context("no stdout")?;
    std::thread::scope(|scope| -> Result<()> {
        // Closed where this ends early, so that the oracle ends and takes no further question.
        let mut answers = BufReader::new(output).lines();
        // Apart, since the oracle answers while it still reads.
        scope.spawn(move || {
            for question in questions {
                // An oracle that is gone shows where its answers are read.
                if serde_json::to_writer(&mut input, question).is_err() || input.write_all(b"\n").is_err() {
                    return;
                }
            }
        });
        for question in questions {
            let answer = answers.next().context("the oracle has ended")??;
            let verdicts: Vec<Verdict> = serde_json::from_str(&answer).context("read verdicts")?;
            ensure!(
                verdicts.len() == question.requests.len(),
                "{} verdicts on {} requests",
                verdicts.len(),
                question.requests.len()
            );
            answered(question, &verdicts)?;
        }
        Ok(())
    })?;
    let status = oracle.wait()?;
    ensure!(status.success(), "the oracle failed: {status}");
    Ok(())
}
