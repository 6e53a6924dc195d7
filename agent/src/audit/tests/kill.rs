//! kill -9 at any moment: a child writes and acknowledges, and is killed again and again.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::time::{Instant, SystemTime};

use super::rotation::{deny, numbers};
use super::*;

/// The child's spool; without it [`writer`] is a test that does nothing.
const SPOOL: &str = "PICKET_TEST_AUDIT_SPOOL";
/// Its `max_total_size`.
const TOTAL: &str = "PICKET_TEST_AUDIT_TOTAL";
/// Its first number.
const FIRST: &str = "PICKET_TEST_AUDIT_FIRST";

fn killed(spool: &Path, total: u64) -> AuditConfig {
    AuditConfig {
        max_segment_size: 4_000,
        max_total_size: total,
        sinks: vec![SinkConfig {
            name: "copy".into(),
            target: SinkTarget::File { path: copy_of(spool) },
        }],
        ..config(spool)
    }
}

fn copy_of(spool: &Path) -> PathBuf {
    spool.with_file_name("copy.jsonl")
}

/// Is killed: denies requests, four at a time, and reports each that is on disk. Reads stand between them.
#[tokio::test]
async fn writer() {
    let Some(spool) = std::env::var_os(SPOOL) else {
        return;
    };
    let number = |name| std::env::var(name).expect("set").parse().expect("a number");
    let log = AuditLog::open(&killed(Path::new(&spool), number(TOTAL)), None).expect("opens");
    let first = usize::try_from(number(FIRST)).expect("a number");
    for number in (first..).step_by(4) {
        let four = (number..number + 4).map(|number| {
            let log = log.clone();
            async move {
                while deny(&log, number).await.is_err() {
                    // The spool is full until the sink has read on.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                println!("acknowledged {number}");
            }
        });
        futures::future::join_all(four).await;
        let mut read = log.begin(received("/read")).await.expect("room");
        read.allow(None, None);
        read.response(200, None, None);
        read.finish(EndReason::Completed);
    }
}

fn start(spool: &Path, total: u64, first: usize) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "audit::tests::kill::writer", "--nocapture"])
        .envs([
            (SPOOL, spool.as_os_str().to_owned()),
            (TOTAL, total.to_string().into()),
            (FIRST, first.to_string().into()),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// Kills writers at random moments; gives the numbers that they said to be on disk.
fn kill_writers(spool: &Path, total: u64, times: usize) -> Vec<usize> {
    let mut random = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a clock")
        .as_nanos() as u64;
    println!("seed {random}");
    let mut acknowledged = Vec::new();
    for round in 0..times {
        let mut child = start(spool, total, round * 1_000_000);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // From the first word on, since a start takes most of the time.
        let (mut kill_at, pause) = (None, Duration::from_micros(random >> 33 & 0x1_ffff));
        for line in lines {
            let Ok(line) = line else { break };
            // Between the child's words there may be the test harness's.
            let number = line
                .rsplit_once("acknowledged ")
                .and_then(|(_, number)| number.parse::<usize>().ok());
            acknowledged.extend(number);
            let kill_at = kill_at.get_or_insert_with(|| Instant::now() + pause);
            if number.is_some() && Instant::now() >= *kill_at {
                child.kill().expect("kills");
            }
        }
        child.wait().expect("ends");
    }
    acknowledged
}

/// Opens the log as the next agent would, and waits until its sink has everything.
async fn recover(spool: &Path, total: u64) {
    let log = AuditLog::open(&killed(spool, total), None).expect("opens");
    log.close(Duration::from_secs(20)).await;
    drop(log);
    drop(retry_open(spool));
}

fn whole_lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| is_record(line.as_bytes())).collect()
}

#[tokio::test]
async fn no_acknowledged_record_is_lost_or_doubled_by_kill() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let acknowledged = kill_writers(&spool, 1 << 30, 15);
    assert!(acknowledged.len() > 15, "{acknowledged:?}");
    recover(&spool, 1 << 30).await;
    let report = verify(&spool);
    assert_eq!(report.breaks, []);
    assert!(files(&spool).len() > 3, "segments were ended");
    let stored = stored_text(&spool);
    let mut found = numbers(&stored);
    for number in &acknowledged {
        assert!(found.contains(number), "{number} is lost");
    }
    found.sort_unstable();
    assert!(
        found.is_sorted_by(|one, other| one < other),
        "a record is doubled"
    );
    let copy = fs::read_to_string(copy_of(&spool)).expect("the copy");
    assert!(
        whole_lines(&copy) == whole_lines(&stored),
        "the copy has other records"
    );
}

#[tokio::test]
async fn a_sink_gets_every_acknowledged_record_though_segments_go_and_agents_are_killed() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let total = 20_000;
    let acknowledged = kill_writers(&spool, total, 12);
    recover(&spool, total).await;
    assert_eq!(verify(&spool).breaks, []);
    let copy = fs::read_to_string(copy_of(&spool)).expect("the copy");
    let found = numbers(&copy);
    for number in &acknowledged {
        assert!(found.contains(number), "{number} never came");
    }
    // The copy is one whole chain, though the spool's beginning has gone.
    assert_eq!(verify_files(&[copy_of(&spool)]).breaks, []);
    assert!(verify(&spool).first_seq > Some(1) || !stored_text(&spool).contains("\"/n/0\""));
}
