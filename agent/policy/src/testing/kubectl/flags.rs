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
    /// Every flag with its value, in order.
    given: Vec<(&'static str, String)>,
    /// Every value of `-f`, in order.
    pub(super) files: Vec<String>,
}

impl Arguments {
    /// The last value of a flag.
    pub(super) fn value(&self, flag: &str) -> Option<&str> {
        self.flags.get(flag).map(String::as_str)
    }

    /// Every value of a flag, in order.
    pub(super) fn all(&self, flag: &str) -> impl Iterator<Item = &str> {
        let given = self.given.iter().filter(move |(name, _)| *name == flag);
        given.map(|(_, value)| value.as_str())
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

/// Flags that take a value, by their long names. `kubectl options` and `kubectl COMMAND --help` list them; `cpu-percent` is hidden there.
#[rustfmt::skip]
const WITH_VALUE: [&str; 138] = [
    "address", "aggregation-rule", "annotation", "annotations", "api-group", "api-version", "audience", "bound-object-kind",
    "bound-object-name", "bound-object-uid", "cache-dir", "cascade", "categories", "cert", "certificate-authority", "chunk-size",
    "class", "client-certificate", "client-key", "cluster", "cluster-ip", "clusterip", "clusterrole", "concurrency", "container",
    "containers", "context", "copy-to", "cpu", "cpu-percent", "current-replicas", "custom", "default-backend", "description",
    "detach-keys", "docker-email", "docker-password", "docker-server", "docker-username", "dry-run", "duration", "env",
    "external-ip", "external-name", "field-manager", "field-selector", "filename", "for", "from", "from-env-file", "from-file",
    "from-literal", "grace-period", "group", "hard", "image", "image-pull-policy", "key", "keys", "kubeconfig", "kuberc",
    "kustomize", "label-columns", "labels", "limit-bytes", "limits", "load-balancer-ip", "log-flush-frequency", "max",
    "max-log-requests", "max-unavailable", "memory", "min", "min-available", "name", "namespace", "namespaces", "node-port",
    "non-resource-url", "output", "output-directory", "override-type", "overrides", "password", "patch", "patch-file",
    "pod-running-timeout", "pod-selector", "port", "preemption-policy", "prefix", "profile", "profile-output", "protocol",
    "prune-allowlist", "raw", "replicas", "request-timeout", "requests", "resource", "resource-name", "resource-version",
    "restart", "retries", "revision", "role", "rule", "schedule", "scopes", "selector", "server", "serviceaccount",
    "session-affinity", "set-image", "since", "since-time", "skip-wait-for-delete-timeout", "sort-by", "subresource", "tail",
    "target", "target-port", "tcp", "template", "timeout", "tls-server-name", "to-revision", "token", "type", "types", "user",
    "username", "v", "validate", "value", "verb", "verbs", "vmodule",
];

/// Flags that stand alone, and may have `true` or `false` after `=`. `record` is hidden.
#[rustfmt::skip]
const ALONE: [&str; 79] = [
    "all", "all-containers", "all-namespaces", "all-pods", "allow-missing-template-keys", "append-hash", "arguments-only",
    "attach", "cached", "client", "command", "create-annotation", "delete-emptydir-data", "disable-compression",
    "disable-eviction", "edit", "expose", "follow", "force", "force-conflicts", "global-default", "help", "ignore-daemonsets",
    "ignore-errors", "ignore-not-found", "insecure-skip-tls-verify", "insecure-skip-tls-verify-backend", "interactive",
    "keep-annotations", "keep-init-containers", "keep-labels", "keep-liveness", "keep-readiness", "keep-startup",
    "leave-stdin-open", "list", "local", "match-server-version", "namespaced", "no-headers", "no-preserve", "now",
    "openapi-patch", "output-patch", "output-watch-events", "overwrite", "previous", "privileged", "prune", "quiet", "record",
    "recursive", "remove-extra-permissions", "remove-extra-subjects", "replace", "resolve", "rm", "same-node", "save-config",
    "server-print", "server-side", "share-processes", "show-capacity", "show-events", "show-kind", "show-labels",
    "show-managed-fields", "show-secrets", "show-swap", "stdin", "sum", "timestamps", "tty", "use-protocol-buffers", "wait",
    "warnings-as-errors", "watch", "watch-only", "windows-line-endings",
];

/// Flags that stand alone for one command, and take a value for others.
const ALONE_FOR: [(&str, &str); 2] = [("logs", "prefix"), ("top", "containers")];

/// Flags that may have a value after `=`, and mean something without one.
const VALUE_AFTER_EQUALS: [(&str, &str); 3] = [
    ("dry-run", "client"),
    ("cascade", "background"),
    ("validate", "strict"),
];

/// Short flags and their long names.
const SHORT: [(char, &str); 18] = [
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
];

/// What short flags mean to one command.
const SHORT_FOR: [(&str, char, &str); 7] = [
    ("logs", 'f', "follow"),
    ("logs", 'p', "previous"),
    ("create", 'r', "replicas"),
    ("delete", 'i', "interactive"),
    ("expose", 'l', "labels"),
    ("run", 'l', "labels"),
    ("set", 'c', "containers"),
];

/// Flags by which kubectl speaks for somebody else, which Picket refuses before any policy.
const SOMEBODY_ELSE: [&str; 4] = ["as", "as-group", "as-uid", "as-user-extra"];

/// A flag of a command, and whether it takes a value.
fn known(command: &str, name: &str) -> Option<(&'static str, bool)> {
    let find = |list: &[&'static str]| list.iter().copied().find(|known| *known == name);
    if let Some(known) = find(&WITH_VALUE) {
        return Some((known, !ALONE_FOR.contains(&(command, known))));
    }
    find(&ALONE).map(|name| (name, false))
}

fn short(command: &str, letter: char) -> Option<&'static str> {
    let own = SHORT_FOR.iter();
    let own = own.filter(|(of, _, _)| *of == command);
    let mut pairs = own.map(|(_, short, long)| (*short, *long)).chain(SHORT);
    pairs.find(|(short, _)| *short == letter).map(|(_, long)| long)
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
            Some(long) => vec![long_flag(&arguments.command, long)?],
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
            arguments.given.push((name, value.clone()));
            arguments.flags.insert(name, value);
        }
    }
    Ok(arguments)
}

/// A flag, and its value where it stands in the same word.
type Flag = (&'static str, Option<String>);

fn long_flag(command: &str, long: &str) -> Result<Flag, InputError> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long, None),
    };
    if SOMEBODY_ELSE.contains(&name) {
        return Err(InputError(format!(
            "with --{name} the agent speaks for somebody else, which Picket refuses before any policy: take it out"
        )));
    }
    let (name, takes_value) = known(command, name).ok_or_else(|| unknown(&format!("--{name}")))?;
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
        let (name, takes_value) = known(command, name).ok_or_else(|| unknown(&format!("-{letter}")))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Result<Arguments, InputError> {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        read(&words)
    }

    #[test]
    fn flags_are_those_of_kubectl() {
        for list in [&WITH_VALUE[..], &ALONE] {
            assert!(list.is_sorted());
        }
        assert!(!WITH_VALUE.iter().any(|flag| ALONE.contains(flag)));
        for (line, flag, value, words) in [
            ("logs --prefix web", "prefix", "true", &["web"][..]),
            (
                "set env --prefix A deploy/web",
                "prefix",
                "A",
                &["env", "deploy/web"],
            ),
            ("top pod --containers web", "containers", "true", &["pod", "web"]),
            (
                "set env deploy/web --containers web",
                "containers",
                "web",
                &["env", "deploy/web"],
            ),
            (
                "set env deploy/web -c web",
                "containers",
                "web",
                &["env", "deploy/web"],
            ),
            (
                "set image deploy/web --local a=b",
                "local",
                "true",
                &["image", "deploy/web", "a=b"],
            ),
            ("run web -l a=b", "labels", "a=b", &["web"]),
            ("get pods -l a=b", "selector", "a=b", &["pods"]),
            (
                "create deployment web -r 3",
                "replicas",
                "3",
                &["deployment", "web"],
            ),
            ("delete pod web -i", "interactive", "true", &["pod", "web"]),
            ("exec web -i", "stdin", "true", &["web"]),
            ("logs web -f", "follow", "true", &["web"]),
            ("run web --command", "command", "true", &["web"]),
            ("diff --show-secrets web", "show-secrets", "true", &["web"]),
            (
                "create ingress web --annotation a=b",
                "annotation",
                "a=b",
                &["ingress", "web"],
            ),
            (
                "delete pod web --cascade",
                "cascade",
                "background",
                &["pod", "web"],
            ),
        ] {
            let read = arguments(line).expect(line);
            assert_eq!(read.value(flag), Some(value), "{line}");
            assert_eq!(read.words, words, "{line}");
        }
        for line in [
            "logs web --prefix-logs",
            "logs web --all-containers-logs",
            "delete pod web --cascade-orphan",
            "delete pod web --no-wait",
            "apply --validate-only",
            "get pods --custom-columns=a",
            "run web -r Never",
            "get pods -u me",
        ] {
            let error = arguments(line).expect_err(line);
            assert!(
                error.to_string().contains("kubectl has no flag"),
                "{line}: {error}"
            );
        }
    }
}
