//! Both sides over a real socket, with listeners of the test's own namespace.

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::protocol::{Message, VERSION, receive, send};
use super::*;
use crate::audit::{Alarm, AlarmSubject, AuditConfig, AuditLog};
use crate::kernel::lease::KernelWriteLease;
use crate::metrics::MetricsRegistry;
use crate::runtime::phase::{Phase, PhaseControl, PhaseWatch};
use crate::workload::Netns;

const LAYOUT: u64 = 7;
/// How long the newer agent may take here.
const SYNC: Duration = Duration::from_secs(3);

/// A predecessor that serves, in a folder of its own.
struct Older {
    folder: tempfile::TempDir,
    audit: AuditLog,
    phase: PhaseWatch,
    /// How often its parts came to rest.
    rests: watch::Receiver<usize>,
    counted: MetricsRegistry,
    successors: mpsc::Receiver<SuccessorConnection>,
    cancel: CancellationToken,
    last: CancellationToken,
}

impl Older {
    async fn start(listeners: usize, succeeded: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::open(&log(folder.path()), None).unwrap();
        let mut offers: Vec<_> = (1..=listeners as u64)
            .map(|number| Arc::new(offer(number)))
            .collect();
        let node = InPodListener::open(&own_netns(), &Default::default()).unwrap();
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
        let phase = PhaseControl::new(false);
        phase.reach(Phase::Established);
        let (rested, paused) = watch::channel(false);
        let (counted, rests) = watch::channel(0);
        let follow = phase.watch();
        tokio::spawn(async move {
            // As the reconciler does.
            let mut moves = 0;
            while follow.moved(moves).await.is_ok() {
                let now = follow.lease();
                moves = now.moves;
                rested.send_replace(now.lent);
                counted.send_modify(|rests| *rests += usize::from(now.lent));
            }
        });
        let (replaced, successors) = mpsc::channel(1);
        let last = CancellationToken::new();
        let registry = MetricsRegistry::default();
        let predecessor = Predecessor {
            node: "node-a".to_owned(),
            layout: LAYOUT,
            lease: KernelWriteLease::new(phase.watch()),
            phase: phase.clone(),
            paused,
            offers: Arc::new(move || offers.clone()),
            audit: audit.clone(),
            metrics: UpgradeMetrics::register(&registry),
            limit: SYNC,
            succeeded: succeeded.then(tokio::time::Instant::now),
            replaced,
            last: last.clone(),
        };
        let cancel = CancellationToken::new();
        tokio::spawn(predecessor.run(folder.path().join("upgrade.sock"), cancel.clone()));
        let older = Self {
            folder,
            audit,
            phase: phase.watch(),
            rests,
            counted: registry,
            successors,
            cancel,
            last,
        };
        while !older.socket().exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        older
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("upgrade.sock")
    }

    /// Asks it as a newer agent does, with this layout.
    async fn transfers(&self, layout: u64) -> Successor {
        let asked = request(&self.socket(), "node-a", layout, REQUEST_LIMIT, &metrics()).await;
        asked.unwrap().unwrap()
    }

    /// How many upgrades failed, as it counts them.
    fn failures(&self) -> u64 {
        let text = self.counted.encode().unwrap();
        let line = "picket_upgrades_total{role=\"predecessor\",result=\"failure\"} ";
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.expect("a counter").parse().unwrap()
    }

    /// Whether it has lent the kernel.
    fn has_lent(&self) -> bool {
        self.phase.lease().lent
    }

    /// Waits until it has lent the kernel, or has taken it back.
    async fn lends(&self, lent: bool) {
        tokio::time::timeout(Duration::from_secs(20), self.phase.lent(lent))
            .await
            .unwrap()
            .unwrap();
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The phase of a successor, which runs as a task.
fn newer() -> (PhaseControl, PhaseWatch) {
    let phase = PhaseControl::new(true);
    let watch = phase.watch();
    (phase, watch)
}

/// Runs the upgrade's part of a successor.
async fn run(successor: Successor, phase: &PhaseControl, audit: &AuditLog) -> UpgradeFailed {
    successor.run(phase.clone(), audit.clone(), metrics()).await
}

fn metrics() -> UpgradeMetrics {
    UpgradeMetrics::register(&MetricsRegistry::default())
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
    let listener = InPodListener::open(&netns, &Default::default()).unwrap();
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
    let successor = older.transfers(LAYOUT).await;
    assert!(older.has_lent(), "it goes on changing the kernel");
    // The log is shared from here on.
    let audit = AuditLog::join(&log(older.folder.path()), None).unwrap();

    let inherited = Arc::clone(&successor.inherited);
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

    let (phase, newer) = newer();
    let task = (phase.clone(), audit.clone());
    tokio::spawn(async move { run(successor, &task.0, &task.1).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(older.successors.try_recv().is_err(), "told before it is synced");
    phase.reach(Phase::Synced);
    newer.reached(Phase::PredecessorAgreed).await.unwrap();
    // However long that takes: the older one does not go on any more.
    tokio::time::sleep(SYNC + Duration::from_millis(100)).await;
    assert!(older.has_lent());
    assert!(
        older.successors.try_recv().is_err(),
        "told before its programs are gone"
    );
    phase.reach(Phase::Established);
    let connection = older.successors.recv().await.unwrap();
    assert!(!connection.own_listeners);
    assert!(
        !newer.has_reached(Phase::PredecessorStopped),
        "told before the older one accepts no more"
    );
    say_stopped_to(&connection).await;
    newer.reached(Phase::PredecessorStopped).await.unwrap();
    // Those that nobody claimed are closed.
    tokio::time::timeout(Duration::from_secs(5), async {
        while inherited.claim(CgroupId(5), own).1.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    drop(connection);
    audit.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_newer_agent_dies_the_older_one_goes_on() {
    let mut older = Older::start(1, false).await;
    let successor = older.transfers(LAYOUT).await;
    older.lends(true).await;
    drop(successor);
    older.lends(false).await;
    // And after it had agreed, as long as its programs may be there.
    let successor = older.transfers(LAYOUT).await;
    let (phase, newer) = newer();
    phase.reach(Phase::Synced);
    let audit = AuditLog::join(&log(older.folder.path()), None).unwrap();
    let task = phase.clone();
    let running = tokio::spawn(async move { run(successor, &task, &audit).await });
    newer.reached(Phase::PredecessorAgreed).await.unwrap();
    running.abort();
    older.lends(false).await;
    assert!(older.successors.try_recv().is_err());
    // It transfers again to the next one, and the log is its own meanwhile.
    let again = request(&older.socket(), "node-a", LAYOUT, REQUEST_LIMIT, &metrics())
        .await
        .unwrap();
    assert!(again.is_some());
    older.audit.flush().await.unwrap();
}

/// It changes nothing more in the kernel once it has learned of that, though its streams may take long to end and write to the log; the
/// older one looks after everything when it has ended, too: it may have stood still before it learned of that.
#[test]
fn where_the_newer_agent_is_late_the_older_one_goes_on_and_restores_again_at_its_end() {
    let mut older = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        (runtime.block_on(Older::start(1, false)), runtime)
    };
    // The newer agent's process.
    let process = tokio::runtime::Runtime::new().unwrap();
    process.block_on(async {
        let older = &mut older.0;
        let successor = older.transfers(LAYOUT).await;
        older.lends(true).await;
        let audit = AuditLog::join(&log(older.folder.path()), None).unwrap();
        older.lends(false).await;
        let (phase, newer) = newer();
        // It is synced now.
        phase.reach(Phase::Synced);
        // The connection ends with this runtime, as it does with a process.
        let open = Arc::clone(&successor.stream);
        tokio::spawn(async move {
            let _open = open;
            std::future::pending::<()>().await
        });
        let failed = run(successor, &phase, &audit).await;
        assert!(
            failed.to_string().contains("the predecessor keeps serving"),
            "{failed}"
        );
        assert!(newer.lease().lent && !newer.has_reached(Phase::PredecessorStopped));
        assert!(
            !newer.has_reached(Phase::PredecessorAgreed),
            "it ends the programs of an agent that goes on"
        );
        for log in [&audit, &older.audit] {
            let alarm = Alarm {
                subject: AlarmSubject::KernelProgram("connect4"),
                reason: "link_replaced",
                message: String::new(),
            };
            log.alarm(alarm).unwrap();
            log.flush().await.unwrap();
            assert_eq!(log.stats().failure(), None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(*older.rests.borrow(), 1, "the newer one has not ended");
    });
    process.shutdown_background();
    let (mut older, runtime) = older;
    runtime.block_on(async {
        let restored_again = older.rests.wait_for(|rests| *rests == 2);
        tokio::time::timeout(Duration::from_secs(20), restored_again)
            .await
            .unwrap()
            .unwrap();
        older.lends(false).await;
        assert!(older.successors.try_recv().is_err());
    });
}

/// As by SIGTERM: its streams go on for the drain time, and it writes to the log until its process ends.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_older_agent_is_ended_meanwhile_it_says_that_it_has_stopped_serving() {
    for agreed in [false, true] {
        let older = Older::start(1, false).await;
        let successor = older.transfers(LAYOUT).await;
        older.lends(true).await;
        let audit = AuditLog::join(&log(older.folder.path()), None).unwrap();
        let (phase, newer) = newer();
        let inherited = Arc::clone(&successor.inherited);
        let task = (phase.clone(), audit.clone());
        let running = tokio::spawn(async move { run(successor, &task.0, &task.1).await });
        if agreed {
            phase.reach(Phase::Synced);
            newer.reached(Phase::PredecessorAgreed).await.unwrap();
        }
        older.cancel.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!newer.has_reached(Phase::PredecessorStopped), "it still accepts");
        older.last.cancel();
        if agreed {
            phase.reach(Phase::Established);
        }
        let is_alone = newer.reached(Phase::PredecessorStopped);
        tokio::time::timeout(Duration::from_secs(5), is_alone)
            .await
            .unwrap()
            .unwrap();
        assert!(newer.has_reached(Phase::PredecessorAgreed));
        // What was taken over is served once its pod is judged, which it may not be yet.
        let claimed = inherited.claim(CgroupId(1), Some(own_netns().id())).0;
        assert!(agreed || claimed.is_some(), "the listener was closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Both write to the log until the older process ends, which this one's stands for.
        for log in [&audit, &older.audit] {
            log.flush().await.unwrap();
        }
        assert!(!running.is_finished());
        running.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_layout_opens_listeners_of_its_own() {
    let mut older = Older::start(3, false).await;
    let successor = older.transfers(LAYOUT + 1).await;
    let own = Some(own_netns().id());
    assert!(successor.inherited.claim(CgroupId(1), own).1.is_none());
    let audit = AuditLog::join(&log(older.folder.path()), None).unwrap();
    let (phase, _watch) = newer();
    phase.reach(Phase::Established);
    tokio::spawn(async move { run(successor, &phase, &audit).await });
    assert!(older.successors.recv().await.unwrap().own_listeners);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_not_take_over_is_told_why() {
    let older = Older::start(1, false).await;
    let refused = request(&older.socket(), "node-b", LAYOUT, REQUEST_LIMIT, &metrics())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("serves the node node-a"),
        "{refused}"
    );
    assert_eq!(refused.retry_after(), None, "time changes nothing");
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
    let refused = request(&older.socket(), "node-a", LAYOUT, REQUEST_LIMIT, &metrics())
        .await
        .unwrap_err();
    let said = refused.to_string();
    assert!(
        said.contains("took over from another one ") && said.contains(" s ago; try again in "),
        "{said}"
    );
    let after = refused.retry_after().unwrap().as_secs();
    assert!((50..=60).contains(&after), "{said}");
    assert!(!older.has_lent());
}

/// What an agent says that took over itself a moment ago, or that refuses for good.
fn refusal(retry_after: Option<u64>) -> UpgradeFailed {
    UpgradeFailed::Refused {
        reason: "it took over".to_owned(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_too_early_waits_and_asks_once_more() {
    let begin = tokio::time::Instant::now();
    let asked = Cell::new(0);
    let ask = async || {
        asked.set(asked.get() + 1);
        match asked.get() {
            1 => Err(refusal(Some(7))),
            _ => Ok("begun"),
        }
    };
    let begun = when_it_may_be_replaced(ask, std::future::pending()).await;
    assert_eq!(begun.unwrap(), "begun");
    assert_eq!(begin.elapsed(), Duration::from_secs(7));

    for never in [None, Some(62)] {
        let asked = Cell::new(0);
        let ask = async || -> Result<(), _> {
            asked.set(asked.get() + 1);
            Err(refusal(never))
        };
        assert!(
            when_it_may_be_replaced(ask, std::future::pending())
                .await
                .is_err()
        );
        assert_eq!(asked.get(), 1, "{never:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_ends_when_it_is_told_to() {
    let ask = async || -> Result<(), _> { Err(refusal(Some(60))) };
    let begin = tokio::time::Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok("SIGTERM")
    };
    let failed = when_it_may_be_replaced(ask, stop).await.unwrap_err();
    assert!(failed.to_string().ends_with("SIGTERM"), "{failed}");
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_at_the_other_end_hangs_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upgrade.sock");
    assert!(
        request(&path, "node-a", LAYOUT, REQUEST_LIMIT, &metrics())
            .await
            .unwrap()
            .is_none(),
        "nobody"
    );
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(
        request(&path, "node-a", LAYOUT, REQUEST_LIMIT, &metrics())
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
        let asked = request(&path, "node-a", LAYOUT, REQUEST_LIMIT, &metrics()).await;
        assert!(
            matches!(asked, Err(UpgradeFailed::Unusable { .. })),
            "{what}: {asked:?}"
        );
    }
    // And one that says nothing at all.
    let _silent = odd.await.unwrap();
    let soon = Duration::from_millis(100);
    let asked = request(&path, "node-a", LAYOUT, soon, &metrics()).await;
    assert!(matches!(asked, Err(UpgradeFailed::Silent { .. })), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_its_tasks_a_newer_agent_is_there_until_its_process_ends() {
    let older = Older::start(1, false).await;
    let successor = older.transfers(LAYOUT).await;
    older.lends(true).await;
    successor.hold_until_exit();
    drop(successor);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(older.has_lent(), "it goes on beside the newer one");
}

/// As in a crash loop.
#[tokio::test]
async fn a_successor_that_cannot_replace_the_older_agent_asks_without_pausing_it() {
    let older = Older::start(1, false).await;
    for _ in 0..20 {
        assert!(has_predecessor(&older.socket(), REQUEST_LIMIT).await.unwrap());
    }
    assert_eq!((*older.rests.borrow(), older.has_lent()), (0, false));
    assert_eq!(older.failures(), 0, "a start that asks is no upgrade");
    let long = "é".repeat(64 * 1024);
    for reason in ["the objects are not valid: a.yaml:1:1", &long] {
        give_up(&older.socket(), reason, REQUEST_LIMIT).await;
    }
    // The next one is served as any.
    let _successor = older.transfers(LAYOUT).await;
    assert_eq!(older.failures(), 2, "who gives up has failed");
    assert_eq!(*older.rests.borrow(), 1);
}

#[tokio::test]
async fn an_agent_counts_as_running_while_its_socket_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let short = Duration::from_millis(200);
    let runs = async |limit| has_predecessor(&socket, limit).await;
    assert!(!runs(short).await.unwrap(), "there is no socket");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    // Stopped, deadlocked or busy: whether it will serve again is not known.
    let said = runs(short).await.unwrap_err().to_string();
    let pid = std::process::id();
    assert!(
        said.contains(&format!("process {pid} holds {}", socket.display())),
        "{said}"
    );
    assert!(said.contains(&format!("or end process {pid}")), "{said}");
    // As an agent does that is older than the message.
    let closing = async {
        // The one that waited before is still in the queue.
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            let _said = receive(&stream).await;
        }
    };
    let (answer, ()) = tokio::join!(runs(REQUEST_LIMIT), closing);
    assert!(answer.unwrap());
    let closing = async { drop(listener.accept().await.unwrap()) };
    let metrics = metrics();
    let asking = request(&socket, "node-a", LAYOUT, REQUEST_LIMIT, &metrics);
    // The probe's second look waits in the queue as well.
    let (asked, (), ()) = tokio::join!(asking, async { drop(listener.accept().await) }, closing);
    assert!(matches!(asked, Err(UpgradeFailed::Unusable { .. })), "{asked:?}");
    drop(listener);
    assert!(!runs(short).await.unwrap(), "a socket that was left");
}

/// Its start goes on, to close the node before it ends.
#[tokio::test]
async fn an_agent_that_cannot_look_for_another_is_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::write(place("file"), "").unwrap();
    std::os::unix::fs::symlink(place("circle"), place("circle")).unwrap();
    let _other_kind = std::os::unix::net::UnixDatagram::bind(place("upgrade.sock")).unwrap();
    for socket in [
        place("file").join("upgrade.sock"),
        place("circle").join("upgrade.sock"),
        place("upgrade.sock"),
    ] {
        let found = has_predecessor(&socket, REQUEST_LIMIT).await;
        assert!(matches!(found, Ok(false)), "{}: {found:?}", socket.display());
        let asked = request(&socket, "node-a", LAYOUT, REQUEST_LIMIT, &metrics()).await;
        assert!(matches!(asked, Ok(None)), "{}: {asked:?}", socket.display());
    }
}

#[tokio::test]
async fn an_agent_whose_queue_is_full_counts_as_running() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let listener = tokio::net::UnixSocket::new_stream().unwrap();
    listener.bind(&socket).unwrap();
    let _listener = listener.listen(0).unwrap();
    let _waits = UnixStream::connect(&socket).await.unwrap();
    let said = has_predecessor(&socket, REQUEST_LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("its queue of connections is full") && said.contains(&socket.display().to_string()),
        "{said}"
    );
}

/// One upgrade at a time: whoever comes meanwhile waits in the socket's queue.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_during_anothers_upgrade_does_not_start_as_the_first() {
    let older = Older::start(1, false).await;
    let successor = older.transfers(LAYOUT).await;
    let short = Duration::from_millis(200);
    let probed = has_predecessor(&older.socket(), short).await;
    assert!(matches!(probed, Err(UpgradeFailed::Silent { .. })), "{probed:?}");
    let asked = request(&older.socket(), "node-a", LAYOUT, short, &metrics()).await;
    assert!(matches!(asked, Err(UpgradeFailed::Silent { .. })), "{asked:?}");
    // Nor does it disturb the two.
    assert!(older.has_lent());
    drop(successor);
}

/// As a process does that is killed before it answers.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_before_it_answers_is_none() {
    for probes in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("upgrade.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let ending = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _said = receive(&stream).await;
            drop(listener);
        });
        if probes {
            assert!(!has_predecessor(&socket, REQUEST_LIMIT).await.unwrap());
        } else {
            let asked = request(&socket, "node-a", LAYOUT, REQUEST_LIMIT, &metrics()).await;
            assert!(asked.unwrap().is_none());
        }
        ending.await.unwrap();
    }
}
