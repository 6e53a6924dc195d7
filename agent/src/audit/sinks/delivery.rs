//! The delivery to one sink: reads the spool from the sink's checkpoint and hands on what comes, on a thread of its own.
//!
//! In: the spool as far as its writer says. Out: records at the sink, and a checkpoint behind those that are durable there.
//!
//! While an upgrade goes on, the older agent's thread delivers the records of both, since both write to one spool; the newer one's
//! waits until that process has ended, and goes on from the checkpoint.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::{self, Checkpoint};
use super::{Sink, SinkError, SinkStats, gap};
use crate::audit::spool::chain::{ChainPlace, last_whole};
use crate::audit::spool::reader::{Batch, SpoolReader};
use crate::audit::spool::segment::{self, Position, Readable};
use crate::audit::spool::view::SpoolView;

/// How often a checkpoint is written while records come. After a crash a sink that cannot be asked what it has gets this much
/// twice; each checkpoint costs the disk three syncs.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

/// The first pause after a failed delivery, which doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause after a failed delivery.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a sink that another agent delivers for is tried.
const CLAIM_PAUSE: Duration = Duration::from_millis(200);

/// Starts the thread of one sink.
pub(super) fn start(
    name: &str,
    sink: Box<dyn Sink>,
    directory: &Path,
    oldest: Position,
    view: &Arc<SpoolView>,
) -> Result<Arc<SinkStats>, SinkError> {
    // From here on nothing that the sink has to read goes, whichever of two agents makes room: a checkpoint counts while its sink
    // is claimed.
    let claimed = checkpoint::claim(directory, name).unwrap_or_default();
    if matches!(checkpoint::load(directory, name), Ok(None)) {
        let first = Checkpoint {
            position: oldest,
            last: None,
        };
        checkpoint::store(directory, name, &first)?;
    }
    let stats = Arc::new(SinkStats::new(name, oldest));
    let reading = view.reading();
    let mut delivery = Delivery {
        name: name.to_owned(),
        directory: directory.to_owned(),
        sink,
        view: Arc::clone(view),
        stats: Arc::clone(&stats),
        reader: SpoolReader::at(directory, oldest),
        last: None,
        batch: Batch::default(),
        partial: None,
        stored: Instant::now(),
        ahead: false,
    };
    std::thread::Builder::new()
        .name(format!("audit-{name}"))
        .spawn(move || {
            let _reading = reading;
            delivery.run(claimed);
        })?;
    Ok(stats)
}

struct Delivery {
    name: String,
    directory: PathBuf,
    sink: Box<dyn Sink>,
    view: Arc<SpoolView>,
    stats: Arc<SinkStats>,
    reader: SpoolReader,
    /// The last record that was delivered.
    last: Option<ChainPlace>,
    batch: Batch,
    /// The beginning of the next line where the target has it already; `None` while the target's end is not known.
    partial: Option<Vec<u8>>,
    /// When the checkpoint was written.
    stored: Instant,
    /// More was delivered than the checkpoint says.
    ahead: bool,
}

impl Delivery {
    fn run(&mut self, claimed: Option<File>) {
        let Some(_claimed) = claimed.or_else(|| self.claim()) else {
            return;
        };
        self.begin();
        let mut pause = FIRST_PAUSE;
        loop {
            let (version, closed) = self.view.version();
            match self.deliver(closed) {
                Ok(()) => {
                    self.stats.works();
                    pause = FIRST_PAUSE;
                    if closed {
                        return;
                    }
                    let due = CHECKPOINT_AFTER.saturating_sub(self.stored.elapsed());
                    self.view.wait(version, self.ahead.then_some(due));
                }
                Err(error) => {
                    self.stats.fails(&error);
                    self.partial = None;
                    if closed {
                        return;
                    }
                    self.view.wait_closed(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Waits for the right to deliver; `None` when this agent ends before the other.
    fn claim(&self) -> Option<File> {
        loop {
            match checkpoint::claim(&self.directory, &self.name) {
                Ok(Some(claimed)) => return Some(claimed),
                Ok(None) => {}
                Err(error) => self.stats.fails(&error.into()),
            }
            if self.view.version().1 {
                return None;
            }
            self.view.wait_closed(CLAIM_PAUSE);
        }
    }

    /// Goes to the checkpoint.
    fn begin(&mut self) {
        match checkpoint::load(&self.directory, &self.name) {
            Ok(Some(Checkpoint { position, last })) => {
                let holds = last
                    .as_ref()
                    .is_none_or(|last| holds(&self.directory, position, last));
                self.reader.seek(position);
                self.last = last;
                if !holds {
                    self.restart(position);
                }
            }
            Ok(None) => self.ahead = true,
            Err(error) => {
                tracing::error!(
                    sink = self.name,
                    %error,
                    "the audit sink's checkpoint cannot be read; it begins with the oldest record"
                );
                self.ahead = true;
            }
        }
        self.stats.reached(self.reader.position());
    }

    /// Delivers all that there is, and writes the checkpoint where it is due, or this is the end.
    fn deliver(&mut self, closed: bool) -> Result<(), SinkError> {
        self.check_position();
        if self.partial.is_none() {
            self.resume()?;
        }
        loop {
            let from = self.reader.position();
            if !self.reader.read(self.view.end(), &mut self.batch)? {
                break;
            }
            if let Err(error) = self.deliver_batch() {
                self.reader.seek(from);
                return Err(error);
            }
            self.partial = Some(Vec::new());
            // Once they are delivered, so that none is told of twice.
            self.stats.misses(&gap::gaps(self.last.as_ref(), &self.batch));
            let last = self.batch.each().rev().find_map(ChainPlace::of);
            self.last = last.or(self.last.take());
            self.stats.delivered(self.batch.count, self.batch.lines.len());
            self.stats.reached(self.reader.position());
            self.ahead = true;
            self.checkpoint(CHECKPOINT_AFTER)?;
        }
        self.checkpoint(if closed { Duration::ZERO } else { CHECKPOINT_AFTER })
    }

    /// Delivers the batch, but for what the target has of its first line.
    fn deliver_batch(&mut self) -> Result<(), SinkError> {
        let lines = &self.batch.lines;
        match self.partial.as_deref() {
            None | Some([]) => self.sink.deliver(lines),
            Some(partial) => match lines.strip_prefix(partial) {
                Some(rest) => self.sink.deliver(rest),
                // The piece stays as a line of its own, which is no record.
                None => self.sink.deliver(&[b"\n", lines.as_slice()].concat()),
            },
        }
    }

    /// Passes over records that the target has beyond the checkpoint.
    fn resume(&mut self) -> Result<(), SinkError> {
        let end = self.sink.resume()?;
        if let Some(last) = end.last
            && self.last.as_ref().is_none_or(|known| known.hash != last)
            && let Some(found) = self.reader.seek_behind(last, self.view.end())?
        {
            self.last = Some(found);
            self.ahead = true;
            self.stats.reached(self.reader.position());
        }
        self.partial = Some(end.partial);
        Ok(())
    }

    /// Goes back to the beginning of a segment that ends before the place that was reached: somebody cut it, and where lines
    /// begin now is not known.
    fn check_position(&mut self) {
        let (at, end) = (self.reader.position(), self.view.end());
        if let Some(end) = end.filter(|end| at > *end) {
            self.restart(at.min(Position::start_of(end.segment)));
        }
    }

    fn restart(&mut self, at: Position) {
        tracing::error!(
            sink = self.name,
            segment = %at.segment,
            "the audit spool is not as the sink left it; records of this segment are delivered again"
        );
        self.reader.seek(Position::start_of(at.segment));
        self.last = None;
        self.ahead = true;
    }

    /// Writes the checkpoint, if the last one is that old and more was delivered since.
    fn checkpoint(&mut self, after: Duration) -> Result<(), SinkError> {
        if !self.ahead || self.stored.elapsed() < after {
            return Ok(());
        }
        self.sink.sync()?;
        self.reader.sync()?;
        let reached = Checkpoint {
            position: self.reader.position(),
            last: self.last.clone(),
        };
        checkpoint::store(&self.directory, &self.name, &reached)?;
        (self.stored, self.ahead) = (Instant::now(), false);
        Ok(())
    }
}

/// Whether a checkpoint's record stands where the checkpoint says.
fn holds(directory: &Path, position: Position, last: &ChainPlace) -> bool {
    let Ok(Readable::Segment(mut file)) = segment::read(&position.segment.path(directory)) else {
        // Retention took the segment once it was read. Where somebody else did, the next record tells.
        return true;
    };
    let is_last = |tail: Vec<u8>| tail.last() == Some(&b'\n') && last_whole(&tail) == Some(last.hash);
    position.offset == 0
        || segment::tail(&mut file, position.offset).is_ok_and(|tail| tail.is_some_and(is_last))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;
    use parking_lot::Mutex;
    use tempfile::TempDir;

    use super::*;
    use crate::audit::spool::segment::SegmentId;

    /// What a sink was asked for, with the checkpoint that was there.
    type Calls = Arc<Mutex<Vec<(&'static str, Option<u64>)>>>;

    struct Fake {
        directory: PathBuf,
        calls: Calls,
        /// How many syncs fail.
        fails: usize,
    }

    impl Fake {
        fn called(&self, what: &'static str) {
            self.calls.lock().push((what, stored(&self.directory)));
        }
    }

    impl Sink for Fake {
        fn deliver(&mut self, _lines: &[u8]) -> Result<(), SinkError> {
            self.called("deliver");
            Ok(())
        }

        fn sync(&mut self) -> Result<(), SinkError> {
            self.called("sync");
            match self.fails.checked_sub(1) {
                Some(left) => {
                    self.fails = left;
                    Err(std::io::Error::other("the disk fails").into())
                }
                None => Ok(()),
            }
        }
    }

    fn stored(directory: &Path) -> Option<u64> {
        let stored = checkpoint::load(directory, "fake").expect("reads");
        stored.map(|stored| stored.position.offset)
    }

    /// A spool of one segment, how its writer shows it, and where it begins.
    fn spool(text: &str) -> (TempDir, Arc<SpoolView>, Position) {
        let held = tempfile::tempdir().expect("a folder");
        let id = SegmentId::after(None, Timestamp::UNIX_EPOCH);
        fs::write(id.path(held.path()), text).expect("a segment");
        let view = Arc::new(SpoolView::default());
        view.holds(vec![segment::Segment {
            id,
            length: text.len() as u64,
        }]);
        (held, view, Position::start_of(id))
    }

    fn fake(directory: &Path, fails: usize) -> (Box<Fake>, Calls) {
        let calls = Calls::default();
        let fake = Fake {
            directory: directory.to_owned(),
            calls: Arc::clone(&calls),
            fails,
        };
        (Box::new(fake), calls)
    }

    #[test]
    fn a_checkpoint_follows_what_is_durable_at_the_target() {
        let text = "{\"requestURI\":\"/0\"}\n";
        let (held, view, oldest) = spool(text);
        let (sink, calls) = fake(held.path(), 1);
        start("fake", sink, held.path(), oldest, &view).expect("starts");
        let ended = Instant::now() + Duration::from_secs(10);
        while stored(held.path()) != Some(text.len() as u64) {
            assert!(Instant::now() < ended, "no checkpoint: {:?}", calls.lock());
            std::thread::sleep(Duration::from_millis(10));
        }
        view.close();
        assert!(view.wait_ended(Duration::from_secs(5)));
        let wanted = [("deliver", Some(0)), ("sync", Some(0)), ("sync", Some(0))];
        assert_eq!(calls.lock()[..], wanted, "the first sync failed");
    }

    #[test]
    fn a_sink_counts_for_whoever_makes_room_as_soon_as_it_is_there() {
        let (held, view, oldest) = spool("{}\n");
        let (sink, _calls) = fake(held.path(), 0);
        start("fake", sink, held.path(), oldest, &view).expect("starts");
        assert_eq!(checkpoint::claimed(held.path()), ["fake"]);
        assert_eq!(stored(held.path()), Some(0));
        view.close();
        assert!(view.wait_ended(Duration::from_secs(5)));
    }

    #[test]
    fn one_that_waits_for_another_agent_ends_with_its_own() {
        let (held, view, oldest) = spool("{}\n");
        let _claimed = checkpoint::claim(held.path(), "fake")
            .expect("claims")
            .expect("free");
        let (sink, calls) = fake(held.path(), 0);
        start("fake", sink, held.path(), oldest, &view).expect("starts");
        std::thread::sleep(CLAIM_PAUSE * 2);
        view.close();
        assert!(view.wait_ended(Duration::from_secs(5)));
        assert!(calls.lock().is_empty(), "the other agent delivers");
    }
}
