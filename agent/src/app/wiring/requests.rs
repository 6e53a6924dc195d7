//! The parts that requests need: the gateway, what is read from files, and the data path.
//!
//! In: the opened parts. Out: their tasks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::super::files::FileParts;
use super::super::metrics::ModuleMetrics;
use super::super::shutdown::Shutdown;
use super::super::{revocations, unprovable};
use super::{Handles, Receivers, Shared, Tasks};
use crate::audit::{Observer, Outcome, Summary};
use crate::denied;
use crate::limits::RequestLimits;
use crate::listener::{GatewayListener, GatewayServing};
use crate::pipeline::{IdentitySources, Pipeline, arrivals};
use crate::runtime::backoff::Backoff;
use crate::runtime::phase::Phase;
use crate::runtime::readiness::Readiness;
use crate::session;
use crate::store::Store;

/// The name in `/readyz` of the gateway.
const GATEWAY: &str = "gateway";

/// The first and the longest pause after the gateway's address could not be listened at.
const GATEWAY_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The gateway, where there is one. It listens once the enforced pods are known, since it serves none of them. Not before: the kernel
/// gives a part of the connections to each agent that listens, and a successor's would wait until its sync.
pub(in crate::app) fn gateway(tasks: &mut Tasks, handles: &Handles, shared: &Shared, shutdown: &Shutdown) {
    let Some(gateway) = &handles.config.gateway else {
        return;
    };
    let address = gateway.listen;
    let serving = GatewayServing {
        pods: Arc::new(shared.enforcer.enforced().clone()),
        metrics: handles.metrics.gateway.clone(),
        sink: shared.arrivals.clone(),
        cancel: handles.cancel.clone(),
    };
    let (phase, accepting) = (handles.phase.watch(), shutdown.accepting.token());
    let (readiness, cancel) = (handles.readiness.clone(), handles.cancel.clone());
    tasks.spawn("gateway", async move {
        if phase.reached(Phase::Established).await.is_ok() {
            let opened = cancel.run_until_cancelled(gateway_listener(address, &readiness));
            if let Some(listener) = opened.await {
                serving.run(listener).await;
            }
        }
        drop(accepting);
        std::future::pending::<()>().await;
    });
}

/// Listens at the gateway's address, however often that has to be tried: another program may have the port for a time, and an address
/// may come after the boot. Pods are served meanwhile.
async fn gateway_listener(address: SocketAddr, readiness: &Readiness) -> GatewayListener {
    let mut pauses = Backoff::exact(GATEWAY_PAUSES.0, GATEWAY_PAUSES.1);
    loop {
        let error = match GatewayListener::open(address) {
            Ok(listener) => {
                if readiness.works(GATEWAY) {
                    tracing::info!(%address, "the gateway listens");
                }
                return listener;
            }
            Err(error) => error,
        };
        if readiness.fails(GATEWAY, format!("gateway.listen: {address}: {error}")) {
            tracing::error!(%address, %error, "the gateway cannot listen, and tries again");
        }
        tokio::time::sleep(pauses.pause()).await;
    }
}

/// What learns of each request's end.
pub(in crate::app) fn observer(metrics: &ModuleMetrics, store: &Arc<Store>) -> Observer {
    let (counted, store) = (metrics.pipeline.observer(), Arc::clone(store));
    Arc::new(move |summary: &Summary<'_>| {
        counted(summary);
        let denied = match summary.outcome {
            Outcome::Allow | Outcome::Unknown => false,
            Outcome::Deny => true,
            _ => return,
        };
        if let Some(identity) = summary.identity {
            store.usage().note(identity, denied, Timestamp::now());
        }
    })
}

/// What is read from files again while the agent runs: policies, certificates, trust bundles, the credential.
pub(in crate::app) fn files(tasks: &mut Tasks, handles: &Handles, shared: &Shared) {
    let Handles {
        store, files, cancel, ..
    } = handles;
    let FileParts {
        issuers,
        certificates,
        upstream,
        metrics_tls,
        node_ca: _,
    } = files;

    // Not ended with the others: requests and sessions go on while the agent drains, and are judged by the files.
    tasks.spawn("policy files", Arc::clone(store).watch(CancellationToken::new()));
    tasks.spawn(
        "revocations that were taken back",
        revocations::watch(
            Arc::clone(store),
            handles.metrics.store.clone(),
            handles.audit.clone(),
        ),
    );
    tasks.spawn("token issuers", issuers.clone().run());
    tasks.spawn("certificates", Arc::clone(certificates).run(cancel.clone()));
    if let Some(tls) = metrics_tls {
        tasks.spawn("certificate of metrics", Arc::clone(tls).run(cancel.clone()));
    }
    // Sessions are judged by these too.
    let (bundles, pods) = (certificates.trust_bundles(), shared.enforcer.enforced().clone());
    tasks.spawn(
        "identities that nobody can prove",
        unprovable::warn(Arc::clone(store), issuers.clone(), Arc::clone(bundles)),
    );
    let changed = move || pods.changes().changed();
    issuers.when_changed(changed.clone());
    tasks.spawn(
        "trust bundles",
        Arc::clone(bundles).run(CancellationToken::new(), changed),
    );
    tasks.spawn("upstream", upstream.clone().run(cancel.clone()));
}

/// Accepted connections, and the records of those that never become requests.
///
/// # Errors
/// Where the pipeline cannot be made.
pub(in crate::app) fn connections(
    tasks: &mut Tasks,
    handles: &Handles,
    shared: Shared,
    receivers: Receivers,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let pipeline = Pipeline::new(
        &handles.files.certificates,
        IdentitySources {
            store: Arc::clone(&handles.store),
            issuers: handles.files.issuers.clone(),
            limits: RequestLimits::new(handles.metrics.limits.clone()),
        },
        handles.files.upstream.clone(),
        handles.audit.clone(),
        shutdown.drain.clone(),
        handles.sessions.clone(),
        handles.kube_events.clone(),
    )?;
    tasks.spawn("data path", handles.workers.clone().ended());
    tasks.spawn(
        "sessions",
        session::rejudge(
            handles.sessions.clone(),
            handles.store.changes(),
            shared.enforcer.enforced().changes().clone(),
        ),
    );
    tasks.spawn(
        "connections",
        arrivals::connections(
            receivers.arrivals,
            arrivals::DataPath {
                pipeline,
                workers: handles.workers.clone(),
                drain: shutdown.drain.clone(),
                metrics: handles.metrics.pipeline.clone(),
            },
            shared.denials,
            shutdown.last.clone(),
            shutdown.handed_on.clone(),
        ),
    );
    tasks.spawn(
        "denied connections",
        denied::write(
            receivers.denials,
            handles.audit.clone(),
            handles.kube_events.clone(),
            shutdown.served.clone(),
            shutdown.written.clone(),
        ),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_cannot_listen_fails_in_readiness_until_it_can() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
        let address = taken.local_addr().expect("its address");
        let readiness = Readiness::default();
        let mut opening = std::pin::pin!(gateway_listener(address, &readiness));
        tokio::select! {
            biased;
            _ = &mut opening => panic!("two listen at {address}"),
            () = std::future::ready(()) => {}
        }
        let failing = readiness.failing();
        assert!(
            matches!(&failing[..], [(GATEWAY, reason)] if reason.contains("in use")),
            "{failing:?}"
        );
        drop(taken);
        let _listener = opening.await;
        assert!(readiness.failing().is_empty());
    }
}
