//! From a configuration's text to its fields.
//!
//! In: text. Out: a [`Config`], or everything that is wrong in it with its place. Read field by field and not by a
//! derived reader, which would end at the first thing it does not like.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::Uri;
use picket_policy::yaml::{Decoder, Diagnostic, Fields, Spanned, Value, YamlNode, parse};

use super::reference::{fields_of, renamed_in};
use super::texts::{optional_path, optional_section, optional_text, texts, values};
use super::{
    AdminSection, AuthenticationSection, ClusterSection, Config, EnforceSection, GatewaySection,
    GatewayTlsSection, KernelSection, MAX_DRAIN_SECONDS, NodeCaSource, ObjectsSection, ShutdownSection,
    TlsSection, UpstreamSection, addresses, audit, metrics, trust,
};
use crate::admin::SOCKET_PATH_MAX;
use crate::endpoints::EndpointTarget;
use crate::kernel::FailMode;
use crate::pki::{CaFiles, LeafNames, ServerCertificateFiles};
use crate::runtime::telemetry::{self, LogConfig, LogFormat};

/// `node` is the node's name for a text that has none.
pub(super) fn config(file: &str, text: &str, node: Option<String>) -> Result<Config, Vec<Diagnostic>> {
    let documents = parse(file, text).map_err(|error| vec![error])?;
    let mut decoder = Decoder::new(file);
    let config = match documents.as_slice() {
        [document] => top(&mut decoder, document, node),
        documents => {
            let (line, column, reason) = match documents.get(1) {
                Some(second) => (
                    second.line,
                    second.column,
                    "a second document; a configuration is one",
                ),
                None => (1, 1, "the configuration is empty"),
            };
            return Err(vec![Diagnostic {
                file: file.to_owned(),
                line,
                column,
                reason: reason.to_owned(),
            }]);
        }
    };
    // Nothing that is required is missing without an error that says so.
    decoder.finish(config)?.ok_or_else(Vec::new)
}

fn top(decoder: &mut Decoder, document: &YamlNode, node: Option<String>) -> Option<Config> {
    let top = decoder.fields_renamed(document, "", &fields_of(""), &[], &renamed_in(""))?;
    let node_name = match node.filter(|_| top.get("nodeName").is_none()) {
        Some(name) => Some(name),
        None => decoder.required_text(&top, "nodeName").map(|name| name.value),
    };
    let cluster = cluster(decoder, &top);
    let upstream = upstream(decoder, &top);
    let tls = tls(decoder, &top);
    let gateway = gateway(decoder, &top);
    let enforce = enforce(decoder, &top);
    let protected_endpoints = addresses::read(decoder, &top, upstream.as_ref());
    let objects = objects(decoder, &top);
    let authentication = authentication(decoder, &top);
    let kernel = kernel(decoder, &top);
    let node = node_name.as_deref().unwrap_or_default();
    let audit = audit::read(decoder, &top, node);
    let admin = admin(decoder, &top);
    let metrics = metrics::read(decoder, &top, gateway.as_ref());
    let log = log(decoder, &top);
    let shutdown = shutdown(decoder, &top);
    Some(Config {
        node_name: node_name?,
        cluster: cluster?,
        upstream: upstream?,
        tls: tls?,
        gateway,
        kernel,
        enforce: enforce?,
        protected_endpoints,
        objects,
        authentication,
        audit,
        admin,
        metrics,
        log,
        shutdown,
    })
}

fn cluster(decoder: &mut Decoder, top: &Fields<'_>) -> Option<ClusterSection> {
    let fields = section(decoder, top, "cluster")?;
    Some(ClusterSection {
        kubeconfig: path(decoder, &fields, "kubeconfig")?,
    })
}

fn upstream(decoder: &mut Decoder, top: &Fields<'_>) -> Option<UpstreamSection> {
    let fields = section(decoder, top, "upstream")?;
    let given = |name| fields.get(name).is_some();
    let certificate = given("clientCertificateFile");
    if certificate != given("clientKeyFile") {
        decoder.error_at(
            fields.node,
            "field `upstream`: clientCertificateFile and clientKeyFile go together",
        );
    } else if certificate == given("tokenFile") {
        decoder.error_at(
            fields.node,
            "field `upstream`: give either clientCertificateFile with clientKeyFile, or tokenFile",
        );
    }
    let server = server(decoder, &fields);
    let ca_file = path(decoder, &fields, "caFile");
    let client_certificate_file = optional_path(decoder, &fields, "clientCertificateFile");
    let client_key_file = optional_path(decoder, &fields, "clientKeyFile");
    let token_file = optional_path(decoder, &fields, "tokenFile");
    Some(UpstreamSection {
        server: server?,
        ca_file: ca_file?,
        client_certificate_file,
        client_key_file,
        token_file,
    })
}

fn authentication(decoder: &mut Decoder, top: &Fields<'_>) -> AuthenticationSection {
    let Some(fields) = optional_section(decoder, top, "authentication") else {
        return AuthenticationSection::default();
    };
    AuthenticationSection {
        config_file: optional_path(decoder, &fields, "configFile"),
    }
}

fn server(decoder: &mut Decoder, fields: &Fields<'_>) -> Option<String> {
    let server = decoder.required_text(fields, "server")?;
    let wrong = match server.value.parse::<Uri>() {
        Err(_) => "is no URL; write https://host:port",
        Ok(url) if url.scheme_str() != Some("https") => {
            "must be https://host:port; Picket does not speak plain HTTP upstream"
        }
        Ok(url) if !matches!(url.path(), "" | "/") || url.query().is_some() => {
            "must have no path and no query; write https://host:port"
        }
        Ok(url) if url.authority().is_some_and(|place| place.as_str().contains('@')) => {
            "must have no user; write https://host:port"
        }
        Ok(url) if EndpointTarget::of_url(&url).is_none() => {
            "has no host and port to dial; write https://host:port, a port is 1 to 65535"
        }
        Ok(_) => return Some(server.value),
    };
    decoder.error_at(&server.at, format!("field `upstream.server` {wrong}"));
    None
}

fn tls(decoder: &mut Decoder, top: &Fields<'_>) -> Option<TlsSection> {
    let fields = section(decoder, top, "tls")?;
    let node_ca = node_ca(decoder, &fields);
    Some(TlsSection {
        extra_names: server_names(decoder, &fields, "extraNames"),
        trust_bundles: trust::bundles(decoder, &fields),
        node_ca: node_ca?,
    })
}

/// Where the node CA comes from: of the two sources exactly one is given.
fn node_ca(decoder: &mut Decoder, tls: &Fields<'_>) -> Option<NodeCaSource> {
    let given = |name| tls.get(name).is_some();
    let (certificate, key) = (given("caCertificateFile"), given("caKeyFile"));
    let Some(node) = tls.get("nodeCA") else {
        if !certificate && !key {
            decoder.error_at(
                tls.node,
                "field `tls`: give either nodeCA: cluster, or caCertificateFile with caKeyFile",
            );
            return None;
        }
        let certificate = path(decoder, tls, "caCertificateFile");
        let key = path(decoder, tls, "caKeyFile");
        return Some(NodeCaSource::Files(CaFiles {
            certificate: certificate?,
            key: key?,
        }));
    };
    let source = decoder.choice(node, &tls.path("nodeCA"), &[("cluster", ())]);
    if certificate || key {
        decoder.error_at(
            node,
            "field `tls.nodeCA` goes with neither caCertificateFile nor caKeyFile: the agent keeps the CA in its state folder",
        );
        return None;
    }
    source.map(|()| NodeCaSource::Cluster)
}

/// Names that a certificate is made for.
pub(super) fn server_names(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Vec<String> {
    let names = texts(decoder, fields, name);
    for Spanned { value, at } in &names {
        if LeafNames::new(std::slice::from_ref(value)).is_err() {
            let path = fields.path(name);
            decoder.error_at(
                at,
                format!(
                    "field `{path}`: {value:?} is neither a DNS name nor an address; write each name by itself, such as \
                     api.example.com, without `*`, https:// or a port"
                ),
            );
        }
    }
    values(names)
}

/// Whether a field of a section holds something.
fn is_given(top: &Fields<'_>, section: &str, field: &str) -> bool {
    let Some(Value::Map(entries)) = top.get(section).map(|node| &node.value) else {
        return false;
    };
    let is_field = |key: &Value| matches!(key, Value::Text(name) if name == field);
    let found = entries.iter().find(|(key, _)| is_field(&key.value));
    found.is_some_and(|(_, node)| match &node.value {
        Value::Null => false,
        Value::List(items) => !items.is_empty(),
        _ => true,
    })
}

fn gateway(decoder: &mut Decoder, top: &Fields<'_>) -> Option<GatewaySection> {
    let fields = optional_section(decoder, top, "gateway")?;
    let listen = decoder.required_text(&fields, "listen")?;
    let names = server_names(decoder, &fields, "names");
    let tls = gateway_tls(decoder, &fields);
    if !is_given(top, "authentication", "configFile") && !is_given(top, "tls", "trustBundles") {
        decoder.error_at(
            fields.node,
            "field `gateway` without `tls.trustBundles` and `authentication.configFile`: no caller could show who it is; give one of them",
        );
    }
    match listen.value.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(GatewaySection {
            listen: address,
            names,
            tls,
        }),
        _ => {
            decoder.error_at(
                &listen.at,
                format!(
                    "field `gateway.listen` is {:?}; write address:port, such as 0.0.0.0:6444 or '[::]:6444'",
                    listen.value
                ),
            );
            None
        }
    }
}

fn gateway_tls(decoder: &mut Decoder, gateway: &Fields<'_>) -> Option<GatewayTlsSection> {
    let node = gateway.get("tls")?;
    let fields = decoder.fields(node, "gateway.tls", &fields_of("gateway.tls"), &[])?;
    let certificate = path(decoder, &fields, "certificateFile");
    let key = path(decoder, &fields, "keyFile");
    Some(GatewayTlsSection {
        ca_file: optional_path(decoder, &fields, "caFile"),
        files: ServerCertificateFiles {
            certificate: certificate?,
            key: key?,
        },
    })
}

fn enforce(decoder: &mut Decoder, top: &Fields<'_>) -> Option<EnforceSection> {
    let node = decoder.required(top, "enforce")?;
    let fields = decoder.fields_renamed(
        node,
        "enforce",
        &fields_of("enforce"),
        &[],
        &renamed_in("enforce"),
    )?;
    let written = |name| match fields.get(name).map(|node| &node.value) {
        Some(Value::List(items)) => !items.is_empty(),
        Some(Value::Map(entries)) => !entries.is_empty(),
        Some(_) => true,
        None => false,
    };
    let (named, enrolled) = (
        written("namespaces") || written("matchLabels"),
        boolean(decoder, &fields, "enrolled"),
    );
    // What is no boolean is told of already.
    if !named && enrolled == Some(false) {
        decoder.error_at(
            fields.node,
            "field `enforce` names no pods; give `enrolled: true`, namespaces or matchLabels",
        );
    }
    let words = [("failClosed", FailMode::Closed), ("failOpen", FailMode::Open)];
    let mut word = |name| {
        let node = fields.get(name)?;
        decoder.choice(node, &fields.path(name), &words)
    };
    let (unclassified_pods, static_pods) = (word("unclassifiedPods"), word("staticPods"));
    Some(EnforceSection {
        enrolled: enrolled.unwrap_or_default(),
        namespaces: namespaces(decoder, &fields),
        match_labels: labels(decoder, &fields),
        unclassified_pods: unclassified_pods.unwrap_or_default(),
        static_pods: static_pods.unwrap_or_default(),
    })
}

/// A field that is true or false, and false where it is left out; `None` where it is something else.
fn boolean(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<bool> {
    match fields.get(name).map(|node| (node, &node.value)) {
        None => Some(false),
        Some((_, Value::Bool(value))) => Some(*value),
        Some((at, value)) => {
            let path = fields.path(name);
            let reason = format!("field `{path}` must be true or false, not {}", value.describe());
            decoder.error_at(at, reason);
            None
        }
    }
}

fn labels(decoder: &mut Decoder, enforce: &Fields<'_>) -> BTreeMap<String, String> {
    let path = enforce.path("matchLabels");
    let Some(node) = enforce.get("matchLabels") else {
        return BTreeMap::new();
    };
    let Value::Map(entries) = &node.value else {
        decoder.error_at(
            node,
            format!("field `{path}` must be a mapping, not {}", node.value.describe()),
        );
        return BTreeMap::new();
    };
    let label = |(key, value): &(YamlNode, YamlNode)| {
        let key = decoder.text(key, &path)?.value;
        let value = decoder.text(value, &format!("{path}.{key}"))?.value;
        Some((key, value))
    };
    entries.iter().filter_map(label).collect()
}

fn objects(decoder: &mut Decoder, top: &Fields<'_>) -> ObjectsSection {
    let Some(node) = decoder.required(top, "objects") else {
        return ObjectsSection::default();
    };
    let paths =
        |texts: Vec<Spanned<String>>| texts.into_iter().map(|path| PathBuf::from(path.value)).collect();
    // A list is the short form of `files`.
    if let Value::List(items) = &node.value {
        if items.is_empty() {
            decoder.error_at(
                node,
                "field `objects` is empty; name the files or folders with identities, grants and policies",
            );
        }
        return ObjectsSection {
            files: paths(texts(decoder, top, "objects")),
            cluster: false,
        };
    }
    let Some(fields) = decoder.fields(node, "objects", &fields_of("objects"), &[]) else {
        return ObjectsSection::default();
    };
    let cluster = boolean(decoder, &fields, "cluster").unwrap_or_default();
    let section = ObjectsSection {
        files: paths(texts(decoder, &fields, "files")),
        cluster,
    };
    if section.files.is_empty() && !cluster {
        decoder.error_at(
            node,
            "field `objects` names no objects; give `files`, or `cluster: true`, or both",
        );
    }
    section
}

fn kernel(decoder: &mut Decoder, top: &Fields<'_>) -> KernelSection {
    let mut kernel = KernelSection::default();
    if let Some(fields) = optional_section(decoder, top, "kernel") {
        kernel.cgroup_root = optional_path(decoder, &fields, "cgroupRoot");
        kernel.bpffs = optional_path(decoder, &fields, "bpffs").unwrap_or(kernel.bpffs);
        if let (Some(node), false) = (fields.get("bpffs"), kernel.bpffs.is_absolute()) {
            decoder.error_at(
                node,
                "field `kernel.bpffs` must be an absolute path on a bpf file system",
            );
        }
    }
    kernel
}

fn admin(decoder: &mut Decoder, top: &Fields<'_>) -> AdminSection {
    let mut admin = AdminSection::default();
    if let Some(fields) = optional_section(decoder, top, "admin") {
        admin.socket = optional_path(decoder, &fields, "socket").unwrap_or(admin.socket);
        let sockets = [admin.socket.clone(), admin.upgrade_socket()];
        let too_long = |path: &PathBuf| path.as_os_str().len() > SOCKET_PATH_MAX;
        if let (Some(node), Some(path)) = (fields.get("socket"), sockets.iter().find(|path| too_long(path))) {
            decoder.error_at(
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

fn log(decoder: &mut Decoder, top: &Fields<'_>) -> LogConfig {
    let mut log = LogConfig::default();
    if let Some(fields) = optional_section(decoder, top, "log") {
        let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = fields
            .get("format")
            .and_then(|node| decoder.choice(node, "log.format", &words));
        log.format = format.unwrap_or_default();
        log.filter = optional_text(decoder, &fields, "filter");
        if let (Some(node), Some(text)) = (fields.get("filter"), &log.filter)
            && let Err(error) = telemetry::filter(text)
        {
            decoder.error_at(
                node,
                format!("field `log.filter`: {error}; write a level, or target=level, or several such as info,picket::kernel=debug"),
            );
        }
    }
    log
}

fn shutdown(decoder: &mut Decoder, top: &Fields<'_>) -> ShutdownSection {
    let mut shutdown = ShutdownSection::default();
    if let Some(fields) = optional_section(decoder, top, "shutdown")
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
            None => decoder.error_at(
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
fn section<'n>(decoder: &mut Decoder, top: &Fields<'n>, name: &str) -> Option<Fields<'n>> {
    let node = decoder.required(top, name)?;
    decoder.fields(node, name, &fields_of(name), &[])
}

pub(super) fn path(decoder: &mut Decoder, fields: &Fields<'_>, name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(decoder.required_text(fields, name)?.value))
}

/// Names of namespaces. One that no namespace can have would enforce nothing: `*` is no glob here.
fn namespaces(decoder: &mut Decoder, enforce: &Fields<'_>) -> Vec<String> {
    let names = texts(decoder, enforce, "namespaces");
    for Spanned { value, at } in &names {
        if !is_label(value) {
            decoder.error_at(
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
