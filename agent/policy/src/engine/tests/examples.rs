//! The files that people start from do what their comments say.

use super::*;

#[test]
fn the_examples_hold() {
    let files = [
        (
            "identities.yaml",
            include_str!("../../../../../deploy/examples/identities.yaml"),
        ),
        (
            "grants.yaml",
            include_str!("../../../../../deploy/examples/grants.yaml"),
        ),
        (
            "policies.yaml",
            include_str!("../../../../../deploy/examples/policies.yaml"),
        ),
    ];
    let documents = files
        .iter()
        .flat_map(|(name, text)| read_documents(name, text).unwrap_or_else(|e| panic!("{e:#?}")))
        .collect();
    let set = PolicySet::compile(documents).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let outcome = |who: &str, line: &str| match decide_as(&set, who, line) {
        Decision::Permit(permit) => format!(
            "{} warned, {} noted",
            permit.warnings().len(),
            permit.would_deny().len()
        ),
        Decision::Ask(_) => "asked".to_owned(),
        Decision::Deny(denial) => denial.rule().unwrap_or(denial.cause().code()).to_owned(),
    };
    for (who, line, expected) in [
        ("triage", "GET /api/v1/namespaces/x/pods", "0 warned, 0 noted"),
        ("triage", "GET /api/v1/namespaces/x/secrets", "no_grant"),
        ("janitor", "GET /api/v1/namespaces/x/secrets", "0 warned, 1 noted"),
        ("janitor", "DELETE /api/v1/namespaces/x", "deny-delete"),
        ("janitor", "DELETE /api/v1/namespaces/prod-eu/pods/y", "read-only"),
        (
            "janitor",
            "DELETE /api/v1/namespaces/dev/pods/y",
            "0 warned, 0 noted",
        ),
        (
            "janitor",
            "PATCH /apis/apps/v1/namespaces/dev/deployments/y/scale",
            "1 warned, 0 noted",
        ),
        (
            "janitor",
            "POST /api/v1/namespaces/dev/pods/y/exec?command=date",
            "0 warned, 0 noted",
        ),
        (
            "janitor",
            "GET /api/v1/namespaces/dev/pods/y/exec?command=cat&command=/etc/passwd",
            "no-secrets-by-exec",
        ),
        (
            "janitor",
            "GET /api/v1/namespaces/dev/pods/y/exec?command=/bin/sh&command=-c&command=date",
            "no-shells",
        ),
    ] {
        assert_eq!(outcome(who, line), expected, "{who}: {line}");
    }
}
