//! From a configuration's text to its fields.
//!
//! In: text. Out: a [`Config`], or everything that is wrong in it with its place. Read field by field and not by a
//! derived reader, which would end at the first thing it does not like.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::Uri;
use picket_policy::objects::{Fields, Located, Node, ObjectError, Reader, Value, parse};

use super::texts::{texts, values};
use super::{
    Admin, Audit, Cluster, Config, Enforce, Kernel, MAX_DRAIN_SECONDS, Shutdown, Tls, Upstream, addresses,
};
use crate::admin::SOCKET_PATH_MAX;
use crate::endpoints::Target;
use crate::kernel::Unknown;
use crate::runtime::telemetry::{self, LogConfig, LogFormat};

const TOP: [&str; 14] = [
    "nodeName", "cluster", "upstream", "tls", "kernel", "enforce", "doors", "refuse", "allow", "objects",
    "audit", "admin", "log", "shutdown",
];

pub(super) fn config(file: &str, text: &str) -> Result<Config, Vec<ObjectError>> {
    let documents = parse(file, text).map_err(|error| vec![error])?;
    let mut reader = Reader::new(file);
    let config = match documents.as_slice() {
        [document] => top(&mut reader, document),
        documents => {
            let (line, column, reason) = match documents.get(1) {
                Some(second) => (
                    second.line,
                    second.column,
                    "a second document; a configuration is one",
                ),
                None => (1, 1, "the configuration is empty"),
            };
            return Err(vec![ObjectError {
                file: file.to_owned(),
                line,
                column,
                reason: reason.to_owned(),
            }]);
        }
    };
    // Nothing that is required is missing without an error that says so.
    reader.finish(config)?.ok_or_else(Vec::new)
}

fn top(reader: &mut Reader, document: &Node) -> Option<Config> {
    let top = reader.fields(document, "", &TOP, &[])?;
    let node_name = reader.required_text(&top, "nodeName");
    let cluster = cluster(reader, &top);
    let upstream = upstream(reader, &top);
    let tls = tls(reader, &top);
    let enforce = enforce(reader, &top);
    let addresses = addresses::read(reader, &top, upstream.as_ref());
    let objects = objects(reader, &top);
    let kernel = kernel(reader, &top);
    let audit = audit(reader, &top);
    let admin = admin(reader, &top);
    let log = log(reader, &top);
    let shutdown = shutdown(reader, &top);
    Some(Config {
        node_name: node_name?.value,
        cluster: cluster?,
        upstream: upstream?,
        tls: tls?,
        kernel,
        enforce: enforce?,
        doors: addresses.doors,
        refuse: addresses.refuse,
        allow: addresses.allow,
        objects,
        audit,
        admin,
        log,
        shutdown,
    })
}

fn cluster(reader: &mut Reader, top: &Fields<'_>) -> Option<Cluster> {
    let fields = section(reader, top, "cluster", &["kubeconfig"])?;
    Some(Cluster {
        kubeconfig: path(reader, &fields, "kubeconfig")?,
    })
}

fn upstream(reader: &mut Reader, top: &Fields<'_>) -> Option<Upstream> {
    let known = [
        "server",
        "caFile",
        "clientCertificateFile",
        "clientKeyFile",
        "tokenFile",
    ];
    let fields = section(reader, top, "upstream", &known)?;
    let given = |name| fields.get(name).is_some();
    let certificate = given("clientCertificateFile");
    if certificate != given("clientKeyFile") {
        reader.fault(
            fields.node,
            "field `upstream`: clientCertificateFile and clientKeyFile go together",
        );
    } else if certificate == given("tokenFile") {
        reader.fault(
            fields.node,
            "field `upstream`: give either clientCertificateFile with clientKeyFile, or tokenFile",
        );
    }
    let server = server(reader, &fields);
    let ca_file = path(reader, &fields, "caFile");
    let client_certificate_file = optional_path(reader, &fields, "clientCertificateFile");
    let client_key_file = optional_path(reader, &fields, "clientKeyFile");
    let token_file = optional_path(reader, &fields, "tokenFile");
    Some(Upstream {
        server: server?,
        ca_file: ca_file?,
        client_certificate_file,
        client_key_file,
        token_file,
    })
}

fn server(reader: &mut Reader, fields: &Fields<'_>) -> Option<String> {
    let server = reader.required_text(fields, "server")?;
    let wrong = match server.value.parse::<Uri>() {
        Err(_) => "is no URL; write https://host:port",
        Ok(url) if url.scheme_str() != Some("https") => {
            "must be https://host:port; Picket does not speak plain HTTP upstream"
        }
        Ok(url) if !matches!(url.path(), "" | "/") || url.query().is_some() => {
            "must have no path and no query; write https://host:port"
        }
        Ok(url) if Target::of_url(&url).is_none() => {
            "has no host and port to dial; write https://host:port, a port is 1 to 65535"
        }
        Ok(_) => return Some(server.value),
    };
    reader.fault_at(&server.at, format!("field `upstream.server` {wrong}"));
    None
}

fn tls(reader: &mut Reader, top: &Fields<'_>) -> Option<Tls> {
    let fields = section(
        reader,
        top,
        "tls",
        &["caCertificateFile", "caKeyFile", "extraNames"],
    )?;
    let ca_certificate_file = path(reader, &fields, "caCertificateFile");
    let ca_key_file = path(reader, &fields, "caKeyFile");
    Some(Tls {
        extra_names: values(texts(reader, &fields, "extraNames")),
        ca_certificate_file: ca_certificate_file?,
        ca_key_file: ca_key_file?,
    })
}

fn enforce(reader: &mut Reader, top: &Fields<'_>) -> Option<Enforce> {
    let fields = section(
        reader,
        top,
        "enforce",
        &["namespaces", "matchLabels", "unknownPods", "staticPods"],
    )?;
    let written = |name| match fields.get(name).map(|node| &node.value) {
        Some(Value::List(items)) => !items.is_empty(),
        Some(Value::Map(entries)) => !entries.is_empty(),
        Some(_) => true,
        None => false,
    };
    if !written("namespaces") && !written("matchLabels") {
        reader.fault(
            fields.node,
            "field `enforce` names no pods; give namespaces, matchLabels or both",
        );
    }
    let words = [("closed", Unknown::Closed), ("open", Unknown::Open)];
    let mut word = |name| {
        let node = fields.get(name)?;
        reader.choice(node, &fields.path(name), &words)
    };
    let (unknown_pods, static_pods) = (word("unknownPods"), word("staticPods"));
    Some(Enforce {
        namespaces: namespaces(reader, &fields),
        match_labels: labels(reader, &fields),
        unknown_pods: unknown_pods.unwrap_or_default(),
        static_pods: static_pods.unwrap_or_default(),
    })
}

fn labels(reader: &mut Reader, enforce: &Fields<'_>) -> BTreeMap<String, String> {
    let path = enforce.path("matchLabels");
    let Some(node) = enforce.get("matchLabels") else {
        return BTreeMap::new();
    };
    let Value::Map(entries) = &node.value else {
        reader.fault(
            node,
            format!("field `{path}` must be a mapping, not {}", node.value.describe()),
        );
        return BTreeMap::new();
    };
    let label = |(key, value): &(Node, Node)| {
        let key = reader.text(key, &path)?.value;
        let value = reader.text(value, &format!("{path}.{key}"))?.value;
        Some((key, value))
    };
    entries.iter().filter_map(label).collect()
}

fn objects(reader: &mut Reader, top: &Fields<'_>) -> Vec<PathBuf> {
    let Some(node) = reader.required(top, "objects") else {
        return Vec::new();
    };
    if matches!(&node.value, Value::List(items) if items.is_empty()) {
        reader.fault(
            node,
            "field `objects` is empty; name the files or folders with identities, grants and policies",
        );
    }
    let paths = texts(reader, top, "objects");
    paths.into_iter().map(|path| PathBuf::from(path.value)).collect()
}

fn kernel(reader: &mut Reader, top: &Fields<'_>) -> Kernel {
    let mut kernel = Kernel::default();
    if let Some(fields) = optional_section(reader, top, "kernel", &["cgroupRoot", "bpffs"]) {
        kernel.cgroup_root = optional_path(reader, &fields, "cgroupRoot");
        kernel.bpffs = optional_path(reader, &fields, "bpffs").unwrap_or(kernel.bpffs);
        if let (Some(node), false) = (fields.get("bpffs"), kernel.bpffs.is_absolute()) {
            reader.fault(
                node,
                "field `kernel.bpffs` must be an absolute path on a bpf file system",
            );
        }
    }
    kernel
}

fn audit(reader: &mut Reader, top: &Fields<'_>) -> Audit {
    let mut audit = Audit::default();
    if let Some(fields) = optional_section(reader, top, "audit", &["file", "stdout"]) {
        audit.file = optional_path(reader, &fields, "file").unwrap_or(audit.file);
        match fields.get("stdout").map(|node| (node, &node.value)) {
            Some((_, Value::Bool(stdout))) => audit.stdout = *stdout,
            Some((node, other)) => reader.fault(
                node,
                format!(
                    "field `audit.stdout` must be true or false, not {}",
                    other.describe()
                ),
            ),
            None => {}
        }
    }
    audit
}

fn admin(reader: &mut Reader, top: &Fields<'_>) -> Admin {
    let mut admin = Admin::default();
    if let Some(fields) = optional_section(reader, top, "admin", &["socket"]) {
        admin.socket = optional_path(reader, &fields, "socket").unwrap_or(admin.socket);
        let sockets = [admin.socket.clone(), admin.handover_socket()];
        let too_long = |path: &PathBuf| path.as_os_str().len() > SOCKET_PATH_MAX;
        if let (Some(node), Some(path)) = (fields.get("socket"), sockets.iter().find(|path| too_long(path))) {
            reader.fault(
                node,
                format!(
                    "field `admin.socket`: {} is longer than the {SOCKET_PATH_MAX} bytes that a socket's path may have",
                    path.display()
                ),
            );
        }
    }
    admin
}

fn log(reader: &mut Reader, top: &Fields<'_>) -> LogConfig {
    let mut log = LogConfig::default();
    if let Some(fields) = optional_section(reader, top, "log", &["format", "filter"]) {
        let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = fields
            .get("format")
            .and_then(|node| reader.choice(node, "log.format", &words));
        log.format = format.unwrap_or_default();
        log.filter = optional_text(reader, &fields, "filter");
        if let (Some(node), Some(text)) = (fields.get("filter"), &log.filter)
            && let Err(error) = telemetry::filter(text)
        {
            reader.fault(
                node,
                format!("field `log.filter`: {error}; write a level, or target=level, or several such as info,picket::kernel=debug"),
            );
        }
    }
    log
}

fn shutdown(reader: &mut Reader, top: &Fields<'_>) -> Shutdown {
    let mut shutdown = Shutdown::default();
    if let Some(fields) = optional_section(reader, top, "shutdown", &["drainSeconds"])
        && let Some(node) = fields.get("drainSeconds")
    {
        let seconds = match &node.value {
            Value::Number(number) => number
                .parse()
                .ok()
                .filter(|seconds| *seconds <= MAX_DRAIN_SECONDS),
            _ => None,
        };
        match seconds {
            Some(seconds) => shutdown.drain_seconds = seconds,
            None => reader.fault(
                node,
                format!(
                    "field `shutdown.drainSeconds` must be a whole number of seconds, 0 to {MAX_DRAIN_SECONDS}, not {}",
                    node.value.describe()
                ),
            ),
        }
    }
    shutdown
}

/// A mapping that must be there.
fn section<'n>(reader: &mut Reader, top: &Fields<'n>, name: &str, known: &[&str]) -> Option<Fields<'n>> {
    let node = reader.required(top, name)?;
    reader.fields(node, name, known, &[])
}

/// A mapping that may be left out.
fn optional_section<'n>(
    reader: &mut Reader,
    top: &Fields<'n>,
    name: &str,
    known: &[&str],
) -> Option<Fields<'n>> {
    reader.fields(top.get(name)?, name, known, &[])
}

fn path(reader: &mut Reader, fields: &Fields<'_>, name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(reader.required_text(fields, name)?.value))
}

fn optional_path(reader: &mut Reader, fields: &Fields<'_>, name: &str) -> Option<PathBuf> {
    optional_text(reader, fields, name).map(PathBuf::from)
}

fn optional_text(reader: &mut Reader, fields: &Fields<'_>, name: &str) -> Option<String> {
    fields.get(name)?;
    Some(reader.required_text(fields, name)?.value)
}

/// Names of namespaces. One that no namespace can have would enforce nothing: `*` is no glob here.
fn namespaces(reader: &mut Reader, enforce: &Fields<'_>) -> Vec<String> {
    let names = texts(reader, enforce, "namespaces");
    for Located { value, at } in &names {
        if !is_label(value) {
            reader.fault_at(
                at,
                format!(
                    "field `enforce.namespaces`: {value:?} is no namespace's name, which has lower-case letters, digits \
                     and -; for pods of all namespaces give matchLabels alone"
                ),
            );
        }
    }
    values(names)
}

/// Whether a namespace can be called so (RFC 1123).
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends_well = !name.starts_with('-') && !name.ends_with('-');
    (1..=63).contains(&name.len()) && ends_well && name.bytes().all(inner)
}
