//! Any grants, rules and request: no panic; the order of files decides nothing, a further rule never allows more, a grant less never allows
//! more, a rule that names a request refuses it with all that has its effect, and no other spelling of a denied request passes.
#![no_main]

use std::sync::Arc;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use picket_fuzz::{Choices, headers, respelt};
use picket_policy::{
    CanonicalRequest, Decision, Document, Inputs, PolicySet, Principal, PrincipalOrigin, read_documents,
};
use serde_json::{Value, json};

/// Group, resource, whether it has a namespace, and subresources.
const RESOURCES: [(&str, &str, bool, &[&str]); 8] = [
    (
        "",
        "pods",
        true,
        &["", "log", "exec", "status", "eviction", "proxy", "portforward"],
    ),
    ("", "secrets", true, &[""]),
    ("", "services", true, &["", "proxy", "status"]),
    ("", "serviceaccounts", true, &["", "token"]),
    ("apps", "deployments", true, &["", "scale", "status"]),
    ("rbac.authorization.k8s.io", "clusterroles", false, &[""]),
    ("", "nodes", false, &["", "proxy"]),
    ("example.com", "widgets", true, &["", "status"]),
];
const NAMES: [&str; 5] = ["web", "web-0", "db", "picket", "status"];
const NAMESPACES: [&str; 5] = ["team-a", "team-b", "kube-system", "picket-system", "agents"];
const VERBS: [&str; 9] = [
    "*",
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];
const GROUPS: [&str; 5] = ["*", "", "apps", "example.com", "rbac.authorization.k8s.io"];
const RESOURCE_GLOBS: [&str; 12] = [
    "*",
    "pods",
    "pods/exec",
    "pods/*",
    "*/status",
    "secrets",
    "s*",
    "deployments",
    "deployments/scale",
    "*s",
    "nodes/proxy",
    "widgets",
];
const NAMESPACE_GLOBS: [&str; 5] = ["*", "team-*", "team-a", "*-system", "?eam-b"];
const NAME_GLOBS: [&str; 4] = ["web*", "db", "web-?", "*"];
const COMMANDS: [&str; 4] = ["sh *", "ls", "cat /etc/*", "*"];
const ARGUMENTS: [&[&str]; 5] = [
    &["ls"],
    &["sh", "-c", "ls"],
    &["/bin/sh"],
    &["cat", "/etc/passwd"],
    &[" ", "ls"],
];

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let draft = Draft::new(&mut choices);
    let Some(request) = draft.read(None) else { return };
    let mut parts = vec![agent()];
    let grants = 1 + choices.below(2);
    for number in 0..grants {
        parts.push(grant(number, &mut choices));
    }
    for number in 0..choices.below(3) {
        let action = *choices.of(&["Deny", "Warn"]);
        let mode = *choices.of(&["Enforce", "Audit"]);
        let matches = some_match(&mut choices);
        parts.push(policy(&format!("p{number}"), mode, &rule(action, matches)));
    }
    let extra = some_match(&mut choices);
    let Some(documents) = read(&parts) else { return };
    let Some(set) = compile(&documents) else { return };
    let verdict = Verdict::of(&set, request);

    let turned: Vec<Document> = documents.iter().rev().cloned().collect();
    let turned = compile(&turned).expect("the same documents");
    assert_eq!(
        verdict.order_free(),
        ask(&turned, &draft).order_free(),
        "{parts:#?}"
    );

    // A further rule.
    let with = |mode: &str, action: &str, matches: &Value| {
        let mut all = documents.clone();
        all.extend(read(&[policy("further", mode, &rule(action, matches.clone()))])?);
        compile(&all)
    };
    if let Some(stricter) = with("Enforce", "Deny", &extra) {
        let stricter = ask(&stricter, &draft);
        assert!(!stricter.permits() || stricter == verdict, "{extra}: {parts:#?}");
        let (mode, action) = *choices.of(&[("Audit", "Deny"), ("Enforce", "Warn"), ("Audit", "Warn")]);
        let same = with(mode, action, &extra).expect("the same match");
        assert_eq!(ask(&same, &draft), verdict, "{mode} {action} {extra}");
    }
    // A grant less: the last that was made.
    if grants > 1 && !verdict.permits() {
        let mut fewer = documents.clone();
        fewer.remove(grants);
        let fewer = compile(&fewer).expect("fewer documents");
        assert!(!ask(&fewer, &draft).permits(), "{parts:#?}");
    }
    // The rule that names it, whatever else there is.
    if let Some(named) = with("Enforce", "Deny", &draft.named()) {
        assert!(!ask(&named, &draft).permits(), "{:?}", draft);
        for same in draft.same_effect() {
            assert!(!ask(&named, &same).permits(), "{draft:?} as {same:?}");
        }
    }
    // Other spellings.
    for seed in 0..2 {
        let backwards: Vec<u8> = data.iter().rev().skip(seed).copied().collect();
        let spelling = draft
            .read(Some(&mut Choices::new(&backwards)))
            .expect("another spelling");
        let again = Verdict::of(&set, spelling);
        assert_eq!(again, verdict, "{draft:?}");
    }
});

/// A request before it is written.
#[derive(Debug, Clone)]
struct Draft {
    method: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: Option<&'static str>,
    name: Option<&'static str>,
    command: &'static [&'static str],
    watch: bool,
    apply: bool,
}

impl Draft {
    fn new(choices: &mut Choices<'_>) -> Self {
        let (group, resource, namespaced, subresources) = *choices.of(&RESOURCES);
        let subresource = *choices.of(subresources);
        let named = !subresource.is_empty() || choices.once_in(2);
        Self {
            method: *choices.of(&["GET", "POST", "PUT", "PATCH", "DELETE"]),
            group,
            resource,
            subresource,
            namespace: (namespaced && (named || !choices.once_in(4))).then(|| *choices.of(&NAMESPACES)),
            name: named.then(|| *choices.of(&NAMES)),
            command: *choices.of(&ARGUMENTS),
            watch: choices.once_in(4),
            apply: choices.once_in(4),
        }
    }

    /// Reads it, in a plain spelling or in the one that is chosen.
    fn read(&self, mut choices: Option<&mut Choices<'_>>) -> Option<CanonicalRequest> {
        let group = if self.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}/v1", self.group)
        };
        let by_path = self.watches() && choices.as_mut().is_some_and(|choices| choices.once_in(2));
        let mut path = format!("{group}{}", if by_path { "/watch" } else { "" });
        if let Some(namespace) = self.namespace {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{}", self.resource);
        for segment in self
            .name
            .into_iter()
            .chain(Some(self.subresource).filter(|sub| !sub.is_empty()))
        {
            path += &format!("/{segment}");
        }
        let mut pairs = Vec::new();
        if self.subresource == "exec" {
            pairs.extend(self.command.iter().map(|argument| ("command", *argument)));
        }
        if self.watches() && !by_path {
            pairs.push(("watch", "true"));
        }
        let (mut method, mut lines) = (self.method, String::new());
        let query = match choices {
            None => {
                let mut query = form_urlencoded::Serializer::new(String::new());
                query.extend_pairs(pairs).finish()
            }
            Some(choices) => {
                // A proxy hands the slash on.
                let slash = self.subresource != "proxy" && choices.once_in(2);
                path = respelt(&path, true, choices) + if slash { "/" } else { "" };
                if ["exec", "portforward"].contains(&self.subresource) && ["GET", "POST"].contains(&method) {
                    method = *choices.of(&["GET", "POST"]);
                } else if method == "GET" {
                    method = *choices.of(&["GET", "HEAD"]);
                }
                lines += *choices.of(&["", "x-a: b\n", "accept: */*\n", "upgrade: h2c\n"]);
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.to_string()))
                    .collect();
                picket_fuzz::respelt_query(&pairs, choices)
            }
        };
        if self.apply {
            lines += "content-type: application/apply-patch+yaml\n";
        }
        let uri = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        let (mut head, ()) = http::Request::builder()
            .method(method)
            .uri(uri)
            .body(())
            .ok()?
            .into_parts();
        head.headers = headers(lines.as_bytes());
        CanonicalRequest::read(head).ok()
    }

    fn watches(&self) -> bool {
        self.watch && self.method == "GET" && self.name.is_none()
    }

    fn verb(&self) -> &'static str {
        match (self.method, self.name) {
            ("GET", Some(_)) => "get",
            ("GET", None) if self.watch => "watch",
            ("GET", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            (_, Some(_)) => "delete",
            (_, None) => "deletecollection",
        }
    }

    /// The match that names this request by its own words.
    fn named(&self) -> Value {
        let resource = match self.subresource {
            "" => self.resource.to_owned(),
            sub => format!("{}/{sub}", self.resource),
        };
        let mut matches = json!({"verbs": [self.verb()], "apiGroups": [self.group], "resources": [resource]});
        if let Some(namespace) = self.namespace {
            matches["namespaces"] = json!([namespace]);
        }
        if let (Some(name), false) = (self.name, self.verb() == "create") {
            matches["names"] = json!([name]);
        }
        if self.subresource == "exec" {
            matches["commands"] = json!([self.command.join(" ")]);
        }
        matches
    }

    /// Requests that read, change or delete the same object.
    fn same_effect(&self) -> Vec<Self> {
        let object = Self {
            name: self.name,
            ..self.clone()
        };
        let collection = Self {
            name: None,
            watch: false,
            ..self.clone()
        };
        let everywhere = Self {
            namespace: None,
            ..collection.clone()
        };
        let plain = self.subresource.is_empty();
        match self.verb() {
            "get" if plain => vec![
                collection.clone(),
                everywhere.clone(),
                Self {
                    watch: true,
                    ..collection
                },
                Self {
                    watch: true,
                    ..everywhere
                },
            ],
            "list" => vec![
                Self {
                    watch: true,
                    ..self.clone()
                },
                everywhere,
            ],
            "update" => vec![Self {
                method: "PATCH",
                ..object
            }],
            "patch" => vec![Self {
                method: "PUT",
                ..object
            }],
            "delete" if plain => {
                let evicted = Self {
                    method: "POST",
                    subresource: "eviction",
                    ..object
                };
                let evictions = Some(evicted).filter(|_| self.resource == "pods");
                evictions.into_iter().chain([collection, everywhere]).collect()
            }
            "create" if self.name.is_some() => vec![Self {
                method: "PATCH",
                apply: true,
                ..object
            }],
            _ => Vec::new(),
        }
    }
}

/// What a set says, as far as it may not depend on anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Permit {
        user: String,
        grant: String,
    },
    Deny {
        policy: Option<String>,
        rule: Option<String>,
    },
}

impl Verdict {
    fn of(set: &PolicySet, request: CanonicalRequest) -> Self {
        let identity = set.identities().first().expect("the agent");
        let origin = PrincipalOrigin::pod("agents", "fixer-0");
        let principal = Principal::new(Arc::clone(identity), origin, "pod", Timestamp::UNIX_EPOCH);
        let principal = Arc::new(principal.expect("it is active"));
        match set.decide(principal, request, Inputs::at(Timestamp::UNIX_EPOCH)) {
            Decision::Permit(permit) => Self::Permit {
                user: permit.user().username().to_owned(),
                grant: permit.policy().to_owned(),
            },
            Decision::Deny(denial) => {
                assert!(
                    denial.message().starts_with("agent fixer may not "),
                    "{}",
                    denial.message()
                );
                let words = |text: Option<&str>| text.map(str::to_owned);
                Self::Deny {
                    policy: words(denial.policy()),
                    rule: words(denial.rule()),
                }
            }
            Decision::Ask(ask) => panic!("no rule asks: {ask:?}"),
        }
    }

    fn permits(&self) -> bool {
        matches!(self, Self::Permit { .. })
    }

    /// Which of several grants gives a request is told by their order.
    fn order_free(&self) -> Self {
        match self {
            Self::Permit { user, .. } => Self::Permit {
                user: user.clone(),
                grant: String::new(),
            },
            deny => deny.clone(),
        }
    }
}

fn ask(set: &PolicySet, draft: &Draft) -> Verdict {
    Verdict::of(set, draft.read(None).expect("a draft that can be read"))
}

fn read(parts: &[Value]) -> Option<Vec<Document>> {
    let text: Vec<String> = parts.iter().map(Value::to_string).collect();
    read_documents("fuzz.yaml", &text.join("\n---\n")).ok()
}

fn compile(documents: &[Document]) -> Option<PolicySet> {
    PolicySet::compile_in(documents, "picket-system").ok()
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "picket.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn agent() -> Value {
    let pod = json!({"namespace": "agents", "serviceAccount": "fixer"});
    object(
        "AgentIdentity",
        "fixer",
        json!({"owner": "team-a", "attest": {"pod": pod}}),
    )
}

fn grant(number: usize, choices: &mut Choices<'_>) -> Value {
    let rules = if choices.once_in(3) {
        json!([{
            "verbs": choices.some(&VERBS, 3),
            "apiGroups": choices.some(&GROUPS, 2),
            "resources": choices.some(&["*", "pods", "secrets", "pods/exec", "deployments/scale", "services"], 2),
        }])
    } else {
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])
    };
    let mut spec = json!({
        "to": {"identities": ["fixer"]},
        "upstream": {"impersonate": {"user": "u"}},
        "rules": rules,
    });
    if choices.once_in(4) {
        spec["namespaces"] = json!(choices.some(&NAMESPACE_GLOBS, 2));
    }
    object("AgentGrant", &format!("g{number}"), spec)
}

fn policy(name: &str, mode: &str, rule: &Value) -> Value {
    object("AgentPolicy", name, json!({"mode": mode, "rules": [rule]}))
}

fn rule(action: &str, matches: Value) -> Value {
    json!({"name": "r", "action": action, "message": "Not so.", "match": matches})
}

/// A match; many of them are refused, since they contradict themselves.
fn some_match(choices: &mut Choices<'_>) -> Value {
    let mut matches = json!({"resources": choices.some(&RESOURCE_GLOBS, 2)});
    if choices.once_in(2) {
        matches["verbs"] = json!(choices.some(&VERBS, 3));
    }
    if choices.once_in(3) {
        matches["apiGroups"] = json!(choices.some(&GROUPS, 2));
    }
    if choices.once_in(3) {
        matches["namespaces"] = json!(choices.some(&NAMESPACE_GLOBS, 2));
    }
    if choices.once_in(4) {
        matches["names"] = json!(choices.some(&NAME_GLOBS, 2));
    }
    if choices.once_in(4) {
        matches["resources"] = json!(["pods/exec"]);
        matches[*choices.of(&["commands", "exceptCommands"])] = json!(choices.some(&COMMANDS, 2));
    }
    matches
}
