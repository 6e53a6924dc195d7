//! `picket policy check`: reads identity, grant and policy files as the agent would.
//!
//! In: files and folders. Out: a line for each file and diagnostic or one JSON document, and an exit code that tells whether
//! the files are valid.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use picket_policy::api::AnyObject;
use picket_policy::{
    Caution, Diagnostic, Document, Grant, PolicyCounts, PolicySet, UpstreamUser, builtin, service_account,
};
use serde::Serialize;

use super::error_report::ErrorReport;
use super::sarif;
use crate::cli::output::{self, clean};
use crate::identity::jwt::{self, Issuers};
use crate::store::StoreError;
use crate::store::files::{objects, passed_over, read_all};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  picket policy check deploy/examples/
  picket policy check identities.yaml grants.yaml policies.yaml -o json
  picket policy check objects/ --authentication /etc/picket/issuers.yaml
  picket policy check objects/ --beside-cluster
  picket policy check objects/ -o sarif > picket.sarif
  picket policy check deploy/examples/ -o json | jq -r '.errors[] | \"\\(.file):\\(.line): \\(.reason)\"'

Objects of a cluster are read as kubectl prints them:
  kubectl get agentidentities,agentgrants,agentpolicies -o yaml > cluster.yaml && picket policy check cluster.yaml

Name every file and folder that a node reads: grants and policies are checked against the identities they name. With --beside-cluster the \
cluster may have those.

A warning changes nothing about the exit code.

Exit codes: 0 the files are valid, 1 they are not, or one cannot be read, 2 wrong usage.";

/// Check files.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Files, or folders whose .yaml and .yml files are read.
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,
    /// The AuthenticationConfiguration that authentication.configFile names on the nodes. Identities whose attest.jwt names an issuer
    /// that it does not have are warned of.
    #[arg(long, value_name = "FILE")]
    authentication: Option<PathBuf>,
    /// Check files for nodes whose configuration has `objects: {cluster: true}`. Identities and groups that no file has are warned of,
    /// since the cluster may have them.
    #[arg(long)]
    beside_cluster: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    // Not offered: an agent always has the default, so a check with another namespace would be about no agent.
    /// The namespace Picket itself runs in.
    #[arg(long, hide = true, value_name = "NAMESPACE", default_value = builtin::OWN_NAMESPACE)]
    own_namespace: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// A line per file and per error, for people and editors.
    Text,
    /// One JSON document.
    Json,
    /// SARIF 2.1.0, which code scanning and editors read.
    Sarif,
}

/// The result, as `-o json` prints it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    valid: bool,
    files: Vec<FileReport>,
    errors: Vec<ErrorReport>,
    /// Files and folders in the folders that no agent reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_read: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<ErrorReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    users: Vec<UserReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cautions: Vec<CautionReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Counts>,
}

/// As whom the API server sees the requests of a grant, and what the node's credential needs for that.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UserReport {
    grant: String,
    user: String,
    groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    impersonate: Vec<String>,
    /// The service account whose token the node requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_of: Option<String>,
}

impl From<&Grant> for UserReport {
    fn from(grant: &Grant) -> Self {
        let Some(user) = grant.user() else {
            let people = grant.on_behalf_of().map(ToString::to_string);
            return Self {
                grant: grant.name().to_owned(),
                user: format!("of the person's token ({})", people.unwrap_or_default()),
                groups: vec!["those of the token".to_owned()],
                impersonate: vec!["the user and the groups of each person".to_owned()],
                token_of: None,
            };
        };
        let (impersonate, token_of) = match user {
            UpstreamUser::Impersonated(impersonate) => {
                let first = match service_account(&impersonate.user) {
                    Some((namespace, name)) => format!("serviceaccounts {name} in namespace {namespace}"),
                    None => format!("users {}", impersonate.user),
                };
                let groups = impersonate.groups.iter().map(|group| format!("groups {group}"));
                ([first].into_iter().chain(groups).collect(), None)
            }
            UpstreamUser::ServiceAccount(account) => {
                let account = format!("{} in namespace {}", account.name(), account.namespace());
                (Vec::new(), Some(account))
            }
        };
        Self {
            grant: grant.name().to_owned(),
            user: user.username().to_owned(),
            groups: user.effective_groups(),
            impersonate,
            token_of,
        }
    }
}

/// A right that leads past Picket. The files are valid all the same.
#[derive(Debug, Serialize)]
struct CautionReport {
    grants: Vec<String>,
    code: &'static str,
    reason: &'static str,
}

impl From<Caution> for CautionReport {
    fn from(caution: Caution) -> Self {
        Self {
            code: caution.cause.code(),
            reason: caution.cause.explain(),
            grants: caution.grants.into_iter().collect(),
        }
    }
}

impl std::fmt::Display for CautionReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.grants.as_slice() {
            [grant] => write!(f, "warning: AgentGrant {grant} gives {}", self.reason),
            grants => write!(
                f,
                "warning: AgentGrants {} give {}",
                grants.join(", "),
                self.reason
            ),
        }
    }
}

#[derive(Debug, Serialize)]
struct FileReport {
    file: String,
    objects: Vec<ObjectReport>,
}

#[derive(Debug, Serialize)]
struct ObjectReport {
    kind: &'static str,
    name: String,
    line: u32,
}

#[derive(Debug, Serialize)]
struct Counts {
    identities: usize,
    grants: usize,
    policies: usize,
    rules: usize,
}

impl From<PolicyCounts> for Counts {
    fn from(summary: PolicyCounts) -> Self {
        let PolicyCounts {
            identities,
            grants,
            policies,
            rules,
        } = summary;
        Self {
            identities,
            grants,
            policies,
            rules,
        }
    }
}

/// Runs the command.
#[must_use]
pub(super) fn run(check: &CheckArgs) -> ExitCode {
    let report = examine(check);
    let valid = report.valid;
    let printed = match check.output {
        Output::Json => json(&report, &mut io::stdout().lock()),
        Output::Sarif => json(&report.to_sarif(), &mut io::stdout().lock()),
        Output::Text => text(&report, &mut io::stdout().lock(), &mut io::stderr().lock()),
    };
    // A reader that went away (`| head`) is no error of the files.
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            output::warn(format_args!("picket: cannot print the result: {error}"));
            ExitCode::FAILURE
        }
        _ if valid => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn examine(args: &CheckArgs) -> Report {
    let mut report = Report::default();
    let not_read = passed_over(&args.files).into_iter();
    report.not_read = not_read.map(|path| path.display().to_string()).collect();
    let sources = match read_all(&args.files) {
        Ok(sources) => sources,
        Err(StoreError::Objects { errors }) => {
            report.errors.extend(errors.into_iter().map(ErrorReport::from));
            return report;
        }
        Err(error) => {
            report.errors.push(ErrorReport {
                file: None,
                line: None,
                column: None,
                reason: error.to_string(),
            });
            return report;
        }
    };
    let issuers = match args.authentication.as_deref().map(jwt::check).transpose() {
        Ok(issuers) => issuers,
        Err(error) => {
            report.errors.push(ErrorReport {
                file: None,
                line: None,
                column: None,
                reason: error.to_string(),
            });
            return report;
        }
    };
    let mut all = Vec::new();
    for source in &sources {
        let reading = objects(source);
        if reading.errors.is_empty() {
            let read: Vec<_> = reading
                .entries
                .into_iter()
                .filter_map(|entry| entry.document)
                .collect();
            report.files.push(FileReport {
                file: source.path.display().to_string(),
                objects: read.iter().map(ObjectReport::from).collect(),
            });
            if let Some(issuers) = &issuers {
                let file = source.path.display().to_string();
                let warnings = read
                    .iter()
                    .filter_map(|document| unknown_issuer(&file, document, issuers));
                report.warnings.extend(warnings);
            }
            all.extend(read);
        } else {
            report
                .errors
                .extend(reading.errors.into_iter().map(ErrorReport::from));
        }
    }
    if !report.errors.is_empty() {
        return report;
    }
    let compiled = match args.beside_cluster {
        true => PolicySet::compile_beside_cluster(&all, &args.own_namespace),
        false => PolicySet::compile_in(&all, &args.own_namespace).map(|set| (set, Vec::new())),
    };
    match compiled {
        Ok((set, not_in_files)) => {
            report.valid = true;
            report
                .warnings
                .extend(not_in_files.into_iter().map(maybe_in_cluster));
            report.users = set.grants().iter().map(|grant| (&**grant).into()).collect();
            report.cautions = set.cautions().into_iter().map(CautionReport::from).collect();
            report.summary = Some(set.summary().into());
        }
        Err(errors) => report.errors.extend(errors.into_iter().map(ErrorReport::from)),
    }
    report
}

/// That files name what only the cluster can have.
fn maybe_in_cluster(named: Diagnostic) -> ErrorReport {
    let reason = format!("warning: {} in the files; the cluster must have it", named.reason);
    ErrorReport::from(Diagnostic { reason, ..named })
}

/// That an identity's tokens are of an issuer that the nodes do not have.
fn unknown_issuer(file: &str, document: &Document, issuers: &Issuers) -> Option<ErrorReport> {
    let AnyObject::Identity(identity) = &document.object else {
        return None;
    };
    let issuer = &identity
        .spec
        .attest
        .jwt
        .as_ref()
        .filter(|jwt| !issuers.has(&jwt.issuer))?
        .issuer;
    let place = document.name_location();
    Some(ErrorReport {
        file: Some(file.to_owned()),
        line: Some(place.line),
        column: Some(place.column),
        reason: format!(
            "warning: the attest.jwt of AgentIdentity {} names the issuer {issuer}, which the authentication configuration does not \
             have: its tokens are refused",
            document.name()
        ),
    })
}

impl From<&Document> for ObjectReport {
    fn from(document: &Document) -> Self {
        Self {
            kind: document.kind(),
            name: document.name().to_owned(),
            line: document.name_location().line,
        }
    }
}

impl Report {
    /// All that is wrong or warned of, as SARIF. What has no place in a file stands without one.
    fn to_sarif(&self) -> serde_json::Value {
        let mut results: Vec<sarif::Finding> = Vec::new();
        for error in &self.errors {
            results.push(sarif::Finding::of(&sarif::INVALID, error));
        }
        for warning in &self.warnings {
            results.push(sarif::Finding::of(&sarif::NOT_IN_FILES, warning));
        }
        for caution in &self.cautions {
            let grant = caution.grants.first().map(String::as_str);
            let mut grants = self
                .files
                .iter()
                .flat_map(|file| file.objects.iter().map(move |object| (file, object)));
            let place =
                grants.find(|(_, object)| object.kind == "AgentGrant" && Some(object.name.as_str()) == grant);
            results.push(sarif::Finding {
                rule: &sarif::LEADS_PAST,
                message: sarif::without_level(&caution.to_string()).to_owned(),
                file: place.map(|(file, _)| file.file.clone()),
                line: place.map(|(_, object)| object.line),
                column: None,
            });
        }
        for path in &self.not_read {
            results.push(sarif::Finding {
                rule: &sarif::NOT_READ,
                message: format!(
                    "{path} is not read: an agent reads the .yaml and .yml files right in a folder"
                ),
                file: Some(path.clone()),
                line: None,
                column: None,
            });
        }
        sarif::document(&results)
    }
}

fn json(report: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

fn text(report: &Report, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
    for file in &report.files {
        let objects: Vec<_> = file
            .objects
            .iter()
            .map(|object| format!("{} {}", object.kind, object.name))
            .collect();
        writeln!(out, "{}: {}", clean(&file.file), objects.join(", "))?;
    }
    for user in &report.users {
        let UserReport {
            grant,
            user,
            groups,
            impersonate,
            token_of,
        } = user;
        let must = match token_of {
            Some(account) => format!("create tokens (serviceaccounts/token) of {account}"),
            None => format!("impersonate {}", impersonate.join(", ")),
        };
        writeln!(
            out,
            "AgentGrant {grant}: the API server sees user {user}, groups {}; the node's RBAC must let it {must}",
            groups.join(", "),
        )?;
    }
    out.flush()?;
    for caution in &report.cautions {
        writeln!(err, "{caution}")?;
    }
    for path in &report.not_read {
        writeln!(
            err,
            "warning: {} is not read: an agent reads the .yaml and .yml files right in a folder",
            clean(path)
        )?;
    }
    for said in report.errors.iter().chain(&report.warnings) {
        writeln!(err, "{}", clean(&said.to_string()))?;
    }
    match &report.summary {
        Some(counts) => writeln!(
            out,
            "valid: {}, {}, {} with {}",
            count(counts.identities, "identity", "identities"),
            count(counts.grants, "grant", "grants"),
            count(counts.policies, "policy", "policies"),
            count(counts.rules, "rule", "rules"),
        ),
        None => writeln!(
            err,
            "not valid: {}",
            count(report.errors.len(), "error", "errors")
        ),
    }
}

fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text_of_file: &str) -> (Report, String, String) {
        check_with(text_of_file, None)
    }

    fn check_with(text_of_file: &str, authentication: Option<&str>) -> (Report, String, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("objects.yaml");
        std::fs::write(&path, text_of_file).expect("written");
        let authentication = authentication.map(|text| {
            let file = folder.path().join("issuers.yaml");
            std::fs::write(&file, text).expect("written");
            file
        });
        let report = examine(&CheckArgs {
            files: vec![path.clone()],
            authentication,
            beside_cluster: false,
            output: Output::Text,
            own_namespace: builtin::OWN_NAMESPACE.to_owned(),
        });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        text(&report, &mut out, &mut err).expect("printed");
        let text = |bytes| {
            String::from_utf8(bytes)
                .expect("text")
                .replace(&path.display().to_string(), "FILE")
        };
        (report, text(out), text(err))
    }

    const IDENTITY: &str = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata:\n  name: a\nspec:\n  \
        owner: team\n  attest:\n    pod: {namespace: ns, serviceAccount: sa}\n";

    #[test]
    fn the_name_of_a_file_cannot_begin_a_line_or_move_the_cursor() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a\n::error::\u{1b}[2J.yaml", "b\n::error::\u{1b}[2J.json"] {
            std::fs::write(folder.path().join(name), "kind: Pod").expect("written");
        }
        let report = examine(&CheckArgs {
            files: vec![folder.path().to_owned()],
            authentication: None,
            beside_cluster: false,
            output: Output::Text,
            own_namespace: builtin::OWN_NAMESPACE.to_owned(),
        });
        let mut err = Vec::new();
        text(&report, &mut Vec::new(), &mut err).expect("printed");
        let err = String::from_utf8(err).expect("text");
        assert_eq!(
            err.lines().filter(|line| line.starts_with("::")).count(),
            0,
            "{err}"
        );
        assert!(!err.contains('\u{1b}') && err.contains("a\\n::error::"), "{err}");
    }

    #[test]
    fn beside_a_cluster_files_may_name_what_is_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("objects.yaml");
        let policy = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p}\nspec:\n  subjects: {identities: [a, \
            elsewhere]}\n  rules: [{name: r, action: Deny, match: {resources: [secrets]}}]\n";
        std::fs::write(&path, format!("{IDENTITY}{policy}")).expect("written");
        let report = |beside_cluster| {
            examine(&CheckArgs {
                files: vec![path.clone()],
                authentication: None,
                beside_cluster,
                output: Output::Text,
                own_namespace: builtin::OWN_NAMESPACE.to_owned(),
            })
        };
        assert!(!report(false).valid);
        let beside = report(true);
        assert!(beside.valid, "{beside:?}");
        let [warning] = &beside.warnings[..] else {
            panic!("{beside:?}")
        };
        assert!(
            warning.line == Some(14)
                && warning.reason
                    == "warning: no AgentIdentity is named \"elsewhere\" in the files; the cluster must have it",
            "{warning}"
        );
        // What is wrong by itself is so beside a cluster too.
        std::fs::write(&path, format!("{IDENTITY}---\n{IDENTITY}")).expect("written");
        assert!(!report(true).valid);
    }

    #[test]
    fn valid_files_are_listed() {
        let (report, out, err) = check(IDENTITY);
        assert!(report.valid);
        assert_eq!(
            out,
            "FILE: AgentIdentity a\nvalid: 1 identity, 0 grants, 0 policies with 0 rules\n"
        );
        assert_eq!(err, "");
        let mut printed = Vec::new();
        json(&report, &mut printed).expect("printed");
        let value: serde_json::Value = serde_json::from_slice(&printed).expect("json");
        assert_eq!(value["valid"], true);
        assert_eq!(value["files"][0]["objects"][0]["line"], 4);
    }

    #[test]
    fn the_groups_that_the_api_server_sees_are_named() {
        let grant = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: g}\nspec:\n  to: {identities: [a]}\n  \
            upstream: {impersonate: {user: 'system:serviceaccount:ci:bot', groups: [readers]}}\n  \
            rules: [{verbs: [get], apiGroups: [''], resources: [pods]}]\n";
        let (report, out, _) = check(&format!("{IDENTITY}{grant}"));
        assert!(report.valid, "{report:?}");
        assert_eq!(
            out,
            "FILE: AgentIdentity a, AgentGrant g\nAgentGrant g: the API server sees user system:serviceaccount:ci:bot, groups \
             readers, system:serviceaccounts, system:serviceaccounts:ci, system:authenticated; the node's RBAC must let it impersonate \
             serviceaccounts bot in namespace ci, groups readers, groups system:serviceaccounts, groups \
             system:serviceaccounts:ci\nvalid: 1 identity, 1 grant, 0 policies with 0 rules\n"
        );
        let mut printed = Vec::new();
        json(&report, &mut printed).expect("printed");
        let value: serde_json::Value = serde_json::from_slice(&printed).expect("json");
        assert_eq!(value["users"][0]["groups"][3], "system:authenticated");
        assert_eq!(
            value["users"][0]["impersonate"][0],
            "serviceaccounts bot in namespace ci"
        );
    }

    #[test]
    fn a_grant_that_leads_past_picket_is_valid_and_warned_of() {
        let grant = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: g}\nspec:\n  to: {identities: [a]}\n  \
            upstream: {impersonate: {user: u}}\n  rules: [{verbs: [create, get], apiGroups: [''], resources: [secrets]}]\n";
        let (report, out, err) = check(&format!("{IDENTITY}{grant}"));
        assert!(report.valid, "{report:?}");
        assert!(
            err.contains("warning: AgentGrant g gives create and read of Secrets: ")
                && out.contains("\nvalid: "),
            "{out}"
        );
        let mut printed = Vec::new();
        json(&report, &mut printed).expect("printed");
        let value: serde_json::Value = serde_json::from_slice(&printed).expect("json");
        assert_eq!(value["cautions"][0]["grants"][0], "g");
        assert_eq!(value["cautions"][0]["code"], "token_secrets");
    }

    #[test]
    fn errors_have_file_line_column_and_reason() {
        let (report, _, err) = check(&IDENTITY.replace("  attest", "  state: Gone\n  attest"));
        assert!(!report.valid);
        assert_eq!(
            err,
            "FILE:7:10: field `spec.state` is \"Gone\"; it can be Active, Suspended or Revoked\nnot valid: 1 error\n"
        );
        let (report, ..) = check(&format!("{IDENTITY}---\n{IDENTITY}"));
        assert!(
            report
                .errors
                .iter()
                .any(|error| error.reason.contains("is already at")),
            "{report:?}"
        );
    }

    #[test]
    fn an_identity_of_an_issuer_that_the_nodes_do_not_have_is_warned_of() {
        let identity = IDENTITY.replace(
            "pod: {namespace: ns, serviceAccount: sa}",
            "jwt: {issuer: 'https://issuer.test', subject: s}",
        );
        let configuration = |url: &str| {
            format!(
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: '{url}', audiences: [a]}}\n  \
                 claimMappings: {{username: {{claim: sub, prefix: ''}}}}\n"
            )
        };
        let (report, _, err) = check_with(&identity, Some(&configuration("https://other.test")));
        assert!(report.valid);
        assert!(
            err.starts_with(
                "FILE:4:9: warning: the attest.jwt of AgentIdentity a names the issuer https://issuer.test"
            ),
            "{err}"
        );
        let (_, _, err) = check_with(&identity, Some(&configuration("https://issuer.test")));
        assert_eq!(err, "");
        assert_eq!(check(&identity).2, "", "nobody said which issuers there are");
        let (report, _, err) = check_with(&identity, Some("kind: Nothing"));
        assert!(
            !report.valid && err.contains("authentication configuration is not valid"),
            "{err}"
        );
    }

    #[test]
    fn a_file_without_objects_is_an_error() {
        for empty in ["", "# later\n", "---\n"] {
            let (report, out, err) = check(empty);
            assert!(!report.valid);
            assert_eq!(out, "");
            assert_eq!(
                err,
                "FILE:1:1: no object is in this file: write one, or remove the file\nnot valid: 1 error\n"
            );
        }
    }

    #[test]
    fn what_an_agent_does_not_read_is_named_and_is_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["a.yaml", "deny.json", "deny.YAML", ".hidden.json"] {
            std::fs::write(path(name), IDENTITY).expect("written");
        }
        std::fs::create_dir(path("team.yaml")).expect("a folder");
        std::fs::create_dir(path("..data")).expect("a folder");
        let report = examine(&CheckArgs {
            files: vec![folder.path().to_owned()],
            authentication: None,
            beside_cluster: false,
            output: Output::Text,
            own_namespace: builtin::OWN_NAMESPACE.to_owned(),
        });
        let names = ["deny.YAML", "deny.json", "team.yaml"].map(|name| path(name).display().to_string());
        assert!(report.valid, "{report:?}");
        assert_eq!(report.not_read, names);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        text(&report, &mut out, &mut err).expect("printed");
        let err = String::from_utf8(err).expect("text");
        assert_eq!(err.lines().count(), 3, "{err}");
        assert!(
            err.starts_with(&format!("warning: {} is not read", names[0])),
            "{err}"
        );
    }

    #[test]
    fn sarif_has_what_is_wrong_and_what_is_warned_of_at_its_place() {
        let levels = |report: &Report| -> Vec<(String, String, u64)> {
            let document = report.to_sarif();
            let results = document["runs"][0]["results"]
                .as_array()
                .expect("results")
                .clone();
            let results = results.iter().map(|result| {
                let line = &result["locations"][0]["physicalLocation"]["region"]["startLine"];
                let word = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
                (word("ruleId"), word("level"), line.as_u64().unwrap_or_default())
            });
            results.collect()
        };
        let (broken, ..) = check(&IDENTITY.replace("  attest", "  state: Gone\n  attest"));
        assert_eq!(levels(&broken), [("not-valid".to_owned(), "error".to_owned(), 7)]);
        let grant = "---\napiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {name: g}\nspec:\n  to: {identities: [a]}\n  \
            upstream: {impersonate: {user: u}}\n  rules: [{verbs: [create, get], apiGroups: [''], resources: [secrets]}]\n";
        let (warned, ..) = check(&format!("{IDENTITY}{grant}"));
        assert_eq!(
            levels(&warned),
            [("leads-past-picket".to_owned(), "warning".to_owned(), 12)]
        );
        let message = &warned.to_sarif()["runs"][0]["results"][0]["message"]["text"];
        assert!(
            message
                .as_str()
                .is_some_and(|text| text.starts_with("AgentGrant g gives ")),
            "{message}"
        );
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let report = examine(&CheckArgs {
            files: vec![PathBuf::from("/nonexistent/x.yaml")],
            authentication: None,
            beside_cluster: false,
            output: Output::Text,
            own_namespace: builtin::OWN_NAMESPACE.to_owned(),
        });
        assert!(!report.valid && report.errors[0].reason.contains("/nonexistent/x.yaml"));
    }
}
