//! The threads of the data path. Each has a runtime of its own, and a connection is served by one of them from its first byte to
//! its last: accepting client, TLS, decision and upstream connection meet on one core, so that no request waits for another
//! thread to wake. Everything else (files, watches of the cluster, the kernel's events) runs beside them.
//!
//! In: connections. Out: the runtime that each is served by.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// More threads serve no node: one decides on some 40,000 requests a second. Each has its own connections to the API server, and
/// a cluster has many nodes.
const MOST: usize = 4;

thread_local! {
    static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
    static BEFORE_SLEEP: RefCell<Vec<fn()>> = const { RefCell::new(Vec::new()) };
}

/// The data path's threads. They end when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workers: Box<[Arc<Worker>]>,
    stop: CancellationToken,
    ended: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How many threads the data path gets on this machine: one a core, as far as they help.
#[must_use]
pub fn count() -> NonZeroUsize {
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    cores.min(NonZeroUsize::new(MOST).unwrap_or(NonZeroUsize::MIN))
}

/// The number of the data path's thread that calls, from 0 on; 0 outside the data path as well.
#[must_use]
pub fn current() -> usize {
    INDEX.get().unwrap_or(0)
}

/// Has `act` called each time the data path's thread that calls this has nothing else to do. False outside the data path.
#[must_use]
pub fn before_sleep(act: fn()) -> bool {
    let on_data_path = INDEX.get().is_some();
    if on_data_path {
        BEFORE_SLEEP.with_borrow_mut(|acts| acts.push(act));
    }
    on_data_path
}

fn act_before_sleep() {
    // By index, as an act may add another.
    let mut next = 0;
    while let Some(act) = BEFORE_SLEEP.with_borrow(|acts| acts.get(next).copied()) {
        act();
        next += 1;
    }
}

impl Workers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// Where the system gives no thread or no event queue.
    pub fn start(count: NonZeroUsize) -> io::Result<Workers> {
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let mut workers = Vec::with_capacity(count.get());
        for index in 0..count.get() {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .on_thread_park(act_before_sleep)
                .build()?;
            workers.push(Arc::new(Worker {
                runtime: runtime.handle().clone(),
                connections: AtomicUsize::new(0),
            }));
            let (stop, ended) = (stop.clone(), ended.clone());
            thread::Builder::new()
                .name(format!("picket-data-{index}"))
                .spawn(move || {
                    // However the thread ends.
                    let _ended = ended.drop_guard();
                    INDEX.set(Some(index));
                    runtime.block_on(stop.cancelled());
                    // Blocking tasks do not keep a stopped agent alive.
                    runtime.shutdown_background();
                })?;
        }
        let workers = workers.into_boxed_slice();
        Ok(Workers {
            inner: Arc::new(Inner { workers, stop, ended }),
        })
    }

    /// Assigns a connection to the thread that has the fewest.
    #[must_use]
    pub fn assign(&self) -> WorkerAssignment {
        let connections = |worker: &&Arc<Worker>| worker.connections.load(Ordering::Relaxed);
        let workers = &self.inner.workers;
        let least = workers.iter().min_by_key(connections).unwrap_or(&workers[0]);
        least.connections.fetch_add(1, Ordering::Relaxed);
        WorkerAssignment(Arc::clone(least))
    }

    /// Waits until a thread has ended. None does while the agent runs.
    pub async fn ended(self) {
        self.inner.ended.cancelled().await;
    }
}

/// A connection that counts as the thread's until this is dropped.
#[derive(Debug)]
pub struct WorkerAssignment(Arc<Worker>);

impl WorkerAssignment {
    /// The thread's runtime.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl Drop for WorkerAssignment {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Workers {
        Workers::start(NonZeroUsize::new(2).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn connections_spread_and_an_assignment_ends() {
        let workers = two();
        let (one, other) = (workers.assign(), workers.assign());
        let at = async |assignment: &WorkerAssignment| {
            assignment.runtime().spawn(async { current() }).await.unwrap()
        };
        assert_eq!((at(&one).await, at(&other).await), (0, 1));
        drop(other);
        assert_eq!(at(&workers.assign()).await, 1);
    }

    #[tokio::test]
    async fn a_task_stays_on_its_thread() {
        let workers = two();
        let assignment = workers.assign();
        let wander = async {
            let began = (current(), thread::current().id());
            for _ in 0..100 {
                tokio::time::sleep(std::time::Duration::from_micros(10)).await;
                let spawned = tokio::spawn(async { (current(), thread::current().id()) });
                assert_eq!(spawned.await.unwrap(), began);
            }
        };
        assignment.runtime().spawn(wander).await.unwrap();
    }

    #[tokio::test]
    async fn an_act_comes_before_each_sleep_of_its_thread_alone() {
        static ACTS: AtomicUsize = AtomicUsize::new(0);
        assert!(!before_sleep(|| unreachable!(
            "this is no thread of the data path"
        )));
        let workers = two();
        let assignment = workers.assign();
        let acts = async {
            assert!(before_sleep(|| {
                ACTS.fetch_add(1, Ordering::Relaxed);
            }));
            let before = ACTS.load(Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            ACTS.load(Ordering::Relaxed) - before
        };
        assert!(assignment.runtime().spawn(acts).await.unwrap() >= 1);
    }

    #[tokio::test]
    async fn the_threads_end_with_the_last_handle() {
        let workers = two();
        let ended = workers.inner.ended.clone();
        let other = workers.clone();
        drop(workers);
        assert!(!ended.is_cancelled());
        drop(other);
        ended.cancelled().await;
    }
}
