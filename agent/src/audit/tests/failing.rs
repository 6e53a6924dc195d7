//! A spool that takes nothing, or not yet again: what is refused, what is counted, and what is written in the end.

use std::process::Command;
use std::sync::atomic::Ordering;

use super::super::spool::segment::SegmentId;
use super::rotation::{deny, eventually_ok, numbers, set_clock};
use super::*;

/// Puts a file in the spool's place, so that nothing can be opened there, and gives the way back.
fn broken(spool: &Path) -> impl FnOnce() + use<> {
    let (spool, away) = (spool.to_owned(), spool.with_file_name("away"));
    fs::rename(&spool, &away).expect("moves");
    fs::write(&spool, "").expect("in the way");
    move || {
        fs::remove_file(&spool).expect("clears the way");
        fs::rename(&away, &spool).expect("moves back");
    }
}

/// A watch that was permitted and is answered.
async fn watch(log: &AuditLog) -> Result<Record, AuditError> {
    let mut record = log.begin(received("/api/v1/pods?watch=true")).await?;
    record.allow(None, None);
    record.response(200, None, None);
    record.session(Some("s-1".into()), "watch");
    record.started().await.map(|()| record)
}

#[tokio::test]
async fn a_session_is_on_disk_before_the_client_learns_of_it() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let (before, record) = (log.stats().syncs(), watch(&log).await.expect("on disk"));
    let stages = || -> Vec<_> {
        let lines = lines(&scratch.spool());
        lines.iter().map(|line| line["stage"].clone()).collect()
    };
    assert_eq!(stages(), ["ResponseStarted"]);
    assert_eq!(log.stats().syncs(), before + 1);
    record.finish(EndReason::ClientClosed);
    log.flush().await.expect("flushed");
    assert_eq!(stages(), ["ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn an_answer_that_picket_ends_does_not_look_whole() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let mut list = log.begin(received("/api/v1/pods")).await.expect("room");
    list.allow(None, None);
    list.response(200, None, None);
    list.terminated("no_longer_permitted", "the identity is revoked");
    watch(&log)
        .await
        .expect("on disk")
        .terminated("session_killed", "an operator ended the session");
    log.flush().await.expect("flushed");
    let lines = lines(&scratch.spool());
    let of = |uri: &str, at: &str| {
        let last = lines.iter().rfind(|line| line["requestURI"] == uri);
        last.and_then(|line| line.pointer(at))
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(of("/api/v1/pods", "/decision/outcome"), "allow");
    assert_eq!(of("/api/v1/pods", "/decision/reason"), "no_longer_permitted");
    assert_eq!(of("/api/v1/pods", "/decision/message"), "the identity is revoked");
    let watch = "/api/v1/pods?watch=true";
    assert_eq!(of(watch, "/session/endReason"), "terminated");
    assert_eq!(of(watch, "/decision/reason"), Value::Null);
}

#[tokio::test]
async fn sessions_that_begin_together_share_their_wait_for_the_disk() {
    const SESSIONS: usize = 200;
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let began = futures::future::join_all((0..SESSIONS).map(|_| watch(&log))).await;
    assert!(began.iter().all(Result::is_ok));
    let syncs = log.stats().syncs();
    assert!(
        syncs < SESSIONS as u64 / 4,
        "{syncs} syncs for {SESSIONS} sessions"
    );
}

#[tokio::test]
async fn a_log_that_fails_refuses_sessions_and_counts_each_request_that_is_refused_once() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    drop(watch(&log).await.expect("on disk"));
    assert_eq!(log.stats().refused(), 0);
    let repair = broken(&scratch.spool());
    assert!(watch(&log).await.is_err(), "a session");
    assert!(deny(&log, 1).await.is_err(), "a denial");
    let mut held = log.begin(received("/held")).await.expect("room");
    assert!(held.hold(None, None, "ask").await.is_err(), "a hold");
    assert_eq!(log.stats().refused(), 3);
    // Reads wait in memory.
    let mut read = log.begin(received("/read")).await.expect("room");
    read.allow(None, None);
    drop(read);
    assert_eq!(log.stats().refused(), 3);
    repair();
    eventually_ok(&log, 2).await;
    let refused = log.stats().refused();
    let room = Arc::clone(&log.stats().requests);
    let _all = room
        .acquire_many(u32::try_from(room.available_permits()).expect("few"))
        .await;
    tokio::time::pause();
    assert!(log.begin(received("/full")).await.is_err());
    assert_eq!(log.stats().refused(), refused + 1);
}

#[tokio::test]
async fn records_that_waited_are_written_at_the_end_however_short_ago_the_last_failure_was() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let repair = broken(&scratch.spool());
    assert!(deny(&log, 1).await.is_err(), "it has just failed");
    repair();
    log.close(Duration::from_secs(5)).await;
    drop(log);
    drop(retry_open(&scratch.spool()));
    let uris: Vec<_> = lines(&scratch.spool())
        .iter()
        .map(|line| line["requestURI"].clone())
        .collect();
    assert_eq!(uris, ["/n/1"]);
    assert_eq!(verify(&scratch.spool()).breaks, []);
}

#[tokio::test]
async fn a_response_that_goes_on_is_noted_once_there_is_room() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let record = log.begin(received("/long")).await.expect("room");
    let requests = Arc::clone(&log.stats().requests);
    let all = u32::try_from(requests.available_permits()).expect("a number");
    let full = requests.acquire_many_owned(all).await.expect("all of the room");
    assert!(!record.note_started(), "it is noted later");
    drop(full);
    assert!(record.note_started());
    log.flush().await.expect("flushed");
    let stages: Vec<_> = lines(&scratch.spool())
        .iter()
        .map(|line| line["stage"].clone())
        .collect();
    assert_eq!(stages, ["ResponseStarted"]);
    record.finish(EndReason::Completed);
}

/// As a rotation leaves it that made the segment and then failed, where the clock is set back.
#[tokio::test]
async fn a_stray_segment_under_the_next_name_jams_no_rotation() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let (seconds, clock) = set_clock();
    let config = AuditConfig {
        max_segment_size: 1_000,
        ..config(&spool)
    };
    let log = AuditLog::start(&config, None, false, clock).expect("opens");
    deny(&log, 0).await.expect("on disk");
    deny(&log, 1).await.expect("on disk");
    let last = segments(&spool).expect("the spool").pop().expect("one").id;
    seconds.fetch_sub(60, Ordering::Relaxed);
    let left_over = SegmentId::after(Some(last), last.begun());
    fs::write(left_over.path(&spool), "").expect("a left-over segment");
    for number in 2..10 {
        deny(&log, number).await.expect("on disk");
    }
    assert!(log.stats().spool().rotations() > 1, "{:?}", files(&spool));
    assert_eq!(numbers(&stored_text(&spool)), (0..10).collect::<Vec<_>>());
    assert_eq!(verify(&spool).breaks, []);
}

#[tokio::test]
async fn a_request_that_waited_and_was_approved_says_no_more_why_it_waited() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let mut record = log.begin(received("/held")).await.expect("room");
    record
        .hold(Some("guard".into()), Some("ask".into()), "a person decides")
        .await
        .expect("on disk");
    record.allow(Some("grant".into()), Some("0".into()));
    record.response(200, None, None);
    record.finish(EndReason::Completed);
    log.flush().await.expect("flushed");
    let lines = lines(&scratch.spool());
    let decisions: Vec<_> = lines
        .iter()
        .map(|line| (&line["decision"]["outcome"], &line["decision"]["message"]))
        .collect();
    assert_eq!(decisions.len(), 2);
    assert_eq!(decisions[0], (&"pending".into(), &"a person decides".into()));
    assert_eq!(decisions[1], (&"allow".into(), &Value::Null));
}

/// The spool of the child whose files may not grow; without it [`limited`] is a test that does nothing.
const LIMITED: &str = "PICKET_TEST_AUDIT_LIMITED";

/// Runs where a file may have 4 KB or 8 KB: denies until that is refused, and reports each denial that is on disk.
#[tokio::test]
async fn limited() {
    let Some(spool) = std::env::var_os(LIMITED) else {
        return;
    };
    let log = open(Path::new(&spool));
    for number in 0..100 {
        match deny(&log, number).await {
            Ok(()) => println!("acknowledged {number}"),
            Err(error) => {
                println!("refused {error}");
                println!("failing {:?}", log.stats().failure());
                println!("flushed {:?}", log.flush().await.is_ok());
                // There is room again: the next line goes on where the last whole one ended.
                let resource = nix::sys::resource::Resource::RLIMIT_FSIZE;
                let (_, most) = nix::sys::resource::getrlimit(resource).expect("a limit");
                nix::sys::resource::setrlimit(resource, most, most).expect("no limit");
                eventually_ok(&log, number).await;
                println!("acknowledged {number}");
                break;
            }
        }
    }
    std::process::exit(0);
}

#[test]
fn a_line_that_the_disk_took_in_part_is_taken_back() {
    let scratch = Scratch::new();
    let test = std::env::current_exe().expect("this test");
    // The shell sets the limit, and has the signal ignored that would end the child at it.
    let done = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 8; exec \"$0\" \"$@\""])
        .arg(test)
        .args(["--exact", "audit::tests::failing::limited", "--nocapture"])
        .env(LIMITED, scratch.spool())
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        said.contains("refused audit: the record cannot be written: File too large"),
        "{said}"
    );
    assert!(
        said.contains("failing Some(\"") && said.contains("flushed false"),
        "{said}"
    );
    let acknowledged = said.matches("acknowledged ").count();
    assert!(acknowledged > 2, "{said}");
    assert_eq!(
        numbers(&stored_text(&scratch.spool())),
        (0..acknowledged).collect::<Vec<_>>()
    );
    let report = verify(&scratch.spool());
    assert_eq!((report.torn, report.breaks), (0, Vec::new()));
    assert!(
        stored_text(&scratch.spool()).ends_with('\n'),
        "a piece of a line is left"
    );
}
