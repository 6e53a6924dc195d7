//! Records that ended on a thread of the data path, until that thread has nothing else to do.
//!
//! In: a record's last line, from `Drop`. Out: many lines at once to the log. The log's lock, its metrics and the wake of the
//! writer's thread come after the response is sent, instead of before its last bytes. On other threads a record is handed to
//! the log at once. A thread that carries long bodies without a pause, and on which no other request ends, keeps the last few
//! records until one of these happens; what is written before it takes effect does not go this way.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::log::{AuditLog, Ended};
use crate::runtime::workers;

/// A thread without a pause gives the log so many records at once.
const MOST: usize = 64;

/// It keeps none for longer while others end: as long as the log itself waits for more (`GATHER` in spool/queue.rs).
const LONGEST: Duration = Duration::from_millis(5);

thread_local! {
    static THREAD: RefCell<Thread> = const { RefCell::new(Thread { batch: None, rests: None }) };
}

struct Thread {
    batch: Option<Batch>,
    /// Whether this thread says when it has nothing to do; none before the first record.
    rests: Option<bool>,
}

/// Records of one log.
struct Batch {
    log: AuditLog,
    records: Vec<Ended>,
    began: Instant,
}

impl Batch {
    fn begin(log: &AuditLog) -> Batch {
        log.batch_begins();
        Batch {
            log: log.clone(),
            records: Vec::with_capacity(MOST),
            began: Instant::now(),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.log.batch_ends(std::mem::take(&mut self.records));
    }
}

impl Thread {
    fn rests(&mut self) -> bool {
        *self
            .rests
            .get_or_insert_with(|| workers::before_sleep(flush_thread_batch))
    }

    /// Adds a record; gives the batch that the log is to get now.
    fn add(&mut self, log: &AuditLog, record: Ended) -> Option<Batch> {
        let another = self.batch.take_if(|batch| !batch.log.is_same(log));
        let batch = self.batch.get_or_insert_with(|| Batch::begin(log));
        batch.records.push(record);
        if batch.records.len() < MOST && batch.began.elapsed() < LONGEST {
            return another;
        }
        // There is one at a time: a batch of another log has just begun.
        self.batch.take()
    }
}

/// Takes a record that has ended.
pub(super) fn add(log: &AuditLog, record: Ended) {
    let mut record = Some(record);
    let batch = THREAD.try_with(|thread| {
        let mut thread = thread.borrow_mut();
        thread.rests().then(|| thread.add(log, record.take()?)).flatten()
    });
    // Outside the borrow: a log may end with its last handle.
    drop(batch);
    if let Some(record) = record {
        // No thread of the data path, or one that ends.
        log.ended(vec![record]);
    }
}

fn flush_thread_batch() {
    let batch = THREAD.with_borrow_mut(|thread| thread.batch.take());
    drop(batch);
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::audit::tests::{config, lines, received};
    use crate::runtime::workers::Workers;

    /// A log in a folder of its own, and how many ends its observer has learned of.
    fn log() -> (tempfile::TempDir, AuditLog, Arc<AtomicUsize>) {
        let folder = tempfile::tempdir().unwrap();
        let ends = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ends);
        let observer = Arc::new(move |_: &crate::audit::Summary<'_>| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let log = AuditLog::open(&config(folder.path()), Some(observer)).unwrap();
        (folder, log, ends)
    }

    fn workers() -> Workers {
        Workers::start(NonZeroUsize::MIN).unwrap()
    }

    #[tokio::test]
    async fn a_record_is_handed_over_when_its_thread_rests_and_not_before() {
        let (_folder, log, ends) = log();
        let (workers, seen) = (workers(), Arc::clone(&ends));
        let (one, other) = (log.clone(), log.clone());
        let during = workers.assign().runtime().spawn(async move {
            drop(one.begin(received("/api/v1/pods")).await.unwrap());
            let before = seen.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            (before, seen.load(Ordering::SeqCst))
        });
        assert_eq!(during.await.unwrap(), (0, 1));
        drop(other.begin(received("/api/v1/pods")).await.unwrap());
        assert_eq!(
            ends.load(Ordering::SeqCst),
            2,
            "this thread is none of the data path"
        );
        log.close(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn a_thread_without_a_rest_hands_over_all_the_same() {
        let (_folder, log, ends) = log();
        let (workers, seen) = (workers(), Arc::clone(&ends));
        let busy = log.clone();
        let during = workers.assign().runtime().spawn(async move {
            for _ in 0..MOST + 1 {
                drop(busy.begin(received("/api/v1/pods")).await.unwrap());
            }
            seen.load(Ordering::SeqCst)
        });
        // On a busy machine a record may be old enough before.
        let seen = during.await.unwrap();
        assert!((1..=MOST + 1).contains(&seen), "{seen}");
    }

    #[tokio::test]
    async fn a_thread_without_a_rest_keeps_no_record_for_long_while_others_end() {
        let (_folder, log, ends) = log();
        let (workers, seen) = (workers(), Arc::clone(&ends));
        let busy = log.clone();
        let during = workers.assign().runtime().spawn(async move {
            drop(busy.begin(received("/api/v1/pods")).await.unwrap());
            std::thread::sleep(LONGEST);
            drop(busy.begin(received("/api/v1/pods")).await.unwrap());
            seen.load(Ordering::SeqCst)
        });
        assert_eq!(during.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_log_that_closes_waits_for_a_thread_that_is_busy() {
        let (folder, log, _) = log();
        let workers = workers();
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        let busy = log.clone();
        let task = workers.assign().runtime().spawn(async move {
            drop(busy.begin(received("/api/v1/pods")).await.unwrap());
            ended.send(()).unwrap();
            // Longer than a log needs to close: the thread does not rest.
            std::thread::sleep(Duration::from_millis(200));
        });
        has_ended.await.unwrap();
        log.close(Duration::from_secs(10)).await;
        task.await.unwrap();
        assert_eq!(lines(folder.path()).len(), 1);
    }
}
