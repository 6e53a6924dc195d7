//! The thread that owns the sinks: renders queued records, chains them, writes many at once, syncs when somebody waits.
//!
//! A line is stored whole or not at all: what a failed write left behind is cut off again, and when that fails too the
//! file is opened anew and a new chain begins behind its last whole line. Records nobody waits for are kept and tried
//! again; those somebody waits for fail at once, so that their requests are refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::chain::{Chain, Hash, last_hash};
use super::queue::{Done, Item, Queue, Work};
use crate::audit::stats::Stats;
use crate::audit::{AuditConfig, AuditError};

/// Lines are written in pieces of about this size: large against a system call, small against the page cache.
const PIECE: usize = 256 * 1024;

/// The longest tail that is searched for the last whole line at start. Request lines are bounded by the longest URI
/// that hyper takes (64 KiB); this is several of them.
const TAIL: u64 = 1024 * 1024;

/// Records nobody waits for are on disk after this time at most.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// How long a sink that failed is left alone; requests that wait for it fail meanwhile without a try.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How often a file that another process holds is tried at start: a killed agent's lock may outlive it a little.
const LOCK_TRIES: u32 = 20;

/// Time between two such tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How long a turn at a shared file is waited for: the other's batch and its sync, which take milliseconds. A file that is
/// held for longer takes nothing, and requests are refused.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// Time between two looks whether the other's turn is over.
const TURN_PAUSE: Duration = Duration::from_millis(1);

/// Where lines go, and the chain they are on.
pub(in crate::audit) struct Sink {
    node: String,
    file: Option<AuditFile>,
    stdout: bool,
    chain: Chain,
    /// Bytes were written that are not synced yet.
    dirty: bool,
    /// Whether the failing standard output was spoken of.
    stdout_failed: bool,
    /// Another process writes to the file too: it is locked for each batch instead of for good, and a batch behind lines of
    /// the other's begins a chain that is bound to them.
    shared: bool,
}

struct AuditFile {
    path: PathBuf,
    /// `None` after a failure that left its end unknown.
    file: Option<File>,
    /// Where our last line ended; the file ends elsewhere once somebody else wrote to it.
    end: u64,
}

impl Sink {
    /// Opens the sinks; `shared` from the start where another process writes to the file and shares it.
    pub(in crate::audit) fn open(config: &AuditConfig, shared: bool) -> Result<Self, AuditError> {
        if config.file.is_none() && !config.stdout {
            return Err(AuditError::Nowhere);
        }
        let mut chain = Chain::start(Hash::NONE);
        let file = match &config.file {
            None => None,
            Some(path) => {
                let (file, last) = open_file(path)?;
                chain = Chain::start(last.unwrap_or(Hash::NONE));
                Some(AuditFile {
                    path: path.clone(),
                    end: end_of(&file),
                    file: Some(file),
                })
            }
        };
        let mut sink = Self {
            node: config.node.clone(),
            file,
            stdout: config.stdout,
            chain,
            dirty: false,
            stdout_failed: false,
            shared,
        };
        sink.release();
        Ok(sink)
    }

    /// Lets another process write to the file in turns with this one, or has it for itself again. It is not yet its own
    /// again while the other has its turn; then the next call tries again.
    fn share(&mut self, shared: bool) {
        if self.shared == shared {
            return;
        }
        let open = self.file.as_ref().and_then(|target| target.file.as_ref());
        self.shared = shared || open.is_some_and(|file| file.try_lock().is_err());
        self.release();
    }

    /// Ends a turn at a shared file.
    fn release(&mut self) {
        if !self.shared {
            return;
        }
        if let Some(file) = self.file.as_ref().and_then(|target| target.file.as_ref())
            && let Err(error) = file.unlock()
        {
            // Closing the file gives the lock back whatever happens; it is opened anew for the next batch.
            tracing::warn!(%error, "the audit log cannot be unlocked, it is opened again");
            if let Some(target) = &mut self.file {
                target.file = None;
            }
        }
    }

    /// Follows a rename: when the path no longer names the open file, the lines go to a new one. A shared file is locked
    /// first, since the other must not write between the look and the batch; [`Sink::release`] ends that.
    fn follow(&mut self) -> Result<(), AuditError> {
        let Some(target) = &mut self.file else {
            return Ok(());
        };
        let mut before = self.chain.mark().1;
        if let Some(open) = &mut target.file {
            if self.shared {
                wait_turn(open, &target.path)?;
            }
            let held = open.metadata().ok();
            let same = match (std::fs::metadata(&target.path), &held) {
                (Ok(named), Some(held)) => named.dev() == held.dev() && named.ino() == held.ino(),
                _ => false,
            };
            let grown = held.is_some_and(|held| held.is_file() && held.len() != target.end);
            let last = if grown {
                last_line(open, &target.path)?
            } else {
                None
            };
            if same {
                // Somebody else's lines are there, or the file was cut, after which the chain goes on.
                if let Some(last) = last.filter(|last| *last != before) {
                    self.chain = Chain::start(last);
                }
                target.end = end_of(open);
                return Ok(());
            }
            before = last.unwrap_or(before);
            // The old file gets no more lines, and those it has must not be lost with it.
            if self.dirty {
                open.sync_data()
                    .map_err(|error| AuditError::Write(error.to_string()))?;
                self.dirty = false;
            }
        }
        let lost = target.file.is_none();
        let (file, last) = open_file(&target.path)?;
        // An empty new file continues the chain. Lines that are there already are somebody else's, or our own
        // after a failure; then a new chain begins behind them. So it does behind somebody else's last line in the old file.
        if lost || last.is_some() || before != self.chain.mark().1 {
            self.chain = Chain::start(last.unwrap_or(before));
        }
        target.end = end_of(&file);
        target.file = Some(file);
        Ok(())
    }

    /// Stores `bytes`, whole lines that brought the chain here from `mark`.
    fn store(&mut self, bytes: &[u8], mark: (u64, Hash), sync: bool) -> Result<(), AuditError> {
        if let Some(target) = &mut self.file {
            let Some(file) = &mut target.file else {
                return Err(AuditError::Write("the file is not open".into()));
            };
            let before = file.metadata().map(|held| held.len());
            let stored = file
                .write_all(bytes)
                .and_then(|()| if sync { file.sync_data() } else { Ok(()) });
            if let Err(error) = stored {
                let cut = before.and_then(|length| file.set_len(length));
                self.chain.reset(mark);
                if cut.is_err() {
                    target.file = None;
                }
                return Err(AuditError::Write(error.to_string()));
            }
            target.end += bytes.len() as u64;
            self.dirty = !sync;
        }
        if self.stdout {
            let mut stdout = io::stdout().lock();
            if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
                if self.file.is_none() {
                    // How much went out is unknown; the next line begins a line and a chain of its own.
                    self.chain = Chain::start(Hash::NONE);
                    return Err(AuditError::Write(format!("standard output: {error}")));
                }
                if !std::mem::replace(&mut self.stdout_failed, true) {
                    tracing::warn!(%error, "audit lines cannot be written to standard output; the file has them");
                }
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), AuditError> {
        if !self.dirty {
            return Ok(());
        }
        if let Some(file) = self.file.as_ref().and_then(|target| target.file.as_ref()) {
            file.sync_data()
                .map_err(|error| AuditError::Write(error.to_string()))?;
        }
        self.dirty = false;
        Ok(())
    }
}

/// Opens the file for appending, ends a torn last line, and finds the hash of its last whole line: `None` when the
/// file is empty.
fn open_file(path: &Path) -> Result<(File, Option<Hash>), AuditError> {
    let failed = |error: io::Error| AuditError::Open {
        file: path.to_owned(),
        reason: match path.parent() {
            Some(folder) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => {
                format!("there is no folder {}: make it", folder.display())
            }
            _ => error.to_string(),
        },
    };
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    lock(&file, path)?;
    let held = file.metadata().map_err(failed)?;
    if !held.is_file() {
        return Ok((file, None));
    }
    if held.len() == 0 {
        // The name must survive a crash as the lines do.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        return Ok((file, None));
    }
    let last = last_line(&mut file, path)?;
    Ok((file, last))
}

/// Finds the hash of the file's last whole line, and ends a torn one: `None` when the file is empty or is none that lines
/// can be read back from. The caller holds the lock, so no line is under way.
fn last_line(file: &mut File, path: &Path) -> Result<Option<Hash>, AuditError> {
    let failed = |error: io::Error| AuditError::Open {
        file: path.to_owned(),
        reason: error.to_string(),
    };
    let length = file.metadata().map_err(failed)?.len();
    if length == 0 {
        return Ok(None);
    }
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .map_err(failed)?;
    file.read_to_end(&mut tail).map_err(failed)?;
    if tail.last() != Some(&b'\n') {
        tracing::warn!(file = %path.display(), "the audit log's last line was cut short; it is ended here");
        file.write_all(b"\n").map_err(failed)?;
        // The piece stays in the file as a line of its own, which no chain holds.
    }
    Ok(Some(last_hash(&tail)))
}

/// Where the file ends; a pipe or device has no end that says anything.
fn end_of(file: &File) -> u64 {
    file.metadata().map_or(0, |held| held.len())
}

/// Waits until the other process's batch in a shared file is written.
fn wait_turn(file: &File, path: &Path) -> Result<(), AuditError> {
    let began = Instant::now();
    while file.try_lock().is_err() {
        if began.elapsed() > TURN_LIMIT {
            return Err(AuditError::Locked(path.to_owned()));
        }
        std::thread::sleep(TURN_PAUSE);
    }
    Ok(())
}

fn lock(file: &File, path: &Path) -> Result<(), AuditError> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(AuditError::Open {
                    file: path.to_owned(),
                    reason: format!("cannot lock it: {error}"),
                });
            }
        }
    }
    Err(AuditError::Locked(path.to_owned()))
}

/// Starts the writer's thread. It ends, with everything written, when the queue is closed.
pub(in crate::audit) fn start(sink: Sink, queue: Arc<Queue>, stats: Arc<Stats>) -> Result<(), AuditError> {
    let mut writer = Writer {
        sink,
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
    sink: Sink,
    stats: Arc<Stats>,
    /// Items taken from the queue and not written yet, in order.
    waiting: Vec<Item>,
    buffer: Vec<u8>,
    /// When and why the sink failed last; `None` while it works.
    failed: Option<(Instant, AuditError)>,
}

impl Writer {
    fn run(&mut self, queue: &Queue) {
        loop {
            let patience = if self.waiting.is_empty() {
                self.sink.dirty.then_some(SYNC_AFTER)
            } else {
                Some(RETRY_AFTER)
            };
            let work = queue.take(&mut self.waiting, patience);
            self.sink.share(queue.shared());
            match work {
                Work::Items => self.write(),
                Work::Idle if self.waiting.is_empty() => self.sync(),
                Work::Idle => self.write(),
                Work::Closed => {
                    self.write();
                    self.sync();
                    return;
                }
            }
        }
    }

    /// Puts on disk what was written and nobody waits for.
    fn sync(&mut self) {
        if !self.sink.dirty {
            return;
        }
        match self.sink.sync() {
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
            self.sink.release();
            if let Err(error) = written {
                self.fails(error.clone());
                self.refuse(&error);
                return;
            }
        }
    }

    /// Writes the next piece of what waits.
    fn write_piece(&mut self) -> Result<(), AuditError> {
        self.sink.follow()?;
        self.buffer.clear();
        let mark = self.sink.chain.mark();
        let (mut taken, mut lines, mut sync, mut oldest) = (0, 0, false, None::<Timestamp>);
        for item in &self.waiting {
            taken += 1;
            match item {
                Item::Flush(_) => sync = true,
                Item::Line { event, done, .. } => {
                    sync |= done.is_some();
                    oldest = Some(oldest.map_or(event.stage_at, |oldest| oldest.min(event.stage_at)));
                    if let Err(error) = self.sink.chain.append(event, &self.sink.node, &mut self.buffer) {
                        self.sink.chain.reset(mark);
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
            self.sink.store(&self.buffer, mark, sync)?;
            self.works();
        } else if sync {
            self.sink.sync()?;
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
