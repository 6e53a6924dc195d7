//! The log from its outside: what is in the spool, when, and what happens when it cannot be.

mod failing;
mod irregular;
mod kill;
mod rotation;
mod shares;
mod sinks;

use std::fs;
use std::io::{BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::spool::chain::{Report, Verifier, is_record};
use super::spool::segment::{segments, stored_text};
use super::*;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("scratch folder"))
    }

    fn spool(&self) -> PathBuf {
        self.0.path().join("spool")
    }
}

pub(super) fn config(spool: &Path) -> AuditConfig {
    AuditConfig {
        directory: spool.to_owned(),
        node: "node-a".into(),
        ..AuditConfig::default()
    }
}

fn open(spool: &Path) -> AuditLog {
    AuditLog::open(&config(spool), None).expect("opens")
}

pub(super) fn received(uri: &str) -> Received {
    Received {
        uri: uri.into(),
        verb: "get".into(),
        ..Received::default()
    }
}

/// The files of a spool, the oldest first.
fn files(spool: &Path) -> Vec<PathBuf> {
    let segments = segments(spool).expect("the spool");
    segments.iter().map(|segment| segment.id.path(spool)).collect()
}

pub(super) fn lines(spool: &Path) -> Vec<Value> {
    let text = stored_text(spool);
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// One report of files that were written after each other.
fn verify_files(files: &[PathBuf]) -> Report {
    let mut verifier = Verifier::default();
    let mut all = Report::default();
    for file in files {
        let report = verifier
            .file(BufReader::new(fs::File::open(file).expect("a segment")))
            .expect("readable");
        all.good += report.good;
        all.chains += report.chains;
        all.first_seq = all.first_seq.or(report.first_seq);
        all.torn += report.torn;
        all.breaks.extend(report.breaks);
    }
    all
}

fn verify(spool: &Path) -> Report {
    verify_files(&files(spool))
}

/// Writes `count` allowed reads.
async fn reads(log: &AuditLog, count: usize) {
    for number in 0..count {
        let mut record = log
            .begin(received(&format!("/api/v1/pods?limit={number}")))
            .await
            .expect("room");
        record.allow(None, None);
        record.response(200, None, None);
        record.finish(EndReason::Completed);
    }
    log.flush().await.expect("flushed");
}

#[tokio::test]
async fn a_line_is_a_kubernetes_audit_event_with_more() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let caller = Arc::new(Caller {
        pod: Some(PodRef {
            namespace: "agents".into(),
            name: "reader-0".into(),
            uid: "u-1".into(),
        }),
        container: Some("main".into()),
        service_account: Some("reader".into()),
        process: Some(ProcessRef {
            pid: 42,
            exe: Some("/bin/kubectl".into()),
            comm: "kubectl".into(),
            uid: 1000,
            escaped_to: None,
        }),
    });
    let mut record = log
        .begin(Received {
            uri: "/api/v1/namespaces/prod/pods/web/exec?command=login&command=--token%3Dabc".into(),
            verb: "get".into(),
            source: Some("10.1.0.7".parse().expect("address")),
            user_agent: Some("kubectl/v1.36".into()),
            trace: Trace {
                kubectl_command: Some("kubectl exec".into()),
                ..Trace::default()
            },
            caller: Some(caller),
            ..Received::default()
        })
        .await
        .expect("room");
    let id = record.id().to_string();
    record.user(Arc::new(User::service_account("agents", "reader")));
    record.identity("reader", "pod");
    record.impersonated(Arc::new(User {
        username: "picket:reader".into(),
        ..User::default()
    }));
    record.target(
        "create",
        Some(ObjectRef {
            resource: "pods".into(),
            namespace: Some("prod".into()),
            name: Some("web".into()),
            api_version: "v1".into(),
            subresource: Some("exec".into()),
            ..ObjectRef::default()
        }),
    );
    let finding = Finding {
        policy: "p".into(),
        rule: "r".into(),
        message: "soon".into(),
    };
    record.findings(vec![], vec![finding]);
    record.allow(Some("grant".into()), Some("0".into()));
    let command = ["login", "--token=abc", "a\u{202e}b"].map(str::to_owned);
    record.exec(Some("main"), &command, true, false);
    record.policy_took(Duration::from_micros(4));
    record.upstream_took(Duration::from_micros(900));
    record.credential("clientCertificate", Some("serial-7".into()));
    record.session(Some("s-1".into()), "v5.channel.k8s.io");
    record.commit_before_effect().await.expect("on disk");
    assert_eq!(lines(&scratch.spool()).len(), 1, "on disk before the effect");
    record.response(101, None, None);
    record.started().await.expect("room");
    record.session_bytes(10, 2000);
    record.finish(EndReason::ClientClosed);
    log.flush().await.expect("flushed");

    let lines = lines(&scratch.spool());
    let stages: Vec<_> = lines
        .iter()
        .map(|line| line["stage"].as_str().expect("stage"))
        .collect();
    assert_eq!(stages, ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    assert!(lines.iter().all(|line| line["auditID"] == *id));
    assert_eq!(lines[0]["responseStatus"], Value::Null);
    let end = &lines[2];
    for (at, want) in [
        ("/kind", "Event"),
        ("/apiVersion", "audit.k8s.io/v1"),
        ("/level", "Metadata"),
        // The digest of what the URI no longer holds: `command=login&command=--token%3Dabc`.
        (
            "/query/sha256",
            "32835a7eb6576fa02d018df6592d478d9ac468a0510df699f5c8c0f453b49190",
        ),
        ("/exec/command/0", "login"),
        ("/exec/command/2", "a\u{202e}b"),
        ("/exec/container", "main"),
        ("/verb", "create"),
        ("/user/username", "system:serviceaccount:agents:reader"),
        ("/impersonatedUser/username", "picket:reader"),
        ("/sourceIPs/0", "10.1.0.7"),
        ("/userAgent", "kubectl/v1.36"),
        ("/trace/kubectlCommand", "kubectl exec"),
        ("/objectRef/subresource", "exec"),
        ("/objectRef/apiVersion", "v1"),
        ("/agent/identity", "reader"),
        ("/agent/pod/uid", "u-1"),
        ("/agent/serviceAccount", "reader"),
        ("/agent/node", "node-a"),
        ("/agent/process/exe", "/bin/kubectl"),
        ("/agent/attestation", "pod"),
        ("/decision/outcome", "allow"),
        ("/decision/policy", "grant"),
        ("/decision/wouldDeny/0/message", "soon"),
        ("/credential/id", "serial-7"),
        ("/session/protocol", "v5.channel.k8s.io"),
        ("/session/endReason", "clientClosed"),
    ] {
        assert_eq!(
            end.pointer(at).and_then(Value::as_str),
            Some(want),
            "{at} of {end}"
        );
    }
    for (at, want) in [
        ("/responseStatus/code", 101),
        ("/query/bytes", 35),
        ("/exec/commandBytes", 21),
        ("/agent/process/pid", 42),
        ("/decision/latencyMicros/policy", 4),
        ("/decision/latencyMicros/upstream", 900),
        ("/session/bytes/toClient", 2000),
        ("/integrity/seq", 3),
    ] {
        assert_eq!(
            end.pointer(at).and_then(Value::as_u64),
            Some(want),
            "{at} of {end}"
        );
    }
    let uri = end["requestURI"].as_str().expect("a URI");
    let command = end["exec"]["command"][1].as_str().expect("an argument");
    let mark = uri
        .strip_prefix("/api/v1/namespaces/prod/pods/web/exec?command=login&command=--token%3D")
        .expect("the rest of the URI");
    assert!(mark.starts_with("***3:") && mark.ends_with("***"), "{mark}");
    assert_eq!(command, format!("--token={mark}"), "one secret has one mark");
    let stored = stored_text(&scratch.spool());
    assert!(
        !stored.contains('\u{202e}') && stored.contains("a\\u202eb"),
        "what cannot be seen is escaped where it is stored"
    );
    let time = end["stageTimestamp"].as_str().expect("time");
    assert_eq!((time.len(), &time[19..20], &time[26..]), (27, ".", "Z"), "{time}");
    assert!(
        end.get("kernel").is_none() && end.pointer("/objectRef/apiGroup").is_none(),
        "absent facts are left out"
    );
    for (path, mode) in [
        (scratch.spool(), 0o700),
        (files(&scratch.spool())[0].clone(), 0o600),
    ] {
        assert_eq!(
            fs::metadata(path).expect("there").permissions().mode() & 0o777,
            mode
        );
    }
}

#[tokio::test]
async fn the_guard_writes_whatever_happens() {
    let scratch = Scratch::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_observer = Arc::clone(&seen);
    let observer: Observer = Arc::new(move |summary| {
        seen_by_observer.lock().expect("lock").push((
            summary.outcome,
            summary.reason,
            summary.verb.to_owned(),
        ));
    });
    let log = AuditLog::open(&config(&scratch.spool()), Some(observer)).expect("opens");

    drop(log.begin(received("/dropped")).await.expect("room"));

    let mut cancelled = log.begin(received("/cancelled")).await.expect("room");
    cancelled.allow(None, None);
    let task = tokio::spawn(async move {
        let _held = cancelled;
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.expect_err("cancelled").is_cancelled());

    let mut sent = log.begin(received("/sent")).await.expect("room");
    sent.allow(None, None);
    sent.sent();
    let mut empty = sent.take();
    std::mem::swap(&mut sent, &mut empty);
    drop(empty);
    drop(sent);

    let panicking = log.begin(received("/panic")).await.expect("room");
    let task = tokio::spawn(async move {
        let _held = panicking;
        panic!("a bug");
    });
    assert!(task.await.expect_err("panicked").is_panic());

    log.flush().await.expect("flushed");
    let lines = lines(&scratch.spool());
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            ["/requestURI", "/stage", "/decision/outcome", "/decision/reason"]
                .map(|at| line.pointer(at).and_then(Value::as_str).unwrap_or(""))
        })
        .collect();
    assert_eq!(
        told,
        [
            ["/dropped", "ResponseComplete", "error", "aborted"],
            ["/cancelled", "ResponseComplete", "error", "aborted"],
            ["/sent", "ResponseComplete", "unknown", "unanswered"],
            ["/panic", "Panic", "error", "panic"],
        ]
    );
    assert_eq!(seen.lock().expect("lock").len(), 4);
    assert_eq!(log.stats().in_flight(), 0, "all room is given back");
}

#[tokio::test]
async fn a_denial_is_one_line_and_on_disk_first() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let mut record = log.begin(received("/api/v1/namespaces/x")).await.expect("room");
    record.target("delete", None);
    record.deny(
        "policy",
        Some("guard".into()),
        Some("no-delete".into()),
        "namespaces stay",
    );
    record.response(403, Some("Forbidden".into()), Some("agent may not".into()));
    record.commit_before_effect().await.expect("on disk");
    let before = lines(&scratch.spool());
    assert_eq!(before.len(), 1);
    assert_eq!(before[0]["stage"], "ResponseComplete");
    assert_eq!(before[0]["responseStatus"]["status"], "Failure");
    assert_eq!(before[0]["decision"]["rule"], "no-delete");
    record.finish(EndReason::Completed);
    log.flush().await.expect("flushed");
    assert_eq!(lines(&scratch.spool()).len(), 1, "the end adds no second line");
}

#[tokio::test]
async fn a_held_record_is_on_disk_first_and_stays_open_for_the_decision() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let mut record = log.begin(received("/api/v1/secrets")).await.expect("room");
    let id = record.id().to_string();
    record
        .hold(Some("guard".into()), Some("ask".into()), "A person looks.")
        .await
        .expect("held");
    let held = lines(&scratch.spool());
    assert_eq!(held.len(), 1, "on disk before anybody decides");
    let told = |line: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let decision = &line["decision"];
        [
            text(&line["auditID"]),
            text(&line["stage"]),
            text(&decision["outcome"]),
            text(&decision["rule"]),
        ]
    };
    assert_eq!(told(&held[0]), [id.as_str(), "RequestReceived", "pending", "ask"]);

    record.deny("no_approver", Some("guard".into()), Some("ask".into()), "Nobody.");
    record.commit_before_effect().await.expect("committed");
    let both = lines(&scratch.spool());
    assert_eq!(both.len(), 2);
    assert_eq!(told(&both[1]), [id.as_str(), "ResponseComplete", "deny", "ask"]);

    // Whoever waits and goes away ends a record that is still pending.
    let mut record = log.begin(received("/api/v1/secrets")).await.expect("room");
    record.hold(None, None, "").await.expect("held");
    record.finish(EndReason::ClientClosed);
    log.flush().await.expect("flushed");
    let all = lines(&scratch.spool());
    assert_eq!(all.len(), 4);
    assert_eq!(told(&all[3])[1..3], ["ResponseComplete", "pending"]);
    assert_eq!(all[3]["auditID"], all[2]["auditID"]);
}

#[tokio::test]
async fn refused_connects_are_events_too() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let kernel = KernelFacts {
        hook: "connect4".into(),
        family: "ipv4".into(),
        protocol: "tcp".into(),
        address: Some("10.0.0.5:10250".parse().expect("address")),
        verdict: "deny".into(),
    };
    log.connection(Connection {
        identity: None,
        caller: None,
        source: "10.1.0.7".parse().ok(),
        kernel,
        outcome: Outcome::Deny,
        reason: "denied_endpoint",
        message: "a kubelet".into(),
    })
    .await
    .expect("queued");
    log.flush().await.expect("flushed");
    let line = &lines(&scratch.spool())[0];
    assert_eq!(line["verb"], "connect");
    assert_eq!(line["requestURI"], "tcp://10.0.0.5:10250");
    assert_eq!(line["kernel"]["address"], "10.0.0.5:10250");
    assert_eq!(line["sourceIPs"], Value::from(vec!["10.1.0.7"]));
    assert_eq!(line["decision"]["outcome"], "deny");
    assert!(line["decision"].get("latencyMicros").is_none());
}

#[tokio::test]
async fn reads_are_kept_until_the_file_takes_them_again() {
    let scratch = Scratch::new();
    let (away, spool) = (scratch.0.path().join("away"), scratch.spool());
    let log = open(&spool);
    reads(&log, 2).await;
    // The folder vanishes and a file stands in its place: nothing can be opened there.
    fs::rename(&spool, &away).expect("moves");
    fs::write(&spool, "").expect("in the way");
    let mut read = log.begin(received("/kept")).await.expect("room");
    read.allow(None, None);
    read.response(200, None, None);
    read.finish(EndReason::Completed);
    let mut write = log.begin(received("/refused")).await.expect("room");
    assert!(write.commit_before_effect().await.is_err());
    write.error("audit", "the audit log cannot be written");
    write.response(503, None, None);
    drop(write);
    fs::remove_file(&spool).expect("clears the way");
    tokio::time::timeout(Duration::from_secs(5), async {
        while log.flush().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("written again");
    let uris: Vec<_> = lines(&spool)
        .iter()
        .map(|line| line["requestURI"].as_str().expect("uri").to_owned())
        .collect();
    assert_eq!(uris, ["/kept", "/refused"]);
    assert!(log.stats().failure().is_none());
    let both = verify_files(&[files(&away), files(&spool)].concat());
    assert_eq!((both.good, both.chains, both.breaks), (4, 1, Vec::new()));
}

#[tokio::test]
async fn any_change_breaks_the_chain() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    reads(&log, 5).await;
    let good = verify(&scratch.spool());
    assert_eq!(
        (good.good, good.chains, good.first_seq, good.torn),
        (5, 1, Some(1), 0)
    );
    assert_eq!(good.breaks, []);
    let text = stored_text(&scratch.spool());
    let whole: Vec<&str> = text.lines().collect();
    let tampered = |lines: Vec<String>| {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Verifier::default()
            .file(text.as_bytes())
            .expect("readable")
            .breaks
    };
    let copy = || whole.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();

    let mut changed = copy();
    changed[2] = changed[2].replace("limit=2", "limit=9");
    assert!(
        tampered(changed)[0]
            .to_string()
            .starts_with("line 3: the line was changed")
    );

    let mut removed = copy();
    removed.remove(2);
    assert_eq!(tampered(removed)[0].line, 3);

    let mut swapped = copy();
    swapped.swap(1, 2);
    assert!(!tampered(swapped).is_empty());

    let mut damaged = copy();
    damaged[2].truncate(40);
    assert_eq!(
        tampered(damaged)[0].line,
        4,
        "a damaged line shows at the next one"
    );

    // What reads as a record and is none the agent stored is a break wherever it stands, and hides nothing.
    let copied = &whole[2][..whole[2].find(",\"integrity\"").expect("there")];
    for put in [
        format!("{copied}}}"),
        format!(" {copied}}}\r"),
        format!("{copied},\"integrity\":{{}}}}"),
        format!("{} ", whole[2]),
        format!("{}{copied}}}", whole[2]),
        format!("{copied}}}{}", whole[2]),
        format!("{copied}}} {{\"torn"),
        whole[2].replace("\"seq\":3", "\"seq\":\"3\""),
        whole[2][10..].to_owned(),
    ] {
        for at in [0, 2, 5] {
            let mut inserted = copy();
            inserted.insert(at, put.clone());
            let breaks = tampered(inserted);
            assert_eq!((breaks.len(), breaks[0].line), (1, at as u64 + 1), "{put}");
            assert!(breaks[0].reason.starts_with("it belongs to no chain"), "{put}");
        }
        assert!(!is_record(put.as_bytes()), "{put}");
    }
    assert!(whole.iter().all(|line| is_record(line.as_bytes())));

    // Pieces alone are no log.
    for (text, holds) in [
        ("", true),
        ("garbage\n", false),
        ("{\"kind\":\"Event\",\"api\n", false),
        ("\u{0}\u{0}\n\u{0}", false),
    ] {
        let report = Verifier::default().file(text.as_bytes()).expect("readable");
        assert_eq!(report.breaks, []);
        assert_eq!(report.is_whole(), holds, "{text:?}");
    }

    // Rehashing a changed line does not help: the next one holds its hash.
    let mut forged = copy();
    let body = forged[2].replace("limit=2", "limit=9");
    let body = &body[..body.len() - 76];
    let digest = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    forged[2] = format!("{body},\"hash\":\"{hex}\"}}}}");
    let breaks = tampered(forged);
    assert_eq!((breaks.len(), breaks[0].line), (1, 4));
}

#[tokio::test]
async fn a_restart_binds_its_chain_to_the_last_whole_line() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    reads(&log, 3).await;
    drop(log);
    // What kill -9 in the middle of a write leaves.
    let mut file = retry_open(&scratch.spool());
    file.write_all(br#"{"kind":"Event","api"#).expect("torn");
    drop(file);
    let log = open(&scratch.spool());
    reads(&log, 2).await;
    let report = verify(&scratch.spool());
    assert_eq!((report.good, report.chains, report.torn), (5, 2, 1));
    assert_eq!(report.breaks, []);
    assert!(report.is_whole());
    // Lines cut off before the restart show: the second chain is bound to what was there.
    let text = stored_text(&scratch.spool());
    let without: String = text
        .lines()
        .enumerate()
        .filter(|(at, _)| *at != 2)
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    let report = Verifier::default().file(without.as_bytes()).expect("readable");
    assert!(report.breaks[0].reason.contains("not bound"), "{report:?}");
}

#[tokio::test]
async fn a_restart_binds_its_chain_to_a_line_that_lacks_its_newline_alone() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    reads(&log, 3).await;
    drop(log);
    let file = retry_open(&scratch.spool());
    let length = file.metadata().expect("the log").len();
    file.set_len(length - 1).expect("cut");
    drop(file);
    let log = open(&scratch.spool());
    reads(&log, 2).await;
    let report = verify(&scratch.spool());
    assert_eq!((report.good, report.chains, report.torn), (5, 2, 0));
    assert_eq!(report.breaks, []);
}

/// The last segment, to append to it, once the writer has let go of the spool.
fn retry_open(spool: &Path) -> fs::File {
    let directory = fs::File::open(spool).expect("the spool");
    for _ in 0..2000 {
        if directory.try_lock().is_ok() {
            let last = files(spool).pop().expect("a segment");
            return fs::OpenOptions::new()
                .append(true)
                .open(last)
                .expect("the segment");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the writer keeps the spool after the last handle is gone");
}

#[tokio::test]
async fn two_writers_do_not_share_a_spool() {
    let scratch = Scratch::new();
    let _log = open(&scratch.spool());
    assert!(matches!(
        AuditLog::open(&config(&scratch.spool()), None),
        Err(AuditError::Locked(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_take_turns_at_a_shared_spool_and_its_chains_are_whole() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    // Both end segments, at any moment.
    let config = AuditConfig {
        max_segment_size: 20_000,
        ..config(&spool)
    };
    let old = AuditLog::open(&config, None).expect("opens");
    reads(&old, 3).await;
    old.share(true).await.expect("shares");
    let new = AuditLog::join(&config, None).expect("joins");
    let turns = |log: AuditLog| {
        tokio::spawn(async move {
            for _ in 0..40 {
                reads(&log, 5).await;
                let mut denied = log.begin(received("/api/v1/secrets")).await.expect("room");
                denied.deny("policy", None, None, "no");
                denied.commit_before_effect().await.expect("on disk");
                drop(denied);
            }
            log.flush().await.expect("written");
        })
    };
    let (one, other) = (turns(old.clone()), turns(new.clone()));
    one.await.expect("writes");
    other.await.expect("writes");
    for log in [&old, &new] {
        assert!(log.stats().spool().rotations() > 0, "each ends segments");
    }

    drop(old);
    new.share(false).await.expect("is alone");
    reads(&new, 2).await;
    new.flush().await.expect("written");
    assert_eq!(lines(&spool).len(), 3 + 2 * 40 * 6 + 2);
    let report = verify(&spool);
    assert_eq!((report.breaks, report.torn), (Vec::new(), 0));
    assert!(report.chains >= 2, "each begins a chain of its own");
    // Alone again, it holds the spool for good.
    let wait = std::time::Instant::now();
    while AuditLog::open(&config, None).is_ok() {
        assert!(
            wait.elapsed() < Duration::from_secs(5),
            "the spool is still shared"
        );
        new.share(false).await.expect("is alone");
    }
}

#[tokio::test]
async fn a_segment_that_was_taken_away_is_left_and_the_chain_goes_on() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = open(&spool);
    reads(&log, 3).await;
    let old = scratch.0.path().join("old.jsonl");
    fs::rename(&files(&spool)[0], &old).expect("is taken away");
    reads(&log, 2).await;
    let alone = verify(&spool);
    assert_eq!(
        (alone.good, alone.first_seq, alone.chains, alone.breaks.len()),
        (2, Some(4), 0, 0)
    );
    let both = verify_files(&[vec![old], files(&spool)].concat());
    assert_eq!((both.good, both.breaks.len()), (5, 0));
}

#[tokio::test]
async fn lines_that_others_put_there_or_took_away_break_the_chain() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = open(&spool);
    reads(&log, 3).await;
    // A record that was stored once, put behind the last one.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&files(&spool)[0])
        .expect("opens");
    let first = stored_text(&spool).lines().next().expect("a line").to_owned();
    file.write_all(format!("{first}\n").as_bytes()).expect("writes");
    reads(&log, 1).await;
    assert_eq!(
        verify(&spool).breaks.iter().map(|at| at.line).collect::<Vec<_>>(),
        [4, 5]
    );
    // The last ones are cut off.
    let whole = stored_text(&spool);
    let kept: usize = whole.split_inclusive('\n').take(2).map(str::len).sum();
    file.set_len(kept as u64).expect("cuts");
    reads(&log, 1).await;
    assert_eq!(
        verify(&spool).breaks.iter().map(|at| at.line).collect::<Vec<_>>(),
        [3]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commits_share_syncs() {
    let scratch = Scratch::new();
    let log = open(&scratch.spool());
    let tasks: Vec<_> = (0..400)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut record = log.begin(received("/api/v1/pods")).await.expect("room");
                record.allow(None, None);
                record.commit_before_effect().await.expect("on disk");
                record.response(200, None, None);
                record.finish(EndReason::Completed);
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("done");
    }
    log.flush().await.expect("flushed");
    let report = verify(&scratch.spool());
    assert_eq!((report.good, report.breaks.len()), (800, 0));
    assert!(
        log.stats().syncs() < 400,
        "{} syncs for 400 commits",
        log.stats().syncs()
    );
    assert_eq!(log.stats().in_flight(), 0);
}

#[test]
fn a_log_needs_somewhere_to_go() {
    let missing = AuditLog::open(&config(Path::new("/nonexistent/audit")), None);
    let error = missing.err().expect("no directory").to_string();
    assert!(
        error.contains("/nonexistent/audit") && error.contains("there is no directory /nonexistent: make it"),
        "{error}"
    );
    let scratch = Scratch::new();
    fs::write(scratch.spool(), "").expect("in the way");
    let error = AuditLog::open(&config(&scratch.spool()), None)
        .err()
        .expect("a file");
    assert!(matches!(error, AuditError::Open { .. }), "{error}");
    fs::remove_file(scratch.spool()).expect("removes");
    fs::create_dir(scratch.spool()).expect("spool");
    fs::set_permissions(scratch.spool(), fs::Permissions::from_mode(0o777)).expect("opens up");
    let error = AuditLog::open(&config(&scratch.spool()), None)
        .err()
        .expect("open to all")
        .to_string();
    assert!(error.contains("others may write to it"), "{error}");
}
