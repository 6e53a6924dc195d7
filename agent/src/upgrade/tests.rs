//! Both sides over a real socket, with listeners of the test's own namespace.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::protocol::{Message, VERSION, receive, send};
use super::*;
use crate::audit::{Alarm, AuditConfig, AuditLog};
use crate::workload::Netns;

const LAYOUT: u64 = 7;
/// How long the newer agent may take here.
const SETTLE: Duration = Duration::from_millis(500);

/// An older agent that has settled, in a folder of its own.
struct Older {
    folder: PathBuf,
    audit: AuditLog,
    giving: watch::Receiver<bool>,
    /// How often its parts came to rest.
    rests: watch::Receiver<usize>,
    successors: mpsc::Receiver<SuccessorConnection>,
    cancel: CancellationToken,
    last: CancellationToken,
    _channels: (watch::Sender<bool>, watch::Sender<bool>),
}

impl Older {
    async fn start(listeners: usize, took_over: bool) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("picket-upgrade-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let audit = AuditLog::open(&log(&folder), None).unwrap();
        let mut offers: Vec<_> = (1..=listeners as u64)
            .map(|number| Arc::new(offer(number)))
            .collect();
        let node = InPodListener::open(&own_netns()).unwrap();
        offers.push(Arc::new(
            ListenerOffer {
                listener: TransferredListener::node(&node, own_netns().id()),
                descriptors: node.descriptors().unwrap(),
            }
            .counted(),
        ));
        let mut hosted = offer(200);
        hosted.descriptors.clear();
        offers.push(Arc::new(hosted.counted()));
        let (giving, given) = watch::channel(false);
        let (rested, resting) = watch::channel(false);
        let (counted, rests) = watch::channel(0);
        let mut follow = given.clone();
        tokio::spawn(async move {
            // As the reconciler does.
            while follow.changed().await.is_ok() {
                let now = *follow.borrow_and_update();
                rested.send_replace(now);
                counted.send_modify(|rests| *rests += usize::from(now));
            }
        });
        let (settled, successors) = mpsc::channel(1);
        let last = CancellationToken::new();
        let predecessor = Predecessor {
            node: "node-a".to_owned(),
            layout: LAYOUT,
            giving,
            resting,
            changing: Arc::new(Mutex::new(())),
            offers: Arc::new(move || offers.clone()),
            audit: audit.clone(),
            limit: SETTLE,
            took_over: took_over.then(tokio::time::Instant::now),
            settled,
            last: last.clone(),
        };
        let (yes, is) = (watch::channel(true), watch::channel(true));
        let cancel = CancellationToken::new();
        tokio::spawn(predecessor.serve_once(folder.join("upgrade.sock"), yes.1, is.1, cancel.clone()));
        let older = Self {
            folder,
            audit,
            giving: given,
            rests,
            successors,
            cancel,
            last,
            _channels: (yes.0, is.0),
        };
        while !older.socket().exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        older
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("upgrade.sock")
    }

    /// Asks it as a newer agent does, with this layout.
    async fn hands_over(&self, layout: u64) -> Successor {
        let asked = ask(&self.socket(), "node-a", layout, REQUEST_LIMIT).await;
        asked.unwrap().unwrap()
    }

    /// Waits until it gives, or has taken back.
    async fn gives(&mut self, gives: bool) {
        let changed = self.giving.wait_for(|giving| *giving == gives);
        tokio::time::timeout(Duration::from_secs(5), changed)
            .await
            .unwrap()
            .unwrap();
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        self.cancel.cancel();
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

/// The other parts of an agent that takes over.
struct Newer {
    judged: watch::Sender<bool>,
    agreed: watch::Receiver<bool>,
    settled: watch::Sender<bool>,
    alone: watch::Receiver<bool>,
    given: watch::Receiver<bool>,
}

impl Newer {
    fn new() -> (Self, Progress) {
        let (judged, are_judged) = watch::channel(false);
        let (agreed, is_agreed) = watch::channel(false);
        let (settled, is_settled) = watch::channel(false);
        let (alone, is_alone) = watch::channel(false);
        let (giving, given) = watch::channel(false);
        let newer = Self {
            judged,
            agreed: is_agreed,
            settled,
            alone: is_alone,
            given,
        };
        let progress = Progress {
            judged: are_judged,
            agreed,
            settled: is_settled,
            alone,
            giving,
            cancel: CancellationToken::new(),
        };
        (newer, progress)
    }
}

fn log(folder: &Path) -> AuditConfig {
    AuditConfig {
        directory: folder.join("audit"),
        node: "node-a".to_owned(),
        ..AuditConfig::default()
    }
}

fn own_netns() -> Netns {
    Netns::open(Path::new("/proc/self/ns/net")).unwrap()
}

/// A listener in the test's namespace, as cgroup `number`'s.
fn offer(number: u64) -> ListenerOffer {
    let netns = own_netns();
    let listener = InPodListener::open(&netns).unwrap();
    let descriptors = listener.descriptors().unwrap();
    ListenerOffer {
        listener: TransferredListener {
            cgroup: number,
            pod: format!("pod-{number}"),
            number: 1000 + number,
            port: listener.port(),
            cookie: listener.netns_cookie(),
            device: netns.id().device,
            inode: netns.id().inode,
            descriptors: descriptors.len(),
        },
        descriptors,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_agent_accepts_what_was_dialled_before_and_the_older_one_ends() {
    let mut older = Older::start(150, false).await;
    let takeover = older.hands_over(LAYOUT).await;
    assert!(*older.giving.borrow(), "it goes on changing the kernel");
    // The log is shared from here on.
    let audit = AuditLog::join(&log(&older.folder), None).unwrap();

    let inherited = Arc::clone(&takeover.inherited);
    let own = Some(own_netns().id());
    let (listener, number) = inherited.claim(CgroupId(120), own);
    let listener = listener.unwrap();
    assert_eq!(number, Some(1120));
    let nothing =
        |(listener, number): (Option<InPodListener>, Option<u64>)| listener.is_none() && number.is_none();
    assert!(nothing(inherited.claim(CgroupId(120), own)));
    assert!(
        nothing(inherited.claim(CgroupId(122), None)),
        "it has a namespace of its own"
    );
    let elsewhere = NetnsId { device: 0, inode: 0 };
    assert!(nothing(inherited.claim(CgroupId(121), Some(elsewhere))));
    assert!(nothing(inherited.claim(CgroupId(999), own)));
    assert!(inherited.claim_node(own_netns().id()).is_some());
    let hosted = inherited.claim(CgroupId(200), None);
    assert_eq!((hosted.0.is_none(), hosted.1), (true, Some(1200)));
    let _client = std::net::TcpStream::connect(("127.0.0.1", listener.port())).unwrap();

    let (mut newer, progress) = Newer::new();
    tokio::spawn(takeover.finish(progress, audit.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(older.successors.try_recv().is_err(), "told before it has settled");
    newer.judged.send_replace(true);
    newer.agreed.wait_for(|agreed| *agreed).await.unwrap();
    // However long that takes: the older one does not go on any more.
    tokio::time::sleep(SETTLE + Duration::from_millis(100)).await;
    assert!(*older.giving.borrow());
    assert!(
        older.successors.try_recv().is_err(),
        "told before its programs are gone"
    );
    newer.settled.send_replace(true);
    let successor = older.successors.recv().await.unwrap();
    assert!(!successor.own_listeners);
    assert!(
        !*newer.alone.borrow(),
        "told before the older one accepts no more"
    );
    say_stopped_to(&successor).await;
    newer.alone.wait_for(|alone| *alone).await.unwrap();
    // Those that nobody claimed are closed.
    tokio::time::timeout(Duration::from_secs(5), async {
        while inherited.claim(CgroupId(5), own).1.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    drop(successor);
    audit.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_newer_agent_dies_the_older_one_goes_on() {
    let mut older = Older::start(1, false).await;
    let takeover = older.hands_over(LAYOUT).await;
    older.gives(true).await;
    drop(takeover);
    older.gives(false).await;
    // And after it had agreed, as long as its programs may be there.
    let takeover = older.hands_over(LAYOUT).await;
    let (mut newer, progress) = Newer::new();
    newer.judged.send_replace(true);
    let audit = AuditLog::join(&log(&older.folder), None).unwrap();
    let finishing = tokio::spawn(takeover.finish(progress, audit));
    newer.agreed.wait_for(|agreed| *agreed).await.unwrap();
    finishing.abort();
    older.gives(false).await;
    assert!(older.successors.try_recv().is_err());
    // It gives again to the next one, and the log is its own meanwhile.
    let again = ask(&older.socket(), "node-a", LAYOUT, REQUEST_LIMIT)
        .await
        .unwrap();
    assert!(again.is_some());
    older.audit.flush().await.unwrap();
}

/// It changes nothing more in the kernel once it is told, though its streams may take long to end and write to the log; the
/// older one looks after everything when it has ended, too: it may have stood still before it was told.
#[test]
fn where_the_newer_agent_is_late_the_older_one_goes_on_and_looks_again_at_its_end() {
    let mut older = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        (runtime.block_on(Older::start(1, false)), runtime)
    };
    // The newer agent's process.
    let newer = tokio::runtime::Runtime::new().unwrap();
    newer.block_on(async {
        let older = &mut older.0;
        let takeover = older.hands_over(LAYOUT).await;
        older.gives(true).await;
        let audit = AuditLog::join(&log(&older.folder), None).unwrap();
        older.gives(false).await;
        let (newer, progress) = Newer::new();
        // It has settled now.
        newer.judged.send_replace(true);
        // The connection ends with this runtime, as it does with a process.
        let open = Arc::clone(&takeover.stream);
        tokio::spawn(async move {
            let _open = open;
            std::future::pending::<()>().await
        });
        takeover.finish(progress, audit.clone()).await;
        assert!(*newer.given.borrow() && !*newer.alone.borrow());
        assert!(
            !*newer.agreed.borrow(),
            "it ends the programs of an agent that goes on"
        );
        for log in [&audit, &older.audit] {
            let alarm = Alarm {
                hook: "connect4",
                reason: "link_replaced",
                message: String::new(),
            };
            log.alarm(alarm).await.unwrap();
            log.flush().await.unwrap();
            assert_eq!(log.stats().failure(), None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(*older.rests.borrow(), 1, "the newer one has not ended");
    });
    newer.shutdown_background();
    let (mut older, runtime) = older;
    runtime.block_on(async {
        let looked_again = older.rests.wait_for(|rests| *rests == 2);
        tokio::time::timeout(Duration::from_secs(5), looked_again)
            .await
            .unwrap()
            .unwrap();
        older.gives(false).await;
        assert!(older.successors.try_recv().is_err());
    });
}

/// As by SIGTERM: its streams go on for the drain time, and it writes to the log until its process ends.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_older_agent_is_ended_meanwhile_it_says_that_it_has_stepped_back() {
    for agreed in [false, true] {
        let mut older = Older::start(1, false).await;
        let takeover = older.hands_over(LAYOUT).await;
        older.gives(true).await;
        let audit = AuditLog::join(&log(&older.folder), None).unwrap();
        let (mut newer, progress) = Newer::new();
        let inherited = Arc::clone(&takeover.inherited);
        let finishing = tokio::spawn(takeover.finish(progress, audit.clone()));
        if agreed {
            newer.judged.send_replace(true);
            newer.agreed.wait_for(|agreed| *agreed).await.unwrap();
        }
        older.cancel.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!*newer.alone.borrow(), "it still accepts");
        older.last.cancel();
        if agreed {
            newer.settled.send_replace(true);
        }
        let is_alone = newer.alone.wait_for(|alone| *alone);
        tokio::time::timeout(Duration::from_secs(5), is_alone)
            .await
            .unwrap()
            .unwrap();
        assert!(*newer.agreed.borrow());
        // What was taken over is served once its pod is judged, which it may not be yet.
        let claimed = inherited.claim(CgroupId(1), Some(own_netns().id())).0;
        assert!(agreed || claimed.is_some(), "the listener was closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Both write to the log until the older process ends, which this one's stands for.
        for log in [&audit, &older.audit] {
            log.flush().await.unwrap();
        }
        assert!(!finishing.is_finished());
        finishing.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_layout_opens_listeners_of_its_own() {
    let mut older = Older::start(3, false).await;
    let takeover = older.hands_over(LAYOUT + 1).await;
    let own = Some(own_netns().id());
    assert!(takeover.inherited.claim(CgroupId(1), own).1.is_none());
    let audit = AuditLog::join(&log(&older.folder), None).unwrap();
    let (newer, progress) = Newer::new();
    newer.judged.send_replace(true);
    newer.settled.send_replace(true);
    tokio::spawn(takeover.finish(progress, audit));
    assert!(older.successors.recv().await.unwrap().own_listeners);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_not_take_over_is_told_why() {
    let older = Older::start(1, false).await;
    let refused = ask(&older.socket(), "node-b", LAYOUT, REQUEST_LIMIT)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("serves the node node-a"),
        "{refused}"
    );
    let stream = UnixStream::connect(older.socket()).await.unwrap();
    let hello = Message::Hello {
        version: VERSION + 1,
        node: "node-a".to_owned(),
        layout: LAYOUT,
    };
    send(&stream, &hello, &[]).await.unwrap();
    assert!(matches!(
        receive(&stream).await.unwrap().0,
        Message::Refused { .. }
    ));
    let closed = tokio::time::timeout(Duration::from_secs(5), receive(&stream));
    assert!(closed.await.unwrap().is_err(), "it says more");
    let older = Older::start(1, true).await;
    let refused = ask(&older.socket(), "node-a", LAYOUT, REQUEST_LIMIT)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("is itself a successor since 0 s; try again in 60 s"),
        "{refused}"
    );
    assert!(!*older.giving.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_at_the_other_end_hangs_a_start() {
    let folder = std::env::temp_dir().join(format!("picket-upgrade-{}-odd", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("upgrade.sock");
    assert!(
        ask(&path, "node-a", LAYOUT, REQUEST_LIMIT)
            .await
            .unwrap()
            .is_none(),
        "nobody"
    );
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(
        ask(&path, "node-a", LAYOUT, REQUEST_LIMIT)
            .await
            .unwrap()
            .is_none(),
        "a dead socket"
    );
    std::fs::remove_file(&path).unwrap();

    // One that claims more than it gives.
    let socket = tokio::net::UnixListener::bind(&path).unwrap();
    let odd = tokio::spawn(async move {
        let offer = offer(1);
        for (listeners, count) in [(vec![], 1), (vec![offer.listener.clone()], 1), (vec![], 0)] {
            let (stream, _) = socket.accept().await.unwrap();
            let _hello = receive(&stream).await.unwrap();
            let one: Vec<_> = offer.descriptors.iter().take(1).map(|one| one.as_fd()).collect();
            let own = if count == 0 { one } else { Vec::new() };
            let _gone = send(&stream, &Message::Listeners { listeners }, &own).await;
            let _gone = send(&stream, &Message::Offered { count }, &[]).await;
        }
        socket
    });
    for what in [
        "a count that is wrong",
        "descriptors that are missing",
        "descriptors of nothing",
    ] {
        assert!(
            ask(&path, "node-a", LAYOUT, REQUEST_LIMIT)
                .await
                .unwrap()
                .is_none(),
            "{what}"
        );
    }
    // And one that says nothing at all.
    let _silent = odd.await.unwrap();
    let soon = Duration::from_millis(100);
    assert!(
        ask(&path, "node-a", LAYOUT, soon).await.unwrap().is_none(),
        "silence"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_its_tasks_a_newer_agent_is_there_until_its_process_ends() {
    let mut older = Older::start(1, false).await;
    let takeover = older.hands_over(LAYOUT).await;
    older.gives(true).await;
    takeover.hold_until_exit();
    drop(takeover);
    tokio::time::sleep(SETTLE / 5).await;
    assert!(*older.giving.borrow(), "it goes on beside the newer one");
}
