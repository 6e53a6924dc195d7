//! Segments: when they begin, when they go, and when a full spool refuses.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::super::spool::segment::SegmentId;
use super::*;

/// Small segments.
fn small(spool: &Path) -> AuditConfig {
    AuditConfig {
        max_segment_size: 10_000,
        max_total_size: 100_000,
        ..config(spool)
    }
}

/// A sink that takes as much as a pipe holds, 64 KiB, until somebody reads it.
fn stalled(scratch: &Scratch) -> (PathBuf, SinkConfig) {
    let path = scratch.0.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
    let sink = SinkConfig {
        name: "siem".into(),
        target: SinkTarget::File { path: path.clone() },
    };
    (path, sink)
}

/// Denies a request with an identifiable URI, on disk before this returns.
pub(super) async fn deny(log: &AuditLog, number: usize) -> Result<(), AuditError> {
    let mut record = log.begin(received(&format!("/n/{number}"))).await?;
    record.deny("policy", None, None, "no");
    let done = record.commit_before_effect().await;
    record.error("audit", "not recorded");
    done
}

/// The numbers of [`deny`] in a text of lines, in their order.
pub(super) fn numbers(text: &str) -> Vec<usize> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["decision"]["outcome"] == "deny")
        .filter_map(|line| line["requestURI"].as_str()?.strip_prefix("/n/")?.parse().ok())
        .collect()
}

#[tokio::test]
async fn a_full_segment_ends_and_the_chain_goes_on_in_the_next() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = AuditLog::open(&small(&spool), None).expect("opens");
    for _ in 0..20 {
        reads(&log, 5).await;
    }
    assert_eq!(log.stats().spool().rotations() as usize + 1, files(&spool).len());
    drop(log);
    drop(retry_open(&spool));
    let log = AuditLog::open(&small(&spool), None).expect("opens again");
    reads(&log, 5).await;
    assert!(files(&spool).len() > 4, "{:?}", files(&spool));
    for file in files(&spool) {
        let length = fs::metadata(&file).expect("a segment").len();
        // A batch of five lines may come on top.
        assert!(length < 15_000, "{} is {length} bytes long", file.display());
    }
    let report = verify(&spool);
    assert_eq!((report.good, report.chains, report.torn), (105, 2, 0));
    assert_eq!(report.breaks, []);
}

/// A clock that shows the seconds in the counter.
pub(super) fn set_clock() -> (Arc<AtomicI64>, spool::Clock) {
    let seconds = Arc::new(AtomicI64::new(1_800_000_000));
    let shown = Arc::clone(&seconds);
    let clock = move || Timestamp::from_second(shown.load(Ordering::Relaxed)).expect("a moment");
    (seconds, Arc::new(clock))
}

#[tokio::test]
async fn an_old_segment_ends_with_the_next_line_by_the_clock() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let (seconds, clock) = set_clock();
    let open = || AuditLog::start(&config(&spool), None, false, Arc::clone(&clock)).expect("opens");
    let day = 24 * 60 * 60;
    let log = open();
    reads(&log, 1).await;
    seconds.fetch_add(day - 1, Ordering::Relaxed);
    reads(&log, 1).await;
    assert_eq!(files(&spool).len(), 1);
    drop(log);
    drop(retry_open(&spool));
    // Its age outlives the agent.
    let log = open();
    seconds.fetch_add(1, Ordering::Relaxed);
    log.flush().await.expect("flushed");
    reads(&log, 1).await;
    assert_eq!(files(&spool).len(), 2);
    // Days in which nothing happens leave no empty segments.
    for _ in 0..3 {
        seconds.fetch_add(day, Ordering::Relaxed);
        log.flush().await.expect("flushed");
    }
    // Nor does a clock that is set back: the next one is still named later.
    seconds.fetch_sub(10 * day, Ordering::Relaxed);
    reads(&log, 1).await;
    seconds.fetch_add(11 * day, Ordering::Relaxed);
    reads(&log, 1).await;
    let counts: Vec<_> = files(&spool)
        .iter()
        .map(|file| fs::read_to_string(file).expect("a segment").lines().count())
        .filter(|count| *count == 0)
        .collect();
    assert_eq!(counts, [0; 0], "an empty segment");
    let report = verify(&spool);
    assert_eq!((report.good, report.breaks), (5, Vec::new()));
}

#[tokio::test]
async fn the_oldest_segments_go_where_nobody_has_to_read_them() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = AuditLog::open(&small(&spool), None).expect("opens");
    for number in 0..600 {
        deny(&log, number).await.expect("on disk");
    }
    let size: u64 = segments(&spool)
        .expect("the spool")
        .iter()
        .map(|one| one.length)
        .sum();
    assert!((80_000..112_000).contains(&size), "{size} bytes");
    assert!(log.stats().spool().removals() > 5);
    let left = numbers(&stored_text(&spool));
    assert_eq!(
        left,
        (600 - left.len()..600).collect::<Vec<_>>(),
        "the newest are there"
    );
    let report = verify(&spool);
    assert_eq!(report.breaks, []);
    assert!(report.first_seq > Some(1));
}

#[tokio::test]
async fn records_go_into_the_segment_that_has_the_name() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = open(&spool);
    reads(&log, 3).await;
    // A copy in its place, of the same length.
    let (segment, copy) = (files(&spool).remove(0), scratch.0.path().join("copy.jsonl"));
    fs::copy(&segment, &copy).expect("copies");
    fs::rename(&copy, &segment).expect("takes its place");
    reads(&log, 2).await;
    let report = verify(&spool);
    assert_eq!((report.good, report.breaks.len()), (5, 0));
}

#[tokio::test]
async fn where_the_newest_segment_was_taken_away_the_one_before_it_gets_no_more() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = AuditLog::open(&small(&spool), None).expect("opens");
    let mut number = 0;
    while log.stats().spool().rotations() < 2 {
        deny(&log, number).await.expect("on disk");
        number += 1;
    }
    let before = segments(&spool).expect("the spool");
    fs::remove_file(before[2].id.path(&spool)).expect("is taken away");
    deny(&log, number).await.expect("on disk");
    let after = segments(&spool).expect("the spool");
    assert_eq!(after[..2], before[..2], "they have ended");
    assert!(after.len() == 3 && after[2].id > before[2].id, "{after:?}");
}

#[tokio::test]
async fn a_segment_that_somebody_removed_holds_up_no_other() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = AuditLog::open(&small(&spool), None).expect("opens");
    let mut number = 0;
    while log.stats().spool().removals() < 3 {
        if number == 50 {
            fs::remove_file(&files(&spool)[0]).expect("is removed");
        }
        deny(&log, number).await.expect("on disk");
        number += 1;
        assert!(number < 1_000, "none is removed");
    }
    assert!(number > 50);
}

#[tokio::test]
async fn a_closed_log_waits_for_a_stalled_sink_for_so_long_only() {
    let scratch = Scratch::new();
    let (_pipe, sink) = stalled(&scratch);
    let config = AuditConfig {
        sinks: vec![sink],
        ..config(&scratch.spool())
    };
    let log = AuditLog::open(&config, None).expect("opens");
    // More than the pipe holds.
    for number in 0..100 {
        deny(&log, number).await.expect("on disk");
    }
    let began = Instant::now();
    log.close(Duration::from_millis(300)).await;
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_sink_that_takes_nothing_delays_nobody_and_loses_nothing() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let (pipe, sink) = stalled(&scratch);
    let copy = scratch.0.path().join("copy.jsonl");
    let config = AuditConfig {
        max_total_size: 300_000,
        sinks: vec![
            sink,
            SinkConfig {
                name: "copy".into(),
                target: SinkTarget::File { path: copy.clone() },
            },
        ],
        ..small(&spool)
    };
    let log = AuditLog::open(&config, None).expect("opens");
    let mut acknowledged = 0;
    let refused = loop {
        let began = Instant::now();
        if let Err(error) = deny(&log, acknowledged).await {
            break error;
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "a commit waits for a sink"
        );
        acknowledged += 1;
        assert!(acknowledged < 10_000, "the spool has no bound");
    };
    // What is full, and whom it waits for.
    let told = refused.to_string();
    assert!(told.contains("is full") && told.contains("siem"), "{told}");
    // The other sink may be a moment behind.
    eventually("one sink alone holds the spool up", || {
        log.stats().spool().held_by() == ["siem"]
    })
    .await;
    assert!(
        log.stats()
            .failure()
            .is_some_and(|failure| failure.contains("siem"))
    );
    assert!(deny(&log, 99_999).await.is_err(), "it stays full");
    // None of it went, though the other sink has all of it.
    assert_eq!(log.stats().spool().removals(), 0);
    assert_eq!(
        numbers(&stored_text(&spool)),
        (0..acknowledged).collect::<Vec<_>>()
    );
    eventually("the other sink has all", || {
        numbers(&fs::read_to_string(&copy).unwrap_or_default()).len() == acknowledged
    })
    .await;

    // Somebody reads: the spool takes records again, and the sink gets all of them in their order.
    let reader = std::thread::spawn(move || {
        let mut file = BufReader::new(fs::File::open(pipe).expect("opens"));
        let (mut text, mut last) = (String::new(), 0);
        while last < acknowledged + 5 {
            let from = text.len();
            std::io::BufRead::read_line(&mut file, &mut text).expect("reads");
            last = numbers(&text[from..]).last().map_or(last, |number| number + 1);
        }
        text
    });
    let began = Instant::now();
    for number in acknowledged..acknowledged + 5 {
        while deny(&log, number).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "the spool stays full");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(log.stats().failure().is_none() && log.stats().spool().held_by().is_empty());
    let delivered = reader.join().expect("the reader");
    assert_eq!(numbers(&delivered), (0..acknowledged + 5).collect::<Vec<_>>());
    assert_eq!(verify(&spool).breaks, []);
}

#[tokio::test]
async fn reads_wait_in_memory_while_the_spool_is_full() {
    let scratch = Scratch::new();
    let (pipe, sink) = stalled(&scratch);
    let config = AuditConfig {
        sinks: vec![sink],
        ..small(&scratch.spool())
    };
    let log = AuditLog::open(&config, None).expect("opens");
    let mut number = 0;
    while deny(&log, number).await.is_ok() {
        number += 1;
    }
    let mut read = log.begin(received("/kept")).await.expect("room");
    read.allow(None, None);
    read.response(200, None, None);
    read.finish(EndReason::Completed);
    let mut pipe = fs::File::open(pipe).expect("opens");
    std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()));
    eventually("the read is stored", || {
        stored_text(&scratch.spool()).contains("\"/kept\"")
    })
    .await;
}

#[tokio::test]
async fn what_happens_to_segments_shows() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = AuditLog::open(&small(&spool), None).expect("opens");
    for _ in 0..40 {
        reads(&log, 5).await;
    }
    let whole = files(&spool);
    assert!(whole.len() >= 4);
    assert_eq!(verify(&spool).breaks, []);
    let breaks = |files: &[PathBuf]| verify_files(files).breaks;

    let mut deleted = whole.clone();
    deleted.remove(1);
    let found = breaks(&deleted);
    assert!(found[0].reason.contains("lines are missing"), "{found:?}");
    assert_eq!(
        (found.len(), found[0].line),
        (1, 1),
        "at the segment behind the gap"
    );

    let mut swapped = whole.clone();
    swapped.swap(1, 2);
    assert!(!breaks(&swapped).is_empty());

    let text = fs::read_to_string(&whole[0]).expect("a segment");
    fs::write(&whole[0], text.replacen("limit=2", "limit=9", 1)).expect("changes");
    let found = breaks(&whole);
    assert_eq!((found.len(), found[0].line), (1, 3));
    assert!(found[0].reason.contains("changed"), "{found:?}");
    // Cut to whole lines, the older segment shows at the next one.
    let cut: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    fs::write(&whole[0], cut).expect("cuts");
    assert_eq!(breaks(&whole).len(), 1);
}

#[tokio::test]
async fn a_directory_that_is_gone_or_takes_nothing_refuses_until_it_is_back() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = open(&spool);
    deny(&log, 0).await.expect("on disk");
    fs::remove_dir_all(&spool).expect("removes");
    // It is made again, and the chain shows what is gone.
    deny(&log, 1).await.expect("on disk");
    assert_eq!(numbers(&stored_text(&spool)), [1]);
    assert_eq!(verify(&spool).first_seq, Some(2));
    fs::remove_dir_all(&spool).expect("removes");
    fs::write(&spool, "").expect("in the way");
    let error = deny(&log, 2).await.expect_err("nowhere to go");
    assert!(matches!(error, AuditError::Open { .. }), "{error}");
    assert!(log.stats().failure().is_some());
    fs::remove_file(&spool).expect("clears the way");
    eventually_ok(&log, 3).await;
    // Another's rights are another's files.
    fs::remove_dir_all(&spool).expect("removes");
    fs::create_dir(&spool).expect("spool");
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o777)).expect("opens up");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = deny(&log, 4).await.expect_err("open to all").to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

pub(super) async fn eventually_ok(log: &AuditLog, number: usize) {
    let began = Instant::now();
    while deny(log, number).await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it takes nothing again"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something holds.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_segment_that_cannot_be_made_is_an_error_and_no_loss() {
    // The names that are tried for a segment are all taken by folders.
    let scratch = Scratch::new();
    fs::create_dir(scratch.spool()).expect("spool");
    let (seconds, clock) = set_clock();
    let now = Timestamp::from_second(seconds.load(Ordering::Relaxed)).expect("a moment");
    let mut last = None;
    for _ in 0..64 {
        let id = SegmentId::after(last, now);
        fs::create_dir(id.path(&scratch.spool())).expect("in the way");
        last = Some(id);
    }
    let error = AuditLog::start(&config(&scratch.spool()), None, false, clock).err();
    assert!(matches!(error, Some(AuditError::Open { .. })), "{error:?}");
}

#[tokio::test]
async fn who_has_the_spool_alone_again_goes_on_behind_the_segment_that_the_other_began() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let config = small(&spool);
    let old = AuditLog::open(&config, None).expect("opens");
    old.share(true).await.expect("shares");
    let new = AuditLog::join(&config, None).expect("joins");
    // This one fills a segment; the other begins the next, and ends before this one looks.
    let mut number = 0;
    while segments(&spool).expect("the spool")[0].length < config.max_segment_size {
        deny(&new, number).await.expect("on disk");
        number += 1;
    }
    deny(&old, number).await.expect("on disk");
    assert_eq!(old.stats().spool().rotations(), 1);
    old.close(Duration::from_secs(5)).await;
    drop(old);
    new.share(false).await.expect("is alone");
    deny(&new, number + 1).await.expect("on disk");
    assert_eq!(
        numbers(&stored_text(&spool)),
        (0..=number + 1).collect::<Vec<_>>(),
        "in their order"
    );
    assert_eq!(verify(&spool).breaks, []);
}

#[tokio::test]
async fn a_sink_that_was_taken_out_of_the_configuration_holds_no_upgrade_up() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let before = AuditConfig {
        sinks: vec![SinkConfig {
            name: "gone".into(),
            target: SinkTarget::File {
                path: scratch.0.path().join("gone.jsonl"),
            },
        }],
        ..small(&spool)
    };
    let log = AuditLog::open(&before, None).expect("opens");
    deny(&log, 0).await.expect("on disk");
    log.close(Duration::from_secs(5)).await;
    drop(log);
    drop(retry_open(&spool));
    let old = AuditLog::open(&small(&spool), None).expect("opens");
    let mut number = 1;
    while old.stats().spool().removals() == 0 {
        deny(&old, number).await.expect("on disk");
        number += 1;
    }
    old.share(true).await.expect("shares");
    let new = AuditLog::join(&small(&spool), None).expect("joins");
    for log in [&old, &new] {
        for _ in 0..20 {
            deny(log, number).await.expect("on disk");
            number += 1;
        }
    }
}

#[tokio::test]
async fn of_two_agents_neither_removes_what_a_sink_of_the_other_has_to_read() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let (_pipe, sink) = stalled(&scratch);
    let without = AuditConfig {
        max_total_size: 300_000,
        ..small(&spool)
    };
    let with = AuditConfig {
        sinks: vec![sink],
        ..without.clone()
    };
    let old = AuditLog::open(&without, None).expect("opens");
    old.share(true).await.expect("shares");
    let _new = AuditLog::join(&with, None).expect("joins");
    let mut refused = None;
    for number in 0..1_000 {
        refused = deny(&old, number).await.err();
        if refused.is_some() {
            break;
        }
    }
    let told = refused
        .expect("the spool has no bound, or its segments go")
        .to_string();
    assert!(told.contains("is full") && told.contains("siem"), "{told}");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    fs::create_dir(scratch.spool()).expect("spool");
    fs::set_permissions(scratch.spool(), fs::Permissions::from_mode(0o700)).expect("rights");
    std::os::unix::fs::chown(scratch.spool(), Some(1000), None).expect("gives it away");
    let error = AuditLog::open(&config(&scratch.spool()), None).err();
    assert!(matches!(error, Some(AuditError::Open { .. })), "{error:?}");
}

#[tokio::test]
async fn a_checkpoint_behind_the_last_record_says_nothing_of_what_its_sink_has_read() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let (_pipe, sink) = stalled(&scratch);
    drop(open(&spool));
    drop(retry_open(&spool));
    fs::create_dir(spool.join("checkpoints")).expect("a folder");
    // The segments that it was of are gone, and the clock was set back.
    let stored = "{\"segment\":\"audit-20990101T000000.000000Z.jsonl\",\"offset\":0}";
    fs::write(spool.join("checkpoints/siem.json"), stored).expect("a checkpoint");
    let config = AuditConfig {
        sinks: vec![sink],
        ..small(&spool)
    };
    let log = AuditLog::open(&config, None).expect("opens");
    let mut number = 0;
    while number < 1_000 && deny(&log, number).await.is_ok() {
        number += 1;
    }
    assert_eq!(log.stats().spool().removals(), 0, "what it has not read goes");
}
