//! How a person reaches the cluster: by the kubeconfig that kubectl would use, or as the pod that the command runs in.
//!
//! In: what the person named. Out: a client that may be used for one command.

use std::io;
use std::path::{Path, PathBuf};

use kube::Client;
use kube::config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError};

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
    /// A client. `remark` gets a sentence where a kubeconfig of the person's is passed over, by which another cluster may be meant.
    ///
    /// # Errors
    /// A [`ClusterError`] where no kubeconfig is there or can be used.
    pub async fn connect(&self, remark: &dyn Fn(&str)) -> Result<Client, ClusterError> {
        self.client(self.config(remark).await?)
    }

    /// Likewise, where a shell is in the middle of a line: nothing is told, and the plugin of a kubeconfig gets no terminal to ask on.
    ///
    /// # Errors
    /// As [`PersonalConfig::connect`].
    pub async fn connect_silently(&self) -> Result<Client, ClusterError> {
        let mut config = self.config(&|_| {}).await?;
        if let Some(plugin) = &mut config.auth_info.exec {
            plugin.interactive_mode = Some(ExecInteractiveMode::Never);
        }
        self.client(config)
    }

    async fn config(&self, remark: &dyn Fn(&str)) -> Result<kube::Config, ClusterError> {
        match &self.kubeconfig {
            Some(path) => self.of_file(path).await,
            None => match Kubeconfig::read() {
                Ok(file) => self.of(file, Path::new("kubeconfig")).await,
                Err(error) if is_missing(&error) && self.context.is_none() => {
                    let (config, used) = self.without().await?;
                    // An empty one counts as none, as kubectl has it.
                    let is_named = std::env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty());
                    if let Some(why) = skip_reason(&error, is_named) {
                        remark(&format!("{why}, so that {used} is used"));
                    }
                    Ok(config)
                }
                Err(error) => Err(fault(Path::new("kubeconfig"), &error)),
            },
        }
    }

    fn client(&self, config: kube::Config) -> Result<Client, ClusterError> {
        super::protobuf::client(config).map_err(|error| ClusterError::Client {
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

    /// Where kubectl would have no kubeconfig; and what is used in its place, for people.
    async fn without(&self) -> Result<(kube::Config, String), ClusterError> {
        match (kube::Config::incluster(), &self.otherwise) {
            (Ok(config), _) => Ok((config, "the pod's service account".to_owned())),
            (Err(_), Some(path)) => Ok((self.of_file(path).await?, format!("{}", path.display()))),
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

/// Why a kubeconfig that the person has is not used; none where there is none.
fn skip_reason(error: &KubeconfigError, is_named: bool) -> Option<&'static str> {
    match error {
        KubeconfigError::CurrentContextNotSet => Some("the kubeconfig has no current context"),
        KubeconfigError::ReadConfig(..) if is_named => Some("KUBECONFIG names a file that is not there"),
        _ => None,
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
            .connect(&|_| {})
            .await
            .map(drop)
            .expect_err("no such context");
        assert!(error.to_string().contains("names no context"), "{error}");
    }

    #[test]
    fn a_kubeconfig_that_is_passed_over_is_told() {
        let absent = || {
            let path = PathBuf::from("/none");
            KubeconfigError::ReadConfig(io::Error::from(io::ErrorKind::NotFound), path)
        };
        assert!(skip_reason(&absent(), true).is_some_and(|why| why.contains("KUBECONFIG")));
        assert_eq!(skip_reason(&absent(), false), None);
        assert!(skip_reason(&KubeconfigError::CurrentContextNotSet, false).is_some());
        assert_eq!(skip_reason(&KubeconfigError::FindPath, true), None);
    }
}
