//! Tests of socket, server and client together.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::api::{KillRequest, ObjectList, SessionQuery};
use super::lock::LOCK_FILE;
use super::names::own_socket;
use super::*;
use crate::audit::AuditId;
use crate::metrics::MetricsRegistry;
use crate::session::{Registered, Registry, SessionKind, testing};
use crate::store::Store;

/// A folder for the socket, which the socket makes; it goes with what holds it.
pub(super) fn folder() -> (TempDir, PathBuf) {
    let held = tempfile::tempdir().expect("a folder");
    let folder = held.path().join("run");
    (held, folder)
}

pub(super) fn admin(report: ReadyReport) -> Admin {
    Admin {
        metrics: Arc::new(MetricsRegistry::default()),
        ready: Arc::new(move || report.clone()),
        state: Arc::new(|| AgentState::Serving),
        objects: Arc::new(ObjectList::default),
        sessions: Registry::default(),
    }
}

/// An agent's socket under the configured name.
fn bound(path: &Path) -> (PrivateSocket, ConfiguredName) {
    let socket = own_socket(path, true).expect("binds");
    let name = ConfiguredName::of(&socket, path);
    name.take().expect("takes the name");
    (socket, name)
}

/// All that is in the folder but for the lock, which stays.
fn sockets_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().display().to_string());
    names.filter(|name| name != LOCK_FILE).collect()
}

async fn ask(path: &Path, what: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("connects");
    let request = format!("{what} HTTP/1.1\r\nHost: picket\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("reads");
    text
}

#[tokio::test]
async fn answers_on_a_private_socket_and_takes_it_away() {
    let (_held, folder) = folder();
    let path = folder.join("admin.sock");
    let (socket, name) = bound(&path);
    assert_eq!(
        fs::metadata(&path).expect("is there").permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&folder).expect("is there").permissions().mode() & 0o777,
        0o700
    );
    let cancel = CancellationToken::new();
    let report = ReadyReport {
        waiting: vec!["pods".into()],
        failing: vec![Failing {
            part: "audit",
            reason: "disk full".into(),
        }],
    };
    let served = tokio::spawn(socket.serve(admin(report), cancel.clone()));
    let metrics = ask(&path, "GET /metrics").await;
    assert!(
        metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );
    assert!(ask(&path, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    let ready = ask(&path, "GET /readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(
        ready.contains(r#""waiting":["pods"]"#) && ready.contains(r#""reason":"disk full""#),
        "{ready}"
    );
    assert!(
        ask(&path, "GET /version")
            .await
            .contains(env!("CARGO_PKG_VERSION"))
    );
    assert!(ask(&path, "GET /x").await.starts_with("HTTP/1.1 404"));
    assert!(ask(&path, "POST /metrics").await.starts_with("HTTP/1.1 405"));
    assert!(matches!(own_socket(&path, true), Err(SocketError::Taken(_))));
    cancel.cancel();
    served.await.expect("ends");
    drop(name);
    assert_eq!(sockets_in(&folder), [""; 0]);
}

#[tokio::test]
async fn a_successor_takes_the_name_and_keeps_it_when_the_one_before_goes() {
    let (_held, folder) = folder();
    let path = folder.join("admin.sock");
    let before = bound(&path);
    let socket = own_socket(&path, false).expect("beside it");
    let name = ConfiguredName::of(&socket, &path);
    let own = own_sockets(&path);
    assert_eq!(own, [folder.join("admin.sock.1"), folder.join("admin.sock.2")]);
    name.take().expect("takes the name");
    name.take().expect("has it");
    drop(before);
    let cancel = CancellationToken::new();
    let served = tokio::spawn(socket.serve(admin(ReadyReport::default()), cancel.clone()));
    assert!(ask(&path, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    cancel.cancel();
    served.await.expect("ends");
    drop(name);
    assert_eq!(sockets_in(&folder), [""; 0]);
}

#[tokio::test]
async fn a_folder_that_others_may_change_gets_no_socket() {
    let (_held, folder) = folder();
    fs::create_dir_all(&folder).expect("folder");
    let path = folder.join("admin.sock");
    for (mode, owner, says) in [
        (0o770, None, "chmod 700"),
        (0o702, None, "chmod 700"),
        (0o700, Some(65_534), "user 65534: chown root"),
    ] {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("a mode");
        if owner.is_some() && std::os::unix::fs::chown(&folder, owner, None).is_err() {
            // Only root can give a folder away.
            continue;
        }
        let own = own_socket(&path, true).expect_err(says).to_string();
        let replaced = PrivateSocket::replace(&path).expect_err(says).to_string();
        assert!(own.contains(says) && replaced.contains(says), "{own} {replaced}");
    }
    assert_eq!(fs::read_dir(&folder).expect("folder").count(), 0);
}

#[tokio::test]
async fn takes_over_a_dead_socket_and_nothing_else() {
    let (_held, folder) = folder();
    fs::create_dir_all(&folder).expect("folder");
    let path = folder.join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket whose process is gone"));
    assert!(path.exists());
    let cancel = CancellationToken::new();
    drop(std::os::unix::net::UnixListener::bind(folder.join("admin.sock.1")).expect("its own name too"));
    let (socket, name) = bound(&path);
    assert_eq!(own_sockets(&path), [folder.join("admin.sock.1")]);
    let served = tokio::spawn(socket.serve(admin(ReadyReport::default()), cancel.clone()));
    assert!(ask(&path, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    cancel.cancel();
    served.await.expect("ends");
    drop(name);
    fs::write(&path, "precious").expect("a file");
    assert!(matches!(own_socket(&path, true), Err(SocketError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).expect("is there"), "precious");
}

/// A served socket with three sessions.
struct Served {
    _held: TempDir,
    path: PathBuf,
    registry: Registry,
    running: Vec<Registered>,
    cancel: CancellationToken,
    _name: ConfiguredName,
}

fn served() -> Served {
    let (held, folder) = folder();
    served_at(held, folder.join("admin.sock"), AgentState::Serving)
}

/// One more agent of the node.
fn beside(other: &Served, state: AgentState) -> Served {
    served_at(tempfile::tempdir().expect("a folder"), other.path.clone(), state)
}

fn served_at(held: TempDir, path: PathBuf, state: AgentState) -> Served {
    let registry = Registry::default();
    let running = [
        (SessionKind::Watch, "triage"),
        (SessionKind::Exec, "triage"),
        (SessionKind::Exec, "fixer"),
    ];
    let running = running.map(|(kind, identity)| testing::running(&registry, kind, identity));
    let admin = Admin {
        sessions: registry.clone(),
        state: Arc::new(move || state),
        ..admin(ReadyReport::default())
    };
    let cancel = CancellationToken::new();
    let socket = own_socket(&path, false).expect("binds");
    let name = ConfiguredName::of(&socket, &path);
    if state == AgentState::Serving {
        name.take().expect("takes the name");
    }
    tokio::spawn(socket.serve(admin, cancel.clone()));
    Served {
        _held: held,
        path,
        registry,
        running: running.into(),
        cancel,
        _name: name,
    }
}

#[tokio::test]
async fn objects_are_listed_with_their_status() {
    let (_held, folder) = folder();
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("a.yaml");
    let identity = "apiVersion: picket.dev/v1alpha1\nkind: AgentIdentity\nmetadata: {name: a}\nspec:\n  owner: team\n  \
                    attest: {pod: {namespace: ns, serviceAccount: a}}\n";
    fs::write(&file, identity).expect("written");
    let store = Arc::new(Store::open(std::slice::from_ref(&file)).expect("valid"));
    let shown = Arc::clone(&store);
    let admin = Admin {
        objects: Arc::new(move || ObjectList::from(&*shown)),
        ..admin(ReadyReport::default())
    };
    let (path, cancel) = (folder.join("admin.sock"), CancellationToken::new());
    let (socket, _name) = bound(&path);
    tokio::spawn(socket.serve(admin, cancel.clone()));
    let client = Client::new(path);
    let list = client.objects().await.expect("answers");
    assert_eq!((list.generation, list.last_error), (1, None));
    assert!(list.objects[0].ready && list.objects[0].name == "a");

    fs::write(&file, identity.replace("team", "7")).expect("written");
    store.reload();
    let list = client.objects().await.expect("answers");
    assert!(list.last_error.is_some_and(|error| error.contains("a.yaml:5:10")));
    assert!(
        !list.objects[0].ready
            && list.objects[0]
                .message
                .contains("The version of generation 1 stays")
    );
    cancel.cancel();
}

#[tokio::test]
async fn sessions_are_listed_and_killed_over_the_socket() {
    let served = served();
    let client = Client::new(served.path.clone());
    let all = client
        .sessions(&SessionQuery::default())
        .await
        .expect("a list")
        .answer
        .sessions;
    assert_eq!(all.len(), 3);
    assert_eq!(
        (all[0].kind, &*all[0].identity, all[0].sent_bytes),
        (SessionKind::Watch, "triage", 2048)
    );
    assert_eq!(all[0].request, "watch pods in namespace \"n\"");
    let query = SessionQuery {
        identity: Some("triage".to_owned()),
        kind: Some(SessionKind::Exec),
    };
    let some = client.sessions(&query).await.expect("a list").answer.sessions;
    assert_eq!(some.len(), 1);
    let kill = |request: KillRequest| {
        let client = client.clone();
        async move { client.kill_sessions(&request).await }
    };
    let by_id = |id: &str| KillRequest {
        id: Some(id.to_owned()),
        reason: "why".to_owned(),
        ..KillRequest::default()
    };
    let ended = kill(by_id(&some[0].id[..8]))
        .await
        .expect("an answer")
        .answer
        .ended;
    assert_eq!(ended, [some[0].id.clone()]);
    assert_eq!(
        kill(by_id(&some[0].id))
            .await
            .expect("an answer")
            .answer
            .ended
            .len(),
        0
    );
    let everything = KillRequest {
        all: true,
        ..KillRequest::default()
    };
    assert_eq!(kill(everything).await.expect("an answer").answer.ended.len(), 2);
    assert_eq!(served.registry.count(), 0);
    drop(served.running);
    served.cancel.cancel();
}

#[tokio::test]
async fn sessions_are_listed_and_killed_in_each_agent_of_the_node() {
    let draining = served();
    let (serving, starting) = (
        beside(&draining, AgentState::Serving),
        beside(&draining, AgentState::Starting),
    );
    // One that was killed.
    drop(std::os::unix::net::UnixListener::bind(draining.path.with_extension("sock.9")).expect("a socket"));
    // The youngest one runs in the agent that is asked first.
    let _late = testing::running(&draining.registry, SessionKind::Logs, "late");
    let client = Client::new(draining.path.clone());
    let listed = || async { client.sessions(&SessionQuery::default()).await.expect("a list") };
    let all = listed().await;
    assert!(all.failed.is_empty(), "{:?}", all.failed);
    let states = |state| {
        let of_state = all
            .answer
            .sessions
            .iter()
            .filter(|session| session.agent.state == state);
        of_state.count()
    };
    assert_eq!((all.answer.sessions.len(), states(AgentState::Starting)), (10, 3));
    assert_eq!(all.answer.sessions[0].agent.pid, std::process::id());
    let started: Vec<_> = all
        .answer
        .sessions
        .iter()
        .map(|session| session.started)
        .collect();
    assert!(started.is_sorted(), "{started:?}");
    let triage = KillRequest {
        identity: Some("triage".to_owned()),
        ..KillRequest::default()
    };
    let killed = client.kill_sessions(&triage).await.expect("an answer");
    assert_eq!((killed.answer.ended.len(), killed.failed.len()), (6, 0));
    let left = [&draining, &serving, &starting].map(|agent| agent.registry.count());
    assert_eq!(left, [2, 1, 1]);
    for agent in [draining, serving, starting] {
        drop(agent.running);
        agent.cancel.cancel();
    }
}

#[tokio::test]
async fn an_id_that_names_sessions_of_two_agents_ends_none() {
    let one = served();
    let other = beside(&one, AgentState::Draining);
    let beginning = 0xabcd_0000_0000_0000_0000_0000_0000_0000;
    let ids = [AuditId::of(beginning), AuditId::of(beginning + 1)];
    let _running = [
        testing::running_with_id(&one.registry, ids[0]),
        testing::running_with_id(&other.registry, ids[1]),
    ];
    let id = ids.map(|id| id.to_string());
    let request = |id: &str| KillRequest {
        id: Some(id.to_owned()),
        ..KillRequest::default()
    };
    let client = Client::new(one.path.clone());
    let error = client
        .kill_sessions(&request(&id[0][..4]))
        .await
        .expect_err("two");
    assert!(error.to_string().contains("names 2 sessions"), "{error}");
    assert_eq!((one.registry.count(), other.registry.count()), (4, 4));
    let killed = client.kill_sessions(&request(&id[1])).await.expect("an answer");
    assert_eq!(killed.answer.ended, [id[1].clone()]);
}

#[tokio::test]
async fn an_agent_refuses_an_id_that_names_several_of_its_sessions() {
    let served = served();
    let beginning = 0xabcd_0000_0000_0000_0000_0000_0000_0000;
    let _running =
        [0, 1].map(|last| testing::running_with_id(&served.registry, AuditId::of(beginning + last)));
    // As a client asks that looked before the second session began.
    let id = &AuditId::of(beginning).to_string()[..8];
    let body = format!("{{\"id\":\"{id}\"}}");
    let request = format!(
        "POST /v1/sessions/kill HTTP/1.1\r\nHost: picket\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = begun(&served.path, &request).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    assert!(
        answer.starts_with("HTTP/1.1 409") && answer.contains("names 2 sessions"),
        "{answer}"
    );
    assert_eq!(served.registry.count(), 5);
}

#[tokio::test]
async fn a_session_of_an_agent_that_has_two_names_is_listed_once() {
    let served = served();
    let other = served.path.with_file_name("other.sock");
    fs::rename(
        own_sockets(&served.path).remove(0),
        other.with_extension("sock.1"),
    )
    .expect("another name");
    std::os::unix::fs::symlink(&served.path, &other).expect("a link");
    let sessions = Client::new(other)
        .sessions(&SessionQuery::default())
        .await
        .expect("a list");
    assert_eq!((sessions.answer.sessions.len(), sessions.failed.len()), (3, 0));
}

#[tokio::test]
async fn the_name_is_taken_for_an_agent_s_own_socket_only_and_from_a_socket_only() {
    let (_held, folder) = folder();
    let path = folder.join("admin.sock");
    let (_served, served) = bound(&path);
    let socket = own_socket(&path, false).expect("beside it");
    let name = ConfiguredName::of(&socket, &path);
    let own = folder.join("admin.sock.2");
    fs::remove_file(&own).expect("somebody removes it");
    let _another = std::os::unix::net::UnixListener::bind(&own).expect("another process's");
    let error = name.take().expect_err("it is not the agent's").to_string();
    assert!(error.contains("another process's socket"), "{error}");
    assert!(ConfiguredName::of(&socket, &path).take().is_err());
    drop(served);
    fs::write(&path, "precious").expect("a file");
    assert!(matches!(name.take(), Err(SocketError::NotASocket(_))));
    assert_eq!(fs::read_to_string(&path).expect("is there"), "precious");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_holds_up_no_other_and_is_said() {
    let one = served();
    let stuck = own_socket(&one.path, false).expect("a socket that nobody accepts from");
    // It has the configured name too, and is asked once all the same.
    let name = ConfiguredName::of(&stuck, &one.path);
    name.take().expect("takes the name");
    let client = Client::new(one.path.clone());
    let request = KillRequest {
        all: true,
        ..KillRequest::default()
    };
    let began = tokio::time::Instant::now();
    let killed = client.kill_sessions(&request).await.expect("an answer");
    assert_eq!((killed.answer.ended.len(), killed.failed.len()), (3, 1));
    assert!(began.elapsed() < std::time::Duration::from_secs(16));
    let said = killed.failed[0].to_string();
    assert!(said.contains("admin.sock.2 did not answer within 15 s"), "{said}");
    drop(stuck);
}

#[tokio::test]
async fn a_request_that_is_wrong_ends_nothing_and_is_told_why() {
    let served = served();
    let client = Client::new(served.path.clone());
    for (request, told) in [
        (KillRequest::default(), "give one of"),
        (
            KillRequest {
                kind: Some(SessionKind::Exec),
                ..KillRequest::default()
            },
            "give one of",
        ),
        (
            KillRequest {
                all: true,
                identity: Some("triage".to_owned()),
                ..KillRequest::default()
            },
            "give one of",
        ),
        (
            KillRequest {
                id: Some("abc".to_owned()),
                ..KillRequest::default()
            },
            "shorter than 4",
        ),
        (
            KillRequest {
                all: true,
                reason: "x".repeat(1025),
                ..KillRequest::default()
            },
            "longer than 1024",
        ),
        (
            KillRequest {
                all: true,
                reason: "x".repeat(20_000),
                ..KillRequest::default()
            },
            "length limit",
        ),
    ] {
        let error = client.kill_sessions(&request).await.expect_err(told).to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!(
        ask(&served.path, "GET /v1/sessions?kind=teapot")
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert!(
        ask(&served.path, "GET /v1/sessions?nonsense=1")
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert!(
        ask(&served.path, "GET /v1/sessions/kill")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert_eq!(served.registry.count(), 3);
    served.cancel.cancel();
}

#[tokio::test]
async fn without_an_agent_the_client_says_where_it_asked() {
    let client = Client::new(PathBuf::from("/nonexistent/admin.sock"));
    let error = client
        .sessions(&SessionQuery::default())
        .await
        .expect_err("nobody");
    assert!(error.to_string().contains("/nonexistent/admin.sock"), "{error}");
}

/// A connection that has sent this and waits.
async fn begun(path: &Path, text: &str) -> UnixStream {
    let mut stream = UnixStream::connect(path).await.expect("connects");
    stream.write_all(text.as_bytes()).await.expect("writes");
    stream
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let served = served();
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(begun(&served.path, "").await);
    }
    let mut waiting = tokio::spawn({
        let path = served.path.clone();
        async move { ask(&path, "GET /healthz").await }
    });
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "one too many is served");
    idle.pop();
    let late = tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await;
    assert!(
        late.expect("in time")
            .expect("no panic")
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test(start_paused = true)]
async fn connections_without_a_request_and_requests_without_an_end_are_closed() {
    let served = served();
    for (text, seconds, says) in [
        ("", 30, ""),
        ("GET /healthz HTTP/1.1\r\nHost: picket\r\n", 30, ""),
        (
            "POST /v1/sessions/kill HTTP/1.1\r\nHost: picket\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
            10,
            "HTTP/1.1 408",
        ),
    ] {
        let began = tokio::time::Instant::now();
        let mut stream = begun(&served.path, text).await;
        let mut answer = [0; 12];
        let read = tokio::time::timeout(std::time::Duration::from_secs(300), stream.read(&mut answer));
        let read = read.await.expect("closed or answered").expect("reads");
        assert_eq!(String::from_utf8_lossy(&answer[..read]), says);
        let took = began.elapsed().as_secs();
        assert!((seconds..seconds + 5).contains(&took), "{text:?} took {took} s");
    }
    assert_eq!(served.registry.count(), 3);
}
