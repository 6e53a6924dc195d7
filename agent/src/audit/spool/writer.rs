//! The spool's writer: one thread that renders queued records, chains them, writes many at once, and syncs when somebody waits.
//!
//! In: the queue's records. Out: chained lines in the spool's directory, and the outcome to each request that waits for its
//! line.
//!
//! Records that cannot be stored and that nobody waits for are kept and tried again. A record that somebody waits for fails at
//! once, so that its request is refused.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::SpoolDirectory;
use super::queue::{Done, Item, Queue, Work};
use super::view::SpoolView;
use crate::audit::AuditError;
use crate::audit::stats::Stats;

/// Lines are written in pieces of about this size: large against a system call, small against the page cache.
const PIECE: usize = 256 * 1024;

/// Records nobody waits for are on disk after this time at most.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// How long a spool that failed is left alone; requests that wait for it fail meanwhile without a try.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How often an idle writer looks for another agent's lines in a shared directory, so that its sinks get them.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Starts the writer's thread. It ends, with everything written, when the queue is closed.
pub(in crate::audit) fn start(
    spool: SpoolDirectory,
    view: Arc<SpoolView>,
    queue: Arc<Queue>,
    stats: Arc<Stats>,
) -> Result<(), AuditError> {
    let mut writer = Writer {
        spool,
        view,
        stats,
        waiting: Vec::new(),
        buffer: Vec::new(),
        failed: None,
    };
    std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || writer.run(&queue))
        .map(drop)
        .map_err(|error| AuditError::Thread(error.to_string()))
}

struct Writer {
    spool: SpoolDirectory,
    view: Arc<SpoolView>,
    stats: Arc<Stats>,
    /// Items taken from the queue and not written yet, in order.
    waiting: Vec<Item>,
    buffer: Vec<u8>,
    /// When and why the spool failed last; `None` while it works.
    failed: Option<(Instant, AuditError)>,
}

impl Writer {
    fn run(&mut self, queue: &Queue) {
        loop {
            let patience = if !self.waiting.is_empty() {
                Some(RETRY_AFTER)
            } else if self.spool.is_dirty() {
                Some(SYNC_AFTER)
            } else {
                queue.shared().then_some(IDLE_CHECK)
            };
            let work = queue.take(&mut self.waiting, patience);
            self.spool.share(queue.shared());
            match work {
                Work::Items => self.write(),
                Work::Idle if self.waiting.is_empty() => {
                    self.sync();
                    self.check();
                }
                Work::Idle => self.write(),
                Work::Closed => {
                    // The last try, however short ago the last failure was.
                    self.failed = None;
                    self.write();
                    self.say_lost();
                    self.sync();
                    self.view.close();
                    return;
                }
            }
        }
    }

    /// Says what is lost with the process.
    fn say_lost(&self) {
        if let (false, Some((_, error))) = (self.waiting.is_empty(), &self.failed) {
            tracing::error!(records = self.waiting.len(), %error, "the last audit records are lost");
        }
    }

    /// Looks what another agent wrote.
    fn check(&mut self) {
        if self.spool.is_shared() {
            // A failure shows at the next record.
            let _checked = self.spool.begin_turn();
            self.spool.end_turn();
        }
    }

    /// Puts on disk what was written and nobody waits for.
    fn sync(&mut self) {
        if !self.spool.is_dirty() {
            return;
        }
        match self.spool.sync() {
            Ok(()) => {
                self.stats.syncs.fetch_add(1, Relaxed);
                self.works();
            }
            Err(error) => self.fails(error),
        }
    }

    fn works(&mut self) {
        self.failed = None;
        self.stats.recovered();
    }

    fn fails(&mut self, error: AuditError) {
        self.stats.failed(&error.to_string());
        self.failed = Some((Instant::now(), error));
    }

    /// Writes what waits, piece by piece.
    fn write(&mut self) {
        if let Some((when, error)) = &self.failed
            && when.elapsed() < RETRY_AFTER
        {
            let error = error.clone();
            self.refuse(&error);
            return;
        }
        while !self.waiting.is_empty() {
            let written = self.write_piece();
            self.spool.end_turn();
            if let Err(error) = written {
                self.fails(error.clone());
                self.refuse(&error);
                return;
            }
        }
    }

    /// Writes the next piece of what waits.
    fn write_piece(&mut self) -> Result<(), AuditError> {
        self.spool.begin_turn()?;
        if self.waiting.iter().any(|item| matches!(item, Item::Line { .. })) {
            self.spool.make_room()?;
        }
        self.buffer.clear();
        let mark = self.spool.mark();
        let (mut taken, mut lines, mut sync, mut oldest) = (0, 0, false, None::<Timestamp>);
        for item in &self.waiting {
            taken += 1;
            match item {
                Item::Flush(_) => sync = true,
                Item::Line { event, done, .. } => {
                    sync |= done.is_some();
                    oldest = Some(oldest.map_or(event.stage_at, |oldest| oldest.min(event.stage_at)));
                    if let Err(error) = self.spool.render(event, &mut self.buffer) {
                        self.spool.reset(mark);
                        return Err(AuditError::Write(error.to_string()));
                    }
                    lines += 1;
                }
            }
            if self.buffer.len() >= PIECE {
                break;
            }
        }
        if !self.buffer.is_empty() {
            self.spool.store(&self.buffer, mark, sync)?;
            self.works();
        } else if sync {
            self.spool.sync()?;
        }
        self.stats.syncs.fetch_add(u64::from(sync), Relaxed);
        self.stats.lines.fetch_add(lines, Relaxed);
        self.stats.bytes.fetch_add(self.buffer.len() as u64, Relaxed);
        if let Some(oldest) = oldest {
            let lag = Timestamp::now().as_microsecond() - oldest.as_microsecond();
            self.stats
                .lag_micros
                .store(u64::try_from(lag).unwrap_or(0), Relaxed);
        }
        for item in self.waiting.drain(..taken) {
            match item {
                Item::Line { room, done, .. } => {
                    drop(room);
                    if let Some(done) = done {
                        answer(done, Ok(()));
                    }
                }
                Item::Flush(done) => answer(done, Ok(())),
            }
        }
        Ok(())
    }

    /// Fails everything somebody waits for and keeps the rest.
    fn refuse(&mut self, error: &AuditError) {
        for item in std::mem::take(&mut self.waiting) {
            match item {
                Item::Line { done: Some(done), .. } | Item::Flush(done) => answer(done, Err(error.clone())),
                item => self.waiting.push(item),
            }
        }
    }
}

/// Tells who waits; they may have gone.
fn answer(done: Done, result: Result<(), AuditError>) {
    let _gone = done.send(result);
}
