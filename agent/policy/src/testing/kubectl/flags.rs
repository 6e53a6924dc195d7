//! The flags of kubectl 1.36, so that each word of a line is known for what it is.
//!
//! In: the words of a command line. Out: [`Arguments`]. A flag that is not known is an error: its value could be taken for a name.

use std::collections::BTreeMap;

use crate::testing::input::InputError;

/// A command line.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    /// The command.
    pub(super) command: String,
    /// The words after it that are no flags.
    pub(super) words: Vec<String>,
    /// What stands after `--`.
    pub(super) after_dash: Option<Vec<String>>,
    flags: BTreeMap<&'static str, String>,
    /// Every value of `-f`, in order.
    pub(super) files: Vec<String>,
}

impl Arguments {
    /// The last value of a flag.
    pub(super) fn value(&self, flag: &str) -> Option<&str> {
        self.flags.get(flag).map(String::as_str)
    }

    /// Whether a flag is set.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.value(flag).is_some_and(|value| value != "false")
    }

    /// Whether the line names objects by a selector.
    pub(super) fn selects(&self) -> bool {
        self.has("all") || self.value("selector").is_some() || self.value("field-selector").is_some()
    }
}

/// Flags that take a value, by their long names.
#[rustfmt::skip]
const WITH_VALUE: [&str; 113] = [
    "address", "aggregation-rule", "annotations", "api-group", "applyset", "audience", "bound-object-kind", "bound-object-name",
    "bound-object-uid", "cache-dir", "cascade", "categories", "certificate-authority", "chunk-size", "class", "client-certificate",
    "client-key", "cluster", "cluster-ip", "clusterrole", "concurrency", "container", "containers", "context", "copy-to", "cpu",
    "cpu-percent", "current-replicas", "custom", "custom-columns", "default-backend", "description", "docker-email", "docker-password",
    "docker-server", "docker-username", "dry-run", "duration", "env", "external-ip", "external-name", "field-manager", "field-selector",
    "filename", "for", "from", "from-env-file", "from-file", "from-literal", "grace-period", "group", "hard", "image", "image-pull-policy",
    "key", "keys", "kubeconfig", "kustomize", "label-columns", "labels", "limit-bytes", "limits", "load-balancer-ip", "local",
    "log-flush-frequency", "max", "max-log-requests", "max-unavailable", "memory", "min", "min-available", "name", "namespace",
    "namespaces", "node-port", "non-resource-url", "output", "output-directory", "overrides", "override-type", "patch", "patch-file",
    "pod-running-timeout", "pod-selector", "port", "preemption-policy", "prefix", "profile", "protocol", "prune-allowlist", "raw",
    "reason", "replicas", "request-timeout", "requests", "resource", "resource-name", "resource-version", "restart", "retries",
    "revision", "rule", "schedule", "scopes", "selector", "serviceaccount", "session-affinity", "set-image", "since", "since-time",
    "skip-wait-for-delete-timeout", "sort-by", "subresource",
];

/// More of them.
#[rustfmt::skip]
const WITH_VALUE_TOO: [&str; 22] = [
    "role", "tail", "target", "target-port", "tcp", "template", "timeout", "tls-server-name", "to-revision", "token", "type", "types", "username",
    "user", "v", "validate", "value", "verb", "vmodule", "password", "server", "cert",
];

/// Flags that stand alone, and those whose value stands after `=` only.
#[rustfmt::skip]
const ALONE: [&str; 84] = [
    "all", "all-containers", "all-namespaces", "all-pods", "allow-missing-template-keys", "append-hash", "attach", "cached", "client",
    "create-annotation", "current", "delete-emptydir-data", "disable-eviction", "disable-compression", "edit", "expose", "force",
    "force-conflicts", "follow", "global-default", "help", "ignore-daemonsets", "ignore-errors", "ignore-not-found",
    "insecure-skip-tls-verify", "insecure-skip-tls-verify-backend", "interactive", "leave-stdin-open", "list", "local-only",
    "match-server-version", "namespaced", "no-headers", "now", "openapi-patch", "output-watch-events", "overwrite", "prefix-logs",
    "previous", "privileged", "protocol-buffers", "prune", "quiet", "read-only", "record", "recursive", "replace", "resolve-conflicts",
    "rm", "same-node", "save-config", "server-print", "server-side", "show-capacity", "show-events", "show-kind", "show-labels",
    "show-managed-fields", "share-processes", "stdin", "stdin-once", "sum", "swap", "timestamps", "tty", "use-protocol-buffers", "wait",
    "warnings-as-errors", "watch", "watch-only", "windows-line-endings", "all-containers-logs", "no-preserve", "keep-annotations",
    "keep-labels", "keep-liveness", "keep-readiness", "keep-startup", "keep-init-containers", "show-swap", "cascade-orphan",
    "validate-only", "no-wait", "remove-extra-permissions",
];

/// Flags that may have a value after `=`, and mean something without one. `--prefix`, `--local` and `--containers` of `top` are switches.
const VALUE_AFTER_EQUALS: [(&str, &str); 6] = [
    ("containers", "true"),
    ("dry-run", "client"),
    ("cascade", "background"),
    ("validate", "true"),
    ("prefix", "true"),
    ("local", "true"),
];

/// Short flags and their long names.
const SHORT: [(char, &str); 20] = [
    ('n', "namespace"),
    ('A', "all-namespaces"),
    ('l', "selector"),
    ('L', "label-columns"),
    ('o', "output"),
    ('f', "filename"),
    ('k', "kustomize"),
    ('R', "recursive"),
    ('w', "watch"),
    ('c', "container"),
    ('i', "stdin"),
    ('t', "tty"),
    ('q', "quiet"),
    ('p', "patch"),
    ('h', "help"),
    ('s', "server"),
    ('v', "v"),
    ('e', "env"),
    ('r', "restart"),
    ('u', "user"),
];

/// What `-f` and `-p` mean to `kubectl logs`.
const SHORT_OF_LOGS: [(char, &str); 2] = [('f', "follow"), ('p', "previous")];

/// Flags by which kubectl speaks for somebody else, which Picket refuses before any policy.
const SOMEBODY_ELSE: [&str; 4] = ["as", "as-group", "as-uid", "as-user-extra"];

fn known(name: &str) -> Option<(&'static str, bool)> {
    let find = |list: &[&'static str]| list.iter().copied().find(|known| *known == name);
    if let Some(name) = find(&WITH_VALUE).or_else(|| find(&WITH_VALUE_TOO)) {
        return Some((name, true));
    }
    find(&ALONE).map(|name| (name, false))
}

fn short(command: &str, letter: char) -> Option<&'static str> {
    let own: &[(char, &str)] = if command == "logs" { &SHORT_OF_LOGS } else { &[] };
    let mut pairs = own.iter().chain(&SHORT);
    pairs.find(|(short, _)| *short == letter).map(|(_, long)| *long)
}

fn unknown(flag: &str) -> InputError {
    InputError(format!(
        "kubectl has no flag {flag}: take it out, or write the requests under `request`"
    ))
}

/// Reads the words of a line.
pub(super) fn read(words: &[String]) -> Result<Arguments, InputError> {
    let mut arguments = Arguments::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            arguments.after_dash = Some(rest.cloned().collect());
            break;
        }
        let pairs = match word.strip_prefix("--") {
            Some(long) => vec![long_flag(long)?],
            None => match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                Some(letters) => short_flags(&arguments.command, letters)?,
                None => {
                    match arguments.command.is_empty() {
                        true => arguments.command.clone_from(word),
                        false => arguments.words.push(word.clone()),
                    }
                    continue;
                }
            },
        };
        for (name, value) in pairs {
            let value = match value {
                Some(value) => value,
                None => rest
                    .next()
                    .cloned()
                    .ok_or_else(|| InputError(format!("the flag --{name} has no value")))?,
            };
            if name == "filename" {
                arguments.files.push(value.clone());
            }
            arguments.flags.insert(name, value);
        }
    }
    Ok(arguments)
}

/// A flag, and its value where it stands in the same word.
type Flag = (&'static str, Option<String>);

fn long_flag(long: &str) -> Result<Flag, InputError> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long, None),
    };
    if SOMEBODY_ELSE.contains(&name) {
        return Err(InputError(format!(
            "with --{name} the agent speaks for somebody else, which Picket refuses before any policy: take it out"
        )));
    }
    let (name, takes_value) = known(name).ok_or_else(|| unknown(&format!("--{name}")))?;
    let meant = VALUE_AFTER_EQUALS.iter().find(|(flag, _)| *flag == name);
    Ok(match (value, meant) {
        (Some(value), _) => (name, Some(value)),
        (None, Some((_, without))) => (name, Some((*without).to_owned())),
        (None, None) if takes_value => (name, None),
        (None, None) => (name, Some("true".to_owned())),
    })
}

fn short_flags(command: &str, letters: &str) -> Result<Vec<Flag>, InputError> {
    let mut flags = Vec::new();
    let chars = letters.char_indices();
    for (at, letter) in chars {
        let name = short(command, letter).ok_or_else(|| unknown(&format!("-{letter}")))?;
        let (name, takes_value) = known(name).ok_or_else(|| unknown(&format!("-{letter}")))?;
        if !takes_value {
            flags.push((name, Some("true".to_owned())));
            continue;
        }
        let value = &letters[at + letter.len_utf8()..];
        let value = value.strip_prefix('=').unwrap_or(value);
        flags.push((name, (!value.is_empty()).then(|| value.to_owned())));
        break;
    }
    Ok(flags)
}
