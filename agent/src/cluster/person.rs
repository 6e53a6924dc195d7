//! How a person reaches the cluster: by the kubeconfig that kubectl would use, or as the pod that the command runs in.
//!
//! In: what the person named. Out: a client that may be used for one command.

use std::io;
use std::path::{Path, PathBuf};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::{ClientFault, ClusterError, KubeconfigFault};

/// Which kubeconfig and context are meant.
#[derive(Debug, Clone, Default)]
pub struct PersonalConfig {
    /// The file. Default: as kubectl has it, `$KUBECONFIG` or ~/.kube/config, then the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// The context. Default: the file's current one.
    pub context: Option<String>,
    /// The file where there is none of those.
    pub otherwise: Option<PathBuf>,
}

impl PersonalConfig {
    /// A client.
    ///
    /// # Errors
    /// A [`ClusterError`] where no kubeconfig is there or can be used.
    pub async fn connect(&self) -> Result<Client, ClusterError> {
        let usual = match &self.kubeconfig {
            Some(path) => self.of_file(path).await?,
            None => match Kubeconfig::read() {
                Ok(file) => self.of(file, Path::new("kubeconfig")).await?,
                Err(error) if is_missing(&error) && self.context.is_none() => self.without().await?,
                Err(error) => return Err(fault(Path::new("kubeconfig"), &error)),
            },
        };
        Client::try_from(usual).map_err(|error| ClusterError::Client {
            path: self.kubeconfig.clone().unwrap_or_else(|| "kubeconfig".into()),
            source: ClientFault::from(&error),
        })
    }

    async fn of_file(&self, path: &Path) -> Result<kube::Config, ClusterError> {
        let file = Kubeconfig::read_from(path).map_err(|error| fault(path, &error))?;
        self.of(file, path).await
    }

    async fn of(&self, file: Kubeconfig, path: &Path) -> Result<kube::Config, ClusterError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        config.map_err(|error| fault(path, &error))
    }

    /// Where kubectl would have no kubeconfig.
    async fn without(&self) -> Result<kube::Config, ClusterError> {
        match (kube::Config::incluster(), &self.otherwise) {
            (Ok(config), _) => Ok(config),
            (Err(_), Some(path)) => self.of_file(path).await,
            (Err(_), None) => Err(ClusterError::NoKubeconfig),
        }
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.kind() == io::ErrorKind::NotFound,
        KubeconfigError::FindPath | KubeconfigError::CurrentContextNotSet => true,
        _ => false,
    }
}

fn fault(path: &Path, error: &KubeconfigError) -> ClusterError {
    ClusterError::Kubeconfig {
        path: path.to_owned(),
        source: KubeconfigFault::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "apiVersion: v1\nkind: Config\ncurrent-context: one\ncontexts:\n- {name: one, context: {cluster: one, user: u}}\n- \
        {name: two, context: {cluster: two, user: u}}\nclusters:\n- {name: one, cluster: {server: 'https://one.test:6443'}}\n- {name: \
        two, cluster: {server: 'https://two.test:6443'}}\nusers:\n- {name: u, user: {}}\n";

    #[tokio::test]
    async fn the_context_that_is_named_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        std::fs::write(&path, TWO).expect("written");
        let of = |context: Option<&str>| PersonalConfig {
            kubeconfig: Some(path.clone()),
            context: context.map(str::to_owned),
            otherwise: None,
        };
        for (context, host) in [(None, "one.test"), (Some("two"), "two.test")] {
            let config = of(context).of_file(&path).await.expect("a configuration");
            assert_eq!(config.cluster_url.host(), Some(host));
        }
        let error = of(Some("three"))
            .connect()
            .await
            .map(drop)
            .expect_err("no such context");
        assert!(error.to_string().contains("names no context"), "{error}");
    }
}
