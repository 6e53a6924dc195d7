//! `picket controller`: runs the cluster's controller, of which a Deployment has two replicas.
//!
//! In: arguments, and the pod's name and namespace from the environment. Out: a running controller, and the process's exit code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use picket_controller::{ControllerSettings, PermittedNames, RootSource};

use crate::runtime::signals;
use crate::runtime::telemetry::{self, LogConfig, LogFormat};

/// Where a pod's manifest puts its name and its namespace, by the downward API.
const POD_NAME: &str = "POD_NAME";
const POD_NAMESPACE: &str = "POD_NAMESPACE";

/// One waits for the API server, the other answers probes.
const THREADS: usize = 2;

/// Arguments of `picket controller`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  picket controller                                     in a pod that has POD_NAME and POD_NAMESPACE
  picket controller --namespace picket-system --identity here --kubeconfig ~/.kube/config
  picket controller --root-secret corporate-ca          sign by a CA that cert-manager or a person keeps

One replica works at a time, by the Lease picket-controller; the others wait. Each answers webhooks.

Exit codes: 0 the controller was stopped, 1 it could not start, 2 wrong usage.")]
pub(super) struct ControllerArgs {
    /// The namespace of the agents, the Lease and the root CA. Default: POD_NAMESPACE of the environment
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// What the Lease calls this replica. Default: POD_NAME of the environment
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// The kubeconfig. Default: the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A Secret of that namespace with the root CA: tls.crt and tls.key, as cert-manager writes them, or ca.crt and ca.key. Default: the
    /// controller makes a root and keeps it in Secret picket-root-ca
    #[arg(long, value_name = "NAME", conflicts_with = "root_folder")]
    root_secret: Option<String>,
    /// A folder with files of these names
    #[arg(long, value_name = "DIR")]
    root_folder: Option<PathBuf>,
    /// A DNS name, with all names below it, or a range of addresses to which node CAs are bounded; may be given several times. Every name
    /// of tls.extraNames has to be among them. Default: no bound
    #[arg(long = "permitted-name", value_name = "NAME")]
    permitted_names: Vec<String>,
    /// Where /healthz and /readyz are answered, to picket health --controller in the same pod
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8081")]
    health: SocketAddr,
    /// Where /metrics is answered, over plain HTTP and to anybody who reaches the port. Default: nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Where webhooks are answered that enrol pods, over TLS, for clusters without MutatingAdmissionPolicy. Default: nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    webhooks: Option<SocketAddr>,
    /// How lines of the log look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// What the log holds: a level, target=level, or several after commas. Default: info, less for noisy libraries
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &ControllerArgs) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn start(args: &ControllerArgs) -> anyhow::Result<()> {
    let settings = settings(args, |name| std::env::var(name).ok())?;
    telemetry::init(&LogConfig {
        format: match args.log_format {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        },
        filter: args.log_filter.clone(),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(picket_controller::run(settings, stopped()));
    runtime.shutdown_background();
    Ok(outcome?)
}

/// Ends when the process is asked to stop.
async fn stopped() {
    match signals::stop().await {
        Ok(signal) => tracing::info!(signal, "the controller stops"),
        Err(error) => tracing::error!(%error, "the controller cannot wait for signals, and stops"),
    }
}

fn settings(
    args: &ControllerArgs,
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<ControllerSettings> {
    let named = |given: &Option<String>, option: &str, name: &str| {
        let found = given.clone().or_else(|| variable(name));
        found
            .filter(|text| !text.is_empty())
            .ok_or_else(|| anyhow!("there is no {option}, and {name} is not set"))
    };
    let root = match (&args.root_secret, &args.root_folder) {
        (Some(name), _) => RootSource::Secret(name.clone()),
        (None, Some(folder)) => RootSource::Folder(folder.clone()),
        (None, None) => RootSource::Own,
    };
    Ok(ControllerSettings {
        namespace: named(&args.namespace, "--namespace", POD_NAMESPACE)?,
        identity: named(&args.identity, "--identity", POD_NAME)?,
        kubeconfig: args.kubeconfig.clone(),
        root,
        permitted: PermittedNames::new(&args.permitted_names).context("--permitted-name")?,
        health: args.health,
        metrics: args.metrics,
        webhooks: args.webhooks,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Alone {
        #[command(flatten)]
        args: ControllerArgs,
    }

    fn read(line: &str, variables: &[(&str, &str)]) -> anyhow::Result<ControllerSettings> {
        let words = std::iter::once("controller").chain(line.split_whitespace());
        let args = Alone::try_parse_from(words)?.args;
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        settings(&args, variable)
    }

    #[test]
    fn names_come_from_arguments_or_the_pod() {
        let pod = [
            (POD_NAME, "picket-controller-1"),
            (POD_NAMESPACE, "picket-system"),
        ];
        let found = read("", &pod).unwrap();
        assert_eq!(
            (found.namespace.as_str(), found.identity.as_str()),
            ("picket-system", "picket-controller-1")
        );
        assert_eq!(found.root, RootSource::Own);
        assert_eq!((found.metrics, found.webhooks), (None, None));
        let found = read("--namespace a --identity b --root-secret mine", &pod).unwrap();
        assert_eq!((found.namespace.as_str(), found.identity.as_str()), ("a", "b"));
        assert_eq!(found.root, RootSource::Secret("mine".to_owned()));
        let error = read("--namespace a", &[]).unwrap_err().to_string();
        assert_eq!(error, "there is no --identity, and POD_NAME is not set");
    }

    #[test]
    fn what_contradicts_itself_or_is_no_name_is_refused() {
        let pod = [(POD_NAME, "a"), (POD_NAMESPACE, "b")];
        assert!(read("--root-secret a --root-folder b", &pod).is_err());
        let error = format!("{:#}", read("--permitted-name a_b/c", &pod).unwrap_err());
        assert!(
            error.contains("`a_b/c` is neither a DNS name nor a range"),
            "{error}"
        );
        assert!(read("--permitted-name example.com --permitted-name 10.0.0.0/8", &pod).is_ok());
    }
}
