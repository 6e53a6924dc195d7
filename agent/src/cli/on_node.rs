//! `--node`: a command about a node, run from elsewhere in the pod of that node's agent.
//!
//! In: the node's name, the person's kubeconfig, and the arguments as they were typed. Out: the process becomes `kubectl exec`, whose exit
//! code is the command's on the node; or why it cannot. The right that it takes is the person's own, `create` of `pods/exec`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use picket_controller::lenient::Lenient;
use picket_controller::names::AGENTS;

use super::target::person::{self, AskError, PersonalClientArgs};

/// Where the agents are, for whoever may not list the pods of all namespaces.
const USUAL_NAMESPACE: &str = "picket-system";

/// The agent's container, and the command in it.
const CONTAINER: &str = "agent";
const PROGRAM: &str = "/picket";

/// By which kubectl tells its plugins where it is (k8s.io/kubectl pkg/cmd/plugin).
const CALLER: &str = "KUBECTL_PLUGINS_CALLER";

/// The node that a command is about, for commands that know a kubeconfig of their own.
#[derive(Debug, Default, Args)]
pub(super) struct NodeName {
    /// Run this on another node, in the pod of its agent, by kubectl exec. Default: here.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// The node that a command is about, and how to reach it.
#[derive(Debug, Default, Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    name: NodeName,
    /// The kubeconfig for --node. Default: as kubectl has it.
    #[arg(long, value_name = "FILE", requires = "node")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context for --node. Default: the current one.
    #[arg(long, value_name = "NAME", requires = "node")]
    context: Option<String>,
}

impl NodeName {
    pub(super) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }
}

impl NodeArgs {
    pub(super) fn node(&self) -> Option<&str> {
        self.name.node()
    }
}

/// Why a command does not run on another node.
#[derive(Debug, thiserror::Error)]
enum OnNodeError {
    #[error("the agent's pod on node {node} cannot be looked for: {source}")]
    Ask { node: String, source: AskError },
    #[error(
        "no agent runs in a pod on node {0}: `kubectl picket status` shows the nodes and their agents. Where the agent is a systemd unit, \
         run the command on the node itself"
    )]
    NoPod(String),
    #[error("--node runs `kubectl exec`, and {program} cannot be started: {source}")]
    Kubectl { program: String, source: io::Error },
}

/// Runs the command that this process was started with on that node.
pub(super) fn run(node: &str) -> ExitCode {
    let typed = Typed::of(std::env::args_os().skip(1));
    let pod = match find(&typed, node) {
        Ok(pod) => pod,
        Err(error) => return super::fail(&error),
    };
    let program = std::env::var_os(CALLER).filter(|path| !path.is_empty());
    let program = program.unwrap_or_else(|| "kubectl".into());
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut kubectl = Command::new(&program);
    kubectl.args(typed.exec(&pod, is_terminal));
    // It comes back only where it fails. Signals and the exit code are kubectl's from here on.
    let error = OnNodeError::Kubectl {
        program: program.to_string_lossy().into_owned(),
        source: kubectl.exec(),
    };
    super::fail(&error.into())
}

fn find(typed: &Typed, node: &str) -> anyhow::Result<AgentPod> {
    let person = PersonalClientArgs {
        kubeconfig: typed.kubeconfig.clone().map(PathBuf::from),
        context: typed.context.clone().and_then(|name| name.into_string().ok()),
    };
    let (runtime, client) = person.connect()?;
    Ok(runtime.block_on(agent_on(&client, node))?)
}

/// The arguments of a command, as they were typed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    kubeconfig: Option<OsString>,
    context: Option<OsString>,
    /// All others but --node.
    rest: Vec<OsString>,
}

impl Typed {
    /// clap has accepted them, so that no option's value has the form of another option.
    fn of(arguments: impl Iterator<Item = OsString>) -> Self {
        let (mut typed, mut arguments, mut node) = (Self::default(), arguments, None);
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                typed.rest.push(argument);
                typed.rest.extend(arguments);
                break;
            }
            let text = argument.to_str().unwrap_or_default();
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text, None),
            };
            let place = match name {
                "--node" => &mut node,
                "--kubeconfig" => &mut typed.kubeconfig,
                "--context" => &mut typed.context,
                _ => {
                    typed.rest.push(argument);
                    continue;
                }
            };
            *place = value.or_else(|| arguments.next());
        }
        typed
    }

    /// What kubectl is told.
    fn exec(&self, pod: &AgentPod, is_terminal: bool) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for (name, value) in [("--kubeconfig", &self.kubeconfig), ("--context", &self.context)] {
            if let Some(value) = value {
                arguments.extend([name.into(), value.clone()]);
            }
        }
        arguments.extend(["--namespace", &pod.namespace, "exec"].map(OsString::from));
        if is_terminal {
            // An interrupt ends the command in the pod too, and tables have colours.
            arguments.push("-it".into());
        }
        arguments.extend([&pod.name, "--container", CONTAINER, "--", PROGRAM].map(OsString::from));
        arguments.extend_from_slice(&self.rest);
        arguments
    }
}

/// Where an agent runs.
#[derive(Debug, PartialEq, Eq)]
struct AgentPod {
    namespace: String,
    name: String,
}

/// The pod of a node's agent. While agents are replaced there are two: the one that is ready serves.
async fn agent_on(client: &Client, node: &str) -> Result<AgentPod, OnNodeError> {
    let of_node = ListParams::default()
        .labels(AGENTS)
        .fields(&format!("spec.nodeName={node}"));
    let everywhere = Api::<Lenient<Pod>>::all(client.clone());
    let pods = match person::list(&everywhere, "pods", &of_node).await {
        Err(AskError::Denied(_)) => {
            let usual = Api::<Lenient<Pod>>::namespaced(client.clone(), USUAL_NAMESPACE);
            person::list(&usual, "pods", &of_node).await
        }
        answer => answer,
    };
    let pods = pods.map_err(|source| OnNodeError::Ask {
        node: node.to_owned(),
        source,
    })?;
    let best = pods
        .iter()
        .filter(|pod| is_running(pod))
        .max_by_key(|pod| (is_ready(pod), pod.metadata.deletion_timestamp.is_none()));
    let pod = best.ok_or_else(|| OnNodeError::NoPod(node.to_owned()))?;
    Ok(AgentPod {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
    })
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::Connector;
    use crate::cluster::testing::answering;

    fn typed(line: &str) -> Typed {
        Typed::of(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_on_the_node_is_the_one_that_was_typed() {
        let pod = AgentPod {
            namespace: "picket-system".to_owned(),
            name: "picket-x".to_owned(),
        };
        let told = |line: &str, is_terminal| {
            let arguments = typed(line).exec(&pod, is_terminal);
            arguments.join(" ".as_ref()).into_string().expect("UTF-8")
        };
        let exec = "--namespace picket-system exec picket-x --container agent -- /picket";
        for line in [
            "audit --node n1 tail -f",
            "audit tail -f --node=n1",
            "--node n1 audit tail -f",
        ] {
            assert_eq!(told(line, false), format!("{exec} audit tail -f"), "{line}");
        }
        assert_eq!(
            told(
                "sessions list --node n1 --context=c --kubeconfig f --identity a",
                true
            ),
            "--kubeconfig f --context c --namespace picket-system exec -it picket-x --container agent -- /picket sessions list --identity a"
        );
        assert_eq!(
            told("audit verify --node n1 -- --node", false),
            format!("{exec} audit verify -- --node")
        );
    }

    fn pod(name: &str, phase: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "n"}, "spec": {"containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    async fn found(pods: Vec<Value>, is_everywhere: bool) -> Result<AgentPod, OnNodeError> {
        let url = answering(move |request| {
            let query = request.uri().query().unwrap_or_default();
            assert!(query.contains("fieldSelector=spec.nodeName%3Dn1"), "{query}");
            match request.uri().path() {
                "/api/v1/pods" if !is_everywhere => (
                    403,
                    json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no"}),
                ),
                _ => (200, json!({"metadata": {}, "items": pods})),
            }
        })
        .await;
        let (_folder, connector) = Connector::for_tests(&url);
        agent_on(&connector.connect().await.expect("a client"), "n1").await
    }

    #[tokio::test]
    async fn the_agent_that_serves_is_asked() {
        let pods = || {
            vec![
                pod("old", "Running", "False"),
                pod("new", "Running", "True"),
                pod("next", "Pending", "False"),
            ]
        };
        for is_everywhere in [true, false] {
            let found = found(pods(), is_everywhere).await.expect("a pod");
            assert_eq!(found.name, "new");
        }
        let starting = found(vec![pod("new", "Running", "False")], true).await;
        assert_eq!(starting.expect("a pod").name, "new");
        for none in [vec![], vec![pod("next", "Pending", "False")]] {
            let error = found(none, true).await.expect_err("no pod");
            assert!(
                error
                    .to_string()
                    .starts_with("no agent runs in a pod on node n1: ")
            );
        }
    }
}
