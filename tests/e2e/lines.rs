//! A request as a line of a shell, by each client that a pod has: kubectl, curl and the Python client.
//!
//! In: what to ask for, and an object. Out: a [`Line`] for `sh` in a pod.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_tests::encodings::{cbor, protobuf, yaml};
use picket_tests::output::Done;
use serde_json::Value;

use crate::world::World;

/// Words of the lines: `call` a method of the Python client, `ask` by curl, and `send` a body in base64 by curl.
const WORDS: &str = r#"
account=/var/run/secrets/kubernetes.io/serviceaccount
client='
import json, sys
from kubernetes import client, config
from kubernetes.stream import stream
config.load_incluster_config()
call = getattr(getattr(client, sys.argv[1])(), sys.argv[2])
given = json.loads(sys.argv[3])
try:
    print(stream(call, **given) if sys.argv[2].startswith("connect") else call(**given))
except client.ApiException as error:
    sys.exit(f"{error.status} {error.reason} {error.body}")
'
call() { python3 -c "$client" "$@"; }
ask() {
    method=$1 path=$2; shift 2
    curl --silent --show-error --fail-with-body --max-time 20 --cacert $account/ca.crt -H "Authorization: Bearer $(cat $account/token)" \
        -X $method "$@" "https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT$path"
}
send() { echo $4 | base64 -d | ask $1 "$2" -H "Content-Type: $3" --data-binary @-; }
"#;

/// A request as a line of a shell. It fails where the request is refused.
pub(crate) struct Line {
    text: String,
    /// Whether it prints the whole answer, and not the message alone.
    pub(crate) prints_answer: bool,
    /// Whether the API server takes the request as it is spelt.
    pub(crate) is_taken: bool,
}

impl Line {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            prints_answer: true,
            is_taken: true,
        }
    }

    /// A line that prints the message alone.
    pub(crate) fn prints_message(mut self) -> Self {
        self.prints_answer = false;
        self
    }

    /// A line that the API server refuses in any case.
    pub(crate) fn refused_upstream(mut self) -> Self {
        self.is_taken = false;
        self
    }

    /// What it is called in a failure.
    pub(crate) fn name(&self) -> &str {
        &self.text
    }

    /// Runs it in the pod whose calls go through Picket.
    pub(crate) fn run(&self, world: &World) -> Result<Done> {
        world.worker(&format!("{WORDS}{}", self.text))
    }
}

/// By kubectl, which prints the answers that it gets, with a file or without.
pub(crate) fn kubectl(arguments: &str, file: Option<&Value>) -> Line {
    with_file(&format!("kubectl -v=9 -n lab {arguments}"), file)
}

/// By the oldest kubectl that is supported.
pub(crate) fn old_kubectl(arguments: &str, file: Option<&Value>) -> Line {
    with_file(&format!("kubectl.1.27 -v=9 -n lab {arguments}"), file)
}

fn with_file(line: &str, file: Option<&Value>) -> Line {
    Line::new(match file {
        Some(file) => format!("echo '{file}' | {line} -f -"),
        None => line.to_owned(),
    })
}

/// By a method of the Python client.
pub(crate) fn python(api: &str, method: &str, arguments: &Value) -> Line {
    Line::new(format!("call {api} {method} '{arguments}'"))
}

/// By curl with a body.
pub(crate) fn send(method: &str, path: &str, media: &str, body: impl AsRef<[u8]>) -> Line {
    let body = STANDARD.encode(body);
    Line::new(format!("send {method} '{path}' {media} {body}"))
}

/// By curl with an object in each encoding that an object can have.
pub(crate) fn send_encoded(method: &str, path: &str, object: &Value) -> [Line; 4] {
    [
        send(method, path, "application/json", object.to_string()),
        send(method, path, "application/yaml", yaml(object)),
        send(
            method,
            path,
            "application/vnd.kubernetes.protobuf",
            protobuf(object),
        ),
        send(method, path, "application/cbor", cbor(object)),
    ]
}

/// By curl with headers that ask for another protocol. It succeeds where the server switches to that.
pub(crate) fn upgrade(method: &str, path: &str, headers: &[&str]) -> Line {
    let headers: String = headers.iter().map(|header| format!(" -H '{header}'")).collect();
    // Once it is switched, curl cannot read what comes, and fails.
    Line::new(format!(
        "ask {method} '{path}' --http1.1 -i --max-time 5 -H 'Connection: Upgrade'{headers} 2>&1 | tee /tmp/answer; \
         grep -q '^HTTP/1.1 101 ' /tmp/answer"
    ))
}
