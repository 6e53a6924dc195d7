//! Tests of the client: its pauses before it asks again, and what its errors say.

use tokio::time::Instant;

use super::*;
use crate::runtime::causes::with_causes;

#[test]
fn nodes_come_back_within_ten_seconds_and_not_all_at_once() {
    let mut nodes = [(); 2].map(|()| Backoff::jittered(RETRY_FIRST, RETRY_LONGEST));
    let pauses: Vec<_> = (0..20)
        .map(|_| nodes.each_mut().map(|node| node.pause()))
        .collect();
    assert!(
        pauses
            .iter()
            .flatten()
            .all(|pause| *pause <= Duration::from_secs(10))
    );
    assert!(pauses.iter().any(|[one, other]| one != other));
}

#[tokio::test]
async fn a_kubeconfig_that_makes_no_sense_is_named() {
    let error = Connector::new(Path::new("/nothing/here"))
        .connect()
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.starts_with("/nothing/here: "), "{error}");
}

#[tokio::test]
async fn the_server_is_known_whatever_the_credential_is_worth() {
    let folder = testing::Folder::new();
    let file = folder.path().join("kubeconfig");
    let server = async |user: serde_json::Value| {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority": "/no/ca"}}],
            "users": [{"name": "u", "user": user}],
        });
        std::fs::write(&file, config.to_string()).unwrap();
        let connector = Connector::new(&file);
        assert!(connector.connect().await.is_err());
        connector.server().await.unwrap().to_string()
    };
    for user in [
        serde_json::json!({"client-certificate": "/no/file", "client-key": "/no/key"}),
        serde_json::json!({"tokenFile": "/dev/null"}),
        serde_json::json!({"client-certificate-data": "no base64", "client-key-data": "no base64"}),
    ] {
        assert_eq!(server(user).await, "https://10.0.0.1:6443/");
    }
}

#[test]
fn an_error_is_told_with_what_it_comes_from() {
    let refused = std::io::Error::from_raw_os_error(111);
    let error = ClusterError::Client {
        path: "/etc/kubeconfig".into(),
        source: ClientFault::from(&kube::Error::Service(Box::new(refused))),
    };
    let text = with_causes(&error);
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    assert!(
        text.starts_with("/etc/kubeconfig: cannot make a client"),
        "{text}"
    );
}

/// A watch that goes on hears nothing of objects that were set back, since their versions are older.
#[tokio::test]
async fn objects_that_were_set_back_are_listed_anew() {
    let url = testing::answering_texts(|request| {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
        let list = r#"{"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1000"}, "items": []}"#;
        let bookmark = "{\"type\": \"BOOKMARK\", \"object\": {\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"metadata\": \
             {\"resourceVersion\": \"1000\", \"annotations\": {}}}}\n";
        (200, if is_watch { bookmark } else { list }.to_owned())
    })
    .await;
    let (_folder, connector) = Connector::for_tests(&url);
    let (listed, mut lists) = tokio::sync::mpsc::unbounded_channel();
    let (following, cancel) = (connector.clone(), CancellationToken::new());
    let pods = async {
        let on = |event| {
            if matches!(event, watcher::Event::InitDone) {
                listed.send(()).unwrap();
            }
        };
        let all = Api::<Lenient<k8s_openapi::api::core::v1::Pod>>::all;
        follow(&following, "pods", all, watcher::Config::default(), &cancel, on).await;
    };
    let looked = async {
        let limit = Duration::from_secs(10);
        timeout(limit, lists.recv()).await.expect("a first list");
        let again = timeout(Duration::from_millis(200), lists.recv()).await;
        assert!(again.is_err(), "the watch goes on");
        let mut last = LastVersion::default();
        assert!(!last.shows_reset(Some("1000"), connector.resets()));
        assert!(last.shows_reset(Some("500"), connector.resets()));
        timeout(limit, lists.recv()).await.expect("another list");
        cancel.cancel();
    };
    tokio::join!(pods, looked);
}

/// Follows Services of an API server with these answers to a list and a watch, until so many lists were read; gives the last one's names.
async fn followed(list: Vec<u8>, watch: &'static str, lists: usize) -> Vec<String> {
    let url = testing::answering_bytes(move |request| {
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="));
        (
            200,
            if is_watch {
                watch.as_bytes().to_vec()
            } else {
                list.clone()
            },
        )
    })
    .await;
    let (_folder, connector) = Connector::for_tests(&url);
    let cancel = CancellationToken::new();
    let (mut names, mut read) = (Vec::new(), 0);
    let on = |event| match event {
        watcher::Event::Init => names.clear(),
        watcher::Event::InitApply(service) => {
            let service: k8s_openapi::api::core::v1::Service = service;
            names.extend(service.metadata.name);
        }
        watcher::Event::InitDone => {
            read += 1;
            if read == lists {
                cancel.cancel();
            }
        }
        _ => {}
    };
    let services = Api::<Lenient<k8s_openapi::api::core::v1::Service>>::all;
    let config = watcher::Config::default();
    let following = follow(&connector, "services", services, config, &cancel, on);
    timeout(Duration::from_secs(20), following)
        .await
        .expect("so many lists");
    names
}

/// Whoever writes an object writes its `managedFields`, byte for byte.
#[tokio::test]
async fn bytes_that_are_no_text_end_no_list() {
    let mut list = br#"{"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [
        {"metadata": {"name": "odd", "managedFields": [{"fieldsV1": {"f:X": {}}}]}}, {"metadata": {"name": "other"}}]}"#
        .to_vec();
    let at = list.iter().position(|byte| *byte == b'X').expect("the place");
    list[at] = 0xff;
    assert_eq!(followed(list, "", 1).await, ["odd", "other"]);
}

/// The watch goes on behind an event that it could not read, and would not tell of the object again.
#[tokio::test]
async fn an_event_that_cannot_be_read_is_followed_by_a_list() {
    let list =
        br#"{"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}"#;
    for line in [
        "{\"type\": \"ADDED\", \"object\": {\"metadata\": {\"name\": 7}}}\n",
        "[7]\n",
        // One that the API server cannot write.
        "",
    ] {
        followed(list.to_vec(), line, 2).await;
    }
}

/// An API server, or what stands before it, that breaks lists or watches one after another is not asked twenty times a second.
#[tokio::test]
async fn lists_that_follow_failures_come_ever_more_seldom() {
    let empty =
        r#"{"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}"#;
    let page = r#"{"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": "c"},
        "items": [{"metadata": {"name": "one"}}]}"#;
    for (list, rest, watch) in [(empty, "", "[7]\n"), (empty, "", ""), (page, "[7]", "")] {
        let url = testing::answering_texts(move |request| {
            let asks = |what: &str| request.uri().query().is_some_and(|query| query.contains(what));
            let answer = match (asks("watch="), asks("continue=")) {
                (true, _) => watch,
                (_, true) => rest,
                _ => list,
            };
            (200, answer.to_owned())
        })
        .await;
        let (_folder, connector) = Connector::for_tests(&url);
        let (cancel, mut lists) = (CancellationToken::new(), 0);
        let on = |event| {
            if matches!(event, watcher::Event::Init) {
                lists += 1;
            }
            if lists == 6 {
                cancel.cancel();
            }
        };
        let began = Instant::now();
        let services = Api::<Lenient<k8s_openapi::api::core::v1::Service>>::all;
        follow(
            &connector,
            "services",
            services,
            watcher::Config::default(),
            &cancel,
            on,
        )
        .await;
        // Five pauses, each at least twice the last.
        assert!(
            began.elapsed() >= RETRY_FIRST * 31,
            "{watch:?}: {:?}",
            began.elapsed()
        );
    }
}

/// What must be in no message.
const SECRET: &str = "hunter2hunter2";

/// The error of a kubeconfig with this text, in each form that may be printed.
async fn messages_of(text: &str) -> String {
    let folder = testing::Folder::new();
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, text).unwrap();
    let error = Connector::new(&file).connect().await.err().unwrap();
    format!("{error}\n{error:?}\n{}", with_causes(&error))
}

/// A kubeconfig with these lines in its cluster and its user.
fn kubeconfig(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters:\n- name: c\n  cluster:\n    {cluster}\nusers:\n- name: u\n  user:\n    {user}\n"
    )
}

#[tokio::test]
async fn no_message_about_a_kubeconfig_has_a_secret_of_it() {
    let server = "server: https://127.0.0.1:1";
    let proxied = |url: &str| kubeconfig(&format!("{server}\n    proxy-url: '{url}'"), "{}");
    let texts = [
        ("the token file in its place", SECRET.to_owned()),
        (
            "a key that is misplaced",
            kubeconfig(server, &format!("token: {SECRET}\n   x: [1")),
        ),
        (
            "a value of another type",
            kubeconfig(server, &format!("token: [{SECRET}]")),
        ),
        (
            "an unknown context",
            format!("current-context: {SECRET}\nclusters: []\n"),
        ),
        ("a proxy", proxied(&format!("http://me:{SECRET}@127.0.0.1:1"))),
        (
            "another proxy",
            proxied(&format!("socks5://me:{SECRET}@127.0.0.1:1")),
        ),
        ("an odd proxy", proxied(&format!("ftp://me:{SECRET}@127.0.0.1:1"))),
        ("no proxy", proxied(&format!("http://me:{SECRET}@ x"))),
        (
            "no server",
            kubeconfig(&format!("server: 'https://me:{SECRET}@ x'"), "{}"),
        ),
        (
            "a key as a file",
            kubeconfig(
                server,
                &format!("client-certificate: /{SECRET}\n    client-key: /{SECRET}"),
            ),
        ),
        (
            "a token as a file",
            kubeconfig(server, &format!("tokenFile: /{SECRET}")),
        ),
        (
            "a plugin",
            kubeconfig(
                server,
                &format!(
                    "exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, 'echo {SECRET}; exit 1'], interactiveMode: Never}}"
                ),
            ),
        ),
    ];
    for (place, text) in texts {
        let messages = messages_of(&text).await;
        assert!(!messages.contains(SECRET), "{place}: {messages}");
    }
}

#[tokio::test]
async fn a_fault_in_a_kubeconfig_is_found_by_its_line() {
    let messages = messages_of(&kubeconfig("server: https://127.0.0.1:1", "token: [x]")).await;
    assert!(messages.contains("line 12 column"), "{messages}");
}

/// A pipe in a folder, to which nobody writes.
fn pipe(folder: &testing::Folder, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path
}

/// What a function says of a file, which must not wait for a writer.
fn without_waiting(say: impl FnOnce() -> String + Send + 'static) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(say()));
    receiver
        .recv_timeout(Duration::from_secs(5))
        .expect("the pipe was opened")
}

#[test]
fn a_pipe_in_the_place_of_a_kubeconfig_or_of_a_file_that_it_names_is_refused() {
    let folder = testing::Folder::new();
    let fifo = pipe(&folder, "pipe").display().to_string();
    let server = "server: https://127.0.0.1:1";
    let certificate = format!("client-certificate: {fifo}\n    client-key: {fifo}");
    let texts = [
        kubeconfig(&format!("{server}\n    certificate-authority: {fifo}"), "{}"),
        kubeconfig(server, &certificate),
        kubeconfig(server, &format!("tokenFile: {fifo}")),
    ];
    let mut files = vec![fifo.into()];
    for (number, text) in texts.iter().enumerate() {
        let file = folder.path().join(number.to_string());
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    for file in files {
        let said = without_waiting(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let connector = Connector::new(&file);
            runtime
                .unwrap()
                .block_on(connector.connect())
                .err()
                .unwrap()
                .to_string()
        });
        assert!(said.contains("not a regular file"), "{said}");
    }
}

#[test]
fn a_pipe_in_the_place_of_a_credential_is_refused() {
    for place in 0..4 {
        let folder = testing::Folder::new();
        let fifo = pipe(&folder, "pipe");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let said = without_waiting(move || {
            let at = |number| {
                if number == place {
                    fifo.as_path()
                } else {
                    file.as_path()
                }
            };
            let files = rights::CredentialFiles {
                ca: at(0),
                certificate: Some(at(1)),
                key: Some(at(2)),
                token: Some(at(3)),
            };
            let client = files.client(&http::Uri::from_static("https://127.0.0.1:1"));
            client.err().unwrap().to_string()
        });
        assert!(said.contains("not a regular file"), "{said}");
    }
}

/// kube asks the system for certificates where it is given none, and a node may have none.
#[test]
fn a_bundle_in_a_file_is_all_that_is_trusted() {
    let folder = testing::Folder::new();
    let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
    let root = crate::pki::testing::Root::new("api");
    std::fs::write(&ca, &root.pem).unwrap();
    std::fs::write(&token, "t\n").unwrap();
    let files = rights::CredentialFiles {
        ca: &ca,
        certificate: None,
        key: None,
        token: Some(&token),
    };
    let server = http::Uri::from_static("https://127.0.0.1:1");
    let config = files.config(&server).unwrap();
    assert_eq!(config.root_cert, Some(vec![root.der().to_vec()]));
    assert_eq!(config.root_cert_file.as_deref(), Some(ca.as_path()));
    let user = serde_json::to_value(&config.auth_info).unwrap();
    assert_eq!(user["token"], "t", "without the newline that an editor leaves");
    std::fs::write(&ca, "no PEM").unwrap();
    let said = files.config(&server).unwrap_err().to_string();
    assert!(said.contains("ca.crt:1: no certificate in it"), "{said}");
    assert!(!said.contains("token"), "{said}");
}

/// Each would be a thread and a process more, and there is no end of callers that try again.
#[tokio::test]
async fn a_credential_plugin_that_hangs_is_started_once() {
    let folder = testing::Folder::new();
    let (started, answer) = (folder.path().join("started"), pipe(&folder, "answer"));
    // It answers at once when it has had the answer: kube runs it twice for a client.
    let script = format!(
        "cd {}; echo x >> started; [ -s known ] || cat answer > known; cat known",
        folder.path().display()
    );
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, '{script}'], interactiveMode: Never}}"
    );
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig("server: https://127.0.0.1:1", &exec)).unwrap();
    let connector = Connector::new(&file);
    let runs = || {
        std::fs::read_to_string(&started)
            .unwrap_or_default()
            .lines()
            .count()
    };
    while runs() == 0 {
        let asked = timeout(Duration::from_millis(20), connector.connect()).await;
        assert!(asked.is_err(), "it hangs");
    }
    for _ in 0..10 {
        let asked = timeout(Duration::from_millis(20), connector.connect()).await;
        assert!(asked.is_err(), "it hangs");
    }
    assert_eq!(runs(), 1);
    let credential =
        r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}"#;
    let answered = tokio::task::spawn_blocking(move || std::fs::write(answer, credential));
    assert!(connector.connect().await.is_ok(), "the late answer is taken");
    answered.await.unwrap().unwrap();
    // What is done is done anew.
    let before = runs();
    assert!(connector.connect().await.is_ok());
    assert!(runs() > before);
}

#[test]
fn rules_of_several_namespaces_are_complete_where_each_list_is() {
    let list = |verb: &str, complete| {
        let rule = k8s_openapi::api::authorization::v1::ResourceRule {
            verbs: vec![verb.to_owned()],
            ..Default::default()
        };
        rights::Rules {
            rules: vec![rule],
            complete,
        }
    };
    for (lists, complete) in [
        ([true, true], true),
        ([true, false], false),
        ([false, true], false),
    ] {
        let lists = [list("get", lists[0]), list("list", lists[1])];
        let all = rights::RuleVerbs::of(&lists);
        assert_eq!((all.verbs.len(), all.complete), (2, complete));
    }
}

#[tokio::test]
async fn a_plugin_is_told_that_a_shell_which_completes_a_line_can_answer_nothing() {
    let folder = testing::Folder::new();
    let credential =
        r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}"#;
    std::fs::write(folder.path().join("known"), credential).unwrap();
    let script = format!(
        "cd {}; echo $KUBERNETES_EXEC_INFO > told; cat known",
        folder.path().display()
    );
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, '{script}'], interactiveMode: IfAvailable}}"
    );
    let file = folder.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig("server: https://127.0.0.1:1", &exec)).unwrap();
    let person = PersonalConfig {
        kubeconfig: Some(file),
        ..PersonalConfig::default()
    };
    let told = || std::fs::read_to_string(folder.path().join("told")).unwrap();
    person.connect_silently().await.unwrap();
    assert!(told().contains(r#""interactive":false"#), "{}", told());
    person.connect(&|_| {}).await.unwrap();
    assert!(told().contains(r#""interactive":true"#), "{}", told());
}
