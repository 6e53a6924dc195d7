//! Unit tests: what a command asks an API server, and what it makes of answers that do not come.
//!
//! The server is a fake, for answers that a real one does not give when asked to: a refusal of single rights, and a connection that
//! ends before the answer. The e2e suite runs the commands against a real one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use parking_lot::Mutex;

use super::*;
use crate::cli::plugin::Invocation;
use crate::cli::target::{ChangeArgs, Changed, Objects, Place, insist, is_raced, wait};
use crate::config::Config;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ChangeArgs,
}

/// An answer: a code and an object, or none at all.
type Answer = Option<(u16, Value)>;

/// A server, and a folder with a kubeconfig of it.
struct Fake {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn new(answer: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.expect("a connection"));
                let (mut line, mut length) = (String::new(), 0);
                stream.read_line(&mut line).expect("a request");
                loop {
                    let mut header = String::new();
                    stream.read_line(&mut header).expect("a header");
                    let header = header.trim().to_ascii_lowercase();
                    if let Some(value) = header.strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    if header.is_empty() {
                        break;
                    }
                }
                stream.read_exact(&mut vec![0; length]).expect("a body");
                let target: Vec<_> = line.split(' ').take(2).collect();
                let target = target.join(" ").replace("/apis/picket.dev/v1alpha1", "");
                let target = target.split('?').next().unwrap_or_default().to_owned();
                seen.lock().push(target.clone());
                if let Some((code, object)) = answer(&target) {
                    let text = object.to_string();
                    let head = format!(
                        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                        text.len()
                    );
                    let stream = stream.get_mut();
                    stream.write_all((head + &text).as_bytes()).expect("answered");
                }
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), config.to_string()).expect("written");
        Self { folder, asked }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The arguments of a command on a node whose agent reads files and the cluster.
    fn args(&self, more: &str) -> ChangeArgs {
        let folder = self.path();
        let objects = folder.join("objects");
        std::fs::create_dir_all(&objects).expect("a folder");
        let config = json!({
            "nodeName": "node-1",
            "cluster": {"kubeconfig": folder.join("kubeconfig")},
            "upstream": {"server": "https://10.0.0.1:6443", "caFile": "/none/ca.crt", "tokenFile": "/none/token"},
            "tls": {"caCertificateFile": "/none/ca.crt", "caKeyFile": "/none/ca.key"},
            "enforce": {"namespaces": ["agents"]},
            "objects": {"files": [objects], "cluster": true},
        });
        std::fs::write(folder.join("agent.yaml"), config.to_string()).expect("written");
        let named = |file: &str| folder.join(file).display().to_string();
        let line = format!(
            "change --config {} --kubeconfig {} {more}",
            named("agent.yaml"),
            named("kubeconfig")
        );
        Line::try_parse_from(line.split_whitespace())
            .unwrap_or_else(|error| panic!("{error}"))
            .args
    }

    fn write(&self, text: &str) {
        let objects = self.path().join("objects");
        std::fs::create_dir_all(&objects).expect("a folder");
        std::fs::write(objects.join("a.yaml"), text).expect("written");
    }
}

const KIND: &str = "AgentIdentity";

fn identity(name: &str) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": KIND,
        "metadata": {"name": name, "uid": "u", "generation": 1, "resourceVersion": "7"},
        "spec": {"owner": "o", "attest": {"pod": {"namespace": "n", "serviceAccount": name}}},
    })
}

fn status(code: u16, message: &str) -> Answer {
    Some((
        code,
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": message, "reason": "X"}),
    ))
}

fn listed(items: &[Value]) -> Answer {
    Some((
        200,
        json!({"apiVersion": API_VERSION, "kind": "List", "metadata": {}, "items": items}),
    ))
}

/// As `picket identity suspend a` does.
fn suspend(args: &ChangeArgs) -> anyhow::Result<Changed> {
    let objects = args.target.read_faulty(KIND, "a")?;
    let fields: [(&[&str], &str); 1] = [(&["spec", "state"], "Suspended")];
    args.set(
        &objects,
        KIND,
        "a",
        &fields,
        "suspended",
        wait::is_there(KIND, "a"),
    )
}

#[test]
fn an_agent_is_switched_off_with_the_rights_on_its_object_alone() {
    let fake = Fake::new(|target| match target {
        "GET /agentidentities/a" | "PATCH /agentidentities/a" => Some((200, identity("a"))),
        _ => status(403, "forbidden"),
    });
    let changed = suspend(&fake.args("--wait 0")).expect("suspended");
    assert_eq!(changed, Changed::Done);
    assert_eq!(
        *fake.asked.lock(),
        [
            "GET /agentidentities/a",
            "GET /agentidentities/a",
            "PATCH /agentidentities/a"
        ]
    );
}

#[test]
fn where_rbac_refuses_the_verbs_are_named_and_the_api_server_says_who_changed_what() {
    let forbidden = "agentidentities.picket.dev is forbidden: User \"ann\" cannot X resource";
    let fake = Fake::new(move |_| status(403, forbidden));
    let args = fake.args("--cluster");
    let error = args.target.read().expect_err("refused").to_string();
    assert!(
        error.starts_with(forbidden) && error.contains("verb list on agentidentities, agentgrants and"),
        "{error}"
    );
    let error = suspend(&args).expect_err("refused").to_string();
    assert!(
        error.contains("verb get, and patch or delete for a change, on agentidentities.picket.dev"),
        "{error}"
    );
    let reviews = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let fake = Fake::new(move |target| match target {
        "PATCH /agentidentities/a" => status(403, "admission webhook \"w\" denied the request: no"),
        target if target == reviews => Some((
            201,
            json!({"metadata": {}, "status": {"userInfo": {"username": "ann"}}}),
        )),
        _ => Some((200, identity("a"))),
    });
    let args = fake.args("");
    let error = suspend(&args).expect_err("refused").to_string();
    assert_eq!(error, "admission webhook \"w\" denied the request: no");
    let objects = args.target.read_one(KIND, "a").expect("read");
    assert_eq!(objects.person().as_deref(), Some("ann"));
    let silent = Fake::new(move |target| match target {
        target if target == reviews => status(403, "no"),
        _ => Some((200, identity("a"))),
    });
    let objects = silent.args("").target.read_one(KIND, "a").expect("read");
    assert_eq!(objects.person(), None);
}

#[test]
fn a_command_warns_of_an_object_that_is_in_force_and_conflicts() {
    let conditions = |conflict: &str| {
        json!([
            {"type": "Ready", "status": "True", "observedGeneration": 1, "reason": "InForce", "message": "as b",
             "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Conflict", "status": conflict, "observedGeneration": 1, "reason": "AmbiguousIdentity", "message": "as b",
             "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ])
    };
    for (conflict, warnings, told) in [
        (
            "True",
            vec!["it conflicts: as b. Every request of a caller that matches both is denied"],
            Some("as b. Every request of a caller that matches both is denied"),
        ),
        ("False", vec!["as b"], None),
    ] {
        let mut object = identity("a");
        object["metadata"]["generation"] = json!(1);
        object["status"] = json!({"conditions": conditions(conflict)});
        let fake = Fake::new(move |target| match target {
            "GET /agentidentities/a" => Some((200, object.clone())),
            "GET /agentidentities" => listed(&[object.clone()]),
            _ => listed(&[]),
        });
        let args = fake.args("--cluster");
        let Objects::Cluster(cluster) = args.target.read().expect("read") else {
            panic!("of the cluster")
        };
        let waited = cluster
            .wait(KIND, "a", 1, Duration::from_secs(1))
            .expect("an answer");
        assert_eq!(waited.warnings(), warnings);
        assert_eq!(cluster.conflict_of("a"), told);
    }
}

#[test]
fn one_that_is_not_in_the_cluster_is_looked_for_in_the_nodes_files() {
    let all: Vec<_> = (0..23).map(|number| identity(&format!("i{number:02}"))).collect();
    for (answer, wanted) in [
        (listed(&[]), "is in the cluster; there: none"),
        (listed(&all), "i18, i19 and 3 more"),
        (
            status(403, "forbidden"),
            "no AgentIdentity \"a\" is in the cluster",
        ),
        (
            status(404, "not found"),
            "does not know AgentIdentity: install the CRDs",
        ),
    ] {
        let fake = Fake::new(move |target| match target {
            "GET /agentidentities" => answer.clone(),
            _ => status(404, "not found"),
        });
        let args = fake.args("");
        let error = suspend(&args).expect_err("not there").to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let fake = Fake::new(|target| match target {
        "GET /agentidentities" => listed(&[]),
        _ => status(404, "not found"),
    });
    fake.write(&identity("a").to_string());
    let error = suspend(&fake.args("")).expect_err("in a file").to_string();
    let place = fake.path().join("objects").display().to_string();
    assert!(
        error.contains(&format!("it is in {place}. Name that with --files {place}")),
        "{error}"
    );
}

#[test]
fn the_objects_of_files_and_cluster_are_read_together_unless_one_is_asked_for() {
    let fake = Fake::new(|target| match target {
        "GET /agentidentities" => listed(&[identity("c")]),
        _ => listed(&[]),
    });
    fake.write(&identity("f").to_string());
    let names = |more: &str| -> Vec<String> {
        let read = fake.args(more).target.read_all().expect("read");
        let documents = read.iter().flat_map(Objects::documents);
        documents.map(|document| document.name().to_owned()).collect()
    };
    assert_eq!(names(""), ["f", "c"]);
    assert_eq!(names("--cluster"), ["c"]);
}

#[test]
fn who_types_kubectl_means_the_cluster_unless_something_says_otherwise() {
    let fake = Fake::new(|_| listed(&[]));
    let place = |line: &str, invocation, config: Option<&Config>| {
        let line = Line::try_parse_from(format!("change {line}").split_whitespace());
        let line = line.unwrap_or_else(|error| panic!("{error}"));
        line.args.target.place_as(invocation, Ok(config.cloned()))
    };
    let config = |of_cluster: bool| {
        fake.args("");
        let mut config = Config::read(&fake.path().join("agent.yaml")).expect("a configuration");
        config.objects.cluster = of_cluster;
        config
    };
    let (plugin, picket) = (Invocation::Plugin, Invocation::Picket);
    assert!(matches!(place("", plugin, None), Ok(Place::Cluster { .. })));
    let error = place("", picket, None).err().expect("it is asked").to_string();
    assert!(error.contains("which objects are meant?"), "{error}");
    // What the command line or the node's own configuration says goes before.
    assert!(matches!(
        place("--files a", plugin, None),
        Ok(Place::Files { .. })
    ));
    assert!(matches!(
        place("", plugin, Some(&config(false))),
        Ok(Place::Files { .. })
    ));
    assert!(matches!(
        place("", plugin, Some(&config(true))),
        Ok(Place::Cluster { .. })
    ));
}

#[test]
fn what_the_nodes_tell_of_an_identity_is_read() {
    let fake = Fake::new(|target| match target {
        "GET /agentidentities" => {
            let mut object = identity("a");
            object["status"] = json!({"nodes": [
                {"node": "n1", "pods": 2, "podNames": ["n/x"], "lastUsed": "2026-01-02T03:04:05Z", "reviewDue": false},
                {"node": "n2", "pods": "of a version to come"},
            ]});
            listed(&[object, identity("b")])
        }
        _ => listed(&[]),
    });
    let read = fake.args("--cluster").target.read().expect("read");
    let nodes = read.nodes_of("a").expect("of the cluster");
    let told: Vec<_> = nodes
        .iter()
        .map(|entry| (entry.node.as_str(), entry.pods))
        .collect();
    assert_eq!(told, [("n1", 2)]);
    assert_eq!(read.nodes_of("b").map(<[_]>::len), Some(0));
}

#[test]
fn what_may_be_written_is_no_failure() {
    // The connection ends before the answer; the object is gone while the command waits.
    for ends in [true, false] {
        let count = Arc::new(Mutex::new(0));
        let fake = Fake::new(move |target| {
            let mut count = count.lock();
            *count += 1;
            match target {
                "PATCH /agentidentities/a" if ends => None,
                "GET /agentidentities/a" if *count > 3 => status(404, "gone"),
                _ => Some((200, identity("a"))),
            }
        });
        let changed = suspend(&fake.args("")).expect("no failure");
        assert_eq!(changed, Changed::Unconfirmed, "{ends}");
    }
    // What the API server refuses is not written.
    let fake = Fake::new(|target| match target {
        "PATCH /agentidentities/a" => status(403, "forbidden"),
        _ => Some((200, identity("a"))),
    });
    assert!(suspend(&fake.args("")).is_err());
}

#[test]
fn an_agent_is_shut_out_though_others_change_its_object_meanwhile() {
    // Somebody changes it after it was read, and again between the look at its version and the change.
    let (generation, patches) = (Arc::new(Mutex::new(1)), Arc::new(Mutex::new(0)));
    let seen = Arc::clone(&patches);
    let fake = Fake::new(move |target| {
        let mut generation = generation.lock();
        let mut object = identity("a");
        object["metadata"]["generation"] = json!(*generation);
        match target {
            "GET /agentidentities/a" if *generation == 1 => *generation = 2,
            "PATCH /agentidentities/a" => {
                *patches.lock() += 1;
                if *generation == 2 {
                    *generation = 3;
                    return status(409, "changed");
                }
            }
            _ => {}
        }
        Some((200, object))
    });
    let args = fake.args("--wait 0");
    let error = suspend(&args).expect_err("somebody was faster");
    assert!(
        is_raced(&error) && error.to_string().contains("changed since"),
        "{error}"
    );
    assert_eq!(*seen.lock(), 0);
    assert_eq!(insist(|| suspend(&args)).expect("suspended"), Changed::Done);
    assert_eq!(*seen.lock(), 2, "the first one is refused with 409");

    // What the API server refuses is asked for once.
    let fake = Fake::new(|target| match target {
        "PATCH /agentidentities/a" => status(403, "forbidden"),
        _ => Some((200, identity("a"))),
    });
    assert!(insist(|| suspend(&fake.args("--wait 0"))).is_err());
    let asked = fake.asked.lock();
    assert_eq!(asked.iter().filter(|asked| asked.starts_with("PATCH")).count(), 1);
}
