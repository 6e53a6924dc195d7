//! The agent's client of the Kubernetes API, and the list-and-watch of objects through failures.
//!
//! In: a kubeconfig that may change with time. Out: clients ([`Connector`]), each event of a watch ([`follow`]), and what a
//! credential may do ([`rights`]). While the API server is away, whoever follows keeps the last objects; once it shows that its objects were
//! set back, all are listed anew ([`resets`]). Kubernetes' own kinds come in protobuf ([`protobuf`]), as to kube-proxy.

pub mod address;
mod faults;
mod kept_client;
mod person;
mod protobuf;
mod resets;
pub mod rights;
mod unreadable;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, StreamExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use picket_controller::lenient::{Lenient, is_unread};
use picket_controller::relist::RelistPauses;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::pki::PemError;
use crate::runtime::backoff::Backoff;

pub use faults::{ClientFault, DataFault, KubeconfigFault, printable};
pub(crate) use kept_client::{KeptClient, RequestError};
pub use person::PersonalConfig;
pub(crate) use resets::{LastVersion, StoreResets};
pub(crate) use unreadable::{Followed, UnreadableLists};

/// A watch that tells nothing for this many seconds is begun anew, so that a connection that died in silence is
/// noticed; the API server's own default is five to ten minutes.
const WATCH_SECONDS: u32 = 120;

/// How long a response may be silent: longer than a watch lasts, and short enough that a connection which died unheard does
/// not keep the pods as they were for TCP's quarter of an hour.
const READ_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 60);

/// The most objects of a page, which bounds what a list holds in memory.
const PAGE: u32 = 50;

/// The first and the longest pause after failures, which are up to twice as long by chance; a node must be back soon after its API
/// server is.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// How long a credential plugin may take before the log says that the agent waits for it. Those of clouds take under two seconds.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(5);

/// After so many failures in a row the client is made anew, which reads the kubeconfig and its certificates again: they
/// may have been rotated.
pub(crate) const FAILURES_PER_CLIENT: u32 = 3;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be read or makes no sense.
    #[error("{}: cannot use the kubeconfig: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KubeconfigFault,
    },
    /// There is none to use.
    #[error("there is no kubeconfig: name one with --kubeconfig or KUBECONFIG, or put it at ~/.kube/config")]
    NoKubeconfig,
    /// A file of a credential cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bundle that the server's certificate is checked against cannot be read, or has no certificates.
    #[error("the CA bundle {0}")]
    Authorities(#[from] PemError),
    /// What it says makes no client.
    #[error("{}: cannot make a client: {source}", path.display())]
    Client {
        /// The kubeconfig.
        path: PathBuf,
        /// What is wrong.
        source: ClientFault,
    },
}

/// Makes clients from a kubeconfig that may change with time.
#[derive(Debug, Clone)]
pub struct Connector {
    kubeconfig: PathBuf,
    attempt: Arc<Mutex<Option<Attempt>>>,
    resets: StoreResets,
    unreadable: UnreadableLists,
}

/// The making of a client, which several may wait for.
type Attempt = Shared<BoxFuture<'static, Result<Client, ClientFault>>>;

impl Connector {
    /// Clients by the current context of this file.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            attempt: Arc::default(),
            resets: StoreResets::default(),
            unreadable: UnreadableLists::default(),
        }
    }

    /// How often the API server's objects were set back, as whoever has this connector or a copy of it finds.
    pub(crate) fn resets(&self) -> &StoreResets {
        &self.resets
    }

    /// The kinds whose objects cannot be read, as whoever has this connector or a copy of it finds.
    pub(crate) fn unreadable(&self) -> &UnreadableLists {
        &self.unreadable
    }

    /// A client with what the files say now. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClusterError`] with the file and what is wrong with it; worth calling once at start, to stop early.
    pub async fn connect(&self) -> Result<Client, ClusterError> {
        let mut config = self.read().await?;
        config.read_timeout = Some(READ_LIMIT);
        let client = self.attempt(config).await;
        client.map_err(|source| ClusterError::Client {
            path: self.kubeconfig.clone(),
            source,
        })
    }

    /// The making of a client that is under way, or a new one. Callers that give up leave the plugin behind, which cannot be ended:
    /// whoever comes next waits for the same one, so that a plugin which hangs is not started again and again. A client that everybody
    /// gave up may be old when it is taken; who cannot use it asks again.
    fn attempt(&self, config: kube::Config) -> Attempt {
        let mut last = self.attempt.lock();
        if let Some(under_way) = last.as_ref().filter(|attempt| attempt.peek().is_none()) {
            return under_way.clone();
        }
        let attempt = make_client(config, self.kubeconfig.clone()).boxed().shared();
        *last = Some(attempt.clone());
        attempt
    }

    /// The URL of the API server that the clients ask. The kubeconfig alone is needed for it, not the files that it names, nor a
    /// credential that can be used.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn server(&self) -> Result<http::Uri, ClusterError> {
        if let Some(server) = server_of(&self.file()?) {
            return Ok(server);
        }
        Ok(self.read().await?.cluster_url)
    }

    async fn read(&self) -> Result<kube::Config, ClusterError> {
        let file = self.file()?;
        if let Some(field) = irregular(&file) {
            return Err(self.bad(KubeconfigFault::NamesNoFile(field)));
        }
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|error| self.bad(KubeconfigFault::from(&error)))
    }

    /// The kubeconfig's own text, without the files that it names.
    fn file(&self) -> Result<Kubeconfig, ClusterError> {
        // A pipe of that name would never open.
        if is_irregular(&self.kubeconfig) {
            return Err(self.bad(KubeconfigFault::NotAFile));
        }
        Kubeconfig::read_from(&self.kubeconfig).map_err(|error| self.bad(KubeconfigFault::from(&error)))
    }

    fn bad(&self, source: KubeconfigFault) -> ClusterError {
        ClusterError::Kubeconfig {
            path: self.kubeconfig.clone(),
            source,
        }
    }
}

/// Makes a client. That runs the kubeconfig's credential plugin and waits for it, however long it takes: on a thread of its own, so
/// that the caller can be cancelled and nothing beside it stands still.
async fn make_client(config: kube::Config, kubeconfig: PathBuf) -> Result<Client, ClientFault> {
    let mut made = tokio::task::spawn_blocking(move || protobuf::client(config));
    let made = match timeout(PLUGIN_PATIENCE, &mut made).await {
        Ok(made) => made,
        Err(_) => {
            let kubeconfig = kubeconfig.display();
            tracing::warn!(%kubeconfig, "the kubeconfig's credential plugin takes long: the agent waits for it");
            made.await
        }
    };
    match made {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(ClientFault::from(&error)),
        Err(_) => Err(ClientFault::interrupted()),
    }
}

/// The server of the current context's cluster.
fn server_of(file: &Kubeconfig) -> Option<http::Uri> {
    let current = file.current_context.as_deref();
    let mut contexts = file.contexts.iter();
    let context = contexts.find(|context| Some(context.name.as_str()) == current)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|cluster| cluster.name == *name)?;
    cluster.cluster.as_ref()?.server.as_ref()?.parse().ok()
}

/// Whether a path leads to a pipe, a socket, a device or a folder. What is not there is found when it is read.
fn is_irregular(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file())
}

/// The first field of the current context whose file is irregular.
fn irregular(file: &Kubeconfig) -> Option<&'static str> {
    let current = file.current_context.as_deref();
    let context = file
        .contexts
        .iter()
        .find(|context| Some(context.name.as_str()) == current)?;
    let context = context.context.as_ref()?;
    let cluster = file
        .clusters
        .iter()
        .find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|cluster| cluster.cluster.as_ref());
    let user = file
        .auth_infos
        .iter()
        .find(|user| Some(&user.name) == context.user.as_ref());
    let user = user.and_then(|user| user.auth_info.as_ref());
    let named = [
        (
            "certificate-authority",
            cluster.and_then(|cluster| cluster.certificate_authority.as_ref()),
        ),
        (
            "client-certificate",
            user.and_then(|user| user.client_certificate.as_ref()),
        ),
        ("client-key", user.and_then(|user| user.client_key.as_ref())),
        ("tokenFile", user.and_then(|user| user.token_file.as_ref())),
    ];
    let is_bad = |path: Option<&String>| path.is_some_and(|path| is_irregular(Path::new(path)));
    named
        .into_iter()
        .find(|(_, path)| is_bad(*path))
        .map(|(field, _)| field)
}

/// Follows objects until it is cancelled, whatever fails meanwhile; `on` gets each event.
pub async fn follow<K>(
    connector: &Connector,
    what: &'static str,
    scope: impl Fn(Client) -> Api<Lenient<K>>,
    config: watcher::Config,
    cancel: &CancellationToken,
    on: impl FnMut(watcher::Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_with(connector, what, scope, config, cancel, on, |_| {}).await;
}

/// As [`follow`]; `on_error` gets each failure, which is tried again all the same.
pub async fn follow_with<K>(
    connector: &Connector,
    what: &'static str,
    scope: impl Fn(Client) -> Api<Lenient<K>>,
    config: watcher::Config,
    cancel: &CancellationToken,
    mut on: impl FnMut(watcher::Event<K>),
    mut on_error: impl FnMut(&watcher::Error),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config {
        timeout: Some(WATCH_SECONDS),
        page_size: Some(config.page_size.map_or(PAGE, |size| size.min(PAGE))),
        ..config
    };
    let follow = async {
        let mut failures = 0_u32;
        let mut backoff = Backoff::jittered(RETRY_FIRST, RETRY_LONGEST);
        let mut relists = RelistPauses::default();
        let mut resets = connector.resets.subscribe();
        let mut lists = connector.unreadable.of(what);
        loop {
            resets.mark_unchanged();
            match connector.connect().await {
                Err(error) => {
                    tracing::warn!(what, %error, "the agent has no client of the API server; it tries again")
                }
                Ok(client) => {
                    let mut events = pin!(watcher(scope(client), config.clone()));
                    loop {
                        let event = tokio::select! {
                            Some(event) = events.next() => event,
                            // The watch would wait for versions that are yet to come.
                            Ok(()) = resets.changed() => break,
                            else => break,
                        };
                        match event {
                            Ok(event) => {
                                // The mark of a new list is made before the API server was asked, and its first objects come before the
                                // page that may fail.
                                if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                                    failures = 0;
                                    backoff.reset();
                                }
                                if matches!(event, watcher::Event::InitDone) {
                                    lists.read();
                                }
                                on(Lenient::event(event));
                            }
                            Err(error) => {
                                on_error(&error);
                                lists.failed(&error);
                                tracing::warn!(
                                    what,
                                    error = printable(&error),
                                    "the agent cannot watch objects at the API server; it tries again"
                                );
                                // The watch goes on behind an event that it could not read: a list has the object, or tells that it
                                // cannot be read.
                                if is_unread(&error) || protobuf::is_unreadable(&error) {
                                    relists.pause().await;
                                    break;
                                }
                                failures += 1;
                                if failures.is_multiple_of(FAILURES_PER_CLIENT) {
                                    break;
                                }
                                tokio::time::sleep(backoff.pause()).await;
                            }
                        }
                    }
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = follow => {}
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
