//! Every field of the configuration: what it takes, what it is when it is left out, and what it is for.
//!
//! In: the table [`FIELDS`]. Out: the names that the reader knows in each section, so that a field exists only with its entry
//! here, and the page deploy/docs/reference/configuration.md.

use std::fmt::Write as _;

/// One field that takes a value; sections are the parts of its path.
struct Field {
    /// As in `enforce.namespaces`; `[]` stands for an entry of a list.
    path: &'static str,
    /// What may be written.
    value: &'static str,
    default: Default,
    meaning: &'static str,
}

/// What a field is when it is left out.
enum Default {
    /// It must be given.
    Required,
    /// Nothing, with this effect.
    None(&'static str),
    /// The same as this, which is valid YAML.
    Value(&'static str),
}

use Default::{None as Absent, Required, Value};

const fn field(path: &'static str, value: &'static str, default: Default, meaning: &'static str) -> Field {
    Field {
        path,
        value,
        default,
        meaning,
    }
}

#[rustfmt::skip]
const FIELDS: &[Field] = &[
    field("nodeName", "name", Absent("the environment variable `PICKET_NODE_NAME`; one of the two is required"),
        "The node's name in the cluster, as `kubectl get nodes` shows it."),
    field("cluster.kubeconfig", "path", Required,
        "The kubeconfig for the agent's own watches of pods, Services, EndpointSlices and Nodes."),
    field("upstream.server", "`https://host:port`", Required,
        "The API server's own address, not the Service's."),
    field("upstream.caFile", "path", Required,
        "The CA that signs the API server's certificate (PEM)."),
    field("upstream.clientCertificateFile", "path", Absent("absent; then `tokenFile` is required"),
        "The client certificate that may impersonate the identities' users (PEM). Needs `clientKeyFile`."),
    field("upstream.clientKeyFile", "path", Absent("absent; then `tokenFile` is required"),
        "The client certificate's key (PEM)."),
    field("upstream.tokenFile", "path", Absent("absent; then a client certificate is required"),
        "A file with a bearer token that may impersonate, instead of a client certificate."),
    field("tls.nodeCA", "`cluster`", Absent("absent; then `caCertificateFile` and `caKeyFile` are required"),
        "Picket's controller signs a key of the agent's own by a CertificateSigningRequest. The agent keeps both in its state folder and renews them."),
    field("tls.caCertificateFile", "path", Absent("absent; then `nodeCA` is required"),
        "The node CA's certificate (PEM). The pods' `ca.crt` holds it or the CA that signed it. Needs `caKeyFile`."),
    field("tls.caKeyFile", "path", Absent("absent; then `nodeCA` is required"),
        "The node CA's key (PEM)."),
    field("tls.extraNames", "list of DNS names and addresses", Value("[]"),
        "Further names by which pods dial the API server."),
    field("tls.trustBundles", "list", Value("[]"),
        "Whose client certificates count: an entry for each SPIFFE trust domain. Without one no client certificate is asked for."),
    field("tls.trustBundles[].trustDomain", "name", Required,
        "The trust domain, as SPIFFE IDs have it after `spiffe://`."),
    field("tls.trustBundles[].file", "path", Required,
        "The CAs of the trust domain (PEM). The file is read again when it changes."),
    field("gateway.listen", "`address:port`", Absent("absent; then there is no gateway"),
        "Where the gateway listens, for callers that are no enforced pods. The port is denied to enforced pods on every node."),
    field("gateway.names", "list of DNS names and addresses", Absent("none"),
        "Names by which callers dial the gateway, besides the address of the node that they dial."),
    field("gateway.tls.certificateFile", "path", Absent("absent; then the node CA signs the gateway's certificate"),
        "The gateway's own server certificate (PEM), with those between it and its root after it. Needs `keyFile`. Both files are read again when they change."),
    field("gateway.tls.keyFile", "path", Absent("absent; required with `certificateFile`"),
        "The key of the gateway's own certificate (PEM)."),
    field("gateway.tls.caFile", "path", Absent("absent; then kubeconfigs name no CA, and the client's system decides"),
        "The CA that callers check the gateway's own certificate against (PEM). `picket kubeconfig` writes it into kubeconfigs."),
    field("enforce.enrolled", "`true` or `false`", Value("false"),
        "Whether pods are enforced that the label `picket.dev/enrolled=true` enrols, their own or their namespace's. `namespaces` and `matchLabels` add further pods."),
    field("enforce.namespaces", "list of names", Absent("every namespace; then `matchLabels` or `enrolled` is required"),
        "Namespaces whose pods are enforced, by exact name."),
    field("enforce.matchLabels", "map of labels", Absent("every pod of `namespaces`"),
        "Labels that an enforced pod has, all of them. Without `namespaces` they count in every namespace."),
    field("enforce.unclassifiedPods", "`failClosed` or `failOpen`", Value("failClosed"),
        "Pods that no agent has classified, while no agent runs: without access to protected endpoints, or with it."),
    field("enforce.staticPods", "`failClosed` or `failOpen`", Value("failClosed"),
        "Static pods that the API server has not reported yet, while an agent runs."),
    field("protectedEndpoints.apiServer", "list of `address:port` or `name:port`", Value("[]"),
        "Further addresses of the API server. Connections there are redirected to Picket."),
    field("protectedEndpoints.deny", "list of `address:port` or `name:port`", Value("[]"),
        "Further addresses that enforced pods may not reach."),
    field("protectedEndpoints.allow", "list of `address:port`", Value("[]"),
        "Addresses that would be denied and are open to every enforced pod."),
    field("objects.files", "list of paths", Absent("absent; then `cluster: true` is required"),
        "Files, or folders of files, with AgentIdentity, AgentGrant and AgentPolicy objects. `objects: [PATH]` is short for `objects: {files: [PATH]}`."),
    field("objects.cluster", "`true` or `false`", Value("false"),
        "Whether the agent follows the objects that the API server keeps. The cluster needs the CRDs that `picket crds` prints."),
    field("authentication.configFile", "path", Absent("absent; then no JWT is verified"),
        "An AuthenticationConfiguration of the API server's form, with the issuers whose JWTs are verified."),
    field("kernel.cgroupRoot", "path", Absent("the first cgroup v2 mount of /proc/mounts"),
        "The cgroup v2 folder below which this node's pods are."),
    field("kernel.bpffs", "absolute path", Value("/sys/fs/bpf/picket"),
        "A folder on a BPF filesystem for this agent's pinned links and maps."),
    field("audit.directory", "absolute path", Value("/var/log/picket/audit"),
        "The folder of the spool: audit records in segments."),
    field("audit.maxSegmentSize", "bytes, such as `64Mi`; at least `1Mi`", Value("64Mi"),
        "A segment ends at this size."),
    field("audit.maxSegmentAge", "duration, such as `24h`; at least `1m`", Value("24h"),
        "A segment ends at this age."),
    field("audit.maxTotalSize", "bytes; at least twice `maxSegmentSize`", Value("1Gi"),
        "The oldest segments are removed beyond this size."),
    field("audit.sinks", "list", Value("[]"),
        "Copies of the records, each written from a checkpoint of its own. An entry has a name and one target."),
    field("audit.sinks[].name", "lower-case letters, digits and `-`", Required,
        "The sink's name in messages and metrics. The checkpoint belongs to the name."),
    field("audit.sinks[].file.path", "absolute path outside `audit.directory`", Absent("absent; then `stdout` is required"),
        "A file that gets each record as a line."),
    field("audit.sinks[].stdout", "`{}`", Absent("absent; then `file` is required"),
        "Records go to standard output."),
    field("admin.socket", "path", Value("/run/picket/admin.sock"),
        "The administrators' unix socket. `upgrade.sock` and each agent's own socket, such as `admin.sock.1`, are beside it. Only root may write to the folder."),
    field("metrics.listen", "`address:port`", Absent("absent; then metrics are at the admin socket alone"),
        "Where `/metrics` is served over TLS, for scrapers with a token. The port is denied to enforced pods on every node."),
    field("metrics.names", "list of DNS names and addresses", Absent("none"),
        "Names in the certificate that the node CA signs for this port, besides the address of the node that is dialled."),
    field("metrics.tls.certificateFile", "path", Absent("absent; then the node CA signs the certificate"),
        "The port's own server certificate (PEM), with those between it and its root after it. Needs `keyFile`. Both files are read again when they change."),
    field("metrics.tls.keyFile", "path", Absent("absent; required with `certificateFile`"),
        "The key of the port's own certificate (PEM)."),
    field("metrics.clientCAFile", "path", Absent("absent; then no client certificate is asked for"),
        "The CA of scrapers' client certificates (PEM), which count beside tokens. The common name is the user, the organizations are its groups. The file is read again when it changes."),
    field("log.format", "`text` or `json`", Value("text"),
        "The form of the agent's own log on standard error."),
    field("log.filter", "`LEVEL`, `TARGET=LEVEL`, or several after commas", Absent("`info`, less for noisy libraries"),
        "What the agent's own log holds: `off`, `error`, `warn`, `info`, `debug` or `trace`."),
    field("shutdown.drainSeconds", "0 to 3600", Value("20"),
        "How long running requests may go on after SIGTERM, or after a successor has taken over."),
];

/// Fields that had another name, by whole paths, and their names now.
const OLD: [(&str, &str); 4] = [
    ("doors", "protectedEndpoints.apiServer"),
    ("refuse", "protectedEndpoints.deny"),
    ("allow", "protectedEndpoints.allow"),
    ("enforce.unknownPods", "enforce.unclassifiedPods"),
];

/// A field that was taken out, because something of another shape does its work.
pub(super) struct Replaced {
    /// The whole path of the field.
    pub(super) old: &'static str,
    /// The whole path of what does its work now.
    new: &'static str,
    /// What to write.
    pub(super) advice: &'static str,
}

/// The fields of versions that wrote a single audit file.
pub(super) const REPLACED: [Replaced; 2] = [
    Replaced {
        old: "audit.file",
        new: "audit.directory",
        advice: "records are in segments in `audit.directory`; for a copy in one file write sinks: [{name: copy, file: {path: FILE}}]",
    },
    Replaced {
        old: "audit.stdout",
        new: "audit.sinks",
        advice: "write sinks: [{name: stdout, stdout: {}}]",
    },
];

/// The old names directly inside a section, each with the whole path of the new one.
pub(super) fn renamed_in(section: &str) -> Vec<(&'static str, &'static str)> {
    let inside = |&(old, new): &(&'static str, &'static str)| {
        let (parent, name) = old.rsplit_once('.').unwrap_or(("", old));
        (parent == section).then_some((name, new))
    };
    OLD.iter().filter_map(inside).collect()
}

/// The fields and sections directly inside a section; `""` stands for the whole configuration.
pub(super) fn fields_of(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for field in FIELDS {
        let inside = match section {
            "" => Some(field.path),
            section => field
                .path
                .strip_prefix(section)
                .and_then(|rest| rest.strip_prefix('.')),
        };
        let name = inside.and_then(|rest| rest.split(['.', '[']).next());
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

/// The reference page, in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration reference\n\n\
         Every key of the agent's configuration file, `/etc/picket/agent.yaml`. [Configuration](../configuration.md) explains the \
         choices.\n",
    );
    for section in fields_of("") {
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "\n## {section}\n\n| key | value | default | meaning |\n|---|---|---|---|\n"
        );
        let inside = |field: &&Field| field.path.split(['.', '[']).next() == Some(section);
        for field in FIELDS.iter().filter(inside) {
            let default = match field.default {
                Required => "required".to_owned(),
                Absent(effect) => effect.to_owned(),
                Value(value) => format!("`{value}`"),
            };
            let Field {
                path, value, meaning, ..
            } = field;
            let _ = writeln!(page, "| `{path}` | {value} | {default} | {meaning} |");
        }
    }
    page.push_str("\n## Keys of older versions\n\n| old key | new key |\n|---|---|\n");
    let replaced = REPLACED.map(|field| (field.old, field.new));
    for (old, new) in OLD.iter().chain(&replaced) {
        let _ = writeln!(page, "| `{old}` | `{new}` |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const REQUIRED: &str = "\
nodeName: n
cluster: {kubeconfig: /k}
upstream: {server: 'https://api.example', caFile: /ca, tokenFile: /t}
tls: {caCertificateFile: /c, caKeyFile: /y}
enforce: {namespaces: [a]}
objects: {files: [/o]}
";

    #[test]
    fn a_default_is_what_leaving_the_field_out_means() {
        let read = |text: &str| format!("{:?}", Config::parse("f", text).unwrap());
        for field in FIELDS {
            let Value(default) = field.default else { continue };
            let (section, name) = field.path.split_once('.').unwrap();
            let text = match REQUIRED.find(&format!("{section}: {{")) {
                Some(at) => {
                    let at = at + section.len() + 3;
                    format!("{}{name}: {default}, {}", &REQUIRED[..at], &REQUIRED[at..])
                }
                None => format!("{REQUIRED}{section}: {{{name}: {default}}}\n"),
            };
            assert_eq!(read(&text), read(REQUIRED), "{}", field.path);
        }
    }

    #[test]
    fn a_required_field_is_missed() {
        let said = Config::parse("f", "{}").unwrap_err().to_string();
        let required = |field: &&Field| matches!(field.default, Required) && !field.path.contains("[]");
        for field in FIELDS.iter().filter(required) {
            let section = field.path.split('.').next().unwrap();
            assert!(said.contains(&format!("`{section}`")), "{}: {said}", field.path);
        }
    }

    #[test]
    fn a_section_knows_its_fields_and_their_old_names() {
        assert_eq!(fields_of("admin"), ["socket"]);
        assert_eq!(fields_of("audit.sinks[]"), ["name", "file", "stdout"]);
        assert_eq!(fields_of("audit.sinks[].file"), ["path"]);
        assert_eq!(
            fields_of("enforce"),
            [
                "enrolled",
                "namespaces",
                "matchLabels",
                "unclassifiedPods",
                "staticPods"
            ]
        );
        assert_eq!(
            renamed_in("enforce"),
            [("unknownPods", "enforce.unclassifiedPods")]
        );
        assert_eq!(renamed_in("").len(), 3);
        assert_eq!(renamed_in("tls"), []);
    }
}
