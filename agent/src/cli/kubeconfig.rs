//! `picket kubeconfig`: a kubeconfig for the gateway.
//!
//! In: an identity, the gateway's address, the CA that signs the gateway's certificate, and how the caller proves itself. Out: a
//! kubeconfig on standard output or in a file. No secret is written into it: a certificate and a token are named by their files, or a
//! token comes from a program.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::{ArgGroup, Args};
use http::Uri;
use serde_json::{Value, json};

use super::{configuration, output};
use crate::config::{Config, NodeCaSource};
use crate::pki::pem;

const HELP: &str = "\
Examples:
  picket kubeconfig --identity deploy --server https://gate.example:6444 \\
    --client-certificate /run/spire/svid.pem --client-key /run/spire/svid.key > deploy.kubeconfig
  picket kubeconfig --identity deploy --server https://gate.example:6444 --ca /etc/picket/ca.crt \\
    --exec-command kubectl --exec-arg oidc-login --exec-arg get-token -o deploy.kubeconfig
  picket kubeconfig --identity release --server https://gate.example:6444 --token-file /run/ci/token -o release.kubeconfig

The identity is a name in the file for people; what the caller shows decides who the caller is.

The CA is the one in --ca. Without --ca this node's configuration says it: the CA of gateway.tls, where the gateway has a certificate of \
its own, and else the node CA. It is written into the kubeconfig. Where gateway.tls names no CA, the kubeconfig names none, and the \
client checks the gateway against the CAs of its system.

A file that is named, for a certificate, a key or a token, is one of the machine that uses the kubeconfig. It is not read here.

-o writes a new file of mode 0600, and refuses to overwrite one.

Exit codes: 0 success, 1 the kubeconfig cannot be made or written, 2 wrong usage.";

/// Writes a kubeconfig.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
#[command(group = ArgGroup::new("proof").required(true).args(["client_certificate", "token_file", "exec_command"]))]
pub(super) struct KubeconfigArgs {
    /// The AgentIdentity that the caller is.
    #[arg(long, value_name = "NAME")]
    identity: String,
    /// The gateway, as callers dial it.
    #[arg(long, value_name = "https://HOST:PORT")]
    server: String,
    /// The CA that the gateway's certificate leads to (PEM).
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The configuration whose node CA is taken where --ca is not given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The caller's client certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The client certificate's key (PEM).
    // A required option that another one excludes is not asked for, so the exclusion stands here too.
    #[arg(
        long,
        value_name = "FILE",
        requires = "client_certificate",
        conflicts_with_all = ["token_file", "exec_command"]
    )]
    client_key: Option<PathBuf>,
    /// The file that holds the caller's token, such as a CI job's or one that a projected volume renews.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The program that prints the caller's token, as a client-go credential plugin.
    #[arg(long, value_name = "PROGRAM")]
    exec_command: Option<String>,
    /// An argument of that program; may be repeated.
    #[arg(
        long,
        value_name = "ARGUMENT",
        requires = "exec_command",
        conflicts_with_all = ["token_file", "client_certificate"],
        allow_hyphen_values = true
    )]
    exec_arg: Vec<String>,
    /// The file to write; standard output where it is not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &KubeconfigArgs) -> ExitCode {
    match made(args).and_then(|text| written(args.output.as_deref(), &text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::reader_went(&error) => ExitCode::SUCCESS,
        Err(error) => super::fail(&error),
    }
}

fn made(args: &KubeconfigArgs) -> anyhow::Result<String> {
    let url = args.server.parse::<Uri>().ok();
    let is_server = url.is_some_and(|url| url.scheme_str() == Some("https") && url.host().is_some());
    ensure!(is_server, "--server {:?}: write https://HOST:PORT", args.server);
    let ca = match &args.ca {
        Some(file) => Some(file.clone()),
        None => {
            let config = configuration(args.config.as_deref())?;
            ca_of(&config.context("give --ca: this machine has no configuration of Picket's")?)?
        }
    };
    let ca = ca.as_deref().map(certificates).transpose()?;
    serde_saphyr::to_string(&document(args, ca.as_deref()))
        .context("the kubeconfig cannot be written as YAML")
}

/// The CA that callers check this node's gateway against; none where that is their system's to know.
///
/// # Errors
/// The CA is not on this node: Picket's controller signed the node's, and renews it every day.
fn ca_of(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    if let Some(own) = config.gateway.as_ref().and_then(|gateway| gateway.tls.as_ref()) {
        return Ok(own.ca_file.clone());
    }
    match &config.tls.node_ca {
        NodeCaSource::Files(files) => Ok(Some(files.certificate.clone())),
        NodeCaSource::Cluster => bail!(
            "give --ca: the root is not on this node, since the configuration has nodeCA: cluster; save key ca.crt of ConfigMap \
             picket-ca.crt to a file"
        ),
    }
}

/// The certificates of a file and nothing else of it, as PEM.
fn certificates(file: &Path) -> anyhow::Result<String> {
    let bytes = pem::read(file)?;
    let block = |der: &[u8]| {
        format!(
            "-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n",
            folded(der)
        )
    };
    let all = pem::certificates(file, &bytes)?;
    Ok(all.iter().map(|(_, der)| block(der)).collect())
}

/// The base64 of a PEM block.
fn folded(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    lines.map(|line| format!("{line}\n")).collect()
}

fn document(args: &KubeconfigArgs, ca: Option<&str>) -> Value {
    let mut cluster = json!({"server": args.server});
    if let Some(ca) = ca {
        cluster["certificate-authority-data"] = BASE64_STANDARD.encode(ca).into();
    }
    let user = match (&args.exec_command, &args.token_file) {
        (Some(command), _) => json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command,
            "args": args.exec_arg,
            "interactiveMode": "IfAvailable",
            "provideClusterInfo": false,
        }}),
        (None, Some(file)) => json!({"tokenFile": file}),
        (None, None) => json!({
            "client-certificate": args.client_certificate,
            "client-key": args.client_key,
        }),
    };
    let name = &args.identity;
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": "picket", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": "picket", "user": name}}],
    })
}

fn written(file: Option<&Path>, text: &str) -> anyhow::Result<()> {
    let Some(file) = file else {
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    };
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .with_context(|| {
            format!(
                "cannot write {}; an existing file is never overwritten",
                file.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: KubeconfigArgs,
    }

    fn parsed(line: &str) -> Option<KubeconfigArgs> {
        let words = std::iter::once("kubeconfig").chain(line.split(' '));
        Line::try_parse_from(words).ok().map(|line| line.args)
    }

    #[test]
    fn a_kubeconfig_holds_the_ca_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.crt");
        let pem = crate::pki::ca::create("test").unwrap().certificate_pem;
        std::fs::write(&ca, &pem).unwrap();
        let of = |rest: &str| {
            let args = parsed(&format!(
                "--identity ci --server https://gate:6444 --ca {} {rest}",
                ca.display()
            ));
            let text = made(&args.expect("arguments")).unwrap();
            let read: kube::config::Kubeconfig = serde_saphyr::from_str(&text).unwrap();
            read
        };
        let by_certificate = of("--client-certificate /c --client-key /k");
        let user = by_certificate.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.client_certificate.as_deref(), Some("/c"));
        assert!(user.client_key_data.is_none() && user.exec.is_none());
        let cluster = by_certificate.clusters[0].cluster.as_ref().unwrap();
        let data = cluster.certificate_authority_data.as_ref().unwrap();
        let held = String::from_utf8(BASE64_STANDARD.decode(data).unwrap()).unwrap();
        assert_eq!(
            held.replace("\r\n", "\n").trim(),
            pem.replace("\r\n", "\n").trim()
        );

        let by_file = of("--token-file /run/token");
        let user = by_file.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.token_file.as_deref(), Some("/run/token"));
        assert!(user.token.is_none() && user.exec.is_none() && user.client_certificate.is_none());

        let by_token =
            of("--exec-command kubectl --exec-arg oidc-login --exec-arg --oidc-issuer-url=https://i");
        let exec = by_token.auth_infos[0]
            .auth_info
            .as_ref()
            .unwrap()
            .exec
            .as_ref()
            .unwrap();
        assert_eq!(exec.command.as_deref(), Some("kubectl"));
        assert_eq!(exec.args.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn the_ca_is_the_one_that_the_gateway_s_certificate_leads_to() {
        let of = |gateway: &str| {
            let text = format!(
                "nodeName: n\ncluster: {{kubeconfig: /k}}\nupstream: {{server: 'https://api.example', caFile: /ca, tokenFile: /t}}\n\
                 tls: {{caCertificateFile: /node-ca, caKeyFile: /y, trustBundles: [{{trustDomain: one.test, file: /b}}]}}\nenforce: {{namespaces: [a]}}\nobjects: [/o]\n{gateway}"
            );
            ca_of(&Config::parse("f", &text).unwrap()).unwrap()
        };
        let own = |more: &str| {
            format!("gateway: {{listen: '0.0.0.0:1', tls: {{certificateFile: /c, keyFile: /k{more}}}}}\n")
        };
        assert_eq!(of("gateway: {listen: '0.0.0.0:1'}\n"), Some("/node-ca".into()));
        assert_eq!(of(&own(", caFile: /gateway-ca")), Some("/gateway-ca".into()));
        assert_eq!(of(&own("")), None);
        let by_cluster = "nodeName: n\ncluster: {kubeconfig: /k}\nupstream: {server: 'https://api.example', caFile: /ca, tokenFile: /t}\n\
             tls: {nodeCA: cluster}\nenforce: {namespaces: [a]}\nobjects: [/o]\n";
        let said = ca_of(&Config::parse("f", by_cluster).unwrap()).unwrap_err();
        assert!(said.to_string().starts_with("give --ca: "), "{said}");
        let line = "--identity ci --server https://gate:6444 --client-certificate /c --client-key /k";
        let document = document(&parsed(line).unwrap(), None);
        assert_eq!(
            document["clusters"][0]["cluster"],
            json!({"server": "https://gate:6444"})
        );
    }

    #[test]
    fn what_would_not_work_is_refused() {
        for line in [
            "--identity ci --server https://g:1",
            "--identity ci --server https://g:1 --client-certificate /c",
            "--identity ci --server https://g:1 --client-certificate /c --client-key /k --exec-command x",
            "--identity ci --server https://g:1 --client-certificate /c --client-key /k --token-file /t",
            "--identity ci --server https://g:1 --token-file /t --exec-command x",
            "--identity ci --server https://g:1 --token-file /t --client-key /k",
            "--identity ci --server https://g:1 --exec-command x --client-key /k",
            "--identity ci --server https://g:1 --token-file /t --exec-arg y",
            "--server https://g:1 --exec-command x",
        ] {
            assert!(parsed(line).is_none(), "{line}");
        }
        let args = parsed("--identity ci --server http://g:1 --exec-command x --ca /nonexistent")
            .expect("arguments");
        assert!(
            made(&args)
                .unwrap_err()
                .to_string()
                .contains("write https://HOST:PORT")
        );
    }
}
