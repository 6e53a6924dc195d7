//! Tests of whom a probe asks: the agent of its own container, whatever other agent has the configured socket.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::names::own_socket;
use super::tests::{admin, folder};
use super::*;

/// The socket that the other process makes.
const PLACE: &str = "PICKET_TEST_SOCKET";

/// Runs in the other process: an agent's socket that nobody answers at.
#[test]
fn another_agent() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let _socket = UnixListener::bind(place).expect("binds");
    let _ended = std::io::stdin().read(&mut [0]);
}

/// The other process, in a mount namespace of its own or in this one.
fn start(place: &Path, apart: bool) -> Child {
    let this = std::env::current_exe().expect("this test");
    let mut command = match apart {
        true => {
            let mut command = Command::new("unshare");
            command.arg("--mount").arg(this);
            command
        }
        false => Command::new(this),
    };
    let mut child = command
        .args(["--exact", "admin::container_tests::another_agent"])
        .env(PLACE, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    // The file is there a moment before anybody listens.
    while UnixStream::connect(place).is_err() {
        let ended = child.try_wait().expect("looked at");
        assert!(ended.is_none(), "the other process has ended: {ended:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn end(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

#[tokio::test]
async fn a_probe_asks_the_agent_of_its_own_container() {
    let (_held, folder) = folder();
    fs::create_dir(&folder).expect("a folder");
    let path = folder.join("admin.sock");
    let not_here = |found: Result<Client, ClientError>| {
        let said = found.map(drop).expect_err("no agent here").to_string();
        assert!(said.starts_with("no agent of this container answers"), "{said}");
    };
    not_here(Client::of_own_container(&path).await);

    // The agent that serves is another container's, and has the configured name.
    let first = folder.join("admin.sock.1");
    let other = start(&first, true);
    fs::hard_link(&first, &path).expect("the name");
    assert!(UnixStream::connect(&path).is_ok());
    not_here(Client::of_own_container(&path).await);

    let socket = own_socket(&path, false).expect("beside it");
    let failing = Failing {
        part: "audit",
        reason: "disk full".into(),
    };
    let report = ReadyReport {
        waiting: vec!["pods".into()],
        failing: vec![failing],
    };
    let cancel = CancellationToken::new();
    let served = tokio::spawn(socket.serve(admin(report), cancel.clone()));
    let own = Client::of_own_container(&path).await.expect("its own");
    let answer = own.ready().await.expect("an answer");
    assert!(!answer.ready && answer.waiting == ["pods"], "{answer:?}");
    assert_eq!(answer.failing[0].part, "audit");
    assert_eq!(answer.failing[0].reason, "disk full");
    own.alive().await.expect("it answers");
    cancel.cancel();
    served.await.expect("ends");
    own.alive().await.expect_err("it has ended");
    end(other);
}

#[tokio::test]
async fn an_agent_of_the_same_container_is_found_in_another_process() {
    let (_held, folder) = folder();
    fs::create_dir(&folder).expect("a folder");
    let path = folder.join("admin.sock");
    let other = start(&folder.join("admin.sock.1"), false);
    let found = Client::of_own_container(&path).await;
    end(other);
    found.expect("the agent of this container");
}
