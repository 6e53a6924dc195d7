//! What is named like a segment and is no regular file: the agent neither waits for it, nor writes into it.

use std::os::unix::net::UnixListener;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};

use super::super::spool::segment::{Readable, list, read};
use super::rotation::{deny, eventually, numbers};
use super::*;

/// A name that stands before all segments, or behind.
fn name(year: u32) -> String {
    format!("audit-{year}0101T000000.000000Z.jsonl")
}

type Make = fn(&Path);

/// Ways to make something else under a segment's name, each with what it is called. A device takes root.
fn kinds() -> Vec<(&'static str, Make)> {
    let mut kinds: Vec<(&'static str, Make)> = vec![
        ("a named pipe", |path| {
            mkfifo(path, Mode::S_IRWXU).expect("a pipe")
        }),
        ("a directory", |path| fs::create_dir(path).expect("a directory")),
        ("a socket", |path| {
            drop(UnixListener::bind(path).expect("a socket"))
        }),
        ("a symbolic link", |path| {
            symlink("/dev/zero", path).expect("a link")
        }),
    ];
    if geteuid().is_root() {
        kinds.push(("a device", |path| {
            mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7)).expect("/dev/full");
        }));
    }
    kinds
}

#[tokio::test]
async fn what_is_named_like_a_segment_stops_neither_a_start_nor_a_record() {
    for (kind, make) in kinds() {
        for year in [2000, 2099] {
            let scratch = Scratch::new();
            let (spool, copy) = (scratch.spool(), scratch.0.path().join("copy.jsonl"));
            let config = AuditConfig {
                max_segment_size: 2_000,
                sinks: vec![sinks::to_file("copy", copy.clone())],
                ..config(&spool)
            };
            let log = AuditLog::open(&config, None).expect("opens");
            deny(&log, 0).await.expect("on disk");
            make(&spool.join(name(year)));
            deny(&log, 1).await.expect("on disk");
            log.close(Duration::from_secs(5)).await;
            drop(log);
            drop(retry_open(&spool));
            let log = AuditLog::open(&config, None).unwrap_or_else(|error| panic!("{kind}: {error}"));
            for number in 2..9 {
                deny(&log, number).await.expect("on disk");
            }
            let all: Vec<usize> = (0..9).collect();
            let delivered = || numbers(&fs::read_to_string(&copy).unwrap_or_default()) == all;
            eventually(kind, delivered).await;
            assert_eq!(numbers(&stored_text(&spool)), all, "{kind} of {year}");
            assert_eq!(verify(&spool).breaks, [], "{kind} of {year}");
            assert_eq!(log.stats().sinks()[0].gaps(), 0, "{kind} of {year}");
            let irregular = list(&spool).expect("the spool").irregular;
            let found: Vec<_> = irregular
                .iter()
                .map(|entry| (entry.id.to_string(), entry.kind))
                .collect();
            assert_eq!(found, [(name(year), kind)]);
        }
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_the_current_segment_leads_no_record_elsewhere() {
    let scratch = Scratch::new();
    let spool = scratch.spool();
    let log = open(&spool);
    deny(&log, 0).await.expect("on disk");
    let current = files(&spool).remove(0);
    let victim = scratch.0.path().join("victim");
    fs::rename(&current, &victim).expect("moves");
    symlink(&victim, &current).expect("a link");
    let before = fs::read(&victim).expect("there");
    // The link leads to the very file that the writer holds.
    deny(&log, 1).await.expect("on disk");
    assert!(
        fs::read(&victim).expect("there") == before,
        "written through the link"
    );
    assert_eq!(numbers(&stored_text(&spool)), [1]);
}

#[test]
fn nobody_waits_for_a_pipe_or_follows_a_link_to_read_a_segment() {
    let scratch = Scratch::new();
    for (kind, make) in kinds() {
        let path = scratch.0.path().join(kind);
        make(&path);
        let opened = read(&path).expect("looked at");
        assert!(
            matches!(opened, Readable::Irregular(found) if found == kind),
            "{kind}: {opened:?}"
        );
    }
    let gone = read(&scratch.0.path().join("gone")).expect("looked at");
    assert!(matches!(gone, Readable::Gone), "{gone:?}");
}

/// A sink that cannot write while segments are ended, and is then let go on: what is `done` to the segments that it has not read.
async fn after_a_pause(done: impl Fn(&Path)) -> (Vec<usize>, u64) {
    let scratch = Scratch::new();
    let (spool, copy) = (scratch.spool(), scratch.0.path().join("copy.jsonl"));
    let config = AuditConfig {
        max_segment_size: 2_000,
        sinks: vec![sinks::to_file("copy", copy.clone())],
        ..config(&spool)
    };
    let log = AuditLog::open(&config, None).expect("opens");
    deny(&log, 0).await.expect("on disk");
    let sink = &log.stats().sinks()[0];
    eventually("the first is copied", || sink.records() == 1).await;
    let first = scratch.0.path().join("first.jsonl");
    fs::rename(&copy, &first).expect("moves");
    fs::create_dir(&copy).expect("in the way");
    for number in 1..20 {
        deny(&log, number).await.expect("on disk");
    }
    eventually("it fails", || sink.failure().is_some()).await;
    let segments = files(&spool);
    assert!(segments.len() > 5, "{segments:?}");
    segments[2..4].iter().for_each(|segment| {
        fs::remove_file(segment).expect("removes");
        done(segment);
    });
    fs::remove_dir(&copy).expect("out of the way");
    let last = || numbers(&fs::read_to_string(&copy).unwrap_or_default()).last() == Some(&19);
    eventually("it goes on", last).await;
    let text = fs::read_to_string(&first).expect("there") + &fs::read_to_string(&copy).expect("there");
    eventually("it is counted", || sink.gaps() > 0).await;
    (numbers(&text), sink.gaps())
}

#[tokio::test]
async fn a_sink_counts_where_records_that_it_had_to_take_are_gone() {
    let pipe: Make = |path| mkfifo(path, Mode::S_IRWXU).expect("a pipe");
    for done in [(|_| ()) as Make, pipe] {
        let (delivered, gaps) = after_a_pause(done).await;
        assert_eq!(gaps, 1);
        assert!(delivered.len() < 20, "{delivered:?}");
        let jumps = delivered.windows(2).filter(|pair| pair[0] + 1 != pair[1]);
        assert_eq!(jumps.count(), 1, "{delivered:?}");
    }
}
