//! What files may say, and the line and words of each refusal.

use super::v1alpha1::{Action, Mode, Object, Spec, State};
use super::*;

mod params;
mod resources;
mod rules;
mod windows;

const IDENTITY: &str = r"apiVersion: picket.dev/v1alpha1
kind: AgentIdentity
metadata:
  name: fixer
spec:
  owner: team-a
  groups: [agents]
  state: Suspended
  expiresAt: 2027-01-31T00:00:00Z
  reviewBy: 2026-12-01T00:00:00Z
  attest:
    pod:
      namespace: team-a
      serviceAccount: fixer
      selector:
        matchLabels: {app: fixer}
        matchExpressions:
        - {key: tier, operator: In, values: [x, y]}
        - {key: debug, operator: DoesNotExist}
";

const GRANT: &str = r#"apiVersion: picket.dev/v1alpha1
kind: AgentGrant
metadata:
  name: fixers
spec:
  to:
    identities: [fixer]
  upstream:
    impersonate:
      user: picket:fixer
      groups: [picket:agents]
  rules:
  - verbs: [get, list]
    apiGroups: [""]
    resources: [pods, pods/log]
  - verbs: [get]
    nonResourceURLs: [/metrics]
"#;

const POLICY: &str = r#"apiVersion: picket.dev/v1alpha1
kind: AgentPolicy
metadata:
  name: keep
spec:
  subjects:
    groups: [agents]
  mode: Audit
  rules:
  - name: no-delete
    match:
      verbs: [delete]
      apiGroups: [""]
      resources: [namespaces]
    action: Deny
    message: "Namespaces stay."
"#;

fn read(text: &str) -> Vec<Document> {
    read_documents("f.yaml", text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The errors, one a line, without the file's name.
fn faults(text: &str) -> String {
    let errors = read_documents("f.yaml", text).expect_err("a fault");
    let lines: Vec<_> = errors
        .iter()
        .map(|error| format!("{}:{}: {}", error.line, error.column, error.reason))
        .collect();
    lines.join("\n")
}

#[test]
fn the_three_kinds_are_read_from_one_file() {
    let documents = read(&format!(
        "# a note\n---\n{IDENTITY}---\n{GRANT}---\n---\n{POLICY}"
    ));
    let [
        AnyObject::Identity(identity),
        AnyObject::Grant(grant),
        AnyObject::Policy(policy),
    ] = [0, 1, 2].map(|index: usize| documents[index].object.clone())
    else {
        panic!("{documents:?}")
    };
    assert_eq!(identity.spec.state, State::Suspended);
    assert_eq!(
        identity.spec.expires_at.expect("given").to_string(),
        "2027-01-31T00:00:00Z"
    );
    let pod = identity.spec.attest.pod.expect("given");
    let selector = pod.selector.expect("given");
    assert_eq!(
        (selector.match_labels.len(), selector.match_expressions.len()),
        (1, 2)
    );
    let impersonate = grant.spec.upstream.impersonate.expect("given");
    assert_eq!(impersonate.user, "picket:fixer");
    assert_eq!(grant.spec.rules[0].resources[1], "pods/log");
    let rules = FieldPath::new("spec").field("rules");
    let resource = rules.index(0).field("resources").index(1);
    assert_eq!(documents[1].location(&resource).line, 37);
    let spec = &policy.spec;
    assert_eq!((spec.mode, spec.rules[0].action), (Mode::Audit, Action::Deny));
    assert_eq!(spec.rules[0].message, "Namespaces stay.");
}

#[test]
fn an_exclusive_identity_is_one_of_pods() {
    let exclusive = |attest: &str| {
        format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {{name: a}}\nspec:\n  owner: o\n  exclusive: true\n  \
             attest: {attest}\n"
        )
    };
    let spiffe = "spiffe: {id: 'spiffe://d/x'}";
    let documents = read(&exclusive(&format!(
        "{{pod: {{namespace: n, serviceAccount: s}}, {spiffe}}}"
    )));
    let AnyObject::Identity(identity) = &documents[0].object else {
        panic!("{documents:?}")
    };
    assert!(identity.spec.exclusive);
    assert_eq!(
        faults(&exclusive(&format!("{{{spiffe}}}"))),
        "6:14: field `spec.exclusive` is about pods: without attest.pod nothing says which workload a caller belongs to"
    );
}

#[test]
fn fields_of_later_versions_are_refused_by_name_and_line() {
    for (text, from, to, fault) in [
        (
            GRANT,
            "    impersonate:",
            "    eks: {}\n    impersonate:",
            "9:5: field `spec.upstream.eks` is not supported by this version yet",
        ),
        (
            POLICY,
            "action: Deny",
            "action: Mask",
            "15:13: field `spec.rules[0].action`: action Mask is not supported by this version yet",
        ),
        (
            POLICY,
            "action: Deny",
            "action: RequireApproval",
            "15:13: field `spec.rules[0].action`: action RequireApproval is not supported by this version yet",
        ),
        (
            POLICY,
            "AgentPolicy",
            "AuditSink",
            "2:7: kind AuditSink is not supported by this version yet",
        ),
    ] {
        assert_eq!(faults(&text.replacen(from, to, 1)), fault);
    }
}

#[test]
fn a_field_of_an_older_name_is_refused_with_the_new_one() {
    let old = POLICY.replace("mode: Audit", "lift: [builtin/nodes-proxy]");
    assert_eq!(
        faults(&old),
        "8:3: field `spec.lift` is called `spec.exceptions` now"
    );
}

#[test]
fn resources_that_no_request_has_are_refused_since_a_rule_about_them_would_be_a_hole() {
    for name in ["namespace", "Pods", "pod/exec", "ns"] {
        let said = faults(&POLICY.replacen("resources: [", &format!("resources: [{name}, "), 1));
        assert!(said.contains(&format!("resource {name:?}: ")), "{name}: {said}");
    }
}

#[test]
fn what_cannot_stand_is_refused_with_its_place() {
    for (text, from, to, fault) in [
        (
            IDENTITY,
            "    pod:",
            "    jwt: {issuer: x, subject: s}\n    pod:",
            "12:19: field `spec.attest.jwt.issuer` is \"x\"; it must be the issuer's URL, https://...",
        ),
        (
            IDENTITY,
            "    pod:",
            "    jwt: {issuer: 'https://x', subject: ''}\n    pod:",
            "12:41: field `spec.attest.jwt.subject` must not be empty",
        ),
        (
            IDENTITY,
            "owner: team-a",
            "colour: red",
            "6:3: unknown field `spec.colour`; known here: owner",
        ),
        (
            IDENTITY,
            "owner: team-a",
            "owner: ''",
            "6:10: field `spec.owner` must not be empty",
        ),
        (
            IDENTITY,
            "  owner: team-a\n",
            "",
            "field `spec.owner` is required",
        ),
        (
            IDENTITY,
            "owner: team-a",
            "owner: 7",
            "6:10: field `spec.owner` must be text, not the number 7: quote it",
        ),
        (
            IDENTITY,
            "Suspended",
            "Gone",
            "8:10: field `spec.state` is \"Gone\"; it can be Active, Suspended or Revoked",
        ),
        (
            IDENTITY,
            "2027-01-31T00:00:00Z",
            "soon",
            "9:14: field `spec.expiresAt` must be a moment",
        ),
        (
            IDENTITY,
            "v1alpha1",
            "v1",
            "1:13: apiVersion is \"picket.dev/v1\"; it must be picket.dev/v1alpha1",
        ),
        (
            IDENTITY,
            "AgentIdentity",
            "Agent",
            "2:7: unknown kind \"Agent\"; known: AgentIdentity, AgentGrant, AgentPolicy",
        ),
        (
            IDENTITY,
            "name: fixer",
            "name: Fixer",
            "4:9: field `metadata.name` is \"Fixer\"",
        ),
        (
            IDENTITY,
            "namespace: team-a",
            "namespace: '*'",
            "13:18: field `spec.attest.pod.namespace` is \"*\"",
        ),
        (
            IDENTITY,
            "  attest:\n",
            "  attest: {}\n  other:\n",
            "11:11: field `spec.attest` names nothing: say by which pod, token or certificate the agent is recognised",
        ),
        (
            IDENTITY,
            "    pod:",
            "    spiffe: {id: 'spiffe://example.org'}\n    pod:",
            "12:18: field `spec.attest.spiffe.id` is \"spiffe://example.org\": it must have a path",
        ),
        (
            IDENTITY,
            "operator: In, values: [x, y]",
            "operator: In",
            "18:11: field `spec.attest.pod.selector.matchExpressions[0].values` is required",
        ),
        (
            IDENTITY,
            "operator: In,",
            "operator: Near,",
            "it can be In, NotIn, Exists or DoesNotExist",
        ),
        (
            IDENTITY,
            "[agents]",
            "['system:masters']",
            "group \"system:masters\": Picket's groups",
        ),
        (
            GRANT,
            "picket:agents",
            "system:masters",
            "11:16: group \"system:masters\" passes every check",
        ),
        (
            GRANT,
            "picket:agents",
            "'system:nodes'",
            "11:16: group \"system:nodes\": of the `system:` groups only",
        ),
        (
            GRANT,
            "user: picket:fixer",
            "user: system:admin",
            "10:13: user \"system:admin\": of the `system:` users only",
        ),
        (
            GRANT,
            "user: picket:fixer",
            "user: \"a\\nb\"",
            "10:13: the user must be printable ASCII",
        ),
        (
            GRANT,
            "[get, list]",
            "[get, lst]",
            "13:18: verb \"lst\": no request has it",
        ),
        (
            GRANT,
            "[get, list]",
            "[get, impersonates]",
            "verb \"impersonates\": no request has it",
        ),
        (
            GRANT,
            "[get, list]",
            "[get, 'impersonate:everybody']",
            "verb \"impersonate:everybody\": no request has it",
        ),
        (
            GRANT,
            "[get, list]",
            "[get, 'impersonate-on:user-info:fly']",
            "verb \"impersonate-on:user-info:fly\": no request has it",
        ),
        (
            GRANT,
            "[get, list]",
            "[get, 'impersonate-on:user-info:post']",
            "verb \"impersonate-on:user-info:post\": no request has it",
        ),
        (
            GRANT,
            "    apiGroups: [\"\"]\n",
            "",
            "13:5: field `spec.rules[0].apiGroups` is required",
        ),
        (GRANT, "pods/log]", "pods/*]", "resource \"pods/*\": RBAC knows"),
        (
            GRANT,
            "nonResourceURLs: [/metrics]",
            "nonResourceURLs: [metrics]",
            "path \"metrics\" must start with /",
        ),
        (
            GRANT,
            "    identities: [fixer]",
            "    identities: []",
            "7:17: field `spec.to.identities` is an empty list",
        ),
        (
            GRANT,
            "  to:\n    identities: [fixer]\n",
            "",
            "field `spec.to` is required",
        ),
        (
            GRANT,
            "  to:",
            "  namespaces: [a]\n  to:",
            "has no place in a grant with `spec.namespaces`",
        ),
        (
            POLICY,
            "verbs: [delete]",
            "verbs: [DELETE]",
            "12:15: verb \"DELETE\": no request has it",
        ),
        (
            POLICY,
            "verbs: [delete]",
            "verbs: []",
            "12:14: field `spec.rules[0].match.verbs` is an empty list",
        ),
        (
            POLICY,
            "[namespaces]",
            "[\"prod-[ab]\"]",
            "a glob has the wildcards * and ? only",
        ),
        (
            POLICY,
            "[namespaces]",
            "[a/b/c]",
            "resource \"a/b/c\": write `pods`",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "commands: ['rm *']",
            "commands, stdin, tty and env need resources: [pods/exec]",
        ),
        (
            POLICY,
            "verbs: [delete]",
            "exceptNamespaces: ['*']",
            "exceptNamespaces` leaves nothing of the rule",
        ),
        (
            POLICY,
            "verbs: [delete]",
            "namespaces: [prod-eu, prod-us]\n      exceptNamespaces: [x, 'prod-*']",
            "leaves nothing of the rule",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "resources: [pods/log, pods/exec]\n      exceptResources: ['pods/*']",
            "exceptResources` leaves nothing of the rule",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "resources: [pods/log]\n      exceptResources: ['*']",
            "leaves nothing of the rule",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "resources: [pods]\n      exceptResources: [a/b/c]",
            "resource \"a/b/c\": write `pods`",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "resources: [pods]\n      exceptNames: ['*']",
            "exceptNames` leaves nothing of the rule",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "resources: [pods]\n      exceptNamespaces: ['a_b']",
            "no namespace can be called so",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "nonResourceURLs: [/x]\n      exceptNames: [x]",
            "mixes resources and nonResourceURLs",
        ),
        (
            POLICY,
            "verbs: [delete]",
            "stdin: true",
            "commands, stdin, tty and env need resources: [pods/exec]",
        ),
        (
            POLICY,
            "resources: [namespaces]",
            "resources: [pods/exec]\n      exceptArgv: [[id], ['']]",
            "a list of exceptArgv begins with the program",
        ),
        (
            POLICY,
            "apiGroups: [\"\"]",
            "nonResourceURLs: [/x]",
            "mixes resources and nonResourceURLs",
        ),
        (
            POLICY,
            "  - name: no-delete",
            "  - nam: no-delete",
            "10:5: unknown field `spec.rules[0].nam`",
        ),
        (
            POLICY,
            "mode: Audit",
            "exceptions: [builtin/none]",
            "\"builtin/none\" is no built-in deny; there are: builtin/nodes-proxy",
        ),
        (
            POLICY,
            "mode: Audit",
            "mode: Audit\n  exceptions: [builtin/nodes-proxy]",
            "`spec.exceptions` has no effect in mode Audit",
        ),
        (
            POLICY,
            "groups: [agents]\n  mode: Audit",
            "groups: ['*']\n  exceptions: [builtin/nodes-proxy]",
            "needs subjects by name",
        ),
        (
            POLICY,
            "  subjects:\n    groups: [agents]\n  mode: Audit",
            "  exceptions: [builtin/nodes-proxy]",
            "no exception is for all agents",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let found = faults(&text.replacen(from, to, 1));
        assert!(found.contains(fault), "wanted: {fault}\nfound: {found}");
    }
    assert!(faults("- a\n- b\n").contains("1:1: the document must be a mapping, not a list"));
    assert!(faults(&POLICY[..POLICY.find("  rules").expect("there")]).contains("`spec.rules` is required"));
    let twice = format!("{POLICY}{}", &POLICY[POLICY.find("  - name").expect("there")..]);
    assert!(faults(&twice).contains("17:11: rule \"no-delete\" is there twice"));
}

#[test]
fn every_fault_of_a_file_is_told_at_once() {
    let text = IDENTITY
        .replace("owner: team-a", "owner: 7")
        .replace("Suspended", "Gone");
    assert_eq!(
        faults(&format!("{text}---\n{}", GRANT.replace("AgentGrant", "Grant")))
            .lines()
            .count(),
        3
    );
}

#[test]
fn a_faulty_structure_hides_no_other_fault_and_echoes_in_none() {
    // What the schema refuses and what only the reader can tell come in one reading, in the order of the file.
    let policy = POLICY
        .replace("mode: Audit", "mode: Adit")
        .replace("[namespaces]", "[namespace]")
        .replace("action: Deny", "action: Mask");
    assert_eq!(
        faults(&policy),
        "8:9: field `spec.mode` is \"Adit\"; it can be Enforce or Audit\n\
         14:19: resource \"namespace\": no request has it; did you mean `namespaces`?\n\
         15:13: field `spec.rules[0].action`: action Mask is not supported by this version yet"
    );
    // A list that is none would otherwise count as left out, and be missed as such.
    for (text, from, to, fault) in [
        (
            GRANT,
            "    identities: [fixer]",
            "    identities: 7",
            "7:17: field `spec.to.identities` must be a list, not the number 7",
        ),
        (
            GRANT,
            "nonResourceURLs: [/metrics]",
            "nonResourceURLs: /metrics",
            "17:22: field `spec.rules[1].nonResourceURLs` must be a list, not text",
        ),
        (
            POLICY,
            "    groups: [agents]\n  mode: Audit",
            "    groups: agents\n  exceptions: [builtin/nodes-proxy]",
            "7:13: field `spec.subjects.groups` must be a list, not text",
        ),
        (
            GRANT,
            "  rules:\n",
            "  rules: []\n  namespaces:\n",
            "12:10: field `spec.rules` is an empty list: name at least one",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let found = faults(&text.replacen(from, to, 1));
        assert_eq!(found.lines().next(), Some(fault), "{found}");
        assert!(to.contains("rules: []") || found.lines().count() == 1, "{found}");
    }
}

#[test]
fn a_faulty_document_is_told_apart_from_those_beside_it() {
    let text = format!(
        "{IDENTITY}---\n{}---\n{POLICY}---\nkind: 7\n",
        GRANT.replace("[get, list]", "[lst]")
    );
    let read = read_file("f.yaml", &text);
    let entries: Vec<_> = read
        .entries
        .iter()
        .map(|entry| {
            (
                entry.kind.as_str(),
                entry.name.as_str(),
                (entry.first_line, entry.line),
                entry.document.is_some(),
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            ("AgentIdentity", "fixer", (1, 4), true),
            ("AgentGrant", "fixers", (21, 24), false),
            ("AgentPolicy", "keep", (39, 42), true),
            ("", "", (56, 56), false),
        ]
    );
    assert_eq!(read.errors[0].line, 33);
    let broken = read_file("f.yaml", "a: [");
    assert!(broken.entries.is_empty() && broken.errors.len() == 1);
}

/// As `kubectl get agentidentities,agentpolicies -o yaml` prints them.
#[test]
fn what_kubectl_prints_of_a_cluster_is_read() {
    let item = |text: &str| {
        let text = text.replace(
            "metadata:\n",
            "metadata:\n  uid: u-1\n  resourceVersion: \"7\"\n  generation: 2\n",
        );
        let status = "status:\n  conditions:\n  - {type: Ready, status: \"True\"}\n";
        let lines: String = format!("{text}{status}")
            .lines()
            .map(|line| format!("  {line}\n"))
            .collect();
        lines.replacen("  ", "- ", 1)
    };
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: \"\"\nitems:\n{}{}---\n{GRANT}---\napiVersion: picket.dev/v1alpha1\n\
         kind: AgentPolicyList\nitems: []\n",
        item(IDENTITY),
        item(POLICY),
    );
    let documents = read(&text);
    let kinds: Vec<_> = documents.iter().map(|document| document.kind()).collect();
    assert_eq!(kinds, ["AgentIdentity", "AgentPolicy", "AgentGrant"]);
    let pods = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n";
    assert_eq!(faults(pods), "4:3: not a Picket object (kind Pod of v1)");
}

#[test]
fn an_object_is_plain_serde_that_refuses_what_it_does_not_know() {
    fn same<S: Spec>(object: &Object<S>) {
        let json = serde_json::to_value(object).expect("plain");
        assert_eq!(json["apiVersion"], API_VERSION);
        assert_eq!(json["kind"], S::KIND);
        let back: Object<S> = serde_json::from_value(json.clone()).expect("plain");
        assert_eq!(back, *object);
        for (pointer, value) in [
            ("/apiVersion", "picket.dev/v1"),
            ("/kind", "Agent"),
            ("/colour", "red"),
            ("/metadata/colour", "red"),
            ("/spec/colour", "red"),
        ] {
            let mut json = json.clone();
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            json.pointer_mut(parent).expect("there")[name] = value.into();
            let read = serde_json::from_value::<Object<S>>(json);
            assert!(read.is_err(), "{pointer}");
        }
    }
    for document in read(&format!("{IDENTITY}---\n{GRANT}---\n{POLICY}")) {
        match &document.object {
            AnyObject::Identity(object) => same(object),
            AnyObject::Grant(object) => same(object),
            AnyObject::Policy(object) => same(object),
        }
    }
}

#[test]
fn labels_are_text_and_what_api_servers_add_is_no_fault() {
    let printed = IDENTITY.replace(
        "  name: fixer\n",
        "  name: fixer\n  labels: {app: x}\n  annotations: {a: \"7\"}\n  uid: 1-2\n  resourceVersion: \"7\"\n  generation: 3\n  \
         creationTimestamp: 2026-01-01T00:00:00Z\n  managedFields: [{manager: kubectl, fieldsV1: {a: 1.5}}]\n",
    );
    assert_eq!(read(&printed)[0].name(), "fixer");
    assert_eq!(
        faults(&printed.replace("app: x", "app: 7")),
        "5:17: field `metadata.labels.app` must be text, not the number 7: quote it"
    );
    assert_eq!(
        faults(&printed.replace("generation: 3", "generation: x")),
        "9:15: field `metadata.generation` must be a whole number, not text"
    );
}

#[test]
fn a_document_of_somebody_elses_is_told_in_one_line() {
    let role =
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: A:b}\nrules: []\n";
    let map = "apiVersion: v1\nkind: ConfigMap\ndata: {}\n";
    assert_eq!(
        faults(&format!("{role}---\n{map}---\n{IDENTITY}")),
        "1:1: not a Picket object (kind ClusterRole of rbac.authorization.k8s.io/v1)\n\
         6:1: not a Picket object (kind ConfigMap of v1)"
    );
    // One of ours with a slip in its version keeps the advice for it.
    let slip = IDENTITY.replace("v1alpha1", "v1");
    assert!(faults(&slip).contains("it must be picket.dev/v1alpha1"));
}

/// As for requests: a fixed walk over broken files, that no text brings the decoder down.
#[test]
fn no_text_panics() {
    let whole = format!("{IDENTITY}---\n{GRANT}---\n{POLICY}");
    let pieces = [
        "", "[", "]", "{", "}", ":", "- ", "*a", "&a ", "\t", "~", "\"", "'", "|", "---\n", "é", "\u{0}",
        "!x ",
    ];
    let places: Vec<_> = whole.char_indices().map(|(at, _)| at).collect();
    let mut errors = 0;
    for (round, at) in places.iter().copied().step_by(3).enumerate() {
        let mut text = whole.clone();
        text.insert_str(at, pieces[round % pieces.len()]);
        errors += usize::from(read_documents("f.yaml", &text).is_err());
        errors += usize::from(read_documents("f.yaml", &whole[..at]).is_err());
        errors += usize::from(read_documents("f.yaml", &whole[at..]).is_err());
    }
    assert!(errors > 500, "{errors}");
}

/// The manual lists the fields and words that are not built yet; one that is built must leave the list with its work.
#[test]
fn the_manual_lists_what_is_not_built() {
    fn of<S: Spec>() -> (&'static str, Vec<String>) {
        let fields = S::PLANNED_FIELDS
            .iter()
            .map(|field| field.trim_start_matches("spec."));
        let words = S::PLANNED_WORDS
            .iter()
            .flat_map(|(_, words)| words.iter().copied());
        let mut all: Vec<_> = fields.chain(words).map(str::to_owned).collect();
        all.sort();
        (S::KIND, all)
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/docs/policy.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, table) = page
        .split_once("## Fields that are not built yet")
        .expect("the section");
    for (kind, planned) in [
        of::<AgentIdentitySpec>(),
        of::<AgentGrantSpec>(),
        of::<AgentPolicySpec>(),
    ] {
        let row = table
            .lines()
            .find_map(|line| line.strip_prefix(&format!("| {kind} |")));
        let mut listed: Vec<_> = row
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        listed.sort();
        assert_eq!(listed, planned, "{kind}");
    }
}
