//! The spool's directory as its writer has it: the segment that is written to, and the chain that its lines are on.
//!
//! In: rendered lines. Out: the same lines on disk, in segments that begin and go by [`rotate`](super::rotate). A line is
//! stored whole or not at all: what a failed write left behind is truncated. Where that fails too, the segment is opened anew.
//!
//! Each batch looks first whether the spool is as it was left. Where another agent writes to it in turns (an upgrade), a chain
//! behind the other's lines begins anew and is bound to them. Where none does, lines that were changed, added or removed are
//! somebody's interference: the chain goes on, so that `picket audit verify` shows the break.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::chain::{Chain, Hash};
use super::lock::{DirectoryLock, is_same};
use super::rotate::Bounds;
use super::segment::{self, Irregular, Listing, Position, Segment, SegmentId};
use super::view::SpoolView;
use crate::audit::event::Event;
use crate::audit::sinks::checkpoint;
use crate::audit::{AuditConfig, AuditError};
use crate::runtime::private_folder::NotPrivate;

/// Names that are tried for a new segment. A failed rotation leaves one segment without lines at most, and each start takes such segments
/// in.
const NAMES_TRIED: u32 = 64;

/// Tells the time, for the age of segments; tests bring their own.
pub(in crate::audit) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The spool, open for writing.
pub(in crate::audit) struct SpoolDirectory {
    path: PathBuf,
    node: String,
    bounds: Bounds,
    /// The sinks that must have read a segment before it goes.
    sinks: Vec<String>,
    clock: Clock,
    view: Arc<SpoolView>,
    lock: DirectoryLock,
    /// All segments but the current one, the oldest first.
    closed: Vec<Segment>,
    /// The segment that is written to; `None` after a failure that left its end unknown.
    current: Option<Current>,
    chain: Chain,
    /// Bytes were written that are not synced yet.
    dirty: bool,
    /// Another process writes to the directory too: it is locked for each batch instead of for good.
    shared: bool,
    /// The next look may find lines at the end that this chain does not know, and that are none the worse for it.
    rebind: bool,
    /// Why others can change what is in the directory, as the last look saw it.
    exposed: Option<NotPrivate>,
}

struct Current {
    id: SegmentId,
    file: File,
    /// Where the last line ended; the file ends elsewhere once somebody else wrote to it.
    end: u64,
    /// The earliest moment that its first line can be of.
    since: Timestamp,
}

impl SpoolDirectory {
    /// Opens the directory; `shared` from the start where another process writes to it and shares it. A line that a crash cut
    /// short is ended, and a new chain is bound to the last whole line.
    pub(in crate::audit) fn open(
        config: &AuditConfig,
        shared: bool,
        clock: Clock,
        view: Arc<SpoolView>,
    ) -> Result<Self, AuditError> {
        let mut spool = Self {
            lock: DirectoryLock::open(&config.directory)?,
            path: config.directory.clone(),
            node: config.node.clone(),
            bounds: Bounds {
                segment_size: config.max_segment_size,
                segment_age: config.max_segment_age,
                total_size: config.max_total_size,
            },
            sinks: config.sinks.iter().map(|sink| sink.name.clone()).collect(),
            clock,
            view,
            closed: Vec::new(),
            current: None,
            chain: Chain::start(Hash::NONE),
            dirty: false,
            shared,
            rebind: true,
            exposed: None,
        };
        spool.reopen()?;
        spool.end_turn();
        Ok(spool)
    }

    /// Whether bytes were written that are not synced yet.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether another process writes to the directory too.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// The oldest place that a reader can begin at.
    pub(in crate::audit) fn oldest(&self) -> Option<Position> {
        let current = self.current.as_ref().map(|current| current.id);
        let first = self.closed.first().map(|segment| segment.id).or(current);
        first.map(Position::start_of)
    }

    /// Lets another process write to the directory in turns with this one, or has it for itself again. It is not yet its own
    /// again while the other has its turn; then the next call tries again.
    pub(super) fn share(&mut self, shared: bool) {
        if self.shared == shared {
            return;
        }
        self.shared = shared || !self.lock.try_take();
        self.rebind = true;
        self.end_turn();
    }

    /// Ends a turn at a shared directory.
    pub(super) fn end_turn(&mut self) {
        if self.shared
            && let Err(error) = self.lock.end()
        {
            tracing::warn!(%error, "the audit spool cannot be unlocked; the other agent waits");
        }
    }

    /// Begins a turn: no other process writes from here to [`SpoolDirectory::end_turn`], the chain is bound to the last line,
    /// and the current segment can take a batch.
    pub(super) fn begin_turn(&mut self) -> Result<(), AuditError> {
        if self.shared {
            self.lock.wait()?;
        }
        self.check_exposure();
        if self.is_as_left() {
            self.rebind = self.shared;
        } else {
            self.reopen()?;
        }
        let now = (self.clock)();
        if let Some(current) = &self.current
            && self.bounds.ends(current.end, current.since, now)
        {
            self.rotate(now)?;
        }
        Ok(())
    }

    /// Tells where the directory's rights let others change what is in it. Records are written all the same: without them requests
    /// would fail, and the chain shows what others change.
    fn check_exposure(&mut self) {
        let exposed = self.lock.exposed();
        if exposed == self.exposed {
            return;
        }
        match &exposed {
            Some(reason) => tracing::warn!(
                directory = %self.path.display(),
                %reason,
                "others can remove or replace audit records; the agent goes on writing, and will not start with these rights"
            ),
            None => {
                tracing::info!(directory = %self.path.display(), "the audit directory is Picket's own again")
            }
        }
        self.exposed = exposed;
    }

    /// Whether the current segment is at its path, ends where it was left, and is the last one. Nobody else begins segments
    /// while the directory is this process's own, and was so at the last look.
    fn is_as_left(&self) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        let named = fs::symlink_metadata(current.id.path(&self.path));
        let (Ok(named), Ok(held)) = (named, current.file.metadata()) else {
            return false;
        };
        let is_last = || segment::next(&self.path, current.id).is_ok_and(|next| next.is_none());
        is_same(&named, &held) && held.len() == current.end && (!(self.shared || self.rebind) || is_last())
    }

    /// Opens what is there now, and binds the chain to it.
    fn reopen(&mut self) -> Result<(), AuditError> {
        let failed = |error: io::Error| AuditError::Open {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let left = self.current.take();
        if let Some(left) = &left
            && std::mem::take(&mut self.dirty)
        {
            // The old file gets no more lines, and those it has must not be lost with it.
            left.file.sync_data().map_err(failed)?;
        }
        if !self.lock.is_there() {
            self.lock = DirectoryLock::open(&self.path)?;
        }
        let Listing {
            mut segments,
            irregular,
        } = segment::list(&self.path).map_err(failed)?;
        for Irregular { id, kind } in irregular {
            tracing::error!(
                directory = %self.path.display(),
                entry = %id,
                kind,
                "an entry of the audit spool is named like a segment and is none; it is neither read nor written to: remove it"
            );
        }
        let newest = segments.last().map(|segment| segment.id);
        let left = left.map(|left| left.id);
        let now = (self.clock)();
        let (id, file) = match newest {
            Some(newest) if left.is_none_or(|left| left <= newest) => {
                let mut file = segment::open(&newest.path(&self.path)).map_err(failed)?;
                if segment::end_torn(&mut file).map_err(failed)? {
                    tracing::warn!(segment = %newest, "the audit spool's last line was cut short; it is ended here");
                }
                segments.pop();
                (newest, file)
            }
            // Nothing there, or the segment that was written to has gone.
            _ => self.create(left.max(newest), now).map_err(failed)?,
        };
        let current = Segment {
            id,
            length: file.metadata().map_err(failed)?.len(),
        };
        let all: Vec<Segment> = segments.iter().copied().chain([current]).collect();
        let last = segment::last_in(&self.path, &all).map_err(failed)?;
        self.bind(last);
        self.closed = segments;
        self.current = Some(Current {
            id,
            file,
            end: current.length,
            since: id.begun().min(now),
        });
        self.publish();
        Ok(())
    }

    /// Has the chain go on behind `last`, the last line in the spool.
    fn bind(&mut self, last: Option<Hash>) {
        let rebind = std::mem::replace(&mut self.rebind, self.shared);
        let Some(last) = last.filter(|last| *last != self.chain.mark().1) else {
            // Where nothing is left, the chain tells what was there.
            return;
        };
        if rebind {
            self.chain = Chain::start(last);
        } else {
            tracing::error!(
                directory = %self.path.display(),
                "somebody else changed the audit spool: `picket audit verify` shows where"
            );
        }
    }

    /// Makes the next segment, which is on disk before a line in it is. A name that is taken is passed over: where the clock was
    /// set back each try would come to the same one.
    fn create(&self, last: Option<SegmentId>, now: Timestamp) -> io::Result<(SegmentId, File)> {
        let mut id = SegmentId::after(last, now);
        for _ in 0..NAMES_TRIED {
            match segment::create(&id.path(&self.path)) {
                Ok(file) => {
                    self.lock.sync()?;
                    return Ok((id, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    id = SegmentId::after(Some(id), now);
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Ends the current segment and begins the next; the chain goes on.
    fn rotate(&mut self, now: Timestamp) -> Result<(), AuditError> {
        let failed = |error: io::Error| AuditError::Write(format!("cannot begin a segment: {error}"));
        self.sync()?;
        let Some(current) = &self.current else {
            return Ok(());
        };
        let (id, file) = self.create(Some(current.id), now).map_err(failed)?;
        self.closed.push(Segment {
            id: current.id,
            length: current.end,
        });
        self.current = Some(Current {
            id,
            file,
            end: 0,
            since: now,
        });
        self.view.rotated();
        self.publish();
        Ok(())
    }

    /// Makes room for a batch by removing the oldest segments where the spool holds its maximum.
    ///
    /// The checkpoints on disk decide, since only they outlive a crash. While two agents write, those of both count, and none of
    /// sinks that neither has.
    pub(super) fn make_room(&mut self) -> Result<(), AuditError> {
        if self.size() < self.bounds.total_size {
            return Ok(());
        }
        let mut names = self.sinks.clone();
        if self.shared {
            names.extend(checkpoint::claimed(&self.path));
        }
        let end = self.current.as_ref().map(|current| Position {
            segment: current.id,
            offset: current.end,
        });
        let sinks: Vec<_> = names
            .into_iter()
            .map(|name| {
                let reached = checkpoint::load(&self.path, &name).ok().flatten();
                // One behind the last record is of a spool that is gone.
                let position = reached.map(|reached| reached.position);
                (name, position.filter(|position| Some(*position) <= end))
            })
            .collect();
        let found = self.bounds.expendable(&self.segments(), &sinks);
        for id in &found.remove {
            match fs::remove_file(id.path(&self.path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(AuditError::Write(format!("cannot remove {id}: {error}")));
                }
                _ => self.closed.retain(|segment| segment.id != *id),
            }
        }
        if !found.remove.is_empty() {
            self.view.removed(found.remove.len());
            self.publish();
        }
        self.view.hold(&found.held_by);
        if found.held_by.is_empty() {
            return Ok(());
        }
        Err(AuditError::SpoolFull {
            directory: self.path.clone(),
            size: self.size(),
            sinks: found.held_by.join(", "),
        })
    }

    fn segments(&self) -> Vec<Segment> {
        let current = self.current.as_ref().map(|current| Segment {
            id: current.id,
            length: current.end,
        });
        self.closed.iter().copied().chain(current).collect()
    }

    fn size(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|segment| segment.length).sum();
        closed + self.current.as_ref().map_or(0, |current| current.end)
    }

    fn publish(&self) {
        self.view.holds(self.segments());
    }

    /// The chain's place, to go back to when lines after it were not stored.
    pub(super) fn mark(&self) -> (u64, Hash) {
        self.chain.mark()
    }

    /// Appends the event's line to `out`, on the chain.
    pub(super) fn render(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        self.chain.append(event, &self.node, out)
    }

    /// Goes back to a mark, when lines after it are not stored.
    pub(super) fn reset(&mut self, mark: (u64, Hash)) {
        self.chain.reset(mark);
    }

    /// Stores `bytes`, whole lines that brought the chain here from `mark`.
    pub(super) fn store(&mut self, bytes: &[u8], mark: (u64, Hash), sync: bool) -> Result<(), AuditError> {
        let Some(current) = &mut self.current else {
            self.chain.reset(mark);
            return Err(AuditError::Write("no segment is open".into()));
        };
        let stored = current
            .file
            .write_all(bytes)
            .and_then(|()| if sync { current.file.sync_data() } else { Ok(()) });
        if let Err(error) = stored {
            self.chain.reset(mark);
            if current.file.set_len(current.end).is_err() {
                self.current = None;
                self.rebind = true;
            }
            return Err(AuditError::Write(error.to_string()));
        }
        current.end += bytes.len() as u64;
        self.dirty = !sync;
        self.view.wrote(current.id, current.end);
        Ok(())
    }

    /// Puts on disk what was written.
    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        if !self.dirty {
            return Ok(());
        }
        if let Some(current) = &self.current {
            current
                .file
                .sync_data()
                .map_err(|error| AuditError::Write(error.to_string()))?;
        }
        self.dirty = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn rights_that_let_others_change_the_spool_are_seen_at_the_next_turn() {
        let scratch = tempfile::tempdir().expect("a folder");
        let config = AuditConfig {
            directory: scratch.path().join("spool"),
            ..AuditConfig::default()
        };
        let mut spool =
            SpoolDirectory::open(&config, false, Arc::new(Timestamp::now), Arc::default()).expect("opens");
        let mut seen_with = |mode| {
            fs::set_permissions(&config.directory, Permissions::from_mode(mode)).expect("rights");
            spool.begin_turn().expect("records are still written");
            spool.exposed.clone()
        };
        assert_eq!(seen_with(0o700), None);
        assert_eq!(seen_with(0o777), Some(NotPrivate::Writable));
        assert_eq!(seen_with(0o755), None);
    }
}
