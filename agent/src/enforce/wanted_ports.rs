//! The ports of listeners that programs of pods bound, until the listeners have moved.
//!
//! In: reports of the kernel programs, without waiting. Out: one report after the other. Each pod has a share of its own, so that a
//! pod that binds without end delays no other pod's report.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::metrics::EnforceMetrics;
use crate::kernel::CgroupId;

/// Reports of one pod that wait. The kernel programs report two ports of a pod at most: the listener's, and the one that the listener
/// is about to leave.
const PER_POD: usize = 2;

/// Reports of all pods that wait: the share of each of 512 pods, more than a node runs. A report has 24 bytes.
const WAITING_MAX: usize = 1024;

/// A program of a pod bound the port of the pod's listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WantedPort {
    /// The pod's cgroup.
    pub(crate) cgroup: CgroupId,
    /// The number in its class.
    pub(crate) number: u64,
    /// The port.
    pub(crate) port: u16,
}

/// The reports that wait; cheap to clone.
#[derive(Clone)]
pub(crate) struct WantedPorts {
    waiting: Arc<Mutex<VecDeque<WantedPort>>>,
    reported: Arc<Notify>,
    metrics: EnforceMetrics,
}

impl WantedPorts {
    /// Without any report.
    pub(crate) fn new(metrics: EnforceMetrics) -> Self {
        Self {
            waiting: Arc::default(),
            reported: Arc::default(),
            metrics,
        }
    }

    /// Takes a report. One that waits already counts once. Of a pod that has its share, the oldest report gives way: the listener has
    /// left that port, or the program binds it again.
    pub(crate) fn report(&self, wanted: WantedPort) {
        let mut waiting = self.waiting.lock();
        if waiting.contains(&wanted) {
            return;
        }
        let own = |report: &WantedPort| report.cgroup == wanted.cgroup;
        if waiting.iter().filter(|report| own(report)).count() >= PER_POD {
            let oldest = waiting.iter().position(own);
            oldest.and_then(|oldest| waiting.remove(oldest));
            self.metrics.listener("lost");
        } else if waiting.len() >= WAITING_MAX {
            self.metrics.listener("lost");
            return;
        }
        waiting.push_back(wanted);
        drop(waiting);
        self.reported.notify_one();
    }

    /// The next report, as soon as there is one. One reader at a time.
    pub(super) async fn next(&self) -> WantedPort {
        loop {
            let next = self.waiting.lock().pop_front();
            match next {
                Some(wanted) => return wanted,
                None => self.reported.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricsRegistry;

    fn wanted(cgroup: u64, port: u16) -> WantedPort {
        WantedPort {
            cgroup: CgroupId(cgroup),
            number: cgroup,
            port,
        }
    }

    /// The reports as they come out, and how many were lost.
    async fn of(reports: impl IntoIterator<Item = WantedPort>) -> (Vec<WantedPort>, usize) {
        let registry = MetricsRegistry::default();
        let ports = WantedPorts::new(EnforceMetrics::register(&registry));
        for report in reports {
            ports.report(report);
        }
        let mut given = Vec::new();
        while !ports.waiting.lock().is_empty() {
            given.push(ports.next().await);
        }
        let text = registry.encode().unwrap();
        let lost = text
            .lines()
            .find_map(|line| line.strip_prefix("picket_listener_moves_total{outcome=\"lost\"} "));
        (given, lost.unwrap().parse().unwrap())
    }

    #[tokio::test]
    async fn a_pod_that_binds_without_end_costs_no_other_pod_its_report() {
        let flood = (0..10_000).map(|at| wanted(1, 64_320 + at % 32));
        let (given, lost) = of(flood.chain([wanted(2, 64_320)])).await;
        assert_eq!(given, [wanted(1, 64_334), wanted(1, 64_335), wanted(2, 64_320)]);
        assert_eq!(lost, 9_998);
    }

    #[tokio::test]
    async fn one_bind_that_is_tried_again_is_one_report() {
        let (given, lost) = of([wanted(1, 64_320); 1000]).await;
        assert_eq!((given, lost), (vec![wanted(1, 64_320)], 0));
    }

    #[tokio::test]
    async fn pods_without_end_take_no_memory_without_end() {
        let (given, lost) = of((0..2000).map(|pod| wanted(pod, 64_320))).await;
        assert_eq!((given.len(), lost), (WAITING_MAX, 2000 - WAITING_MAX));
    }

    #[tokio::test]
    async fn who_waits_is_given_the_next_report() {
        let ports = WantedPorts::new(EnforceMetrics::register(&MetricsRegistry::default()));
        let reporting = async {
            tokio::task::yield_now().await;
            ports.report(wanted(1, 64_320));
        };
        let (given, ()) = tokio::join!(ports.next(), reporting);
        assert_eq!(given, wanted(1, 64_320));
    }
}
