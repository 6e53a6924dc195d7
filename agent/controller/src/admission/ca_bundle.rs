//! Tells the API server which roots sign the webhooks' certificates: the `caBundle` of each webhook.
//!
//! In: the bundle of all roots, and the MutatingWebhookConfiguration. Out: the configuration patched where it holds another bundle, and
//! which bundle it holds, on which a rotation of the root waits. The leader does this.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::kubernetes::printable;
use crate::lenient::Lenient;
use crate::metrics::{ControllerMetrics, Part};
use crate::names::FIELD_MANAGER;
use crate::root::Trust;

/// The configuration, which the chart makes. RBAC names it.
pub(super) const CONFIGURATION: &str = "enrolment.picket.dev";

/// How often the configuration is read: the controller then needs no right to list configurations.
const PERIOD: Duration = Duration::from_secs(10);

/// How soon a write is tried again that failed, and how soon a configuration that is missing is looked for: the chart makes it last.
const RETRY: Duration = Duration::from_secs(1);

/// The webhooks of a configuration: each name, and the bundle.
fn bundles(of: &MutatingWebhookConfiguration) -> impl Iterator<Item = (&str, String)> {
    let webhooks = of.webhooks.iter().flatten();
    webhooks.map(|webhook| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        let bundle = bundle.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        (webhook.name.as_str(), bundle.unwrap_or_default())
    })
}

/// Whether every webhook has these roots among its own.
pub(super) fn trusts(of: &MutatingWebhookConfiguration, anchors: &str) -> bool {
    let mut all = bundles(of).peekable();
    all.peek().is_some() && all.all(|(_, bundle)| bundle.contains(anchors))
}

/// What to change, so that every webhook has the bundle; nothing where all have it.
fn change(of: &MutatingWebhookConfiguration, bundle: &str) -> Option<Value> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(bundle);
    let differ: Vec<Value> = bundles(of)
        .filter(|(_, found)| found != bundle)
        .map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": encoded}}))
        .collect();
    // A strategic merge patch finds each webhook by its name, so that what else is in the configuration stays.
    (!differ.is_empty()).then(|| json!({"webhooks": differ}))
}

/// Keeps the bundles for as long as it is polled.
pub(crate) struct WebhookBundles {
    configurations: Api<Lenient<MutatingWebhookConfiguration>>,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    /// What every ConfigMap holds.
    published: watch::Receiver<Option<Arc<str>>>,
    /// What every ConfigMap and every webhook hold.
    everywhere: watch::Sender<Option<Arc<str>>>,
    metrics: ControllerMetrics,
}

impl WebhookBundles {
    pub(crate) fn new(
        client: Client,
        trust: watch::Receiver<Option<Arc<Trust>>>,
        published: watch::Receiver<Option<Arc<str>>>,
        everywhere: watch::Sender<Option<Arc<str>>>,
        metrics: ControllerMetrics,
    ) -> Self {
        Self {
            configurations: Api::all(client),
            trust,
            published,
            everywhere,
            metrics,
        }
    }

    pub(crate) async fn run(mut self) {
        let mut said = String::new();
        loop {
            let trust = self.trust.borrow_and_update().clone();
            let published = self.published.borrow_and_update().clone();
            let mut pause = PERIOD;
            if let Some(trust) = trust {
                match self.pass(&trust.bundle).await {
                    Ok(is_there) => {
                        // Where there is no configuration, nothing waits for a bundle: one that is made anew gets the whole.
                        self.tell(&trust.bundle, published);
                        self.metrics.succeeded(Part::Webhooks);
                        said.clear();
                        if !is_there {
                            pause = RETRY;
                        }
                    }
                    Err(error) => {
                        self.metrics.failed(Part::Webhooks);
                        let text = printable(&error);
                        if text != said {
                            tracing::error!(
                                error = text,
                                configuration = CONFIGURATION,
                                "the webhooks' CA bundle cannot be written: the API server may refuse pods of enrolled namespaces; \
                                 the controller tries again"
                            );
                            said = text;
                        }
                        pause = RETRY;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = self.trust.changed() => {}
                Ok(()) = self.published.changed() => {}
            }
        }
    }

    /// Writes what differs; whether there is a configuration.
    async fn pass(&self, bundle: &str) -> Result<bool, kube::Error> {
        let Some(Lenient(found)) = self.configurations.get_opt(CONFIGURATION).await? else {
            return Ok(false);
        };
        if let Some(change) = change(&found, bundle) {
            let parameters = PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            self.configurations
                .patch(CONFIGURATION, &parameters, &Patch::Strategic(change))
                .await?;
            tracing::info!(
                configuration = CONFIGURATION,
                "the webhooks' CA bundle is written"
            );
        }
        Ok(true)
    }

    /// Says which bundle is everywhere, once the ConfigMaps hold what the webhooks do.
    fn tell(&self, written: &str, published: Option<Arc<str>>) {
        if published.as_deref() != Some(written) {
            return;
        }
        self.everywhere.send_if_modified(|before| {
            let is_new = *before != published;
            *before = published;
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn configuration(bundles: &[(&str, Option<&str>)]) -> MutatingWebhookConfiguration {
        let webhook = |(name, bundle): &(&str, Option<&str>)| {
            let mut webhook = k8s_openapi::api::admissionregistration::v1::MutatingWebhook {
                name: (*name).to_owned(),
                ..Default::default()
            };
            webhook.client_config.ca_bundle = bundle.map(|text| ByteString(text.into()));
            webhook
        };
        MutatingWebhookConfiguration {
            webhooks: Some(bundles.iter().map(webhook).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn each_webhook_with_another_bundle_gets_this_one() {
        let found = configuration(&[("a", None), ("b", Some("new")), ("c", Some("old"))]);
        let wanted = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "bmV3"}},
            {"name": "c", "clientConfig": {"caBundle": "bmV3"}},
        ]});
        assert_eq!(change(&found, "new"), Some(wanted));
        assert_eq!(change(&configuration(&[("a", Some("new"))]), "new"), None);
    }

    #[test]
    fn a_root_is_trusted_once_every_webhook_has_it() {
        assert!(trusts(
            &configuration(&[("a", Some("old new")), ("b", Some("new"))]),
            "new"
        ));
        assert!(!trusts(
            &configuration(&[("a", Some("old new")), ("b", Some("old"))]),
            "new"
        ));
        assert!(!trusts(&configuration(&[("a", None)]), "new"));
        assert!(!trusts(&configuration(&[]), "new"));
    }

    /// Whoever deletes the configuration, to enrol nothing for a while, must not stop a rotation.
    #[tokio::test]
    async fn without_a_configuration_a_rotation_waits_for_the_configmaps_alone() {
        let answer = tower::service_fn(|request: hyper::Request<kube::client::Body>| async move {
            assert!(
                request
                    .uri()
                    .path()
                    .ends_with("/mutatingwebhookconfigurations/enrolment.picket.dev")
            );
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"});
            let response = hyper::Response::builder().status(404);
            Ok::<_, std::convert::Infallible>(
                response
                    .body(kube::client::Body::from(status.to_string().into_bytes()))
                    .unwrap(),
            )
        });
        let root = crate::authority::make_root(std::time::SystemTime::now()).unwrap();
        let signing = crate::authority::Authority::read(&root).unwrap();
        let bundle: Arc<str> = signing.anchors.as_str().into();
        let trust = Arc::new(Trust {
            bundle: bundle.to_string(),
            signing,
        });
        let (_trust, trusted) = watch::channel(Some(trust));
        let (_published, published) = watch::channel(Some(bundle.clone()));
        let (everywhere, mut told) = watch::channel(None);
        let metrics = ControllerMetrics::register(&picket_metrics::MetricsRegistry::default());
        let bundles = WebhookBundles::new(
            Client::new(answer, "default"),
            trusted,
            published,
            everywhere,
            metrics,
        );
        tokio::select! {
            () = bundles.run() => {}
            found = told.wait_for(Option::is_some) => assert_eq!(found.unwrap().as_deref(), Some(&*bundle)),
        }
    }

    #[test]
    fn a_rotation_goes_on_once_the_configmaps_hold_what_the_webhooks_do() {
        // Nothing is asked of the API server.
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(async { Client::try_from(config).unwrap() });
        let (_trust, trusted) = watch::channel(None);
        let (_published, published) = watch::channel(None);
        let (everywhere, told) = watch::channel(None);
        let metrics = ControllerMetrics::register(&picket_metrics::MetricsRegistry::default());
        let bundles = WebhookBundles::new(client, trusted, published, everywhere, metrics);
        bundles.tell("new", None);
        bundles.tell("new", Some(Arc::from("old")));
        assert_eq!(*told.borrow(), None);
        bundles.tell("new", Some(Arc::from("new")));
        assert_eq!(told.borrow().as_deref(), Some("new"));
    }
}
