//! The facts that each stage adds to the audit record, in the record's own types.
//!
//! In: requests, decisions and rejections. Out: the same facts in a [`Record`].

use std::sync::Arc;

use picket_policy::jwt::VerifiedToken;
use picket_policy::{FiredRule, KubeRequest, Permit, Target};

use super::connection::Connection;
use super::session::may_be_session;
use crate::audit::{self, ObjectRef, Record, TokenFacts};
use crate::identity::jwt::RefusedToken;
use crate::identity::{IdentityError, ResolvedPrincipal};
use crate::reject::{Rejection, Status};
use crate::upstream::SendError;

/// What was asked.
pub(super) fn record_request(record: &mut Record, request: &KubeRequest) {
    record.target(request.verb.as_str(), object(request));
    if let Some(exec) = &request.exec {
        record.exec(exec.container.as_deref(), &exec.command, exec.stdin, exec.tty);
    }
}

/// Who asks, and by what that is known.
pub(super) fn record_principal(record: &mut Record, agent: &ResolvedPrincipal, connection: &Connection) {
    record.identity(Arc::clone(&agent.name), agent.principal.attestation());
    if let Some(user) = connection.certified_user() {
        record.user(user);
    }
    if let Some(token) = &agent.token {
        connection.record_token(record, token);
    }
}

/// Who asks is not known, or may not act: the identity where one was found, and whose token was shown.
pub(super) fn record_unknown_caller(
    record: &mut Record,
    error: &IdentityError,
    connection: &Connection,
    token: Option<Result<&Arc<VerifiedToken>, &RefusedToken>>,
) {
    if let Some(name) = error.identity() {
        record.identity(name, connection.attestation(token.is_some()));
    }
    if let Some(token) = token {
        record_token(record, connection, token);
    }
}

/// Whose token was shown, where the caller is refused for it.
pub(super) fn record_token(
    record: &mut Record,
    connection: &Connection,
    token: Result<&Arc<VerifiedToken>, &RefusedToken>,
) {
    match token {
        Ok(token) => connection.record_token(record, token),
        Err(refused) => {
            record.token(TokenFacts {
                issuer: refused.issuer.clone(),
                subject: refused.subject.clone(),
                username: None,
                verified: refused.subject.is_some(),
            });
        }
    }
}

/// The request may pass: by which grant, as whom, and what rules had to say.
pub(super) fn record_decision(record: &mut Record, permit: &Permit, connection: &Connection) {
    record.allow(Some(permit.policy().to_owned()), Some(permit.rule().to_owned()));
    let session = may_be_session(permit.request()).then(|| record.id().to_string());
    record.impersonated(connection.upstream_user(permit.principal(), permit.user(), session.as_deref()));
    if let Some(filter) = permit.filter() {
        record.masking(filter.rules().map(str::to_owned).collect());
    }
    if !permit.warnings().is_empty() || !permit.would_deny().is_empty() {
        record.findings(findings(permit.warnings()), findings(permit.would_deny()));
    }
}

/// The request was refused, by whom and why.
pub(super) fn record_rejection(record: &mut Record, rejection: &Rejection, request: Option<&KubeRequest>) {
    let mut status = rejection.status(request);
    if let Some(message) = rejection.message_without_body() {
        status.message = message;
    }
    record_status(record, &status);
    let message = status.message;
    match rejection {
        Rejection::Denied(denial) => {
            record.findings(Vec::new(), findings(denial.would_deny()));
            let [policy, rule] = [denial.policy(), denial.rule()].map(|name| name.map(str::to_owned));
            record.deny(rejection.code(), policy, rule, message);
        }
        Rejection::Limited(exceeded) => {
            let (policy, rule) = (exceeded.policy().to_owned(), exceeded.kind().rule().to_owned());
            record.deny(rejection.code(), Some(policy), Some(rule), message);
        }
        Rejection::Approval(error) => {
            let rule = error.rule().clone();
            record.deny(rejection.code(), Some(rule.policy), Some(rule.rule), message);
        }
        Rejection::Identity(_) | Rejection::Claim(_) => record.deny(rejection.code(), None, None, message),
        _ if leaves_open(rejection, request) => record.unknown(rejection.code(), message),
        _ => record.error(rejection.code(), message),
    }
}

/// Whether a write was sent and failed in a way that leaves open whether it was carried out, so that its record must not say
/// that it was not.
fn leaves_open(rejection: &Rejection, request: Option<&KubeRequest>) -> bool {
    match (rejection, request) {
        (Rejection::Upstream(SendError::Broken(_)), Some(request)) => request.is_mutating(),
        // What is behind a proxy may act on half a body; the API server itself does not.
        (Rejection::BodyLost, Some(request)) => request.is_proxied(),
        _ => false,
    }
}

/// The `Status` that the client gets.
pub(super) fn record_status(record: &mut Record, status: &Status) {
    record.response(
        status.code,
        Some(status.reason.into()),
        Some(status.message.clone()),
    );
}

/// Rules that fired, as the record has them.
pub(super) fn findings(found: &[FiredRule]) -> Vec<audit::Finding> {
    found.iter().cloned().map(finding).collect()
}

/// One of them.
pub(super) fn finding(found: FiredRule) -> audit::Finding {
    audit::Finding {
        policy: found.policy,
        rule: found.rule,
        message: found.message,
    }
}

fn object(request: &KubeRequest) -> Option<ObjectRef> {
    match &request.target {
        Target::Resource {
            group,
            version,
            resource,
            subresource,
            namespace,
            name,
        } => Some(ObjectRef {
            resource: resource.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            api_group: group.clone(),
            api_version: version.clone(),
            subresource: subresource.clone(),
        }),
        Target::NonResource { .. } => None,
    }
}
