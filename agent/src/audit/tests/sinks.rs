//! Sinks: what they get, after what, and what they do to others.

use super::super::sinks::checkpoint;
use super::rotation::{deny, eventually, numbers};
use super::*;

pub(super) fn to_file(name: &str, path: PathBuf) -> SinkConfig {
    SinkConfig {
        name: name.into(),
        target: SinkTarget::File { path },
    }
}

/// A spool of small segments with a sink that copies to `copy.jsonl`.
fn copying(scratch: &Scratch) -> (AuditConfig, PathBuf) {
    let copy = scratch.0.path().join("copy.jsonl");
    let config = AuditConfig {
        max_segment_size: 5_000,
        sinks: vec![to_file("copy", copy.clone())],
        ..config(&scratch.spool())
    };
    (config, copy)
}

async fn denies(log: &AuditLog, range: std::ops::Range<usize>) {
    for number in range {
        deny(log, number).await.expect("on disk");
    }
}

/// Waits until the copy is what the spool holds.
async fn copied(scratch: &Scratch, copy: &Path) {
    let same = || fs::read_to_string(copy).unwrap_or_default() == stored_text(&scratch.spool());
    eventually("the copy is the spool", same).await;
}

fn checkpoint_file(scratch: &Scratch) -> PathBuf {
    scratch.spool().join("checkpoints/copy.json")
}

#[tokio::test]
async fn a_copy_has_the_exact_lines_and_may_be_renamed_at_any_time() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..20).await;
    copied(&scratch, &copy).await;
    let old = scratch.0.path().join("copy.jsonl.1");
    fs::rename(&copy, &old).expect("rotates");
    denies(&log, 20..40).await;
    let both = || fs::read_to_string(&old).expect("there") + &fs::read_to_string(&copy).unwrap_or_default();
    eventually("all is there", || both() == stored_text(&scratch.spool())).await;
    assert_eq!(
        fs::metadata(&copy).expect("there").permissions().mode() & 0o777,
        0o600
    );
    log.close(Duration::from_secs(5)).await;
    let reached = checkpoint::load(&scratch.spool(), "copy")
        .expect("reads")
        .expect("there");
    assert_eq!(
        reached.last.expect("a record").seq,
        40,
        "the last checkpoint is the end"
    );
    assert_eq!(log.stats().sinks()[0].records(), 40);
    assert_eq!(
        log.stats().sinks()[0].lag_bytes(&log.stats().spool().segments()),
        0
    );
}

/// What a crash may leave of checkpoint and copy, and that the copy is whole and without duplicates after it.
#[tokio::test]
async fn after_a_crash_the_end_of_the_copy_tells_where_to_go_on() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..10).await;
    copied(&scratch, &copy).await;
    let early = checkpoint_file(&scratch);
    eventually("a checkpoint", || {
        checkpoint::load(&scratch.spool(), "copy")
            .is_ok_and(|found| found.is_some_and(|at| at.last.is_some()))
    })
    .await;
    let early = fs::read(early).expect("a checkpoint");
    denies(&log, 10..40).await;
    copied(&scratch, &copy).await;
    log.close(Duration::from_secs(5)).await;
    drop(log);
    drop(retry_open(&scratch.spool()));
    let whole = fs::read(&copy).expect("the copy");
    let end_of_line = whole.iter().rposition(|byte| *byte == b'\n').expect("lines");
    let last_line = whole[..end_of_line]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .expect("lines")
        + 1;
    for (what, length, checkpoint) in [
        ("an old checkpoint", whole.len(), Some(&early[..])),
        ("half a line", last_line + 100, Some(&early[..])),
        ("a line without its end", whole.len() - 1, Some(&early[..])),
        ("no checkpoint", whole.len(), None),
        ("a checkpoint that is none", last_line, Some(&b"{\"segment"[..])),
        ("no copy at all", 0, None),
    ] {
        fs::write(&copy, &whole[..length]).expect("as a crash leaves it");
        match checkpoint {
            Some(text) => fs::write(checkpoint_file(&scratch), text).expect("an old one"),
            None => fs::remove_file(checkpoint_file(&scratch)).expect("removes"),
        }
        let log = AuditLog::open(&config, None).expect("opens again");
        log.close(Duration::from_secs(10)).await;
        drop(log);
        drop(retry_open(&scratch.spool()));
        assert!(fs::read(&copy).expect("the copy") == whole, "{what}");
    }
    // A new sink begins with the oldest record that is there.
    let other = scratch.0.path().join("other.jsonl");
    let config = AuditConfig {
        sinks: vec![to_file("other", other.clone())],
        ..config
    };
    let log = AuditLog::open(&config, None).expect("opens again");
    copied(&scratch, &other).await;
    drop(log);
}

#[tokio::test]
async fn a_piece_at_the_end_of_the_copy_that_is_no_record_gets_a_line_of_its_own() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    fs::write(&copy, "{\"what").expect("somebody's");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o640)).expect("a collector's");
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..3).await;
    let want = || format!("{{\"what\n{}", stored_text(&scratch.spool()));
    eventually("all is there", || {
        fs::read_to_string(&copy).expect("there") == want()
    })
    .await;
}

#[tokio::test]
async fn a_sink_that_fails_says_why_and_goes_on_where_it_was() {
    let scratch = Scratch::new();
    let (mut config, copy) = copying(&scratch);
    let folder = scratch.0.path().join("folder");
    fs::create_dir(&folder).expect("folder");
    config.sinks.push(to_file("other", folder.join("other.jsonl")));
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..5).await;
    copied(&scratch, &folder.join("other.jsonl")).await;
    fs::rename(&folder, scratch.0.path().join("away")).expect("moves");
    denies(&log, 5..10).await;
    let other = &log.stats().sinks()[1];
    eventually("it fails", || other.failure().is_some()).await;
    let told = other.failure().expect("failing");
    assert!(told.contains("other.jsonl") && told.contains("make it"), "{told}");
    assert!(other.errors() > 0 && other.lag_bytes(&log.stats().spool().segments()) > 0);
    copied(&scratch, &copy).await;
    assert!(log.stats().sinks()[0].failure().is_none() && log.stats().failure().is_none());
    fs::create_dir(&folder).expect("folder");
    eventually("it works again", || other.failure().is_none()).await;
    let text = fs::read_to_string(folder.join("other.jsonl")).expect("the copy");
    assert_eq!(numbers(&text), (5..10).collect::<Vec<_>>());
}

#[test]
fn a_sink_that_cannot_be_opened_stops_the_start() {
    let scratch = Scratch::new();
    let (mut config, _) = copying(&scratch);
    config
        .sinks
        .push(to_file("other", "/nonexistent/other.jsonl".into()));
    let error = AuditLog::open(&config, None)
        .err()
        .expect("no folder")
        .to_string();
    assert!(
        error.contains("sink `other`") && error.contains("there is no directory /nonexistent: make it"),
        "{error}"
    );
    // Nothing of it goes on: the spool can be opened.
    config.sinks.pop();
    AuditLog::open(&config, None).expect("opens");
}

/// Why a sink of this file cannot be opened.
fn refusal(scratch: &Scratch, path: &Path) -> String {
    let (mut config, _) = copying(scratch);
    config.sinks = vec![to_file("other", path.to_owned())];
    let refused = AuditLog::open(&config, None).err();
    refused.expect("a sink that others have a hold on").to_string()
}

#[test]
fn a_file_that_others_have_a_hold_on_is_no_sink() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.0.path().join(name);
    let rights = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("rights");
    };
    let file = |name: &str, mode| {
        fs::write(at(name), "theirs\n").expect("a file");
        rights(&at(name), mode);
        at(name)
    };
    symlink(file("passwd", 0o600), at("link")).expect("a link");
    let told = refusal(&scratch, &at("link"));
    assert!(told.contains("it is a symbolic link"), "{told}");
    symlink(at("nowhere"), at("dangling")).expect("a link");
    refusal(&scratch, &at("dangling"));
    assert!(!at("nowhere").exists(), "made through a link");
    for mode in [0o604, 0o602, 0o620] {
        let told = refusal(&scratch, &file("open", mode));
        assert!(told.contains("others may read or write it: chmod 600"), "{told}");
    }
    for mode in [0o777, 0o1777, 0o770] {
        let folder = at("folder");
        fs::create_dir_all(&folder).expect("a folder");
        rights(&folder, mode);
        let told = refusal(&scratch, &folder.join("copy.jsonl"));
        assert!(
            told.contains("others may write to it") && told.contains("folder"),
            "{told}"
        );
        assert!(!folder.join("copy.jsonl").exists());
    }
    if nix::unistd::geteuid().is_root() {
        let theirs = file("theirs", 0o600);
        std::os::unix::fs::chown(&theirs, Some(1000), None).expect("theirs");
        let told = refusal(&scratch, &theirs);
        assert!(told.contains("it belongs to user 1000"), "{told}");
    }
    assert_eq!(fs::read_to_string(at("passwd")).expect("there"), "theirs\n");
}

#[tokio::test]
async fn a_link_in_the_place_of_a_rotated_file_gets_nothing() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..3).await;
    copied(&scratch, &copy).await;
    let victim = scratch.0.path().join("victim");
    fs::rename(&copy, &victim).expect("rotates");
    symlink(&victim, &copy).expect("a link");
    let before = fs::read_to_string(&victim).expect("there");
    denies(&log, 3..6).await;
    let sink = &log.stats().sinks()[0];
    eventually("it fails", || sink.failure().is_some()).await;
    assert_eq!(fs::read_to_string(&victim).expect("there"), before);
    fs::remove_file(&copy).expect("removed");
    eventually("it works again", || sink.failure().is_none()).await;
    assert_eq!(numbers(&fs::read_to_string(&copy).expect("there")), [3, 4, 5]);
}

#[tokio::test]
async fn a_spool_that_was_cut_is_delivered_again_from_the_segment_on() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let config = AuditConfig {
        max_segment_size: 1 << 20,
        ..config
    };
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..10).await;
    copied(&scratch, &copy).await;
    log.close(Duration::from_secs(5)).await;
    drop(log);
    let segment = retry_open(&scratch.spool());
    let kept: usize = stored_text(&scratch.spool())
        .split_inclusive('\n')
        .take(3)
        .map(str::len)
        .sum();
    segment.set_len(kept as u64).expect("cuts");
    drop(segment);
    let log = AuditLog::open(&config, None).expect("opens again");
    denies(&log, 10..12).await;
    let want: Vec<usize> = (0..10).chain(0..3).chain(10..12).collect();
    eventually("the rest comes again", || {
        numbers(&fs::read_to_string(&copy).expect("there")) == want
    })
    .await;
}

#[tokio::test]
async fn a_spool_that_is_cut_while_its_sink_runs_is_delivered_again_from_the_segment_on() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let config = AuditConfig {
        max_segment_size: 1 << 20,
        ..config
    };
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..10).await;
    copied(&scratch, &copy).await;
    let stored = stored_text(&scratch.spool());
    let kept: usize = stored.split_inclusive('\n').take(3).map(str::len).sum();
    fs::OpenOptions::new()
        .write(true)
        .open(&files(&scratch.spool())[0])
        .and_then(|segment| segment.set_len(kept as u64))
        .expect("cuts");
    denies(&log, 10..11).await;
    let want: Vec<usize> = (0..10).chain(0..3).chain(10..11).collect();
    eventually("the rest comes again", || {
        numbers(&fs::read_to_string(&copy).expect("there")) == want
    })
    .await;
}

#[tokio::test]
async fn a_spool_that_was_rewritten_is_delivered_again_from_the_segment_on() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let config = AuditConfig {
        max_segment_size: 1 << 20,
        ..config
    };
    let log = AuditLog::open(&config, None).expect("opens");
    denies(&log, 0..10).await;
    copied(&scratch, &copy).await;
    log.close(Duration::from_secs(5)).await;
    drop(log);
    drop(retry_open(&scratch.spool()));
    // Other lines stand where the sink was, and there are more of them.
    let segment = files(&scratch.spool()).remove(0);
    fs::write(&segment, "").expect("empties it");
    let without = AuditConfig {
        sinks: Vec::new(),
        ..config.clone()
    };
    let log = AuditLog::open(&without, None).expect("opens again");
    denies(&log, 100..130).await;
    log.close(Duration::from_secs(5)).await;
    drop(log);
    drop(retry_open(&scratch.spool()));
    let _log = AuditLog::open(&config, None).expect("opens with the sink");
    let want: Vec<usize> = (0..10).chain(100..130).collect();
    eventually("all of them come", || {
        numbers(&fs::read_to_string(&copy).expect("there")) == want
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_two_agents_share_the_spool_one_of_them_delivers_the_records_of_both() {
    let scratch = Scratch::new();
    let (config, copy) = copying(&scratch);
    let old = AuditLog::open(&config, None).expect("opens");
    denies(&old, 0..5).await;
    old.share(true).await.expect("shares");
    let new = AuditLog::join(&config, None).expect("joins");
    denies(&new, 5..10).await;
    // The old one's writer has nothing to write; it looks.
    copied(&scratch, &copy).await;
    denies(&old, 10..15).await;
    denies(&new, 15..20).await;
    copied(&scratch, &copy).await;
    assert_eq!(new.stats().sinks()[0].records(), 0, "the older one delivers");
    old.close(Duration::from_secs(5)).await;
    drop(old);
    new.share(false).await.expect("is alone");
    denies(&new, 20..30).await;
    copied(&scratch, &copy).await;
    assert_eq!(
        numbers(&fs::read_to_string(&copy).expect("there")),
        (0..30).collect::<Vec<_>>()
    );
    assert_eq!(new.stats().sinks()[0].records(), 10, "the newer one goes on");
}
