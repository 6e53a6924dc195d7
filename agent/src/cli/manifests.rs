//! `picket manifests`: everything that the chart installs, as plain manifests for people without Helm.
//!
//! In: the API server's address, and an image. Out: YAML on standard output: the CustomResourceDefinitions, the namespace, and what the
//! chart renders. The chart is the one source: the suite `chart` holds deploy/manifests/picket.yaml equal to it.

use std::io::Write as _;
use std::process::ExitCode;

use ring::digest;

use super::crds;

/// What the chart renders by deploy/manifests/values.yaml.
const RENDERED: &str = include_str!("../../../deploy/manifests/picket.yaml");

/// What stands there in place of the API server's address and of the image.
const ADDRESS: &str = "https://api-server.invalid:6443";
const IMAGE: &str = "picket.invalid/picket:latest";

/// The image of this version.
const DEFAULT_IMAGE: &str = concat!("picket.dev/picket:", env!("CARGO_PKG_VERSION"));

/// The annotation by which a changed configuration replaces the agents, and how long its value is.
const CONFIGURATION: &str = "picket.dev/configuration: \"";
const DIGEST: usize = 64;

/// Built-in denies guard Picket's namespace, so that it is this one.
const NAMESPACE: &str = "\
# The agents see the node's network, processes and folders, which the level `privileged` of Pod Security allows.
apiVersion: v1
kind: Namespace
metadata:
  name: picket-system
  labels:
    app.kubernetes.io/name: picket
    app.kubernetes.io/managed-by: picket
    pod-security.kubernetes.io/enforce: privileged
";

/// Shown below the command's meaning.
const HELP: &str = "\
Example:
  picket manifests --api-server https://10.0.0.1:6443 | kubectl apply --server-side -f -

The chart has more to set than these two. Apply the output of one version over that of another to upgrade.

Exit codes: 0 success, 1 the output cannot be written, 2 wrong usage.";

/// Arguments of `picket manifests`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct ManifestsArgs {
    /// The API server's own address, as the kubelets use it; not that of the Service `kubernetes`.
    #[arg(long, value_name = "URL", value_parser = address)]
    api_server: String,
    /// The image of the agent, with its tag or digest.
    #[arg(long, value_name = "REF", default_value = DEFAULT_IMAGE, value_parser = image)]
    image: String,
}

/// As the chart's schema has it. What is taken here goes into YAML as it is.
fn address(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "write https://HOST:PORT";
    let (host, port) = text
        .strip_prefix("https://")
        .and_then(|rest| rest.rsplit_once(':'))
        .ok_or(WRONG)?;
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".:[]-".contains(&byte);
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0) && !port.starts_with('+');
    if host.is_empty() || !host.bytes().all(is_of_host) || !is_port {
        return Err(WRONG);
    }
    if host.starts_with("kubernetes.default") {
        return Err(
            "this Service needs kube-proxy, whose pod waits for the agent: give the address that the kubelets use",
        );
    }
    Ok(text.to_owned())
}

fn image(text: &str) -> Result<String, &'static str> {
    let is_of_image = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    let name = text.rsplit('/').next().unwrap_or_default();
    let named = name
        .split_once([':', '@'])
        .is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty());
    match named && text.bytes().all(is_of_image) {
        true => Ok(text.to_owned()),
        false => Err("write REPOSITORY:TAG, or REPOSITORY@sha256:DIGEST"),
    }
}

pub(super) fn run(args: &ManifestsArgs) -> ExitCode {
    match std::io::stdout().write_all(text(args).as_bytes()) {
        // A reader that has seen enough, such as `head`, is no fault.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            super::fail(&anyhow::Error::new(error).context("cannot write"))
        }
        _ => ExitCode::SUCCESS,
    }
}

fn text(args: &ManifestsArgs) -> String {
    // Without the words of the file about itself.
    let objects = RENDERED.find("---\n").map_or(RENDERED, |at| &RENDERED[at..]);
    let rendered = objects
        .replace(ADDRESS, &args.api_server)
        .replace(IMAGE, &args.image);
    format!("{}---\n{NAMESPACE}{}", crds::text(), with_digest(&rendered))
}

/// The same with a digest of this text in the annotation of the agents' pods, so that another address replaces them.
fn with_digest(rendered: &str) -> String {
    let mut text = String::with_capacity(rendered.len());
    let mut rest = rendered;
    let digest = digest::digest(&digest::SHA256, rendered.as_bytes());
    let shown: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    while let Some((before, after)) = rest.split_once(CONFIGURATION) {
        text.push_str(before);
        text.push_str(CONFIGURATION);
        text.push_str(&shown);
        rest = after.get(DIGEST..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn args(api_server: &str) -> ManifestsArgs {
        ManifestsArgs {
            api_server: address(api_server).expect("an address"),
            image: image(DEFAULT_IMAGE).expect("an image"),
        }
    }

    #[test]
    fn nothing_of_the_placeholders_is_left_and_the_crds_come_first() {
        let text = text(&args("https://[fd00::1]:6443"));
        assert!(!text.contains(".invalid"), "{text}");
        assert!(text.contains("https://[fd00::1]:6443") && text.contains(DEFAULT_IMAGE));
        assert!(!text.contains("managed-by: Helm") && !text.contains("helm.sh/chart"));
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
        let kinds: Vec<_> = objects
            .iter()
            .filter_map(|object| object["kind"].as_str())
            .collect();
        assert_eq!(
            kinds.len(),
            objects.len(),
            "each document is an object: {kinds:?}"
        );
        let crds = crds::text().matches("kind: CustomResourceDefinition").count();
        assert!(
            kinds
                .iter()
                .take(crds)
                .all(|kind| *kind == "CustomResourceDefinition"),
            "{kinds:?}"
        );
        assert_eq!(kinds[crds], "Namespace");
        assert!(kinds.contains(&"DaemonSet") && kinds.contains(&"ClusterRole"));
    }

    #[test]
    fn another_address_replaces_the_agents() {
        let digest = |address: &str| {
            let text = text(&args(address));
            let (_, rest) = text.split_once(CONFIGURATION).expect("the annotation");
            rest.split('"').next().expect("a digest").to_owned()
        };
        let (one, other) = (digest("https://10.0.0.1:6443"), digest("https://10.0.0.2:6443"));
        assert_eq!((one.len(), other.len()), (DIGEST, DIGEST));
        assert_ne!(one, other);
        assert_eq!(one, digest("https://10.0.0.1:6443"));
    }

    #[test]
    fn what_would_break_out_of_the_yaml_is_refused() {
        for text in [
            "http://10.0.0.1:6443",
            "https://10.0.0.1",
            "https://:6443",
            "https://10.0.0.1:0",
            "https://10.0.0.1:+1",
            "https://10.0.0.1:6443/x",
            "https://a\"\n:1",
            "https://user@10.0.0.1:6443",
            "https://kubernetes.default.svc:443",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        for text in ["", "picket", "a b:1", "a:1\nb", "r/:1", "r/picket:", "a\":1"] {
            assert!(image(text).is_err(), "{text}");
        }
        let digest = format!("host:5000/picket@sha256:{}", "a".repeat(DIGEST));
        assert!(image(&digest).is_ok() && image("picket.dev/picket:0.1.0@sha256:ab").is_ok());
        assert!(image("host:5000/picket").is_err(), "a port is no tag");
    }
}
