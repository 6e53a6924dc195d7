//! Configurations that are read, and what is said of those that are not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::audit::{AuditConfig, SinkConfig, SinkTarget};
use crate::endpoints::EndpointTarget;
use crate::kernel::FailMode;
use crate::runtime::telemetry::LogFormat;

const GOOD: &str = "\
nodeName: node-1
cluster:
  kubeconfig: /etc/picket/kubeconfig
upstream:
  server: https://10.0.0.1:6443
  caFile: /etc/picket/ca.crt
  tokenFile: /etc/picket/token
tls:
  caCertificateFile: /etc/picket/node-ca.crt
  caKeyFile: /etc/picket/node-ca.key
enforce:
  namespaces: [agents]
objects: [/etc/picket/objects]
";

/// All that is wrong with a text, one thing a line.
fn faults(text: &str) -> String {
    let said = Config::parse("f", text).unwrap_err().to_string();
    let faults = said.strip_prefix("the configuration is not valid:\n");
    faults.unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// Cases of what is refused, apart by empty lines: `-` what is replaced, `+` what stands there instead, `=` each fault.
fn cases(table: &str) -> Vec<[String; 3]> {
    let lines = |case: &str, mark: &str, before: &str| {
        let marked = case.lines().filter_map(|line| line.strip_prefix(mark));
        marked
            .map(|line| format!("{before}{line}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let case = |case: &str| {
        [
            lines(case, "- ", ""),
            lines(case, "+ ", ""),
            lines(case, "= ", "f:"),
        ]
    };
    table.trim().split("\n\n").map(case).collect()
}

#[test]
fn reads_a_small_file_and_fills_in_defaults() {
    let config = Config::parse("agent.yaml", GOOD).unwrap();
    assert_eq!(config.kernel.bpffs, Path::new("/sys/fs/bpf/picket"));
    assert_eq!(config.kernel.cgroup_root, None);
    assert_eq!(config.shutdown.drain_seconds, 20);
    assert!(!config.enforce.enrolled);
    assert_eq!(config.enforce.unclassified_pods, FailMode::Closed);
    assert_eq!(config.enforce.static_pods, FailMode::Closed);
    let audit = AuditConfig {
        node: "node-1".to_owned(),
        ..AuditConfig::default()
    };
    assert_eq!(config.audit, audit);
    assert_eq!(audit.directory, Path::new("/var/log/picket/audit"));
    assert_eq!(config.log, LogConfig::default());
}

#[test]
fn reads_every_field() {
    let text = "\
nodeName: n
cluster: {kubeconfig: /k}
upstream: {server: 'https://api.example', caFile: /ca, clientCertificateFile: /crt, clientKeyFile: /key}
tls: {caCertificateFile: /c, caKeyFile: /y, extraNames: [api.example], trustBundles: [{trustDomain: example.org, file: /td}]}
gateway: {listen: '192.0.2.9:6444', names: [gate.example], tls: {certificateFile: /g.crt, keyFile: /g.key, caFile: /g.ca}}
kernel: {cgroupRoot: /g, bpffs: /b}
enforce: {enrolled: true, namespaces: [a, b], matchLabels: {app: agent, x: ''}, unclassifiedPods: failOpen, staticPods: failOpen}
protectedEndpoints:
  apiServer: [192.0.2.1:6443, API.example:443]
  deny: ['[fd00::1]:80']
  allow: ['[::ffff:169.254.169.254]:80']
objects: [/o, /p]
audit: {directory: /a, maxSegmentSize: 2Mi, maxSegmentAge: 1h30m, maxTotalSize: 4194304, sinks: [{name: out, stdout: {}}, {name: copy, file: {path: /x}}]}
admin: {socket: /s}
metrics: {listen: '[::]:9444', names: [m.example], tls: {certificateFile: /m.crt, keyFile: /m.key}, clientCAFile: /m.ca}
log: {format: json, filter: warn}
shutdown: {drainSeconds: 0}
";
    let config = Config::parse("f", &text.replace("API.example:443", "API.example:444")).unwrap();
    let shown = |list: &[EndpointTarget]| list.iter().map(EndpointTarget::to_string).collect::<Vec<_>>();
    assert_eq!(config.node_name, "n");
    assert_eq!(config.cluster.kubeconfig, Path::new("/k"));
    assert_eq!(config.upstream.server, "https://api.example");
    assert_eq!(config.upstream.ca_file, Path::new("/ca"));
    assert_eq!(
        config.upstream.client_certificate_file,
        Some(PathBuf::from("/crt"))
    );
    assert_eq!(config.upstream.client_key_file, Some(PathBuf::from("/key")));
    assert_eq!(config.upstream.token_file, None);
    let files = CaFiles {
        certificate: "/c".into(),
        key: "/y".into(),
    };
    assert_eq!(config.tls.node_ca, NodeCaSource::Files(files));
    assert_eq!(config.tls.extra_names, ["api.example"]);
    let bundle = TrustBundle {
        trust_domain: "example.org".to_owned(),
        file: PathBuf::from("/td"),
    };
    assert_eq!(config.tls.trust_bundles, [bundle]);
    let gateway = GatewaySection {
        listen: "192.0.2.9:6444".parse().unwrap(),
        names: vec!["gate.example".to_owned()],
        tls: Some(GatewayTlsSection {
            files: ServerCertificateFiles {
                certificate: "/g.crt".into(),
                key: "/g.key".into(),
            },
            ca_file: Some("/g.ca".into()),
        }),
    };
    assert_eq!(config.gateway, Some(gateway));
    let metrics = MetricsSection {
        listen: "[::]:9444".parse().unwrap(),
        names: vec!["m.example".to_owned()],
        tls: Some(ServerCertificateFiles {
            certificate: "/m.crt".into(),
            key: "/m.key".into(),
        }),
        client_ca_file: Some("/m.ca".into()),
    };
    assert_eq!(config.metrics, Some(metrics));
    assert_eq!(config.kernel.cgroup_root, Some(PathBuf::from("/g")));
    assert_eq!(config.kernel.bpffs, Path::new("/b"));
    assert!(config.enforce.enrolled);
    assert_eq!(config.enforce.namespaces, ["a", "b"]);
    let labels = [
        ("app".to_owned(), "agent".to_owned()),
        ("x".to_owned(), String::new()),
    ];
    assert_eq!(config.enforce.match_labels, labels.into());
    assert_eq!(config.enforce.unclassified_pods, FailMode::Open);
    assert_eq!(config.enforce.static_pods, FailMode::Open);
    assert_eq!(
        shown(&config.protected_endpoints.api_server),
        ["192.0.2.1:6443", "api.example:444"]
    );
    assert_eq!(shown(&config.protected_endpoints.deny), ["[fd00::1]:80"]);
    assert_eq!(
        config.protected_endpoints.allow,
        ["169.254.169.254:80".parse().unwrap()]
    );
    assert_eq!(config.objects.files, [Path::new("/o"), Path::new("/p")]);
    assert!(!config.objects.cluster);
    let sink = |name: &str, target| SinkConfig {
        name: name.to_owned(),
        target,
    };
    let audit = AuditConfig {
        node: "n".to_owned(),
        directory: PathBuf::from("/a"),
        max_segment_size: 2 << 20,
        max_segment_age: Duration::from_secs(5400),
        max_total_size: 4 << 20,
        sinks: vec![
            sink("out", SinkTarget::Stdout),
            sink(
                "copy",
                SinkTarget::File {
                    path: PathBuf::from("/x"),
                },
            ),
        ],
    };
    assert_eq!(config.audit, audit);
    assert_eq!(config.admin.socket, Path::new("/s"));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.filter.as_deref(), Some("warn"));
    assert_eq!(config.shutdown.drain_seconds, 0);
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let text = GOOD
        .replace("nodeName: node-1", "nodeName: ''")
        .replace("  tokenFile", "  tokenFiel")
        .replace(
            "[agents]",
            "[agents]\n  unclassifiedPods: ajar\n  staticPods: true",
        );
    assert_eq!(
        faults(&format!(
            "{text}protectedEndpoints: {{apiServer: [a.example:0]}}\nshutdown: {{drainSeconds: -1}}\n"
        )),
        "f:1:11: field `nodeName` must not be empty\n\
         f:5:3: field `upstream`: give either clientCertificateFile with clientKeyFile, or tokenFile\n\
         f:7:3: unknown field `upstream.tokenFiel`; known here: server, caFile, clientCertificateFile, clientKeyFile, \
         tokenFile\n\
         f:13:21: field `enforce.unclassifiedPods` is \"ajar\"; it can be failClosed or failOpen\n\
         f:14:15: field `enforce.staticPods` is the boolean true; it can be failClosed or failOpen\n\
         f:16:34: field `protectedEndpoints.apiServer`: \"a.example:0\" has no such port; a port is 1 to 65535\n\
         f:17:26: field `shutdown.drainSeconds` must be a whole number of seconds, 0 to 3600, not the number -1"
    );
}

#[test]
fn a_misspelt_key_is_told_before_the_field_that_it_was_to_be() {
    let text = GOOD
        .replace("enforce:", "enforc:")
        .replace("nodeName: node-1", "nodeName: ''");
    let said = faults(&text);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].ends_with("field `nodeName` must not be empty"), "{said}");
    assert!(lines[1].contains("f:11:1: unknown field `enforc`; "), "{said}");
    assert_eq!(lines[2..], ["f:1:1: field `enforce` is required"], "{said}");
}

/// Lists of addresses that are refused.
const ADDRESSES: &str = r#"
+ allow: [name:443]
= 1:30: field `protectedEndpoints.allow`: "name:443" is no address:port; names are not taken here

+ allow: [10.0.0.1]
= 1:30: field `protectedEndpoints.allow`: "10.0.0.1" is no address:port; names are not taken here

+ allow: [10.0.0.1:0]
= 1:30: field `protectedEndpoints.allow`: "10.0.0.1:0" has no such port; a port is 1 to 65535

+ allow: [10.0.0.0/8:443]
= 1:30: field `protectedEndpoints.allow`: "10.0.0.0/8:443" is a range; give each address or name by itself

+ apiServer: [10.0.0.1-5:80]
= 1:34: field `protectedEndpoints.apiServer`: "10.0.0.1-5:80" is a range; give each address or name by itself

+ deny: [x.example:99999]
= 1:29: field `protectedEndpoints.deny`: "x.example:99999" has no such port; a port is 1 to 65535

+ deny: [x.example]
= 1:29: field `protectedEndpoints.deny`: "x.example" is neither address:port nor name:port, such as 192.0.2.1:6443, [2001:db8::1]:6443 or api.example.com:6443

+ apiServer: 10.0.0.1:80
= 1:33: field `protectedEndpoints.apiServer` must be a list, not text

+ apiServer: [443]
= 1:34: field `protectedEndpoints.apiServer` must be text, not the number 443: quote it

+ apiServer: [a.example:1], deny: [A.example:1]
= 1:55: field `protectedEndpoints.deny`: a.example:1 is under protectedEndpoints.apiServer too; an address is one or the other

+ deny: [10.0.0.1:6443]
= 1:29: field `protectedEndpoints.deny`: 10.0.0.1:6443 is upstream.server too; an address is one or the other

+ apiServer: [10.0.0.9:1], allow: [10.0.0.9:1]
= 1:55: field `protectedEndpoints.allow`: 10.0.0.9:1 is under protectedEndpoints.apiServer too; connections to the API server are always redirected to Picket

+ allow: ['[::ffff:10.0.0.1]:6443']
= 1:30: field `protectedEndpoints.allow`: 10.0.0.1:6443 is upstream.server too; connections to the API server are always redirected to Picket

+ deny: [10.0.0.9:1], allow: [10.0.0.9:1]
= 1:50: field `protectedEndpoints.allow`: 10.0.0.9:1 is under protectedEndpoints.deny too; an address is one or the other
"#;

#[test]
fn addresses_are_one_each_and_mean_one_thing() {
    let cases = cases(ADDRESSES);
    assert_eq!(cases.len(), 14);
    for [_, lists, says] in cases {
        let text = format!("protectedEndpoints: {{{lists}}}\n{GOOD}");
        assert_eq!(faults(&text), says);
    }
}

#[test]
fn a_key_of_an_old_name_is_refused_with_the_new_one() {
    for (text, says) in [
        (
            format!("doors: [10.0.0.1:80]\n{GOOD}"),
            "f:1:1: field `doors` is called `protectedEndpoints.apiServer` now",
        ),
        (
            format!("refuse: [10.0.0.1:80]\n{GOOD}"),
            "f:1:1: field `refuse` is called `protectedEndpoints.deny` now",
        ),
        (
            format!("allow: [10.0.0.1:80]\n{GOOD}"),
            "f:1:1: field `allow` is called `protectedEndpoints.allow` now",
        ),
        (
            GOOD.replace("[agents]", "[agents]\n  unknownPods: open"),
            "f:13:3: field `enforce.unknownPods` is called `enforce.unclassifiedPods` now",
        ),
        (
            GOOD.replace("[agents]", "[agents]\n  staticPods: open"),
            "f:13:15: field `enforce.staticPods` is \"open\"; it can be failClosed or failOpen",
        ),
    ] {
        assert_eq!(faults(&text), says);
    }
}

/// Changes of [`GOOD`] that are refused.
const REFUSED: &str = r#"
- https://10.0.0.1:6443
+ http://10.0.0.1:6443
= 5:11: field `upstream.server` must be https://host:port; Picket does not speak plain HTTP upstream

- https://10.0.0.1:6443
+ https://10.0.0.1:6443/x
= 5:11: field `upstream.server` must have no path and no query; write https://host:port

- https://10.0.0.1:6443
+ https://10.0.0.1:99999
= 5:11: field `upstream.server` has no host and port to dial; write https://host:port, a port is 1 to 65535

- https://10.0.0.1:6443
+ 'a b'
= 5:11: field `upstream.server` is no URL; write https://host:port

-   tokenFile:
+   clientCertificateFile:
= 5:3: field `upstream`: clientCertificateFile and clientKeyFile go together

- [agents]
+ []
= 12:3: field `enforce` names no pods; give `enrolled: true`, namespaces or matchLabels

- namespaces: [agents]
+ enrolled: 'true'
= 12:13: field `enforce.enrolled` must be true or false, not text

- [agents]
+ [5]
= 12:16: field `enforce.namespaces` must be text, not the number 5: quote it

- [agents]
+ [agents]
+   matchLabels: {a: true}
= 13:20: field `enforce.matchLabels.a` must be text, not the boolean true: quote it

- [agents]
+ ['*']
= 12:16: field `enforce.namespaces`: "*" is no namespace's name, which has lower-case letters, digits and -; for pods of all namespaces give matchLabels alone

- enforce:
+ gateway: {listen: '6444'}
+ enforce:
= 11:10: field `gateway` without `tls.trustBundles` and `authentication.configFile`: no caller could show who it is; give one of them
= 11:19: field `gateway.listen` is "6444"; write address:port, such as 0.0.0.0:6444 or '[::]:6444'

- enforce:
+ authentication: {configFile: /a}
+ gateway: {listen: '0.0.0.0:6444', tls: {certificateFile: /x}}
+ enforce:
= 12:40: field `gateway.tls.keyFile` is required

- enforce:
+ metrics: {listen: '9444', names: ['https://m'], tls: {certificateFile: /x}}
+ enforce:
= 11:19: field `metrics.listen` is "9444"; write address:port, such as 0.0.0.0:9444 or '[::]:9444'
= 11:35: field `metrics.names`: "https://m" is neither a DNS name nor an address; write each name by itself, such as api.example.com, without `*`, https:// or a port
= 11:54: field `metrics.tls.keyFile` is required

- enforce:
+ authentication: {configFile: /a}
+ gateway: {listen: '0.0.0.0:6444'}
+ metrics: {listen: '192.0.2.1:6444'}
+ enforce:
= 13:19: field `metrics.listen` has the port of `gateway.listen`; give each its own

- enforce:
+   trustBundles: [{trustDomain: Example.org, file: /x}, {trustDomain: a, file: /x}, {trustDomain: a, file: /y}, {file: /z}]
+ enforce:
= 11:32: field `tls.trustBundles[0].trustDomain` is "Example.org"; a trust domain has lower-case letters, digits, `.`, `-` and `_`
= 11:98: field `tls.trustBundles[2].trustDomain`: "a" has a bundle already; put all its CAs into one file
= 11:112: field `tls.trustBundles[3].trustDomain` is required

-   caKeyFile:
+   nodeCA: cluster
+   caKeyFil:
= 10:11: field `tls.nodeCA` goes with neither caCertificateFile nor caKeyFile: the agent keeps the CA in its state folder
= 11:3: unknown field `tls.caKeyFil`; known here: nodeCA, caCertificateFile, caKeyFile, extraNames, trustBundles

-   caCertificateFile:
+   nodeCA: cluster
+   caCertificateFil:
= 9:11: field `tls.nodeCA` goes with neither caCertificateFile nor caKeyFile: the agent keeps the CA in its state folder
= 10:3: unknown field `tls.caCertificateFil`; known here: nodeCA, caCertificateFile, caKeyFile, extraNames, trustBundles

-   caCertificateFile: /etc/picket/node-ca.crt
+   extraNames: []
= 9:3: field `tls.caCertificateFile` is required

- enforce:
+   nodeCA: vault
+ enforce:
= 11:11: field `tls.nodeCA` is "vault"; it can be cluster
= 11:11: field `tls.nodeCA` goes with neither caCertificateFile nor caKeyFile: the agent keeps the CA in its state folder

- enforce:
+ log: {filter: picket=loud}
+ enforce:
= 11:15: field `log.filter`: "loud" is no level, which is off, error, warn, info, debug or trace; write a level, or target=level, or several such as info,picket::kernel=debug

- enforce:
+ log: {filter: verbose}
+ enforce:
= 11:15: field `log.filter`: "verbose" is no level, which is off, error, warn, info, debug or trace; write a level, or target=level, or several such as info,picket::kernel=debug

- objects: [/etc/picket/objects]
+ objects: []
= 13:10: field `objects` is empty; name the files or folders with identities, grants and policies

- nodeName:
+ nodeName: a
+ nodeName:
= 2:1: `nodeName` is given twice

- enforce:
+ kernel: {bpffs: bpf}
+ enforce:
= 11:17: field `kernel.bpffs` must be an absolute path on a bpf file system

- enforce:
+ audit: {stdout: true}
+ enforce:
= 11:9: field `audit.stdout` is gone: write sinks: [{name: stdout, stdout: {}}]

- enforce:
+ audit:
+   file: /var/log/picket/audit.jsonl
+ enforce:
= 12:3: field `audit.file` is gone: records are in segments in `audit.directory`; for a copy in one file write sinks: [{name: copy, file: {path: FILE}}]

- enforce:
+ audit: {file: }
+ enforce:
= 11:9: field `audit.file` is gone: records are in segments in `audit.directory`; for a copy in one file write sinks: [{name: copy, file: {path: FILE}}]

- enforce:
+ audit: {directory: audit}
+ enforce:
= 11:20: field `audit.directory` must be an absolute path

- enforce:
+ audit: {maxSegmentSize: 64MB}
+ enforce:
= 11:25: field `audit.maxSegmentSize` must be a quantity of bytes: a whole number with Ki, Mi or Gi, such as 64Mi, not "64MB"

- enforce:
+ audit: {maxSegmentSize: 4096}
+ enforce:
= 11:25: field `audit.maxSegmentSize` must be at least 1Mi

- enforce:
+ audit: {maxTotalSize: 127Mi}
+ enforce:
= 11:23: field `audit.maxTotalSize` must be at least twice `audit.maxSegmentSize`, since only whole segments are removed

- enforce:
+ audit: {maxSegmentAge: 1d}
+ enforce:
= 11:24: field `audit.maxSegmentAge` must be a duration in h, m and s, such as 24h or 1h30m, not "1d"

- enforce:
+ audit: {maxSegmentAge: 24}
+ enforce:
= 11:24: field `audit.maxSegmentAge` must be a duration in h, m and s, such as 24h or 1h30m, not the number 24

- enforce:
+ audit: {maxSegmentAge: 59s}
+ enforce:
= 11:24: field `audit.maxSegmentAge` must be at least 1m

- enforce:
+ audit: {sinks: [{name: a}]}
+ enforce:
= 11:17: field `audit.sinks[0]` must have one target: file: {path: FILE} or stdout: {}

- enforce:
+ audit: {sinks: [{name: a, stdout: {}, file: {path: /x}}]}
+ enforce:
= 11:17: field `audit.sinks[0]` must have one target: file: {path: FILE} or stdout: {}

- enforce:
+ audit: {sinks: [{stdout: {}}]}
+ enforce:
= 11:17: field `audit.sinks[0].name` is required

- enforce:
+ audit: {sinks: [{name: My Sink, stdout: {}}]}
+ enforce:
= 11:24: field `audit.sinks[0].name`: "My Sink" must consist of lower-case letters, digits and -, 63 at most

- enforce:
+ audit: {sinks: [{name: a, file: {path: x}}]}
+ enforce:
= 11:40: field `audit.sinks[0].file.path` must be an absolute path

- enforce:
+ audit: {sinks: [{name: a, stdout: {}}, {name: a, file: {path: /x}}]}
+ enforce:
= 11:40: field `audit.sinks[1].name`: two sinks are called "a"

- enforce:
+ audit: {sinks: [{name: a, stdout: {}}, {name: b, stdout: {}}]}
+ enforce:
= 11:40: field `audit.sinks[1]`: sink `a` writes to stdout already

- enforce:
+ audit: {sinks: [{name: a, webhook: {}}]}
+ enforce:
= 11:17: field `audit.sinks[0]` must have one target: file: {path: FILE} or stdout: {}
= 11:27: unknown field `audit.sinks[0].webhook`; known here: name, file, stdout

- enforce:
+ audit: {directory: /a, sinks: [{name: a, file: {path: /a/copy}}]}
+ enforce:
= 11:32: field `audit.sinks[0].file.path` must not be in `audit.directory`, which holds the agent's own files

- 10.0.0.1:6443
+ picket@10.0.0.1:6443
= 5:11: field `upstream.server` must have no user; write https://host:port

- enforce:
+   extraNames: [api.example, 192.0.2.1, '*.example']
+ enforce:
= 11:40: field `tls.extraNames`: "*.example" is neither a DNS name nor an address; write each name by itself, such as api.example.com, without `*`, https:// or a port

- enforce:
+   trustBundles: [{trustDomain: example.org, file: /td}]
+ gateway: {listen: '0.0.0.0:6444', names: ['fd00::1', 'https://gw']}
+ enforce:
= 12:54: field `gateway.names`: "https://gw" is neither a DNS name nor an address; write each name by itself, such as api.example.com, without `*`, https:// or a port

- enforce:
+ log: {format: xml}
+ enforce:
= 11:15: field `log.format` is "xml"; it can be text or json

- enforce:
+ shutdown: {drainSeconds: 3601}
+ enforce:
= 11:26: field `shutdown.drainSeconds` must be a whole number of seconds, 0 to 3600, not the number 3601

- enforce:
+ shutdown: {drainSeconds: 20s}
+ enforce:
= 11:26: field `shutdown.drainSeconds` must be a whole number of seconds, 0 to 3600, not text
"#;

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    let cases = cases(REFUSED);
    assert_eq!(cases.len(), 49);
    for [from, to, says] in cases {
        let text = GOOD.replacen(&from, &to, 1);
        assert_ne!(text, GOOD, "{from}");
        assert_eq!(faults(&text), says, "{to}");
    }
    let by_enrolment = GOOD.replacen("namespaces: [agents]", "enrolled: true", 1);
    assert!(
        Config::parse("f", &by_enrolment).unwrap().enforce.enrolled,
        "it names pods by itself"
    );
    let unnamed = GOOD.replacen("nodeName: node-1\n", "", 1);
    assert_eq!(faults(&unnamed), "f:1:1: field `nodeName` is required");
    let named = |text: &str, node: &str| {
        let config = Config::parse_on("f", text, Some(node.to_owned()));
        config
            .map(|config| config.node_name)
            .map_err(|error| error.to_string())
    };
    assert_eq!(named(&unnamed, "node-2").unwrap(), "node-2");
    assert_eq!(named(GOOD, "node-2").unwrap(), "node-1", "the file says more");
    let said = named(&unnamed, "").unwrap_err();
    assert!(said.ends_with("f:1:1: field `nodeName` is required"), "{said}");
    let emptied = GOOD.replace("nodeName: node-1", "nodeName: ''");
    let said = named(&emptied, "node-2").unwrap_err();
    assert!(said.ends_with("field `nodeName` must not be empty"), "{said}");
    assert_eq!(faults("# nothing\n"), "f:1:1: the configuration is empty");
    assert_eq!(
        faults("a: 1\n---\nb: 2\n"),
        "f:3:1: a second document; a configuration is one"
    );
}

#[test]
fn the_node_ca_comes_from_the_cluster_or_from_files() {
    let files = "  caCertificateFile: /etc/picket/node-ca.crt\n  caKeyFile: /etc/picket/node-ca.key\n";
    let with = |tls: &str| GOOD.replace(files, tls);
    let config = Config::parse("f", &with("  nodeCA: cluster\n")).unwrap();
    assert_eq!(config.tls.node_ca, NodeCaSource::Cluster);
    assert_eq!(
        faults(&with("  extraNames: []\n")),
        "f:9:3: field `tls`: give either nodeCA: cluster, or caCertificateFile with caKeyFile"
    );
}

#[test]
fn a_socket_that_could_not_be_made_is_refused_with_the_one_beside_it() {
    let with = |socket: String| Config::parse("f", &format!("{GOOD}admin: {{socket: {socket}}}\n"));
    let folder = |length| format!("/{}", "d".repeat(length - 1));
    let upgrade = "/upgrade.sock".len();
    assert!(with(folder(103)).is_ok());
    assert!(with(folder(104)).is_err());
    assert!(with(folder(103 - upgrade) + "/s").is_ok());
    let said = with(folder(104 - upgrade) + "/s").unwrap_err().to_string();
    assert!(
        said.ends_with("/upgrade.sock is longer than the 103 bytes that a socket's path may have"),
        "{said}"
    );
}

#[tokio::test]
async fn all_that_cannot_be_used_is_told_at_once() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path();
    let there = |name: &str| folder.join(name);
    std::fs::write(there("token"), "t").unwrap();
    std::fs::create_dir(there("node-ca.key")).unwrap();
    let text = GOOD.replace("/etc/picket", &folder.display().to_string())
        + &format!(
            "audit: {{directory: {}, sinks: [{{name: copy, file: {{path: {}}}}}]}}\nadmin: {{socket: {}}}\n",
            there("log/audit").display(),
            there("copies/audit.jsonl").display(),
            there("token/admin.sock").display()
        );
    let faults = Config::parse("f", &text).unwrap().unusable().await;
    let missing = |field: &str, name: &str| {
        format!(
            "{field}: {}: No such file or directory (os error 2)",
            there(name).display()
        )
    };
    assert_eq!(
        faults,
        [
            missing("cluster.kubeconfig", "kubeconfig"),
            missing("upstream.caFile", "ca.crt"),
            missing("tls.caCertificateFile", "node-ca.crt"),
            format!(
                "tls.caKeyFile: {}: it is no regular file",
                there("node-ca.key").display()
            ),
            missing("objects", "objects"),
            format!(
                "audit.directory: there is no folder {}: make it",
                there("log").display()
            ),
            format!(
                "audit.sinks: copy: there is no folder {}: make it",
                there("copies").display()
            ),
            format!("admin.socket: {} is no folder", there("token").display()),
        ]
    );
}

#[tokio::test]
async fn a_folder_that_all_users_share_is_told_with_one_that_is_private() {
    let kept = tempfile::tempdir().unwrap();
    let shared = kept.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let text = GOOD.replace("/etc/picket", &kept.path().display().to_string())
        + &format!(
            "audit: {{directory: {}, sinks: [{{name: copy, file: {{path: /tmp/picket.jsonl}}}}]}}\nadmin: {{socket: \
             /tmp/admin.sock}}\n",
            shared.display()
        );
    let faults = Config::parse("f", &text).unwrap().unusable().await;
    for field in ["audit.directory", "audit.sinks: copy", "admin.socket"] {
        let told = faults.iter().find(|fault| fault.starts_with(field)).expect(field);
        assert!(
            told.contains("all users share it")
                && told.contains("/var/log/picket")
                && !told.contains("chmod"),
            "{told}"
        );
    }
}

#[test]
fn a_file_without_measure_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("agent.yaml");
    for (bytes, is_read) in [(MAX_BYTES, true), (MAX_BYTES + 1, false)] {
        let made = std::fs::File::create(&file).expect("a file");
        made.set_len(bytes).expect("its size");
        match Config::text(&file) {
            Ok(text) => assert!(is_read, "{} bytes", text.len()),
            Err(error) => assert!(
                !is_read && matches!(error, ConfigError::TooLarge { .. }),
                "{error}"
            ),
        }
    }
}

#[test]
fn a_pipe_or_a_device_in_the_files_place_holds_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pipe, link) = (folder.path().join("pipe.yaml"), folder.path().join("zero.yaml"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::os::unix::fs::symlink("/dev/zero", &link).expect("a link");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || [pipe, link].map(|path| sender.send(Config::text(&path))));
    for name in ["pipe.yaml", "zero.yaml"] {
        let read = receiver.recv_timeout(Duration::from_secs(5)).expect(name);
        let ConfigError::Read { file, source } = read.expect_err(name) else {
            panic!("{name}");
        };
        assert!(file.ends_with(name), "{file}");
        assert_eq!(source.to_string(), "it is not a regular file");
    }
}
