//! What came of a comparison: requests that both judged alike, and every difference by its name.
//!
//! In: Picket's decision and the API server's verdict on one request. Out: a [`Tally`], or an error where no named difference
//! explains that they differ.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use picket_policy::{CanonicalRequest, Cause, Decision, Inputs, KubeRequest, Principal, Target};

use crate::judge::{Question, RequestLine, Verdict};
use crate::roles::Agents;

/// Resources whose PUT creates the object where there is none, by group, so that Picket wants `create` granted too.
const CREATED_BY_PUT: [(&str, &str); 12] = [
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leasecandidates"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Counts of one comparison.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) roles: usize,
    pub(crate) requests: usize,
    pub(crate) allowed: usize,
    /// Both came to the same.
    pub(crate) agreed: usize,
    /// They differ, by the difference's name.
    pub(crate) differences: BTreeMap<String, usize>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.roles > 0 {
            write!(
                f,
                "{} roles, {} requests that RBAC allows among ",
                self.roles, self.allowed
            )?;
        }
        write!(f, "{} requests; {} alike", self.requests, self.agreed)?;
        for (name, count) in &self.differences {
            write!(f, "\n  {count:>6} {name}")?;
        }
        Ok(())
    }
}

impl Tally {
    /// Judges every request of a question, and compares.
    pub(crate) fn compare(
        &mut self,
        agents: &Agents,
        question: &Question,
        verdicts: &[Verdict],
    ) -> Result<()> {
        self.roles += 1;
        for (line, verdict) in question.requests.iter().zip(verdicts) {
            self.requests += 1;
            self.allowed += usize::from(verdict.allowed);
            let difference = difference(agents, line, verdict)
                .with_context(|| format!("{} {}: the API server has {verdict:?}", line.method, line.target))
                .with_context(|| format!("in {:?}: {:#?}", question.namespaces, question.rules))?;
            match difference {
                None => self.agreed += 1,
                Some(name) => *self.differences.entry(name).or_default() += 1,
            }
        }
        Ok(())
    }
}

/// The name of what Picket judges otherwise, if it does.
fn difference(agents: &Agents, line: &RequestLine, verdict: &Verdict) -> Result<Option<String>> {
    let request = match read(line)? {
        Ok(request) => request,
        // Refused before it is judged, which is not what this is about.
        Err(reason) => return Ok(Some(format!("not read: {reason}"))),
    };
    ensure!(verdict.error.is_empty(), "Picket reads {:?}", request.kube());
    same_reading(request.kube(), verdict)?;
    let decide = |principal: &Arc<Principal>, request| {
        agents
            .set
            .decide(Arc::clone(principal), request, Inputs::at(Timestamp::UNIX_EPOCH))
    };
    let again = read(line)?.map_err(|reason| anyhow::anyhow!("read once, and then not: {reason}"))?;
    let excepted = decide(&agents.excepted, request);
    let usual = decide(&agents.usual, again);
    if let Decision::Deny(denial) = &usual
        && denial.cause() == Cause::Builtin
    {
        unexcepted(&excepted, verdict, line)?;
        return Ok(Some(denial.rule().unwrap_or_default().to_owned()));
    }
    let difference = unexcepted(&excepted, verdict, line)?;
    ensure!(
        matches!(usual, Decision::Permit(_)) == matches!(excepted, Decision::Permit(_)),
        "no built-in refuses it, and an exception from them changes the verdict: {usual:?}, {excepted:?}"
    );
    Ok(difference)
}

/// The same for an agent that no built-in refuses anything.
fn unexcepted(decision: &Decision, verdict: &Verdict, line: &RequestLine) -> Result<Option<String>> {
    match decision {
        Decision::Permit(_) if verdict.allowed => Ok(None),
        Decision::Permit(permit) if permit.rule().starts_with("builtin/") => {
            Ok(Some(format!("granted to every agent: {}", permit.rule())))
        }
        Decision::Permit(_) if is_session(verdict) && verdict.may_create => {
            Ok(Some("a session needs `create` alone".to_owned()))
        }
        Decision::Deny(denial) if !verdict.allowed => {
            ensure!(
                denial.cause() == Cause::NoGrant,
                "refused by {:?}",
                denial.cause()
            );
            Ok(None)
        }
        Decision::Deny(_) if !verdict.may_create && is_session(verdict) => {
            Ok(Some("a session needs `create`".to_owned()))
        }
        Decision::Deny(_) if !verdict.may_create && line.apply => {
            Ok(Some("a server-side apply needs `create` too".to_owned()))
        }
        Decision::Deny(_) if !verdict.may_create && is_put_that_creates(verdict) => {
            Ok(Some("a PUT that can create needs `create` too".to_owned()))
        }
        other => anyhow::bail!("Picket differs: {other:?}"),
    }
}

fn is_session(verdict: &Verdict) -> bool {
    (verdict.group.as_str(), verdict.resource.as_str()) == ("", "pods")
        && ["exec", "attach", "portforward"].contains(&verdict.subresource.as_str())
}

fn is_put_that_creates(verdict: &Verdict) -> bool {
    verdict.verb == "update"
        && ["", "status"].contains(&verdict.subresource.as_str())
        // Picket compares without case here, so that no spelling slips by.
        && CREATED_BY_PUT
            .contains(&(verdict.group.as_str(), verdict.resource.to_ascii_lowercase().as_str()))
}

/// Picket's reading, or why there is none.
pub(crate) fn read(line: &RequestLine) -> Result<Result<CanonicalRequest, String>> {
    let Ok(target) = line.target.parse::<http::Uri>() else {
        return Ok(Err("the target is no URI".to_owned()));
    };
    let mut request = http::Request::builder().method(line.method).uri(target);
    if line.apply {
        request = request.header("content-type", "application/apply-patch+yaml");
    }
    let (head, ()) = request.body(())?.into_parts();
    Ok(CanonicalRequest::read(head).map_err(|error| error.to_string()))
}

/// Checks that both take a request for the same.
pub(crate) fn same_reading(picket: &KubeRequest, server: &Verdict) -> Result<()> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ensure!(
        picket.verb.as_str() == server.verb,
        "the verb differs: {picket:?}"
    );
    match &picket.target {
        Target::NonResource { path } => {
            ensure!(
                !server.is_resource && *path == server.path,
                "the path differs: {picket:?}"
            );
        }
        Target::Resource {
            group,
            version,
            resource,
            subresource,
            namespace,
            name,
        } => {
            let same = server.is_resource
                && *group == server.group
                && *version == server.version
                && *resource == server.resource
                && text(subresource) == server.subresource
                && text(namespace) == server.namespace
                && text(name) == server.name;
            ensure!(same, "the resource differs: {picket:?}");
            let selects =
                |server: &str, picket: &Option<String>| server.is_empty() || *server == text(picket);
            let same = selects(&server.field_selector, &picket.field_selector)
                && selects(&server.label_selector, &picket.label_selector);
            ensure!(same, "a selector differs: {picket:?}");
        }
    }
    Ok(())
}
