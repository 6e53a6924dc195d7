//! Property tests of narrowed grants: they give all that was used, and nothing that the grants before did not.

use http::{HeaderMap, Method, Uri};

use super::*;
use crate::api::{AnyObject, read_documents};

/// A grant with these fields of its spec.
fn grant(fields: &str) -> AgentGrant {
    let text = format!(
        "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g}}\nspec: {{to: {{identities: [a]}}, upstream: \
         {{impersonate: {{user: u}}}}, {fields}}}\n"
    );
    let documents = read_documents("g.yaml", &text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    match documents.into_iter().next().map(|document| document.object) {
        Some(AnyObject::Grant(grant)) => grant,
        other => panic!("{other:?}"),
    }
}

/// `METHOD TARGET`, with `apply` at its end for a server-side apply.
fn request(line: &str) -> KubeRequest {
    let mut words = line.split_whitespace();
    let method: Method = words.next().expect("a method").parse().expect("a method");
    let target: Uri = words.next().expect("a target").parse().expect("a target");
    let mut headers = HeaderMap::new();
    if words.next() == Some("apply") {
        let apply = http::HeaderValue::from_static("application/apply-patch+yaml");
        headers.insert(http::header::CONTENT_TYPE, apply);
    }
    KubeRequest::read(&method, &target, &headers).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn verbs_of(request: &KubeRequest) -> Vec<Verb> {
    let (verbs, count) = needed(request);
    verbs[..count].to_vec()
}

fn narrowed(grant: &AgentGrant, lines: &[&str]) -> Option<AgentGrantSpec> {
    let requests: Vec<_> = lines.iter().map(|line| request(line)).collect();
    let each = |request| verbs_of(request).into_iter().map(move |verb| (verb, request));
    narrow(grant, requests.iter().flat_map(each))
}

/// The rules of a spec in one line each.
fn lines(spec: &AgentGrantSpec) -> Vec<String> {
    let line = |rule: &PolicyRule| {
        let PolicyRule {
            verbs,
            api_groups,
            resources,
            resource_names,
            non_resource_urls,
            dry_run,
            proxy_paths,
        } = rule;
        let dry_run = dry_run.map_or("", |_| " dry");
        format!(
            "{verbs:?} {api_groups:?} {resources:?} {resource_names:?} {non_resource_urls:?} {proxy_paths:?}{dry_run}"
        )
    };
    spec.rules.iter().map(line).collect()
}

const WIDE: &str = "rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]";

#[test]
fn what_was_used_is_left_in_the_namespaces_where_it_was() {
    let spec = narrowed(
        &grant(WIDE),
        &[
            "GET /api/v1/namespaces/shop/pods",
            "GET /api/v1/namespaces/shop/pods/web-1/log",
            "GET /api/v1/namespaces/web/pods/web-1",
            "PATCH /apis/apps/v1/namespaces/shop/deployments/web",
        ],
    );
    let spec = spec.expect("a grant");
    assert_eq!(spec.namespaces, ["shop", "web"]);
    assert_eq!(
        lines(&spec),
        [
            r#"["get", "list"] [""] ["pods"] [] [] []"#,
            r#"["get"] [""] ["pods/log"] [] [] []"#,
            r#"["patch"] ["apps"] ["deployments"] [] [] []"#,
        ]
    );
    // A list of all namespaces is in none.
    let spec = narrowed(&grant(WIDE), &["GET /api/v1/pods", "GET /api/v1/nodes"]).expect("a grant");
    assert_eq!(spec.namespaces, [] as [String; 0]);
    assert_eq!(lines(&spec), [r#"["list"] [""] ["nodes", "pods"] [] [] []"#]);
}

#[test]
fn names_dry_runs_and_paths_stay_what_they_were() {
    let of = grant(
        "rules: [{apiGroups: [''], resources: [secrets], resourceNames: [a, b, c], verbs: [get, update]}, {apiGroups: [apps], \
         resources: [deployments], verbs: [patch, create], dryRun: Only}, {nonResourceURLs: ['/metrics*', /healthz/*], verbs: \
         [get]}, {apiGroups: [''], resources: [nodes/proxy], verbs: [get], proxyPaths: [/stats/*, /pods]}]",
    );
    let spec = narrowed(
        &of,
        &[
            "GET /api/v1/namespaces/x/secrets/b",
            "PATCH /apis/apps/v1/namespaces/x/deployments/d?dryRun=All",
            "GET /metrics",
            "GET /api/v1/nodes/n/proxy/stats/summary",
        ],
    );
    assert_eq!(
        lines(&spec.expect("a grant")),
        [
            r#"["get"] [""] ["secrets"] ["b"] [] []"#,
            r#"["patch"] ["apps"] ["deployments"] [] [] [] dry"#,
            r#"["get"] [] [] [] ["/metrics"] []"#,
            r#"["get"] [""] ["nodes/proxy"] [] [] ["/stats/*"]"#,
        ]
    );
}

#[test]
fn nothing_used_is_no_grant_and_others_uses_are_none() {
    let of = grant("rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]");
    assert_eq!(narrowed(&of, &[]), None);
    let others = [
        "GET /version",
        "GET /api/v1/namespaces/x/pods",
        "DELETE /api/v1/namespaces/x/pods/y",
    ];
    assert_eq!(narrowed(&of, &others), None);
}

#[test]
fn a_name_with_a_wildcard_widens_nothing() {
    let of = grant("namespaces: ['team-?'], rules: [{apiGroups: [''], resources: [pods], verbs: [list]}]");
    let spec = narrowed(&of, &["GET /api/v1/namespaces/team-*/pods"]).expect("a grant");
    assert_eq!(spec.namespaces, ["team-?"]);
    // No server has such a resource, and no rule can name it.
    let spec = narrowed(&grant(WIDE), &["GET /api/v1/namespaces/x/Pods"]).expect("a grant");
    assert_eq!(lines(&spec), [r#"["*"] ["*"] ["*"] [] [] []"#]);
}

#[test]
fn a_use_is_of_the_grant_that_the_record_names_where_that_gives_it() {
    let compiled = |name: &str, verbs: &str| {
        let mut grant = grant(&format!(
            "rules: [{{apiGroups: [''], resources: [configmaps], verbs: [{verbs}]}}]"
        ));
        name.clone_into(&mut grant.metadata.name);
        Arc::new(Grant::new(&grant, &mut Zones::default()))
    };
    let grants = [compiled("one", "patch"), compiled("two", "patch, create")];
    let of = |named, line: &str| -> Vec<String> {
        let uses = uses(&grants, named, &request(line));
        uses.iter()
            .map(|of| format!("{} {}", of.grant, of.verb))
            .collect()
    };
    let patch = "PATCH /api/v1/namespaces/x/configmaps/c";
    assert_eq!(of(None, patch), ["one patch"]);
    assert_eq!(of(Some("two"), patch), ["two patch"]);
    assert_eq!(of(Some("gone"), patch), ["one patch"]);
    // An apply may create, which the other gives.
    assert_eq!(
        of(Some("one"), &format!("{patch} apply")),
        ["one patch", "two create"]
    );
    assert_eq!(of(Some("one"), "GET /version"), [] as [&str; 0]);
}

/// Choices that look random and are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        usize::try_from(mixed % bound as u64).unwrap_or_default()
    }

    fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len())]
    }

    fn some(&mut self, words: &[&str]) -> String {
        let count = 1 + self.below(3);
        let chosen: BTreeSet<_> = (0..count).map(|_| self.of(words)).collect();
        let quoted: Vec<_> = chosen.iter().map(|word| format!("'{word}'")).collect();
        format!("[{}]", quoted.join(", "))
    }

    fn rule(&mut self, namespaced: bool) -> String {
        match self.below(if namespaced { 4 } else { 6 }) {
            0 => format!(
                "{{apiGroups: [apps], resources: {}, verbs: {}, dryRun: Only}}",
                self.some(&["deployments", "statefulsets", "deployments/scale"]),
                self.some(&["create", "update", "patch"])
            ),
            4 => format!(
                "{{nonResourceURLs: {}, verbs: {}}}",
                self.some(&["/metrics", "/metrics/*", "/healthz*", "*"]),
                self.some(&["get", "*"])
            ),
            5 => format!(
                "{{apiGroups: [''], resources: [nodes/proxy], verbs: [get], proxyPaths: {}}}",
                self.some(&["/stats/*", "/pods", "/stats/summary"])
            ),
            _ => {
                let names = match self.below(3) {
                    0 => format!(", resourceNames: {}", self.some(&["a", "b"])),
                    _ => String::new(),
                };
                format!(
                    "{{apiGroups: {}, resources: {}, verbs: {}{names}}}",
                    self.some(&["", "apps", "*"]),
                    self.some(&[
                        "pods",
                        "pods/log",
                        "pods/exec",
                        "*/scale",
                        "*",
                        "configmaps",
                        "deployments"
                    ]),
                    self.some(&[
                        "get",
                        "list",
                        "watch",
                        "create",
                        "update",
                        "patch",
                        "delete",
                        "deletecollection",
                        "*"
                    ])
                )
            }
        }
    }

    fn grant(&mut self) -> Option<AgentGrant> {
        let namespaced = self.below(2) == 0;
        let count = 1 + self.below(3);
        let rules: Vec<_> = (0..count).map(|_| self.rule(namespaced)).collect();
        let namespaces = match namespaced {
            true => format!("namespaces: {}, ", self.some(&["x", "y", "team-*", "team-?"])),
            false => String::new(),
        };
        let text = format!("{namespaces}rules: [{}]", rules.join(", "));
        // A resource of the other group is an error, and such a grant is left out.
        let text = format!(
            "apiVersion: picket.dev/v1alpha1\nkind: AgentGrant\nmetadata: {{name: g}}\nspec: {{to: {{identities: [a]}}, upstream: \
             {{impersonate: {{user: u}}}}, {text}}}\n"
        );
        match read_documents("g.yaml", &text).ok()?.pop()?.object {
            AnyObject::Grant(grant) => Some(grant),
            AnyObject::Identity(_) | AnyObject::Policy(_) => None,
        }
    }

    fn request(&mut self) -> KubeRequest {
        let namespace = self.of(&["x", "y", "team-a", "team-*", "z"]);
        let method = self.of(&["GET", "POST", "PUT", "PATCH", "DELETE"]);
        let line = match self.below(8) {
            0 => format!(
                "GET {}",
                self.of(&["/metrics", "/metrics/x", "/healthz", "/healthz/etcd", "/logs"])
            ),
            1 => format!(
                "GET /api/v1/nodes/n/proxy/{}",
                self.of(&["stats/summary", "stats/x", "pods", "logs"])
            ),
            2 => format!(
                "{method} /api/v1/namespaces/{namespace}/pods/a/{}",
                self.of(&["log", "exec", "scale"])
            ),
            3 => format!(
                "{method} /apis/apps/v1/namespaces/{namespace}/{}/{}{}",
                self.of(&["deployments", "statefulsets"]),
                self.of(&["a", "b", "c"]),
                self.of(&["", "/scale", "?dryRun=All", "/scale?dryRun=All"])
            ),
            4 => format!(
                "GET /api/v1/{}",
                self.of(&["pods", "configmaps", "pods?watch=true", "namespaces/x"])
            ),
            5 => format!(
                "{method} /api/v1/namespaces/{namespace}/{}",
                self.of(&[
                    "configmaps",
                    "pods",
                    "Pods",
                    "*",
                    "pods?fieldSelector=metadata.name%3Da"
                ])
            ),
            6 => format!(
                "PATCH /api/v1/namespaces/{namespace}/configmaps/{} apply",
                self.of(&["a", "b", "c"])
            ),
            _ => format!(
                "{method} /api/v1/namespaces/{namespace}/configmaps/{}",
                self.of(&["a", "b", "c"])
            ),
        };
        let collection = line.strip_suffix("/a").filter(|_| self.below(2) == 0);
        request(collection.unwrap_or(&line))
    }
}

/// Whether a grant gives every verb that a request takes.
fn gives(grant: &Grant, verb: Verb, request: &KubeRequest) -> bool {
    grant.rule_for(verb, request).is_some()
}

/// Of many grants and requests: the narrowed grant gives all that was used, and nothing that the grant does not give.
#[test]
fn a_narrowed_grant_gives_what_was_used_and_nothing_new() {
    let mut random = Random(7);
    let (mut narrower, mut kept) = (0, 0);
    for _ in 0..1_500 {
        let Some(grant) = random.grant() else { continue };
        let present = Grant::new(&grant, &mut Zones::default());
        let count = 1 + random.below(6);
        let requests: Vec<_> = (0..count).map(|_| random.request()).collect();
        let used: Vec<_> = requests
            .iter()
            .flat_map(|request| verbs_of(request).into_iter().map(move |verb| (verb, request)))
            .filter(|(verb, request)| gives(&present, *verb, request))
            .collect();
        let Some(spec) = narrow(&grant, used.iter().copied()) else {
            assert!(used.is_empty(), "{grant:?} {used:?}");
            continue;
        };
        let proposal = AgentGrant {
            spec,
            ..grant.clone()
        };
        let mut errors = FieldErrors::default();
        proposal.spec.validate(&FieldPath::new("spec"), &mut errors);
        assert!(errors.into_vec().is_empty(), "{proposal:#?}");
        let proposed = Grant::new(&proposal, &mut Zones::default());
        for (verb, request) in &used {
            assert!(
                gives(&proposed, *verb, request),
                "{verb} {request:?} is lost:\n{grant:#?}\n{proposal:#?}"
            );
            kept += 1;
        }
        for _ in 0..40 {
            let other = random.request();
            for verb in verbs_of(&other) {
                let (before, after) = (gives(&present, verb, &other), gives(&proposed, verb, &other));
                assert!(
                    before || !after,
                    "{verb} {other:?} is new:\n{grant:#?}\n{proposal:#?}"
                );
                narrower += usize::from(before && !after);
            }
        }
    }
    // The test is about something: much was used, and much that was not is gone.
    assert!(kept > 200 && narrower > 200, "{kept} kept, {narrower} gone");
}
