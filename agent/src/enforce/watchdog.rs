//! Watches the kernel programs: that they load, that they get the agent's heartbeat, and that nobody detaches them.
//!
//! In: the kernel. Out: a heartbeat each second; programs attached again, each with an error in the log, a count and an audit
//! record; and what is wrong, for `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::metrics::EnforceMetrics;
use crate::audit::{Alarm, AlarmSubject, AuditLog};
use crate::kernel::lease::KernelWriteLease;
use crate::kernel::{Kernel, KernelConfig, LinkReport, RepairedLink};
use crate::notify::{About, EventQueue, KubeEvent, Reason};
use crate::runtime::readiness::Readiness;

/// The part's name in `/readyz`.
const PART: &str = "kernel";

/// How often the links are verified. A program that is detached is attached again within 5 s, with time to spare for a busy
/// node; one look takes a few system calls per link.
const VERIFY_INTERVAL: Duration = Duration::from_secs(2);

/// How long after a failed upgrade a link that has to be restored counts as the successor's work, where not all of them could be
/// restored at once.
const RESTORE_TIME: Duration = Duration::from_secs(10);

/// How often the heartbeat is written. The kernel programs miss ten before they count the agent as gone.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Loads the programs. Where another's exclusive program at the cgroup root keeps some out the agent is not ready and says
/// why, and [`watch`] tries again: a container that ends is started again after minutes in the end, and nobody could ask it
/// what is wrong. Enforced pods reach no protected endpoint meanwhile, Picket's neither. `alone` is false where an agent before this one
/// serves, which then goes on.
///
/// # Errors
/// Any other failure, and such a program where this agent is not alone.
pub(crate) fn load(config: &KernelConfig, readiness: &Readiness, alone: bool) -> anyhow::Result<Arc<Kernel>> {
    let kernel = Kernel::load(config)?;
    if let Some(error) = kernel.verify().failure {
        if !alone {
            return Err(error.into());
        }
        readiness.fails(PART, error.to_string());
    }
    Ok(Arc::new(kernel))
}

/// Writes the heartbeat each second. Each takes a turn of the runtime's workers and of its threads for blocking work, which pods
/// are enforced by: an agent in which either is stuck writes none.
pub(crate) async fn heartbeat(kernel: Arc<Kernel>) {
    let mut tick = tokio::time::interval(HEARTBEAT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        tick.tick().await;
        let kernel = Arc::clone(&kernel);
        let written = tokio::task::spawn_blocking(move || kernel.heartbeat()).await;
        match written {
            Ok(Ok(())) => failed = false,
            Ok(Err(error)) if !std::mem::replace(&mut failed, true) => {
                tracing::error!(%error, "the agent cannot write its heartbeat; after ten seconds the kernel programs take the agent for gone");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Verifies every link again and again, and restores what was detached or replaced. During an upgrade the links are the
/// successor's; where the upgrade fails, they are restored at once, and that is nobody's attack.
pub(crate) async fn watch(
    kernel: Arc<Kernel>,
    mut lease: KernelWriteLease,
    readiness: Readiness,
    metrics: EnforceMetrics,
    audit: AuditLog,
    events: EventQueue,
) {
    let mut tick = tokio::time::interval_at(Instant::now() + VERIFY_INTERVAL, VERIFY_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut restoring = Restoring::default();
    loop {
        let turned = tokio::select! {
            biased;
            turned = lease.moved() => {
                if !turned {
                    return;
                }
                true
            }
            _ = tick.tick() => false,
        };
        let (looked, back) = {
            let Some(turn) = lease.acquire().await else {
                return;
            };
            let (kernel, back) = (Arc::clone(&kernel), turned || turn.was_lent);
            let look = move || if back { kernel.take_back() } else { kernel.verify() };
            (tokio::task::spawn_blocking(look).await, back)
        };
        if back {
            restoring.begins(Instant::now());
        }
        let LinkReport { repaired, failure } = match looked {
            Ok(verified) => verified,
            Err(error) => {
                tracing::error!(%error, "the agent cannot verify the links of the kernel programs");
                continue;
            }
        };
        let quiet = restoring.is_cause(failure.is_some(), Instant::now());
        match failure {
            None if readiness.works(PART) => tracing::info!("the kernel programs are all attached again"),
            None => {}
            Some(error) => {
                let reason = format!("the kernel programs are not all in place: {error}");
                events.report(KubeEvent {
                    about: About::Node,
                    reason: Reason::ProgramMissing,
                    detail: String::new(),
                    note: format!("Pods are not enforced as they should be: {reason}"),
                });
                if readiness.fails(PART, reason) {
                    tracing::error!(%error, "not all kernel programs are attached; the agent tries again");
                }
            }
        }
        if quiet {
            if back || !repaired.is_empty() {
                tracing::info!(
                    links = repaired.len(),
                    "upgrade failed: restored the kernel programs that the successor had replaced"
                );
            }
            continue;
        }
        for one in repaired {
            metrics.reattached(one.program);
            report(&audit, &events, &one);
        }
    }
}

/// Whether what has to be restored is what a failed upgrade left.
#[derive(Debug, Default)]
struct Restoring {
    until: Option<Instant>,
}

impl Restoring {
    /// The kernel write lease has just come back.
    fn begins(&mut self, now: Instant) {
        self.until = Some(now + RESTORE_TIME);
    }

    /// Of a look at `now`; `fails` where not all could be restored.
    fn is_cause(&mut self, fails: bool, now: Instant) -> bool {
        let until = if fails { self.until } else { self.until.take() };
        until.is_some_and(|until| now < until)
    }
}

fn report(audit: &AuditLog, events: &EventQueue, repaired: &RepairedLink) {
    let message = format!(
        "the kernel program {} was detached or replaced ({}), and the agent attached it again",
        repaired.link, repaired.fault
    );
    tracing::error!(
        program = repaired.program,
        link = repaired.link,
        fault = %repaired.fault,
        "a kernel program was detached or replaced from outside; the agent attached it again"
    );
    events.report(KubeEvent {
        about: About::Node,
        reason: Reason::ProgramReplaced,
        detail: repaired.link.clone(),
        note: message.clone(),
    });
    let alarm = Alarm {
        subject: AlarmSubject::KernelProgram(repaired.program),
        reason: "link_replaced",
        message,
    };
    if let Err(error) = audit.alarm(alarm) {
        tracing::error!(
            program = repaired.program,
            %error,
            "there is no audit record of a detached kernel program"
        );
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::audit::AuditConfig;
    use crate::audit::spool::segment::stored_text;
    use crate::kernel::LinkFault;
    use crate::metrics::MetricsRegistry;
    use crate::notify::NotifyMetrics;

    #[tokio::test]
    async fn an_audit_log_that_takes_nothing_holds_no_watchdog() {
        let scratch = tempfile::tempdir().expect("a folder");
        let config = AuditConfig {
            directory: scratch.path().join("spool"),
            ..AuditConfig::default()
        };
        let audit = AuditLog::open(&config, None).expect("opens");
        let held = audit.stats().hold_all_but_one_alarm();
        let (events, _posted) = EventQueue::channel(NotifyMetrics::register(&MetricsRegistry::default()));
        let link = RepairedLink {
            program: "connect4",
            link: "root".to_owned(),
            fault: LinkFault::Detached,
        };
        // Without a turn of the runtime: nothing here waits. What has room is queued as of its own moment.
        let before = Timestamp::now();
        for _ in 0..3 {
            report(&audit, &events, &link);
        }
        let after = Timestamp::now();
        audit.flush().await.expect("flushed");
        drop(held);
        let text = stored_text(&config.directory);
        let written = text.matches("link_replaced").count();
        assert_eq!(
            audit.stats().dropped_alarms(),
            3 - written as u64,
            "further ones are told of by the log and the Events"
        );
        let first: serde_json::Value = serde_json::from_str(text.lines().next().expect("one")).expect("JSON");
        let at: Timestamp = first["stageTimestamp"]
            .as_str()
            .expect("a moment")
            .parse()
            .expect("a moment");
        assert!(
            before.as_microsecond() <= at.as_microsecond() && at <= after,
            "{at}"
        );
    }

    #[test]
    fn a_failed_upgrade_hides_no_attack_for_long() {
        let (mut one, start) = (Restoring::default(), Instant::now());
        assert!(!one.is_cause(true, start));
        one.begins(start);
        assert!(one.is_cause(false, start));
        assert!(!one.is_cause(false, start), "all was restored");
        one.begins(start);
        assert!(one.is_cause(true, start + RESTORE_TIME / 2));
        assert!(!one.is_cause(true, start + RESTORE_TIME));
    }
}
