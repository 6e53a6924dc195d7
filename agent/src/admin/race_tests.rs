//! Tests of agents that make, take and remove sockets at the same moment.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::lock::FolderLock;
use super::names::own_socket;
use super::socket::file_at;
use super::*;

/// Rounds of each test. Without the lock, a few rounds in a hundred lose a socket.
const ROUNDS: usize = 300;

/// Agents that start at once.
const AGENTS: usize = 4;

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn socket_path() -> (TempDir, PathBuf) {
    let held = tempfile::tempdir().expect("a folder");
    let path = held.path().join("run").join("admin.sock");
    (held, path)
}

/// Runs every agent's turn at the same moment.
fn at_once<T: Send>(agents: usize, turn: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(agents);
    thread::scope(|scope| {
        let running: Vec<_> = (0..agents)
            .map(|agent| {
                let (start, turn) = (&start, &turn);
                scope.spawn(move || {
                    start.wait();
                    turn(agent)
                })
            })
            .collect();
        running
            .into_iter()
            .map(|agent| agent.join().expect("ends"))
            .collect()
    })
}

fn leads_to(path: &Path, socket: &PrivateSocket) -> bool {
    file_at(path) == Some(socket.file()) && UnixStream::connect(path).is_ok()
}

#[test]
fn agents_that_start_at_once_keep_a_socket_each() {
    let runtime = runtime();
    for round in 0..ROUNDS {
        let (_held, path) = socket_path();
        let sockets = at_once(AGENTS, |_| {
            let _entered = runtime.enter();
            own_socket(&path, false)
        });
        let sockets: Vec<_> = sockets.into_iter().map(|socket| socket.expect("binds")).collect();
        let paths: BTreeSet<_> = sockets.iter().map(PrivateSocket::path).collect();
        assert_eq!(paths.len(), AGENTS, "round {round}: {paths:?}");
        for socket in &sockets {
            assert!(
                leads_to(socket.path(), socket),
                "round {round}: {:?} is lost",
                socket.path()
            );
        }
    }
}

/// None of them would see another's upgrade socket, which comes later.
#[test]
fn of_agents_that_start_alone_at_once_one_is_the_first() {
    let runtime = runtime();
    for round in 0..ROUNDS {
        let (_held, path) = socket_path();
        let sockets = at_once(AGENTS, |_| {
            let _entered = runtime.enter();
            own_socket(&path, true)
        });
        let (first, refused): (Vec<_>, Vec<_>) = sockets.into_iter().partition(Result::is_ok);
        assert_eq!(first.len(), 1, "round {round}");
        for error in refused {
            assert!(
                matches!(error, Err(SocketError::Taken(_))),
                "round {round}: {error:?}"
            );
        }
        for socket in first.into_iter().flatten() {
            assert!(leads_to(&path, &socket), "round {round}: the name is lost");
        }
    }
}

#[test]
fn a_predecessor_that_ends_leaves_the_name_to_the_successor_that_takes_it() {
    let runtime = runtime();
    for round in 0..ROUNDS {
        let (_held, path) = socket_path();
        let _entered = runtime.enter();
        let before = own_socket(&path, true).expect("binds");
        let name = ConfiguredName::of(&before, &path);
        name.take().expect("takes the name");
        let after = own_socket(&path, false).expect("beside it");
        let taken = ConfiguredName::of(&after, &path);
        let ending = parking_lot::Mutex::new(Some(name));
        at_once(2, |agent| match agent {
            0 => drop(ending.lock().take()),
            _ => taken.take().expect("takes the name"),
        });
        assert!(leads_to(&path, &after), "round {round}: the name is lost");
    }
}

#[test]
fn agents_that_replace_a_socket_at_once_leave_one_that_is_served() {
    let runtime = runtime();
    for round in 0..ROUNDS {
        let (_held, path) = socket_path();
        let sockets = at_once(AGENTS, |_| {
            let _entered = runtime.enter();
            PrivateSocket::replace(&path)
        });
        let sockets: Vec<_> = sockets
            .into_iter()
            .map(|socket| socket.expect("replaces"))
            .collect();
        let leading = sockets.iter().filter(|socket| leads_to(&path, socket)).count();
        assert_eq!(leading, 1, "round {round}: the path leads to nobody");
    }
}

#[test]
fn an_agent_that_ends_leaves_the_socket_that_replaces_its_own() {
    let runtime = runtime();
    for round in 0..ROUNDS {
        let (_held, path) = socket_path();
        let before = {
            let _entered = runtime.enter();
            parking_lot::Mutex::new(Some(PrivateSocket::replace(&path).expect("binds")))
        };
        let mut after = at_once(2, |agent| {
            let _entered = runtime.enter();
            match agent {
                0 => {
                    drop(before.lock().take());
                    None
                }
                _ => Some(PrivateSocket::replace(&path).expect("replaces")),
            }
        });
        let after = after.pop().flatten().expect("the successor's");
        assert!(leads_to(&path, &after), "round {round}: the socket is lost");
    }
}

#[test]
fn a_folder_that_somebody_keeps_locked_is_an_error_and_no_removal() {
    let (_held, path) = socket_path();
    let runtime = runtime();
    let _entered = runtime.enter();
    let socket = own_socket(&path, false).expect("binds");
    let lock = FolderLock::take(&path).expect("the lock");
    let second = FolderLock::take_within(&path, Duration::from_millis(20));
    let said = second.expect_err("held").to_string();
    assert!(said.contains("sockets.lock is locked"), "{said}");
    let holder = format!("process {} ", std::process::id());
    assert!(said.contains(&holder) && said.contains("kill -9"), "{said}");
    drop(lock);
    assert!(matches!(remove_left(socket.path()), Err(SocketError::Taken(_))));
    assert!(leads_to(socket.path(), &socket));
}

/// One thread serves everything here, as each of the data path's does: what it is kept from by the lock is all that it serves.
#[test]
fn who_waits_for_the_lock_holds_up_nobody_on_its_thread() {
    let (_held, path) = socket_path();
    runtime().block_on(async {
        let own = own_socket(&path, false).expect("binds");
        let name = ConfiguredName::of(&own, &path);
        let upgrade = path.with_file_name("upgrade.sock");
        let lock = FolderLock::take(&path).expect("the lock");
        let served = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(lock);
        };
        let waiting = async {
            tokio::join!(
                name.take_with_retries(),
                PrivateSocket::replace_with_retries(&upgrade)
            )
        };
        let began = std::time::Instant::now();
        let (((), _socket), ()) = tokio::join!(waiting, served);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    });
}
