//! How a command reaches the cluster where it is about nothing else: by the user's own kubeconfig.
//!
//! In: `--kubeconfig` and `--context`. Out: a client, and lists of objects in words that a person can act on where they are refused.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::api::ListParams;
use kube::{Api, Client};
use picket_controller::lenient::Lenient;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::cluster::{PersonalConfig, printable};

/// Objects that one answer lists: so many of the largest are read.
const PAGE: u32 = 50;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(15);

/// By whose kubeconfig a command asks.
#[derive(Debug, Args)]
pub(in crate::cli) struct PersonalClientArgs {
    /// The kubeconfig. Default: as kubectl has it, then the pod's own account.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context. Default: the current one.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) context: Option<String>,
}

impl PersonalClientArgs {
    /// A client, and the runtime that its connections belong to.
    ///
    /// # Errors
    /// Where no kubeconfig is there or can be used.
    pub(in crate::cli) fn connect(&self) -> anyhow::Result<(Runtime, Client)> {
        super::api::connect(&PersonalConfig {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            otherwise: None,
        })
    }
}

/// Why there is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum AskError {
    /// The API server has no such resource.
    #[error("the API server has no {0}")]
    NoKind(String),
    /// The person may not.
    #[error("{0}")]
    Denied(String),
    /// It does not answer, or says anything else.
    #[error("{0}")]
    Other(String),
}

/// Lists the objects of a resource, which is named for people.
///
/// # Errors
/// [`AskError`].
pub(in crate::cli) async fn list<K>(
    api: &Api<Lenient<K>>,
    what: &str,
    parameters: &ListParams,
) -> Result<Vec<K>, AskError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let mut page = parameters.clone().limit(PAGE);
        page.continue_token = next;
        let answer = tokio::time::timeout(LIMIT, api.list(&page)).await;
        let silent = |_| {
            AskError::Other(format!(
                "the API server does not answer within {} s",
                LIMIT.as_secs()
            ))
        };
        let answer = answer.map_err(silent)?.map_err(|error| of(&error, what))?;
        objects.extend(answer.items.into_iter().map(|object| object.0));
        next = answer.metadata.continue_.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(objects);
        }
    }
}

/// What the API server said, for people.
pub(in crate::cli) fn of(error: &kube::Error, what: &str) -> AskError {
    match error {
        kube::Error::Api(status) if status.code == 404 => AskError::NoKind(what.to_owned()),
        kube::Error::Api(status) if status.code == 403 => AskError::Denied(match status.message.is_empty() {
            true => format!("you may not list {what}"),
            false => status.message.clone(),
        }),
        error => AskError::Other(printable(error)),
    }
}
